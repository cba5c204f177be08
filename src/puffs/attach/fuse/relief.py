"""Spare threads: they serve while every other thread is kept by an operation.

One thread answers a request in half the time that two take, which have to be woken in turn. But an
operation that waits (for a network, for a lock, for this very mount) must not keep all others
waiting. So one thread serves, and a watcher looks now and then: when there are requests that nobody
reads, and no request has been taken since it looked last, another thread goes and serves. It comes
back when one that was kept goes on. While nothing is asked the watcher sleeps.
"""

import os
import select
import threading
from time import monotonic
from typing import TYPE_CHECKING, Final

from puffs.attach.fuse.reader import Read, Reader

if TYPE_CHECKING:
    from puffs.attach.fuse.session import Session

TICK: Final = 0.005
"""How often it is looked, in seconds; for so long an operation may keep the others waiting."""
_IDLE_TICKS: Final = 10
"""After so many looks at which nothing had happened it sleeps until a request comes. It is not made
to sleep earlier: each request that comes then wakes it, too.
"""


class _Kept:
    """The sign for a spare thread: it is not needed any more when one that was kept goes on."""

    __slots__ = ("_marks",)

    def __init__(self, readers: list[Reader]) -> None:
        self._marks = [(reader, _mark(reader)) for reader in readers]

    @property
    def now(self) -> bool:
        return any(_mark(reader) != mark for reader, mark in self._marks)


def _mark(reader: Reader) -> int:
    """The unique id of the request that a reader has taken last."""
    return reader.channel.header[2]


class Relief:
    """Up to `spare` threads beside those of `session`. A context: in there it is looked."""

    def __init__(self, session: "Session", spare: int) -> None:
        self._session = session
        self._spare = spare
        self._idle: list[Reader] = []
        """Readers of clones that no thread is on."""
        self._threads: set[threading.Thread] = set()
        self._held = False
        self._ended = False
        self._changed = threading.Condition()
        """Guards the four above, and tells of threads that end."""
        self._over = os.eventfd(0)
        """Can be read when the watcher is to end."""
        self._watcher = threading.Thread(target=self._watch, name="puffs-relief", daemon=True)

    def __enter__(self) -> "Relief":
        self._watcher.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """The connection is over: every thread comes back by itself."""
        with self._changed:
            self._ended = True
        os.eventfd_write(self._over, 1)
        self._watcher.join()
        os.close(self._over)
        for thread in list(self._threads):
            thread.join()
        for reader in self._idle:
            os.close(reader.channel.fd)

    def hold(self, deadline: float) -> bool:
        """Have no spare thread serve until `go_on`. False if one still does at `deadline`."""
        with self._changed:
            self._held = True
            return self._changed.wait_for(
                lambda: not self._threads, max(0.0, deadline - monotonic())
            )

    def go_on(self) -> None:
        """Spare threads may serve again."""
        with self._changed:
            self._held = False

    def _watch(self) -> None:
        marks: list[int] = []
        idle = 0
        while not self._ended:
            if idle >= _IDLE_TICKS:
                self._await(self._over, self._session.fileno())
                idle = 0
            self._await(self._over, seconds=TICK)
            readers = self._session.readers
            before, marks = marks, [_mark(reader) for reader in readers]
            if marks != before:
                idle = 0
            elif self._session.unread():
                idle = 0
                self._send(readers)
            else:
                idle += 1

    @staticmethod
    def _await(*fds: int, seconds: float | None = None) -> None:
        """Wait until one of these can be read, for so many seconds at the most."""
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        poller.poll(None if seconds is None else seconds * 1000)

    def _send(self, readers: list[Reader]) -> None:
        """Have one more thread serve beside `readers`, all of which are kept."""
        with self._changed:
            if self._held or len(self._threads) >= self._spare or self._ended:
                return
            reader = self._idle.pop() if self._idle else None
            thread = threading.Thread(
                target=self._serve, args=(reader, _Kept(readers)), name="puffs spare", daemon=True
            )
            self._threads.add(thread)
        thread.start()

    def _serve(self, reader: Reader | None, kept: _Kept) -> None:
        try:
            if reader is None and (fd := self._session.clone()) is not None:
                reader = self._session.reader(fd)
            elif reader is not None:
                self._session.add(reader)
            if reader is None:
                return
            try:
                with self._session.serving(reader):
                    while not kept.now and reader.serve_until(kept) is not Read.ENDED:
                        pass
            finally:
                self._session.remove(reader)
                with self._changed:
                    self._idle.append(reader)
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()
