"""A file server in memory that has every operation, and writes down each call."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, ClassVar

import puffs

ROOT = 100
"""The cookie of the root; the host's number of it is 1."""


class Toy(puffs.FileSystem[int]):
    """Cookies are numbers that are never used again. It begins with a file, a directory, a symlink.

    `calls` holds each call of an operation: its name, then its arguments. `refuse` makes operations
    raise, and `reply` makes them return something else.
    """

    name: ClassVar[str] = "toy"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refuse: dict[str, BaseException] = {}
        self.reply: dict[str, object] = {}
        self.attrs: dict[int, puffs.Attr] = {ROOT: puffs.Attr(stat.S_IFDIR | 0o755, nlink=2)}
        self.names: dict[tuple[int, str], int] = {}
        self.data: dict[int, bytearray] = {}
        self.targets: dict[int, str] = {}
        self.xattrs: dict[tuple[int, str], bytes] = {}
        self._cookies = count(ROOT + 1)
        self._files = count()
        self._add(ROOT, "file", puffs.Attr(stat.S_IFREG | 0o644))
        self.write(self.names[ROOT, "file"], 0, memoryview(b"contents"), None)
        self._add(ROOT, "dir", puffs.Attr(stat.S_IFDIR | 0o755, nlink=2))
        link = self._add(ROOT, "link", puffs.Attr(stat.S_IFLNK | 0o777))
        self.targets[link] = "target"

    def operations(self) -> dict[str, Callable[..., Any]]:
        return {name: self._recorded(name, op) for name, op in super().operations().items()}

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of one operation."""
        return [args for operation, *args in self.calls if operation == name]  # type: ignore[misc]

    def _recorded(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            kept = [bytes(arg) if isinstance(arg, memoryview) else arg for arg in args]
            self.calls.append((name, *kept))
            if name in self.refuse:
                raise self.refuse[name]
            return self.reply[name] if name in self.reply else operation(*args)

        return call

    def _add(self, dir: int, name: str, attr: puffs.Attr) -> int:
        if (dir, name) in self.names:
            raise FileExistsError(errno.EEXIST, "there already")
        cookie = self.names[dir, name] = next(self._cookies)
        self.attrs[cookie] = attr
        self.data[cookie] = bytearray()
        return cookie

    def _find(self, dir: int, name: str) -> int:
        try:
            return self.names[dir, name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "not there") from None

    # ---------------------------------------- the whole file system

    def mount(self) -> int:
        return ROOT

    def unmount(self, force: bool) -> None:
        pass

    def unmounted(self) -> None:
        pass

    def statvfs(self) -> puffs.StatVfs:
        return puffs.StatVfs(blocks=1000, bfree=10)

    def sync(self, wait: bool, cred: puffs.Cred) -> None:
        pass

    def error(self, kind: str, code: int, text: str, node: Any) -> None:
        pass

    # ---------------------------------------- names

    def lookup(self, dir: int, name: str, cred: puffs.Cred) -> int:
        return self._find(dir, name)

    def create(
        self, dir: int, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> int | tuple[int, object]:
        return self._add(dir, name, attr), f"file {next(self._files)}"

    def mknod(self, dir: int, name: str, attr: puffs.Attr, cred: puffs.Cred) -> int:
        return self._add(dir, name, attr)

    def mkdir(self, dir: int, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
        return puffs.Entry(self._add(dir, name, attr), attr)

    def symlink(self, dir: int, name: str, target: str, attr: puffs.Attr, cred: puffs.Cred) -> int:
        cookie = self._add(dir, name, attr)
        self.targets[cookie] = target
        return cookie

    def link(self, node: int, dir: int, name: str, cred: puffs.Cred) -> None:
        if (dir, name) in self.names:
            raise FileExistsError(errno.EEXIST, "there already")
        self.names[dir, name] = node
        self.attrs[node].nlink += 1

    def remove(self, dir: int, name: str, cred: puffs.Cred) -> None:
        self.attrs[self._find(dir, name)].nlink -= 1
        del self.names[dir, name]

    def rmdir(self, dir: int, name: str, cred: puffs.Cred) -> None:
        node = self._find(dir, name)
        if any(parent == node for parent, _ in self.names):
            raise OSError(errno.ENOTEMPTY, "not empty")
        del self.names[dir, name]

    def rename(
        self, dir: int, name: str, newdir: int, newname: str, flags: int, cred: puffs.Cred
    ) -> None:
        self.names[newdir, newname] = self._find(dir, name)
        del self.names[dir, name]

    def tmpfile(
        self, dir: int, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> tuple[int, object]:
        cookie = next(self._cookies)
        self.attrs[cookie] = attr
        self.data[cookie] = bytearray()
        return cookie, f"file {next(self._files)}"

    def readlink(self, node: int) -> str:
        return self.targets[node]

    # ---------------------------------------- open directories

    def opendir(self, dir: int, cred: puffs.Cred) -> object:
        return f"directory {next(self._files)}"

    def closedir(self, dir: int, file: object) -> None:
        pass

    def fsyncdir(self, dir: int, datasync: bool, file: object) -> None:
        pass

    def readdir(self, dir: int, offset: int, file: object) -> Iterator[puffs.DirEntry]:
        for (parent, name), node in list(self.names.items()):
            if parent == dir:
                attr = self.attrs[node]
                yield puffs.DirEntry(name, attr.type, entry=puffs.Entry(node, attr))

    # ---------------------------------------- open and data

    def open(self, node: int, flags: int, cred: puffs.Cred) -> puffs.Open | object | None:
        return f"file {next(self._files)}"

    def close(self, node: int, file: object, flags: int) -> None:
        pass

    def flush(self, node: int, file: object, owner: int) -> None:
        pass

    def fsync(self, node: int, datasync: bool, file: object) -> None:
        pass

    def read(self, node: int, offset: int, size: int, file: object) -> bytes:
        return bytes(self.data[node][offset : offset + size])

    def write(self, node: int, offset: int, data: memoryview, file: object) -> int:
        contents = self.data[node]
        contents.extend(bytes(max(0, offset - len(contents))))
        contents[offset : offset + len(data)] = data
        self.attrs[node].size = len(contents)
        return len(data)

    def seek(self, node: int, offset: int, whence: int, file: object) -> int:
        return offset if whence == os.SEEK_DATA else self.attrs[node].size

    def fallocate(self, node: int, mode: int, offset: int, length: int, file: object) -> None:
        pass

    def copy_file_range(
        self,
        node: int,
        offset: int,
        file: object,
        to: int,
        to_offset: int,
        to_file: object,
        size: int,
        flags: int,
    ) -> int:
        return self.write(to, to_offset, memoryview(self.read(node, offset, size, file)), to_file)

    # ---------------------------------------- attributes

    def getattr(self, node: int, file: object = None) -> puffs.Attr:
        return self.attrs[node]

    def setattr(
        self, node: int, changes: puffs.Changes, file: object, cred: puffs.Cred
    ) -> puffs.Attr:
        changes.apply(self.attrs[node])
        if changes.size is not None:
            del self.data[node][changes.size :]
        return self.attrs[node]

    def access(self, node: int, mode: int, cred: puffs.Cred) -> None:
        puffs.check_access(self.attrs[node], mode, cred)

    def getxattr(self, node: int, name: str) -> bytes:
        try:
            return self.xattrs[node, name]
        except KeyError:
            raise OSError(errno.ENODATA, "no such attribute") from None

    def setxattr(self, node: int, name: str, value: bytes, flags: int) -> None:
        self.xattrs[node, name] = value

    def listxattr(self, node: int) -> list[str]:
        return [name for owner, name in self.xattrs if owner == node]

    def removexattr(self, node: int, name: str) -> None:
        self.getxattr(node, name)
        del self.xattrs[node, name]

    # ---------------------------------------- other

    def advlock(
        self, node: int, op: str, lock: puffs.Lock, owner: int, file: object
    ) -> puffs.Lock | None:
        return puffs.Lock(fcntl.F_WRLCK, 5, 9, 4711) if op == "get" else None

    def poll(self, node: int, events: int, file: object, wake: Callable[[], None] | None) -> int:
        return events & 1

    def ioctl(
        self, node: int, command: int, data: bytes, size: int, file: object, cred: puffs.Cred
    ) -> tuple[int, bytes]:
        return 7, data[::-1]

    def inactive(self, node: int) -> None:
        pass

    def reclaim(self, node: int) -> None:
        pass


class Bare(puffs.FileSystem[int]):
    """No more than the three operations without which there is no file system."""

    def mount(self) -> int:
        return ROOT

    def lookup(self, dir: int, name: str, cred: puffs.Cred) -> int:
        if name == "file":
            return ROOT + 1
        raise FileNotFoundError(errno.ENOENT, "not there")

    def getattr(self, node: int, file: object = None) -> puffs.Attr:
        return puffs.Attr((stat.S_IFDIR if node == ROOT else stat.S_IFREG) | 0o755)


class Unchecked(Toy):
    """The same without `access`: the host decides who may do what, and may remember names."""

    access = puffs.FileSystem.access
