"""An isolated file server that takes its time holds up those who wait for it, and nobody else; who
does not wait any more gets away, and what was given to him comes back.
"""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from puffs.isolate.isolation import Isolation
from tests.attach.toy import ROOT
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Notes, Serve, Served
from tests.fuse.others import comes_true, waiting
from tests.fuse.servers import Noting
from tests.fuse.test_async import Slow

pytestmark = pytest.mark.fuse

FILE = ROOT + 1
ISOLATED: Final = Isolation(timeout=PATIENCE)


class Gated(Noting):
    """One operation, when it is about a file of this name or number, waits for the gate to open,
    which is a fifo. It is noted before that, and when it goes on.
    """

    def __init__(self, notes: Notes, gate: Path, operation: str, about: object) -> None:
        self._gate = (gate, operation, about)
        super().__init__(notes)

    def _recorded(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        inner = super()._recorded(name, operation)
        gate, gated, about = self._gate
        if name != gated:
            return inner

        def call(*args: Any) -> Any:
            if about in args:
                self.notes.add("waits")
                with gate.open("rb") as fifo:
                    fifo.read()
                self.notes.add("goes on")
            return inner(*args)

        return call


class Gate:
    """What the test has of the gate."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    def open(self) -> None:
        """Let in who waits now."""
        with self.path.open("wb"):
            pass


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    yield made
    try:  # nobody is to be left there
        os.close(os.open(made.path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        pass


def waits(served: Served, count: int = 1) -> None:
    """So many operations have come to the gate."""
    assert comes_true(lambda: len(served.notes("waits")) == count)


def in_background(code: str, *words: str | Path) -> "subprocess.Popen[bytes]":
    """A caller that may be killed."""
    return subprocess.Popen([sys.executable, "-c", f"import os, sys, fcntl\n{code}", *words])


READ: Final = "os.pread(os.open(sys.argv[1], os.O_RDONLY), 100, 0)"
OPEN: Final = "os.open(sys.argv[1], os.O_RDONLY)"
STAT: Final = "os.stat(sys.argv[1])"
MAKE: Final = "os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_EXCL)"
LOCK: Final = "fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX)"


def killed(caller: "subprocess.Popen[bytes]") -> None:
    """A caller that is killed ends at once, whatever its operation does."""
    caller.kill()
    assert caller.wait(PATIENCE) == -signal.SIGKILL


def test_callers_wait_for_one_another_and_get_no_error(serve: Serve, gate: Gate) -> None:
    """Of a file server that has one thread."""
    served = serve(lambda notes: Gated(notes, gate.path, "read", FILE), isolate=ISOLATED)
    with ThreadPoolExecutor(11) as callers:
        reading = callers.submit(served.path.joinpath("file").read_bytes)
        waits(served)
        looking = [callers.submit(os.stat, served.path / "dir") for _ in range(10)]
        assert not any(look.done() for look in looking)
        gate.open()
        assert reading.result(PATIENCE) == b"contents"
        assert len({look.result(PATIENCE).st_ino for look in looking}) == 1
    assert served.log == []


def test_with_threads_only_who_asks_for_what_is_slow_waits(serve: Serve, gate: Gate) -> None:
    served = serve(
        lambda notes: Gated(notes, gate.path, "getxattr", "user.slow"),
        "threads=4",
        isolate=ISOLATED,
    )
    os.setxattr(served.path / "file", "user.slow", b"value")
    with ThreadPoolExecutor(3) as callers:
        slow = [callers.submit(os.getxattr, served.path / "file", "user.slow") for _ in range(3)]
        waits(served, 3)
        for _ in range(50):
            assert served.path.joinpath("file").read_bytes() == b"contents"
            assert os.listdir(served.path)
        assert not any(one.done() for one in slow)
        gate.open()
        assert {one.result(PATIENCE) for one in slow} == {b"value"}
    assert served.log == []


@pytest.mark.parametrize("size", [100, 1 << 17])
def test_a_hundred_wait_at_once_for_a_file_server_that_awaits(serve: Serve, size: int) -> None:
    served = serve(lambda _: Slow(seconds=0.05), isolate=ISOLATED)
    with ThreadPoolExecutor(100) as callers, opened(served.path / "file-1", os.O_RDONLY) as fd:
        began = time.monotonic()
        readers = [callers.submit(os.pread, fd, size, 0) for _ in range(100)]
        assert {reader.result(PATIENCE) for reader in readers} == {b"asynchronous\n"}
        # One after the other they would take five seconds.
        assert time.monotonic() - began < 2


def test_one_that_takes_too_long_is_a_time_out_of_its_caller_alone(serve: Serve) -> None:
    served = serve(lambda notes: Slow(notes, 600), isolate=Isolation(timeout=0.4))
    with opened(served.path / "file-1", os.O_RDONLY) as fd:
        with fails(errno.ETIMEDOUT):
            os.pread(fd, 100, 0)
        served.round_trips(lambda: bool(served.notes("cancelled")))
    assert len(os.listdir(served.path)) == 300
    assert served.log == []


# ------------------------------------------------------------------- what nobody waits for any more


@pytest.mark.parametrize("threads", [1, 2])
def test_who_is_killed_is_gone_at_once_and_the_others_go_on(
    serve: Serve, gate: Gate, threads: int
) -> None:
    served = serve(
        lambda notes: Gated(notes, gate.path, "read", FILE), f"threads={threads}", isolate=ISOLATED
    )
    caller = in_background(READ, served.path / "file")
    waits(served)
    killed(caller)
    if threads > 1:
        assert served.path.joinpath("dir").is_dir()
    gate.open()
    assert served.path.joinpath("dir").is_dir()
    assert served.log == []


def test_an_open_file_that_comes_too_late_is_closed(serve: Serve, gate: Gate) -> None:
    served = serve(lambda notes: Gated(notes, gate.path, "open", FILE), isolate=ISOLATED)
    caller = in_background(OPEN, served.path / "file")
    waits(served)
    killed(caller)
    gate.open()
    served.round_trips(lambda: bool(served.notes("close")))
    assert len(served.notes("open")) == len(served.notes("close")) == 1
    assert served.log == []


def test_a_node_that_comes_too_late_is_reclaimed(serve: Serve, gate: Gate) -> None:
    served = serve(lambda notes: Gated(notes, gate.path, "lookup", "dir"), isolate=ISOLATED)
    caller = in_background(STAT, served.path / "dir")
    waits(served)
    killed(caller)
    gate.open()
    served.round_trips(lambda: bool(served.notes("reclaim")))
    assert served.notes("reclaim") == [("reclaim", ROOT + 2)]
    assert served.log == []


def test_a_new_file_that_comes_too_late_is_closed_and_reclaimed(serve: Serve, gate: Gate) -> None:
    served = serve(lambda notes: Gated(notes, gate.path, "create", "new"), isolate=ISOLATED)
    caller = in_background(MAKE, served.path / "new")
    waits(served)
    killed(caller)
    gate.open()
    served.round_trips(lambda: len(served.notes("close", "reclaim")) == 2)
    assert {note[:2] for note in served.notes("close", "reclaim")} == {
        ("close", ROOT + 4),
        ("reclaim", ROOT + 4),
    }
    assert served.path.joinpath("new").is_file()  # it has been made
    assert served.log == []


def test_a_lock_that_comes_too_late_is_given_back(serve: Serve, gate: Gate) -> None:
    served = serve(lambda notes: Gated(notes, gate.path, "advlock", "wait"), isolate=ISOLATED)
    caller = in_background(LOCK, served.path / "file")
    waits(served)
    killed(caller)
    gate.open()
    served.round_trips(lambda: ("advlock", FILE, "set") in {n[:3] for n in served.notes("advlock")})
    asked = [note[2] for note in served.notes("advlock")]
    assert asked.index("wait") < asked.index("set")
    assert served.log == []


def test_who_waits_behind_the_others_gets_away_too(serve: Serve, gate: Gate) -> None:
    served = serve(lambda notes: Gated(notes, gate.path, "read", FILE), isolate=ISOLATED)
    reader = in_background(READ, served.path / "file")
    waits(served)
    caller = in_background("os.statvfs(sys.argv[1])", served.path)
    other = in_background(STAT, served.path / "dir")
    assert comes_true(lambda: waiting(served.path) == 3)
    killed(caller)
    assert reader.poll() is other.poll() is None
    gate.open()
    assert (reader.wait(PATIENCE), other.wait(PATIENCE)) == (0, 0)
    assert served.log == []


def test_a_signal_that_ends_nothing_interrupts_nothing(serve: Serve, gate: Gate) -> None:
    served = serve(
        lambda notes: Gated(notes, gate.path, "read", FILE), "threads=2", isolate=ISOLATED
    )
    ignore = "import signal; signal.signal(signal.SIGUSR1, lambda *_: None)\n"
    check = "assert os.pread(os.open(sys.argv[1], os.O_RDONLY), 100, 0) == b'contents'"
    caller = in_background(ignore + check, served.path / "file")
    waits(served)
    for _ in range(3):
        caller.send_signal(signal.SIGUSR1)
        assert served.path.joinpath("dir").is_dir()
    gate.open()
    assert caller.wait(PATIENCE) == 0
    assert len(served.notes("read")) == 1
