"""The process in which checks run, with the file server in it or below it.

It is forked by `runner`, takes requests from a socket, one a line, and answers each with a line: a
check by its name, or a sequence of steps (`sequences`). It may hang, be killed, or be ended by the
file server; `runner` sees to that.
"""

import errno
import faulthandler
import json
import linecache
import logging
import math
import os
import resource
import signal
import socket
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from puffs.attach.child import ChildMount, spawn
from puffs.attach.local.vfs import LocalFileSystem, local
from puffs.attach.serve import run
from puffs.check import battery
from puffs.check.expect import LeftOut, error_name
from puffs.check.registry import Check, all_checks
from puffs.check.result import Mode, Outcome, Verdict
from puffs.check.sequences.play import play
from puffs.check.target import LocalTarget, MountedTarget, Target
from puffs.kernel.mount import Mount, Servable
from puffs.server.operations import CHANGING

Factory = Callable[[], Servable]
"""What makes the file server; called in the process that serves."""

_DEAD = frozenset((errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV))
"""What a call on a mount gives when nobody serves it any more."""
_BATTERY = os.path.dirname(battery.__file__)


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is started with.

    `mountpoint` is an empty directory, `directory` the name of the one in the file system that the
    checks work in, `beside` an empty directory of the host's own for sequences. What is asked for
    may take `seconds`, and `cpu_seconds` of the worker and of the server. `options` are those of
    the mount; with `isolate` the file server lives in a process of its own.
    """

    factory: Factory
    mode: Mode
    mountpoint: str
    directory: str
    seconds: float
    cpu_seconds: int
    options: str = ""
    isolate: bool = False
    beside: str = ""


def run_worker(job: Job, control: socket.socket, log: int) -> NoReturn:
    """The life of a worker, in a process that has just been forked. `log` takes what it prints."""
    status = 1
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _print_to(log)
        faulthandler.register(signal.SIGXCPU, file=sys.stderr, chain=True)  # and end, as before
        Worker(job, control).serve()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _print_to(log: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, standard in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, standard)
    os.close(null)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s", force=True)


class Worker:
    """One file server, and the checks that it is asked to pass."""

    def __init__(self, job: Job, control: socket.socket) -> None:
        self._job = job
        self._control = control
        self._operations: frozenset[str] = frozenset()
        self._child: ChildMount | None = None
        self._local: LocalFileSystem | None = None

    def serve(self) -> None:
        """Start the file server, run the checks that are asked for, end it."""
        try:
            self._start()
        except Exception as exc:
            traceback.print_exc()
            self._tell(failed=_in_words(exc))
            return
        server = self._child.pid if self._child else os.getpid()
        self._tell(operations=sorted(self._operations), server=server)
        checks = {check.name: check for check in all_checks()}
        with self._control.makefile("r") as lines:
            for line in lines:
                request = json.loads(line)
                with self._limited():
                    if "play" in request:
                        self._tell(**self._play(request["play"]))
                    else:
                        self._tell(**self._run(checks[request["check"]]))
        self._clean()
        if self._child is not None:
            self._child.unmount(force=True)
        if self._local is not None:
            self._local.close()

    def _tell(self, **values: Any) -> None:
        self._control.sendall(json.dumps(values).encode() + b"\n")

    # ------------------------------------------------------------------------------ the file server

    def _start(self) -> None:
        job = self._job
        if job.mode is Mode.IN_PROCESS:
            self._local = local(job.factory, isolate=job.isolate)
            self._operations = frozenset(self._local.mount.ops)
            return
        reading, writing = os.pipe()
        options = [job.options, "allow_other" if os.geteuid() == 0 else ""]

        def serve(ready: Callable[[Mount], None]) -> None:
            """In the child: what it holds of ours would keep our end from being noticed."""
            self._control.close()
            os.close(reading)

            def tell(mount: Mount) -> None:
                os.write(writing, " ".join(mount.ops).encode())
                os.close(writing)
                ready(mount)

            run(job.factory, job.mountpoint, options, isolate=job.isolate, on_ready=tell)

        with open(reading, "rb") as pipe:
            try:
                self._child = spawn(serve, job.mountpoint)
            finally:
                os.close(writing)
            self._operations = frozenset(pipe.read().decode().split())

    def _dead(self) -> str:
        """How the process of the file server has ended, if its mount is dead; "" otherwise."""
        if self._child is None:
            return ""
        try:
            os.statvfs(self._job.mountpoint)
        except OSError as exc:
            if exc.errno in _DEAD:
                return ended(self._child.wait())
        return ""

    # ----------------------------------------------------------------------------------- the checks

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """What takes too long prints where it stands."""
        self._limit_cpu()
        faulthandler.dump_traceback_later(self._job.seconds, file=sys.stderr)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _play(self, lines: list[str]) -> dict[str, Any]:
        """Carry out steps on the mount, and beside it. What is told: what they give there."""
        job = self._job
        found: dict[str, Any] = {"mounted": [], "beside": play(lines, job.beside + job.directory)}
        try:
            found["mounted"] = play(lines, job.mountpoint + job.directory)
            dead = ""
        except OSError as exc:
            dead = self._dead() or f"the sequence cannot begin or be cleaned up: {_in_words(exc)}"
        return {**found, "dead": dead}

    def _run(self, check: Check) -> dict[str, Any]:
        """Run one check. What is told: its verdict, and `dead` when the file server has ended."""
        verdict = self._verdict(check)
        dead = "" if verdict.outcome is Outcome.PASSED else self._dead()
        if dead:
            verdict = Verdict(Outcome.FAILED, f"{dead} ({verdict.message})", verdict.where)
        return {**asdict(verdict), "dead": bool(dead)}

    def _limit_cpu(self) -> None:
        """Give this process and that of the file server another `cpu_seconds`; then SIGXCPU."""
        for pid in (os.getpid(), *([self._child.pid] if self._child else [])):
            try:
                _, hard = resource.prlimit(pid, resource.RLIMIT_CPU)
                soft = math.ceil(_cpu_seconds(pid)) + self._job.cpu_seconds
                resource.prlimit(pid, resource.RLIMIT_CPU, (soft, hard))
            except OSError:  # it has ended, which the check will notice
                pass

    def _verdict(self, check: Check) -> Verdict:
        try:
            target = self._target(check)
            in_root = not target.directory and check.needs & CHANGING
            if in_root and ("readdir" not in self._operations or target.listdir()):
                return Verdict(
                    Outcome.LEFT_OUT, "no empty directory to work in, nor can one be made"
                )
        except OSError as exc:
            return Verdict(Outcome.ERROR, f"there is no directory to work in: {_in_words(exc)}")
        try:
            return verdict_of(check, target)
        finally:
            if in_root:
                _empty(target, "/")

    def _target(self, check: Check) -> Target:
        """A directory of its own for the check; the root, where none can be made."""
        root = self._at("")
        if "mkdir" not in self._operations:
            return root
        try:
            if not root.exists(self._job.directory):
                root.mkdir(self._job.directory)
        except OSError:  # its checks will say so; the others need not wait for that
            return root
        directory = f"{self._job.directory}/{os.getpid()}-{check.name}"
        if not root.exists(directory):
            root.mkdir(directory)
        return self._at(directory)

    def _at(self, directory: str) -> Target:
        if self._local is not None:
            return LocalTarget(self._local, directory, self._operations)
        return MountedTarget(self._job.mountpoint, directory, self._operations)

    def _clean(self) -> None:
        """Take away what the checks have made, as far as it goes."""
        if "mkdir" in self._operations:
            root = self._at("")
            _empty(root, self._job.directory)
            try:
                root.rmdir(self._job.directory)
            except OSError:
                pass


def verdict_of(check: Check, target: Target) -> Verdict:
    """Run a check here and now."""
    try:
        check.body(target)
    except LeftOut as exc:
        return Verdict(Outcome.LEFT_OUT, str(exc))
    except AssertionError as exc:
        where, line = _place(exc)
        return Verdict(Outcome.FAILED, str(exc) or line, where)
    except OSError as exc:
        where, line = _place(exc)
        return Verdict(Outcome.FAILED, f"{error_name(exc)} from {line}", where)
    except Exception as exc:
        traceback.print_exc()
        return Verdict(Outcome.ERROR, f"{type(exc).__name__}: {exc}", _place(exc)[0])
    return Verdict(Outcome.PASSED)


def ended(status: int) -> str:
    """How a process has ended, in words. `status` is its exit status, or minus the signal."""
    if status == -signal.SIGXCPU:
        return "the file server has used up its CPU time: it loops"
    if status < 0:
        return f"the file server was ended by {signal.Signals(-status).name}"
    return f"the file server has ended with exit status {status}"


def _place(exc: BaseException) -> tuple[str, str]:
    """The innermost line of the battery that an exception came through: its place and its text."""
    where = line = ""
    for frame, number in traceback.walk_tb(exc.__traceback__):
        path = frame.f_code.co_filename
        if os.path.dirname(path) == _BATTERY:
            where = f"{os.path.basename(path)}:{number}"
            line = linecache.getline(path, number).strip()
    return where, line


def _in_words(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return f"{type(exc).__name__}: {exc}"


def _cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used: utime and stime of proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _empty(target: Target, directory: str) -> None:
    """Take away what is in a directory, as far as it goes. A check may have closed it to itself."""
    try:
        names = target.listdir(directory)
    except OSError:
        return
    for name in names:
        path = f"{directory}/{name}"
        try:
            if stat.S_ISDIR(target.lstat(path).st_mode):
                _empty(target, path)
                target.rmdir(path)
            else:
                target.remove(path)
        except OSError:
            pass
