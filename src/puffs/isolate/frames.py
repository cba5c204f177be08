"""The frames between the kernel half and a file server in another process, as bytes.

A frame is a header and a body, and no longer than what a pipe takes as one (PIPE_BUF, pipe(7)).
Frames travel in packets of a pipe, one or more in each; both sides are on one machine, so that
numbers have its byte order, without padding. Nothing here knows what a message means, does input or
output, or raises anything but `FrameError` for bytes that are no frame: the other side may be
hostile.

A body is described by a `Layout`, a list of kinds (`FIELDS`). First come the numbers of all its
fields, then, in the same order, what has no fixed length: the tail, bytes whose number stands among
the numbers. A tail for which a frame is too short is not in the frame, but in memory that both
sides share: in the room that a request says it has.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NamedTuple

Bytes = bytes | bytearray | memoryview

VERSION: Final = 1
"""Of everything in this file. Both sides must have the same one."""

FRAME_MAX: Final = 4096
"""Bytes of a packet, and so of a frame, at most."""

BUFFER_SIZE: Final = FRAME_MAX + 1
"""Of what packets are received into: a longer one, which is cut there, is then seen to be one."""

FAF: Final = 0x10
"""In the class of a frame: fire and forget, so there is no reply, and the id is 0 (Q1)."""
RESPONSE: Final = 0x20
"""In the class of a frame: it answers the frame with that id."""
TAIL: Final = 0x40
"""In the class of a frame: its tail is in the room of the request."""
NO_ROOM: Final = -1
"""In place of the number of a room: a request has none."""


class FrameError(ValueError):
    """These bytes are no frame that may be sent here: says why."""


class Class(IntEnum):
    """The class of a message, numbered as the reference does (2.3); 0 is for what only the two
    sides of the socket have to say to each other.
    """

    OWN = 0
    VFS = 1
    VN = 2
    ERROR = 4
    FLUSH = 5
    SUSPEND = 6
    UNMOUNT = 7


_REQUESTS: Final = frozenset(class_ | flags for class_ in Class for flags in (0, FAF, TAIL))
_REPLIES: Final = frozenset(class_ | RESPONSE | tail for class_ in Class for tail in (0, TAIL))


class Own(IntEnum):
    """The types of class OWN."""

    HELLO = 1
    """The file server has been built: what it is and has. Or why it has not."""
    DROP = 2
    """Objects that are not known on this side any more, and how often each had been told of."""
    INTERRUPT = 3
    """Nobody waits for the answer to that id any more."""
    MORE = 4
    """The next part of a listing."""
    PING = 5
    """Is there anybody who reads?"""
    WAKE = 6
    """What `poll` was asked to tell has happened."""


# length, version, class, type, id; of requests also the node, uid, gid and tid of the caller, and
# the room; of replies the return value: 0 or an errno.
_REQUEST: Final = "=IBBHQQIIIi"
_REPLY: Final = "=IBBHQq"
_unpack_request: Final = Struct(_REQUEST).unpack_from
_unpack_reply: Final = Struct(_REPLY).unpack_from
_unpack_length: Final = Struct("=I").unpack_from
REQUEST_SIZE: Final = Struct(_REQUEST).size
REPLY_SIZE: Final = Struct(_REPLY).size

NOBODY: Final = (0xFFFFFFFF, 0xFFFFFFFF, 0)
"""In place of a caller (uid, gid, tid): the kernel half itself asks."""


class Field(NamedTuple):
    """A kind of field: the `struct` codes of its numbers, the longest that may follow them, and
    which of the numbers are 0 or 1.
    """

    codes: str
    most: int | None = None
    flags: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """How many values it has in all."""
        return len(_numbers(self.codes)) + (self.most is not None)


def _numbers(codes: str) -> list[str]:
    """The codes of single members: "Q80s" has two."""
    members, digits = [], ""
    for code in codes:
        if code.isdigit():
            digits += code
        else:
            members.append(digits + code)
            digits = ""
    return members


def _images(codes: str) -> list[int]:
    """Which members are bytes, of which `struct` would take any number."""
    return [at for at, code in enumerate(_numbers(codes)) if code.endswith("s")]


TEXT_MAX: Final = 4096
BYTES_MAX: Final = 1 << 16
DATA_MAX: Final = 1 << 20
LISTING_MAX: Final = 1 << 16
GROUPS_MAX: Final = 256
ATTR_SIZE: Final = 80
"""Bytes of the wire image of attributes."""

_ATTR: Final = f"Qq{ATTR_SIZE}s"

FIELDS: Final[dict[str, Field]] = {
    "unsigned": Field("Q"),
    "signed": Field("q"),
    "flag": Field("B", flags=(0,)),
    "text": Field("", TEXT_MAX),
    "bytes": Field("", BYTES_MAX),
    "data": Field("", DATA_MAX),
    # uid, gid, tid, umask, pid, which of pid and groups are known; the groups.
    "cred": Field("IIIIiB", 4 * GROUPS_MAX),
    # ino, time of birth, wire image.
    "attr": Field(_ATTR),
    # Which are set, mode, uid, gid, size, atime, mtime, ctime.
    "changes": Field("HIIIQqqq"),
    # type, start, end, pid, flock.
    "lock": Field("iqqiB", flags=(4,)),
    # What it has; node, fileid: ino and generation; attributes; lifetimes of name and attributes.
    "entry": Field(f"BQQI{_ATTR}dd"),
    # File, hints.
    "open": Field("QH"),
    "statvfs": Field("Q" * 10),
    # What is still to come, or 0; the entries.
    "listing": Field("Q", LISTING_MAX),
    "names": Field("", BYTES_MAX),
    # ttl of names, attributes, absent names.
    "lifetimes": Field("ddd"),
}


Request = tuple[int, int, int, int, int, int, int, int, int]
"""The header of a frame that asks: class, without what is joined to it; type, id, node; uid, gid,
tid; room; TAIL or 0.
"""
Reply = tuple[int, int, int, int, int]
"""The header of a frame that answers: class, type, id, return value, TAIL or 0."""


def split(datagram: Bytes, length: int) -> Iterator[tuple[int, int]]:
    """Where each frame of a packet of `length` bytes begins and ends.

    Raises `FrameError`, after what is well, at the first that is not whole, or too short to be one;
    and at once for a packet that was cut, which MSG_TRUNC (recv(2)) or `BUFFER_SIZE` tells.
    """
    if length > FRAME_MAX or length > len(datagram):
        room = min(FRAME_MAX, len(datagram))
        raise FrameError(f"a packet of {length} bytes, where {room} have room")
    return _split(datagram, length)


def _split(datagram: Bytes, length: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < length:
        if length - at < REPLY_SIZE:
            raise FrameError(f"{length - at} bytes, which are no frame")
        (size,) = _unpack_length(datagram, at)
        if not REPLY_SIZE <= size <= length - at:
            raise FrameError(f"a frame that is said to have {size} bytes, with {length - at} there")
        yield at, at + size
        at += size


_PLAIN: Final = 0xF
"""What of a class is left without what is joined to it."""


def request(datagram: Bytes, at: int, end: int) -> Request:
    """The header of a frame that asks; `REQUEST_SIZE` behind `at` its body begins.

    Raises `FrameError`.
    """
    if end - at < REQUEST_SIZE:
        raise FrameError(f"a request of {end - at} bytes, where {REQUEST_SIZE} belong at least")
    _, version, class_, type_, id_, node, uid, gid, tid, room = _unpack_request(datagram, at)
    if version != VERSION or class_ not in _REQUESTS:
        raise _refused(version, class_, "request")
    if bool(class_ & FAF) != (id_ == 0):
        raise FrameError(f"a request of class {class_:#x} with the id {id_}")
    return class_ & _PLAIN, type_, id_, node, uid, gid, tid, room, class_ & TAIL


def reply(datagram: Bytes, at: int, end: int) -> Reply:
    """The header of a frame that answers; `REPLY_SIZE` behind `at` its body begins.

    Raises `FrameError`.
    """
    if end - at < REPLY_SIZE:
        raise FrameError(f"a reply of {end - at} bytes, where {REPLY_SIZE} belong at least")
    _, version, class_, type_, id_, rv = _unpack_reply(datagram, at)
    if version != VERSION or class_ not in _REPLIES:
        raise _refused(version, class_, "reply")
    return class_ & _PLAIN, type_, id_, rv, class_ & TAIL


def lone_request(datagram: Bytes, length: int) -> Request | None:
    """The header of a packet that is one frame that asks, as most of them are; None for anything
    else, which `split` and `request` tell about.
    """
    if not REQUEST_SIZE <= length <= FRAME_MAX:
        return None
    size, version, class_, type_, id_, *rest = _unpack_request(datagram)
    if size != length or version != VERSION or class_ not in _REQUESTS:
        return None
    if bool(class_ & FAF) != (id_ == 0):
        return None
    return (class_ & _PLAIN, type_, id_, *rest, class_ & TAIL)


def lone_reply(datagram: Bytes, length: int) -> Reply | None:
    """The header of a packet that is one frame that answers, as most of them are; None for
    anything else, which `split` and `reply` tell about.
    """
    if not REPLY_SIZE <= length <= FRAME_MAX:
        return None
    size, version, class_, type_, id_, rv = _unpack_reply(datagram)
    if size != length or version != VERSION or class_ not in _REPLIES:
        return None
    return class_ & _PLAIN, type_, id_, rv, class_ & TAIL


def _refused(version: int, class_: int, wanted: str) -> FrameError:
    if version != VERSION:
        return FrameError(f"a frame of version {version}, where {VERSION} is spoken")
    return FrameError(f"a frame of class {class_:#x}, where a {wanted} belongs")


# What `struct`, `len` and `memoryview` raise for values of another type, or out of range.
_UNFIT: Final = (StructError, TypeError, ValueError, OverflowError, BufferError)


def _unfit(exc: Exception, what: str) -> FrameError:
    return exc if isinstance(exc, FrameError) else FrameError(f"{exc}, in {what}")


class Layout:
    """The body of a message: its fields, by the names of their kinds in `FIELDS`.

    The value of a field is its number, or its bytes, or where it has several of these a tuple.
    """

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds
        fields = [FIELDS[kind] for kind in kinds]
        self._fields = [(field.width, field.most) for field in fields]
        self._codes = ""
        self._flags: list[int] = []
        self._images: list[int] = []
        for field in fields:
            first = len(_numbers(self._codes))
            self._flags += [first + at for at in field.flags]
            self._images += [first + at for at in _images(field.codes)]
            self._codes += field.codes + ("I" if field.most is not None else "")
        self._fixed = Struct("=" + self._codes)
        self._plain = not self._flags and all(width == 1 for width, _ in self._fields)
        self._plain &= all(most is None for _, most in self._fields)
        # One field of several numbers, as attributes are: the most frequent reply of all.
        self._single = len(fields) == 1 and fields[0].width > 1 and fields[0].most is None

    def requests(self, class_: int, type_: int, *, faf: bool = False) -> Callable[..., bytes]:
        """What packs a request of this body: of id, node, uid, gid, tid, room, the memory of that
        or None, then the values.

        Raises `FrameError` for a value that does not fit its field, and for an id where none
        belongs, or none where one does.
        """
        return self._packer(_REQUEST, class_ | (FAF if faf else 0), type_, 5, faf)

    def replies(self, class_: int, type_: int) -> Callable[..., bytes]:
        """What packs a reply of this body: of id, return value, the memory of the room that the
        request has or None, then the values. Raises `FrameError` for one that does not fit.
        """
        return self._packer(_REPLY, class_ | RESPONSE, type_, 1, None)

    def _packer(
        self, header: str, class_: int, type_: int, own: int, faf: bool | None
    ) -> Callable[..., bytes]:
        struct = Struct(header + self._codes)
        pack, size, flatten, check = struct.pack, struct.size, self._flatten, self._check
        images, flags = self._images, self._flags

        def plain_request(
            id_: int, node: int, uid: int, gid: int, tid: int, room: int, _: Any, *values: Any
        ) -> bytes:
            if bool(id_) is faf:
                raise FrameError(f"a request of class {class_:#x} with the id {id_}")
            try:
                return pack(size, VERSION, class_, type_, id_, node, uid, gid, tid, room, *values)
            except _UNFIT as exc:
                raise _unfit(exc, f"a body of {self.kinds}") from None

        def plain_reply(id_: int, rv: int, _: Any, *values: Any) -> bytes:
            try:
                return pack(size, VERSION, class_, type_, id_, rv, *values)
            except _UNFIT as exc:
                raise _unfit(exc, f"a body of {self.kinds}") from None

        def single(id_: int, *values: Any) -> bytes:
            if bool(id_) is faf:
                raise FrameError(f"a request of class {class_:#x} with the id {id_}")
            numbers = values[-1] if values else None
            if not isinstance(numbers, tuple):
                raise FrameError(f"{numbers!r:.80}, where several values belong")
            try:
                frame = pack(size, VERSION, class_, type_, id_, *values[:own], *numbers)
                for at in images:
                    if len(numbers[at]) != ATTR_SIZE:
                        raise FrameError(f"attributes of {len(numbers[at])} bytes")
                if flags:
                    check(numbers)
            except _UNFIT as exc:
                raise _unfit(exc, f"a body of {self.kinds}") from None
            return frame

        def general(id_: int, *values: Any) -> bytes:
            if bool(id_) is faf:
                raise FrameError(f"a request of class {class_:#x} with the id {id_}")
            try:
                numbers, tail, length = flatten(values[own + 1 :])
                check(numbers)
                whole = size + length
                if whole <= FRAME_MAX:
                    head = pack(whole, VERSION, class_, type_, id_, *values[:own], *numbers)
                    return b"".join((head, *tail))
                _put(tail, length, values[own])
                return pack(size, VERSION, class_ | TAIL, type_, id_, *values[:own], *numbers)
            except _UNFIT as exc:
                raise _unfit(exc, f"a body of {self.kinds}") from None

        if self._plain:
            return plain_request if faf is not None else plain_reply
        return single if self._single else general

    def _flatten(self, values: Sequence[Any]) -> tuple[list[Any], list[Any], int]:
        """All numbers; what follows them, and its length."""
        if len(values) != len(self._fields):
            raise FrameError(f"{len(values)} values, where {len(self._fields)} belong")
        numbers: list[Any] = []
        tail: list[Any] = []
        length = 0
        for (width, most), value in zip(self._fields, values, strict=True):
            parts = value if width > 1 else (value,)
            if not isinstance(parts, tuple) or len(parts) != width:
                raise FrameError(f"{value!r:.80}, where {width} values belong")
            if most is None:
                numbers += parts
                continue
            rest = parts[-1]
            if type(rest) is not bytes:
                # What is bytes-like counts by its items, which may have several bytes each.
                view = memoryview(rest)
                rest = view.cast("B") if view.nbytes else b""
            size = len(rest)
            if size > most:
                raise FrameError(f"{size} bytes, where {most} have room")
            numbers += parts[:-1]
            numbers.append(size)
            tail.append(rest)
            length += size
        return numbers, tail, length

    def _check_flags(self, numbers: Sequence[Any]) -> None:
        for at in self._flags:
            if numbers[at] > 1:
                raise FrameError(f"{numbers[at]} where 0 or 1 belongs")

    def _check(self, numbers: Sequence[Any]) -> None:
        """What `struct` lets through: flags of 2, and images that it would cut or fill up."""
        self._check_flags(numbers)
        for at in self._images:
            if len(numbers[at]) != ATTR_SIZE:
                raise FrameError(f"attributes of {len(numbers[at])} bytes")

    def unpack(
        self, datagram: memoryview, start: int, end: int, room: memoryview | None = None
    ) -> Sequence[Any]:
        """The values of a body, with its tail in the memory `room` if it is not in the frame.

        What has no fixed length is a view. The other side may go on writing to a room: what is
        there must be copied before it is looked at. Raises `FrameError` unless the body has exactly
        the length that its fields say.
        """
        fixed = self._fixed
        rest = end - start - fixed.size
        if rest < 0 or (rest and (self._plain or self._single)):
            raise FrameError(f"a body of {end - start} bytes, where {fixed.size} belong")
        numbers = fixed.unpack_from(datagram, start)
        if self._plain:
            return numbers
        if self._flags:
            self._check_flags(numbers)
        if self._single:
            return (numbers,)
        if room is None:
            return self._gather(numbers, datagram, end - rest, end)
        if rest:
            raise FrameError(f"{rest} bytes behind a body whose tail is elsewhere")
        return self._gather(numbers, room, 0, None)

    def _gather(
        self, numbers: tuple[Any, ...], source: memoryview, at: int, end: int | None
    ) -> list[Any]:
        """The values of fields, of their numbers and what is in `source` from `at` up to `end`;
        None: as far as it goes.
        """
        values: list[Any] = []
        most_of_all = len(source) if end is None else end
        next_ = 0
        for width, most in self._fields:
            parts = numbers[next_ : next_ + width]
            next_ += width
            if most is not None:
                length = parts[-1]
                if length > most or length > most_of_all - at:
                    raise FrameError(f"{length} bytes, where {min(most, most_of_all - at)} are")
                parts = (*parts[:-1], source[at : at + length])
                at += length
            values.append(parts[0] if width == 1 else parts)
        if end is not None and at != end:
            raise FrameError(f"{end - at} bytes too many")
        return values


def _put(tail: Sequence[Any], length: int, room: memoryview | None) -> None:
    """Write a tail into the memory of a room."""
    if room is None or length > len(room):
        raise FrameError(f"{length} bytes, for which a frame has no room")
    at = 0
    for part in tail:
        size = len(part)
        room[at : at + size] = part
        at += size


# Records: several of one kind in the bytes of a field.

_ENTRY: Final = Struct("=" + FIELDS["entry"].codes)
(_IMAGE,) = _images(FIELDS["entry"].codes)
_DIRENT: Final = Struct("=qQBBH")
_TYPE_MAX: Final = 0o17
DIRENT_MAX: Final = _DIRENT.size + TEXT_MAX + _ENTRY.size


def pack_dirent(
    next_: int, ino: int, type_: int, name: bytes, entry: tuple[Any, ...] | None
) -> bytes:
    """One entry of a listing: `type_` is the file type of `st_mode`, shifted down by 12 (readdir(3)
    has it so), `entry` as in FIELDS.

    Raises `FrameError` for what does not fit.
    """
    try:
        if type_ > _TYPE_MAX or type(name) is not bytes or len(name) > TEXT_MAX:
            raise FrameError(f"the type {type_:#o} and the name {name!r:.80}")
        head = _DIRENT.pack(next_, ino, type_, entry is not None, len(name)) + name
        if entry is None:
            return head
        packed = _ENTRY.pack(*entry)
        if len(entry[_IMAGE]) != ATTR_SIZE:
            raise FrameError(f"attributes of {len(entry[_IMAGE])} bytes")
        return head + packed
    except _UNFIT as exc:
        raise _unfit(exc, "an entry of a listing") from None


def unpack_dirents(data: memoryview) -> list[tuple[int, int, int, bytes, Any]]:
    """The entries of a listing, as `pack_dirent` takes them. Raises `FrameError`."""
    entries: list[tuple[int, int, int, bytes, Any]] = []
    at, end = 0, len(data)
    while at < end:
        if end - at < _DIRENT.size:
            raise FrameError("a listing that ends within an entry")
        next_, ino, type_, has_entry, length = _DIRENT.unpack_from(data, at)
        at += _DIRENT.size
        if type_ > _TYPE_MAX or length > TEXT_MAX or has_entry > 1:
            raise FrameError("a listing with an entry that is none")
        if length + has_entry * _ENTRY.size > end - at:
            raise FrameError("a listing that ends within an entry")
        name = bytes(data[at : at + length])
        at += length
        entry = None
        if has_entry:
            entry = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
        entries.append((next_, ino, type_, name, entry))
    return entries


_DROP: Final = Struct("=QII")
DROPS_MAX: Final = 192


def pack_drops(drops: Sequence[tuple[int, int, int]]) -> bytes:
    """Objects, how often each was told of, and how many messages without an answer were about it:
    `DROPS_MAX` at most. Raises `FrameError`.
    """
    return _pack_each(_DROP, drops, DROPS_MAX, "objects")


def unpack_drops(data: memoryview) -> list[tuple[int, int, int]]:
    """The same back. Raises `FrameError`."""
    return _unpack_each(_DROP, data, DROPS_MAX, "objects")


_GROUP: Final = Struct("=I")


def pack_groups(groups: Sequence[int]) -> bytes:
    """Supplementary groups, `GROUPS_MAX` at most. Raises `FrameError`."""
    return _pack_each(_GROUP, [(group,) for group in groups], GROUPS_MAX, "groups")


def unpack_groups(data: memoryview) -> tuple[int, ...]:
    """The same back. Raises `FrameError`."""
    return tuple(group for (group,) in _unpack_each(_GROUP, data, GROUPS_MAX, "groups"))


def _pack_each(struct: Struct, records: Sequence[tuple[int, ...]], most: int, what: str) -> bytes:
    if len(records) > most:
        raise FrameError(f"{len(records)} {what}, where {most} have room")
    try:
        return b"".join([struct.pack(*record) for record in records])
    except _UNFIT as exc:
        raise _unfit(exc, what) from None


def _unpack_each(struct: Struct, data: memoryview, most: int, what: str) -> list[Any]:
    if len(data) % struct.size or len(data) > most * struct.size:
        raise FrameError(f"{len(data)} bytes of {what}, which have {struct.size} each")
    return [struct.unpack_from(data, at) for at in range(0, len(data), struct.size)]
