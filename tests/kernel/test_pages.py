"""The page cache: what is kept, when the file server gets it, and who is told what went wrong."""

import logging
import os
import stat
import threading
from collections.abc import Callable
from errno import EACCES, EFBIG, EINVAL, EIO, ENOSPC, EOPNOTSUPP, EPERM, EPROTO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import puffs
from puffs.kernel.args import KernelFlag
from puffs.kernel.pages import CLUSTER, MEMORY, PAGE
from puffs.kernel.sync import Wait
from puffs.kernel.vnops import OpenFile, Vnops
from puffs.server.cred import FSCRED
from tests.kernel.little import CRED, FakeHost, Little, a_file, fails, vnops_of


class Clock:
    """Tells `now`, which moves by a second each time that it is asked."""

    def __init__(self) -> None:
        self.now = 1_000 * 10**9

    def __call__(self) -> int:
        self.now += 10**9
        return self.now


def cached(server: Little, flags: int = 0, **args: Any) -> Vnops:
    """The vnode operations of a running mount that has a page cache."""
    return vnops_of(server, flags=flags, **args)


def contents(server: Little, cookie: int = 2) -> bytes:
    """What the file server has."""
    return bytes(server.nodes[cookie].data)


def stored(vnops: Vnops, server: Little, data: bytes, flags: int = os.O_RDWR) -> OpenFile:
    """A file that the file server has had before anybody opened it."""
    vnode, file = a_file(vnops)
    vnops.close(file)
    server.nodes[2].data[:] = data
    server.nodes[2].attr.size = len(data)
    opened = vnops.open(vnode, flags)
    server.log.clear()
    return opened


# ------------------------------------------------------------------------------------------ reading


@pytest.mark.statement("N12")
def test_what_was_read_is_read_again_without_a_message() -> None:
    server = Little()
    vnops = cached(server)
    data = os.urandom(3 * PAGE + 100)
    file = stored(vnops, server, data)
    assert vnops.read(file, PAGE - 10, 20) == data[PAGE - 10 : PAGE + 10]
    assert [call[2:4] for call in server.asked("read")] == [(0, 2 * PAGE)], "whole pages"
    assert vnops.read(file, 0, 2 * PAGE) == data[: 2 * PAGE]
    assert vnops.read(file, 0, 1 << 20) == data
    assert [call[2:4] for call in server.asked("read")[1:]] == [(2 * PAGE, 2 * PAGE)]
    for offset in range(0, len(data), 1000):
        assert vnops.read(file, offset, 1000) == data[offset : offset + 1000]
    assert len(server.asked("read")) == 2


@pytest.mark.statement("N12")
def test_reading_nothing_and_reading_before_the_beginning() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"text")
    assert vnops.read(file, 0, 0) == b""
    with fails(EINVAL):
        vnops.read(file, -1, 5)
    assert server.log == []


@pytest.mark.statement("N12")
def test_the_time_of_reading_is_noted_and_told_when_the_file_is_closed() -> None:
    server, clock = Little(), Clock()
    vnops = cached(server, clock=clock)
    file = stored(vnops, server, b"text", os.O_RDONLY)
    before = server.nodes[2].attr.atime_ns
    vnops.read(file, 0, 4)
    noted = clock.now
    assert vnops.getattr(file.vnode).atime_ns == noted > before
    assert server.nodes[2].attr.atime_ns == before, "the file server does not know it yet"
    vnops.close(file)
    ((_, node, changes, _, cred),) = server.asked("setattr")
    assert (node, changes.atime_ns, changes.mtime_ns, cred) == (2, noted, None, FSCRED)
    assert [call[0] for call in server.log[-3:]] == ["setattr", "close", "inactive"]


def test_who_only_reads_is_not_told_that_a_time_cannot_be_set() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"text", os.O_RDONLY)
    server.says["setattr"] = OSError(EPERM, "not yours")
    assert vnops.read(file, 0, 4) == b"text"
    vnops.flush(file)
    vnops.close(file)
    assert len(server.asked("setattr")) == 1


@pytest.mark.statement("6.3")
def test_a_file_that_looks_empty_is_asked_for_all_the_same() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"made on demand")
    server.nodes[2].attr.size = 0
    assert vnops.read(file, 0, 100) == b"made on demand"
    assert vnops.read(file, 5, 2) == b"on"
    assert vnops.read(file, 14, 100) == b""


@pytest.mark.statement("6.3")
def test_at_the_known_end_the_file_server_is_asked() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"first")
    assert vnops.read(file, 0, 100) == b"first"
    server.nodes[2].data += b", then more"
    assert vnops.read(file, 5, 100) == b", then more"


def test_a_file_that_is_shorter_than_was_said_ends_where_it_ends() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"text")
    server.nodes[2].attr.size = 3 * PAGE
    assert vnops.read(file, 0, 4 * PAGE) == b"text", "not zeros"
    assert vnops.read(file, 4, 10) == b""


def test_what_others_have_changed_is_read_anew() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"before")
    vnops.getattr(file.vnode)
    assert vnops.read(file, 0, 6) == b"before"
    server.nodes[2].data[:] = b"behind"
    server.nodes[2].attr.mtime_ns += 1
    vnops.getattr(file.vnode)
    assert vnops.read(file, 0, 6) == b"behind"


@pytest.mark.parametrize("keep", [False, True])
def test_an_open_drops_what_is_cached_unless_the_file_server_vouches_for_it(keep: bool) -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"before")
    vnops.read(file, 0, 6)
    server.nodes[2].data[:] = b"behind"
    server.says["open"] = puffs.Open("file", keep_cache=keep)
    second = vnops.open(file.vnode, os.O_RDONLY)
    assert vnops.read(second, 0, 6) == (b"before" if keep else b"behind")


@pytest.mark.statement("2.7")
def test_a_read_that_gives_too_much() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"text")
    server.says["read"] = lambda *args: bytes(PAGE + 1)
    with fails(EPROTO):
        vnops.read(file, 0, 4)
    del server.says["read"]
    assert vnops.read(file, 0, 4) == b"text"


# ------------------------------------------------------------------------------------------ writing


@pytest.mark.statement("N13")
@pytest.mark.statement("N5")
def test_a_write_grows_the_file_before_the_file_server_knows() -> None:
    server = Little()
    vnops = cached(server)
    vnode, file = a_file(vnops, data=b"12345")
    assert server.asked("write") == []
    assert vnops.getattr(vnode).size == 5
    assert server.nodes[2].attr.size == 0
    assert vnops.read(file, 1, 10) == b"2345"
    vnops.write(file, 100, b"x")
    assert vnops.read(file, 0, 200) == b"12345" + bytes(95) + b"x"
    assert server.asked("write") == []


@pytest.mark.statement("N13")
def test_who_crosses_64k_has_what_is_before_it_written() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops)
    data = os.urandom(66_000)
    for offset in range(0, 65_000, 1000):
        vnops.write(file, offset, data[offset : offset + 1000])
    assert server.asked("write") == []
    vnops.write(file, 65_000, data[65_000:])
    assert [call[2] for call in server.asked("write")] == [0], "in one message"
    assert contents(server) == data[:CLUSTER], "and not what is behind it"
    vnops.write(file, CLUSTER - 2, b"xx")
    assert len(server.asked("write")) == 2, "the end of a write counts, not its beginning"
    vnops.close(file)
    assert contents(server) == data[: CLUSTER - 2] + b"xx" + data[CLUSTER:]


@pytest.mark.statement("N13")
def test_long_writes_and_reads_go_through_in_parts() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops)
    data = os.urandom((3 << 20) + 12345)
    assert vnops.write(file, 7, data) == len(data)
    assert contents(server)[7:] == data[: (3 << 20) - 7], "up to the last multiple of 64 KiB"
    assert vnops.read(file, 7, 1 << 30) == data
    vnops.close(file)
    assert contents(server)[7:] == data


@pytest.mark.statement("N13")
@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_a_synchronous_file_is_written_at_once(flag: int) -> None:
    server = Little()
    vnops = cached(server)
    vnode, file = a_file(vnops, data=b"first", flags=os.O_RDWR | flag)
    assert contents(server) == b"first"
    server.says["write"] = OSError(ENOSPC, "full")
    with fails(ENOSPC):
        vnops.write(file, 5, b", then more")
    assert vnops.getattr(vnode).size == 5


@pytest.mark.statement("2.5")
def test_a_mount_that_writes_through_keeps_what_was_written_to_be_read() -> None:
    server = Little()
    vnops = cached(server, KernelFlag.WTCACHE)
    _, file = a_file(vnops, data=b"first")
    assert contents(server) == b"first"
    vnops.write(file, 5, bytes(2 * PAGE))
    assert contents(server) == b"first" + bytes(2 * PAGE)
    vnops.read(file, 0, 1)
    asked = len(server.asked("read"))
    assert vnops.read(file, 0, 3 * PAGE) == b"first" + bytes(2 * PAGE)
    assert len(server.asked("read")) == asked + 1, "the page in the middle was there"


@pytest.mark.statement("2.5")
def test_a_mount_without_page_cache() -> None:
    server = Little()
    vnops = cached(server, KernelFlag.NOCACHE_PAGE)
    _, file = a_file(vnops, data=b"text")
    assert contents(server) == b"text"
    vnops.read(file, 0, 4)
    vnops.read(file, 0, 4)
    assert len(server.asked("read")) == 2
    vnops.close(file)
    assert server.asked("setattr") == [], "no time is noted"


@pytest.mark.statement("N13")
@pytest.mark.statement("6.3")
def test_offsets_that_no_file_has() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops)
    with fails(EINVAL):
        vnops.write(file, -1, b"x")
    with fails(EFBIG):
        vnops.write(file, (1 << 63) - 3, b"12345")
    assert vnops.write(file, 0, b"") == 0
    vnops.close(file)
    assert server.asked("write", "setattr") == []


def test_only_what_was_written_is_sent() -> None:
    """Not whole pages: what lies around may be changed by others, or mean something when written"""
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, bytes(10_000))
    vnops.read(file, 0, 10_000)
    sent: list[tuple[int, bytes]] = []

    def keep(node: int, offset: int, data: memoryview, file: object) -> int:
        sent.append((offset, bytes(data)))
        return len(data)

    server.says["write"] = keep
    for offset, data in ((50, b"b"), (9_000, b"z"), (49, b"a"), (51, b"c"), (100, b"d")):
        vnops.write(file, offset, data)
    assert len(server.asked("read")) == 1, "nor is anything read for it"
    vnops.fsync(file)
    assert sent == [(49, b"abc"), (100, b"d"), (9_000, b"z")]


def test_what_was_written_stays_to_be_read_when_the_file_server_has_it() -> None:
    server = Little()
    vnops = cached(server)
    data = os.urandom(2 * PAGE + 100)
    file = stored(vnops, server, data)
    vnops.read(file, 0, len(data))
    vnops.write(file, 50, b"xyz")
    vnops.write(file, 3 * PAGE, data)
    vnops.fsync(file)
    vnops.getattr(file.vnode)
    assert vnops.read(file, 0, 2 * PAGE) == data[:50] + b"xyz" + data[53 : 2 * PAGE]
    assert vnops.read(file, 3 * PAGE, 1 << 20) == data
    assert len(server.asked("read")) == 1


def test_a_write_asks_for_no_read() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"0123456789", os.O_WRONLY)
    vnops.write(file, 3, b"xyz")
    vnops.close(file)
    assert contents(server) == b"012xyz6789"
    assert server.asked("read") == []


@pytest.mark.statement("N14")
@pytest.mark.statement("2.6")
def test_a_file_server_without_write_is_not_written_to_later_either() -> None:
    server = Little("write")
    vnops = cached(server)
    _, file = a_file(vnops)
    with fails(EOPNOTSUPP):
        vnops.write(file, 0, b"x")


@pytest.mark.statement("2.6")
def test_without_read_there_is_no_cache() -> None:
    server = Little("read")
    vnops = cached(server)
    a_file(vnops, data=b"text")
    assert contents(server) == b"text"


def test_only_regular_files_are_cached() -> None:
    server = Little()
    vnops = cached(server)
    fifo = vnops.mknod(vnops.mount.root(), "p", stat.S_IFIFO | 0o666).vnode
    vnops.write(vnops.open(fifo, os.O_WRONLY), 0, b"text")
    assert len(server.asked("write")) == 1


@pytest.mark.parametrize("hint", ["direct_io", "nonseekable", "stream"])
def test_files_that_ask_for_it_are_not_cached(hint: str) -> None:
    server = Little()
    vnops = cached(server)
    vnode, usual = a_file(vnops, data=b"dirty")
    server.says["open"] = puffs.Open("file", **{hint: True})
    direct = vnops.open(vnode, os.O_RDWR)
    vnops.write(usual, 0, b"D")
    assert vnops.read(direct, 0, 10) == b"Dirty", "what was dirty is written before"
    vnops.read(usual, 0, 5)
    vnops.write(direct, 5, b" no more")
    assert contents(server) == b"Dirty no more"
    assert vnops.read(usual, 0, 100) == b"Dirty no more", "and what was cached is dropped"
    vnops.write(usual, 0, b"x")
    vnops.fsync(direct)
    assert contents(server)[:1] == b"x"


# ---------------------------------------------------------------------------- what goes wrong later


@pytest.mark.statement("N14")
def test_a_write_that_takes_less_is_gone_on_with() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"123456789")
    server.says["write"] = lambda node, offset, data, file: Little.write(
        server, node, offset, data[:4], file
    )
    vnops.fsync(file)
    assert [call[2] for call in server.asked("write")] == [0, 4, 8]
    assert contents(server) == b"123456789"


@pytest.mark.statement("N13")
@pytest.mark.statement("N14")
def test_a_write_that_takes_nothing_is_eio() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"123456789")
    server.says["write"] = lambda *args: 0
    with fails(EIO):
        vnops.fsync(file)


@pytest.mark.statement("N14")
@pytest.mark.statement("2.7")
@pytest.mark.parametrize("said", [10, -1, None])
def test_a_write_that_takes_more_than_there_is(said: object) -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"123456789")
    server.says["write"] = lambda *args: said
    with fails(EPROTO):
        vnops.fsync(file)
    assert server.asked("error")[0][1] == "WRITE"


def test_an_error_is_told_once_at_the_next_chance() -> None:
    server = Little()
    vnops = cached(server)
    chances: dict[str, Callable[[OpenFile], None]] = {
        "fsync": vnops.fsync,
        "flush": vnops.flush,
        "close": vnops.close,
        "sync": lambda file: vnops.mount.sync(True, CRED),
    }
    for name, chance in chances.items():
        vnode, file = a_file(vnops, name, b"stored")
        vnops.fsync(file)
        vnops.write(file, 6, b" lost")
        server.says["write"] = OSError(ENOSPC, "full")
        with fails(ENOSPC):
            chance(file)
        del server.says["write"]
        assert vnops.getattr(vnode).size == 6, name
        vnops.write(file, 0, b"S") if name != "close" else None
        vnops.close(file)
        assert contents(server, vnode.cookie) in (b"Stored", b"stored")  # type: ignore[arg-type]


def test_what_could_not_be_written_is_not_read() -> None:
    server = Little()
    vnops = cached(server)
    vnode, file = a_file(vnops, data=b"stored")
    vnops.fsync(file)
    vnops.write(file, 3, b"lost, and longer")
    vnops.read(file, 0, 3)

    def take_four(node: int, offset: int, data: memoryview, file: object) -> int:
        if offset > 3:
            raise OSError(EIO, "broken")
        return Little.write(server, node, offset, data[:4], file)

    server.says["write"] = take_four
    with fails(EIO):
        vnops.flush(file)
    assert vnops.read(file, 0, 100) == b"stolost", "that much it has taken"
    assert vnops.getattr(vnode).size == 7


def test_the_first_error_counts_and_the_rest_is_tried() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops)
    for offset in (0, 100, 200):
        vnops.write(file, offset, b"x")
    errors = {0: ENOSPC, 200: EIO}

    def fail(node: int, offset: int, data: memoryview, file: object) -> int:
        if offset in errors:
            raise OSError(errors[offset], "no")
        return Little.write(server, node, offset, data, file)

    server.says["write"] = fail
    server.says["flush"] = OSError(EACCES, "no")
    with fails(ENOSPC):
        vnops.flush(file)
    assert contents(server)[100:] == b"x"
    del server.says["flush"]
    vnops.flush(file)


def test_an_error_when_crossing_is_told_at_once() -> None:
    server = Little()
    vnops = cached(server)
    vnode, file = a_file(vnops, data=b"x")
    server.says["write"] = OSError(ENOSPC, "full")
    with fails(ENOSPC):
        vnops.write(file, 1, bytes(CLUSTER))
    assert vnops.getattr(vnode).size == 0
    vnops.close(file)


def test_a_mistake_in_the_file_server_is_eio_and_one_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"x")
    server.says["write"] = ValueError("oops")
    with caplog.at_level(logging.ERROR, "puffs"), fails(EIO):
        vnops.close(file)
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert len(server.asked("close")) == 1, "it is closed all the same"


def test_who_only_reads_is_not_told_of_what_others_could_not_write() -> None:
    server = Little()
    vnops = cached(server)
    vnode, writer = a_file(vnops, data=b"x")
    reader = vnops.open(vnode, os.O_RDONLY)
    vnops.write(writer, 0, b"y")
    server.says["write"] = OSError(EIO, "broken")
    vnops.seek(reader, 0, os.SEEK_DATA)
    vnops.setattr(vnode, puffs.Changes(mode=0o600))
    vnops.close(reader)
    with fails(EIO):
        vnops.close(writer)


def test_a_file_server_may_use_a_file_that_it_is_writing() -> None:
    server = Little()
    vnops = cached(server)
    vnode, file = a_file(vnops, data=b"text")

    def write(*args: Any) -> int:
        vnops.close(vnops.open(vnode, os.O_RDONLY))
        vnops.setxattr(vnode, "user.written", b"1")
        return Little.write(server, *args)

    server.says["write"] = write
    vnops.close(file)
    assert contents(server) == b"text"
    assert len(server.asked("write")) == 1


def test_an_interrupted_write_is_not_lost() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"text")
    server.says["write"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        vnops.fsync(file)
    del server.says["write"]
    vnops.close(file)
    assert contents(server) == b"text"


# ------------------------------------------------------------------------------- times and the rest


@pytest.mark.statement("N5")
def test_what_is_noted_counts_more_than_what_the_file_server_says() -> None:
    server, clock = Little(), Clock()
    vnops = cached(server, clock=clock)
    vnode, file = a_file(vnops, data=b"12345")
    written = clock.now
    attr = vnops.getattr(vnode, file)
    assert (attr.size, attr.mtime_ns, attr.ctime_ns) == (5, written, written)
    vnops.read(file, 0, 5)
    assert vnops.getattr(vnode).atime_ns == clock.now > written
    assert vnops.lookup(vnops.mount.root(), "f").attr.size == 5
    server.says["lookup"] = lambda *args: puffs.Entry(2, puffs.Attr(stat.S_IFREG | 0o600, 1))
    assert vnops.lookup(vnops.mount.root(), "f").attr.size == 5, "an entry may be older"
    server.nodes[2].attr.size = 70
    server.nodes[2].attr.ctime_ns = written + 1
    attr = vnops.getattr(vnode)
    assert attr.size == 70, "what others have appended is behind what is dirty"
    assert attr.ctime_ns == written + 1, "and a later change is a change"


@pytest.mark.statement("N9")
@pytest.mark.statement("6.3")
def test_fsync_sends_times_then_pages_then_itself() -> None:
    server, clock = Little(), Clock()
    vnops = cached(server, clock=clock)
    vnode, file = a_file(vnops, data=b"12345")
    written = clock.now
    vnops.link(vnode, vnops.mount.root(), "second")
    vnops.read(file, 0, 5)
    read = clock.now
    server.log.clear()
    vnops.fsync(file)
    assert [call[0] for call in server.log] == ["setattr", "write", "fsync"]
    (_, node, changes, handle, cred) = server.log[0]
    assert (node, handle, cred) == (2, "file of f", FSCRED)
    assert server.callers["setattr"] is FSCRED
    assert (changes.atime_ns, changes.mtime_ns) == (read, written), "not the time of the link"
    assert changes.size is None
    assert changes.ctime_ns is None
    server.log.clear()
    vnops.fsync(file)
    assert [call[0] for call in server.log] == ["fsync"], "there is nothing more to tell"


@pytest.mark.statement("N9")
def test_fdatasync_sends_data_alone() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"12345")
    server.log.clear()
    vnops.fsync(file, datasync=True)
    assert [call[0] for call in server.log] == ["write", "fsync"]


@pytest.mark.statement("N9")
def test_an_error_of_setting_times_is_that_of_fsync() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"12345")
    server.says["setattr"] = OSError(EPERM, "not yours")
    server.says["fsync"] = OSError(EIO, "broken")
    with fails(EPERM):
        vnops.fsync(file)
    assert contents(server) == b"12345", "the data are written all the same"
    assert len(server.asked("fsync")) == 1


@pytest.mark.statement("N9")
@pytest.mark.statement("2.5")
@pytest.mark.parametrize("how", ["no setattr", "NOFLUSH_META"])
def test_a_file_server_may_keep_times_itself(how: str) -> None:
    server, clock = Little(*(["setattr"] if how == "no setattr" else [])), Clock()
    vnops = cached(server, 0 if how == "no setattr" else KernelFlag.NOFLUSH_META, clock=clock)
    vnode, file = a_file(vnops, data=b"12345")
    written = clock.now
    assert vnops.getattr(vnode).mtime_ns == written, "as long as it cannot know"
    vnops.read(file, 0, 5)
    assert vnops.getattr(vnode).atime_ns < written
    vnops.flush(file)
    server.nodes[2].attr.mtime_ns = 77
    assert vnops.getattr(vnode).mtime_ns == 77, "it has been told all"
    vnops.close(file)
    assert server.asked("setattr") == []


@pytest.mark.statement("N10")
def test_a_link_changes_a_file() -> None:
    server, clock = Little(), Clock()
    vnops = cached(server, clock=clock)
    vnode, file = a_file(vnops)
    before = vnops.getattr(vnode).ctime_ns
    vnops.link(vnode, vnops.mount.root(), "second")
    assert vnops.getattr(vnode).ctime_ns == clock.now > before
    server.says["link"] = OSError(EPERM, "no")
    with fails(EPERM):
        vnops.link(vnode, vnops.mount.root(), "third")
    assert vnops.getattr(vnode).ctime_ns == clock.now, "and one that fails does not"
    vnops.close(file)


@pytest.mark.statement("6.3")
def test_a_change_of_size_is_sent_alone_and_after_what_was_written() -> None:
    server = Little()
    vnops = cached(server)
    vnode, file = a_file(vnops, data=b"0123456789")
    server.log.clear()
    assert vnops.setattr(vnode, puffs.Changes(size=4), file).size == 4
    assert [call[0] for call in server.log[:2]] == ["write", "setattr"]
    changes = server.log[1][2]
    assert (changes.size, changes.mtime_ns, changes.atime_ns) == (4, None, None)
    assert contents(server) == b"0123"
    assert vnops.read(file, 0, 100) == b"0123"


@pytest.mark.statement("6.3")
def test_what_was_cut_off_does_not_come_back() -> None:
    server = Little()
    vnops = cached(server)
    data = os.urandom(3 * PAGE)
    file = stored(vnops, server, data)
    vnops.read(file, 0, 3 * PAGE)
    vnops.setattr(file.vnode, puffs.Changes(size=PAGE + 10))
    vnops.setattr(file.vnode, puffs.Changes(size=3 * PAGE))
    expected = data[: PAGE + 10] + bytes(2 * PAGE - 10)
    assert vnops.read(file, 0, 4 * PAGE) == expected
    vnops.setattr(file.vnode, puffs.Changes(size=PAGE + 10))
    vnops.write(file, 3 * PAGE - 1, b"x")
    assert vnops.read(file, 0, 4 * PAGE) == expected[:-1] + b"x"
    vnops.close(file)
    assert contents(server) == expected[:-1] + b"x"


def test_a_truncation_that_is_refused_loses_nothing() -> None:
    server = Little()
    vnops = cached(server)
    vnode, file = a_file(vnops, data=b"0123456789")
    server.says["setattr"] = OSError(EPERM, "append only")
    with fails(EPERM):
        vnops.setattr(vnode, puffs.Changes(size=0))
    assert vnops.read(file, 0, 10) == b"0123456789"
    vnops.close(file)
    assert contents(server) == b"0123456789"


def test_a_time_that_is_set_stays() -> None:
    server, clock = Little(), Clock()
    vnops = cached(server, clock=clock)
    vnode, file = a_file(vnops, data=b"text")
    vnops.read(file, 0, 4)
    vnops.setattr(vnode, puffs.Changes(mtime_ns=5))
    assert vnops.getattr(vnode).mtime_ns == 5
    vnops.setattr(vnode, puffs.Changes(atime_ns=6))
    vnops.close(file)
    attr = vnops.getattr(vnode)
    assert (attr.atime_ns, attr.mtime_ns) == (6, 5)


SETTLING: dict[str, Callable[[Vnops, OpenFile], object]] = {
    "open": lambda vnops, file: vnops.open(file.vnode, os.O_RDONLY),
    "fallocate": lambda vnops, file: vnops.fallocate(file, 0, 0, 100),
    "seek": lambda vnops, file: vnops.seek(file, 0, os.SEEK_DATA),
    "copy_file_range": lambda vnops, file: vnops.copy_file_range(file, 0, file, 100, 5),
    "setxattr": lambda vnops, file: vnops.setxattr(file.vnode, "user.a", b"1"),
    "removexattr": lambda vnops, file: vnops.removexattr(file.vnode, "user.a"),
    "setattr": lambda vnops, file: vnops.setattr(file.vnode, puffs.Changes(mode=0o600)),
    "flush": lambda vnops, file: vnops.flush(file),
}


@pytest.mark.parametrize("name", SETTLING)
def test_the_file_server_has_what_it_is_asked_about(name: str) -> None:
    """What came before in time comes before in messages."""
    server = Little()
    vnops = cached(server)
    replies: dict[str, Any] = {
        "seek": lambda *args: 0,
        "fallocate": lambda *args: None,
        "copy_file_range": lambda *args: 5,
    }
    vnops.mount.ops.update(replies)
    _, file = a_file(vnops)
    vnops.setxattr(file.vnode, "user.a", b"0")
    vnops.write(file, 0, b"text")
    SETTLING[name](vnops, file)
    assert contents(server) == b"text"


def test_what_is_copied_from_is_written_first() -> None:
    server = Little()
    vnops = cached(server)
    _, source = a_file(vnops, "source", b"text")
    _, target = a_file(vnops, "target")
    vnops.mount.ops["copy_file_range"] = lambda *args: len(contents(server))
    assert vnops.copy_file_range(source, 0, target, 0, 100) == 4


@pytest.mark.parametrize("name", ["fallocate", "copy_file_range"])
def test_what_changes_contents_past_the_cache_has_it_dropped(name: str) -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"before")
    vnops.read(file, 0, 6)

    def change(*args: object) -> int:
        server.nodes[2].data[:] = b"behind us"
        server.nodes[2].attr.size = 9
        return 5

    vnops.mount.ops[name] = change
    SETTLING[name](vnops, file)
    assert vnops.read(file, 0, 100) == b"behind us"


# ---------------------------------------------------------------------------- its beginning and end


def test_the_last_close_writes_before_the_node_becomes_inactive() -> None:
    server = Little()
    vnops = cached(server)
    vnode, file = a_file(vnops, data=b"text")
    second = vnops.open(vnode, os.O_RDWR)
    vnops.write(file, 4, b", more")
    vnops.write(second, 10, b", and more")
    vnops.forget(vnode)
    server.log.clear()
    vnops.close(file)
    assert contents(server) == b"text, more, and more", "who closes writes all"
    vnops.close(second)
    names = [call[0] for call in server.log]
    assert names[0] == "write"
    assert names[-3:] == ["close", "inactive", "reclaim"]
    assert vnode.pages is None
    assert vnops.mount.pages.files() == []


def test_the_times_of_a_file_are_told_when_its_writer_closes_it() -> None:
    server, clock = Little(), Clock()
    vnops = cached(server, clock=clock)
    vnode, writer = a_file(vnops, data=b"text")
    written = clock.now
    first, second = vnops.open(vnode, os.O_RDONLY), vnops.open(vnode, os.O_RDONLY)
    vnops.close(writer)
    assert [call[2].mtime_ns for call in server.asked("setattr")] == [written]
    vnops.read(first, 0, 4)
    vnops.close(first)
    assert len(server.asked("setattr")) == 1
    vnops.close(second)
    assert [call[2].atime_ns for call in server.asked("setattr")[1:]] == [clock.now]


def test_an_unmount_writes_what_nobody_has_closed(caplog: pytest.LogCaptureFixture) -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"text")
    _, lost = a_file(vnops, "g", data=b"lost")

    def fail(node: int, offset: int, data: memoryview, file: object) -> int:
        if node == 3:
            raise OSError(ENOSPC, "full")
        return Little.write(server, node, offset, data, file)

    server.says["write"] = fail
    with caplog.at_level(logging.ERROR, "puffs"):
        vnops.mount.unmount(force=True)
    assert contents(server) == b"text"
    assert "not all could be written" in caplog.text
    names = [call[0] for call in server.log]
    assert names.index("write") < names.index("sync") < names.index("unmounted")
    for handle in (file, lost):
        vnops.close(handle)
    assert len(server.asked("write")) == 2


def test_another_kind_of_host_ends_the_cache_and_its_leaving_begins_it() -> None:
    server = Little()
    vnops = cached(server)
    mount = vnops.mount
    vnode, file = a_file(vnops, data=b"dirty")
    vnops.read(file, 0, 5)
    other = FakeHost(mount)
    other.by_call = False
    mount.attach(other)
    assert contents(server) == b"dirty", "it is written before"
    for data in (b"other", b"Other", b"other"):
        server.nodes[2].data[:] = data
        assert vnops.read(file, 0, 5) == data
    vnops.write(file, 0, b"O")
    assert contents(server) == b"Other"
    server.nodes[2].attr.mtime_ns = 5
    assert vnops.getattr(vnode).mtime_ns == 5
    late = vnops.open(vnode, os.O_RDWR)
    mount.detached(other)
    vnops.write(file, 0, b"x")
    assert contents(server) == b"Other"
    assert vnops.read(late, 0, 5) == b"xther", "it is one cache for all open files"


def test_when_the_cache_ends_a_time_of_reading_that_nobody_can_send_is_dropped() -> None:
    server = Little()
    vnops = cached(server)
    vnode, writer = a_file(vnops, data=b"text")
    reader = vnops.open(vnode, os.O_RDONLY)
    vnops.close(writer)
    vnops.read(reader, 0, 4)
    server.log.clear()
    other = FakeHost(vnops.mount)
    other.by_call = False
    vnops.mount.attach(other)
    assert server.asked("setattr") == [], "not by a file that is closed"
    server.nodes[2].attr.atime_ns = 7
    assert vnops.getattr(vnode).atime_ns == 7


def test_what_cannot_be_written_when_the_cache_ends_is_told_who_wrote() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"dirty")
    server.says["write"] = OSError(ENOSPC, "full")
    other = FakeHost(vnops.mount)
    other.by_call = False
    vnops.mount.attach(other)
    with fails(ENOSPC):
        vnops.flush(file)
    vnops.close(file)


def test_hosts_that_work_by_call_share_the_cache() -> None:
    server = Little()
    vnops = cached(server)
    vnops.mount.attach(FakeHost(vnops.mount))
    vnode, file = a_file(vnops, data=b"dirty")
    assert contents(server) == b""
    other = vnops.by(puffs.Cred(5, 6, groups=()))
    assert other.read(other.open(vnode, os.O_RDONLY), 0, 10) == b"dirty"
    vnops.close(file)


def test_a_write_is_asked_for_by_who_wrote() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"x")
    vnops.mount.sync(True, puffs.Cred(5, 6, groups=()))
    assert server.callers["write"] == CRED
    assert server.callers["fsync"] == puffs.Cred(5, 6)
    vnops.close(file)


# ------------------------------------------------------------------------------------------- memory


def test_reading_takes_no_more_than_its_share() -> None:
    server = Little()
    vnops = cached(server)
    files = []
    for number in range(8):
        vnode, file = a_file(vnops, f"f{number}")
        server.nodes[vnode.cookie].data[:] = bytes(1 << 20)  # type: ignore[index]
        server.nodes[vnode.cookie].attr.size = 1 << 20  # type: ignore[index]
        files.append(file)
    for file in files:
        assert len(vnops.read(file, 0, 1 << 20)) == 1 << 20
        assert held(vnops) <= MEMORY + (1 << 20)
    asked = len(server.asked("read"))
    vnops.read(files[-1], 0, PAGE)
    assert len(server.asked("read")) == asked, "what was used last is there"
    vnops.read(files[0], 0, PAGE)
    assert len(server.asked("read")) == asked + 1, "what was used first is not"


def held(vnops: Vnops) -> int:
    """The bytes that all pages of a mount take."""
    return sum(pages.memory for pages in vnops.mount.pages.files())


def test_when_it_is_full_what_was_written_longest_ago_goes_first() -> None:
    server = Little()
    vnops = cached(server)
    vnops.mount.pages.limit = 18 * PAGE
    files = [a_file(vnops, f"f{number}", bytes(3 * PAGE))[1] for number in range(4)]
    assert server.asked("write") == []
    vnops.read(files[0], 0, 1)
    a_file(vnops, "more", bytes(3 * PAGE))
    assert [call[1] for call in server.asked("write")] == [3], "the first one was used again"
    assert held(vnops) <= 18 * PAGE


def test_many_small_writes_take_no_more_than_their_share() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops)
    for number in range(3000):
        vnops.write(file, number * 100, b"x")
    assert held(vnops) <= MEMORY + 2 * PAGE
    vnops.close(file)
    assert contents(server) == (b"x" + bytes(99)) * 2999 + b"x"


def test_a_long_read_does_not_keep_all() -> None:
    server = Little()
    vnops = cached(server)
    data = os.urandom(3 * MEMORY)
    file = stored(vnops, server, data)
    assert vnops.read(file, 0, len(data)) == data
    assert held(vnops) <= MEMORY


# ------------------------------------------------------------------------------------------ threads


@pytest.mark.statement("6.3")
@pytest.mark.statement("N16")
def test_threads_write_one_file_and_nothing_is_lost() -> None:
    server = Little()
    vnops = cached(server)
    vnops.mount.pages.limit = 8 * PAGE
    vnode, _ = a_file(vnops)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            file = vnops.open(vnode, os.O_RDWR)
            for turn in range(200):
                record = b"%02d %05d\n" % (number, turn)
                offset = (turn * 4 + number) * len(record)
                vnops.write(file, offset, record)
                assert vnops.read(file, offset, len(record)) == record
                if turn % 50 == number:
                    vnops.fsync(file)
                assert vnops.getattr(vnode).size >= offset + len(record)
            vnops.close(file)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    lines = contents(server).decode().splitlines()
    assert lines == [f"{number:02} {turn:05}" for turn in range(200) for number in range(4)]


@pytest.mark.statement("6.3")
def test_a_truncation_waits_for_a_read_that_is_under_way() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"contents")
    inside, go_on = threading.Event(), threading.Event()

    def slow(node: int, offset: int, size: int, file: object) -> bytes:
        data = contents(server)
        inside.set()
        go_on.wait(10)
        return data

    server.says["read"] = slow
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(vnops.read(file, 0, 8)))
    reader.start()
    inside.wait(10)
    cutter = threading.Thread(target=lambda: vnops.setattr(file.vnode, puffs.Changes(size=0), file))
    cutter.start()
    assert server.asked("setattr") == []
    go_on.set()
    reader.join()
    cutter.join()
    del server.says["read"]
    assert found == [b"contents"]
    assert vnops.read(file, 0, 8) == b"", "nothing of before is left in the cache"


def test_a_change_that_was_under_way_before_anything_was_cached() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"contents")
    vnode = file.vnode
    vnops.close(file)
    server.says["open"] = puffs.Open("direct", direct_io=True)
    direct = vnops.open(vnode, os.O_RDWR)
    del server.says["open"]
    opened: list[OpenFile] = []

    def meanwhile(node: int, mode: int, offset: int, length: int, file: object) -> None:
        reader = vnops.open(vnode, os.O_RDONLY)
        assert vnops.read(reader, 0, 8) == b"contents"
        opened.append(reader)
        server.nodes[node].data[offset : offset + length] = bytes(length)

    vnops.mount.ops["fallocate"] = meanwhile
    vnops.fallocate(direct, 3, 0, 4)
    assert vnops.read(opened[0], 0, 8) == bytes(4) + b"ents"


# ------------------------------------------------------------------------------ any sequence at all


STEP = st.tuples(
    st.sampled_from(
        ("write", "write", "read", "truncate", "fsync", "sync", "lazy", "reopen", "size", "second")
    ),
    st.integers(0, 3 * PAGE),
    st.binary(max_size=40),
    st.sampled_from((1, 1, 1, 150)),
)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEP, max_size=25), limit=st.sampled_from((PAGE, 4 * PAGE, MEMORY)))
def test_any_sequence_as_in_memory(steps: list[tuple[str, int, bytes, int]], limit: int) -> None:
    """Against an array of bytes; in the end the file server has the same."""
    server = Little()
    vnops = cached(server)
    vnops.mount.pages.limit = limit
    vnode, file = a_file(vnops)
    others: list[OpenFile] = []
    model = bytearray()
    for what, number, data, times in steps:
        data *= times
        match what:
            case "write":
                if data:
                    model.extend(bytes(max(0, number - len(model))))
                    model[number : number + len(data)] = data
                vnops.write(file, number, data)
            case "read":
                assert vnops.read(file, number // 2, number) == model[number // 2 :][:number]
            case "truncate":
                del model[number:]
                model.extend(bytes(number - len(model)))
                vnops.setattr(vnode, puffs.Changes(size=number))
            case "fsync":
                vnops.fsync(file)
            case "sync":
                vnops.mount.sync(Wait.NOWAIT)
            case "lazy":
                vnops.mount.sync(Wait.LAZY)
            case "reopen":
                vnops.close(file)
                file = vnops.open(vnode, os.O_RDWR)
            case "second":
                others.append(vnops.open(vnode, os.O_RDONLY))
            case _:
                assert vnops.getattr(vnode).size == len(model)
    for other in others:
        assert vnops.read(other, 0, 1 << 20) == model
        vnops.close(other)
    vnops.close(file)
    assert contents(server) == model


# -------------------------------------------------------------------------------------------- flags


@pytest.mark.statement("M8")
@pytest.mark.parametrize("flags", [1, 4, 0x10, 0x400, 1 << 40, -1, KernelFlag.WTCACHE | 0x20])
def test_unknown_kernel_flags_are_refused(flags: int) -> None:
    with fails(EINVAL) as caught:
        puffs.MountArgs("name", flags=flags).checked()
    assert "kernel flags" in str(caught.value)


@pytest.mark.statement("M8")
@pytest.mark.statement("2.5")
def test_known_kernel_flags_are_granted() -> None:
    every = KernelFlag.NOCACHE_PAGE | KernelFlag.WTCACHE | KernelFlag.NOFLUSH_META
    assert puffs.MountArgs("name", flags=every).checked().flags == every == 0x20A
