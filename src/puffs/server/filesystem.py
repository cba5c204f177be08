"""`FileSystem`: the class an author derives from.

Every operation that there is, and what each must do.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, ClassVar, Generic, TypeVar

from puffs.server.attr import Attr, Changes, StatVfs
from puffs.server.cred import Cred
from puffs.server.operations import Operations, any_async, implemented
from puffs.server.types import Buffer, DirEntry, Entry, Lock, Open, Suspend

Node = TypeVar("Node", bound=Hashable)

FOREVER: float = float("inf")
"""A lifetime for what only this file server can change."""


class FileSystem(Generic[Node]):
    """A file server: the user half of a mount. Derive from it and define the operations that your
    files have.

    An operation that your class does not define is *not implemented*: the kernel half answers for
    it, and tells the host not to ask again where the host can be told. `mount`, `lookup` and
    `getattr` are needed; `readdir` and `read` make a useful file system; the rest is there when you
    want it. A class that defines nothing that changes files is mounted read-only.

    Files are named by *cookies*: any hashable objects of yours but None (numbers, your own objects,
    tuples). Equal cookies are the same file. An operation's first argument is the cookie of the
    file or directory that it is about. With type checkers, `FileSystem[int]` says that your cookies
    are numbers.

    Errors are exceptions: raise `OSError(errno.X)` or Python's own (`FileNotFoundError`,
    `PermissionError`, ...) and the caller sees that errno; the message is not needed. Any other
    exception gives the caller EIO and you one traceback in the log; it never ends the mount. Names
    are `str`, decoded with `os.fsdecode`, so that every name can be given back. Times are integer
    nanoseconds, sizes and offsets are bytes.

    The host checks permissions by the attributes that you report, and by ACLs if you say that you
    keep them (`posix_acl`), unless your class defines `access`: then it asks you, and every other
    operation must check for itself too, by the helper of its name (`puffs.check_open`,
    `check_remove`, ...; `puffs.server.access` lists them). Both ways give the same answers. In the
    second one hosts do not remember names, whatever `name_ttl` says: another caller may not be
    allowed to search the directory. `names_for_all` says that everybody may.

    Times of modification and change are yours to move, as POSIX says. So is the time of access: see
    `puffs.mark_atime`.
    """

    name_ttl: float = 1.0
    """Seconds for which a host may trust that a name leads to its file."""
    attr_ttl: float = 1.0
    """Seconds for which a host may trust attributes."""
    negative_ttl: float = 0.0
    """Seconds for which a host may trust that a name does not exist."""
    name: ClassVar[str] = ""
    """Shown as the type of the mount, `fuse.puffs.NAME`; the name of the class in lower case when
    empty.
    """
    fhsize: ClassVar[int] = 0
    """The length of the file handles that `nodetofh` gives, in bytes: 1020 at most. 0: there are
    none. [puffs_setfhsize(3)]
    """
    fhflags: ClassVar[int] = 0
    """`puffs.FHFLAG_DYNAMIC`: `fhsize` is the longest, they may be shorter. `puffs.FHFLAG_NFSV2`,
    `FHFLAG_NFSV3`: mounting fails when they are too long for that.
    """
    names_for_all: bool = False
    """Whether a name that one caller has found may be shown to all, although the class defines
    `access`: hosts then remember names for `name_ttl`. So it is where `access` is only an answer to
    access(2), and no `lookup` depends on who asks.
    """
    posix_acl: bool = False
    """Whether this file server keeps POSIX ACLs. [acl(5)]

    The host then checks permissions by them too. What you do for it: keep the extended attributes
    `puffs.ACL_ACCESS` and `puffs.ACL_DEFAULT`, as `puffs.set_acl` says; give new files what
    `puffs.new_acls` makes of the default ACL of their directory, and of `cred.umask`, which is not
    yet applied to the `attr` that you get; keep `Attr.acl`, which a chmod(2) changes as well.
    `getxattr` and `setxattr` are needed.
    """
    passthrough: bool = False
    """Whether opens bring the host's own file that holds the data (`Open`, `backing_fd`), so that a
    mount may have `-o passthrough`.
    """

    @property
    def asynchronous(self) -> bool:
        """Whether an operation may be `async def`: the mount is then served by an event loop."""
        return any_async(self)

    def operations(self) -> Operations:
        """The operations that this file server implements, bound, by name. Asked for once, when it
        is mounted.

        The default is what the class defines. A layer that hands on to another file server may
        override it.
        """
        return implemented(self, FileSystem)

    # -------------------------------------------------- the file system as a whole (VFS operations)

    def mount(self) -> Node:
        """Return the cookie of the root. Called once, before anything else. [puffs(3),
        `puffs_setroot`]

        Whatever it raises makes the mounting fail, with that error on the terminal of who mounts.
        """
        raise NotImplementedError

    def mounted(self, mount: Any) -> None:
        """The mount can be used: `mount` is its `puffs.Mount`. Called once, before any host asks.

        For file servers whose files change by themselves: `mount.invalidate_name` and its like tell
        hosts to forget what they have cached, from any thread. [puffs_flush(3)] Nobody waits for an
        `async def`: it may go on until it is cancelled by the unmount.
        """
        raise NotImplementedError

    def unmount(self, force: bool) -> None:
        """A question, without side effects: may this be unmounted? Raise `OSError(errno.EBUSY)` to
        refuse.

        With `force` the answer is not heard. umount(8) by others does not ask. [puffs_unmount, U4
        to U10]
        """
        raise NotImplementedError

    def unmounted(self) -> None:
        """The mount is gone: free what you hold.

        Called exactly once, on every way out, last of all.
        """
        raise NotImplementedError

    def statvfs(self) -> StatVfs:
        """The size of the file system, for `df`; an `os.statvfs_result` will do. [statvfs(3)]"""
        raise NotImplementedError

    def sync(self, wait: bool, cred: Cred) -> None:
        """Write everything to stable storage; with `wait`, return when it is there. [puffs_sync,
        Y1; sync(2)]

        Plain FUSE never asks: `Mount.sync()` and an unmount do.
        """
        raise NotImplementedError

    def snapshot(self, destination: str) -> None:
        """Write a copy of the whole file system to `destination`, a path of the host's.

        [puffs_snapshot, I3] Called while the mount is suspended, so that nothing changes meanwhile:
        what is copied was there at one moment. Whatever form it has, `destination` appears when it
        is whole, and a copy that fails leaves nothing behind. It lies outside of this mount, which
        answers nobody now.
        """
        raise NotImplementedError

    def fileid(self, node: Node) -> tuple[int, int]:
        """The inode number (1 to 2**63 - 1) and generation (32 bits) of `node`: stable for ever,
        also across restarts.

        Define it and the handles that Linux makes (name_to_handle_at(2)) are these two; with `vget`
        they stay valid for as long as the file lives. A number that is used again for another file
        needs another generation, and so do the files of another file system of yours: a random one
        that is kept with the files will do. The handles of a number from 2**63 on end with the
        mount. `getattr` may show another `ino`. Never an `async def`.
        """
        raise NotImplementedError

    def vget(self, ino: int) -> Node | Entry:
        """The file whose number is `ino` by `fileid`; never another one. [VFS_VGET]

        Raise ESTALE when it is gone. Called when a host opens a handle (open_by_handle_at(2), NFS)
        of a file that it has forgotten, maybe since another run of this program: only a lasting
        `fileid` can be found again. The generation is the host's to compare. For handles of
        directories Linux also asks `lookup` for "..", and for the entry in there that has the
        `ino` of the directory.
        """
        raise NotImplementedError

    def nodetofh(self, node: Node) -> bytes:
        """A file handle: `fhsize` bytes that name `node` for good. [puffs_vptofh, H1 to H9]

        Asked for in process (`name_to_handle`), and by hosts that take handles of any kind. Linux
        takes `fileid`.
        """
        raise NotImplementedError

    def fhtonode(self, fid: bytes) -> Node:
        """The cookie of the file that `nodetofh` named so. [puffs_fhtovp, F1 to F6]

        Raise ESTALE when it is gone, and for whatever else `fid` may be: it can come from anywhere.
        """
        raise NotImplementedError

    # -------------------------------------------------------------------------- names (directories)

    def lookup(self, dir: Node, name: str, cred: Cred) -> Node | Entry:
        """Find `name` in `dir`. Raise `FileNotFoundError` when it is not there. [VOP_LOOKUP, N1 to
        N3]

        Called for each component of a path that the host does not remember. Never called for ".",
        and for ".." only of a class that defines `vget`: the directory that `dir` is in, ESTALE if
        it is in none. That of the root is not asked for.
        """
        raise NotImplementedError

    def create(
        self, dir: Node, name: str, attr: Attr, flags: int, cred: Cred
    ) -> Node | Entry | tuple[Node | Entry, Open | object]:
        """Make the regular file `name` in `dir` and open it with `flags` (`os.O_RDWR`, ...).
        [open(2) with O_CREAT]

        `attr` has mode (umask applied, but with `posix_acl`), owner and times set, ready to be
        kept. Returns the new
        node, or a pair of the node and what `open` would return; with a node alone, `open` is
        called for it. A pair is any tuple of two: a file server whose cookies are such tuples
        returns an `Entry`. The mode does not limit this one open: a file made 0444 may be written
        to through it.
        """
        raise NotImplementedError

    def mknod(self, dir: Node, name: str, attr: Attr, cred: Cred) -> Node | Entry:
        """Make a file of the type in `attr.mode`: fifo, socket, device (`attr.rdev`) or regular.

        [mknod(2)]
        """
        raise NotImplementedError

    def mkdir(self, dir: Node, name: str, attr: Attr, cred: Cred) -> Node | Entry:
        """Make a directory. [mkdir(2)] `attr` is as for `create`; see also `puffs.inherit`."""
        raise NotImplementedError

    def symlink(self, dir: Node, name: str, target: str, attr: Attr, cred: Cred) -> Node | Entry:
        """Make a symbolic link that holds `target`. [symlink(2)]"""
        raise NotImplementedError

    def link(self, node: Node, dir: Node, name: str, cred: Cred) -> Node | Entry | None:
        """Give `node` the further name `name` in `dir`.

        [link(2)] May return its entry; None stands for `node` itself.
        """
        raise NotImplementedError

    def remove(self, dir: Node, name: str, cred: Cred) -> None:
        """Take the name of a file that is no directory away. [VOP_REMOVE; unlink(2)]

        The file lives on for those who have it open; `reclaim` says when nobody knows it any more.
        """
        raise NotImplementedError

    def rmdir(self, dir: Node, name: str, cred: Cred) -> None:
        """Take an empty directory away; ENOTEMPTY when it is not. [rmdir(2)]"""
        raise NotImplementedError

    def rename(
        self, dir: Node, name: str, newdir: Node, newname: str, flags: int, cred: Cred
    ) -> None:
        """Move a name, replacing what stands at the target in one step. [rename(2), renameat2(2)]

        `flags`: 0, or `puffs.RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`. Raise EINVAL
        for those you do not support.
        """
        raise NotImplementedError

    def tmpfile(
        self, dir: Node, attr: Attr, flags: int, cred: Cred
    ) -> Node | Entry | tuple[Node | Entry, Open | object]:
        """Make and open a file that has no name, in the file system of `dir`.

        [open(2) with O_TMPFILE] As `create`.
        """
        raise NotImplementedError

    def readdir(self, dir: Node, offset: int, file: Any) -> Iterable[DirEntry | str]:
        """Yield the entries of `dir` from the position `offset` on; bare names will do.
        [getdents(2)]

        `offset` is 0, or the `next` of an entry that was yielded before. A file server that sets no
        `next` is called with 0 only: the kernel half keeps what it yields for each open directory,
        and asks anew after rewinddir(3). What is yielded is taken when the host has room for it, so
        a generator may be left waiting while the directory changes.
        """
        raise NotImplementedError

    def readlink(self, node: Node) -> str:
        """What a symbolic link holds. [readlink(2)] `bytes` are welcome too."""
        raise NotImplementedError

    # -------------------------------------------------------------------------------- open and data

    def open(self, node: Node, flags: int, cred: Cred) -> Open | object | None:
        """Open a file. `flags` as in open(2), without O_CREAT and O_EXCL. [VOP_OPEN]

        Returns whatever object stands for the open file: it comes back as `file`. `Open(file, ...)`
        also says how the host is to treat it. O_TRUNC arrives as a `setattr`. Not defined:
        every open succeeds and needs no message.
        """
        raise NotImplementedError

    def close(self, node: Node, file: Any, flags: int) -> None:
        """An open file is given back: once for each `open` and `create`, after the last descriptor
        is gone. [VOP_CLOSE]

        Nobody waits for it and nobody sees its errors; `flush` is where an error can still reach
        close(2).
        """
        raise NotImplementedError

    def flush(self, node: Node, file: Any, owner: int) -> None:
        """A descriptor is being closed: report what went wrong with earlier writes now. [close(2)]

        Called for each close of a descriptor, thus several times for one `open`; `owner` names the
        lock owner.
        """
        raise NotImplementedError

    def fsync(self, node: Node, datasync: bool, file: Any) -> None:
        """Bring the file to stable storage; with `datasync` its data only.

        [fsync(2), fdatasync(2)]
        """
        raise NotImplementedError

    def read(self, node: Node, offset: int, size: int, file: Any) -> Buffer:
        """Up to `size` bytes from `offset`; fewer mean the end of the file.

        [read(2)] A bytes-like object. `puffs.mark_atime(attr)` moves the time of access.
        """
        raise NotImplementedError

    def write(self, node: Node, offset: int, data: memoryview, file: Any) -> int:
        """Write all of `data` at `offset` and return how much that was. [write(2)]

        `data` is valid until this operation returns: take `bytes(data)` to keep it.
        """
        raise NotImplementedError

    def seek(self, node: Node, offset: int, whence: int, file: Any) -> int:
        """The next data (`os.SEEK_DATA`) or hole (`os.SEEK_HOLE`) at or after `offset`; ENXIO past
        the end. [lseek(2)]
        """
        raise NotImplementedError

    def fallocate(self, node: Node, mode: int, offset: int, length: int, file: Any) -> None:
        """Reserve, punch or zero a range.

        [fallocate(2)] Raise EOPNOTSUPP for a `mode` that you do not support.
        """
        raise NotImplementedError

    def copy_file_range(
        self,
        node: Node,
        offset: int,
        file: Any,
        to: Node,
        to_offset: int,
        to_file: Any,
        size: int,
        flags: int,
    ) -> int:
        """Copy `size` bytes between two open files and return how many it were.

        [copy_file_range(2)]
        """
        raise NotImplementedError

    # ----------------------------------------------------------------------------------- attributes

    def getattr(self, node: Node, file: Any = None) -> Attr:
        """The attributes of `node`; `os.stat_result` is welcome too.

        [stat(2)] `file` is given for fstat(2), where known.
        """
        raise NotImplementedError

    def setattr(self, node: Node, changes: Changes, file: Any, cred: Cred) -> Attr | None:
        """Change what is set in `changes`: chmod(2), chown(2), truncate(2), utimensat(2).

        Return the attributes afterwards to save the host a question. `changes.apply(attr)` does the
        usual. Before a write, truncation or change of owner that takes set-id bits away, this is
        called with the `mode` that is left; capabilities ("security.capability") are removed by
        `removexattr`.
        """
        raise NotImplementedError

    def access(self, node: Node, mode: int, cred: Cred) -> None:
        """May the caller do `mode` (`os.R_OK | os.W_OK | os.X_OK`)? Raise `PermissionError` if not.
        [access(2)]

        Defining this operation moves all permission checks from the host to this file server, but
        for the sticky bit, which Linux looks at in any case.
        """
        raise NotImplementedError

    def getxattr(self, node: Node, name: str) -> Buffer:
        """The value of an extended attribute; ENODATA when there is none.

        [getxattr(2)] Sizes are the kernel half's affair.
        """
        raise NotImplementedError

    def setxattr(self, node: Node, name: str, value: bytes, flags: int) -> None:
        """Set an extended attribute.

        `flags`: 0, `os.XATTR_CREATE` (EEXIST) or `os.XATTR_REPLACE` (ENODATA). [setxattr(2)]
        ACLs (`puffs.ACL_NAMES`) are for those who say `posix_acl`, and go through `puffs.set_acl`;
        others raise EOPNOTSUPP for them.
        """
        raise NotImplementedError

    def listxattr(self, node: Node) -> Iterable[str]:
        """The names of the extended attributes. [listxattr(2)]"""
        raise NotImplementedError

    def removexattr(self, node: Node, name: str) -> None:
        """Take an extended attribute away; ENODATA when there is none. [removexattr(2)]"""
        raise NotImplementedError

    # ----------------------------------------------------------------------------- open directories

    def opendir(self, dir: Node, cred: Cred) -> Open | object | None:
        """Open a directory: what is returned comes back as `file`. [opendir(3)] Rarely needed."""
        raise NotImplementedError

    def closedir(self, dir: Node, file: Any) -> None:
        """An open directory is given back: once for each `opendir`. [closedir(3)]"""
        raise NotImplementedError

    def fsyncdir(self, dir: Node, datasync: bool, file: Any) -> None:
        """Bring the names of a directory to stable storage. [fsync(2) of a directory]"""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------- other

    def advlock(self, node: Node, op: str, lock: Lock, owner: int, file: Any) -> Lock | None:
        """Record locks and flock(2). Not defined: the host does them, among the processes on it.
        [VOP_ADVLOCK, fcntl(2)]

        `op` is "get" (return the first lock in the way, or one of type F_UNLCK), "set" (EAGAIN when
        it is taken) or "wait".
        """
        raise NotImplementedError

    def poll(self, node: Node, events: int, file: Any, wake: Callable[[], None] | None) -> int:
        """Which of `events` (`select.POLLIN`, ...) are true now? [poll(2)]

        When `wake` is given somebody waits: call it, from any thread, once the answer may have
        changed.
        """
        raise NotImplementedError

    def ioctl(
        self, node: Node, command: int, data: bytes, size: int, file: Any, cred: Cred
    ) -> int | bytes | tuple[int, bytes]:
        """Control a file: `data` comes with `command`, at most `size` bytes may go back. [ioctl(2)]

        Returns the result, the bytes (result 0), or both. Raise ENOTTY for a `command` that you do
        not know.
        """
        raise NotImplementedError

    def inactive(self, node: Node) -> None:
        """Nobody has the file open any more.

        Called each time that the last open file is closed. [VOP_INACTIVE]
        """
        raise NotImplementedError

    def reclaim(self, node: Node) -> None:
        """Nobody knows the file any more: free what belongs to the cookie, for good if it has no
        name. [VOP_RECLAIM]

        Called exactly once for each time that a cookie became known, never for the root. The host
        may ask for it by name again.
        """
        raise NotImplementedError

    def suspend(self, status: Suspend) -> None:
        """The mount is being suspended, or goes on: START, the writes of what hosts have buffered,
        then SUSPENDED or ERROR; later RESUME.

        Between SUSPENDED and RESUME no operation comes. A write that fails after START is for you
        to judge at SUSPENDED. [puffs_suspendctl, D1 to D8]
        """
        raise NotImplementedError

    def error(self, kind: str, code: int, text: str, node: Any) -> None:
        """The kernel half refused a reply of yours. `kind` says which sort, `code` hints at an
        errno, `text` explains.

        [statement 2.7] It is logged in any case; the caller got EPROTO.
        """
        raise NotImplementedError
