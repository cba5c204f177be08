"""Locks, held by one process and wanted by another."""

import fcntl
import os
import struct
from typing import Any

from tests.refuse.saying import Place, Say, case, elsewhere, opened, write

FLOCK = struct.Struct("@hhllixxxx")
NOW = fcntl.LOCK_NB


def holder(fd: int, start: int, length: int) -> str:
    """F_GETLK: whether a write lock could be had, and if not, which one is in its way."""
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, start, length, pid = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    if kind == fcntl.F_UNLCK:
        return "free"
    return (
        f"{'read' if kind == fcntl.F_RDLCK else 'write'} {start} {length} of {pid == os.getppid()}"
    )


def other(at: Place, call: Any) -> Any:
    """What another process gets that opens the same file."""

    def act() -> Any:
        with opened(at("file")) as fd:
            return call(fd)

    return elsewhere(act)


@case("tree")
def ranges(at: Place, say: Say) -> None:
    write(at("file"), bytes(100))
    with opened(at("file")) as fd:
        say("lock", fcntl.lockf, fd, fcntl.LOCK_EX | NOW, 10, 5)
        say("the same", lambda: other(at, lambda o: fcntl.lockf(o, fcntl.LOCK_EX | NOW, 10, 5)))
        say("beside", lambda: other(at, lambda o: fcntl.lockf(o, fcntl.LOCK_EX | NOW, 5, 0)))
        say("reading", lambda: other(at, lambda o: fcntl.lockf(o, fcntl.LOCK_SH | NOW, 1, 14)))
        say("who", lambda: other(at, lambda o: holder(o, 0, 0)))
        say("to shared", fcntl.lockf, fd, fcntl.LOCK_SH | NOW, 10, 5)
        say("both read", lambda: other(at, lambda o: fcntl.lockf(o, fcntl.LOCK_SH | NOW, 1, 14)))
        say("unlock the middle", fcntl.lockf, fd, fcntl.LOCK_UN, 2, 8)
        say("who now", lambda: other(at, lambda o: [holder(o, 0, 8), holder(o, 8, 2)]))
        say("unlock", fcntl.lockf, fd, fcntl.LOCK_UN)
        say("free", lambda: other(at, lambda o: fcntl.lockf(o, fcntl.LOCK_EX | NOW)))
        say("lock again", fcntl.lockf, fd, fcntl.LOCK_EX | NOW)
        os.close(os.open(at("file"), os.O_RDONLY))
        say("lost by closing another", lambda: other(at, lambda o: holder(o, 0, 0)))
    with opened(at("file"), os.O_RDONLY) as fd:
        say("write lock, read-only", fcntl.lockf, fd, fcntl.LOCK_EX | NOW)


@case("tree")
def whole_files(at: Place, say: Say) -> None:
    write(at("file"))
    with opened(at("file")) as fd, opened(at("file")) as second:
        say("lock", fcntl.flock, fd, fcntl.LOCK_EX | NOW)
        say("another", lambda: other(at, lambda o: fcntl.flock(o, fcntl.LOCK_EX | NOW)))
        say("this process, another open", fcntl.flock, second, fcntl.LOCK_SH | NOW)
        say("to shared", fcntl.flock, fd, fcntl.LOCK_SH | NOW)
        say("both read", lambda: other(at, lambda o: fcntl.flock(o, fcntl.LOCK_SH | NOW)))
        say("unlock", fcntl.flock, fd, fcntl.LOCK_UN)
        say("free", lambda: other(at, lambda o: fcntl.flock(o, fcntl.LOCK_EX | NOW)))
        say("lock again", fcntl.flock, fd, fcntl.LOCK_EX | NOW)
    say("free after close", lambda: other(at, lambda o: fcntl.flock(o, fcntl.LOCK_EX | NOW)))
