"""The operations of a file server in another process, asked for one by one: a real process, and
nothing mounted.
"""

import errno
import fcntl
import gc
import logging
import os
import queue
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.fs.mem import MemFS
from puffs.isolate.isolated import Isolated
from puffs.isolate.isolation import Isolation
from puffs.isolate.messages import ANSWERED, ROWS
from puffs.kernel.mount import Mount, Status, args_for
from puffs.server.cred import FSCRED, NOCRED
from puffs.server.operations import OPERATIONS, Operations

SECONDS = 20
CRED = puffs.Cred(1000, 1001, tid=7, umask=0o22, pid=6, groups=(4, 24))
ATTR = puffs.Attr(stat.S_IFREG | 0o640, 5, uid=3, mtime_ns=-1_500_000_001, btime_ns=12, ino=1 << 63)
CHANGES = puffs.Changes(mode=0o600, size=1 << 40, atime_ns=-3, atime_now=True, kill_suidgid=True)
LOCK = puffs.Lock(fcntl.F_WRLCK, 3, (1 << 63) - 1, 77, True)
BYTES = bytes(range(256))

SAMPLES: dict[str, Any] = {
    "attr": ATTR,
    "changes": CHANGES,
    "cred": CRED,
    "data": BYTES,
    "datasync": True,
    "destination": "/srv/\udcff/copy",
    "fid": BYTES,
    "file": None,
    "force": False,
    "kind": "READ",
    "lock": LOCK,
    "name": "a name \udcfe",
    "newname": "another",
    "op": "set",
    "status": puffs.Suspend.SUSPENDED,
    "target": "../" * 100,
    "text": "says nothing",
    "to_file": None,
    "value": b"",
    "wait": True,
    "wake": None,
}
"""An argument of each name; of those that are not here, a number."""


class Echo(puffs.FileSystem[int]):
    """A file server with every operation: each fails, saying what it was given. One that nobody
    waits for prints it.
    """

    def operations(self) -> Operations:
        return {name: self._echo(name) for name in OPERATIONS} | {
            "mount": lambda: 1,
            "fileid": lambda node: (node, 0),
        }

    def _echo(self, name: str) -> Callable[..., Any]:
        def echo(*args: Any) -> None:
            said = f"{name} {[shown(arg) for arg in args]}"
            if not OPERATIONS[name].faf or name in ANSWERED:
                raise OSError(errno.EDOM, said)
            print(said, flush=True)

        return echo


def shown(arg: Any) -> str:
    """All that is in an argument, in few letters."""
    match arg:
        case memoryview() | bytes():
            return f"{len(arg)} bytes, {sum(arg)}"
        case puffs.Attr():
            return f"{arg.mode:o} {arg.size} {arg.uid} {arg.mtime_ns} {arg.btime_ns} {arg.ino}"
        case puffs.Cred():
            return f"{arg!r} {arg.umask} {arg.pid} {arg.groups}"
        case str() if len(arg) > 99:
            return f"{len(arg)} letters"
    return ascii(arg)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> "queue.SimpleQueue[str]":
    """What is logged by puffs, as it comes."""
    logged: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.put(record.getMessage())

    logger, handler = logging.getLogger("puffs"), Kept()
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])
    return logged


@pytest.fixture(scope="module")
def echo() -> Iterator[Isolated]:
    with Isolated(Echo, Isolation()) as isolated:
        yield isolated


@pytest.mark.statement("2.4", "2.4a", "2.4b")
@pytest.mark.parametrize("name", sorted(ROWS.keys() - {"mount", "mounted", "poll"}))
def test_what_an_operation_is_given_arrives(
    echo: Isolated, lines: "queue.SimpleQueue[str]", name: str
) -> None:
    operation = echo.server.operations()[name]
    root = echo.server.operations()["mount"]().wait()
    given, wanted = [], []
    for arg in OPERATIONS[name].args:
        is_node = arg in ("node", "dir", "newdir", "to")
        given.append(root if is_node else SAMPLES.get(arg, 3))
        wanted.append(1 if is_node else given[-1])
    said = f"{name} {[shown(arg) for arg in wanted]}"
    result = operation(*given)
    if OPERATIONS[name].faf and name not in ANSWERED:
        assert result is None, "nobody waits"
        assert said in iter(lambda: lines.get(timeout=SECONDS), "")
    else:
        with pytest.raises(OSError) as caught:
            result.wait()
        assert (caught.value.errno, caught.value.strerror) == (errno.EDOM, said[:256])


@pytest.mark.statement("2.4b")
@pytest.mark.parametrize("cred", [NOCRED, FSCRED, CRED], ids=["kernel", "file system", "user"])
def test_credentials_of_all_kinds_cross(echo: Isolated, cred: puffs.Cred) -> None:
    with pytest.raises(OSError) as caught:
        echo.server.operations()["sync"](False, cred).wait()
    assert shown(cred) in str(caught.value)


def test_the_longest_of_all_have_room_together(echo: Isolated) -> None:
    many = puffs.Cred(1, 1, pid=1, groups=tuple(range(256)))
    target = "t" * 3500
    root = echo.server.operations()["mount"]().wait()
    with pytest.raises(OSError) as caught:
        echo.server.operations()["symlink"](root, "n" * 255, target, ATTR, many).wait()
    assert caught.value.errno == errno.EDOM
    assert "3500 letters" in str(caught.value)


@pytest.mark.statement("2.4a")
def test_what_is_said_of_an_error_is_cut(echo: Isolated, lines: "queue.SimpleQueue[str]") -> None:
    echo.server.operations()["error"]("READ", errno.EINVAL, "x" * 100_000, None)
    said = f"error {[shown(arg) for arg in ('READ', errno.EINVAL, 'x' * 256, None)]}"
    assert said in iter(lambda: lines.get(timeout=SECONDS), "")


@pytest.mark.statement("2.2a", "Q16")
def test_with_its_process_the_mount_dies() -> None:
    with Isolated(Whole, Isolation()) as isolated:
        buried: queue.SimpleQueue[str] = queue.SimpleQueue()
        mount = Mount(isolated.server, args_for(isolated.server))
        isolated.attach(mount, lambda mount: buried.put(mount.why))
        mount.start()
        assert mount.statvfs().blocks == 0
        os.kill(isolated.pid, signal.SIGKILL)
        why = buried.get(timeout=SECONDS)
        assert why == f"the file server (process {isolated.pid}) was killed by SIGKILL (Killed)"
        assert mount.status is Status.DYING
        with pytest.raises(puffs.ServerDied, match="SIGKILL"):
            mount.statvfs()
        with pytest.raises(OSError) as caught:
            isolated.server.operations()["getattr"](mount.root().cookie, None).wait()
        assert caught.value.errno == errno.ENXIO


class Whole(puffs.FileSystem[int]):
    """The least that can be mounted."""

    def mount(self) -> int:
        return 1

    def lookup(self, dir: int, name: str, cred: puffs.Cred) -> int | puffs.Entry:
        raise FileNotFoundError(name)

    def getattr(self, node: int, file: object = None) -> puffs.Attr:
        return puffs.Attr(stat.S_IFDIR | 0o755)


def test_the_memory_that_both_sides_share_is_given_back() -> None:
    def shared() -> int:
        with open("/proc/self/maps") as maps:
            return sum("/dev/zero (deleted)" in line for line in maps)

    before = shared()
    gc.disable()  # which would give it back some time
    try:
        for _ in range(3):
            with puffs.local(MemFS, isolate=True) as vfs:
                vfs.write_bytes("/file", bytes(1 << 20))
                assert shared() == before + 1
        assert shared() == before
    finally:
        gc.enable()


class Gated(Whole):
    """`statvfs` waits until somebody has written into a fifo."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate

    def statvfs(self) -> puffs.StatVfs:
        self.gate.read_bytes()
        return puffs.StatVfs(blocks=7)


@pytest.mark.statement("Q17")
def test_who_still_waits_in_the_end_is_waited_for(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Isolated(lambda: Gated(gate), Isolation()) as isolated:
        call = isolated.server.operations()["statvfs"]()
        isolated.peer.begin(call)
        assert not isolated.peer.drain(0)
        gate.write_bytes(b"")
        assert isolated.peer.drain(SECONDS)
        assert call.outcome().blocks == 7


class Told(Whole):
    """Takes its time when it is told that it is mounted, until a fifo is written to."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate
        self.told = False

    def mounted(self, mount: object) -> None:
        self.gate.read_bytes()
        self.told = True

    def statvfs(self) -> puffs.StatVfs:
        return puffs.StatVfs(blocks=self.told)


def test_nobody_asks_before_it_was_told_that_it_is_mounted(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Isolated(lambda: Told(gate), Isolation(), threads=4) as isolated:
        operations = isolated.server.operations()
        mount = Mount(isolated.server, args_for(isolated.server))
        operations["mounted"](mount)
        asked = [operations["statvfs"]() for _ in range(8)]
        for call in asked:
            isolated.peer.begin(call)
        writer = gate.open("wb")  # which waits for the reader, in `mounted`
        isolated.peer.sleep(seconds=0.2)  # whoever would answer without waiting does it now
        writer.close()
        assert isolated.peer.drain(SECONDS)
        assert [call.outcome().blocks for call in asked] == [1] * 8


class Closing(Whole):
    """Takes its time to close a file, until a fifo is written to, and prints what it was told."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate

    def lookup(self, dir: int, name: str, cred: puffs.Cred) -> puffs.Entry:
        return puffs.Entry(len(name), ATTR)

    def open(self, node: int, flags: int, cred: puffs.Cred) -> str:
        return "what is open"

    def close(self, node: int, file: str, flags: int) -> None:
        print("closing", flush=True)
        self.gate.read_bytes()
        print("closed", node, file, flush=True)

    def reclaim(self, node: int) -> None:
        print("reclaimed", node, flush=True)

    def statvfs(self) -> puffs.StatVfs:
        return puffs.StatVfs()


def test_no_thread_forgets_what_another_one_is_told_of(
    tmp_path: Path, lines: "queue.SimpleQueue[str]"
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Isolated(lambda: Closing(gate), Isolation(), threads=2) as isolated:
        operations = isolated.server.operations()
        root = operations["mount"]().wait()
        node = operations["lookup"](root, "a name", CRED).wait().node
        operations["close"](node, operations["open"](node, os.O_RDONLY, CRED).wait(), 0)
        assert not isolated.server.known.dropped(1), "what is open is given back by its close"
        assert lines.get(timeout=SECONDS).endswith("closing")
        operations["reclaim"](node)
        operations["statvfs"]().wait()  # by the other thread, which was told of the reclaim before
        gate.write_bytes(b"")
        told = [lines.get(timeout=SECONDS) for _ in range(2)]
        assert told[0].endswith("closed 6 what is open")
        assert told[1].endswith("reclaimed 6")
