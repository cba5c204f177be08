"""A process for a file server: started confined, watched, and never outliving who has started it.

It knows nothing of file servers: what runs in it is a function. `inside` is what happens there.
"""

import errno
import os
import resource
import select
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from puffs.isolate.confinement import Confinement
from puffs.isolate.inside import Ends, live

CLOSE_SECONDS: Final = 5.0
"""How long `Process.close` waits for a process that has been killed: the kernel may hold it."""

_forking = threading.Lock()


class Process:
    """A process that has been started, seen from the one that has done so. A context manager.

    Attributes:
        pid: its number, also that of its session and process group.
        pidfd: a descriptor that is readable when it has ended (pidfd_open(2)).
        output: a descriptor, non-blocking, to read what it writes to stdout and stderr. Others that
            it has forked may have the other end too: its own end is not to be known from this.
    """

    def __init__(self, pid: int, output: int, lifeline: int, cpu: int | None) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.output = output
        self._lifeline = lifeline
        self._cpu = cpu
        self._lock = threading.Lock()
        self._how: str | None = None
        self._closed = False

    def kill(self) -> None:
        """SIGKILL for it and all in its process group. Once it has ended, this does nothing."""
        with self._lock:
            if self._how is None:
                self._kill_group()

    def wait(self, seconds: float | None = None) -> str | None:
        """Wait until it has ended, `seconds` at most.

        What it has left in its process group is killed then.

        Returns:
            How it has ended, to stand behind "it", such as "ended with status 3"; None: it has not.
        """
        with self._lock:
            if self._how is not None:
                return self._how
            pidfd = os.dup(self.pidfd)  # the other one may be closed meanwhile, by another thread
        try:
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            if not ended.poll(None if seconds is None else max(seconds, 0) * 1000):
                return None
        finally:
            os.close(pidfd)
        with self._lock:
            if self._how is None:
                self._how = self._collect()
            return self._how

    def close(self) -> None:
        """End it, if it has not ended, and give the descriptors back."""
        self.kill()
        self.wait(CLOSE_SECONDS)
        with self._lock:
            if not self._closed:
                self._closed = True
                for fd in (self.pidfd, self.output, self._lifeline):
                    os.close(fd)
            if self._how is None:
                self._how = "was killed, and has not ended yet"

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _kill_group(self) -> None:
        """Called before its status is taken: as long as it is a zombie, the number is its own."""
        try:
            signal.pidfd_send_signal(self.pidfd, 0)  # fails if something else has taken it
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # nobody, or only set-user-ID programs
            pass

    def _collect(self) -> str:
        self._kill_group()
        try:
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT)  # the number is its own yet
            _, status, used = os.wait4(self.pid, 0)
        except ChildProcessError:  # SIGCHLD is ignored here, or a handler of it waits for anybody
            return "ended, and something else in this process has taken its status"
        return _how(status, used, self._cpu)


def _how(status: int, used: resource.struct_rusage, cpu: int | None) -> str:
    if os.WIFEXITED(status):
        return f"ended with status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    seconds = used.ru_utime + used.ru_stime
    at_hard_limit = number == signal.SIGKILL and cpu is not None and seconds >= cpu
    if number == signal.SIGXCPU or at_hard_limit:
        return "used up its processor time"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"was killed by {name} ({signal.strsignal(number)})"


def start(
    life: Callable[[], int], keep: Collection[int] = (), confinement: Confinement | None = None
) -> Process:
    """Run `life` in a process of its own; returns when the process is confined, before `life` runs.

    It has its own session, process group, and pipe for stdout and stderr, where the root logger
    writes too. When this process ends, however it does, the kernel
    kills it and its process group. It ends with what `life` returns as its status, or 1 and a
    traceback.

    Args:
        life: what it does.
        keep: the descriptors that it has under the same numbers, above 2. All others are closed.
        confinement: what it may do; None: as much as this process.

    Raises:
        OSError: it cannot be started, or not be confined so; nothing is left of it.
        ValueError: as `Confinement.check`.
    """
    confinement = confinement or Confinement()
    confinement.check()
    identity = confinement.identity()
    if any(fd <= 2 for fd in keep):
        raise ValueError("descriptors 0 to 2 of a process are its own")
    with ExitStack() as undo, ExitStack() as theirs:
        output, printed = os.pipe()
        undo.callback(os.close, output)
        theirs.callback(os.close, printed)
        ours, lifeline = (end.detach() for end in socket.socketpair())
        undo.callback(os.close, ours)
        theirs.callback(os.close, lifeline)
        report, started = os.pipe()
        theirs.callback(os.close, report)
        theirs.callback(os.close, started)
        os.set_blocking(output, False)
        with _signals_held_back():  # here until there is a Process, there until it is set up
            pid = _fork()
            if pid == 0:
                live(life, keep, Ends(printed, lifeline, started), confinement, identity)
            try:
                process = Process(pid, output, ours, confinement.cpu)
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            undo.pop_all()
            undo.callback(process.close)
        _await(process, report)
        undo.pop_all()
        return process


@contextmanager
def _signals_held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fork() -> int:
    # Python 3.12 and later warn of a fork while there are other threads, as it may copy locks that
    # they hold. The child takes none: the interpreter and logging renew theirs, the streams are
    # new, and names of users are looked up before. What `life` takes is its author's affair.
    with _forking, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _await(process: Process, report: int) -> None:
    """Wait until the child is set up. Raises `OSError` when that has failed."""
    either = select.poll()
    either.register(report, select.POLLIN)
    either.register(process.pidfd, select.POLLIN)  # others that were forked may hold the pipe open
    if any(fd == report and event & select.POLLIN for fd, event in either.poll()):
        code, _, text = os.read(report, select.PIPE_BUF).decode(errors="replace").partition(" ")
    else:
        code, text = str(errno.EIO), f"it {process.wait()}"
    if int(code):
        raise OSError(int(code), f"the file server's process cannot be started: {text}")
