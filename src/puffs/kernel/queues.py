"""The message queues of a mount whose file server is in another process (statements Q1 to Q19).

A message goes from `touser` to the file server, and waits in `replywait` until it is answered. One
that needs a place for bulk data is `parked` until there is one. Nothing here knows how a message is
sent: a transport takes messages by `fetch` and brings answers by `answer` and `complete`. Any
thread may do any of this.

Invariants:
- the file server sees messages in the order in which they were put on `touser` (Q6);
- a message is completed exactly once: by its answer, by an interrupt, or by the file server's
  death; what comes afterwards changes nothing (6.2, item 20);
- `waiters` counts the messages that somebody waits for; fire and forget is not among them (Q8).
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from errno import E2BIG, EINTR, ENXIO, EWOULDBLOCK
from typing import Any, Final

from puffs.server.stepping import Deferred

FAF_ID: Final = 0
"""The id of messages that are not answered (Q1)."""

Completed = Callable[[Any, BaseException | None], None]
"""Is given the result of a message, or what it has failed with."""


class Place(Enum):
    """Where a message is."""

    NOWHERE = auto()
    """Not sent yet."""
    PARKED = auto()
    """Waiting for a place for its data."""
    TOUSER = auto()
    """To be fetched."""
    REPLYWAIT = auto()
    """Fetched, and not answered."""
    LEFT = auto()
    """Fetched, and its waiter has gone: the answer will be thrown away (Q7)."""
    DONE = auto()
    """Completed, or fetched and never to be answered."""


_OVER: Final = (Place.LEFT, Place.DONE)


class Message(Deferred):
    """One message to a file server.

    `pack` makes its frame: of the id, and of the number of its room for data, -1 if it has none.
    `bulk` says that it needs one. `faf`: nobody waits, and nobody answers. `completed`, if it is
    set before, is called on the thread that brings the answer (Q9).
    """

    # Most of these are never set: it is one of the things made for each request.
    completed: Completed | None = None
    id = FAF_ID
    room = -1
    frame = b""
    place = Place.NOWHERE
    result: Any = None
    error: BaseException | None = None

    def __init__(
        self,
        operation: str,
        pack: Callable[[int, int], bytes],
        *,
        faf: bool = False,
        bulk: bool = False,
    ) -> None:
        self.operation = operation
        self.pack = pack
        self.faf = faf
        self.bulk = bulk

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more: it has its outcome."""
        return self.place in _OVER

    def outcome(self) -> Any:
        """The result, or what it has failed with is raised."""
        if self.error is not None:
            raise self.error
        return self.result


class Queues:
    """The queues of one mount, with `rooms` rooms for bulk data.

    `interrupted` says whether a signal that is to end the calling thread is pending (2.7).
    """

    def __init__(self, rooms: int = 0, interrupted: Callable[[], bool] = lambda: False) -> None:
        # Reentrant: what is collected as garbage while it is held may send (fire and forget).
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._sleepers = 0
        self._interrupted = interrupted
        self._last_id = FAF_ID
        self._touser: deque[Message] = deque()
        self._replywait: dict[int, Message] = {}
        self._parked: deque[Message] = deque()
        self._rooms = list(range(rooms))
        self.waiters = 0
        self.dead = False

    # ------------------------------------------------------------------------- who wants an answer

    def send(self, message: Message) -> None:
        """Put a message on its way.

        Raises `OSError`: ENXIO when the file server is dead (Q5), EINTR when the caller is to end
        anyway (Q3). Fire and forget is neither refused nor interrupted: it is delivered (6.2, item
        21), or freed where nobody is left to get it (item 29). Raises what `pack` raises for what
        cannot be sent; nothing is queued then.
        """
        if message.faf:
            with self._lock:
                message.place = Place.DONE
                if not self.dead:
                    message.frame = message.pack(FAF_ID, -1)
                    self._queue(message)
            return
        if self._interrupted():
            raise _error(EINTR)
        with self._lock:
            if self.dead:
                raise _error(ENXIO)
            if message.bulk:
                if not self._rooms:
                    self._park(message)
                    return
                message.room = self._rooms.pop()
            try:
                message.frame = message.pack(self._last_id + 1, message.room)
            except BaseException:
                self._rooms += self._vacated(message)
                raise
            self._last_id = message.id = self._last_id + 1
            self.waiters += 1
            self._queue(message)

    def interrupt(self, message: Message, code: int = EINTR) -> bool:
        """Its waiter does not wait any more: it is completed with the errno `code`.

        One that was not fetched is taken back. One that was stays in `replywait`, and its answer
        will be thrown away (Q7). True in the second case: the file server may be told.
        """
        with self._lock:
            was = message.place
            if was is Place.PARKED:
                self._parked.remove(message)
            elif was is Place.TOUSER:
                self._touser.remove(message)
            elif was is not Place.REPLYWAIT:
                return False
            place = Place.LEFT if was is Place.REPLYWAIT else Place.DONE
            self._settle(message, place, None, _error(code))
            moved = self._reuse(self._vacated(message)) if place is Place.DONE else []
        _tell(message, *moved)
        return was is Place.REPLYWAIT

    def free(self, message: Message) -> None:
        """The room of a completed message is not looked at any more."""
        with self._lock:
            failed = self._reuse(self._vacated(message))
        _tell(*failed)

    def drain(self, seconds: float | None = None) -> bool:
        """Wait until nobody waits any more, `seconds` at most (Q17). Tells whether that is so."""
        return self.sleep(lambda: not self.waiters, seconds)

    def sleep(self, until: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until something is so that changes when a message is completed, or with `wake`:
        `seconds` at most. Tells whether it is.
        """
        with self._lock:
            self._sleepers += 1
            try:
                return self._changed.wait_for(until, seconds)
            finally:
                self._sleepers -= 1

    def wake(self) -> None:
        """Have those who `sleep` look again."""
        with self._lock:
            if self._sleepers:
                self._changed.notify_all()

    # ------------------------------------------------------------------------------- the transport

    @property
    def readable(self) -> bool:
        """Whether there is something to fetch, fire and forget included (6.2, item 22)."""
        return bool(self._touser)

    def unanswered(self) -> list[Message]:
        """What was fetched and somebody waits for, the oldest first."""
        with self._lock:
            return [m for m in self._replywait.values() if m.place is Place.REPLYWAIT]

    def fetch(self, size: int, count: int = 0) -> list[Message]:
        """Take messages off `touser`, in order: as many as have room in `size` bytes, and not more
        than `count` that are to be answered (0: any number) (Q10, Q13).

        Raises `OSError`: ENXIO when the file server is dead, EWOULDBLOCK when there is none, E2BIG
        when the first does not fit; it stays where it is (Q12).
        """
        with self._lock:
            if self.dead:
                raise _error(ENXIO)
            fetched: list[Message] = []
            while self._touser and len(self._touser[0].frame) <= size:
                message = self._touser.popleft()
                size -= len(message.frame)
                fetched.append(message)
                if message.faf:
                    continue
                message.place = Place.REPLYWAIT
                self._replywait[message.id] = message
                count -= 1
                if count == 0:
                    break
            if not fetched:
                raise _error(E2BIG if self._touser else EWOULDBLOCK)
            return fetched

    def unfetch(self, messages: Sequence[Message]) -> None:
        """They could not be sent: back to the head of `touser`, in their order (Q11).

        What was interrupted meanwhile is not sent at all.
        """
        with self._lock:
            if self.dead:
                return
            vacated: list[int] = []
            for message in reversed(messages):
                if not message.faf:
                    del self._replywait[message.id]
                    if message.place is Place.LEFT:
                        vacated += self._vacated(message)
                        continue
                    message.place = Place.TOUSER
                self._touser.appendleft(message)
            failed = self._reuse(vacated)
        _tell(*failed)

    def answer(self, id_: int) -> Message:
        """The message that an answer with this id belongs to (Q14): for `complete`.

        Raises `LookupError` for an id that nobody waits for: never sent, or answered already (6.2,
        item 24).
        """
        with self._lock:
            message = self._replywait.pop(id_, None)
        if message is None:
            raise LookupError(
                f"an answer to message {id_}, which was not sent or has been answered"
            )
        return message

    def complete(self, message: Message, result: Any, error: BaseException | None = None) -> bool:
        """A message that `answer` gave has this result, or has failed.

        False when its waiter has gone: the result is thrown away (Q7).
        """
        with self._lock:
            left = message.place is not Place.REPLYWAIT
            if not left:
                self._settle(message, Place.DONE, result, error)
            over = self._reuse(self._vacated(message)) if left else [message]
        _tell(*over)
        return not left

    def userdead(self) -> None:
        """The file server is dead: all messages that are anywhere fail with ENXIO, and so does all
        that is sent from now on (Q16).
        """
        with self._lock:
            self.dead = True
            queued = (*self._replywait.values(), *self._touser, *self._parked)
            waiting = [message for message in queued if not message.faf and not message.over]
            self._replywait.clear()
            self._touser.clear()
            self._parked.clear()
            for message in waiting:
                self._settle(message, Place.DONE, None, _error(ENXIO))
        _tell(*waiting)

    # ----------------------------------------------------------------- private, all with the lock

    def _queue(self, message: Message) -> None:
        if not message.faf:
            message.place = Place.TOUSER
        self._touser.append(message)

    def _park(self, message: Message) -> None:
        message.place = Place.PARKED
        self._parked.append(message)
        self.waiters += 1

    def _settle(
        self, message: Message, place: Place, result: Any, error: BaseException | None
    ) -> None:
        """Nobody waits for a message any more. The caller then tells of it, without the lock."""
        message.place, message.result, message.error = place, result, error
        self.waiters -= 1
        if self._sleepers:
            self._changed.notify_all()

    def _vacated(self, message: Message) -> list[int]:
        """The room that a message has had, if it had one."""
        room, message.room = message.room, -1
        return [room] if room >= 0 else []

    def _reuse(self, rooms: list[int]) -> list[Message]:
        """Give rooms to what is parked, in order. What then cannot be sent has failed: returned."""
        failed: list[Message] = []
        while rooms and self._parked:
            message = self._parked.popleft()
            try:
                message.frame = message.pack(self._last_id + 1, rooms[-1])
            except Exception as exc:
                self._settle(message, Place.DONE, None, exc)
                failed.append(message)
                continue
            self._last_id = message.id = self._last_id + 1
            message.room = rooms.pop()
            self._queue(message)
        self._rooms += rooms
        return failed


def _tell(*messages: Message) -> None:
    """Call what is to be called when these are completed; without the lock."""
    for message in messages:
        if message.completed is not None:
            message.completed(message.result, message.error)


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
