"""Memory that both sides see, for data that is too large for a frame."""

from mmap import mmap
from typing import Final

from puffs.isolate.frames import FrameError

COUNT: Final = 64
"""How many messages may have a room at once; others wait (`puffs.kernel.queues`)."""
SIZE: Final = 1 << 20
"""Bytes of a room: the largest read or write of a host."""


class Rooms:
    """`COUNT` rooms of `SIZE` bytes: made before the fork, and shared across it.

    There is no descriptor for it, so that the other side can neither shorten it nor pass it on.
    What that does with the contents is its affair: nothing read from there is looked at twice.
    """

    def __init__(self) -> None:
        self._memory = mmap(-1, COUNT * SIZE)
        with memoryview(self._memory) as view:
            self._rooms = [view[at : at + SIZE] for at in range(0, COUNT * SIZE, SIZE)]

    def memory(self, room: int) -> memoryview:
        """The bytes of a room. Raises `FrameError` for a number that is none."""
        if not 0 <= room < COUNT:
            raise FrameError(f"room {room}, where there are {COUNT}")
        return self._rooms[room]

    def close(self) -> None:
        """Give the memory back. What somebody still looks at goes with the last such view."""
        try:
            for room in self._rooms:
                room.release()
            self._memory.close()
        except BufferError:
            pass
