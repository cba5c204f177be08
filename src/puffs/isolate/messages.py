"""The messages of the operation table as frames: a number and two layouts for each operation.

What both sides need is here: the table, and the values that are no objects of the file server's,
as fields have them. Cookies and open files cross as numbers: `remote` has those of the kernel half,
`objects` those of the file server.
"""

import os
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, Final, NamedTuple

from puffs.isolate.frames import (
    ATTR_SIZE,
    GROUPS_MAX,
    Class,
    FrameError,
    Layout,
    pack_groups,
    unpack_groups,
)
from puffs.isolate.lines import harmless
from puffs.server.attr import WIRE_SIZE, Attr, Changes, StatVfs
from puffs.server.cred import Cred
from puffs.server.operations import OPERATIONS, Kind, Operation
from puffs.server.types import HINTS, Lock, Open

CLASSES: Final = {
    Kind.VFS: Class.VFS,
    Kind.VN: Class.VN,
    Kind.SUSPEND: Class.SUSPEND,
    Kind.ERROR: Class.ERROR,
}

NODES: Final = frozenset(("node", "dir", "newdir", "to"))
"""Arguments that are cookies."""

_SORTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(NODES, "node"),
    **dict.fromkeys(("file", "to_file"), "file"),
    **dict.fromkeys(("name", "newname", "target", "destination", "kind", "text", "op"), "text"),
    **dict.fromkeys(("value", "fid"), "bytes"),
    **dict.fromkeys(("wait", "force", "datasync"), "flag"),
    **dict.fromkeys(("owner", "ino"), "unsigned"),
    "attr": "attr",
    "changes": "changes",
    "cred": "cred",
    "data": "data",
    "lock": "lock",
    "mount": "mount",
    "wake": "wake",
}
"""The sort of an argument, by its name; numbers have none of their own."""

_OTHER_SORTS: Final = {("ioctl", "data"): "bytes"}

_KINDS: Final = {"node": "unsigned", "file": "unsigned", "wake": "unsigned", "mount": "text"}
"""The kind of field of a sort, where that is not its name."""

_RESULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "": (),
    "node": ("entry",),
    "entry": ("entry",),
    "created": ("entry", "flag", "open"),
    "open": ("open",),
    "data": ("data",),
    "amount": ("unsigned",),
    "position": ("unsigned",),
    "events": ("unsigned",),
    "attr": ("attr",),
    "target": ("text",),
    "listing": ("listing",),
    "xattr": ("bytes",),
    "bytes": ("bytes",),
    "names": ("names",),
    "lock": ("lock",),
    "ioctl": ("signed", "bytes"),
    "statvfs": ("statvfs",),
}
"""The fields of each sort of result; one that may be None has a flag before them."""

FAULT: Final = Layout("text", "text", "unsigned", "unsigned")
"""What comes with an errno: the words of the file server; for a bad reply that has been noticed on
its side also the kind of fault, the errno hint, and the node (2.7).
"""


class Row(NamedTuple):
    """One operation as a message.

    `sorts` are those of its arguments; the first one, if it is a node, stands in the header.
    `request` has the rest, and behind them what only its message has: of `reclaim` how often the
    node had been told of, and how many messages without an answer were about it; of reads whether
    they are to leave no trace.
    """

    operation: Operation
    class_: Class
    type: int
    sorts: tuple[str, ...]
    about_node: bool
    request: Layout
    result: str
    optional: bool
    reply: Layout

    @property
    def name(self) -> str:
        """The operation."""
        return self.operation.name


READS: Final = frozenset(("read", "readdir", "readlink"))
"""What moves times of access, unless its message says otherwise (`Requester.noatime`)."""

_BEHIND: Final = {"reclaim": ("unsigned", "unsigned"), **dict.fromkeys(READS, ("flag",))}

ANSWERED: Final = frozenset(("unmounted",))
"""Fire and forget to a file server in this process, and answered by one elsewhere: these are the
last words, and what comes next is the end of its process.
"""

ASKED: Final = frozenset(OPERATIONS) - {"fileid"}
"""What is sent: the numbers of files come with their nodes."""


def _row(number: int, operation: Operation) -> Row:
    sorts = tuple(
        _OTHER_SORTS.get((operation.name, arg)) or _SORTS.get(arg, "signed")
        for arg in operation.args
    )
    about_node = bool(sorts) and sorts[0] == "node"
    kinds = [_KINDS.get(sort, sort) for sort in sorts[about_node:]]
    result = operation.returns.removesuffix("?")
    optional = operation.returns.endswith("?")
    return Row(
        operation,
        CLASSES[operation.kind],
        number,
        sorts,
        about_node,
        Layout(*kinds, *_BEHIND.get(operation.name, ())),
        result,
        optional,
        Layout(*(("flag",) if optional else ()), *_RESULTS.get(result, ())),
    )


ROWS: Final[Mapping[str, Row]] = {
    name: _row(number, operation)
    for number, (name, operation) in enumerate(OPERATIONS.items(), 1)
    if name in ASKED
}
BY_TYPE: Final[Mapping[int, Row]] = {row.type: row for row in ROWS.values()}

BITS: Final[Mapping[str, int]] = {name: 1 << bit for bit, name in enumerate(OPERATIONS)}
"""What a file server implements, as bits of a number."""

HELLO: Final = Layout("text", "unsigned", "lifetimes", "unsigned", "unsigned", "flag", "flag")
"""Name, operations by their bits, lifetimes, `fhsize`, `fhflags`, `posix_acl`, `names_for_all`."""
DROP: Final = Layout("bytes")
INTERRUPT: Final = Layout("unsigned")
MORE: Final = Layout("unsigned")
MORE_REPLY: Final = Layout("listing")
PING: Final = Layout()
WAKE: Final = Layout("unsigned")
FLUSH: Final = Layout("unsigned", "unsigned", "flag", "text")
"""Start, end, whether a name follows; its operation is the type, its node is in the header."""
UNMOUNT: Final = Layout("flag")


# Values that are no objects of the file server's, to fields and back.

_NO_TIME: Final = -(1 << 63)
_NS: Final = 1_000_000_000
NO_ATTR: Final = (0, 0, bytes(WIRE_SIZE))
assert WIRE_SIZE == ATTR_SIZE

_PID, _GROUPS = 1, 2


def cred_out(cred: Cred) -> tuple[Any, ...]:
    """What is known of a caller; the rest is looked up where it is asked for."""
    pid, groups = cred.known()
    known = (_PID if pid is not None else 0) | (
        _GROUPS if groups is not None and len(groups) <= GROUPS_MAX else 0
    )
    return (
        cred.uid,
        cred.gid,
        cred.tid,
        cred.umask,
        pid or 0,
        known,
        pack_groups(groups) if groups is not None and known & _GROUPS else b"",
    )


def cred_in(fields: tuple[Any, ...]) -> Cred:
    """A caller, of the field."""
    uid, gid, tid, umask, pid, known, groups = fields
    if known & ~(_PID | _GROUPS):
        raise FrameError("a caller of whom more is known than there is")
    return Cred(
        uid,
        gid,
        tid,
        umask,
        pid=pid if known & _PID else None,
        groups=unpack_groups(groups) if known & _GROUPS else None,
    )


def attr_out(attr: Attr) -> tuple[int, int, bytes | bytearray]:
    """Attributes as a field."""
    btime = attr.btime_ns
    return attr.ino, _NO_TIME if btime is None else btime, attr.wire


def attr_in(fields: tuple[int, int, bytes | memoryview]) -> Attr:
    """Attributes, of the field. The file type is for the kernel half to police."""
    ino, btime, wire = fields
    try:
        return Attr.of_wire(wire, ino, None if btime == _NO_TIME else btime)
    except ValueError as exc:
        raise FrameError(str(exc)) from None


_ATTR_NUMBERS: Final = Struct("=Qq")
_ATTR_SIZE: Final = _ATTR_NUMBERS.size + ATTR_SIZE


def attr_at(packet: memoryview, at: int, end: int) -> Attr:
    """`attr_in` of a body that has nothing else, as most replies are."""
    if end - at != _ATTR_SIZE:
        raise FrameError(f"a body of {end - at} bytes, where {_ATTR_SIZE} belong")
    ino, btime = _ATTR_NUMBERS.unpack_from(packet, at)
    return attr_in((ino, btime, packet[at + _ATTR_NUMBERS.size : end]))


_CHANGES: Final = ("mode", "uid", "gid", "size", "atime_ns", "mtime_ns", "ctime_ns")
_SIGNS: Final = ("atime_now", "mtime_now", "kill_suidgid")
_CHANGE_BITS: Final = {name: 1 << bit for bit, name in enumerate((*_CHANGES, *_SIGNS))}


def changes_out(changes: Changes) -> tuple[int, ...]:
    """Changes as a field."""
    mask = 0
    values = []
    for name in _CHANGES:
        value = getattr(changes, name)
        mask |= _CHANGE_BITS[name] if value is not None else 0
        values.append(value or 0)
    for name in _SIGNS:
        mask |= _CHANGE_BITS[name] if getattr(changes, name) else 0
    return (mask, *values)


def changes_in(fields: tuple[int, ...]) -> Changes:
    """Changes, of the field."""
    mask, *values = fields
    if mask >> len(_CHANGE_BITS):
        raise FrameError(f"changes {mask:#x}, which are more than there are")
    changes = Changes()
    for name, value in zip(_CHANGES, values, strict=True):
        if mask & _CHANGE_BITS[name]:
            setattr(changes, name, value)
    for name in _SIGNS:
        setattr(changes, name, bool(mask & _CHANGE_BITS[name]))
    return changes


def lock_in(fields: tuple[int, ...]) -> Lock:
    """A lock, of the field."""
    type_, start, end, pid, flock = fields
    return Lock(type_, start, end, pid, bool(flock))


_STATVFS: Final = StatVfs.__slots__


def statvfs_out(st: StatVfs) -> tuple[int, ...]:
    """The size of a file system as a field."""
    return tuple(getattr(st, name) for name in _STATVFS)


def statvfs_in(fields: tuple[int, ...]) -> StatVfs:
    """The size of a file system, of the field."""
    return StatVfs(**dict(zip(_STATVFS, fields, strict=True)))


def hints_out(hints: Open) -> int:
    """How a host is to treat an open file, as bits: of `HINTS`, from the lowest on.

    A `backing_fd` is a number of another process here, and means nothing.
    """
    return sum(1 << bit for bit, name in enumerate(HINTS) if getattr(hints, name))


def hints_in(bits: int, file: object) -> Open | object:
    """The open `file` with its hints; the file alone where there are none."""
    if bits >> len(HINTS):
        raise FrameError(f"hints {bits:#x} for an open file, which are more than there are")
    if not bits:
        return file
    return Open(file, **{name: True for bit, name in enumerate(HINTS) if bits >> bit & 1})


_HAS_ATTR, _HAS_NAME_TTL, _HAS_ATTR_TTL = 1, 2, 4


def entry_out(
    node: int,
    fileid: tuple[int, int],
    attr: Attr | None = None,
    name_ttl: float | None = None,
    attr_ttl: float | None = None,
) -> tuple[Any, ...]:
    """An entry as a field: the number of its node, and what comes with it."""
    has = (
        (_HAS_ATTR if attr is not None else 0)
        | (_HAS_NAME_TTL if name_ttl is not None else 0)
        | (_HAS_ATTR_TTL if attr_ttl is not None else 0)
    )
    attrs = NO_ATTR if attr is None else attr_out(attr)
    return (has, node, *fileid, *attrs, name_ttl or 0.0, attr_ttl or 0.0)


NO_ENTRY: Final = (0, 0, 0, 0, *NO_ATTR, 0.0, 0.0)


class EntryIn(NamedTuple):
    """An entry as it came."""

    node: int
    fileid: tuple[int, int]
    attr: Attr | None
    name_ttl: float | None
    attr_ttl: float | None


def entry_in(fields: tuple[Any, ...]) -> EntryIn:
    """An entry, of the field."""
    has, node, ino, generation, number, btime, wire, name_ttl, attr_ttl = fields
    if has & ~(_HAS_ATTR | _HAS_NAME_TTL | _HAS_ATTR_TTL):
        raise FrameError(f"an entry with {has:#x}, which is more than there is")
    if not node:
        raise FrameError("an entry without a node")
    return EntryIn(
        node,
        (ino, generation),
        attr_in((number, btime, wire)) if has & _HAS_ATTR else None,
        name_ttl if has & _HAS_NAME_TTL else None,
        attr_ttl if has & _HAS_ATTR_TTL else None,
    )


def words_in(field: memoryview) -> str:
    """Words for people, who may read them on a terminal."""
    return harmless(bytes(field).decode("utf-8", "backslashreplace"))


def text_in(field: memoryview) -> str:
    """A name or a path."""
    return os.fsdecode(bytes(field))


OUT: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": os.fsencode,
    "cred": cred_out,
    "attr": attr_out,
    "changes": changes_out,
    "lock": tuple,
    "flag": bool,
}
"""Arguments of these sorts become fields by a function; those of others are what they are, or are
objects.
"""

IN: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": text_in,
    "bytes": bytes,
    "cred": cred_in,
    "attr": attr_in,
    "changes": changes_in,
    "lock": lock_in,
    "flag": bool,
}
"""The way back."""
