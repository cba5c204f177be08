"""`mem`: a file system in memory, with every operation there is.

    puffs mount mem: /mnt/x
    puffs mount 'mem:?size=64M&files=1000' /mnt/x
    puffs mount 'mem:?image=/srv/x.img' /mnt/x

Nobody but this file server can change its files, so a host may trust for ever what it was told.
What it must ask anew after a change it knows: FUSE drops the attributes of every file and directory
that a changing request is about, also those of a file that a rename replaces, and takes the
attributes that come with the reply to a link.

Threads: `MemFS._lock` is held by whoever changes names, link counts, sizes or contents, so there is
one such thread at a time. Whoever only looks takes no lock: a node is complete before a name leads
to it, a rename gives the new name before it takes the old one away, directories are read by single
steps of a dict, and contents as `Extents` says.
"""

import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable
from errno import (
    EEXIST,
    EFBIG,
    EINVAL,
    EISDIR,
    ENODATA,
    ENOSPC,
    ENOTEMPTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ESTALE,
)
from struct import Struct
from typing import ClassVar, Final

import puffs
from puffs.fs.extents import CHUNK, Extents
from puffs.fs.image import Image, load, save
from puffs.fs.nodes import (
    FILE_MAX,
    NAME_MAX,
    Directory,
    File,
    Node,
    Symlink,
    change_parent,
    check_replaceable,
    check_xattr,
    directory,
    error,
    regular,
    xattr_cost,
)

BLOCK: Final = 4096
"""The unit of `statvfs`."""
COPY_MAX: Final = 1 << 24
"""What one `copy_file_range` copies at most: other requests wait for it, callers ask again."""

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
_CAPABILITY: Final = "security.capability"
_HANDLE: Final = Struct("<QI")
"""A file handle: the inode number and the generation."""
_SHIFTS: Final = {"": 0, "K": 10, "M": 20, "G": 30}


class MemFS(puffs.FileSystem[Node]):
    """A file system in memory.

    `size` is how many bytes the contents and extended attributes of its files may take (0: as much
    memory as the machine has), `files` how many files and directories it may hold beside its root
    (0: any number). Strings with K, M or G for powers of 1024 will do, as in
    `mem:?size=64M&files=1000`. What goes beyond fails with ENOSPC.

    `image` is a file that `snapshot` wrote: what is in it, is here, and the file itself is left
    alone from then on. None: a new file system, which is empty.

    The tree lives as long as this object: unmounted and mounted again, it is still there, and file
    handles are still good.

    Raises `ValueError` when limits are no such numbers, and for an image that is none, is damaged
    or goes beyond the limits; `OSError` when it cannot be read.
    """

    name: ClassVar[str] = "mem"
    name_ttl: float = puffs.FOREVER
    attr_ttl: float = puffs.FOREVER
    negative_ttl: float = puffs.FOREVER
    fhsize: ClassVar[int] = _HANDLE.size
    posix_acl: bool = True

    def __init__(
        self,
        size: int | str = 0,
        files: int | str = 0,
        image: str | os.PathLike[str] | None = None,
    ) -> None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._size = _number("size", size) or memory
        self._max_files = _number("files", files)
        self._lock = threading.RLock()
        # Files that lost their last name, or never had one, and that the host still knows.
        self._nameless: set[Node] = set()
        # No inode number is used twice. But what was made after the last image is forgotten with
        # this object, and so are its numbers: who starts from that image goes on with another
        # generation.
        self._generation = secrets.randbits(32)
        if image == "":
            raise ValueError("mem: image= names no file: write one as in image=/srv/x.img")
        if image is None:
            begin = _empty(self._generation)
        else:
            begin = load(image, self._size, self._max_files)
        self._root = begin.root
        self._by_ino = begin.nodes
        self._next_ino = begin.next_ino
        self._files = len(begin.nodes) - 1
        self._used = begin.used

    # ----------------------------------------------------------------------- the whole file system

    def mount(self) -> Node:
        """The root."""
        return self._root

    def statvfs(self) -> puffs.StatVfs:
        """The limits and what is left of them; 0 files stand for no limit, as on tmpfs(5)."""
        return puffs.StatVfs(
            bsize=BLOCK,
            blocks=self._size // BLOCK,
            bfree=(self._size - self._used) // BLOCK,
            files=self._max_files,
            ffree=max(0, self._max_files - self._files),
            namemax=NAME_MAX,
        )

    def snapshot(self, destination: str) -> None:
        """Write an image of all files that have a name to the host's file `destination`.

        `image` of this class reads it, and `puffs.fs.image` says what is in it.
        """
        with self._lock:
            save(destination, self._root, self._next_ino)

    def fileid(self, node: Node) -> tuple[int, int]:
        """The inode number and the generation; both are kept in images."""
        return node.attr.ino, node.generation

    def vget(self, ino: int) -> puffs.Entry:
        """The file with an inode number. One without a name is found while anybody knows it."""
        node = self._by_ino.get(ino)
        if node is None:
            raise error(ESTALE)
        return puffs.Entry(node, node.attr)

    def nodetofh(self, node: Node) -> bytes:
        """What `fileid` says, as bytes."""
        return _HANDLE.pack(node.attr.ino, node.generation)

    def fhtonode(self, fid: bytes) -> Node:
        """The file of a handle. ESTALE when it is gone, or was never here."""
        ino, generation = _HANDLE.unpack(fid)
        node = self._by_ino.get(ino)
        if node is None or generation != node.generation:
            raise error(ESTALE)
        return node

    def reclaim(self, node: Node) -> None:
        """Free a file that has no name: nobody can reach it any more."""
        with self._lock:
            if node not in self._nameless:
                return
            self._nameless.remove(node)
            del self._by_ino[node.attr.ino]
            self._files -= 1
            if node.xattrs is not None:
                self._used -= sum(map(xattr_cost, node.xattrs, node.xattrs.values()))
                node.xattrs = None
            if isinstance(node, File) and node.extents is not None:
                self._used -= node.extents.allocated
                node.extents = None

    # ---------------------------------------------------------------------------------------- names

    def lookup(self, dir: Node, name: str, cred: puffs.Cred) -> puffs.Entry:
        """Find a name. ENOENT, ENOTDIR, ENAMETOOLONG; ESTALE for ".." in what was removed."""
        node = directory(dir).above() if name == ".." else directory(dir).find(name)
        return puffs.Entry(node, node.attr)

    def create(
        self, dir: Node, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> puffs.Entry:
        """Make a regular file. EEXIST, ENOSPC; ENOENT when the directory was removed."""
        return self._add(dir, name, File(attr), cred)

    def mknod(self, dir: Node, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
        """Make a fifo, socket, device or regular file. Errors as `create`."""
        node = File(attr) if attr.type == stat.S_IFREG else Node(attr)
        return self._add(dir, name, node, cred)

    def mkdir(self, dir: Node, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
        """Make a directory. Errors as `create`."""
        return self._add(dir, name, Directory(attr), cred)

    def symlink(
        self, dir: Node, name: str, target: str, attr: puffs.Attr, cred: puffs.Cred
    ) -> puffs.Entry:
        """Make a symbolic link. Errors as `create`."""
        return self._add(dir, name, Symlink(attr, target), cred)

    def tmpfile(self, dir: Node, attr: puffs.Attr, flags: int, cred: puffs.Cred) -> puffs.Entry:
        """Make a file without a name; `link` may give it one. ENOSPC."""
        node = File(attr)
        with self._lock:
            self._count_in(directory(dir), node, cred)
            attr.nlink = 0
            self._nameless.add(node)
        return puffs.Entry(node, attr)

    def link(self, node: Node, dir: Node, name: str, cred: puffs.Cred) -> puffs.Entry:
        """Give a file a further name. Errors as `create`; EPERM for a directory."""
        parent, attr = directory(dir), node.attr
        if isinstance(node, Directory):
            raise error(EPERM)
        with self._lock:
            parent.check_new(name)
            attr.nlink += 1
            self._nameless.discard(node)
            parent.entries[name] = node
            node.changed(parent.touch())
        return puffs.Entry(node, attr)

    def remove(self, dir: Node, name: str, cred: puffs.Cred) -> None:
        """Take the name of a file away. ENOENT, EISDIR."""
        parent = directory(dir)
        with self._lock:
            node = parent.find(name)
            if isinstance(node, Directory):
                raise error(EISDIR)
            del parent.entries[name]
            self._unlinked(node, parent, parent.touch())

    def rmdir(self, dir: Node, name: str, cred: puffs.Cred) -> None:
        """Take an empty directory away. ENOENT, ENOTDIR, ENOTEMPTY."""
        parent = directory(dir)
        with self._lock:
            node = directory(parent.find(name))
            if node.entries:
                raise error(ENOTEMPTY)
            del parent.entries[name]
            self._unlinked(node, parent, parent.touch())

    def rename(
        self, dir: Node, name: str, newdir: Node, newname: str, flags: int, cred: puffs.Cred
    ) -> None:
        """Move, replace or exchange names. Errors as rename(2) and renameat2(2) have them."""
        source, target = directory(dir), directory(newdir)
        if flags not in _RENAME_FLAGS:
            raise error(EINVAL)
        exchange = flags == puffs.RENAME_EXCHANGE
        with self._lock:
            node = source.find(name)
            target.check_target(newname)
            old = target.find(newname) if exchange else target.entries.get(newname)
            if old is not None and flags & puffs.RENAME_NOREPLACE:
                raise error(EEXIST)
            if target.is_within(node) or (exchange and source.is_within(old)):
                raise error(EINVAL)
            if old is node:
                return  # two names of one file: both stay (rename(2))
            if old is not None and not exchange:
                check_replaceable(node, old)
            left = self._whiteout(source, cred) if flags & puffs.RENAME_WHITEOUT else None

            target.entries[newname] = node
            change_parent(node, source, target)
            now = target.touch()
            node.changed(now)
            if exchange:
                left = old
            if left is not None:
                source.entries[name] = left
                change_parent(left, target, source)
                left.changed(now)
            else:
                del source.entries[name]
            if old is not None and not exchange:
                self._unlinked(old, target, now)
            if source is not target:
                source.touch()

    def readdir(self, dir: Node, offset: int, file: object) -> Iterable[puffs.DirEntry]:
        """The names that are there now, each with its attributes as they are when it is taken."""
        parent = directory(dir)
        self._accessed(parent)
        return parent.listing()

    def readlink(self, node: Node) -> str:
        """The target of a symbolic link. EINVAL for anything else."""
        if not isinstance(node, Symlink):
            raise error(EINVAL)
        self._accessed(node)
        return node.target

    # ----------------------------------------------------------------------------------------- data

    def read(self, node: Node, offset: int, size: int, file: object) -> puffs.Buffer:
        """Bytes of a regular file; holes are zeros."""
        source = regular(node)
        if source.atime_due <= time.time_ns():
            self._accessed(source)
        size = min(size, source.attr.size - offset)
        if size <= 0:
            return b""
        extents = source.extents
        return bytes(size) if extents is None else extents.read(offset, size)

    def write(self, node: Node, offset: int, data: memoryview, file: object) -> int:
        """Store bytes: as many as fit, ENOSPC when none does. EFBIG."""
        target = regular(node)
        if not data:
            return 0
        _check_end(offset, len(data))
        with self._lock:
            extents = target.contents()
            before = extents.allocated
            try:
                done = extents.write(offset, data, self._size - self._used)
            finally:
                self._account(target, before)
            if not done:
                raise error(ENOSPC)
            self._written(target, offset + done)
        return done

    def seek(self, node: Node, offset: int, whence: int, file: object) -> int:
        """The next data or hole; the end of the file counts as a hole. ENXIO, EINVAL. [lseek(2)]"""
        source = regular(node)
        with self._lock:
            end, extents = source.attr.size, source.contents()
            if not 0 <= offset < end:
                raise error(ENXIO)
            if whence == os.SEEK_HOLE:
                return min(extents.next_hole(offset), end)
            if whence != os.SEEK_DATA:
                raise error(EINVAL)
            found = extents.next_data(offset)
            if found is None or found >= end:
                raise error(ENXIO)
            return found

    def fallocate(self, node: Node, mode: int, offset: int, length: int, file: object) -> None:
        """Reserve (mode 0), punch or zero a range, all of it or nothing. ENOSPC, EFBIG, EINVAL.

        EOPNOTSUPP for the rest: FUSE never asks to collapse, insert or unshare a range.
        """
        target = regular(node)
        if offset < 0 or length <= 0:
            raise error(EINVAL)
        _check_end(offset, length)
        keep_size, kind = mode & FALLOC_FL_KEEP_SIZE, mode & ~FALLOC_FL_KEEP_SIZE
        punch = kind == FALLOC_FL_PUNCH_HOLE and keep_size
        if not punch and kind not in (0, FALLOC_FL_ZERO_RANGE):
            raise error(EOPNOTSUPP)
        with self._lock:
            extents = target.contents()
            before = extents.allocated
            try:
                if punch:
                    extents.punch(offset, length)
                else:
                    self._check_room(extents, offset, length)
                    extents.reserve(offset, length)
                    if kind == FALLOC_FL_ZERO_RANGE:
                        extents.zero(offset, length)
            finally:
                self._account(target, before)
            self._written(target, 0 if keep_size else offset + length)

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
        """Copy between files or within one; holes stay holes. Less at the end of file or of room.

        EINVAL for flags and for ranges of one file that overlap; ENOSPC, EFBIG.
        """
        source, target = regular(node), regular(to)
        if flags:
            raise error(EINVAL)
        with self._lock:
            size = min(size, source.attr.size - offset)
            if size <= 0:
                return 0
            if source is target and abs(offset - to_offset) < size:
                raise error(EINVAL)
            _check_end(to_offset, size)
            extents = target.contents()
            before = extents.allocated
            try:
                size = min(size, COPY_MAX)
                done = self._copy(source.contents(), offset, extents, to_offset, size)
            finally:
                self._account(target, before)
            if not done:
                raise error(ENOSPC)
            self._accessed(source)
            self._written(target, to_offset + done)
        return done

    # ----------------------------------------------------------------------------------- attributes

    def getattr(self, node: Node, file: object = None) -> puffs.Attr:
        """The attributes: always the same object, changed in place."""
        return node.attr

    def setattr(
        self, node: Node, changes: puffs.Changes, file: object, cred: puffs.Cred
    ) -> puffs.Attr:
        """Change what is set; a file that gets longer grows a hole. EFBIG, EISDIR, EINVAL."""
        attr, size = node.attr, changes.size
        with self._lock:
            acl, node.atime_due = attr.acl, 0
            if size is None:
                changes.apply(attr)
            else:
                target = regular(node)
                _check_end(size, 0)
                extents = target.contents()
                before = extents.allocated
                if size < attr.size:
                    extents.punch(size, FILE_MAX - size)
                    self._account(target, before)
                changes.apply(attr)
                attr.blocks = extents.blocks
            if attr.acl is not acl and attr.acl is not None:
                self._keep_xattr(node, puffs.ACL_ACCESS, attr.acl)
            if not (size is None and changes.uid is None and changes.gid is None):
                self._drop_capability(node)
        return attr

    def getxattr(self, node: Node, name: str) -> bytes:
        """The value of an extended attribute. ENODATA; EINVAL, EOPNOTSUPP for bad names."""
        check_xattr(name)
        value = (node.xattrs or {}).get(name)
        if value is None:
            raise error(ENODATA)
        return value

    def setxattr(self, node: Node, name: str, value: bytes, flags: int) -> None:
        """Set an extended attribute. EEXIST, ENODATA, ENOSPC, EOPNOTSUPP, EINVAL.

        Those that are POSIX ACLs set the mode too: `puffs.set_acl`.
        """
        check_xattr(name)
        with self._lock:
            there = name in (node.xattrs or {})
            if there and flags & os.XATTR_CREATE:
                raise error(EEXIST)
            if not there and flags & os.XATTR_REPLACE:
                raise error(ENODATA)
            kept: bytes | None = value
            if name in puffs.ACL_NAMES:
                self._check_room_for(node, name, value)
                kept = puffs.set_acl(node.attr, name, value, puffs.caller())
            if kept is not None:
                self._keep_xattr(node, name, kept)
            elif there:
                self._drop_xattr(node, name)
            node.changed(time.time_ns())

    def listxattr(self, node: Node) -> Iterable[str]:
        """The names of the extended attributes."""
        return node.xattrs or ()

    def removexattr(self, node: Node, name: str) -> None:
        """Take an extended attribute away. ENODATA, EOPNOTSUPP."""
        check_xattr(name)
        with self._lock:
            if name not in (node.xattrs or {}):
                raise error(ENODATA)
            self._drop_xattr(node, name)
            if name == puffs.ACL_ACCESS:
                node.attr.acl = None
            node.changed(time.time_ns())

    def _accessed(self, node: Node) -> None:
        """`node` is being read."""
        if node.atime_due <= time.time_ns():
            with self._lock:
                node.atime_due = puffs.mark_atime(node.attr)

    # --------------------------------------------------------------- for callers that hold the lock

    def _add(self, dir: Node, name: str, node: Node, cred: puffs.Cred) -> puffs.Entry:
        """Give a new file its number and its name."""
        parent = directory(dir)
        with self._lock:
            parent.check_new(name)
            self._count_in(parent, node, cred)
            if isinstance(node, Directory):
                node.parent = parent
                parent.attr.nlink += 1
            parent.entries[name] = node
            parent.touch()
        return puffs.Entry(node, node.attr)

    def _count_in(self, parent: Directory, node: Node, cred: puffs.Cred) -> None:
        """Count a new file, and give it its number and what it inherits. ENOSPC."""
        if self._max_files and self._files >= self._max_files:
            raise error(ENOSPC)
        puffs.inherit(parent.attr, node.attr)
        default = (parent.xattrs or {}).get(puffs.ACL_DEFAULT)
        acls = puffs.new_acls(default, node.attr, cred)
        cost = sum(map(xattr_cost, acls, acls.values()))
        if cost > self._size - self._used:
            raise error(ENOSPC)
        self._used += cost
        node.xattrs = acls or None
        self._files += 1
        node.attr.ino = self._next_ino
        node.generation = self._generation
        self._next_ino += 1
        self._by_ino[node.attr.ino] = node

    def _whiteout(self, parent: Directory, cred: puffs.Cred) -> Node:
        """What a rename with RENAME_WHITEOUT leaves behind: the device 0:0."""
        now = time.time_ns()
        attr = puffs.Attr(stat.S_IFCHR, uid=cred.uid, gid=cred.gid, btime_ns=now)
        attr.atime_ns = attr.mtime_ns = attr.ctime_ns = now
        node = Node(attr)
        self._count_in(parent, node, cred)
        return node

    def _unlinked(self, node: Node, parent: Directory, now: int) -> None:
        """A name of `node` in `parent` is gone."""
        attr = node.attr
        node.changed(now)
        if isinstance(node, Directory):
            node.parent = None
            attr.nlink = 0
            parent.attr.nlink -= 1
        else:
            attr.nlink -= 1
        if not attr.nlink:
            self._nameless.add(node)

    def _copy(
        self, source: Extents, offset: int, target: Extents, to_offset: int, size: int
    ) -> int:
        """Copy a range, a hole or at most a chunk of data at a time; returns how much fitted."""
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

    def _check_room(self, extents: Extents, offset: int, length: int) -> None:
        """ENOSPC when a range cannot be reserved. The first test keeps the second one short."""
        room = self._size - self._used
        if length - extents.allocated > room or extents.missing(offset, length) > room:
            raise error(ENOSPC)

    def _account(self, node: File, before: int) -> None:
        """The contents of `node` took `before` bytes: count what has changed."""
        extents = node.contents()
        if extents.allocated != before:
            self._used += extents.allocated - before
            node.attr.blocks = extents.blocks

    def _written(self, node: File, end: int) -> None:
        """The contents of `node` have changed, up to `end`."""
        attr = node.attr
        if end > attr.size:
            attr.size = end
        attr.mtime_ns = attr.ctime_ns = time.time_ns()
        node.atime_due = 0
        self._drop_capability(node)

    def _check_room_for(self, node: Node, name: str, value: bytes) -> int:
        """ENOSPC when an extended attribute does not fit; returns how much more room it takes."""
        old = (node.xattrs or {}).get(name)
        cost = xattr_cost(name, value) - (0 if old is None else xattr_cost(name, old))
        if cost > self._size - self._used:
            raise error(ENOSPC)
        return cost

    def _keep_xattr(self, node: Node, name: str, value: bytes) -> None:
        cost = self._check_room_for(node, name, value)
        node.xattrs = {**(node.xattrs or {}), name: bytes(value)}
        self._used += cost

    def _drop_xattr(self, node: Node, name: str) -> None:
        xattrs = dict(node.xattrs or {})
        self._used -= xattr_cost(name, xattrs.pop(name))
        node.xattrs = xattrs or None

    def _drop_capability(self, node: Node) -> None:
        """Who writes to a file or changes its owner takes its capabilities. [capabilities(7)]"""
        if node.xattrs is not None and _CAPABILITY in node.xattrs:
            self._drop_xattr(node, _CAPABILITY)


def _empty(generation: int) -> Image:
    """A new file system: a root that belongs to who serves it."""
    now = time.time_ns()
    attr = puffs.Attr(
        stat.S_IFDIR | 0o755,
        uid=os.geteuid(),
        gid=os.getegid(),
        atime_ns=now,
        mtime_ns=now,
        ctime_ns=now,
        btime_ns=now,
        ino=1,
    )
    root = Directory(attr)
    root.generation = generation
    root.parent = root
    return Image(root, {attr.ino: root}, attr.ino + 1, 0)


def _number(name: str, value: int | str) -> int:
    """A number from a command line, with K, M or G for powers of 1024."""
    text = str(value).strip().upper()
    digits = text.rstrip("KMG")
    shift = _SHIFTS.get(text[len(digits) :])
    if shift is None or not (digits.isascii() and digits.isdigit()):
        raise ValueError(
            f"mem: {name}={value} is no number: give one such as 65536, 512K, 64M or 2G; "
            "0 means no limit"
        )
    return int(digits) << shift


def _check_end(offset: int, size: int) -> None:
    if offset > FILE_MAX - size:
        raise error(EFBIG)
