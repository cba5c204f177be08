"""`PathFileSystem`: a file server whose operations take paths instead of cookies."""

import os
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from puffs.server.attr import Attr, Changes, StatVfs
from puffs.server.cred import Cred
from puffs.server.operations import Operations, any_async, implemented
from puffs.server.path_mount import PathMount
from puffs.server.path_nodes import adapted
from puffs.server.path_waiting import adapted_waiting
from puffs.server.types import Buffer, DirEntry, Lock, Open, Suspend


class PathFileSystem:
    """A file server that names its files by absolute paths: "/", "/a/b".

    Derive from it and define the operations that your files have. `getattr` is needed, and it is
    the lookup too: `FileNotFoundError` says that nothing is there. `readdir` and `read` make a
    useful file system. All else is as with `puffs.FileSystem`: an operation that the class does not
    define is not implemented, exceptions are errors, names are `str`, times are nanoseconds. A path
    takes the place of the node, or of the directory and the name in it. `mount` is optional and
    returns nothing.

    Behind each path stands a node that the host knows, and these rules follow from it:

    - A path is built at the moment it is needed. When a directory is renamed, all that is below it
      is at once called by its new path, open files too.
    - What was removed, or replaced by a `rename`, is gone: a file made again under its name is
      another file. A file that somebody still has open keeps its last path and its `file`, what
      `open` or `create` returned for it. That path may lead to a new file by then, so an operation
      that is given a `file` should use it rather than the path. `getattr` and `setattr` on such a
      file are given one of its open files even where the host names none. Where `open` gave no
      `file`, and for directories, there is no safe way to what is gone: the caller gets ESTALE, and
      a new file under the old path is never touched.
    - A hard link that `link` made is the same node: operations are given one of its paths, and the
      file goes on under another when that one is removed. Hard links that the host finds by looking
      up their names are a node each, and it caches their contents apart: what is changed through
      one shows under the other after `attr_ttl`, or at the next open. Give all paths of a file the
      same `ino` in the attributes, and `ls -i`, `tar` and `du` see one file in any case.
    - `readdir` may yield pairs `(name, attributes)` beside bare names and `DirEntry`: the host then
      knows the attributes without asking for each name (readdirplus).
    - A file that changes behind the file server's back keeps its node for as long as `getattr`
      finds something at its path.
    - Operations may run in several threads, or be `async def` and wait, under asyncio. One that
      fails with `FileNotFoundError` because a directory above was renamed meanwhile is called again
      with the new path.

    A file that has no path, or a file known by something better than its path, is beyond this
    class: `lookup`, `tmpfile`, `fileid`, `vget`, `nodetofh`, `fhtonode`, `inactive` and `reclaim`
    are for `puffs.FileSystem`.
    """

    name_ttl: float = 1.0
    """Seconds for which a host may trust that a name leads to its file."""
    attr_ttl: float = 1.0
    """Seconds for which a host may trust attributes."""
    negative_ttl: float = 0.0
    """Seconds for which a host may trust that a name does not exist."""
    name: ClassVar[str] = ""
    """The type of the mount is `fuse.puffs.NAME`; by default the class's name in lower case."""
    fhsize: ClassVar[int] = 0
    """There are no file handles: a path does not name a file for good."""
    fhflags: ClassVar[int] = 0
    names_for_all: bool = False
    """Whether hosts may remember names although `access` is defined. As
    `FileSystem.names_for_all`.
    """
    posix_acl: bool = False
    """Whether this file server keeps POSIX ACLs. As `FileSystem.posix_acl`."""
    passthrough: bool = False
    """Whether opens bring the host's own file. As `FileSystem.passthrough`."""

    @property
    def asynchronous(self) -> bool:
        """Whether an operation may be `async def`: the mount is then served by an event loop."""
        return any_async(self)

    def operations(self) -> Operations:
        """Operations on nodes, made of the operations on paths that the class defines.

        Asked for once, when it is mounted: each answer stands for files of its own.
        `mount` and `lookup` are always among them, and `close` where there is `open`: it tells
        which files are still open.

        Raises `TypeError` when the class defines an operation that paths cannot have.
        """
        defined = implemented(self, PathFileSystem)
        strange = [name for name in defined if not hasattr(PathFileSystem, name)]
        if strange:
            raise TypeError(
                f"{type(self).__name__} defines {', '.join(strange)}, which a PathFileSystem cannot"
                " have: give it another name, or derive from puffs.FileSystem"
            )
        return (adapted_waiting if self.asynchronous else adapted)(defined, self.getattr)

    # -------------------------------------------------- the file system as a whole (VFS operations)

    def mount(self) -> None:
        """Get ready: called once, first of all. What it raises makes the mounting fail."""
        raise NotImplementedError

    def mounted(self, mount: PathMount) -> None:
        """The mount can be used. As `FileSystem.mounted`; `mount` takes paths instead of nodes."""
        raise NotImplementedError

    def unmount(self, force: bool) -> None:
        """May this be unmounted? As `FileSystem.unmount`."""
        raise NotImplementedError

    def unmounted(self) -> None:
        """The mount is gone: free what you hold. As `FileSystem.unmounted`."""
        raise NotImplementedError

    def statvfs(self) -> StatVfs:
        """The size of the file system. As `FileSystem.statvfs`."""
        raise NotImplementedError

    def sync(self, wait: bool, cred: Cred) -> None:
        """Write everything to stable storage. As `FileSystem.sync`."""
        raise NotImplementedError

    def snapshot(self, destination: str) -> None:
        """Write a copy of the whole file system to the host's path. As `FileSystem.snapshot`."""
        raise NotImplementedError

    def suspend(self, status: Suspend) -> None:
        """The mount is being suspended, or goes on. As `FileSystem.suspend`."""
        raise NotImplementedError

    # -------------------------------------------------------------------------- names (directories)

    def create(self, path: str, attr: Attr, flags: int, cred: Cred) -> Open | object | None:
        """Make the regular file `path` and open it: returns what `open` would. [open(2), O_CREAT]

        With None, `open` is called for it if the class defines it. `attr` is as for
        `FileSystem.create`.
        """
        raise NotImplementedError

    def mknod(self, path: str, attr: Attr, cred: Cred) -> None:
        """Make a file of the type in `attr.mode`. [mknod(2)]"""
        raise NotImplementedError

    def mkdir(self, path: str, attr: Attr, cred: Cred) -> None:
        """Make a directory. [mkdir(2)]"""
        raise NotImplementedError

    def symlink(self, path: str, target: str, attr: Attr, cred: Cred) -> None:
        """Make `path` a symbolic link that holds `target`. [symlink(2), in the other order]"""
        raise NotImplementedError

    def link(self, path: str, newpath: str, cred: Cred) -> None:
        """Give the file `path` the further name `newpath`. [link(2)]

        See the class on hard links.
        """
        raise NotImplementedError

    def remove(self, path: str, cred: Cred) -> None:
        """Take the name of a file that is no directory away. [unlink(2)]

        Those who have it open go on with their `file`; nobody else comes to the file again.
        """
        raise NotImplementedError

    def rmdir(self, path: str, cred: Cred) -> None:
        """Take an empty directory away; ENOTEMPTY when it is not. [rmdir(2)]"""
        raise NotImplementedError

    def rename(self, path: str, newpath: str, flags: int, cred: Cred) -> None:
        """Move `path`, and all below it, to `newpath`, replacing what stands there. [rename(2)]

        `flags` are as for `FileSystem.rename`; with `puffs.RENAME_EXCHANGE` the two change places.
        Never called to move a directory into itself.
        """
        raise NotImplementedError

    def readdir(
        self, path: str, offset: int, file: Any
    ) -> Iterable[str | DirEntry | tuple[str, Attr | os.stat_result]]:
        """Yield the entries of a directory: names, pairs of name and attributes, or `DirEntry`s.

        As `FileSystem.readdir`; a `DirEntry` must have no `entry`. `offset` is 0 unless you set
        `DirEntry.next`. A removed directory is empty without being asked.
        """
        raise NotImplementedError

    def readlink(self, path: str) -> str:
        """What a symbolic link holds. [readlink(2)]"""
        raise NotImplementedError

    # -------------------------------------------------------------------------------- open and data

    def open(self, path: str, flags: int, cred: Cred) -> Open | object | None:
        """Open a file: what is returned comes back as `file`. As `FileSystem.open`.

        Returning a `file` is what lets an open file outlive its name.
        """
        raise NotImplementedError

    def close(self, path: str, file: Any, flags: int) -> None:
        """An open file is given back: once for each `open` and `create`. As `FileSystem.close`."""
        raise NotImplementedError

    def flush(self, path: str, file: Any, owner: int) -> None:
        """A descriptor is being closed: report failed writes. As `FileSystem.flush`."""
        raise NotImplementedError

    def fsync(self, path: str, datasync: bool, file: Any) -> None:
        """Bring the file, or with `datasync` its data, to stable storage. [fsync(2)]"""
        raise NotImplementedError

    def read(self, path: str, offset: int, size: int, file: Any) -> Buffer:
        """Up to `size` bytes from `offset`; fewer mean the end of the file. [read(2)]"""
        raise NotImplementedError

    def write(self, path: str, offset: int, data: memoryview, file: Any) -> int:
        """Write all of `data` at `offset` and return how much that was. [write(2)]

        Take `bytes(data)` to keep it.
        """
        raise NotImplementedError

    def seek(self, path: str, offset: int, whence: int, file: Any) -> int:
        """The next data or hole at or after `offset`. As `FileSystem.seek`."""
        raise NotImplementedError

    def fallocate(self, path: str, mode: int, offset: int, length: int, file: Any) -> None:
        """Reserve, punch or zero a range. As `FileSystem.fallocate`."""
        raise NotImplementedError

    def copy_file_range(
        self,
        path: str,
        offset: int,
        file: Any,
        to: str,
        to_offset: int,
        to_file: Any,
        size: int,
        flags: int,
    ) -> int:
        """Copy between two open files. As `FileSystem.copy_file_range`; `to` is a path too."""
        raise NotImplementedError

    # ----------------------------------------------------------------------------------- attributes

    def getattr(self, path: str, file: Any = None) -> Attr:
        """The attributes of what is at `path`; `FileNotFoundError` if nothing is. [stat(2)]

        `os.stat_result` is welcome too. `file` is given for an open file that is gone, and where
        the host tells it.
        """
        raise NotImplementedError

    def setattr(self, path: str, changes: Changes, file: Any, cred: Cred) -> Attr | None:
        """Change what is set in `changes`. As `FileSystem.setattr`; `file` is as for `getattr`."""
        raise NotImplementedError

    def access(self, path: str, mode: int, cred: Cred) -> None:
        """May the caller do `mode`? As `FileSystem.access`: you check all permissions then."""
        raise NotImplementedError

    def getxattr(self, path: str, name: str) -> Buffer:
        """The value of an extended attribute; ENODATA when there is none. [getxattr(2)]"""
        raise NotImplementedError

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Set an extended attribute. As `FileSystem.setxattr`."""
        raise NotImplementedError

    def listxattr(self, path: str) -> Iterable[str]:
        """The names of the extended attributes. [listxattr(2)]"""
        raise NotImplementedError

    def removexattr(self, path: str, name: str) -> None:
        """Take an extended attribute away; ENODATA when there is none. [removexattr(2)]"""
        raise NotImplementedError

    # ----------------------------------------------------------------------------- open directories

    def opendir(self, path: str, cred: Cred) -> Open | object | None:
        """Open a directory: what is returned comes back as `file`. [opendir(3)] Rarely needed."""
        raise NotImplementedError

    def closedir(self, path: str, file: Any) -> None:
        """An open directory is given back: once for each `opendir`. [closedir(3)]"""
        raise NotImplementedError

    def fsyncdir(self, path: str, datasync: bool, file: Any) -> None:
        """Bring the names of a directory to stable storage. [fsync(2) of a directory]"""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------- other

    def advlock(self, path: str, op: str, lock: Lock, owner: int, file: Any) -> Lock | None:
        """Record locks and flock(2). As `FileSystem.advlock`."""
        raise NotImplementedError

    def poll(self, path: str, events: int, file: Any, wake: Callable[[], None] | None) -> int:
        """Which of `events` are true now? As `FileSystem.poll`."""
        raise NotImplementedError

    def ioctl(
        self, path: str, command: int, data: bytes, size: int, file: Any, cred: Cred
    ) -> int | bytes | tuple[int, bytes]:
        """Control a file. As `FileSystem.ioctl`."""
        raise NotImplementedError

    def error(self, kind: str, code: int, text: str, path: str | None) -> None:
        """The kernel half refused a reply. As `FileSystem.error`; `path` is None for no file."""
        raise NotImplementedError
