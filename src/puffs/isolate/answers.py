"""From what the operations of a file server return to the replies that are sent: in its process.

A reply is looked at here first, by the rules of the kernel half (`puffs.kernel.police`): what no
frame can hold is a fault that only this side can describe. The kernel half looks again.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from puffs.isolate import frames, messages
from puffs.isolate.frames import LISTING_MAX, FrameError
from puffs.isolate.messages import Row
from puffs.isolate.objects import NONE, Objects
from puffs.kernel import police
from puffs.server.errors import ProtocolFault, errno_of
from puffs.server.types import FHFLAG_DYNAMIC, Cookie, DirEntry, Entry

Room = memoryview | None
Args = Sequence[Any]
"""The arguments of an operation, and behind them what only its message has."""

_ABSENT: Final[Mapping[str, tuple[Any, ...]]] = {
    "attr": (messages.NO_ATTR,),
    "entry": (messages.NO_ENTRY,),
    "lock": ((0, 0, 0, 0, 0),),
}
"""The fields of a result that is None."""

_CLOSERS: Final = {"open": "close", "opendir": "closedir", "create": "close", "tmpfile": "close"}
"""What gives back what an operation has opened."""


class Answers:
    """What packs the replies of one file server: `close` gives back an open file that the kernel
    half has forgotten, by `close` or `closedir`; `handles` are its `fhsize` and `fhflags`.
    """

    def __init__(
        self,
        objects: Objects,
        close: Callable[[str, Cookie, Any], None],
        handles: tuple[int, int],
    ) -> None:
        self._objects = objects
        self._close = close
        self._fhsize, self._fhflags = handles
        self._fields: Final[Mapping[str, Callable[[Row, Any, Args], tuple[Any, ...]]]] = {
            "": lambda _row, _reply, _args: (),
            "node": self._node,
            "entry": self._entry,
            "created": self._created,
            "open": self._opened,
            "data": self._data,
            "amount": self._amount,
            "position": lambda _row, reply, args: (police.position(reply, args[0]),),
            "events": lambda _row, reply, args: (police.events(reply, args[0]),),
            "attr": self._attr,
            "target": lambda _row, reply, args: (police.target(reply, args[0]),),
            "listing": self._listing,
            "xattr": lambda row, reply, args: (police.xattr(reply, args[0], row.name),),
            "bytes": self._handle,
            "names": lambda _row, reply, args: (police.xattr_names(reply, args[0]),),
            "lock": lambda _row, reply, args: (tuple(police.lock(reply, args[0]) or ()),),
            "ioctl": lambda _row, reply, args: police.ioctl(reply, args[3], args[0]),
            "statvfs": lambda _row, reply, _args: (messages.statvfs_out(police.statvfs(reply)),),
        }

    def packer(self, row: Row) -> Callable[[int, Room, Any, Args], bytes]:
        """What packs the reply of an operation: of the id, the memory of the room that its message
        has, what it returned, and its arguments.

        Raises what `failure` takes.
        """
        pack, fields = row.reply.replies(row.class_, row.type), self._fields[row.result]
        if row.reply.kinds == ("attr",):  # the most frequent of all

            def attributes(id_: int, _room: Room, reply: Any, args: Args) -> bytes:
                attr = police.attributes(reply, args[0], row.name)
                return pack(id_, 0, None, messages.attr_out(attr))

            return attributes
        if not row.optional:
            return lambda id_, room, reply, args: pack(id_, 0, room, *fields(row, reply, args))
        absent = _ABSENT[row.result]

        def packed(id_: int, room: Room, reply: Any, args: Args) -> bytes:
            there = reply is not None
            return pack(id_, 0, room, there, *(fields(row, reply, args) if there else absent))

        return packed

    def failure(self, row: Row) -> Callable[[int, BaseException], bytes]:
        """What packs the reply of an operation that has failed, or whose reply is no good."""
        pack = messages.FAULT.replies(row.class_, row.type)

        def packed(id_: int, exc: BaseException) -> bytes:
            if isinstance(exc, FrameError):
                exc = ProtocolFault("ERROR", f"{row.name}: {exc}")
            try:
                if not isinstance(exc, ProtocolFault):
                    return pack(id_, errno_of(exc, row.name), None, _words(exc), b"", 0, NONE)
            except ProtocolFault as fault:
                exc = fault
            kind, text = os.fsencode(exc.kind), _cut(exc.text)
            return pack(id_, exc.errno, None, text, kind, exc.hint, self._named(exc.node))

        return packed

    def _named(self, node: Cookie) -> int:
        """The number of a node that a fault is about; the kernel half may not have known it."""
        try:
            return NONE if node is None else self._objects.node(node)[0]
        except Exception:  # it is no cookie, or has no `fileid`: that may be the very fault
            return NONE

    # ----------------------------------------------------------------- fields, by sort of result

    def _node(self, row: Row, reply: Any, _args: Args) -> tuple[Any, ...]:
        kind, asked, wanted = _USABLE.get(row.name, ("LOOKUP", row.name, "a cookie"))
        cookie = police.usable(reply, kind, asked, wanted)
        return (messages.entry_out(*self._objects.node(cookie)),)

    def _entry(self, row: Row, reply: Any, _args: Args) -> tuple[Any, ...]:
        return (self._entry_fields(row, reply),)

    def _entry_fields(self, row: Row, reply: Any) -> tuple[Any, ...]:
        entry = reply if type(reply) is Entry else Entry(reply)
        kind = "LOOKUP" if row.name in ("lookup", "vget", "readdir") else "MAKENODE"
        cookie = police.usable(entry.node, kind, row.name)
        attr = None
        if entry.attr is not None:
            attr = police.attributes(entry.attr, cookie, row.name)
        return messages.entry_out(*self._objects.node(cookie), attr, entry.name_ttl, entry.attr_ttl)

    def _created(self, row: Row, reply: Any, _args: Args) -> tuple[Any, ...]:
        node, opened, came = police.created(reply)
        fields = self._entry_fields(row, node)
        cookie = node.node if type(node) is Entry else node
        return fields, came, self._open_fields(row, opened, cookie)

    def _opened(self, row: Row, reply: Any, args: Args) -> tuple[Any, ...]:
        return (self._open_fields(row, reply, args[0]),)

    def _open_fields(self, row: Row, reply: Any, cookie: Cookie) -> tuple[int, int]:
        opened = police.opened(reply)
        file, closer = opened.file, _CLOSERS[row.name]
        if file is None:
            return NONE, messages.hints_out(opened)
        id_ = self._objects.other(file, lambda: self._close(closer, cookie, file))
        return id_, messages.hints_out(opened)

    def _data(self, _row: Row, reply: Any, args: Args) -> tuple[Any, ...]:
        return (police.data(reply, args[2], args[0]),)

    def _amount(self, row: Row, reply: Any, args: Args) -> tuple[Any, ...]:
        size = len(args[2]) if row.name == "write" else args[6]
        return (police.amount(reply, size, args[0], row.name),)

    def _attr(self, row: Row, reply: Any, args: Args) -> tuple[Any, ...]:
        return (messages.attr_out(police.attributes(reply, args[0], row.name)),)

    def _handle(self, _row: Row, reply: Any, args: Args) -> tuple[Any, ...]:
        dynamic = bool(self._fhflags & FHFLAG_DYNAMIC)
        return (police.handle(reply, self._fhsize, dynamic, args[0]),)

    def _listing(self, row: Row, reply: Any, args: Args) -> tuple[Any, ...]:
        return (self.part(row, args[0], self._dirents(row, reply, args[0])),)

    def part(self, row: Row, dir: Cookie, dirents: Iterator[bytes]) -> tuple[int, bytes]:
        """The next part of a listing: the number of the rest, if there is any, and the entries."""
        taken: list[bytes] = []
        size = 0
        for dirent in dirents:
            taken.append(dirent)
            size += len(dirent)
            if size + frames.DIRENT_MAX > LISTING_MAX:
                return self._objects.other((row, dir, dirents)), b"".join(taken)
        return NONE, b"".join(taken)

    def _dirents(self, row: Row, reply: Iterable[Any], cookie: Cookie) -> Iterator[bytes]:
        for item in reply:
            entry = police.entry(item, cookie)
            yield self._dirent(row, entry, cookie)

    def _dirent(self, row: Row, entry: DirEntry, cookie: Cookie) -> bytes:
        name = police.filename(entry.name, row.name, cookie)
        at_hand = None if callable(entry.entry) else entry.entry
        fields = None if at_hand is None else self._entry_fields(row, at_hand)
        try:
            return frames.pack_dirent(entry.next, entry.ino, entry.type >> 12 & 0xF, name, fields)
        except FrameError as exc:
            raise ProtocolFault("READDIR", f"readdir gave {entry!r}: {exc}", node=cookie) from None


_USABLE: Final = {"mount": ("MAKENODE", "mount()", "the cookie of the root")}


def _words(exc: BaseException) -> bytes:
    """What an error of the file server's says in words of its own."""
    text = exc.strerror if isinstance(exc, OSError) else None
    return _cut(text) if isinstance(text, str) else b""


def _cut(text: str) -> bytes:
    """Words for people, as long as the reference has them (2.4: ERROR)."""
    return text.encode("utf-8", "surrogateescape")[:WORDS_MAX]


WORDS_MAX: Final = 256
