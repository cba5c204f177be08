"""A channel: one descriptor of /dev/fuse, the buffer that requests are read into, and the ways to
answer them.

One thread reads a channel, one request at a time: `header` and `buffer` belong to the request that
is under way. Replies are single writes; the kernel takes or refuses each as a whole.
"""

import errno
import logging
import os
from collections.abc import Callable

from puffs.attach.fuse.abi import IN_HEADER, OUT_HEADER
from puffs.server.cred import Cred

logger = logging.getLogger("puffs")

BODY = IN_HEADER.size
"""Where the body of a request starts in the buffer."""

_REPLY = OUT_HEADER.size
_CREDS_KEPT = 1024
_OVER = frozenset((errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN))

Header = tuple[int, ...]
"""The members of `fuse_in_header`: len, opcode, unique, nodeid, uid, gid, pid (a thread's),
total_extlen, padding.
"""

_CALLER = slice(4, 7)


class Channel:
    """One reader of requests.

    `size` is the length of its buffer in bytes: the largest request, and room to spare.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.buffer = bytearray(size)
        self.view = memoryview(self.buffer)
        self.header: Header = (0,) * len(IN_HEADER.zeros)
        self._creds: dict[tuple[int, ...], Cred] = {}

    def renew_buffer(self) -> None:
        """Read from now on into another buffer: somebody still looks at this one."""
        self.buffer = bytearray(len(self.buffer))
        self.view = memoryview(self.buffer)

    def cred(self) -> Cred:
        """The caller of the request that is under way.

        Looked up, not built, where he has called before.
        """
        key = self.header[_CALLER]
        cred = self._creds.get(key)
        if cred is None:
            if len(self._creds) >= _CREDS_KEPT:
                self._creds.clear()
            cred = self._creds[key] = Cred(*key)
        return cred

    def cred_with_umask(self, umask: int) -> Cred:
        """The same for requests that make files and bring the caller's umask."""
        uid, gid, tid = self.header[_CALLER]
        return Cred(uid, gid, tid, umask)

    def send(self, message: bytes) -> bool:
        """Write a whole reply.

        False when nobody wants it any more: what it gave away must be taken back.
        """
        try:
            os.write(self.fd, message)
        except OSError as exc:
            self.refused(exc)
            return False
        return True

    def send_error(self, unique: int, code: int) -> None:
        """Reply with the errno `code`, or with success and nothing else when it is 0."""
        self.send(OUT_HEADER.struct.pack(_REPLY, -code, unique))

    def refused(self, exc: OSError) -> None:
        """The kernel did not take a reply.

        ENOENT: the caller has gone. A dead connection: the reader will see it.
        """
        if exc.errno == errno.ENOENT or exc.errno in _OVER:
            return
        logger.error("the kernel refused the reply to request %s: %s", self.header, exc)
        if exc.errno == errno.EINVAL:  # not well-formed, so the caller still waits
            try:
                os.write(self.fd, OUT_HEADER.struct.pack(_REPLY, -errno.EIO, self.header[2]))
            except OSError as again:
                logger.error("nor an error in its place: %s", again)


Handler = Callable[[int, int, int], None]
"""Serves one opcode: takes the request's unique id, its node id and the length of the request in
the buffer.
"""
