"""Spare threads: an operation that waits keeps nobody else waiting, and one thread is enough again
afterwards.
"""

import errno
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import puffs
from puffs.attach.fuse.options import MountOptions
from tests.fuse.conftest import PATIENCE, Notes, Served
from tests.fuse.others import comes_true

Serve = Callable[..., Served]

pytestmark = pytest.mark.fuse

FILES = [f"file{number}" for number in range(4)]


class Waiting(puffs.PathFileSystem):
    """A read of one of `FILES` waits until all of them are being read; one of "gate" waits until
    "key" is asked for.
    """

    attr_ttl = name_ttl = 0.0
    patience = PATIENCE

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.together = threading.Barrier(len(FILES))
        self.asked_for = threading.Event()

    def getattr(self, path: str, file: object = None) -> puffs.Attr:
        if path == "/":
            return puffs.Attr(mode=stat.S_IFDIR | 0o755, nlink=2)
        if path == "/key":
            self.asked_for.set()
        return puffs.Attr(mode=stat.S_IFREG | 0o444, size=4)

    def open(self, path: str, flags: int, cred: puffs.Cred) -> puffs.Open:
        return puffs.Open(direct_io=True)

    def readdir(self, path: str, offset: int, file: object) -> list[str]:
        return FILES

    def read(self, path: str, offset: int, size: int, file: object) -> bytes:
        self.notes.add("read", path)
        if path == "/gate":
            self.asked_for.wait()
        elif offset == 0:
            self.together.wait(self.patience)
        return b"read"[offset : offset + size]


def served_by(serve: Serve, spare: int) -> Served:
    return serve(Waiting, MountOptions(spare_threads=spare))


def cat(path: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["cat", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def threads_of(served: Served) -> int:
    return len(os.listdir(f"/proc/{served.child.pid}/task"))


def switches_of(served: Served) -> int:
    """How often threads of the server have waited for something: proc_pid_status(5)."""
    tasks = Path(f"/proc/{served.child.pid}/task")
    told = [(task / "status").read_text() for task in tasks.iterdir()]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in told)


def wait_for_reads(served: Served, number: int) -> None:
    """They are under way, and one more request has been answered beside them."""
    served.round_trips(lambda: len(served.notes("read")) == number)
    os.statvfs(served.path)


def test_as_many_operations_wait_at_once_as_there_are_threads(serve: Serve) -> None:
    served = served_by(serve, len(FILES) - 1)
    readers = [cat(served.path / name) for name in FILES]
    assert [reader.communicate()[0] for reader in readers] == [b"read"] * len(FILES)
    assert served.log == []


def test_an_operation_may_use_its_own_mount(serve: Serve, mountpoint: Path) -> None:
    class Nested(Waiting):
        def read(self, path: str, offset: int, size: int, file: object) -> bytes:
            if path == "/outer" and offset == 0:
                return subprocess.check_output(["stat", "-c", "%s", str(mountpoint / "inner")])
            return b""

    served = serve(Nested, MountOptions(spare_threads=1))
    assert (served.path / "outer").read_bytes()[:2] == b"4\n", served.log


def test_the_others_have_gone_when_the_operation_goes_on(serve: Serve) -> None:
    served = served_by(serve, 3)
    with cat(served.path / "gate") as gate:
        wait_for_reads(served, 1)
        most = threads_of(served)
        os.stat(served.path / "key")
        assert gate.communicate()[0] == b"read"
    served.round_trips(lambda: threads_of(served) < most)


def test_nobody_wakes_while_nothing_is_asked(serve: Serve) -> None:
    served = served_by(serve, 3)
    never = threading.Event()

    def rests() -> bool:
        before = switches_of(served)
        never.wait(0.5)
        return switches_of(served) == before

    assert comes_true(rests)
    assert (served.path / "key").stat().st_size == 4
    assert comes_true(rests), "it has been woken, and stays awake"


def test_nothing_is_under_way_while_it_is_suspended(serve: Serve) -> None:
    served = served_by(serve, 3)
    gate = cat(served.path / "gate")
    wait_for_reads(served, 1)
    with pytest.raises(OSError) as caught:
        served.child.suspend(0.2)
    assert caught.value.errno == errno.ETIMEDOUT
    assert (served.path / "key").stat().st_size == 4  # it goes on, and so does the spare thread
    assert gate.communicate()[0] == b"read"
    with served.child.suspended():
        later = subprocess.Popen(["stat", "-c", "%s", served.path / "key"], stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            later.communicate(timeout=0.3)
    assert later.communicate()[0] == b"4\n"


def test_it_is_unmounted_while_operations_wait(serve: Serve) -> None:
    class GivesUp(Waiting):
        patience = 1.0

    served = serve(GivesUp, MountOptions(spare_threads=3))
    fd = os.open(served.path / "key", os.O_RDONLY)
    try:
        readers = [cat(served.path / name) for name in FILES[:2]]
        wait_for_reads(served, 2)
        served.child.unmount(force=True)
    finally:
        os.close(fd)
    for reader in readers:
        reader.communicate()
        assert reader.returncode == 1
