"""Files in memory by inodes, for pyfuse3 and for llfuse.

`python tmpfs.py LIBRARY MOUNTPOINT [WORD...] [OPTION...]`. The words `enable_acl` and
`enable_writeback_cache` are attributes of pyfuse3's class. The operations are the same in both
libraries, but that those of pyfuse3 are coroutines, and some answers have another shape.
"""

import errno
import functools
import importlib
import itertools
import os
import stat
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

NAME = sys.argv[1]
LIBRARY: Any = importlib.import_module(NAME)
PYFUSE3 = NAME == "pyfuse3"
ROOT = LIBRARY.ROOT_INODE


class Node:
    """An inode."""

    def __init__(self, inode: int, mode: int, uid: int, gid: int, rdev: int = 0) -> None:
        self.inode, self.mode, self.uid, self.gid, self.rdev = inode, mode, uid, gid, rdev
        self.atime = self.mtime = self.ctime = time.time_ns()
        self.data = b""  # or the target of a symlink
        self.names: dict[bytes, Node] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.links = 0

    def entry(self) -> Any:
        entry = LIBRARY.EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_rdev = self.inode, self.mode, self.rdev
        entry.st_uid, entry.st_gid, entry.st_size = self.uid, self.gid, len(self.data)
        directories = sum(stat.S_ISDIR(node.mode) for node in self.names.values())
        entry.st_nlink = directories + 2 if stat.S_ISDIR(self.mode) else self.links
        entry.st_blksize, entry.st_blocks = 512, (len(self.data) + 511) // 512
        entry.st_atime_ns, entry.st_mtime_ns = self.atime, self.mtime
        entry.st_ctime_ns = self.ctime
        entry.generation, entry.entry_timeout, entry.attr_timeout = 0, 300, 300
        return entry


class Tmpfs(LIBRARY.Operations):
    """A file lives while it has a name, is open, or is known to the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(ROOT)
        self.nodes: dict[int, Node] = {}
        self.lookups: defaultdict[int, int] = defaultdict(int)
        self.make(stat.S_IFDIR | 0o755, os.getuid(), os.getgid())

    def make(self, mode: int, uid: int, gid: int, rdev: int = 0) -> Node:
        inode = next(self.numbers)
        node = self.nodes[inode] = Node(inode, mode, uid, gid, rdev)
        return node

    def add(self, parent: int, name: bytes, node: Node) -> Any:
        names = self.nodes[parent].names
        if name in names:
            raise LIBRARY.FUSEError(errno.EEXIST)
        names[name] = node
        node.links += 1
        return self.looked_up(node)

    def looked_up(self, node: Node) -> Any:
        self.lookups[node.inode] += 1
        return node.entry()

    def child(self, parent: int, name: bytes) -> Node:
        try:
            return self.nodes[parent].names[name]
        except KeyError:
            raise LIBRARY.FUSEError(errno.ENOENT) from None

    def take(self, parent: int, name: bytes) -> None:
        node = self.nodes[parent].names.pop(name)
        node.links -= 1
        if not node.links and not self.lookups[node.inode]:
            del self.nodes[node.inode]

    def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        if len(name) > 255:
            raise LIBRARY.FUSEError(errno.ENAMETOOLONG)
        if name == b".":
            return self.looked_up(self.nodes[parent_inode])
        return self.looked_up(self.child(parent_inode, name))

    def forget(self, inode_list: list[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            self.lookups[inode] -= count
            if not self.lookups[inode] and not self.nodes[inode].links and inode != ROOT:
                del self.nodes[inode]

    def getattr(self, inode: int, ctx: Any) -> Any:
        return self.nodes[inode].entry()

    def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> Any:
        node = self.nodes[inode]
        if fields.update_size:
            node.data = node.data[: attr.st_size].ljust(attr.st_size, b"\0")
        if fields.update_mode:
            node.mode = attr.st_mode
        if fields.update_uid:
            node.uid = attr.st_uid
        if fields.update_gid:
            node.gid = attr.st_gid
        if fields.update_atime:
            node.atime = attr.st_atime_ns
        if fields.update_mtime:
            node.mtime = attr.st_mtime_ns
        node.ctime = time.time_ns()
        return node.entry()

    def readlink(self, inode: int, ctx: Any) -> bytes:
        return self.nodes[inode].data

    def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        return self.add(parent_inode, name, self.make(mode, ctx.uid, ctx.gid, rdev))

    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        node = self.make(stat.S_IFDIR | stat.S_IMODE(mode), ctx.uid, ctx.gid)
        return self.add(parent_inode, name, node)

    def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> Any:
        node = self.make(stat.S_IFLNK | 0o777, ctx.uid, ctx.gid)
        node.data = target
        return self.add(parent_inode, name, node)

    def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> Any:
        return self.add(new_parent_inode, new_name, self.nodes[inode])

    def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        self.child(parent_inode, name)
        self.take(parent_inode, name)

    def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        if self.child(parent_inode, name).names:
            raise LIBRARY.FUSEError(errno.ENOTEMPTY)
        self.take(parent_inode, name)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *rest: Any
    ) -> None:
        if PYFUSE3 and rest[0]:
            raise LIBRARY.FUSEError(errno.EINVAL)
        node = self.child(parent, name)
        replaced = self.nodes[new_parent].names.get(new_name)
        if replaced is node:
            return
        if replaced is not None:
            if replaced.names:
                raise LIBRARY.FUSEError(errno.ENOTEMPTY)
            self.take(new_parent, new_name)
        del self.nodes[parent].names[name]
        self.nodes[new_parent].names[new_name] = node

    def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        node = self.make(stat.S_IFREG | stat.S_IMODE(mode), ctx.uid, ctx.gid)
        return self.opened(node.inode), self.add(parent_inode, name, node)

    def opened(self, inode: int) -> Any:
        """What opening gives: the handle, which is the inode."""
        return LIBRARY.FileInfo(fh=inode) if PYFUSE3 else inode

    def open(self, inode: int, flags: int, ctx: Any) -> Any:
        return self.opened(inode)

    def read(self, fh: int, off: int, size: int) -> bytes:
        return self.nodes[fh].data[off : off + size]

    def write(self, fh: int, off: int, buf: bytes) -> int:
        node = self.nodes[fh]
        node.data = node.data[:off].ljust(off, b"\0") + buf + node.data[off + len(buf) :]
        node.mtime = node.ctime = time.time_ns()
        return len(buf)

    def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    def listed(self, fh: int, start: int) -> Iterator[tuple[int, bytes, Node]]:
        names = list(self.nodes[fh].names.items())
        for index in range(start, len(names)):
            yield index + 1, *names[index]

    def readdir_pyfuse3(self, fh: int, start_id: int, token: Any) -> None:
        for following, name, node in self.listed(fh, start_id):
            if not LIBRARY.readdir_reply(token, name, node.entry(), following):
                break
            self.lookups[node.inode] += 1

    def readdir_llfuse(self, fh: int, start_id: int) -> Iterator[tuple[bytes, Any, int]]:
        for following, name, node in self.listed(fh, start_id):
            yield name, node.entry(), following

    readdir = readdir_pyfuse3 if PYFUSE3 else readdir_llfuse

    def statfs(self, ctx: Any) -> Any:
        data = LIBRARY.StatvfsData()
        data.f_bsize = data.f_frsize = 512
        data.f_blocks, data.f_bfree, data.f_bavail = 4096, 2048, 1024
        data.f_files, data.f_ffree, data.f_favail = 100, 50, 25
        return data

    def access(self, inode: int, mode: int, ctx: Any) -> bool:
        return True

    def getxattr(self, inode: int, name: bytes, ctx: Any = None) -> bytes:
        # llfuse 1.5 gives no context where it asks for itself, for XATTR_CREATE.
        try:
            return self.nodes[inode].xattrs[name]
        except KeyError:
            raise LIBRARY.FUSEError(LIBRARY.ENOATTR) from None

    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        self.nodes[inode].xattrs[name] = value

    def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        return list(self.nodes[inode].xattrs)

    def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        if self.nodes[inode].xattrs.pop(name, None) is None:
            raise LIBRARY.FUSEError(LIBRARY.ENOATTR)


def coroutine(operation: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(operation)
    async def call(*arguments: Any) -> Any:
        return operation(*arguments)

    return call


WORDS = {"enable_acl", "enable_writeback_cache"}


def main(library: str, mountpoint: str, *words: str) -> None:
    for word in WORDS.intersection(words):
        setattr(Tmpfs, word, True)
    options = set(LIBRARY.default_options) | {"fsname=tmpfs", *words} - WORDS
    if PYFUSE3:
        for name, operation in list(vars(Tmpfs).items()):
            if hasattr(LIBRARY.Operations, name) and not name.startswith("_"):
                setattr(Tmpfs, name, coroutine(operation))
    LIBRARY.init(Tmpfs(), mountpoint, options)
    try:
        if PYFUSE3:
            importlib.import_module("trio").run(LIBRARY.main)
        else:
            LIBRARY.main(workers=1)
    finally:
        LIBRARY.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
