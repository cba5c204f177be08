"""The C library's memory, in a process that serves programs of other libraries."""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGEST: Final = 4 << 20
"""Above all that a request brings, and what a program makes of it."""
_KEPT: Final = 16 << 20
"""How much free memory at the end of the heap stays in the process."""


def keep_for_data() -> None:
    """Have memory that data was in stay in the process, for the data of the next request.

    The program is given `bytes`: 1 MiB for each large write. glibc gives such memory back to the
    kernel when it is freed, and the next piece is 256 page faults, which take longer than all else
    that becomes of a write (mallopt(3)). Other C libraries have no such function.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
