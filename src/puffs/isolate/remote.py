"""What a file server in another process is to the kernel half: its operations, by message.

`Remote` is a file server like any other (`puffs.kernel.attachment.Servable`). Its cookies are what
stands for those over there (`far`). An operation returns a `Call`, to be stepped or waited for; one
that is fire and forget returns nothing.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from puffs.isolate import frames, messages
from puffs.isolate.far import Far
from puffs.isolate.frames import FRAME_MAX, GROUPS_MAX, NO_ROOM, NOBODY, Class, FrameError, Own
from puffs.isolate.messages import ROWS, Row
from puffs.isolate.peer import Call, Decode, Kind, Peer
from puffs.kernel.directory import Part
from puffs.kernel.queues import Message
from puffs.server.cred import requester
from puffs.server.operations import Operations
from puffs.server.types import DirEntry, Entry, Lock

_TYPE_SHIFT: Final = 12
"""From `st_mode` to the file type alone, as listings have it."""


class Hello(NamedTuple):
    """What a file server says of itself when it has been built."""

    name: str
    operations: frozenset[str]
    lifetimes: tuple[float, float, float]
    fhsize: int
    fhflags: int
    posix_acl: bool
    names_for_all: bool

    @classmethod
    def unpack(cls, packet: memoryview, at: int, end: int) -> "Hello":
        """Of the body of a frame. Raises `FrameError`."""
        name, mask, lifetimes, fhsize, fhflags, *flags = messages.HELLO.unpack(packet, at, end)
        return cls(
            messages.text_in(name),
            frozenset(op for op, bit in messages.BITS.items() if mask & bit),
            lifetimes,
            fhsize,
            fhflags,
            *map(bool, flags),
        )


class Remote:
    """A file server in another process, reached by `peer`, of which `hello` says what it is."""

    asynchronous = True
    passthrough = False
    """Its descriptors are in the other process."""

    def __init__(self, peer: Peer, hello: Hello) -> None:
        self.known = peer.known
        self.wakes = Wakes()
        self._peer = peer
        self._implemented = hello.operations
        self.name = hello.name
        self.name_ttl, self.attr_ttl, self.negative_ttl = hello.lifetimes
        self.fhsize, self.fhflags = hello.fhsize, hello.fhflags
        self.posix_acl, self.names_for_all = hello.posix_acl, hello.names_for_all
        more = messages.MORE.requests(Class.OWN, Own.MORE)
        self._kind_of_more = Kind("readdir", Class.OWN, Own.MORE, more, self._decode_more)
        self._results: Final[Mapping[str, Callable[..., Any]]] = {
            "": _nothing,
            "node": self._node,
            "entry": self._entry,
            "created": self._created,
            "open": self._open,
            "data": _itself,
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
            "readdir": self._reading,
            "readlink": self._reading,
            "advlock": self._advlock,
            "close": self._close,
            "closedir": self._close,
            "reclaim": self._reclaim,
            "snapshot": self._snapshot,
            "unmount": self._unmount,
            "error": self._error,
        }
        made: dict[str, Callable[..., Any]] = {}
        for name in self._implemented & ROWS.keys():
            faf = ROWS[name].operation.faf and name not in messages.ANSWERED
            made[name] = special.get(name, self._fire if faf else self._plain)(ROWS[name])
        if "fileid" in self._implemented:
            made["fileid"] = _fileid
        return made

    # ----------------------------------------------------------------------------------- operations

    def _kind(self, row: Row) -> Kind:
        pack = row.request.requests(row.class_, row.type)
        return Kind(row.name, row.class_, row.type, pack, self._decode(row))

    def _values(self, row: Row) -> Callable[[tuple[Any, ...]], tuple[int, Sequence[Any]]]:
        """What makes fields of the arguments of an operation: of the node in the header, and of
        what is in the body.
        """
        about_node = row.about_node
        outs = [
            (at, out)
            for at, sort in enumerate(row.sorts[about_node:])
            if (out := self._out.get(sort)) is not None
        ]

        def values_of(args: tuple[Any, ...]) -> tuple[int, Sequence[Any]]:
            values = [*args]
            id_ = values.pop(0).id if about_node else 0
            for at, out in outs:
                values[at] = out(values[at])
            return id_, values

        return values_of

    def _plain(self, row: Row) -> Callable[..., Call]:
        peer, known, kind, values_of = self._peer, self.known, self._kind(row), self._values(row)
        if row.sorts == ("node", "file"):
            return self._about_file(kind)
        long = row.name in _LONG_ANSWERS
        long_values = [at for at, kind_ in enumerate(row.request.kinds) if kind_ in _LONG]

        def operation(*args: Any) -> Call:
            if known.collected:
                self._drop()
            id_, values = values_of(args)
            bulk = long
            if long_values and not bulk:
                bulk = sum(len(values[at]) for at in long_values) > SHORT
            return Call(peer, kind, id_, _caller(), values, bulk)

        return operation

    def _about_file(self, kind: Kind) -> Callable[..., Call]:
        """The same for what is asked most often: an operation of a node and an open file."""
        peer, known = self._peer, self.known

        def operation(node: Far, file: Far | None) -> Call:
            if known.collected:
                self._drop()
            return Call(peer, kind, node.id, _caller(), (0 if file is None else file.id,))

        return operation

    def _read(self, row: Row) -> Callable[..., Call]:
        """Whether a room is needed depends on how much is read."""
        peer, known, kind = self._peer, self.known, self._kind(row)

        def read(node: Far, offset: int, size: int, file: Far | None) -> Call:
            if known.collected:
                self._drop()
            values = (offset, size, 0 if file is None else file.id, _traceless())
            return Call(peer, kind, node.id, _caller(), values, size > SHORT)

        return read

    def _reading(self, row: Row) -> Callable[..., Call]:
        """With it goes whether it is to leave no trace."""
        plain = self._plain(row)
        return lambda *args: plain(*args, _traceless())

    def _fire(self, row: Row) -> Callable[..., None]:
        peer, known, values_of = self._peer, self.known, self._values(row)
        pack, about_node = row.request.requests(row.class_, row.type, faf=True), row.about_node

        def operation(*args: Any) -> None:
            if known.collected:
                self._drop()
            if about_node:
                known.about(args[0])
            id_, values = values_of(args)
            frame = pack(0, id_, *_caller(), NO_ROOM, None, *values)
            peer.fire(Message(row.name, partial(_packed, frame), faf=True))

        return operation

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

    def _snapshot(self, row: Row) -> Callable[..., Call]:
        """It may take any time."""
        plain = self._plain(row)

        def snapshot(destination: str) -> Call:
            call = plain(destination)
            call.endless = True
            return call

        return snapshot

    def _unmount(self, row: Row) -> Callable[..., Call]:
        """One that is forced waits no longer than it must: its answer is not heard (U10)."""
        plain = self._plain(row)

        def unmount(force: bool) -> Call:
            call = plain(force)
            if force:
                call.seconds = FORCED_SECONDS
            return call

        return unmount

    def _error(self, row: Row) -> Callable[..., None]:
        """With no more words than the reference has (2.4)."""
        fire = self._fire(row)

        def error(kind: str, code: int, text: str, node: object) -> None:
            fire(kind[:WORDS_MAX], code, text[:WORDS_MAX], node)

        return error

    def _close(self, row: Row) -> Callable[..., None]:
        """The file server knows by it that the open file is not known here any more."""
        fire, known = self._fire(row), self.known

        def close(node: Far, file: Far | None, *flags: int) -> None:
            if file is not None:
                known.give_back(file)
            fire(node, file, *flags)

        return close

    def _reclaim(self, row: Row) -> Callable[..., None]:
        """With it goes how often the node had come (2.4, 2.9)."""
        peer, pack = self._peer, row.request.requests(row.class_, row.type, faf=True)

        def reclaim(node: Far) -> None:
            counts = self.known.give_back(node)
            frame = pack(0, node.id, *_caller(), NO_ROOM, None, *counts)
            peer.fire(Message(row.name, partial(_packed, frame), faf=True))

        return reclaim

    def _drop(self) -> None:
        """Tell the file server what is not known here any more, with whatever is sent next."""
        while drops := self.known.dropped(frames.DROPS_MAX):
            frame = _DROP(0, 0, *NOBODY, NO_ROOM, None, frames.pack_drops(drops))
            self._peer.queues.send(Message("drop", partial(_packed, frame), faf=True))

    # -------------------------------------------------------------------------------------- results

    def _decode(self, row: Row) -> Decode:
        """What makes the result of a reply's body."""
        unpack, result = row.reply.unpack, self._results[row.result]
        if row.reply.kinds == ("attr",):
            return lambda packet, at, end, _room: messages.attr_at(packet, at, end)

        def decode(packet: memoryview, at: int, end: int, room: memoryview | None) -> Any:
            return result(*unpack(packet, at, end, room))

        def optional(packet: memoryview, at: int, end: int, room: memoryview | None) -> Any:
            there, *fields = unpack(packet, at, end, room)
            return result(*fields) if there else None

        return optional if row.optional else decode

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
        part = Part(self._entries(memoryview(bytes(data))))
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
        """Asks for the rest of a listing."""
        return Call(self._peer, self._kind_of_more, values=(rest.id,), bulk=True)

    def _decode_more(self, packet: memoryview, at: int, end: int, room: memoryview | None) -> Part:
        return self._listing(*messages.MORE_REPLY.unpack(packet, at, end, room))


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


_LONG: Final = frozenset(("text", "bytes", "data"))
"""Kinds of fields that may be too long for a frame..."""
SHORT: Final = FRAME_MAX - 512 - 4 * GROUPS_MAX
"""... and how many bytes of them are not, beside whatever else is in it."""
_LONG_ANSWERS: Final = frozenset(("readdir", "readlink", "getxattr", "listxattr", "ioctl"))

WORDS_MAX: Final = 256
"""How long the text of an `error` may be."""
FORCED_SECONDS: Final = 5.0
"""How long a forced unmount waits for a file server."""

_DROP: Final = messages.DROP.requests(Class.OWN, Own.DROP, faf=True)


def _packed(frame: bytes, _id: int, _room: int) -> bytes:
    return frame


def _caller() -> tuple[int, int, int]:
    """Who has asked for the operation that is being sent, as headers have it."""
    who = requester.get(None)
    if who is None:
        return NOBODY
    try:
        cred = who.cred()
    except LookupError:
        return NOBODY
    return cred.uid, cred.gid, cred.tid


def _traceless() -> bool:
    """Whether the read that is being sent is to move no time of access."""
    who = requester.get(None)
    return who is not None and who.noatime()


def _id_of(thing: object) -> int:
    return thing.id if isinstance(thing, Far) else 0


def _fileid(node: Far) -> tuple[int, int]:
    """It came with the node."""
    return node.fileid


def _itself(field: Any) -> Any:
    return field


def _nothing() -> None:
    return None


def _names(data: memoryview) -> list[str]:
    names = bytes(data)
    if names and not names.endswith(b"\0"):
        raise FrameError("a list of names that ends within one")
    return [os.fsdecode(name) for name in names.split(b"\0")[:-1]]


def _ioctl(result: int, data: memoryview) -> tuple[int, bytes]:
    return result, bytes(data)
