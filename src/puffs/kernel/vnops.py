"""The vnode operations as plain calls, for attachments that work by call: in process, 9P, NFS.

`Vnops` does for such an attachment what lies between a host and the file server: it answers for
operations that the file server lacks (statement 2.6), refuses while the mount is not running,
calls, polices the reply (2.7), and counts lookups and open files. What it does not do is the
host's: walking paths, checking permissions, caching.
"""

import errno
import os
from collections.abc import AsyncIterable, Callable
from functools import partial, wraps
from stat import S_IFDIR, S_IFLNK, S_IFREG, S_IMODE, S_ISREG
from types import CoroutineType
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, Protocol, TypeVar

from puffs.kernel import handles, police
from puffs.kernel.directory import OpenDirectory
from puffs.kernel.mount import Attachment, Mount, Status
from puffs.kernel.sharing import shared
from puffs.kernel.sizes import StatVfsError
from puffs.kernel.vnode import Vnode
from puffs.server.attr import Attr, Changes, StatVfs
from puffs.server.cred import Cred, Requester, requester
from puffs.server.types import Buffer, DirEntry, Open

P = ParamSpec("P")
R = TypeVar("R")

_ANY_TIME: Final = frozenset(("forget", "close", "closedir", "statvfs"))
"""What may be asked of a mount that is not running: giving back, and what the mount itself checks.

Statement U5 and 2.1: all else is ENXIO."""

_OFFSET_MAX: Final = (1 << 63) - 1


class Found(NamedTuple):
    """A vnode, counted once as known to the host, and its attributes. `Vnops.forget` undoes it."""

    vnode: Vnode
    attr: Attr


class OpenFile:
    """An open file: its vnode, the file server's own object, `flags` of open(2), and hints."""

    __slots__ = ("closed", "file", "flags", "hints", "vnode")

    def __init__(self, vnode: Vnode, reply: object, flags: int) -> None:
        self.vnode = vnode
        self.hints: Open = police.opened(reply)
        self.file: Any = self.hints.file
        self.flags = flags
        self.closed = False


class OpenDir:
    """An open directory: its vnode, and what the kernel half keeps of the listing."""

    __slots__ = ("closed", "listing", "vnode")

    def __init__(self, vnode: Vnode, listing: OpenDirectory) -> None:
        self.vnode = vnode
        self.listing = listing
        self.closed = False


def _vop(
    step: Callable[Concatenate["Vnops", P], R],
) -> Callable[Concatenate["Vnops", P], R]:
    """Run an operation for its caller.

    `puffs.caller()` tells him inside, and whatever goes wrong reaches him as an `OSError` with the
    errno that `Mount.errno_of` decides, the original exception being its cause. What it changes,
    the other hosts of the mount are told (`sharing`).
    """
    name = step.__name__
    any_time = name in _ANY_TIME

    @wraps(step)
    def run(vnops: "Vnops", /, *args: P.args, **kwargs: P.kwargs) -> R:
        trans = vnops.mount.fstrans
        trans.start()
        token = requester.set(vnops)
        try:
            if not any_time and vnops.mount.status is not Status.RUNNING:
                raise OSError(errno.ENXIO, f"{vnops.mount.name} is {vnops.mount.status.name}")
            return step(vnops, *args, **kwargs)
        except (handles.HandleTooLong, StatVfsError):  # these say more than an errno
            raise
        except Exception as exc:
            code = vnops.mount.errno_of(exc, name)
            raise OSError(code, os.strerror(code)) from exc
        finally:
            requester.reset(token)
            trans.done()

    return shared(run)


Then = Callable[[Any], Any] | None


class Reach(Protocol):
    """How an attachment calls what is to run where the operations of a mount run."""

    def __call__(
        self, who: Requester, function: Callable[..., Any], args: tuple[Any, ...], then: Then
    ) -> Any:
        """Call `function` with `args` on behalf of `who`, and `then`, if it is not None.

        `then` is given the result, that of the coroutine if `function` returned one, and its own
        result is what is returned.
        """
        ...


class Vnops:
    """The operations on the vnodes of `mount`, asked for by `cred`.

    `reach` brings the calls to where the file server's operations run; None: that is the thread
    that asks. `host` is the attachment that they are for: it is not told of its own changes. Every
    operation raises `OSError`.

    What returns `Found` has counted its vnode, and the caller gives that back by `forget`. An
    `OpenFile` or `OpenDir` keeps its vnode alive by itself, until `close` or `closedir`.
    """

    __slots__ = ("_cred", "_ops", "_vnodes", "host", "mount", "reach")

    def __init__(
        self,
        mount: Mount,
        cred: Cred,
        reach: Reach | None = None,
        host: Attachment | None = None,
    ) -> None:
        self.mount = mount
        self.reach = reach
        self.host = host
        self._cred = cred
        self._ops = mount.ops
        self._vnodes = mount.vnodes

    def cred(self) -> Cred:
        """Who asks (`puffs.server.cred.Requester`)."""
        return self._cred

    def by(self, cred: Cred) -> "Vnops":
        """The same operations, asked for by another caller."""
        return Vnops(self.mount, cred, self.reach, self.host)

    def at_once(self, function: Callable[[], R]) -> R:
        """Call `function`, which asks for several operations, so that no other comes in between.

        That can be had where one thread runs all operations and all are `def`.
        """
        if self.reach is None or self.mount.server.asynchronous:
            return function()
        trans = self.mount.fstrans

        def joined() -> R:
            trans.join()
            try:
                return function()
            finally:
                trans.done()

        trans.start()
        try:
            done: R = self.reach(self, joined, (), None)
            return done
        finally:
            trans.done()

    # --------------------------------------------------------------------------------------- names

    @_vop
    def lookup(self, dir: Vnode, name: str) -> Found:
        """What `name` in `dir` leads to. "." is answered here; ".." is the host's (N1)."""
        if name == ".":
            adopt = partial(self._vnodes.adopt, dir.cookie, held=True)
            return self._with_attr(self._do(adopt), None)
        return self._found("lookup", dir, _name(name), self._cred)

    @_vop
    def forget(self, vnode: Vnode, lookups: int = 1) -> None:
        """The host has forgotten a vnode: the last one reclaims it."""
        self._forget(vnode, lookups)

    @_vop
    def fhtovp(self, fid: bytes) -> Found:
        """The file that a file handle names: `handles.fhtovp` (F1 to F6)."""
        return self._with_attr(handles.fhtovp(self.mount, fid, self._do), None)

    @_vop
    def vptofh(self, vnode: Vnode, room: int | None = None) -> bytes:
        """The file handle of a vnode: `handles.vptofh` (H1 to H9)."""
        return handles.vptofh(self.mount, vnode, room, self._do)

    @_vop
    def create(self, dir: Vnode, name: str, mode: int, flags: int) -> tuple[Found, OpenFile]:
        """Make the regular file `name` with the permission bits `mode`, and open it.

        A file server without `create` is asked for `mknod` and `open` instead.
        """
        if "create" not in self._ops and "mknod" in self._ops:
            found = self._made("mknod", dir, name, self._new(S_IFREG, mode))
            try:
                return found, self._opened(found.vnode, self._ask_open(found.vnode, flags), flags)
            except BaseException:
                self._forget(found.vnode)
                raise

        def enter(reply: object) -> tuple[Vnode, Attr | None, object, bool]:
            node, opened, is_open = police.created(reply)
            return *self._enter("create", dir, node, new=True), opened, is_open

        args = dir.cookie, _name(name), self._new(S_IFREG, mode), flags, self._cred
        vnode, known, opened, is_open = self._do(self._op("create"), *args, then=enter)
        try:
            if not is_open:
                opened = self._ask_open(vnode, flags)
            file = self._opened(vnode, opened, flags)
        except BaseException:
            self._forget(vnode)
            raise
        try:
            return self._with_attr(vnode, known), file
        except BaseException:
            self._close(file)
            raise

    @_vop
    def mknod(self, dir: Vnode, name: str, mode: int, rdev: int = 0) -> Found:
        """Make a file of the type and permissions `mode`; `rdev` is the number of a device."""
        attr = self.mount.new_attr(mode, self._cred, rdev)
        return self._made("mknod", dir, name, attr)

    @_vop
    def mkdir(self, dir: Vnode, name: str, mode: int) -> Found:
        """Make a directory with the permission bits `mode`."""
        return self._made("mkdir", dir, name, self._new(S_IFDIR, mode))

    @_vop
    def symlink(self, dir: Vnode, name: str, target: str) -> Found:
        """Make a symbolic link that holds `target`: 1 to 4095 bytes (N4: longer ones were cut)."""
        size = len(os.fsencode(target))
        if size == 0:
            raise error(errno.ENOENT)
        if size > police.LINK_MAX:
            raise error(errno.ENAMETOOLONG)
        attr = self._new(S_IFLNK, 0o777)
        attr.size = size
        return self._found("symlink", dir, _name(name), target, attr, self._cred, new=True)

    @_vop
    def link(self, vnode: Vnode, dir: Vnode, name: str) -> None:
        """Give `vnode` the further name `name` in `dir`."""
        self._ask("link", vnode.cookie, dir.cookie, _name(name), self._cred)

    @_vop
    def remove(self, dir: Vnode, name: str) -> None:
        """Take the name of a file that is no directory away."""
        self._ask("remove", dir.cookie, _name(name), self._cred)

    @_vop
    def rmdir(self, dir: Vnode, name: str) -> None:
        """Take an empty directory away."""
        self._ask("rmdir", dir.cookie, _name(name), self._cred)

    @_vop
    def rename(self, dir: Vnode, name: str, newdir: Vnode, newname: str, flags: int = 0) -> None:
        """Move a name; `flags` as renameat2(2) has them."""
        names = dir.cookie, _name(name), newdir.cookie, _name(newname)
        self._ask("rename", *names, flags, self._cred)

    # ------------------------------------------------------------------------------------- data

    @_vop
    def open(self, vnode: Vnode, flags: int) -> OpenFile:
        """Open a file. Without `write`, a regular file cannot be written: EROFS (2.6)."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._check_writable(vnode)
        return self._opened(vnode, self._ask_open(vnode, flags), flags)

    @_vop
    def flush(self, file: OpenFile, owner: int = 0) -> None:
        """A descriptor is being closed: the last chance of an earlier write to fail."""
        self._optional("flush", file.vnode.cookie, file.file, owner)

    @_vop
    def close(self, file: OpenFile) -> None:
        """Give an open file back. Once: again does nothing."""
        self._close(file)

    @_vop
    def read(self, file: OpenFile, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`: fewer only at the end of the file (N12)."""
        if offset < 0:
            raise error(errno.EINVAL)
        size = min(size, _OFFSET_MAX - offset)
        operation, cookie = self._op("read"), file.vnode.cookie
        most = self.mount.args.payload
        parts: list[bytes] = []
        while size > 0:
            asked = min(size, most)

            def copied(reply: object, asked: int = asked) -> bytes:
                # A view must not be kept: the file server may use its buffer again.
                return bytes(police.data(reply, asked, cookie))

            data: bytes = self._do(operation, cookie, offset, asked, file.file, then=copied)
            parts.append(data)
            if len(data) < asked:
                break
            offset += asked
            size -= asked
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @_vop
    def write(self, file: OpenFile, offset: int, data: Buffer) -> int:
        """Write `data` at `offset`; how much of it was taken.

        That is less than all only when a request was not taken as a whole; EIO if nothing was.
        """
        if offset < 0:
            raise error(errno.EINVAL)
        operation, cookie = self._op("write"), file.vnode.cookie
        most = self.mount.args.payload
        # What the file server keeps of it must never change below it, hence the copy.
        image = data if type(data) is bytes else bytes(data)
        if offset + len(image) > _OFFSET_MAX:
            raise error(errno.EFBIG)
        done = 0
        while done < len(image):
            given = min(len(image) - done, most)
            part = memoryview(image)[done : done + given]
            try:
                reply = self._do(operation, cookie, offset + done, part, file.file)
            finally:
                _release(part)
            taken = police.amount(reply, given, cookie)
            done += taken
            if taken < given:
                break
        if image and not done:
            raise error(errno.EIO)
        return done

    @_vop
    def fsync(self, file: OpenFile, datasync: bool = False) -> None:
        """Bring a file to stable storage."""
        self._optional("fsync", file.vnode.cookie, datasync, file.file)

    @_vop
    def seek(self, file: OpenFile, offset: int, whence: int) -> int:
        """The next data (`os.SEEK_DATA`) or hole (`os.SEEK_HOLE`) at or after `offset`.

        Without the operation all of a file is data, with a hole at its end (lseek(2)).
        """
        cookie = file.vnode.cookie
        operation = self._ops.get("seek")
        if operation is not None:
            reply = self._do(operation, cookie, offset, whence, file.file)
            return police.position(reply, cookie)
        size = self._attr(file.vnode, file.file).size
        if not 0 <= offset < size:
            raise error(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else size

    @_vop
    def fallocate(self, file: OpenFile, mode: int, offset: int, length: int) -> None:
        """Reserve, punch or zero a range (fallocate(2))."""
        if offset < 0 or length <= 0:
            raise error(errno.EINVAL)
        self._ask("fallocate", file.vnode.cookie, mode, offset, length, file.file)

    @_vop
    def copy_file_range(
        self, file: OpenFile, offset: int, to: OpenFile, to_offset: int, size: int
    ) -> int:
        """Copy `size` bytes between open files; how many it were (copy_file_range(2))."""
        target = to.vnode.cookie
        source = file.vnode.cookie, offset, file.file
        reply = self._ask("copy_file_range", *source, target, to_offset, to.file, size, 0)
        return police.amount(reply, size, target, "copy_file_range")

    # ----------------------------------------------------------------------------------- attributes

    @_vop
    def getattr(self, vnode: Vnode, file: OpenFile | None = None) -> Attr:
        """The attributes, as a copy of the caller's own, with an inode number in any case."""
        return self._attr(vnode, file and file.file)

    @_vop
    def setattr(self, vnode: Vnode, changes: Changes, file: OpenFile | None = None) -> Attr:
        """Change what is set in `changes`; the attributes afterwards."""
        handle = file and file.file
        reply = self._ask("setattr", vnode.cookie, changes, handle, self._cred)
        if reply is None:
            return self._attr(vnode, handle)
        return _shown(police.attributes(reply, vnode.cookie, "setattr"), vnode)

    @_vop
    def access(self, vnode: Vnode, mode: int) -> None:
        """What the file server says to `os.R_OK | os.W_OK | os.X_OK`: yes if it has no `access`.

        EROFS for writing where `write` is missing and the file regular (2.6).
        """
        if mode & os.W_OK:
            self._check_writable(vnode)
        self._optional("access", vnode.cookie, mode, self._cred)

    @_vop
    def readlink(self, vnode: Vnode) -> str:
        """What a symbolic link holds."""
        cookie = vnode.cookie
        return os.fsdecode(police.target(self._ask("readlink", cookie), cookie))

    @_vop
    def getxattr(self, vnode: Vnode, name: str) -> bytes:
        """The value of an extended attribute."""
        cookie = vnode.cookie
        return police.xattr(self._ask("getxattr", cookie, name), cookie, "getxattr")

    @_vop
    def setxattr(self, vnode: Vnode, name: str, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute. A value beyond 64 KiB is E2BIG, and is not sent (2.7)."""
        if len(value) > police.XATTR_MAX:
            raise error(errno.E2BIG)
        self._ask("setxattr", vnode.cookie, name, value, flags)

    @_vop
    def listxattr(self, vnode: Vnode) -> list[str]:
        """The names of the extended attributes."""
        cookie = vnode.cookie
        operation = self._op("listxattr")
        listing: bytes = self._do(
            operation, cookie, then=lambda reply: police.xattr_names(reply, cookie)
        )
        return [os.fsdecode(name) for name in listing.split(b"\0")[:-1]]

    @_vop
    def removexattr(self, vnode: Vnode, name: str) -> None:
        """Take an extended attribute away."""
        self._ask("removexattr", vnode.cookie, name)

    # ---------------------------------------------------------------------------- open directories

    @_vop
    def opendir(self, vnode: Vnode, parent_ino: int) -> OpenDir:
        """Open a directory; `parent_ino` is shown for "..". EOPNOTSUPP without `readdir`."""
        readdir = self._op("readdir")
        file = police.opened(self._optional("opendir", vnode.cookie, self._cred)).file
        listing = OpenDirectory(readdir, vnode.cookie, file, vnode.ino, parent_ino)
        self._vnodes.open(vnode)
        return OpenDir(vnode, listing)

    @_vop
    def readdir(self, dir: OpenDir, offset: int, count: int) -> list[tuple[int, DirEntry]]:
        """At most `count` entries from position `offset` on, each with the position behind it.

        "." and ".." are among them. An empty list is the end (N8).
        """
        listing, given = dir.listing, self.mount.server.asynchronous
        if given and listing.needs(offset):
            self._do(_listed, listing, then=listing.give)

        def take() -> list[tuple[int, DirEntry]]:
            taken: list[tuple[int, DirEntry]] = []
            for position, entry in listing.entries(offset, given=given):
                # The one beyond is taken too, and so kept at hand for the next time.
                if len(taken) == count:
                    break
                police.filename(entry.name, "readdir", listing.cookie)
                taken.append((position, entry))
            return taken

        taken: list[tuple[int, DirEntry]] = self._do(take)
        return taken

    @_vop
    def fsyncdir(self, dir: OpenDir, datasync: bool = False) -> None:
        """Bring the names in a directory to stable storage."""
        self._optional("fsyncdir", dir.vnode.cookie, datasync, dir.listing.file)

    @_vop
    def closedir(self, dir: OpenDir) -> None:
        """Give an open directory back. Once: again does nothing."""
        if not dir.closed:
            dir.closed = True
            self._fire("closedir", dir.vnode.cookie, dir.listing.file)
            self._do(self._vnodes.close, dir.vnode)

    # ----------------------------------------------------------------------------- the whole thing

    @_vop
    def statvfs(self) -> StatVfs:
        """The size of the file system: `Mount.statvfs`."""
        return self.mount.statvfs(partial(self._ask, "statvfs"))

    # -------------------------------------------------------------------------------------- helpers

    def _op(self, name: str) -> Callable[..., Any]:
        """The file server's operation, or the error of one that is missing (2.6)."""
        operation = self._ops.get(name)
        if operation is None:
            raise error(self.mount.missing(name))
        return operation

    def _do(self, function: Callable[..., Any], *args: Any, then: Then = None) -> Any:
        """Call what is to run where the operations run; what it returns, finished."""
        if self.reach is not None:
            return self.reach(self, function, args, then)
        reply = function(*args)
        if type(reply) is CoroutineType:
            reply = self.mount.finish(reply)
        return reply if then is None else then(reply)

    def _ask(self, name: str, *args: Any) -> Any:
        """Call an operation; one that is missing is an error."""
        return self._do(self._op(name), *args)

    def _optional(self, name: str, *args: Any) -> Any:
        """Call an operation whose absence is a success."""
        operation = self._ops.get(name)
        return self._do(operation, *args) if operation is not None else None

    def _forget(self, vnode: Vnode, lookups: int = 1) -> None:
        """May `reclaim`."""
        self._do(self._vnodes.release, vnode, lookups)

    def _fire(self, name: str, *args: Any) -> None:
        """Call an operation whose failure reaches nobody; what is no `OSError` is logged."""
        try:
            self._optional(name, *args)
        except Exception as exc:
            self.mount.errno_of(exc, name)

    def _new(self, kind: int, mode: int) -> Attr:
        return self.mount.new_attr(kind | S_IMODE(mode), self._cred)

    def _made(self, operation: str, dir: Vnode, name: str, attr: Attr) -> Found:
        return self._found(operation, dir, _name(name), attr, self._cred, new=True)

    def _found(self, operation: str, dir: Vnode, *args: Any, new: bool = False) -> Found:
        """Ask for an operation that gives a node. It is counted where the operation has run, before
        another host can have the last of it forgotten.
        """
        then = partial(self._enter, operation, dir, new=new)
        return self._with_attr(*self._do(self._op(operation), dir.cookie, *args, then=then))

    def _enter(
        self, operation: str, dir: Vnode, reply: object, new: bool
    ) -> tuple[Vnode, Attr | None]:
        cookie, attr, _ = police.node(reply, dir, operation)
        return self._vnodes.adopt(cookie, new=new, held=True), attr

    def _with_attr(self, vnode: Vnode, attr: Attr | None) -> Found:
        """A vnode that was just counted; if its attributes cannot be had, it is uncounted."""
        try:
            return Found(vnode, self._attr(vnode, None) if attr is None else _shown(attr, vnode))
        except BaseException:
            self._forget(vnode)
            raise

    def _attr(self, vnode: Vnode, file: Any) -> Attr:
        reply = self._ask("getattr", vnode.cookie, file)
        return _shown(police.attributes(reply, vnode.cookie, "getattr"), vnode)

    def _check_writable(self, vnode: Vnode) -> None:
        if "write" not in self._ops and S_ISREG(self._attr(vnode, None).mode):
            raise error(errno.EROFS)

    def _ask_open(self, vnode: Vnode, flags: int) -> object:
        return self._optional("open", vnode.cookie, flags, self._cred)

    def _opened(self, vnode: Vnode, reply: object, flags: int) -> OpenFile:
        file = OpenFile(vnode, reply, flags)
        self._vnodes.open(vnode)
        return file

    def _close(self, file: OpenFile) -> None:
        if not file.closed:
            file.closed = True
            self._fire("close", file.vnode.cookie, file.file, file.flags)
            self._do(self._vnodes.close, file.vnode)


def _listed(listing: OpenDirectory) -> Any:
    """All that the file server lists; as a coroutine, if it has to be waited for."""
    reply = listing.ask()
    return _collected(reply) if isinstance(reply, AsyncIterable) else reply


async def _collected(listing: AsyncIterable[DirEntry | str]) -> list[DirEntry | str]:
    return [entry async for entry in listing]


def _shown(attr: Attr, vnode: Vnode) -> Attr:
    """A copy: the file server may keep the original and change it in place."""
    shown = attr.copy()
    vnode.type = vnode.type or shown.type
    if shown.ino:
        vnode.ino = shown.ino
    else:
        shown.ino = vnode.ino
    return shown


def _name(name: str) -> str:
    """A name as it may be given to a file server."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise error(errno.EINVAL)
    if len(os.fsencode(name)) > police.NAME_MAX:
        raise error(errno.ENAMETOOLONG)
    return name


def _release(part: memoryview) -> None:
    """`data` is valid until `write` returns: a view that was kept is dead from here on."""
    try:
        part.release()
    except BufferError:  # part of it was kept; it shows bytes that never change
        pass


def error(code: int) -> OSError:
    """The `OSError` of an errno, with its usual text."""
    return OSError(code, os.strerror(code))
