"""Processes for tests: run a function in one, and tell how it has ended and what it has printed."""

import os
import select
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import pytest

from puffs.isolate.confinement import Confinement
from puffs.isolate.process import Process, start

SECONDS = 20.0  # after which something hangs


def run(
    life: Callable[[], object], keep: Collection[int] = (), confinement: Confinement | None = None
) -> tuple[str, str]:
    """How a process that runs `life` has ended, and its output. None that it returns counts as 0.

    The output must fit into a pipe.
    """

    def whole() -> int:
        status = life()
        return status if isinstance(status, int) else 0

    with start(whole, keep, confinement) as process:
        how = process.wait(SECONDS)
        assert how is not None, "it hangs"
        return how, unread(process)


def prints(life: Callable[[], object], confinement: Confinement | None = None) -> str:
    """What a process has printed that has run `life` and ended well."""
    how, output = run(life, confinement=confinement)
    assert how == "ended with status 0", output
    return output.rstrip("\n")


def unread(process: Process) -> str:
    """What can be read at once."""
    data = b""
    try:
        while more := os.read(process.output, 1 << 16):
            data += more
    except BlockingIOError:  # a process that it has forked has the other end
        pass
    return data.decode()


def line(process: Process) -> str:
    """The next line, as soon as it is there."""
    data = b""
    while not data.endswith(b"\n"):
        assert readable(process.output), f"only {data!r} has come"
        byte = os.read(process.output, 1)
        assert byte, f"only {data!r} has come"
        data += byte
    return data.decode()


def readable(fd: int, seconds: float = SECONDS) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


@contextmanager
def script(text: str, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """A program of its own, for what cannot be done in the process that runs the tests."""
    with subprocess.Popen(
        [sys.executable, "-c", text, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            yield program
        finally:
            program.kill()


def result(text: str, *words: str) -> str:
    """What a program has printed that has ended well."""
    with script(text, *words) as program:
        output, errors = program.communicate(timeout=SECONDS)
    assert program.returncode == 0, errors
    assert errors == ""
    return output.rstrip("\n")


def descriptors() -> list[int]:
    """Those of this process, without the one that lists them."""
    found = map(int, os.listdir("/proc/self/fd"))
    return sorted(fd for fd in found if os.path.lexists(f"/proc/self/fd/{fd}"))


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """The body must give back all descriptors, and the status of each process."""
    before = descriptors()
    yield
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
