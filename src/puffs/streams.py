"""Standard streams that may be missing, full, or read by nobody any more."""

import os
import sys
from typing import Final

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""Name in `sys` and mode, by descriptor."""


def open_streams() -> None:
    """Give this program the standard streams that it was started without (as in ``<&-``).

    For programs, at their beginning: else what they open next gets such a number, a connection for
    example, and whoever prints writes into it.
    """
    for fd, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `fd`
            os.set_inheritable(null, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115


def flush_streams() -> None:
    """Have a child that is about to be forked inherit nothing that is still to be printed.

    Whether that could be written is for the program to find out, when it next prints.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
