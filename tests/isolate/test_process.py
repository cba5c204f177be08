"""The process of a file server: what it has of its parent, how it ends, and that it does."""

import asyncio
import ctypes
import gc
import json
import logging
import logging.config
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
from tests.isolate.processes import SECONDS, line, prints, readable, result, run, script


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def descriptors() -> list[int]:
    """Those of this process, without the one that lists them."""
    found = map(int, os.listdir("/proc/self/fd"))
    return sorted(fd for fd in found if os.path.lexists(f"/proc/self/fd/{fd}"))


@contextmanager
def waiting() -> Iterator[Process]:
    """A process that waits until it is ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs, start(lambda: len(theirs.recv(1)), [theirs.fileno()]) as process:
        yield process


# ------------------------------------------------------------------------ what it has of its parent


def test_it_has_the_descriptors_that_it_keeps_and_one_more(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    inheritable = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inheritable, True)
    high = os.dup2(inheritable, 5000)

    def life() -> None:
        print(json.dumps({fd: os.readlink(f"/proc/self/fd/{fd}") for fd in descriptors()}))

    with ours, theirs, (tmp_path / "held by an object").open("w"):
        keep = theirs.fileno()
        name = os.readlink(f"/proc/self/fd/{keep}")
        _, output = run(life, [keep])
    os.close(inheritable)
    os.close(high)
    found = json.loads(output)
    assert found.pop("0") == os.devnull
    assert found.pop("1") == found.pop("2")
    assert found.pop(str(keep)) == name
    (lifeline,) = found.values()
    assert lifeline.startswith("socket:")


def test_descriptors_above_a_limit_that_was_lowered_are_closed_too() -> None:
    said = result("""
import os, resource
from puffs.isolate.process import start

high = os.dup2(os.open("/", os.O_RDONLY), 600)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

def life():
    try:
        os.fstat(high)
    except OSError:
        return 0
    return 1

with start(life) as process:
    print(process.wait())
""")
    assert said == "ended with status 0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take /proc away")
def test_without_proc_they_are_closed_too() -> None:
    said = result("""
import os
from puffs.attach.fuse.syscalls import CLONE_NEWNS, MNT_DETACH, MS_REC, MS_SLAVE
from puffs.attach.fuse.syscalls import mount, umount2, unshare
from puffs.isolate.process import Confinement, start

unshare(CLONE_NEWNS)
mount("none", "/", "none", MS_REC | MS_SLAVE, "")
umount2("/proc", MNT_DETACH)
high = os.dup2(os.open("/", os.O_RDONLY), 600)

def life():
    try:
        os.fstat(high)
    except OSError:
        return 0
    return 1

with start(life, (), Confinement(memory=1 << 30)) as process:
    print(process.wait())
""")
    assert said == "ended with status 0"


def test_what_it_keeps_works() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert run(lambda: theirs.send(b"hello"), [theirs.fileno()])[0] == "ended with status 5"
        assert ours.recv(10) == b"hello"


def test_its_first_three_descriptors_are_its_own() -> None:
    with pytest.raises(ValueError, match="descriptors 0 to 2 of a process are its own"):
        start(lambda: 0, [2])


def test_a_parent_without_standard_streams(tmp_path: Path) -> None:
    report = tmp_path / "report"
    result(
        """
import os, sys
os.closerange(0, 3)
sys.stdin = sys.stdout = sys.stderr = None
from puffs.isolate.process import start

def life():
    print("out", flush=True)
    print("err", file=sys.stderr)
    return len(os.listdir("/proc/self/fd")) - 1

with start(life) as process:
    how = process.wait()
    output = os.read(process.output, 100).decode()
with open(sys.argv[1], "w") as file:
    file.write(f"{how} {output!r}")
os._exit(0)
""",
        str(report),
    )
    assert report.read_text() == r"ended with status 4 'out\nerr\n'"


def test_it_has_a_session_and_works_in_the_root_directory() -> None:
    def life() -> None:
        assert os.getpid() == os.getsid(0) == os.getpgrp()
        assert sys.stdin.read() == ""
        print(os.getcwd(), oct(os.umask(0)))

    before = os.umask(0o027)
    try:
        assert prints(life) == "/ 0o27"
    finally:
        os.umask(before)


def test_its_signals_are_those_of_a_new_program() -> None:
    def life() -> None:
        signals = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        others = {number for number in signals if signal.getsignal(number) != signal.SIG_DFL}
        assert others == {signal.SIGPIPE, signal.SIGXFSZ}, others
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
        assert signal.set_wakeup_fd(-1) == -1

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: None),
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        signal.SIGPIPE: signal.signal(signal.SIGPIPE, signal.SIG_DFL),
    }
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    wakeup = signal.set_wakeup_fd(theirs.fileno())
    try:
        prints(life)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {*blocked, signal.SIGUSR2}
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()


def test_objects_of_the_parent_that_die_in_it_close_nothing(tmp_path: Path) -> None:
    """Among them garbage, and the handler of a logger, which logging.config closes."""
    garbage = [open("/dev/null", "rb") for _ in range(20)]
    numbers = [file.fileno() for file in garbage]
    garbage.append(garbage)  # type: ignore[arg-type]
    handler = logging.FileHandler(tmp_path / "log")
    numbers.append(handler.stream.fileno() if handler.stream else -1)
    logger = logging.getLogger("tests.isolate")
    logger.addHandler(handler)

    def life() -> None:
        nonlocal garbage, handler
        for number in numbers:
            os.dup2(0, number)
        del garbage, handler
        gc.collect()
        logging.config.dictConfig({"version": 1})
        for number in numbers:
            os.fstat(number)

    try:
        prints(life)
    finally:
        logger.removeHandler(handler)
        handler.close()
        garbage.pop()
        for file in garbage:
            file.close()


def test_what_the_parent_does_at_its_end_it_does_alone() -> None:
    """Its atexit functions, and writing what it has buffered."""
    said = result("""
import atexit, os, sys
from puffs.isolate.process import start

sys.stdout = sys.__stdout__ = os.fdopen(1, "w")
atexit.register(print, "at exit")
print("buffered")

def life():
    print("in the process")
    return 0

with start(life) as process:
    print(process.wait())
    print(os.read(process.output, 100).decode(), end="")
""")
    assert said.splitlines() == ["buffered", "ended with status 0", "in the process", "at exit"]


def test_a_signal_before_it_is_set_up_is_not_for_the_handlers_of_the_parent() -> None:
    said = result("""
import os, signal
from puffs.isolate.process import start

signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"the handler of the parent\\n"))
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    start(lambda: 0)
except OSError as exc:
    print(exc.strerror)
""")
    assert said == (
        "the file server's process cannot be started: it was killed by SIGTERM (Terminated)"
    )


def test_an_end_before_it_is_set_up_is_noticed_whoever_has_its_descriptors() -> None:
    said = result("""
import os, select, signal
from puffs.isolate.process import start

parent = os.pidfd_open(os.getpid())
forked = False

def hook() -> None:
    global forked
    if not forked:
        forked = True
        if os.fork() == 0:  # this one has them as long as the parent lives
            poll = select.poll()
            poll.register(parent, select.POLLIN)
            poll.poll()
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

os.register_at_fork(after_in_child=hook)
try:
    start(lambda: 0)
except OSError as exc:
    print(exc.strerror)
""")
    assert said == "the file server's process cannot be started: it was killed by SIGKILL (Killed)"


# ------------------------------------------------------------------------------------------- output


def test_output_arrives_while_it_runs() -> None:
    ours, theirs = socket.socketpair()

    def life() -> int:
        print("to stdout: \udcff")
        print("to stderr: ü", file=sys.stderr)
        os.write(1, b"to the descriptor\n")
        theirs.recv(1)
        return 0

    with ours, theirs, start(life, [theirs.fileno()]) as process:
        found = [line(process) for _ in range(3)]
        assert process.wait(0) is None
    assert found == ["to stdout: \\udcff\n", "to stderr: ü\n", "to the descriptor\n"]


def test_what_is_buffered_is_printed_at_the_end() -> None:
    assert prints(lambda: print("no end of line", end="")) == "no end of line"


def test_its_log_goes_to_its_stderr_and_not_to_the_parents(tmp_path: Path) -> None:
    handlers = [logging.FileHandler(tmp_path / str(number)) for number in range(3)]
    loggers = [logging.getLogger(name) for name in ("", "puffs", "tests.isolate")]

    def life() -> None:
        for logger in loggers:
            logger.info("of %s", logger.name)
        try:
            raise KeyError("gone")
        except KeyError:
            logging.getLogger("puffs.somewhere").exception("one traceback")

    for logger, handler in zip(loggers, handlers, strict=True):
        logger.addHandler(handler)
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
    loggers[2].propagate = False
    try:
        lines = prints(life).splitlines()
    finally:
        loggers[2].propagate = True
        for logger, handler, level in zip(loggers, handlers, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)
            handler.close()
    assert lines[:3] == ["of root", "of puffs", "of tests.isolate"]
    assert lines[3:5] == ["one traceback", "Traceback (most recent call last):"]
    assert lines[-1] == "KeyError: 'gone'"
    assert [path.read_text() for path in tmp_path.iterdir()] == [""] * 3


def test_exceptions_of_threads_and_of_finalizers_are_in_its_output() -> None:
    class Bad:
        def __del__(self) -> None:
            raise ValueError("in __del__")

    def fail() -> None:
        raise ValueError("in a thread")

    def life() -> None:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        Bad()

    output = prints(life)
    assert "ValueError: in a thread" in output
    assert "ValueError: in __del__" in output


def test_locks_that_other_threads_hold_hold_nothing_up() -> None:
    """One of them prints and one logs, which takes as long as the parent lives."""
    said = result("""
import io, logging, os, sys, threading
from puffs.isolate.process import start

class Slow(io.RawIOBase):
    def __init__(self):
        self.began = threading.Event()

    def writable(self):
        return True

    def write(self, data):
        self.began.set()
        threading.Event().wait()

logger = logging.getLogger("puffs")
for name in ("stdout", "stderr"):
    raw = Slow()
    stream = io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True)
    setattr(sys, name, stream)
    if name == "stderr":
        logger.addHandler(logging.StreamHandler(stream))
    act = print if name == "stdout" else logger.error
    threading.Thread(target=act, args=("of the parent",), daemon=True).start()
    raw.began.wait()

def life():
    logger.error("logged")
    print("printed")
    return 0

with start(life) as process:
    process.wait()
    os.write(1, os.read(process.output, 100))
os._exit(0)
""")
    assert said == "logged\nprinted"


def test_it_can_be_started_in_any_thread_and_beside_an_event_loop() -> None:
    async def say() -> None:
        await asyncio.sleep(0)
        print("from a loop of its own")

    async def main() -> str:
        here = prints(lambda: asyncio.run(say()))
        there = await asyncio.to_thread(prints, lambda: asyncio.run(say()))
        return f"{here}\n{there}"

    assert asyncio.run(main()) == "from a loop of its own\nfrom a loop of its own"


def test_no_warning_of_threads_at_the_fork(recwarn: pytest.WarningsRecorder) -> None:
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    try:
        prints(lambda: None)
    finally:
        event.set()
        thread.join()
    assert list(recwarn) == []


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
