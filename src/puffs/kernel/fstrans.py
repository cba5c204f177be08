"""File system transactions: who operates on a mount, and how all of that is brought to a stop
(fstrans(9)).

Every operation of an attachment that works by call is a transaction (`Vnops`). Whoever suspends
the mount goes through the states NORMAL, SUSPENDING, SUSPENDED and back to NORMAL. From SUSPENDING
on no transaction begins, but those of the thread that suspends; it is reached when those that were
under way have ended. A host that sends requests is held in a way of its own (`Attachment.suspend`).
"""

import errno
import os
import threading
from enum import IntEnum
from time import monotonic


class State(IntEnum):
    """The states of a mount's transactions."""

    NORMAL = 0
    SUSPENDING = 1
    SUSPENDED = 2


_NEXT = {
    State.NORMAL: State.SUSPENDING,
    State.SUSPENDING: State.SUSPENDED,
    State.SUSPENDED: State.NORMAL,
}


class Fstrans:
    """The transactions of one mount."""

    def __init__(self) -> None:
        self._state = State.NORMAL
        self._owner = 0
        """The thread that suspends."""
        self._inside: dict[int, int] = {}
        """How many transactions each thread is in: one may need another, as a write a getattr."""
        self._changed = threading.Condition(threading.Lock())

    @property
    def state(self) -> State:
        """The state."""
        return self._state

    def is_owner(self) -> bool:
        """Whether this thread is the one that suspends (P2)."""
        return self._state is not State.NORMAL and self._owner == threading.get_ident()

    def start(self) -> None:
        """Begin a transaction on this thread; waits while the mount is suspended (Q4)."""
        me = threading.get_ident()
        with self._changed:
            while self._state is not State.NORMAL and self._owner != me and me not in self._inside:
                self._changed.wait()
            self._inside[me] = self._inside.get(me, 0) + 1

    def join(self) -> None:
        """Begin on this thread what is part of a transaction of another one, which waits for it."""
        me = threading.get_ident()
        with self._changed:
            self._inside[me] = self._inside.get(me, 0) + 1

    def done(self) -> None:
        """End the transaction that this thread has begun last."""
        me = threading.get_ident()
        with self._changed:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
                self._changed.notify_all()

    def setstate(self, state: State, deadline: float = float("inf")) -> None:
        """Change the state. NORMAL is reached from everywhere, the others one after the other.

        SUSPENDING waits for the transactions that are under way, until `deadline` on the monotonic
        clock. Raises `OSError`, with the state as it was: EBUSY when somebody else suspends,
        EDEADLK inside a transaction of this thread, ETIMEDOUT; ENXIO when the mount goes meanwhile.
        """
        with self._changed:
            if state is State.NORMAL:
                self._state = state
                self._changed.notify_all()
                return
            if _NEXT[self._state] is not state or (
                state is State.SUSPENDED and self._owner != threading.get_ident()
            ):
                raise OSError(errno.EBUSY, f"it is {self._state.name.lower()} already")
            if state is State.SUSPENDED:
                self._state = state
            else:
                self._begin(deadline)

    def _begin(self, deadline: float) -> None:
        """Let no further transaction begin, and wait for the others to end."""
        me = threading.get_ident()
        if me in self._inside:
            raise OSError(errno.EDEADLK, "this cannot be done inside an operation")
        self._state, self._owner = State.SUSPENDING, me
        while self._inside:
            if not self._changed.wait(_seconds_until(deadline)):
                self._state = State.NORMAL
                self._changed.notify_all()
                raise OSError(errno.ETIMEDOUT, "operations that are under way do not end")
            if self._state is State.NORMAL:  # the mount has gone
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))


def _seconds_until(deadline: float) -> float | None:
    return None if deadline == float("inf") else max(0.0, deadline - monotonic())
