"""Serving a session in an asyncio event loop, for file servers with `async def` operations.

In a loop of somebody else's, the descriptor is one among those that the loop watches. A loop that
exists for the mount alone (`ServingLoop`) need not watch while nothing else goes on: it waits in
the read itself, and a request costs no turn of the loop.
"""

import asyncio
import os
import selectors
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TypeVarTuple

from puffs.attach.fuse.reader import Enough, Read, Reader, Stop
from puffs.attach.fuse.session import Session
from puffs.server.aio import AsyncioStepper
from puffs.server.cred import requester
from puffs.server.stepping import aside, finish

_Ts = TypeVarTuple("_Ts")

MAX_WAITING = 4096
"""Operations under way at once; with more, no further request is read."""
AT_ONCE = 64
"""Requests served before the loop gets another turn."""
GRACE_SECONDS = 5.0
"""How long operations may go on when the connection has ended, before they are cancelled."""


async def serve(session: Session) -> None:
    """Serve `session` in the running loop until it is unmounted; then give everything back."""
    server = LoopServer(session)
    try:
        await server.run()
    finally:
        await server.close()
        await server.finish()


class LoopServer:
    """What serves one session in the running loop.

    Unless `interrupts`, no signal of a caller cancels an operation.
    """

    def __init__(self, session: Session, *, interrupts: bool = True) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._stepper = AsyncioStepper(self._loop, finished=self._resume, interrupts=interrupts)
        self._paused = False
        self.unmounted = False
        """Whether the mount has gone."""
        self._reader: Reader

    async def run(self) -> None:
        """Serve until the mount is gone, or `end`."""
        session, mount = self._session, self._session.mount
        mount.finish = partial(aside, self._stepper)
        mounted: asyncio.Task[None] | None = None
        try:
            if await asyncio.to_thread(session.start):
                session.serving_here()
                self._reader = session.reader(stepper=self._stepper)
                self._watch()
                # No operation that a host waits for: it may go on for as long as the mount lives.
                mounted = asyncio.create_task(mount.tell_and_wait("mounted", mount))
                session.ready()
                await self._ended
            else:
                self.unmounted = True
        finally:
            if mounted is not None:
                mounted.cancel()
            self._loop.remove_reader(session.fileno())
            if isinstance(self._loop, ServingLoop):
                self._loop.serve_inline(None)
            await self._stepper.drain(GRACE_SECONDS)

    async def close(self) -> None:
        """Close the session: the file server is told of files that are still open."""
        await self._outside(self._session.close)
        await self._stepper.drain(GRACE_SECONDS)

    async def finish(self) -> None:
        """Give everything else back."""
        session, mount = self._session, self._session.mount
        for name, args in mount.last_words(session):
            await mount.tell_and_wait(name, *args)
        self.dismiss()
        mount.finish = finish
        mount.gone()

    def dismiss(self) -> None:
        """Dismiss the tasks that operations run in. Nothing may be under way."""
        self._stepper.close()

    async def _outside(self, function: Callable[[], None]) -> None:
        """Call what steps operations, which cannot be done inside a task."""
        called = self._loop.create_future()

        def call() -> None:
            try:
                function()
            except Exception as exc:
                called.set_exception(exc)
            else:
                called.set_result(None)

        self._loop.call_soon(call)
        await called

    def _watch(self) -> None:
        fd = self._session.fileno()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)
        if isinstance(self._loop, ServingLoop):
            self._loop.serve_inline(self._inline, self._session.wake)

    def _readable(self) -> None:
        """Serve what there is, up to a limit."""
        for _ in range(AT_ONCE):
            if self._stepper.waiting >= MAX_WAITING:
                self._paused = True
                self._loop.remove_reader(self._session.fileno())
                return
            read = self._serve(Reader.serve_one)
            if read is Read.ENDED:
                self._gone()
            if read is not Read.SERVED or self._ended.done():
                return

    def _resume(self) -> None:
        """An operation has finished: read on, if there were too many."""
        if self._paused and not self._ended.done():
            self._paused = False
            self._loop.add_reader(self._session.fileno(), self._readable)

    def _inline(self, busy: Enough) -> None:
        """Serve, waiting for each request in the read, until the loop has something to do."""
        if self._stepper.waiting or self._paused or self._ended.done():
            return
        fd = self._session.fileno()
        os.set_blocking(fd, True)
        try:
            if self._serve(lambda reader: reader.serve_until(busy)) is Read.ENDED:
                self._gone()
        finally:
            if not self._ended.done():
                os.set_blocking(fd, False)

    def _serve(self, serve: Callable[[Reader], Read]) -> Read:
        token = requester.set(self._reader.channel)
        try:
            return self._stepper.inside(serve, self._reader)
        except Stop:
            return Read.ENDED
        finally:
            requester.reset(token)

    def _gone(self) -> None:
        self.unmounted = True
        self.end()

    def end(self) -> None:
        """Serve no more. On the thread of the loop."""
        if not self._ended.done():
            self._loop.remove_reader(self._session.fileno())
            self._ended.set_result(None)


class _Selector(selectors.DefaultSelector):
    """A selector that lets `idle` do the waiting when the loop would wait without a limit."""

    idle: Callable[[], bool] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None and self.idle is not None and self.idle():
            return []
        return super().select(timeout)

    def now(self) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready without waiting."""
        return super().select(0)


class ServingLoop(asyncio.SelectorEventLoop):
    """An event loop that serves a mount by itself whenever it has nothing else to do.

    It then waits in the read of the connection and not in its selector. What another thread brings
    (`call_soon_threadsafe`) reaches it by a request that it makes the kernel send.
    """

    def __init__(self) -> None:
        self._own = _Selector()
        super().__init__(self._own)
        self._serve: Callable[[Enough], None] | None = None
        self._wake: Callable[[], object] | None = None
        self._busy = Enough(False)
        self._inline = False

    def serve_inline(
        self,
        serve: Callable[[Enough], None] | None,
        wake: Callable[[], object] | None = None,
    ) -> None:
        """Have `serve(busy)` called when there is nothing to do: it serves until `busy.now`.

        `wake` makes it look up from another thread.
        """
        self._serve, self._wake = serve, wake
        self._own.idle = self._idle if serve is not None else None

    def _idle(self) -> bool:
        if len(self._own.get_map()) != _OWN_DESCRIPTORS or self._serve is None:
            return False
        # In this order: what another thread brings from here on either is seen by `now`, through
        # the loop's own pipe, or comes with a wake.
        self._inline = True
        try:
            self._busy.now = False
            if self._own.now():
                return False
            self._serve(self._busy)
            return self._busy.now
        finally:
            self._inline = False

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As in asyncio."""
        self._busy.now = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As in asyncio."""
        self._busy.now = True
        return super().call_at(when, callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As in asyncio."""
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._busy.now = True
        if self._inline and self._wake is not None:
            self._wake()
        return handle


_OWN_DESCRIPTORS = 2
"""What the selector watches when nobody else uses the loop: its own pipe, and the connection."""
