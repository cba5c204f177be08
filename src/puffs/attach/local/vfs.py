"""`local`: a file system used by calls, with nothing mounted.

The names, arguments, results and errors of `LocalFileSystem` are those of `os`, `open` and
`pathlib`; paths start at the root of the file system.
"""

import errno
import io
import os
import posixpath
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import IO, TYPE_CHECKING, Any, AnyStr, BinaryIO, Final, overload

from puffs.attach.local import file as files
from puffs.attach.local import scan
from puffs.attach.local.file import LocalFile
from puffs.attach.local.host import LocalHost
from puffs.attach.local.namei import DOTS, Path, Place, text_of
from puffs.attach.local.names import NameCalls
from puffs.attach.local.scan import ScanDir
from puffs.isolate.isolation import Isolate, Isolation, isolation_of
from puffs.kernel.args import KernelFlag
from puffs.kernel.mount import Mount, Servable, ServerDied, args_for, made
from puffs.kernel.vnops import Found, OpenFile, error
from puffs.server.attr import Attr
from puffs.server.cred import Cred

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode

_CREATE_ATTEMPTS: Final = 16
"""How often `open` tries to make a file that others make and remove meanwhile."""
_WANTS: Final = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK, os.O_RDWR: os.R_OK | os.W_OK}


def local(
    fs: Servable | Callable[[], Servable] | Mount,
    *,
    cred: Cred | None = None,
    cache: bool = False,
    isolate: Isolate = False,
) -> "LocalFileSystem":
    """Use a file system in this process, with nothing mounted.

        with puffs.local(fs) as vfs:
            vfs.write_text("/hello", "Hello!\\n")

    `fs` is a file server, what makes one when called, or a `Mount` that is to be used beside what
    it is mounted on. `cred` is who uses it: None stands for the credentials of this process.
    Raises what the file server's `mount` raises.

    With `cache`, regular files are read and written through the page cache of the kernel half: the
    file server gets what was written when a multiple of 64 KiB is crossed, and when a file is
    closed or synced, which is also where errors of writing are raised. It is for file servers that
    are slow, or that are to be tried with a cache above them. Files that change by themselves, and
    files that a file server shows under several cookies, may show what they were.

    With `isolate` the file server lives in a process of its own, where `fs` is called; an
    `Isolation` says how it is held there. When it dies, all use raises `ServerDied` (ENXIO) until
    this is closed. A process that is forked from this one cannot use it.
    """
    isolation = isolation_of(isolate)
    if isinstance(fs, Mount):
        if isolation is not None:
            raise ValueError("isolate: the file server of this mount has been made already")
        if cache and not fs.pages.allowed:
            raise ValueError("cache: this mount was made without one")
        return LocalFileSystem(fs, cred, owner=False)
    flags = 0 if cache else KernelFlag.NOCACHE_PAGE
    if isolation is not None:
        return _isolated(fs, cred, flags, isolation)
    server = made(fs)
    return LocalFileSystem(Mount(server, args_for(server, flags)), cred, owner=True)


def _isolated(
    fs: Servable | Callable[[], Servable], cred: Cred | None, flags: int, isolation: Isolation
) -> "LocalFileSystem":
    """The same with the file server in a process of its own."""
    from puffs.isolate.isolated import Isolated

    with Isolated(partial(made, fs), isolation) as process:
        server = process.server
        mount = Mount(server, args_for(server, flags), finish=process.finish)
        process.attach(mount)
        vfs = LocalFileSystem(mount, cred, owner=True, ended=process.close)
        process.kept()
    return vfs


class LocalFileSystem(NameCalls):
    """The files of one mount, by path. Made by `puffs.local`.

    Paths are `str`, `bytes` or `os.PathLike`; "a" is "/a". Errors are the `OSError` that `os` would
    raise, with the path as `filename`. Permissions are checked as Linux does, for the credentials
    it was made with, unless the file server defines `access`. Several threads may use it at once if
    the file server allows that. `mount` is the kernel half.

    As a context manager it is closed at the end. One that nobody holds any more is closed too, and
    so is one that is left at the end of the interpreter.
    """

    def __init__(
        self,
        mount: Mount,
        cred: Cred | None,
        *,
        owner: bool,
        ended: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(mount, cred, owner=owner)
        self._end = self._host.end
        if ended is not None:
            self._end = partial(_end_both, self._host, ended, os.getpid())
        self._finalizer = weakref.finalize(self, self._end)

    # ----------------------------------------------------------------------------------- life cycle

    @property
    def closed(self) -> bool:
        """Whether it was closed, or unmounted by others. All use then raises `ValueError`."""
        return self._host.closed

    def close(self) -> None:
        """Close all open files and leave the mount; unmount it if it was made by `local`.

        Again does nothing. Raises, when all is done, the first error of writing what file objects
        had buffered.
        """
        if not self._finalizer.alive:
            return
        self._host.refuse_inside()
        self._finalizer.detach()
        self._end()

    def __enter__(self) -> "LocalFileSystem":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------- open files

    @overload
    def open(
        self,
        file: Path,
        mode: "OpenTextMode" = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> io.TextIOWrapper: ...
    @overload
    def open(self, file: Path, mode: "OpenBinaryMode", buffering: int = -1) -> BinaryIO: ...
    @overload
    def open(
        self,
        file: Path,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]: ...
    def open(
        self,
        file: Path,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open a file as the builtin `open` does: all its modes, a file object of `io`.

        There is no descriptor: `fileno()` raises `io.UnsupportedOperation`. Devices, fifos and
        sockets cannot be opened (ENXIO).
        """
        return self._file_object(
            file,
            (file,),
            lambda flags: self._open(text_of(file), flags),
            mode,
            buffering,
            encoding,
            errors,
            newline,
        )

    def open_by_handle(
        self,
        handle: bytes,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open the file that `name_to_handle` has named so, as `open` does; it makes none (EEXIST).

        ESTALE when it is gone; EOPNOTSUPP where there are no handles; EINVAL for bytes that have no
        length of a handle; ELOOP for a symbolic link. It leads past all directories, so it is for
        the superuser: EPERM. [open_by_handle_at(2)]
        """
        return self._file_object(
            handle,
            (),
            lambda flags: self._open_handle(handle, flags),
            mode,
            buffering,
            encoding,
            errors,
            newline,
        )

    def _file_object(
        self,
        name: Path,
        paths: tuple[Path, ...],
        opener: Callable[[int], tuple[OpenFile, Attr]],
        mode: str,
        buffering: int,
        encoding: str | None,
        errors: str | None,
        newline: str | None,
    ) -> IO[Any]:
        """A file object called `name` over what `opener` opens, given flags of open(2)."""
        parsed = files.parse_mode(mode)
        files.check_open_arguments(parsed, buffering, encoding, errors, newline)
        if encoding is None and not parsed.binary:
            encoding = io.text_encoding(encoding, 3)
        with self._at(*paths):
            opened, attr = opener(parsed.flags)
            self._host.handles.add(opened)
            exclusive = bool(parsed.flags & os.O_EXCL)
            raw = LocalFile(self, self._host, self._permissions, opened, name, exclusive)
            try:
                if parsed.flags & os.O_APPEND and raw.seekable():
                    raw.seek(0, os.SEEK_END)
                stream = files.wrap(raw, attr, mode, buffering, encoding, errors, newline)
            except BaseException:
                raw.close()
                raise
            self._host.add_stream(stream)  # type: ignore[arg-type]  # all are io.IOBase
            return stream

    def _open(self, path: str, flags: int) -> tuple[OpenFile, Attr]:
        for _ in range(_CREATE_ATTEMPTS):
            with self._walks.resolve(path, follow=not flags & os.O_EXCL) as place:
                if not flags & os.O_CREAT:
                    return self._open_found(place.found(), flags)
                if place.slash and place.name not in DOTS:
                    raise error(errno.EISDIR)
                if place.last is not None:
                    if flags & os.O_EXCL:
                        raise error(errno.EEXIST)
                    return self._open_found(place.last, flags)
                try:
                    return self._create(place, flags)
                except FileExistsError:  # somebody was faster
                    if flags & os.O_EXCL:
                        raise
        raise error(errno.EEXIST)

    def _create(self, place: Place, flags: int) -> tuple[OpenFile, Attr]:
        self._permissions.make_in(place.dir)
        maker, mode = self._maker(0o666)
        found, opened = maker.create(place.dir.vnode, place.name, mode, _open_flags(flags))
        self._vnops.forget(found.vnode)
        return opened, found.attr

    def _open_handle(self, handle: bytes, flags: int) -> tuple[OpenFile, Attr]:
        if not self._cred.superuser:
            raise error(errno.EPERM)
        found = self._vnops.fhtovp(handle)
        try:
            if flags & os.O_EXCL:
                raise error(errno.EEXIST)
            if S_ISLNK(found.attr.mode):
                raise error(errno.ELOOP)
            return self._open_found(found, flags)
        finally:
            self._vnops.forget(found.vnode)

    def _open_found(self, found: Found, flags: int) -> tuple[OpenFile, Attr]:
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        is_dir = S_ISDIR(found.attr.mode)
        if is_dir and writing:
            raise error(errno.EISDIR)
        self._permissions.may(found, _WANTS[flags & os.O_ACCMODE])
        if is_dir:
            raise error(errno.EISDIR)
        if not S_ISREG(found.attr.mode):
            raise error(errno.ENXIO)
        opened = self._vnops.open(found.vnode, _open_flags(flags))
        try:
            if flags & os.O_TRUNC:
                self._truncate(found, 0)
        except BaseException:
            self._vnops.close(opened)
            raise
        return opened, found.attr

    def read_bytes(self, path: Path) -> bytes:
        """All of a file."""
        with self._host, self.open(path, "rb", buffering=0) as stream:
            return stream.read()

    def read_text(self, path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        """All of a file, decoded."""
        with self._host, self.open(path, "r", encoding=encoding, errors=errors) as stream:
            return stream.read()

    def write_bytes(self, path: Path, data: bytes) -> int:
        """Make `data` the contents of a file; how many bytes it were."""
        with self._host, self.open(path, "wb") as stream:
            return stream.write(data)

    def write_text(
        self,
        path: Path,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """Make `data` the contents of a file; how many characters it were."""
        with self._host, self.open(path, "w", -1, encoding, errors, newline) as stream:
            return stream.write(data)

    # ---------------------------------------------------------------------------------- directories

    @overload
    def scandir(self, path: bytes | os.PathLike[bytes]) -> ScanDir[bytes]: ...
    @overload
    def scandir(self, path: str | os.PathLike[str] = "/") -> ScanDir[str]: ...
    @overload
    def scandir(self, path: AnyStr) -> ScanDir[AnyStr]: ...
    def scandir(self, path: Path = "/") -> ScanDir[Any]:
        """Iterate over the entries of a directory, as `os.scandir`."""
        with self._place(path, True) as place:
            found = place.found()
            if not S_ISDIR(found.attr.mode):
                raise error(errno.ENOTDIR)
            self._permissions.may(found, os.R_OK)
            directory = self._vnops.opendir(found.vnode, place.dir.attr.ino)
            self._host.handles.add(directory)
        return ScanDir(self, self._host, os.fspath(path), directory)

    @overload
    def listdir(self, path: bytes | os.PathLike[bytes]) -> list[bytes]: ...
    @overload
    def listdir(self, path: str | os.PathLike[str] = "/") -> list[str]: ...
    def listdir(self, path: Any = "/") -> list[Any]:
        """The names in a directory, as `os.listdir`."""
        with self.scandir(path) as entries:
            return [entry.name for entry in entries]

    def walk(
        self,
        top: AnyStr | os.PathLike[AnyStr],
        topdown: bool = True,
        onerror: Callable[[OSError], object] | None = None,
        followlinks: bool = False,
    ) -> Iterator[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
        """The directories from `top` on, each with the names in it, as `os.walk`."""
        return scan.walk(self, os.fspath(top), topdown, onerror, followlinks)

    def rmtree(self, path: Path) -> None:
        """Remove a directory and all that is in it. A symbolic link to one is ENOTDIR."""
        with self._found(path, False) as found:
            if not S_ISDIR(found.attr.mode):
                raise error(errno.ENOTDIR)

        def fail(exc: OSError) -> None:
            raise exc

        for above, dirs, names in self.walk(os.fsdecode(path), topdown=False, onerror=fail):
            for name in names:
                self.remove(posixpath.join(above, name))
            for name in dirs:
                child = posixpath.join(above, name)
                (self.remove if self.islink(child) else self.rmdir)(child)
        self.rmdir(path)

    # ------------------------------------------------------------------------------ the whole thing

    def statvfs(self, path: Path = "/") -> os.statvfs_result:
        """The size of the file system, as `os.statvfs`."""
        with self._found(path, True):
            st = self._vnops.statvfs()
        flags = os.ST_RDONLY if self.mount.read_only else 0
        return os.statvfs_result(
            (
                st.bsize,
                st.frsize,
                st.blocks,
                st.bfree,
                st.bavail,
                st.files,
                st.ffree,
                st.favail,
                flags,
                st.namemax,
                st.fsid,
            )
        )

    def sync(self) -> None:
        """Have the file server bring everything to stable storage, as `os.sync`.

        What file objects have buffered is not part of it: `flush` them before.
        """
        with self._at():
            try:
                self.mount.sync(True, self._cred)
            except ServerDied:
                raise
            except Exception as exc:
                raise error(self.mount.errno_of(exc, "sync")) from exc

    def snapshot(self, destination: str | os.PathLike[str]) -> None:
        """Write a copy of the whole file system to a path of the host, if the file server can.

        What file objects have buffered is not part of it. EOPNOTSUPP if it cannot.
        """
        with self._at():
            try:
                self.mount.snapshot(os.path.abspath(destination))
            except ServerDied:
                raise
            except Exception as exc:
                code = self.mount.errno_of(exc, "snapshot")
                text = exc.strerror if isinstance(exc, OSError) else None
                raise OSError(code, text or os.strerror(code)) from exc


def _end_both(host: LocalHost, ended: Callable[[], None], pid: int) -> None:
    """End a file system, then the process of its file server: where both were made."""
    if os.getpid() != pid:  # forked from there: it is still in use
        return
    try:
        host.end()
    finally:
        ended()


def _open_flags(flags: int) -> int:
    """The flags of open(2) that a file server is told of."""
    return flags & (os.O_ACCMODE | os.O_APPEND)
