"""Gates: what holds requests back, in front of the dispatch table of one reader.

There is a gate only while somebody suspends the mount, or waits for what the kernel had buffered.
Its handlers take the places of the table's own, so requests cost nothing more before and after.
"""

import errno
from collections.abc import Callable, Container
from enum import Enum
from typing import Final

from puffs.attach.fuse.abi import (
    FUSE_WRITE_CACHE,
    INTERRUPT_IN,
    KSTATFS,
    WRITE_IN,
    Opcode,
)
from puffs.attach.fuse.callers import is_to_end
from puffs.attach.fuse.channel import BODY, Channel, Handler
from puffs.attach.fuse.writers import Writers

_CHANGES: Final = frozenset(
    (
        Opcode.SYMLINK,
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.RENAME2,
        Opcode.LINK,
        Opcode.CREATE,
        Opcode.TMPFILE,
        Opcode.SETXATTR,
        Opcode.REMOVEXATTR,
        Opcode.COPY_FILE_RANGE,
        Opcode.COPY_FILE_RANGE_64,
        Opcode.IOCTL,
    )
)
"""Changes that may wait while the kernel writes what it has buffered.

Not among them are those that writing may have to wait for: SETATTR and FALLOCATE keep the writes of
their file back, FSYNC and FLUSH end when they are done. Plain writes are a case of their own.
"""
_BACKGROUND: Final = (Opcode.READ, Opcode.RELEASE, Opcode.RELEASEDIR)
"""With WRITE, what the kernel may send without that anybody waits for it."""
_PASSES_ALWAYS: Final = frozenset((Opcode.DESTROY, Opcode.NOTIFY_REPLY))

_TID: Final = 6  # in the header


class Phase(Enum):
    """What a gate holds back."""

    WATCH = 0
    """Nothing."""
    FLUSH = 1
    """Changes of names and plain writes, while the kernel writes what it has buffered. What was
    begun may be finished.
    """
    SHUT = 2
    """Everything."""


class Gate:
    """The gate of one reader.

    Args:
        phase: what it holds back.
        held: where it puts that: whole requests by their unique ids, in the order in which they
            came.
        writers: who is in the middle of a write(2).
        wakers: the threads whose statvfs(2) is to wake the reader, and is answered always.
        run_calls: runs what other threads want done here.
        most: how many plain writes are held back in FLUSH. Asynchronous direct ones are background
            requests, of which the kernel sends a limited number at a time: held, they would keep
            the others from coming.
    """

    def __init__(
        self,
        phase: Phase,
        held: dict[int, bytes],
        writers: Writers,
        wakers: Container[int],
        run_calls: Callable[[], None],
        most: int,
    ) -> None:
        self.background = 0
        """Requests that have come and may have been background ones."""
        self.writes_held = sum(_is_write(request) for request in held.values())
        self._phase = phase
        self._held = held
        self._writers = writers
        self._wakers = wakers
        self._run_calls = run_calls
        self._most = most

    def wrap(self, channel: Channel, handlers: list[Handler]) -> None:
        """Put the gate in front of a fresh table, in place."""
        inner = handlers.copy()
        hold = self._holding(channel)
        if self._phase is Phase.SHUT:
            handlers[:] = [hold] * len(handlers)
            for opcode in _PASSES_ALWAYS:
                handlers[opcode] = inner[opcode]
        else:
            handlers[:] = [self._seeing(channel, handler) for handler in inner]
            for opcode in _BACKGROUND:
                handlers[opcode] = self._counting(handlers[opcode])
            for opcode in _CHANGES if self._phase is Phase.FLUSH else ():
                handlers[opcode] = hold
            handlers[Opcode.WRITE] = self._writing(channel, inner[Opcode.WRITE], hold)
        handlers[Opcode.STATFS] = self._waking(channel, handlers[Opcode.STATFS])
        handlers[Opcode.INTERRUPT] = self._interrupting(channel, inner[Opcode.INTERRUPT])

    def _holding(self, channel: Channel) -> Handler:
        held = self._held

        def hold(unique: int, _nodeid: int, length: int) -> None:
            held[unique] = bytes(channel.view[:length])

        return hold

    def _seeing(self, channel: Channel, inner: Handler) -> Handler:
        came = self._writers.came

        def seen(unique: int, nodeid: int, length: int) -> None:
            came(channel.header[_TID])
            inner(unique, nodeid, length)

        return seen

    def _counting(self, inner: Handler) -> Handler:
        def counted(unique: int, nodeid: int, length: int) -> None:
            self.background += 1
            inner(unique, nodeid, length)

        return counted

    def _writing(self, channel: Channel, inner: Handler, hold: Handler) -> Handler:
        writers, flushing = self._writers, self._phase is Phase.FLUSH

        def write(unique: int, nodeid: int, length: int) -> None:
            self.background += 1
            _, offset, size, flags, *_ = WRITE_IN.struct.unpack_from(channel.buffer, BODY)
            tid = channel.header[_TID]
            if flags & FUSE_WRITE_CACHE:
                inner(unique, nodeid, length)
            elif (
                flushing
                and self.writes_held < self._most
                and not writers.goes_on(tid, nodeid, offset)
            ):
                writers.came(tid)
                self.writes_held += 1
                hold(unique, nodeid, length)
            else:
                writers.wrote(tid, nodeid, offset, size)
                inner(unique, nodeid, length)

        return write

    def _waking(self, channel: Channel, otherwise: Handler) -> Handler:
        """STATFS: other threads reach the one that serves by it, also while everything is held."""
        nothing = KSTATFS.pack()

        def statfs(unique: int, nodeid: int, length: int) -> None:
            # 0: a thread of another process namespace, who may be one of ours.
            if channel.header[_TID] in self._wakers or not channel.header[_TID]:
                self._run_calls()
                channel.send(unique, nothing)
            else:
                otherwise(unique, nodeid, length)

        return statfs

    def _interrupting(self, channel: Channel, inner: Handler) -> Handler:
        """A signal that is to end the caller of what is held gives him EINTR (statement 2.7)."""
        held = self._held

        def interrupt(unique: int, nodeid: int, length: int) -> None:
            (target,) = INTERRUPT_IN.struct.unpack_from(channel.buffer, BODY)
            request = held.get(target)
            if request is None:
                inner(unique, nodeid, length)
            elif is_to_end(channel.header_of(request)[_TID]):
                del held[target]
                channel.send_error(target, errno.EINTR)

        return interrupt


def _is_write(request: bytes) -> bool:
    return Channel.header_of(request)[1] == Opcode.WRITE
