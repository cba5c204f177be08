"""The life of a `FUSE(...)` call: in the foreground or as a daemon, until it is unmounted.

It ends as with libfuse: it returns, or it raises `RuntimeError` with the exit status of libfuse,
when a line on stderr has said what was wrong.
"""

import errno
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Final

from puffs.attach.asking import mounted, trace
from puffs.attach.child import become_daemon
from puffs.attach.fuse.abi import Opcode
from puffs.attach.fuse.channel import Handler
from puffs.attach.fuse.init import WrongProtocol
from puffs.attach.fuse.mountpoint import MountError, check_mountpoint, shown
from puffs.attach.fuse.options import OptionError
from puffs.attach.fuse.session import OnTable
from puffs.attach.fuse.trace import line
from puffs.attach.main import set_up_log
from puffs.attach.serve import SIGNALS, run
from puffs.kernel.mount import Mount, Servable
from puffs.refuse.memory import keep_for_data
from puffs.refuse.options import parse
from puffs.refuse.settings import Dialect, Settings
from puffs.server.cred import caller
from puffs.server.errors import explain

_TRACE_SECONDS: Final = 0.2
_LAST_WORDS_SECONDS: Final = 2.0
"""How long, at the end, it may take to print the last requests."""

_ANYBODY: Final = frozenset(
    (
        Opcode.FORGET,
        Opcode.READ,
        Opcode.WRITE,
        Opcode.RELEASE,
        Opcode.FSYNC,
        Opcode.FLUSH,
        Opcode.INIT,
        Opcode.RELEASEDIR,
        Opcode.FSYNCDIR,
        Opcode.INTERRUPT,
        Opcode.DESTROY,
        Opcode.NOTIFY_REPLY,
        Opcode.BATCH_FORGET,
    )
)
"""Requests that the kernel sends in nobody's name, or for a file that is open already."""


def serve(
    make_server: Callable[[Settings], Servable],
    mountpoint: str,
    keywords: Mapping[str, object],
    dialect: Dialect,
) -> None:
    """Mount what `make_server` makes, and serve it until it is unmounted.

    `keywords` are those of `FUSE(...)`. Unless they say `foreground`, this process ends with status
    0 once the mount can be used, and the call returns in another one: a daemon, whose directory is
    "/". `make_server` is called in the process that serves, before any thread is started.

    Raises:
        RuntimeError: it cannot be mounted; its argument is libfuse's exit status, and its cause
            tells what was wrong.
    """
    try:
        _start(make_server, mountpoint, keywords, dialect)
    except (MountError, OptionError, WrongProtocol) as exc:
        print(f"puffs: {explain(exc)}", file=sys.stderr, flush=True)
        # Most programs let it pass, and Python prints it: where in puffs it was found is no help.
        exc.__cause__ = None
        raise RuntimeError(_status(exc, dialect)) from exc.with_traceback(None)


def _start(
    make_server: Callable[[Settings], Servable],
    mountpoint: str,
    keywords: Mapping[str, object],
    dialect: Dialect,
) -> None:
    settings = parse(keywords, dialect)
    place = _place(mountpoint)
    if dialect == "fuse2" and not settings.nonempty:
        _check_empty(place)
    serving = partial(_serve, make_server, place, settings)
    if settings.foreground:
        serving(lambda mount: None)
    else:
        become_daemon(serving)


def leave(mount: Mount) -> threading.Thread:
    """End a mount from inside an operation (`fuse_exit`): it is unmounted when that has returned.

    Who has files open there gets errors. Returns the thread that sees to it.
    """
    thread = threading.Thread(target=mount.unmount, args=(True,), name="puffs-exit", daemon=True)
    thread.start()
    return thread


def _status(exc: OSError | OptionError, dialect: Dialect) -> int:
    """The exit status of libfuse's main function."""
    if dialect == "fuse2":
        return 1
    if isinstance(exc, OptionError):
        return 3
    return 1 if exc.errno == errno.ENOENT else 4


def _place(mountpoint: str) -> str:
    """The absolute real path of what can be mounted on. Raises `MountError`."""
    try:
        return check_mountpoint(mountpoint, stat.S_IFDIR)
    except MountError as exc:
        if exc.errno != errno.ENOTDIR:
            raise
    return check_mountpoint(mountpoint, stat.S_IFREG)


def _check_empty(place: str) -> None:
    """libfuse 2 mounts over nothing that would be hidden, unless it is told to."""
    try:
        with os.scandir(place) as entries:
            empty = next(entries, None) is None
    except NotADirectoryError:
        empty = os.path.getsize(place) == 0
    except PermissionError as exc:  # nor could libfuse look
        raise MountError(
            errno.EACCES, f"no permission to list {shown(place)}: ask its owner"
        ) from exc
    if not empty:
        raise MountError(
            errno.ENOTEMPTY,
            f"{shown(place)} is not empty: choose another mount point, or give the option nonempty",
        )


def _serve(
    make_server: Callable[[Settings], Servable],
    place: str,
    settings: Settings,
    ready: Callable[[Mount], None],
) -> None:
    set_up_log(os.path.basename(sys.argv[0]) or "puffs", settings.foreground)
    keep_for_data()

    printing: list[threading.Thread] = []

    def settle(mount: Mount) -> None:
        if settings.debug:
            printing.extend(print_requests(place))
        ready(mount)

    if threading.current_thread() is not threading.main_thread():
        # No signal comes here: it ends the process, and that is to end the mount.
        settings.mount.auto_unmount = True
    run(
        partial(make_server, settings),
        place,
        settings.mount,
        on_ready=settle,
        on_table=guard(os.getuid()) if settings.allow_root else None,
        signals=_signals(),
    )
    for thread in printing:
        thread.join(_LAST_WORDS_SECONDS)


def _signals() -> list[signal.Signals]:
    """Those that unmount: all but what the program ignores, or has a handler of its own for.

    INT is always one, as fusepy has it: Python has a handler for it, which nobody has asked for.
    """
    return [
        number
        for number in SIGNALS
        if number == signal.SIGINT or signal.getsignal(number) == signal.SIG_DFL
    ]


def guard(owner: int) -> OnTable:
    """Have all but `owner` and root refused, where a request is somebody's."""
    allowed = (owner, 0)

    def guarded(handler: Handler) -> Handler:
        def check(unique: int, nodeid: int, length: int) -> None:
            if caller().uid not in allowed:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            handler(unique, nodeid, length)

        return check

    def change(table: list[Handler]) -> None:
        for opcode, handler in enumerate(table):
            if opcode not in _ANYBODY:
                table[opcode] = guarded(handler)

    return change


def print_requests(place: str) -> list[threading.Thread]:
    """From now on until the mount ends, print on stderr what `puffs trace` shows.

    Returns the thread that does, if all is well.
    """
    tracing = ExitStack()
    try:
        events = tracing.enter_context(trace(mounted(place), [], _TRACE_SECONDS))
    except OSError as exc:
        print(f"puffs: debug: {explain(exc)}", file=sys.stderr, flush=True)
        return []

    def show() -> None:
        with tracing:
            for event in events:
                if event:
                    print(line(event), file=sys.stderr, flush=True)

    thread = threading.Thread(target=show, name="puffs-debug", daemon=True)
    thread.start()
    return [thread]
