"""System calls of Linux that the standard library does not have, for `null`.

Each raises `OSError` with the errno of the call, ENOSYS where the C library lacks it. `ctypes.CDLL`
lets go of the GIL meanwhile.
"""

import ctypes
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENOSYS, EOPNOTSUPP, EOVERFLOW
from struct import Struct
from typing import Any, Final, NamedTuple

FICLONE: Final = getattr(fcntl, "FICLONE", 0x40049409)  # named from Python 3.12 on
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2

FLAG_COMMANDS: Final = frozenset((0x80086601, 0x40086602, 0x801C581F, 0x401C5820))
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR: see `ioctl_flags`."""

_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_MAX_HANDLE_SZ: Final = 128
HANDLE_MAX: Final = 8 + _MAX_HANDLE_SZ
"""The longest that `file_handle` gives: a `struct file_handle`, with its length and type."""
_STATX_BTIME: Final = 0x800
_STATX_MNT_ID: Final = 0x1000
_CAP_SETGID: Final = 1 << 6
_CAP_SETUID: Final = 1 << 7
_CAPABILITY_VERSION_3: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _function(name: str, *argtypes: Any) -> Callable[..., int]:
    function = getattr(_libc, name, None)
    if function is None:
        return _absent
    if argtypes:
        function.argtypes = argtypes
    return function  # type: ignore[no-any-return]


def _absent(*_args: object) -> int:
    ctypes.set_errno(ENOSYS)
    return -1


_int, _string, _pointer = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
# Called most of all, and with nothing that would need a declaration: it would cost more time than
# the system call.
_name_to_handle_at = _function("name_to_handle_at")
_open_by_handle_at = _function("open_by_handle_at", _int, _string, _int)
_statx = _function("statx", _int, _string, _int, ctypes.c_uint, _pointer)
_renameat2 = _function("renameat2", _int, _string, _int, _string, ctypes.c_uint)
_fallocate = _function("fallocate", _int, _int, ctypes.c_int64, ctypes.c_int64)
_utimensat = _function("utimensat", _int, _string, _pointer, _int)
_syncfs = _function("syncfs", _int)
_setfsuid = _function("setfsuid", ctypes.c_uint32)
_setfsgid = _function("setfsgid", ctypes.c_uint32)
_capget = _function("capget", _pointer, _pointer)
_capset = _function("capset", _pointer, _pointer)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


# ------------------------------------------------------------------------------------ file identity


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_char * _MAX_HANDLE_SZ),
    )


class _Buffers(threading.local):
    """What the calls below write into: one set for each thread, made when it first calls."""

    def __init__(self) -> None:
        handle, mount_id = _FileHandle(), ctypes.c_int()
        self.handle = (
            handle,
            memoryview(handle).cast("B"),
            ctypes.byref(handle),
            mount_id,
            ctypes.byref(mount_id),
        )
        self.statx = ctypes.create_string_buffer(256)


_buffers = _Buffers()


def file_handle(fd: int, name: bytes = b"") -> tuple[int, bytes] | None:
    """The id of the mount and the file handle of `name` in the directory `fd`, or of `fd` itself.

    A symbolic link is not followed. The handle is for `open_by_handle_at`, and no other file of the
    same file system ever has it. None where the file system has no handles. [name_to_handle_at(2)]
    """
    handle, view, handle_at, mount_id, mount_id_at = _buffers.handle
    handle.handle_bytes = _MAX_HANDLE_SZ
    if _name_to_handle_at(fd, name, handle_at, mount_id_at, 0 if name else _AT_EMPTY_PATH) < 0:
        code = ctypes.get_errno()
        if code in (EOPNOTSUPP, EOVERFLOW, ENOSYS):
            return None
        raise OSError(code, os.strerror(code))
    return mount_id.value, bytes(view[: 8 + handle.handle_bytes])


def open_by_handle_at(mount_fd: int, handle: bytes, flags: int) -> int:
    """Open what `file_handle` named so; ESTALE when it is gone. [open_by_handle_at(2)]

    `mount_fd` is a descriptor of the same mount, not an O_PATH one. Needs CAP_DAC_READ_SEARCH.
    """
    return _check(_open_by_handle_at(mount_fd, handle, flags))


class Birth(NamedTuple):
    """Which file it is and when it was made, in nanoseconds; None where nobody knows that."""

    mount_id: int
    dev: int
    ino: int
    btime_ns: int | None


# stx_mask, stx_ino, stx_btime (seconds, nanoseconds), stx_dev (major, minor), stx_mnt_id
_STATX: Final = Struct("=I28xQ40xqI44xIIQ")


def birth(fd: int, name: bytes = b"") -> Birth:
    """The birth of `name` in the directory `fd`, or of `fd` itself. [statx(2)]

    A symbolic link is not followed, and a remote file system is not asked again.
    """
    found = _buffers.statx
    flags = _AT_STATX_DONT_SYNC | (_AT_SYMLINK_NOFOLLOW if name else _AT_EMPTY_PATH)
    _check(_statx(fd, name, flags, _STATX_BTIME | _STATX_MNT_ID, found))
    mask, ino, seconds, part, major, minor, mount_id = _STATX.unpack_from(found)
    btime_ns = seconds * 1_000_000_000 + part if mask & _STATX_BTIME else None
    return Birth(mount_id, os.makedev(major, minor), ino, btime_ns)


# ----------------------------------------------------------------------------- changing and syncing


def renameat2(dir_fd: int, name: str, newdir_fd: int, newname: str, flags: int) -> None:
    """Rename with RENAME_* `flags`; EINVAL where the file system lacks them. [renameat2(2)]"""
    _check(_renameat2(dir_fd, os.fsencode(name), newdir_fd, os.fsencode(newname), flags))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Reserve, punch or zero a range. [fallocate(2)]"""
    _check(_fallocate(fd, mode, offset, length))


_TIMES: Final = Struct("@llll")


def utimensat(
    path: str, atime: tuple[int, int], mtime: tuple[int, int], dir_fd: int = _AT_FDCWD
) -> None:
    """Set times, each as seconds and nanoseconds; UTIME_NOW and UTIME_OMIT stand for the latter.

    [utimensat(2)]
    """
    _check(_utimensat(dir_fd, os.fsencode(path), _TIMES.pack(*atime, *mtime), 0))


def ficlone(fd: int, source: int) -> None:
    """Let the file `fd` have the contents of `source` by sharing its blocks. [FICLONE(2const)]"""
    fcntl.ioctl(fd, FICLONE, source)


def ioctl_flags(fd: int, command: int, data: bytes, size: int) -> bytes:
    """Do one of `FLAG_COMMANDS` with `data`; `size` bytes go back. [ioctl_iflags(2), ioctl_xfs(2)]

    The size that is encoded in the first two is that of a long, but they read and write an int.
    """
    encoded = command >> 16 & 0x3FFF
    return fcntl.ioctl(fd, command, data.ljust(encoded, b"\0"))[:size]


def syncfs(fd: int) -> None:
    """Write what is buffered of the file system that `fd` is in. [syncfs(2)]"""
    _check(_syncfs(fd))


# -------------------------------------------------------------------------------------- credentials


class Actor:
    """Who this process is to the host's file systems, and how to make files as somebody else.

    `uid`, `gid`: its own. `acts_for_others`: whether it has the right to be somebody else, which
    root has, and a container may have taken away (CAP_SETUID and CAP_SETGID).
    """

    def __init__(self) -> None:
        self.uid, self.gid = os.geteuid(), os.getegid()
        self._header = Struct("=Ii").pack(_CAPABILITY_VERSION_3, 0)
        # Two sets of effective, permitted and inheritable capabilities, 32 bits each.
        self._capabilities = (ctypes.c_uint32 * 6)()
        _check(_capget(self._header, self._capabilities))
        needed = _CAP_SETUID | _CAP_SETGID
        self.acts_for_others = self._capabilities[0] & needed == needed

    @contextmanager
    def acting_as(self, uid: int, gid: int) -> Iterator[None]:
        """What this thread makes meanwhile belongs to `uid` and `gid`. [setfsuid(2), setfsgid(2)]

        Its capabilities stay: the kernel takes those for files away with the uid 0, so they are put
        back. The caller's permissions were checked before, and here his supplementary groups are
        not known.
        """
        try:
            _setfsgid(gid)
            _setfsuid(uid)
            _check(_capset(self._header, self._capabilities))
            yield
        finally:
            _setfsuid(self.uid)
            _setfsgid(self.gid)
