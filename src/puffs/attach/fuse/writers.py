"""Who is in the middle of a write(2).

The kernel makes several WRITEs of one write(2) where that begins within a page that it has not
read: the first one ends with that page. It also makes one of each `max_write` bytes. Between two of
them the file holds a part of what was to be written, so a suspension must let the rest come.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from puffs.attach.fuse.callers import is_running

_PAGE: Final = 4096
_SECONDS: Final = 5.0
"""How long a thread may take to send the next WRITE. When it does not, that was all."""


class _Written(NamedTuple):
    nodeid: int
    end: int
    when: float


class Writers:
    """The threads that may be in the middle of a write(2), by what they have asked for lately."""

    def __init__(self, max_write: int) -> None:
        self._max_write = max_write
        self._known: set[int] = set()
        self._written: dict[int, _Written] = {}

    def came(self, tid: int) -> None:
        """A thread asks for something else: what it has written is finished."""
        self._known.add(tid)
        self._written.pop(tid, None)

    def goes_on(self, tid: int, nodeid: int, offset: int) -> bool:
        """Whether a WRITE may be the rest of a write(2).

        So may the first one that comes from a thread, for it has been begun before.
        """
        last = self._written.get(tid)
        if last is not None:
            return (last.nodeid, last.end) == (nodeid, offset)
        return tid not in self._known and offset > 0 and offset % _PAGE == 0

    def wrote(self, tid: int, nodeid: int, offset: int, size: int) -> None:
        """A WRITE is served."""
        end = offset + size
        self.came(tid)
        if end % _PAGE == 0 and (offset % _PAGE or size == self._max_write):
            self._written[tid] = _Written(nodeid, end, monotonic())

    def unfinished(self, unread: Callable[[], bool]) -> bool:
        """Whether the rest of a write(2) is to be waited for.

        `unread`: whether there are requests that nobody has read. The rest comes from a thread that
        is running, or it is among those. In this order: what a thread has sent before it fell
        asleep is there to be read.
        """
        since = monotonic() - _SECONDS
        lately = [tid for tid, written in self._written.copy().items() if written.when > since]
        return bool(lately) and (any(map(is_running, lately)) or unread())
