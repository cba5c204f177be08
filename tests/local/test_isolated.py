"""`puffs.local(fs, isolate=...)`: the file server is in a process of its own, all else is as ever,
and when that process dies users are told how.
"""

import errno
import gc
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.fs.mem import MemFS
from tests.kernel.little import Little
from tests.local import differential, test_file, test_scan, test_vfs

SECONDS = 30
"""Longer than anything here should take."""


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "cached"], autouse=True)
def isolated(request: pytest.FixtureRequest) -> Iterator[bool]:
    """All file systems here are isolated, with page cache or without it."""
    local = puffs.local

    def isolated(fs: Any, **asked: Any) -> puffs.LocalFileSystem:
        wanted = {} if isinstance(fs, puffs.Mount) else {"cache": request.param, "isolate": True}
        return local(fs, **{**wanted, **asked})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(puffs, "local", isolated)
        yield request.param


@pytest.fixture
def vfs() -> Iterator[puffs.LocalFileSystem]:
    with puffs.local(MemFS) as vfs:
        yield vfs


# ------------------------------------------------------------------------------- as any other one

test_as_the_builtin = test_file.test_as_the_builtin
test_text_layers = test_file.test_text_layers
test_appends_go_to_the_end_of_the_moment = test_file.test_appends_go_to_the_end_of_the_moment
test_large_data_goes_through = test_file.test_large_data_goes_through
test_data_and_holes_are_sought = test_file.test_data_and_holes_are_sought
test_removing_while_listing = test_scan.test_removing_while_listing
test_walk_as_os_walk = test_scan.test_walk_as_os_walk
test_a_deep_tree_is_walked = test_scan.test_a_deep_tree_is_walked
test_forty_links = test_vfs.test_forty_links_are_followed_and_no_more
test_errors_name_the_paths = test_vfs.test_errors_name_the_paths
test_read_only = test_vfs.test_a_file_server_that_changes_nothing_is_read_only
test_threads_get_along = test_vfs.test_threads_get_along
test_one_of_many_makes_the_file = test_vfs.test_one_of_many_makes_the_file
test_async_file_servers_work_too = test_vfs.test_async_file_servers_work_too
test_rename_with_flags = test_vfs.test_rename_with_flags
test_rmtree = test_vfs.test_rmtree
test_set_user_id = test_vfs.test_writes_of_an_ordinary_user_take_set_user_id_away
test_the_umask_is_honoured = test_vfs.test_the_umask_of_the_process_is_honoured


ALWAYS = frozenset(("stat", "bytes", "listdir", "open_wb", "mkdir", "rename_over_file", "truncate"))
"""What is compared in every run: what differs is the way of operations, not what they do."""


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(call, marks=() if call in ALWAYS else pytest.mark.slow)
        for call in differential.CALLS
    ],
)
def test_every_call_as_without_isolation(call: str, isolated: bool) -> None:
    expected, found = (
        differential.in_process(differential.USER, MemFS, call, isolated, isolate)
        for isolate in (False, True)
    )
    assert found == expected


# ------------------------------------------------------------------------------------- life cycle


def pid_of(vfs: puffs.LocalFileSystem) -> int:
    return vfs.mount.server_pid


def ended(pid: int) -> bool:
    """Wait until a process is gone, that is collected."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], SECONDS)[0])
    finally:
        os.close(fd)


def test_it_is_built_and_called_in_a_process_of_its_own(tmp_path: Path) -> None:
    note = tmp_path / "note"

    def make() -> MemFS:
        note.write_text(str(os.getpid()))
        return MemFS()

    with puffs.local(make) as vfs:
        assert note.read_text() == str(pid_of(vfs)) != str(os.getpid())
        assert os.stat(f"/proc/{pid_of(vfs)}")
        vfs.write_text("/f", "text")
        assert vfs.read_text("/f") == "text"
    assert not Path(f"/proc/{pid_of(vfs)}").exists()
    assert vfs.closed
    with pytest.raises(ValueError, match="closed"):
        vfs.stat("/")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose a user")
def test_it_is_confined() -> None:
    isolation = puffs.Isolation(user="nobody", memory=1 << 40)
    with puffs.local(MemFS, isolate=isolation) as vfs:
        status = Path(f"/proc/{pid_of(vfs)}/status").read_text()
        limits = Path(f"/proc/{pid_of(vfs)}/limits").read_text()
    assert "\nUid:\t65534\t65534\t65534\t65534\n" in status
    assert re.search(rf"^Max address space +{1 << 40} ", limits, re.MULTILINE)


def test_what_cannot_be_had_is_an_error_and_leaves_no_process(tmp_path: Path) -> None:
    def children() -> str:
        return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()

    def missing() -> MemFS:
        raise FileNotFoundError(errno.ENOENT, "no such archive", "/data")

    def dying() -> MemFS:
        os._exit(3)

    class Rootless(Little):
        def mount(self) -> None:  # type: ignore[override]
            raise PermissionError(errno.EACCES, "not today")

    before = children()
    with pytest.raises(FileNotFoundError, match="/data: no such archive"):
        puffs.local(missing)
    with pytest.raises(OSError, match="ended with status 3 before it was built"):
        puffs.local(dying)
    with pytest.raises(PermissionError, match="not today"):
        puffs.local(Rootless)
    with pytest.raises(ValueError, match="there is no user 'nobdy'"):
        puffs.local(MemFS, isolate=puffs.Isolation(user="nobdy"))
    with puffs.local(MemFS, isolate=False) as vfs, pytest.raises(ValueError, match="isolate"):
        puffs.local(vfs.mount, isolate=True)
    assert children() == before


def test_one_that_nobody_holds_any_more_ends_its_process() -> None:
    vfs = puffs.local(MemFS)
    pid = pid_of(vfs)
    vfs.write_text("/f", "text")
    del vfs
    gc.collect()
    assert ended(pid)


def test_a_process_that_was_forked_does_not_end_it(vfs: puffs.LocalFileSystem) -> None:
    vfs.write_text("/f", "text")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            vfs.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert vfs.read_text("/f") == "text"


def test_the_end_of_the_interpreter_ends_it_in_good_order(tmp_path: Path) -> None:
    script = """
import sys, puffs
from puffs.fs.mem import MemFS
class Loud(MemFS):
    def unmounted(self):
        open(sys.argv[1], "w").write("unmounted")
vfs = puffs.local(Loud, isolate=True)
stream = vfs.open("/f", "w")
stream.write("buffered")
print(vfs.mount.server_pid)
"""
    note = tmp_path / "note"
    done = subprocess.run(
        [sys.executable, "-c", script, note], capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert note.read_text() == "unmounted"
    assert not Path(f"/proc/{done.stdout.strip()}").exists()


# ------------------------------------------------------------------------------------------ death

KILLED = r"the file server \(process \d+\) was killed by SIGKILL"

USES: dict[str, Callable[[puffs.LocalFileSystem], object]] = {
    "stat": lambda vfs: vfs.stat("/f"),
    "read": lambda vfs: vfs.read_bytes("/f"),
    "write": lambda vfs: vfs.write_text("/f", "more"),
    "mkdir": lambda vfs: vfs.mkdir("/d"),
    "listdir": lambda vfs: vfs.listdir("/"),
    "statvfs": lambda vfs: vfs.statvfs(),
    "snapshot": lambda vfs: vfs.snapshot("/nowhere"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_all_use_after_its_death_tells_how_it_has_died(
    use: Callable[[puffs.LocalFileSystem], object],
) -> None:
    vfs = puffs.local(MemFS)
    vfs.write_text("/f", "text")
    os.kill(pid_of(vfs), signal.SIGKILL)
    for _ in range(3):  # at once, and when it is known
        with pytest.raises(puffs.ServerDied, match=KILLED) as caught:
            use(vfs)
        assert caught.value.errno == errno.ENXIO
        assert not vfs.closed
    with pytest.raises(puffs.ServerDied, match=KILLED):
        vfs.sync()
    vfs.close()
    with pytest.raises(ValueError, match="closed"):
        use(vfs)


def test_open_files_tell_it_too() -> None:
    vfs = puffs.local(MemFS)
    vfs.write_text("/f", "text")
    stream = vfs.open("/f", "r+b", buffering=0)
    entries = vfs.scandir("/")
    os.kill(pid_of(vfs), signal.SIGKILL)
    uses: list[Callable[[], object]] = [
        lambda: stream.read(1),
        lambda: stream.write(b"x"),
        lambda: stream.truncate(0),
        lambda: next(entries),
        stream.close,
    ]
    for use in uses:
        with pytest.raises(puffs.ServerDied, match=KILLED):
            use()
    vfs.close()


def test_what_was_buffered_is_lost_aloud() -> None:
    vfs = puffs.local(MemFS)
    stream = vfs.open("/f", "w")
    stream.write("buffered")
    os.kill(pid_of(vfs), signal.SIGKILL)
    with pytest.raises(puffs.ServerDied, match=KILLED):
        vfs.close()
    assert vfs.closed
    assert stream.closed
    assert ended(pid_of(vfs))


def test_a_file_server_that_ends_itself_says_how() -> None:
    class Leaving(MemFS):
        def mkdir(self, dir: Any, name: str, attr: puffs.Attr, cred: puffs.Cred) -> Any:
            os._exit(7)

    with puffs.local(Leaving) as vfs:
        for _ in range(2):
            with pytest.raises(puffs.ServerDied, match="ended with status 7"):
                vfs.mkdir("/d")


class Waiting(MemFS):
    """`mkdir` waits until somebody has opened a FIFO for writing, and closed it again."""

    def __init__(self, gate: Path) -> None:
        super().__init__()
        self.gate = gate

    def mkdir(self, dir: Any, name: str, attr: puffs.Attr, cred: puffs.Cred) -> Any:
        self.gate.read_bytes()
        return super().mkdir(dir, name, attr, cred)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture
def waiting(gate: Path) -> Iterator[puffs.LocalFileSystem]:
    with puffs.local(lambda: Waiting(gate)) as vfs:
        yield vfs


class Thread(threading.Thread):
    """A thread with an outcome."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.outcome: object = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.call()
        except BaseException as exc:
            self.outcome = exc

    def finished(self) -> object:
        self.join(SECONDS)
        assert not self.is_alive()
        return self.outcome


def test_who_waits_when_it_dies_is_told(waiting: puffs.LocalFileSystem, gate: Path) -> None:
    first = Thread(lambda: waiting.mkdir("/d"))
    with gate.open("w"):  # once it can be opened, the file server waits
        others = [Thread(lambda: waiting.stat("/")) for _ in range(3)]
        os.kill(pid_of(waiting), signal.SIGKILL)
        for thread in (first, *others):
            assert isinstance(thread.finished(), puffs.ServerDied)


def test_an_interrupted_wait_leaves_all_usable(waiting: puffs.LocalFileSystem, gate: Path) -> None:
    waiting.write_text("/f", "text")
    beside: list[Thread] = []

    def interrupt() -> None:
        with gate.open("w"):
            beside.append(Thread(lambda: waiting.read_text("/f")))
            os.kill(os.getpid(), signal.SIGINT)
            asked.wait(SECONDS)

    asked = threading.Event()
    interrupter = Thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        waiting.mkdir("/d")
    asked.set()
    interrupter.finished()
    assert beside[0].finished() == "text"
    assert sorted(waiting.listdir("/")) == ["d", "f"], "it was made, and nobody waited for it"
    waiting.write_text("/g", "more")
    assert waiting.read_text("/g") == "more"


def test_one_that_hangs_is_ended(gate: Path) -> None:
    isolation = puffs.Isolation(timeout=0.5)
    with puffs.local(lambda: Waiting(gate), isolate=isolation) as vfs:
        began = time.monotonic()
        thread = Thread(lambda: vfs.mkdir("/d"))
        with gate.open("w"):
            assert isinstance(thread.finished(), TimeoutError)
        assert time.monotonic() - began < SECONDS / 2
        with pytest.raises(puffs.ServerDied, match=r"has not answered anything for 0\.5 seconds"):
            vfs.stat("/")
