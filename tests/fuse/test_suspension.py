"""Suspending real mounts under load: nothing is lost, nothing is torn, nobody sees an error."""

import asyncio
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBUSY, EDEADLK, EINVAL, ETIMEDOUT
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.attach.asking import ask, mounted
from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, umount2
from puffs.fs.mem import MemFS
from puffs.fs.nodes import Node
from puffs.fs.null import NullFS
from puffs.kernel.mount import Servable
from tests.cli.commands import PUFFS, run, succeeds
from tests.fuse.async_twin import async_twin
from tests.fuse.calls import fails
from tests.fuse.conftest import Notes, Serve, Served
from tests.fuse.load import FILE_RECORDS, Journal, Program, records
from tests.fuse.servers import Hello

pytestmark = [pytest.mark.fuse, pytest.mark.loops]

PLAIN = 5000
PAGE = 4096

INLINE, THREADS, ASYNC, ISOLATED = "", "threads=3", "async", "isolated"


class Delayed(NullFS):
    """Takes a while for each write."""

    def __init__(self, directory: Path, seconds: float) -> None:
        super().__init__(directory)
        self._seconds = seconds
        self._never = threading.Event()

    def write(self, node: object, offset: int, data: memoryview, file: int) -> int:
        self._never.wait(self._seconds)
        return os.pwrite(file, data, offset)


@contextmanager
def under_load(path: Path, host: Path, journal_path: Path, size: int, *more: str) -> Iterator[None]:
    """Programs at work on a mount of `host`, once the appender has begun. All end well."""
    (host / "big").write_bytes(b"r" * (4 << 20))
    programs = [
        Program("append", path / "records", journal_path, str(size)),
        Program("truncate", path / "truncated"),
        Program("read", path / "big"),
        *(Program(name, path / f"for {name}") for name in more),
    ]
    try:
        while Journal(journal_path).read()[1] == 0:
            os.statvfs(path)
        yield
        said = {program.name: program.end() for program in programs}
        assert said == dict.fromkeys(said, "ok\n")
    finally:
        for program in programs:
            program.kill()


def check_copy(
    copy: Path, size: int, before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    """A copy that was taken while the mount was suspended, between two looks at the journal."""
    numbers = records((copy / "records").read_bytes(), size)
    begun, _, first = after
    _, written, _ = before
    if numbers:
        assert before[2] <= numbers.start <= first, "it begins with what was never the beginning"
        assert numbers.start % FILE_RECORDS == 0, "its beginning is missing"
        assert numbers.stop >= written, f"lost: {written - numbers.stop} records"
        assert numbers.stop <= begun, "it holds what was never written"
    else:
        assert first >= written, f"lost: all {written - first} records of the file"


def suspend_often(
    served: Served, host: Path, tmp_path: Path, size: int, times: int, *more: str
) -> None:
    """Suspend again and again, and look at what is behind the mount meanwhile."""
    journal_path, copy = tmp_path / "journal", tmp_path / "copy"
    journal = Journal(journal_path)
    with under_load(served.path, host, journal_path, size, *more):
        for _ in range(times):
            before = journal.read()
            with served.child.suspended():
                after = journal.read()
                shutil.copytree(host, copy)
                again = (host / "records").read_bytes()
            assert (copy / "records").read_bytes() == again, "something has moved"
            check_copy(copy, size, before, after)
            shutil.rmtree(copy)
    served.child.sync()
    assert records((host / "records").read_bytes(), size).stop == journal.read()[1]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The directory behind the mount."""
    path = tmp_path / "host"
    path.mkdir()
    return path


Started = Callable[..., Served]


@pytest.fixture
def started(serve: Serve, host: Path) -> Started:
    """Mounts `null`, served in one of several ways, with writes that take a while."""

    def start(how: str, seconds: float = 0) -> Served:
        def make(_: Notes) -> Servable:
            if how == ASYNC:
                twin: Servable = async_twin(NullFS)(host)
                return twin
            return Delayed(host, seconds) if seconds else NullFS(host)

        options = "" if how in (ASYNC, ISOLATED) else how
        return serve(make, options, isolate=how == ISOLATED)

    return start


WAYS = [(INLINE, PLAIN), (THREADS, PLAIN), (ASYNC, PLAIN), (ISOLATED, PLAIN), ("writeback", PAGE)]


@pytest.mark.parametrize(("how", "size"), WAYS)
def test_what_is_copied_meanwhile_is_whole(
    started: Started, host: Path, tmp_path: Path, how: str, size: int
) -> None:
    suspend_often(started(how), host, tmp_path, size, 10, "store", "names")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("how", "size"), [*WAYS, ("writeback,threads=3", PAGE)])
def test_two_hundred_times(
    started: Started, host: Path, tmp_path: Path, how: str, size: int
) -> None:
    suspend_often(started(how), host, tmp_path, size, 200, "store", "names")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("how", "size"), [(INLINE, PLAIN), ("writeback", PAGE)])
def test_a_server_that_takes_a_second_for_each_write(
    started: Started, host: Path, tmp_path: Path, how: str, size: int
) -> None:
    suspend_often(started(how, 1.0), host, tmp_path, size, 20)


# ------------------------------------------------------------------------------------ one at a time


class Told(MemFS):
    """Notes what it is told."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self._notes = notes

    def suspend(self, status: puffs.Suspend) -> None:
        self._notes.add("suspend", status.name)

    def write(self, node: Node, offset: int, data: memoryview, file: object) -> int:
        self._notes.add("write", offset)
        return super().write(node, offset, data, file)

    def read(self, node: Node, offset: int, size: int, file: object) -> puffs.Buffer:
        self._notes.add("read", offset)
        return super().read(node, offset, size, file)

    def mkdir(self, dir: Node, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
        self._notes.add("mkdir", name)
        return super().mkdir(dir, name, attr, cred)


def status(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = ask(mounted(path), "status")
    return found


def wait_for_held(path: Path, number: int) -> None:
    """Until so many requests are held back."""
    while status(path)["held"] < number:
        pass


def python(text: str, *arguments: str | Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


MAPPED = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 1 << 16)
memory = mmap.mmap(fd, 1 << 16)
memory[5 * 4096 : 5 * 4096 + 5] = b"dirty"
print("dirty", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["", "threads=3"])
def test_what_is_dirty_comes_between_start_and_suspended(serve: Serve, how: str) -> None:
    served = serve(Told, how)
    process = subprocess.Popen(
        [sys.executable, "-c", MAPPED, str(served.path / "f")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "dirty\n"
    served.forget_notes()
    served.child.suspend()
    assert served.notes() == [
        ("suspend", "START"),
        ("write", 5 * 4096),
        ("suspend", "SUSPENDED"),
    ]
    served.child.resume()
    assert served.notes()[-1] == ("suspend", "RESUME")
    process.communicate()


@pytest.mark.parametrize("how", ["", "threads=3"])
def test_operations_wait_and_are_done_after_the_resume(serve: Serve, how: str) -> None:
    served = serve(Told, how)
    served.child.suspend()
    served.forget_notes()
    makers = [python("import os, sys; os.mkdir(sys.argv[1])", served.path / n) for n in "abc"]
    wait_for_held(served.path, 1)  # the others wait for the directory
    assert status(served.path)["state"] == "suspended"
    assert served.notes() == []
    served.child.resume()
    assert [maker.communicate()[0] for maker in makers] == ["", "", ""]
    assert served.notes()[0] == ("suspend", "RESUME")
    assert sorted(served.notes("mkdir")) == [("mkdir", name) for name in "abc"]
    assert sorted(os.listdir(served.path)) == ["a", "b", "c"]
    assert status(served.path)["state"] == "running"


ALARMED = """
import os, signal, sys
signal.signal(signal.SIGALRM, lambda *_: print("alarm", flush=True))
os.mkdir(sys.argv[1])
print("made")
"""


def test_a_signal_ends_who_waits_only_if_it_is_to_end_him(serve: Serve) -> None:
    served = serve(Told)
    served.child.suspend()
    alarmed = python(ALARMED, served.path / "alarmed")
    wait_for_held(served.path, 1)
    alarmed.send_signal(signal.SIGALRM)
    killed = python("import os, sys; os.listdir(sys.argv[1])", served.path)
    wait_for_held(served.path, 2)
    killed.kill()
    killed.communicate()
    assert status(served.path)["held"] == 1
    served.child.resume()
    assert alarmed.communicate()[0].split() == ["alarm", "made"]


@pytest.mark.parametrize("how", ["", "threads=3"])
def test_what_does_not_end_is_given_up_and_all_goes_on(serve: Serve, how: str) -> None:
    class Stuck(Told):
        def read(self, node: Node, offset: int, size: int, file: object) -> puffs.Buffer:
            data = super().read(node, offset, size, file)
            leave.wait()
            return data

    leave = multiprocessing.get_context("fork").Event()
    served = serve(Stuck, how)
    (served.path / "f").write_text("text")
    reader = python("print(open(__import__('sys').argv[1]).read())", served.path / "f")
    while served.notes("read") == []:
        pass
    with fails(ETIMEDOUT):
        served.child.suspend(0.5)
    leave.set()
    assert reader.communicate()[0] == "text\n"
    served.round_trips(
        lambda: served.notes("suspend") == [("suspend", "START"), ("suspend", "ERROR")]
    )
    with served.child.suspended():
        assert status(served.path)["state"] == "suspended"


def test_inside_an_operation_it_is_an_error_and_no_deadlock(mountpoint: Path) -> None:
    class Eager(MemFS):
        own: puffs.Mount
        raised: int | None = None

        def mkdir(self, dir: Node, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
            try:
                self.own.suspend()
            except OSError as exc:
                self.raised = exc.errno
            return super().mkdir(dir, name, attr, cred)

    fs = Eager()
    with puffs.mount(fs, mountpoint) as fs.own:
        maker = python("import os, sys; os.mkdir(sys.argv[1])", mountpoint / "d")
        assert maker.communicate()[0] == ""
        fs.own.suspend()
        fs.own.resume()
    assert fs.raised == EDEADLK


def test_an_event_loop_suspends_what_it_serves(mountpoint: Path) -> None:
    class Async(MemFS):
        async def getattr(self, node: Node, file: object = None) -> puffs.Attr:  # type: ignore[override]
            return node.attr

    async def program() -> None:
        async with puffs.mount(Async(), mountpoint) as mount:
            async with mount.suspended():
                maker = python("import os, sys; os.mkdir(sys.argv[1])", mountpoint / "d")
                await asyncio.to_thread(wait_for_held, mountpoint, 1)
            output, _ = await asyncio.to_thread(maker.communicate)
            assert output == ""

    asyncio.run(program())


def test_who_asks_twice_or_for_nothing_is_told(serve: Serve) -> None:
    served = serve(Told)
    with fails(EINVAL, "not suspended"):
        served.child.resume()
    with served.child.suspended(), fails(EBUSY, "suspended"):
        served.child.suspend()
    assert status(served.path)["state"] == "running"


def test_a_suspended_mount_is_unmounted_by_force_only(serve: Serve) -> None:
    served = serve(Told)
    served.child.suspend()
    with fails(EBUSY, "suspended"):
        served.child.unmount()
    maker = python("import os, sys; os.mkdir(sys.argv[1])", served.path / "d")
    wait_for_held(served.path, 1)
    served.child.unmount(force=True)
    assert not served.mounted()
    maker.communicate()
    assert served.log == []


def test_a_suspended_mount_that_others_detach_ends(serve: Serve) -> None:
    served = serve(Told)
    served.child.suspend()
    umount2(str(served.path), MNT_DETACH | UMOUNT_NOFOLLOW)
    assert served.ended() == 0
    assert served.log == []


def test_a_server_that_is_killed_while_others_wait_for_its_loop_leaves_no_hung_process(
    serve: Serve,
) -> None:
    class Hung(Told):
        def sync(self, wait: bool, cred: puffs.Cred) -> None:
            self._notes.add("sync")
            threading.Event().wait()

    served = serve(Hung)
    asking = python(
        "import sys; from puffs.attach.asking import *; ask(mounted(sys.argv[1]), 'sync', 60)",
        served.path,
    )
    while served.notes("sync") == []:
        pass
    os.kill(served.child.pid, signal.SIGKILL)
    assert served.ended() == -signal.SIGKILL
    asking.communicate()


# ----------------------------------------------------------------------------------- write-back


APPENDS = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in range(100):
    os.write(fd, b"%04d" % number)
print("written", flush=True)
sys.stdin.read()
"""


def test_with_a_write_back_cache_the_kernel_writes_whole_pages_later(serve: Serve) -> None:
    served = serve(Told, "writeback")
    process = subprocess.Popen(
        [sys.executable, "-c", APPENDS, str(served.path / "f")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    assert served.notes("write") == []
    served.child.sync()
    assert served.notes("write") == [("write", 0)]
    process.communicate()
    text = "".join(f"{number:04}" for number in range(100))
    assert (served.path / "f").read_text() == text


def test_write_back_needs_what_the_kernel_then_asks_for(mountpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"writeback: .* lacks setattr, write"):
        puffs.mount(Hello(), mountpoint, "writeback")


# --------------------------------------------------------------------------------------- commands


def test_the_commands_suspend_and_resume(serve: Serve) -> None:
    path = serve(Told).path
    succeeds(*PUFFS, "suspend", path)
    maker = python("import os, sys; os.mkdir(sys.argv[1])", path / "d")
    wait_for_held(path, 1)
    again = run(*PUFFS, "suspend", path)
    assert (again.returncode, again.stderr) == (1, "puffs: it is suspended already\n")
    succeeds(*PUFFS, "resume", path)
    assert maker.communicate()[0] == ""
    nothing = run(*PUFFS, "resume", path)
    assert nothing.returncode == 1
    assert "is not suspended" in nothing.stderr
