"""pyfuse3's API on real mounts, which another process serves in trio or in asyncio."""

import ctypes
import errno
import os
import re
import select
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from puffs.attach.asking import ask, mounted
from puffs.attach.fuse.mountinfo import find_mount
from tests.fuse.handles import (
    contents,
    descriptor_of,
    drop_caches,
    handle_of,
    number_in,
    opened,
)
from tests.refuse.inode_served import Serve, Served, serving

pytestmark = pytest.mark.fuse

MODULE = "tests.refuse.inode_memory"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    pytest.importorskip("trio")
    yield from serving(tmp_path, MODULE)


@pytest.fixture(params=["trio", "asyncio"])
def served(request: pytest.FixtureRequest, serve: Serve) -> Served:
    return serve(loop=request.param)


@pytest.fixture(
    params=[
        *((loop, "") for loop in ("trio", "asyncio")),
        *((loop, "pausing") for loop in ("trio", "asyncio")),
        ("trio", "promising"),
        ("trio", "replying oddly"),
    ],
    ids=" ".join,
)
def served_somehow(request: pytest.FixtureRequest, serve: Serve) -> Served:
    """By handlers that come to their ends in different ways."""
    loop, way = request.param
    return serve(loop=loop, **({"way": way} if way else {}))


def fails(code: int, function: Callable[..., object], *args: object, **keywords: object) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        function(*args, **keywords)


# ----------------------------------------------------------------------------------------- handlers


@pytest.mark.loops
def test_names(served_somehow: Served) -> None:
    served = served_somehow
    (served / "dir").mkdir()
    os.mknod(served / "fifo", stat.S_IFIFO | 0o600)
    os.symlink("dir/../here", served / "link")
    (served / "dir/file").write_bytes(b"text")
    assert [entry.inode() for entry in os.scandir(served / "dir")] == [
        (served / "dir/file").stat().st_ino
    ]
    os.link(served / "dir/file", served / "hard")
    assert os.readlink(served / "link") == "dir/../here"
    assert stat.S_ISFIFO((served / "fifo").stat().st_mode)
    assert sorted(os.listdir(served.path)) == ["dir", "fifo", "hard", "link"]
    os.rename(served / "hard", served / "dir/moved")
    assert (served / "dir/moved").read_bytes() == b"text"
    assert (served / "dir/file").stat().st_nlink == 2
    fails(errno.ENOTEMPTY, os.rmdir, served / "dir")
    for name in ("dir/moved", "dir/file", "fifo", "link"):
        os.unlink(served / name)
    os.rmdir(served / "dir")
    assert os.listdir(served.path) == []
    fails(errno.ENOENT, os.stat, served / "dir")
    summary = served.unmount()
    assert summary["how"] == "returned"
    assert summary["left"] == {}
    for name in ("init", "mkdir", "mknod", "symlink", "link", "rename", "unlink", "rmdir"):
        assert summary["calls"][name] >= 1, name
    assert summary["calls"]["init"] == 1


def test_renames_have_flags(served: Served) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def renameat2(old: Path, new: Path, flags: int) -> int:
        return (
            0
            if libc.renameat2(-100, bytes(old), -100, bytes(new), flags) == 0
            else ctypes.get_errno()
        )

    (served / "a").write_bytes(b"a")
    (served / "b").write_bytes(b"b")
    assert renameat2(served / "a", served / "b", 1) == errno.EEXIST
    assert renameat2(served / "a", served / "b", 2) == 0
    assert (served / "a").read_bytes() == b"b"


@pytest.mark.loops
def test_data(served_somehow: Served) -> None:
    served = served_somehow
    path = served / "file"
    with path.open("wb+", buffering=0) as file:
        file.write(b"0123456789")
        file.seek(20)
        file.write(b"end")
        os.fsync(file)
        os.fdatasync(file)
        file.truncate(22)
        assert os.fstat(file.fileno()).st_size == 22
        file.seek(0)
        assert file.read() == b"0123456789" + bytes(10) + b"en"
    os.truncate(path, 3)
    assert path.read_bytes() == b"012"
    path.write_bytes(b"anew")  # O_TRUNC
    assert path.read_bytes() == b"anew"
    large = os.urandom(3 << 20)
    path.write_bytes(large)
    assert path.read_bytes() == large
    calls = served.unmount()["calls"]
    for name in ("create", "open", "read", "write", "flush", "release", "fsync", "fdatasync"):
        assert calls[name] >= 1, name
    assert calls["fsetattr"] >= 1
    assert calls["setattr"] >= 1
    assert calls["release"] == calls["open"] + calls["create"]


@pytest.mark.loops
def test_attributes(served_somehow: Served) -> None:
    served = served_somehow
    path = served / "file"
    path.write_bytes(b"x" * 1000)
    path.chmod(0o640)
    os.chown(path, 12, 34)
    os.utime(path, ns=(-1_500_000_001, 1_700_000_000_123_456_789))
    st = path.stat()
    assert st.st_mode == stat.S_IFREG | 0o640
    assert (st.st_uid, st.st_gid, st.st_size, st.st_blocks) == (12, 34, 1000, 2)
    assert (st.st_atime_ns, st.st_mtime_ns) == (-1_500_000_001, 1_700_000_000_123_456_789)
    assert st.st_ino == 10
    for ns in ((1 << 63) + 1, -(1 << 63) - 1):  # in the years 2262 and 1677
        os.utime(path, ns=(0, ns))
        assert path.stat().st_mtime_ns == ns
    os.mknod(served / "device", stat.S_IFCHR | 0o600, os.makedev(0xFFF, 0xFFFFF))
    assert (served / "device").stat().st_rdev == os.makedev(0xFFF, 0xFFFFF)
    before = time.time_ns()
    os.utime(path)
    assert path.stat().st_mtime_ns >= before - 10_000_000


def test_extended_attributes(served: Served) -> None:
    path = served / "file"
    path.touch()
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    fails(errno.EEXIST, os.setxattr, path, "user.a", b"2", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, path, "user.b", b"2", os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.a") == b"3"
    assert os.listxattr(path) == ["user.a"]
    fails(errno.ENODATA, os.getxattr, path, "user.c")
    os.removexattr(path, "user.a")
    fails(errno.ENODATA, os.removexattr, path, "user.a")


def test_the_size_of_the_file_system(served: Served) -> None:
    st = os.statvfs(served.path)
    assert (st.f_frsize, st.f_blocks, st.f_bfree, st.f_bavail) == (1024, 1000, 500, 400)
    assert (st.f_files, st.f_ffree, st.f_namemax) == (100, 50, 200)


@pytest.mark.loops
def test_who_asks_is_told(served: Served) -> None:
    before = os.umask(0o027)
    try:
        (served / "dir").mkdir()
    finally:
        os.umask(before)
    assert (served / "dir").stat().st_mode & 0o777 == 0o750
    contexts = served.unmount()["contexts"]
    ((_, uid, pid, umask),) = [each for each in contexts if each[0] == "mkdir"]
    assert (uid, pid, umask) == (os.getuid(), threading.get_native_id(), 0o027)


def test_access_is_asked_without_default_permissions(served: Served) -> None:
    path = served / "file"
    path.touch()
    path.chmod(0o400)
    assert os.access(path, os.R_OK)
    assert not os.access(path, os.W_OK)
    assert served.unmount()["calls"]["access"] == 2


def test_the_kernel_checks_with_default_permissions(serve: Serve) -> None:
    served = serve(options=["default_permissions", "fsname=x"])
    (served / "file").touch()
    (served / "file").chmod(0)
    assert not os.access(served / "file", os.X_OK)
    assert "access" not in served.unmount()["calls"]


def test_poll_waits_for_its_handle(served: Served) -> None:
    (served / "file").touch()
    with (served / "file").open("rb") as file:
        poller = select.poll()
        poller.register(file, select.POLLIN)
        assert poller.poll(10_000) == [(file.fileno(), select.POLLIN)]


def test_stack_traces_are_asked_for_by_an_attribute(served: Served) -> None:
    os.setxattr(served.path, "fuse_stacktrace", b"")
    assert served.unmount()["calls"]["stacktrace"] == 1


def test_what_is_not_overridden_is_not_implemented(serve: Serve) -> None:
    served = serve(bare=True, options=[])
    assert os.listdir(served.path) == []
    for function, *args in (
        (os.mkdir, served / "d"),
        (os.symlink, "x", served / "l"),
        (os.mknod, served / "m"),
        (os.chmod, served.path, 0o700),
    ):
        fails(errno.ENOSYS, function, *args)
    fails(errno.EOPNOTSUPP, os.getxattr, served.path, "user.x")
    subprocess.run(["umount", served.path], check=True)
    assert served.process.wait(10) == 0


# ------------------------------------------------------------------------------------ lookup counts


@pytest.mark.loops
def test_all_lookups_come_back(serve: Serve) -> None:
    """Many at once, a big directory, and callers that are killed while they list it."""
    served = serve(entries=2000, timeout=0.2)

    def use(number: int) -> None:
        for turn in range(20):
            name = f"{number} {turn}"
            (served / name).mkdir()
            (served / name / "file").write_bytes(b"x")
            os.listdir(served / name)
            os.unlink(served / name / "file")
            os.rmdir(served / name)
            for entry in range(0, 2000, 97):
                (served / f"entry {entry}").stat()
            if turn % 5 == 0:
                assert len(os.listdir(served.path)) >= 2000

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(6)))
    for delay in (0.01, 0.02, 0.03):
        lister = subprocess.Popen(["ls", "-la", served.path], stdout=subprocess.DEVNULL)
        try:
            lister.wait(delay)
        except subprocess.TimeoutExpired:
            lister.kill()
        lister.wait()
    drop_caches(served.path)
    summary = served.unmount()
    assert summary["how"] == "returned"
    assert summary["told"] > 10_000
    assert summary["left"] == {}


@pytest.mark.loops
def test_a_listing_that_fails_gives_back_what_it_told(serve: Serve) -> None:
    served = serve(timeout=1000)
    (served / "a").touch()
    (served / "raises").touch()
    fails(errno.EIO, os.listdir, served.path)
    assert served.unmount()["left"] == {}


@pytest.mark.loops
def test_big_directories_and_positions(serve: Serve) -> None:
    served = serve(entries=10_000)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(served.path, os.O_RDONLY | os.O_DIRECTORY)
    buffer = ctypes.create_string_buffer(300)

    def entries() -> list[tuple[str, int]]:
        found = []
        length = libc.getdents64(fd, buffer, len(buffer))
        assert length >= 0
        at = 0
        while at < length:
            record = int.from_bytes(buffer.raw[at + 16 : at + 18], "little")
            name = buffer.raw[at + 19 : at + record].split(b"\0")[0].decode()
            found.append((name, int.from_bytes(buffer.raw[at + 8 : at + 16], "little")))
            at += record
        return found

    seen: list[tuple[str, int]] = []
    while part := entries():
        seen += part
    names = [name for name, _ in seen]
    assert len(names) == 10_002
    assert len(set(names)) == 10_002
    for index in (5000, 17, 9999):
        os.lseek(fd, seen[index][1], os.SEEK_SET)
        assert entries()[0][0] == names[index + 1]
    os.lseek(fd, 0, os.SEEK_SET)
    assert entries()[0][0] == "."
    os.close(fd)
    assert served.unmount()["left"] == {}


def test_names_may_be_as_long_as_on_libfuse(serve: Serve) -> None:
    served = serve()
    names = {"n" * 1024, "\N{CJK UNIFIED IDEOGRAPH-65E5}" * 100}
    for name in names:
        (served / name).write_bytes(b"text")
    assert set(os.listdir(served.path)) == names
    os.rename(served / ("n" * 1024), served / ("m" * 1024))
    assert (served / ("m" * 1024)).read_bytes() == b"text"
    assert served.unmount()["left"] == {}


@pytest.mark.loops
def test_a_number_may_come_again_before_it_is_forgotten(serve: Serve) -> None:
    served = serve()
    for _ in range(200):
        (served / "same").touch()
        os.unlink(served / "same")
    assert served.unmount()["left"] == {}


# ---------------------------------------------------------------------------------------- lifetimes


@pytest.mark.loops
def test_timeouts_are_those_of_each_reply(serve: Serve) -> None:
    served = serve(timeout=1000)
    (served / "file").touch()
    for _ in range(10):
        (served / "file").stat()
    for _ in range(5):
        fails(errno.ENOENT, os.stat, served / "absent")
    calls = served.unmount()["calls"]
    assert calls.get("getattr", 0) <= 2
    assert calls["lookup"] <= 4  # "file" before it was made, and "absent"


def test_without_a_timeout_all_is_asked_again(serve: Serve) -> None:
    served = serve(timeout=0)
    (served / "file").touch()
    for _ in range(10):
        (served / "file").stat()
    assert served.unmount()["calls"]["lookup"] >= 10


def test_handles_outlive_what_the_kernel_remembers(serve: Serve) -> None:
    served = serve()
    (served / "dir/below").mkdir(parents=True)
    (served / "dir/below/file").write_bytes(b"text")
    handle, directory = handle_of(served / "dir/below/file"), handle_of(served / "dir/below")
    (served / "gone").touch()
    gone = handle_of(served / "gone")
    os.unlink(served / "gone")
    with descriptor_of(served.path) as mount:
        assert contents(mount, handle) == b"text"
        drop_caches(served.path)
        assert contents(mount, handle) == b"text"
        drop_caches(served.path)
        with opened(mount, directory) as fd:
            assert os.listdir(fd) == ["file"]
        assert number_in(handle) == (served / "dir/below/file").stat().st_ino
        fails(errno.ESTALE, contents, mount, gone)
    assert served.unmount()["left"] == {}


def test_invalidation_from_a_handler(served: Served) -> None:
    (served / "file").write_bytes(b"before")
    os.setxattr(served / "file", "user.invalidate", b"file")
    os.setxattr(served / "file", "user.store", b"stored")
    assert (served / "file").read_bytes() == b"stored"


# ------------------------------------------------------------------------------------------ waiting


@pytest.mark.loops
def test_what_is_slow_keeps_nobody_waiting(served: Served) -> None:
    (served / "waits").write_bytes(b"late")
    (served / "file").write_bytes(b"soon")
    with ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        late = [pool.submit((served / "waits").read_bytes) for _ in range(4)]
        for _ in range(20):
            assert (served / "file").read_bytes() == b"soon"
        assert not any(each.done() for each in late)
        assert [each.result() for each in late] == [b"late"] * 4
        assert 1 <= time.monotonic() - began < 4  # at the same time


@pytest.mark.loops
def test_tasks_of_the_program_run_beside_it(served: Served) -> None:
    (served / "file").touch()
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        (served / "file").stat()
    ticks = served.unmount()["calls"]["tick"]
    assert ticks >= 20  # without turns of the loop there would be none


def test_no_more_tasks_than_asked_for(serve: Serve) -> None:
    served = serve(max_tasks=2)
    (served / "waits").write_bytes(b"late")
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        late = [pool.submit((served / "waits").read_bytes) for _ in range(4)]
        assert [each.result() for each in late] == [b"late"] * 4
    assert time.monotonic() - began >= 2


# --------------------------------------------------------------------------------------------- ends


@pytest.mark.loops
def test_a_size_below_0_is_the_mistake_of_one_file(serve: Serve) -> None:
    served = serve()
    (served / "file").touch()
    fails(errno.EIO, (served / "impossible").touch)
    assert sorted(os.listdir(served.path)) == ["file", "impossible"]
    fails(errno.EIO, os.stat, served / "impossible")
    assert (served / "file").stat().st_size == 0
    assert served.unmount()["how"] == "returned"


@pytest.mark.loops
def test_a_mistake_ends_main(serve: Serve) -> None:
    served = serve()
    fails(errno.EIO, os.stat, served / "breaks")
    summary = served.summary()
    assert summary["how"] == "raised LookupError('a mistake')"
    assert not os.path.ismount(served.path)


def test_a_mistake_under_asyncio_is_logged(serve: Serve) -> None:
    served = serve(loop="asyncio")
    fails(errno.EIO, os.stat, served / "breaks")
    (served / "file").touch()
    assert served.unmount()["how"] == "returned"


def test_terminate(served: Served) -> None:
    fails_or_not = threading.Thread(
        target=lambda: subprocess.run(
            ["python3", "-c", f"import os; os.setxattr({str(served.path)!r}, 'user.end', b'')"],
            check=False,
        )
    )
    fails_or_not.start()
    assert served.summary()["how"] == "returned"
    fails_or_not.join()
    assert not os.path.ismount(served.path)


def test_an_interrupt_ends_it(serve: Serve) -> None:
    served = serve()
    (served / "file").touch()
    assert served.signal(signal.SIGINT)["how"] == "interrupted"
    assert not os.path.ismount(served.path)


def test_a_daemon(serve: Serve) -> None:
    """Between `init` and `main` the program may fork, as most do."""
    served = serve(daemon=True, options=["fsname=mine"])
    assert served.process.wait(10) == 0
    (served / "file").write_bytes(b"text")
    assert (served / "file").read_bytes() == b"text"
    status = ask(mounted(served.path), "status")
    assert status["server_pid"] == status["pid"] != served.process.pid
    found = find_mount(str(served.path))
    assert found is not None
    assert (found.source, found.fstype) == ("mine", "fuse.puffs.memory")
    subprocess.run(["umount", served.path], check=True)


def test_requests_are_printed(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    served = serve(options=["debug"])
    printed = ""
    deadline = time.monotonic() + 10
    while "mkdir" not in printed.lower() and time.monotonic() < deadline:
        (served / f"dir {time.monotonic()}").mkdir()
        printed += capfd.readouterr().err
    assert "mkdir" in printed.lower()


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    from puffs.refuse import pyfuse3

    for option, text in (
        ("nonsense", "unknown mount option 'nonsense'"),
        ("kernel_cache", "high-level interface"),
        ("max_read=x", "does not fit"),
    ):
        with pytest.raises(RuntimeError, match=text):
            pyfuse3.init(pyfuse3.Operations(), str(tmp_path), {option})
    with pytest.raises(RuntimeError, match="does not exist"):
        pyfuse3.init(pyfuse3.Operations(), str(tmp_path / "nowhere"))
    assert not os.path.ismount(tmp_path)
