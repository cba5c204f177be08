"""A command in a mount namespace of its own, with file systems that only it sees: no root, no
helper.

The command stays in the process group of its starter, so that the keys of a terminal and job
control reach it as ever; the file servers do not, and are ended when it has ended.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from puffs.attach.child import spawn
from puffs.attach.fuse.doors.namespace import enter
from puffs.attach.fuse.doors.reasons import DoorShut
from puffs.attach.fuse.machine import CAP_SYS_ADMIN, HERE
from puffs.attach.fuse.mountpoint import MountError
from puffs.attach.main import run_explained, set_up_log
from puffs.attach.serve import Server
from puffs.kernel.mount import Mount

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""Exit statuses of a command that cannot be started, and..."""
KILLED: Final = 128
"""... this plus the signal that ended it: as a shell tells them."""

PASSED_ON: Final = frozenset(
    (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
    )
)


def execute(prog: str, mounts: Sequence[tuple[Server, str]], command: Sequence[str]) -> int:
    """Run `command` where each file server is mounted on its directory; return its exit status.

    This process moves into the new namespace for good, and must have one thread only.

    Args:
        prog: the name of this program, for messages of the file servers on stderr.
        mounts: file servers, or what makes them when called (in a process of its own), and where.
            They are mounted in this order.
        command: a program, looked up in PATH, and its arguments.

    Raises:
        MountError: there can be no such namespace, or a file system cannot be mounted. The command
            has not been started then.
    """
    try:
        # Root needs no user namespace, and keeps all users in the mounts.
        enter(HERE, user=not HERE.may(CAP_SYS_ADMIN))
    except DoorShut as shut:
        raise MountError(
            shut.code,
            f"no private namespace for {command[0]}: {shut.reason.why} ({shut.reason.remedy})",
        ) from shut
    with ExitStack() as mounted:
        for server, directory in mounts:
            mountpoint = os.path.abspath(directory)
            mounted.enter_context(spawn(_serving(prog, server, mountpoint), mountpoint))
        return _run(command)


def _serving(
    prog: str, server: Server, mountpoint: str
) -> Callable[[Callable[[Mount], None]], None]:
    def serve(ready: Callable[[Mount], None]) -> None:
        os.setsid()  # ^C is for the command, which may well go on after it
        set_up_log(prog, True)
        run_explained(server, mountpoint, (), ready)

    return serve


def _run(command: Sequence[str]) -> int:
    """Start the command and wait for its end; pass on the signals that come meanwhile."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the exit status away
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *PASSED_ON})
    try:
        child = subprocess.Popen(
            command,
            close_fds=False,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),
        )
        while (status := child.poll()) is None:
            info = signal.sigwaitinfo({signal.SIGCHLD, *PASSED_ON})
            # The terminal (positive code: from the kernel) has told the command itself.
            if info.si_signo in PASSED_ON and info.si_code <= 0:
                child.send_signal(info.si_signo)
        while signal.sigtimedwait(PASSED_ON, 0):
            pass  # was for the command, which has ended
        return status if status >= 0 else KILLED - status
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
