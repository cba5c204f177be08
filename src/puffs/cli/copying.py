"""`cp` of the shell: files and trees, within a file system, out of it and into it.

A *side* has the calls of `os` and the builtin `open`: a `LocalFileSystem`, or the host.
"""

import errno
import os
import posixpath
import shutil
import stat
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from puffs.attach.local.vfs import LocalFileSystem

CHUNK: Final = 1 << 20
"""Bytes that are copied at once."""
_NO_MODES: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)
"""The file system has nothing that could keep a mode, or will not."""


class Host:
    """The files of the host, by the names that a `LocalFileSystem` has for the same calls."""

    @staticmethod
    def open(path: str, mode: str) -> IO[Any]:
        """The builtin `open`."""
        return open(path, mode)

    stat = staticmethod(os.stat)
    lstat = staticmethod(os.lstat)
    isdir = staticmethod(os.path.isdir)
    listdir = staticmethod(os.listdir)
    mkdir = staticmethod(os.mkdir)
    readlink = staticmethod(os.readlink)
    symlink = staticmethod(os.symlink)
    chmod = staticmethod(os.chmod)


HOST = Host()


class Place(NamedTuple):
    """A path on one of the sides; `shown` as the user has written it."""

    side: "LocalFileSystem | Host"
    path: str
    shown: str

    def below(self, name: str) -> "Place":
        """A name in this directory."""
        return Place(self.side, posixpath.join(self.path, name), posixpath.join(self.shown, name))


def copy(source: Place, target: Place, *, recursive: bool) -> None:
    """Copy a file to `target`, or into it if that is a directory; with `recursive` a tree too.

    Permission bits are copied, and within a tree symbolic links are copied as such. Raises
    `OSError` with what the user has written as `filename`.
    """
    if target.side.isdir(target.path):
        target = target.below(posixpath.basename(source.path.rstrip("/")) or "root")
    if recursive:
        _check_apart(source, target)
        _copy_tree(source, target)
        return
    if stat.S_ISDIR(_explained(source, source.side.stat, source.path).st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory: cp -r copies it", source.shown)
    _copy_file(source, target)


def _check_apart(source: Place, target: Place) -> None:
    inside = posixpath.normpath(target.path) + "/"
    if source.side is target.side and inside.startswith(
        posixpath.normpath(source.path).rstrip("/") + "/"
    ):
        raise OSError(errno.EINVAL, "cannot be copied into itself", source.shown)


def _copy_tree(source: Place, target: Place) -> None:
    found = _explained(source, source.side.lstat, source.path)
    if stat.S_ISLNK(found.st_mode):
        text = _explained(source, source.side.readlink, source.path)
        _explained(target, target.side.symlink, text, target.path)
    elif stat.S_ISDIR(found.st_mode):
        if not target.side.isdir(target.path):
            _explained(target, target.side.mkdir, target.path)
        for name in sorted(_explained(source, source.side.listdir, source.path)):
            _copy_tree(source.below(name), target.below(name))
        _copy_mode(found.st_mode, target)
    elif stat.S_ISREG(found.st_mode):
        _copy_file(source, target)
    else:
        raise OSError(errno.EINVAL, "is neither file, directory nor link", source.shown)


def _copy_file(source: Place, target: Place) -> None:
    with _explained(source, source.side.open, source.path, "rb") as read:
        with _explained(target, target.side.open, target.path, "wb") as write:
            _explained(source, shutil.copyfileobj, read, write, CHUNK)
    _copy_mode(source.side.stat(source.path).st_mode, target)


def _copy_mode(mode: int, target: Place) -> None:
    try:
        target.side.chmod(target.path, mode & 0o777)
    except OSError as exc:
        if exc.errno not in _NO_MODES:
            raise OSError(exc.errno, exc.strerror, target.shown) from exc


def _explained(place: Place, call: Any, *args: Any) -> Any:
    """Call, and tell of an error under the name that the user knows."""
    try:
        return call(*args)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, place.shown) from exc
