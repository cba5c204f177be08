"""A `mem` file system as a host sees it: the operations by path, with what a host brings along."""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import puffs
from puffs.fs.mem import MemFS
from puffs.fs.nodes import Node
from puffs.server.cred import requester

ROOT = puffs.Cred(0, 0, groups=())
USER = puffs.Cred(1000, 1000, groups=(100,))
OLD = 1_000_000_000  # a time long ago, in nanoseconds


@contextmanager
def fails(code: int) -> Iterator[None]:
    """The body must raise the `OSError` of this errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == code, os.strerror(caught.value.errno or 0)


def new_attr(mode: int, cred: puffs.Cred = ROOT, rdev: int = 0) -> puffs.Attr:
    """What the kernel half gives to the operations that make files."""
    attr = puffs.Attr(mode, uid=cred.uid, gid=cred.gid, rdev=rdev)
    attr.atime_ns = attr.mtime_ns = attr.ctime_ns = attr.btime_ns = time.time_ns()
    return attr


class Quiet:
    """Who reads without a trace, as with O_NOATIME."""

    def cred(self) -> puffs.Cred:
        return ROOT

    def noatime(self) -> bool:
        return True


@contextmanager
def quietly() -> Iterator[None]:
    """What is read in the body moves no time of access."""
    token = requester.set(Quiet())
    try:
        yield
    finally:
        requester.reset(token)


class Box:
    """A `MemFS` and its root. Paths are relative to the root."""

    def __init__(
        self, size: int | str = 0, files: int | str = 0, image: Path | str | None = None
    ) -> None:
        self.fs = MemFS(size=size, files=files, image=image)
        self.root = self.fs.mount()

    def at(self, path: str) -> tuple[Node, str]:
        """The directory and the last name of `path`."""
        *parents, name = path.split("/")
        node = self.root
        for parent in parents:
            node = node_of(self.fs.lookup(node, parent, ROOT))
        return node, name

    def node(self, path: str) -> Node:
        return node_of(self.fs.lookup(*self.at(path), ROOT)) if path else self.root

    def attr(self, path: str) -> puffs.Attr:
        return self.fs.getattr(self.node(path))

    def file(self, path: str, data: bytes = b"", cred: puffs.Cred = ROOT) -> Node:
        attr = new_attr(stat.S_IFREG | 0o644, cred)
        node = node_of(self.fs.create(*self.at(path), attr, os.O_RDWR, cred))
        if data:
            assert self.write(node, 0, data) == len(data)
        return node

    def mkdir(self, path: str, mode: int = 0o755, cred: puffs.Cred = ROOT) -> Node:
        attr = new_attr(stat.S_IFDIR | mode, cred)
        return node_of(self.fs.mkdir(*self.at(path), attr, cred))

    def mknod(self, path: str, mode: int, rdev: int = 0) -> Node:
        return node_of(self.fs.mknod(*self.at(path), new_attr(mode, rdev=rdev), ROOT))

    def symlink(self, path: str, target: str) -> Node:
        attr = new_attr(stat.S_IFLNK | 0o777)
        return node_of(self.fs.symlink(*self.at(path), target, attr, ROOT))

    def tmpfile(self) -> Node:
        attr = new_attr(stat.S_IFREG | 0o600)
        return node_of(self.fs.tmpfile(self.root, attr, os.O_RDWR, ROOT))

    def link(self, path: str, new: str) -> None:
        self.fs.link(self.node(path), *self.at(new), ROOT)

    def remove(self, path: str) -> None:
        self.fs.remove(*self.at(path), ROOT)

    def rmdir(self, path: str) -> None:
        self.fs.rmdir(*self.at(path), ROOT)

    def rename(self, path: str, new: str, flags: int = 0) -> None:
        self.fs.rename(*self.at(path), *self.at(new), flags, ROOT)

    def names(self, path: str = "") -> set[str]:
        return {entry.name for entry in self.fs.readdir(self.node(path), 0, None)}

    def write(self, node: Node, offset: int, data: bytes) -> int:
        return self.fs.write(node, offset, memoryview(data), None)

    def read(self, node: Node, offset: int = 0, size: int = 1 << 30) -> bytes:
        return bytes(self.fs.read(node, offset, size, None))

    def set(
        self,
        node: Node,
        *,
        mode: int | None = None,
        uid: int | None = None,
        size: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> puffs.Attr:
        changes = puffs.Changes(mode=mode, uid=uid, size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
        return self.fs.setattr(node, changes, None, ROOT)

    def reserve(self, node: Node, offset: int, length: int, mode: int = 0) -> None:
        self.fs.fallocate(node, mode, offset, length, None)

    def copy(self, node: Node, offset: int, to: Node, to_offset: int, size: int) -> int:
        return self.fs.copy_file_range(node, offset, None, to, to_offset, None, size, 0)

    def seek(self, node: Node, offset: int, whence: int) -> int:
        return self.fs.seek(node, offset, whence, None)

    def clear(self, path: str = "") -> None:
        """Remove everything below `path`, and forget it as a host does when nobody has it open."""
        for name in self.names(path):
            child = f"{path}/{name}".lstrip("/")
            node = self.node(child)
            if stat.S_ISDIR(self.fs.getattr(node).mode):
                self.clear(child)
                self.rmdir(child)
            else:
                self.remove(child)
            self.fs.reclaim(node)


def node_of(entry: puffs.Entry) -> Node:
    """The node that came back in an entry, whose attributes must be its own."""
    node = entry.node
    assert isinstance(node, Node)
    assert entry.attr is node.attr
    return node


def a_tree() -> Box:
    """file, link (to the same), dir (empty), full (with inner and deep), sym, fifo."""
    box = Box()
    box.file("file", b"contents")
    box.link("file", "link")
    box.mkdir("dir")
    box.mkdir("full")
    box.file("full/inner")
    box.mkdir("full/deep")
    box.symlink("sym", "file")
    box.mknod("fifo", stat.S_IFIFO | 0o600)
    return box
