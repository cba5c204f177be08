"""Replies: from what operations returned to the messages that the kernel takes.

These are the second halves of handlers: a handler decodes a request and calls an operation, and
what that returned goes to one of the functions here, which polices it (through the kernel half),
encodes it and sends it. See `flow` for how the halves are joined.
"""

from collections.abc import Callable
from functools import partial
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
    direntplus_size,
    pack_dirent,
)
from puffs.attach.fuse.channel import Channel
from puffs.attach.fuse.files import NO_FH, OpenFiles, unwrap
from puffs.attach.fuse.flow import Flow, Steps
from puffs.kernel import police
from puffs.kernel.args import KernelFlag
from puffs.kernel.mount import Mount
from puffs.kernel.vnode import NOWHERE, Vnode, VnodeTable
from puffs.server.attr import TYPE_BYTE, WIRE_SIZE, Attr, TimedAttr
from puffs.server.cred import Cred
from puffs.server.errors import ProtocolFault
from puffs.server.types import Cookie, DirEntry, Entry, Open

HEADER: Final = OUT_HEADER.size

# A whole reply up to where the wire image of `Attr` starts: out header, what comes before `attr`,
# and `attr.ino`.
_ATTR_REPLY: Final = Struct("=IiQQIIQ")
_ENTRY: Final = Struct("=QQQQIIQ")
_ENTRY_REPLY: Final = Struct("=IiQQQQQIIQ")
ATTR_REPLY_SIZE: Final = _ATTR_REPLY.size + WIRE_SIZE
ENTRY_SIZE: Final = _ENTRY.size + WIRE_SIZE
ENTRY_REPLY_SIZE: Final = HEADER + ENTRY_SIZE

UNKNOWN_INO: Final = 0xFFFFFFFF
"""Shown where the inode number of an entry is not known: readdir(3) passes over entries with number
0.
"""

_DOTS: Final = frozenset((b".", b".."))

_NO_ENTRY: Final = bytes(ENTRY_SIZE)
"""In a readdirplus: only the name is told, no node."""

TTL_MAX: Final = 1 << 31
"""68 years: beyond it the kernel's own clock arithmetic ends."""

_LIFETIMES_KEPT: Final = 64
"""Lifetimes, and pairs of them, that are not worked out again. File servers have few."""

_Adopt = Callable[[Cookie], Vnode]

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


def uncached_open_flags(hints: Open | None) -> int:
    """The same on a mount without a page cache."""
    return open_flags(hints) | FOPEN_DIRECT_IO


def lifetime(seconds: float) -> tuple[int, int]:
    """Seconds as the protocol takes them: whole ones and nanoseconds."""
    if not seconds > 0:
        return 0, 0
    if seconds >= TTL_MAX:
        return TTL_MAX, 0
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
    changed: Callable[[Any, int, Vnode, Any], None]
    found: Callable[[Any, int, Vnode, str], None]
    made: Callable[[Any, int, Vnode, str, str], None]
    opened: Callable[[Any, int, Vnode], None]
    itself: Callable[[Any, int, Vnode], None]
    regained: Callable[[Any, int, int], None]
    above: Callable[[Any, int, Vnode], None]

    def __init__(
        self,
        channel: Channel,
        mount: Mount,
        files: OpenFiles,
        flow: Flow,
        new_answer: "Callable[[Replies, VnodeTable, Vnode, int], Answer]",
    ) -> None:
        server = mount.server
        self._channel = channel
        self._mount = mount
        self._files = files
        self._flow = flow
        self._tracked = mount.tracks_opens
        asked = mount.args.flags
        self.names_last = mount.names_last
        self.namemax = mount.namemax
        self._new_answer = new_answer
        self._known_lifetimes: dict[tuple[float | None, float | None], Lifetimes] = {}
        self.open_flags = uncached_open_flags if asked & KernelFlag.NOCACHE_PAGE else open_flags
        self.lifetimes = self._lifetimes(server.name_ttl, server.attr_ttl)
        self._build_plain()
        self._build_attr()
        self._build_entries()
        self._build_opened()

    def lifetimes_of(self, entry: Entry | None) -> Lifetimes:
        """What holds for one entry: its own lifetimes, or those of the file server's class."""
        if entry is None or (entry.name_ttl is None and entry.attr_ttl is None):
            return self.lifetimes
        key = entry.name_ttl, entry.attr_ttl
        known = self._known_lifetimes.get(key)
        if known is None:
            server = self._mount.server
            known = self._lifetimes(
                server.name_ttl if entry.name_ttl is None else entry.name_ttl,
                server.attr_ttl if entry.attr_ttl is None else entry.attr_ttl,
            )
            if len(self._known_lifetimes) < _LIFETIMES_KEPT:
                self._known_lifetimes[key] = known
        return known

    def _lifetimes(self, name_ttl: float, attr_ttl: float) -> Lifetimes:
        lifetimes = Lifetimes.of(name_ttl, attr_ttl)
        return lifetimes if self.names_last else lifetimes._replace(name=0, name_nsec=0)

    def absent(self, unique: int, ttl: float) -> None:
        """A negative entry: the kernel remembers for `ttl` seconds that the name is not there."""
        seconds, nanoseconds = lifetime(ttl)
        entry = _ENTRY.pack(0, 0, seconds, 0, nanoseconds, 0, 0)
        self._channel.send(unique, entry, bytes(WIRE_SIZE))

    def enter(self, vnode: Vnode, opened: object) -> tuple[int, Open | None]:
        """Enter a file that was opened as it was made: its number, and the hints that came."""
        file, hints = unwrap(opened)
        if self._tracked:
            return self._files.open(vnode, file), hints
        if file is not None:
            raise ProtocolFault(
                "MAKENODE",
                "create returned an open file, but the class has neither open nor close",
                node=vnode.cookie,
            )
        return NO_FH, hints

    def made_open(
        self,
        made: Any,
        unique: int,
        parent: Vnode,
        name: str,
        flags: int,
        cred: Cred,
        operation: str,
    ) -> Steps:
        """What is left to do when a file was made: open it if it is not open, ask, tell."""
        fs_open, vnodes = self._mount.ops.get("open"), self._mount.vnodes
        node, opened, came = police.created((yield made))
        cookie, attr, entry = police.node(node, parent, operation)
        vnode, fh, told = vnodes.adopt(cookie, parent, name, new=True), NO_FH, False
        try:
            if not came and fs_open is not None:
                opened = yield fs_open(cookie, flags, cred)
            fh, hints = self.enter(vnode, opened)
            if attr is None:
                reply = yield self._mount.ops["getattr"](cookie, None)
                attr = police.attributes(reply, cookie, "getattr")
            told = self._tell_made_open(unique, vnode, attr, entry, fh, hints)
        finally:
            if not told:  # give back what was counted
                self._files.take_back(fh)
                vnodes.forget(vnode.nodeid, 1)

    def _tell_made_open(
        self,
        unique: int,
        vnode: Vnode,
        attr: Attr,
        entry: Entry | None,
        fh: int,
        hints: Open | None,
    ) -> bool:
        """The entry of a file that was just made and the open file that came with it.

        False when nobody wants them any more.
        """
        head = pack_entry(vnode, attr, self.lifetimes_of(entry))
        flags, backing = self.open_flags(hints), 0
        if self._files.backing is not None:
            flags, backing = self._files.backing.opened(vnode, fh, hints, flags)
        if flags & FOPEN_DIRECT_IO:
            self._files.direct.add(fh)
        return self._channel.send(unique, head, OPEN_OUT.struct.pack(fh, flags, backing))

    def plus(
        self, parent: Vnode, entry: DirEntry, position: int, name: bytes, told_of: list[Vnode]
    ) -> tuple[bytes, bytes]:
        """One `fuse_direntplus`, in two parts; `told_of` collects the nodes that were counted."""
        found = entry.entry
        if callable(found):
            found = found()
        if found is None or found.attr is None:
            ino, kind, entry_out = entry.ino or UNKNOWN_INO, entry.type >> 12, _NO_ENTRY
        else:
            cookie, attr, _ = police.node(found, parent, "lookup")
            assert attr is not None
            vnode = self._mount.vnodes.adopt(cookie, parent, entry.name)
            told_of.append(vnode)
            entry_out = pack_entry(vnode, attr, self.lifetimes_of(found))
            ino, kind = entry.ino or vnode.ino, attr.mode >> 12
        return entry_out, pack_dirent(ino, position, name, kind)

    def answer(self, parent: Vnode, room: int) -> "Answer":
        """An empty answer to READDIRPLUS of a directory, with room for so many bytes."""
        return self._new_answer(self, self._mount.vnodes, parent, room)

    def _build_plain(self) -> None:
        channel, then = self._channel, self._flow.then
        fd, write, writev, refused = channel.fd, channel.write, channel.writev, channel.refused
        pack_header = OUT_HEADER.struct.pack
        pack_written = Struct("=IiQII").pack
        written_size = HEADER + WRITE_OUT.size

        def ok(_reply: object, unique: int) -> None:
            try:
                write(fd, pack_header(HEADER, 0, unique))
            except OSError as exc:
                refused(exc, unique)

        def data(reply: Any, unique: int, size: int, cookie: Cookie) -> None:
            kind = type(reply)
            if kind is not bytes and not (
                kind is memoryview and reply.format == "B" and reply.ndim == 1
            ):
                reply = police.data(reply, size, cookie)
            length = len(reply)
            if length > size:
                police.data(reply, size, cookie)
            try:
                writev(fd, (pack_header(HEADER + length, 0, unique), reply))
            except OSError as exc:
                refused(exc, unique)

        def written(reply: Any, unique: int, size: int, cookie: Cookie) -> None:
            if reply != size or type(reply) is not int:
                police.amount(reply, size, cookie)
            try:
                write(fd, pack_written(written_size, 0, unique, reply, 0))
            except OSError as exc:
                refused(exc, unique)

        self.ok, self.data, self.written = then(ok), then(data), then(written)

    def _build_attr(self) -> None:
        channel = self._channel
        fd, write, refused = channel.fd, channel.write, channel.refused
        pack = _ATTR_REPLY.pack
        size, types = ATTR_REPLY_SIZE, police.TYPES
        seconds, nanoseconds = lifetime(self._mount.server.attr_ttl)
        lifetimes: dict[float, tuple[int, int]] = {}

        def attr(reply: Any, unique: int, vnode: Vnode) -> None:
            if type(reply) is not Attr or reply.wire[TYPE_BYTE] >> 4 not in types:
                if type(reply) is TimedAttr:
                    timed(reply, unique, vnode)
                    return
                reply = police.attributes(reply, vnode.cookie, "getattr")
            ino = reply.ino or vnode.ino
            send(pack(size, 0, unique, seconds, nanoseconds, 0, ino) + reply.wire, unique)

        def timed(reply: TimedAttr, unique: int, vnode: Vnode) -> None:
            """The same for attributes with a lifetime of their own."""
            wire, ttl = reply.wire, reply.ttl
            if wire[TYPE_BYTE] >> 4 not in types:
                police.attributes(reply, vnode.cookie, "getattr")
            known = lifetimes.get(ttl)
            if known is None:
                known = lifetime(ttl)
                if len(lifetimes) < _LIFETIMES_KEPT:
                    lifetimes[ttl] = known
            whole, part = known
            send(pack(size, 0, unique, whole, part, 0, reply.ino or vnode.ino) + wire, unique)

        def send(message: bytes, unique: int) -> None:
            try:
                write(fd, message)
            except OSError as exc:
                refused(exc, unique)

        self.attr = attr = self._flow.then(attr)
        getattr_ = self._mount.ops["getattr"]

        def changed(reply: Any, unique: int, vnode: Vnode, file: Any) -> None:
            """What `setattr` returns; None: the attributes are to be asked for."""
            if reply is None:
                attr(getattr_(vnode.cookie, file), unique, vnode)
            else:
                attr(police.attributes(reply, vnode.cookie, "setattr"), unique, vnode)

        self.changed = self._flow.then(changed)

    def _build_entries(self) -> None:
        channel, then = self._channel, self._flow.then
        fd, write, refused = channel.fd, channel.write, channel.refused
        pack = _ENTRY_REPLY.pack
        size = ENTRY_REPLY_SIZE
        vnodes = self._mount.vnodes
        adopt = vnodes.adopt
        getattr_ = self._mount.ops["getattr"]
        lifetimes_of = self.lifetimes_of

        usual = self.lifetimes

        def send(attr: Attr, unique: int, vnode: Vnode, entry: Entry | None) -> None:
            """Tell the kernel of a vnode that was counted for it; count back if it cannot be."""
            told = False
            id_, generation = vnode.nodeid, vnode.generation
            try:
                lifetimes = usual if entry is None else lifetimes_of(entry)
                name_s, attr_s, name_ns, attr_ns = lifetimes
                ino = attr.ino or vnode.ino
                head = pack(size, 0, unique, id_, generation, name_s, attr_s, name_ns, attr_ns, ino)
                vnode.ino = ino
                if not vnode.type:
                    vnode.type = attr.type
                write(fd, head + attr.wire)
                told = True
            except OSError as exc:
                refused(exc, unique)
            finally:
                if not told:
                    vnodes.forget(id_, 1)

        def with_attr(
            reply: Any,
            unique: int,
            parent: Vnode,
            name: str,
            new: bool,
            cookie: Cookie,
            entry: Entry | None,
        ) -> None:
            attr = police.attributes(reply, cookie, "getattr")
            send(attr, unique, adopt(cookie, parent, name, new=new), entry)

        with_attr = then(with_attr)

        def found(reply: Any, unique: int, parent: Vnode, name: str) -> None:
            cookie, attr, entry = police.node(reply, parent, "lookup")
            if attr is None:
                with_attr(getattr_(cookie, None), unique, parent, name, False, cookie, entry)
            else:
                send(attr, unique, adopt(cookie, parent, name), entry)

        def made(reply: Any, unique: int, parent: Vnode, name: str, operation: str) -> None:
            cookie, attr, entry = police.node(reply, parent, operation)
            if attr is None:
                with_attr(getattr_(cookie, None), unique, parent, name, True, cookie, entry)
            else:
                send(attr, unique, adopt(cookie, parent, name, new=True), entry)

        def itself(reply: Any, unique: int, vnode: Vnode) -> None:
            """The entry of a node that is known already: LOOKUP "." and LINK."""
            attr = police.attributes(reply, vnode.cookie, "getattr")
            send(attr, unique, adopt(vnode.cookie), None)

        self.found, self.made, self.itself = then(found), then(made), then(itself)

        def nameless(
            reply: Any, unique: int, adopt: _Adopt, cookie: Cookie, entry: Entry | None
        ) -> None:
            attr = police.attributes(reply, cookie, "getattr")
            send(attr, unique, adopt(cookie), entry)

        nameless = then(nameless)

        def handed(
            reply: Any, unique: int, adopt: _Adopt, other_than: Vnode, operation: str
        ) -> None:
            """The entry of a node that was found without a name."""
            cookie, attr, entry = police.node(reply, other_than, operation)
            reply = getattr_(cookie, None) if attr is None else attr
            nameless(reply, unique, adopt, cookie, entry)

        def regained(reply: Any, unique: int, nodeid: int) -> None:
            """What `vget` has found by its number: LOOKUP "." of a node that is not known."""
            handed(reply, unique, partial(vnodes.regain, nodeid=nodeid), NOWHERE, "vget")

        def above(reply: Any, unique: int, vnode: Vnode) -> None:
            """The directory that `vnode` is in: LOOKUP ".."."""
            handed(reply, unique, adopt, vnode, "lookup")

        self.regained, self.above = then(regained), then(above)

    def _build_opened(self) -> None:
        channel, files, open_flags = self._channel, self._files, self.open_flags
        fd, write, refused = channel.fd, channel.write, channel.refused
        pack = Struct("=IiQQIi").pack
        size = HEADER + OPEN_OUT.size
        direct, passed = files.direct, None if files.backing is None else files.backing.opened

        def opened(reply: Any, unique: int, vnode: Vnode) -> None:
            file, hints = (reply.file, reply) if type(reply) is Open else (reply, None)
            fh, told = files.open(vnode, file), False
            try:
                flags, backing = open_flags(hints), 0
                if passed is not None:
                    flags, backing = passed(vnode, fh, hints, flags)
                if flags & FOPEN_DIRECT_IO:
                    direct.add(fh)
                write(fd, pack(size, 0, unique, fh, flags, backing))
                told = True
            except OSError as exc:
                refused(exc, unique)
            finally:
                if not told:  # nobody waits for this open file any more
                    files.take_back(fh)

        self.opened = self._flow.then(opened)


class Answer:
    """What READDIRPLUS is answered with, `parts`, where the file server fills it (`Listing`)."""

    __slots__ = ("_namemax", "_parent", "_replies", "_room", "_told_of", "_vnodes", "parts")

    def __init__(self, replies: Replies, vnodes: VnodeTable, parent: Vnode, room: int) -> None:
        self.parts: list[bytes] = []
        self._replies = replies
        self._namemax = replies.namemax
        self._vnodes = vnodes
        self._parent = parent
        self._room = room
        self._told_of: list[Vnode] = []

    def add(self, name: bytes, entry: Entry, next: int) -> bool:
        """Add an entry, if there is room for it: see `Listing`."""
        room = self._room - direntplus_size(len(name))
        if room < 0:
            return False
        attr = entry.attr
        if attr is None:
            raise TypeError(f"the entry of {name!r} has no attributes")
        if attr.wire[TYPE_BYTE] >> 4 not in police.TYPES:
            police.attributes(attr, entry.node, "readdir")
        ino = attr.ino
        if name in _DOTS:
            head = _NO_ENTRY
        else:
            text = str(name, "utf-8", "surrogateescape")
            if not 0 < len(name) <= self._namemax or "/" in text or "\0" in text:
                police.filename(text, "readdir", self._parent.cookie, self._namemax)
            vnode = self._vnodes.adopt(entry.node, self._parent, text)
            self._told_of.append(vnode)
            head = pack_entry(vnode, attr, self._replies.lifetimes_of(entry))
            ino = ino or vnode.ino
        self.parts += head, pack_dirent(ino or UNKNOWN_INO, next, name, attr.wire[TYPE_BYTE] >> 4)
        self._room = room
        return True

    def take_back(self) -> None:
        """Nobody was told: what was counted is forgotten."""
        for vnode in self._told_of:
            self._vnodes.forget(vnode.nodeid, 1)
        self._told_of.clear()


def pack_entry(vnode: Vnode, attr: Attr, lifetimes: Lifetimes) -> bytes:
    """A `fuse_entry_out`."""
    ino = attr.ino or vnode.ino
    packed = _ENTRY.pack(vnode.nodeid, vnode.generation, *lifetimes, ino) + attr.wire
    vnode.ino = ino
    if not vnode.type:
        vnode.type = attr.type
    return packed
