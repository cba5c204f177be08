"""Joining the halves of handlers where operations may be `async def`: see `flow`."""

import errno
import os
from asyncio import CancelledError
from collections.abc import Callable
from functools import partial
from types import CoroutineType
from typing import Any, cast

from puffs.attach.fuse.abi import Opcode
from puffs.attach.fuse.callers import is_to_end
from puffs.attach.fuse.channel import Channel, Handler, Request
from puffs.attach.fuse.flow import F, InSteps, Steps
from puffs.server.stepping import WAITING, Stepper

_IDLE = frozenset((Opcode.SETLKW, Opcode.POLL))
"""Any signal ends a wait for a lock or an event."""


class SteppedFlow:
    """For file servers with `async def` operations, stepped by `stepper`.

    `failed` is told what an operation raised after it had waited, and for which request.
    """

    asynchronous = True

    def __init__(
        self, channel: Channel, stepper: Stepper, failed: Callable[[Request, Exception], None]
    ) -> None:
        self._channel = channel
        self._stepper = stepper
        self._failed = failed
        self._waiting: dict[int, Request] = {}

    def then(self, after: F) -> F:
        """Steps a coroutine, and calls `after` when it has finished, now or later."""
        channel, waiting = self._channel, self._waiting
        step, adopt = self._stepper.step, self._stepper.adopt

        def later(result: Any, *args: Any) -> None:
            if type(result) is CoroutineType:
                result = step(result)
                if result is WAITING:
                    request = channel.request()
                    waiting[request.unique] = request
                    adopt(request, partial(self._finish, request, after, args))
                    return
            after(result, *args)

        return cast(F, later)

    def steps(self, handler: InSteps) -> Handler:
        """Goes through the steps, and goes on with them later where an operation waits."""

        def run(unique: int, nodeid: int, length: int) -> None:
            self._advance(handler(unique, nodeid, length), self._channel.request(), None, None)

        return run

    def busy(self) -> bool:
        """Whether an operation goes on that does not just wait for another caller."""
        return any(request.header[1] not in _IDLE for request in self._waiting.values())

    def interrupt(self, unique: int) -> None:
        """Cancel what waits for request `unique`, if its caller is to end, or waits idly."""
        request = self._waiting.get(unique)
        if request is None:
            return
        _, opcode, *_ = request.header
        if opcode in _IDLE or is_to_end(request.header[6]):
            self._stepper.cancel(request)

    def _advance(
        self, steps: Steps, request: Request, result: Any, error: BaseException | None
    ) -> None:
        """Go through `steps` until they end or wait; what an operation raised is raised in them."""
        try:
            while True:
                result = steps.send(result) if error is None else steps.throw(error)
                error = None
                if type(result) is CoroutineType:
                    try:
                        result = self._stepper.step(result)
                    except Exception as exc:
                        error = exc
                    if result is WAITING:
                        self._waiting[request.unique] = request
                        self._stepper.adopt(request, partial(self._go_on, steps, request))
                        return
        except StopIteration:
            return

    def _go_on(
        self, steps: Steps, request: Request, result: Any, error: BaseException | None
    ) -> None:
        self._waiting.pop(request.unique, None)
        try:
            self._advance(steps, request, result, _for_caller(error))
        except Exception as exc:
            self._failed(request, exc)

    def _finish(
        self,
        request: Request,
        after: Callable[..., None],
        args: tuple[Any, ...],
        result: Any,
        error: BaseException | None,
    ) -> None:
        self._waiting.pop(request.unique, None)
        try:
            if error is not None:
                raise _for_caller(error) or error
            after(result, *args)
        except Exception as exc:
            self._failed(request, exc)


def _for_caller(error: BaseException | None) -> BaseException | None:
    """An operation that was cancelled gives its caller EINTR, for it was he who was interrupted."""
    if isinstance(error, CancelledError):
        return OSError(errno.EINTR, os.strerror(errno.EINTR))
    return error
