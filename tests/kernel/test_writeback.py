"""Writing back: who is told what went wrong, what is noted and when it is told, how it ends."""

import logging
import os
import stat
from collections.abc import Callable
from errno import EACCES, EIO, ENOSPC, EPERM, EPROTO
from typing import Any

import pytest

import puffs
from puffs.kernel.args import KernelFlag
from puffs.kernel.pages import CLUSTER, PAGE
from puffs.kernel.vnops import OpenFile, Vnops
from puffs.server.cred import FSCRED
from tests.kernel.little import (
    CRED,
    Clock,
    FakeHost,
    Little,
    a_file,
    cached,
    contents,
    fails,
    stored,
)

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
