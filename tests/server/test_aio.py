"""Operations that are `async def`, stepped by hand in an asyncio loop."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from puffs.server.aio import AsyncioStepper
from puffs.server.cred import Cred
from puffs.server.stepping import WAITING


class Caller:
    def cred(self) -> Cred:
        return Cred(0, 0)


async def sleeps() -> None:
    await asyncio.sleep(60)


async def groups() -> None:
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))


@pytest.mark.parametrize("operation", [sleeps, groups])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_an_operation_is_cancelled_however_soon_that_is_asked_for(
    operation: Callable[[], Any], turns: int
) -> None:
    """Also in the turn of the loop in which it began: its caller may be killed at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stepper, who = AsyncioStepper(loop), Caller()
        ended: asyncio.Future[BaseException | None] = loop.create_future()

        def begin() -> None:
            assert stepper.step(operation()) is WAITING
            stepper.adopt(who, lambda _, error: ended.set_result(error))
            cancel_after(turns)

        def cancel_after(turns: int) -> None:
            if turns:
                loop.call_soon(cancel_after, turns - 1)
            else:
                stepper.cancel(who)

        loop.call_soon(begin)
        async with asyncio.timeout(10):
            assert isinstance(await ended, asyncio.CancelledError)
        await stepper.drain(0)
        stepper.close()

    asyncio.run(main())
