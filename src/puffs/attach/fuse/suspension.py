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
new work, does it again, and shuts the gates in the moment of a standstill, when nobody is in the
middle of a write(2).
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from stat import S_IFDIR, S_IFREG
from time import monotonic
from typing import TYPE_CHECKING, Final

from puffs.attach.fuse import syscalls
from puffs.attach.fuse.gate import Phase
from puffs.attach.fuse.init import MAX_BACKGROUND
from puffs.attach.fuse.reader import Reader
from puffs.attach.fuse.writers import Writers

if TYPE_CHECKING:
    from puffs.attach.fuse.session import Session

WRITES_HELD: Final = MAX_BACKGROUND // 2
"""How many plain writes are held back at most while the kernel writes what it has buffered."""

_ATTEMPT_SECONDS: Final = 0.25
"""How long readers stand still to wait for the rest, before they go on for a while."""
_WATCH_SECONDS: Final = 0.2
"""How long it is watched who writes, before anything is held back.

A thread that was in the middle of a write(2), and waits for a processor, is seen to finish it.
"""
_PAUSE_SECONDS: Final = 0.001
_REPLAY_SECONDS: Final = 1.0
"""How long a resume waits for what was held back to be served; that goes on by itself then."""


class Suspension:
    """What suspends and resumes the readers of `session`, and has the kernel write.

    The kernel half sees to it that these two things do not happen at once.
    """

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._root_type = session.mount.root_type
        self._flushing = threading.Lock()

    def suspend(self, deadline: float) -> None:
        """Let nothing be under way and hold back what comes.

        Raises `OSError`: ETIMEDOUT after `deadline`, EOPNOTSUPP for files that are read and written
        past the file server. `resume` is needed afterwards in any case.
        """
        writers = Writers(self._session.mount.args.payload)
        with _Root(self._session.mountpoint, self._root_type, deadline) as root:
            self._hold_spare(deadline)
            with self._standstill(deadline) as readers:
                _hold(readers, Phase.WATCH, writers)
            root.syncfs()
            if "write" in self._session.mount.ops:
                self._session.ended.wait(_WATCH_SECONDS)
            with self._standstill(deadline) as readers:
                _hold(readers, Phase.FLUSH, writers)
            with self._flushed(root, deadline, writers) as readers:
                self._session.check_held()
                _hold(readers, Phase.SHUT, writers)

    def flush(self, deadline: float) -> None:
        """Have the kernel write what it has buffered by now. ETIMEDOUT after `deadline`."""
        writers = Writers(self._session.mount.args.payload)
        with (
            self._flushing,
            _Root(self._session.mountpoint, self._root_type, deadline) as root,
        ):
            try:
                self._hold_spare(deadline)
                with self._standstill(deadline) as readers:
                    _hold(readers, Phase.WATCH, writers)
                with self._flushed(root, deadline):
                    pass
            finally:
                self.resume()

    def resume(self) -> None:
        """Open the gates; what was held back is served in the order in which it came."""
        readers = self._session.readers
        for reader in readers:
            reader.release()
        self._session.spare_go_on()
        if any(reader.held for reader in readers):
            waking = threading.Thread(
                target=self._wake_until_served, args=(readers,), name="puffs-resume", daemon=True
            )
            waking.start()
            waking.join(_REPLAY_SECONDS)

    def _wake_until_served(self, readers: list[Reader]) -> None:
        """Each serves what it has held at its next request: see to it that one comes to each."""
        while left := [reader for reader in readers if reader.held and not reader.gated]:
            if self._session.ended.is_set():
                return
            for reader in left:
                reader.rebuild_soon()
            self._session.wake_by(self._session.mountpoint).join()
            self._session.ended.wait(_PAUSE_SECONDS)

    def _hold_spare(self, deadline: float) -> None:
        """Those that serve are all there are, from here on. ETIMEDOUT if one does not come back."""
        if not self._session.hold_spare(deadline):
            _check_time(deadline)

    @contextmanager
    def _flushed(
        self, root: "_Root", deadline: float, writers: Writers | None = None
    ) -> Iterator[list[Reader]]:
        """A standstill in which all that was buffered before it has been written.

        With `writers` none of them is in the middle of a write(2).
        """
        root.syncfs()
        root.close()  # now: what the kernel sends then would be held back later
        while True:
            with self._standstill(deadline) as readers:
                came = sum(reader.background_requests() for reader in readers)
                busy = any(reader.busy() for reader in readers)
                if came < MAX_BACKGROUND and not busy and not self._cut(writers):
                    yield readers
                    return
            if self._session.ended.wait(_PAUSE_SECONDS):
                raise OSError(errno.ENXIO, f"{self._session.mountpoint} is not mounted any more")
            _check_time(deadline)

    def _cut(self, writers: Writers | None) -> bool:
        """Whether this moment would cut a write(2) in two."""
        return writers is not None and writers.unfinished(self._session.unread)

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
            calls = [partial(meeting.attend) for _ in readers]  # one for each, to be withdrawn
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


def _hold(readers: list[Reader], phase: Phase, writers: Writers) -> None:
    for reader in readers:
        reader.hold(phase, writers, WRITES_HELD)


def _check_time(deadline: float) -> None:
    if monotonic() >= deadline:
        raise OSError(
            errno.ETIMEDOUT, "operations that are under way do not end, or writes do not cease"
        )


class _Root:
    """The root of a mount, held open for syncfs(2) by a thread of its own, which has nothing else
    open: see `syscalls.leave_descriptors`.

    Opened beforehand: later the opening would be held back too. A thread that a file server keeps
    waiting is left behind.
    """

    def __init__(self, mountpoint: str, root_type: int, deadline: float) -> None:
        self._deadline = deadline
        self._wanted: SimpleQueue[tuple[Callable[[int], object], Future[None]]] = SimpleQueue()
        # Any other file buffers nothing, and to open it may mean something.
        self._open = root_type in (S_IFDIR, S_IFREG)
        if self._open:
            opened: Future[None] = Future()
            threading.Thread(
                target=self._run, args=(mountpoint, opened), name="puffs-syncfs", daemon=True
            ).start()
            try:
                self._wait(opened)
            except BaseException:
                self.__exit__()
                raise

    def syncfs(self) -> None:
        """Have the kernel send what is dirty. ETIMEDOUT after the deadline."""
        if self._open:
            self._wait(self._do(syscalls.syncfs))

    def close(self) -> None:
        """That was all; wait until it is closed."""
        if self._open:
            self._open = False
            self._wait(self._do(os.close))

    def __enter__(self) -> "_Root":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._open:
            self._do(os.close)

    def _do(self, function: Callable[[int], object]) -> Future[None]:
        done: Future[None] = Future()
        self._wanted.put((function, done))
        return done

    def _wait(self, done: Future[None]) -> None:
        try:
            done.result(max(0.0, self._deadline - monotonic()))
        except TimeoutError:
            _check_time(self._deadline)
            raise

    def _run(self, mountpoint: str, opened: Future[None]) -> None:
        try:
            syscalls.leave_descriptors()
            fd = os.open(mountpoint, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            opened.set_exception(exc)
            return
        opened.set_result(None)
        function: Callable[[int], object] | None = None
        while function is not os.close:
            function, done = self._wanted.get()
            try:
                function(fd)
            except OSError as exc:
                done.set_exception(exc)
            else:
                done.set_result(None)
