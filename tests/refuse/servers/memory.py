"""Files in memory, with times in seconds: how most programs with fusepy began.

`python memory.py LIBRARY MOUNTPOINT [OPTION[=VALUE]...]`
"""

import errno
import importlib
import itertools
import os
import stat
import sys
import time
from typing import Any

LIBRARY: Any = importlib.import_module(sys.argv[1])


class Node:
    """A file, directory, symlink or fifo."""

    def __init__(self, mode: int, uid: int, gid: int) -> None:
        now = time.time()
        self.data = b""
        self.xattrs: dict[str, bytes] = {}
        self.attrs: dict[str, Any] = {
            "st_mode": mode,
            "st_uid": uid,
            "st_gid": gid,
            "st_nlink": 2 if stat.S_ISDIR(mode) else 1,
            **dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), now),
        }


class Memory(LIBRARY.Operations):
    """A flat dictionary: from path to node. A file handle is a number that is never used again."""

    def __init__(self) -> None:
        self.nodes = {"/": Node(stat.S_IFDIR | 0o755, 0, 0)}
        self.handles = itertools.count(1)

    def find(self, path: str) -> Node:
        try:
            return self.nodes[path]
        except KeyError:
            raise LIBRARY.FuseOSError(errno.ENOENT) from None

    def make(self, path: str, mode: int) -> Node:
        uid, gid, _ = LIBRARY.fuse_get_context()
        node = self.nodes[path] = Node(mode, uid, gid)
        return node

    def children(self, path: str) -> list[str]:
        start = path.rstrip("/") + "/"
        below = (other[len(start) :] for other in self.nodes if other.startswith(start))
        return [name for name in below if name and "/" not in name]

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        node = self.find(path)
        return node.attrs | {"st_size": len(node.data)}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *self.children(path)]

    def create(self, path: str, mode: int, fi: object = None) -> int:
        self.make(path, stat.S_IFREG | mode)
        return next(self.handles)

    def mknod(self, path: str, mode: int, dev: int) -> int:
        self.make(path, mode).attrs["st_rdev"] = dev
        return 0

    def open(self, path: str, flags: int) -> int:
        self.find(path)
        return next(self.handles)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self.find(path).data[offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        node = self.find(path)
        before = node.data[:offset].ljust(offset, b"\0")
        node.data = before + data + node.data[offset + len(data) :]
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        node = self.find(path)
        node.data = node.data[:length].ljust(length, b"\0")
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self.make(path, stat.S_IFDIR | mode)
        self.find(os.path.dirname(path)).attrs["st_nlink"] += 1
        return 0

    def rmdir(self, path: str) -> int:
        if self.children(path):
            raise LIBRARY.FuseOSError(errno.ENOTEMPTY)
        del self.nodes[path]
        self.find(os.path.dirname(path)).attrs["st_nlink"] -= 1
        return 0

    def unlink(self, path: str) -> int:
        del self.nodes[path]
        return 0

    def rename(self, old: str, new: str) -> int:
        moved = [path for path in self.nodes if path == old or path.startswith(old + "/")]
        self.nodes.pop(new, None)
        for path in moved:
            self.nodes[new + path[len(old) :]] = self.nodes.pop(path)
        return 0

    def symlink(self, target: str, source: str) -> int:
        self.make(target, stat.S_IFLNK | 0o777).data = os.fsencode(source)
        return 0

    def readlink(self, path: str) -> str:
        return os.fsdecode(self.find(path).data)

    def chmod(self, path: str, mode: int) -> int:
        self.find(path).attrs["st_mode"] = mode
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        given = {"st_uid": uid, "st_gid": gid}
        self.find(path).attrs |= {name: number for name, number in given.items() if number != -1}
        return 0

    def utimens(self, path: str, times: tuple[float, float] | None = None) -> int:
        now = time.time()
        atime, mtime = times or (now, now)
        self.find(path).attrs |= {"st_atime": atime, "st_mtime": mtime}
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": 512, "f_blocks": 4096, "f_bavail": 2048}

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        try:
            return self.find(path).xattrs[name]
        except KeyError:
            raise LIBRARY.FuseOSError(errno.ENODATA) from None

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        self.find(path).xattrs[name] = value
        return 0

    def listxattr(self, path: str) -> list[str]:
        return list(self.find(path).xattrs)

    def removexattr(self, path: str, name: str) -> int:
        if self.find(path).xattrs.pop(name, None) is None:
            raise LIBRARY.FuseOSError(errno.ENODATA)
        return 0


def main(library: str, mountpoint: str, *words: str) -> None:
    options = {name: value or True for name, _, value in (word.partition("=") for word in words)}
    LIBRARY.FUSE(Memory(), mountpoint, foreground=True, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
