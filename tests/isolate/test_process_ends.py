"""How the process of a file server ends, and that it does, with all it has started."""

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from puffs.isolate.process import Process, start
from tests.isolate.processes import (
    SECONDS,
    descriptors,
    leaving_nothing,
    line,
    readable,
    result,
    run,
    script,
)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with leaving_nothing():
        yield


@contextmanager
def waiting() -> Iterator[Process]:
    """A process that waits until it is ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs, start(lambda: len(theirs.recv(1)), [theirs.fileno()]) as process:
        yield process


# -------------------------------------------------------------------------------------- how it ends


def pause() -> int:
    signal.pause()
    return 0


def exits(status: int) -> Callable[[], None]:
    return lambda: os._exit(status)


def leaves(code: object) -> Callable[[], None]:
    return lambda: sys.exit(code)  # type: ignore[arg-type]


def fails() -> None:
    raise LookupError("nothing there")


def signals(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("life", "how", "said"),
    [
        (lambda: 0, "ended with status 0", ""),
        (lambda: 3, "ended with status 3", ""),
        (lambda: 256, "ended with status 0", ""),
        (lambda: 1 << 40, "ended with status 0", ""),
        (exits(3), "ended with status 3", ""),
        (leaves(None), "ended with status 0", ""),
        (leaves(7), "ended with status 7", ""),
        (leaves("enough"), "ended with status 1", "enough\n"),
        (fails, "ended with status 1", "LookupError: nothing there\n"),
        (signals(signal.SIGKILL), "was killed by SIGKILL (Killed)", ""),
        (signals(signal.SIGTERM), "was killed by SIGTERM (Terminated)", ""),
        (signals(signal.SIGINT), "was killed by SIGINT (Interrupt)", ""),
        (signals(40), "was killed by signal 40 (Real-time signal 6)", ""),
    ],
)
def test_how_it_ends_in_words(life: Callable[[], object], how: str, said: str) -> None:
    ended, output = run(life)
    assert ended == how
    assert output.endswith(said)
    assert output.startswith("Traceback (most") if life is fails else output == said


def test_a_crash_tells_where_it_was() -> None:
    def crash() -> None:
        ctypes.string_at(0)

    how, output = run(crash)
    assert how == "was killed by SIGSEGV (Segmentation fault)"
    assert "in crash" in output


def test_a_signal_from_outside() -> None:
    with waiting() as process:
        assert process.wait(0) is None
        assert not readable(process.pidfd, 0)
        os.kill(process.pid, signal.SIGHUP)
        assert readable(process.pidfd)
        assert process.wait() == "was killed by SIGHUP (Hangup)"
        assert process.wait(0) == "was killed by SIGHUP (Hangup)"


def test_all_threads_that_wait_are_told_the_same() -> None:
    found = []
    with waiting() as process:
        threads = [threading.Thread(target=lambda: found.append(process.wait())) for _ in range(8)]
        for thread in threads:
            thread.start()
        process.kill()
        for thread in threads:
            thread.join(SECONDS)
    assert found == ["was killed by SIGKILL (Killed)"] * 8


def test_closing_ends_it_and_wakes_who_waits() -> None:
    found = []
    with waiting() as process:
        thread = threading.Thread(target=lambda: found.append(process.wait()))
        thread.start()
        process.close()
        process.close()
        thread.join(SECONDS)
        process.kill()
        assert process.wait() == "was killed by SIGKILL (Killed)"
    assert found == ["was killed by SIGKILL (Killed)"]


def forks(then: Callable[[], object]) -> Callable[[], int]:
    """Fork a process that waits for ever, print its number, then do something."""

    def life() -> int:
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        print(pid)
        then()
        return 0

    return life


@pytest.mark.parametrize("way", ["kill", "end", "close"])
def test_what_it_has_started_ends_with_it(way: str) -> None:
    with start(forks((lambda: None) if way == "end" else signal.pause)) as process:
        child = os.pidfd_open(int(line(process)))
        try:
            if way == "kill":
                process.kill()
                assert readable(child), "not by wait, which has not been called"
            elif way == "close":
                process.close()
            process.wait(SECONDS)
            assert readable(child)
        finally:
            os.close(child)


def as_pid(pid: int) -> int | None:
    """Fork a process with this number that leads a group and waits; None: another one has it."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
    child = os.fork()
    if child == 0:
        os.setsid()
        while True:
            signal.pause()
    if child == pid:
        while os.getpgid(child) != child:
            pass
        return child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


@pytest.mark.skipif(
    not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK) or os.geteuid() != 0,
    reason="nobody can have a number used again here",
)
@pytest.mark.parametrize("taken", ["by wait", "by somebody else"])
def test_a_number_that_is_used_again_is_not_killed(taken: str) -> None:
    for _ in range(100):
        with start(lambda: 0) as process:
            if taken == "by wait":
                process.wait()
            else:
                os.waitpid(process.pid, 0)
            stranger = as_pid(process.pid)
            if stranger is None:
                continue
            pidfd = os.pidfd_open(stranger)
            try:
                process.kill()
                process.wait()
                process.close()
                assert not readable(pidfd, 0.2)
            finally:
                os.kill(stranger, signal.SIGKILL)
                os.waitpid(stranger, 0)
                os.close(pidfd)
            return
    pytest.fail("no number was used again")


def test_a_status_that_somebody_else_has_taken() -> None:
    with start(lambda: 0) as process:
        os.waitpid(process.pid, 0)
        assert process.wait() == "ended, and something else in this process has taken its status"


# --------------------------------------------------------------------- that it ends with its parent

PARENT = """
import collections, itertools, os, signal, sys
from puffs.isolate.process import Confinement, start

def life():
    child = os.fork()
    if child == 0:
        signal.pause()
    os.write(1, b"%d" % child)
    collections.deque(itertools.repeat(None), maxlen=0)

process = start(life, (), Confinement(user=sys.argv[1] or None))
os.set_blocking(process.output, True)
print(process.pid, os.read(process.output, 100).decode(), flush=True)
input()
"""
ENDS = {
    "killed": "signal.pause()",
    "returns": "",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "closes its end": "os.closerange(3, 1000); signal.pause()",
}


@pytest.mark.parametrize("user", ["", "nobody"])
@pytest.mark.parametrize("end", ENDS)
def test_it_ends_with_its_parent_even_in_a_loop_in_c(end: str, user: str) -> None:
    if user and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with script(PARENT + ENDS[end], user) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        pidfds = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(pidfds) == 2
        assert not any(readable(pidfd, 0) for pidfd in pidfds)
        parent.stdin.write("\n")
        parent.stdin.flush()
        if end == "killed":
            parent.kill()
        try:
            for pidfd in pidfds:
                assert readable(pidfd), "it lives on"
        finally:
            for pidfd in pidfds:
                signal_if_there(pidfd)
                os.close(pidfd)


def test_it_ends_when_its_parent_ends_before_it_is_set_up() -> None:
    text = """
import os, select, signal
from puffs.isolate.process import start

parent = os.pidfd_open(os.getpid())

def wait_for_the_end() -> None:
    os.write(1, b"%d\\n" % os.getpid())
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    poll.poll()

os.register_at_fork(after_in_child=wait_for_the_end)
start(signal.pause)
"""
    with script(text) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        try:
            assert readable(pidfd), "it lives on"
        finally:
            signal_if_there(pidfd)
            os.close(pidfd)


def signal_if_there(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass


# ------------------------------------------------------------------------------- what is left of it


def test_many_starts_leave_nothing() -> None:
    before = descriptors()
    for _ in range(50):
        with start(lambda: 0) as process:
            assert process.wait(SECONDS) == "ended with status 0"
    assert descriptors() == before


def test_what_it_has_in_the_parent_goes_to_no_program_and_its_own_ends_are_not_there() -> None:
    before = set(descriptors())
    with start(pause) as process:
        more = set(descriptors()) - before
        assert {process.pidfd, process.output} < more
        assert len(more) == 3  # and the lifeline
        assert not any(os.get_inheritable(fd) for fd in more)
        assert not os.get_blocking(process.output)
        process.kill()
        assert readable(process.output)
        assert os.read(process.output, 1) == b""


@pytest.mark.parametrize("room", range(12))
def test_without_descriptors_to_spare_it_is_an_error_and_leaves_nothing(room: int) -> None:
    said = result(
        """
import os, resource, sys
from puffs.isolate.process import start

before = os.listdir("/proc/self/fd")
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + int(sys.argv[1]), 1000))
try:
    with start(lambda: 0) as process:
        print(process.wait())
except OSError as exc:
    print(exc.strerror)
resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
assert os.listdir("/proc/self/fd") == before
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("and nothing is left")
""",
        str(room),
    )
    how, left = said.splitlines()
    assert how in (
        "Too many open files",
        "the file server's process cannot be started: Too many open files",
        "ended with status 0",
    )
    assert left == "and nothing is left"
