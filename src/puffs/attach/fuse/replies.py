"""Replies: from what operations returned to the messages that the kernel takes.

These are the second halves of the handlers: a handler decodes a request and calls an operation, and
what it returned goes to one of the functions here, which polices it (through the kernel half),
encodes and sends it. The call is always the last thing that a handler does, so that an operation
that is not finished yet can be finished later by the same function.
"""

import os
from collections.abc import Callable
from operator import attrgetter
from struct import Struct
from typing import Any, Final, NamedTuple

from puffs.attach.fuse.abi import (
    FOPEN_CACHE_DIR,
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    FOPEN_NOFLUSH,
    FOPEN_NONSEEKABLE,
    FOPEN_PARALLEL_DIRECT_WRITES,
    FOPEN_STREAM,
    OPEN_OUT,
    OUT_HEADER,
    WRITE_OUT,
)
from puffs.attach.fuse.channel import Channel
from puffs.attach.fuse.files import NO_FH, OpenFiles, unwrap
from puffs.kernel import police
from puffs.kernel.mount import Mount
from puffs.kernel.vnode import Vnode
from puffs.server.attr import WIRE_SIZE, Attr
from puffs.server.errors import ProtocolFault
from puffs.server.types import Cookie, Entry, Open

HEADER: Final = OUT_HEADER.size

# A whole reply up to where the wire image of `Attr` starts: out header, what comes before `attr`,
# and `attr.ino`.
_ATTR_REPLY: Final = Struct("=IiQQIIQ")
_ENTRY: Final = Struct("=QQQQIIQ")
_ENTRY_REPLY: Final = Struct("=IiQQQQQIIQ")
ATTR_REPLY_SIZE: Final = _ATTR_REPLY.size + WIRE_SIZE
ENTRY_SIZE: Final = _ENTRY.size + WIRE_SIZE
ENTRY_REPLY_SIZE: Final = HEADER + ENTRY_SIZE

_TTL_MAX: Final = 1 << 31
"""68 years: beyond it the kernel's own clock arithmetic ends."""

_HINTS: Final = {
    "direct_io": FOPEN_DIRECT_IO,
    "keep_cache": FOPEN_KEEP_CACHE,
    "nonseekable": FOPEN_NONSEEKABLE,
    "stream": FOPEN_STREAM,
    "cache_dir": FOPEN_CACHE_DIR,
    "noflush": FOPEN_NOFLUSH,
    "parallel_direct_writes": FOPEN_PARALLEL_DIRECT_WRITES,
}
_hints_of: Final = attrgetter(*_HINTS)
_KEPT_BITS: dict[tuple[bool, ...], int] = {}


def open_flags(hints: Open | None) -> int:
    """The FOPEN_ bits of `open_out` for what the file server said about an open file."""
    if hints is None:
        return 0
    key = _hints_of(hints)
    bits = _KEPT_BITS.get(key)
    if bits is None:
        bits = _KEPT_BITS[key] = sum(
            bit for on, bit in zip(key, _HINTS.values(), strict=True) if on
        )
    return bits


def lifetime(seconds: float) -> tuple[int, int]:
    """Seconds as the protocol takes them: whole ones and nanoseconds."""
    if not seconds > 0:
        return 0, 0
    if seconds >= _TTL_MAX:
        return _TTL_MAX, 0
    whole = int(seconds)
    return whole, int((seconds - whole) * 1e9)


class Lifetimes(NamedTuple):
    """How long the kernel may trust a name and attributes, in the order of `fuse_entry_out`."""

    name: int
    attr: int
    name_nsec: int
    attr_nsec: int

    @classmethod
    def of(cls, name_ttl: float, attr_ttl: float) -> "Lifetimes":
        """From two numbers of seconds."""
        name, name_nsec = lifetime(name_ttl)
        attr, attr_nsec = lifetime(attr_ttl)
        return cls(name, attr, name_nsec, attr_nsec)


class Replies:
    """The replies of one channel, as closures: each takes what an operation returned, then the
    request's own things.
    """

    ok: Callable[[object, int], None]
    data: Callable[[Any, int, int, Cookie], None]
    written: Callable[[Any, int, int, Cookie], None]
    attr: Callable[[Any, int, Vnode], None]
    found: Callable[[Any, int, Vnode], None]
    made: Callable[[Any, int, Vnode, str], None]
    created: Callable[[Any, int, Vnode, int, str], None]
    opened: Callable[[Any, int, Vnode], None]
    itself: Callable[[Any, int, Vnode], None]
    absent: Callable[[int], None]

    def __init__(self, channel: Channel, mount: Mount, files: OpenFiles) -> None:
        server = mount.server
        self._channel = channel
        self._mount = mount
        self._files = files
        self.lifetimes = Lifetimes.of(server.name_ttl, server.attr_ttl)
        self.negative = lifetime(server.negative_ttl)
        self._build_plain()
        self._build_attr()
        self._build_entries()
        self._build_opened()

    def lifetimes_of(self, entry: Entry | None) -> Lifetimes:
        """What holds for one entry: its own lifetimes, or those of the file server's class."""
        if entry is None or (entry.name_ttl is None and entry.attr_ttl is None):
            return self.lifetimes
        server = self._mount.server
        return Lifetimes.of(
            server.name_ttl if entry.name_ttl is None else entry.name_ttl,
            server.attr_ttl if entry.attr_ttl is None else entry.attr_ttl,
        )

    def _build_plain(self) -> None:
        write, writev = os.write, os.writev
        channel = self._channel
        fd = channel.fd
        refused = channel.refused
        pack_header = OUT_HEADER.struct.pack
        pack_written = Struct("=IiQII").pack
        written_size = HEADER + WRITE_OUT.size

        def ok(_reply: object, unique: int) -> None:
            try:
                write(fd, pack_header(HEADER, 0, unique))
            except OSError as exc:
                refused(exc)

        def data(reply: Any, unique: int, size: int, cookie: Cookie) -> None:
            if type(reply) is not bytes or len(reply) > size:
                reply = police.data(reply, size, cookie)
            try:
                writev(fd, (pack_header(HEADER + len(reply), 0, unique), reply))
            except OSError as exc:
                refused(exc)

        def written(reply: Any, unique: int, size: int, cookie: Cookie) -> None:
            if reply != size or type(reply) is not int:
                police.amount(reply, size, cookie)
            try:
                write(fd, pack_written(written_size, 0, unique, reply, 0))
            except OSError as exc:
                refused(exc)

        self.ok, self.data, self.written = ok, data, written

    def _build_attr(self) -> None:
        write = os.write
        fd, refused = self._channel.fd, self._channel.refused
        pack = _ATTR_REPLY.pack
        seconds, nanoseconds = lifetime(self._mount.server.attr_ttl)

        def attr(reply: Any, unique: int, vnode: Vnode) -> None:
            if type(reply) is not Attr:
                reply = police.attributes(reply, vnode.cookie, "getattr")
            try:
                write(
                    fd,
                    pack(
                        ATTR_REPLY_SIZE, 0, unique, seconds, nanoseconds, 0, reply.ino or vnode.ino
                    )
                    + reply.wire,
                )
            except OSError as exc:
                refused(exc)

        self.attr = attr

    def _build_entries(self) -> None:
        write = os.write
        fd, refused = self._channel.fd, self._channel.refused
        pack = _ENTRY_REPLY.pack
        vnodes = self._mount.vnodes
        adopt = vnodes.adopt
        getattr_ = self._mount.ops["getattr"]
        lifetimes_of = self.lifetimes_of
        negative = self.negative

        def send(attr: Any, unique: int, vnode: Vnode, entry: Entry | None) -> None:
            """Tell the kernel of a vnode that was counted for it; count back if it does not listen
            any more.
            """
            name_s, attr_s, name_ns, attr_ns = lifetimes_of(entry)
            ino = vnode.ino = attr.ino or vnode.ino
            message = pack(
                ENTRY_REPLY_SIZE,
                0,
                unique,
                vnode.nodeid,
                vnode.generation,
                name_s,
                attr_s,
                name_ns,
                attr_ns,
                ino,
            )
            try:
                write(fd, message + attr.wire)
            except OSError as exc:
                refused(exc)
                vnodes.forget(vnode.nodeid, 1)

        def found_attr(
            reply: Any, unique: int, cookie: Cookie, entry: Entry | None, new: bool
        ) -> None:
            attr = police.attributes(reply, cookie, "getattr")
            send(attr, unique, adopt(cookie, new=new), entry)

        def found(reply: Any, unique: int, parent: Vnode) -> None:
            cookie, attr, entry = police.node(reply, parent, "lookup")
            if attr is None:
                found_attr(getattr_(cookie, None), unique, cookie, entry, False)
            else:
                send(attr, unique, adopt(cookie), entry)

        def made(reply: Any, unique: int, parent: Vnode, operation: str) -> None:
            cookie, attr, entry = police.node(reply, parent, operation)
            if attr is None:
                found_attr(getattr_(cookie, None), unique, cookie, entry, True)
            else:
                send(attr, unique, adopt(cookie, new=True), entry)

        def itself(reply: Any, unique: int, vnode: Vnode) -> None:
            """The entry of a node that is known already: LOOKUP "." and LINK."""
            attr = police.attributes(reply, vnode.cookie, "getattr")
            send(attr, unique, adopt(vnode.cookie), None)

        def absent(unique: int) -> None:
            """A negative entry: the kernel remembers that the name is not there."""
            seconds, nanoseconds = negative
            message = pack(ENTRY_REPLY_SIZE, 0, unique, 0, 0, seconds, 0, nanoseconds, 0, 0)
            self._channel.send(message + bytes(WIRE_SIZE))

        self.found, self.made, self.itself, self.absent = found, made, itself, absent

    def _build_opened(self) -> None:
        mount, files, channel = self._mount, self._files, self._channel
        vnodes = mount.vnodes
        getattr_ = mount.ops["getattr"]
        open_ = mount.ops.get("open")
        close = mount.ops.get("close")
        lifetimes_of = self.lifetimes_of
        pack_open = Struct("=IiQQIi").pack
        open_size = HEADER + OPEN_OUT.size
        created_size = ENTRY_REPLY_SIZE + OPEN_OUT.size
        tracked = mount.tracks_opens

        def enter(vnode: Vnode, file: object, operation: str) -> int:
            if tracked:
                return files.open(vnode, file)
            if file is not None:
                raise ProtocolFault(
                    "MAKENODE",
                    f"{operation} returned an open file, but the class has no open or close",
                    node=vnode.cookie,
                )
            return NO_FH

        def take_back(vnode: Vnode, fh: int, file: object) -> None:
            """Nobody waits for this open file any more: close it."""
            if fh == NO_FH:
                return
            try:
                if close is not None:
                    close(vnode.cookie, file, 0)
            finally:
                files.close(fh)

        def opened(reply: Any, unique: int, vnode: Vnode) -> None:
            file, hints = unwrap(reply)
            fh = files.open(vnode, file)
            if not channel.send(pack_open(open_size, 0, unique, fh, open_flags(hints), 0)):
                take_back(vnode, fh, file)

        def created(reply: Any, unique: int, parent: Vnode, flags: int, operation: str) -> None:
            node, open_reply, came = police.created(reply)
            cookie, attr, entry = police.node(node, parent, operation)
            if not came and open_ is not None:
                open_reply = open_(cookie, flags, channel.cred())
            if attr is None:
                attr = police.attributes(getattr_(cookie, None), cookie, "getattr")
            vnode = vnodes.adopt(cookie, new=True)
            file, hints = unwrap(open_reply)
            fh = enter(vnode, file, operation)
            ino = vnode.ino = attr.ino or vnode.ino
            name_s, attr_s, name_ns, attr_ns = lifetimes_of(entry)
            message = b"".join(
                (
                    _ENTRY_REPLY.pack(
                        created_size,
                        0,
                        unique,
                        vnode.nodeid,
                        vnode.generation,
                        name_s,
                        attr_s,
                        name_ns,
                        attr_ns,
                        ino,
                    ),
                    attr.wire,
                    OPEN_OUT.struct.pack(fh, open_flags(hints), 0),
                )
            )
            if not channel.send(message):
                take_back(vnode, fh, file)
                vnodes.forget(vnode.nodeid, 1)

        self.opened, self.created = opened, created


def pack_entry(vnode: Vnode, attr: Attr, lifetimes: Lifetimes) -> bytes:
    """A `fuse_entry_out` for readdirplus."""
    ino = vnode.ino = attr.ino or vnode.ino
    return _ENTRY.pack(vnode.nodeid, vnode.generation, *lifetimes, ino) + attr.wire
