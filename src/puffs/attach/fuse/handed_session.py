"""A session on a connection that somebody else has mounted, perhaps where we cannot see it.

It cannot be reached through the mount itself, so its readers wait for a bell beside the connection.
That costs one more system call for each request.
"""

import errno
import os
import re
import select
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from puffs.attach.fuse.init import Terms
from puffs.attach.fuse.reader import Enough, Read, Reader, ReadVector, Sign
from puffs.attach.fuse.session import OnTable, Session
from puffs.kernel.mount import Mount

_NOT_OURS: Final = "was mounted by somebody else, who is to unmount it"
_ONE: Final = Enough(True)


class _Arrivals:
    """What a reader waits for: a request on `fd`, or the bell."""

    def __init__(self, fd: int, bell: int) -> None:
        self.bell = bell
        self.events = select.epoll()
        self.events.register(fd, select.EPOLLIN)
        self.events.register(bell, select.EPOLLIN)
        os.set_blocking(fd, False)  # another thread may take the request that was announced


class _WaitingReader(Reader):
    """Reads what arrives. `answer` is called when the bell rings; False: it is over."""

    def __init__(
        self, arrivals: _Arrivals, answer: Callable[[], bool], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._arrivals = arrivals
        self._answer = answer

    def _loop(self, enough: Sign | None, readv: ReadVector = os.readv) -> Read:
        arrivals = self._arrivals
        waits = enough is None or os.get_blocking(arrivals.events.fileno())
        read = Read.NOTHING
        while True:
            for fd, _ in arrivals.events.poll(-1 if waits else 0):
                if fd == arrivals.bell:
                    if not self._answer():
                        return Read.ENDED
                else:
                    read = super()._loop(_ONE, readv)
                    if read is Read.ENDED:
                        return read
            if not waits or (enough is not None and enough.now):
                return read


class HandedSession(Session):
    """`fds` are the connection and clones of it, one for each thread that is to serve.

    `farewell` asks whoever mounted to unmount, and tells whether that has been done. The other
    arguments are those of `Session`.
    """

    def __init__(
        self,
        mount: Mount,
        fds: Sequence[int],
        mountpoint: str,
        *,
        farewell: Callable[[], bool],
        terms: Terms,
        on_ready: Callable[[], None] = lambda: None,
        on_table: OnTable | None = None,
    ) -> None:
        super().__init__(
            mount,
            fds[0],
            mountpoint,
            terms=terms,
            on_ready=on_ready,
            on_table=on_table,
        )
        self.device = _device_of(fds[0])
        self._clones = list(fds[1:])
        self._farewell = farewell
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._arrivals = _Arrivals(fds[0], self._bell)
        self._ending = False

    def fileno(self) -> int:
        """Readable when there is something to do."""
        return self._arrivals.events.fileno()

    def _reader_of(self, fd: int, *args: Any, **kwargs: Any) -> Reader:
        arrivals = self._arrivals if fd == self._fd else _Arrivals(fd, self._bell)
        return _WaitingReader(arrivals, self._answer_the_bell, self.mount, fd, *args, **kwargs)

    def _clone(self) -> int | None:
        return self._clones.pop() if self._clones else None

    def _answer_the_bell(self) -> bool:
        if self._ending:  # it goes on ringing, for the other threads
            return False
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:  # another thread was faster
            return True
        self._run_calls()
        return True

    def wake(self) -> None:
        """Have a loop look up that waits for a request."""
        with self._lock:
            if not self.ended.is_set():
                os.eventfd_write(self._bell, 1)

    def wake_by(self, root: str | int) -> threading.Thread:
        done = threading.Event()
        self.soon(done.set)  # after what has been queued before
        thread = threading.Thread(target=done.wait, name="puffs-wake", daemon=True)
        thread.start()
        self.wake()
        return thread

    def flush(self) -> None:
        """Cannot be done from here."""
        raise OSError(errno.EOPNOTSUPP, f"{self.mountpoint} {_NOT_OURS}: run `sync -f` there")

    def suspend(self, deadline: float) -> None:
        """Cannot be done from here: the kernel is to write first what it has buffered."""
        raise OSError(
            errno.EOPNOTSUPP,
            f"{self.mountpoint} {_NOT_OURS}: only what is in sight can be suspended",
        )

    def detach(self, force: bool) -> None:
        """End the session; with `force` only, since it is not for us to unmount."""
        self.check_outside()
        if not force:
            raise OSError(errno.EPERM, f"{self.mountpoint} {_NOT_OURS}")
        if self._farewell() and self._has_ended():
            return
        self._ending = True
        self.wake()

    def close(self, *, leave: bool = False) -> None:
        """Close the connection, and take back what the kernel had open."""
        super().close()
        self._arrivals.events.close()
        for fd in (self._bell, *self._clones):
            os.close(fd)

    def _clear_away(self) -> None:
        """A dead mount is for whoever made it."""


def _device_of(fd: int) -> tuple[int, int] | None:
    """The device number of the mount behind a connection; older kernels do not tell."""
    found = re.search(
        r"^fuse_connection:\s*(\d+)$", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE
    )
    return (0, int(found[1])) if found else None
