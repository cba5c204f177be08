"""Bringing a session to a stop, and having the kernel write what it has buffered (statement D2).

syncfs(2) has the kernel send what is dirty, and returns before that was answered, even before it
was read. So the readers are made to stand still after it, all at the same moment: what was sent
before, they have read and served by then, for a reader comes to a standstill by a request of its
own, and the kernel keeps the order.

One thing is later than that: of background requests, which nobody waits for, the kernel sends
MAX_BACKGROUND at a time and keeps the rest to itself. If it had kept something when the readers
were called, that many must have come since they last stood still. Hence the rule: when fewer have
come, and no operation is under way, all has been written.

A suspension first has most of that done while everything goes on, then holds back what would make
new work, does it again, and shuts the gates in the moment of a standstill.
"""

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from stat import S_IFDIR, S_IFREG
from time import monotonic
from typing import TYPE_CHECKING, Final

from puffs.attach.fuse import syscalls
from puffs.attach.fuse.gate import Phase
from puffs.attach.fuse.init import MAX_BACKGROUND
from puffs.attach.fuse.reader import Reader

if TYPE_CHECKING:
    from puffs.attach.fuse.session import Session

WRITES_HELD: Final = MAX_BACKGROUND // 2
"""How many plain writes are held back at most while the kernel writes what it has buffered."""

_ATTEMPT_SECONDS: Final = 0.25
"""How long readers stand still to wait for the rest, before they go on for a while."""
_PAUSE_SECONDS: Final = 0.005
_REPLAY_SECONDS: Final = 1.0
"""How long a resume waits for what was held back to be served; that goes on by itself then."""


class Suspension:
    """What suspends and resumes the readers of `session`, and has the kernel write. One at a time:
    the kernel half sees to that.
    """

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._root_type = session.mount.root_type

    def suspend(self, deadline: float) -> None:
        """Let nothing be under way and hold back what comes. ETIMEDOUT after `deadline`.

        `resume` is needed afterwards in any case.
        """
        with self._root() as root:
            _syncfs(root, deadline)
            with self._standstill(deadline) as readers:
                _hold(readers, Phase.FLUSH)
            with self._flushed(root, deadline) as readers:
                _hold(readers, Phase.SHUT)

    def flush(self, deadline: float) -> None:
        """Have the kernel write what it has buffered by now. ETIMEDOUT after `deadline`."""
        with self._root() as root:
            with self._standstill(deadline) as readers:
                _hold(readers, Phase.WATCH)
            try:
                with self._flushed(root, deadline):
                    pass
            finally:
                self.resume()

    def resume(self) -> None:
        """Open the gates; what was held back is served in the order in which it came."""
        readers = self._session.readers
        for reader in readers:
            reader.release()
        if any(reader.held for reader in readers):
            waking = threading.Thread(
                target=self._wake_until_served, args=(readers,), name="puffs-resume", daemon=True
            )
            waking.start()
            waking.join(_REPLAY_SECONDS)

    def _wake_until_served(self, readers: list[Reader]) -> None:
        """Each serves what it has held at its next request: see to it that one comes to each."""
        while any(reader.held and not reader.gated for reader in readers):
            if self._session.ended.is_set():
                return
            self._session.wake_by(self._session.mountpoint).join()
            self._session.ended.wait(_PAUSE_SECONDS)

    @contextmanager
    def _flushed(self, root: int | None, deadline: float) -> Iterator[list[Reader]]:
        """A standstill in which all that was buffered before it has been written."""
        while True:
            _syncfs(root, deadline)
            with self._standstill(deadline) as readers:
                came = sum(reader.background_requests() for reader in readers)
                if came < MAX_BACKGROUND and not any(reader.busy() for reader in readers):
                    yield readers
                    return
            if self._session.ended.wait(_PAUSE_SECONDS):
                raise OSError(errno.ENXIO, f"{self._session.mountpoint} is not mounted any more")
            _check_time(deadline)

    @contextmanager
    def _root(self) -> Iterator[int | None]:
        """A descriptor of the root for syncfs(2). None where it is a file that buffers nothing, and
        that to open may mean something.

        Opened beforehand: later the opening would be held back too.
        """
        if self._root_type not in (S_IFDIR, S_IFREG):
            yield None
            return
        fd = os.open(self._session.mountpoint, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _standstill(self, deadline: float) -> Iterator[list[Reader]]:
        """In here all readers stand still, between two requests, and may be changed.

        What one of them waits for may be the work of another, so they are not kept for long where
        one does not come; then all is tried again, until ETIMEDOUT.
        """
        session = self._session
        while True:
            readers = session.readers
            meeting = _Meeting(len(readers))
            calls = [meeting.invitation() for _ in readers]
            wakes = []
            try:
                for call in calls:
                    session.soon(call)
                    wakes.append(session.wake_by(session.mountpoint))
                if meeting.complete(min(_ATTEMPT_SECONDS, deadline - monotonic())):
                    yield readers
                    return
            finally:
                meeting.over.set()
                for call in calls:
                    session.withdraw(call)
                if not meeting.missing:
                    for wake in wakes:  # as long as they use the mount it cannot be unmounted
                        wake.join()
            _check_time(deadline)


class _Meeting:
    """Where `size` readers come, and stay until it is `over`."""

    def __init__(self, size: int) -> None:
        self.over = threading.Event()
        self.missing = size
        self._came = threading.Semaphore(0)

    def invitation(self) -> "_Invitation":
        """What one reader is to call."""
        return _Invitation(self)

    def attend(self) -> None:
        """Come, and stay."""
        self._came.release()
        self.over.wait()

    def complete(self, seconds: float) -> bool:
        """Wait for all to come. False when they do not within `seconds`."""
        end = monotonic() + seconds
        while self.missing and self._came.acquire(timeout=max(0.0, end - monotonic())):
            self.missing -= 1
        return not self.missing


class _Invitation:
    """One of its own for each reader, so that it can be withdrawn."""

    def __init__(self, meeting: _Meeting) -> None:
        self._meeting = meeting

    def __call__(self) -> None:
        self._meeting.attend()


def _hold(readers: list[Reader], phase: Phase) -> None:
    for reader in readers:
        reader.hold(phase, WRITES_HELD)


def _check_time(deadline: float) -> None:
    if monotonic() >= deadline:
        raise OSError(
            errno.ETIMEDOUT, "operations that are under way do not end, or writes do not cease"
        )


def _syncfs(fd: int | None, deadline: float) -> None:
    """syncfs(2), by a thread that is left behind where a file server keeps it waiting."""
    if fd is None:
        return
    outcome: Future[None] = Future()
    own = os.dup(fd)

    def sync() -> None:
        try:
            syscalls.syncfs(own)
        except OSError as exc:
            outcome.set_exception(exc)
        else:
            outcome.set_result(None)
        finally:
            os.close(own)

    threading.Thread(target=sync, name="puffs-syncfs", daemon=True).start()
    try:
        outcome.result(max(0.0, deadline - monotonic()))
    except TimeoutError:
        _check_time(deadline)
        raise
