"""The values that programs for pyfuse3 and llfuse make or are given for most requests, in Python.

Where puffs was compiled, `_inodes` has others in place of `RequestContext`, `EntryAttributes` and
`FileInfo` (`inode_values` says which); both are used alike.
"""

import os
from collections.abc import Mapping
from pickle import PicklingError
from stat import S_IFREG
from typing import Any, Final, NoReturn

TIMEOUT: Final = 300.0
"""For how many seconds a reply is good unless the program says otherwise."""
NO_FH: Final = 0
"""What handlers are given where `open` is not implemented: the kernel then sends no number."""


class FUSEError(Exception):
    """Raised by a handler: the caller's system call fails with error number `errno`."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno_ = errno

    @property
    def errno(self) -> int:
        """The error number."""
        return self.errno_

    def __str__(self) -> str:
        return os.strerror(self.errno_)


class RequestContext:
    """Who has made a request: `uid`, `gid` and `umask`, and as `pid` the thread that called."""

    __slots__ = ("gid", "pid", "uid", "umask")

    def __init__(self, uid: int = 0, gid: int = 0, pid: int = 0, umask: int = 0) -> None:
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.umask = umask

    def __getstate__(self) -> NoReturn:
        raise PicklingError(f"{type(self).__name__} instances cannot be pickled")


class State:
    """What can be pickled and copied by its fields."""

    __slots__: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class EntryAttributes(State):
    """The attributes of a file as stat(2) has them, and for how long the kernel may trust them.

    `entry_timeout` is for the name, `attr_timeout` for the rest, both in seconds. `st_ino` 0 in a
    reply to a lookup says that the name is not there.
    """

    __slots__ = (
        "attr_timeout",
        "entry_timeout",
        "generation",
        "st_atime_ns",
        "st_birthtime_ns",
        "st_blksize",
        "st_blocks",
        "st_ctime_ns",
        "st_gid",
        "st_ino",
        "st_mode",
        "st_mtime_ns",
        "st_nlink",
        "st_rdev",
        "st_size",
        "st_uid",
    )

    def __init__(self) -> None:
        self.st_ino = 0
        self.generation = 0
        self.entry_timeout = TIMEOUT
        self.attr_timeout = TIMEOUT
        self.st_mode = S_IFREG
        self.st_nlink = 1
        self.st_uid = 0
        self.st_gid = 0
        self.st_rdev = 0
        self.st_size = 0
        self.st_blksize = 4096
        self.st_blocks = 0
        self.st_atime_ns = 0
        self.st_ctime_ns = 0
        self.st_mtime_ns = 0
        self.st_birthtime_ns = 0


class FileInfo(State):
    """What `open` and `create` return: the number of the open file, and how it is to be treated."""

    __slots__ = ("direct_io", "fh", "keep_cache", "nonseekable")

    def __init__(
        self,
        fh: int = 0,
        direct_io: bool = False,
        keep_cache: bool = True,
        nonseekable: bool = False,
    ) -> None:
        self.fh = fh
        self.direct_io = direct_io
        self.keep_cache = keep_cache
        self.nonseekable = nonseekable


class Outcome:
    """What has become of a handler that was called: it has returned `result`, or raised `error`."""

    __slots__ = ("_error", "_result")

    def __init__(self, result: Any, error: BaseException | None = None) -> None:
        self._result = result
        self._error = error

    def get(self) -> Any:
        """Return that, or raise that."""
        if self._error is not None:
            raise self._error
        return self._result
