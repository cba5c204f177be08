"""Joining the halves of handlers where operations may be `async def`: see `flow`."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from puffs.attach.fuse.abi import Opcode
from puffs.attach.fuse.callers import is_to_end
from puffs.attach.fuse.channel import Channel, Handler, Request
from puffs.attach.fuse.flow import F, InSteps, Steps
from puffs.server.stepping import WAITING, Done, Stepper

_IDLE = frozenset((Opcode.SETLKW, Opcode.POLL))
"""Any signal ends a wait for a lock or an event."""


class SteppedFlow:
    """For file servers with `async def` operations, stepped by `stepper`.

    `failed` is told what an operation raised after it had waited, and for which request.
    """

    asynchronous = True

    def __init__(
        self, channel: Channel, stepper: Stepper, failed: Callable[[Request, BaseException], None]
    ) -> None:
        self.looks_on = not stepper.copies
        self._channel = channel
        self._stepper = stepper
        self._failed = failed
        self._waiting: dict[int, Request] = {}

    def then(self, after: F) -> F:
        """Steps a coroutine, and calls `after` when it has finished, now or later."""
        step, wait, kind = self._stepper.step, self._wait, self._stepper.kind

        def later(result: Any, *args: Any) -> None:
            if isinstance(result, kind):
                result = step(result)
                if result is WAITING:
                    wait(partial(self._finish, after, args))
                    return
            after(result, *args)

        return cast(F, later)

    def go(self, steps: Steps) -> None:
        """Goes through the steps, and goes on with them later where an operation waits."""
        self._advance(steps, None, None)

    def steps(self, handler: InSteps) -> Handler:
        """A handler that goes through its steps."""

        def run(unique: int, nodeid: int, length: int) -> None:
            self._advance(handler(unique, nodeid, length), None, None)

        return run

    def busy(self) -> bool:
        """Whether an operation goes on that does not just wait for another caller."""
        return any(request.header[1] not in _IDLE for request in self._waiting.values())

    def waits(self, unique: int) -> bool:
        """Whether an operation for request `unique` has begun and not finished."""
        return unique in self._waiting

    def interrupt(self, unique: int) -> None:
        """Cancel what waits for request `unique`, if its caller is to end, or waits idly."""
        request = self._waiting.get(unique)
        if request is None:
            return
        _, opcode, *_ = request.header
        if opcode in _IDLE or is_to_end(request.header[6]):
            self._stepper.cancel(request)

    def _advance(self, steps: Steps, result: Any, error: BaseException | None) -> None:
        """Go through `steps` until they end or wait; what an operation raised is raised in them."""
        try:
            while True:
                result = steps.send(result) if error is None else steps.throw(error)
                error = None
                if isinstance(result, self._stepper.kind):
                    try:
                        result = self._stepper.step(result)
                    except BaseException as exc:
                        error = exc
                    if result is WAITING:
                        self._wait(partial(self._advance, steps))
                        return
        except StopIteration:
            return

    def _wait(self, go_on: Done) -> None:
        """An operation waits: `go_on` is for what it will have returned or raised.

        The request is again the one that is under way then, for further operations and replies.
        """
        channel, waiting = self._channel, self._waiting
        request = channel.request()
        waiting[request.unique] = request

        def done(result: Any, error: BaseException | None) -> None:
            del waiting[request.unique]
            channel.header = request.header
            try:
                go_on(result, error)
            except KeyboardInterrupt:
                raise
            except BaseException as exc:
                self._failed(request, exc)

        self._stepper.adopt(request, done)

    def _finish(
        self,
        after: Callable[..., None],
        args: tuple[Any, ...],
        result: Any,
        error: BaseException | None,
    ) -> None:
        if error is not None:
            raise error
        after(result, *args)
