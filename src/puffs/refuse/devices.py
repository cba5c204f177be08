"""Locks, ioctl, poll and fallocate of programs that are written for fusepy or mfusepy.

These are the operations that are given structures and pointers of C: memory of Python's own stands
for it, and is read when the operation has returned.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from puffs.attach.fuse.abi import FUSE_IOCTL_DIR, IOCTL_IN
from puffs.attach.fuse.channel import BODY, Channel
from puffs.attach.fuse.options import MountOptions
from puffs.refuse.calls import Calls, Dialect, Method, error
from puffs.refuse.structs import c_flock_t
from puffs.server.cred import Cred, requester
from puffs.server.types import Lock

_TO_END: Final = (1 << 63) - 1
_COMMANDS: Final = {"get": fcntl.F_GETLK, "set": fcntl.F_SETLK, "wait": fcntl.F_SETLKW}
_WHOLE: Final = {
    fcntl.F_RDLCK: fcntl.LOCK_SH,
    fcntl.F_WRLCK: fcntl.LOCK_EX,
    fcntl.F_UNLCK: fcntl.LOCK_UN,
}


def operations(
    calls: Calls, dialect: Dialect, asked: MountOptions, raw_fi: bool
) -> dict[str, Method]:
    """Those of them that the program has."""
    made = {
        "advlock": _advlock(calls, dialect, asked, raw_fi),
        "ioctl": _ioctl(calls, dialect, raw_fi),
        "poll": _poll(calls, raw_fi),
        "fallocate": _fallocate(calls),
    }
    return {name: method for name, method in made.items() if method is not None}


def kept_locks(calls: Calls, asked: MountOptions) -> tuple[bool, bool]:
    """Whether the program keeps record locks, and those of flock(2)."""
    return (
        asked.posix_locks and calls.find("lock") is not None,
        asked.flocks and calls.find("flock") is not None,
    )


def _advlock(calls: Calls, dialect: Dialect, asked: MountOptions, raw_fi: bool) -> Method | None:
    if not any(kept_locks(calls, asked)):
        return None
    lock_records, lock_whole = calls.status("lock") or _nothing, calls.status("flock") or _nothing
    argument = dialect.lock_argument

    def advlock(path: str | None, op: str, lock: Lock, owner: int, file: Any) -> Lock | None:
        if raw_fi:
            file = type(file).from_buffer_copy(file)
            file.lock_owner = owner
        if lock.flock:
            lock_whole(path, file, _WHOLE[lock.type] | (fcntl.LOCK_NB if op == "set" else 0))
            return None
        record = c_flock_t(
            l_type=lock.type,
            l_whence=os.SEEK_SET,
            l_start=lock.start,
            l_len=0 if lock.end >= _TO_END else lock.end - lock.start + 1,
            l_pid=lock.pid,
        )
        lock_records(path, file, _COMMANDS[op], argument(record))
        return _of_record(record) if op == "get" else None

    return advlock


def _nothing(*_args: Any) -> None:
    """In place of locks of a kind that the kernel keeps by itself: what is closed has none."""


def _of_record(record: c_flock_t) -> Lock:
    end = record.l_start + record.l_len - 1 if record.l_len else _TO_END
    return Lock(record.l_type, record.l_start, end, record.l_pid)


def _ioctl(calls: Calls, dialect: Dialect, raw_fi: bool) -> Method | None:
    ask = calls.result("ioctl")
    if ask is None:
        return None
    kind = dialect.file_info

    def ioctl(
        path: str | None, command: int, data: bytes, size: int, file: Any, cred: Cred
    ) -> tuple[int, bytes]:
        argument, flags = _asked_by_ioctl()
        if flags & FUSE_IOCTL_DIR:
            if dialect.libfuse == "fuse2":
                raise error(errno.ENOTTY)  # libfuse 2 does not ask
            file = kind(fh=file or 0) if raw_fi else file or 0
        room = max(size, len(data))
        memory = ctypes.create_string_buffer(data, room) if room else None
        address = None if memory is None else ctypes.addressof(memory)
        result = ask(path, command, argument, file, flags, address) or 0
        if result < 0:
            raise error(-result)
        return int(result), b"" if memory is None else memory.raw[:size]

    return ioctl


def _asked_by_ioctl() -> tuple[int | None, int]:
    """The argument of ioctl(2) as the caller gave it, a number or an address of his, and the flags
    of the request. They are known of requests that are in the buffer of a channel.
    """
    channel = requester.get(None)
    if not isinstance(channel, Channel):
        return None, 0
    _, flags, _, argument, _, _ = IOCTL_IN.struct.unpack_from(channel.buffer, BODY)
    return argument or None, flags


class PollHandles:
    """Those who wait for a file to become ready, by the numbers that programs know them by."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._wake: dict[int, Callable[[], None]] = {}

    def keep(self, wake: Callable[[], None] | None) -> int | None:
        """A number for one who waits; None where nobody does."""
        if wake is None:
            return None
        number = next(self._numbers)
        self._wake[number] = wake
        return number

    def notify(self, handle: int) -> None:
        """The file may be ready: who waits asks again."""
        if wake := self._wake.get(handle):
            wake()

    def drop(self, handle: int) -> None:
        """The program is done with this handle."""
        self._wake.pop(handle, None)


poll_handles: Final = PollHandles()


def _poll(calls: Calls, raw_fi: bool) -> Method | None:
    ask = calls.status("poll")
    if ask is None:
        return None

    def poll(path: str | None, events: int, file: Any, wake: Callable[[], None] | None) -> int:
        if raw_fi:
            file = type(file).from_buffer_copy(file)
            if hasattr(file, "poll_events"):
                file.poll_events = events
        ready = ctypes.c_uint(0)
        ask(path, file, poll_handles.keep(wake), ctypes.pointer(ready))
        return ready.value

    return poll


def _fallocate(calls: Calls) -> Method | None:
    ask = calls.status("fallocate")
    if ask is None:
        return None

    def fallocate(path: str | None, mode: int, offset: int, length: int, file: Any) -> None:
        ask(path, mode, offset, length, file)

    return fallocate
