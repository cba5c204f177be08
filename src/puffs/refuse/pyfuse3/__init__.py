"""pyfuse3's API (3.5) on puffs: the one changed line is `from puffs.refuse import pyfuse3`.

Handlers are `async def`, and run in trio, or in asyncio after `puffs.refuse.pyfuse3.asyncio`'s
`enable()`. Names are bytes and files are inode numbers; the program counts lookups.
"""

import logging
import os
import queue
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from puffs.attach.fuse import syscalls
from puffs.refuse.inode_listing import ReaddirToken, readdir_reply
from puffs.refuse.inode_mount import InodeMount
from puffs.refuse.inode_values import (
    ENOATTR,
    ROOT_INODE,
    EntryAttributes,
    FileInfo,
    FUSEError,
    PollHandle,
    RequestContext,
    SetattrFields,
    StatvfsData,
    get_sup_groups,
    getxattr,
    listdir,
    setxattr,
)
from puffs.refuse.inodes import AsyncInodes
from puffs.refuse.pyfuse3 import _serving
from puffs.refuse.pyfuse3._pyfuse3 import (
    FileHandleT,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    Operations,
    XAttrNameT,
    __version__,
)
from puffs.server.types import RENAME_EXCHANGE, RENAME_NOREPLACE, Buffer

if TYPE_CHECKING:
    from trio.lowlevel import TrioToken

__all__ = (
    "ENOATTR",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "ROOT_INODE",
    "EntryAttributes",
    "FUSEError",
    "FileHandleT",
    "FileInfo",
    "FileNameT",
    "FlagT",
    "InodeT",
    "ModeT",
    "Operations",
    "PollHandle",
    "ReaddirToken",
    "RequestContext",
    "SetattrFields",
    "StatvfsData",
    "XAttrNameT",
    "__version__",
    "close",
    "default_options",
    "get_sup_groups",
    "getxattr",
    "init",
    "invalidate_entry",
    "invalidate_entry_async",
    "invalidate_inode",
    "listdir",
    "main",
    "notify_store",
    "readdir_reply",
    "setxattr",
    "syncfs",
    "terminate",
    "trio_token",
)

log = logging.getLogger("pyfuse3")

default_options: Final = frozenset(("default_permissions",))
_NANOS_PER_SEC: Final = 1_000_000_000

trio_token: "TrioToken | str | None" = None
"""Of the loop that `main` runs in, while it runs."""

_mounted: InodeMount | None = None
_served: "_serving.Served | None" = None
_notices: "queue.SimpleQueue[tuple[int, bytes, int, bool] | None] | None" = None


def init(ops: Any, mountpoint: str, options: Iterable[str] = default_options) -> None:
    """Mount a file system with the handlers of `ops`; `options` are those of libfuse, as strings.

    Whoever uses it waits until `main` runs. Raises `RuntimeError` when it cannot be mounted.
    """
    global _mounted, _served
    if not isinstance(mountpoint, str):
        raise TypeError("*mountpoint* argument must be of type str")
    inodes = AsyncInodes(ops, Operations)
    _mounted = InodeMount(inodes, mountpoint, options, "fuse3")
    _served = _serving.Served(inodes, _mounted)


async def main(min_tasks: int = 1, max_tasks: int = 99) -> None:
    """Serve until the file system is unmounted, or `terminate` is called.

    At most `max_tasks` requests are under way at once. An exception of a handler that is no
    `FUSEError` is raised here, in an `ExceptionGroup`.
    """
    global trio_token
    if _served is None:
        raise RuntimeError("Need to call init() before main()")
    try:
        trio_token = _serving.token()
        await _served.serve(min_tasks, max_tasks)
    finally:
        trio_token = None
        if _notices is not None:
            _notices.put(None)


def terminate() -> None:
    """Have `main` return. On the thread of its loop: from others by `trio.from_thread.run_sync`."""
    if _served is not None:
        _served.end()


def close(unmount: bool = True) -> None:
    """Clean up, and unmount unless told not to. After `main` has returned."""
    global _mounted, _served
    mounted, _mounted, _served = _mounted, None, None
    if mounted is not None:
        mounted.close(unmount)


def _mount() -> InodeMount:
    if _mounted is None:
        raise RuntimeError("Need to call init() first")
    return _mounted


def invalidate_inode(inode: int, attr_only: bool = False) -> None:
    """Have the kernel forget attributes of `inode`, and its data unless `attr_only`.

    This waits for the kernel, which first writes what is dirty: with the write-back cache on, call
    it on another thread.
    """
    _mount().invalidate_inode(inode, attr_only)


def invalidate_entry(inode_p: int, name: bytes, deleted: int = 0) -> None:
    """Have the kernel forget `name` in directory `inode_p`; `deleted` is the inode it led to, if it
    was removed.

    This waits for the kernel, which waits for requests about that directory: not in a handler.
    Raises `FileNotFoundError` when the kernel does not know the name.
    """
    _mount().invalidate_entry(inode_p, name, deleted)


def invalidate_entry_async(
    inode_p: int, name: bytes, deleted: int = 0, ignore_enoent: bool = False
) -> None:
    """The same on a thread of its own, one after the other. Errors are logged.

    With `ignore_enoent` not that the kernel did not know the name.
    """
    global _notices
    if _notices is None:
        _notices = queue.SimpleQueue()
        threading.Thread(
            target=_notify, args=(_notices,), name="pyfuse3-notify", daemon=True
        ).start()
    _notices.put((inode_p, name, deleted, ignore_enoent))


def _notify(notices: "queue.SimpleQueue[tuple[int, bytes, int, bool] | None]") -> None:
    global _notices
    while (notice := notices.get()) is not None:
        inode_p, name, deleted, ignore_enoent = notice
        try:
            invalidate_entry(inode_p, name, deleted)
        except Exception as exc:
            if not (ignore_enoent and isinstance(exc, FileNotFoundError)):
                log.exception("inode %d: the name %r could not be invalidated", inode_p, name)
    _notices = None


def notify_store(inode: int, offset: int, data: Buffer) -> None:
    """Have the kernel keep `data` as the contents of `inode` from `offset` on."""
    _mount().store(inode, offset, data)


def syncfs(path: str) -> None:
    """Have the file system that the directory `path` is in written (syncfs(2))."""
    fd = os.open(path, os.O_DIRECTORY)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


NamespaceT = Literal["system", "user"]
StatDict = dict[str, int]
