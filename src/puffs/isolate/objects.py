"""The objects of a file server that the kernel half knows, by number: cookies, open files, listings
that are not at their end.

Invariants: a number stands for one object for good; equal cookies have one number as long as it is
known; what is dropped is forgotten when it was dropped as often as the kernel half was told of it,
and when all messages about it that have no answer have been served: threads may take them in
another order than they were sent in.
"""

import errno
import os
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from puffs.server.errors import ProtocolFault
from puffs.server.types import Cookie

NONE = 0
"""The number of no object."""

FileId = tuple[int, int]


class _Values(dict[int, Any]):
    def __missing__(self, id_: int) -> Any:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


class _Kept:
    __slots__ = ("closed", "fileid", "served", "told")

    def __init__(self, fileid: FileId = (0, 0), closed: Callable[[], None] | None = None) -> None:
        self.fileid = fileid
        self.closed = closed
        self.told = 1
        self.served = 0
        """Messages about it without an answer, less those that its drops have counted."""

    @property
    def gone(self) -> bool:
        return self.told <= 0 and self.served >= 0


class Objects:
    """What is known of one file server; `fileid` is its operation of that name, if it has one.
    `reclaim` is called with each cookie that is known no more.

    From any thread.
    """

    def __init__(
        self, fileid: Callable[[Cookie], FileId] | None, reclaim: Callable[[Cookie], None]
    ) -> None:
        self._fileid = fileid
        self._reclaim = reclaim
        self._lock = threading.Lock()
        self.values: dict[int, Any] = _Values({NONE: None})
        """The objects by their numbers: ESTALE for one that stands for none."""
        self._kept: dict[int, _Kept] = {}
        self._ids: dict[Cookie, int] = {}
        self._numbers = count(NONE + 1)

    def node(self, cookie: Cookie) -> tuple[int, FileId]:
        """The number of a cookie that the kernel half is told of, and its `fileid`."""
        with self._lock:
            id_ = self._ids.get(cookie)
            if id_ is not None:
                kept = self._kept[id_]
                kept.told += 1
                return id_, kept.fileid
        fileid = self._asked(cookie)
        with self._lock:
            id_ = self._ids.get(cookie)
            if id_ is None:
                id_ = self._ids[cookie] = next(self._numbers)
                self._kept[id_] = _Kept(fileid)
                self.values[id_] = cookie
            else:  # another thread was faster
                self._kept[id_].told += 1
        return id_, fileid

    def _asked(self, cookie: Cookie) -> FileId:
        if self._fileid is None:
            return 0, 0
        ino, generation = self._fileid(cookie)
        if not (0 < ino < 1 << 64 and 0 <= generation < 1 << 32):
            raise ProtocolFault(
                "MAKENODE", f"fileid gave {ino}, {generation} for {cookie!r}", node=cookie
            )
        return ino, generation

    def number_of(self, cookie: object) -> int:
        """The number of a cookie, if the kernel half knows it; else `NONE`."""
        try:
            return self._ids.get(cookie, NONE)
        except TypeError:
            return NONE

    def other(self, value: Any, closed: Callable[[], None] | None = None) -> int:
        """The number of an open file or a listing, which the kernel half is told of once.

        `closed` is called if it is dropped without having been `taken`.
        """
        id_ = next(self._numbers)
        with self._lock:
            self._kept[id_] = _Kept(closed=closed)
            self.values[id_] = value
        return id_

    def take(self, id_: int) -> Any:
        """An open file that is given back, or a listing that is gone on with; None for a number
        that stands for neither.
        """
        with self._lock:
            if id_ not in self._kept or self.number_of(self.values[id_]) == id_:
                return None
            del self._kept[id_]
            return self.values.pop(id_)

    def served(self, id_: int) -> None:
        """A message about an object that has no answer has been served."""
        self._settle(id_, 0, 1)

    def drop(self, id_: int, told: int, sent: int) -> None:
        """The kernel half has forgotten an object of which it had been told so often, and about
        which it has sent so many messages without an answer. The object may be on its way there
        again, and then it is kept (2.9).
        """
        self._settle(id_, told, -sent)

    def _settle(self, id_: int, told: int, served: int) -> None:
        with self._lock:
            kept = self._kept.get(id_)
            if kept is None:
                return
            kept.told -= told
            kept.served += served
            if not kept.gone:
                return
            del self._kept[id_]
            value = self.values.pop(id_)
            node = self.number_of(value) == id_
            if node:
                del self._ids[value]
        if node:
            self._reclaim(value)
        elif kept.closed is not None:
            kept.closed()

    def __len__(self) -> int:
        return len(self._kept)
