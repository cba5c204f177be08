"""What the kernel knows of files, and for how long: lookups and their end, open files, caches."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

import puffs
from puffs.attach.fuse.abi import notify_resend
from puffs.attach.fuse.session import Session
from puffs.kernel.mount import Mount
from tests.attach.toy import ROOT
from tests.fuse.conftest import PATIENCE, Notes, Serve, Served
from tests.fuse.handles import drop_caches
from tests.fuse.servers import Cached, Noting

pytestmark = [pytest.mark.fuse, pytest.mark.loops]

FILE, DIR, LINK = ROOT + 1, ROOT + 2, ROOT + 3
"""The cookies of what a `Toy` begins with."""


def reclaimed(served: Served) -> Counter[int]:
    """How often each cookie was reclaimed."""
    return Counter(note[1] for note in served.notes("reclaim"))


def reclaims(served: Served, number: int) -> bool:
    """Whether there were so many."""
    return len(served.notes("reclaim")) >= number


# --------------------------------------------------------------------------- inactive and reclaim


def test_an_unlinked_file_lives_until_it_is_closed(serve: Serve) -> None:
    served = serve(Noting)
    path = served.path / "file"
    with open(path, "rb", buffering=0) as file, open(path, "rb", buffering=0) as other:
        path.unlink()
        assert not path.exists()
        other.close()
        assert file.read() == b"contents"
        assert os.fstat(file.fileno()).st_nlink == 0
        assert served.notes("inactive", "reclaim") == []
    served.round_trips(lambda: served.notes("reclaim") != [])
    assert [note[:2] for note in served.notes("close", "inactive", "reclaim")] == [
        ("close", FILE),
        ("close", FILE),
        ("inactive", FILE),
        ("reclaim", FILE),
    ]


def test_every_last_close_makes_a_node_inactive(serve: Serve) -> None:
    served = serve(Noting)
    for _ in range(3):
        served.path.joinpath("file").read_bytes()
        os.listdir(served.path / "dir")
    served.round_trips(lambda: len(served.notes("inactive")) == 6)
    assert Counter(served.notes("inactive")) == {("inactive", FILE): 3, ("inactive", DIR): 3}
    assert served.notes("reclaim") == []


def test_a_file_with_two_names_is_reclaimed_when_both_are_gone(serve: Serve) -> None:
    served = serve(Cached)
    first, second = served.path / "file", served.path / "dir" / "second"
    os.link(first, second)
    assert first.stat().st_ino == second.stat().st_ino
    assert first.stat().st_nlink == 2
    first.unlink()
    os.statvfs(served.path)
    assert served.notes("reclaim") == []
    assert second.read_text() == "contents"
    second.unlink()
    served.round_trips(lambda: served.notes("reclaim") != [])
    assert reclaimed(served) == {FILE: 1}


def test_a_removed_directory_is_reclaimed(serve: Serve) -> None:
    served = serve(Noting)
    os.rmdir(served.path / "dir")
    served.round_trips(lambda: served.notes("reclaim") != [])
    assert reclaimed(served) == {DIR: 1}


def test_a_replaced_file_is_reclaimed(serve: Serve) -> None:
    served = serve(Cached)
    served.path.joinpath("new").write_text("new contents")
    served.path.joinpath("file").stat()
    os.rename(served.path / "new", served.path / "file")
    served.round_trips(lambda: served.notes("reclaim") != [])
    assert reclaimed(served) == {FILE: 1}
    assert served.path.joinpath("file").read_text() == "new contents"


def test_what_the_kernel_has_dropped_is_reclaimed_each_time(serve: Serve) -> None:
    served = serve(Cached)
    numbers = set()
    for times in (1, 2, 3):
        for name in ("file", "dir", "link"):
            for _ in range(3):
                numbers.add(os.lstat(served.path / name).st_ino)
        assert len(served.notes("lookup")) == 3 * times
        drop_caches(served.path)
        served.round_trips(partial(reclaims, served, 3 * times))
        assert reclaimed(served) == dict.fromkeys((FILE, DIR, LINK), times)
    assert len(numbers) == 9  # never the same number for what may be another file


def test_what_is_in_use_is_not_dropped(serve: Serve) -> None:
    served = serve(Cached)
    served.path.joinpath("link").lstat()
    with open(served.path / "file") as file:
        drop_caches(served.path)
        served.round_trips(lambda: served.notes("reclaim") != [])
        assert reclaimed(served) == {LINK: 1}
        assert file.read() == "contents"


def test_what_a_listing_brought_is_counted(serve: Serve) -> None:
    served = serve(Cached)
    assert sorted(os.listdir(served.path)) == ["dir", "file", "link"]
    for name in ("dir", "file", "link"):
        os.lstat(served.path / name)
    assert served.notes("lookup") == []  # they came with the listing
    drop_caches(served.path)
    served.round_trips(partial(reclaims, served, 3))
    assert reclaimed(served) == {FILE: 1, DIR: 1, LINK: 1}


def test_the_end_reclaims_what_is_left_once(serve: Serve) -> None:
    served = serve(Cached)
    for name in ("file", "link"):
        os.lstat(served.path / name)
    served.child.unmount()
    assert served.ended() == 0
    assert reclaimed(served) == {FILE: 1, LINK: 1}


# ------------------------------------------------------------------------------ callers that go


class Gate:
    """Stops an operation in another process: `pass_through` there, `entered` and `open` here."""

    def __init__(self, directory: Path) -> None:
        self._in, self._out = directory / "in", directory / "out"
        os.mkfifo(self._in)
        os.mkfifo(self._out)

    def pass_through(self) -> None:
        self._in.write_text("here")
        self._out.read_text()

    def entered(self) -> None:
        assert self._in.read_text() == "here"

    def open(self) -> None:
        self._out.write_text("go on")


class Gated(Noting):
    """Waits at a gate in one operation, once."""

    def __init__(self, notes: Notes, operation: str, gate: Gate) -> None:
        self.gates = {operation: gate}
        super().__init__(notes)

    def _recorded(self, name: str, operation: Any) -> Any:
        call = super()._recorded(name, operation)

        def gated(*args: Any) -> Any:
            reply = call(*args)
            if (gate := self.gates.pop(name, None)) is not None:
                gate.pass_through()
            return reply

        return gated


CALLS = {
    "lookup": "os.lstat(path + '/file')",
    "open": "os.open(path + '/file', os.O_RDWR)",
    "create": "os.open(path + '/new', os.O_CREAT | os.O_RDWR)",
    "mkdir": "os.mkdir(path + '/new')",
    "opendir": "os.listdir(path)",
    "readdir": "os.listdir(path)",
}


@pytest.mark.parametrize("operation", CALLS)
def test_a_caller_that_is_killed_leaves_nothing_behind(
    serve: Serve, tmp_path: Path, operation: str
) -> None:
    gate = Gate(tmp_path)
    served = serve(lambda notes: Gated(notes, operation, gate))
    script = f"import os, sys; path = sys.argv[1]; {CALLS[operation]}"
    with subprocess.Popen([sys.executable, "-c", script, served.path]) as caller:
        gate.entered()
        caller.kill()
        gate.open()
        assert caller.wait(PATIENCE) == -signal.SIGKILL
    drop_caches(served.path)
    served.round_trips(lambda: balanced(served))
    drop_caches(served.path)
    known = {"lookup": FILE, "open": FILE, "create": LINK + 1, "mkdir": LINK + 1}
    if operation in known:
        served.round_trips(lambda: reclaimed(served)[known[operation]] == 1)
    served.child.unmount()
    assert served.log == []


def balanced(served: Served) -> bool:
    """Whether all that was opened has been closed."""
    noted = Counter(note[0] for note in served.notes())
    opened = noted["open"] + noted["create"], noted["opendir"]
    return opened == (noted["close"], noted["closedir"])


class Resent(Noting):
    """While it is in one operation it has the kernel send all requests again: the kernel then
    refuses the reply, as it does when nobody waits for it any more.
    """

    session: ClassVar[Session]

    def __init__(self, notes: Notes, operation: str) -> None:
        self.operation = operation
        super().__init__(notes)

    def _recorded(self, name: str, operation: Any) -> Any:
        call = super()._recorded(name, operation)

        def resent(*args: Any) -> Any:
            reply = call(*args)
            if name == self.operation:
                self.operation = ""
                written = threading.Event()
                notice = self.session._notifier.send(notify_resend())
                notice.add_done_callback(lambda _: written.set())
                assert written.wait(PATIENCE)
            return reply

        return resent

    def create(
        self, dir: int, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> int | tuple[int, object]:
        if (dir, name) in self.names:  # asked a second time
            return self.names[dir, name], "file again"
        return super().create(dir, name, attr, flags, cred)


@pytest.fixture
def serve_with_session(serve: Serve) -> Serve:
    """As `serve`, of a class whose attribute `session` is set to the session."""

    def give(mount: Mount) -> None:
        (session,) = mount._attachments
        type(mount.server).session = session  # type: ignore[attr-defined]

    return partial(serve, on_ready=give)


@pytest.mark.parametrize("operation", ["lookup", "open", "create", "opendir", "readdir"])
def test_a_reply_that_the_kernel_refuses_is_undone(
    serve_with_session: Serve, operation: str
) -> None:
    served = serve_with_session(lambda notes: Resent(notes, operation))
    calls: dict[str, Callable[[Path], object]] = {
        "lookup": lambda path: os.lstat(path / "file"),
        "open": lambda path: os.close(os.open(path / "file", os.O_RDWR)),
        "create": lambda path: os.close(os.open(path / "new", os.O_CREAT | os.O_RDWR)),
        "opendir": os.listdir,
        "readdir": os.listdir,
    }
    calls[operation](served.path)
    if operation != "readdir":
        assert len(served.notes(operation)) == 2  # the kernel has asked again
    served.round_trips(lambda: balanced(served))
    drop_caches(served.path)
    cookies = {"lookup": {FILE}, "open": {FILE}, "create": {LINK + 1}}.get(
        operation, {FILE, DIR, LINK}
    )
    # What the refused reply had told of was unknown again at once.
    times = 2 if operation in ("lookup", "create", "readdir") else 1
    served.round_trips(lambda: sum(reclaimed(served).values()) >= times * len(cookies))
    assert reclaimed(served) == dict.fromkeys(cookies, times)
    assert served.log == []


# ------------------------------------------------------------------------------------- lifetimes


def test_what_may_be_trusted_for_ever_is_asked_once(serve: Serve) -> None:
    served = serve(Cached)
    for _ in range(3):
        assert served.path.joinpath("file").stat().st_size == 8
        with pytest.raises(FileNotFoundError):
            served.path.joinpath("nothing").stat()
    asked = [note[0] for note in served.notes("lookup", "getattr") if note[1:2] != (ROOT,)]
    lookups = served.notes("lookup")
    assert lookups == [("lookup", ROOT, "file"), ("lookup", ROOT, "nothing")]
    assert asked == ["getattr"]


def test_what_may_not_be_trusted_is_asked_each_time(serve: Serve) -> None:
    served = serve(Noting)
    for _ in range(3):
        served.path.joinpath("file").stat()
        with pytest.raises(FileNotFoundError):
            served.path.joinpath("nothing").stat()
    lookups = served.notes("lookup")
    assert lookups == [("lookup", ROOT, "file"), ("lookup", ROOT, "nothing")] * 3
    assert reclaimed(served) == {}
