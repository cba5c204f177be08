"""Notifications: what a file server tells the kernel unasked.

The kernel may wait for requests that are being served while it takes a notification. They are
therefore written by a thread that serves nothing, started when the first one comes.
"""

import errno
import os
import threading
from queue import SimpleQueue

from puffs.kernel.notice import Notice, done

_KNOWS_NOTHING = frozenset(
    (errno.ENOENT, errno.ENAMETOOLONG, errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)
)
"""The kernel has nothing cached of what it was told about, or is gone: as good as done."""


class Notifier:
    """Writes notifications to the connection `fd`, one after the other."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queue: SimpleQueue[tuple[tuple[bytes, ...], Notice] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def send(self, *messages: bytes) -> Notice:
        """Queue whole notifications, written in this order; never waits. From any thread."""
        notice = Notice()
        with self._lock:
            if self._closed:
                return done()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="puffs-notify", daemon=True)
                self._thread.start()
            self._queue.put((messages, notice))
        return notice

    def close(self) -> None:
        """No more of them: what is queued is still written, to a connection that may be dead."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)

    def ended(self, seconds: float) -> bool:
        """After `close`, wait until all has been written, so long at most. Tells whether it has."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            messages, notice = item
            failures = [failure for message in messages if (failure := self._write(message))]
            if failures:
                notice.set_exception(failures[0])
            else:
                notice.set_result(None)

    def _write(self, message: bytes) -> OSError | None:
        try:
            os.write(self._fd, message)
        except OSError as exc:
            if exc.errno not in _KNOWS_NOTHING:
                return exc
        return None
