"""What the kernel is told unasked: that something is not so any more, or what a file holds.

`python telling.py LIBRARY NOTES MOUNTPOINT [OPTION...]`, for pyfuse3 and llfuse. `a` and `b` hold
how often they were read, and the kernel may believe everything for ever. An extended attribute of
`control` that is set is an order: `invalidate_inode 10 True`. What is asked, and what comes of an
order, is written into the file NOTES.
"""

import errno
import functools
import importlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any

NAME = sys.argv[1]
LIBRARY: Any = importlib.import_module(NAME)
PYFUSE3 = NAME == "pyfuse3"
ROOT = LIBRARY.ROOT_INODE
INODES = {b"a": 10, b"b": 11, b"control": 12}
NAMES = {inode: name.decode() for name, inode in INODES.items()} | {ROOT: "root"}


class Telling(LIBRARY.Operations):
    """Three files."""

    enable_writeback_cache = False

    def __init__(self, notes: str) -> None:
        super().__init__()
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.reads = 0
        self.fhs: list[int] = []

    def note(self, *words: object) -> None:
        os.write(self.notes, (" ".join(map(str, words)) + "\n").encode())

    def entry(self, inode: int) -> Any:
        entry = LIBRARY.EntryAttributes()
        entry.st_ino, entry.st_size, entry.st_mode = inode, 10, stat.S_IFREG | 0o644
        if inode == ROOT:
            entry.st_mode = stat.S_IFDIR | 0o755
        entry.entry_timeout = entry.attr_timeout = 10_000
        return entry

    def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        self.note("lookup", name.decode())
        if name not in INODES:
            entry = LIBRARY.EntryAttributes()
            entry.st_ino, entry.entry_timeout = 0, 10_000
            return entry
        return self.entry(INODES[name])

    def forget(self, inode_list: list[tuple[int, int]]) -> None:
        pass

    def getattr(self, inode: int, ctx: Any) -> Any:
        self.note("getattr", NAMES[inode])
        return self.entry(inode)

    def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> Any:
        self.note("setattr", NAMES[inode])
        return self.entry(inode)

    def open(self, inode: int, flags: int, ctx: Any) -> Any:
        self.fhs.append(inode)
        fh = len(self.fhs) - 1
        return LIBRARY.FileInfo(fh=fh, keep_cache=True) if PYFUSE3 else fh

    def read(self, fh: int, off: int, size: int) -> bytes:
        self.reads += 1
        self.note("read", NAMES[self.fhs[fh]])
        return f"read {self.reads:5}".encode()[off : off + size]

    def opendir(self, inode: int, ctx: Any) -> int:
        return 77

    def releasedir(self, fh: int) -> None:
        pass

    def fsyncdir(self, fh: int, datasync: bool) -> None:
        self.note("fsyncdir", fh, datasync)

    def fsync(self, fh: int, datasync: bool) -> None:
        self.note("fsync", NAMES[self.fhs[fh]], datasync)

    def readdir_pyfuse3(self, fh: int, start_id: int, token: Any) -> None:
        for number, (name, inode) in enumerate(INODES.items(), 1):
            if number > start_id:
                LIBRARY.readdir_reply(token, name, self.entry(inode), number)

    def readdir_llfuse(self, fh: int, start_id: int) -> Iterator[tuple[bytes, Any, int]]:
        for number, (name, inode) in enumerate(INODES.items(), 1):
            if number > start_id:
                yield name, self.entry(inode), number

    readdir = readdir_pyfuse3 if PYFUSE3 else readdir_llfuse

    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        verb, *words = value.decode().split(" ")
        try:
            result = ORDERS[verb](*words)
        except OSError as error:
            result = errno.errorcode[error.errno or 0]
        except Exception as error:
            result = type(error).__name__
        self.note("did", verb, result)


def invalidate_inode(inode: str, attr_only: str = "") -> Any:
    return LIBRARY.invalidate_inode(int(inode), attr_only=bool(attr_only))


def invalidate_entry(name: str, deleted: str = "") -> Any:
    more = {"deleted": int(deleted)} if deleted else {}
    return LIBRARY.invalidate_entry(ROOT, name.encode(), **more)


def invalidate_entry_async(name: str, deleted: str = "0") -> Any:
    return LIBRARY.invalidate_entry_async(ROOT, name.encode(), int(deleted), ignore_enoent=True)


def notify_store(inode: str, offset: str, data: str) -> Any:
    return LIBRARY.notify_store(int(inode), int(offset), data.encode())


def syncfs(path: str) -> Any:
    return LIBRARY.syncfs(path)


ORDERS: dict[str, Callable[..., Any]] = {
    order.__name__: order
    for order in (
        invalidate_inode,
        invalidate_entry,
        invalidate_entry_async,
        notify_store,
        syncfs,
    )
}


def coroutine(operation: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(operation)
    async def call(*arguments: Any) -> Any:
        return operation(*arguments)

    return call


def main(library: str, notes: str, mountpoint: str, *words: str) -> None:
    options = set(LIBRARY.default_options) | {"fsname=telling", *words}
    if PYFUSE3:
        for name, operation in list(vars(Telling).items()):
            if hasattr(LIBRARY.Operations, name) and callable(operation) and name[0] != "_":
                setattr(Telling, name, coroutine(operation))
    LIBRARY.init(Telling(notes), mountpoint, options)
    try:
        if PYFUSE3:
            importlib.import_module("trio").run(LIBRARY.main)
        else:
            LIBRARY.main(workers=1)
    finally:
        LIBRARY.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
