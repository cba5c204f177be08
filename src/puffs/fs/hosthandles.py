"""Numbers by which files of the host are found again: what `null` gives to hosts as node ids.

Linux makes a handle of a file of a mount out of the node id, and when it has forgotten the file it
asks for the node id alone. The host has longer handles (name_to_handle_at(2)). On most file systems
they are an inode number, a generation of 32 bits, and bytes that are the same for all files: with
an inode number below 2**31, both fit into the 63 bits of a number that the file server may give.
"""

from operator import itemgetter
from struct import Struct
from typing import Final, NamedTuple

_HEADER: Final = Struct("=Ii")
"""`struct file_handle`: the length of what follows, and its type."""


class _Layout(NamedTuple):
    """A handle with its header: the fields, and which are the inode number and the generation."""

    struct: Struct
    ino: int
    generation: int


_LAYOUTS: Final = {
    (0x01, 8): _Layout(Struct("=8sII"), 1, 2),  # ext2 to ext4, f2fs, small xfs
    (0x01, 12): _Layout(Struct("=8sIQ"), 2, 1),  # tmpfs
    (0x81, 12): _Layout(Struct("=8sQI"), 1, 2),  # xfs
    (0x4D, 20): _Layout(Struct("=8sQ8sI"), 1, 3),  # btrfs; between them is the subvolume
}
"""By type and length. It is not relied on that the fields mean this: they are where handles differ,
and a number is one only of the handle that it gives back.
"""

_INO_BITS: Final = 31
_NUMBERS: Final = 1 << 63
"""Numbers from here on are the kernel half's."""


class HandleNumbers:
    """The numbers of the files that are in one file system with the file that has handle `like`."""

    def __init__(self, like: bytes) -> None:
        length, kind = _HEADER.unpack_from(like)
        self._layout = layout = _LAYOUTS.get((kind, length))
        if layout is not None:
            struct, *two = layout
            self._like = struct.unpack(like)
            self._rest_of = itemgetter(*(at for at in range(len(self._like)) if at not in two))
            self._rest = self._rest_of(self._like)

    def number(self, handle: bytes) -> int | None:
        """The number for a handle; None if there is none that gives the handle back."""
        layout = self._layout
        if layout is None or len(handle) != layout.struct.size:
            return None
        fields = layout.struct.unpack(handle)
        ino: int = fields[layout.ino]
        if ino >> _INO_BITS or self._rest_of(fields) != self._rest:
            return None
        number: int = fields[layout.generation] << _INO_BITS | ino
        return number or None

    def handle(self, number: int) -> bytes | None:
        """The handle for a number; None if there can be none."""
        layout = self._layout
        if layout is None or not 0 < number < _NUMBERS:
            return None
        fields = list(self._like)
        fields[layout.generation], fields[layout.ino] = divmod(number, 1 << _INO_BITS)
        return layout.struct.pack(*fields)
