"""The file servers of the benchmark, written with fusepy or mfusepy (ctypes over libfuse).

Run as `python -m benchmarks.peer_paths MODULE SERVER MOUNTPOINT [DIRECTORY]` by a Python that has
MODULE (`fuse` is fusepy's); it ends when it is unmounted. SERVER is `onefile` (what `floor.c`
serves), `loopback` (DIRECTORY, passed through) or `memory`.
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
SIZE = 16 << 20
UNCHANGED = 0xFFFFFFFF  # an owner: -1, as ctypes has it

Attrs = dict[str, Any]
Listed = tuple[str, Attrs, int]  # name, what is known of it, offset: 0, all is listed at once
DOTS: list[Listed] = [(".", {"st_ino": 1}, 0), ("..", {"st_ino": 1}, 0)]


def absent(path: str) -> OSError:
    return OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


class OneFile(LIBRARY.Operations):
    """A root directory with one file of 16 MiB, `data`, and maybe an empty `data.new`."""

    use_ns = True

    def __init__(self) -> None:
        self.content = bytearray(SIZE)
        self.attrs: dict[str, Attrs] = {
            "/": {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2},
            "/data": {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": SIZE},
        }

    def getattr(self, path: str, fh: int | None = None) -> Attrs:
        try:
            return self.attrs[path]
        except KeyError:
            raise absent(path) from None

    def mkdir(self, path: str, mode: int) -> int:
        self.attrs[path] = {"st_mode": stat.S_IFDIR | mode, "st_nlink": 2}
        return 0

    def create(self, path: str, mode: int, fi: object = None) -> int:
        self.attrs[path] = {"st_mode": stat.S_IFREG | mode, "st_nlink": 1, "st_size": 0}
        return 0

    def unlink(self, path: str) -> int:
        del self.attrs[path]
        return 0

    rmdir = unlink

    def open(self, path: str, flags: int) -> int:
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def release(self, path: str, fh: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(memoryview(self.content)[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.content[offset : offset + len(data)] = data
        return len(data)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(name[1:] for name in self.attrs if name != "/")]


class Loopback(LIBRARY.Operations):
    """A directory of the machine, passed through."""

    use_ns = True
    STAT = tuple(name for name in dir(os.stat_result) if name.startswith("st_"))
    TIMES = ("st_atime", "st_mtime", "st_ctime")

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def getattr(self, path: str, fh: int | None = None) -> Attrs:
        found = os.lstat(self.directory + path) if fh is None else os.fstat(fh)
        attrs = {name: getattr(found, name) for name in self.STAT}
        for name in self.TIMES:
            attrs[name] = attrs[name + "_ns"]
        return attrs

    def readdir(self, path: str, fh: int) -> list[Listed]:
        with os.scandir(self.directory + path) as entries:
            return [*DOTS, *((each.name, {"st_ino": each.inode()}, 0) for each in entries)]

    def create(self, path: str, mode: int, fi: object = None) -> int:
        return os.open(self.directory + path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self.directory + path, flags)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def flush(self, path: str, fh: int) -> int:
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        (os.fdatasync if datasync else os.fsync)(fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self.directory + path if fh is None else fh, length)
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self.directory + path, mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        owners = (-1 if owner == UNCHANGED else owner for owner in (uid, gid))
        os.chown(self.directory + path, *owners, follow_symlinks=False)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        now = time.time_ns()
        os.utime(self.directory + path, ns=times or (now, now), follow_symlinks=False)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self.directory + path, mode)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self.directory + path)
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self.directory + path)
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self.directory + old, self.directory + new)
        return 0

    def link(self, target: str, source: str) -> int:
        os.link(self.directory + source, self.directory + target)
        return 0

    def symlink(self, target: str, source: str) -> int:
        os.symlink(source, self.directory + target)
        return 0

    def readlink(self, path: str) -> str:
        return os.readlink(self.directory + path)

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self.directory + path)
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}


class Node:
    """A file, directory or symlink in memory."""

    numbers = itertools.count(1)

    def __init__(self, mode: int) -> None:
        now = time.time_ns()
        self.content = bytearray()
        self.names: dict[str, Node] = {}
        self.attrs: Attrs = {"st_mode": mode, "st_nlink": 2 if stat.S_ISDIR(mode) else 1}
        self.attrs["st_ino"] = next(self.numbers)
        self.attrs |= dict.fromkeys(Loopback.TIMES, now) | dict.fromkeys(("st_uid", "st_gid"), 0)


class Memory(LIBRARY.Operations):
    """Files in memory."""

    use_ns = True

    def __init__(self) -> None:
        self.root = Node(stat.S_IFDIR | 0o755)
        self.opened: dict[int, Node] = {}
        self.handles = 0

    def find(self, path: str) -> Node:
        node = self.root
        try:
            for name in path.split("/"):
                if name:
                    node = node.names[name]
        except KeyError:
            raise absent(path) from None
        return node

    def add(self, path: str, node: Node) -> None:
        directory, _, name = path.rpartition("/")
        self.find(directory).names[name] = node

    def take(self, path: str) -> Node:
        directory, _, name = path.rpartition("/")
        return self.find(directory).names.pop(name)

    def handle(self, node: Node) -> int:
        self.handles += 1
        self.opened[self.handles] = node
        return self.handles

    def getattr(self, path: str, fh: int | None = None) -> Attrs:
        node = self.find(path)
        size = len(node.content)
        return node.attrs | {"st_size": size, "st_blocks": (size + 511) // 512}

    def readdir(self, path: str, fh: int) -> list[Listed]:
        names = self.find(path).names
        return [*DOTS, *((name, {"st_ino": names[name].attrs["st_ino"]}, 0) for name in names)]

    def create(self, path: str, mode: int, fi: object = None) -> int:
        node = Node(stat.S_IFREG | mode)
        self.add(path, node)
        return self.handle(node)

    def open(self, path: str, flags: int) -> int:
        return self.handle(self.find(path))

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(memoryview(self.opened[fh].content)[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        content = self.opened[fh].content
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
        return len(data)

    def flush(self, path: str, fh: int) -> int:
        return 0

    def release(self, path: str, fh: int) -> int:
        del self.opened[fh]
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        content = self.find(path).content
        del content[length:]
        content.extend(bytes(length - len(content)))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self.find(path).attrs["st_mode"] = mode
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        owners = {"st_uid": uid, "st_gid": gid}
        self.find(path).attrs |= {
            name: owner for name, owner in owners.items() if owner != UNCHANGED
        }
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        now = time.time_ns()
        atime, mtime = times or (now, now)
        self.find(path).attrs |= {"st_atime": atime, "st_mtime": mtime, "st_ctime": now}
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self.add(path, Node(stat.S_IFDIR | mode))
        return 0

    def rmdir(self, path: str) -> int:
        if self.find(path).names:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        self.take(path)
        return 0

    def unlink(self, path: str) -> int:
        self.take(path)
        return 0

    def rename(self, old: str, new: str) -> int:
        self.add(new, self.take(old))
        return 0

    def symlink(self, target: str, source: str) -> int:
        node = Node(stat.S_IFLNK | 0o777)
        node.content[:] = os.fsencode(source)
        self.add(target, node)
        return 0

    def readlink(self, path: str) -> str:
        return os.fsdecode(bytes(self.find(path).content))

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 1 << 20, "f_bavail": 1 << 20}


# No threads, no cache: what the floor does. The others have the library's defaults, and the inode
# numbers that they report, without which cp(1) takes files for replaced ones.
FLOOR_OPTIONS = {
    "nothreads": True,
    "direct_io": True,
    "entry_timeout": 0,
    "attr_timeout": 0,
    "negative_timeout": 0,
}
SERVERS = {"onefile": OneFile, "loopback": Loopback, "memory": Memory}


def main(server: str, mountpoint: str, *directory: str) -> None:
    options: dict[str, Any] = FLOOR_OPTIONS if server == "onefile" else {"use_ino": True}
    if LIBRARY.__name__ == "fuse":
        options["big_writes"] = True  # libfuse 2 writes 4 KiB at a time without
    operations = SERVERS[server](*directory)
    LIBRARY.FUSE(operations, mountpoint, foreground=True, fsname="puffs-bench", **options)


if __name__ == "__main__":
    main(*sys.argv[2:])
