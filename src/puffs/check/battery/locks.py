"""Locks: flock(2) and the record locks of fcntl(2), the host's or the file server's own."""

import errno
import fcntl
import os
import signal
import struct
from collections.abc import Callable
from functools import partial

from puffs.check.expect import equal, expect
from puffs.check.registry import battery
from puffs.check.target import Target, append

check = battery("locks")

FILE = "create write"

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid


@check(
    "flock-excludes",
    "flock(2): one holder of LOCK_EX, EWOULDBLOCK for others",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "wb") as first, t.open("f", "r+b") as second:
        fcntl.flock(first.fileno(), fcntl.LOCK_EX)
        expect(errno.EWOULDBLOCK, _flock, second.fileno(), fcntl.LOCK_EX)
        expect(errno.EWOULDBLOCK, _flock, second.fileno(), fcntl.LOCK_SH)
        fcntl.flock(first.fileno(), fcntl.LOCK_UN)
        _flock(second.fileno(), fcntl.LOCK_EX)


@check(
    "flock-shares",
    "flock(2): many holders of LOCK_SH; close gives a lock back",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "wb") as first, t.open("f", "r+b") as second:
        _flock(first.fileno(), fcntl.LOCK_SH)
        _flock(second.fileno(), fcntl.LOCK_SH)
        expect(errno.EWOULDBLOCK, _flock, first.fileno(), fcntl.LOCK_EX)
        second.close()
        _flock(first.fileno(), fcntl.LOCK_EX)


@check(
    "record-lock-excludes",
    "fcntl(2) F_SETLK: EAGAIN for what overlaps, and for nothing else",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        append(file, bytes(100))
        fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 20, 10)
        equal("lock of what overlaps", _elsewhere(lambda: _try(t, 25, 10)), errno.EAGAIN)
        equal("lock of what is beside it", _elsewhere(lambda: _try(t, 30, 10)), 0)
        fcntl.lockf(file.fileno(), fcntl.LOCK_UN, 20, 10)
        equal("lock after it was given back", _elsewhere(lambda: _try(t, 25, 10)), 0)


@check(
    "record-lock-ends-with-close",
    "fcntl(2): closing any descriptor of the file gives a process's locks back",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        equal("lock of another process", _elsewhere(lambda: _try(t, 0, 0)), errno.EAGAIN)
        t.open("f").close()
        equal("lock after the close", _elsewhere(lambda: _try(t, 0, 0)), 0)


@check(
    "record-lock-tells-its-holder",
    "fcntl(2) F_GETLK: who holds the lock that is in the way",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 20, 10)
        equal("process that holds the lock", _elsewhere(lambda: _holder(t)), os.getpid())


@check(
    "waiting-lock-is-interrupted",
    "fcntl(2) F_SETLKW, flock(2): EINTR when a signal comes",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        for take in (fcntl.flock, fcntl.lockf):
            take(file.fileno(), fcntl.LOCK_EX)
            equal(
                f"{take.__name__} in another process",
                _elsewhere(partial(_interrupted, t, take)),
                errno.EINTR,
            )
            take(file.fileno(), fcntl.LOCK_UN)


@check(
    "waiting-lock-is-granted",
    "fcntl(2) F_SETLKW, flock(2): who waits gets the lock when it is given back",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        for take in (fcntl.flock, fcntl.lockf):
            take(file.fileno(), fcntl.LOCK_EX)
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    with t.open("f", "r+b") as own:
                        os.write(writing, b"waiting")
                        take(own.fileno(), fcntl.LOCK_EX)
                        os._exit(0)
                finally:
                    os._exit(1)
            equal("what it says", os.read(reading, 100), b"waiting")
            take(file.fileno(), fcntl.LOCK_UN)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.close(reading)
            os.close(writing)
            equal(f"exit status of who waited in {take.__name__}", status, 0)


def _interrupted(t: Target, take: Callable[[int, int], None]) -> int:
    """Wait for a lock until a signal comes; how that ends."""

    def stop(*_: object) -> None:
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    with t.open("f", "r+b") as file:
        take(file.fileno(), fcntl.LOCK_EX)
    return 0


def _flock(fd: int, how: int) -> None:
    fcntl.flock(fd, how | fcntl.LOCK_NB)


def _elsewhere(call: Callable[[], int]) -> int:
    """What `call` returns in another process: a number, or the errno of its failure."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                result = call()
            except OSError as exc:
                result = exc.errno or errno.EIO
            os.write(writing, b"%d" % result)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        return int(os.read(reading, 100))
    finally:
        os.close(reading)
        os.waitpid(pid, 0)


def _try(t: Target, start: int, length: int) -> int:
    with t.open("f", "r+b") as file:
        try:
            fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except PermissionError:  # POSIX allows EACCES as well
            return errno.EAGAIN
    return 0


def _holder(t: Target) -> int:
    with t.open("f", "r+b") as file:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, start, length, pid = _FLOCK.unpack(
            fcntl.fcntl(file.fileno(), fcntl.F_GETLK, asked)
        )
    equal("lock that is in the way", (kind, start, length), (fcntl.F_WRLCK, 10, 20))
    return int(pid)
