"""Inside a process that has just been forked: what it leaves behind before it begins to live.

It keeps the descriptors that it is told to and nothing else of its parent: no other descriptor, no
terminal, no signal handler, no log. The memory is a copy of the parent's, as after any fork: what
is secret there is known here.
"""

import errno
import faulthandler
import fcntl
import gc
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from typing import Final, NamedTuple, NoReturn

from puffs.isolate.confinement import Confinement, Identity
from puffs.streams import flush_streams

STARTED: Final = b"0"
"""What is sent when all is set up. Otherwise it is an errno, a blank, and a text."""

_STANDARD: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
_PYTHON_IGNORES: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""In every Python program these become exceptions."""
_CANNOT_BE_SET: Final = (signal.SIGKILL, signal.SIGSTOP)

_inherited: list[object] = []
"""Objects of the parent which were replaced. They must not end here: that would close descriptors
whose numbers are others' now, and write what the parent still has to write.
"""


class Ends(NamedTuple):
    """The descriptors that lead to the parent: for output, for its end, and for `STARTED`."""

    printed: int
    lifeline: int
    started: int


def live(
    life: Callable[[], int],
    keep: Collection[int],
    ends: Ends,
    confinement: Confinement,
    identity: Identity | None,
) -> NoReturn:
    """The life of a process that has just been forked, with all signals blocked."""
    status = 1
    started = ends.started
    try:
        try:
            gc.freeze()  # garbage of the parent is not collected here; see `_inherited`
            os.setsid()
            _leave_signals()
            lifeline, started = _leave_descriptors(keep, ends)
            _open_streams()
            _leave_hooks()
            confinement.enter(identity)
            _tie(lifeline)
        except BaseException as exc:
            os.write(started, _in_words(exc))
            raise
        os.write(started, STARTED)  # fails if the parent ended before `_tie`: so does this process
        os.close(started)
        status = _status_of(life)
    finally:
        try:
            flush_streams()
        finally:
            os._exit(status)


def _leave_signals() -> None:
    """As in a Python program that has just begun, but SIGINT is no exception."""
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - set(_CANNOT_BE_SET):
        ignored = number in _PYTHON_IGNORES
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _leave_descriptors(keep: Collection[int], ends: Ends) -> tuple[int, int]:
    """Close all but the standard ones, `keep`, and two `ends` under new numbers, which it returns.

    A parent without standard streams may have them as 0, 1 or 2.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    null, printed, lifeline, started = (
        fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (null, *ends)
    )
    for standard, fd in enumerate((null, printed, printed)):
        os.dup2(fd, standard)
    kept = {0, 1, 2, *keep, lifeline, started}
    try:
        found = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no proc(5) here
        found = list(range(os.sysconf("SC_OPEN_MAX")))
    for fd in set(found) - kept:
        os.closerange(fd, fd + 1)  # which does not mind that the listing itself is closed
    return lifeline, started


def _open_streams() -> None:
    for fd, (name, mode) in enumerate(_STANDARD):
        stream = open(  # noqa: SIM115  (open as long as the process is)
            fd, mode, buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        for variable in (name, f"__{name}__"):
            _inherited.append(getattr(sys, variable))
            setattr(sys, variable, stream)
    faulthandler.enable(sys.stderr)
    faulthandler.register(signal.SIGXCPU, sys.stderr, chain=True)  # and end, as without it


def _leave_hooks() -> None:
    """Have what goes wrong or is logged end up in the new stderr, and nowhere else."""
    sys.unraisablehook = sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and logger.handlers:
            _inherited.append(logger.handlers)
            logger.handlers, logger.propagate = [], True
    # logging.config closes all that are in there, and has no function for this.
    logging._handlerList.clear()  # type: ignore[attr-defined]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.root.addHandler(handler)


def _tie(lifeline: int) -> None:
    """Have the kernel kill the process group when the other end of `lifeline` is closed.

    Nothing is ever sent there, so the end is the only event of signal-driven input: fcntl(2). It
    needs no thread that could run, and unlike PR_SET_PDEATHSIG it does not depend on the thread
    that has forked, and stays when the user changes; after that change, since the right to send the
    signal is judged by who has asked for it.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)


def _in_words(exc: BaseException) -> bytes:
    """An errno and a text, short enough to be sent at once."""
    code, text = errno.EIO, f"{type(exc).__name__}: {exc}"
    if isinstance(exc, OSError) and exc.errno and exc.strerror:
        code, text = exc.errno, exc.strerror
    return f"{code} {text}".encode(errors="replace")[: select.PIPE_BUF]


def _status_of(life: Callable[[], int]) -> int:
    try:
        try:
            return life() & 0xFF
        except SystemExit as exc:
            if exc.code is None or isinstance(exc.code, int):
                return (exc.code or 0) & 0xFF
            print(exc.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    return 1
