"""A channel: one descriptor of /dev/fuse, the buffer that requests are read into, and the ways to
answer them.

One thread reads a channel, one request at a time: `header` and `buffer` belong to the request that
is under way. Replies are single writes; the kernel takes or refuses each as a whole.
"""

import errno
import logging
import os
from collections.abc import Callable, Container, Sequence
from struct import Struct

from puffs.attach.fuse.abi import IN_HEADER, OUT_HEADER, READ_IN, Opcode
from puffs.server.cred import Cred
from puffs.server.types import Buffer

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

_READS_DIRS = frozenset((Opcode.READDIR, Opcode.READDIRPLUS))
_READS = _READS_DIRS | {Opcode.READ, Opcode.READLINK}
_FLAGS_AT = BODY + READ_IN.fields["flags"][0]
_flags_at = Struct("=I").unpack_from


def reads_without_trace(options: Sequence[str]) -> frozenset[Opcode]:
    """What moves no time of access on a mount with these options of mount(8)."""
    if "noatime" in options:
        return _READS
    return _READS_DIRS if "nodiratime" in options else frozenset()


_pack_header = OUT_HEADER.struct.pack


class Channel:
    """One reader of requests.

    `size` is the length of its buffer in bytes: the largest request, and room to spare. `traceless`
    are opcodes of reads that never move a time of access. `write` and
    `writev` are os.write and os.writev, or what somebody who watches the replies put in their place
    before the dispatch table was built.
    """

    def __init__(self, fd: int, size: int, traceless: Container[int] = ()) -> None:
        self.fd = fd
        self._traceless = traceless
        self.buffer = bytearray(size)
        self.view = memoryview(self.buffer)
        self.write: Callable[[int, bytes], int] = os.write
        self.writev: Callable[[int, Sequence[Buffer]], int] = os.writev
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
        return self._creds.get(key) or self._new_cred(key)

    def cred_with_umask(self, umask: int) -> Cred:
        """The same for requests that make files and bring the caller's umask."""
        key = (*self.header[_CALLER], umask)
        return self._creds.get(key) or self._new_cred(key)

    def _new_cred(self, key: tuple[int, ...]) -> Cred:
        if len(self._creds) >= _CREDS_KEPT:
            self._creds.clear()
        cred = self._creds[key] = Cred(*key)
        return cred

    def noatime(self) -> bool:
        """Whether the read that is under way is to move no time of access.

        The kernel sends the flags of the open file along, those of open(2).
        """
        opcode = self.header[1]
        if opcode in self._traceless:
            return True
        if opcode not in _READS or opcode == Opcode.READLINK:
            return False
        return bool(_flags_at(self.buffer, _FLAGS_AT)[0] & os.O_NOATIME)

    @staticmethod
    def header_of(request: Buffer) -> Header:
        """The header of a whole request."""
        return IN_HEADER.struct.unpack_from(request)

    def request(self) -> "Request":
        """The request that is under way, for an operation that outlives it in the buffer."""
        return Request(self.header, self.noatime())

    def send(self, unique: int, *body: Buffer) -> bool:
        """Reply with success and `body`.

        False when nobody wants it any more: what it gave away must be taken back.
        """
        length = _REPLY + sum(map(len, body))
        try:
            self.write(self.fd, b"".join((_pack_header(length, 0, unique), *body)))
        except OSError as exc:
            self.refused(exc, unique)
            return False
        return True

    def send_error(self, unique: int, code: int) -> None:
        """Reply with the errno `code`."""
        try:
            self.write(self.fd, _pack_header(_REPLY, -code, unique))
        except OSError as exc:
            self.refused(exc, unique)

    def refused(self, exc: OSError, unique: int) -> None:
        """The kernel did not take a reply.

        ENOENT: the caller has gone. A dead connection: the reader will see it.
        """
        if exc.errno == errno.ENOENT or exc.errno in _OVER:
            return
        logger.error("the kernel refused the reply to request %d: %s", unique, exc)
        if exc.errno == errno.EINVAL:  # not well-formed, so the caller still waits
            try:
                self.write(self.fd, _pack_header(_REPLY, -errno.EIO, unique))
            except OSError as again:
                logger.error("nor an error in its place: %s", again)


class Request:
    """A request that has left the buffer: who asked, and for what (`server.cred.Requester`)."""

    __slots__ = ("_noatime", "header", "unique")

    def __init__(self, header: Header, noatime: bool = False) -> None:
        self.header = header
        self.unique = header[2]
        self._noatime = noatime

    def noatime(self) -> bool:
        """Whether this read is to move no time of access."""
        return self._noatime

    def cred(self) -> Cred:
        """The caller."""
        return Cred(*self.header[_CALLER])


Handler = Callable[[int, int, int], None]
"""Serves one opcode: takes the request's unique id, its node id and the length of the request in
the buffer.
"""
