"""`async def` operations under real mounts."""

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import puffs
from tests.fuse.conftest import Notes, Serve

pytestmark = pytest.mark.fuse

TEXT = b"asynchronous\n"
NAMES = [f"file-{number}" for number in range(300)]


class Slow(puffs.FileSystem[str]):
    """Files whose reading awaits `seconds`."""

    name_ttl = attr_ttl = 0.0

    def __init__(self, notes: Notes | None = None, seconds: float = 0.05) -> None:
        self.notes = notes
        self.seconds = seconds
        self.most = self.now = 0

    def note(self, *note: object) -> None:
        if self.notes is not None:
            self.notes.add(*note)

    async def mount(self) -> str:  # type: ignore[override]
        await asyncio.sleep(0)
        return "/"

    async def unmounted(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.note("unmounted", self.most)

    async def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:  # type: ignore[override]
        if name not in NAMES:
            await asyncio.sleep(0)
            raise FileNotFoundError(errno.ENOENT, name)
        return name

    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        if node == "/":
            return puffs.Attr(stat.S_IFDIR | 0o777, nlink=2)
        return puffs.Attr(stat.S_IFREG | 0o666, size=len(TEXT))

    async def open(self, node: str, flags: int, cred: puffs.Cred) -> puffs.Open:
        return puffs.Open(direct_io=True)

    async def readdir(  # type: ignore[override]
        self, dir: str, offset: int, file: object
    ) -> AsyncIterator[str]:
        for number, name in enumerate(NAMES):
            if number % 50 == 0:
                await asyncio.sleep(0)
            yield name

    async def read(self, node: str, offset: int, size: int, file: object) -> bytes:  # type: ignore[override]
        caller = puffs.caller()
        self.note("reading", node)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(self.seconds))
        except asyncio.CancelledError:
            self.note("cancelled", node)
            raise
        finally:
            self.now -= 1
        assert puffs.caller() == caller
        self.note("read", node, caller.pid, caller.uid)
        return TEXT[offset : offset + size]


def cat(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["cat", path], stdout=subprocess.PIPE)


def test_operations_that_wait_are_served_side_by_side(serve: Serve) -> None:
    served = serve(lambda _: Slow())
    started = time.monotonic()
    readers = [cat(served.path / name) for name in NAMES[:50]]
    assert [reader.communicate()[0] for reader in readers] == [TEXT] * 50
    # One after the other, 50 reads and as many at the end of the file would take five seconds.
    assert time.monotonic() - started < 4


def test_a_listing_may_be_an_async_generator(serve: Serve) -> None:
    served = serve(lambda _: Slow())
    assert sorted(os.listdir(served.path)) == sorted(NAMES)


def test_a_missing_name_is_enoent_after_waiting(serve: Serve) -> None:
    served = serve(lambda _: Slow())
    with pytest.raises(FileNotFoundError):
        os.stat(served.path / "nothing")
    assert served.log == []


def test_the_caller_is_known_after_waiting(serve: Serve) -> None:
    served = serve(lambda notes: Slow(notes, 0.001))
    reader = cat(served.path / NAMES[0])
    assert reader.communicate()[0] == TEXT
    assert ("read", NAMES[0], reader.pid, os.getuid()) in served.notes("read")


def test_shutdown_lets_operations_finish(serve: Serve) -> None:
    served = serve(lambda notes: Slow(notes, 0.5))
    reader = cat(served.path / NAMES[0])
    served.child.unmount(force=True)
    reader.communicate()
    assert [note[0] for note in served.notes("unmounted")] == ["unmounted"]
    assert served.ended() == 0


_CALLER = """
import os, signal, sys, threading, time
number, path = int(sys.argv[1]), sys.argv[2]
signal.signal(number, lambda *_: None)
fd = os.open(path, os.O_RDONLY)
main = threading.main_thread().ident
def strike():
    signal.pthread_kill(main, number)
timer = threading.Timer(0.2, strike)
timer.start()
class Interrupted(Exception): pass
def raising(*_): raise Interrupted
if number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, raising)
try:
    print(os.read(fd, 100))
except Interrupted:
    print("interrupted")
"""


def called(number: int, path: Path) -> str:
    command = [sys.executable, "-c", _CALLER, str(int(number)), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.statement("2.7c")
@pytest.mark.parametrize("number", [signal.SIGURG, signal.SIGALRM, signal.SIGCHLD])
def test_a_signal_that_ends_nothing_interrupts_nothing(
    serve: Serve, number: signal.Signals
) -> None:
    served = serve(lambda notes: Slow(notes, 0.8))
    assert called(number, served.path / NAMES[0]) == repr(TEXT)
    assert served.notes("cancelled") == []


@pytest.mark.statement("2.7c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_fatal_signal_cancels_the_operation(serve: Serve, number: signal.Signals) -> None:
    served = serve(lambda notes: Slow(notes, 30.0))
    started = time.monotonic()
    assert called(number, served.path / NAMES[0]) == "interrupted"
    assert time.monotonic() - started < 20
    served.round_trips(lambda: served.notes("cancelled") == [("cancelled", NAMES[0])])


def test_a_killed_caller_cancels_the_operation(serve: Serve) -> None:
    served = serve(lambda notes: Slow(notes, 30.0))
    reader = cat(served.path / NAMES[0])
    served.round_trips(lambda: served.notes("reading") == [("reading", NAMES[0])])
    reader.kill()
    reader.communicate()
    served.round_trips(lambda: served.notes("cancelled") == [("cancelled", NAMES[0])])


def test_async_with_serves_in_the_running_loop(mountpoint: Path) -> None:
    class Here(Slow):
        loop: asyncio.AbstractEventLoop

        async def read(self, node: str, offset: int, size: int, file: object) -> bytes:  # type: ignore[override]
            await asyncio.sleep(0.001)
            self.loop = asyncio.get_running_loop()
            return TEXT[offset : offset + size]

    async def program() -> None:
        fs = Here()
        async with puffs.mount(fs, mountpoint):
            process = await asyncio.create_subprocess_exec(
                "cat", mountpoint / NAMES[0], stdout=subprocess.PIPE
            )
            output, _ = await process.communicate()
            assert output == TEXT
            assert fs.loop is asyncio.get_running_loop()

    asyncio.run(program())
    assert not os.path.ismount(mountpoint)


def test_a_plain_with_in_a_running_loop_says_what_to_do(mountpoint: Path) -> None:
    async def program() -> None:
        with pytest.raises(RuntimeError, match="async with"):
            with puffs.mount(Slow(), mountpoint):
                pass

    asyncio.run(program())


def test_a_failing_mount_fails_the_mounting(mountpoint: Path) -> None:
    class Refusing(Slow):
        async def mount(self) -> str:  # type: ignore[override]
            await asyncio.sleep(0)
            raise PermissionError(errno.EACCES, "not today")

    async def program() -> None:
        async with puffs.mount(Refusing(), mountpoint):
            pass

    with pytest.raises(PermissionError, match="not today"):
        asyncio.run(program())
    with pytest.raises(PermissionError, match="not today"):
        puffs.mount(Refusing(), mountpoint)
    assert not os.path.ismount(mountpoint)


def test_what_never_waits_needs_no_task(mountpoint: Path) -> None:
    class Prompt(Slow):
        tasks: set[str]

        async def read(self, node: str, offset: int, size: int, file: object) -> bytes:  # type: ignore[override]
            self.tasks = {task.get_name() for task in asyncio.all_tasks()}
            return TEXT[offset : offset + size]

    fs = Prompt()
    with puffs.mount(fs, mountpoint):
        for name in NAMES[:20]:
            assert subprocess.check_output(["cat", mountpoint / name]) == TEXT
        assert len([name for name in fs.tasks if name.startswith("puffs operation")]) == 1


def test_data_of_a_write_can_be_kept_while_waiting(mountpoint: Path) -> None:
    class Writable(Slow):
        def __init__(self) -> None:
            super().__init__()
            self.contents: dict[str, bytes] = {}

        async def write(self, node: str, offset: int, data: memoryview, file: object) -> int:  # type: ignore[override]
            await asyncio.sleep(0.05)
            self.contents[node] = bytes(data)
            return len(data)

    fs = Writable()
    with puffs.mount(fs, mountpoint):
        command = 'for n in 1 2 3 4 5 6 7 8; do echo "content $n" 1<> $0/file-$n & done; wait'
        subprocess.run(["sh", "-c", command, mountpoint], check=True)
    assert fs.contents == {f"file-{n}": f"content {n}\n".encode() for n in range(1, 9)}


def test_another_loop_drives_a_session(mountpoint: Path) -> None:
    trio = pytest.importorskip("trio")
    log: list[str] = []

    class Trio(puffs.FileSystem[str]):
        def mount(self) -> str:
            return "/"

        async def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:  # type: ignore[override]
            await trio.sleep(0.001)
            if name != "file":
                raise FileNotFoundError(errno.ENOENT, name)
            return name

        def getattr(self, node: str, file: object = None) -> puffs.Attr:
            kind = stat.S_IFDIR if node == "/" else stat.S_IFREG
            return puffs.Attr(kind | 0o777, size=len(TEXT))

        async def read(self, node: str, offset: int, size: int, file: object) -> bytes:  # type: ignore[override]
            with trio.move_on_after(5):
                await trio.sleep(0.05)
            return TEXT[offset : offset + size]

        async def unmounted(self) -> None:  # type: ignore[override]
            await trio.sleep(0)
            log.append("unmounted")

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            session = puffs.session(Trio(), mountpoint, start_soon=nursery.start_soon)

            async def use() -> None:
                command = "cat $0/file & cat $0/file & wait; cat $0/nothing; umount $0"
                done = await trio.run_process(
                    ["sh", "-c", command, mountpoint],
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
                assert done.stdout == TEXT * 2
                assert b"No such file" in done.stderr

            nursery.start_soon(use)
            while session.handle_one():
                await trio.lowlevel.wait_readable(session)
        await session.finish()

    trio.run(program)
    assert log == ["unmounted"]
    assert not os.path.ismount(mountpoint)


def test_several_threads_serve_operations_that_block(serve: Serve) -> None:
    class Blocking(Slow):
        barrier = threading.Barrier(4)

        def mount(self) -> str:  # type: ignore[override]
            return "/"

        def unmounted(self) -> None:  # type: ignore[override]
            pass

        def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:  # type: ignore[override]
            return name

        def open(self, node: str, flags: int, cred: puffs.Cred) -> puffs.Open:  # type: ignore[override]
            return puffs.Open(direct_io=True)

        def readdir(self, dir: str, offset: int, file: object) -> list[str]:  # type: ignore[override]
            return NAMES

        def read(self, node: str, offset: int, size: int, file: object) -> bytes:  # type: ignore[override]
            if offset == 0:
                self.barrier.wait(30)  # opens only when four reads are under way at once
            return TEXT[offset : offset + size]

    served = serve(lambda _: Blocking(), "threads=4")
    readers = [cat(served.path / name) for name in NAMES[:4]]
    assert [reader.communicate()[0] for reader in readers] == [TEXT] * 4
