"""What each side of an isolated file server makes of bytes of the other one, and what must be true
of it.

A decoder takes any bytes as a packet. They are refused with `FrameError`, or they are frames; and
then packing what was found gives the very same bytes, and what it means, the same meaning. Anything
else is a finding.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from puffs.isolate import frames, messages
from puffs.isolate.frames import Class, FrameError, Layout, Own
from puffs.isolate.messages import ROWS
from puffs.server.types import Open
from tests.fuzz import ends

Kind = tuple[int, int]
"""Class and type of a frame."""

OPERATIONS: Final[dict[Kind, Layout]] = {
    (row.class_, row.type): row.request for row in ROWS.values()
}
"""What the file server is asked."""
RESULTS: Final[dict[Kind, Layout]] = {(row.class_, row.type): row.reply for row in ROWS.values()}
"""What it answers."""

OWN_REQUESTS: Final[dict[Kind, Layout]] = {
    (Class.OWN, Own.DROP): messages.DROP,
    (Class.OWN, Own.INTERRUPT): messages.INTERRUPT,
    (Class.OWN, Own.MORE): messages.MORE,
    (Class.OWN, Own.PING): messages.PING,
}
OWN_RESULTS: Final[dict[Kind, Layout]] = {
    (Class.OWN, Own.HELLO): messages.HELLO,
    (Class.OWN, Own.MORE): messages.MORE_REPLY,
    (Class.OWN, Own.PING): messages.PING,
}
UPCALLS: Final[dict[Kind, Layout]] = {
    (Class.OWN, Own.WAKE): messages.WAKE,
    (Class.FLUSH, 0): messages.FLUSH,
    (Class.UNMOUNT, 0): messages.UNMOUNT,
}
"""What it asks: flush operations have any type."""
UPCALL_RESULTS: Final[dict[Kind, Layout]] = {
    (Class.FLUSH, 0): messages.FAULT,
    (Class.UNMOUNT, 0): messages.FAULT,
}

COMING: Final[Mapping[str, tuple[Mapping[Kind, Layout], Mapping[Kind, Layout]]]] = {
    "requests": (OPERATIONS | OWN_REQUESTS, UPCALL_RESULTS),
    "replies": (UPCALLS, RESULTS | OWN_RESULTS),
}
"""What comes to one side, as requests and as replies."""


def requests(data: bytes) -> None:
    """What comes to the process of the file server."""
    for packet, room in packets(data, "requests"):
        for frame in ends.served(packet, room):
            assert decode(frame, "replies", ends.ROOM) == 1, "an answer that is none"


def replies(data: bytes) -> None:
    """What comes to the kernel half."""
    for packet, room in packets(data, "replies"):
        ends.answered(packet, room)


DECODERS: Final[Mapping[str, Callable[[bytes], None]]] = {"requests": requests, "replies": replies}


def packets(data: bytes, name: str) -> Iterator[tuple[bytes, memoryview]]:
    """What of `data` is not refused: packets, and what the room of their requests has.

    What is changed at random is mostly refused for its length. So it is tried as it is, and then as
    one frame that has the right one. Behind a frame whose tail is in the room is that tail.
    """
    size = int.from_bytes(data[:4], sys.byteorder)
    if len(data) > size >= frames.REPLY_SIZE and data[5] & frames.TAIL:
        data, room = data[:size], memoryview(data[size:])
    else:
        room = memoryview(data)
    mended = len(data).to_bytes(4, sys.byteorder) + data[4:]
    for packet, behind in ((data, b"from before"), (mended, b"")):
        try:
            count = decode(packet, name, room, behind)
        except FrameError:
            continue
        if count:
            yield packet, room


def decode(data: bytes, name: str, room: memoryview, behind: bytes = b"") -> int:
    """Decode and check all frames of a packet: how many there are. Raises `FrameError`.

    `behind` is what else is in the buffer.
    """
    asked, answered = COMING[name]
    buffer = memoryview(data + behind)
    lone = frames.lone_request(buffer, len(data)) or frames.lone_reply(buffer, len(data))
    count = 0
    for at, end in frames.split(buffer, len(data)):
        if data[at + 5] & frames.RESPONSE:
            head: frames.Request | frames.Reply = _reply(buffer, at, end, room, answered)
        else:
            head = _request(buffer, at, end, room, asked)
        assert lone in (head, None), "another header on the short way"
        count += 1
    return count


def _request(
    buffer: memoryview, at: int, end: int, room: memoryview, layouts: Mapping[Kind, Layout]
) -> frames.Request:
    class_, type_, id_, *rest, tail = head = frames.request(buffer, at, end)
    layout = _layout(class_, type_, layouts)
    pack = partial(layout.requests(class_, type_, faf=id_ == 0), id_, *rest, SCRATCH)
    _check(layout, pack, buffer[at:], frames.REQUEST_SIZE, end - at, room if tail else None)
    return head


def _reply(
    buffer: memoryview, at: int, end: int, room: memoryview, layouts: Mapping[Kind, Layout]
) -> frames.Reply:
    class_, type_, id_, rv, tail = head = frames.reply(buffer, at, end)
    layout = messages.FAULT if rv else _layout(class_, type_, layouts)
    pack = partial(layout.replies(class_, type_), id_, rv, SCRATCH)
    _check(layout, pack, buffer[at:], frames.REPLY_SIZE, end - at, room if tail else None)
    return head


SCRATCH: Final = memoryview(bytearray(frames.DATA_MAX))
"""Memory of a room, for what is packed here."""


def _layout(class_: int, type_: int, layouts: Mapping[Kind, Layout]) -> Layout:
    layout = layouts.get((class_, 0 if class_ == Class.FLUSH else type_))
    if layout is None:
        raise FrameError("nothing that is sent here")
    return layout


def _check(
    layout: Layout,
    pack: Callable[..., bytes],
    buffer: memoryview,
    size: int,
    end: int,
    room: memoryview | None,
) -> None:
    """Check the body of a frame, which has a header of `size` bytes; `pack` packs one like it."""
    fields = layout.unpack(buffer, size, end, room)
    again = pack(*fields)
    if room is None:
        assert again == buffer[:end], "other bytes than there were"
    else:  # which a frame may have room for
        assert again[size:end] == buffer[size:end], "other numbers than there were"
        assert _tails(_unpacked(layout, again, size)) == _tails(fields), "another tail"
    if layout is messages.DROP:
        drops = frames.unpack_drops(fields[0])
        assert frames.pack_drops(drops) == fields[0], "other objects than there were"
        return
    packed = pack(*_meant(layout, fields))
    fields = _unpacked(layout, packed, size)
    assert pack(*_meant(layout, fields)) == packed, "another meaning the second time"


def _unpacked(layout: Layout, packed: bytes, size: int) -> Sequence[Any]:
    room = SCRATCH if packed[5] & frames.TAIL else None
    return layout.unpack(memoryview(packed), size, len(packed), room)


def _tails(fields: Sequence[Any]) -> list[memoryview]:
    """What of the fields has no fixed length."""
    parts = [field[-1] if isinstance(field, tuple) else field for field in fields]
    return [part for part in parts if isinstance(part, memoryview)]


def _meant(layout: Layout, fields: Sequence[Any]) -> list[Any]:
    """Fields with the same meaning: of the values that these stand for."""
    return [MEANINGS[kind](field) for kind, field in zip(layout.kinds, fields, strict=True)]


def _same(field: Any) -> Any:
    return field


def _flag(field: int) -> int:
    assert field in (0, 1), "a flag that is neither"
    return field


def _cred(fields: tuple[Any, ...]) -> tuple[Any, ...]:
    cred = messages.cred_out(messages.cred_in(fields))
    assert cred[5] == fields[5], "something else is known"
    return cred


def _changes(fields: tuple[int, ...]) -> tuple[int, ...]:
    changes = messages.changes_out(messages.changes_in(fields))
    assert changes[0] == fields[0], "other changes"
    return changes


def _entry(fields: tuple[Any, ...]) -> tuple[Any, ...]:
    found = messages.entry_in(fields)
    assert found.node, "an entry without a node"
    entry = messages.entry_out(*found)
    assert entry[:4] == fields[:4], "another entry"
    return entry


def _open(fields: tuple[int, int]) -> tuple[int, int]:
    _, bits = fields
    hints = messages.hints_in(bits, None)
    assert bits == (messages.hints_out(hints) if isinstance(hints, Open) else 0), "other hints"
    return fields


def _listing(field: tuple[int, memoryview]) -> tuple[int, bytes]:
    rest, data = field
    listed = frames.unpack_dirents(data)
    assert b"".join(frames.pack_dirent(*dirent) for dirent in listed) == data, "other entries"
    return rest, b"".join(
        frames.pack_dirent(next_, ino, type_, name, None if entry is None else _entry(entry))
        for next_, ino, type_, name, entry in listed
    )


MEANINGS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "unsigned": _same,
    "signed": _same,
    "flag": _flag,
    "text": lambda field: os.fsencode(messages.text_in(field)),
    "bytes": bytes,
    "data": bytes,
    "cred": _cred,
    "attr": lambda field: messages.attr_out(messages.attr_in(field)),
    "changes": _changes,
    "lock": lambda field: tuple(messages.lock_in(field)),
    "entry": _entry,
    "open": _open,
    "statvfs": lambda field: messages.statvfs_out(messages.statvfs_in(field)),
    "listing": _listing,
    "names": bytes,
    "lifetimes": _same,
}
"""From a field to the value that it stands for and back, by its kind."""
