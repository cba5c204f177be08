"""Listing directories: `scandir` and `walk`, as those of `os`."""

import os
import posixpath
import warnings
from collections.abc import Callable, Iterator
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from typing import TYPE_CHECKING, Any, AnyStr, Final, Generic

from puffs.attach.local.host import ClosedError, LocalHost
from puffs.kernel.vnops import OpenDir
from puffs.server.types import DirEntry

if TYPE_CHECKING:
    from puffs.attach.local.vfs import LocalFileSystem

_BATCH: Final = 128
"""Entries that are taken at once."""
_DOTS: Final = frozenset((".", ".."))


class LocalDirEntry(Generic[AnyStr]):
    """One name in a directory, as `os.DirEntry` has it: `name`, and `path` joined from it."""

    __slots__ = ("_fs", "_ino", "_lstat", "_stat", "_type", "name", "path")

    def __init__(
        self, fs: "LocalFileSystem", name: AnyStr, path: AnyStr, type: int, ino: int
    ) -> None:
        self.name: AnyStr = name
        self.path: AnyStr = path
        self._fs = fs
        self._type = type
        self._ino = ino
        self._stat: os.stat_result | None = None
        self._lstat: os.stat_result | None = None

    def __fspath__(self) -> AnyStr:
        return self.path

    def __repr__(self) -> str:
        return f"<LocalDirEntry {self.name!r}>"

    def inode(self) -> int:
        """The inode number of the entry."""
        return self._ino or self.stat(follow_symlinks=False).st_ino

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """The attributes; asked for once, as with `os.DirEntry`."""
        if self._lstat is None:
            self._lstat = self._fs.lstat(self.path)
        if not follow_symlinks or S_IFMT(self._lstat.st_mode) != S_IFLNK:
            return self._lstat
        if self._stat is None:
            self._stat = self._fs.stat(self.path)
        return self._stat

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a directory, or, if followed, leads to one."""
        return self._is(S_IFDIR, follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a regular file, or, if followed, leads to one."""
        return self._is(S_IFREG, follow_symlinks)

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self._is(S_IFLNK, False)

    def _is(self, type: int, follow: bool) -> bool:
        if self._type and (self._type != S_IFLNK or not follow):
            return self._type == type
        try:
            return S_IFMT(self.stat(follow_symlinks=follow).st_mode) == type
        except FileNotFoundError:
            return False


class ScanDir(Generic[AnyStr]):
    """What `scandir` returns: an iterator of `LocalDirEntry`, and a context manager.

    The directory is open until the end was reached or `close` was called.
    """

    def __init__(
        self, fs: "LocalFileSystem", host: LocalHost, path: AnyStr, directory: OpenDir
    ) -> None:
        self._fs = fs
        self._host = host
        self._path: AnyStr = path
        self._directory = directory
        self._offset = 0
        self._read: list[DirEntry] = []  # what is at hand, the next entry last

    def _read_on(self) -> None:
        try:
            with self._host:
                batch = self._host.vnops.readdir(self._directory, self._offset, _BATCH)
        except OSError as exc:
            exc.filename = self._path
            self.close()
            raise
        if not batch:
            self.close()
            return
        self._offset = batch[-1][0]
        self._read = [entry for _, entry in reversed(batch) if entry.name not in _DOTS]

    def _entry(self, entry: DirEntry) -> LocalDirEntry[AnyStr]:
        known = None if entry.entry is None or callable(entry.entry) else entry.entry.attr
        type = S_IFMT(known.mode) if known else S_IFMT(entry.type)
        name: Any = entry.name
        if isinstance(self._path, bytes):
            name = os.fsencode(name)
        path = posixpath.join(self._path, name)
        return LocalDirEntry(self._fs, name, path, type, entry.ino or (known.ino if known else 0))

    def __iter__(self) -> "ScanDir[AnyStr]":
        return self

    def __next__(self) -> LocalDirEntry[AnyStr]:
        while not self._read and not self._directory.closed:
            self._read_on()
        if self._directory.closed:
            raise StopIteration
        return self._entry(self._read.pop())

    def close(self) -> None:
        """Give the directory back. Again does nothing."""
        try:
            with self._host:
                self._host.give_back(self._directory)
        except ClosedError:  # the file system gives it back itself
            pass

    def __enter__(self) -> "ScanDir[AnyStr]":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._directory.closed:
            warnings.warn(
                f"unclosed scandir iterator {self!r}", ResourceWarning, stacklevel=2, source=self
            )
            self.close()


def walk(
    fs: "LocalFileSystem",
    top: AnyStr,
    topdown: bool,
    onerror: Callable[[OSError], object] | None,
    followlinks: bool,
) -> Iterator[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
    """The directories from `top` on, as `os.walk` gives them."""
    # What is still to be listed, and, from the bottom up, what was listed and waits for its own.
    stack: list[AnyStr | tuple[AnyStr, list[AnyStr], list[AnyStr]]] = [top]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            yield item
            continue
        try:
            with fs.scandir(item) as entries:
                dirs, files, below = _sorted_out(entries)
        except OSError as exc:
            if onerror is not None:
                onerror(exc)
            continue
        if topdown:
            yield item, dirs, files  # the caller may change `dirs`
            below = [name for name in dirs if followlinks or not fs.islink(_join(item, name))]
        else:
            stack.append((item, dirs, files))
            below = dirs if followlinks else below
        stack.extend(_join(item, name) for name in reversed(below))


def _sorted_out(
    entries: ScanDir[AnyStr],
) -> tuple[list[AnyStr], list[AnyStr], list[AnyStr]]:
    """The names of directories, of other files, and of the directories that are no links."""
    dirs: list[AnyStr] = []
    files: list[AnyStr] = []
    below: list[AnyStr] = []
    for entry in entries:
        try:
            is_dir = entry.is_dir()
        except OSError:
            is_dir = False
        if not is_dir:
            files.append(entry.name)
            continue
        dirs.append(entry.name)
        if not entry.is_symlink():
            below.append(entry.name)
    return dirs, files, below


def _join(path: AnyStr, name: AnyStr) -> AnyStr:
    return posixpath.join(path, name)
