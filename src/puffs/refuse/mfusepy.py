"""The API of mfusepy 3, on puffs, as it is on libfuse 3.

    import puffs.refuse.mfusepy as fuse

Its programs run as they are. What is different, and meant to be:

- `utimens` is given real times: of one that is to be the present, the present; of one that is left
  as it is, the present value. mfusepy on libfuse 3 gives UTIME_NOW and UTIME_OMIT as nanoseconds.
- rename(2) with flags is EINVAL: on libfuse 3 an exchange would be carried out as a plain rename.
- O_TRUNC arrives as a `truncate`, as on libfuse 2.
- What `init_with_config` sets in `fuse_config` counts; what it sets in `fuse_conn_info` comes too
  late, and is logged.
- `bmap` is never called: the kernel asks for it on block devices only. `read_buf` and `write_buf`
  are not either: `read` and `write` are, which have to be there.
- `lock` gets a pointer to a `c_flock_t`, `ioctl` the address of its data: memory that is valid
  until the operation returns. `poll` gets a number for `ph`: for `fuse_notify_poll` of this module,
  or of `_libfuse`, by which programs for mfusepy call it.
- The structures of this module are those of ctypes, but there is no libfuse behind them.
"""

import ctypes
import errno
import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_type_hints

from puffs.refuse.calls import Dialect, Method
from puffs.refuse.devices import poll_handles
from puffs.refuse.path_api import (
    ENOTSUP,
    BaseFUSE,
    BaseOperations,
    FuseOSError,
    fuse_exit,
    fuse_get_context,
    unset,
)
from puffs.refuse.structs import (
    c_dev_t,
    c_flock_t,
    c_fsblkcnt_t,
    c_fsfilcnt_t,
    c_gid_t,
    c_mode_t,
    c_off_t,
    c_pid_t,
    c_stat,
    c_statvfs,
    c_timespec,
    c_uid_t,
    c_utimbuf,
    fuse_buf,
    fuse_bufvec,
    fuse_config,
    fuse_conn_info,
    fuse_context,
    set_st_attrs,
    time_of_timespec,
)
from puffs.refuse.structs import fuse_file_info_3 as fuse_file_info

log = logging.getLogger("fuse")
callback_logger = logging.getLogger("fuse.log-mixin")

fuse_version_major = 3
fuse_version_minor = 17

ENOATTR = errno.ENODATA

FieldsEntry = tuple[str, type] | tuple[str, type, int]
BitFieldsEntry = tuple[str, type, int]
ReadDirResult = Iterable[str | tuple[str, dict[str, int], int] | tuple[str, int, int]]
c_byte_p = ctypes.POINTER(ctypes.c_byte)
c_uint64_p = ctypes.POINTER(ctypes.c_uint64)
c_stat_p = ctypes.POINTER(c_stat)
c_statvfs_p = ctypes.POINTER(c_statvfs)
c_utimbuf_p = ctypes.POINTER(c_utimbuf)
fuse_fi_p = ctypes.POINTER(fuse_file_info)
fuse_bufvec_p = ctypes.POINTER(fuse_bufvec)
fuse_bufvec_pp = ctypes.POINTER(fuse_bufvec_p)
FuseConfigPointer = ctypes.POINTER(fuse_config)
FuseConnInfoPointer = ctypes.POINTER(fuse_conn_info)
fuse_pollhandle_p = ctypes.c_void_p

_F = TypeVar("_F", bound=Callable[..., Any])


class Operations(BaseOperations):
    """Derive from it, and define the operations that your files have.

    What a class does not define the kernel is not told of, and answers for by itself.
    """

    @unset
    def bmap(self, path: str, blocksize: int, idx: Any) -> int:
        """Where a block of a file is on its device: never asked for."""
        return 0

    @unset
    def init_with_config(
        self, conn_info: fuse_conn_info | None, config_3: fuse_config | None
    ) -> None:
        """As `init`, and in its place: `config_3` may be changed."""

    @unset
    def lock(self, path: str, fh: Any, cmd: int, lock: Any) -> int | None:
        """Record locks: `cmd` is F_GETLK, F_SETLK or F_SETLKW of fcntl(2)."""
        raise FuseOSError(errno.ENOSYS)

    @unset
    def readdir_with_offset(self, path: str, offset: int, fh: int) -> ReadDirResult:
        """As `readdir`, from `offset` on: a number that was given with an entry, or 0."""
        return [".", ".."]

    @unset
    def poll(self, path: str, fh: Any, ph: Any, reventsp: Any) -> int | None:
        """What a file is ready for: goes into `reventsp`."""
        raise FuseOSError(errno.ENOSYS)

    @unset
    def write_buf(self, path: str, buf: Any, offset: int, fh: Any) -> int:
        """Never asked for: `write` is."""
        raise FuseOSError(errno.ENOSYS)

    @unset
    def read_buf(self, path: str, bufpp: Any, size: int, offset: int, fh: Any) -> int:
        """Never asked for: `read` is."""
        raise FuseOSError(errno.ENOSYS)

    @unset
    def flock(self, path: str, fh: Any, op: int) -> int | None:
        """Locks of flock(2)."""
        raise FuseOSError(errno.ENOSYS)

    @unset
    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: Any) -> int | None:
        """Reserve, punch or zero a range."""
        raise FuseOSError(errno.ENOSYS)


def _method(operations: Any, name: str) -> Method | None:
    method: Method | None = getattr(operations, name, None)
    # What is no function may be a `threading.Lock` that a program calls `lock`.
    return method if callable(method) and not getattr(method, "libfuse_ignore", False) else None


class FUSE(BaseFUSE):
    """Mounts `operations` on `mountpoint`, and serves them until it is unmounted.

    With `raw_fi` operations on open files get a `fuse_file_info` in place of its `fh`. Keywords are
    `foreground`, `debug`, `nothreads`, and the options of libfuse: docs/migrating.md has them all.
    Raises `RuntimeError` when it cannot be mounted, and what `init` raises.
    """

    dialect = Dialect(
        name="mfusepy",
        libfuse="fuse3",
        method=_method,
        file_info=fuse_file_info,
        create_takes_flags=True,
        listing_from="readdir_with_offset",
        lock_argument=ctypes.pointer,
    )

    def __init__(
        self,
        operations: Any,
        mountpoint: str,
        raw_fi: bool = False,
        encoding: str = "utf-8",
        errors: str = "surrogateescape",
        **kwargs: Any,
    ) -> None:
        if callable(operations):
            warnings.warn(
                "__call__ of the operations is never called: wrap methods by decorators",
                DeprecationWarning,
                stacklevel=2,
            )
        self.errors = errors
        self._run(operations, mountpoint, raw_fi, encoding, errors, kwargs)


def fuse_notify_poll(ph: int) -> int:
    """The file that `poll` was asked about with `ph` may be ready. From any thread."""
    poll_handles.notify(ph)
    return 0


def fuse_pollhandle_destroy(ph: int) -> None:
    """The number `ph`, which `poll` was given, is not needed any more."""
    poll_handles.drop(ph)


class _libfuse:
    """Those functions of libfuse that programs need, since mfusepy does not have them."""

    @staticmethod
    def fuse_notify_poll(ph: ctypes.c_void_p) -> int:
        return fuse_notify_poll(ph.value or 0)

    @staticmethod
    def fuse_pollhandle_destroy(ph: ctypes.c_void_p) -> None:
        fuse_pollhandle_destroy(ph.value or 0)


def _logged(method: Callable[..., Any], *args: Any) -> Any:
    name = getattr(method, "__name__", repr(method))
    callback_logger.debug("-> %s %s", name, repr(args))
    result: Any = "[Unhandled Exception]"
    try:
        result = method(*args)
        return result
    except OSError as exc:
        result = str(exc)
        raise
    finally:
        callback_logger.debug("<- %s %s", name, repr(result))


class LoggingMixIn:
    """Logs each operation, its arguments and its result: derive from it before `Operations`."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if (
            name.startswith("_")
            or not callable(value)
            or not hasattr(Operations, name)
            or getattr(value, "libfuse_ignore", False)
        ):
            return value
        return functools.partial(_logged, value)


def log_callback(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the operation is logged, with its arguments and its result."""

    @functools.wraps(method)
    def logged(*args: Any) -> Any:
        return _logged(method, *args)

    return logged


def overrides(parent_class: type) -> Callable[[_F], _F]:
    """Decorator: the method overrides one of `parent_class`, or that is a mistake.

    With MFUSEPY_CHECK_OVERRIDES set in the environment, its types are to be the same too.
    """

    def checked(method: _F) -> _F:
        parent = getattr(parent_class, method.__name__, None)
        assert callable(parent), f"{parent_class.__name__} has no {method.__name__}"
        if os.getenv("MFUSEPY_CHECK_OVERRIDES", "").lower() in _YES:
            theirs = get_type_hints(parent)
            for argument, kind in get_type_hints(method).items():
                assert theirs.get(argument, kind) == kind, (
                    f"{method.__name__}: {argument}: {kind} != {theirs[argument]}"
                )
        return method

    return checked


_YES = ("1", "yes", "on", "enable", "enabled")

__all__ = [
    "ENOATTR",
    "ENOTSUP",
    "FUSE",
    "FuseConfigPointer",
    "FuseConnInfoPointer",
    "FuseOSError",
    "LoggingMixIn",
    "Operations",
    "ReadDirResult",
    "c_byte_p",
    "c_dev_t",
    "c_flock_t",
    "c_fsblkcnt_t",
    "c_fsfilcnt_t",
    "c_gid_t",
    "c_mode_t",
    "c_off_t",
    "c_pid_t",
    "c_stat",
    "c_stat_p",
    "c_statvfs",
    "c_statvfs_p",
    "c_timespec",
    "c_uid_t",
    "c_uint64_p",
    "c_utimbuf",
    "c_utimbuf_p",
    "callback_logger",
    "fuse_buf",
    "fuse_bufvec",
    "fuse_bufvec_p",
    "fuse_bufvec_pp",
    "fuse_config",
    "fuse_conn_info",
    "fuse_context",
    "fuse_exit",
    "fuse_fi_p",
    "fuse_file_info",
    "fuse_get_context",
    "fuse_notify_poll",
    "fuse_pollhandle_destroy",
    "fuse_pollhandle_p",
    "fuse_version_major",
    "fuse_version_minor",
    "log",
    "log_callback",
    "overrides",
    "set_st_attrs",
    "time_of_timespec",
]
