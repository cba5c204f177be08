"""ioctl, poll, locks, callers and open hints over a real mount."""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import puffs
from tests.attach.toy import ROOT
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Notes, Serve
from tests.fuse.servers import Cached, Many, Noting

pytestmark = [pytest.mark.fuse, pytest.mark.loops]


@pytest.fixture(params=[False, True], ids=["direct", "isolated"])
def isolate(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


FILE, DIR = ROOT + 1, ROOT + 2
NEW = ROOT + 4
"""The first cookie that a `Toy` gives to a new file."""

libc = ctypes.CDLL(None, use_errno=True)


def test_ioctl(serve: Serve) -> None:
    served = serve(Noting)
    command = 0xC0087701  # reads and writes 8 bytes
    with opened(served.path / "file") as fd, opened(served.path / "dir", os.O_RDONLY) as dir:
        data = bytearray(b"12345678")
        assert fcntl.ioctl(fd, command, data) == 7
        assert data == b"87654321"
        assert fcntl.ioctl(dir, command, data) == 7
    assert served.notes("ioctl") == [
        ("ioctl", FILE, command, b"12345678", 8, "file 0"),
        ("ioctl", DIR, command, b"87654321", 8, "directory 1"),
    ]


def test_without_ioctl_a_command_is_not_known(serve: Serve) -> None:
    path = serve(lambda notes: Many(1)).path
    with opened(path / "file 0001", os.O_RDONLY) as fd:
        for _ in range(2):
            with fails(errno.ENOTTY):
                fcntl.ioctl(fd, 0xC0087701, bytearray(8))


class Bell(Noting):
    """Becomes readable when `user.ring` is set, and wakes who waits for that."""

    def __init__(self, notes: Notes) -> None:
        self.rung = False
        self.waiting: list[Callable[[], None]] = []
        super().__init__(notes)

    def poll(self, node: int, events: int, file: object, wake: Callable[[], None] | None) -> int:
        if wake is not None:
            self.waiting.append(wake)
        return events & select.POLLIN if self.rung else 0

    def setxattr(self, node: int, name: str, value: bytes, flags: int) -> None:
        self.rung = True
        for wake in self.waiting:
            threading.Thread(target=wake).start()


def test_poll_is_woken_when_the_answer_changes(serve: Serve) -> None:
    served = serve(Bell)
    with opened(served.path / "file") as fd:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(0) == []
        answers: list[Any] = []
        waiting = threading.Thread(target=lambda: answers.extend(poller.poll(PATIENCE * 1000)))
        waiting.start()
        served.round_trips(lambda: len(served.notes("poll")) >= 2)
        os.setxattr(served.path / "dir", "user.ring", b"")
        waiting.join(PATIENCE)
        assert answers == [(fd, select.POLLIN)]
        assert poller.poll(0) == [(fd, select.POLLIN)]


def test_without_poll_a_file_is_always_ready(serve: Serve) -> None:
    path = serve(lambda notes: Many(1)).path
    with opened(path / "file 0001", os.O_RDONLY) as fd:
        poller = select.poll()
        poller.register(fd, select.POLLIN | select.POLLOUT)
        assert poller.poll(0) == [(fd, select.POLLIN | select.POLLOUT)]


class Locking(Noting):
    """Whole-file locks, one holder at a time; it notes what it is asked."""

    def __init__(self, notes: Notes) -> None:
        self.held: dict[tuple[int, bool], tuple[int, puffs.Lock]] = {}
        super().__init__(notes)

    def advlock(
        self, node: int, op: str, lock: puffs.Lock, owner: int, file: object
    ) -> puffs.Lock | None:
        key = (node, lock.flock)
        holder = self.held.get(key)
        taken = holder is not None and holder[0] != owner
        if op == "get":
            return holder[1] if holder is not None and taken else None
        if lock.type == fcntl.F_UNLCK:
            if not taken:
                self.held.pop(key, None)
        elif taken:
            raise BlockingIOError(errno.EAGAIN, "taken")
        else:
            self.held[key] = (owner, lock)
        return None


def test_record_locks_are_the_file_servers(serve: Serve) -> None:
    path = serve(Locking).path / "file"
    other = f"""
import fcntl, os, struct
fd = os.open({str(path)!r}, os.O_RDWR)
try:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
    print("free")
except BlockingIOError:
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    found = fcntl.fcntl(fd, fcntl.F_GETLK, asked)
    kind, whence, start, length, pid = struct.unpack("hhqqi4x", found)
    print(kind == fcntl.F_WRLCK, start, length, pid)
"""

    def ask() -> str:
        command = [sys.executable, "-c", other]
        return subprocess.check_output(command, text=True, timeout=PATIENCE).strip()

    with opened(path) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
        assert ask() == f"True 5 10 {os.getpid()}"
        fcntl.lockf(fd, fcntl.LOCK_UN)
        assert ask() == "free"
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert ask() == "free"  # closing has given it back


def test_flock_is_the_file_servers(serve: Serve) -> None:
    served = serve(Locking)
    path = served.path / "file"
    with opened(path) as fd:
        with opened(path) as other:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with fails(errno.EAGAIN):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(fd, fcntl.LOCK_UN)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        served.round_trips(lambda: len(served.notes("close")) == 1)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_advlock_the_kernel_keeps_the_locks(serve: Serve) -> None:
    path = serve(lambda notes: Many(1)).path / "file 0001"
    with opened(path, os.O_RDONLY) as fd, opened(path, os.O_RDONLY) as other:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with fails(errno.EAGAIN):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_the_caller_is_known_inside_an_operation(serve: Serve) -> None:
    class Curious(Noting):
        def getxattr(self, node: int, name: str) -> bytes:
            cred = puffs.caller()
            return repr((cred.uid, cred.gid, cred.pid, sorted(cred.groups))).encode()

    path = serve(Curious, "allow_other").path / "file"
    mine = (os.geteuid(), os.getegid(), os.getpid(), sorted(os.getgroups()))
    assert os.getxattr(path, "user.me") == repr(mine).encode()
    script = f"""
import os
os.setgroups([77, 5]); os.setgid(34); os.setuid(12)
print(os.getpid(), os.getxattr({str(path)!r}, "user.me").decode())
"""
    for directory in path.parent.parent.parents:  # another user has to get there
        with contextlib.suppress(OSError):
            os.chmod(directory, os.stat(directory).st_mode | 0o011)
    os.chmod(path.parent.parent, 0o711)
    command = [sys.executable, "-c", script]
    output = subprocess.check_output(command, text=True, timeout=PATIENCE)
    pid, rest = output.split(" ", 1)
    assert rest.strip() == f"(12, 34, {pid}, [5, 77])"


def test_what_is_cached_survives_a_second_open_if_the_server_says_so(serve: Serve) -> None:
    class Keep(Cached):
        def open(self, node: int, flags: int, cred: puffs.Cred) -> puffs.Open:
            return puffs.Open(keep_cache=node == FILE)

    served = serve(Keep)
    served.path.joinpath("other").write_text("contents")
    for _ in range(3):
        for name in ("file", "other"):
            assert served.path.joinpath(name).read_text() == "contents"
    reads = [note[1] for note in served.notes("read")]
    assert reads.count(FILE) == 1
    assert reads.count(NEW) == 3
