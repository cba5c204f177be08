"""`async def` operations under asyncio: see `stepping`.

A coroutine must believe that it runs in a task: `asyncio.timeout`, `TaskGroup` and what is built on
them ask for the current task and cancel it. So there is a pool of worker tasks. One of them is
entered as the current task while a coroutine is stepped, and the same one adopts it if it waits.
"""

import asyncio
import threading
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import cache
from typing import Any

from puffs.server.cred import Requester, requester
from puffs.server.stepping import WAITING, Done


class _Worker:
    """A task that adopts one waiting coroutine after the other."""

    __slots__ = ("adopted", "rest", "run", "task", "wake")

    def __init__(self, context: Context, wake: "asyncio.Future[None]") -> None:
        self.run = context.run
        self.wake = wake
        self.task: asyncio.Task[None]
        self.adopted: tuple[Coroutine[Any, Any, Any], Any, Done] | None = None
        self.rest: asyncio.Future[None]
        """Done when what was adopted has finished."""


class _Adopted:
    """Awaits the rest of a coroutine that has been stepped up to where it waits for `waiting`."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], waiting: Any, error: BaseException | None
    ) -> None:
        self._coroutine = coroutine
        self._waiting = waiting
        self._error = error

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, waiting, error = self._coroutine, self._waiting, self._error
        try:
            if error is not None:
                waiting = coroutine.throw(error)
            while True:
                try:
                    value = yield waiting
                except BaseException as exc:
                    waiting = coroutine.throw(exc)
                else:
                    waiting = coroutine.send(value)
        except StopIteration as stop:
            return stop.value


class AsyncioStepper:
    """Steps coroutines in `loop`, which runs on this thread.

    `finished` is called each time that an operation has finished after waiting.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, finished: Callable[[], None] = lambda: None
    ) -> None:
        self._loop = loop
        self._finished = finished
        self._idle: list[_Worker] = []
        self._busy: dict[Requester, _Worker] = {}
        self._stepped: tuple[_Worker, Coroutine[Any, Any, Any], Any]
        self.step = self._stepping()
        """Step a coroutine up to its end, or to where it first waits. See `Stepper`."""

    @property
    def waiting(self) -> int:
        """How many operations are under way."""
        return len(self._busy)

    def _stepping(self) -> Callable[[Coroutine[Any, Any, Any]], Any]:
        """`step`, as a closure: it is called for every request."""
        loop, idle = self._loop, self._idle
        enter, leave, hire = _enter_task, _leave_task, self._hire

        def step(coroutine: Coroutine[Any, Any, Any]) -> Any:
            if not idle:
                idle.append(hire())
            worker = idle[-1]
            task = worker.task
            enter(loop, task)
            try:
                waiting = worker.run(coroutine.send, None)
            except StopIteration as stop:
                return stop.value
            finally:
                leave(loop, task)
            self._stepped = idle.pop(), coroutine, waiting
            return WAITING

        return step

    def adopt(self, who: Requester, done: Done) -> None:
        """Have a worker finish what has just been stepped. See `Stepper`."""
        worker, coroutine, waiting = self._stepped
        worker.run(requester.set, who)
        worker.adopted = (coroutine, waiting, done)
        worker.rest = self._loop.create_future()
        self._busy[who] = worker
        worker.wake.set_result(None)

    def cancel(self, who: Requester) -> None:
        """Cancel the operation that was stepped for `who`, if it is still under way.

        At the loop's next turn: a worker that is new would be cancelled before it has begun, and
        what it has adopted would never end.
        """
        self._loop.call_soon(self._cancel, who)

    def _cancel(self, who: Requester) -> None:
        worker = self._busy.get(who)
        if worker is not None:
            worker.task.cancel()

    async def drain(self, seconds: float) -> None:
        """Let what is under way finish, for `seconds` at most; then cancel it."""
        tasks = [worker.rest for worker in self._busy.values()]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        if late:
            for who in list(self._busy):
                self.cancel(who)
            await asyncio.wait(late)

    def close(self) -> None:
        """Dismiss the workers. Nothing may be under way."""
        for worker in self._idle:
            worker.task.cancel()
        self._idle.clear()

    def _hire(self) -> _Worker:
        context = copy_context()
        worker = _Worker(context, self._loop.create_future())
        work = self._work(worker, requester.get(None))
        worker.task = self._loop.create_task(work, name="puffs operation", context=context)
        return worker

    async def _work(self, worker: _Worker, reading: Requester | None) -> None:
        """The life of a worker. `reading` knows the request that is being read: see `caller`."""
        while True:
            error: BaseException | None = None
            try:
                await worker.wake
            except asyncio.CancelledError as exc:
                if worker.adopted is None:  # the end of the session
                    raise
                error = exc  # meant for the operation that this task was about to adopt
            assert worker.adopted is not None
            coroutine, waiting, done = worker.adopted
            worker.wake = self._loop.create_future()
            result, failure = None, None
            try:
                result = await _Adopted(coroutine, waiting, error)
            except BaseException as exc:
                failure = exc
            while worker.task.uncancel():
                pass
            worker.adopted = None
            del self._busy[requester.get()]
            if reading is not None:
                requester.set(reading)
            self._idle.append(worker)
            try:
                done(result, failure)
            finally:
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
