"""A file server of paths, and a host that asks it: what the tests of `PathFileSystem` share."""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import puffs
from puffs.kernel.mount import Servable
from puffs.server.operations import OPERATIONS
from puffs.server.stepping import finish

CRED = puffs.Cred(0, 0, groups=())
DIR = stat.S_IFDIR | 0o755
FILE = stat.S_IFREG | 0o644


@contextmanager
def fails(code: int) -> Iterator[None]:
    """The body must raise the `OSError` of this errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == code, os.strerror(caught.value.errno or 0)


class File:
    """A file or directory of `Shelf`. `ino` tells it from all others."""

    def __init__(self, ino: int, mode: int) -> None:
        self.ino = ino
        self.mode = mode
        self.data = b""

    def attr(self) -> puffs.Attr:
        return puffs.Attr(self.mode, len(self.data), ino=self.ino)


class Shelf(puffs.PathFileSystem):
    """Files in a dictionary by path, and `asked`: each operation with the paths it was given."""

    def __init__(self, *paths: str) -> None:
        """Paths that end in a slash are directories."""
        self.files = {"/": File(1, DIR)}
        self.asked: list[tuple[str, ...]] = []
        for path in paths:
            self.make(path.rstrip("/"), DIR if path.endswith("/") else FILE)

    def make(self, path: str, mode: int) -> File:
        file = self.files[path] = File(max(each.ino for each in self.files.values()) + 1, mode)
        return file

    def at(self, path: str, file: File | None = None) -> File:
        if file is not None:
            return file
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, path)
        return self.files[path]

    def move(self, path: str, newpath: str) -> None:
        for old in [old for old in self.files if old == path or old.startswith(path + "/")]:
            self.files[newpath + old.removeprefix(path)] = self.files.pop(old)

    def getattr(self, path: str, file: Any = None) -> puffs.Attr:
        self.asked.append(("getattr", path))
        return self.at(path, file).attr()

    def setattr(self, path: str, changes: puffs.Changes, file: Any, cred: puffs.Cred) -> None:
        assert changes.mode is not None
        self.at(path, file).mode = FILE & ~0o777 | changes.mode

    def readdir(
        self, path: str, offset: int, file: Any
    ) -> Iterable[str | puffs.DirEntry | tuple[str, puffs.Attr | os.stat_result]]:
        prefix = path.rstrip("/") + "/"
        for each, found in list(self.files.items()):
            name = each.removeprefix(prefix)
            if each != path and each.startswith(prefix) and "/" not in name:
                yield name, found.attr()

    def mkdir(self, path: str, attr: puffs.Attr, cred: puffs.Cred) -> None:
        self.make(path, attr.mode)

    def create(self, path: str, attr: puffs.Attr, flags: int, cred: puffs.Cred) -> object:
        return self.make(path, attr.mode)

    def open(self, path: str, flags: int, cred: puffs.Cred) -> object:
        self.asked.append(("open", path))
        return self.at(path)

    def close(self, path: str, file: Any, flags: int) -> None:
        self.asked.append(("close", path))

    def read(self, path: str, offset: int, size: int, file: Any) -> bytes:
        self.asked.append(("read", path))
        return self.at(path, file).data[offset : offset + size]

    def write(self, path: str, offset: int, data: memoryview, file: Any) -> int:
        self.at(path, file).data = bytes(data)
        return len(data)

    def link(self, path: str, newpath: str, cred: puffs.Cred) -> None:
        self.files[newpath] = self.at(path)

    def remove(self, path: str, cred: puffs.Cred) -> None:
        del self.files[path]

    def rmdir(self, path: str, cred: puffs.Cred) -> None:
        del self.files[path]

    def rename(self, path: str, newpath: str, flags: int, cred: puffs.Cred) -> None:
        self.asked.append(("rename", path, newpath))
        if flags & puffs.RENAME_EXCHANGE:
            self.move(newpath, "/..")
        self.files.pop(newpath, None)
        self.move(path, newpath)
        self.move("/..", path)


def waiting(cls: type) -> type:
    """A class whose operations are those of `cls`, each an `async def` that waits."""

    def twin(method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            return await asyncio.to_thread(method, *args)

        return call

    async def readdir(self: Any, *args: Any) -> AsyncIterator[Any]:
        for reply in await asyncio.to_thread(lambda: list(cls.readdir(self, *args))):  # type: ignore[attr-defined]
            yield reply

    ours = puffs.PathFileSystem
    defined = [n for n in OPERATIONS if getattr(cls, n, None) is not getattr(ours, n, None)]
    twins = {name: twin(getattr(cls, name)) for name in defined}
    if "readdir" in twins:
        twins["readdir"] = readdir
    return type(f"Waiting{cls.__name__}", (cls,), twins)


class Host:
    """What a host does: it walks, by the names that it knows of, and keeps nodes.

    With `waits`, the operations of its file server are `async def` ones that wait.
    """

    waits = False

    def __init__(self, server: Servable) -> None:
        if self.waits and not server.asynchronous:
            server.__class__ = waiting(type(server))
            assert server.asynchronous
        self.ops = server.operations()
        self.root = self("mount")

    def __call__(self, operation: str, *args: Any) -> Any:
        return finish(self.ops[operation](*args))

    def node(self, path: str) -> Any:
        node = self.root
        for name in path.split("/")[1:]:
            node = self("lookup", node, name, CRED).node
        return node

    def at(self, path: str) -> tuple[Any, str]:
        parent, _, name = path.rpartition("/")
        return (self.node(parent) if parent else self.root), name

    def ino(self, node: Any, file: Any = None) -> int:
        ino: int = self("getattr", node, file).ino
        return ino

    def rename(self, path: str, newpath: str, flags: int = 0) -> None:
        self("rename", *self.at(path), *self.at(newpath), flags, CRED)
