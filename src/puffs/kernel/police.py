"""Policing (statement 2.7): no reply of a file server is believed before it was looked at.

Each function takes what an operation returned and gives back what an attachment may pass on, or
raises `ProtocolFault`: the caller then gets EPROTO, the file server is told, and the mount goes on.
"""

import os
from collections.abc import Iterable
from errno import E2BIG, EINVAL, ENAMETOOLONG
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK
from typing import Final

from puffs.kernel.vnode import Vnode
from puffs.server.attr import TYPE_BYTE, Attr, StatVfs, as_attr
from puffs.server.cred import Cred
from puffs.server.errors import ProtocolFault
from puffs.server.types import Buffer, Cookie, DirEntry, Entry, Lock, Open

NAME_MAX: Final = 255
LINK_MAX: Final = 4095
XATTR_MAX: Final = 65536

TYPES: Final = frozenset(
    type_ >> 12 for type_ in (S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK)
)
"""File types as `Attr.wire` has them, in the upper half of `TYPE_BYTE`."""


def node(reply: object, parent: Vnode, operation: str) -> tuple[Cookie, Attr | None, Entry | None]:
    """What `lookup`, `create` and their like return: the cookie, attributes if they came with it,
    and the `Entry`.

    None is no cookie (R8, N4), and a file is not its own parent (N3).
    """
    if type(reply) is Entry:
        cookie, entry = reply.node, reply
        attr = None if reply.attr is None else attributes(reply.attr, cookie, operation)
    else:
        cookie, attr, entry = reply, None, None
    try:
        hash(cookie)
        sound = cookie is not None
    except TypeError:
        sound = False
    if not sound or cookie == parent.cookie:
        kind = "LOOKUP" if operation == "lookup" else "MAKENODE"
        usable(cookie, kind, operation)
        raise ProtocolFault(
            kind, f"{operation} returned the cookie of the directory itself", node=cookie
        )
    return cookie, attr, entry


def usable(cookie: Cookie, kind: str, operation: str, wanted: str = "a cookie") -> Cookie:
    """A cookie: anything hashable but None (S6, R8, N4).

    If it is not, that is a fault of this `kind`, told in terms of what `operation` was asked for.
    """
    if cookie is None:
        raise ProtocolFault(kind, f"{operation} returned None instead of {wanted}")
    try:
        hash(cookie)
    except TypeError:
        raise ProtocolFault(
            kind, f"{operation} returned {cookie!r}, which is not hashable and can be no cookie"
        ) from None
    return cookie


def created(reply: object) -> tuple[object, object, bool]:
    """What `create` and `tmpfile` return: the node, what `open` would return, and whether that came
    with it.
    """
    if type(reply) is tuple and len(reply) == 2:
        return reply[0], reply[1], True
    return reply, None, False


def opened(reply: object) -> Open:
    """What `open` and `opendir` return, as an `Open`."""
    return reply if isinstance(reply, Open) else Open(reply)


def attributes(reply: object, cookie: Cookie, operation: str) -> Attr:
    """What `getattr` and `setattr` return; the mode must name a file type."""
    try:
        attr = reply if type(reply) is Attr else as_attr(reply)
    except TypeError as exc:
        raise ProtocolFault("ERROR", f"{operation}: {exc}", node=cookie) from None
    if attr.wire[TYPE_BYTE] >> 4 not in TYPES:
        raise ProtocolFault(
            "MAKENODE",
            f"{operation} gave the mode {attr.mode:#o}, which names no file type: stat.S_IFREG,"
            " stat.S_IFDIR or the like is to be added",
            node=cookie,
        )
    return attr


def data(reply: object, size: int, cookie: Cookie) -> Buffer:
    """What `read` returns: bytes-like, and no more than were asked for (N12)."""
    if type(reply) is not bytes:
        try:
            reply = memoryview(reply).cast("B")  # type: ignore[arg-type]
        except TypeError:
            raise ProtocolFault(
                "READ", f"read returned {type(reply).__name__}, not bytes", node=cookie
            ) from None
    if len(reply) > size:
        raise ProtocolFault(
            "READ", f"read returned {len(reply)} bytes where {size} were asked for", E2BIG, cookie
        )
    return reply


def amount(reply: object, size: int, cookie: Cookie, operation: str = "write") -> int:
    """What `write` and `copy_file_range` return: how many of `size` bytes were taken (N13)."""
    if type(reply) is not int:
        raise ProtocolFault(
            "WRITE", f"{operation} returned {reply!r}, not the number of bytes written", node=cookie
        )
    if not 0 <= reply <= size:
        raise ProtocolFault(
            "WRITE", f"{operation} returned {reply} where {size} bytes were given", EINVAL, cookie
        )
    return reply


def position(reply: object, cookie: Cookie) -> int:
    """What `seek` returns: an offset."""
    if type(reply) is not int or not 0 <= reply < 1 << 63:
        raise ProtocolFault("ERROR", f"seek returned {reply!r}, which is no offset", node=cookie)
    return reply


def target(reply: object, cookie: Cookie) -> bytes:
    """What `readlink` returns: not empty, no NUL, at most 4095 bytes (N11)."""
    if not isinstance(reply, str | bytes | os.PathLike):
        raise ProtocolFault(
            "READLINK", f"readlink returned {type(reply).__name__}, not str", node=cookie
        )
    text = os.fsencode(reply)
    if not 0 < len(text) <= LINK_MAX or b"\0" in text:
        raise ProtocolFault(
            "READLINK",
            f"readlink returned {len(text)} bytes; 1 to {LINK_MAX} without NUL are possible",
            node=cookie,
        )
    return text


def filename(name: object, operation: str, cookie: Cookie, longest: int = NAME_MAX) -> bytes:
    """A name in a directory: `str`, not empty, at most `longest` bytes, without "/" and NUL."""
    if not isinstance(name, str):
        raise ProtocolFault(
            "READDIR", f"{operation} gave the name {name!r}, which is not str", node=cookie
        )
    raw = os.fsencode(name)
    if len(raw) > longest:
        raise ProtocolFault(
            "READDIR",
            f"{operation} gave a name of {len(raw)} bytes: {name[:40]!r}...",
            ENAMETOOLONG,
            cookie,
        )
    if not raw or b"/" in raw or b"\0" in raw:
        raise ProtocolFault(
            "READDIR", f"{operation} gave the impossible name {name!r}", node=cookie
        )
    return raw


def entry(reply: object, cookie: Cookie) -> DirEntry:
    """One item that `readdir` yields: a `DirEntry`, or a bare name."""
    if type(reply) is DirEntry:
        return reply
    if isinstance(reply, str):
        return DirEntry(reply)
    raise ProtocolFault("READDIR", f"readdir yielded {reply!r}, which is no DirEntry", node=cookie)


def xattr(reply: object, cookie: Cookie, operation: str) -> bytes:
    """The value of an extended attribute: bytes-like, at most 64 KiB."""
    value = _bytes(reply, "GETEXTATTR", operation, cookie)
    if len(value) > XATTR_MAX:
        raise ProtocolFault("GETEXTATTR", f"{operation} returned {len(value)} bytes", E2BIG, cookie)
    return value


def xattr_names(reply: object, cookie: Cookie) -> bytes:
    """What `listxattr` yields, as listxattr(2) lays it out: each name followed by NUL."""
    if isinstance(reply, str | bytes) or not isinstance(reply, Iterable):
        raise ProtocolFault(
            "LISTEXTATTR", f"listxattr returned {type(reply).__name__}, not names", node=cookie
        )
    listed = list(reply)
    for name in listed:
        if not isinstance(name, str | bytes) or not name or "\0" in os.fsdecode(name):
            raise ProtocolFault("LISTEXTATTR", f"listxattr gave the name {name!r}", node=cookie)
    names = [os.fsencode(name) for name in listed]
    listing = b"".join(name + b"\0" for name in names)
    if len(listing) > XATTR_MAX:
        raise ProtocolFault(
            "LISTEXTATTR", f"listxattr gave {len(listing)} bytes of names", E2BIG, cookie
        )
    return listing


def visible(names: bytes, cred: Cred) -> bytes:
    """Of a listing of extended attributes what `cred` may see: "trusted." is the superuser's.

    [xattr(7)]
    """
    if b"trusted." not in names or cred.superuser:
        return names
    return b"".join(
        name + b"\0" for name in names.split(b"\0")[:-1] if not name.startswith(b"trusted.")
    )


def handle(reply: object, size: int, dynamic: bool, cookie: Cookie) -> bytes:
    """What `nodetofh` returns: `size` bytes, or up to so many if `dynamic` (H5, H7, H8)."""
    fid = _bytes(reply, "VPTOFH", "nodetofh", cookie)
    if len(fid) > size:
        raise ProtocolFault(
            "VPTOFH",
            f"nodetofh returned a handle of {len(fid)} bytes, where `fhsize` is {size}",
            E2BIG,
            cookie,
        )
    if len(fid) < size and not dynamic:
        raise ProtocolFault(
            "VPTOFH",
            f"nodetofh returned a handle of {len(fid)} bytes, where all have {size}: with"
            " `fhflags = puffs.FHFLAG_DYNAMIC` they may be shorter",
            node=cookie,
        )
    return fid


def ioctl(reply: object, size: int, cookie: Cookie) -> tuple[int, bytes]:
    """What `ioctl` returns, the result, at most `size` bytes, or both: as a pair."""
    match reply:
        case int():
            result, data = reply, b""
        case (int() as result, bytes() as data):
            pass
        case bytes():
            result, data = 0, reply
        case _:
            raise ProtocolFault(
                "ERROR", f"ioctl returned {reply!r}, not int, bytes or a pair of them", node=cookie
            )
    if len(data) > size:
        raise ProtocolFault("ERROR", f"ioctl returned {len(data)} bytes for {size}", E2BIG, cookie)
    return result, data


def events(reply: object, cookie: Cookie) -> int:
    """What `poll` returns: bits of poll(2)."""
    if not isinstance(reply, int) or not 0 <= reply < 1 << 32:
        raise ProtocolFault("ERROR", f"poll returned {reply!r}, which is no events", node=cookie)
    return reply


def lock(reply: object, cookie: Cookie) -> Lock | None:
    """What `advlock` returns: a `Lock`, or None where nothing is in the way."""
    if reply is None or (isinstance(reply, Lock) and all(type(n) is int for n in reply[:4])):
        return reply
    raise ProtocolFault("ERROR", f"advlock returned {reply!r}, which is no Lock", node=cookie)


def statvfs(reply: object) -> StatVfs:
    """What `statvfs` returns."""
    if isinstance(reply, StatVfs):
        return reply
    if isinstance(reply, os.statvfs_result):
        return StatVfs.from_statvfs(reply)
    raise ProtocolFault("ERROR", f"statvfs returned {type(reply).__name__}, not puffs.StatVfs")


def _bytes(reply: object, kind: str, operation: str, cookie: Cookie) -> bytes:
    """A reply that has to be bytes-like, as bytes of our own."""
    try:
        return bytes(memoryview(reply))  # type: ignore[arg-type]  # what is none raises
    except TypeError:
        raise ProtocolFault(
            kind, f"{operation} returned {type(reply).__name__}, not bytes", node=cookie
        ) from None
