"""The vnode operations as plain calls, for attachments that work by call: in process, 9P, NFS.

`Vnops` does for such an attachment what lies between a host and the file server: it answers for
operations that the file server lacks (statement 2.6), refuses while the mount is not running,
calls, polices the reply (2.7), counts lookups and open files, and keeps the page cache (`data`,
`pages`). What it does not do is the host's: walking paths, checking permissions.
"""

import errno
import os
from functools import partial
from stat import S_IFDIR, S_IFLNK, S_IFREG, S_IMODE
from typing import Any

from puffs.kernel import handles, police
from puffs.kernel.data import DataOperations
from puffs.kernel.directory import OpenDirectory
from puffs.kernel.vnode import Vnode
from puffs.kernel.vop import Found, OpenFile, Reach, Then, error, vop
from puffs.server.attr import Attr, Changes, StatVfs
from puffs.server.stepping import listed
from puffs.server.types import DirEntry

__all__ = ("Found", "OpenDir", "OpenFile", "Reach", "Then", "Vnops", "error")


class OpenDir:
    """An open directory: its vnode, and what the kernel half keeps of the listing."""

    __slots__ = ("closed", "listing", "vnode")

    def __init__(self, vnode: Vnode, listing: OpenDirectory) -> None:
        self.vnode = vnode
        self.listing = listing
        self.closed = False


class Vnops(DataOperations):
    """The operations on the vnodes of `mount`, asked for by `cred`.

    `reach` brings the calls to where the file server's operations run; None: that is the thread
    that asks. `host` is the attachment that they are for: it is not told of its own changes. Every
    operation raises `OSError`.

    What returns `Found` has counted its vnode, and the caller gives that back by `forget`. An
    `OpenFile` or `OpenDir` keeps its vnode alive by itself, until `close` or `closedir`.
    """

    __slots__ = ()

    # --------------------------------------------------------------------------------------- names

    @vop
    def lookup(self, dir: Vnode, name: str) -> Found:
        """What `name` in `dir` leads to. "." is answered here; ".." is the host's (N1)."""
        if name == ".":
            adopt = partial(self._vnodes.adopt, dir.cookie, held=True)
            return self._with_attr(self._do(adopt), None)
        return self._found("lookup", dir, self._name(name), self._cred)

    @vop
    def forget(self, vnode: Vnode, lookups: int = 1) -> None:
        """The host has forgotten a vnode: the last one reclaims it."""
        self._forget(vnode, lookups)

    @vop
    def fhtovp(self, fid: bytes) -> Found:
        """The file that a file handle names: `handles.fhtovp` (F1 to F6)."""
        return self._with_attr(handles.fhtovp(self.mount, fid, self._do), None)

    @vop
    def vptofh(self, vnode: Vnode, room: int | None = None) -> bytes:
        """The file handle of a vnode: `handles.vptofh` (H1 to H9)."""
        return handles.vptofh(self.mount, vnode, room, self._do)

    @vop
    def create(self, dir: Vnode, name: str, mode: int, flags: int) -> tuple[Found, OpenFile]:
        """Make the regular file `name` with the permission bits `mode`, and open it.

        A file server without `create` is asked for `mknod` and `open` instead.
        """
        if "create" not in self._ops and "mknod" in self._ops:
            found = self._made("mknod", dir, name, self._new(S_IFREG, mode))
            try:
                file = self._opened(found.vnode, self._ask_open(found.vnode, flags), flags)
            except BaseException:
                self._forget(found.vnode)
                raise
            self._use_pages(file)
            return found, file

        def enter(reply: object) -> tuple[Vnode, Attr | None, object, bool]:
            node, opened, is_open = police.created(reply)
            return *self._enter("create", dir, node, new=True), opened, is_open

        args = dir.cookie, self._name(name), self._new(S_IFREG, mode), flags, self._cred
        vnode, known, opened, is_open = self._do(self._op("create"), *args, then=enter)
        try:
            if not is_open:
                opened = self._ask_open(vnode, flags)
            file = self._opened(vnode, opened, flags)
        except BaseException:
            self._forget(vnode)
            raise
        try:
            found = self._with_attr(vnode, known)
        except BaseException:
            self._close(file)
            raise
        self._use_pages(file)
        return found, file

    @vop
    def mknod(self, dir: Vnode, name: str, mode: int, rdev: int = 0) -> Found:
        """Make a file of the type and permissions `mode`; `rdev` is the number of a device."""
        attr = self.mount.new_attr(mode, self._cred, rdev)
        return self._made("mknod", dir, name, attr)

    @vop
    def mkdir(self, dir: Vnode, name: str, mode: int) -> Found:
        """Make a directory with the permission bits `mode`."""
        return self._made("mkdir", dir, name, self._new(S_IFDIR, mode))

    @vop
    def symlink(self, dir: Vnode, name: str, target: str) -> Found:
        """Make a symbolic link that holds `target`: 1 to 4095 bytes (N4: longer ones were cut)."""
        size = len(os.fsencode(target))
        if size == 0:
            raise error(errno.ENOENT)
        if size > police.LINK_MAX:
            raise error(errno.ENAMETOOLONG)
        attr = self._new(S_IFLNK, 0o777)
        attr.size = size
        return self._found("symlink", dir, self._name(name), target, attr, self._cred, new=True)

    @vop
    def link(self, vnode: Vnode, dir: Vnode, name: str) -> None:
        """Give `vnode` the further name `name` in `dir`. Its time of change is noted (N10)."""
        self._ask("link", vnode.cookie, dir.cookie, self._name(name), self._cred)
        if vnode.pages is not None:
            with vnode.pages as pages:
                pages.note_changed(self.mount.clock())

    @vop
    def remove(self, dir: Vnode, name: str) -> None:
        """Take the name of a file that is no directory away."""
        self._ask("remove", dir.cookie, self._name(name), self._cred)

    @vop
    def rmdir(self, dir: Vnode, name: str) -> None:
        """Take an empty directory away."""
        self._ask("rmdir", dir.cookie, self._name(name), self._cred)

    @vop
    def rename(self, dir: Vnode, name: str, newdir: Vnode, newname: str, flags: int = 0) -> None:
        """Move a name; `flags` as renameat2(2) has them."""
        names = dir.cookie, self._name(name), newdir.cookie, self._name(newname)
        self._ask("rename", *names, flags, self._cred)

    # ----------------------------------------------------------------------------------- attributes

    @vop
    def getattr(self, vnode: Vnode, file: OpenFile | None = None) -> Attr:
        """The attributes, as a copy of the caller's own, with an inode number in any case."""
        return self._attr(vnode, file and file.file)

    @vop
    def setattr(self, vnode: Vnode, changes: Changes, file: OpenFile | None = None) -> Attr:
        """Change what is set in `changes`; the attributes afterwards.

        What was written before is written first, and what is noted of times is not sent along: a
        file server may take a change of size with times for something else (6.3).
        """
        handle = file and file.file
        with self._settled(vnode) as pages:
            reply = self._ask("setattr", vnode.cookie, changes, handle, self._cred)
            if pages is not None:
                pages.was_set(changes)
            if reply is None:
                return self._attr(vnode, handle)
            return self._replied(reply, vnode, pages, "setattr")

    @vop
    def access(self, vnode: Vnode, mode: int) -> None:
        """What the file server says to `os.R_OK | os.W_OK | os.X_OK`: yes if it has no `access`.

        EROFS for writing where `write` is missing and the file regular (2.6).
        """
        if mode & os.W_OK:
            self._check_writable(vnode)
        self._optional("access", vnode.cookie, mode, self._cred)

    @vop
    def readlink(self, vnode: Vnode) -> str:
        """What a symbolic link holds."""
        cookie = vnode.cookie
        return os.fsdecode(police.target(self._ask("readlink", cookie), cookie))

    @vop
    def getxattr(self, vnode: Vnode, name: str) -> bytes:
        """The value of an extended attribute."""
        cookie = vnode.cookie
        return police.xattr(self._ask("getxattr", cookie, name), cookie, "getxattr")

    @vop
    def setxattr(self, vnode: Vnode, name: str, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute. A value beyond 64 KiB is E2BIG, and is not sent (2.7)."""
        if len(value) > police.XATTR_MAX:
            raise error(errno.E2BIG)
        with self._settled(vnode):  # a write after it may take some away (capabilities(7))
            self._ask("setxattr", vnode.cookie, name, value, flags)

    @vop
    def listxattr(self, vnode: Vnode) -> list[str]:
        """The names of the extended attributes."""
        cookie = vnode.cookie
        operation = self._op("listxattr")
        listing: bytes = self._do(
            operation, cookie, then=lambda reply: police.xattr_names(reply, cookie)
        )
        listing = police.visible(listing, self._cred)
        return [os.fsdecode(name) for name in listing.split(b"\0")[:-1]]

    @vop
    def removexattr(self, vnode: Vnode, name: str) -> None:
        """Take an extended attribute away."""
        with self._settled(vnode):
            self._ask("removexattr", vnode.cookie, name)

    # ---------------------------------------------------------------------------- open directories

    @vop
    def opendir(self, vnode: Vnode, parent_ino: int) -> OpenDir:
        """Open a directory; `parent_ino` is shown for "..". EOPNOTSUPP without `readdir`."""
        readdir = self._op("readdir")
        file = police.opened(self._optional("opendir", vnode.cookie, self._cred)).file
        listing = OpenDirectory(readdir, vnode.cookie, file, vnode.ino, parent_ino)
        self._vnodes.open(vnode)
        return OpenDir(vnode, listing)

    @vop
    def readdir(self, dir: OpenDir, offset: int, count: int) -> list[tuple[int, DirEntry]]:
        """At most `count` entries from position `offset` on, each with the position behind it.

        "." and ".." are among them. An empty list is the end (N8).
        """
        listing, given = dir.listing, self.mount.server.asynchronous
        if given and offset == 0:
            listing.rewind()
        while given and listing.needs(offset):
            self._do(_listed, listing, then=listing.give)

        def take() -> list[tuple[int, DirEntry]]:
            taken: list[tuple[int, DirEntry]] = []
            for position, entry in listing.entries(offset, given=given):
                # The one beyond is taken too, and so kept at hand for the next time.
                if len(taken) == count:
                    break
                police.filename(entry.name, "readdir", listing.cookie, self.mount.namemax)
                taken.append((position, entry))
            return taken

        taken: list[tuple[int, DirEntry]] = self._do(take)
        return taken

    @vop
    def fsyncdir(self, dir: OpenDir, datasync: bool = False) -> None:
        """Bring the names in a directory to stable storage."""
        self._optional("fsyncdir", dir.vnode.cookie, datasync, dir.listing.file)

    @vop
    def closedir(self, dir: OpenDir) -> None:
        """Give an open directory back. Once: again does nothing."""
        if not dir.closed:
            dir.closed = True
            self._fire("closedir", dir.vnode.cookie, dir.listing.file)
            self._do(self._vnodes.close, dir.vnode)

    # ----------------------------------------------------------------------------- the whole thing

    @vop
    def statvfs(self) -> StatVfs:
        """The size of the file system: `Mount.statvfs`."""
        return self.mount.statvfs(partial(self._ask, "statvfs"))

    # -------------------------------------------------------------------------------------- helpers

    def _new(self, kind: int, mode: int) -> Attr:
        return self.mount.new_attr(kind | S_IMODE(mode), self._cred)

    def _made(self, operation: str, dir: Vnode, name: str, attr: Attr) -> Found:
        return self._found(operation, dir, self._name(name), attr, self._cred, new=True)

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

    def _name(self, name: str) -> str:
        """A name as it may be given to a file server."""
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise error(errno.EINVAL)
        if len(os.fsencode(name)) > self.mount.namemax:
            raise error(errno.ENAMETOOLONG)
        return name


def _listed(listing: OpenDirectory) -> Any:
    """What the file server lists; as a coroutine, if it has to be waited for."""
    return listed(listing.ask())
