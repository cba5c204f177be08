"""Programs for the tests of fusepy and mfusepy on puffs: operations over a dict of files."""

import os
from errno import EEXIST, ENOENT, ENOTEMPTY
from stat import S_IFDIR, S_IFLNK, S_IFREG
from typing import Any

from puffs.refuse import fusepy, mfusepy


class Shelf:
    """Files in memory, by their paths; `asked` has the operations, as they were called."""

    use_ns = True

    def __init__(self) -> None:
        self.files: dict[str, dict[str, Any]] = {"/": {"st_mode": S_IFDIR | 0o755, "st_nlink": 2}}
        self.data: dict[str, bytearray] = {}
        self.open_files: dict[int, bytearray] = {}
        self.asked: list[tuple[Any, ...]] = []

    def calls_of(self, *names: str) -> list[tuple[Any, ...]]:
        """The calls of these operations."""
        return [call for call in self.asked if call[0] in names]

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        self.asked.append(("getattr", path, fh))
        if fh is not None and not isinstance(fh, int):
            fh = fh.fh
        if path is None or fh in self.open_files:
            return {"st_mode": S_IFREG | 0o644, "st_nlink": 1, "st_size": len(self.open_files[fh])}
        if path not in self.files:
            raise fusepy.FuseOSError(ENOENT)
        return {"st_size": len(self.data.get(path, b"")), **self.files[path]}

    def readdir(self, path: str, fh: int) -> list[str]:
        self.asked.append(("readdir", path, fh))
        names = [each.rpartition("/") for each in self.files if each != "/"]
        return [".", "..", *(name for parent, _, name in names if (parent or "/") == path)]

    def _made(self, path: str, mode: int) -> None:
        if path in self.files:
            raise fusepy.FuseOSError(EEXIST)
        self.files[path] = {"st_mode": mode, "st_nlink": 1}

    def mkdir(self, path: str, mode: int) -> int:
        self.asked.append(("mkdir", path, mode))
        self._made(path, S_IFDIR | mode)
        return 0

    def mknod(self, path: str, mode: int, dev: int) -> None:
        self.asked.append(("mknod", path, mode, dev))
        self._made(path, mode)
        self.data[path] = bytearray()

    def symlink(self, target: str, source: str) -> None:
        self.asked.append(("symlink", target, source))
        self._made(target, S_IFLNK | 0o777)
        self.data[target] = bytearray(os.fsencode(source))

    def readlink(self, path: str) -> str:
        return os.fsdecode(bytes(self.data[path]))

    def link(self, target: str, source: str) -> None:
        self.asked.append(("link", target, source))
        self.files[target], self.data[target] = self.files[source], self.data[source]

    def _open(self, path: str) -> int:
        fh = 7 + len(self.open_files)
        self.open_files[fh] = self.data[path]
        return fh

    def open(self, path: str, flags: Any) -> int:
        self.asked.append(("open", path, flags))
        return self._open(path)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self.asked.append(("create", path, mode))
        self._made(path, mode)
        self.data[path] = bytearray()
        return self._open(path)

    def release(self, path: str, fh: Any) -> None:
        self.asked.append(("release", path, fh))

    def read(self, path: str, size: int, offset: int, fh: Any) -> bytes:
        self.asked.append(("read", path, size, offset, fh))
        return bytes(self.open_files[fh][offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: Any) -> int:
        self.asked.append(("write", path, data, offset, fh))
        self.open_files[fh][offset : offset + len(data)] = data
        return len(data)

    def truncate(self, path: str, length: int, fh: Any = None) -> None:
        self.asked.append(("truncate", path, length, fh))
        data = self.data[path]
        data[:] = data[:length].ljust(length, b"\0")

    def unlink(self, path: str) -> None:
        self.asked.append(("unlink", path))
        del self.files[path], self.data[path]

    def rmdir(self, path: str) -> None:
        self.asked.append(("rmdir", path))
        if any(each.startswith(f"{path}/") for each in self.files):
            raise fusepy.FuseOSError(ENOTEMPTY)
        del self.files[path]

    def rename(self, old: str, new: str) -> None:
        self.asked.append(("rename", old, new))
        tables: tuple[dict[str, Any], ...] = (self.files, self.data)
        for table in tables:
            for path in list(table):
                if path == old or path.startswith(f"{old}/"):
                    table[new + path[len(old) :]] = table.pop(path)

    def chmod(self, path: str, mode: int) -> int:
        self.asked.append(("chmod", path, mode))
        self.files[path]["st_mode"] = mode
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        self.asked.append(("chown", path, uid, gid))
        return 0

    def utimens(self, path: str, times: Any = None) -> int:
        self.asked.append(("utimens", path, times))
        self.files[path]["st_atime"], self.files[path]["st_mtime"] = times
        return 0


class FusepyShelf(Shelf, fusepy.Operations):
    """As a program for fusepy."""


class MfusepyShelf(Shelf, mfusepy.Operations):
    """As a program for mfusepy."""
