"""`Target`: where a check works. An empty directory of its own, with the calls of `os`.

A relative path lies in that directory; one that begins with "/" starts at the root of the file
system. Files are opened with the mode strings of `open` and have no buffer.
"""

import builtins
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from puffs.attach.local.file import LocalFile
from puffs.attach.local.vfs import LocalFileSystem
from puffs.check import libc
from puffs.server.attr import as_attr


class File(Protocol):
    """An open file without a buffer, as `io.FileIO`."""

    def read(self, size: int = -1, /) -> bytes | None: ...
    def write(self, data: bytes, /) -> int | None: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def truncate(self, size: int | None = None, /) -> int: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> "File": ...
    def __exit__(self, *exc: Any) -> None: ...


class Scanned(Protocol):
    """What `scandir` yields, as `os.DirEntry`."""

    @property
    def name(self) -> str: ...
    def inode(self) -> int: ...
    def is_dir(self, *, follow_symlinks: bool = True) -> bool: ...
    def is_file(self, *, follow_symlinks: bool = True) -> bool: ...
    def is_symlink(self) -> bool: ...


class Calls(Protocol):
    """The functions of `os` that a target calls: those of the module, or of `puffs.local`."""

    def stat(self, path: str, *, follow_symlinks: bool = True) -> os.stat_result: ...
    def listdir(self, path: str, /) -> list[str]: ...
    def scandir(self, path: str, /) -> AbstractContextManager[Iterator[Scanned]]: ...
    def mkdir(self, path: str, mode: int = 0o777) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def remove(self, path: str) -> None: ...
    def rename(self, src: str, dst: str) -> None: ...
    def link(self, src: str, dst: str) -> None: ...
    def symlink(self, src: str, dst: str) -> None: ...
    def readlink(self, path: str) -> str: ...
    def chmod(self, path: str, mode: int) -> None: ...
    def chown(self, path: str, uid: int, gid: int, *, follow_symlinks: bool = True) -> None: ...
    def utime(
        self,
        path: str,
        times: None = None,
        *,
        ns: tuple[int, int] = ...,
        follow_symlinks: bool = True,
    ) -> None: ...
    def truncate(self, path: str, length: int) -> None: ...
    def access(self, path: str, mode: int) -> bool: ...
    def statvfs(self, path: str) -> os.statvfs_result: ...
    def mknod(self, path: str, mode: int = ..., device: int = 0) -> None: ...
    def getxattr(self, path: str, attribute: str) -> bytes: ...
    def setxattr(self, path: str, attribute: str, value: bytes, flags: int = 0) -> None: ...
    def listxattr(self, path: str) -> list[str]: ...
    def removexattr(self, path: str, attribute: str) -> None: ...


class Target:
    """The calls of a check, named as in `os` and with its errors.

    `directory` is the empty directory that relative paths start from, `operations` are those that
    the file server implements.
    """

    numbered = True
    """Whether a file has the same inode number whenever it is asked for."""

    def __init__(self, calls: Calls, top: str, directory: str, operations: frozenset[str]) -> None:
        self._calls = calls
        self._top = top.rstrip("/")
        self.directory = directory
        self.operations = operations

    def at(self, path: str) -> str:
        """The path for the calls themselves: what this class does not have, `os` may."""
        return self._top + (path if path.startswith("/") else f"{self.directory}/{path}")

    # ---------------------------------------------------------------------------------------- files

    def open(self, path: str, mode: str = "rb") -> File:
        """Open a file: "rb", "r+b", "wb", "xb", "ab", ..., as `open` without a buffer."""
        raise NotImplementedError

    def fstat(self, file: File) -> os.stat_result:
        """The attributes of an open file."""
        raise NotImplementedError

    def fallocate(self, file: File, mode: int, offset: int, length: int) -> None:
        """fallocate(2)."""
        raise NotImplementedError

    def rename2(self, old: str, new: str, flags: int) -> None:
        """renameat2(2)."""
        raise NotImplementedError

    def write(self, path: str, data: bytes = b"") -> None:
        """Make the file with this content, or replace its content."""
        with self.open(path, "wb") as file:
            write_at(file, 0, data)

    def read(self, path: str) -> bytes:
        """The whole content of a file."""
        with self.open(path) as file:
            return read_at(file, 0)

    def truncate(self, path: str, size: int) -> None:
        self._calls.truncate(self.at(path), size)

    # ---------------------------------------------------------------------------------------- names

    def exists(self, path: str) -> bool:
        """Whether there is such a name, also when it is a dangling symbolic link."""
        try:
            self.lstat(path)
        except FileNotFoundError:
            return False
        return True

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self._calls.mkdir(self.at(path), mode)

    def rmdir(self, path: str) -> None:
        self._calls.rmdir(self.at(path))

    def remove(self, path: str) -> None:
        self._calls.remove(self.at(path))

    def rename(self, old: str, new: str) -> None:
        self._calls.rename(self.at(old), self.at(new))

    def link(self, old: str, new: str) -> None:
        self._calls.link(self.at(old), self.at(new))

    def symlink(self, target: str, path: str) -> None:
        """`target` is taken as it is."""
        self._calls.symlink(target, self.at(path))

    def readlink(self, path: str) -> str:
        return self._calls.readlink(self.at(path))

    def mknod(self, path: str, mode: int, device: int = 0) -> None:
        self._calls.mknod(self.at(path), mode, device)

    def listdir(self, path: str = ".") -> list[str]:
        return self._calls.listdir(self.at(path))

    def scandir(self, path: str = ".") -> AbstractContextManager[Iterator[Scanned]]:
        return self._calls.scandir(self.at(path))

    # ----------------------------------------------------------------------------------- attributes

    def stat(self, path: str = ".") -> os.stat_result:
        return self._calls.stat(self.at(path))

    def lstat(self, path: str) -> os.stat_result:
        return self._calls.stat(self.at(path), follow_symlinks=False)

    def ino(self, path: str = ".") -> int:
        """The inode number; 0 for every file where they are not kept."""
        return self.stat(path).st_ino if self.numbered else 0

    def mode(self, path: str) -> int:
        """The permission bits."""
        return stat.S_IMODE(self.stat(path).st_mode)

    def chmod(self, path: str, mode: int) -> None:
        self._calls.chmod(self.at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._calls.chown(self.at(path), uid, gid)

    def lchown(self, path: str, uid: int, gid: int) -> None:
        self._calls.chown(self.at(path), uid, gid, follow_symlinks=False)

    def utime(self, path: str, atime_ns: int, mtime_ns: int, *, follow: bool = True) -> None:
        self._calls.utime(self.at(path), ns=(atime_ns, mtime_ns), follow_symlinks=follow)

    def touch(self, path: str) -> None:
        """Set both times to now."""
        self._calls.utime(self.at(path))

    def access(self, path: str, mode: int) -> bool:
        return self._calls.access(self.at(path), mode)

    def statvfs(self) -> os.statvfs_result:
        return self._calls.statvfs(self.at("."))

    def getxattr(self, path: str, name: str) -> bytes:
        return self._calls.getxattr(self.at(path), name)

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        self._calls.setxattr(self.at(path), name, value, flags)

    def listxattr(self, path: str) -> list[str]:
        return self._calls.listxattr(self.at(path))

    def removexattr(self, path: str, name: str) -> None:
        self._calls.removexattr(self.at(path), name)


class MountedTarget(Target):
    """A directory that the host shows: of a mount, or of any other file system.

    `mountpoint` is the root of the file system as a host's path.
    """

    def __init__(self, mountpoint: str, directory: str, operations: frozenset[str]) -> None:
        super().__init__(os, mountpoint, directory, operations)

    def open(self, path: str, mode: str = "rb") -> File:
        return builtins.open(self.at(path), mode, buffering=0)

    def fstat(self, file: File) -> os.stat_result:
        return os.fstat(file.fileno())

    def fallocate(self, file: File, mode: int, offset: int, length: int) -> None:
        libc.fallocate(file.fileno(), mode, offset, length)

    def rename2(self, old: str, new: str, flags: int) -> None:
        libc.rename2(self.at(old), self.at(new), flags)


class LocalTarget(Target):
    """A directory of a file system in this process."""

    def __init__(self, vfs: LocalFileSystem, directory: str, operations: frozenset[str]) -> None:
        super().__init__(vfs, "", directory, operations)
        self._vfs = vfs
        # The kernel half makes up numbers for what has none, and others when it is asked again.
        mount = vfs.mount
        root = mount.finish(mount.ops["getattr"](mount.root().cookie, None))
        self.numbered = "fileid" in operations or as_attr(root).ino != 0

    def open(self, path: str, mode: str = "rb") -> File:
        return self._vfs.open(self.at(path), mode, buffering=0)

    def fstat(self, file: File) -> os.stat_result:
        assert isinstance(file, LocalFile)
        return file._attr().to_stat()

    def fallocate(self, file: File, mode: int, offset: int, length: int) -> None:
        assert isinstance(file, LocalFile)
        file._vnops.fallocate(file._file, mode, offset, length)

    def rename2(self, old: str, new: str, flags: int) -> None:
        self._vfs.rename(self.at(old), self.at(new), flags=flags)


def read_at(file: File, offset: int, size: int | None = None) -> bytes:
    """`size` bytes from `offset`, fewer at the end of the file only; without `size` all the rest.

    However many reads it takes: a single one may give less (read(2)).
    """
    file.seek(offset)
    parts: list[bytes] = []
    left = size
    while left is None or left > 0:
        part = file.read(1 << 17 if left is None else left)
        if not part:
            break
        parts.append(part)
        if left is not None:
            left -= len(part)
    return b"".join(parts)


def write_at(file: File, offset: int, data: bytes) -> None:
    """Write all of `data` at `offset`, however many writes it takes."""
    file.seek(offset)
    append(file, data)


def append(file: File, data: bytes) -> None:
    """Write all of `data` where the file stands."""
    while data:
        count = file.write(data)
        assert count, f"write of {len(data)} bytes wrote {count}"
        data = data[count:]
