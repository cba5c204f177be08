"""The file server of the benchmark, written with puffs: what `floor.c` serves, in plain Python.

Run as `python -m benchmarks.server [--async] [--isolated] MOUNTPOINT`; it ends when it is
unmounted. With `--async` the operations are `async def` ones that never wait; with `--isolated`
they are in a process of their own.
"""

import errno
import stat
import sys
from collections.abc import Iterator

import puffs

ROOT, DATA = "root", "data"
SIZE = 16 << 20


class OneFile(puffs.FileSystem[str]):
    """A root directory with one file of 16 MiB, `data`, of which nothing may be cached."""

    name_ttl = 0.0
    attr_ttl = 0.0

    def __init__(self) -> None:
        """Make the file, full of zeros, and the two attribute records."""
        self.content = memoryview(bytearray(SIZE))
        self.attrs = {
            ROOT: puffs.Attr(mode=stat.S_IFDIR | 0o755, nlink=2),
            DATA: puffs.Attr(mode=stat.S_IFREG | 0o644, size=SIZE),
        }

    def mount(self) -> str:
        return ROOT

    def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:
        if dir == ROOT and name == "data":
            return DATA
        raise FileNotFoundError(errno.ENOENT, "no such file", name)

    def access(self, node: str, mode: int, cred: puffs.Cred) -> None:
        """Allow everything, as the floor does: the host then asks for no attributes to decide."""

    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        return self.attrs[node]

    def open(self, node: str, flags: int, cred: puffs.Cred) -> puffs.Open:
        return puffs.Open(None, direct_io=node == DATA)

    def read(self, node: str, offset: int, size: int, file: object) -> memoryview:
        return self.content[offset : offset + size]

    def write(self, node: str, offset: int, data: memoryview, file: object) -> int:
        if offset + len(data) > SIZE:
            raise OSError(errno.EFBIG, "the file has a fixed size")
        self.content[offset : offset + len(data)] = data
        return len(data)

    def readdir(self, dir: str, offset: int, file: object) -> Iterator[puffs.DirEntry]:
        yield puffs.DirEntry("data", stat.S_IFREG)

    def close(self, node: str, file: object, flags: int) -> None:
        """Nothing belongs to an open file here; the host's message is part of the round trip."""


class OneFileAsync(OneFile):
    """The same with `async def` operations."""

    async def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:  # type: ignore[override]
        if dir == ROOT and name == "data":
            return DATA
        raise FileNotFoundError(errno.ENOENT, "no such file", name)

    async def getattr(self, node: str, file: object = None) -> puffs.Attr:  # type: ignore[override]
        return self.attrs[node]

    async def open(self, node: str, flags: int, cred: puffs.Cred) -> puffs.Open:  # type: ignore[override]
        return puffs.Open(None, direct_io=node == DATA)

    async def read(self, node: str, offset: int, size: int, file: object) -> memoryview:  # type: ignore[override]
        return self.content[offset : offset + size]

    async def write(self, node: str, offset: int, data: memoryview, file: object) -> int:  # type: ignore[override]
        if offset + len(data) > SIZE:
            raise OSError(errno.EFBIG, "the file has a fixed size")
        self.content[offset : offset + len(data)] = data
        return len(data)


if __name__ == "__main__":
    *flags, mountpoint = sys.argv[1:]
    server = OneFileAsync if "--async" in flags else OneFile
    puffs.run(server, mountpoint, isolate="--isolated" in flags)
