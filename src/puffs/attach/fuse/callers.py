"""What can be found out of a caller beyond his request: proc(5) knows his threads."""

import signal
from pathlib import Path
from typing import Final

_FATAL: Final = sum(
    1 << (number - 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGQUIT)
)


def is_to_end(tid: int) -> bool:
    """Whether a signal that is to end thread `tid`, or its process, is pending (statement 2.7).

    The kernel says that a caller was interrupted, and not by what.
    """
    try:
        status = Path(f"/proc/{tid}/status").read_text(errors="replace")
    except OSError:
        return True  # it has gone already
    pending = 0
    for line in status.splitlines():
        field, _, value = line.partition(":")
        if field in ("SigPnd", "ShdPnd"):
            pending |= int(value, 16)
    return bool(pending & _FATAL)


def is_running(tid: int) -> bool:
    """Whether thread `tid` is on a processor or wants to be, or waits for what will not take long:
    states R and D, proc_pid_stat(5).
    """
    try:
        stat = Path(f"/proc/{tid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] in (b"R", b"D")
