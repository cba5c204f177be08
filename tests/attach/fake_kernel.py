"""The other side of a FUSE connection, played by a test: it says what a kernel says, and more.

The connection is a pair of sockets that keep message boundaries, so that a session reads and writes
them as it does /dev/fuse. What a kernel alone can do, refusing a reply, cannot be had here.
"""

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

from puffs.attach.fuse.abi import (
    DIRENT,
    ENTRY_OUT,
    FUSE_INIT_EXT,
    IN_HEADER,
    INIT_FLAGS,
    INIT_IN,
    INIT_OUT,
    MESSAGES,
    OUT_HEADER,
    Opcode,
    dirent_size,
)
from puffs.attach.fuse.init import Terms
from puffs.attach.fuse.options import MountOptions
from puffs.attach.fuse.session import Session
from puffs.kernel.args import MountArgs
from puffs.kernel.mount import Mount, Servable

ROOT = 1
PATIENCE = 10.0
"""Seconds after which a reply that has not come will not come."""

EVERY_FLAG = sum(INIT_FLAGS.values())


class Reply(NamedTuple):
    """What a session wrote: `error` as a positive errno, or 0."""

    unique: int
    error: int
    body: bytes

    def fields(self, opcode: Opcode) -> dict[str, Any]:
        """The struct that begins the body of a reply to `opcode`."""
        layout = MESSAGES[opcode].reply
        assert layout is not None
        return layout.unpack(self.body)


class Dirent(NamedTuple):
    """One record of a READDIR or READDIRPLUS reply; `nodeid` is 0 where it brings no node."""

    name: bytes
    ino: int
    next: int
    type: int
    nodeid: int


def init_body(
    major: int = 7,
    minor: int = 45,
    flags: int = EVERY_FLAG,
    max_readahead: int = 131072,
    size: int = INIT_IN.size,
) -> bytes:
    """A `fuse_init_in` of `size` bytes: 64, or 16 as before 7.36."""
    whole = INIT_IN.pack(
        major=major,
        minor=minor,
        max_readahead=max_readahead,
        flags=flags & 0xFFFFFFFF,
        flags2=flags >> 32 if flags & FUSE_INIT_EXT else 0,
    )
    return whole[:size]


def request_body(
    opcode: Opcode, fields: dict[str, int], names: Sequence[bytes], data: bytes
) -> bytes:
    """The body of a request as the tables of the protocol lay it out."""
    layout = MESSAGES[opcode].request
    struct = layout.pack(**fields) if layout is not None else b""
    return struct + b"".join(name + b"\0" for name in names) + data


class FakeKernel:
    """A kernel, and the session of a file server that it talks to, on a thread of its own.

    `mount` is the kernel half of `server`. A context manager: at the end the connection is closed,
    and the session must have ended. What its `serve` raised is in `failure`. `args` are the mount
    arguments; they decide on `max_write` where they are given.
    """

    def __init__(
        self,
        server: Servable,
        *,
        minor: int = 45,
        flags: int = EVERY_FLAG,
        max_write: int = 65536,
        args: MountArgs | None = None,
        init: bool = True,
        options: MountOptions | None = None,
    ) -> None:
        self.mount = Mount(server, args)
        if args is not None:
            max_write = self.mount.args.payload
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(PATIENCE)
        self.ready = threading.Event()
        self.session = Session(
            self.mount,
            theirs.detach(),
            "(fake)",
            terms=Terms.of(options or MountOptions(), max_write),
            on_ready=self.ready.set,
        )
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="session", daemon=True)
        self._thread.start()
        self._unique = 0
        self.init_out: dict[str, Any] = {}
        if init:
            size = INIT_IN.size if minor >= 36 else 16
            body = init_body(minor=minor, flags=flags, size=size)
            reply = self.exchange(Opcode.INIT, 0, body)
            assert reply.error == 0
            self.init_out = INIT_OUT.unpack(reply.body)

    def _serve(self) -> None:
        try:
            self.session.serve()
        except BaseException as exc:
            self.failure = exc

    def __enter__(self) -> "FakeKernel":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if exc is None and self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Close the connection and wait until the session has ended."""
        self._ours.close()
        self.ended()

    def ended(self) -> None:
        """Wait until the session has ended."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the session goes on without a connection"

    @property
    def alive(self) -> bool:
        """Whether the session still serves."""
        return self._thread.is_alive()

    # ---------------------------------------------------------------------------- bytes both ways

    def send_bytes(
        self,
        opcode: int,
        nodeid: int,
        body: bytes,
        *,
        unique: int | None = None,
        uid: int = 0,
        gid: int = 0,
        extensions: int = 0,
    ) -> int:
        """Send a request with this body; its unique."""
        if unique is None:
            self._unique += 2
            unique = self._unique
        header = IN_HEADER.pack(
            len=IN_HEADER.size + len(body),
            opcode=opcode,
            unique=unique,
            nodeid=nodeid,
            uid=uid,
            gid=gid,
            pid=os.getpid(),
            total_extlen=extensions,
        )
        self._ours.sendall(header + body)
        return unique

    def receive(self) -> Reply:
        """The next message of the session, whose length must be what it says."""
        message = self._ours.recv(1 << 21)
        assert message, "the session has closed the connection"
        length, error, unique = OUT_HEADER.struct.unpack_from(message)
        assert length == len(message)
        assert -512 < error <= 0 or unique == 0
        body = message[OUT_HEADER.size :]
        assert not (error and body and unique), "an error has no body"
        return Reply(unique, -error if unique else error, body)

    def exchange(self, opcode: int, nodeid: int, body: bytes, **header: int) -> Reply:
        """Send a request and take the one reply, which must be its own."""
        unique = self.send_bytes(opcode, nodeid, body, **header)
        reply = self.receive()
        assert reply.unique == unique
        return reply

    def replies_to(self, opcode: int, nodeid: int, body: bytes) -> list[Reply]:
        """Send a request and take all that the session says to it, be it nothing."""
        unique = self.send_bytes(opcode, nodeid, body)
        replies = self.until_quiet()
        assert all(reply.unique == unique for reply in replies)
        return replies

    def until_quiet(self) -> list[Reply]:
        """What the session says until it has served all that was sent: a STATFS goes behind it."""
        fence = self.send_bytes(Opcode.STATFS, ROOT, b"")
        replies = []
        while (reply := self.receive()).unique != fence:
            replies.append(reply)
        return replies

    # ------------------------------------------------------------------------------------ requests

    def ask(
        self,
        opcode: Opcode,
        nodeid: int = ROOT,
        *names: bytes,
        data: bytes = b"",
        **fields: int,
    ) -> Reply:
        """A well-formed request that is answered."""
        return self.exchange(opcode, nodeid, request_body(opcode, fields, names, data))

    def tell(
        self, opcode: Opcode, nodeid: int = ROOT, *names: bytes, data: bytes = b"", **fields: int
    ) -> None:
        """A well-formed request that is not answered."""
        assert self.replies_to(opcode, nodeid, request_body(opcode, fields, names, data)) == []

    def entry(self, opcode: Opcode, nodeid: int, *names: bytes, **fields: int) -> dict[str, Any]:
        """A request that must give an entry."""
        reply = self.exchange(opcode, nodeid, request_body(opcode, fields, names, b""))
        assert reply.error == 0, os.strerror(reply.error)
        return reply.fields(opcode)

    def lookup(self, name: bytes, parent: int = ROOT) -> int:
        """The node id of a name that must be there."""
        nodeid = self.entry(Opcode.LOOKUP, parent, name)["nodeid"]
        assert isinstance(nodeid, int)
        return nodeid

    def open(self, nodeid: int, opcode: Opcode = Opcode.OPEN, flags: int = 0) -> int:
        """Open a file or directory; its `fh`."""
        reply = self.ask(opcode, nodeid, flags=flags)
        assert reply.error == 0, os.strerror(reply.error)
        fh = reply.fields(opcode)["fh"]
        assert isinstance(fh, int)
        return fh

    def listing(
        self, nodeid: int, fh: int, offset: int = 0, size: int = 4096, *, plus: bool = False
    ) -> list[Dirent]:
        """One READDIR or READDIRPLUS, taken apart."""
        opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
        reply = self.ask(opcode, nodeid, fh=fh, offset=offset, size=size)
        assert reply.error == 0, os.strerror(reply.error)
        assert len(reply.body) <= size
        return list(dirents(reply.body, plus=plus))


def dirents(body: bytes, *, plus: bool) -> Iterator[Dirent]:
    """The records of a READDIR or READDIRPLUS reply."""
    at = 0
    while at < len(body):
        nodeid = 0
        if plus:
            nodeid = ENTRY_OUT.unpack(body, at)["nodeid"]
            at += ENTRY_OUT.size
        ino, following, length, kind = DIRENT.struct.unpack_from(body, at)
        start = at + DIRENT.size
        yield Dirent(body[start : start + length], ino, following, kind, nodeid)
        at += dirent_size(length)
    assert at == len(body)


@contextmanager
def unserved(server: Servable, options: MountOptions | None = None) -> Iterator[FakeKernel]:
    """A connection on which INIT has yet to be sent."""
    kernel = FakeKernel(server, init=False, options=options)
    try:
        yield kernel
    finally:
        kernel.close()
