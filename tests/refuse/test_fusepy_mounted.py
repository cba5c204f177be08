"""Programs for fusepy and mfusepy, mounted by `FUSE(...)` in a process of their own."""

import ast
import errno
import fcntl
import os
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from puffs.attach.fuse.mountinfo import find_mount
from tests.fuse.conftest import PATIENCE, give_back

pytestmark = pytest.mark.fuse

REPOSITORY = Path(__file__).parents[2]

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path.resolve() / "mnt"
    path.mkdir()
    yield path
    give_back(path)


@pytest.fixture
def start(mnt: Path) -> Iterator[Start]:
    """Mounts a class of `mounted_program`; returns its process when that is mounted."""
    started = []

    def start(api: str, name: str, **keywords: Any) -> subprocess.Popen[bytes]:
        words = [api, name, str(mnt), repr(keywords)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.refuse.mounted_program", *words],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.read()
        return process

    yield start
    give_back(mnt)
    for process in started:
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


@pytest.fixture(params=["fusepy", "mfusepy"])
def api(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_the_context_is_that_of_the_caller(start: Start, api: str, mnt: Path) -> None:
    start(api, "Context", raw_fi=True, allow_other=True)
    # It stands in there: the directories above may be shut for it.
    reading = subprocess.Popen(
        ["cat", "who"], cwd=mnt, user=1234, group=2345, extra_groups=[], stdout=subprocess.PIPE
    )
    told, _ = reading.communicate()
    assert ast.literal_eval(told.decode()) == (1234, 2345, reading.pid)


def test_fuse_exit(start: Start, api: str, mnt: Path) -> None:
    process = start(api, "Ending")
    try:
        (mnt / "exit").read_bytes()
    except OSError:
        pass  # the mount was gone before the file was read to its end
    assert process.wait(PATIENCE) == 0
    assert find_mount(str(mnt)) is None


def test_an_exception_that_ends_programs_ends_the_mount(start: Start, api: str, mnt: Path) -> None:
    process = start(api, "Ending")
    with pytest.raises(OSError) as failed:
        (mnt / "system").read_bytes()
    assert failed.value.errno in (errno.EFAULT, errno.ECONNABORTED, errno.ENOTCONN)
    assert process.wait(PATIENCE) == 3
    assert find_mount(str(mnt)) is None


def test_what_init_raises_is_raised(start: Start, api: str, mnt: Path) -> None:
    process = start(api, "BadInit")
    assert process.wait(PATIENCE) == 1
    assert process.stderr is not None
    assert process.stderr.read().splitlines()[-1] == b"ValueError: no database"
    assert find_mount(str(mnt)) is None


def test_an_operation_that_blocks_keeps_nobody_waiting(start: Start, api: str, mnt: Path) -> None:
    start(api, "Waiting")
    with ThreadPoolExecutor() as pool:
        slow = pool.submit((mnt / "slow").read_bytes)
        assert (mnt / "go").read_bytes() == b"go"
        assert slow.result(PATIENCE) == b"slow"


def test_record_locks(start: Start, api: str, mnt: Path) -> None:
    """Those of flock(2), which the program has no operation for, are the kernel's."""
    process = start(api, "Locks")
    with open(mnt / "file", "r+b") as file, open(mnt / "file", "r+b") as other:
        fcntl.lockf(file, fcntl.LOCK_EX, 50, 0)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 0, 0)
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, at, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))
        assert (kind, at, length, pid) == (fcntl.F_WRLCK, 100, 0, process.pid)
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_called_as_an_operation_and_is_no_function_is_none(
    start: Start, api: str, mnt: Path
) -> None:
    start(api, "Guarded")
    with open(mnt / "file", "r+b") as file:
        assert file.read() == b"text"
        fcntl.lockf(file, fcntl.LOCK_EX)
    assert (mnt / "file").read_bytes() == b"text"


def test_names_may_be_as_long_as_on_libfuse(start: Start, api: str, mnt: Path) -> None:
    start(api, "Long")
    names = os.listdir(mnt)
    assert sorted(len(os.fsencode(name)) for name in names) == [300, 1024]
    for name in names:
        assert (mnt / name).read_bytes() == b"text"
    with pytest.raises(OSError, match="too long"):
        (mnt / ("n" * 1025)).stat()


_IOWR_4_BYTES = 3 << 30 | 4 << 16 | ord("p") << 8 | 1
_IO = ord("p") << 8 | 2


def test_ioctl(start: Start, api: str, mnt: Path) -> None:
    start(api, "Devices")
    with open(mnt / "file", "rb") as file:
        assert fcntl.ioctl(file, _IOWR_4_BYTES, b"puff") == b"ffup"
        assert fcntl.ioctl(file, _IO, 41) == 42


def test_poll_waits_until_it_is_notified(start: Start, mnt: Path) -> None:
    start("mfusepy", "Devices")
    with open(mnt / "file", "rb") as file, ThreadPoolExecutor() as pool:
        poller = select.poll()
        poller.register(file, select.POLLIN)
        assert poller.poll(0) == []
        waiting = pool.submit(poller.poll, PATIENCE * 1000)
        fcntl.ioctl(file, _IOWR_4_BYTES, b"puff")
        assert [events for _, events in waiting.result(PATIENCE)] == [select.POLLIN]


def test_names_are_remembered_although_there_is_access(start: Start, api: str, mnt: Path) -> None:
    start(api, "Counting", entry_timeout=3600, attr_timeout=3600)
    for _ in range(10):
        os.stat(mnt / "file")
    assert (mnt / "file").read_bytes() == b"1"


def test_memory_of_large_writes_is_used_again(start: Start, api: str, mnt: Path) -> None:
    """To get it anew for each from the kernel takes longer than all else: a page fault for each 4
    KiB of it.
    """
    size, writes = 1 << 20, 16
    process = start(api, "Sink", direct_io=True)
    with open(mnt / "file", "wb", buffering=0) as file:
        file.write(bytes(size))
        before = page_faults(process.pid)
        for _ in range(writes):
            file.write(bytes(size))
        assert page_faults(process.pid) - before < writes * size // 4096 // 4


def page_faults(pid: int) -> int:
    """How many minor ones a process has had: proc_pid_stat(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
