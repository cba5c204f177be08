"""Memory that both sides see, for data that is too large for a frame."""

from mmap import mmap
from typing import Final

from puffs.isolate.frames import FrameError

COUNT: Final = 8
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
        self._view = memoryview(self._memory)

    def view(self, room: int, length: int) -> memoryview:
        """The first bytes of a room. Raises `FrameError` for a place that is none."""
        if not (0 <= room < COUNT and 0 <= length <= SIZE):
            raise FrameError(f"{length} bytes in room {room} of {COUNT}, which have {SIZE} each")
        return self._view[room * SIZE : room * SIZE + length]
