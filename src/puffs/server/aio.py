"""`async def` operations under asyncio: see `stepping`.

A coroutine must believe that it runs in a task: `asyncio.timeout`, `TaskGroup` and what is built on
them ask for the current task and cancel it. So there is a pool of worker tasks. One of them is
entered as the current task while requests are served, and adopts the first coroutine that waits;
then another one is entered.
"""

import asyncio
import errno
import os
import threading
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import cache
from types import CoroutineType
from typing import Any, ClassVar, TypeVar

from puffs.server.cred import Requester, requester
from puffs.server.driver import Driver, new_driver, rest_of
from puffs.server.stepping import WAITING, Done

T = TypeVar("T")


class _Worker:
    """A task that adopts one waiting coroutine after the other."""

    __slots__ = ("adopted", "cancelled", "context", "driver", "rest", "send", "task", "wake")

    def __init__(self, context: Context, wake: "asyncio.Future[None]") -> None:
        self.context = context
        self.wake = wake
        self.task: asyncio.Task[None]
        self.driver: Driver
        self.send: Callable[[Any], Any]
        self.adopted: tuple[Any, Requester, Done] | None = None
        """What the coroutine in the driver waits for, for whom, and who is told of its end."""
        self.cancelled = False
        """Whether it was the stepper that cancelled what was adopted."""
        self.rest: asyncio.Future[None]
        """Done when what was adopted has finished."""
        self.drive()

    def drive(self) -> None:
        """Take a new driver: an operation that raises ends the one that ran it."""
        self.driver = new_driver()
        self.send = self.driver.send

    def cancel(self) -> None:
        """Cancel what was adopted."""
        self.cancelled = True
        self.task.cancel()


class AsyncioStepper:
    """Steps coroutines in `loop`, which runs on this thread.

    `finished` is called each time that an operation has finished after waiting. Unless
    `interrupts`, `cancel` does nothing.
    """

    kind: ClassVar[type] = CoroutineType
    copies: ClassVar[bool] = False

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        finished: Callable[[], None] = lambda: None,
        *,
        interrupts: bool = True,
    ) -> None:
        self._loop = loop
        self._interrupts = interrupts
        self._finished = finished
        self._idle: list[_Worker] = []
        self._busy: dict[Requester, _Worker] = {}
        self._inside: _Worker | None = None
        """The worker that is entered and has adopted nothing."""
        self._stepped: tuple[_Worker, Any]

    @property
    def waiting(self) -> int:
        """How many operations are under way."""
        return len(self._busy)

    def inside(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function` as if by a worker task.

        Coroutines are stepped cheaply in there, up to the first one that waits.
        """
        loop, worker, who = self._loop, self._take(), requester.get(None)
        outer = asyncio.current_task(loop)
        if outer is not None:
            _leave_task(loop, outer)
        if who is not None:
            worker.context.run(requester.set, who)
        self._inside = worker
        _enter_task(loop, worker.task)
        try:
            return worker.context.run(function, *args)
        finally:
            _leave_task(loop, worker.task)
            if outer is not None:
                _enter_task(loop, outer)
            # One that has cancelled itself and not waited is on its way to its end.
            if self._inside is worker and not worker.task.cancelling():
                self._idle.append(worker)
            self._inside = None

    def step(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Step a coroutine up to its end, or to where it first waits. See `Stepper`."""
        worker = self._inside
        if worker is None:
            return self.inside(self.step, coroutine)
        try:
            result = worker.send(coroutine)
        except BaseException:
            worker.drive()
            raise
        if worker.driver.gi_yieldfrom is None:
            return result
        self._inside, self._stepped = None, (worker, result)
        return WAITING

    def adopt(self, who: Requester, done: Done) -> None:
        """Have a worker finish what has just been stepped. See `Stepper`."""
        worker, waiting = self._stepped
        del self._stepped
        worker.adopted = (waiting, who, done)
        worker.rest = self._loop.create_future()
        self._busy[who] = worker
        if not worker.wake.done():  # unless it has cancelled itself: that wakes it too
            worker.wake.set_result(None)

    def cancel(self, who: Requester) -> None:
        """Cancel the operation that was stepped for `who`, if it is still under way."""
        worker = self._busy.get(who)
        if worker is not None and self._interrupts:
            worker.cancel()

    async def drain(self, seconds: float) -> None:
        """Let what is under way finish, for `seconds` at most; then cancel it."""
        tasks = [worker.rest for worker in self._busy.values()]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        if late:
            for worker in list(self._busy.values()):
                worker.cancel()
            await asyncio.wait(late)

    def close(self) -> None:
        """Dismiss the workers. Nothing may be under way."""
        for worker in self._idle:
            worker.task.cancel()
        self._idle.clear()

    def _take(self) -> _Worker:
        """An idle worker, hired if there is none."""
        if self._idle:
            return self._idle.pop()
        context = copy_context()
        worker = _Worker(context, self._loop.create_future())
        work = self._work(worker)
        context.run(work.send, None)  # a task that is cancelled before its first step never begins
        worker.task = self._loop.create_task(work, name="puffs operation", context=context)
        return worker

    async def _work(self, worker: _Worker) -> None:
        """The life of a worker. `_take` makes it begin."""
        begun = False
        while True:
            error: BaseException | None = None
            try:
                if not begun:
                    begun = True
                    await asyncio.sleep(0)
                await worker.wake
            except asyncio.CancelledError as exc:
                if worker.adopted is None:  # the end of the session
                    if worker in self._idle:
                        self._idle.remove(worker)
                    raise
                error = exc  # meant for the operation that this task was about to adopt
            await self._see_through(worker, error)

    async def _see_through(self, worker: _Worker, error: BaseException | None) -> None:
        """Run what a worker has adopted to its end, and tell of it; `error` is raised in it first.

        A function of its own, so that an idle worker keeps nothing of it.
        """
        assert worker.adopted is not None
        waiting, who, done = worker.adopted
        requester.set(who)
        worker.wake = self._loop.create_future()
        result, failure = None, None
        try:
            result = await rest_of(worker.driver, waiting, error)
        except BaseException as exc:
            failure = exc
            worker.drive()
        if isinstance(failure, asyncio.CancelledError) and worker.cancelled:
            failure = InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        worker.cancelled = False
        while worker.task.uncancel():
            pass
        worker.adopted = None
        del self._busy[who]
        try:
            done(result, failure)
        finally:
            self._idle.append(worker)
            worker.rest.set_result(None)
            self._finished()


def run_apart(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run `coroutine` in an event loop that is kept for this, on a thread of its own, and wait."""
    return asyncio.run_coroutine_threadsafe(coroutine, _apart()).result()


@cache
def _apart() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="puffs-async", daemon=True).start()
    return loop
