"""The way of messages: a pipe in each direction, in which packets stay whole.

A pipe in packet mode (O_DIRECT, pipe(7)) gives each reader one whole packet, several threads one
each, and costs half of what a socket does. Its ends are descriptions of their own, so that one side
may wait where the other does not.
"""

import fcntl
import os
from typing import Final, NamedTuple

SIZE: Final = 1 << 20
"""Bytes that a pipe may hold, a page for each packet; what an ordinary user may ask for."""


class Ends(NamedTuple):
    """Descriptors: where one side reads packets, and where it writes them."""

    reads: int
    writes: int

    def close(self) -> None:
        """Close both."""
        os.close(self.reads)
        os.close(self.writes)


def pair() -> tuple[Ends, Ends]:
    """Two pipes: the ends of this side, which never wait, and those of the other, which do."""
    reads, their_writes = _pipe()
    try:
        their_reads, writes = _pipe()
    except BaseException:
        os.close(reads)
        os.close(their_writes)
        raise
    for fd in (reads, writes):
        os.set_blocking(fd, False)
    return Ends(reads, writes), Ends(their_reads, their_writes)


def _pipe() -> tuple[int, int]:
    reads, writes = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    try:
        fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, SIZE)
    except OSError:  # so much is not allowed here: less will do
        pass
    return reads, writes
