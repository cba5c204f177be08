"""From what programs tell of a file, a dict that is named as stat(2) names things, to `Attr`."""

from collections.abc import Callable, Mapping
from errno import EIO
from os import strerror
from stat import S_IFMT
from struct import Struct, error
from typing import Any, Final

from puffs.server.attr import WIRE, Attr, StatVfs

_NS: Final = 1_000_000_000
_pack = WIRE.pack
_new = Attr.__new__
_TYPES: Final = frozenset((1, 2, 4, 6, 8, 10, 12))

Told = Mapping[str, Any]
"""Attributes as a program tells them: what is not there is 0."""

WHOLE: Final = frozenset(
    ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_atime", "st_mtime", "st_ctime")
)
"""A dict with these in it is all there is to know of a file."""


def in_nanoseconds(told: Told) -> Attr:
    """Attributes with times in nanoseconds (`use_ns`)."""
    get = told.get
    atime, atime_part = divmod(int(get("st_atime", 0)), _NS)
    mtime, mtime_part = divmod(int(get("st_mtime", 0)), _NS)
    ctime, ctime_part = divmod(int(get("st_ctime", 0)), _NS)
    return _attr(told, atime, mtime, ctime, atime_part, mtime_part, ctime_part)


def in_seconds(told: Told) -> Attr:
    """Attributes with times in seconds, whole or not."""
    get = told.get
    atime, mtime, ctime = get("st_atime", 0), get("st_mtime", 0), get("st_ctime", 0)
    whole_atime, whole_mtime, whole_ctime = int(atime // 1), int(mtime // 1), int(ctime // 1)
    return _attr(
        told,
        whole_atime,
        whole_mtime,
        whole_ctime,
        int((atime - whole_atime) * 1e9),
        int((mtime - whole_mtime) * 1e9),
        int((ctime - whole_ctime) * 1e9),
    )


def _attr(told: Told, *times: int) -> Attr:
    """Attributes with these times: whole seconds of each, then nanoseconds of each.

    Raises `OSError` (EIO) for a mode without a file type, `TypeError` for what is no number.
    """
    get = told.get
    mode = get("st_mode", 0)
    numbers = (mode, get("st_nlink", 0), get("st_uid", 0), get("st_gid", 0))
    rest = (get("st_rdev", 0), get("st_blksize", 0), 0)
    size, blocks = get("st_size", 0), get("st_blocks", 0)
    try:
        wire = _pack(size, blocks, *times, *numbers, *rest)
    except error:
        wire = _fitted(WIRE, (size, blocks, *times, *numbers, *rest))
    if mode >> 12 & 15 not in _TYPES:
        raise OSError(EIO, strerror(EIO))  # as the kernel says
    attr = _new(Attr)
    attr.wire = bytearray(wire)
    attr.ino = get("st_ino", 0)
    attr.btime_ns = None
    return attr


_BITS: Final = {"Q": 64, "q": 64, "I": 32}


def _fitted(struct: Struct, numbers: tuple[Any, ...]) -> bytes:
    """Numbers cut to the size of their fields, as C does it: -1 is the largest there is."""
    fitted = []
    for code, number in zip(struct.format.strip("="), numbers, strict=True):
        if not isinstance(number, int):
            raise TypeError(f"{number!r} stands where a whole number is needed")
        bits = _BITS[code]
        number &= (1 << bits) - 1
        fitted.append(number - (1 << bits) if code == "q" and number >> (bits - 1) else number)
    return struct.pack(*fitted)


def shown_as(show: Callable[[int, int, int], tuple[int, int, int]], attr: Attr) -> Attr:
    """The same file with another mode, owner and group."""
    mode, attr.uid, attr.gid = show(attr.mode, attr.uid, attr.gid)
    attr.mode = S_IFMT(attr.mode) | (mode & 0o7777)
    return attr


def sizes(told: Told) -> StatVfs:
    """What `statfs` tells of the file system, named as statvfs(3) names it: what is not there is 0.

    `f_frsize` without which there are no units is then `f_bsize`.
    """
    get = told.get
    return StatVfs(
        bsize=get("f_bsize", 0),
        frsize=get("f_frsize", 0) or get("f_bsize", 0),
        blocks=get("f_blocks", 0),
        bfree=get("f_bfree", 0),
        bavail=get("f_bavail", 0),
        files=get("f_files", 0),
        ffree=get("f_ffree", 0),
        favail=get("f_favail", 0),
        namemax=get("f_namemax", 0),
    )
