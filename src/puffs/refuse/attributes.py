"""From what programs tell of a file, a dict that is named as stat(2) names things, to `Attr`."""

from collections.abc import Callable, Mapping
from errno import EIO
from functools import partial
from os import strerror
from stat import S_IFMT
from struct import error
from typing import Any, Final

from puffs.attach.fuse import compiled
from puffs.refuse.settings import Shown
from puffs.server.attr import WIRE, Attr, StatVfs

_NS: Final = 1_000_000_000
_UINT32: Final = (1 << 32) - 1
_UINT64: Final = (1 << 64) - 1
_pack = WIRE.pack
_new = Attr.__new__
_TYPES: Final = frozenset((1, 2, 4, 6, 8, 10, 12))

Told = Mapping[str, Any]
"""Attributes as a program tells them: what is not there is 0."""

WHOLE: Final = frozenset(
    ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_atime", "st_mtime", "st_ctime")
)
"""A dict with these in it is all there is to know of a file."""


def attributes(use_ns: bool, use_ino: bool, shown: Shown | None) -> Callable[[Told], Attr]:
    """What makes an `Attr` of what a program tells: with times in nanoseconds, or else in seconds,
    whole or not; with the inode number that it tells, or none; and shown with another mode and
    owner.

    What is returned raises `OSError` (EIO) for a mode without a file type, `TypeError` for what is
    no number.
    """
    attr_of = _in_nanoseconds if use_ns else _in_seconds
    if use_ino:
        attr_of = partial(_numbered, attr_of)
    if (made := compiled.module(compiled.PATHS)) is not None:
        attr_of = made.reading(attr_of, use_ns, use_ino)
    return attr_of if shown is None else partial(_shown_as, shown, attr_of)


def _in_nanoseconds(told: Told) -> Attr:
    get = told.get
    atime, mtime, ctime = get("st_atime", 0), get("st_mtime", 0), get("st_ctime", 0)
    return _attr(
        told, atime // _NS, mtime // _NS, ctime // _NS, atime % _NS, mtime % _NS, ctime % _NS
    )


def _in_seconds(told: Told) -> Attr:
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


def _attr(
    told: Told, atime: int, mtime: int, ctime: int, atime_ns: int, mtime_ns: int, ctime_ns: int
) -> Attr:
    """Attributes with these times: whole seconds of each, then nanoseconds of each."""
    get = told.get
    mode = get("st_mode", 0)
    try:
        wire = _pack(
            get("st_size", 0),
            get("st_blocks", 0),
            atime,
            mtime,
            ctime,
            atime_ns,
            mtime_ns,
            ctime_ns,
            mode,
            get("st_nlink", 0),
            get("st_uid", 0),
            get("st_gid", 0),
            get("st_rdev", 0),
            get("st_blksize", 0),
            0,
        )
    except error:
        wire = _fitted(told, (atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns))
    if mode >> 12 & 15 not in _TYPES:
        raise OSError(EIO, strerror(EIO))  # as the kernel says
    attr = _new(Attr)
    attr.wire = bytearray(wire)
    attr.ino = 0
    attr.btime_ns = None
    return attr


_SIZES: Final = ("st_size", "st_blocks")
_REST: Final = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_blksize")
_BITS: Final = {"Q": 64, "q": 64, "I": 32}


def _fitted(told: Told, times: tuple[float, ...]) -> bytes:
    """An image with numbers that are cut to the size of their fields, as C does it: -1 is the
    largest there is; and of times that are no whole nanoseconds the whole ones.
    """
    sizes, rest = ([told.get(name, 0) for name in names] for names in (_SIZES, _REST))
    numbers = *sizes, *map(int, times), *rest, 0
    return _pack(*map(_fit, WIRE.format.strip("="), numbers))


def _fit(code: str, number: object) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{number!r} stands where a whole number is needed")
    bits = _BITS[code]
    number &= (1 << bits) - 1
    return number - (1 << bits) if code == "q" and number >> (bits - 1) else number


def _numbered(attr_of: Callable[[Told], Attr], told: Told) -> Attr:
    attr = attr_of(told)
    attr.ino = told.get("st_ino", 0)
    return attr


def _shown_as(shown: Shown, attr_of: Callable[[Told], Attr], told: Told) -> Attr:
    """The same file with another mode, owner and group."""
    attr = attr_of(told)
    mode, attr.uid, attr.gid = shown(attr.mode, attr.uid, attr.gid)
    attr.mode = S_IFMT(attr.mode) | (mode & 0o7777)
    return attr


def sizes(told: Told) -> StatVfs:
    """What `statfs` tells of the file system, named as statvfs(3) names it: what is not there is 0.

    `f_frsize` without which there are no units is then `f_bsize`. Numbers are taken as in C, and
    what is none raises `TypeError`.
    """

    def told_of(name: str, mask: int = _UINT64) -> int:
        value: int = told.get(name, 0) & mask
        return value

    return StatVfs(
        bsize=told_of("f_bsize", _UINT32),
        frsize=told_of("f_frsize", _UINT32) or told_of("f_bsize", _UINT32),
        blocks=told_of("f_blocks"),
        bfree=told_of("f_bfree"),
        bavail=told_of("f_bavail"),
        files=told_of("f_files"),
        ffree=told_of("f_ffree"),
        favail=told_of("f_favail"),
        namemax=told_of("f_namemax", _UINT32),
    )
