"""The values that pyfuse3 and llfuse have in common: what their handlers are given and return.

Programs make some of these for every reply. Those are compiled where puffs was, or else plain
objects (`inode_plain`), which become what puffs sends in one step, when the reply is made.
"""

import errno
import os
from collections.abc import Callable
from pickle import PicklingError
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Final, NoReturn

from puffs.attach.fuse import compiled
from puffs.refuse.inode_plain import FUSEError, State
from puffs.server.attr import Changes, StatVfs, TimedAttr
from puffs.server.cred import Cred
from puffs.server.types import Open

if TYPE_CHECKING or compiled.module(compiled.INODES) is None:
    from puffs.refuse.inode_plain import EntryAttributes, FileInfo, RequestContext
else:
    from puffs.refuse._inodes import EntryAttributes, FileInfo, RequestContext

__all__ = (
    "ENOATTR",
    "ROOT_INODE",
    "EntryAttributes",
    "FUSEError",
    "FileInfo",
    "PollHandle",
    "RequestContext",
    "SetattrFields",
    "StatvfsData",
    "attributes",
    "changed",
    "context_of",
    "get_sup_groups",
    "getxattr",
    "listdir",
    "opened",
    "setxattr",
    "size_of",
)

ENOATTR: Final = errno.ENODATA
ROOT_INODE: Final = 1

_NS: Final = 1_000_000_000
_UINT32: Final = 0xFFFFFFFF
_UINT64: Final = 0xFFFFFFFFFFFFFFFF

_pack = Struct("=QQqqqIIIIIIIIII").pack
_new_attr = TimedAttr.__new__


def context_of(cred: Cred) -> RequestContext:
    """A caller, as handlers are told of him."""
    return RequestContext(cred.uid, cred.gid, cred.tid, cred.umask)


def attributes(entry: object) -> TimedAttr:
    """What a handler has returned, as puffs sends it.

    Raises `TypeError` for anything but `EntryAttributes`.
    """
    if not isinstance(entry, EntryAttributes):
        raise TypeError(f"EntryAttributes expected, not {type(entry).__name__}")
    atime, atime_part = divmod(entry.st_atime_ns, _NS)
    mtime, mtime_part = divmod(entry.st_mtime_ns, _NS)
    ctime, ctime_part = divmod(entry.st_ctime_ns, _NS)
    attr = _new_attr(TimedAttr)  # past `__init__`, which would do this a second time
    # A size below 0 is a mistake of the program that the kernel tells of, for this file alone.
    try:
        attr.wire = bytearray(
            _pack(
                entry.st_size & _UINT64,
                entry.st_blocks & _UINT64,
                atime,
                mtime,
                ctime,
                atime_part,
                mtime_part,
                ctime_part,
                entry.st_mode,
                entry.st_nlink,
                entry.st_uid,
                entry.st_gid,
                entry.st_rdev & _UINT32,
                entry.st_blksize & _UINT32,
                0,
            )
        )
    except (StructError, TypeError):
        if not _has_fractions(entry):
            raise
        return attributes(_whole(entry))
    attr.ino = entry.st_ino
    attr.btime_ns = None
    attr.ttl = entry.attr_timeout
    return attr


_NUMBERS: Final = tuple(
    name for name in EntryAttributes.__slots__ if name not in ("attr_timeout", "entry_timeout")
)


def _has_fractions(entry: EntryAttributes) -> bool:
    """Whether a program has set what is no whole number: `time.time() * 1e9`, for one."""
    return any(isinstance(getattr(entry, name), float) for name in _NUMBERS)


def _whole(entry: EntryAttributes) -> EntryAttributes:
    """The same without fractions, which the originals cut off."""
    whole = EntryAttributes()
    whole.attr_timeout, whole.entry_timeout = entry.attr_timeout, entry.entry_timeout
    for name in _NUMBERS:
        setattr(whole, name, int(getattr(entry, name)))
    return whole


class SetattrFields:
    """Which attributes a `setattr` is to change: those whose `update_...` is true."""

    __slots__ = (
        "update_atime",
        "update_ctime",
        "update_gid",
        "update_mode",
        "update_mtime",
        "update_size",
        "update_uid",
    )

    def __init__(self) -> None:
        self.update_atime = False
        self.update_mtime = False
        self.update_ctime = False
        self.update_mode = False
        self.update_uid = False
        self.update_gid = False
        self.update_size = False

    def __getstate__(self) -> NoReturn:
        raise PicklingError("SetattrFields instances cannot be pickled")


_CHANGES: Final = (
    ("mode", "st_mode", "update_mode"),
    ("uid", "st_uid", "update_uid"),
    ("gid", "st_gid", "update_gid"),
    ("size", "st_size", "update_size"),
    ("atime_ns", "st_atime_ns", "update_atime"),
    ("mtime_ns", "st_mtime_ns", "update_mtime"),
    ("ctime_ns", "st_ctime_ns", "update_ctime"),
)
"""Members of `Changes`, `EntryAttributes` and `SetattrFields` that belong together."""


def changed(changes: Changes) -> tuple[EntryAttributes, SetattrFields]:
    """What is to be changed, as handlers are told of it."""
    entry, fields = EntryAttributes(), SetattrFields()
    entry.st_mode = 0
    for name, attribute, update in _CHANGES:
        value = getattr(changes, name)
        if value is not None:
            setattr(entry, attribute, value)
            setattr(fields, update, True)
    return entry, fields


class StatvfsData(State):
    """The size of the file system, as statvfs(3) names it."""

    __slots__ = (
        "f_bavail",
        "f_bfree",
        "f_blocks",
        "f_bsize",
        "f_favail",
        "f_ffree",
        "f_files",
        "f_frsize",
        "f_namemax",
    )

    def __init__(self) -> None:
        self.f_bsize = 0
        self.f_frsize = 0
        self.f_blocks = 0
        self.f_bfree = 0
        self.f_bavail = 0
        self.f_files = 0
        self.f_ffree = 0
        self.f_favail = 0
        self.f_namemax = 0


def size_of(data: object) -> StatVfs:
    """What `statfs` has returned, as puffs has it."""
    if not isinstance(data, StatvfsData):
        raise TypeError(f"StatvfsData expected, not {type(data).__name__}")
    return StatVfs(
        **{name.removeprefix("f_"): int(value) for name, value in data.__getstate__().items()}
    )


def opened(info: object) -> Open:
    """What `open` has returned, as puffs has it."""
    if not isinstance(info, FileInfo):
        raise TypeError(f"FileInfo expected, not {type(info).__name__}")
    return Open(
        info.fh,
        direct_io=bool(info.direct_io),
        keep_cache=bool(info.keep_cache),
        nonseekable=bool(info.nonseekable),
    )


class PollHandle:
    """Wakes who polls a file: once, when it has become ready."""

    __slots__ = ("_wake",)

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def notify(self) -> None:
        """The file may have become ready: whoever polls it looks again."""
        self._wake()

    def __getstate__(self) -> NoReturn:
        raise PicklingError("PollHandle instances cannot be pickled")


def get_sup_groups(pid: int) -> set[int]:
    """The supplementary groups of a process or thread, by `/proc`."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("Groups:"):
                return {int(word) for word in line.split()[1:]}
    raise RuntimeError(f"/proc/{pid}/status has no line for groups")


def listdir(path: str) -> list[str]:
    """`os.listdir`, for paths that are `str`."""
    _check_str(path=path)
    return os.listdir(path)


def setxattr(path: str, name: str, value: bytes, namespace: str = "user") -> None:
    """Set an extended attribute. `namespace` is for other systems than Linux."""
    _check_xattr(path, name, namespace)
    if not isinstance(value, bytes):
        raise TypeError("*value* argument must be of type bytes")
    os.setxattr(path, name, value)


def getxattr(path: str, name: str, size_guess: int = 128, namespace: str = "user") -> bytes:
    """The value of an extended attribute. `size_guess` and `namespace` make no difference here."""
    _check_xattr(path, name, namespace)
    return os.getxattr(path, name)


def _check_xattr(path: str, name: str, namespace: str) -> None:
    _check_str(path=path, name=name)
    if namespace not in ("system", "user"):
        raise ValueError(f'*namespace* parameter must be "system" or "user", not {namespace}')


def _check_str(**arguments: object) -> None:
    for name, value in arguments.items():
        if not isinstance(value, str):
            raise TypeError(f"*{name}* argument must be of type str")
