"""`Operations` of pyfuse3, and the names of its types."""

import errno
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from puffs.refuse.inode_listing import ReaddirToken
from puffs.refuse.inode_values import (
    EntryAttributes,
    FileInfo,
    FUSEError,
    PollHandle,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

__version__ = "3.5.0"
"""The release of pyfuse3 whose API this is."""

FileHandleT = int
FileNameT = bytes
FlagT = int
InodeT = int
ModeT = int
XAttrNameT = bytes

log = logging.getLogger("pyfuse3")


def _missing() -> NoReturn:
    raise FUSEError(errno.ENOSYS)


class Operations:
    """The handlers of a file system: derive from it, and define those that your files have.

    A handler raises `FUSEError` for its caller's system call to fail. Any other exception ends
    `main`. One that is not defined is not implemented: ENOSYS, which for many calls tells the
    kernel to go on by itself, and not to ask again.

    The class attributes say what the kernel is to do: keep file handles valid by looking up "."
    (`supports_dot_lookup`), buffer writes (`enable_writeback_cache`), check permissions by POSIX
    ACLs that are kept as extended attributes (`enable_acl`).
    """

    supports_dot_lookup: bool = True
    enable_writeback_cache: bool = False
    enable_acl: bool = False

    def init(self) -> None:
        """Called once, before the first request."""

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """The attributes of `name` in a directory; ENOENT, or `st_ino` 0, if it is not there.

        Counts as a lookup. "." and ".." may be asked for too, for file handles.
        """
        _missing()

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """The kernel has forgotten each of these inodes so many times as is said beside it."""

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """The attributes of an inode."""
        _missing()

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """Change those attributes that `fields` names to what they are in `attr`; all of them after
        that. `fh` is given for an open file.
        """
        _missing()

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        """What a symbolic link holds."""
        _missing()

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a file of the type in `mode`. Counts as a lookup."""
        _missing()

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a directory. Counts as a lookup."""
        _missing()

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Take a name away. The inode lives until the kernel has forgotten it."""
        _missing()

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Take an empty directory away; ENOTEMPTY when it is not."""
        _missing()

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a symbolic link. Counts as a lookup."""
        _missing()

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        """Move a name. `flags`: 0, `RENAME_NOREPLACE` or `RENAME_EXCHANGE`."""
        _missing()

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """Give an inode a further name. Counts as a lookup."""
        _missing()

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """Open a file."""
        _missing()

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """`size` bytes from `off` on; fewer only at the end of the file."""
        _missing()

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Write all of `buf` at `off`, and return how much that was."""
        _missing()

    async def flush(self, fh: FileHandleT) -> None:
        """A descriptor is being closed: the last chance to report an error."""
        _missing()

    async def release(self, fh: FileHandleT) -> None:
        """The last descriptor has been closed."""
        _missing()

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Bring a file to stable storage; with `datasync` its data only."""
        _missing()

    async def poll(
        self,
        inode: InodeT,
        fh: FileHandleT,
        poll_handle: PollHandle | None,
        ctx: RequestContext,
    ) -> int:
        """What of poll(2) is true now. With a `poll_handle` somebody waits for its `notify`."""
        _missing()

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """Open a directory."""
        _missing()

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """Call `readdir_reply` for each entry from `start_id` on, until it returns False."""
        _missing()

    async def releasedir(self, fh: FileHandleT) -> None:
        """An open directory is given back."""
        _missing()

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Bring the names in a directory to stable storage."""
        _missing()

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """The size of the file system."""
        _missing()

    def stacktrace(self) -> None:
        """Log what every thread is doing: asked for by setting the extended attribute
        `fuse_stacktrace` of the mount point.
        """
        lines: list[str] = []
        for thread, frame in sys._current_frames().items():
            lines += [f"thread {thread}:", *traceback.format_stack(frame)]
        log.error("\n".join(lines))

    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        """Set an extended attribute, whether it is there or not."""
        _missing()

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        """The value of an extended attribute; `ENOATTR` when there is none."""
        _missing()

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        """The names of the extended attributes."""
        _missing()

    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """Take an extended attribute away; `ENOATTR` when there is none."""
        _missing()

    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        """Whether the caller may do `mode`. Never asked with the option `default_permissions`."""
        _missing()

    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        """Make a file and open it. Counts as a lookup."""
        _missing()
