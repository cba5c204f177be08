"""The file servers of the benchmark, written with pyfuse3 or llfuse (Cython over libfuse).

Run as `python -m benchmarks.peer_inodes MODULE SERVER MOUNTPOINT [DIRECTORY]` by a Python that has
MODULE; it ends when it is unmounted. SERVER is `onefile` (what `floor.c` serves) or `loopback`
(DIRECTORY, passed through).

The two differ in that pyfuse3's operations are coroutines, and in what opens and listings return.
"""

import errno
import importlib
import os
import stat
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

NAME = sys.argv[1]
LIBRARY: Any = importlib.import_module(NAME)
PYFUSE3 = NAME == "pyfuse3"
SIZE = 16 << 20
ROOT, DATA = 1, 2

OPERATIONS = (
    *("lookup", "forget", "getattr", "setattr", "statfs", "opendir", "readdir", "releasedir"),
    *("mkdir", "rmdir", "create", "unlink", "rename", "link", "symlink", "readlink"),
    *("open", "read", "write", "flush", "fsync", "release"),
)


def error(number: int) -> Exception:
    raised: Exception = LIBRARY.FUSEError(number)
    return raised


def opened(fh: int, direct_io: bool = False) -> Any:
    """Return what `open` is to return. llfuse has no files that bypass the cache."""
    return LIBRARY.FileInfo(fh=fh, direct_io=direct_io) if PYFUSE3 else fh


class OneFile(LIBRARY.Operations):
    """A root directory with one file of 16 MiB, `data`, and maybe an empty `data.new`."""

    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray(SIZE)
        self.last = DATA
        self.attrs = {
            ROOT: self.attr(ROOT, stat.S_IFDIR | 0o755, 0),
            DATA: self.attr(DATA, stat.S_IFREG | 0o644, SIZE),
        }
        self.names = {b"data": DATA}

    def attr(self, inode: int, mode: int, size: int) -> Any:
        attr = LIBRARY.EntryAttributes()
        attr.entry_timeout = attr.attr_timeout = 0
        attr.st_ino, attr.st_mode, attr.st_size, attr.st_nlink = inode, mode, size, 1
        return attr

    def add(self, name: bytes, mode: int) -> Any:
        self.last += 1
        self.names[name] = self.last
        attr = self.attrs[self.last] = self.attr(self.last, mode, 0)
        return attr

    def lookup(self, parent: int, name: bytes, ctx: object) -> Any:
        inode = self.names.get(name)
        if inode is None:
            raise error(errno.ENOENT)
        return self.attrs[inode]

    def getattr(self, inode: int, ctx: object) -> Any:
        return self.attrs[inode]

    def forget(self, inodes: list[tuple[int, int]]) -> None:
        for inode, _ in inodes:
            if inode not in self.names.values():
                self.attrs.pop(inode, None)

    def mkdir(self, parent: int, name: bytes, mode: int, ctx: object) -> Any:
        return self.add(name, stat.S_IFDIR | mode)

    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: object) -> Any:
        return opened(0, direct_io=True), self.add(name, stat.S_IFREG | mode)

    def unlink(self, parent: int, name: bytes, ctx: object) -> None:
        del self.names[name]

    rmdir = unlink

    def open(self, inode: int, flags: int, ctx: object) -> Any:
        return opened(0, direct_io=True)

    def read(self, fh: int, offset: int, size: int) -> bytes:
        return bytes(memoryview(self.content)[offset : offset + size])

    def write(self, fh: int, offset: int, data: bytes) -> int:
        self.content[offset : offset + len(data)] = data
        return len(data)

    def flush(self, fh: int) -> None:
        """Nothing is buffered."""

    def release(self, fh: int) -> None:
        """Nothing belongs to an open file."""


class Loopback(LIBRARY.Operations):
    """A directory of the machine, passed through; inodes are those of the machine."""

    STAT = (
        *("st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize"),
        *("st_blocks", "st_atime_ns", "st_mtime_ns", "st_ctime_ns"),
    )
    TTL = 1.0  # as libfuse has it

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.directory = directory
        self.paths = {ROOT: directory}
        self.lookups: defaultdict[int, int] = defaultdict(int)
        self.handles: dict[int, int] = {}  # one descriptor of each open inode
        self.listings: dict[int, list[tuple[str, str]]] = {}
        self.last = 0

    def attr(self, inode: int, found: os.stat_result) -> Any:
        attr = LIBRARY.EntryAttributes()
        attr.entry_timeout = attr.attr_timeout = self.TTL
        attr.st_ino = inode
        for name in self.STAT:
            setattr(attr, name, getattr(found, name))
        return attr

    def below(self, parent: int, name: bytes) -> str:
        return f"{self.paths[parent]}/{os.fsdecode(name)}"

    def place(self, inode: int) -> str | int:
        """Return where a file is, also when it has no name any more."""
        return self.handles.get(inode, self.paths[inode])

    def known(self, path: str) -> Any:
        """Return the attributes of a file that the kernel knows from now on."""
        found = os.lstat(path)
        inode = found.st_ino
        self.paths[inode] = path
        self.lookups[inode] += 1
        return self.attr(inode, found)

    def lookup(self, parent: int, name: bytes, ctx: object) -> Any:
        return self.known(os.path.normpath(self.below(parent, name)))

    def unknown(self, inode: int, count: int) -> None:
        """Take back what `known` has counted."""
        self.lookups[inode] -= count
        if self.lookups[inode] <= 0 and inode != ROOT:
            del self.lookups[inode]
            self.paths.pop(inode, None)

    def forget(self, inodes: list[tuple[int, int]]) -> None:
        for inode, count in inodes:
            self.unknown(inode, count)

    def current(self, inode: int) -> Any:
        place = self.place(inode)
        return self.attr(inode, os.lstat(place) if isinstance(place, str) else os.fstat(place))

    def getattr(self, inode: int, ctx: object) -> Any:
        return self.current(inode)

    def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: object) -> Any:
        place = self.place(inode)
        follow = not isinstance(place, str)  # a descriptor can only be followed
        if fields.update_size:
            os.truncate(place, attr.st_size)
        if fields.update_mode:
            os.chmod(place, stat.S_IMODE(attr.st_mode))
        if fields.update_uid or fields.update_gid:
            uid = attr.st_uid if fields.update_uid else -1
            gid = attr.st_gid if fields.update_gid else -1
            os.chown(place, uid, gid, follow_symlinks=follow)
        if fields.update_atime or fields.update_mtime:
            found = os.stat(place, follow_symlinks=follow)
            atime = attr.st_atime_ns if fields.update_atime else found.st_atime_ns
            mtime = attr.st_mtime_ns if fields.update_mtime else found.st_mtime_ns
            os.utime(place, ns=(atime, mtime), follow_symlinks=follow)
        return self.current(inode)

    def statfs(self, ctx: object) -> Any:
        found, result = os.statvfs(self.directory), LIBRARY.StatvfsData()
        for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files"):
            setattr(result, name, getattr(found, name))
        for name in ("f_ffree", "f_favail"):
            setattr(result, name, getattr(found, name))
        return result

    def opendir(self, inode: int, ctx: object) -> int:
        path = self.paths[inode]
        self.last += 1
        self.listings[self.last] = [(name, f"{path}/{name}") for name in os.listdir(path)]
        return self.last

    def entries(self, fh: int, start: int) -> Iterator[tuple[bytes, str, int]]:
        listing = self.listings[fh]
        for index in range(start, len(listing)):
            name, path = listing[index]
            yield os.fsencode(name), path, index + 1

    def readdir_pyfuse3(self, fh: int, start: int, token: object) -> None:
        for name, path, following in self.entries(fh, start):
            try:
                attr = self.known(path)
            except FileNotFoundError:
                continue
            if not LIBRARY.readdir_reply(token, name, attr, following):
                self.unknown(attr.st_ino, 1)
                return

    def readdir_llfuse(self, fh: int, start: int) -> Iterator[tuple[bytes, Any, int]]:
        for name, path, following in self.entries(fh, start):
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                continue
            yield name, self.attr(found.st_ino, found), following

    readdir = readdir_pyfuse3 if PYFUSE3 else readdir_llfuse

    def releasedir(self, fh: int) -> None:
        del self.listings[fh]

    def mkdir(self, parent: int, name: bytes, mode: int, ctx: object) -> Any:
        path = self.below(parent, name)
        os.mkdir(path, mode)
        return self.known(path)

    def rmdir(self, parent: int, name: bytes, ctx: object) -> None:
        os.rmdir(self.below(parent, name))

    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: object) -> Any:
        path = self.below(parent, name)
        fd = os.open(path, flags | os.O_CREAT, mode)
        attr = self.known(path)
        self.handles.setdefault(attr.st_ino, fd)
        return opened(fd), attr

    def unlink(self, parent: int, name: bytes, ctx: object) -> None:
        os.unlink(self.below(parent, name))

    def rename(self, parent: int, name: bytes, new_parent: int, new: bytes, *rest: object) -> None:
        before, after = self.below(parent, name), self.below(new_parent, new)
        os.rename(before, after)
        for inode, path in self.paths.items():
            if path == before or path.startswith(before + "/"):
                self.paths[inode] = after + path[len(before) :]

    def link(self, inode: int, parent: int, name: bytes, ctx: object) -> Any:
        path = self.below(parent, name)
        os.link(self.paths[inode], path)
        return self.known(path)

    def symlink(self, parent: int, name: bytes, target: bytes, ctx: object) -> Any:
        path = self.below(parent, name)
        os.symlink(target, path)
        return self.known(path)

    def readlink(self, inode: int, ctx: object) -> bytes:
        return os.fsencode(os.readlink(self.paths[inode]))

    def open(self, inode: int, flags: int, ctx: object) -> Any:
        fd = os.open(self.paths[inode], flags)
        self.handles.setdefault(inode, fd)
        return opened(fd)

    def read(self, fh: int, offset: int, size: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, fh: int, offset: int, data: bytes) -> int:
        return os.pwrite(fh, data, offset)

    def flush(self, fh: int) -> None:
        """Nothing is buffered."""

    def fsync(self, fh: int, datasync: bool) -> None:
        (os.fdatasync if datasync else os.fsync)(fh)

    def release(self, fh: int) -> None:
        inode = os.fstat(fh).st_ino
        if self.handles.get(inode) == fh:
            del self.handles[inode]
        os.close(fh)


def translated(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operation with errors of the system as errors of the library."""

    def call(*arguments: Any) -> Any:
        try:
            return operation(*arguments)
        except OSError as found:
            raise error(found.errno or errno.EIO) from None

    return call


def coroutine(operation: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any) -> Any:
        return operation(*arguments)

    return call


def adapt(server: type) -> None:
    """Give a class its operations in the form that the library calls."""
    for name in OPERATIONS:
        if name in vars(server):
            operation = translated(vars(server)[name])
            setattr(server, name, coroutine(operation) if PYFUSE3 else operation)


SERVERS = {"onefile": OneFile, "loopback": Loopback}


def main(server: str, mountpoint: str, *directory: str) -> None:
    adapt(SERVERS[server])
    options = set(LIBRARY.default_options) | {"fsname=puffs-bench"}
    if server == "onefile":
        options.discard("default_permissions")  # the floor has them not: a request more a call
    LIBRARY.init(SERVERS[server](*directory), mountpoint, options)
    try:
        if PYFUSE3:
            importlib.import_module("trio").run(LIBRARY.main)
        else:
            LIBRARY.main(workers=1)
    finally:
        LIBRARY.close()


if __name__ == "__main__":
    main(*sys.argv[2:])
