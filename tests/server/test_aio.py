"""Stepping coroutines under asyncio, without any mount."""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from puffs.server.aio import AsyncioStepper
from puffs.server.cred import Cred, caller, requester
from puffs.server.stepping import WAITING


class Asker:
    """Who an operation is stepped for; `result` is what it returned in the end, or raised."""

    def __init__(self, uid: int = 0) -> None:
        self.uid = uid
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def cred(self) -> Cred:
        return Cred(self.uid, 0)

    def noatime(self) -> bool:
        return False

    def done(self, result: Any, error: BaseException | None) -> None:
        if error is not None:
            self.result.set_result(error)
        else:
            self.result.set_result(result)


def stepping(test: Callable[[AsyncioStepper], Awaitable[None]]) -> Callable[[], None]:
    """Runs a test in an event loop, with a stepper that it must leave in order."""

    async def run() -> None:
        stepper = AsyncioStepper(asyncio.get_running_loop())
        await test(stepper)
        assert stepper.waiting == 0
        stepper.close()
        await asyncio.sleep(0)
        workers = [task for task in asyncio.all_tasks() if task.get_name() == "puffs operation"]
        assert workers == []

    def wrapper() -> None:
        asyncio.run(run())

    wrapper.__name__ = wrapper.__qualname__ = getattr(test, "__name__", "test")
    return wrapper


def begin(stepper: AsyncioStepper, coroutine: Coroutine[Any, Any, Any], who: Asker) -> None:
    """Step what is sure to wait, and have it adopted."""
    assert stepper.step(coroutine) is WAITING
    stepper.adopt(who, who.done)


async def at_once(value: str) -> str:
    return value


@stepping
async def test_a_coroutine_that_does_not_wait_has_its_result_at_once(s: AsyncioStepper) -> None:
    def served() -> list[str]:
        return [s.step(at_once(value)) for value in "abc"]

    assert s.inside(served) == ["a", "b", "c"]
    assert s.step(at_once("d")) == "d"


@stepping
async def test_what_a_coroutine_raises_is_raised_and_harms_no_other(s: AsyncioStepper) -> None:
    async def failing() -> None:
        raise FileNotFoundError(errno.ENOENT, "not there")

    def served() -> str:
        with pytest.raises(FileNotFoundError):
            s.step(failing())
        result: str = s.step(at_once("after"))
        return result

    assert s.inside(served) == "after"


@stepping
async def test_a_coroutine_that_waits_is_the_same_task_before_and_after(s: AsyncioStepper) -> None:
    async def waiting() -> bool:
        before = asyncio.current_task()
        await asyncio.sleep(0.001)
        return before is not None and asyncio.current_task() is before

    who = Asker()
    begin(s, waiting(), who)
    assert await who.result is True


@stepping
async def test_several_steps_inside_go_on_after_one_that_waits(s: AsyncioStepper) -> None:
    first, second = Asker(), Asker()

    def served() -> str:
        begin(s, asyncio.sleep(0.001, "first"), first)
        begin(s, asyncio.sleep(0.001, "second"), second)
        result: str = s.step(at_once("third"))
        return result

    assert s.inside(served) == "third"
    assert [await first.result, await second.result] == ["first", "second"]


@stepping
async def test_a_step_may_follow_one_that_has_waited(s: AsyncioStepper) -> None:
    """A request may need two operations: the second is stepped where the first has ended."""
    last = Asker(7)
    seen: list[int] = []

    async def again() -> str:
        seen.append(caller().uid)
        await asyncio.sleep(0)
        seen.append(caller().uid)
        return "again"

    class First(Asker):
        def done(self, result: Any, error: BaseException | None) -> None:
            super().done(result, error)
            seen.append(caller().uid)
            assert s.step(at_once("between")) == "between"
            begin(s, again(), last)

    who = First(7)
    begin(s, asyncio.sleep(0.001, "first"), who)
    assert [await who.result, await last.result] == ["first", "again"]
    assert seen == [7, 7, 7]


@stepping
async def test_the_caller_of_each_is_kept_apart(s: AsyncioStepper) -> None:
    async def asks() -> int:
        await asyncio.sleep(0)
        return caller().uid

    askers = [Asker(uid) for uid in range(20)]
    for who in askers:
        token = requester.set(who)
        begin(s, asks(), who)
        requester.reset(token)
    assert [await who.result for who in askers] == list(range(20))


@stepping
async def test_a_cancelled_operation_is_told_as_interrupted(s: AsyncioStepper) -> None:
    who = Asker()
    begin(s, asyncio.sleep(60), who)
    s.cancel(who)  # before its task had a single turn
    assert isinstance(await who.result, InterruptedError)
    again = Asker()
    begin(s, asyncio.sleep(60), again)
    await asyncio.sleep(0.001)
    s.cancel(again)
    assert isinstance(await again.result, InterruptedError)
    s.cancel(again)  # too late: nothing happens


@stepping
async def test_an_operation_may_outlive_its_cancellation(s: AsyncioStepper) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "cleaned up"

    who = Asker()
    begin(s, stubborn(), who)
    s.cancel(who)
    assert await who.result == "cleaned up"


@pytest.mark.parametrize("used_before", [False, True])
def test_an_operation_that_cancels_itself_is_not_interrupted(used_before: bool) -> None:
    async def suicidal() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    async def test(s: AsyncioStepper) -> None:
        if used_before:
            first = Asker()
            begin(s, asyncio.sleep(0), first)
            await first.result
        who = Asker()
        begin(s, suicidal(), who)
        assert isinstance(await who.result, asyncio.CancelledError)
        assert s.step(at_once("next")) == "next"

    stepping(test)()


@stepping
async def test_one_that_cancels_itself_and_does_not_wait_harms_no_other(s: AsyncioStepper) -> None:
    async def strange() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "strange"

    assert s.step(strange()) == "strange"
    who = Asker()
    begin(s, asyncio.sleep(0.001, "waited"), who)
    assert await who.result == "waited"


@stepping
async def test_time_limits_and_task_groups_work(s: AsyncioStepper) -> None:
    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())
            await asyncio.sleep(60)

    async def limited() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        with pytest.raises(ExceptionGroup, match="unhandled errors"):
            await grouped()
        return "in time"

    async def failing() -> None:
        raise ValueError

    who = Asker()
    begin(s, limited(), who)
    assert await who.result == "in time"


@stepping
async def test_a_context_variable_goes_with_its_operation(s: AsyncioStepper) -> None:
    variable: ContextVar[int] = ContextVar("variable")

    async def keeps(value: int) -> int:
        variable.set(value)
        await asyncio.sleep(0.001)
        return variable.get()

    askers = [Asker() for _ in range(5)]
    for number, who in enumerate(askers):
        begin(s, keeps(number), who)
    assert [await who.result for who in askers] == list(range(5))


@stepping
async def test_nothing_of_a_result_is_kept(s: AsyncioStepper) -> None:
    """A view of a buffer keeps the buffer from growing."""
    buffer = bytearray(b"contents")

    async def view(waits: bool) -> memoryview:
        if waits:
            await asyncio.sleep(0)
        return memoryview(buffer)

    class Reader(Asker):
        def done(self, result: Any, error: BaseException | None) -> None:
            super().done(bytes(result), error)

    assert s.step(view(waits=False)) == b"contents"
    buffer.extend(b" and more")
    who = Reader()
    begin(s, view(waits=True), who)
    assert await who.result == b"contents and more"
    buffer.clear()


@stepping
async def test_draining_waits_and_then_cancels(s: AsyncioStepper) -> None:
    short, long = Asker(), Asker()
    begin(s, asyncio.sleep(0.001, "short"), short)
    begin(s, asyncio.sleep(60), long)
    await s.drain(0.05)
    assert await short.result == "short"
    assert isinstance(await long.result, InterruptedError)
