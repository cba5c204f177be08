"""What fusepy and mfusepy have in common: `FUSE`, the operations that do nothing, the caller.

The modules of these names say where they differ.
"""

import codecs
import errno
import gc
import os
import warnings
from collections.abc import Callable, Iterable
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import Any, Final, TypeVar
from weakref import WeakSet

from puffs.refuse.calls import Dialect
from puffs.refuse.pathfs import PathServer
from puffs.refuse.serving import serve
from puffs.refuse.settings import Settings
from puffs.server.cred import requester

ENOTSUP: Final = errno.EOPNOTSUPP

_F = TypeVar("_F", bound=Callable[..., Any])

_servers: WeakSet[PathServer] = WeakSet()
"""Those that are served by this process."""


class FuseOSError(OSError):
    """What operations raise: an `OSError` made of its errno alone."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno, os.strerror(errno))


def fuse_get_context() -> tuple[int, int, int]:
    """Who called the operation that is running: uid, gid and the id of the thread.

    Zeroes outside of operations.
    """
    channel = requester.get(None)
    if channel is None:
        return 0, 0, 0
    cred = channel.cred()
    return cred.uid, cred.gid, cred.tid


def fuse_exit() -> None:
    """End the mount that is served here, and let `FUSE(...)` return. For use in an operation."""
    for server in list(_servers):
        if server.serves_here():
            server.leave()
            return
    raise RuntimeError("fuse_exit() is for use inside an operation of a mounted file system")


def unset(method: _F) -> _F:
    """Mark a default operation: the kernel is not told of it unless a class overrides it."""
    vars(method)["libfuse_ignore"] = True  # the name that mfusepy has for it
    return method


class BaseFUSE:
    """Mounts an object with operations, and serves it until it is unmounted.

    `__init__` is all there is to it: see the modules.
    """

    OPTIONS: tuple[tuple[str, str], ...] = (
        ("foreground", "-f"),
        ("debug", "-d"),
        ("nothreads", "-s"),
    )
    dialect: Dialect

    def _run(
        self,
        operations: Any,
        mountpoint: str,
        raw_fi: bool,
        encoding: str,
        errors: str,
        keywords: dict[str, Any],
    ) -> None:
        self.operations = operations
        self.raw_fi = raw_fi
        self.encoding = encoding
        self.use_ns = bool(getattr(operations, "use_ns", False))
        if not self.use_ns:
            warnings.warn(
                "times are floats, and lose nanoseconds: set use_ns = True in the class of"
                " operations to give and take them as integers of nanoseconds",
                DeprecationWarning,
                stacklevel=3,
            )
        codecs.lookup(encoding)  # else every operation would find that there is none
        keywords.setdefault("fsname", type(operations).__name__)
        servers: list[PathServer] = []
        root_type = _type_of(mountpoint)

        def make(settings: Settings) -> PathServer:
            server = PathServer(
                operations,
                settings,
                dialect=self.dialect,
                raw_fi=raw_fi,
                encoding=encoding,
                errors=errors,
                root_type=root_type,
            )
            servers.append(server)
            _servers.add(server)
            return server

        try:
            serve(make, os.fspath(mountpoint), keywords, self.dialect.libfuse)
        finally:
            del self.operations  # so that it can end with the mount
        critical = [server.ended() for server in servers]
        servers.clear()
        gc.collect()  # what the mount was made of refers to itself, and to the operations
        for exc in critical:
            if exc is not None:
                raise exc


def _type_of(mountpoint: str) -> int:
    """Of what type the root is: as what it is mounted on."""
    try:
        kind = S_IFMT(os.stat(mountpoint).st_mode)
    except OSError:  # whoever mounts will say so
        return S_IFDIR
    return kind if kind == S_IFREG else S_IFDIR


class BaseOperations:
    """What all operations do that a class does not define.

    An error is an `OSError`, raised; or, where nothing is returned, a negative errno.
    """

    @unset
    def access(self, path: str, amode: int) -> int | None:
        """May the caller do `amode`? Asked for access(2) and chdir(2)."""
        return 0

    @unset
    def chmod(self, path: str, mode: int) -> int | None:
        """Set the permissions; `mode` has the type of the file too."""
        raise FuseOSError(errno.EROFS)

    @unset
    def chown(self, path: str, uid: int, gid: int) -> int | None:
        """Set owner and group; -1 leaves one as it is."""
        raise FuseOSError(errno.EROFS)

    @unset
    def create(self, path: str, mode: int, fi: Any = None) -> int:
        """Make a file and open it; returns its number. With `raw_fi`, sets `fi.fh`."""
        raise FuseOSError(errno.EROFS)

    @unset
    def destroy(self, path: str) -> None:
        """The mount is gone. `path` is "/"."""

    @unset
    def flush(self, path: str, fh: Any) -> int | None:
        """A descriptor is being closed."""
        return 0

    @unset
    def fsync(self, path: str, datasync: int, fh: Any) -> int | None:
        """Bring a file to stable storage."""
        return 0

    @unset
    def fsyncdir(self, path: str, datasync: int, fh: Any) -> int | None:
        """Bring a directory to stable storage."""
        return 0

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        """The attributes of a file: a dict with the names of stat(2)."""
        if path != "/":
            raise FuseOSError(errno.ENOENT)
        return {"st_mode": S_IFDIR | 0o755, "st_nlink": 2}

    @unset
    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """The value of an extended attribute."""
        raise FuseOSError(ENOTSUP)

    @unset
    def init(self, path: str) -> None:
        """It is mounted: the place to start threads. `path` is "/"."""

    @unset
    def ioctl(self, path: str, cmd: int, arg: Any, fh: Any, flags: int, data: Any) -> int:
        """Control a file; `data` is the address of what came, and of what is to go back."""
        raise FuseOSError(errno.ENOTTY)

    @unset
    def link(self, target: str, source: str) -> int | None:
        """Give the file `source` the further name `target`."""
        raise FuseOSError(errno.EROFS)

    @unset
    def listxattr(self, path: str) -> Iterable[str]:
        """The names of the extended attributes."""
        return []

    @unset
    def mkdir(self, path: str, mode: int) -> int | None:
        """Make a directory."""
        raise FuseOSError(errno.EROFS)

    @unset
    def mknod(self, path: str, mode: int, dev: int) -> int | None:
        """Make a file of any type; of a regular one only where there is no `create`."""
        raise FuseOSError(errno.EROFS)

    @unset
    def open(self, path: str, flags: Any) -> int:
        """Open a file; returns its number. With `raw_fi`: `open(path, fi)`, which sets `fi.fh`."""
        return 0

    @unset
    def opendir(self, path: str) -> int:
        """Open a directory; returns its number."""
        return 0

    @unset
    def read(self, path: str, size: int, offset: int, fh: Any) -> bytes:
        """Up to `size` bytes from `offset`."""
        raise FuseOSError(errno.EIO)

    @unset
    def readdir(self, path: str, fh: int) -> Iterable[Any]:
        """The names in a directory, or triples of name, attributes and 0."""
        return [".", ".."]

    @unset
    def readlink(self, path: str) -> str:
        """What a symbolic link holds."""
        raise FuseOSError(errno.ENOENT)

    @unset
    def release(self, path: str, fh: Any) -> int | None:
        """An open file is given back."""
        return 0

    @unset
    def releasedir(self, path: str, fh: int) -> int | None:
        """An open directory is given back."""
        return 0

    @unset
    def removexattr(self, path: str, name: str) -> int | None:
        """Take an extended attribute away."""
        raise FuseOSError(ENOTSUP)

    @unset
    def rename(self, old: str, new: str) -> int | None:
        """Move a file, replacing what is there."""
        raise FuseOSError(errno.EROFS)

    @unset
    def rmdir(self, path: str) -> int | None:
        """Take a directory away."""
        raise FuseOSError(errno.EROFS)

    @unset
    def setxattr(
        self, path: str, name: str, value: bytes, options: int, position: int = 0
    ) -> int | None:
        """Set an extended attribute."""
        raise FuseOSError(ENOTSUP)

    @unset
    def statfs(self, path: str) -> dict[str, int]:
        """The size of the file system: a dict with the names of statvfs(3)."""
        return {}

    @unset
    def symlink(self, target: str, source: str) -> int | None:
        """Make `target` a symbolic link that holds `source`."""
        raise FuseOSError(errno.EROFS)

    @unset
    def truncate(self, path: str, length: int, fh: Any = None) -> int | None:
        """Set the length of a file."""
        raise FuseOSError(errno.EROFS)

    @unset
    def unlink(self, path: str) -> int | None:
        """Take the name of a file away."""
        raise FuseOSError(errno.EROFS)

    @unset
    def utimens(self, path: str, times: Any = None) -> int | None:
        """Set the times of access and of modification."""
        return 0

    @unset
    def write(self, path: str, data: bytes, offset: int, fh: Any) -> int:
        """Write at `offset`; returns how much was written."""
        raise FuseOSError(errno.EROFS)
