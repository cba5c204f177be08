"""The API of fusepy 3 (the module `fuse`), on puffs.

    from puffs.refuse.fusepy import FUSE, FuseOSError, LoggingMixIn, Operations, fuse_get_context

Its programs run as they are. What is different, and meant to be:

- A name that is not valid in UTF-8 reaches the program with its bytes escaped (`os.fsdecode`);
  fusepy answers EINVAL before the program is asked.
- Of a time that is left as it is (`touch -a`), `utimens` is given the present value, and both times
  are set; under libfuse 2 neither is. With `flag_utime_omit_ok` it gets UTIME_OMIT and UTIME_NOW.
- `readdir` is asked once for each listing, also where it gives offsets other than 0.
- An `OSError` without an errno gives the caller EINVAL, and does not end the mount.
- `bmap` is never called: the kernel asks for it on block devices only.
- `lock` gets the address of a `flock` structure, as in fusepy; `ioctl` that of its data. The memory
  is valid until the operation returns.
- The structures of this module are those of ctypes, but there is no libfuse behind them.
- The error numbers of `errno` are here too, as in fusepy 2.
"""

import ctypes
import errno
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from puffs.refuse.calls import Dialect, Method
from puffs.refuse.path_api import (
    ENOTSUP,
    BaseFUSE,
    BaseOperations,
    FuseOSError,
    fuse_exit,
    fuse_get_context,
)
from puffs.refuse.structs import (
    c_dev_t,
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
    fuse_context,
    set_st_attrs,
    time_of_timespec,
)
from puffs.refuse.structs import fuse_file_info_2 as fuse_file_info

log = logging.getLogger("fuse")

_OF_ANOTHER_FUSE = frozenset(
    (
        *("Direntry", "Flock", "Fuse", "FuseArgs", "FuseFileInfo", "FuseGetContext"),
        *("FuseOptParse", "Stat", "StatVfs", "Timespec"),
    )
)
_ANOTHER_FUSE = (
    "it is a name of libfuse's own binding (fuse-python, or python-fuse), which is another module "
    "fuse with another API. puffs provides that of fusepy: the program needs the binding itself"
)

if not TYPE_CHECKING:  # for which the module would have every name

    def __getattr__(name: str) -> Any:
        """Error numbers, by which programs for fusepy 2 call them; and for programs that were
        written for the other module of this name, what is wrong.
        """
        if name.startswith("E") and hasattr(errno, name):
            return getattr(errno, name)
        if name in _OF_ANOTHER_FUSE:
            raise ImportError(f"fuse.{name}: {_ANOTHER_FUSE}", name=name)
        if name == "__version__":  # they ask for it first, and some of fusepy's as well
            log.warning("fuse.%s: %s", name, _ANOTHER_FUSE)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Operations(BaseOperations):
    """Derive from it, and define the operations that your files have.

    All operations go through `__call__`: a class that overrides it sees each of them.
    """

    bmap: Any = None
    lock: Any = None

    def __call__(self, op: str, *args: Any) -> Any:
        """Call the operation `op`."""
        return getattr(self, op)(*args)


_SAID_BY_KERNEL = frozenset(
    (
        "access",
        "destroy",
        "flush",
        "fsync",
        "fsyncdir",
        "getxattr",
        "init",
        "ioctl",
        "open",
        "opendir",
        "release",
        "releasedir",
        "removexattr",
        "setxattr",
    )
)
"""Defaults that say what the kernel says by itself of what is not there: it need not ask."""


def _method(operations: Any, name: str) -> Method | None:
    method: Method | None = getattr(operations, name, None)
    if not callable(method):  # such as a `threading.Lock` that a program calls `lock`
        return None
    if type(operations).__call__ is not Operations.__call__:
        return partial(operations, name)
    if name in _SAID_BY_KERNEL and getattr(method, "libfuse_ignore", False):
        return None
    return method


class FUSE(BaseFUSE):
    """Mounts `operations` on `mountpoint`, and serves them until it is unmounted.

    With `raw_fi` operations on open files get a `fuse_file_info` in place of its `fh`. Keywords are
    `foreground`, `debug`, `nothreads`, and the options of libfuse: docs/migrating.md has them all.
    Raises `RuntimeError` when it cannot be mounted, and what `init` raises.
    """

    dialect = Dialect(
        name="fusepy",
        libfuse="fuse2",
        method=_method,
        file_info=fuse_file_info,
        create_takes_flags=False,
        listing_from=None,
        lock_argument=ctypes.addressof,
    )

    def __init__(
        self,
        operations: Any,
        mountpoint: str,
        raw_fi: bool = False,
        encoding: str = "utf-8",
        **kwargs: Any,
    ) -> None:
        self._run(operations, mountpoint, raw_fi, encoding, "strict", kwargs)


class LoggingMixIn:
    """Logs each operation, its arguments and its result: derive from it before `Operations`."""

    log = logging.getLogger("fuse.log-mixin")

    def __call__(self, op: str, path: str, *args: Any) -> Any:
        """Call the operation `op`, and log it."""
        self.log.debug("-> %s %s %s", op, path, repr(args))
        result: Any = "[Unhandled Exception]"
        try:
            result = getattr(self, op)(path, *args)
            return result
        except OSError as exc:
            result = str(exc)
            raise
        finally:
            self.log.debug("<- %s %s", op, repr(result))


__all__ = [
    "ENOTSUP",
    "FUSE",
    "FuseOSError",
    "LoggingMixIn",
    "Operations",
    "c_dev_t",
    "c_fsblkcnt_t",
    "c_fsfilcnt_t",
    "c_gid_t",
    "c_mode_t",
    "c_off_t",
    "c_pid_t",
    "c_stat",
    "c_statvfs",
    "c_timespec",
    "c_uid_t",
    "c_utimbuf",
    "fuse_context",
    "fuse_exit",
    "fuse_file_info",
    "fuse_get_context",
    "log",
    "set_st_attrs",
    "time_of_timespec",
]
