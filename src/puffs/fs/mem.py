"""`mem`: a file system in memory, with every operation there is. The reference family's test file system.

    puffs mount mem: /mnt/x
    puffs mount 'mem:?size=64M&files=1000' /mnt/x

Nobody but this file server can change its files, so a host may trust what it was told for ever. What a host must learn
anew after an operation it does learn: FUSE drops the attributes of every file and directory that a changing request
names, also those of the file that a rename replaces, and takes the attributes that come with the reply to a link.

Threads: `MemFS._lock` is held by whoever changes names, link counts, sizes or contents, so there is one such thread at a
time. Whoever only looks takes no lock: a node is complete before a name leads to it, a rename gives the new name before
it takes the old one away, directories are read with single steps of a dict, and contents as `Extents` says.
"""

import os
import re
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from errno import (
    EEXIST,
    EFBIG,
    EINVAL,
    EISDIR,
    ENAMETOOLONG,
    ENODATA,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    ENOTEMPTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
)
from itertools import count
from typing import ClassVar, Final

import puffs
from puffs.fs.extents import CHUNK, Extents

NAME_MAX: Final = 255
FILE_MAX: Final = (1 << 63) - 1
"""The largest size of a file: offsets are signed 64 bits (off_t)."""
BLOCK: Final = 4096
"""The unit of `statvfs`."""
COPY_MAX: Final = 1 << 24
"""What one `copy_file_range` copies at most, so that other requests need not wait long; callers ask for the rest."""

# fallocate(2)
FALLOC_FL_KEEP_SIZE: Final = 1
FALLOC_FL_PUNCH_HOLE: Final = 2
FALLOC_FL_ZERO_RANGE: Final = 16

_RENAME_FLAGS: Final = frozenset(
    (
        0,
        puffs.RENAME_NOREPLACE,
        puffs.RENAME_WHITEOUT,
        puffs.RENAME_NOREPLACE | puffs.RENAME_WHITEOUT,
        puffs.RENAME_EXCHANGE,
    )
)
_XATTR: Final = re.compile(
    r"(user|trusted|security)\..+|system\.posix_acl_(access|default)", re.DOTALL
)
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30}


class Node:
    """A file; its own cookie. This class stands for fifos, sockets and devices, the others for what has contents.

    `attr` is what `getattr` returns, changed in place. Hundreds of thousands of these are in memory at once: what a file
    does not need yet is None.
    """

    __slots__ = ("attr", "xattrs")

    def __init__(self, attr: puffs.Attr) -> None:
        self.attr = attr
        self.xattrs: dict[str, bytes] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.attr.ino}>"


class File(Node):
    """A regular file. What its `extents` keep behind `attr.size` is zeros."""

    __slots__ = ("extents",)

    def __init__(self, attr: puffs.Attr) -> None:
        super().__init__(attr)
        self.extents: Extents | None = None


class Directory(Node):
    """A directory. `parent` is None once it was removed, and the directory itself for the root."""

    __slots__ = ("entries", "parent")

    def __init__(self, attr: puffs.Attr) -> None:
        super().__init__(attr)
        attr.nlink = 2
        self.entries: dict[str, Node] = {}
        self.parent: Directory | None = None


class Symlink(Node):
    """A symbolic link."""

    __slots__ = ("target",)

    def __init__(self, attr: puffs.Attr, target: str) -> None:
        super().__init__(attr)
        attr.size = len(os.fsencode(target))
        self.target = target


class MemFS(puffs.FileSystem[Node]):
    """A file system in memory.

    `size` is how many bytes the contents and extended attributes of its files may take (0: as much memory as the machine
    has), `files` how many files, directories and other things it may hold beside its root (0: any number). Both may be
    strings with K, M or G for powers of 1024, as in `mem:?size=64M&files=1000`. What goes beyond fails with ENOSPC.
    Raises `ValueError` for anything else.

    The tree lives as long as this object: unmounted and mounted again, it is still there.
    """

    name: ClassVar[str] = "mem"
    name_ttl: ClassVar[float] = puffs.FOREVER
    attr_ttl: ClassVar[float] = puffs.FOREVER
    negative_ttl: ClassVar[float] = puffs.FOREVER

    def __init__(self, size: int | str = 0, files: int | str = 0) -> None:
        self._size = _limit("size", size) or os.sysconf("SC_PAGE_SIZE") * os.sysconf(
            "SC_PHYS_PAGES"
        )
        self._max_files = _limit("files", files)
        self._lock = threading.RLock()
        self._used = 0
        self._files = 0
        # Files that have lost their last name (or never had one) and that the host has not yet forgotten.
        self._nameless: set[Node] = set()
        self._inos = count(1)  # never used twice, so that generation 0 does for all
        now = time.time_ns()
        attr = puffs.Attr(
            stat.S_IFDIR | 0o755,
            uid=os.geteuid(),
            gid=os.getegid(),
            atime_ns=now,
            mtime_ns=now,
            ctime_ns=now,
            btime_ns=now,
            ino=next(self._inos),
        )
        self._root = Directory(attr)
        self._root.parent = self._root

    # ------------------------------------------------------------------------------------------ the whole file system

    def mount(self) -> Node:
        """The root."""
        return self._root

    def statvfs(self) -> puffs.StatVfs:
        """The limits and what is left of them. No limit of files is shown as 0, as tmpfs(5) does."""
        return puffs.StatVfs(
            bsize=BLOCK,
            blocks=self._size // BLOCK,
            bfree=(self._size - self._used) // BLOCK,
            files=self._max_files,
            ffree=max(0, self._max_files - self._files),
            namemax=NAME_MAX,
        )

    def fileid(self, node: Node) -> tuple[int, int]:
        """The inode number, which no other file will ever have; thus always generation 0."""
        return node.attr.ino, 0

    def reclaim(self, node: Node) -> None:
        """Free a file without a name: nobody can reach it any more."""
        with self._lock:
            if node not in self._nameless:
                return
            self._nameless.remove(node)
            self._files -= 1
            if node.xattrs is not None:
                self._used -= sum(map(_xattr_cost, node.xattrs, node.xattrs.values()))
                node.xattrs = None
            if isinstance(node, File) and node.extents is not None:
                self._used -= node.extents.allocated
                node.extents = None

    # ----------------------------------------------------------------------------------------------------------- names

    def lookup(self, dir: Node, name: str, cred: puffs.Cred) -> puffs.Entry:
        """Find a name. ENOENT, ENOTDIR, ENAMETOOLONG."""
        node = _directory(dir).entries.get(name)
        if node is None:
            _check_length(name)
            raise _error(ENOENT)
        return puffs.Entry(node, node.attr)

    def create(
        self, dir: Node, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> puffs.Entry:
        """Make a regular file. EEXIST, ENOSPC, ENOENT when the directory was removed."""
        return self._add(dir, name, File(attr))

    def mknod(self, dir: Node, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
        """Make a fifo, socket, device or regular file. As `create`."""
        return self._add(dir, name, File(attr) if attr.type == stat.S_IFREG else Node(attr))

    def mkdir(self, dir: Node, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
        """Make a directory. As `create`."""
        return self._add(dir, name, Directory(attr))

    def symlink(
        self, dir: Node, name: str, target: str, attr: puffs.Attr, cred: puffs.Cred
    ) -> puffs.Entry:
        """Make a symbolic link. As `create`."""
        return self._add(dir, name, Symlink(attr, target))

    def tmpfile(self, dir: Node, attr: puffs.Attr, flags: int, cred: puffs.Cred) -> puffs.Entry:
        """Make a file without a name; `link` may give it one. ENOSPC."""
        directory, node = _directory(dir), File(attr)
        with self._lock:
            self._number(directory, node)
            attr.nlink = 0
            self._nameless.add(node)
        return puffs.Entry(node, attr)

    def link(self, node: Node, dir: Node, name: str, cred: puffs.Cred) -> puffs.Entry:
        """Give a file a further name. EEXIST, EPERM for a directory."""
        directory = _directory(dir)
        if isinstance(node, Directory):
            raise _error(EPERM)
        attr = node.attr
        with self._lock:
            _check_new(directory, name)
            attr.nlink += 1
            self._nameless.discard(node)
            directory.entries[name] = node
            attr.ctime_ns = _touch(directory)
        return puffs.Entry(node, attr)

    def remove(self, dir: Node, name: str, cred: puffs.Cred) -> None:
        """Take the name of a file away. ENOENT, EISDIR."""
        directory = _directory(dir)
        with self._lock:
            node = _find(directory, name)
            if isinstance(node, Directory):
                raise _error(EISDIR)
            del directory.entries[name]
            self._unlinked(node, directory, _touch(directory))

    def rmdir(self, dir: Node, name: str, cred: puffs.Cred) -> None:
        """Take an empty directory away. ENOENT, ENOTDIR, ENOTEMPTY."""
        directory = _directory(dir)
        with self._lock:
            node = _directory(_find(directory, name))
            if node.entries:
                raise _error(ENOTEMPTY)
            del directory.entries[name]
            self._unlinked(node, directory, _touch(directory))

    def rename(
        self, dir: Node, name: str, newdir: Node, newname: str, flags: int, cred: puffs.Cred
    ) -> None:
        """Move, exchange or replace names. Errors as rename(2) has them; EINVAL for flags that exclude each other."""
        source, target = _directory(dir), _directory(newdir)
        if flags not in _RENAME_FLAGS:
            raise _error(EINVAL)
        exchange = flags & puffs.RENAME_EXCHANGE
        with self._lock:
            node = _find(source, name)
            if exchange:
                old: Node | None = _find(target, newname)
            else:
                _check_alive(target, newname)
                old = target.entries.get(newname)
            if old is not None and flags & puffs.RENAME_NOREPLACE:
                raise _error(EEXIST)
            if _is_within(target, node) or (exchange and _is_within(source, old)):
                raise _error(EINVAL)
            if old is node:
                return  # two names of one file: both stay (rename(2))
            if old is not None and not exchange:
                _check_replaceable(node, old)
            whiteout = self._whiteout(source, cred) if flags & puffs.RENAME_WHITEOUT else None

            target.entries[newname] = node
            _moved(node, source, target)
            now = node.attr.ctime_ns = _touch(target)
            if exchange and old is not None:
                source.entries[name] = old
                _moved(old, target, source)
                old.attr.ctime_ns = now
            else:
                if whiteout is not None:
                    source.entries[name] = whiteout
                else:
                    del source.entries[name]
                if old is not None:
                    self._unlinked(old, target, now)
            if source is not target:
                _touch(source)

    def readdir(self, dir: Node, offset: int, file: object) -> Iterable[puffs.DirEntry]:
        """Yield the names that are there now, each with its attributes as they are when it is taken."""
        return _entries(_directory(dir).entries)

    def readlink(self, node: Node) -> str:
        """The target of a symbolic link. EINVAL for anything else."""
        if not isinstance(node, Symlink):
            raise _error(EINVAL)
        return node.target

    # ------------------------------------------------------------------------------------------------------------ data

    def read(self, node: Node, offset: int, size: int, file: object) -> puffs.Buffer:
        """Bytes of a regular file; holes are zeros. The time of access is left to the host."""
        regular = _regular(node)
        size = min(size, regular.attr.size - offset)
        if size <= 0:
            return b""
        extents = regular.extents
        return bytes(size) if extents is None else extents.read(offset, size)

    def write(self, node: Node, offset: int, data: memoryview, file: object) -> int:
        """Store bytes. As many as fit, when not all do; ENOSPC when none does. EFBIG."""
        regular = _regular(node)
        if not data:
            return 0
        _check_range(offset, len(data))
        with self._lock:
            extents = _extents(regular)
            before = extents.allocated
            try:
                done = extents.write(offset, data, self._size - self._used)
            finally:
                self._account(regular, before)
            if not done:
                raise _error(ENOSPC)
            _written(regular.attr, offset + done)
        return done

    def seek(self, node: Node, offset: int, whence: int, file: object) -> int:
        """The next data or hole; the end of the file counts as a hole. ENXIO, EINVAL."""
        regular = _regular(node)
        with self._lock:
            end = regular.attr.size
            if not 0 <= offset < end:
                raise _error(ENXIO)
            extents = _extents(regular)
            if whence == os.SEEK_HOLE:
                return min(extents.next_hole(offset), end)
            if whence != os.SEEK_DATA:
                raise _error(EINVAL)
            found = extents.next_data(offset)
            if found is None or found >= end:
                raise _error(ENXIO)
            return found

    def fallocate(self, node: Node, mode: int, offset: int, length: int, file: object) -> None:
        """Reserve (mode 0), punch or zero a range, all of it or nothing. ENOSPC, EFBIG.

        EOPNOTSUPP for the rest: FUSE never asks to collapse, insert or unshare.
        """
        regular = _regular(node)
        if offset < 0 or length <= 0:
            raise _error(EINVAL)
        _check_range(offset, length)
        keep_size, kind = mode & FALLOC_FL_KEEP_SIZE, mode & ~FALLOC_FL_KEEP_SIZE
        punch = kind == FALLOC_FL_PUNCH_HOLE and keep_size
        if not punch and kind not in (0, FALLOC_FL_ZERO_RANGE):
            raise _error(EOPNOTSUPP)
        with self._lock:
            extents = _extents(regular)
            before = extents.allocated
            try:
                if punch:
                    extents.punch(offset, length)
                else:
                    self._check_room(extents, offset, length)
                    extents.reserve(offset, length)
                    if kind:
                        extents.zero(offset, length)
            finally:
                self._account(regular, before)
            _written(regular.attr, 0 if keep_size else offset + length)

    def copy_file_range(
        self,
        node: Node,
        offset: int,
        file: object,
        to: Node,
        to_offset: int,
        to_file: object,
        size: int,
        flags: int,
    ) -> int:
        """Copy between files or within one; holes stay holes. Less than asked at the end, or when there is no room.

        EINVAL for flags and for ranges of one file that overlap; ENOSPC, EFBIG.
        """
        source, target = _regular(node), _regular(to)
        with self._lock:
            size = min(size, source.attr.size - offset, COPY_MAX)
            if size <= 0 and not flags:
                return 0
            if flags or (source is target and abs(offset - to_offset) < size):
                raise _error(EINVAL)
            _check_range(to_offset, size)
            extents = _extents(target)
            before = extents.allocated
            try:
                done = self._copy(_extents(source), offset, extents, to_offset, size)
            finally:
                self._account(target, before)
            if not done:
                raise _error(ENOSPC)
            _written(target.attr, to_offset + done)
        return done

    def _copy(
        self, source: Extents, offset: int, target: Extents, to_offset: int, size: int
    ) -> int:
        """Copy a range run by run, a hole or at most a chunk of data each; returns how much fitted."""
        room = self._size - self._used + target.allocated
        done = 0
        while done < size:
            at, rest = offset + done, size - done
            data_at = source.next_data(at)
            hole = rest if data_at is None else min(data_at - at, rest)
            if hole:
                target.punch(to_offset + done, hole)
                done += hole
                continue
            run = min(source.next_hole(at) - at, CHUNK, rest)
            copied = target.write(to_offset + done, source.read(at, run), room - target.allocated)
            done += copied
            if copied < run:
                break
        return done

    # ------------------------------------------------------------------------------------------------------ attributes

    def getattr(self, node: Node, file: object = None) -> puffs.Attr:
        """The attributes: always the same object, changed in place."""
        return node.attr

    def setattr(
        self, node: Node, changes: puffs.Changes, file: object, cred: puffs.Cred
    ) -> puffs.Attr:
        """Change what is set. A file that is made longer grows a hole. EFBIG; EISDIR or EINVAL for other types."""
        attr = node.attr
        with self._lock:
            if changes.size is None:
                changes.apply(attr)
                return attr
            regular = _regular(node)
            _check_range(changes.size, 0)
            extents = _extents(regular)
            before = extents.allocated
            shrinks = changes.size < attr.size
            changes.apply(attr)
            if shrinks:
                extents.punch(changes.size, FILE_MAX - changes.size)
            self._account(regular, before)
        return attr

    def getxattr(self, node: Node, name: str) -> bytes:
        """The value of an extended attribute. ENODATA, EOPNOTSUPP for names that no file has here."""
        _check_xattr(name)
        value = (node.xattrs or {}).get(name)
        if value is None:
            raise _error(ENODATA)
        return value

    def setxattr(self, node: Node, name: str, value: bytes, flags: int) -> None:
        """Set an extended attribute; those of POSIX ACLs are kept as they are. EEXIST, ENODATA, ENOSPC, EOPNOTSUPP."""
        _check_xattr(name)
        with self._lock:
            xattrs = node.xattrs or {}
            old = xattrs.get(name)
            if old is not None and flags & os.XATTR_CREATE:
                raise _error(EEXIST)
            if old is None and flags & os.XATTR_REPLACE:
                raise _error(ENODATA)
            cost = _xattr_cost(name, value) - (0 if old is None else _xattr_cost(name, old))
            if cost > self._size - self._used:
                raise _error(ENOSPC)
            # Another dict each time, so that `listxattr` in another thread never sees one change its size.
            node.xattrs = {**xattrs, name: bytes(value)}
            self._used += cost
            node.attr.ctime_ns = time.time_ns()

    def listxattr(self, node: Node) -> Iterable[str]:
        """The names of the extended attributes."""
        return node.xattrs or ()

    def removexattr(self, node: Node, name: str) -> None:
        """Take an extended attribute away. ENODATA, EOPNOTSUPP."""
        _check_xattr(name)
        with self._lock:
            xattrs = dict(node.xattrs or {})
            value = xattrs.pop(name, None)
            if value is None:
                raise _error(ENODATA)
            node.xattrs = xattrs or None
            self._used -= _xattr_cost(name, value)
            node.attr.ctime_ns = time.time_ns()

    # -------------------------------------------------------------------------------- what needs the lock, held by callers

    def _add(self, dir: Node, name: str, node: Node) -> puffs.Entry:
        """Give a new file its number and its name."""
        directory = _directory(dir)
        with self._lock:
            _check_new(directory, name)
            self._number(directory, node)
            if isinstance(node, Directory):
                node.parent = directory
                directory.attr.nlink += 1
            directory.entries[name] = node
            _touch(directory)
        return puffs.Entry(node, node.attr)

    def _number(self, directory: Directory, node: Node) -> None:
        """Count a new file in, and give it its number and what it inherits. ENOSPC."""
        if self._max_files and self._files >= self._max_files:
            raise _error(ENOSPC)
        self._files += 1
        node.attr.ino = next(self._inos)
        puffs.inherit(directory.attr, node.attr)

    def _whiteout(self, directory: Directory, cred: puffs.Cred) -> Node:
        """What a rename with RENAME_WHITEOUT leaves behind: the device 0:0."""
        now = time.time_ns()
        times = {"atime_ns": now, "mtime_ns": now, "ctime_ns": now, "btime_ns": now}
        node = Node(puffs.Attr(stat.S_IFCHR, uid=cred.uid, gid=cred.gid, **times))
        self._number(directory, node)
        return node

    def _unlinked(self, node: Node, directory: Directory, now: int) -> None:
        """A name of `node` in `directory` is gone."""
        attr = node.attr
        attr.ctime_ns = now
        if isinstance(node, Directory):
            node.parent = None
            attr.nlink = 0
            directory.attr.nlink -= 1
        else:
            attr.nlink -= 1
        if not attr.nlink:
            self._nameless.add(node)

    def _check_room(self, extents: Extents, offset: int, length: int) -> None:
        """ENOSPC when a range cannot be reserved. The first test keeps the second one short."""
        room = self._size - self._used
        if length - extents.allocated > room or extents.missing(offset, length) > room:
            raise _error(ENOSPC)

    def _account(self, node: File, before: int) -> None:
        """The contents of `node` took `before` bytes: count what has changed."""
        allocated = _extents(node).allocated
        self._used += allocated - before
        node.attr.blocks = (allocated + 511) >> 9


def _limit(name: str, value: int | str) -> int:
    """A number from a command line, with K, M or G for powers of 1024."""
    text = str(value).strip().upper()
    digits = text.rstrip("KMG")
    shift = _UNITS.get(text[len(digits) :])
    if shift is None or not (digits.isascii() and digits.isdigit()):
        raise ValueError(
            f"mem: {name}={value}: give a number such as 65536, 512K, 64M or 2G, or 0 for no limit"
        )
    return int(digits) << shift


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _directory(node: Node) -> Directory:
    if isinstance(node, Directory):
        return node
    raise _error(ENOTDIR)


def _regular(node: Node) -> File:
    if isinstance(node, File):
        return node
    raise _error(EISDIR if isinstance(node, Directory) else EINVAL)


def _extents(node: File) -> Extents:
    """The contents of a file, from now on not None."""
    extents = node.extents
    if extents is None:
        extents = node.extents = Extents()
    return extents


def _find(directory: Directory, name: str) -> Node:
    node = directory.entries.get(name)
    if node is None:
        _check_length(name)
        raise _error(ENOENT)
    return node


def _entries(entries: dict[str, Node]) -> Iterator[puffs.DirEntry]:
    for name in list(entries):
        node = entries.get(name)
        if node is not None:
            attr = node.attr
            yield puffs.DirEntry(name, attr.mode, attr.ino, entry=puffs.Entry(node, attr))


def _is_within(directory: Directory, node: Node | None) -> bool:
    """Whether `directory` is `node` or somewhere below it."""
    if not isinstance(node, Directory):
        return False
    at: Directory | None = directory
    while at is not node:
        if at is None or at.parent is at:
            return False
        at = at.parent
    return True


def _touch(directory: Directory) -> int:
    """The names of `directory` have changed, now; returns that time."""
    attr = directory.attr
    attr.mtime_ns = attr.ctime_ns = now = time.time_ns()
    return now


def _moved(node: Node, source: Directory, target: Directory) -> None:
    """A directory is a link of its parent, by its ".."."""
    if isinstance(node, Directory) and source is not target:
        source.attr.nlink -= 1
        target.attr.nlink += 1
        node.parent = target


def _written(attr: puffs.Attr, end: int) -> None:
    """The contents were changed up to `end`."""
    if end > attr.size:
        attr.size = end
    attr.mtime_ns = attr.ctime_ns = time.time_ns()


def _check_length(name: str) -> None:
    # No character takes more than four bytes in UTF-8, so short names need no encoding.
    if len(name) > NAME_MAX // 4 and len(os.fsencode(name)) > NAME_MAX:
        raise _error(ENAMETOOLONG)


def _check_alive(directory: Directory, name: str) -> None:
    """Can `name` be given in `directory`?"""
    _check_length(name)
    if directory.parent is None:
        raise _error(ENOENT)


def _check_new(directory: Directory, name: str) -> None:
    """Can `name` be given in `directory` to a file that is not there yet?"""
    _check_alive(directory, name)
    if name in directory.entries:
        raise _error(EEXIST)


def _check_replaceable(node: Node, old: Node) -> None:
    """May `node` take the place of `old`? [rename(2)]"""
    if isinstance(old, Directory):
        if not isinstance(node, Directory):
            raise _error(EISDIR)
        if old.entries:
            raise _error(ENOTEMPTY)
    elif isinstance(node, Directory):
        raise _error(ENOTDIR)


def _check_range(offset: int, size: int) -> None:
    if offset > FILE_MAX - size:
        raise _error(EFBIG)


def _check_xattr(name: str) -> None:
    if _XATTR.fullmatch(name) is None:
        raise _error(EOPNOTSUPP)


def _xattr_cost(name: str, value: bytes) -> int:
    return len(name) + len(value)
