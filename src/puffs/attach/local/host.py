"""This process as a host: the way to the kernel half, what is open, and how all of it ends."""

import errno
import io
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from inspect import iscoroutine
from typing import Any, TypeVar
from weakref import WeakSet

from puffs.kernel.flush import HostCache, NothingCached
from puffs.kernel.mount import Mount
from puffs.kernel.vnops import OpenDir, OpenFile, Then, Vnops
from puffs.server.cred import Cred, Requester, requester
from puffs.server.stepping import Deferred, finish

logger = logging.getLogger("puffs")

T = TypeVar("T")


class ClosedError(ValueError):
    """A file system is used after it was closed: a mistake of its user, as with a closed file."""


class LocalHost:
    """An attachment (`puffs.kernel.mount.Attachment`) of this process to `mount`, for `cred`.

    With `owner` the mount was made for it, and ends with it. Otherwise the mount is somebody
    else's too, and operations run where his do (`Mount.call`).

    Used as a context manager it is the gate: who is inside finishes before the file system goes,
    and after that nobody gets in (`ClosedError`).
    """

    by_call = True
    alone = ""

    def __init__(self, mount: Mount, cred: Cred, owner: bool) -> None:
        self.mount = mount
        self.vnops = Vnops(mount, cred, None if owner else self._reach, self)
        self.cache: HostCache = NothingCached()
        """What is cached on this side."""
        self.handles: set[OpenFile | OpenDir] = set()
        """What the file server must be given back."""
        self.append = threading.RLock()
        """Held from finding the end of a file to writing there."""
        self._owner = owner
        self._finish = mount.finish if owner else finish
        self._streams: WeakSet[io.IOBase] = WeakSet()
        self._inside: dict[int, int] = {}  # how often each thread has entered
        self._changed = threading.Condition()
        self._closed = False
        self._ending = False
        self._lost: Exception | None = None
        """The first error of closing a file at the end."""
        mount.attach(self)
        if owner:
            mount.start()
            mount.tell("mounted", mount)

    # ------------------------------------------------------------------------------------ the gate

    @property
    def closed(self) -> bool:
        """Whether nobody gets in any more."""
        return self._closed

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            depth = self._inside.get(me, 0)
            if self._closed and not depth:
                raise ClosedError(f"{self.mount.name}: this file system is closed")
            self._inside[me] = depth + 1

    def __exit__(self, *exc: object) -> None:
        self._leave(threading.get_ident())

    def refuse_inside(self) -> None:
        """EDEADLK on a thread that is inside: waiting until all are out would never end."""
        if threading.get_ident() in self._inside:
            raise OSError(
                errno.EDEADLK, f"{self.mount.name} cannot be closed inside one of its operations"
            )

    def _leave(self, me: int) -> None:
        with self._changed:
            depth = self._inside[me] - 1
            if depth:
                self._inside[me] = depth
                return
            del self._inside[me]
            if self._closed and not self._inside:
                self._changed.notify_all()

    # ---------------------------------------------------------------------------------- open files

    def add_stream(self, stream: io.IOBase) -> None:
        """A file object that was given to the user: it is closed with the file system."""
        with self._changed:
            self._streams.add(stream)

    def _close_streams(self) -> None:
        """Close all file objects, so that what they buffer is written."""
        with self._changed:
            streams = list(self._streams)
        for stream in streams:
            try:
                stream.close()
            except Exception as exc:
                self._lose(exc)

    def _lose(self, exc: Exception) -> None:
        """What was buffered of a file could not be written in the end."""
        self._lost = self._lost or exc
        if not self._ending:  # others unmount, and are not concerned
            logger.error("%s: closing a file has failed: %s", self.mount.name, exc)

    def give_back(self, handle: OpenFile | OpenDir) -> None:
        """Close an open file or directory in the file server."""
        self.handles.discard(handle)
        if isinstance(handle, OpenFile):
            self.vnops.close(handle)
        else:
            self.vnops.closedir(handle)

    # ------------------------------------------------------------------------- kernel.Attachment

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function` here: in process, operations run on the thread that asks."""
        token = requester.set(self.vnops)
        try:
            result: T = self._finish(function(*args))
            return result
        finally:
            requester.reset(token)

    def post(self, function: Callable[[], None]) -> None:
        """Run `function`: on this thread, unless operations may have to be waited for."""
        self.mount.aside(partial(self.call, function))

    def busy(self) -> bool:
        """Whether files or directories are open."""
        return bool(self.handles)

    def flush(self) -> None:
        """Nothing is buffered on this side; the buffers of file objects are their users'."""

    def check_outside(self) -> None:
        """The transactions see to that (`Mount.fstrans`)."""

    def suspend(self, deadline: float) -> None:
        """The operations of this host are transactions (`Mount.fstrans`): there is none left."""

    def resume(self) -> None:
        """They go on with the transactions."""

    def holds(self, path: str) -> bool:
        """Nothing here has a path of the host."""
        return False

    def detach(self, force: bool) -> None:
        """Let nobody in any more, wait for who is inside, close what is open, and leave the mount.

        Raises `OSError`: EBUSY when files are open and `force` is not set, EDEADLK from inside.
        """
        me = threading.get_ident()
        with self._changed:
            if me in self._inside:
                raise OSError(
                    errno.EDEADLK,
                    f"{self.mount.name} cannot be closed inside one of its operations",
                )
            if self._closed:
                return
            if self.handles and not force:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self._closed = True
            try:
                while self._inside:
                    self._changed.wait()
            except BaseException:
                self._closed = False
                raise
            self._inside[me] = 1  # closing files needs operations
        try:
            self._close_streams()
        finally:
            for handle in list(self.handles):
                try:
                    self.give_back(handle)
                except OSError as exc:
                    self._lose(exc)
            self.mount.settle()
            self._leave(me)
            self.mount.detached(self)

    def end(self) -> None:
        """Detach; unmount if the mount is ours.

        Raises, when all is done, the first error of writing what file objects had buffered.
        """
        if self._closed:
            return
        self._ending = True
        if self._owner:
            try:
                self.mount.unmount(force=True)
            except OSError as exc:
                if exc.errno != errno.EBUSY:  # somebody else is unmounting it, and may be refused
                    raise
        self.detach(True)
        if self._lost is not None:
            raise self._lost

    def _reach(
        self, who: Requester, function: Callable[..., Any], args: tuple[Any, ...], then: Then
    ) -> Any:
        """Call `function` where the operations of this mount run (`puffs.kernel.vnops.Reach`).

        That is here when the thread for it has ended, or is this one.
        """
        started = False

        def run() -> Any:
            nonlocal started
            started = True
            token = requester.set(who)
            try:
                reply = function(*args)
                if iscoroutine(reply):
                    return _as_task(reply, then, copy_context())
                if isinstance(reply, Deferred):
                    return reply if then is None else reply.then(then)
                return reply if then is None else then(reply)
            finally:
                requester.reset(token)

        try:
            return self.mount.call(run)
        except OSError as exc:
            # A loop that is kept waiting for an operation would never come to serve it.
            if started or (exc.errno == errno.EDEADLK and self.mount.server.asynchronous):
                raise
            return finish(run())


async def _as_task(operation: Coroutine[Any, Any, Any], then: Then, context: Context) -> Any:
    """Await an operation with the context, and so with the caller, that it was called with."""
    import asyncio

    whole = operation if then is None else _and_then(operation, then)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # a loop of another kind
        return await whole
    return await loop.create_task(whole, context=context)


async def _and_then(operation: Coroutine[Any, Any, Any], then: Callable[[Any], Any]) -> Any:
    """In one step: nobody comes between the end of the operation and what follows."""
    return then(await operation)
