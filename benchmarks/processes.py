"""The processes of a benchmark: mounted servers and the caller; all end with their block."""

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

LIBC = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2  # umount2(2)
PR_SET_PDEATHSIG = 1  # prctl(2)

# What a server writes that went well: libfuse 3.14 about a default of its own.
CHATTER = ("Ignoring invalid max threads value",)

START_SECONDS = 20.0
BURST_SECONDS = 60.0
END_SECONDS = 5.0


class BenchmarkError(Exception):
    """What keeps a benchmark from being run, in words for the person who started it."""


class CallError(BenchmarkError):
    """A call on one server failed; the others are not concerned."""


def is_mounted(path: Path) -> bool:
    """Tell from the mount table, without touching the mount, whether `path` is a mount point."""
    written = str(path).replace("\\", r"\134").replace(" ", r"\040")  # proc_pid_mountinfo(5)
    with open("/proc/self/mountinfo") as table:
        return any(line.split(" ")[4] == written for line in table)


def unmount(path: Path) -> None:
    """Detach what is mounted at `path`, if anything; its server then gets ENODEV and ends."""
    if LIBC.umount2(os.fsencode(path), MNT_DETACH) and is_mounted(path):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))


def wait_for_mount(server: subprocess.Popen[bytes], path: Path) -> bool:
    """Wait until `path` is a mount point; return False when `server` ended or took too long."""
    deadline = time.monotonic() + START_SECONDS
    pidfd = os.pidfd_open(server.pid)
    try:
        with open("/proc/self/mountinfo") as changes:
            poll = select.poll()
            poll.register(changes, select.POLLPRI)  # proc_pid_mountinfo(5): the table has changed
            poll.register(pidfd, select.POLLIN)  # the process has ended
            while not is_mounted(path):
                left = deadline - time.monotonic()
                if left <= 0 or any(fd == pidfd for fd, _ in poll.poll(left * 1000)):
                    return False
        return True
    finally:
        os.close(pidfd)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that happens."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that has no reason to go on; kill it when it does go on."""
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # the last descriptor of its connection closes, and nobody waits for it then
        process.wait()


def last_words(output: IO[bytes]) -> str:
    """Return the last line that a process wrote into `output`."""
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


@contextmanager
def mounted(command: list[str], mountpoint: Path, directory: Path) -> Iterator[None]:
    """Run a server in `directory`, mounted at `mountpoint`, as long as the block lasts.

    Raises BenchmarkError, with the last line the server wrote, when it does not mount. What it
    writes or fails with later is told when it has ended.
    """
    mountpoint.mkdir()
    with tempfile.TemporaryFile() as output:
        try:
            # A session of its own: ^C is for the benchmark, which then unmounts.
            server = subprocess.Popen(
                command,
                cwd=directory,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            mountpoint.rmdir()
            raise BenchmarkError(f"{command[0]}: {error.strerror}") from None
        started = False
        try:
            started = wait_for_mount(server, mountpoint)
            if not started:
                server.kill()
                raise BenchmarkError(last_words(output) or "it does not mount and does not say why")
            yield
        finally:
            try:
                unmount(mountpoint)
            finally:
                end(server)
            words = last_words(output)
            if words.startswith(CHATTER):
                words = ""
            if started and (server.returncode or words):
                status = f"ended with status {server.returncode}"
                print(f"{mountpoint.name}: {status}, saying: {words}", file=sys.stderr)
            mountpoint.rmdir()


class Caller:
    """The process that makes the calls (`caller.c`).

    Its block is to enclose those of the servers: it may be inside a call on a server that hangs,
    and is free only when that server has ended.
    """

    def __init__(self, program: Path) -> None:
        """Start it; it waits for commands."""
        self._process = subprocess.Popen(
            [str(program)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def burst(self, operation: str, calls: int, path: Path) -> int:
        """Call `operation` on the file `path` that often; return the nanoseconds it took."""
        commands, answers = self._process.stdin, self._process.stdout
        assert commands is not None
        assert answers is not None
        commands.write(f"{operation} {calls} {path}\n".encode())
        if not select.select([answers], [], [], BURST_SECONDS)[0]:
            raise BenchmarkError(f"{operation} on {path}: no answer in {BURST_SECONDS:.0f} s")
        answer = answers.readline().decode().strip()
        if not answer:
            raise BenchmarkError(f"{operation} on {path}: the caller has ended")
        if not answer.isdecimal():
            raise CallError(f"{operation}: {answer}")
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
