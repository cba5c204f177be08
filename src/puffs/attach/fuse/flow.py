"""How the two halves of a handler are joined: what comes before an operation, and what comes after.

An operation may be `def`, and then gives its result, or `async def`, and then gives a coroutine. No
handler knows which:

- Where the operation is the last thing that a handler does, what comes after is a function, and
  `then` makes one of it that takes a coroutine as well. For file servers without `async def` that
  is the function itself: it costs nothing.
- Where more is to be done, the handler is a generator, `result = yield fs_operation(...)`, and
  `steps` makes a handler of it.

What follows an operation must not look into the request buffer: it may hold the next request.
"""

from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

from puffs.attach.fuse.channel import Handler

Steps = Generator[Any, Any, None]
"""A handler in steps: yields what operations returned, and is sent their results."""

InSteps = Callable[[int, int, int], Steps]

F = TypeVar("F", bound=Callable[..., None])


class Flow(Protocol):
    """Joins the halves of the handlers of one channel."""

    asynchronous: bool
    """Whether an operation may outlive its request in the buffer."""
    looks_on: bool
    """Whether one that does may go on looking there."""

    def then(self, after: F) -> F:
        """`after(result, ...)`, fit for results that are coroutines, if there may be any."""
        ...

    def go(self, steps: Steps) -> None:
        """Go through steps, now or, where an operation waits, later."""
        ...

    def steps(self, handler: InSteps) -> Handler:
        """A handler made of a generator function."""
        ...

    def busy(self) -> bool:
        """Whether an operation goes on, between two requests, that does not wait idly: for a lock
        or an event.
        """
        ...

    def waits(self, unique: int) -> bool:
        """Whether an operation for request `unique` has begun and not finished."""
        ...

    def interrupt(self, unique: int) -> None:
        """The caller of request `unique` was signalled while it waits."""
        ...


class DirectFlow:
    """For file servers whose operations are all `def`."""

    asynchronous = False
    looks_on = False

    def then(self, after: F) -> F:
        """The function itself."""
        return after

    def go(self, steps: Steps) -> None:
        """Goes through all of them at once."""
        send, result = steps.send, None
        try:
            while True:
                result = send(result)
        except StopIteration:
            return

    def steps(self, handler: InSteps) -> Handler:
        """Goes through all steps at once."""
        go = self.go

        def run(unique: int, nodeid: int, length: int) -> None:
            go(handler(unique, nodeid, length))

        return run

    def busy(self) -> bool:
        """Never: each has ended before the next request is read."""
        return False

    def waits(self, unique: int) -> bool:
        """Never."""
        return False

    def interrupt(self, unique: int) -> None:
        """Served one at a time, a request has been answered before its interrupt is read."""
