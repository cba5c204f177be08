"""Numbers by which files of the host are found again: what `null` gives to hosts as node ids.

Linux makes a handle of a file of a mount out of the node id, and when it has forgotten the file it
asks for the node id alone. The host has longer handles (name_to_handle_at(2)). On most file systems
they are an inode number, a generation of 32 bits, and bytes that are the same for all files: with
an inode number below 2**31, both fit into the 63 bits of a number that the file server may give.
"""

import sys
from struct import Struct
from typing import Final, NamedTuple

_HEADER: Final = Struct("=Ii")
"""`struct file_handle`: the length of what follows, and its type."""


class _Layout(NamedTuple):
    """Where a handle, with its header, has the inode number and the generation."""

    ino: slice
    generation: slice


_LAYOUTS: Final = {
    (0x01, 8): _Layout(slice(8, 12), slice(12, 16)),  # ext2 to ext4, f2fs, small xfs
    (0x01, 12): _Layout(slice(12, 20), slice(8, 12)),  # tmpfs
    (0x81, 12): _Layout(slice(8, 16), slice(16, 20)),  # xfs
    (0x4D, 20): _Layout(slice(8, 16), slice(24, 28)),  # btrfs; between them is the subvolume
}
"""By type and length. It is not believed: a number counts only if it gives the handle back."""

_INO_BITS: Final = 31
_NUMBERS: Final = 1 << 63
"""Numbers from here on are the kernel half's."""


class HandleNumbers:
    """The numbers of the files that are in one file system with the file that has handle `like`."""

    def __init__(self, like: bytes) -> None:
        length, kind = _HEADER.unpack_from(like)
        self._like = like
        self._layout = _LAYOUTS.get((kind, length))

    def number(self, handle: bytes) -> int | None:
        """The number for a handle; None if there is none that gives the handle back."""
        layout = self._layout
        if layout is None:
            return None
        number = _read(handle, layout.generation) << _INO_BITS | _read(handle, layout.ino)
        return number if number and self.handle(number) == handle else None

    def handle(self, number: int) -> bytes | None:
        """The handle for a number; None if there can be none."""
        layout = self._layout
        if layout is None or not 0 < number < _NUMBERS:
            return None
        generation, ino = divmod(number, 1 << _INO_BITS)
        handle = bytearray(self._like)
        for place, value in ((layout.ino, ino), (layout.generation, generation)):
            handle[place] = value.to_bytes(place.stop - place.start, sys.byteorder)
        return bytes(handle)


def _read(handle: bytes, place: slice) -> int:
    return int.from_bytes(handle[place], sys.byteorder)
