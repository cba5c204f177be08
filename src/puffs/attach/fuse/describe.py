"""Requests and replies in words: what a trace shows of them.

`SHAPES` says for each opcode what the operation is called here (opcodes of one operation share its
name), which members of the request are worth showing and how they are written, and how the reply is
told. All of it works on bytes alone, also on those of a hostile kernel: what is cut short is left
out.
"""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final, NamedTuple

from puffs.attach.fuse.abi import (
    ATTR,
    ATTR_OUT,
    COMPAT_SETXATTR_IN,
    DIRENT,
    ENTRY_OUT,
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_CTIME,
    FATTR_GID,
    FATTR_KILL_SUIDGID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    MESSAGES,
    WRITE_OUT,
    Opcode,
    dirent_size,
)

Value = int | str
Members = Mapping[str, int]

_MODE_AT: Final = ATTR.fields["mode"][0]
_SIZE_AT: Final = ATTR.fields["size"][0]
_ENTRY_ATTR: Final = ENTRY_OUT.fields["attr_ino"][0]
_REPLY_ATTR: Final = ATTR_OUT.fields["attr_ino"][0]
_NAMELEN_AT: Final = DIRENT.fields["namelen"][0]
_u32: Final = Struct("=I").unpack_from
_u64: Final = Struct("=Q").unpack_from

# ------------------------------------------------------------------------- how members are written

_ACCESS: Final = {os.O_RDONLY: "RDONLY", os.O_WRONLY: "WRONLY", os.O_RDWR: "RDWR"}
_OPEN_FLAGS: Final = {
    os.O_APPEND: "APPEND",
    os.O_CREAT: "CREAT",
    os.O_EXCL: "EXCL",
    os.O_TRUNC: "TRUNC",
    os.O_NONBLOCK: "NONBLOCK",
    os.O_DIRECT: "DIRECT",
    os.O_DIRECTORY: "DIRECTORY",
    os.O_NOFOLLOW: "NOFOLLOW",
    os.O_NOATIME: "NOATIME",
    os.O_SYNC: "SYNC",
    os.O_DSYNC: "DSYNC",
    os.O_TMPFILE: "TMPFILE",
}
_SILENT_FLAGS: Final = 0o100000
"""O_LARGEFILE, which the kernel adds to every open of a 64-bit program."""
_FMODE_EXEC: Final = 0x20
_RENAME: Final = {1: "NOREPLACE", 2: "EXCHANGE", 4: "WHITEOUT"}
_XATTR: Final = {1: "CREATE", 2: "REPLACE"}
_FALLOCATE: Final = {
    1: "KEEP_SIZE",
    2: "PUNCH_HOLE",
    8: "COLLAPSE_RANGE",
    16: "ZERO_RANGE",
    32: "INSERT_RANGE",
    64: "UNSHARE_RANGE",
}
_WHENCE: Final = {os.SEEK_DATA: "DATA", os.SEEK_HOLE: "HOLE"}
_LOCKS: Final = {0: "READ", 1: "WRITE", 2: "UNLOCK"}
_ACCESS_MODES: Final = {os.R_OK: "R", os.W_OK: "W", os.X_OK: "X"}


def _names(flags: int, names: Mapping[int, str], none: str = "") -> str:
    """The names of bits, joined by "|"; those without a name in hexadecimal."""
    found = []
    # The largest first: O_SYNC holds O_DSYNC, and O_TMPFILE holds O_DIRECTORY.
    for bits in sorted(names, reverse=True, key=lambda bits: bits.bit_count()):
        if flags & bits == bits:
            found.append(names[bits])
            flags &= ~bits
    return "|".join([*found, hex(flags)] if flags else found) or none


def open_flags(flags: int) -> str:
    """The flags of open(2), without their O_."""
    access = _ACCESS.get(flags & os.O_ACCMODE, "3")
    rest = flags & ~os.O_ACCMODE & ~_SILENT_FLAGS
    if rest & _FMODE_EXEC:
        rest, access = rest & ~_FMODE_EXEC, "EXEC"
    more = _names(rest, _OPEN_FLAGS)
    return f"{access}|{more}" if more else access


def _octal(value: int) -> str:
    return f"{stat.S_IMODE(value):04o}"


_WRITERS: Final[dict[str, Callable[[int], Value]]] = {
    "number": lambda value: value,
    "octal": _octal,
    "hex": hex,
    "mode": lambda mode: stat.filemode(mode),
    "open": open_flags,
    "rename": lambda flags: _names(flags, _RENAME),
    "xattr": lambda flags: _names(flags, _XATTR),
    "falloc": lambda mode: _names(mode, _FALLOCATE),
    "whence": lambda whence: _WHENCE.get(whence, str(whence)),
    "lock": lambda kind: _LOCKS.get(kind, str(kind)),
    "access": lambda mask: _names(mask, _ACCESS_MODES, "F"),
    "datasync": lambda flags: "yes" if flags & 1 else "",
}
"""How the members of a request are written. An empty text is not shown."""

# --------------------------------------------------------------------------- how replies are told


def _done(_length: int, _head: bytes, _entries: int) -> str:
    return "ok"


def _attributes(head: bytes, at: int) -> str:
    if len(head) < at + ATTR.size:
        return "ok"
    (mode,), (size,) = _u32(head, at + _MODE_AT), _u64(head, at + _SIZE_AT)
    text = stat.filemode(mode)
    return text if stat.S_ISDIR(mode) else f"{text} {_bytes(size)}"


def _bytes(amount: int) -> str:
    return "1 byte" if amount == 1 else f"{amount} bytes"


def _entry(_length: int, head: bytes, _entries: int) -> str:
    if len(head) >= 8 and _u64(head)[0] == 0:
        return "no such name (to be remembered)"
    return _attributes(head, _ENTRY_ATTR)


def _attr(_length: int, head: bytes, _entries: int) -> str:
    return _attributes(head, _REPLY_ATTR)


def _amount_read(length: int, _head: bytes, _entries: int) -> str:
    return _bytes(length)


def _amount_written(_length: int, head: bytes, _entries: int) -> str:
    return _bytes(_u32(head)[0]) if len(head) >= WRITE_OUT.size else "ok"


def _copied(_length: int, head: bytes, _entries: int) -> str:
    return _bytes(_u64(head)[0]) if len(head) >= 8 else "ok"


def _listing(_length: int, _head: bytes, entries: int) -> str:
    if entries:
        return "1 name" if entries == 1 else f"{entries} names"
    return "the end"


def _target(length: int, head: bytes, _entries: int) -> str:
    return os.fsdecode(head) + ("…" if length > len(head) else "")


def _xattr(length: int, head: bytes, _entries: int) -> str:
    return _bytes(length)


def _position(_length: int, head: bytes, _entries: int) -> str:
    return str(_u64(head)[0]) if len(head) >= 8 else "ok"


# ---------------------------------------------------------------------------------------- the table


class Shape(NamedTuple):
    """What is shown of an opcode.

    `name`: of the operation. `arguments`: "MEMBER:WRITER" of the request, or "SHOWN=MEMBER:WRITER".
    `reply`: tells a reply without error. `named`: the first name in the body is one in the
    directory that the request is about. `second`: what its second name is. `other`: the member that
    holds another node id.
    """

    name: str
    arguments: str = ""
    reply: Callable[[int, bytes, int], str] = _done
    named: bool = False
    second: str = ""
    other: str = ""


_LOCK = "lock=lk_type:lock start=lk_start:number end=lk_end:number pid=lk_pid:number"
_COPY = "offset=off_in:number to_offset=off_out:number size=len:number"

SHAPES: Final[dict[int, Shape]] = {
    Opcode.LOOKUP: Shape("lookup", reply=_entry, named=True),
    Opcode.FORGET: Shape("forget", "lookups=nlookup:number"),
    Opcode.GETATTR: Shape("getattr", reply=_attr),
    Opcode.SETATTR: Shape("setattr", reply=_attr),
    Opcode.READLINK: Shape("readlink", reply=_target),
    Opcode.SYMLINK: Shape("symlink", reply=_entry, named=True, second="target"),
    Opcode.MKNOD: Shape("mknod", "mode:mode rdev:number", _entry, named=True),
    Opcode.MKDIR: Shape("mkdir", "mode:octal", _entry, named=True),
    Opcode.UNLINK: Shape("remove", named=True),
    Opcode.RMDIR: Shape("rmdir", named=True),
    Opcode.RENAME: Shape("rename", named=True, second="to", other="newdir"),
    Opcode.LINK: Shape("link", reply=_entry, named=True, other="oldnodeid"),
    Opcode.OPEN: Shape("open", "flags:open"),
    Opcode.READ: Shape("read", "offset:number size:number", _amount_read),
    Opcode.WRITE: Shape("write", "offset:number size:number", _amount_written),
    Opcode.STATFS: Shape("statvfs"),
    Opcode.RELEASE: Shape("close"),
    Opcode.FSYNC: Shape("fsync", "datasync=fsync_flags:datasync"),
    Opcode.SETXATTR: Shape("setxattr", "size:number flags:xattr"),
    Opcode.GETXATTR: Shape("getxattr", "size:number", _xattr),
    Opcode.LISTXATTR: Shape("listxattr", "size:number", _xattr),
    Opcode.REMOVEXATTR: Shape("removexattr"),
    Opcode.FLUSH: Shape("flush"),
    Opcode.INIT: Shape("init"),
    Opcode.OPENDIR: Shape("opendir"),
    Opcode.READDIR: Shape("readdir", "offset:number size:number", _listing),
    Opcode.RELEASEDIR: Shape("closedir"),
    Opcode.FSYNCDIR: Shape("fsyncdir", "datasync=fsync_flags:datasync"),
    Opcode.GETLK: Shape("advlock", _LOCK),
    Opcode.SETLK: Shape("advlock", _LOCK),
    Opcode.SETLKW: Shape("advlock", _LOCK),
    Opcode.ACCESS: Shape("access", "mode=mask:access"),
    Opcode.CREATE: Shape("create", "flags:open mode:octal", _entry, named=True),
    Opcode.INTERRUPT: Shape("interrupt"),
    Opcode.BMAP: Shape("bmap", "block:number"),
    Opcode.DESTROY: Shape("destroy"),
    Opcode.IOCTL: Shape("ioctl", "command=cmd:hex in=in_size:number out=out_size:number"),
    Opcode.POLL: Shape("poll", "events:hex"),
    Opcode.NOTIFY_REPLY: Shape("retrieved"),
    Opcode.BATCH_FORGET: Shape("forget", "nodes=count:number"),
    Opcode.FALLOCATE: Shape("fallocate", "mode:falloc offset:number length:number"),
    Opcode.READDIRPLUS: Shape("readdirplus", "offset:number size:number", _listing),
    Opcode.RENAME2: Shape("rename", "flags:rename", named=True, second="to", other="newdir"),
    Opcode.LSEEK: Shape("seek", "offset:number whence:whence", _position),
    Opcode.COPY_FILE_RANGE: Shape("copy_file_range", _COPY, _amount_written, other="nodeid_out"),
    Opcode.SETUPMAPPING: Shape("setupmapping"),
    Opcode.REMOVEMAPPING: Shape("removemapping"),
    Opcode.SYNCFS: Shape("sync"),
    Opcode.TMPFILE: Shape("tmpfile", "flags:open mode:octal", _entry),
    Opcode.STATX: Shape("getattr"),
    Opcode.COPY_FILE_RANGE_64: Shape("copy_file_range", _COPY, _copied, other="nodeid_out"),
}

OPERATIONS: Final = sorted({shape.name for shape in SHAPES.values()})
"""The names that a trace uses."""

_LOCK_STEPS: Final = {Opcode.GETLK: "get", Opcode.SETLK: "set", Opcode.SETLKW: "wait"}
_XATTR_NAMED: Final = (Opcode.SETXATTR, Opcode.GETXATTR, Opcode.REMOVEXATTR)
_WHOLE: Final = frozenset((Opcode.STATFS, Opcode.DESTROY, Opcode.INIT, Opcode.BATCH_FORGET))
"""About no single file."""

_SETATTR: Final = (
    (FATTR_MODE, "mode", "mode", _octal),
    (FATTR_UID, "uid", "uid", None),
    (FATTR_GID, "gid", "gid", None),
    (FATTR_SIZE, "size", "size", None),
    (FATTR_ATIME, "atime", "atime", None),
    (FATTR_MTIME, "mtime", "mtime", None),
    (FATTR_CTIME, "ctime", "ctime", None),
)


def operation_of(opcode: int) -> str:
    """What an opcode is called in traces and statistics."""
    shape = SHAPES.get(opcode)
    return shape.name if shape else f"opcode {opcode}"


def opcodes_of(operation: str) -> frozenset[int]:
    """The opcodes of an operation, also by the name of one of them. Empty for what there is not."""
    wanted = operation.lower()
    return frozenset(
        opcode
        for opcode, shape in SHAPES.items()
        if wanted in (shape.name, Opcode(opcode).name.lower())
    )


def error_name(code: int) -> str:
    """ENOENT for 2."""
    return errno.errorcode.get(code, f"errno {code}")


def members(opcode: int, body: bytes, ext: bool) -> tuple[dict[str, int], list[str]]:
    """The struct that begins a request, and the names behind it; what is not there is left out.

    `ext`: whether SETXATTR has the longer struct of 7.33.
    """
    try:
        message = MESSAGES[Opcode(opcode)]
    except ValueError:
        return {}, []
    layout = message.request
    if opcode == Opcode.SETXATTR and not ext:
        layout = COMPAT_SETXATTR_IN
    size = layout.size if layout is not None else 0
    if len(body) < size:
        return {}, []
    fields = layout.unpack(body) if layout is not None else {}
    if not message.names:
        return fields, []
    return fields, [os.fsdecode(name) for name in body[size:].split(b"\0")[: message.names]]


def nodes_of(opcode: int, nodeid: int, body: bytes) -> tuple[int, ...]:
    """The node ids that a request names and a trace wants the paths of."""
    shape = SHAPES.get(opcode)
    if shape is None or not shape.other:
        return (nodeid,)
    fields, _ = members(opcode, body, True)
    return (nodeid, fields[shape.other]) if fields else (nodeid,)


def subject(opcode: int, body: bytes, paths: tuple[str, ...], ext: bool) -> str:
    """The path that a request is about; `paths` are those of `nodes_of`."""
    shape = SHAPES.get(opcode)
    if shape is None or opcode in _WHOLE:
        return ""
    if opcode in (Opcode.LINK, Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64):
        return paths[1] if opcode == Opcode.LINK and len(paths) > 1 else paths[0]
    if not shape.named:
        return paths[0]
    _, names = members(opcode, body, ext)
    return join(paths[0], names[0]) if names else paths[0]


def join(directory: str, name: str) -> str:
    """The path of a name in a directory."""
    return directory + name if directory == "/" else f"{directory}/{name}"


def arguments(opcode: int, body: bytes, paths: tuple[str, ...], ext: bool) -> dict[str, Value]:
    """What else a request says, by name, as it is to be shown."""
    shape = SHAPES.get(opcode)
    if shape is None:
        return {}
    fields, names = members(opcode, body, ext)
    shown: dict[str, Value] = {}
    if opcode in _LOCK_STEPS:
        shown["op"] = _LOCK_STEPS[Opcode(opcode)]
    if opcode in _XATTR_NAMED and names:
        shown["name"] = names[0]
    if opcode == Opcode.LINK and names:
        shown["to"] = join(paths[0], names[0])
    if shape.second and len(names) > 1:
        directory = paths[1] if len(paths) > 1 else "?"
        shown[shape.second] = join(directory, names[1]) if shape.other else names[1]
    elif shape.other == "nodeid_out" and len(paths) > 1:
        shown["to"] = paths[1]
    if opcode == Opcode.SETATTR and fields:
        shown.update(_changes(fields))
    for item in shape.arguments.split() if fields else ():
        word, writer = item.split(":")
        label, _, member = word.rpartition("=")
        value = _WRITERS[writer](fields[member])
        if value != "":
            shown[label or member] = value
    return shown


def _changes(fields: Members) -> dict[str, Value]:
    valid = fields["valid"]
    shown: dict[str, Value] = {}
    for bit, label, member, write in _SETATTR:
        if valid & bit:
            shown[label] = write(fields[member]) if write else fields[member]
    for bit, label in ((FATTR_ATIME_NOW, "atime"), (FATTR_MTIME_NOW, "mtime")):
        if valid & bit:
            shown[label] = "now"
    if valid & FATTR_KILL_SUIDGID:
        shown["kill_suidgid"] = "yes"
    return shown


def outcome(opcode: int, error: int, length: int, head: bytes, entries: int) -> str:
    """How it ended: the name of the errno, or what the reply says.

    Args:
        opcode: of the request.
        error: the errno, or 0.
        length: bytes of the reply's body.
        head: the first of them.
        entries: how many names a listing has.
    """
    if error:
        return error_name(error) + (" (not implemented)" if error == errno.ENOSYS else "")
    shape = SHAPES.get(opcode)
    return shape.reply(length, head, entries) if shape else "ok"


def count_names(opcode: int, body: bytes) -> int:
    """How many names the reply to a READDIR or READDIRPLUS holds."""
    skip = ENTRY_OUT.size if opcode == Opcode.READDIRPLUS else 0
    at = count = 0
    while at + skip + DIRENT.size <= len(body):
        (namelen,) = _u32(body, at + skip + _NAMELEN_AT)
        at += skip + dirent_size(namelen)
        count += 1
    return count
