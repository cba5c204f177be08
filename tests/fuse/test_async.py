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
from tests.fuse.calls import held_open
from tests.fuse.conftest import Notes, Serve

pytestmark = [pytest.mark.fuse, pytest.mark.loops]


@pytest.fixture(params=[False, True], ids=["direct", "isolated"])
def isolate(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


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


def test_what_is_open_at_the_end_is_closed(serve: Serve) -> None:
    class Closes(Slow):
        async def close(self, node: str, file: object, flags: int) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            self.note("close", node)

    served = serve(lambda notes: Closes(notes, 0))
    with held_open(served.path / NAMES[0]):
        served.child.unmount(force=True)
    assert served.notes("close", "unmounted")[0] == ("close", NAMES[0])
    assert served.log == []


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


def test_large_data_of_a_write_can_be_kept_while_waiting(mountpoint: Path) -> None:
    """Operations that are lent the buffer of their request keep it, whatever comes meanwhile."""
    size = 1 << 20

    class Large(Slow):
        def __init__(self) -> None:
            super().__init__()
            self.contents: dict[str, list[bytes]] = {}
            self.views: list[memoryview] = []

        async def write(self, node: str, offset: int, data: memoryview, file: object) -> int:  # type: ignore[override]
            first = bytes(data)
            if node != NAMES[0]:
                await asyncio.sleep(0.05)
            self.views.append(data)
            self.contents.setdefault(node, []).append(first)
            self.contents[node].append(bytes(data))
            return len(data)

    fs = Large()
    with puffs.mount(fs, mountpoint):
        command = f"""
            dd if=/dev/zero of=$0/file-0 bs={size} count=2 conv=notrunc
            for n in 1 2 3 4; do
                head -c {size} /dev/zero | tr '\\0' $n |
                    dd of=$0/file-$n bs={size} iflag=fullblock conv=notrunc &
            done; wait
        """
        subprocess.run(["sh", "-c", command, mountpoint], check=True, stderr=subprocess.DEVNULL)
    assert {node: len(seen) for node, seen in fs.contents.items()} == {
        "file-0": 4, "file-1": 2, "file-2": 2, "file-3": 2, "file-4": 2
    }  # fmt: skip
    for node, seen in fs.contents.items():
        letter = node[-1].encode() if node != "file-0" else b"\0"
        assert [data == letter * size for data in seen] == [True] * len(seen), node
    for view in fs.views[:2]:  # lent only until the operation returned
        with pytest.raises(ValueError, match="released"):
            bytes(view)


class Everything(Slow):
    """All that a request needs more than one of waits; `def` ones tell who calls them."""

    def __init__(self, notes: Notes | None = None) -> None:
        super().__init__(notes)
        self.made: dict[str, int] = {}

    async def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:  # type: ignore[override]
        await asyncio.sleep(0.01)
        if name not in self.made:
            raise FileNotFoundError(errno.ENOENT, name)
        return name

    async def getattr(self, node: str, file: object = None) -> puffs.Attr:  # type: ignore[override]
        if node == "/":
            return puffs.Attr(stat.S_IFDIR | 0o777, nlink=2)
        await asyncio.sleep(0.01)
        if node.startswith("bad"):
            raise PermissionError(errno.EACCES, node)
        return puffs.Attr(stat.S_IFREG | 0o666, size=self.made[node])

    async def create(  # type: ignore[override]
        self, dir: str, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> str:
        await asyncio.sleep(0.01)
        self.made[name] = puffs.caller().pid
        return name

    async def open(self, node: str, flags: int, cred: puffs.Cred) -> puffs.Open:
        await asyncio.sleep(0.01)
        assert puffs.caller().pid == self.made[node] or flags & os.O_ACCMODE == os.O_RDONLY
        return puffs.Open(direct_io=True)

    def close(self, node: str, file: object, flags: int) -> None:
        self.note("closed", node)

    async def reclaim(self, node: str) -> None:  # type: ignore[override]
        await asyncio.sleep(0.01)
        self.note("reclaimed", node)


def test_operations_follow_one_another_in_one_request(serve: Serve) -> None:
    """LOOKUP needs `getattr` after `lookup`, CREATE `open` and `getattr` after `create`."""
    served = serve(Everything)
    script = 'set -e; : > "$0/$1"; stat -c %s "$0/$1"; stat -c %n "$0/$1"'
    callers = [
        subprocess.Popen(
            ["sh", "-c", script, served.path, f"file {number}"], stdout=subprocess.PIPE, text=True
        )
        for number in range(30)
    ]
    for number, process in enumerate(callers):
        size, name = process.communicate()[0].splitlines()
        assert name == f"{served.path}/file {number}"
        assert int(size) == process.pid
    assert served.log == []


def test_an_error_after_waiting_reaches_the_right_caller(serve: Serve) -> None:
    served = serve(Everything)
    script = '(: > "$0/$1"); stat -c %n "$0/$1"'
    names = [f"{kind} {number}" for number in range(15) for kind in ("bad", "good")]
    callers = [
        subprocess.Popen(
            ["sh", "-c", script, served.path, name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in names
    ]
    for name, process in zip(names, callers, strict=True):
        output = process.communicate()[0]
        if name.startswith("bad"):
            assert output.count("ermission denied") == 2
        else:
            assert output == f"{served.path}/{name}\n"
    assert served.log == []


@pytest.mark.parametrize("isolate", [False])  # there are rooms for so many reads only
def test_a_crowd_that_is_killed_at_once_is_let_go(serve: Serve) -> None:
    served = serve(lambda notes: Slow(notes, 600.0))
    readers = [cat(served.path / name) for name in NAMES[:100]]
    served.round_trips(lambda: len(served.notes("reading")) == len(readers))
    for reader in readers:
        reader.kill()
    for reader in readers:
        reader.communicate(timeout=20)
    served.round_trips(lambda: len(served.notes("cancelled")) == len(readers))


def test_leaving_the_interpreter_is_a_mistake_like_any_other(serve: Serve) -> None:
    class Leaving(Slow):
        async def read(self, node: str, offset: int, size: int, file: object) -> bytes:  # type: ignore[override]
            await asyncio.sleep(0.001)
            sys.exit(3)

    served = serve(lambda _: Leaving())
    for name in NAMES[:2]:
        with pytest.raises(OSError, match="Input/output error") as caught:
            (served.path / name).read_bytes()
        assert caught.value.errno == errno.EIO
    assert "read failed in the file server; the caller gets EIO" in served.log


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

        async def getattr(self, node: str, file: object = None) -> puffs.Attr:  # type: ignore[override]
            if node != "/":
                await trio.sleep(0.001)
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


def test_trio_serves_a_session_by_tasks_that_take_turns(mountpoint: Path) -> None:
    trio = pytest.importorskip("trio")
    log: list[object] = []

    class Trio(puffs.FileSystem[str]):
        attr_ttl = name_ttl = 0.0

        def __init__(self) -> None:
            self.open_gate = trio.Event()

        def mount(self) -> str:
            return "/"

        def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:
            return name

        def readdir(self, dir: str, offset: int, file: object) -> list[str]:
            return []

        async def getattr(self, node: str, file: object = None) -> puffs.Attr:  # type: ignore[override]
            kind = stat.S_IFDIR if node == "/" else stat.S_IFREG
            return puffs.Attr(kind | 0o777, size=len(TEXT))

        async def open(self, node: str, flags: int, cred: puffs.Cred) -> None:
            before = trio.lowlevel.current_task()
            with trio.move_on_after(0.05) as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
            if node == "first":
                await self.open_gate.wait()  # opened by the second, which is served meanwhile
            else:
                self.open_gate.set()
            assert trio.lowlevel.current_task() is before
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0)
            log.append((node, puffs.caller().pid != 0))

        async def read(self, node: str, offset: int, size: int, file: object) -> bytes:  # type: ignore[override]
            return TEXT[offset : offset + size]

        async def reclaim(self, node: str) -> None:  # type: ignore[override]
            await trio.sleep(0)
            log.append(f"reclaim {node}")

        async def unmounted(self) -> None:  # type: ignore[override]
            await trio.sleep(0)
            log.append("unmounted")

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            session = puffs.session(Trio(), mountpoint, start_soon=nursery.start_soon)

            async def use() -> None:
                command = ["sh", "-c", "cat $0/first & cat $0/second; wait; umount $0", mountpoint]
                done = await trio.run_process(command, capture_stdout=True)
                assert done.stdout == TEXT * 2

            nursery.start_soon(use)
            await session.serve()
        await session.finish()

    trio.run(program)
    assert {("first", True), ("second", True)} < set(log)
    assert {"reclaim first", "reclaim second"} < set(log)
    assert log[-1] == "unmounted"
    assert len(log) == 5
    assert not os.path.ismount(mountpoint)


def test_a_session_for_another_loop_begins_without_waiting(mountpoint: Path) -> None:
    trio = pytest.importorskip("trio")

    class Prompt(Slow):
        async def mount(self) -> str:  # type: ignore[override]
            return "/"

        async def getattr(self, node: str, file: object = None) -> puffs.Attr:  # type: ignore[override]
            if node != "/":
                await trio.sleep(0.001)
            return Slow.getattr(self, node, file)

        async def unmounted(self) -> None:  # type: ignore[override]
            pass

    class Waiting(Prompt):
        async def mount(self) -> str:  # type: ignore[override]
            await trio.sleep(0.001)
            return "/"

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            with pytest.raises(TypeError, match=r"Waiting\.mount waits before"):
                puffs.session(Waiting(), mountpoint, start_soon=nursery.start_soon)
            with pytest.raises(TypeError, match="needs start_soon"):
                puffs.session(Prompt(), mountpoint)
            session = puffs.session(Prompt(), mountpoint, start_soon=nursery.start_soon)
            nursery.start_soon(trio.run_process, ["umount", mountpoint])
            while session.handle_one():
                await trio.lowlevel.wait_readable(session)
        await session.finish()

    trio.run(program)
    assert not os.path.ismount(mountpoint)


class Paths(puffs.PathFileSystem):
    """Two directories with a file in one of them, which can be renamed; all of it waits."""

    name_ttl = attr_ttl = 0.0

    def __init__(self) -> None:
        self.modes = dict.fromkeys(("/", "/a", "/a/b"), stat.S_IFDIR | 0o755)
        self.modes["/a/b/file"] = stat.S_IFREG | 0o644

    async def getattr(self, path: str, file: object = None) -> puffs.Attr:  # type: ignore[override]
        await asyncio.sleep(0.001)
        if path not in self.modes:
            raise FileNotFoundError(errno.ENOENT, path)
        return puffs.Attr(self.modes[path], size=len(TEXT))

    def open(self, path: str, flags: int, cred: puffs.Cred) -> puffs.Open:
        return puffs.Open(direct_io=True)

    async def read(self, path: str, offset: int, size: int, file: object) -> bytes:  # type: ignore[override]
        await asyncio.sleep(0.005)
        if path not in self.modes:
            raise FileNotFoundError(errno.ENOENT, path)
        return TEXT[offset : offset + size]

    async def readdir(self, path: str, offset: int, file: object) -> AsyncIterator[str]:  # type: ignore[override]
        await asyncio.sleep(0)
        for each in sorted(self.modes):
            if each != "/" and os.path.dirname(each) == path:
                yield os.path.basename(each)

    async def rename(self, path: str, newpath: str, flags: int, cred: puffs.Cred) -> None:  # type: ignore[override]
        await asyncio.sleep(0.001)
        for each in list(self.modes):
            if each == path or each.startswith(f"{path}/"):
                self.modes[newpath + each.removeprefix(path)] = self.modes.pop(each)
        await asyncio.sleep(0.01)  # done, and nobody knows it yet


def test_operations_on_paths_may_wait_while_directories_move(serve: Serve) -> None:
    served = serve(lambda _: Paths())
    assert os.listdir(served.path) == ["a"]
    assert os.listdir(served.path / "a/b") == ["file"]
    fds = [os.open(served.path / "a/b/file", os.O_RDONLY) for _ in range(4)]
    reading = (
        f"import os, sys\nfor _ in range(30): assert os.pread(int(sys.argv[1]), 99, 0) == {TEXT!r}"
    )
    readers = [
        subprocess.Popen([sys.executable, "-c", reading, str(fd)], pass_fds=[fd]) for fd in fds
    ]
    for fd in fds:
        os.close(fd)
    old, new = served.path / "a", served.path / "c"
    while any(reader.poll() is None for reader in readers):
        old.rename(new)
        old, new = new, old
    assert [reader.wait() for reader in readers] == [0] * 4
    assert (old / "b/file").read_bytes() == TEXT
    assert served.log == []


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
