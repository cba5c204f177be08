"""Open files: real Python file objects, as the builtin `open` makes them.

`LocalFile` is the raw file below, in the place of `io.FileIO`; the layers above it are those of
`io`.
"""

import errno
import io
import os
import threading
import warnings
from stat import S_ISREG
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from puffs.attach.local.host import ClosedError, LocalHost
from puffs.attach.local.permissions import Permissions
from puffs.kernel.vnops import OpenFile, error
from puffs.server.attr import Attr, Changes

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from puffs.attach.local.vfs import LocalFileSystem

_READ_ALL: Final = 1 << 20
"""Bytes that are asked for at once when all of a file is read."""

_FLAGS: Final = {
    "r": 0,
    "w": os.O_CREAT | os.O_TRUNC,
    "x": os.O_CREAT | os.O_EXCL,
    "a": os.O_CREAT | os.O_APPEND,
}


class Mode(NamedTuple):
    """A mode of `open`, taken apart: `flags` are those of open(2)."""

    flags: int
    binary: bool


def parse_mode(mode: str) -> Mode:
    """Take apart a mode such as "rb+". Raises `ValueError`, `TypeError` as the builtin does."""
    if not isinstance(mode, str):
        raise TypeError(f"open() mode must be str, not {type(mode).__name__}")
    if len(set(mode)) != len(mode) or not set(mode) <= set("rwxa+bt"):
        raise ValueError(f"invalid mode: {mode!r}")
    kinds = [char for char in mode if char in _FLAGS]
    if len(kinds) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    if "b" in mode and "t" in mode:
        raise ValueError("can't have text and binary mode at once")
    if "+" in mode:
        access = os.O_RDWR
    else:
        access = os.O_RDONLY if kinds == ["r"] else os.O_WRONLY
    return Mode(access | _FLAGS[kinds[0]], "b" in mode)


class LocalFile(io.RawIOBase):
    """An unbuffered open file, as `io.FileIO` is one. Made by `LocalFileSystem.open`.

    `name` is the path as it was given, `mode` says how it is open. There is no file descriptor:
    `fileno()` raises `io.UnsupportedOperation`.
    """

    def __init__(
        self,
        fs: "LocalFileSystem",
        host: LocalHost,
        permissions: Permissions,
        file: OpenFile,
        name: Any,
        exclusive: bool,
    ) -> None:
        self.name = name
        self._fs = fs  # a file system that nobody holds any more is closed, with its files
        self._host = host
        self._permissions = permissions
        self._vnops = host.vnops
        self._file = file
        self._exclusive = exclusive
        self._position = 0
        self._lock = threading.RLock()

    @property
    def mode(self) -> str:
        """How it is open, in the spelling of `io.FileIO`."""
        kind = "x" if self._exclusive else "a" if self._appends else "r"
        if self._access == os.O_WRONLY:
            return ("w" if kind == "r" else kind) + "b"
        return kind + ("b+" if self._access == os.O_RDWR else "b")

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<puffs.LocalFile name={self.name!r} mode={self.mode!r}{state}>"

    # --------------------------------------------------------------------------------- what it can

    @property
    def _access(self) -> int:
        return self._file.flags & os.O_ACCMODE

    @property
    def _appends(self) -> bool:
        return bool(self._file.flags & os.O_APPEND)

    def readable(self) -> bool:
        """Whether it is open for reading."""
        self._check_open()
        return self._access != os.O_WRONLY

    def writable(self) -> bool:
        """Whether it is open for writing."""
        self._check_open()
        return self._access != os.O_RDONLY

    def seekable(self) -> bool:
        """Whether it has positions; the file server may say that it has none."""
        self._check_open()
        return not (self._file.hints.nonseekable or self._file.hints.stream)

    # ---------------------------------------------------------------------------------------- data

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read into `buffer`; how many bytes it were, 0 at the end."""
        self._check(self.readable(), "reading")
        view = memoryview(buffer).cast("B")
        data = self._read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """All from here to the end."""
        self._check(self.readable(), "reading")
        parts = []
        while data := self._read(_READ_ALL):
            parts.append(data)
        return b"".join(parts)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write `data`; how many bytes of it were taken."""
        self._check(self.writable(), "writing")
        view = memoryview(data).cast("B")
        with self._host, self._lock:
            if view.nbytes and not self._permissions.never_sheds:
                self._shed()
            if not self._appends:
                return self._write(view)
            with self._host.append:
                self._position = self._attr().size
                return self._write(view)

    def _read(self, size: int) -> bytes:
        with self._host, self._lock:
            data = self._vnops.read(self._file, self._position, size)
            self._advance(len(data))
            return data

    def _write(self, view: memoryview) -> int:
        taken = self._vnops.write(self._file, self._position, view)
        self._advance(taken)
        return taken

    def _advance(self, amount: int) -> None:
        if not self._file.hints.stream:
            self._position += amount

    def _shed(self) -> None:
        """Take set-user-id and set-group-id away where a write must (write(2))."""
        changes = self._permissions.shed(Changes(), self._attr())
        if changes.mode is not None:
            self._vnops.setattr(self._file.vnode, changes, self._file)

    # ------------------------------------------------------------------------------------ position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position; the new one. `whence` may be `os.SEEK_DATA` or `os.SEEK_HOLE` too."""
        if not self.seekable():
            raise error(errno.ESPIPE)
        with self._host, self._lock:
            self._position = self._target(offset, whence)
            return self._position

    def _target(self, offset: int, whence: int) -> int:
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            return self._vnops.seek(self._file, offset, whence)
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += self._attr().size
        elif whence != os.SEEK_SET:
            raise error(errno.EINVAL)
        if not 0 <= offset < 1 << 63:
            raise error(errno.EINVAL)
        return offset

    def tell(self) -> int:
        """The position."""
        return self.seek(0, os.SEEK_CUR)

    def truncate(self, size: int | None = None, /) -> int:
        """Cut the file, or make it longer, to `size` bytes (the position, if None); the size."""
        self._check(self.writable(), "writing")
        with self._host, self._lock:
            if size is None:
                size = self.tell()
            if size < 0:
                raise error(errno.EINVAL)
            changes = Changes(size=size)
            if not self._permissions.never_sheds:
                self._permissions.shed(changes, self._attr())
            self._vnops.setattr(self._file.vnode, changes, self._file)
            return size

    def _attr(self) -> Attr:
        return self._vnops.getattr(self._file.vnode, self._file)

    # --------------------------------------------------------------------------------------- close

    def close(self) -> None:
        """Give the file back. What an earlier write could not tell is raised here (close(2))."""
        if self.closed:
            return
        super().close()
        try:
            with self._host:
                if not self._file.closed:
                    try:
                        self._vnops.flush(self._file)
                    finally:
                        self._host.give_back(self._file)
        except ClosedError:  # the file system gives it back itself
            pass

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _check(self, can: bool, what: str) -> None:
        if not can:
            raise io.UnsupportedOperation(f"File not open for {what}")


def wrap(
    raw: LocalFile,
    attr: Attr,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> IO[Any]:
    """Put the layers of `io` over a raw file, as the builtin `open` does."""
    binary = parse_mode(mode).binary
    if buffering == 0:
        return raw  # type: ignore[return-value]  # a raw file is an IO[bytes] in all but name
    size = buffering
    if buffering < 0 or buffering == 1:
        size = max(io.DEFAULT_BUFFER_SIZE, attr.blksize if S_ISREG(attr.mode) else 0)
    stream: io.BufferedRandom | io.BufferedWriter | io.BufferedReader
    if raw.readable() and raw.writable():
        stream = io.BufferedRandom(raw, size)
    elif raw.writable():
        stream = io.BufferedWriter(raw, size)
    else:
        stream = io.BufferedReader(raw, size)
    if binary:
        return stream
    text = io.TextIOWrapper(stream, encoding, errors, newline, line_buffering=buffering == 1)
    text.mode = mode  # type: ignore[misc]
    return text


def check_open_arguments(
    mode: Mode, buffering: int, encoding: str | None, errors: str | None, newline: str | None
) -> None:
    """Raise `ValueError` for arguments of `open` that do not go together."""
    if mode.binary:
        for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
            if value is not None:
                raise ValueError(f"binary mode doesn't take the argument {name!r}")
        if buffering == 1:
            warnings.warn(
                "line buffering (buffering=1) isn't supported in binary mode, the default buffer"
                " size will be used",
                RuntimeWarning,
                stacklevel=4,
            )
    elif buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
