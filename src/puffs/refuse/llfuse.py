"""llfuse's API (1.5) on puffs: the one changed line is `from puffs.refuse import llfuse`.

Handlers are called by several threads, one at a time: each holds the global lock, `lock`, which a
handler may give up for a while (`lock_released`). Names are bytes and files are inode numbers; the
program counts lookups.
"""

import errno
import logging
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

from puffs.refuse.inode_mount import InodeMount
from puffs.refuse.inode_values import (
    ENOATTR,
    ROOT_INODE,
    EntryAttributes,
    FUSEError,
    RequestContext,
    SetattrFields,
    StatvfsData,
    get_sup_groups,
    getxattr,
    listdir,
    setxattr,
)
from puffs.refuse.inodes import SyncInodes
from puffs.server.types import Buffer

__all__ = (
    "ENOATTR",
    "ROOT_INODE",
    "EntryAttributes",
    "FUSEError",
    "Lock",
    "NoLockManager",
    "Operations",
    "RequestContext",
    "SetattrFields",
    "StatvfsData",
    "__version__",
    "close",
    "default_options",
    "get_ino_t_bits",
    "get_off_t_bits",
    "get_sup_groups",
    "getxattr",
    "init",
    "invalidate_entry",
    "invalidate_inode",
    "listdir",
    "lock",
    "lock_released",
    "main",
    "notify_store",
    "setxattr",
    "stop",
)

__version__: Final = "1.5.2"
"""The release of llfuse whose API this is."""

log = logging.getLogger("llfuse")

default_options: Final = frozenset(
    ("big_writes", "default_permissions", "no_splice_read", "splice_write", "splice_move")
)
WORKERS: Final = 30
"""How many threads serve unless `main` is told."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NANOS_PER_SEC: Final = 1_000_000_000


class Lock:
    """The global lock. Who waits for it gets it in the order of asking."""

    def __init__(self) -> None:
        self._owner = 0
        self._waiters: deque[tuple[int, threading.Lock]] = deque()
        self._mutex = threading.Lock()

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for the lock, for `timeout` seconds at most; whether it is held now."""
        me = threading.get_ident()
        with self._mutex:
            if self._owner == 0:
                self._owner = me
                return True
            if self._owner == me:
                raise RuntimeError("Global lock cannot be acquired more than once")
            gate = threading.Lock()
            gate.acquire()
            self._waiters.append((me, gate))
        if gate.acquire(timeout=-1 if timeout is None else timeout):
            return True
        with self._mutex:
            if self._owner == me:  # handed over in the last moment
                return True
            self._waiters.remove((me, gate))
            return False

    def release(self) -> None:
        """Give the lock to who has waited longest, or to nobody."""
        with self._mutex:
            if self._owner != threading.get_ident():
                raise RuntimeError("Lock can only be released by the holding thread")
            self._owner = 0
            if self._waiters:
                self._owner, gate = self._waiters.popleft()
                gate.release()

    def yield_(self, count: int = 1) -> None:
        """Let other threads have the lock up to `count` times, if any wait for it."""
        for _ in range(count):
            if not self._waiters:
                return
            self.release()
            self.acquire()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class NoLockManager:
    """A `with` statement during which the global lock is given up."""

    def __enter__(self) -> None:
        lock.release()

    def __exit__(self, *_: object) -> None:
        lock.acquire()


lock: Final = Lock()
lock_released: Final = NoLockManager()


def _missing() -> NoReturn:
    raise FUSEError(errno.ENOSYS)


class Operations:
    """The handlers of a file system: derive from it, and define those that your files have.

    A handler raises `FUSEError` for its caller's system call to fail. Any other exception ends
    `main`, which raises it. One that is not defined is not implemented: ENOSYS, which for many
    calls tells the kernel to go on by itself, and not to ask again.
    """

    def init(self) -> None:
        """Called once, before the first request."""

    def destroy(self) -> None:
        """Called once, by `close`."""

    def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """The attributes of `name` in a directory; ENOENT, or `st_ino` 0, if it is not there.

        Counts as a lookup. "." and ".." may be asked for too, for file handles.
        """
        _missing()

    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The kernel has forgotten each of these inodes so many times as is said beside it."""

    def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """The attributes of an inode."""
        _missing()

    def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """Change those attributes that `fields` names to what they are in `attr`; all of them after
        that. `fh` is given for an open file.
        """
        _missing()

    def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """What a symbolic link holds."""
        _missing()

    def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a file of the type in `mode`. Counts as a lookup."""
        _missing()

    def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a directory. Counts as a lookup."""
        _missing()

    def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Take a name away. The inode lives until the kernel has forgotten it."""
        _missing()

    def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Take an empty directory away; ENOTEMPTY when it is not."""
        _missing()

    def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a symbolic link. Counts as a lookup."""
        _missing()

    def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        ctx: RequestContext,
    ) -> None:
        """Move a name. A caller that asks for more than rename(2) gets EINVAL."""
        _missing()

    def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """Give an inode a further name. Counts as a lookup."""
        _missing()

    def open(self, inode: int, flags: int, ctx: RequestContext) -> int:
        """Open a file; a number for it. What the kernel has cached of it stays."""
        _missing()

    def read(self, fh: int, off: int, size: int) -> bytes:
        """`size` bytes from `off` on; fewer only at the end of the file."""
        _missing()

    def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write all of `buf` at `off`, and return how much that was."""
        _missing()

    def flush(self, fh: int) -> None:
        """A descriptor is being closed: the last chance to report an error."""
        _missing()

    def release(self, fh: int) -> None:
        """The last descriptor has been closed."""
        _missing()

    def fsync(self, fh: int, datasync: bool) -> None:
        """Bring a file to stable storage; with `datasync` its data only."""
        _missing()

    def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Open a directory; a number for it."""
        _missing()

    def readdir(self, fh: int, off: int) -> Iterable[tuple[bytes, EntryAttributes, int]]:
        """The entries from `off` on: name, attributes, and the `off` behind each."""
        _missing()

    def releasedir(self, fh: int) -> None:
        """An open directory is given back."""
        _missing()

    def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Bring the names in a directory to stable storage."""
        _missing()

    def statfs(self, ctx: RequestContext) -> StatvfsData:
        """The size of the file system."""
        _missing()

    def stacktrace(self) -> None:
        """Log what every thread is doing: asked for by setting the extended attribute
        `fuse_stacktrace` of the mount point. Called without the lock.
        """
        lines: list[str] = []
        for thread, frame in sys._current_frames().items():
            lines += [f"thread {thread}:", *traceback.format_stack(frame)]
        log.error("\n".join(lines))

    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Set an extended attribute, whether it is there or not."""
        _missing()

    def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """The value of an extended attribute; `ENOATTR` when there is none."""
        _missing()

    def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """The names of the extended attributes."""
        _missing()

    def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """Take an extended attribute away; `ENOATTR` when there is none."""
        _missing()

    def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        """Whether the caller may do `mode`. Never asked with the option `default_permissions`."""
        _missing()

    def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[int, EntryAttributes]:
        """Make a file and open it; a number for it, and its attributes. Counts as a lookup."""
        _missing()


_mounted: InodeMount | None = None
_inodes: SyncInodes | None = None
_served = False
_notices: "queue.SimpleQueue[tuple[int, bytes | None, bool] | None]" = queue.SimpleQueue()


def init(ops: Any, mountpoint: str, options: Iterable[str] = default_options) -> None:
    """Mount a file system with the handlers of `ops`; `options` are those of libfuse, as strings.

    Whoever uses it waits until `main` runs. Raises `RuntimeError` when it cannot be mounted.
    """
    global _inodes, _mounted, _served
    if not isinstance(mountpoint, str):
        raise TypeError("*mountpoint* argument must be of type str")
    _inodes = SyncInodes(ops, Operations, lock, stop)
    _mounted, _served = InodeMount(_inodes, mountpoint, options, "fuse2"), False


def main(workers: int | None = None, handle_signals: bool = True) -> signal.Signals | None:
    """Serve with so many threads until the file system is unmounted, or `stop` is called.

    With `handle_signals` INT, TERM and HUP end it, and it returns which of them did. An exception
    of a handler that is no `FUSEError` is raised here.
    """
    global _served
    mounted, inodes = _mount(), _inodes
    assert inodes is not None
    if workers == 0:
        raise ValueError("no workers: nobody would serve")
    with _ended_by_signals(handle_signals) as received:
        notifier = threading.Thread(target=_notify, args=(mounted,), name="llfuse-notify")
        notifier.start()
        try:
            with lock:
                mounted.begin()
            _served = True
            mounted.session.run(WORKERS if workers is None else workers)
            if mounted.gone:
                mounted.end()
                inodes.last_words()
        finally:
            _notices.put(None)
            notifier.join()
    mounted.inodes.check()
    return received[0] if received else None


def stop() -> None:
    """Have `main` return. From any thread."""
    session = _mount().session
    # Not here: it takes locks, which this thread may hold.
    threading.Thread(target=session.stop, name="llfuse-stop", daemon=True).start()


def close(unmount: bool = True) -> None:
    """Clean up, and unmount unless told not to. After `main` has returned."""
    global _mounted
    mounted, _mounted = _mounted, None
    if mounted is not None:
        mounted.close(unmount)
        if _served:
            with lock:
                mounted.inodes.program.destroy()


@contextmanager
def _ended_by_signals(wanted: bool) -> Iterator[list[signal.Signals]]:
    """Within, signals have `main` return; they are collected. On the main thread only."""
    received: list[signal.Signals] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def end(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        stop()

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mount() -> InodeMount:
    if _mounted is None:
        raise RuntimeError("Need to call init() first")
    return _mounted


def invalidate_inode(inode: int, attr_only: bool = False) -> None:
    """Have the kernel forget attributes of `inode`, and its data unless `attr_only`.

    Does not wait for it. While `main` runs.
    """
    _notices.put((inode, None, attr_only))


def invalidate_entry(inode_p: int, name: bytes) -> None:
    """Have the kernel forget `name` in directory `inode_p`. Does not wait for it."""
    _notices.put((inode_p, name, False))


def _notify(mounted: InodeMount) -> None:
    """Tell the kernel what was asked for, until the end."""
    while (notice := _notices.get()) is not None:
        inode, name, attr_only = notice
        try:
            if name is None:
                mounted.invalidate_inode(inode, attr_only)
            else:
                mounted.invalidate_entry(inode, name)
        except FileNotFoundError:
            pass  # the kernel knows nothing of it
        except Exception:
            log.exception("inode %d (%r) could not be invalidated", inode, name)


def notify_store(inode: int, offset: int, data: Buffer) -> None:
    """Have the kernel keep `data` as the contents of `inode` from `offset` on."""
    _mount().store(inode, offset, data)


def get_ino_t_bits() -> int:
    """How many bits an inode number may have."""
    return 64


def get_off_t_bits() -> int:
    """How many bits an offset may have."""
    return 64
