"""A session on a connection that somebody else has mounted, perhaps where we cannot see it.

It cannot be reached through the mount itself, so its threads wait for a bell beside the connection.
That costs one more system call for each request.
"""

import errno
import os
import select
import threading
from collections.abc import Callable, Sequence
from typing import Final

from puffs.attach.fuse.reader import Read, Reader
from puffs.attach.fuse.session import OnTable, Session
from puffs.kernel.mount import Mount
from puffs.server.cred import requester

_NOT_OURS: Final = "was mounted by somebody else, who is to unmount it"


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
        max_write: int,
        on_ready: Callable[[], None] = lambda: None,
        on_table: OnTable | None = None,
    ) -> None:
        super().__init__(
            mount, fds[0], mountpoint, max_write=max_write, on_ready=on_ready, on_table=on_table
        )
        self._clones = list(fds[1:])
        self._farewell = farewell
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ending = False

    def _serve(self, reader: Reader) -> None:
        thread = threading.get_ident()
        self._threads.add(thread)
        token = requester.set(reader.channel)
        try:
            self._wait_and_serve(reader)
        finally:
            requester.reset(token)
            self._threads.discard(thread)

    def _wait_and_serve(self, reader: Reader) -> None:
        fd = reader.channel.fd
        os.set_blocking(fd, False)  # another thread may take the request that woke this one
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        waiting.register(self._bell, select.POLLIN)
        while True:
            for ready, _ in waiting.poll():
                if ready == self._bell:
                    if self._ending:  # the bell goes on ringing, for the other threads
                        return
                    self._answer_the_bell()
                elif reader.serve_one() is Read.ENDED:
                    return

    def _answer_the_bell(self) -> None:
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:  # another thread was faster
            return
        self._run_calls()

    def _clone(self) -> int | None:
        return self._clones.pop() if self._clones else None

    def _wake(self, root: str | int) -> threading.Thread:
        done = threading.Event()
        self._soon(done.set)  # after what has been queued before
        thread = threading.Thread(target=done.wait, name="puffs-wake", daemon=True)
        thread.start()
        os.eventfd_write(self._bell, 1)
        return thread

    def flush(self) -> None:
        """Cannot be done from here."""
        raise OSError(errno.EOPNOTSUPP, f"{self.mountpoint} {_NOT_OURS}: run `sync -f` there")

    def detach(self, force: bool) -> None:
        """End the session; with `force` only, since it is not for us to unmount."""
        self._not_inside()
        if not force:
            raise OSError(errno.EPERM, f"{self.mountpoint} {_NOT_OURS}")
        if self._farewell() and self._has_ended():
            return
        self._ending = True
        os.eventfd_write(self._bell, 1)

    def finish(self) -> None:
        """The connection is over, or to be given up."""
        super().finish()
        for fd in (self._bell, *self._clones):
            os.close(fd)

    def _clear_away(self) -> None:
        """A dead mount is for whoever made it."""
