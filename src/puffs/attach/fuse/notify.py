"""Notifications: what a file server tells the kernel unasked.

The kernel may wait for requests that are being served while it takes a notification. They are
therefore written by a thread that serves nothing, started when the first one comes.
"""

import errno
import os
import threading
from concurrent.futures import Future
from queue import SimpleQueue

from puffs.server.cred import requester


class Notice(Future[None]):
    """The outcome of a notification.

    Waiting for it inside an operation would wait for itself, and raises.
    """

    def result(self, timeout: float | None = None) -> None:
        """Wait until the kernel has taken it; what it answered is raised."""
        if not self.done() and requester.get(None) is not None:
            raise RuntimeError("waiting for a notification inside an operation would never end")
        super().result(timeout)


_KNOWS_NOTHING = frozenset((errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED))
"""The kernel has nothing cached of what it was told about, or is gone: as good as done."""


class Notifier:
    """Writes notifications to the connection `fd`, one after the other."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queue: SimpleQueue[tuple[bytes, Notice] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def send(self, message: bytes) -> Notice:
        """Queue a whole notification; never waits. From any thread."""
        notice = Notice()
        with self._lock:
            if self._closed:
                notice.set_result(None)
                return notice
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="puffs-notify", daemon=True)
                self._thread.start()
            self._queue.put((message, notice))
        return notice

    def close(self) -> None:
        """No more of them: what is queued is still written, to a connection that may be dead, then
        the thread ends.
        """
        with self._lock:
            self._closed = True
            if self._thread is None:
                return
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            message, notice = item
            try:
                os.write(self._fd, message)
            except OSError as exc:
                if exc.errno not in _KNOWS_NOTHING:
                    notice.set_exception(exc)
                    continue
            notice.set_result(None)
