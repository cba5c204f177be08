"""`main`: a whole command line around a file server, in the manner of mount(8)."""

import argparse
import errno
import gc
import inspect
import logging
import logging.handlers
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from puffs.attach.child import daemonize
from puffs.attach.fuse.mountpoint import MountError
from puffs.attach.fuse.options import help_text
from puffs.attach.fuse.places import MountPoint, Where, place_of
from puffs.attach.isolating import ISOLATE, ISOLATE_HELP, ROWS, UsageError, isolation_from
from puffs.attach.logs import JsonFormatter
from puffs.attach.serve import Options, Server, parsed_options, run
from puffs.attach.systemd import notify
from puffs.isolate.isolation import Isolation
from puffs.kernel.mount import Mount
from puffs.server.errors import EXPLAINED, explain
from puffs.streams import open_streams

logger = logging.getLogger("puffs")

SYSLOG = "/dev/log"

_INTERRUPTED = 130
"""The exit status of a command that SIGINT ended, as a shell tells it."""


def main(fs: Server, argv: Sequence[str] | None = None) -> NoReturn:
    """Mount `fs` as the command line asks, then end the program.

    ``PROG [-f] [-o OPTIONS]... [--isolate ...] MOUNTPOINT`` mounts in the background and returns to
    the shell once the mount can be used; with ``-f`` it serves until the file system is unmounted
    or INT, TERM or HUP asks to end. With ``--isolate`` the file server gets a process of its own
    (`Isolation`). The exit status is 0, 1 when it cannot be mounted or such a process has died (one
    line on stderr says why), or 2 for a command line that makes no sense.

    Args:
        fs: a file server, its class, or a function that makes one. A class or function is called in
            the process that serves.
        argv: the arguments; None: those of this program.

    The logger "puffs" is given a handler where the program has set up none: stderr with ``-f``,
    else syslog.
    """
    open_streams()
    parser = argparse.ArgumentParser(
        description=_description(fs),
        epilog=f"OPTIONS, separated by commas:\n{help_text()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="the directory to mount on")
    parser.add_argument("-f", "--foreground", action="store_true", help="serve in the foreground")
    parser.add_argument(
        "-o",
        dest="options",
        metavar="OPTIONS",
        action="append",
        default=[],
        help="mount options, see below; may be given several times",
    )
    parser.add_argument(ISOLATE, action="store_true", help=_in_argparse(ISOLATE_HELP))
    for row in ROWS:
        parser.add_argument(row.flag, metavar=row.metavar, help=_in_argparse(row.help))
    args = parser.parse_args(argv)
    try:
        isolation = isolation_from(args.isolate, vars(args))
    except UsageError as exc:
        parser.error(str(exc))
    sys.exit(
        mount_command(
            parser.prog,
            fs,
            args.mountpoint,
            args.options,
            foreground=args.foreground,
            isolation=isolation,
        )
    )


def _in_argparse(text: str) -> str:
    """A help text as argparse writes its own: no capital, no full stop at the end."""
    return text[0].lower() + text[1:].removesuffix(".")


def mount_command(
    prog: str,
    fs: Server,
    mountpoint: Where,
    options: Options,
    *,
    foreground: bool,
    json_log: bool = False,
    isolation: Isolation | None = None,
) -> int:
    """Do what a command called `prog` does that mounts `fs`; return its exit status.

    Returns once the mount can be used, or with `foreground` when it is gone. Complaints go to
    stderr, a line each. `json_log`: what is logged once it serves are lines of JSON. `isolation`:
    how the file server is held in a process of its own, if it gets one.
    """

    def serve(ready: Callable[[Mount], None] = lambda mount: None) -> None:
        def announce(mount: Mount) -> None:
            _settle()
            notify("READY=1", f"MAINPID={os.getpid()}")
            ready(mount)

        set_up_log(prog, foreground, as_json=json_log)
        run_explained(fs, mountpoint, wanted, announce, isolation)
        notify("STOPPING=1")

    try:
        wanted = parsed_options(options)
        if wanted.auto_unmount is None and isinstance(place_of(mountpoint), MountPoint):
            wanted.auto_unmount = True
        if foreground:
            serve()
        else:
            daemonize(serve)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except EXPLAINED as exc:
        print(f"{prog}: {explain(exc)}", file=sys.stderr)
        return 1
    except Exception as exc:
        logger.error("the file server could not be started", exc_info=exc)
        print(f"{prog}: {type(exc).__name__}: {explain(exc)}", file=sys.stderr)
        return 1
    return 0


def _settle() -> None:
    """What has been loaded and built by now stays until the end: the collector of reference cycles
    need not go through it again and again, while callers wait. (`gc.freeze`)
    """
    gc.collect()
    gc.freeze()


def run_explained(
    fs: Server,
    mountpoint: Where,
    options: Options,
    on_ready: Callable[[Mount], None],
    isolation: Isolation | None = None,
) -> None:
    """`run`, with whatever stops the mounting turned into a `MountError`, in one line."""
    try:
        run(fs, mountpoint, options, isolate=isolation or False, on_ready=on_ready)
    except EXPLAINED as exc:
        logger.debug("the mounting has failed", exc_info=True)
        # The way from a child process keeps an errno and a text only.
        code = isinstance(exc, OSError) and exc.errno
        raise MountError(code or errno.EINVAL, explain(exc)) from exc


def _description(fs: Server) -> str | None:
    """What the author wrote about his file server, at its class or at the script."""
    about = fs if inspect.isroutine(fs) or isinstance(fs, type) else type(fs)
    # The docstring of Tree and its like is for authors.
    ours = about.__module__.startswith("puffs.server.")
    text = sys.modules["__main__"].__doc__ if ours else about.__doc__
    return inspect.cleandoc(text) if text else None


def set_up_log(prog: str, foreground: bool, *, as_json: bool = False) -> None:
    """Give the logger "puffs" a handler, unless the program has done that: stderr, or syslog."""
    if logger.hasHandlers():
        return
    handler: logging.Handler
    if foreground:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"{prog}: %(message)s"))
    else:
        handler = _Syslog(SYSLOG)
        handler.setFormatter(logging.Formatter(f"{prog}[{os.getpid()}]: %(message)s"))
    if as_json:
        handler.setFormatter(JsonFormatter(prog))
    logger.addHandler(handler)


class _Syslog(logging.handlers.SysLogHandler):
    """Sends to syslog, and where nobody listens, nowhere: there is nobody to complain to either."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass
