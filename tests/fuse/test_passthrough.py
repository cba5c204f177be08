"""Passthrough: the kernel reads and writes the host's files itself; opens that differ go together,
nothing is left behind, and what cannot be had is refused.
"""

import ctypes
import errno
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

import puffs
from puffs.attach.fuse.mounting import mount_fuse
from puffs.attach.fuse.options import OptionError, parse_options
from puffs.attach.fuse.syscalls import MNT_DETACH, mount, umount2
from puffs.check.registry import all_checks
from puffs.check.result import Mode
from puffs.check.runner import run as run_checks
from puffs.fs.hostfiles import Node
from puffs.fs.mem import MemFS
from puffs.fs.null import NullFS
from tests.check.test_battery import not_passed
from tests.cli.commands import PUFFS, run, succeeds
from tests.fs.host import overlaid
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Notes, Serve, Served
from tests.fuse.others import as_user, needs_passthrough, place
from tests.fuse.test_nodes import Gate

pytestmark = [pytest.mark.fuse, pytest.mark.loops, needs_passthrough]

PAGE: Final = mmap.PAGESIZE


class Watched(NullFS):
    """`null` that notes reads and writes. How it is opened says what an open brings."""

    brings: Final[dict[int, dict[str, Any]]] = {
        os.O_RDWR: {"keep_cache": True},
        os.O_RDONLY: {"backing_fd": None, "keep_cache": True},
        os.O_WRONLY: {"direct_io": True},
    }

    def __init__(self, notes: Notes, directory: Path, *, varied: bool = False) -> None:
        super().__init__(directory, cache="forever")
        self.notes = notes
        self.varied = varied

    def open(self, node: Node, flags: int, cred: puffs.Cred) -> puffs.Open:
        opened = super().open(node, flags, cred)
        if self.varied:
            for name, value in self.brings[flags & os.O_ACCMODE].items():
                setattr(opened, name, value)
        return opened

    def read(self, node: Node, offset: int, size: int, file: int) -> bytes:
        self.notes.add("read", offset)
        return super().read(node, offset, size, file)

    def write(self, node: Node, offset: int, data: memoryview, file: int) -> int:
        self.notes.add("write", offset)
        return super().write(node, offset, data, file)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """The host's directory, in a file system of its own."""
    path = tmp_path / "host"
    path.mkdir()
    mount("tmpfs", str(path), "tmpfs", 0, "mode=755")
    yield path
    umount2(str(path), MNT_DETACH)


Passed = Callable[..., Served]


@pytest.fixture
def passed(serve: Serve, host: Path) -> Passed:
    """Mounts it with passthrough."""

    def start(options: str = "passthrough", **arguments: Any) -> Served:
        return serve(lambda notes: Watched(notes, host, **arguments), options)

    return start


# ------------------------------------------------------------------------------------- data


def test_the_file_server_sees_no_data(passed: Passed, host: Path) -> None:
    served = passed()
    path = served.path / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"written ")
        assert os.pread(fd, 100, 0) == b"written "
        with mmap.mmap(fd, 4) as memory:
            memory[:] = b"WRIT"
        assert (host / "file").read_bytes() == b"WRITten "
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"and appended")
    assert path.read_bytes() == b"WRITten and appended"
    assert served.notes("read", "write") == []


def test_without_the_option_a_descriptor_says_nothing(passed: Passed) -> None:
    served = passed("")
    (served.path / "file").write_bytes(b"data")
    assert (served.path / "file").read_bytes() == b"data"
    assert served.notes() == [("write", 0), ("read", 0)]


@pytest.mark.parametrize("first", [os.O_RDONLY, os.O_WRONLY])
def test_how_the_descriptor_was_opened_is_no_limit(passed: Passed, host: Path, first: int) -> None:
    (host / "file").write_bytes(b"old")
    served = passed()
    with opened(served.path / "file", first), opened(served.path / "file", os.O_RDWR) as fd:
        os.write(fd, b"new")
        assert os.pread(fd, 3, 0) == b"new"
    assert (host / "file").read_bytes() == b"new"
    assert served.notes() == []


def test_a_file_without_a_name(passed: Passed, host: Path) -> None:
    served = passed()
    with opened(served.path, os.O_TMPFILE | os.O_RDWR) as fd:
        os.write(fd, b"unnamed")
        assert os.pread(fd, 7, 0) == b"unnamed"
        with opened(served.path, os.O_RDONLY) as directory:
            os.link(f"/proc/self/fd/{fd}", "named", dst_dir_fd=directory)
    assert (host / "named").read_bytes() == b"unnamed"
    assert served.notes() == []


def test_attributes_follow_although_they_may_be_cached_for_ever(passed: Passed, host: Path) -> None:
    path = passed().path / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.utime(fd, ns=(0, 0))
        os.write(fd, bytes(3 * PAGE))
        found, behind = os.stat(path), os.stat(host / "file")
        assert (found.st_size, found.st_mtime_ns) == (3 * PAGE, behind.st_mtime_ns)
        assert found.st_mtime_ns > 0
        os.truncate(path, PAGE)
        assert os.fstat(fd).st_size == PAGE
        os.posix_fallocate(fd, 0, 4 * PAGE)
        os.pwrite(fd, b"end", 8 * PAGE)
        assert os.fstat(fd).st_size == os.stat(host / "file").st_size == 8 * PAGE + 3
        assert os.lseek(fd, PAGE, os.SEEK_HOLE) >= PAGE
        assert os.lseek(fd, 5 * PAGE, os.SEEK_DATA) == 8 * PAGE
        os.fsync(fd)


def test_copies_and_direct_io(passed: Passed, host: Path) -> None:
    path = passed().path
    (path / "from").write_bytes(b"x" * PAGE)
    with (
        opened(path / "from", os.O_RDONLY) as source,
        opened(path / "to", os.O_RDWR | os.O_CREAT) as to,
    ):
        assert os.copy_file_range(source, to, PAGE) == PAGE
        assert os.fstat(to).st_size == PAGE
        os.lseek(source, 0, os.SEEK_SET)
        assert os.sendfile(to, source, None, PAGE) == PAGE
    assert (host / "to").read_bytes() == b"x" * 2 * PAGE
    with opened(path / "to", os.O_RDWR | os.O_DIRECT) as fd, mmap.mmap(-1, PAGE) as page:
        page[:] = b"y" * PAGE
        assert os.pwritev(fd, [page], PAGE) == PAGE
        assert os.preadv(fd, [page], 0) == PAGE
        assert page[:] == b"x" * PAGE
    assert (host / "to").read_bytes() == b"x" * PAGE + b"y" * PAGE


def test_who_writes_takes_set_id_bits_away(passed: Passed, host: Path) -> None:
    served = passed("passthrough,allow_other")
    (host / "file").touch()
    (host / "file").chmod(0o6777)
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups", "sh", "-ec"]
    subprocess.run([*as_nobody, "printf data > file"], check=True, cwd=served.path)
    assert os.stat(host / "file").st_mode & 0o7777 == 0o777
    assert served.notes() == []


def test_it_passes_every_check(tmp_path: Path) -> None:
    results = list(
        run_checks(lambda: NullFS(tmp_path), Mode.MOUNTED, all_checks(), options="passthrough")
    )
    assert not_passed(results) == []
    assert len(results) > 100


# ---------------------------------------------------------------------------- opens that differ


def seen(served: Served) -> list[tuple[Any, ...]]:
    """What was read and written through the file server since it was asked last."""
    notes = served.notes()
    served.forget_notes()
    return notes


def test_beside_passthrough_all_opens_go_and_see_the_same(passed: Passed, host: Path) -> None:
    """The file server reads and writes for those that bring no descriptor."""
    (host / "file").write_bytes(b"old")
    served = passed(varied=True)
    path = served.path / "file"
    with opened(path, os.O_RDWR) as through:
        with opened(path, os.O_RDONLY) as asking, opened(path, os.O_WRONLY) as direct:
            os.pwrite(through, b"new", 0)
            assert seen(served) == []
            assert os.pread(asking, 3, 0) == b"new"
            os.pwrite(direct, b"N", 0)
            assert seen(served) == [("read", 0), ("write", 0)]
            with mmap.mmap(asking, 3, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
                os.pwrite(through, b"W", 2)
                assert memory[:] == os.pread(through, 3, 0) == b"NeW"
            assert seen(served) == []
        os.pwrite(through, b"E", 1)
    assert seen(served) == []
    assert (host / "file").read_bytes() == b"NEW"


def test_beside_a_cached_open_a_file_is_not_passed_through(passed: Passed, host: Path) -> None:
    (host / "file").write_bytes(b"old")
    served = passed(varied=True)
    path = served.path / "file"
    with opened(path, os.O_RDONLY) as cached:
        assert os.pread(cached, 3, 0) == b"old"
        with opened(path, os.O_RDWR) as fd:
            os.pwrite(fd, b"new", 0)
            assert os.pread(cached, 3, 0) == os.pread(fd, 3, 0) == b"new"
        assert ("write", 0) in seen(served)
    served.round_trips(lambda: status(served)["open_files"] == 0)
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, b"NEW", 0)
        assert seen(served) == []
    with opened(path, os.O_RDONLY) as cached:
        assert os.pread(cached, 3, 0) == b"NEW", "what was cached before is used again"


@pytest.mark.parametrize("options", ["passthrough", "passthrough,threads=3"])
def test_opens_of_many_at_once_all_succeed(passed: Passed, host: Path, options: str) -> None:
    (host / "file").write_bytes(bytes(PAGE))
    path = passed(options, varied=True).path / "file"
    failures: list[OSError] = []

    def use(flags: int) -> None:
        try:
            for _ in range(200):
                os.close(os.open(path, flags))
        except OSError as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=use, args=(flags,))
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --------------------------------------------------------------------------- nothing is left over


def status(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(succeeds(*PUFFS, "status", "--json", served.path))
    return found


def test_status_tells_of_files_that_are_passed_through(passed: Passed) -> None:
    served = passed()
    with opened(served.path / "a", os.O_RDWR | os.O_CREAT), opened(served.path / "a", os.O_RDWR):
        assert status(served)["passthrough"] == 1
    served.round_trips(lambda: status(served)["passthrough"] == 0)


def free(host: Path) -> int:
    """How many files the host's file system can still take: a backing id keeps one of them."""
    return os.statvfs(host).f_ffree


def test_a_file_that_was_closed_and_removed_is_gone(passed: Passed, host: Path) -> None:
    served, before = passed(), free(host)
    for number in range(50):
        path = served.path / str(number)
        with opened(path, os.O_RDWR | os.O_CREAT), opened(path, os.O_RDONLY):
            pass
        with opened(path, os.O_RDONLY):
            os.unlink(path)
    served.round_trips(lambda: free(host) == before)


@pytest.mark.parametrize("operation", ["open", "create"])
def test_an_open_that_nobody_waits_for_any_more_is_undone(
    serve: Serve, host: Path, tmp_path: Path, operation: str
) -> None:
    gate, before = Gate(tmp_path), free(host)

    class Gated(NullFS):
        def pass_through(self) -> None:
            if not hasattr(self, "passed"):
                self.passed = True
                gate.pass_through()

        def open(self, *args: Any) -> puffs.Open:
            self.pass_through()
            return super().open(*args)

        def create(self, *args: Any) -> tuple[puffs.Entry, puffs.Open]:
            self.pass_through()
            return super().create(*args)

    if operation == "open":
        (host / "file").touch()
    served = serve(lambda _: Gated(host), "passthrough")
    script = "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)"
    with subprocess.Popen([sys.executable, "-c", script, served.path / "file"]) as caller:
        gate.entered()
        caller.kill()
        gate.open()
        assert caller.wait(PATIENCE) == -signal.SIGKILL
    served.round_trips(lambda: status(served)["open_files"] == 0)
    assert status(served)["passthrough"] == 0
    os.unlink(served.path / "file")
    served.round_trips(lambda: free(host) == before)


def test_with_the_connection_all_is_given_back(mountpoint: Path, host: Path) -> None:
    """Also where somebody else, who has mounted it, keeps the connection alive, and nobody is there
    to be told of the last close.
    """
    wanted = parse_options(["allow_other"])
    fd = mount_fuse(str(mountpoint), wanted, fsname="x", subtype="x", rootmode=0o40755)
    before = free(host)
    try:
        with served_at(fd, host):
            file = os.open(mountpoint / "file", os.O_RDWR | os.O_CREAT)
            os.unlink(mountpoint / "file")
        os.close(file)
        assert free(host) == before
    finally:
        umount2(str(mountpoint), MNT_DETACH)
        os.close(fd)


@contextmanager
def served_at(fd: int, host: Path) -> Iterator[None]:
    """Serve a connection that somebody else has made, in another process."""
    command = [*PUFFS, "mount", f"null:{host}", f"/dev/fd/{fd}", "-f", "-o", "passthrough"]
    with subprocess.Popen(command, pass_fds=[fd]) as process:
        yield
        process.terminate()


# ------------------------------------------------------------------------------------- suspension


def test_a_suspension_is_refused_while_a_file_is_open(passed: Passed) -> None:
    served = passed()
    path = served.path / "file"
    with opened(path, os.O_RDWR | os.O_CREAT):
        with fails(errno.EOPNOTSUPP, "/file", "past the file server", "passthrough"):
            served.child.suspend()
        path.with_name("other").mkdir()  # all goes on
        refused = run(*PUFFS, "suspend", served.path)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "/file" in refused.stderr
        refused = run(*PUFFS, "snapshot", served.path, path.parent.parent / "copy")
        assert "/file" in refused.stderr
    with served.child.suspended():
        pass


def test_and_while_one_is_mapped_that_was_closed(passed: Passed) -> None:
    served = passed()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    with opened(served.path / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.truncate(fd, PAGE)
        where = libc.mmap(None, PAGE, mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    try:
        served.round_trips(lambda: status(served)["open_files"] == 0)
        with fails(errno.EOPNOTSUPP, "memory is mapped", f"with pid {os.getpid()}"):
            served.child.suspend()
    finally:
        libc.munmap(ctypes.c_void_p(where), ctypes.c_size_t(PAGE))
    with served.child.suspended():
        pass


# ------------------------------------------------------------------------------- what cannot be had


class Plain(NullFS):
    """Passes nothing through."""

    passthrough = False


@pytest.mark.parametrize(
    ("server", "options", "isolate", "says"),
    [
        (NullFS, "passthrough,writeback", False, "excludes writeback"),
        (NullFS, "passthrough,nopagecache", False, "excludes nopagecache"),
        (NullFS, "passthrough", True, "in another process"),
        (Plain, "passthrough", False, "null passes no files"),
        (lambda _: MemFS(), "passthrough", False, "mem passes no files"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(
    mountpoint: Path, host: Path, server: Any, options: str, isolate: bool, says: str
) -> None:
    with pytest.raises(OptionError, match=f"passthrough: .*{says}"):
        puffs.mount(lambda: server(host), mountpoint, options, isolate=isolate)
    assert not os.path.ismount(mountpoint)


def test_an_ordinary_user_is_told_what_is_missing(tmp_path: Path) -> None:
    there = place(tmp_path)
    printed = as_user("$P mount null:$D $D -o passthrough 2>&1 || echo $?", there)
    assert "passthrough: it needs CAP_SYS_ADMIN" in printed
    assert printed.endswith("\n1\n")


def test_a_file_system_that_stands_on_another_one_is_asked(serve: Serve, tmp_path: Path) -> None:
    with overlaid(tmp_path) as directory:
        served = serve(lambda notes: Watched(notes, directory), "passthrough")
        for name in ("a", "b"):
            (served.path / name).write_bytes(b"data")
            assert (served.path / name).read_bytes() == b"data"
        assert served.notes("write") == [("write", 0)] * 2
        (line,) = served.log
        assert "/a is not passed through: its file system stands on another one" in line
        served.child.unmount()


@pytest.mark.parametrize(("bad", "says"), [(1 << 20, "is not open"), (0, "is no regular file")])
def test_a_descriptor_that_is_no_good_is_told(
    serve: Serve, host: Path, bad: int, says: str
) -> None:
    class Bad(Watched):
        def create(self, *args: Any) -> tuple[puffs.Entry, puffs.Open]:
            entry, opened = super().create(*args)
            opened.backing_fd = bad or pipe
            return entry, opened

    pipe, other = os.pipe()
    try:
        served = serve(lambda notes: Bad(notes, host), "passthrough")
        (served.path / "file").write_bytes(b"data")
        assert served.notes() == [("write", 0)]
        assert f"/file is not passed through: its backing_fd {says}" in served.log[0]
    finally:
        os.close(pipe)
        os.close(other)
