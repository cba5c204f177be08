"""What stands on this side for the objects of a file server in another process: its cookies, open
files and unfinished listings. Each is a number there.

The file server keeps an object for as long as it is known here. Nobody has to say when that ends:
what stands for it here is collected, and its number comes to those that are to be dropped there.
Since the object may be on its way here again at that moment, it is also told how often it had come
(2.9: the count of a RECLAIM). And since it may have several threads, of which one reads that before
another one has read what was sent earlier, it is told how many messages without an answer, as of
`close`, there were about the object.
"""

import threading
from collections import deque
from typing import Final
from weakref import ref


class Far:
    """An object of the file server's: `id` names it there.

    `fileid` are the inode number and generation of a node, if the file server has such.
    """

    __slots__ = ("__weakref__", "fileid", "id")

    def __init__(self, id_: int, fileid: tuple[int, int] = (0, 0)) -> None:
        self.id = id_
        self.fileid = fileid

    def __repr__(self) -> str:
        return f"<{self.id} of the file server>"


class _Ref(ref[Far]):
    """What is kept of an object: how often it came, and how many messages without an answer were
    about it. When it is collected, its id is noted.
    """

    __slots__ = ("id", "sent", "told")

    id: int
    told: int
    sent: int


class Known:
    """The objects of one file server that are known here.

    An id has one `Far` at a time, so that equal cookies there are equal here. From any thread.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._refs: dict[int, _Ref] = {}
        self.collected: deque[int] = deque()
        """If it is not empty, there is something `dropped`."""

    def object(self, id_: int, fileid: tuple[int, int] = (0, 0)) -> Far:
        """The object with that id, which has just come."""
        with self._lock:
            kept = self._refs.get(id_)
            found = kept() if kept is not None else None
            if found is None:
                found = Far(id_, fileid)
                self._keep(found, *((kept.told, kept.sent) if kept is not None else (0, 0)))
            self._refs[id_].told += 1
            return found

    def _keep(self, far: Far, told: int, sent: int) -> None:
        # Called on whatever thread, inside of whatever: it must do nothing but this one step.
        collected = self.collected
        kept = _Ref(far, lambda gone: collected.append(gone.id))
        kept.id, kept.told, kept.sent = far.id, told, sent
        self._refs[far.id] = kept

    def about(self, far: Far) -> None:
        """A message without an answer is sent about an object."""
        with self._lock:
            kept = self._refs.get(far.id)
            if kept is not None:
                kept.sent += 1

    def find(self, id_: int) -> Far | None:
        """The object with that id, if it is known."""
        kept = self._refs.get(id_)
        return kept() if kept is not None else None

    def give_back(self, far: Far) -> tuple[int, int]:
        """The file server is told in another way that an object is not known here any more: how
        often it had come, and how many messages without an answer were about it. Should it come
        again, something else will stand for it.
        """
        with self._lock:
            kept = self._refs.get(far.id)
            if kept is None or kept() is not far:
                return 0, 0
            del self._refs[far.id]
            return kept.told, kept.sent

    def dropped(self, most: int) -> list[tuple[int, int, int]]:
        """Take what the file server is to be told of: ids, and what `give_back` has of each."""
        drops: list[tuple[int, int, int]] = []
        while self.collected and len(drops) < most:
            id_ = self.collected.popleft()
            with self._lock:
                kept = self._refs.get(id_)
                if kept is None or kept() is not None:  # it has come again, or was given back
                    continue
                del self._refs[id_]
            drops.append((id_, kept.told, kept.sent))
        return drops
