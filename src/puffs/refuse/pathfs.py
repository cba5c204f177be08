"""From an object with the operations of fusepy, or of mfusepy, to a file server.

The program is asked as libfuse's high-level interface asks it: what the kernel asks for, in which
order, with which arguments, and what each answer then means. `calls` has how an operation is called
and what its errors become; `hiding` has what becomes of open files that lose their names; this has
all operations but those of devices and locks, which are in `devices`.
"""

import errno
import os
from collections.abc import Callable, Iterable
from functools import partial
from stat import S_IFDIR, S_IFMT, S_IMODE, S_ISREG
from typing import Any, Final

from puffs.kernel.mount import Mount
from puffs.refuse import attributes, devices
from puffs.refuse.calls import Calls, Dialect, Failures, Method, absent, check, error, handle
from puffs.refuse.hiding import HIDING, HidingNames
from puffs.refuse.serving import leave
from puffs.refuse.settings import Settings
from puffs.refuse.translating import Changed
from puffs.server.attr import Attr, Changes, StatVfs
from puffs.server.cred import Cred
from puffs.server.operations import Operations
from puffs.server.path_mount import PathMount
from puffs.server.path_nodes import adapted
from puffs.server.types import DirEntry, Open

_UTIME_NOW: Final = (1 << 30) - 1
_UTIME_OMIT: Final = (1 << 30) - 2
_NS: Final = 1_000_000_000


class PathServer:
    """A file server that asks `operations`, an object as fusepy and mfusepy take them.

    `failures` tells what has ended it. It can be mounted once.
    """

    name_ttl: float
    attr_ttl: float
    negative_ttl: float
    fhsize = 0
    fhflags = 0
    names_for_all = True
    posix_acl = False
    passthrough = False
    asynchronous = False

    def __init__(
        self,
        operations: object,
        settings: Settings,
        *,
        dialect: Dialect,
        raw_fi: bool = False,
        encoding: str = "utf-8",
        errors: str = "surrogateescape",
        root_type: int = S_IFDIR,
    ) -> None:
        self.name = type(operations).__name__.lower()
        self.settings = settings
        self.failures = Failures(self.leave)
        self._program = operations
        self._dialect = dialect
        self._raw_fi = raw_fi
        self._use_ns = bool(getattr(operations, "use_ns", False))
        self._omits_times = bool(getattr(operations, "flag_utime_omit_ok", False))
        self._root_type = root_type
        self._mount: Mount | None = None
        self._names: HidingNames
        change = Changed(settings.translation, encoding, errors)
        self._calls = Calls(operations, dialect, self.failures, change)
        mount = settings.mount
        mount.posix_locks, mount.flocks = devices.kept_locks(self._calls, mount)
        if dialect.libfuse == "fuse3":
            mount.atomic_o_trunc = True
        mount.atomic_o_trunc &= self._calls.find("open") is not None  # else nobody would see it
        self._settle()

    def leave(self) -> None:
        """End the mount, from inside an operation or from any thread."""
        if self._mount is not None:
            leave(self._mount)

    def serves_here(self) -> bool:
        """Whether operations run on this thread."""
        try:
            for attachment in self._mount.attachments if self._mount is not None else ():
                attachment.check_outside()
        except OSError:
            return True
        return False

    def _settle(self) -> None:
        """Take over what the settings say, also if `init_with_config` has changed them."""
        settings = self.settings
        self.name_ttl, self.attr_ttl = settings.entry_timeout, settings.attr_timeout
        self.negative_ttl = settings.negative_timeout
        plain = attributes.in_nanoseconds if self._use_ns else attributes.in_seconds
        shown, use_ino = settings.shown, settings.use_ino

        def attr_of(told: attributes.Told) -> Attr:
            attr = plain(told)
            if not use_ino:
                attr.ino = 0
            return attr if shown is None else attributes.shown_as(shown, attr)

        self._attr_of = attr_of

    def operations(self) -> Operations:
        """What the program can do, and what libfuse does in its place."""
        find = self._getattr()
        table: dict[str, Method] = {"getattr": find}
        for name, make in _OPERATIONS.items():
            method = make(self)
            if method is not None:
                table[name] = method
        table |= devices.operations(self._calls, self._dialect, self.settings.mount, self._raw_fi)

        def names(keep_files: bool) -> HidingNames:
            self._names = HidingNames(
                keep_files,
                self.settings,
                self._root_type,
                find,
                table["rename"],
                table["remove"],
                table["close"],
            )
            return self._names

        return adapted(table, find, names=names, factories=HIDING)

    # ----------------------------------------------------------------------- the whole file system

    def _mounted(self) -> Method:
        def mounted(mount: PathMount) -> None:
            self._mount = mount.mount
            try:
                self._init()
            except BaseException as exc:
                self.failures.end_by("init", exc)
            self._settle()
            self._names.begin()

        return mounted

    def _init(self) -> None:
        from puffs.refuse.configuring import configured

        with_config = self._calls.find("init_with_config")
        if with_config is not None:
            assert self._mount is not None
            configured(with_config, self._mount, self.settings, self._dialect)
        elif (init := self._calls.find("init")) is not None:
            init("/")

    def _unmounted(self) -> Method | None:
        destroy = self._calls.result("destroy")
        if destroy is None:
            return None

        def unmounted() -> None:
            if self._mount is not None:  # else `init` was not called either
                destroy("/")

        return unmounted

    def _statvfs(self) -> Method | None:
        statfs = self._calls.result("statfs")
        if statfs is None:
            return None

        def statvfs() -> StatVfs:
            return attributes.sizes(statfs("/"))

        return statvfs

    # ---------------------------------------------------------------------------------------- names

    def _getattr(self) -> Method:
        ask = self._calls.find("getattr") or absent
        failed = self.failures.of

        def getattr(path: str, file: Any) -> Attr:
            try:
                return self._attr_of(ask(path, file))
            except BaseException as exc:
                raise failed("getattr", exc) from None

        return getattr

    def _create(self) -> Method | None:
        ask = self._calls.result("create")
        if ask is None:
            return None
        kind, takes_flags = self._dialect.file_info, self._dialect.create_takes_flags
        takes_flags = (
            takes_flags and _parameters(self._dialect.method(self._program, "create")) != 2
        )

        def create(path: str, attr: Attr, flags: int, cred: Cred) -> Any:
            flags |= os.O_CREAT
            if takes_flags:
                return self._opened(handle_of("create", ask(path, attr.mode, flags)))
            return self._opened(handle_of("create", ask(path, attr.mode)))

        def create_raw(path: str, attr: Attr, flags: int, cred: Cred) -> Any:
            fi = kind(flags=flags | os.O_CREAT)
            if result := ask(path, attr.mode, fi):
                check(result)
            return self._opened_raw(fi)

        handle_of = self._handle
        return create_raw if self._raw_fi else create

    def _mknod(self) -> Method:
        ask = self._calls.status("mknod")
        create, release = self._create(), self._close()

        def mknod(path: str, attr: Attr, cred: Cred) -> None:
            if create is not None and S_ISREG(attr.mode):
                try:
                    made = create(path, attr, os.O_EXCL | os.O_WRONLY, cred)
                except OSError as exc:
                    if exc.errno != errno.ENOSYS:
                        raise
                else:
                    release(path, made.file if isinstance(made, Open) else made, os.O_WRONLY)
                    return
            (ask or absent)(path, attr.mode, attr.rdev)

        return mknod

    def _mkdir(self) -> Method:
        ask = self._calls.status("mkdir") or absent

        def mkdir(path: str, attr: Attr, cred: Cred) -> None:
            ask(path, S_IMODE(attr.mode))

        return mkdir

    def _symlink(self) -> Method:
        ask = self._calls.status("symlink") or absent

        def symlink(path: str, target: str, attr: Attr, cred: Cred) -> None:
            ask(path, target)

        return symlink

    def _link(self) -> Method:
        ask = self._calls.status("link") or absent

        def link(path: str, newpath: str, cred: Cred) -> None:
            ask(newpath, path)

        return link

    def _removing(self, name: str) -> Method:
        ask = self._calls.status(name) or absent

        def remove(path: str, cred: Cred) -> None:
            ask(path)

        return remove

    def _rename(self) -> Method:
        ask = self._calls.status("rename") or absent

        def rename(path: str, newpath: str, flags: int, cred: Cred) -> None:
            # What flags ask for, neither library can say to the program.
            if flags:
                raise error(errno.EINVAL)
            ask(path, newpath)

        return rename

    def _readlink(self) -> Method:
        return self._calls.result("readlink") or absent

    # -------------------------------------------------------------------------------- open and data

    def _handle(self, name: str, result: Any) -> int:
        try:
            return handle(result)
        except TypeError as exc:
            raise self.failures.of(name, exc) from None

    def _opened(self, file: Any) -> Any:
        """An open file, with what the settings say of all of them."""
        settings = self.settings
        if settings.direct_io or settings.kernel_cache or settings.parallel_direct_writes:
            return Open(
                file,
                direct_io=settings.direct_io,
                keep_cache=settings.kernel_cache,
                parallel_direct_writes=settings.parallel_direct_writes,
            )
        return file

    def _opened_raw(self, fi: Any) -> Open:
        """The same, and what the program has said of this one in its `fuse_file_info`."""
        settings = self.settings
        return Open(
            fi,
            direct_io=bool(fi.direct_io or settings.direct_io),
            keep_cache=bool(fi.keep_cache or settings.kernel_cache),
            nonseekable=bool(fi.nonseekable),
            noflush=bool(getattr(fi, "noflush", 0)),
            parallel_direct_writes=bool(
                getattr(fi, "parallel_direct_writes", 0) or settings.parallel_direct_writes
            ),
        )

    def _open(self) -> Method:
        ask = self._calls.result("open")
        kind, handle_of = self._dialect.file_info, self._handle
        if self._raw_fi:

            def open_raw(path: str, flags: int, cred: Cred) -> Any:
                fi = kind(flags=flags)
                if ask is not None and (result := ask(path, fi)):
                    check(result)
                return self._noflush(self._opened_raw(fi), flags)

            return open_raw

        def open(path: str, flags: int, cred: Cred) -> Any:
            file = 0 if ask is None else handle_of("open", ask(path, flags))
            return self._noflush(self._opened(file), flags)

        return open

    def _noflush(self, opened: Any, flags: int) -> Any:
        """With `no_rofd_flush`, nothing is to be flushed of what is only read."""
        if not self.settings.no_rofd_flush or flags & os.O_ACCMODE != os.O_RDONLY:
            return opened
        hints = opened if isinstance(opened, Open) else Open(opened)
        hints.noflush = True
        return hints

    def _close(self) -> Method:
        ask = self._calls.status("release")

        def close(path: str | None, file: Any, flags: int) -> None:
            if ask is not None:
                ask(path, file)

        return close

    def _flush(self) -> Method | None:
        ask = self._calls.status("flush")
        if ask is None:
            return None
        kind = self._dialect.file_info

        def flush(path: str | None, file: Any, owner: int) -> None:
            ask(path, file)

        def flush_raw(path: str | None, file: Any, owner: int) -> None:
            fi = kind.from_buffer_copy(file)
            fi.flush, fi.lock_owner = 1, owner
            ask(path, fi)

        return flush_raw if self._raw_fi else flush

    def _syncing(self, name: str) -> Method | None:
        ask = self._calls.status(name)
        if ask is None:
            return None

        def sync(path: str | None, datasync: bool, file: Any) -> None:
            ask(path, int(datasync), 0 if file is None else file)

        return sync

    def _read(self) -> Method:
        ask = self._calls.find("read") or absent
        failed = self.failures.of

        def read(path: str | None, offset: int, size: int, file: Any) -> Any:
            try:
                data = ask(path, size, offset, file)
                if not data:
                    return b""
                if len(data) > size:
                    raise ValueError(f"{len(data)} bytes were returned where {size} were asked for")
            except BaseException as exc:
                raise failed("read", exc) from None
            return data

        return read

    def _write(self) -> Method:
        ask = self._calls.find("write") or absent
        failed = self.failures.of

        def write(path: str | None, offset: int, data: memoryview, file: Any) -> int:
            try:
                written = ask(path, bytes(data), offset, file)
            except BaseException as exc:
                raise failed("write", exc) from None
            if type(written) is int and written >= 0:
                return written
            if written is None:
                return 0
            if isinstance(written, int) and written < 0:
                raise error(-written)
            return int(written)

        return write

    # ----------------------------------------------------------------------------------- attributes

    def _setattr(self) -> Method:
        chmod, chown, truncate, utimens = (
            self._calls.status(name) or absent for name in ("chmod", "chown", "truncate", "utimens")
        )
        find = self._getattr()
        by_path = _parameters(self._dialect.method(self._program, "truncate")) == 2

        def setattr(path: str | None, changes: Changes, file: Any, cred: Cred) -> Attr:
            if path is None and changes.size is None:
                raise error(errno.ESTALE)
            if changes.mode is not None:  # libfuse tells the type of the file too
                chmod(path, S_IFMT(find(path, file).mode) | changes.mode)
            if changes.uid is not None or changes.gid is not None:
                uid, gid = changes.uid, changes.gid
                chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
            if changes.size is not None:
                if file is None or by_path:
                    truncate(path, changes.size)
                else:
                    truncate(path, changes.size, file)
            if changes.atime_ns is not None or changes.mtime_ns is not None:
                utimens(path, self._times(changes, partial(find, path, file)))
            attr: Attr = find(path, file)
            return attr

        return setattr

    def _times(self, changes: Changes, find: Callable[[], Attr]) -> tuple[float, float]:
        """Times as `utimens` takes them. One that is not to be changed is given as it is, unless
        the program says that it knows UTIME_OMIT and UTIME_NOW.
        """
        atime, mtime = changes.atime_ns, changes.mtime_ns
        if self._omits_times:
            atime = _UTIME_NOW if changes.atime_now else atime
            mtime = _UTIME_NOW if changes.mtime_now else mtime
            known = (_UTIME_OMIT, _UTIME_OMIT)
        elif atime is None or mtime is None:
            attr = find()
            known = (attr.atime_ns, attr.mtime_ns)
        else:
            known = (0, 0)  # not needed
        atime = known[0] if atime is None else atime
        mtime = known[1] if mtime is None else mtime
        return (atime, mtime) if self._use_ns else (_seconds(atime), _seconds(mtime))

    def _access(self) -> Method | None:
        ask = self._calls.status("access")
        if ask is None:
            return None

        def access(path: str, mode: int, cred: Cred) -> None:
            ask(path, mode)

        return access

    def _setxattr(self) -> Method | None:
        return self._calls.status("setxattr")

    def _getxattr(self) -> Method | None:
        return self._calls.result("getxattr")

    def _listxattr(self) -> Method | None:
        ask = self._calls.result("listxattr")
        return None if ask is None else lambda path: ask(path) or ()

    def _removexattr(self) -> Method | None:
        return self._calls.status("removexattr")

    # ----------------------------------------------------------------------------- open directories

    def _opendir(self) -> Method | None:
        ask = self._calls.result("opendir")
        if ask is None:
            return None

        def opendir(path: str, cred: Cred) -> int:
            return self._handle("opendir", ask(path))

        return opendir

    def _closedir(self) -> Method | None:
        ask = self._calls.status("releasedir")
        return None if ask is None else lambda path, file: ask(path, file or 0)

    def _readdir(self) -> Method:
        from_offset = self._dialect.listing_from
        ask_from = None if from_offset is None else self._calls.find(from_offset)
        ask = self._calls.find("readdir") or absent
        failed, entry = self.failures.of, self._entry

        def readdir(path: str, offset: int, file: Any) -> Iterable[Any]:
            try:
                items = ask(path, file or 0)
                return [item if type(item) is str else entry(item) for item in items]
            except BaseException as exc:
                raise failed("readdir", exc) from None

        def readdir_from(path: str, offset: int, file: Any) -> Iterable[Any]:
            assert ask_from is not None
            try:
                for item in ask_from(path, offset, file or 0):
                    yield item if type(item) is str else self._placed(item)
            except GeneratorExit:
                raise
            except BaseException as exc:
                raise failed("readdir_with_offset", exc) from None

        return readdir if ask_from is None else readdir_from

    def _entry(self, item: Any) -> Any:
        """What `readdir` yields beside bare names: a name, and attributes, all or some of them."""
        if isinstance(item, str):
            return item
        name, told, _ = item
        if isinstance(told, dict) and told.keys() >= attributes.WHOLE:
            return name, self._attr_of(told)
        return self._placed((name, told, 0))

    def _placed(self, item: Any) -> Any:
        """The same with a position in the directory."""
        if isinstance(item, str):
            return item
        name, told, position = item
        if isinstance(told, int):
            return DirEntry(name, told, 0, position)
        told = told or {}
        ino = told.get("st_ino", 0) if self.settings.use_ino else 0
        return DirEntry(name, told.get("st_mode", 0), ino, position)


def _seconds(ns: int) -> float:
    return ns // _NS + ns % _NS / 1e9


def _parameters(method: Method | None) -> int:
    """How many arguments a method takes."""
    import inspect

    return 0 if method is None else len(inspect.signature(method).parameters)


_OPERATIONS: Final[dict[str, Callable[[PathServer], Method | None]]] = {
    "mounted": PathServer._mounted,
    "unmounted": PathServer._unmounted,
    "statvfs": PathServer._statvfs,
    "create": PathServer._create,
    "mknod": PathServer._mknod,
    "mkdir": PathServer._mkdir,
    "symlink": PathServer._symlink,
    "link": PathServer._link,
    "remove": lambda server: server._removing("unlink"),
    "rmdir": lambda server: server._removing("rmdir"),
    "rename": PathServer._rename,
    "readlink": PathServer._readlink,
    "open": PathServer._open,
    "close": PathServer._close,
    "flush": PathServer._flush,
    "fsync": lambda server: server._syncing("fsync"),
    "read": PathServer._read,
    "write": PathServer._write,
    "setattr": PathServer._setattr,
    "access": PathServer._access,
    "getxattr": PathServer._getxattr,
    "setxattr": PathServer._setxattr,
    "listxattr": PathServer._listxattr,
    "removexattr": PathServer._removexattr,
    "opendir": PathServer._opendir,
    "closedir": PathServer._closedir,
    "fsyncdir": lambda server: server._syncing("fsyncdir"),
    "readdir": PathServer._readdir,
}
"""Operations of puffs, and what makes each of those of the program: None where the kernel is to
know that there is none.
"""
