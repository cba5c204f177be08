"""llfuse's API on real mounts, which another process serves with one thread or with several."""

import errno
import os
import re
import signal
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from puffs.refuse import llfuse
from puffs.refuse.inode_values import attributes
from tests.fuse.handles import drop_caches
from tests.fuse.others import comes_true
from tests.refuse.inode_served import Serve, Served, serving


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    yield from serving(tmp_path, "tests.refuse.llfuse_memory")


@pytest.fixture(params=[1, 4])
def served(request: pytest.FixtureRequest, serve: Serve) -> Served:
    return serve(workers=request.param)


def fails(code: int, function: Callable[..., object], *args: object) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        function(*args)


@pytest.mark.fuse
@pytest.mark.loops
def test_files(served: Served) -> None:
    (served / "dir").mkdir()
    os.symlink("there", served / "link")
    os.mknod(served / "fifo", stat.S_IFIFO | 0o600)
    (served / "dir/file").write_bytes(b"text")
    os.link(served / "dir/file", served / "hard")
    os.rename(served / "hard", served / "dir/moved")
    assert (served / "dir/moved").read_bytes() == b"text"
    assert os.readlink(served / "link") == "there"
    assert sorted(os.listdir(served.path)) == ["dir", "fifo", "link"]
    with (served / "dir/file").open("rb+") as file:
        os.truncate(file.fileno(), 2)
        os.fsync(file)
    (served / "dir/file").chmod(0o600)
    assert (served / "dir/file").stat().st_mode == stat.S_IFREG | 0o600
    os.setxattr(served / "dir/file", "user.a", b"1", os.XATTR_CREATE)
    fails(errno.EEXIST, os.setxattr, served / "dir/file", "user.a", b"1", os.XATTR_CREATE)
    assert os.listxattr(served / "dir/file") == ["user.a"]
    assert os.statvfs(served.path).f_blocks == 1000
    os.setxattr(served / "dir/file", "user.invalidate", b"dir")
    os.setxattr(served / "dir/file", "user.store", b"stored")
    assert (served / "dir/file").read_bytes() == b"stored"
    os.setxattr(served.path, "fuse_stacktrace", b"")
    for name in ("dir/file", "dir/moved", "link", "fifo"):
        os.unlink(served / name)
    os.rmdir(served / "dir")
    summary = served.unmount()
    assert summary["how"] == "returned None"
    assert summary["left"] == {}
    assert summary["threads"] == []
    assert summary["calls"]["init"] == summary["calls"]["destroy"] == 1
    assert summary["calls"]["stacktrace"] == 1
    assert summary["calls"]["release"] == summary["calls"]["open"] + summary["calls"]["create"]


@pytest.mark.fuse
@pytest.mark.loops
def test_all_lookups_come_back(serve: Serve) -> None:
    served = serve(workers=4, entries=1000)

    def use(number: int) -> None:
        for turn in range(30):
            (served / f"{number} {turn}").write_bytes(b"x")
            os.unlink(served / f"{number} {turn}")
            for entry in range(0, 1000, 91):
                (served / f"entry {entry}").stat()
            if turn % 10 == 0:
                assert len(os.listdir(served.path)) >= 1000

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(6)))
    drop_caches(served.path)
    summary = served.unmount()
    assert summary["told"] > 1000
    assert summary["left"] == {}


@pytest.mark.fuse
@pytest.mark.parametrize("timeout", [100, 0])
def test_a_listing_has_names_looked_up_that_may_be_remembered(serve: Serve, timeout: int) -> None:
    served = serve(entries=20, timeout=timeout)
    assert len(os.listdir(served.path)) == 20
    summary = served.unmount()
    assert summary["calls"].get("lookup", 0) == (20 if timeout else 0)
    assert summary["left"] == {}


@pytest.mark.fuse
@pytest.mark.loops
def test_the_lock_is_given_up(serve: Serve) -> None:
    served = serve(workers=4)
    (served / "waits").write_bytes(b"late")
    (served / "file").write_bytes(b"soon")
    with ThreadPoolExecutor(3) as pool:
        late = [pool.submit((served / "waits").read_bytes) for _ in range(3)]
        for _ in range(20):
            assert (served / "file").read_bytes() == b"soon"
        assert not any(each.done() for each in late)
        os.setxattr(served / "file", "user.meet", b"")  # all four are in handlers then
        assert [each.result() for each in late] == [b"late"] * 3


@pytest.mark.fuse
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_main(serve: Serve, workers: int, number: signal.Signals) -> None:
    served = serve(workers=workers)
    (served / "file").touch()
    summary = served.signal(number)
    assert summary["how"] == f"returned {number}"
    assert summary["calls"]["destroy"] == 1
    assert not os.path.ismount(served.path)


@pytest.mark.fuse
@pytest.mark.parametrize("workers", [1, 4])
def test_a_mistake_ends_main(serve: Serve, workers: int) -> None:
    served = serve(workers=workers)
    fails(errno.EIO, os.stat, served / "breaks")
    assert served.summary()["how"] == "raised LookupError('a mistake')"
    assert not os.path.ismount(served.path)


def test_fractions_are_cut_off() -> None:
    entry = llfuse.EntryAttributes()
    mode = float(stat.S_IFREG | 0o600)
    given = {"st_mtime_ns": 1.5e9 + 0.75, "st_ctime_ns": -0.5, "st_size": 7.9, "st_mode": mode}
    for name, value in {**given, "st_uid": 12.0, "attr_timeout": 1.5}.items():
        setattr(entry, name, value)
    attr = attributes(entry)
    assert (attr.mtime_ns, attr.ctime_ns, attr.size, attr.uid) == (1_500_000_000, 0, 7, 12)
    assert (attr.mode, attr.ttl) == (stat.S_IFREG | 0o600, 1.5)


def test_numbers_that_do_not_fit_are_refused() -> None:
    def told(uid: int) -> None:
        entry = llfuse.EntryAttributes()
        entry.st_mode = stat.S_IFREG
        entry.st_uid = uid
        attributes(entry)

    told(2**32 - 1)
    for uid in (-1, 2**32):
        with pytest.raises((struct.error, OverflowError)):  # compiled, the latter, and sooner
            told(uid)


def test_the_lock_goes_to_who_has_waited() -> None:
    lock = llfuse.Lock()
    with pytest.raises(RuntimeError, match="holding thread"):
        lock.release()
    assert lock.acquire()
    with pytest.raises(RuntimeError, match="more than once"):
        lock.acquire()
    order: list[str] = []

    def other(name: str) -> None:
        with lock:
            order.append(name)

    def fails_to_get_it() -> None:
        order.append(str(lock.acquire(timeout=0.01)))

    def queued(number: int) -> bool:
        return len(lock._waiters) >= number

    impatient = threading.Thread(target=fails_to_get_it)
    impatient.start()
    impatient.join()
    others = [threading.Thread(target=other, args=(name,)) for name in ("first", "second")]
    for waiting, thread in enumerate(others, 1):
        thread.start()
        assert comes_true(partial(queued, waiting))
    lock.yield_(2)
    assert order == ["False", "first", "second"]
    lock.release()
    for thread in others:
        thread.join()
