"""The message queues of a mount whose file server is in another process (statements Q1 to Q19).

A message goes from `touser` to the file server, and waits in `replywait` until it is answered. One
that needs a place for bulk data is `parked` until there is one. Nothing here knows how a message is
sent: a transport takes messages by `fetch` and brings answers by `answer` and `complete`. Any
thread may do any of this; but what one has fetched it sends, or gives back, before another fetches.

Invariants:
- the file server sees messages in the order in which they were put on `touser` (Q6);
- a message is completed exactly once: by its answer, by an interrupt, or by the file server's
  death; what comes afterwards changes nothing (6.2, item 20);
- a message that is not over is on one queue, which its `place` names; one whose waiter has gone
  stays on `replywait` (Q7);
- a room is free or belongs to one message, for as long as its waiter or the file server may look at
  it; none is free while a message is parked;
- `waiters` counts the messages that somebody waits for; fire and forget is not among them (Q8).
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from errno import E2BIG, EINTR, ENXIO, EWOULDBLOCK
from typing import Any, Final

from puffs.server.errors import logger
from puffs.server.stepping import Deferred, Done

FAF_ID: Final = 0
"""The id of messages that are not answered (Q1)."""


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


# To look a member up costs 0.1 µs in Python 3.11, and each message would need four.
_NOWHERE, _PARKED, _TOUSER, _REPLYWAIT, _LEFT, _DONE = Place
_OVER: Final = (_LEFT, _DONE)


class Message(Deferred):
    """One message to a file server.

    `pack` makes its frame: of the id, and of the number of its room for data, -1 if it has none. It
    is called with the lock of the queues held: it takes no lock, and sends nothing. `bulk` says
    that it needs a room. `faf`: nobody waits, and nobody answers. `completed`, if it is set before
    it is sent, is called on the thread that ends it (Q9); see also `Queues.adopt`.
    """

    # Most of these are never set: it is one of the things made for each request.
    completed: Done | None = None
    id = FAF_ID
    room = -1
    frame = b""
    place = _NOWHERE
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
    """The queues of one mount, with `rooms` rooms for bulk data."""

    def __init__(self, rooms: int = 0) -> None:
        # Reentrant: what is collected as garbage while it is held may send (fire and forget).
        self.lock = threading.RLock()
        """For transports, who send in the order in which they fetch."""
        self._changed = threading.Condition(self.lock)
        self._sleepers = 0
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

        Raises `OSError`: ENXIO when the file server is dead (Q5). Fire and forget is never refused:
        it is delivered (Q3; 6.2, item 21), or freed where nobody is left to get it (item 29).
        Raises what `pack` raises for what cannot be sent; nothing is queued then.
        """
        if message.faf:
            with self.lock:
                if not self.dead:
                    message.frame = message.pack(FAF_ID, -1)
                    self._touser.append(message)
                message.place = _DONE
            return
        with self.lock:
            if self.dead:
                raise _error(ENXIO)
            queue = self._touser
            if not message.bulk:
                self._frame(message, -1)
            elif self._rooms:
                self._frame(message, self._rooms[-1])
                del self._rooms[-1]
            else:
                message.place, queue = _PARKED, self._parked
            self.waiters += 1
            queue.append(message)

    def pass_by(self, message: Message) -> bool:
        """`send` and `fetch` at once, for a message that nothing is queued before: the caller, who
        has the lock, sends its frame now, or gives it back. False when it was queued as ever.
        """
        rooms = self._rooms
        parks = message.bulk and not rooms
        if parks or message.faf or self._touser or self.dead:
            self.send(message)
            return False
        id_ = self._last_id + 1
        if message.bulk:
            message.frame = message.pack(id_, rooms[-1])
            message.room = rooms.pop()
        else:
            message.frame = message.pack(id_, -1)
        self._last_id = message.id = id_
        message.place = _REPLYWAIT
        self._replywait[id_] = message
        self.waiters += 1
        return True

    def interrupt(self, message: Message, code: int = EINTR) -> bool:
        """Its waiter does not wait any more: it is completed with the errno `code`.

        One that was not fetched is taken back. One that was stays in `replywait`, and its answer
        will be thrown away (Q7). True in the second case: the file server may be told.
        """
        with self.lock:
            was = message.place
            if was is _REPLYWAIT:
                self._settle(message, _LEFT, None, _error(code))
                over = [message]
            elif was is _TOUSER or was is _PARKED:
                (self._touser if was is _TOUSER else self._parked).remove(message)
                self._settle(message, _DONE, None, _error(code))
                over = [message, *self._vacate(message)]
            else:
                return False
        _tell(over)
        return was is _REPLYWAIT

    def free(self, message: Message) -> None:
        """The room of a completed message is not looked at any more.

        What was parked may be there to be fetched then. Does nothing while the file server may look
        at the room: it is freed when the answer comes that nobody waits for.
        """
        with self.lock:
            failed = self._vacate(message) if message.place is _DONE else []
        _tell(failed)

    def adopt(self, message: Message, completed: Done) -> None:
        """Have `completed` called for a message that was sent without; at once if it is over."""
        with self.lock:
            over = message.over
            if not over:
                message.completed = completed
        if over:
            completed(message.result, message.error)

    def sleep(self, until: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until something is so that changes when a message is completed, or with `wake`:
        `seconds` at most. Tells whether it is.
        """
        with self.lock:
            self._sleepers += 1
            try:
                return self._changed.wait_for(until, seconds)
            finally:
                self._sleepers -= 1

    def wake(self) -> None:
        """Have those who `sleep` look again."""
        with self.lock:
            if self._sleepers:
                self._changed.notify_all()

    # ------------------------------------------------------------------------------- the transport

    @property
    def readable(self) -> bool:
        """Whether there is something to fetch, fire and forget included (6.2, item 22)."""
        return bool(self._touser)

    def unanswered(self) -> list[Message]:
        """What somebody waits for: what was fetched, the oldest first, then what was not."""
        with self.lock:
            fetched = [m for m in self._replywait.values() if m.place is _REPLYWAIT]
            return [*fetched, *(m for m in self._touser if not m.faf), *self._parked]

    def fetch(self, size: int, count: int = 0) -> list[Message]:
        """Take messages off `touser`, in order: as many as have room in `size` bytes, and not more
        than `count` that are to be answered (0: any number) (Q10, Q13).

        Raises `OSError`: ENXIO when the file server is dead, EWOULDBLOCK when there is none, E2BIG
        when the first does not fit; it stays where it is (Q12).
        """
        with self.lock:
            if self.dead:
                raise _error(ENXIO)
            touser = self._touser
            if not touser:
                raise _error(EWOULDBLOCK)
            fetched: list[Message] = []
            while touser and len(touser[0].frame) <= size:
                message = touser.popleft()
                size -= len(message.frame)
                fetched.append(message)
                if message.faf:
                    continue
                message.place = _REPLYWAIT
                self._replywait[message.id] = message
                count -= 1
                if count == 0:
                    break
            if not fetched:
                raise _error(E2BIG)
            return fetched

    def unfetch(self, messages: Sequence[Message]) -> None:
        """They could not be sent: back to the head of `touser`, in their order (Q11).

        What is over meanwhile is not sent at all: interrupted, or answered by a file server that
        has guessed the id.
        """
        failed: list[Message] = []
        with self.lock:
            if self.dead:
                return
            for message in reversed(messages):
                if not message.faf:
                    if self._replywait.pop(message.id, None) is None:
                        continue
                    if message.place is _LEFT:
                        failed += self._vacate(message)
                        continue
                    message.place = _TOUSER
                self._touser.appendleft(message)
        _tell(failed)

    def answer(self, id_: int) -> Message:
        """The message that an answer with this id belongs to (Q14): for `complete`.

        Raises `LookupError` for an id that nobody waits for: never sent, or answered already (6.2,
        item 24).
        """
        message = self._replywait.get(id_)  # in one step: needs no lock
        if message is None:
            raise LookupError(
                f"an answer to message {id_}, which was not sent or has been answered"
            )
        return message

    def complete(self, message: Message, result: Any, error: BaseException | None = None) -> bool:
        """A message that `answer` gave has this result, or has failed.

        False when its waiter has gone: the result is thrown away (Q7).
        """
        with self.lock:
            place = message.place
            if place is _REPLYWAIT:
                del self._replywait[message.id]
                self._settle(message, _DONE, result, error)
                over = None
            elif place is _LEFT:
                del self._replywait[message.id]
                over = self._vacate(message)
            else:
                return False
        if over is not None:
            _tell(over)
        elif message.completed is not None:
            _tell((message,))
        return over is None

    def userdead(self) -> None:
        """The file server is dead: all messages that are anywhere fail with ENXIO, and so does all
        that is sent from now on (Q16).
        """
        with self.lock:
            self.dead = True
            queued = (*self._replywait.values(), *self._touser, *self._parked)
            self._replywait.clear()
            self._touser.clear()
            self._parked.clear()
            waiting: list[Message] = []
            for message in queued:
                if message.place is _LEFT:
                    self._vacate(message)
                elif not message.faf:
                    self._settle(message, _DONE, None, _error(ENXIO))
                    waiting.append(message)
        _tell(waiting)

    # ----------------------------------------------------------------- private, all with the lock

    def _frame(self, message: Message, room: int) -> None:
        """Make the frame of a message that goes to `touser` next, with the next id."""
        id_ = self._last_id + 1
        message.frame = message.pack(id_, room)
        self._last_id = message.id = id_
        message.room = room
        message.place = _TOUSER

    def _settle(
        self, message: Message, place: Place, result: Any, error: BaseException | None
    ) -> None:
        """Nobody waits for a message any more. The caller then tells of it, without the lock."""
        message.result, message.error = result, error
        message.place = place  # last: who sees that it is over sees its outcome
        self.waiters -= 1
        if self._sleepers:
            self._changed.notify_all()

    def _vacate(self, message: Message) -> list[Message]:
        """Nobody looks at the room of a message any more, on either side: if it has one, that is
        free for what is parked, in order. What of that cannot be sent has failed: returned.
        """
        message.place = _DONE
        if message.room < 0:
            return []
        self._rooms.append(message.room)
        message.room = -1
        failed: list[Message] = []
        while self._parked and self._rooms:
            parked = self._parked[0]
            try:
                self._frame(parked, self._rooms[-1])
            except Exception as exc:
                self._settle(parked, _DONE, None, exc)
                failed.append(parked)
            else:
                del self._rooms[-1]
                self._touser.append(parked)
            self._parked.popleft()
        return failed


def _tell(messages: Iterable[Message]) -> None:
    """Call what is to be called when these are completed; without the lock.

    What that raises is neither for the others nor for whoever brings the answers.
    """
    for message in messages:
        completed = message.completed
        if completed is None:
            continue
        message.completed = None  # it may know the message, which would then outlive its use
        try:
            completed(message.result, message.error)
        except Exception:
            logger.exception("the result of %s could not be used", message.operation)


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
