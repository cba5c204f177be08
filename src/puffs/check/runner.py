"""Running checks, so that no file server can stop it: not by hanging, looping or dying.

The file server and the checks live in a worker process. What does not answer in time is a failed
check: its mount is aborted and taken away, its processes are killed, and the next check gets a
fresh worker.
"""

import json
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, Final

from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mounting import abort_connection, unmount
from puffs.check.registry import Check
from puffs.check.result import Mode, Outcome, Result, Verdict
from puffs.check.worker import Factory, Job, ended, run_worker
from puffs.server.operations import OPERATIONS
from puffs.streams import flush_streams

START_SECONDS: Final = 60.0
"""How long a file server may take to start, and to end."""
GRACE_SECONDS: Final = 1.0
"""How much longer than its limit a worker may take, to print where it stands, and to be killed."""
NOT_IMPLEMENTED: Final = "not implemented"
"""How the reason begins when operations are missing; their names follow, divided by commas."""
OUTPUT_MAX: Final = 4000
"""How much of what a file server writes during one check is kept: characters at the end of it."""

_LINE: Final = re.compile(r'/battery/(\w+\.py)", line (\d+)')
"""The line of a check in a traceback of faulthandler."""
_OURS: Final = re.compile(
    r'^  File ".*/puffs/(check/worker|attach/serve)\.py", line .*\n(^  File .*\n)*', re.MULTILINE
)
"""The end of such a traceback: how the file server and the check were started."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a check may take: seconds by the clock, and of CPU time in each process."""

    seconds: float = 10.0
    cpu_seconds: int = 5


class CannotStart(Exception):
    """The file server could not be started, or not be mounted. The text says why.

    `output` is what it wrote meanwhile.
    """

    output: str = ""


def run(
    factory: Factory,
    mode: Mode,
    checks: Iterable[Check],
    limits: Limits | None = None,
    *,
    options: str = "",
    isolate: bool = False,
) -> Iterator[Result]:
    """Run checks over a file server that `factory` makes, and yield each result when it is there.

    `factory` is called in a child process, once for each worker that it takes. In process, checks
    of what only a mount has are passed over. `options` are for mounts; with `isolate` the file
    server lives in a process of its own. Raises `CannotStart` before the first result when the file
    server cannot be started at all.
    """
    with checking(factory, mode, limits, options=options, isolate=isolate) as result_of:
        for check in applicable(checks, mode):
            yield result_of(check)


@contextmanager
def checking(
    factory: Factory,
    mode: Mode,
    limits: Limits | None = None,
    *,
    options: str = "",
    isolate: bool = False,
) -> Iterator[Callable[[Check], Result]]:
    """As `run`, for checks one by one: what is given runs a check and returns its result."""
    if not __debug__:
        raise CannotStart("the checks are assertions: run them without python -O")
    limits = limits or Limits()
    with new_directory() as mountpoint, tempfile.TemporaryFile("ab+") as log:
        job = Job(
            factory,
            mode,
            mountpoint,
            f"/puffs-check.{os.getpid()}",
            limits.seconds,
            limits.cpu_seconds,
            options,
            isolate,
        )
        workers = Workers(job, log)
        try:
            yield workers.result_of
            workers.worker.end()
        finally:
            workers.worker.kill()


class Workers:
    """A worker, and its successor whenever one is gone. Raises `CannotStart` for the first."""

    def __init__(self, job: Job, log: IO[bytes]) -> None:
        self._job = job
        self._log = log
        self._broken = ""
        self.worker = WorkerProcess(job, log)
        try:
            self.worker.start()
        except CannotStart as exc:
            exc.output = self.worker.output()
            self.worker.kill()
            raise
        self._operations = self.worker.operations

    def result_of(self, check: Check) -> Result:
        """Run a check, unless it says nothing about this file server."""
        if reason := why_left_out(check, self._operations):
            return Result(check, self._job.mode, Verdict(Outcome.LEFT_OUT, reason))
        if self.worker.gone and not self._broken:
            self.worker = WorkerProcess(self._job, self._log)
            try:
                self.worker.start()
            except CannotStart as exc:
                self._broken = f"the file server does not start again: {exc}"
        if self._broken:
            return Result(check, self._job.mode, Verdict(Outcome.ERROR, self._broken))
        return self.worker.run(check)


def applicable(checks: Iterable[Check], mode: Mode) -> list[Check]:
    """The checks of what there is in a mode."""
    return [check for check in checks if mode is Mode.MOUNTED or not check.mounted_only]


def why_left_out(check: Check, operations: frozenset[str]) -> str:
    """Why a check says nothing about a file server with these operations; "" when it does."""
    present = operations
    if "mknod" in operations:  # makes regular files too: the kernel half asks it then
        present |= {"create"}
    if missing := [name for name in OPERATIONS if name in check.needs - present]:
        return f"{NOT_IMPLEMENTED}: {', '.join(missing)}"
    if check.root and os.geteuid() != 0:
        return "only for root"
    return ""


class Ended(Exception):
    """A worker has ended, or was killed. The text says why."""


class WorkerProcess:
    """A worker process, seen from the one that starts it.

    `operations` are those of the file server, once `start` has returned.
    """

    def __init__(self, job: Job, log: IO[bytes]) -> None:
        self.operations: frozenset[str] = frozenset()
        self._job = job
        self._log = log.fileno()
        self._seen = os.fstat(self._log).st_size
        self._server = -1  # a pidfd: unlike a number it never means another process
        self._control, theirs = socket.socketpair()
        self._lines = self._control.makefile("rb")
        flush_streams()
        self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            run_worker(job, theirs, self._log)
        try:
            os.setpgid(self._pid, self._pid)  # both sides do it: whoever comes first
        except (PermissionError, ProcessLookupError):
            pass
        theirs.close()

    def start(self) -> None:
        """Wait until the file server has started. Raises `CannotStart`."""
        try:
            answer = self._answer(START_SECONDS)
        except TimeoutError:
            raise CannotStart(f"not within {START_SECONDS:g} seconds") from None
        except EOFError:
            raise CannotStart(self.kill()) from None
        if "failed" in answer:
            raise CannotStart(answer["failed"])
        self.operations = frozenset(answer["operations"])
        try:
            self._server = os.pidfd_open(answer["server"])
        except ProcessLookupError:
            pass

    @property
    def gone(self) -> bool:
        """Whether the process has ended."""
        return self._pid == 0

    def play(self, lines: list[str]) -> tuple[list[str], list[str], str]:
        """What steps give on the mount and beside it; or, in words, what ended the file server,
        with which the worker is gone too.
        """
        try:
            answer = self._ask(play=lines)
        except Ended as exc:
            return [], [], str(exc)
        return answer["mounted"], answer["beside"], answer["dead"]

    def run(self, check: Check) -> Result:
        """Run one check. Whatever happens, there is a result; after some, the worker is gone."""
        start = time.monotonic()
        verdict = self._verdict(check)
        seconds = time.monotonic() - start
        output = self.output()
        if not verdict.where and (line := _LINE.search(output)):
            verdict = replace(verdict, where=f"{line[1]}:{line[2]}")
        return Result(check, self._job.mode, verdict, seconds, output)

    def _verdict(self, check: Check) -> Verdict:
        try:
            answer = self._ask(check=check.name)
        except Ended as exc:
            return Verdict(Outcome.FAILED, str(exc))
        return Verdict(Outcome(answer["outcome"]), answer["message"], answer["where"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        """The answer of the worker; it is gone when that tells of the file server's end.

        Raises `Ended` when there is no answer.
        """
        try:
            self._control.sendall(json.dumps(request).encode() + b"\n")
            answer = self._answer(self._job.seconds + GRACE_SECONDS)
        except TimeoutError:
            self.kill()
            raise Ended(f"no end within {self._job.seconds:g} seconds: it hangs") from None
        except (EOFError, BrokenPipeError):
            raise Ended(self.kill()) from None
        if answer["dead"]:
            self.kill()
        return answer

    def _answer(self, seconds: float) -> dict[str, Any]:
        """The next line of the worker. Raises `TimeoutError`, and `EOFError` when it has ended."""
        self._control.settimeout(seconds)
        try:
            line = self._lines.readline()
        except ConnectionResetError:
            line = b""
        if not line:
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer

    def output(self) -> str:
        """What has been printed since this was asked the last time."""
        size = os.fstat(self._log).st_size
        start = max(self._seen, size - 16 * OUTPUT_MAX)
        self._seen = size
        text = os.pread(self._log, size - start, start).decode(errors="replace")
        return _OURS.sub("", text).strip()[-OUTPUT_MAX:]

    # -------------------------------------------------------------------------------------- its end

    def end(self) -> None:
        """Let it clean up, unmount, and end."""
        if not self.gone:
            self._control.shutdown(socket.SHUT_WR)
            self._wait(START_SECONDS)
        self.kill()

    def kill(self) -> str:
        """End it at once, whatever it does, and take its mount away. Returns how it has ended."""
        if self.gone:
            return ""
        if self._job.mode is Mode.MOUNTED:
            # The file server first: its end, and that of the connection, free who waits for it. The
            # worker then collects it. SIGXCPU prints where it was.
            _abort(self._job.mountpoint)
            if self._server >= 0:
                try:
                    signal.pidfd_send_signal(self._server, signal.SIGXCPU)
                except ProcessLookupError:
                    pass
            self._control.shutdown(socket.SHUT_WR)
            self._wait(GRACE_SECONDS)
        try:
            os.killpg(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        if self._server >= 0:
            os.close(self._server)
        self._lines.close()
        self._control.close()
        _take_away(self._job.mountpoint)
        return ended(os.waitstatus_to_exitcode(status))

    def _wait(self, seconds: float) -> None:
        """Wait until the other end of the socket is closed, which the end of the worker does."""
        self._control.settimeout(seconds)
        try:
            while self._control.recv(4096):
                pass
        except (TimeoutError, ConnectionResetError):
            pass


@contextmanager
def new_directory(parent: str | None = None) -> Iterator[str]:
    """An empty directory, which has to be empty again at the end."""
    path = os.path.realpath(tempfile.mkdtemp(prefix="puffs-check-", dir=parent))
    try:
        yield path
    finally:
        os.rmdir(path)  # and nothing in it: should it still be mounted, that is not ours


def _abort(mountpoint: str) -> None:
    mounted = find_mount(mountpoint)
    if mounted is not None:
        try:
            abort_connection(mounted.device[1])
        except OSError:  # it has ended by itself
            pass


def _take_away(mountpoint: str) -> None:
    """Unmount what a file server has left behind."""
    while find_mount(mountpoint) is not None:
        unmount(mountpoint, lazy=True)
