"""What a hostile process says unasked, prints, and begins with: it is answered, cut, or ends it."""

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from puffs.isolate import child, messages
from puffs.isolate.frames import FAF, FRAME_MAX, RESPONSE, VERSION, Class, Own
from puffs.isolate.isolation import Isolation
from puffs.isolate.pipes import Ends
from puffs.isolate.rooms import Rooms
from puffs.kernel.flush import FlushOp
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Notes, Serve, Served
from tests.fuse.hostile import HEADER, Asked, Hostile, attack, unasked, with_life
from tests.fuse.hostile_uses import (
    DEAD,
    U64,
    cut,
    ends,
    faults,
    fields,
    goes_on,
    look_at,
    make_dir,
)
from tests.fuse.others import comes_true, gone

pytestmark = pytest.mark.fuse

# ---------------------------------------------------------------------------- what is said unasked


def flush(op: int, node: int, start: int = 0, end: int = 0, name: bytes | None = None) -> bytes:
    body = fields(messages.FLUSH, start, end, name is not None, name or b"")
    return unasked(Class.FLUSH, op, 1, node, body)


FILE_NODE: Final = 2
"""The number of the only file that has been looked up."""
MOST: Final = (1 << 64) - 1
PAGES = (FlushOp.INVAL_PAGECACHE_NODE_RANGE, FlushOp.FLUSH_PAGECACHE_NODE_RANGE)
WRONG_NAMES: Final = (b"", b".", b"..", b"a/b", b"a\0b")

UNASKED: Final[dict[str, tuple[int, list[bytes]]]] = {
    "unknown nodes": (0, [flush(op, MOST) for op in FlushOp if op]),
    "no node": (0, [flush(op, 0) for op in FlushOp if op]),
    "operations that are none": (errno.EINVAL, [flush(op, 1) for op in (0, 6, 255, 65535)]),
    "ranges that are none": (
        errno.EINVAL,
        [
            flush(op, FILE_NODE, start, end)
            for op in PAGES
            for start, end in [(5, 3), (5, 5), (1 << 63, 0), (0, 1 << 63), (MOST, MOST)]
        ],
    ),
    "ranges without an end": (
        0,
        [
            flush(op, FILE_NODE, start, (1 << 63) - 1)
            for op in PAGES
            for start in (0, 1, 4096, (1 << 63) - 2)
        ],
    ),
    "pages of a directory": (errno.EINVAL, [flush(op, 1) for op in PAGES]),
    "names in a file": (errno.EINVAL, [flush(FlushOp.INVAL_NAMECACHE_DIR, FILE_NODE)]),
    "names that are none": (
        errno.EINVAL,
        [flush(FlushOp.INVAL_NAMECACHE_DIR, 1, name=name) for name in WRONG_NAMES],
    ),
    "long names": (
        0,
        [flush(FlushOp.INVAL_NAMECACHE_DIR, 1, name=b"x" * size) for size in (256, 1025, 3900)],
    ),
    "names that are no text": (0, [flush(FlushOp.INVAL_NAMECACHE_DIR, 1, name=b"\xff\xfe")]),
    "an unmount of what is in use": (errno.EBUSY, [unasked(Class.UNMOUNT, 0, 1, 0, b"\0")]),
}
"""What may be asked, but not so: what is answered."""


@pytest.mark.parametrize("name", UNASKED)
def test_what_is_said_unasked_is_answered(serve: Serve, tmp_path: Path, name: str) -> None:
    code, packets = UNASKED[name]

    def worst(peer: Hostile, asked: Asked) -> bool:
        peer.upcalls.settimeout(PATIENCE)

        def converse() -> None:
            for packet in packets:
                peer.call(packet)
                peer.notes.add("answered", HEADER.unpack_from(peer.upcalls.recv(FRAME_MAX))[-1])

        talking = threading.Thread(target=converse)
        talking.start()
        peer.kept.append(talking)
        return True

    attacked = attack(serve, tmp_path, "getattr", worst)
    with opened(attacked.path / "file") as fd:
        attacked.arm()
        os.fstat(fd)
        answered = [("answered", code)] * len(packets)
        assert comes_true(lambda: len(attacked.served.notes("answered")) == len(packets))
        assert attacked.served.notes("answered") == answered
        goes_on(attacked)
    assert (faults(attacked), attacked.served.log) == ([], [])


BABBLE: Final[dict[str, bytes]] = {
    "one byte": b"x",
    "half a frame": flush(1, 1)[:-1],
    "too long": bytes(FRAME_MAX + 1),
    "far too long": bytes(100_000),
    "an answer": HEADER.pack(HEADER.size, VERSION, Class.VN | RESPONSE, 1, 1, 0),
    "another version": flush(1, 1)[:4] + b"\2" + flush(1, 1)[5:],
    "an operation": unasked(Class.VN, 1, 1, 1, bytes(50)),
    "a flush without a body": unasked(Class.FLUSH, 1, 1, 1, b""),
    "a flush with neither name nor none": unasked(
        Class.FLUSH, 1, 1, 1, cut(fields(messages.FLUSH, 0, 0, False, b""), 16, 2)
    ),
    "a name that is longer than it says": unasked(
        Class.FLUSH, 1, 1, 1, fields(messages.FLUSH, 0, 0, True, b"name") + b"s"
    ),
    "an unmount without a body": unasked(Class.UNMOUNT, 0, 1, 0, b""),
    "a hello": unasked(Class.OWN, Own.HELLO, 1, 0, b""),
    "an interrupt": unasked(Class.OWN | FAF, Own.INTERRUPT, 0, 0, U64.pack(1)),
    "a wake that wants an answer": unasked(Class.OWN, Own.WAKE, 0, 0, U64.pack(1)),
}
"""What may not be said unasked."""


@pytest.mark.parametrize("name", BABBLE)
def test_what_may_not_be_said_unasked_is_told(serve: Serve, tmp_path: Path, name: str) -> None:
    def worst(peer: Hostile, asked: Asked) -> bool:
        peer.call(BABBLE[name])
        return True

    attacked = attack(serve, tmp_path, "getattr", worst)
    attacked.arm()
    look_at(attacked.path)
    attacked.served.round_trips(lambda: bool(faults(attacked)))
    goes_on(attacked)
    assert {fault[0] for fault in faults(attacked)} == {"ERROR"}


def threads_of(pid: int) -> int:
    """How many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def resident(pid: int) -> int:
    """How many bytes of memory a process has."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wakes(count: int) -> list[bytes]:
    return [unasked(Class.OWN | FAF, Own.WAKE, 0, 0, U64.pack(at)) for at in range(count)]


FLOODS: Final[dict[str, list[bytes]]] = {
    "wakes": wakes(20_000),
    "flushes of nothing": [flush(FlushOp.INVAL_PAGECACHE_NODE_RANGE, MOST)] * 5000,
    "flushes of all": [flush(FlushOp.INVAL_NAMECACHE_ALL, 0)] * 5000,
    "flushes of the root": [flush(FlushOp.INVAL_NAMECACHE_DIR, 1, name=b"dir")] * 5000,
    "unmounts": [unasked(Class.UNMOUNT, 0, 1, 0, b"\0")] * 2000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_what_is_said_unasked_drowns_nobody(
    serve: Serve, tmp_path: Path, name: str
) -> None:
    """And no answer is ever received."""

    def worst(peer: Hostile, asked: Asked) -> bool:
        def flood() -> None:
            for packet in FLOODS[name]:
                peer.call(packet)
            peer.notes.add("flooded")

        threading.Thread(target=flood, daemon=True).start()
        return True

    attacked = attack(serve, tmp_path, "getattr", worst)
    with opened(attacked.path / "file") as fd:
        attacked.arm()
        before = resident(attacked.served.child.pid)
        most = 0

        def is_over() -> bool:
            nonlocal most
            most = max(most, threads_of(attacked.served.child.pid))
            os.fstat(fd)
            return bool(attacked.served.notes("flooded"))

        assert comes_true(is_over)
        goes_on(attacked)
        assert most < 20
        assert resident(attacked.served.child.pid) - before < 64 << 20
    assert faults(attacked) == []


def test_babble_without_end_ends_in_death(serve: Serve, tmp_path: Path) -> None:
    """Also of one that never receives what it is told of it."""

    def worst(peer: Hostile, asked: Asked) -> None:
        while True:
            peer.call(b"x")

    attacked = attack(serve, tmp_path, "getattr", worst)
    attacked.arm()
    with pytest.raises(OSError) as caught:
        look_at(attacked.path)
    assert caught.value.errno in DEAD
    ends(attacked, "has said 1000 things that are none")


def test_an_unmount_by_force_is_an_unmount(serve: Serve, tmp_path: Path) -> None:
    def worst(peer: Hostile, asked: Asked) -> bool:
        peer.call(*[unasked(Class.UNMOUNT, 0, 1, 0, b"\1")] * 100)
        return True

    attacked = attack(serve, tmp_path, "statvfs", worst)
    attacked.arm()
    os.statvfs(attacked.path)
    assert gone(attacked.path)
    assert (attacked.served.ended(), attacked.served.why) == (0, "")


# -------------------------------------------------------------------------------- what it prints


def test_a_flood_of_output_is_cut_and_counted(serve: Serve, tmp_path: Path) -> None:
    def worst(peer: Hostile, asked: Asked) -> bool:
        def flood() -> None:
            for _ in range(20):
                os.write(2, b"\x1b[2Jnonsense\n" * 50_000)
            peer.notes.add("flooded")

        threading.Thread(target=flood, daemon=True).start()
        return True

    attacked = attack(serve, tmp_path, "getattr", worst)
    attacked.arm()
    with opened(attacked.path / "file") as fd:

        def is_over() -> bool:
            os.fstat(fd)
            return bool(attacked.served.notes("flooded"))

        assert comes_true(is_over)
    goes_on(attacked)
    attacked.served.child.unmount()
    assert len(attacked.served.log) < 1000
    assert any("more lines" in line for line in attacked.served.log)
    assert "\x1b" not in "".join(attacked.served.log)


def test_output_without_end_keeps_nobody_from_being_heard(serve: Serve, tmp_path: Path) -> None:
    """Nor does that of a process which outlives it and is in no group of its."""

    def worst(peer: Hostile, asked: Asked) -> None:
        if os.fork() == 0:
            os.setsid()
            peer.notes.add("floods", os.getpid())
            while True:
                os.write(2, b"nonsense " * 1000)
        while not Path(peer.notes.path).exists():
            pass
        os._exit(3)

    attacked = attack(serve, tmp_path, "mkdir", worst)
    attacked.arm()
    try:
        with pytest.raises(OSError) as caught:
            make_dir(attacked.path)
        assert caught.value.errno in DEAD
        ends(attacked, "ended with status 3")
    finally:
        for _, pid in attacked.served.notes("floods"):
            os.kill(pid, signal.SIGKILL)


# --------------------------------------------------------------------------------- how it begins


def begins(serve: Serve, *packets: bytes, timeout: float = 10) -> Served:
    """Mount what begins like this, and then is silent."""

    def life(make: object, ends: Ends, upcalls: object, rooms: object, threads: int) -> int:
        for packet in packets:
            os.write(ends.writes, packet)
        while os.read(ends.reads, FRAME_MAX):
            pass
        return 0

    return with_life(serve, life, isolate=Isolation(timeout=timeout))


def hello(name: bytes = b"toy", mask: int = MOST, fhsize: int = 0, fhflags: int = 0) -> bytes:
    pack = messages.HELLO.replies(Class.OWN, Own.HELLO)
    return pack(1, 0, None, name, mask, (1.0, 1.0, 1.0), fhsize, fhflags, False, False)


@pytest.mark.parametrize(
    "packet",
    [
        b"x",
        bytes(FRAME_MAX),
        hello()[:-1],
        hello() + b"x",
        HEADER.pack(HEADER.size, VERSION, Class.VN | RESPONSE, 1, 1, 0),
        HEADER.pack(HEADER.size, VERSION, Class.OWN | RESPONSE, Own.HELLO, 1, 5),
        HEADER.pack(HEADER.size, VERSION, Class.OWN | RESPONSE, Own.HELLO, 2, 0),
        hello(mask=0),
        hello(fhsize=MOST),
        hello(fhflags=MOST),
        hello(b""),
        hello(b"a\n\0b"),
    ],
    ids=range(12),
)
def test_who_begins_with_nonsense_is_not_mounted(
    serve: Serve, mountpoint: Path, packet: bytes
) -> None:
    with pytest.raises(OSError):
        begins(serve, packet, timeout=0.5)
    assert gone(mountpoint)


def test_who_says_hello_and_nothing_else_is_not_mounted(serve: Serve, mountpoint: Path) -> None:
    with fails(errno.EIO, "has not answered anything for 0.4 seconds"):
        begins(serve, hello(), timeout=0.4)
    assert gone(mountpoint)


def test_what_is_said_before_hello_does_no_harm(serve: Serve, tmp_path: Path) -> None:
    """Neither is there a mount then, nor a file server."""
    said = [*wakes(3), flush(1, 1), unasked(Class.UNMOUNT, 0, 1, 0, b"\1"), b"x"]

    def life(make: Any, ends: Ends, upcalls: Any, rooms: Rooms, threads: int) -> int:
        server = make()
        for packet in said:
            upcalls.send(packet)
        for _ in said[3:5]:  # which are answered
            upcalls.recv(FRAME_MAX)
        os.write(ends.writes, child._hello(server, threads))
        notes = Notes(tmp_path / "notes")
        return Hostile(server, notes, ends, upcalls, rooms).serve("", lambda *_: None, tmp_path)

    served = with_life(serve, life)
    assert os.listdir(served.path)
