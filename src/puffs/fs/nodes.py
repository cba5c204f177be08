"""The files of `mem`: what one node holds, and the rules that concern that node alone."""

import os
import re
import time
from collections.abc import Iterator
from errno import (
    EEXIST,
    EINVAL,
    EISDIR,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EOPNOTSUPP,
    ESTALE,
)
from typing import Final

import puffs
from puffs.fs.extents import Extents

NAME_MAX: Final = 255
"""Bytes of a name, also of that of an extended attribute."""
TARGET_MAX: Final = 4095
"""Bytes of the target of a symbolic link: PATH_MAX without the NUL."""
XATTR_MAX: Final = 1 << 16
"""Bytes of the value of an extended attribute. [xattr(7)]"""
FILE_MAX: Final = (1 << 63) - 1
"""The largest size of a file: offsets are signed 64 bits (off_t)."""

_XATTR: Final = re.compile(r"(user|trusted|security)\.(.*)", re.DOTALL)


def error(code: int) -> OSError:
    """The exception for an errno."""
    return OSError(code, os.strerror(code))


class Node:
    """A file; its own cookie. This class stands for fifos, sockets and devices.

    `attr` is what `getattr` returns, changed in place; its `acl` is among `xattrs` too.
    `generation` and the inode number together are this file's for ever. `atime_due` is the time
    from which on a read moves its time of access. Hundreds of thousands of nodes are in memory at
    once: what a file does not need yet is None. `xattrs` is never changed, but replaced, so that
    whoever lists it may take his time.
    """

    __slots__ = ("atime_due", "attr", "generation", "xattrs")

    def __init__(self, attr: puffs.Attr) -> None:
        self.attr = attr
        self.generation = 0
        self.atime_due = 0
        self.xattrs: dict[str, bytes] | None = None

    def changed(self, now: int) -> None:
        """It has changed: its time of change, and with the next read that of access, move."""
        self.attr.ctime_ns = now
        self.atime_due = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.attr.ino}>"


class Symlink(Node):
    """A symbolic link."""

    __slots__ = ("target",)

    def __init__(self, attr: puffs.Attr, target: str) -> None:
        super().__init__(attr)
        attr.size = len(os.fsencode(target))
        self.target = target


class File(Node):
    """A regular file. `extents` may keep bytes behind `attr.size`; they are zeros."""

    __slots__ = ("extents",)

    def __init__(self, attr: puffs.Attr) -> None:
        super().__init__(attr)
        self.extents: Extents | None = None

    def contents(self) -> Extents:
        """The contents, from now on not None."""
        extents = self.extents
        if extents is None:
            extents = self.extents = Extents()
        return extents


class Directory(Node):
    """A directory. `parent` is None once it was removed, and the directory itself for the root."""

    __slots__ = ("entries", "parent")

    def __init__(self, attr: puffs.Attr) -> None:
        super().__init__(attr)
        attr.nlink = 2
        self.entries: dict[str, Node] = {}
        self.parent: Directory | None = None

    def find(self, name: str) -> Node:
        """What `name` leads to. ENOENT, ENAMETOOLONG."""
        node = self.entries.get(name)
        if node is None:
            _check_length(name)
            raise error(ENOENT)
        return node

    def above(self) -> "Directory":
        """The directory that this one is in. ESTALE when it was removed."""
        if self.parent is None:
            raise error(ESTALE)
        return self.parent

    def check_target(self, name: str) -> None:
        """Can something be called `name` here? ENAMETOOLONG; ENOENT when the directory is gone."""
        _check_length(name)
        if self.parent is None:
            raise error(ENOENT)

    def check_new(self, name: str) -> None:
        """Can something new be called `name` here? As `check_target`, and EEXIST."""
        self.check_target(name)
        if name in self.entries:
            raise error(EEXIST)

    def listing(self) -> Iterator[puffs.DirEntry]:
        """The names that are there now and still there when their turn comes, with attributes."""
        entries = self.entries
        for name in list(entries):
            node = entries.get(name)
            if node is not None:
                attr = node.attr
                yield puffs.DirEntry(name, attr.mode, attr.ino, entry=puffs.Entry(node, attr))

    def is_within(self, node: Node | None) -> bool:
        """Whether this directory is `node` or somewhere below it."""
        if not isinstance(node, Directory):
            return False
        at: Directory | None = self
        while at is not node:
            if at is None or at.parent is at:
                return False
            at = at.parent
        return True

    def touch(self) -> int:
        """The names in here have changed, now; returns that time."""
        self.attr.mtime_ns = now = time.time_ns()
        self.changed(now)
        return now


def directory(node: Node) -> Directory:
    """`node`, which has to be a directory: ENOTDIR."""
    if isinstance(node, Directory):
        return node
    raise error(ENOTDIR)


def regular(node: Node) -> File:
    """`node`, which has to be a regular file: EISDIR for directories, else EINVAL."""
    if isinstance(node, File):
        return node
    raise error(EISDIR if isinstance(node, Directory) else EINVAL)


def check_replaceable(node: Node, old: Node) -> None:
    """May `node` take the place of `old`? EISDIR, ENOTDIR, ENOTEMPTY. [rename(2)]"""
    if isinstance(old, Directory):
        if not isinstance(node, Directory):
            raise error(EISDIR)
        if old.entries:
            raise error(ENOTEMPTY)
    elif isinstance(node, Directory):
        raise error(ENOTDIR)


def change_parent(node: Node, source: Directory, target: Directory) -> None:
    """`node` has moved from `source` to `target`: a directory is a link of its parent, by ".."."""
    if isinstance(node, Directory) and source is not target:
        source.attr.nlink -= 1
        target.attr.nlink += 1
        node.parent = target


def is_xattr(name: str) -> bool:
    """Whether a file can have an extended attribute of that name."""
    found = _XATTR.fullmatch(name)
    return name in puffs.ACL_NAMES or (found is not None and found[2] != "")


def check_xattr(name: str) -> None:
    """Can a file have an extended attribute of that name? EOPNOTSUPP; EINVAL for no name at all."""
    if not is_xattr(name):
        raise error(EINVAL if _XATTR.fullmatch(name) else EOPNOTSUPP)


def xattr_cost(name: str, value: bytes) -> int:
    """What an extended attribute takes of the room that there is."""
    return len(name) + len(value)


def _check_length(name: str) -> None:
    # No character takes more than four bytes in UTF-8, so short names need no encoding.
    if len(name) > NAME_MAX // 4 and len(os.fsencode(name)) > NAME_MAX:
        raise error(ENAMETOOLONG)
