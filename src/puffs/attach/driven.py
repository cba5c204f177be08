"""Sessions driven from outside: for event loops that puffs knows nothing of, such as trio's.

The program waits until the descriptor of the session is readable, in whatever way its loop has, and
has it serve a request:

    session = puffs.session(fs, "/mnt/x", start_soon=nursery.start_soon)
    while session.handle_one():
        await trio.lowlevel.wait_readable(session)
    await session.finish()

In trio `await session.serve()` does what the second and third lines do, and costs much less
(`trio_loop`).
"""

import os
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from inspect import iscoroutine
from types import CoroutineType
from typing import TYPE_CHECKING, Any, ClassVar

from puffs.attach.fuse.reader import Read, Reader, Stop
from puffs.attach.fuse.session import Session
from puffs.kernel.mount import Mount
from puffs.server.cred import Requester, requester
from puffs.server.stepping import WAITING, Done, aside

if TYPE_CHECKING:
    from puffs.attach.fuse.trio_loop import TrioServer

StartSoon = Callable[[Callable[[], Awaitable[None]]], object]
"""Starts a task that runs a coroutine function: `start_soon` of a nursery or a task group."""


def at_once(result: Any) -> Any:
    """The result of an operation that is called before the program's loop can serve.

    Raises `TypeError` when it is a coroutine that waits.
    """
    if not iscoroutine(result):
        return result
    try:
        result.send(None)
    except StopIteration as stop:
        return stop.value
    result.close()
    raise TypeError(
        f"{result.__qualname__} waits before the session can be served: `mount`, and `getattr` of "
        "the root, must not"
    )


class TaskStepper:
    """Runs each operation that is `async def` in a task of its own, begun by `start_soon`.

    For event loops in which a coroutine cannot be stepped by hand.
    """

    kind: ClassVar[type] = CoroutineType
    copies: ClassVar[bool] = False

    def __init__(self, start_soon: StartSoon) -> None:
        self._start_soon = start_soon
        self._coroutine: Coroutine[Any, Any, Any]

    def step(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Nothing is known before its task has run."""
        self._coroutine = coroutine
        return WAITING

    def adopt(self, who: Requester, done: Done) -> None:
        """Start the task."""
        coroutine = self._coroutine

        async def run() -> None:
            requester.set(who)
            try:
                result = await coroutine
            except Exception as exc:
                done(None, exc)
            else:
                done(result, None)

        self._start_soon(run)

    def cancel(self, who: Requester) -> None:
        """Operations are not cancelled: what a task group starts, it does not name."""


class DrivenSession:
    """A mount that the program's own event loop serves. Made by `puffs.session`.

    `ended` is called when all is over.
    """

    def __init__(
        self, session: Session, start_soon: StartSoon | None, ended: Callable[[], None]
    ) -> None:
        self.mount: Mount = session.mount
        self._session = session
        self._ended = ended
        self._stepper = TaskStepper(start_soon) if start_soon is not None else None
        self._reader: Reader | None = None
        self._trio: TrioServer | None = None
        session.serving_here()
        if self._stepper is not None:
            self.mount.finish = partial(aside, self._stepper)
        self._started = session.start()
        os.set_blocking(session.fileno(), False)
        if start_soon is not None:
            start_soon(partial(self.mount.tell_and_wait, "mounted", self.mount))
        else:
            self.mount.tell("mounted", self.mount)
        session.ready()

    def fileno(self) -> int:
        """The descriptor to wait for: readable when there is a request, or when it has ended."""
        return self._session.fileno()

    def handle_one(self) -> bool:
        """Serve a request, if there is one. False when the mount has ended: then call `finish`.

        Never waits for a request.
        """
        if not self._started:
            return False
        if self._reader is None:
            self._reader = self._session.reader(stepper=self._stepper)
        token = requester.set(self._reader.channel)
        try:
            return self._reader.serve_one() is not Read.ENDED
        except Stop:
            return False
        finally:
            requester.reset(token)

    async def serve(self, max_tasks: int = 99) -> None:
        """In trio: serve until the mount has ended, then call `finish`. In place of `handle_one`.

        At most `max_tasks` operations wait at once; with more, no further request is read. When it
        is cancelled, operations that are under way are cancelled too.
        """
        from puffs.attach.fuse.trio_loop import TrioServer

        if self._started:
            self._trio = TrioServer(self._session)
            await self._trio.serve(max_tasks=max_tasks)

    async def finish(self) -> None:
        """Give everything back: the last messages to the file server, then the mount is gone.

        Operations that are under way are not waited for: end their task group first.
        """
        if self._trio is None:
            self._session.close()
        else:
            await self._trio.close()
        for name, args in self.mount.last_words(self._session):
            await self.mount.tell_and_wait(name, *args)
        self.mount.gone()
        self._ended()
