"""System calls that the checks need and `os` does not have, through the C library.

All raise `OSError` with the errno of the call.
"""

import ctypes
import os
import struct
from typing import Final, NamedTuple

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_SYMLINK_FOLLOW: Final = 0x400
AT_EMPTY_PATH: Final = 0x1000

UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2

# fallocate(2)
KEEP_SIZE: Final = 1
PUNCH_HOLE: Final = 2
ZERO_RANGE: Final = 16

COLLAPSE_RANGE: Final = 8
INSERT_RANGE: Final = 32

STATX_BTIME: Final = 0x800
_STATX: Final = struct.Struct("=I76xqI")
"""stx_mask and stx_btime."""

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_DIRENT: Final = struct.Struct("=QqHB")  # ino, off, reclen, type; the name follows


class Dirent(NamedTuple):
    """An entry as getdents64(2) gives it; `next` is the position behind it, for lseek(2)."""

    name: str
    type: int
    ino: int
    next: int


def rename2(old: str, new: str, flags: int) -> None:
    """renameat2(2)."""
    paths = os.fsencode(old), os.fsencode(new)
    _checked(_libc.renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], ctypes.c_uint(flags)), new)


def utimens(path: str, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2): each time in seconds and nanoseconds, or with UTIME_NOW or UTIME_OMIT there."""
    times = struct.pack("@llll", *atime, *mtime)
    _checked(_libc.utimensat(AT_FDCWD, os.fsencode(path), times, 0), path)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    _checked(_fallocate(fd, mode, offset, length), f"descriptor {fd}")


def link_by_proc(fd: int, path: str) -> None:
    """linkat(2) of an open file, by the path of its descriptor in /proc."""
    source = os.fsencode(f"/proc/self/fd/{fd}")
    _checked(_libc.linkat(AT_FDCWD, source, AT_FDCWD, os.fsencode(path), AT_SYMLINK_FOLLOW), path)


def link_by_descriptor(fd: int, path: str) -> None:
    """linkat(2) of an open file, by its descriptor: for who may search all directories."""
    _checked(_libc.linkat(fd, b"", AT_FDCWD, os.fsencode(path), AT_EMPTY_PATH), path)


def birth_ns(path: str) -> int | None:
    """statx(2): when a file was made, in nanoseconds; None where that is not known."""
    found = ctypes.create_string_buffer(256)
    _checked(_libc.statx(AT_FDCWD, os.fsencode(path), 0, STATX_BTIME, found), path)
    mask, seconds, nanoseconds = _STATX.unpack_from(found)
    return seconds * 1_000_000_000 + nanoseconds if mask & STATX_BTIME else None


def getxattr(path: str, name: str, room: int) -> int:
    """getxattr(2) with room for so many bytes: the length of the value."""
    buffer = ctypes.create_string_buffer(room) if room else None
    return _checked(_libc.getxattr(os.fsencode(path), os.fsencode(name), buffer, room), path)


def listxattr(path: str, room: int) -> int:
    """listxattr(2) with room for so many bytes: the length of the list."""
    buffer = ctypes.create_string_buffer(room) if room else None
    return _checked(_libc.listxattr(os.fsencode(path), buffer, room), path)


def getdents(fd: int, room: int) -> list[Dirent]:
    """getdents64(2): the next entries of an open directory, as many as `room` bytes hold."""
    buffer = ctypes.create_string_buffer(room)
    count = _checked(_libc.getdents64(fd, buffer, ctypes.c_size_t(room)), f"descriptor {fd}")
    found = []
    data = buffer.raw[:count]
    while data:
        ino, position, length, kind = _DIRENT.unpack_from(data)
        name = data[_DIRENT.size : length].partition(b"\0")[0]
        found.append(Dirent(os.fsdecode(name), kind << 12, ino, position))
        data = data[length:]
    return found


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result
