"""What a hostile process answers in place of a file server costs one caller an error, or itself its
life; and never the process that serves the mount anything.
"""

import errno
import fcntl
import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest

import puffs
from puffs.isolate import messages
from puffs.isolate.frames import FAF, FRAME_MAX, REPLY_SIZE, RESPONSE, TAIL, VERSION, Class
from puffs.isolate.peer import BAD_MAX
from puffs.isolate.rooms import COUNT
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Serve
from tests.fuse.hostile import Asked, Hostile, attack, unasked
from tests.fuse.hostile_uses import (
    DEAD,
    HAS_ENTRY_AT,
    REGULAR,
    U32,
    U64,
    USES,
    cut,
    ends,
    entry,
    entry_body,
    faults,
    fields,
    goes_on,
    list_,
    listing,
    look_at,
    make_dir,
    named,
    tail_in_room,
)
from tests.fuse.others import comes_true

pytestmark = pytest.mark.fuse

NOT_A_TIME: Final = b"\xff" * len(REGULAR.wire)


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


def _of_any() -> list[Answer]:
    """Answers that are no good whatever was asked for."""
    answers = []
    for operation in ("getattr", "getxattr"):
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
    Answer("create", "a node in use", lambda _, a: a.honest(entry(node=1), 0, (0, 0)), "MAKENODE"),
    Answer(
        "create",
        "neither opened nor not",
        lambda _, a: a.answer(
            cut(fields(messages.ROWS["create"].reply, entry(), True, (9, 0)), -11, 2)
        ),
    ),
    Answer("create", "hints", lambda _, a: a.honest(entry(), True, (9, 0xFFFF))),
    Answer("open", "hints", lambda _, asked: asked.honest((9, 0xFFFF))),
    # ---------------------------------------- attributes
    Answer("getattr", "no time", lambda _, asked: asked.honest((5, 0, NOT_A_TIME))),
    Answer(
        "setattr",
        "neither there nor not",
        lambda _, a: a.answer(
            cut(fields(messages.ROWS["setattr"].reply, True, (5, 0, bytes(REGULAR.wire))), 0, 2)
        ),
    ),
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
    Answer(
        "write",
        "a room that it has not",
        lambda _, a: a.answer(U64.pack(4), class_=a.header[0] | RESPONSE | TAIL),
    ),
    Answer("readlink", "nothing", lambda _, asked: asked.honest(b""), "READLINK"),
    Answer("readlink", "a NUL", lambda _, asked: asked.honest(b"a\0b"), "READLINK"),
    Answer("readlink", "4096", lambda p, a: a.honest(b"x" * 4096, room=p.room(a)), "READLINK"),
    Answer("readlink", "too long", lambda p, a: tail_in_room(p, a, U32.pack(4097))),
    Answer("seek", "no offset", lambda _, asked: asked.honest(1 << 63)),
    # ---------------------------------------- listings
    Answer("readdir", "cut", listing(named(b"name")[:-1])),
    Answer("readdir", "cut in the head", listing(b"x" * 5)),
    Answer("readdir", "an entry cut", listing(named(b"name", entry())[:-1])),
    Answer("readdir", "an entry that is none", listing(cut(named(b"name"), HAS_ENTRY_AT, 2))),
    Answer("readdir", "no node", listing(named(b"name", entry(node=0)))),
    Answer("readdir", "no file type", listing(cut(named(b"name"), HAS_ENTRY_AT - 1, 0x10))),
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
]
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


@pytest.mark.statement("2.7b")
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


def attributes(asked: Asked) -> bytes:
    """An answer to getattr that is right: of the root, which is what came first, or of a file."""
    kind = stat.S_IFDIR if asked.header[3] == 1 else stat.S_IFREG
    return asked.honest(messages.attr_out(puffs.Attr(kind | 0o755, size=8)))


def test_an_answer_that_comes_twice_is_told(serve: Serve, tmp_path: Path) -> None:
    def worst(peer: Hostile, asked: Asked) -> None:
        peer.say(*[attributes(asked)] * 3)

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
        answer = attributes(asked)
        peer.say(answer[:5], answer[5:] + answer[:REPLY_SIZE])
        return True

    attacked = attack(serve, tmp_path, "getattr", worst)
    attacked.arm()
    try:
        look_at(attacked.path)
    except OSError:  # what belonged together has come in two
        pass
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


# --------------------------------------------------------------------------------- what has no end


def test_who_never_gives_rooms_back_keeps_nobody_waiting_for_ever(
    serve: Serve, tmp_path: Path
) -> None:
    """It is alive, and answers all that is short."""
    attacked = attack(serve, tmp_path, "getxattr", lambda *_: None, timeout=0.5, always=True)
    get_xattr_of = partial(os.getxattr, attacked.path / "file", "user.a")
    os.setxattr(attacked.path / "file", "user.a", b"value")
    attacked.arm()
    with ThreadPoolExecutor(COUNT + 4) as callers:
        failures = [
            caller.exception(PATIENCE)
            for caller in [callers.submit(get_xattr_of) for _ in range(COUNT + 4)]
        ]
    assert {getattr(failure, "errno", 0) for failure in failures} == {errno.ETIMEDOUT}
    attacked.disarm()
    with opened(attacked.path / "file") as fd:
        assert os.fstat(fd).st_size == 8


def test_a_listing_of_empty_parts_without_end(serve: Serve, tmp_path: Path) -> None:
    def worst(peer: Hostile, asked: Asked) -> None:
        peer.say(asked.honest((9, named(b".") if asked.operation == "more" else named(b"name"))))

    attacked = attack(serve, tmp_path, "readdir more", worst, always=True)
    attacked.arm()
    with fails(errno.EPROTO):
        list_(attacked.path)
    attacked.disarm()
    goes_on(attacked)
    assert {fault[0] for fault in faults(attacked)} == {"READDIR"}


def test_a_listing_without_end_is_its_reader_s_affair(serve: Serve, tmp_path: Path) -> None:
    def worst(peer: Hostile, asked: Asked) -> None:
        names = [b"%d %d" % (asked.id, at) for at in range(100)]
        peer.say(asked.honest((9, b"".join(map(named, names))), room=peer.room(asked)))
        peer.notes.add("listed")

    attacked = attack(serve, tmp_path, "readdir more", worst, always=True)
    attacked.arm()
    reader = subprocess.Popen([sys.executable, "-c", LIST_FOR_EVER, attacked.path])
    try:
        assert comes_true(lambda: len(attacked.served.notes("listed")) > 50)
        with opened(attacked.path / "file") as fd:
            assert os.fstat(fd).st_size == 8
    finally:
        reader.kill()
        reader.wait(PATIENCE)
    attacked.disarm()
    goes_on(attacked)
    assert (faults(attacked), attacked.served.log) == ([], [])


LIST_FOR_EVER: Final = "import os, sys; all(True for _ in os.scandir(sys.argv[1]))"


# ------------------------------------------------------------------------- what ends in death


@pytest.mark.statement("2.7b")
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
