"""Makes the seeds in `corpus`, a frame for each body: `python -m tests.fuzz.seeds`."""

import errno
import sys
from collections.abc import Iterator
from typing import Any, Final

from puffs.isolate import frames, messages
from puffs.isolate.frames import Class, Layout, Own
from puffs.isolate.messages import ROWS
from tests.fuzz import ends
from tests.fuzz.decoders import (
    DECODERS,
    OPERATIONS,
    OWN_REQUESTS,
    OWN_RESULTS,
    RESULTS,
    UPCALL_RESULTS,
    UPCALLS,
    Kind,
)
from tests.fuzz.runs import CORPUS
from tests.wire.fields import FIELDS

ENTRY: Final = FIELDS["entry"][0]
LISTING: Final = b"".join(
    (
        frames.pack_dirent(0, 0, 0o10, b"bare", None),
        frames.pack_dirent(2, 17, 0o4, b"full", ENTRY),
    )
)
VALUES: Final[dict[str, Any]] = {
    **{kind: value for kind, (value, _, _) in FIELDS.items()},
    "unsigned": ends.OPENED,
    "signed": 0,
    "listing": (3, LISTING),
}

WHO: Final = (ends.NODE, *ends.WHO)


def _values(layout: Layout) -> list[Any]:
    return [VALUES[kind] for kind in layout.kinds]


def _distinct(layouts: dict[Kind, Layout]) -> Iterator[tuple[str, Kind, Layout]]:
    """One for each body; a name, class and type, and what it has."""
    known = set()
    for kind, layout in layouts.items():
        if layout.kinds not in known:
            known.add(layout.kinds)
            yield f"{kind[0]}.{kind[1]}", kind, layout


def _in_the_room(frame: bytes, layout: Layout) -> bytes:
    """A frame whose tail is in the room, and behind it what is there."""
    tails = [VALUES[kind] for kind in layout.kinds if frames.FIELDS[kind].most is not None]
    length = sum(len(tail[-1] if isinstance(tail, tuple) else tail) for tail in tails)
    size = (len(frame) - length).to_bytes(4, sys.byteorder)
    return size + frame[4:5] + bytes([frame[5] | frames.TAIL]) + frame[6:]


def requests() -> Iterator[tuple[str, bytes]]:
    """What comes to the process of the file server."""
    asked = OPERATIONS | OWN_REQUESTS
    del asked[Class.OWN, Own.DROP]
    for label, kind, layout in _distinct(asked):
        yield label, layout.requests(*kind)(7, *WHO, *_values(layout))
    write = ROWS["write"]
    made = write.request.requests(write.class_, write.type)(7, *WHO, *_values(write.request))
    yield "room", _in_the_room(made, write.request)
    drop = messages.DROP.requests(Class.OWN, Own.DROP, faf=True)
    dropped = drop(0, *WHO, frames.pack_drops([(5, 1, 0), (6, 2, 1)]))
    yield "drop", dropped
    yield "two", dropped + messages.PING.requests(Class.OWN, Own.PING)(8, *WHO)
    for label, kind, layout in _distinct(UPCALL_RESULTS):
        yield f"up{label}", layout.replies(*kind)(7, errno.EBUSY, None, *_values(layout))


def replies() -> Iterator[tuple[str, bytes]]:
    """What comes to the kernel half."""
    for label, kind, layout in _distinct(RESULTS | OWN_RESULTS):
        yield label, layout.replies(*kind)(7, 0, None, *_values(layout))
    for label, operation in (("room", "readdir"), ("names", "listxattr")):
        row = ROWS[operation]
        made = row.reply.replies(row.class_, row.type)(7, 0, None, *_values(row.reply))
        yield label, _in_the_room(made, row.reply)
    fault = messages.FAULT.replies(Class.VN, 12)
    yield "fault", fault(7, errno.EIO, None, *_values(messages.FAULT))
    for label, kind, layout in _distinct(UPCALLS):
        yield f"up{label}", layout.requests(*kind)(7, *WHO, *_values(layout))


SEEDS: Final = {"requests": requests, "replies": replies}
assert SEEDS.keys() == DECODERS.keys()


def text(name: str) -> str:
    """A file of seeds."""
    return "".join(f"{label} {frame.hex()}\n" for label, frame in SEEDS[name]())


def main() -> None:
    for name in SEEDS:
        (CORPUS / f"{name}.hex").write_text(text(name))


if __name__ == "__main__":
    main()
