"""A session: one mounted connection to the kernel, from INIT until it is unmounted, served by one
thread.

The loop is all that stands between the kernel and the dispatch table: read a request into a buffer
that is kept, unpack its header, call what the table has for its opcode.
"""

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from puffs.attach.fuse import mounting, syscalls
from puffs.attach.fuse.abi import (
    IN_HEADER,
    OUT_HEADER,
    Opcode,
    notify_inval_entry,
    notify_inval_inode,
)
from puffs.attach.fuse.channel import BODY, Channel, Handler
from puffs.attach.fuse.dispatch import build, operation_name, wants_reply
from puffs.attach.fuse.files import OpenFiles
from puffs.attach.fuse.handlers import Serving
from puffs.attach.fuse.handlers.data import BufferKept
from puffs.attach.fuse.init import REQUEST_ROOM, Negotiated, negotiate, newer_major
from puffs.attach.fuse.notify import Notice, Notifier
from puffs.attach.fuse.replies import Replies
from puffs.kernel.mount import Mount
from puffs.server.cred import requester

logger = logging.getLogger("puffs")

T = TypeVar("T")

_AGAIN = frozenset((errno.EINTR, errno.EAGAIN, errno.ENOENT))
"""read(2) of the device: a signal, or the request went away. The next one may come."""
_END = frozenset((errno.ENODEV, errno.ECONNABORTED))
"""read(2) of the device: unmounted, or aborted."""


OnTable = Callable[[list[Handler]], None]
"""Is given a fresh dispatch table, handlers by opcode, and may change it in place."""


class _Stop(BaseException):
    """Leave the loop although the connection lives; raised on the thread that serves."""


class Session:
    """One connection: `fd` is its descriptor, owned by the session from here on; `mountpoint` where
    the kernel shows it.

    `max_write` is the largest data of one request in bytes. `on_ready` is called when the kernel
    has been answered and the mount can be used.
    """

    def __init__(
        self,
        mount: Mount,
        fd: int,
        mountpoint: str,
        *,
        max_write: int,
        on_ready: Callable[[], None] = lambda: None,
        on_table: OnTable | None = None,
    ) -> None:
        self.mount = mount
        self.mountpoint = mountpoint
        self._fd = fd
        self._max_write = max_write
        self._on_ready = on_ready
        self._on_table = on_table
        self._files = OpenFiles(mount.vnodes)
        self._notifier = Notifier(fd)
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._over = False
        self._thread: int | None = None
        self._negotiated: Negotiated | None = None
        self._absent: Callable[[int], None] | None = None
        mount.attach(self)

    # -------------------------------------------------------------------------------------- serving

    def serve(self) -> None:
        """Serve requests on this thread until the file system is unmounted; then give everything
        back.
        """
        self._thread = threading.get_ident()
        token = None
        try:
            channel = Channel(self._fd, REQUEST_ROOM)
            self._negotiated = self._handshake(channel)
            if self._negotiated is None:
                return
            channel = Channel(self._fd, self._negotiated.buffer_size)
            token = requester.set(channel)
            handlers = self._dispatch(channel)
            self._on_ready()
            while self._loop(channel, handlers):
                channel.renew_buffer()
                handlers = self._dispatch(channel)
        except _Stop:
            pass
        finally:
            if token is not None:
                requester.reset(token)
            self._finish()

    def _handshake(self, channel: Channel) -> Negotiated | None:
        """Answer INIT. None when the connection ended before."""
        while (length := self._read(channel)) is not None:
            _, opcode, unique, *_ = IN_HEADER.struct.unpack_from(channel.buffer)
            body = channel.view[BODY:length]
            if opcode != Opcode.INIT:
                channel.send_error(unique, errno.EIO)
                continue
            later = newer_major(body)
            negotiated = None if later else negotiate(body, self.mount, self._max_write)
            reply = later or (negotiated.reply() if negotiated else b"")
            # RUNNING before the reply: from then on the kernel may ask.
            if negotiated is not None:
                self.mount.start()
            channel.send(OUT_HEADER.struct.pack(OUT_HEADER.size + len(reply), 0, unique) + reply)
            if negotiated is not None:
                return negotiated
        return None

    def _read(self, channel: Channel) -> int | None:
        """The length of the next request, in the channel's buffer; None when the connection has
        ended.
        """
        while True:
            try:
                return os.readv(channel.fd, (channel.buffer,)) or None
            except OSError as exc:
                if exc.errno in _END:
                    return None
                if exc.errno not in _AGAIN:
                    raise

    def _dispatch(self, channel: Channel) -> list[Handler]:
        assert self._negotiated is not None
        replies = Replies(channel, self.mount, self._files)
        self._absent = replies.absent if replies.negative != (0, 0) else None
        flags = self._negotiated.flags
        table = build(
            Serving(
                self.mount,
                channel,
                self._files,
                replies,
                flags,
                self._notifier.send,
                self._run_calls,
            )
        )
        if self._on_table is not None:
            self._on_table(table)
        return table

    def _loop(self, channel: Channel, handlers: list[Handler]) -> bool:
        """Serve until the connection ends (False), or until the channel needs another buffer
        (True).
        """
        fd, buffer = channel.fd, channel.buffer
        vector = (buffer,)
        readv = os.readv
        unpack = IN_HEADER.struct.unpack_from
        known = len(handlers)
        while True:
            try:
                length = readv(fd, vector)
            except OSError as exc:
                if exc.errno in _END:
                    return False
                if exc.errno in _AGAIN:
                    continue
                raise
            if length < BODY:  # the other side of a connection that is no device has closed it
                return False
            channel.header = header = unpack(buffer)
            opcode = header[1]
            try:
                handlers[opcode if opcode < known else 0](header[2], header[3], length)
            except BufferKept:
                return True
            except Exception as exc:
                self._fail(channel, exc)

    def _fail(self, channel: Channel, exc: Exception) -> None:
        """Answer the request that is under way with the errno for what its handler raised."""
        _, opcode, unique, *_ = channel.header
        code = self.mount.errno_of(exc, operation_name(opcode))
        if not wants_reply(opcode):
            return
        if code == errno.ENOENT and opcode == Opcode.LOOKUP and self._absent is not None:
            self._absent(unique)
        else:
            channel.send_error(unique, code)

    def _finish(self) -> None:
        """The connection is over, or to be given up: close it and tell the mount.

        Callers that still wait get errors.
        """
        with self._lock:
            self._over = True
        self._notifier.close()
        os.close(self._fd)
        try:
            self._run_calls()
        except _Stop:
            pass
        self.mount.detached(self)

    # -------------------------------------------------------- for other threads (kernel.Attachment)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function` on the thread that serves, and return what it returns."""
        self._not_inside()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as exc:
                future.set_exception(exc)

        self._soon(run)
        self._wake(self.mountpoint)
        return future.result()

    def busy(self) -> bool:
        """Never known here: a RELEASE may still be under way. umount2(2) is the one to say so."""
        return False

    def flush(self) -> None:
        """Have the kernel write what it has buffered (syncfs(2))."""
        self._not_inside()
        fd = os.open(self.mountpoint, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.syncfs(fd)
        finally:
            os.close(fd)

    def detach(self, force: bool) -> None:
        """Unmount.

        With `force` a busy mount is taken away too, and who has files open there gets errors.
        """
        self._not_inside()
        try:
            mounting.unmount(self.mountpoint)
        except OSError as exc:
            if exc.errno == errno.EINVAL:  # not mounted any more: somebody was faster
                return
            if not force or exc.errno != errno.EBUSY:
                raise
            self._detach_busy()

    def _detach_busy(self) -> None:
        """Take a mount in use out of the tree, then end the loop: closing the descriptor aborts
        what still hangs on it.
        """
        root = os.open(
            self.mountpoint, os.O_PATH | os.O_CLOEXEC
        )  # wakes the loop when the path leads here no more
        try:
            mounting.unmount(self.mountpoint, lazy=True)
            self._soon(_stop)
            self._wake(root).join()
        finally:
            os.close(root)

    def _not_inside(self) -> None:
        if threading.get_ident() == self._thread:
            raise OSError(
                errno.EDEADLK, "this cannot be done inside an operation of the file server"
            )

    def _soon(self, function: Callable[[], None]) -> None:
        with self._lock:
            if self._over:
                raise OSError(errno.ENXIO, f"{self.mountpoint} is not mounted any more")
            self._calls.append(function)

    def _wake(self, root: str | int) -> threading.Thread:
        """Make the kernel send a request (STATFS is never cached), so that the loop comes to run
        what it is to run.

        The request is answered when the loop has done that, which may be late: hence a thread of
        its own.
        """

        def ask() -> None:
            try:
                os.statvfs(root)
            except OSError as exc:  # the loop has ended, and with it what was to be done
                logger.debug("waking the thread that serves %s: %s", self.mountpoint, exc)

        thread = threading.Thread(target=ask, name="puffs-wake", daemon=True)
        thread.start()
        return thread

    def _run_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    # -------------------------------------------------------------------------------- notifications

    def invalidate_name(self, parent: int, name: str) -> Notice:
        """The kernel forgets what `name` in the directory with node id `parent` leads to, and that
        it leads nowhere.
        """
        return self._notifier.send(notify_inval_entry(parent, os.fsencode(name)))

    def invalidate_pages(self, nodeid: int, start: int, length: int) -> Notice:
        """The kernel writes, then drops, cached data from `start` on (`length` 0: to the end), and
        the attributes.
        """
        return self._notifier.send(notify_inval_inode(nodeid, start, length))


def _stop() -> None:
    raise _Stop
