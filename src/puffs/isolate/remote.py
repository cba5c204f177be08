"""What a file server in another process is to the kernel half: its operations, by message.

`Remote` is a file server like any other (`puffs.kernel.attachment.Servable`). Its cookies are what
stands for those over there (`far`). An operation returns a `Call`, to be stepped or waited for; one
that is fire and forget returns nothing.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from puffs.isolate import frames, messages
from puffs.isolate.far import Far
from puffs.isolate.frames import INLINE_MAX, Class, FrameError, Own
from puffs.isolate.messages import ROWS, Row
from puffs.isolate.peer import Call, Decode, Peer
from puffs.kernel.directory import Part
from puffs.kernel.queues import Message
from puffs.server.cred import requester
from puffs.server.operations import Operations
from puffs.server.types import Buffer, DirEntry, Entry, Lock

Pack = Callable[[int, int], bytes]
"""Packs a frame: of its id and the room for its data."""

_TYPE_SHIFT: Final = 12
"""From `st_mode` to the file type alone, as listings have it."""


class Hello(NamedTuple):
    """What a file server says of itself when it has been built."""

    name: str
    operations: frozenset[str]
    lifetimes: tuple[float, float, float]
    fhsize: int
    fhflags: int

    @classmethod
    def unpack(cls, datagram: memoryview, at: int, end: int) -> "Hello":
        """Of the body of a frame. Raises `FrameError`."""
        name, mask, lifetimes, fhsize, fhflags = messages.HELLO.unpack(datagram, at, end)
        return cls(
            messages.text_in(name),
            frozenset(op for op, bit in messages.BITS.items() if mask & bit),
            lifetimes,
            fhsize,
            fhflags,
        )


class Remote:
    """A file server in another process, reached by `peer`, of which `hello` says what it is."""

    asynchronous = True

    def __init__(self, peer: Peer, hello: Hello) -> None:
        self.known = peer.known
        self.wakes = Wakes()
        self._peer = peer
        self._implemented = hello.operations
        self.name = hello.name
        self.name_ttl, self.attr_ttl, self.negative_ttl = hello.lifetimes
        self.fhsize, self.fhflags = hello.fhsize, hello.fhflags
        self._results: Final[Mapping[str, Callable[..., Any]]] = {
            "": _nothing,
            "node": self._node,
            "entry": self._entry,
            "created": self._created,
            "open": self._open,
            "amount": int,
            "position": int,
            "events": int,
            "attr": messages.attr_in,
            "target": bytes,
            "listing": self._listing,
            "xattr": bytes,
            "bytes": bytes,
            "names": _names,
            "lock": messages.lock_in,
            "ioctl": _ioctl,
            "statvfs": messages.statvfs_in,
        }
        """What makes results of fields, by their sort."""
        self._out: Final[Mapping[str, Callable[[Any], Any]]] = {
            **messages.OUT,
            "node": _id_of,
            "file": _id_of,
            "mount": lambda mount: os.fsencode(mount.mountpoint),
            "wake": self.wakes.add,
        }

    def operations(self) -> Operations:
        """What it implements, as functions that send the message."""
        special = {
            "read": self._read,
            "write": self._write,
            "advlock": self._advlock,
            "reclaim": self._reclaim,
        }
        made: dict[str, Callable[..., Any]] = {}
        for name in self._implemented & ROWS.keys():
            faf = ROWS[name].operation.faf and name not in messages.ANSWERED
            made[name] = special.get(name, self._fire if faf else self._plain)(ROWS[name])
        if "fileid" in self._implemented:
            made["fileid"] = _fileid
        return made

    # ----------------------------------------------------------------------------------- operations

    def _packer(self, row: Row, faf: bool = False) -> Callable[..., Pack]:
        """What makes, of the arguments of an operation, that which packs its frame."""
        pack = row.request.requests(row.class_, row.type, faf=faf)
        outs = [self._out.get(sort) for sort in row.sorts]
        about_node = row.about_node

        def packer(*args: Any) -> Pack:
            values = [arg if out is None else out(arg) for out, arg in zip(outs, args, strict=True)]
            node = values.pop(0) if about_node else 0
            who = _caller()
            return lambda id_, _room: pack(id_, node, *who, *values)

        return packer

    def _plain(self, row: Row) -> Callable[..., Call]:
        peer, packer, decode = self._peer, self._packer(row), self._decode(row)
        name, kind = row.name, (row.class_, row.type)

        def operation(*args: Any) -> Call:
            self._drop()
            return Call(peer, kind, name, packer(*args), decode)

        return operation

    def _fire(self, row: Row) -> Callable[..., None]:
        peer, packer, name = self._peer, self._packer(row, faf=True), row.name

        def operation(*args: Any) -> None:
            self._drop()
            peer.fire(Message(name, packer(*args), faf=True))

        return operation

    def _read(self, row: Row) -> Callable[..., Call]:
        """What is larger than a frame comes in a room of shared memory."""
        peer, rooms = self._peer, self._peer.rooms
        pack = row.request.requests(row.class_, row.type)
        unpack, kind = row.reply.unpack, (row.class_, row.type)

        def read(node: Far, offset: int, size: int, file: Far | None) -> Call:
            self._drop()
            who, id_of_file = _caller(), _id_of(file)

            def packed(id_: int, room: int) -> bytes:
                return pack(id_, node.id, *who, offset, size, id_of_file, room)

            def decode(datagram: memoryview, at: int, end: int) -> memoryview:
                ((room, length, inline),) = unpack(datagram, at, end)
                if room < 0:
                    return memoryview(inline)
                if room != call.room or len(inline):
                    raise FrameError(f"data in room {room}, which it was not given")
                return rooms.view(room, length)

            call = Call(peer, kind, "read", packed, decode, size > INLINE_MAX)
            return call

        return read

    def _write(self, row: Row) -> Callable[..., Call]:
        """What is larger than a frame goes in a room of shared memory."""
        peer, rooms = self._peer, self._peer.rooms
        pack = row.request.requests(row.class_, row.type)
        decode, kind = self._decode(row), (row.class_, row.type)

        def write(node: Far, offset: int, data: memoryview, file: Far | None) -> Call:
            self._drop()
            who, id_of_file, length = _caller(), _id_of(file), len(data)
            image: list[Buffer] = [data]

            def packed(id_: int, room: int) -> bytes:
                if room < 0:
                    where = (-1, length, image[0])
                else:
                    rooms.view(room, length)[:] = image[0]
                    where = (room, length, b"")
                return pack(id_, node.id, *who, offset, where, id_of_file)

            def keep() -> None:
                image[0] = bytes(data)

            call = Call(peer, kind, "write", packed, decode, length > INLINE_MAX)
            call.keep = keep
            return call

        return write

    def _advlock(self, row: Row) -> Callable[..., Call]:
        """A wait for a lock may take any time; one that comes too late is given back."""
        plain = self._plain(row)

        def advlock(node: Far, op: str, lock: Lock, owner: int, file: Far | None) -> Call:
            call = plain(node, op, lock, owner, file)
            if op == "wait":
                call.endless = True
                unlock = lock._replace(type=fcntl.F_UNLCK)
                call.late = lambda _lock: self._peer.begin(plain(node, "set", unlock, owner, file))
            return call

        return advlock

    def _reclaim(self, row: Row) -> Callable[..., None]:
        """With it goes how often the node had come (2.4, 2.9)."""
        peer, pack = self._peer, row.request.requests(row.class_, row.type, faf=True)

        def reclaim(node: Far) -> None:
            told, who = self.known.give_back(node), _caller()
            peer.fire(Message("reclaim", lambda _id, _room: pack(0, node.id, *who, told), faf=True))

        return reclaim

    def _drop(self) -> None:
        """Tell the file server what is not known here any more, with whatever is sent next."""
        while self.known.any_dropped and (pairs := self.known.dropped(frames.PAIRS_MAX)):
            body = frames.pack_pairs(pairs)
            self._peer.queues.send(Message("drop", partial(_pack_drop, body), faf=True))

    # -------------------------------------------------------------------------------------- results

    def _decode(self, row: Row) -> Decode:
        """What makes the result of a reply's body."""
        unpack, result, optional = row.reply.unpack, self._results[row.result], row.optional

        def decode(datagram: memoryview, at: int, end: int) -> Any:
            fields = unpack(datagram, at, end)
            if optional:
                there, *fields = fields
                if not there:
                    return None
            return result(*fields)

        return decode

    def _node(self, fields: tuple[Any, ...]) -> Far:
        found = messages.entry_in(fields)
        return self.known.object(found.node, found.fileid)

    def _entry(self, fields: tuple[Any, ...]) -> Far | Entry:
        found = messages.entry_in(fields)
        node = self.known.object(found.node, found.fileid)
        if found.attr is None and found.name_ttl is None and found.attr_ttl is None:
            return node
        return Entry(node, found.attr, found.name_ttl, found.attr_ttl)

    def _created(self, entry: tuple[Any, ...], came: int, opened: tuple[int, int]) -> Any:
        node = self._entry(entry)
        return (node, self._open(opened)) if came else node

    def _open(self, fields: tuple[int, int]) -> Any:
        id_, bits = fields
        return messages.hints_in(bits, self.known.object(id_) if id_ else None)

    def _listing(self, fields: tuple[int, memoryview]) -> Part:
        id_, data = fields
        part = Part(self._entries(data))
        if id_:
            rest = self.known.object(id_)
            part.more = lambda: self._more(rest)
        return part

    def _entries(self, data: memoryview) -> Iterator[DirEntry]:
        for next_, ino, type_, name, entry in frames.unpack_dirents(data):
            given = self._entry(entry) if entry is not None else None
            if given is not None and not isinstance(given, Entry):
                given = Entry(given)
            yield DirEntry(os.fsdecode(name), type_ << _TYPE_SHIFT, ino, next_, given)

    def _more(self, rest: Far) -> Call:
        def packed(id_: int, _room: int) -> bytes:
            return _MORE(id_, 0, *frames.NOBODY, rest.id)

        def decode(datagram: memoryview, at: int, end: int) -> Part:
            return self._listing(*messages.MORE_REPLY.unpack(datagram, at, end))

        return Call(self._peer, (Class.OWN, Own.MORE), "readdir", packed, decode)


class Wakes:
    """What `poll` was given to be called, by the number that the file server is given for it.

    One that is never called is forgotten when `MOST` came after it.
    """

    MOST: Final = 4096

    def __init__(self) -> None:
        self._wakes: dict[int, Callable[[], object]] = {}
        self._last = 0

    def add(self, wake: Callable[[], object] | None) -> int:
        """The number of a function; 0 for none."""
        if wake is None:
            return 0
        self._last += 1
        self._wakes[self._last] = wake
        if len(self._wakes) > self.MOST:
            del self._wakes[next(iter(self._wakes))]
        return self._last

    def call(self, number: int) -> None:
        """Call the function of a number, if it was not called yet."""
        wake = self._wakes.pop(number, None)
        if wake is not None:
            wake()


_DROP: Final = messages.DROP.requests(Class.OWN, Own.DROP, faf=True)
_MORE: Final = messages.MORE.requests(Class.OWN, Own.MORE)


def _pack_drop(body: bytes, id_: int, _room: int) -> bytes:
    return _DROP(id_, 0, *frames.NOBODY, body)


def _caller() -> tuple[int, int, int]:
    """Who has asked for the operation that is being sent, as headers have it."""
    who = requester.get(None)
    if who is None:
        return frames.NOBODY
    try:
        cred = who.cred()
    except LookupError:
        return frames.NOBODY
    return cred.uid, cred.gid, cred.tid


def _id_of(thing: object) -> int:
    return thing.id if isinstance(thing, Far) else 0


def _fileid(node: Far) -> tuple[int, int]:
    """It came with the node."""
    return node.fileid


def _nothing() -> None:
    return None


def _names(data: memoryview) -> list[str]:
    names = bytes(data)
    if names and not names.endswith(b"\0"):
        raise FrameError("a list of names that ends within one")
    return [os.fsdecode(name) for name in names.split(b"\0")[:-1]]


def _ioctl(result: int, data: memoryview) -> tuple[int, bytes]:
    return result, bytes(data)
