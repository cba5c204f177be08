"""What a hostile process says in place of a file server costs one caller an error, or itself its
life; and never the process that serves the mount anything.
"""

import errno
import fcntl
import os
import random
import select
import signal
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, Final

import pytest

import puffs
from puffs.isolate import child, messages
from puffs.isolate.frames import (
    FAF,
    FRAME_MAX,
    REPLY_SIZE,
    RESPONSE,
    TAIL,
    VERSION,
    Class,
    Layout,
    Own,
    pack_dirent,
)
from puffs.isolate.isolation import Isolation
from puffs.isolate.peer import BAD_MAX
from puffs.isolate.pipes import Ends
from puffs.isolate.rooms import Rooms
from puffs.kernel.flush import FlushOp
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Notes, Serve, Served
from tests.fuse.hostile import HEADER, Asked, Attacked, Hostile, attack, unasked, with_life
from tests.fuse.others import comes_true, gone
from tests.fuse.servers import Noting

pytestmark = pytest.mark.fuse

REGULAR = puffs.Attr(stat.S_IFREG | 0o644)
NOT_A_TIME = b"\xff" * len(REGULAR.wire)
DEAD: Final = (errno.ENXIO, errno.ENOTCONN, errno.ECONNABORTED)
"""What callers may get when the file server dies under them."""


# ---------------------------------------------------------------------------- asking for one thing


def look_up(path: Path) -> object:
    return os.stat(path / "dir")


def look_at(path: Path) -> object:
    with opened(path / "file") as fd:
        return os.fstat(fd)


def make_dir(path: Path) -> None:
    os.mkdir(path / "new")


def make_file(path: Path) -> object:
    with opened(path / "new", os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
        return fd


def open_(path: Path) -> object:
    with opened(path / "file") as fd:
        return fd


def read(path: Path) -> bytes:
    with opened(path / "file", os.O_RDONLY | os.O_DIRECT) as fd:
        return os.pread(fd, 8192, 0)


def write(path: Path) -> int:
    with opened(path / "file", os.O_WRONLY) as fd:
        return os.pwrite(fd, b"1234", 0)


def list_(path: Path) -> list[str]:
    return os.listdir(path)


def read_link(path: Path) -> str:
    return os.readlink(path / "link")


def get_xattr(path: Path) -> bytes:
    return os.getxattr(path / "file", "user.a")


def list_xattrs(path: Path) -> list[str]:
    return os.listxattr(path / "file")


def seek(path: Path) -> int:
    with opened(path / "file") as fd:
        return os.lseek(fd, 0, os.SEEK_HOLE)


def change(path: Path) -> None:
    os.chmod(path / "file", 0o600)


USES: Final[dict[str, Callable[[Path], object]]] = {
    "lookup": look_up,
    "getattr": look_at,
    "mkdir": make_dir,
    "create": make_file,
    "open": open_,
    "read": read,
    "write": write,
    "readdir": list_,
    "readlink": read_link,
    "getxattr": get_xattr,
    "listxattr": list_xattrs,
    "seek": seek,
    "setattr": change,
    "statvfs": os.statvfs,
}


def goes_on(attacked: Attacked) -> None:
    """It did what it can, and is a file server as any other afterwards."""
    assert attacked.did_it
    with opened(attacked.path / "file") as fd:
        assert os.pread(fd, 100, 0)[:8] in (b"contents", b"1234ents")
        assert os.fstat(fd).st_size == 8
    assert {"dir", "file", "link"} <= set(os.listdir(attacked.path))
    os.mkdir(attacked.path / "last")
    os.rmdir(attacked.path / "last")


def faults(attacked: Attacked) -> list[tuple[Any, ...]]:
    """What it was told of: kind, hint, text and perhaps node."""
    return [note[1:] for note in attacked.served.notes("error")]


# ---------------------------------------------------------------------- answers that are no good


@dataclass
class Answer:
    """An answer to one operation: how it is made, and what kind of fault it is."""

    operation: str
    name: str
    make: Callable[[Hostile, Asked], bytes]
    kind: str = "ERROR"

    def __str__(self) -> str:
        return f"{self.operation} {self.name}"


def tail_in_room(peer: Hostile, asked: Asked, numbers: bytes, data: bytes = b"") -> bytes:
    """An answer whose tail is in the room."""
    if data:
        peer.room(asked)[: len(data)] = data
    return asked.answer(numbers, class_=asked.header[0] | RESPONSE | TAIL)


def fields(layout: Layout, *values: Any) -> bytes:
    """The body of a message, honestly packed."""
    frame = layout.replies(Class.OWN, 0)(1, 0, None, *values)
    return frame[REPLY_SIZE:]


def entry(**other: int) -> tuple[Any, ...]:
    """An entry: of the file that there is, with attributes; but for what is given."""
    has, node, ino, generation, *attr, name_ttl, attr_ttl = messages.entry_out(
        other.get("node", 2), (other.get("ino", 0), 0), REGULAR, 1.0, 1.0
    )
    return (other.get("has", has), node, ino, generation, *attr, name_ttl, attr_ttl)


def entry_body(**other: int) -> bytes:
    return fields(messages.ROWS["lookup"].reply, entry(**other))


def named(name: bytes, entry: tuple[Any, ...] | None = None, type_: int = 8) -> bytes:
    return pack_dirent(0, 5, type_, name, entry)


def listing(entries: bytes, more: int = 0) -> Callable[[Hostile, Asked], bytes]:
    return lambda _, asked: asked.honest((more, entries))


def cut(data: bytes, at: int, byte: int) -> bytes:
    """With one byte changed."""
    return data[:at] + bytes((byte,)) + data[at + 1 :]


U64 = Struct("=Q")
I64 = Struct("=q")
U32 = Struct("=I")
_HAS_ENTRY_AT = 17  # of a dirent: behind position, inode number and type


def _of_any() -> list[Answer]:
    """Answers that are no good whatever was asked for."""
    answers = []
    for operation in ("getattr", "getxattr", "mkdir"):
        other = messages.ROWS["statvfs" if operation != "statvfs" else "open"]
        wrong: dict[str, Callable[[Hostile, Asked], bytes]] = {
            "of another type": lambda _, asked, o=other: asked.answer(type_=o.type),  # type: ignore[misc]
            "of a type that is none": lambda _, asked: asked.answer(type_=65535),
            "of another class": lambda _, asked: asked.answer(class_=Class.FLUSH | RESPONSE),
            "of our own class": lambda _, asked: asked.answer(class_=Class.OWN | RESPONSE),
            "empty": lambda _, asked: asked.answer(),
            "too short": lambda _, asked: asked.answer(b"x"),
            "too long": lambda _, asked: asked.answer(bytes(FRAME_MAX - REPLY_SIZE)),
            "with a room": lambda peer, asked: tail_in_room(peer, asked, b"\xff" * 100),
            "an errno that is negative": lambda _, asked: asked.answer(
                fields(messages.FAULT, b"", b"", 0, 0), -5
            ),
            "an errno too high": lambda _, asked: asked.answer(
                fields(messages.FAULT, b"", b"", 0, 0), 512
            ),
            "an errno out of this world": lambda _, asked: asked.answer(
                fields(messages.FAULT, b"", b"", 0, 0), -(1 << 63)
            ),
            "an errno without words": lambda _, asked: asked.answer(b"", 5),
            "an errno and too few words": lambda _, asked: asked.answer(
                fields(messages.FAULT, b"words", b"", 0, 0)[:-2], 5
            ),
            "a fault without a hint": lambda _, asked: asked.answer(
                fields(messages.FAULT, b"words", b"READ", 0, 0), 5
            ),
            "a fault with an errno that is none": lambda _, asked: asked.answer(
                fields(messages.FAULT, b"words", b"READ", 1 << 60, 1 << 60), 1 << 60
            ),
        }
        answers += [Answer(operation, name, make) for name, make in wrong.items()]
    return answers


ANSWERS: Final = [
    *_of_any(),
    # ---------------------------------------- nodes
    Answer("lookup", "no node", lambda _, asked: asked.answer(entry_body(node=0))),
    Answer("lookup", "more than there is", lambda _, asked: asked.answer(entry_body(has=0xFF))),
    Answer(
        "lookup",
        "no time",
        lambda _, asked: asked.honest((7, 2, 0, 0, 0, 0, NOT_A_TIME, 1.0, 1.0)),
    ),
    Answer(
        "lookup",
        "no file type",
        lambda _, asked: asked.honest((7, 2, 0, 0, 0, 0, bytes(80), 1.0, 1.0)),
        "MAKENODE",
    ),
    Answer("lookup", "the parent", lambda _, asked: asked.honest(entry(node=1)), "LOOKUP"),
    Answer("mkdir", "a node in use", lambda _, asked: asked.honest(entry(node=1)), "MAKENODE"),
    Answer("create", "no node", lambda _, a: a.honest(entry(node=0), False, (0, 0))),
    Answer("create", "a node in use", lambda _, a: a.honest(entry(node=1), False, (0, 0)), "MAKENODE"),
    Answer(
        "create", "neither opened nor not", lambda _, a: a.answer(
            cut(fields(messages.ROWS["create"].reply, entry(), True, (9, 0)), -11, 2)
        ),
    ),
    Answer("create", "hints", lambda _, a: a.honest(entry(), True, (9, 0xFFFF))),
    Answer("open", "hints", lambda _, asked: asked.honest((9, 0xFFFF))),
    # ---------------------------------------- attributes
    Answer("getattr", "no time", lambda _, asked: asked.honest((5, 0, NOT_A_TIME))),
    Answer("getattr", "no file type", lambda _, asked: asked.honest((5, 0, bytes(80))), "MAKENODE"),
    Answer("setattr", "neither there nor not", lambda _, a: a.answer(
        cut(fields(messages.ROWS["setattr"].reply, True, (5, 0, bytes(REGULAR.wire))), 0, 2)
    )),
    # ---------------------------------------- data
    Answer("read", "more than asked", lambda p, a: tail_in_room(p, a, U32.pack(8193)), "READ"),
    Answer("read", "all of the room", lambda p, a: tail_in_room(p, a, U32.pack(1 << 20)), "READ"),
    Answer("read", "beyond the room", lambda p, a: tail_in_room(p, a, U32.pack((1 << 20) + 1))),
    Answer("read", "beyond all rooms", lambda p, a: tail_in_room(p, a, U32.pack(0xFFFFFFFF))),
    Answer("read", "both", lambda p, a: tail_in_room(p, a, U32.pack(4) + b"four")),
    Answer("read", "less than said", lambda _, a: a.answer(U32.pack(100) + b"four")),
    Answer("read", "more than said", lambda _, a: a.answer(U32.pack(3) + b"four")),
    Answer("write", "more than given", lambda _, asked: asked.honest(5), "WRITE"),
    Answer("write", "far more", lambda _, asked: asked.honest((1 << 64) - 1), "WRITE"),
    Answer("write", "a room that it has not", lambda _, a: a.answer(
        U64.pack(4), class_=a.header[0] | RESPONSE | TAIL
    )),
    Answer("readlink", "nothing", lambda _, asked: asked.honest(b""), "READLINK"),
    Answer("readlink", "a NUL", lambda _, asked: asked.honest(b"a\0b"), "READLINK"),
    Answer("readlink", "4096", lambda p, a: a.honest(b"x" * 4096, room=p.room(a)), "READLINK"),
    Answer("readlink", "too long", lambda p, a: tail_in_room(p, a, U32.pack(4097))),
    Answer("seek", "no offset", lambda _, asked: asked.honest(1 << 63)),
    # ---------------------------------------- listings
    Answer("readdir", "cut", listing(named(b"name")[:-1])),
    Answer("readdir", "cut in the head", listing(b"x" * 5)),
    Answer("readdir", "an entry cut", listing(named(b"name", entry())[:-1])),
    Answer("readdir", "an entry that is none", listing(cut(named(b"name"), _HAS_ENTRY_AT, 2))),
    Answer("readdir", "no node", listing(named(b"name", entry(node=0)))),
    Answer("readdir", "no file type", listing(cut(named(b"name"), _HAS_ENTRY_AT - 1, 0x10))),
    Answer("readdir", "a slash", listing(named(b"../../etc")), "READDIR"),
    Answer("readdir", "a NUL", listing(named(b"a\0b")), "READDIR"),
    Answer("readdir", "no name", listing(named(b"")), "READDIR"),
    Answer("readdir", "a long name", listing(named(b"x" * 256)), "READDIR"),
    Answer("readdir", "itself", listing(named(b"name", entry(node=1))), "LOOKUP"),
    Answer("readdir", "too long", lambda p, a: tail_in_room(p, a, U64.pack(0) + U32.pack(65537))),
    # ---------------------------------------- extended attributes
    Answer("getxattr", "too long", lambda p, a: tail_in_room(p, a, U32.pack(65537))),
    Answer("listxattr", "cut", lambda _, asked: asked.honest(b"user.a\0user.b")),
    Answer("listxattr", "a name of nothing", lambda _, a: a.honest(b"user.a\0\0"), "LISTEXTATTR"),
]  # fmt: skip
"""Answers to what was asked, under its id, that are no good."""


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
def test_a_bad_answer_is_an_error_for_its_caller(
    serve: Serve, tmp_path: Path, answer: Answer
) -> None:
    attacked = attack(
        serve, tmp_path, answer.operation, lambda peer, asked: peer.say(answer.make(peer, asked))
    )
    use = USES[answer.operation]
    os.setxattr(attacked.path / "file", "user.a", b"value")
    attacked.arm()
    with fails(errno.EPROTO):
        use(attacked.path)
    goes_on(attacked)
    told = faults(attacked)
    assert {fault[0] for fault in told} == {answer.kind}
    assert len(attacked.served.log) == len(told)


@pytest.mark.parametrize("ttl", [float("nan"), float("inf"), -float("inf"), -1.0, 1e300])
def test_a_lifetime_that_is_none_does_no_harm(serve: Serve, tmp_path: Path, ttl: float) -> None:
    def worst(peer: Hostile, asked: Asked) -> None:
        peer.say(asked.honest((7, 2, 0, 0, *messages.attr_out(REGULAR), ttl, ttl)))

    attacked = attack(serve, tmp_path, "lookup", worst)
    with opened(attacked.path / "file"):  # so that there is a node 2
        attacked.arm()
        try:
            os.stat(attacked.path / "anything")
        except FileNotFoundError:  # it was looked up again at once
            pass
        goes_on(attacked)
    assert (faults(attacked), attacked.served.log) == ([], [])


# ------------------------------------------------------------------------- what answers nothing


def _packets(seed: int) -> list[bytes]:
    """Random bytes, some behind a length that is right."""
    rng = random.Random(seed)
    noise = [rng.randbytes(rng.choice((1, 8, 24, 100, 4096))) for _ in range(40)]
    return [data if at % 2 else U32.pack(len(data) + 4) + data for at, data in enumerate(noise)]


Packets = Callable[[Hostile, Asked], Sequence[bytes]]

NOTHING: Final[dict[str, Packets]] = {
    "one byte": lambda _, asked: [b"x"],
    "half a header": lambda _, asked: [asked.answer()[: REPLY_SIZE // 2]],
    "half a frame": lambda _, asked: [asked.answer(bytes(100))[:-50]],
    "a length of 0": lambda _, asked: [asked.answer(length=0)],
    "a length of a header too little": lambda _, asked: [asked.answer(length=REPLY_SIZE - 1)],
    "a length of 4 GiB": lambda _, asked: [asked.answer(length=0xFFFFFFFF)],
    "more than a packet": lambda _, asked: [bytes(FRAME_MAX + 1)],
    "much more than a packet": lambda _, asked: [bytes(1 << 18)],
    "another version": lambda _, asked: [asked.answer(version=VERSION + 1)],
    "a class that is none": lambda _, asked: [asked.answer(class_=0x0F | RESPONSE)],
    "all that a class may be": lambda _, asked: [asked.answer(class_=0xFF)],
    "fire and forget": lambda _, asked: [asked.answer(class_=asked.header[0] | FAF | RESPONSE)],
    "a question": lambda _, asked: [asked.answer(bytes(100), class_=asked.header[0])],
    "an unasked message": lambda _, asked: [unasked(Class.UNMOUNT, 0, 1, 0, b"\1")],
    "an id that was not given": lambda _, asked: [asked.answer(id_=1 << 63)],
    "the next id": lambda _, asked: [asked.answer(id_=asked.id + 1)],
    "the id of fire and forget": lambda _, asked: [asked.answer(id_=0)],
    "an id that was answered": lambda _, asked: [asked.answer(id_=asked.id - 1)],
    "two that answer nothing in one": lambda _, asked: [asked.answer(id_=1 << 40) * 2],
    "noise": lambda _, asked: _packets(asked.id),
}
"""Packets that are no answer to anything: what was asked is answered honestly behind them."""


@pytest.mark.parametrize("name", NOTHING)
def test_what_answers_nothing_is_told_and_passed_over(
    serve: Serve, tmp_path: Path, name: str
) -> None:
    def worst(peer: Hostile, asked: Asked) -> bool:
        peer.say(*NOTHING[name](peer, asked))
        return True

    attacked = attack(serve, tmp_path, "getattr", worst)
    attacked.arm()
    look_at(attacked.path)
    goes_on(attacked)
    told = faults(attacked)
    assert {fault[0] for fault in told} == {"ERROR"}
    assert len(attacked.served.log) == len(told)


def test_an_answer_that_comes_twice_is_told(serve: Serve, tmp_path: Path) -> None:
    def worst(peer: Hostile, asked: Asked) -> None:
        peer.say(*[asked.honest(messages.attr_out(puffs.Attr(stat.S_IFREG, size=8)))] * 3)

    attacked = attack(serve, tmp_path, "getattr", worst)
    attacked.arm()
    look_at(attacked.path)
    goes_on(attacked)
    assert [fault[0] for fault in faults(attacked)] == ["ERROR", "ERROR"]
    assert all("has been answered" in fault[2] for fault in faults(attacked))


def test_a_stream_in_place_of_packets_is_read_all_the_same(serve: Serve, tmp_path: Path) -> None:
    """Its end of the pipe is its own: it may take packet mode away, and frames run together."""

    def worst(peer: Hostile, asked: Asked) -> bool:
        flags = fcntl.fcntl(peer.ends.writes, fcntl.F_GETFL)
        fcntl.fcntl(peer.ends.writes, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        peer.say(*[asked.answer(id_=1 << 50)] * 20)
        return True

    attacked = attack(serve, tmp_path, "mkdir", worst)
    attacked.arm()
    make_dir(attacked.path)
    goes_on(attacked)


def test_what_answers_nothing_and_no_answer_is_a_time_out(serve: Serve, tmp_path: Path) -> None:
    """It is heard, so it lives."""

    def worst(peer: Hostile, asked: Asked) -> None:
        def mutter(said: threading.Event = threading.Event()) -> None:  # noqa: B008
            while not said.wait(0.05):
                peer.say(asked.answer(id_=1 << 50))

        threading.Thread(target=mutter, daemon=True).start()

    attacked = attack(serve, tmp_path, "mkdir", worst, timeout=0.4)
    attacked.arm()
    with fails(errno.ETIMEDOUT):
        make_dir(attacked.path)
    goes_on(attacked)


# ------------------------------------------------------------------------- what ends in death


def ends(attacked: Attacked, *why: str) -> None:
    """The mount is taken away, why is told, and its process has gone."""
    served = attacked.served
    pidfd = os.pidfd_open(served.server_pid)
    try:
        assert gone(served.path)
        assert served.ended() == 1
        assert select.select([pidfd], [], [], PATIENCE)[0]
    finally:
        os.close(pidfd)
    for words in why:
        assert words in served.why


def test_nothing_but_bad_packets_ends_in_death(serve: Serve, tmp_path: Path) -> None:
    def worst(peer: Hostile, asked: Asked) -> None:
        while True:
            peer.say(asked.answer(id_=1 << 50))

    attacked = attack(serve, tmp_path, "mkdir", worst)
    attacked.arm()
    with pytest.raises(OSError) as caught:
        make_dir(attacked.path)
    assert caught.value.errno in DEAD
    ends(attacked, f"has sent {BAD_MAX} packets that are none", "was killed by SIGKILL")


def test_who_never_reads_is_killed(serve: Serve, tmp_path: Path) -> None:
    def worst(peer: Hostile, asked: Asked) -> None:
        threading.Event().wait()

    attacked = attack(serve, tmp_path, "mkdir", worst, timeout=0.4)
    attacked.arm()
    with pytest.raises(OSError) as caught:
        make_dir(attacked.path)
    assert caught.value.errno in (errno.ETIMEDOUT, *DEAD)
    ends(attacked, "has not answered anything for 0.4 seconds", "was killed by SIGKILL")


def test_who_closes_its_pipes_and_lives_is_killed(serve: Serve, tmp_path: Path) -> None:
    def worst(peer: Hostile, asked: Asked) -> None:
        peer.ends.close()
        threading.Event().wait()

    attacked = attack(serve, tmp_path, "mkdir", worst)
    attacked.arm()
    with pytest.raises(OSError) as caught:
        make_dir(attacked.path)
    assert caught.value.errno in DEAD
    ends(attacked, "was killed by SIGKILL")


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
    "a tail elsewhere": flush(1, 1)[:5] + bytes((Class.FLUSH | TAIL,)) + flush(1, 1)[6:],
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
    ends(attacked, "has sent 1000 packets that are none")


def test_an_unmount_by_force_is_an_unmount(serve: Serve, tmp_path: Path) -> None:
    def worst(peer: Hostile, asked: Asked) -> bool:
        peer.call(*[unasked(Class.UNMOUNT, 0, 1, 0, b"\1")] * 100)
        return True

    attacked = attack(serve, tmp_path, "statvfs", worst)
    attacked.arm()
    os.statvfs(attacked.path)
    assert gone(attacked.path)
    assert (attacked.served.ended(), attacked.served.why) == (0, "")


# ------------------------------------------------------------------------------------ what it prints


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
    return pack(1, 0, None, name, mask, (1.0, 1.0, 1.0), fhsize, fhflags)


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
