"""A directory of the machine, passed through by inodes, with pyfuse3.

`python passing.py DIRECTORY MOUNTPOINT [OPTION...]`. Inodes are those of the machine, but for the
root; open files are descriptors, one for each open.
"""

import errno
import os
import stat
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pyfuse3
import trio
from pyfuse3 import EntryAttributes as Entry
from pyfuse3 import RequestContext as Context
from pyfuse3 import SetattrFields as Fields

STAT = (
    *("st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize", "st_blocks"),
    *("st_atime_ns", "st_mtime_ns", "st_ctime_ns"),
)
FS = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail")


@contextmanager
def errors() -> Iterator[None]:
    """Errors of the machine as those of the library."""
    try:
        yield
    except OSError as error:
        raise pyfuse3.FUSEError(error.errno) from None


def change_owner(place: str | int, attr: Entry, fields: Fields, follow: bool) -> None:
    owner = attr.st_uid if fields.update_uid else -1
    group = attr.st_gid if fields.update_gid else -1
    if (owner, group) != (-1, -1):
        os.chown(place, owner, group, follow_symlinks=follow)


def change_times(place: str | int, attr: Entry, fields: Fields, follow: bool) -> None:
    now = os.stat(place, follow_symlinks=follow)
    times = now.st_atime_ns, now.st_mtime_ns
    wanted = (
        attr.st_atime_ns if fields.update_atime else times[0],
        attr.st_mtime_ns if fields.update_mtime else times[1],
    )
    if wanted != times:
        os.utime(place, ns=wanted, follow_symlinks=follow)


class Passing(pyfuse3.Operations):
    """Knows every path by which the kernel has looked up an inode."""

    enable_writeback_cache = False

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.paths: defaultdict[int, list[str]] = defaultdict(list)
        self.paths[pyfuse3.ROOT_INODE] = [directory]
        self.lookups: defaultdict[int, int] = defaultdict(int)
        self.opened: dict[int, int] = {}  # a descriptor by inode, for files without a name
        self.owners: dict[int, int] = {}  # and back
        self.last = 0
        self.directories: dict[int, int] = {}  # by handle
        self.listings: dict[int, list[tuple[int, str, str]]] = {}
        self.root = os.lstat(directory).st_ino

    # Helpers.

    def place(self, inode: int) -> str | int:
        """Where a file is: by path, or by descriptor when it has lost its names."""
        if inode in self.opened:
            return self.opened[inode]
        return self.path(inode)

    def path(self, inode: int) -> str:
        if not self.paths[inode]:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.paths[inode][0]

    def below(self, parent: int, name: bytes) -> str:
        return os.path.join(self.path(parent), os.fsdecode(name))

    def entry(self, found: os.stat_result) -> Entry:
        entry = Entry()
        for name in STAT:
            setattr(entry, name, getattr(found, name))
        entry.st_ino = pyfuse3.ROOT_INODE if found.st_ino == self.root else found.st_ino
        entry.generation = 0
        entry.entry_timeout = entry.attr_timeout = 1
        return entry

    def known(self, path: str) -> Entry:
        """An entry that the kernel counts as one more lookup."""
        entry = self.entry(os.lstat(path))
        if entry.st_ino != pyfuse3.ROOT_INODE:
            if path not in self.paths[entry.st_ino]:
                self.paths[entry.st_ino].append(path)
            self.lookups[entry.st_ino] += 1
        return entry

    def current(self, inode: int) -> Entry:
        place = self.place(inode)
        return self.entry(os.fstat(place) if isinstance(place, int) else os.lstat(place))

    def gone(self, path: str, inode: int) -> None:
        if path in self.paths[inode]:
            self.paths[inode].remove(path)

    def given(self, path: str, ctx: Context) -> Entry:
        """What is made belongs to who made it."""
        os.lchown(path, ctx.uid, ctx.gid)
        return self.known(path)

    # Names.

    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> Entry:
        with errors():
            return self.known(os.path.normpath(self.below(parent_inode, name)))

    async def forget(self, inode_list: list[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            self.lookups[inode] -= count
            if self.lookups[inode] <= 0:
                self.lookups.pop(inode)
                self.paths.pop(inode, None)

    async def getattr(self, inode: int, ctx: Context) -> Entry:
        with errors():
            return self.current(inode)

    async def setattr(
        self, inode: int, attr: Entry, fields: Fields, fh: int | None, ctx: Context
    ) -> Entry:
        place = self.place(inode) if fh is None else fh
        follow = isinstance(place, int)
        with errors():
            if fields.update_size:
                os.truncate(place, attr.st_size)
            if fields.update_mode:
                os.chmod(place, stat.S_IMODE(attr.st_mode))
            change_owner(place, attr, fields, follow)
            change_times(place, attr, fields, follow)
            return self.current(inode)

    async def readlink(self, inode: int, ctx: Context) -> bytes:
        with errors():
            return os.fsencode(os.readlink(self.path(inode)))

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Context
    ) -> Entry:
        path = self.below(parent_inode, name)
        with errors():
            os.mknod(path, mode & ~ctx.umask, rdev)
            return self.given(path, ctx)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Context) -> Entry:
        path = self.below(parent_inode, name)
        with errors():
            os.mkdir(path, mode & ~ctx.umask)
            return self.given(path, ctx)

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Context) -> Entry:
        path = self.below(parent_inode, name)
        with errors():
            os.symlink(os.fsdecode(target), path)
            return self.given(path, ctx)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Context) -> Entry:
        path = self.below(new_parent_inode, new_name)
        with errors():
            os.link(self.path(inode), path, follow_symlinks=False)
            return self.known(path)

    async def unlink(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        path = self.below(parent_inode, name)
        with errors():
            inode = os.lstat(path).st_ino
            os.unlink(path)
        self.gone(path, inode)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        path = self.below(parent_inode, name)
        with errors():
            inode = os.lstat(path).st_ino
            os.rmdir(path)
        self.gone(path, inode)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Context,
    ) -> None:
        if flags:
            raise pyfuse3.FUSEError(errno.EINVAL)
        old, new = self.below(parent_inode_old, name_old), self.below(parent_inode_new, name_new)
        with errors():
            os.rename(old, new)
        for inode, paths in self.paths.items():
            self.paths[inode] = [
                new + path[len(old) :] if path == old or path.startswith(old + "/") else path
                for path in paths
                if path != new and not path.startswith(new + "/")
            ]

    async def statfs(self, ctx: Context) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        with errors():
            found = os.statvfs(self.paths[pyfuse3.ROOT_INODE][0])
        for name in FS:
            setattr(data, name, getattr(found, name))
        data.f_namemax = found.f_namemax
        return data

    async def access(self, inode: int, mode: int, ctx: Context) -> bool:
        return True

    # Open files.

    def handle(self, fd: int, inode: int) -> pyfuse3.FileInfo:
        self.opened.setdefault(inode, fd)
        self.owners[fd] = inode
        return pyfuse3.FileInfo(fh=fd)

    async def open(self, inode: int, flags: int, ctx: Context) -> pyfuse3.FileInfo:
        place = self.place(inode)
        path = f"/proc/self/fd/{place}" if isinstance(place, int) else place
        with errors():
            return self.handle(os.open(path, flags & ~(os.O_NOFOLLOW | os.O_DIRECT)), inode)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Context
    ) -> tuple[pyfuse3.FileInfo, Entry]:
        path = self.below(parent_inode, name)
        with errors():
            fd = os.open(path, flags | os.O_CREAT, mode & ~ctx.umask)
            entry = self.given(path, ctx)
            return self.handle(fd, entry.st_ino), self.entry(os.fstat(fd))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        with errors():
            return os.pread(fh, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        with errors():
            return os.pwrite(fh, buf, off)

    async def flush(self, fh: int) -> None:
        with errors():
            os.close(os.dup(fh))

    async def fsync(self, fh: int, datasync: bool) -> None:
        with errors():
            (os.fdatasync if datasync else os.fsync)(fh)

    async def release(self, fh: int) -> None:
        inode = self.owners.pop(fh)
        if self.opened.get(inode) == fh:
            others = [fd for fd, owner in self.owners.items() if owner == inode]
            if others:
                self.opened[inode] = others[0]
            else:
                del self.opened[inode]
        os.close(fh)

    # Directories.

    async def opendir(self, inode: int, ctx: Context) -> int:
        self.last += 1
        self.directories[self.last] = inode
        return self.last

    def fill(self, fh: int) -> None:
        """Names in the order of their inodes, which are the positions."""
        directory = self.path(self.directories[fh])
        with errors(), os.scandir(directory) as entries:
            self.listings[fh] = sorted((each.inode(), each.name, each.path) for each in entries)

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if start_id == 0:
            self.fill(fh)
        listing = self.listings[fh]
        for inode, name, path in listing[bisect_right(listing, (start_id, chr(0x10FFFF))) :]:
            with errors():
                entry = self.entry(os.lstat(path))
            if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, inode):
                break
            self.known(path)

    async def releasedir(self, fh: int) -> None:
        del self.directories[fh]
        self.listings.pop(fh, None)

    # Extended attributes.

    async def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        with errors():
            return os.getxattr(self.place(inode), name, follow_symlinks=True)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Context) -> None:
        with errors():
            os.setxattr(self.place(inode), name, value)

    async def listxattr(self, inode: int, ctx: Context) -> list[bytes]:
        with errors():
            return [os.fsencode(name) for name in os.listxattr(self.place(inode))]

    async def removexattr(self, inode: int, name: bytes, ctx: Context) -> None:
        with errors():
            os.removexattr(self.place(inode), name)


def main(directory: str, mountpoint: str, *words: str) -> None:
    options = set(pyfuse3.default_options) | {"fsname=passing", *words}
    os.umask(0)
    pyfuse3.init(Passing(directory), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
