"""The file server of the benchmark, written with puffs: what `floor.c` serves, in plain Python.

Run as `python -m benchmarks.server MOUNTPOINT [--async | --no-open] [--isolated]`; it ends when it
is unmounted. With `--async` the operations are `async def` ones that never wait; with `--no-open`
there is no `open`, and none is asked for; with `--isolated` they are in a process of their own.
"""

import errno
import itertools
import stat
import sys
from collections.abc import Iterator

import puffs

ROOT, DATA = "root", "data"
SIZE = 16 << 20


class NoOpen(puffs.FileSystem[str]):
    """A root directory with one file of 16 MiB, `data`, of which nothing may be cached.

    Beside it may be an empty file or directory, `data.new`, whose cookie is another one each time.
    """

    name_ttl = 0.0
    attr_ttl = 0.0

    def __init__(self) -> None:
        """Make the file, full of zeros, and the two attribute records."""
        self.content = memoryview(bytearray(SIZE))
        self.names = {"data": DATA}
        self.cookies = map(str, itertools.count())
        self.attrs = {
            ROOT: puffs.Attr(mode=stat.S_IFDIR | 0o755, nlink=2),
            DATA: puffs.Attr(mode=stat.S_IFREG | 0o644, size=SIZE),
        }

    def mount(self) -> str:
        return ROOT

    def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:
        try:
            return self.names[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", name) from None

    def access(self, node: str, mode: int, cred: puffs.Cred) -> None:
        """Allow everything, as the floor does: the host then asks for no attributes to decide."""

    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        return self.attrs[node]

    def make(self, name: str, attr: puffs.Attr) -> str:
        cookie = self.names[name] = next(self.cookies)
        self.attrs[cookie] = attr
        return cookie

    def mkdir(self, dir: str, name: str, attr: puffs.Attr, cred: puffs.Cred) -> str:
        return self.make(name, attr)

    def create(
        self, dir: str, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> tuple[str, puffs.Open]:
        return self.make(name, attr), puffs.Open(None, direct_io=True)

    def remove(self, dir: str, name: str, cred: puffs.Cred) -> None:
        del self.attrs[self.names.pop(name)]

    rmdir = remove

    def read(self, node: str, offset: int, size: int, file: object) -> memoryview:
        return self.content[offset : offset + size]

    def write(self, node: str, offset: int, data: memoryview, file: object) -> int:
        if offset + len(data) > SIZE:
            raise OSError(errno.EFBIG, "the file has a fixed size")
        self.content[offset : offset + len(data)] = data
        return len(data)

    def readdir(self, dir: str, offset: int, file: object) -> Iterator[puffs.DirEntry]:
        yield puffs.DirEntry("data", stat.S_IFREG)


class OneFile(NoOpen):
    """The same, and every open, flush and release is answered."""

    def open(self, node: str, flags: int, cred: puffs.Cred) -> puffs.Open:
        return puffs.Open(None, direct_io=node == DATA)

    def flush(self, node: str, file: object, owner: int) -> None:
        """Nothing is buffered here; the host's message is part of the round trip."""

    def close(self, node: str, file: object, flags: int) -> None:
        """Nothing belongs to an open file here; the host's message is part of the round trip."""


class OneFileAsync(OneFile):
    """The same with `async def` operations."""

    async def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:  # type: ignore[override]
        try:
            return self.names[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", name) from None

    async def getattr(self, node: str, file: object = None) -> puffs.Attr:  # type: ignore[override]
        return self.attrs[node]

    async def mkdir(self, dir: str, name: str, attr: puffs.Attr, cred: puffs.Cred) -> str:  # type: ignore[override]
        return self.make(name, attr)

    async def create(  # type: ignore[override]
        self, dir: str, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> tuple[str, puffs.Open]:
        return self.make(name, attr), puffs.Open(None, direct_io=True)

    async def remove(self, dir: str, name: str, cred: puffs.Cred) -> None:  # type: ignore[override]
        del self.attrs[self.names.pop(name)]

    rmdir = remove  # type: ignore[assignment]

    async def open(self, node: str, flags: int, cred: puffs.Cred) -> puffs.Open:  # type: ignore[override]
        return puffs.Open(None, direct_io=node == DATA)

    async def read(self, node: str, offset: int, size: int, file: object) -> memoryview:  # type: ignore[override]
        return self.content[offset : offset + size]

    async def write(self, node: str, offset: int, data: memoryview, file: object) -> int:  # type: ignore[override]
        if offset + len(data) > SIZE:
            raise OSError(errno.EFBIG, "the file has a fixed size")
        self.content[offset : offset + len(data)] = data
        return len(data)


SERVERS = {"--async": OneFileAsync, "--no-open": NoOpen}

if __name__ == "__main__":
    mountpoint, *flags = sys.argv[1:]
    server = next((SERVERS[flag] for flag in flags if flag in SERVERS), OneFile)
    puffs.run(server, mountpoint, isolate="--isolated" in flags)
