"""What the process of a file server has of the one that mounts: a way to answer, and nothing else.

All is tried from inside of an operation, as root and as another user.
"""

import ctypes
import errno
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.syscalls import MNT_DETACH
from puffs.attach.rendezvous import ROOT_DIRECTORY
from puffs.isolate.isolation import Isolation
from tests.attach.toy import Toy
from tests.fuse.conftest import Serve, Served
from tests.fuse.others import needs_root

pytestmark = [pytest.mark.fuse, needs_root]

_libc = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD: Final = 438
PTRACE_SEIZE: Final = 0x4206
DESCRIPTORS: Final = range(64)
"""More than the process that mounts has of them."""


def checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


class Ways:
    """All ways from the process of a file server to the one that mounts, and to what it has.

    Each returns if it leads there.
    """

    def __init__(self, mountpoint: Path, secret: Path) -> None:
        self._mountpoint = mountpoint
        self._secret = secret

    @property
    def _parent(self) -> int:
        return os.getppid()

    @property
    def _minor(self) -> int:
        found = find_mount(str(self._mountpoint))
        assert found is not None
        return found.device[1]

    def its_descriptors(self) -> None:
        """One after the other, the connection to the kernel among them."""
        for fd in DESCRIPTORS:
            try:
                os.close(os.open(f"/proc/{self._parent}/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK))
            except OSError as exc:
                last = exc
            else:
                return
        raise last

    def its_descriptors_by_pidfd(self) -> None:
        pidfd = os.pidfd_open(self._parent)
        failure = OSError(errno.EBADF, "none")
        for fd in DESCRIPTORS:
            try:
                checked(_libc.syscall(ctypes.c_long(PIDFD_GETFD), pidfd, fd, 0))
            except OSError as exc:
                failure = exc if exc.errno != errno.EBADF else failure
            else:
                return
        raise failure

    def its_memory(self) -> None:
        with open(f"/proc/{self._parent}/mem", "rb"):
            pass

    def its_life(self) -> None:
        os.kill(self._parent, 0)

    def tracing_it(self) -> None:
        checked(_libc.ptrace(PTRACE_SEIZE, self._parent, 0, 0))
        checked(_libc.ptrace(17, self._parent, 0, 0))  # PTRACE_DETACH, of what runs: ESRCH

    def its_control_socket(self) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(f"{ROOT_DIRECTORY}/0:{self._minor}")

    def its_files(self) -> None:
        self._secret.read_text()

    def the_end_of_its_mount(self) -> None:
        checked(_libc.umount2(os.fsencode(self._mountpoint), MNT_DETACH))

    def the_end_of_its_connection(self) -> None:
        os.close(os.open(f"/sys/fs/fuse/connections/{self._minor}/abort", os.O_WRONLY))


WAYS: Final = [name for name in vars(Ways) if not name.startswith("_")]


class Trying(Toy):
    """The way that an extended attribute names is tried when its value is asked for."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        super().__init__()

    def getxattr(self, node: int, name: str) -> bytes:
        wanted = name.removeprefix("user.")
        if wanted == "who":
            return json.dumps([os.getuid(), os.getgroups(), os.getpid()]).encode()
        if wanted == "has":
            return json.dumps(has()).encode()
        try:
            getattr(self._ways, wanted)()
        except OSError as exc:
            return errno.errorcode[exc.errno or 0].encode()
        return b"done"


def has() -> list[str]:
    """What the descriptors of this process lead to, but the one that lists them."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}").partition(":")[0])
        except FileNotFoundError:
            pass
    return sorted(found)


def tried(served: Served, way: str) -> str:
    return os.getxattr(served.path / "file", f"user.{way}").decode()


@pytest.fixture
def start(serve: Serve, mountpoint: Path, tmp_path: Path) -> Callable[..., Served]:
    def begin(**how: object) -> Served:
        secret = tmp_path / "secret"
        secret.touch(0o600)
        ways = Ways(mountpoint, secret)
        return serve(lambda _: Trying(ways), isolate=Isolation(timeout=10, **how))  # type: ignore[arg-type]

    return begin


REFUSED: Final = {
    "its_descriptors": "EACCES",
    "its_descriptors_by_pidfd": "EPERM",
    "its_memory": "EACCES",
    "its_life": "EPERM",
    "tracing_it": "EPERM",
    "its_control_socket": "EACCES",
    "its_files": "EACCES",
    "the_end_of_its_mount": "EACCES",
    "the_end_of_its_connection": "EACCES",
}


def test_another_user_finds_no_way(start: Callable[..., Served]) -> None:
    served = start(user="nobody")
    assert json.loads(tried(served, "who"))[0] != 0
    assert {way: tried(served, way) for way in WAYS} == REFUSED
    assert served.mounted()


def test_these_are_ways_as_long_as_nobody_is_kept_from_them(start: Callable[..., Served]) -> None:
    """Else the test above would prove nothing."""
    served = start()
    for way in (
        "its_descriptors",
        "its_descriptors_by_pidfd",
        "its_memory",
        "its_life",
        "its_files",
        "its_control_socket",
        "the_end_of_its_connection",
    ):
        assert tried(served, way) == "done", way


@pytest.mark.parametrize("user", [None, "nobody"])
def test_it_has_its_descriptors_and_no_other(start: Callable[..., Served], user: str) -> None:
    served = start(user=user)
    output = ["pipe", "pipe"]
    assert json.loads(tried(served, "has")) == sorted(
        ["/dev/null", *output, "pipe", "pipe", "socket", "socket"]
    )


def test_what_it_holds_open_does_not_keep_the_mount_alive(start: Callable[..., Served]) -> None:
    served = start(user="nobody")
    _, _, pid = json.loads(tried(served, "who"))
    os.kill(pid, signal.SIGSTOP)
    os.kill(served.child.pid, signal.SIGKILL)
    assert served.ended() == -signal.SIGKILL
    assert find_mount(str(served.path)) is None
