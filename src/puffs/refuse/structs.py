"""The structures of libfuse that programs touch, as `ctypes` has them.

No C library is given any of them: they are how these libraries hand things over, and only names and
sizes of fields count. An operation gets one with what is known filled in, and what it sets there is
read back where libfuse would read it.
"""

import ctypes
from ctypes import c_double, c_int, c_long, c_size_t, c_uint, c_uint32, c_uint64, c_ulong
from typing import Any

c_dev_t = ctypes.c_ulonglong
c_fsblkcnt_t = ctypes.c_ulonglong
c_fsfilcnt_t = ctypes.c_ulonglong
c_gid_t = ctypes.c_uint
c_mode_t = ctypes.c_uint
c_off_t = ctypes.c_longlong
c_pid_t = ctypes.c_int
c_uid_t = ctypes.c_uint


class c_timespec(ctypes.Structure):
    """A time: `tv_sec` and `tv_nsec`."""

    _fields_ = (("tv_sec", c_long), ("tv_nsec", c_long))


class c_utimbuf(ctypes.Structure):
    """The times of `utimens`."""

    _fields_ = (("actime", c_timespec), ("modtime", c_timespec))


class c_stat(ctypes.Structure):
    """Attributes of a file."""

    _fields_ = (
        ("st_dev", c_dev_t),
        ("st_ino", c_ulong),
        ("st_nlink", c_ulong),
        ("st_mode", c_mode_t),
        ("st_uid", c_uid_t),
        ("st_gid", c_gid_t),
        ("__pad0", c_int),
        ("st_rdev", c_dev_t),
        ("st_size", c_off_t),
        ("st_blksize", c_long),
        ("st_blocks", c_long),
        ("st_atimespec", c_timespec),
        ("st_mtimespec", c_timespec),
        ("st_ctimespec", c_timespec),
    )


class c_statvfs(ctypes.Structure):
    """The size of a file system."""

    _fields_ = (
        ("f_bsize", c_ulong),
        ("f_frsize", c_ulong),
        ("f_blocks", c_fsblkcnt_t),
        ("f_bfree", c_fsblkcnt_t),
        ("f_bavail", c_fsblkcnt_t),
        ("f_files", c_fsfilcnt_t),
        ("f_ffree", c_fsfilcnt_t),
        ("f_favail", c_fsfilcnt_t),
        ("f_fsid", c_ulong),
        ("f_flag", c_ulong),
        ("f_namemax", c_ulong),
    )


class c_flock_t(ctypes.Structure):
    """A record lock, as fcntl(2) has it."""

    _fields_ = (
        ("l_type", ctypes.c_short),
        ("l_whence", ctypes.c_short),
        ("l_start", c_off_t),
        ("l_len", c_off_t),
        ("l_pid", c_pid_t),
        ("l_sysid", c_long),
    )


class fuse_context(ctypes.Structure):
    """Who asks."""

    _fields_ = (
        ("fuse", ctypes.c_void_p),
        ("uid", c_uid_t),
        ("gid", c_gid_t),
        ("pid", c_pid_t),
        ("private_data", ctypes.c_void_p),
        ("umask", c_mode_t),
    )


class fuse_file_info_2(ctypes.Structure):
    """An open file, as libfuse 2 describes it."""

    _fields_ = (
        ("flags", c_int),
        ("fh_old", c_ulong),
        ("writepage", c_int),
        ("direct_io", c_uint, 1),
        ("keep_cache", c_uint, 1),
        ("flush", c_uint, 1),
        ("nonseekable", c_uint, 1),
        ("flock_release", c_uint, 1),
        ("padding", c_uint, 27),
        ("fh", c_uint64),
        ("lock_owner", c_uint64),
    )


class fuse_file_info_3(ctypes.Structure):
    """An open file, as libfuse 3 describes it."""

    _fields_ = (
        ("flags", c_int),
        ("writepage", c_uint32, 1),
        ("direct_io", c_uint32, 1),
        ("keep_cache", c_uint32, 1),
        ("flush", c_uint32, 1),
        ("nonseekable", c_uint32, 1),
        ("flock_release", c_uint32, 1),
        ("cache_readdir", c_uint32, 1),
        ("noflush", c_uint32, 1),
        ("parallel_direct_writes", c_uint32, 1),
        ("padding", c_uint32, 23),
        ("padding2", c_uint32),
        ("padding3", c_uint32),
        ("fh", c_uint64),
        ("lock_owner", c_uint64),
        ("poll_events", c_uint64),
    )


class fuse_buf(ctypes.Structure):
    """A piece of data: memory, or with `FUSE_BUF_IS_FD` a part of an open file."""

    _fields_ = (
        ("size", c_size_t),
        ("flags", c_int),
        ("mem", ctypes.c_void_p),
        ("fd", c_int),
        ("pos", c_off_t),
    )


class fuse_bufvec(ctypes.Structure):
    """Data in `count` pieces."""

    _fields_ = (
        ("count", c_size_t),
        ("idx", c_size_t),
        ("off", c_size_t),
        ("buf", ctypes.POINTER(fuse_buf)),
    )


class fuse_conn_info(ctypes.Structure):
    """What the kernel and puffs have settled on."""

    _fields_ = (
        ("proto_major", c_uint),
        ("proto_minor", c_uint),
        ("max_write", c_uint32),
        ("max_read", c_uint32),
        ("max_readahead", c_uint32),
        ("capable", c_uint32),
        ("want", c_uint32),
        ("max_background", c_uint32),
        ("congestion_threshold", c_uint32),
        ("time_gran", c_uint32),
        ("max_backing_stack_depth", c_uint32),
        ("no_interrupt", c_uint32, 1),
        ("padding", c_uint32, 31),
        ("capable_ext", c_uint64),
        ("want_ext", c_uint64),
        ("request_timeout", ctypes.c_uint16),
        ("reserved", ctypes.c_uint16 * 31),
    )


class fuse_config(ctypes.Structure):
    """The options of libfuse's high-level interface."""

    _fields_ = (
        ("set_gid", c_int),
        ("gid", c_uint),
        ("set_uid", c_int),
        ("uid", c_uint),
        ("set_mode", c_int),
        ("umask", c_uint),
        ("entry_timeout", c_double),
        ("negative_timeout", c_double),
        ("attr_timeout", c_double),
        ("intr", c_int),
        ("intr_signal", c_int),
        ("remember", c_int),
        ("hard_remove", c_int),
        ("use_ino", c_int),
        ("readdir_ino", c_int),
        ("direct_io", c_int),
        ("kernel_cache", c_int),
        ("auto_cache", c_int),
        ("ac_attr_timeout_set", c_int),
        ("ac_attr_timeout", c_double),
        ("nullpath_ok", c_int),
        ("show_help", c_int),
        ("modules", ctypes.c_char_p),
        ("debug", c_int),
        ("fmask", c_uint32),
        ("dmask", c_uint32),
        ("no_rofd_flush", c_int),
        ("parallel_direct_writes", c_int),
        ("flags", c_int),
        ("reserved", c_uint64 * 48),
    )


def time_of_timespec(ts: Any, use_ns: bool = False) -> float:
    """A `c_timespec` as seconds, or with `use_ns` as nanoseconds."""
    if use_ns:
        whole: int = ts.tv_sec * 10**9 + ts.tv_nsec
        return whole
    seconds: float = ts.tv_sec + ts.tv_nsec / 1e9
    return seconds


def set_st_attrs(st: Any, attrs: dict[str, Any], use_ns: bool = False) -> None:
    """Write a dict of attributes into a `c_stat`; what that has no field for is left out."""
    for name, value in attrs.items():
        if name in ("st_atime", "st_mtime", "st_ctime"):
            spec = getattr(st, f"{name}spec")
            nanoseconds = int(value) if use_ns else round(value * 10**9)
            spec.tv_sec, spec.tv_nsec = divmod(nanoseconds, 10**9)
        elif hasattr(st, name):
            setattr(st, name, value)
