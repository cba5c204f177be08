"""What each side of an isolated file server makes of bytes of the other one, and what must be true
of it.

A decoder takes any bytes as a datagram. They are refused with `FrameError`, or they are frames; and
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
    for datagram in _decoded(data, "requests"):
        for frame in ends.served(datagram):
            assert decode(frame, "replies") == 1, "an answer that is none"


def replies(data: bytes) -> None:
    """What comes to the kernel half."""
    for datagram in _decoded(data, "replies"):
        ends.answered(datagram)


DECODERS: Final[Mapping[str, Callable[[bytes], None]]] = {"requests": requests, "replies": replies}


def _decoded(data: bytes, name: str) -> Iterator[bytes]:
    """What is changed at random is mostly refused for its length. So it is tried as it is, and then
    as one frame that has the right one. What is not refused is yielded.
    """
    mended = len(data).to_bytes(4, sys.byteorder) + data[4:]
    for datagram, behind in ((data, b"from before"), (mended, b"")):
        try:
            count = decode(datagram, name, behind)
        except FrameError:
            continue
        if count:
            yield datagram


def decode(data: bytes, name: str, behind: bytes = b"") -> int:
    """Decode and check all frames of a datagram: how many there are. Raises `FrameError`.

    `behind` is what else is in the buffer.
    """
    asked, answered = COMING[name]
    buffer = memoryview(data + behind)
    count = 0
    for at, end in frames.split(buffer, len(data)):
        if data[at + 5] & frames.RESPONSE:
            _reply(buffer, at, end, answered)
        else:
            _request(buffer, at, end, asked)
        count += 1
    return count


def _request(buffer: memoryview, at: int, end: int, layouts: Mapping[Kind, Layout]) -> None:
    class_, type_, id_, *rest = frames.request(buffer, at, end)
    layout = _layout(class_, type_, layouts)
    pack = partial(layout.requests(class_, type_, faf=id_ == 0), id_, *rest)
    _check(layout, pack, frames.REQUEST_SIZE, buffer, at, end)


def _reply(buffer: memoryview, at: int, end: int, layouts: Mapping[Kind, Layout]) -> None:
    class_, type_, id_, rv = frames.reply(buffer, at, end)
    layout = messages.FAULT if rv else _layout(class_, type_, layouts)
    pack = partial(layout.replies(class_, type_), id_, rv)
    _check(layout, pack, frames.REPLY_SIZE, buffer, at, end)


def _layout(class_: int, type_: int, layouts: Mapping[Kind, Layout]) -> Layout:
    layout = layouts.get((class_, 0 if class_ == Class.FLUSH else type_))
    if layout is None:
        raise FrameError("nothing that is sent here")
    return layout


def _check(
    layout: Layout, pack: Callable[..., bytes], size: int, buffer: memoryview, at: int, end: int
) -> None:
    """Check the body of a frame, which has a header of `size` bytes; `pack` packs one like it."""
    fields = layout.unpack(buffer, at + size, end)
    assert pack(*fields) == buffer[at:end], "other bytes than there were"
    if layout is messages.DROP:
        pairs = frames.unpack_pairs(fields[0])
        assert frames.pack_pairs(pairs) == fields[0], "other objects than there were"
        return
    again = pack(*_meant(layout, fields))
    fields = layout.unpack(memoryview(again), size, len(again))
    assert pack(*_meant(layout, fields)) == again, "another meaning the second time"


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
    "data": _same,
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
