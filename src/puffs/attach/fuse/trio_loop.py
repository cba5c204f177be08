"""Serving a session in a trio event loop, for file servers with `async def` operations.

A task for each operation would cost more than most operations do. So there are a few tasks that
take turns. Whose turn it is reads requests, and steps each operation by hand, inside its own step;
one that does not wait has ended by then. One that waits stays with this task, which yields to trio
what the operation yields: to trio, and to the operation, it is as if the task had awaited it from
the beginning, so that cancel scopes, nurseries and `current_task` are what they should be. The turn
goes to another task.

Nor does a request cost a turn of the loop, while nothing else is under way: the task waits for the
next one in poll(2). Other tasks of the program get the loop after `SLICE` if one may have something
to do, or after `PATIENCE_MS` without a request, and at once where an operation waits, whose end may
come through the loop.
"""

import errno
import os
from collections.abc import Callable, Coroutine
from functools import partial
from math import inf
from time import monotonic
from types import CoroutineType
from typing import Any, ClassVar, Final

import trio

from puffs.attach.fuse.reader import Enough, Read, Reader, Stop
from puffs.attach.fuse.session import Session
from puffs.server.cred import Requester, requester
from puffs.server.driver import Driver, new_driver, rest_of
from puffs.server.stepping import WAITING, Done, aside

PATIENCE_MS: Final = 1
"""How long the loop stands still for the sake of a next request, in milliseconds."""
SLICE: Final = 0.0002
"""Seconds of serving after which the loop gets a turn, however many requests there are, if anybody
is known to wait for one. A turn takes some 5 µs, and five times as much where that code has not
been run for a while.
"""
TURN: Final = 0.002
"""Seconds of serving after which it gets one in any case."""

STAY: Final = 10
"""For so many times `PATIENCE_MS` without a request the task stays, looking each time whether
anybody waits for the loop, before it waits for a request in trio.
"""

_TRIOS_OWN: Final = 1
"""Tasks that wait for descriptors: trio itself has one."""

MIN_TASKS: Final = 1
MAX_TASKS: Final = 99
"""Operations under way at once; with more, no further request is read."""


class TrioStepper:
    """Steps coroutines inside the task that is running; one at a time may wait there.

    What else waits, of the same request, gets a task of its own from its beginning: a task can
    yield for one of them only. `enough` is set when one of either kind waits: the loop has to go
    on.
    """

    kind: ClassVar[type] = CoroutineType
    copies: ClassVar[bool] = False

    def __init__(self, nursery: trio.Nursery, enough: Enough) -> None:
        self._nursery = nursery
        self._enough = enough
        self._driver = new_driver()
        self._stepped: tuple[Driver, Any] | None = None
        self._unstepped: Coroutine[Any, Any, Any] | None = None
        self._here: tuple[Driver, Any, Requester, Done] | None = None
        self.under_way = 0
        """How many operations wait."""

    def move(self, nursery: trio.Nursery) -> None:
        """Have further tasks started there."""
        self._nursery = nursery

    @property
    def waits_here(self) -> bool:
        """Whether an operation waits that the running task has stepped: call `see_through` next."""
        return self._here is not None

    def step(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Step a coroutine up to its end, or to where it first waits. See `Stepper`."""
        if self._here is not None:
            self._unstepped = coroutine
            return WAITING
        driver = self._driver
        try:
            result = driver.send(coroutine)
        except BaseException:
            self._driver = new_driver()
            raise
        if driver.gi_yieldfrom is None:
            return result
        self._stepped, self._driver = (driver, result), new_driver()
        return WAITING

    def adopt(self, who: Requester, done: Done) -> None:
        """Have what has just been stepped go on. See `Stepper`."""
        self.under_way += 1
        self._enough.now = True
        if self._unstepped is not None:
            coroutine, self._unstepped = self._unstepped, None
            self._nursery.start_soon(self._run, coroutine, who, done, name="puffs operation")
        else:
            assert self._stepped is not None
            self._here, self._stepped = (*self._stepped, who, done), None

    def cancel(self, who: Requester) -> None:
        """Operations are not cancelled: they have no cancel scope, which would have to be entered
        for each.
        """

    async def see_through(self) -> None:
        """Finish what waits here, and what follows from it."""
        while self._here is not None:
            (driver, waiting, who, done), self._here = self._here, None
            requester.set(who)
            try:
                result = await rest_of(driver, waiting, None)
            except BaseException as exc:
                self._failed(exc, done)
            else:
                self._finished(result, done)

    async def _run(self, coroutine: Coroutine[Any, Any, Any], who: Requester, done: Done) -> None:
        """The life of a task for one operation."""
        requester.set(who)
        try:
            result = await coroutine
        except BaseException as exc:
            self._failed(exc, done)
        else:
            self._finished(result, done)
        await self.see_through()

    def _finished(self, result: Any, done: Done) -> None:
        self.under_way -= 1
        done(result, None)

    def _failed(self, exc: BaseException, done: Done) -> None:
        """Tell what an operation raised. What is none of its affair goes on from here."""
        self.under_way -= 1
        if isinstance(exc, Exception):
            done(None, exc)
        else:  # cancelled, or the program is to end
            done(None, InterruptedError(errno.EINTR, os.strerror(errno.EINTR)))
            raise exc


class TrioServer:
    """Serves `session` in the running loop.

    `check` is called now and then, soon after `look_up`, and may raise, which ends serving; so does
    `end`.
    """

    def __init__(self, session: Session, check: Callable[[], None] = lambda: None) -> None:
        self._session = session
        self._check_now = check
        self._turn = trio.Lock()
        self._tasks = 0
        self._ended = self._gone = False
        self._enough = Enough(False)
        self._nursery: trio.Nursery
        self._stepper: TrioStepper
        self._reader: Reader

    async def serve(self, min_tasks: int = MIN_TASKS, max_tasks: int = MAX_TASKS) -> None:
        """Serve until the mount has ended, or `end`; what is under way then is finished.

        `min_tasks` tasks stay to read when they have nothing else to do, of `max_tasks` at most.
        """
        session, mount = self._session, self._session.mount
        async with trio.open_nursery() as nursery:
            self._nursery, self._stepper = nursery, TrioStepper(nursery, self._enough)
            session.serving_here()
            mount.finish = partial(aside, self._stepper)
            self._reader = session.reader(stepper=self._stepper)
            os.set_blocking(session.fileno(), False)
            self._hire(min_tasks, max_tasks)

    async def close(self) -> None:
        """Close the session: the file server is told of files that are still open.

        After `serve`, and where operations may still wait.
        """
        async with trio.open_nursery() as nursery:
            self._stepper.move(nursery)
            self._session.close()
            await self._stepper.see_through()

    @property
    def unmounted(self) -> bool:
        """Whether the mount has gone."""
        return self._gone

    def end(self) -> None:
        """Serve no more. On the thread of the loop."""
        if not self._ended:
            self._ended = self._enough.now = True
            trio.lowlevel.notify_closing(self._session.fileno())

    def look_up(self) -> None:
        """Call `check` after the request that is under way. On the thread of the loop."""
        self._enough.now = True

    def _check(self) -> None:
        try:
            self._check_now()
        except BaseException:
            self._ended = True  # once is enough
            raise

    def _hire(self, min_tasks: int, max_tasks: int) -> None:
        self._tasks += 1
        self._nursery.start_soon(self._work, min_tasks, max_tasks, name="puffs")

    async def _work(self, min_tasks: int, max_tasks: int) -> None:
        """The life of a task: it reads when it is its turn, and sees through what waits in it."""
        turn, stepper = self._turn, self._stepper
        while True:
            requester.set(self._reader.channel)
            await turn.acquire()
            try:
                await self._read()
            finally:
                turn.release()
            # Nothing may be awaited before what waits here: this task is about to yield for it.
            if not stepper.waits_here:
                break
            if not turn.statistics().tasks_waiting and self._tasks < max_tasks:
                self._hire(min_tasks, max_tasks)
            await stepper.see_through()
            self._check()
            if turn.statistics().tasks_waiting >= min_tasks:
                break
        self._tasks -= 1

    async def _read(self) -> None:
        """Serve until an operation waits in this task, or there is no more to serve."""
        reader, stepper, enough = self._reader, self._stepper, self._enough
        turn, quiet = monotonic(), 0
        while not self._ended:
            enough.now = False
            try:
                read = reader.serve_for(SLICE, 0 if stepper.under_way else PATIENCE_MS, enough)
            except Stop:
                read = Read.ENDED
            if read is Read.ENDED:
                self._gone = True
                self.end()
            self._check()
            if stepper.waits_here or self._ended:
                return
            quiet = quiet + 1 if read is Read.NOTHING else 0
            others = _others_wait()
            if quiet and (others or stepper.under_way or quiet > STAY):
                try:
                    await trio.lowlevel.wait_readable(self._session.fileno())
                except trio.ClosedResourceError:
                    return
            elif others or monotonic() - turn > TURN:
                await trio.lowlevel.checkpoint()
            else:
                continue
            turn = monotonic()


def _others_wait() -> bool:
    """Whether a task may have something to do, or this one has been cancelled."""
    loop = trio.lowlevel.current_statistics()
    waiting = loop.io_statistics.tasks_waiting_read + loop.io_statistics.tasks_waiting_write
    return bool(
        loop.tasks_runnable
        or loop.run_sync_soon_queue_size
        or loop.seconds_to_next_deadline < SLICE
        or waiting > _TRIOS_OWN
        or trio.current_effective_deadline() == -inf
    )
