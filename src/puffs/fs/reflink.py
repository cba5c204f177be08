"""A copy of a directory of the host that shares its blocks: what a snapshot of `null` is.

Both trees are walked by descriptors (`puffs.fs.hostfiles`), however large and deep they are. The
copy is made under a spare name beside the one that it shall have, with nothing to be had from it by
others, and is renamed when it is on stable storage.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EEXIST, EINVAL, ENOSYS, ENOTTY, EOPNOTSUPP, EXDEV
from typing import Final, NamedTuple

import puffs
from puffs.fs import hostcalls
from puffs.fs.hostfiles import Descriptor, HostFiles, Node
from puffs.fs.replacing import parted, spare_name

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SOURCE: Final = os.O_RDONLY | os.O_CLOEXEC
_COPY: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER_ONLY: Final = 0o700
_NO_BLOCKS: Final = frozenset((EOPNOTSUPP, EXDEV, EINVAL, ENOTTY, ENOSYS))
"""How file systems say that two files cannot share blocks. [FICLONE(2const)]"""
_INHERITED: Final = ("system.posix_acl_access", "system.posix_acl_default")
_NS: Final = 1_000_000_000


def clone_tree(directory: Descriptor, destination: str) -> None:
    """Make `destination` a copy of `directory` and all below it, with shared blocks.

    Everything is kept but what nobody can set: inode numbers, times of birth and of the last change
    of attributes. What others remove meanwhile may be missing.

    Raises `OSError` and leaves nothing behind: EOPNOTSUPP where files cannot share blocks, EEXIST
    when there is a `destination`, EINVAL when it lies in `directory`.
    """
    parent, name = parted(destination)
    with _explained(str, destination):
        beside = Descriptor(os.open(parent, _DIRECTORY))
        _check_free(beside, name)
        spare = spare_name()
        os.mkdir(spare, _OWNER_ONLY, dir_fd=beside)
    try:
        copying = _Copying(directory.path, f"{beside.path}/{spare}")
        try:
            copying.all()
            with _explained(str, destination):
                hostcalls.syncfs(beside)
                hostcalls.renameat2(beside, spare, beside, name, puffs.RENAME_NOREPLACE)
        except BaseException:
            copying.undo()
            raise
        finally:
            copying.close()
    except BaseException:
        os.rmdir(spare, dir_fd=beside)
        raise
    os.fsync(beside)


def _check_free(directory: int, name: str) -> None:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    raise OSError(EEXIST, os.strerror(EEXIST))


@contextmanager
def _explained(path: Callable[..., str], *args: object) -> Iterator[None]:
    """What goes wrong in the body is said of a path: what `path` returns, if it must be known."""
    try:
        yield
    except OSError as exc:
        raise OSError(exc.errno, f"{path(*args)}: {exc.strerror}") from exc


class _Directory(NamedTuple):
    """A directory of the source, what it was when it was found, and its copy."""

    source: Node
    st: os.stat_result
    copy: Node


class _Copying:
    """The copying of one tree, `source`, to another one, `copy`, which is an empty directory."""

    def __init__(self, source: str, copy: str) -> None:
        self._source = HostFiles(source)
        try:
            self._copy = HostFiles(copy)
        except BaseException:
            self._source.close()
            raise
        root, top = self._source.root, self._copy.root
        found = os.stat(self._copy.descriptor(top))
        self._top = (found.st_dev, found.st_ino)
        # All that were made, those above before those below.
        self._directories = [_Directory(root, os.stat(self._source.descriptor(root)), top)]
        # The copies of files that may have further names.
        self._linked: dict[Node, Node] = {}

    def close(self) -> None:
        """Give all descriptors back."""
        self._source.close()
        self._copy.close()

    def all(self) -> None:
        """Copy everything. Directories get their attributes last, those below before those above:
        until then they can be written to, and nobody else gets in.
        """
        self._disinherit()
        for directory in self._directories:  # it grows meanwhile
            with self._source.opening(
                os.scandir, self._source.directory(directory.source)
            ) as found:
                for entry in found:
                    with _explained(_path, directory.source, entry.name):
                        self._enter(directory, entry.name)
        for source, st, copy in reversed(self._directories):
            with _explained(_path, source):
                self._dress(source, st, copy)

    def undo(self) -> None:
        """Remove everything but the uppermost directory."""
        for directory in reversed(self._directories):
            os.chmod(self._copy.descriptor(directory.copy).path, _OWNER_ONLY)
            fd = self._copy.directory(directory.copy)
            with os.scandir(fd) as found:
                entries = list(found)
            for entry in entries:
                remove = os.rmdir if entry.is_dir(follow_symlinks=False) else os.unlink
                remove(entry.name, dir_fd=fd)

    def _disinherit(self) -> None:
        """Nothing is to come from the ACLs of the directory above. [acl(5)]"""
        path = self._copy.descriptor(self._copy.root).path
        for name in set(_INHERITED).intersection(os.listxattr(path)):
            os.removexattr(path, name)

    def _enter(self, directory: _Directory, name: str) -> None:
        """Copy what has this name in a directory."""
        try:
            source, st = self._source.find(directory.source, name)
        except FileNotFoundError:
            return  # others have removed it
        parent = self._copy.descriptor(directory.copy)
        first = self._linked.get(source)
        if first is not None:
            # With a descriptor for the directory this is linkat(2) and follows the path of proc(5).
            os.link(self._copy.descriptor(first).path, name, dst_dir_fd=parent)
            return
        self._make(source, st, name, parent)
        copy, _ = self._copy.find(directory.copy, name)
        if source.type == stat.S_IFDIR:
            self._directories.append(_Directory(source, st, copy))
            return
        self._dress(source, st, copy)
        self._source.forget(source)
        self._copy.forget(copy)
        if st.st_nlink > 1:
            self._linked[source] = copy

    def _make(self, source: Node, st: os.stat_result, name: str, parent: int) -> None:
        """Make a file of the same type and contents."""
        if source.type == stat.S_IFDIR:
            if (st.st_dev, st.st_ino) == self._top:
                raise OSError(EINVAL, "a snapshot cannot be made inside of what it is made of")
            os.mkdir(name, _OWNER_ONLY, dir_fd=parent)
        elif source.type == stat.S_IFLNK:
            target = os.readlink("", dir_fd=self._source.descriptor(source))
            os.symlink(target, name, dir_fd=parent)
        elif source.type == stat.S_IFREG:
            self._clone(source, name, parent)
        else:
            os.mknod(name, source.type | 0o600, st.st_rdev, dir_fd=parent)

    def _clone(self, source: Node, name: str, parent: int) -> None:
        path = self._source.descriptor(source).path
        file = Descriptor(self._source.opening(os.open, path, _SOURCE))
        copy = Descriptor(self._copy.opening(os.open, name, _COPY, 0o600, dir_fd=parent))
        try:
            hostcalls.ficlone(copy, file)
        except OSError as exc:
            if exc.errno not in _NO_BLOCKS:
                raise
            raise OSError(
                EOPNOTSUPP,
                "its blocks cannot be shared: that takes a file system such as Btrfs or XFS, with "
                "the directory and the snapshot on the same one",
            ) from exc

    def _dress(self, source: Node, st: os.stat_result, copy: Node) -> None:
        """Give a copy its attributes. In this order: a new owner takes set-user-id and
        capabilities away, an ACL sets the mode, and times come last.
        """
        path, to = self._source.descriptor(source).path, self._copy.descriptor(copy).path
        os.chown(to, st.st_uid, st.st_gid)
        for name in os.listxattr(path):
            os.setxattr(to, name, os.getxattr(path, name))
        if source.type != stat.S_IFLNK:
            os.chmod(to, stat.S_IMODE(st.st_mode))
        hostcalls.utimensat(to, divmod(st.st_atime_ns, _NS), divmod(st.st_mtime_ns, _NS))


def _path(node: Node, name: str = "") -> str:
    """Where `node`, or `name` in it, is in its tree, for people."""
    below = [name] if name else []
    while node.parent is not None:
        below.append(node.name)
        node = node.parent
    return "/".join(reversed(below)) or "."
