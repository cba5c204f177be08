"""The process of a file server: what it has of its parent, and where its output goes."""

import asyncio
import gc
import json
import logging
import logging.config
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from puffs.isolate.process import start
from tests.isolate.processes import (
    descriptors,
    leaving_nothing,
    line,
    prints,
    result,
    run,
)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with leaving_nothing():
        yield


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


IS_CLOSED = """
def life():
    try:
        os.fstat(high)
    except OSError:
        return 0
    return 1
"""
"""In a process: it ends with status 0 if it has no descriptor `high`."""


def test_descriptors_above_a_limit_that_was_lowered_are_closed_too() -> None:
    said = result(f"""
import os, resource
from puffs.isolate.process import start

high = os.dup2(os.open("/", os.O_RDONLY), 600)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

{IS_CLOSED}
with start(life) as process:
    print(process.wait())
""")
    assert said == "ended with status 0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take /proc away")
def test_without_proc_they_are_closed_too() -> None:
    said = result(f"""
import os
from puffs.attach.fuse.syscalls import CLONE_NEWNS, MNT_DETACH, MS_REC, MS_SLAVE
from puffs.attach.fuse.syscalls import mount, umount2, unshare
from puffs.isolate.process import Confinement, start

unshare(CLONE_NEWNS)
mount("none", "/", "none", MS_REC | MS_SLAVE, "")
umount2("/proc", MNT_DETACH)
high = os.dup2(os.open("/", os.O_RDONLY), 600)

{IS_CLOSED}
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


def test_it_has_a_session_and_works_where_its_parent_does() -> None:
    def life() -> None:
        assert os.getpid() == os.getsid(0) == os.getpgrp()
        assert sys.stdin.read() == ""
        print(os.getcwd(), oct(os.umask(0)))

    before = os.umask(0o027)
    try:
        assert prints(life) == f"{os.getcwd()} 0o27"
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
