"""mount(2), umount2(2), unshare(2), syncfs(2), close_range(2) and ids of mounts, which Python 3.11
does not have.

Through the C library that the interpreter runs on; `ctypes.CDLL` lets go of the GIL for each call,
so a thread that serves a mount goes on while another one mounts or unmounts.
"""

import ctypes
import errno
import os
import struct
from typing import Final

MS_RDONLY: Final = 1 << 0
MS_NOSUID: Final = 1 << 1
MS_NODEV: Final = 1 << 2
MS_NOEXEC: Final = 1 << 3
MS_SYNCHRONOUS: Final = 1 << 4
MS_REMOUNT: Final = 1 << 5
MS_DIRSYNC: Final = 1 << 7
MS_NOATIME: Final = 1 << 10
MS_REC: Final = 1 << 14
MS_SLAVE: Final = 1 << 19

MNT_DETACH: Final = 1 << 1
UMOUNT_NOFOLLOW: Final = 1 << 3

CLONE_FILES: Final = 0x00000400
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000

_CLOSE_RANGE: Final = 436
"""The number of close_range(2), on all architectures."""
_CLOSE_RANGE_UNSHARE: Final = 1 << 1
_LAST: Final = 0xFFFFFFFF

_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_AT_HANDLE_FID: Final = 0x200
_AT_HANDLE_MNT_ID_UNIQUE: Final = 0x001
_STATX_MNT_ID_UNIQUE: Final = 0x4000
_STX_MNT_ID: Final = 0x90
"""Where `stx_mnt_id` is in a `struct statx`, whose first member is `stx_mask`."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """Mount `source` on `target`: mount(2).

    Args:
        flags: MS_* bits.
        data: the file system's own options, separated by commas.

    Raises:
        OSError: with the errno of mount(2) and the target.
    """
    strings = [os.fsencode(text) for text in (source, target, fstype)]
    if _libc.mount(*strings, flags, os.fsencode(data)) != 0:
        _fail(target)


def umount2(target: str, flags: int) -> None:
    """Take the topmost mount off `target`: umount2(2).

    Args:
        flags: MNT_DETACH, UMOUNT_NOFOLLOW.

    Raises:
        OSError: with the errno of umount2(2) and the target.
    """
    if _libc.umount2(os.fsencode(target), flags) != 0:
        _fail(target)


def unshare(flags: int) -> None:
    """Give this process namespaces of its own: unshare(2).

    Args:
        flags: CLONE_NEWNS, CLONE_NEWUSER. The latter is for processes with one thread.

    Raises:
        OSError: with the errno of unshare(2).
    """
    if _libc.unshare(flags) != 0:
        _fail("unshare")


def syncfs(fd: int) -> None:
    """Write what is buffered of the file system that the descriptor `fd` is in: syncfs(2).

    Raises:
        OSError: with the errno of syncfs(2).
    """
    if _libc.syncfs(fd) != 0:
        _fail(f"descriptor {fd}")


def leave_descriptors(keep: int = -1) -> None:
    """Give the calling thread a descriptor table of its own, with `keep` in it or nothing.

    For threads that use a mount which this very process serves. If it is killed meanwhile, they may
    wait for an answer that cannot come before the connection is closed; and it is not closed while
    one thread of the process has it open. Linux before 5.9 has no close_range(2).
    """
    ranges = [(0, keep - 1), (keep + 1, _LAST)] if keep >= 0 else [(0, _LAST)]
    flags = _CLOSE_RANGE_UNSHARE
    for first, last in ranges:
        if first > last:
            continue
        arguments = (ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags))
        if _libc.syscall(ctypes.c_long(_CLOSE_RANGE), *arguments) != 0:
            unshare(CLONE_FILES)
            os.closerange(first, min(last + 1, os.sysconf("SC_OPEN_MAX")))
        flags = 0


def unique_mount_id(fd: int) -> int | None:
    """A number of the mount that `fd` is in, which no other mount gets as long as the system runs.

    The file system is not asked: this cannot hang, neither on a dead mount. None where the kernel
    has no such numbers: statx(2) tells them from Linux 6.8 on, but not those of FUSE mounts of
    other users; name_to_handle_at(2) all of them, from 6.12 on.
    """
    found = ctypes.create_string_buffer(256)
    statx = getattr(_libc, "statx", None)  # not in every C library
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if statx is not None and statx(fd, b"", flags, _STATX_MNT_ID_UNIQUE, found) == 0:
        (mask,) = struct.unpack_from("=I", found)
        (number,) = struct.unpack_from("=Q", found, _STX_MNT_ID)
        return int(number) if mask & _STATX_MNT_ID_UNIQUE else None
    handle, mount_id = struct.pack("=Ii", 0, 0), ctypes.c_uint64()
    flags = _AT_EMPTY_PATH | _AT_HANDLE_FID | _AT_HANDLE_MNT_ID_UNIQUE
    # There is no room for the handle; it is the id that is wanted.
    _libc.name_to_handle_at(fd, b"", handle, ctypes.byref(mount_id), flags)
    return mount_id.value if ctypes.get_errno() == errno.EOVERFLOW else None


def _fail(target: str) -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), target)
