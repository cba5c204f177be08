"""Drivers: what steps coroutines where no event loop does, or not from the beginning.

A task cannot be had for every operation, so operations are begun by hand. One that waits is then
finished by a task, which yields what the coroutine yields, as if it had awaited it all along.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from types import GeneratorType, coroutine
from typing import Any, TypeAlias, cast

Driver: TypeAlias = "GeneratorType[Any, Any, Any]"


def _drive() -> Generator[Any, Any, Any]:
    """Runs one coroutine after the other: is sent each, and yields what it returned.

    While one of them waits, what it waits for is yielded, and `gi_yieldfrom` is not None. This
    costs half of what calling `send` and catching `StopIteration` does. No result is kept here: it
    may be a view that locks what it shows.
    """
    coroutine = yield None
    while True:
        coroutine = yield (yield from coroutine)


def _rest(driver: Driver, waiting: Any, error: BaseException | None) -> Generator[Any, Any, Any]:
    """Runs the coroutine in `driver`, which waits for `waiting`, to its end.

    `error` is raised in it first, if there is one.
    """
    while driver.gi_yieldfrom is not None:
        value = None
        if error is None:
            try:
                value = yield waiting
            except BaseException as exc:
                error = exc
        if error is None:
            waiting = driver.send(value)
        else:
            thrown, error = error, None
            waiting = driver.throw(thrown)
    return waiting


def new_driver() -> Driver:
    """A driver that is ready to be sent a coroutine."""
    driver = _new_driver()
    driver.send(None)
    return driver


_new_driver = cast("Callable[[], Driver]", coroutine(_drive))
rest_of = cast("Callable[[Driver, Any, BaseException | None], Awaitable[Any]]", coroutine(_rest))
"""What `_rest` does, for a task to await."""


def _rest_of_begun(begun: Coroutine[Any, Any, Any], waiting: Any) -> Generator[Any, Any, Any]:
    """Runs a coroutine to its end that was sent None once, and waits for `waiting`."""
    step: Callable[[], Any]
    while True:
        try:
            step = partial(begun.send, (yield waiting))
        except BaseException as exc:
            step = partial(begun.throw, exc)
        try:
            waiting = step()
        except StopIteration as stop:
            return stop.value


rest_of_begun = cast(
    "Callable[[Coroutine[Any, Any, Any], Any], Awaitable[Any]]", coroutine(_rest_of_begun)
)
"""What `_rest_of_begun` does, for another coroutine to await."""
