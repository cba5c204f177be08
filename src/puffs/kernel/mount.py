"""`Mount`: one file server, mounted. Its states, its root, and the operations on the file system as
a whole.

States (statement 2.1): BEFOREINIT until the arguments are checked and the file server has given its
root; MOUNTING until the host has answered; RUNNING; DYING from the moment that nothing can reach
the file server any more.

A host is connected by an *attachment* (Linux FUSE, this process). Messages to a file server in the
same process are plain calls, made on the thread that serves; `Mount.call` brings calls from other
threads there.
"""

import errno
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, TypeVar

from puffs.kernel import police
from puffs.kernel.args import KernelFlag, MountArgs
from puffs.kernel.attachment import Attachment as Attachment
from puffs.kernel.attachment import Counting, Filling, LongNames
from puffs.kernel.attachment import Servable as Servable
from puffs.kernel.attachment import made as made
from puffs.kernel.attachment import name_of as name_of
from puffs.kernel.cached import CachedPages
from puffs.kernel.flush import Flushing, HostCache
from puffs.kernel.fstrans import Fstrans, State
from puffs.kernel.messages import Messages
from puffs.kernel.messages import ServerDied as ServerDied
from puffs.kernel.pages import PageCache
from puffs.kernel.sizes import NOTHING, Sizes
from puffs.kernel.suspend import (
    SECONDS,
    SUSPEND_RESUME,
    SUSPEND_SUSPEND,
    Suspended,
    snapshot,
    suspendctl,
)
from puffs.kernel.sync import Wait, pageflush, sync
from puffs.kernel.vnode import Vnode, VnodeTable
from puffs.server.attr import Attr, StatVfs
from puffs.server.cred import FSCRED, Cred
from puffs.server.operations import CHANGING, OPERATIONS, REQUIRED
from puffs.server.stepping import finish

logger = logging.getLogger("puffs")

T = TypeVar("T")


class Status(IntEnum):
    """The state of a mount, numbered as the reference does."""

    BEFOREINIT = 0
    MOUNTING = 1
    RUNNING = 2
    DYING = 3


class Refused(OSError):
    """The file server does not agree to be unmounted: its errno and its words."""


def args_for(server: Servable, flags: int = 0) -> MountArgs:
    """What a mounting of `server` asks for: its name, its file handles as it has them, and `flags`
    of `KernelFlag`.
    """
    return MountArgs(name_of(server), flags=flags, fhsize=server.fhsize, fhflags=server.fhflags)


class Mount(Messages, Flushing):
    """The kernel half of one mount.

    Building it checks the arguments and calls the file server's `mount`, whose error is the
    caller's. `args` None means what `args_for` says. `clock` gives the present
    in nanoseconds. `finish` is given what an operation returned and gives back its result: the same
    thing, or that of the coroutine of an `async def`. An attachment with an event loop sets
    its own.
    """

    def __init__(
        self,
        server: Servable,
        args: MountArgs | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
        finish: Callable[[Any], Any] = finish,
    ) -> None:
        self.status = Status.BEFOREINIT
        super().__init__(server, name_of(server), dict(server.operations()), finish)
        self.args = (args or args_for(server)).checked()
        self.server_pid = os.getpid()
        """The process that answers."""
        self.mountpoint = ""
        """Where a host shows this mount, for people; empty while none does."""
        self.fsid = secrets.randbits(63)
        """Names this mount, and no other (M30)."""
        self.sizes = Sizes(self.fsid)
        self.clock = clock
        unknown = self.ops.keys() - OPERATIONS.keys()
        missing = [name for name in REQUIRED if name not in self.ops]
        if unknown or missing:
            what = (
                f"lacks {', '.join(missing)}"
                if missing
                else f"has unknown operations {sorted(unknown)}"
            )
            raise TypeError(f"{type(server).__name__} {what}: it cannot be mounted")
        if server.posix_acl and not {"getxattr", "setxattr"} <= self.ops.keys():
            raise TypeError(
                f"{type(server).__name__} says posix_acl, but has no getxattr and setxattr for them"
            )
        self.counting = server if isinstance(server, Counting) else None
        """The file server again, if it counts lookups for itself."""
        self.filling = server if isinstance(server, Filling) else None
        """The same if it fills listings itself."""
        self.namemax = server.namemax if isinstance(server, LongNames) else police.NAME_MAX
        """The longest name that hosts are shown and may ask for, in bytes."""
        self.vnodes = VnodeTable(
            generation=secrets.randbits(32),
            fileid=self.ops.get("fileid"),
            inactive=self._faf("inactive"),
            reclaim=self._faf("reclaim"),
            forgotten=None if self.counting is None else self.counting.forgotten,
        )
        self.fstrans = Fstrans()
        self.pages = PageCache(
            allowed="read" in self.ops and not self.args.flags & KernelFlag.NOCACHE_PAGE,
            sets_times="setattr" in self.ops and not self.args.flags & KernelFlag.NOFLUSH_META,
        )
        self._cached = CachedPages(self.fstrans)
        self._attaching = threading.Lock()
        self._unmounting = threading.Lock()
        self._gone = threading.Event()
        cookie = self.finish(self.ops["mount"]())
        try:
            police.usable(cookie, "MAKENODE", "mount()", "the cookie of the root")
            self._root = self.vnodes.set_root(cookie)
            attr = self.finish(self.ops["getattr"](cookie, None))
            attr = police.attributes(attr, cookie, "getattr")
        except BaseException:
            self.abandon()
            raise
        self._root.ino = attr.ino or self._root.ino
        self.root_type = self._root.type = attr.type
        self.status = Status.MOUNTING

    # ----------------------------------------------------------------------------------- life cycle

    @property
    def attachments(self) -> list[Attachment]:
        """What connects hosts now."""
        return list(self._attachments)

    @property
    def read_only(self) -> bool:
        """Whether the file server defines nothing that changes the file system."""
        return CHANGING.isdisjoint(self.ops)

    @property
    def names_last(self) -> bool:
        """Whether hosts may remember names at all.

        Not where the file server decides who may search a directory: what one caller has found,
        another one may not be allowed to (unless it says that there is no difference).
        """
        if self.args.flags & KernelFlag.NOCACHE_NAME:
            return False
        return self.server.names_for_all or "access" not in self.ops

    @property
    def exports(self) -> bool:
        """Whether a file can be found again by the number that `fileid` gave (`vget`).

        Then hosts may be promised that their handles outlive what they remember.
        """
        return "fileid" in self.ops and "vget" in self.ops

    @property
    def tracks_opens(self) -> bool:
        """Whether the file server has any use for open files.

        If not, hosts need not tell of them.
        """
        return not self.ops.keys().isdisjoint(("open", "close", "inactive"))

    def attach(self, attachment: Attachment) -> None:
        """Connect a host. The mount lives until its last attachment is gone.

        The page cache is in use as long as all of them work through it: a host with a cache of its
        own would not see what is in there, nor it what that host changes.

        Raises `OSError`: ENXIO when it is gone already, EOPNOTSUPP beside a host that is `alone`.
        """
        with self._attaching:
            if self.status is Status.DYING:
                raise OSError(errno.ENXIO, f"{self.name} is {self.status.name}")
            if alone := next((each.alone for each in self._attachments if each.alone), ""):
                raise OSError(errno.EOPNOTSUPP, f"{self.name} cannot be shared: {alone}")
            self.pages.switch(attachment.by_call and self._by_call())
            self._attachments.append(attachment)
            self.vnodes.shared = self.shared

    @property
    def shared(self) -> bool:
        """Whether it has several attachments: what one changes, the others are to be told."""
        return len(self._attachments) > 1

    def host_caches(self, beside: Attachment | None = None) -> list[HostCache]:
        """What hosts have cached; all of them but that of `beside`."""
        if self.status is not Status.RUNNING:  # not yet, or not any more
            return []
        return [each.cache for each in list(self._attachments) if each is not beside]

    def caches(self) -> list[HostCache]:
        """What is cached (`Flushing`): by hosts, and here for those that work by call.

        These have one page cache in common, so that none of them is told what another changes.
        """
        return [*self.host_caches(), self._cached] if self.pages.on else self.host_caches()

    def _by_call(self) -> bool:
        return all(attachment.by_call for attachment in self._attachments)

    def check_running(self) -> None:
        """ENXIO unless the file server can be asked."""
        if self.status is not Status.RUNNING:
            raise self.not_running()

    def not_running(self) -> OSError:
        """Why a mount that is not running cannot be used: the error for whoever tries."""
        if self.why:
            return ServerDied(errno.ENXIO, self.why)
        return OSError(errno.ENXIO, f"{self.name} is {self.status.name}")

    def start(self) -> None:
        """The host is ready:

        MOUNTING becomes RUNNING. Legal once only (S3, improved; 6.1 item 8).
        """
        with self._attaching:
            if self.why:
                raise self.not_running()
            if self.status is not Status.MOUNTING:
                raise OSError(errno.EINVAL, f"start of a mount that is {self.status.name}")
            self.status = Status.RUNNING

    def userdead(self, why: str) -> bool:
        """The file server has died: nothing can be asked of it any more (Q16, U8).

        The mount is there until it is unmounted. False when it has ended already.
        """
        with self._attaching:
            if self.status not in (Status.MOUNTING, Status.RUNNING):
                return False
            self.status, self.why = Status.DYING, why
        return True

    def abandon(self) -> None:
        """No host could be connected: end it, as if it had been unmounted (M31). Again: nothing."""
        with self._attaching:
            if self.status is Status.DYING:
                return
            self.status = Status.DYING
            self._attachments.clear()
        self._end()

    def _end(self) -> None:
        for name, args in self._farewell():
            self.tell(name, *args)
        self.gone()

    def detached(self, attachment: Attachment) -> None:
        """An attachment has lost its host.

        The last one ends the mount: every node is reclaimed, then `unmounted`.
        """
        for name, args in self.last_words(attachment):
            self.tell(name, *args)
        self.gone()

    def last_words(self, attachment: Attachment) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """The messages that end the mount, if `attachment` was its last one: for `tell`, in order.

        `gone` comes after them. For attachments that must wait for each in a way of their own.
        """
        with self._attaching:
            if attachment not in self._attachments:
                return
            self._attachments.remove(attachment)
            if self._attachments:
                self.pages.switch(self._by_call())
                return
            running = self.status is Status.RUNNING
            self.status = Status.DYING
        self.fstrans.setstate(State.NORMAL)
        if running:
            try:
                pageflush(self, FSCRED, Wait.WAIT)
            except OSError as exc:
                logger.error("%s: not all could be written: %s", self.name, exc)
            yield "sync", (True, Cred.current())
        yield from self._farewell()

    def gone(self) -> None:
        """The last words have been said: if there is no attachment left, the mount is gone."""
        if self.status is Status.DYING and not self._attachments:
            self._gone.set()

    def _farewell(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for name, cookie in self.vnodes.clear():
            yield name, (cookie,)
        yield "unmounted", ()

    def unmount(self, force: bool = False) -> None:
        """Unmount: ask the file server, take the mount from every host, and wait until it is gone.

        Raises `OSError`: EBUSY when files are open (U2, without asking the file server) or the
        mount is suspended, `Refused` with the errno of the file server (U9), EBUSY for a second
        unmount at the same time. With `force` nothing is refused, and what is suspended is resumed
        first. A mount that is gone is left alone. Not for use inside an operation.
        """
        if not self._unmounting.acquire(blocking=force):
            raise OSError(errno.EBUSY, f"{self.name} is being unmounted already")
        try:
            if self._gone.is_set():
                return
            self._clear_the_way(force)
            try:
                # U5, improved: in MOUNTING nobody is asked and nobody refuses.
                if self.status is Status.RUNNING:
                    self._ask_unmount(force)
            except BaseException:  # U6: a signal's leaves it there, unless it is to go anyway
                if force:
                    self._detach(force)
                raise
            self._detach(force)
        finally:
            self._unmounting.release()

    def _clear_the_way(self, force: bool) -> None:
        """EBUSY for what stands in the way of an unmount, before the file server is asked (U2).

        With `force` nothing does.
        """
        if self.fstrans.state is State.SUSPENDED:
            if not force:
                raise OSError(errno.EBUSY, f"{self.name} is suspended: resume it first")
            self.resume()
        if not force and any(attachment.busy() for attachment in self._attachments):
            raise OSError(errno.EBUSY, f"files of {self.name} are open")

    def _detach(self, force: bool) -> None:
        """Take the mount from every host, and wait until it is gone."""
        with self._attaching:
            attached = list(self._attachments)
            idle = not attached and self.status is not Status.DYING
            if idle:
                self.status = Status.DYING
        if idle:
            self._end()
        for attachment in attached:
            attachment.detach(force)
        self._gone.wait()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the mount is gone, `timeout` seconds at most. Tells whether it is."""
        return self._gone.wait(timeout)

    def __enter__(self) -> "Mount":
        return self

    def __exit__(self, *exc: object) -> None:
        self.unmount(force=True)

    async def __aenter__(self) -> "Mount":
        return self

    async def __aexit__(self, *exc: object) -> None:
        from asyncio import to_thread

        await to_thread(self.unmount, force=True)  # the loop has to go on meanwhile

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function` where the file server's operations run, and return what it returns."""
        if self._attachments:
            return self._attachments[0].call(function, *args)
        result: T = self.finish(function(*args))
        return result

    def _ask_unmount(self, force: bool) -> None:
        question = self.ops.get("unmount")
        if question is None:
            return
        try:
            self.call(question, force)
        except Exception as exc:
            if not force:
                code = self.errno_of(exc, "unmount")
                own = isinstance(exc, OSError) and exc.errno == code and exc.strerror
                why = f"{own or os.strerror(code)} ({errno.errorcode.get(code, code)})"
                raise Refused(code, f"{self.name} refuses to be unmounted: {why}") from exc

    # ------------------------------------------------------------------------ the whole file system

    def root(self) -> Vnode:
        """The root's vnode. Never asks the file server (R1).

        Raises `OSError`: ENXIO once the mount has ended (R4).
        """
        if self.status is Status.DYING:
            self.check_running()
        return self._root

    def statvfs(self, ask: Callable[[], object] | None = None) -> StatVfs:
        """The size of the file system, zeroes when not implemented.

        `ask` calls the operation, for attachments with a way of their own. Raises `OSError`:
        EINPROGRESS while mounting (V1), ENXIO once the mount has ended (V7); `StatVfsError` with
        what is known all the same when the file server fails (V5).
        """
        if self.status is Status.MOUNTING:
            raise OSError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))
        self.check_running()
        operation = self.ops.get("statvfs")
        if operation is None:
            return self.sizes.good(NOTHING)
        try:
            return self.sizes.good(ask() if ask is not None else self.call(operation))
        except Exception as exc:
            raise self.sizes.failed(self.errno_of(exc, "statvfs")) from exc

    def sync(self, wait: bool | Wait = True, cred: Cred | None = None) -> None:
        """Have everything written that is buffered anywhere, the file server itself last (Y1, Y2).

        `wait` False stands for `Wait.NOWAIT`. Not inside an operation, unless it is `Wait.LAZY`.
        """
        if not isinstance(wait, Wait):
            wait = Wait.WAIT if wait else Wait.NOWAIT
        self.fstrans.start()
        try:
            sync(self, wait, cred or Cred.current())
        finally:
            self.fstrans.done()

    def flush_hosts(self) -> None:
        """Have hosts write what they have buffered: all of them, then the first error is raised."""
        first: OSError | None = None
        for attachment in list(self._attachments):
            try:
                attachment.flush()
            except OSError as exc:
                first = first or exc
        if first is not None:
            raise first

    def suspend(self, seconds: float = SECONDS) -> None:
        """Suspend the mount: no operation is under way and none starts, until `resume`.

        Hosts first write what they have buffered; the file server is told by `suspend`. Who asks
        for an operation meanwhile waits. Raises as `suspendctl` does.
        """
        suspendctl(self, SUSPEND_SUSPEND, seconds)

    def resume(self) -> None:
        """Let a suspended mount go on; EINVAL when it is not suspended."""
        suspendctl(self, SUSPEND_RESUME)

    def suspended(self, seconds: float = SECONDS) -> Suspended:
        """`suspend`, and `resume` at the end of a `with` or `async with` statement."""
        return Suspended(self, seconds)

    def snapshot(self, destination: str, seconds: float = SECONDS) -> None:
        """Have the file server write a copy of itself to `destination`, while it is suspended.

        Raises `OSError`: EOPNOTSUPP for a file server without the operation, EINVAL for a place on
        this very mount, what the file server raises, and as `suspend`.
        """
        snapshot(self, destination, seconds)

    def new_attr(self, mode: int, cred: Cred, rdev: int = 0) -> Attr:
        """The attributes that a new file of `cred` is made with: owner, and all times now."""
        return Attr.new(mode, cred.uid, cred.gid, rdev, self.clock())
