"""The page cache: what is kept, when the file server gets it, and who is told what went wrong."""

import os
import stat
import threading
from errno import EFBIG, EINVAL, ENOSPC, EOPNOTSUPP, EPERM, EPROTO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import puffs
from puffs.kernel.args import KernelFlag
from puffs.kernel.pages import CLUSTER, MEMORY, PAGE
from puffs.kernel.sync import Wait
from puffs.kernel.vnops import OpenFile, Vnops
from puffs.server.cred import FSCRED
from tests.kernel.little import Clock, Little, a_file, cached, contents, fails, stored

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


def test_a_file_that_looks_empty_is_asked_for_all_the_same() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"made on demand")
    server.nodes[2].attr.size = 0
    assert vnops.read(file, 0, 100) == b"made on demand"
    assert vnops.read(file, 5, 2) == b"on"
    assert vnops.read(file, 14, 100) == b""


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
    vnops.getattr(file.vnode)
    vnops.flush(file)
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
