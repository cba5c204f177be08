"""`remember` and `noforget`: a file keeps its inode number when the kernel has forgotten it."""

import secrets
from collections.abc import Callable
from itertools import count
from threading import Lock
from time import monotonic
from typing import Final
from weakref import WeakKeyDictionary

from puffs.server.operations import Operations
from puffs.server.path_nodes import Names, Node

_FIRST: Final = 2
"""The number after that of the root."""


class Remembered:
    """The numbers of files, and those files that the kernel knows no more.

    A file that is forgotten is kept for `seconds` (which may be infinite) by its name; whoever
    looks that up in the meantime finds the same one. Which have been kept for long enough is looked
    at when one more is forgotten.
    """

    def __init__(
        self, names: Names, seconds: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._names = names
        self._seconds = seconds
        self._clock = clock
        self._lock = Lock()
        self._numbers: WeakKeyDictionary[Node, int] = WeakKeyDictionary()
        self._unused = count(_FIRST)
        self._generation = secrets.randbits(32)  # in another mount the numbers begin anew
        self._until: dict[Node, float] = {}
        """What is kept, and until when: the next to go first."""

    def operations(self) -> Operations:
        """What the kernel half asks."""
        return {"fileid": self._fileid, "reclaim": self._reclaim}

    def _fileid(self, node: Node) -> tuple[int, int]:
        with self._lock:
            number = self._numbers.get(node)
            if number is None:
                number = self._numbers[node] = next(self._unused)
            return number, self._generation

    def _reclaim(self, node: Node) -> None:
        now = self._clock()
        _, there = self._names.find(node)
        let_go = []  # beyond the lock: the tree of names has one of its own
        with self._lock:
            self._until.pop(node, None)
            if there:
                self._until[node] = now + self._seconds
            while self._until and next(iter(self._until.values())) <= now:
                node = next(iter(self._until))
                let_go.append(node)
                del self._until[node]
