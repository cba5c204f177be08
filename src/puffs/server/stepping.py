"""How an operation is stepped, be it `def` or `async def`.

A `def` operation is called and has its result. An `async def` one gives a coroutine, which is
stepped at once: most never wait, and then a task would be pure cost. One that does wait goes on
later. How that is done depends on the event loop: `aio` does it for asyncio.

Nothing here imports asyncio, which file servers without `async def` do not need.
"""

from collections.abc import AsyncIterable, Callable
from inspect import isasyncgenfunction, iscoroutine, iscoroutinefunction
from typing import Any, ClassVar, Final, Protocol

from puffs.server.cred import Cred, Requester
from puffs.server.errors import logger

Done = Callable[[Any, BaseException | None], None]
"""Is given the result of an operation, or what it raised."""


class _Waiting:
    def __repr__(self) -> str:
        return "WAITING"


WAITING: Final = _Waiting()
"""Stands for the result of an operation that has not finished."""


class Deferred:
    """What an operation returns whose file server is elsewhere: the result is still to come."""

    __slots__ = ()

    def wait(self) -> Any:
        """Have it done, and wait for that; its result, or what it raised."""
        raise NotImplementedError

    def then(self, function: Callable[[Any], Any]) -> "Deferred":
        """The same, with the result of `function`, which is given that of this, in place of it."""
        raise NotImplementedError


class Stepper(Protocol):
    """What an attachment hands to what operations return in place of a result."""

    kind: ClassVar[type]
    """The type of that: coroutines of `async def` operations, or a kind of `Deferred`."""
    copies: ClassVar[bool]
    """Whether what waits has taken copies of its arguments, and looks at them no more."""

    def step(self, begun: Any) -> Any:
        """Run what an operation has `begun` up to its end, or to where it first waits.

        Returns its result, or raises what it raised. If it waits, returns `WAITING`, and `adopt`
        must be called next.
        """
        ...

    def adopt(self, who: Requester, done: Done) -> None:
        """Have what has just been stepped go on by itself, for the request `who`.

        `caller()` tells of `who` from then on; `done` is called when it has finished.
        """
        ...

    def cancel(self, who: Requester) -> None:
        """Cancel what was adopted for `who`, if it is still under way.

        If it ends by that, it has raised `InterruptedError`.
        """
        ...


def is_async(operation: object) -> bool:
    """Whether `operation` is an `async def`."""
    return iscoroutinefunction(operation) or isasyncgenfunction(operation)


def finish(result: Any) -> Any:
    """The result of an operation whose attachment has no event loop: a coroutine gets one here."""
    if isinstance(result, Deferred):
        return result.wait()
    if not iscoroutine(result):
        return result
    from puffs.server.aio import run_apart

    return run_apart(result)


def aside(stepper: Stepper, result: Any) -> Any:
    """The result of a message that nobody waits for: a coroutine goes on beside the rest."""
    if iscoroutine(result):
        result = stepper.step(result)
        if result is WAITING:
            stepper.adopt(_Nobody(), _log_failure)
    return result


def listed(listing: Any) -> Any:
    """What `readdir` returned; of an `async def` one a coroutine, whose result is a list."""
    return _collected(listing) if isinstance(listing, AsyncIterable) else listing


async def _collected(listing: AsyncIterable[Any]) -> list[Any]:
    return [entry async for entry in listing]


class _Nobody:
    """Stands for the request of what no caller has asked for."""

    def cred(self) -> Cred:
        raise LookupError("nobody called this operation: it comes from the kernel half")

    def noatime(self) -> bool:
        return False


def _log_failure(_result: Any, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, InterruptedError):  # which is a cancelled one
        logger.error("an operation failed in the file server", exc_info=error)
