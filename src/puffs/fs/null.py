"""`null`: a directory of the host, passed through.

    puffs mount null:/srv/data /mnt/x
    puffs mount 'null:/srv/data?cache=forever' /mnt/x
    puffs snapshot /mnt/x /srv/data.monday

Every file is reached through a descriptor, and names are looked up in a directory that is open, one
at a time and without following links: `puffs.fs.hostfiles` says how, and what makes two files the
same. So nothing that others do to the host's directories meanwhile can lead outside.

- Rights: the host checks those of this process, the mount those of the caller. A process that may
  act for others (root) makes files in the name of the caller; any other makes them in its own name,
  and does for others what it may do itself.
- What others change on the host is seen after `cache` seconds at the latest. What is cached of the
  contents of a file outlives an open only if the file has not changed since.
- Appending goes by the size that is known here, not by O_APPEND: do not append to one file through
  the mount and past it at the same time.
- File handles lead to the same files in the next run, where this process has the right to open the
  host's (CAP_DAC_READ_SEARCH), for files that are in one mount with the directory, on ext4, xfs,
  btrfs, tmpfs and their like. Handles of other files are good for as long as the host remembers
  them, and then ESTALE. As with NFS, a handle is still good for a file that others have moved out
  of the directory (exports(5), no_subtree_check); not so for a directory.
- File systems that are mounted below the directory are passed through too, with inode numbers of
  their own; as long as their files are known they cannot be unmounted but with `umount -l`. A mount
  that this very process serves is not: looking into it gives ELOOP.
"""

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from errno import EINVAL, EISDIR, ENODATA, ENOTDIR, ENOTTY, ENXIO, EOPNOTSUPP, ESTALE
from struct import Struct
from typing import ClassVar, Final

import puffs
from puffs.fs import hostcalls
from puffs.fs.hostfiles import NOT_ASKED, Descriptor, HostFiles, Node
from puffs.fs.reflink import clone_tree

COPY_MAX: Final = 1 << 26
"""What one `copy_file_range` copies at most: other requests wait for it, callers ask again."""

_OPEN: Final = os.O_ACCMODE | os.O_SYNC | os.O_DSYNC | os.O_NOATIME
"""The flags of an open that are handed on. O_APPEND would ignore the offsets of writes, O_DIRECT
needs memory that is aligned, and the rest is done before a file is opened.
"""
_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNNAMED: Final = os.O_TMPFILE | os.O_CLOEXEC

_SETTLED_NS: Final = 2_000_000_000
"""A file that was changed less than this ago may change again without a new time stamp: file
systems count in steps, of two seconds at most (FAT).
"""
_TOLD_MAX: Final = 64
"""So many names, however long, have room in the host's first read of a directory, which is the one
that it wants attributes in for certain. [readdirplus: FUSE_READDIRPLUS_AUTO in fuse(4)]
"""
_TOLD_SECONDS: Final = 1.0
"""For so long the host hardly forgets what it was told."""
_NOW: Final = (0, hostcalls.UTIME_NOW)
_OMIT: Final = (0, hostcalls.UTIME_OMIT)
_NS: Final = 1_000_000_000
_AS_OURSELVES: Final = nullcontext()

_GENERATION: Final = Struct("<I")
_LENGTH: Final = Struct("=I")
"""The first member of `struct file_handle`; its type is next (open_by_handle_at(2))."""


class NullFS(puffs.FileSystem[Node]):
    """The host's `directory`, passed through.

    `cache`: for how many seconds names and attributes may be trusted; "forever" where nobody
    changes the directory but through this mount. A string will do.

    Raises `ValueError` for a `cache` that is no such number, `OSError` when there is no such
    directory.
    """

    name: ClassVar[str] = "null"
    fhsize: ClassVar[int] = hostcalls.HANDLE_MAX  # the generation takes the place of the length
    fhflags: ClassVar[int] = puffs.FHFLAG_DYNAMIC
    passthrough: bool = True

    def __init__(self, directory: str | os.PathLike[str], cache: float | str = 1.0) -> None:
        if not directory:
            raise ValueError("null: which directory? Name it, as in null:/srv/data")
        self.directory = os.path.abspath(directory)
        if not stat.S_ISDIR(os.stat(self.directory).st_mode):
            raise OSError(ENOTDIR, os.strerror(ENOTDIR), self.directory)
        self.name_ttl = self.attr_ttl = _seconds(cache)
        self.posix_acl = _keeps_acls(self.directory)

    # ------------------------------------------------------------------------ the whole file system

    def mount(self) -> Node:
        """Open the directory. What is mounted on it later does not change what it means."""
        self._files = HostFiles(self.directory)
        self._actor = hostcalls.Actor()
        return self._files.root

    def unmounted(self) -> None:
        """Give all descriptors back."""
        self._files.close()

    def statvfs(self) -> puffs.StatVfs:
        """The size of the file system that the directory is in."""
        return puffs.StatVfs.from_statvfs(os.statvfs(self._files.descriptor(self._files.root)))

    def sync(self, wait: bool, cred: puffs.Cred) -> None:
        """Sync the file system of the directory; all of them, when others were met below it."""
        if self._files.several_volumes:
            os.sync()
        else:
            hostcalls.syncfs(self._files.directory(self._files.root))

    def snapshot(self, destination: str) -> None:
        """Make a copy of the directory that shares its blocks, where the file system can do that.

        EOPNOTSUPP where it cannot, EEXIST when there is a `destination`, EINVAL when it lies in the
        directory. Whatever fails, nothing is left.
        """
        clone_tree(self._files.descriptor(self._files.root), destination)

    def fileid(self, node: Node) -> tuple[int, int]:
        """Numbers that are made from the host's handle of the file: see `HostFiles.number`."""
        return self._files.number(node), node.generation

    def vget(self, ino: int) -> puffs.Entry:
        """The file with a number. ESTALE when it is gone, or cannot be found."""
        return _entry(*self._files.by_number(ino))

    def nodetofh(self, node: Node) -> bytes:
        """The generation, then the host's own handle without its length.

        EOPNOTSUPP where it would not lead back: see `HostFiles.lasting_handle`.
        """
        handle = self._files.lasting_handle(node)
        if handle is None:
            raise _error(EOPNOTSUPP)
        return _GENERATION.pack(node.generation) + handle[_LENGTH.size :]

    def fhtonode(self, fid: bytes) -> Node:
        """The file of a handle. ESTALE when it is gone, or was never below this directory."""
        handle = fid[_GENERATION.size :]
        if len(handle) < _LENGTH.size:
            raise _error(ESTALE)
        node, _ = self._files.by_handle(_LENGTH.pack(len(handle) - _LENGTH.size) + handle)
        if fid[: _GENERATION.size] != _GENERATION.pack(node.generation):
            raise _error(ESTALE)
        return node

    def reclaim(self, node: Node) -> None:
        """Give the descriptor of a file back."""
        self._files.forget(node)

    # ---------------------------------------------------------------------------------------- names

    def lookup(self, dir: Node, name: str, cred: puffs.Cred) -> puffs.Entry:
        """Find a name. Errors as open(2) has them; ELOOP for a mount that this process serves.

        ".." leads nowhere but to directories below the root directory: ESTALE.
        """
        if name == "..":
            return _entry(*self._files.above(dir))
        return _entry(*self._files.find(dir, name))

    def create(
        self, dir: Node, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> tuple[puffs.Entry, puffs.Open]:
        """Make and open a file in one step, so that its mode does not limit this open.

        ESTALE when others have made one just now: the host then looks again, opens that one, or
        fails with EEXIST if that was asked for.
        """
        fd = self._files.descriptor(dir)
        mode = self._mode(dir, attr, cred)
        try:
            with self._made_by(cred):
                file = self._files.opening(os.open, name, flags & _OPEN | _CREATE, mode, dir_fd=fd)
        except FileExistsError:
            raise _error(ESTALE) from None
        return self._created(file, dir, name, mode, flags)

    def tmpfile(
        self, dir: Node, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> tuple[puffs.Entry, puffs.Open]:
        """Make and open a file without a name. EOPNOTSUPP where the file system cannot."""
        fd = self._files.descriptor(dir)
        mode = self._mode(dir, attr, cred)
        with self._made_by(cred):
            file = self._files.opening(
                os.open, ".", flags & (_OPEN | os.O_EXCL) | _UNNAMED, mode, dir_fd=fd
            )
        return self._created(file, dir, "", mode, flags)

    def mknod(self, dir: Node, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
        """Make a fifo, socket, device or regular file. Errors as mknod(2)."""
        fd = self._files.descriptor(dir)
        mode = self._mode(dir, attr, cred)
        with self._made_by(cred):
            os.mknod(name, attr.type | mode, attr.rdev, dir_fd=fd)
        return self._made(dir, name, attr, mode)

    def mkdir(self, dir: Node, name: str, attr: puffs.Attr, cred: puffs.Cred) -> puffs.Entry:
        """Make a directory. Errors as mkdir(2)."""
        fd = self._files.descriptor(dir)
        mode = self._mode(dir, attr, cred)
        with self._made_by(cred):
            os.mkdir(name, mode, dir_fd=fd)
        return self._made(dir, name, attr, mode)

    def symlink(
        self, dir: Node, name: str, target: str, attr: puffs.Attr, cred: puffs.Cred
    ) -> puffs.Entry:
        """Make a symbolic link. Errors as symlink(2)."""
        fd = self._files.descriptor(dir)
        with self._made_by(cred):
            os.symlink(target, name, dir_fd=fd)
        return _entry(*self._files.find(dir, name))

    def link(self, node: Node, dir: Node, name: str, cred: puffs.Cred) -> puffs.Entry:
        """Give a file a further name. Errors as link(2)."""
        files = self._files
        descriptor, fd = files.descriptor(node), files.descriptor(dir)
        # With descriptors of directories this is linkat(2) and follows the link of proc(5).
        os.link(str(descriptor), name, src_dir_fd=files.descriptors, dst_dir_fd=fd)
        node.parent, node.name = dir, name
        return _entry(node, os.stat(descriptor))

    def remove(self, dir: Node, name: str, cred: puffs.Cred) -> None:
        """Take the name of a file away. Errors as unlink(2)."""
        self._files.losing(dir, name)
        os.unlink(name, dir_fd=self._files.descriptor(dir))

    def rmdir(self, dir: Node, name: str, cred: puffs.Cred) -> None:
        """Take an empty directory away. Errors as rmdir(2)."""
        self._files.losing(dir, name)
        os.rmdir(name, dir_fd=self._files.descriptor(dir))

    def rename(
        self, dir: Node, name: str, newdir: Node, newname: str, flags: int, cred: puffs.Cred
    ) -> None:
        """Move, replace or exchange names. Errors as renameat2(2)."""
        files = self._files
        files.losing(newdir, newname)
        fd, newfd = files.descriptor(dir), files.descriptor(newdir)
        if flags:
            hostcalls.renameat2(fd, name, newfd, newname, flags)
        else:
            os.rename(name, newname, src_dir_fd=fd, dst_dir_fd=newfd)
        files.moved(newdir, newname)
        if flags & puffs.RENAME_EXCHANGE:
            files.moved(dir, name)

    def readdir(self, dir: Node, offset: int, file: object) -> Iterator[puffs.DirEntry]:
        """The names of a directory, each with its attributes as they are when it is taken.

        Names without them are enough where a listing just now had them, and what the host was told
        is still good: rm(1) and others read each directory twice.
        """
        files = self._files
        now = time.monotonic()
        # A directory that something is mounted on has a number here that is not that of its name.
        told = dir.told if now < dir.told_until and not files.several_volumes else 0
        if not told:
            dir.told, dir.told_until = 0, now + min(self.name_ttl, _TOLD_SECONDS)
        with files.opening(os.scandir, files.directory(dir)) as names:
            for index, found in enumerate(names):
                if index < told and (type_ := _type(found)):
                    yield puffs.DirEntry(found.name, type_, dir.volume.number(found.inode()))
                    continue
                try:
                    node, st = files.find(dir, found.name)
                except FileNotFoundError:
                    continue
                except OSError:
                    yield puffs.DirEntry(found.name)
                    continue
                yield puffs.DirEntry(found.name, st.st_mode, node.ino, 0, _entry(node, st))
                if index < _TOLD_MAX:
                    dir.told = index + 1

    def readlink(self, node: Node) -> str:
        """The target of a symbolic link. EINVAL for anything else."""
        if node.type != stat.S_IFLNK:
            raise _error(EINVAL)
        return os.readlink("", dir_fd=self._files.descriptor(node))

    # -------------------------------------------------------------------------------- open and data

    def open(self, node: Node, flags: int, cred: puffs.Cred) -> puffs.Open:
        """Open a regular file; the host keeps what it has cached of it if that is still right."""
        if node.type != stat.S_IFREG:  # to open a device or fifo may do something, or wait
            raise _error(EISDIR if node.type == stat.S_IFDIR else ENXIO)
        files = self._files
        file = self._open_host(files.descriptor(node), flags)
        try:
            st = os.stat(file)
        except BaseException:
            os.close(file)
            raise
        files.opened(node)
        version = (st.st_mtime_ns, st.st_ctime_ns, st.st_size)
        keep_cache = node.stamp == version
        settled = time.time_ns() - st.st_ctime_ns > _SETTLED_NS
        node.stamp = version if settled else None
        return _open(node, file, flags, keep_cache)

    def _open_host(self, descriptor: Descriptor, flags: int) -> int:
        try:
            return self._files.reopen(descriptor, flags & _OPEN)
        except PermissionError:
            if not flags & os.O_APPEND:
                raise
            # An append-only file is opened in no other way. [FS_IOC_SETFLAGS(2const)]
            return self._files.reopen(descriptor, flags & _OPEN | os.O_APPEND)

    def close(self, node: Node, file: int, flags: int) -> None:
        """Close the file."""
        self._files.closed(node)
        os.close(file)

    def flush(self, node: Node, file: int, owner: int) -> None:
        """Have the errors of earlier writes reported, as a close(2) on the host would."""
        os.close(os.dup(file))

    def fsync(self, node: Node, datasync: bool, file: int) -> None:
        """Bring a file to stable storage."""
        if datasync:
            os.fdatasync(file)
        else:
            os.fsync(file)

    def read(self, node: Node, offset: int, size: int, file: int) -> bytes:
        """Bytes of the file."""
        return os.pread(file, size, offset)

    def write(self, node: Node, offset: int, data: memoryview, file: int) -> int:
        """Write bytes; as many as the host takes."""
        return os.pwrite(file, data, offset)

    def seek(self, node: Node, offset: int, whence: int, file: int) -> int:
        """The next data or hole."""
        return os.lseek(file, offset, whence)

    def fallocate(self, node: Node, mode: int, offset: int, length: int, file: int) -> None:
        """Reserve, punch or zero a range, as the host's file system can."""
        hostcalls.fallocate(file, mode, offset, length)

    def copy_file_range(
        self,
        node: Node,
        offset: int,
        file: int,
        to: Node,
        to_offset: int,
        to_file: int,
        size: int,
        flags: int,
    ) -> int:
        """Copy on the host, which may share the blocks. EXDEV between file systems."""
        if flags:
            raise _error(EINVAL)
        return os.copy_file_range(file, to_file, min(size, COPY_MAX), offset, to_offset)

    # ----------------------------------------------------------------------------------- attributes

    def getattr(self, node: Node, file: int | None = None) -> puffs.Attr:
        """The attributes, with the time of birth where the file system knows it."""
        fd = self._files.descriptor(node) if file is None else file
        attr = _attr(node, os.stat(fd))
        if node.btime_ns == NOT_ASKED:
            node.btime_ns = hostcalls.birth(fd).btime_ns
        attr.btime_ns = node.btime_ns
        return attr

    def setattr(
        self, node: Node, changes: puffs.Changes, file: int | None, cred: puffs.Cred
    ) -> puffs.Attr:
        """Change what is set. Errors as chown(2), chmod(2), truncate(2) and utimensat(2)."""
        descriptor, descriptors = self._files.descriptor(node), self._files.descriptors
        name = str(descriptor)
        if changes.uid is not None or changes.gid is not None:
            os.chown(name, _or_same(changes.uid), _or_same(changes.gid), dir_fd=descriptors)
        if changes.mode is not None:
            os.chmod(name, changes.mode, dir_fd=descriptors)
        if changes.size is not None:
            os.truncate(descriptor.path if file is None else file, changes.size)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            hostcalls.utimensat(
                name,
                _time(changes.atime_ns, changes.atime_now),
                _time(changes.mtime_ns, changes.mtime_now),
                descriptors,
            )
        return _attr(node, os.stat(descriptor))

    def getxattr(self, node: Node, name: str) -> bytes:
        """The value of an extended attribute. Errors as getxattr(2).

        A file system of the host that has no ACLs has none that the host here must heed: ENODATA.
        """
        try:
            return os.getxattr(self._files.descriptor(node).path, name)
        except OSError as exc:
            if exc.errno == EOPNOTSUPP and self.posix_acl and name in puffs.ACL_NAMES:
                raise _error(ENODATA) from None
            raise

    def setxattr(self, node: Node, name: str, value: bytes, flags: int) -> None:
        """Set an extended attribute. Errors as setxattr(2).

        An ACL sets the mode too, on the host. That takes set-group-ID from who is not in the group
        of the file; to the host it is this process that sets it.
        """
        descriptor = self._files.descriptor(node)
        os.setxattr(descriptor.path, name, value, flags)
        if name == puffs.ACL_ACCESS:
            st, caller = os.stat(descriptor), puffs.caller()
            if st.st_mode & stat.S_ISGID and not (caller.superuser or caller.in_group(st.st_gid)):
                os.chmod(descriptor.path, stat.S_IMODE(st.st_mode) & ~stat.S_ISGID)

    def listxattr(self, node: Node) -> Iterable[str]:
        """The names of the extended attributes. Errors as listxattr(2)."""
        return os.listxattr(self._files.descriptor(node).path)

    def removexattr(self, node: Node, name: str) -> None:
        """Take an extended attribute away. Errors as removexattr(2)."""
        os.removexattr(self._files.descriptor(node).path, name)

    def ioctl(
        self,
        node: Node,
        command: int,
        data: bytes,
        size: int,
        file: int | None,
        cred: puffs.Cred,
    ) -> bytes:
        """What lsattr(1) and chattr(1) ask: the flags of a file on the host. ENOTTY for all else.

        Linux has checked that the caller may change them; what they forbid, the host refuses.
        """
        if command not in hostcalls.FLAG_COMMANDS:
            raise _error(ENOTTY)
        fd = self._files.directory(node) if file is None else file
        return hostcalls.ioctl_flags(fd, command, data, size)

    # ----------------------------------------------------------------------------- open directories

    def opendir(self, dir: Node, cred: puffs.Cred) -> None:
        """Keep the directory where it can be found."""
        self._files.opened(dir)

    def closedir(self, dir: Node, file: object) -> None:
        """No longer."""
        self._files.closed(dir)

    def fsyncdir(self, dir: Node, datasync: bool, file: object) -> None:
        """Bring the names of a directory to stable storage."""
        self.fsync(dir, datasync, self._files.directory(dir))

    # ------------------------------------------------------------------------------------ new files

    def _made_by(self, cred: puffs.Cred) -> AbstractContextManager[None]:
        """Whose the files are that are made meanwhile."""
        actor = self._actor
        if not actor.acts_for_others or (cred.uid, cred.gid) == (actor.uid, actor.gid):
            return _AS_OURSELVES
        return actor.acting_as(cred.uid, cred.gid)

    def _mode(self, dir: Node, attr: puffs.Attr, cred: puffs.Cred) -> int:
        """With which permissions a new file is made.

        In a directory with a default ACL the host narrows them by that. In any other the umask of
        the caller does. [umask(2), acl(5)]
        """
        mode = stat.S_IMODE(attr.mode)
        if mode & cred.umask & 0o777 and not self._has_default_acl(dir):
            mode &= ~(cred.umask & 0o777)
        return mode

    def _missing(self, dir: Node, mode: int, st: os.stat_result) -> int:
        """Which permissions a file lacks that was just made with those of `mode`.

        What it has not been given, the umask of this process has taken away, and is not to; but
        what a default ACL has taken away, it is not to have.
        """
        missing = mode & 0o777 & ~st.st_mode
        return missing if missing and not self._has_default_acl(dir) else 0

    def _has_default_acl(self, dir: Node) -> bool:
        try:
            os.getxattr(self._files.descriptor(dir).path, puffs.ACL_DEFAULT)
        except OSError:
            return False
        return True

    def _made(self, dir: Node, name: str, attr: puffs.Attr, mode: int) -> puffs.Entry:
        """The entry of a file that was just made with the permissions of `mode`."""
        files = self._files
        node, st = files.find(dir, name)
        missing = self._missing(dir, mode, st)
        # Others may have put something else in its place since: nothing is changed there that the
        # caller could not change himself.
        if missing and st.st_uid == attr.uid and node.type == attr.type:
            descriptor = files.descriptor(node)
            permissions = stat.S_IMODE(st.st_mode) | missing
            os.chmod(str(descriptor), permissions, dir_fd=files.descriptors)
            st = os.stat(descriptor)
        return _entry(node, st)

    def _created(
        self, file: int, dir: Node, name: str, mode: int, flags: int
    ) -> tuple[puffs.Entry, puffs.Open]:
        """The entry of a file that was just made with the permissions of `mode`, and the open file;
        no `name`: it has none.
        """
        files = self._files
        try:
            node, st = files.adopt(
                Descriptor(files.reopen(file, os.O_PATH)), dir if name else None, name
            )
            if missing := self._missing(dir, mode, st):
                os.chmod(file, stat.S_IMODE(st.st_mode) | missing)
                st = os.stat(file)
        except BaseException:
            os.close(file)
            if name:
                os.unlink(name, dir_fd=files.descriptor(dir))
            raise
        files.opened(node)
        return _entry(node, st), _open(node, file, flags)


def _entry(node: Node, st: os.stat_result) -> puffs.Entry:
    return puffs.Entry(node, _attr(node, st))


def _type(found: "os.DirEntry[str]") -> int:
    """The type of a name, as far as the directory tells; 0: it does not, or it is a rare one."""
    if found.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if found.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFLNK if found.is_symlink() else 0


def _attr(node: Node, st: os.stat_result) -> puffs.Attr:
    attr = puffs.Attr.from_stat(st)
    attr.ino = node.ino
    return attr


def _open(node: Node, file: int, flags: int, keep_cache: bool = False) -> puffs.Open:
    """Nobody need tell of a close that has nothing to report: that saves a request for each."""
    noflush = node.volume.local or flags & os.O_ACCMODE == os.O_RDONLY
    return puffs.Open(file, keep_cache=keep_cache, noflush=noflush, backing_fd=file)


def _time(ns: int | None, now: bool) -> tuple[int, int]:
    """A time for utimensat(2)."""
    if ns is None:
        return _OMIT
    return _NOW if now else divmod(ns, _NS)


def _or_same(number: int | None) -> int:
    """An owner for chown(2)."""
    return -1 if number is None else number


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _keeps_acls(directory: str) -> bool:
    """Whether the file system of `directory` has POSIX ACLs."""
    try:
        os.getxattr(directory, puffs.ACL_DEFAULT)
    except OSError as exc:
        return exc.errno == ENODATA
    return True


def _seconds(cache: float | str) -> float:
    """A lifetime from a command line."""
    if cache == "forever":
        return puffs.FOREVER
    try:
        seconds = float(cache)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ValueError(
            f'null: cache={cache} is no time: give seconds, such as 0 or 1.5, or "forever"'
        )
    return seconds
