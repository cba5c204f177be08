"""`Notice`: what became of something that hosts were told."""

from collections.abc import Generator, Iterable
from concurrent.futures import Future
from itertools import count
from typing import Any

from puffs.server.cred import requester


class Notice(Future[None]):
    """A future: done when every host has taken what it was told, with an `OSError` if one has not.

    `result()` waits on a thread, `await` in an asyncio event loop, `add_done_callback` needs no
    waiting. What was told cannot be cancelled. Inside an operation of a file server nobody may
    wait: the host may hold what it needs for this until that very operation is answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> None:
        """Wait, `timeout` seconds at most (`TimeoutError`); what a host has answered is raised.

        Raises `RuntimeError` inside an operation, unless it is done already.
        """
        self._refuse_inside()
        super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `result`, but returns what that would raise."""
        self._refuse_inside()
        return super().exception(timeout)

    def __await__(self) -> Generator[Any, None, None]:
        self._refuse_inside()
        from asyncio import wrap_future

        return wrap_future(self).__await__()

    def _refuse_inside(self) -> None:
        if not self.done() and requester.get(None) is not None:
            raise RuntimeError(
                "waiting for a notification inside an operation would never end: the host may be"
                " waiting for this operation. Wait on a thread of your own, or add_done_callback"
            )


def done() -> Notice:
    """A notice that there is nothing to wait for."""
    notice = Notice()
    notice.set_result(None)
    return notice


def together(notices: Iterable[Notice]) -> Notice:
    """One notice that is done when all are, with the first failure among them."""
    parts = list(notices)
    if len(parts) < 2:
        return parts[0] if parts else done()
    whole, left = Notice(), count(len(parts) - 1, -1)

    def one_more(_: Future[None]) -> None:
        if next(left):  # others are still to come; next() on a count is one step for all threads
            return
        failures = [failure for part in parts if (failure := part.exception()) is not None]
        if failures:
            whole.set_exception(failures[0])
        else:
            whole.set_result(None)

    for part in parts:
        part.add_done_callback(one_more)
    return whole
