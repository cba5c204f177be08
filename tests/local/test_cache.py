"""`puffs.local(fs, cache=True)`: what its users see of the page cache. See also `either_way`."""

import os
import stat
from collections.abc import Callable
from errno import EIO, ENOSPC
from typing import Any

import pytest

import puffs
from puffs.fs.mem import MemFS
from tests.kernel.little import Little, fails


def test_many_writes_become_few_and_what_was_written_is_not_read_back() -> None:
    server = Little()
    with puffs.local(server, cache=True) as vfs:
        with vfs.open("/f", "w+b", buffering=0) as stream:
            for _ in range(6000):
                stream.write(b"0123456789")
            assert stream.seek(0, os.SEEK_END) == 60_000
            stream.seek(30_000)
            assert stream.read(10) == b"0123456789"
            assert server.asked("read", "write") == []
        assert [call[2] for call in server.asked("write")] == [0]
        assert bytes(server.nodes[2].data) == b"0123456789" * 6000


def test_without_it_the_file_server_gets_all_as_it_comes() -> None:
    server = Little()
    with puffs.local(server) as vfs, vfs.open("/f", "w+b", buffering=0) as stream:
        for _ in range(3):
            stream.write(b"x")
        assert len(server.asked("write")) == 3
        assert server.asked("setattr") == []


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
    "write",
    [
        lambda vfs: vfs.write_text("/f", "x" * 50_000),
        lambda vfs: vfs.write_bytes("/f", bytes(200_000)),
        lambda vfs: written(vfs, bytes(50_000)),
    ],
)
def test_what_does_not_fit_is_an_error_until_the_file_is_closed(
    write: Callable[[puffs.LocalFileSystem], object], cache: bool
) -> None:
    with puffs.local(MemFS(size=30_000), cache=cache) as vfs:
        with fails(ENOSPC):
            write(vfs)
        assert vfs.stat("/f").st_size <= 30_000
        vfs.write_text("/f", "fits")
        assert vfs.read_text("/f") == "fits"


def written(vfs: puffs.LocalFileSystem, data: bytes) -> None:
    with vfs.open("/f", "wb", buffering=0) as stream:
        while data:
            data = data[stream.write(data) :]


def test_sync_and_close_tell_of_what_could_not_be_written() -> None:
    server = Little()
    vfs = puffs.local(server, cache=True)
    first, second = (vfs.open(f"/f{number}", "wb", buffering=0) for number in range(2))
    server.says["write"] = OSError(EIO, "the disk is gone")
    first.write(b"text")
    with fails(EIO):
        vfs.sync()
    first.close()
    second.write(b"text")
    with fails(EIO):
        vfs.close()
    assert vfs.closed
    assert server.log[-1] == ("unmounted",)
    assert len(server.asked("close")) == 2


def test_a_dirty_file_that_nobody_holds_any_more_is_written() -> None:
    server = Little()
    with puffs.local(server, cache=True) as vfs:
        with vfs.open("/f", "wb", buffering=0) as stream:
            vfs.remove("/f")
            stream.write(b"text")
        names = [call[0] for call in server.asked("write", "close", "inactive", "reclaim")]
        assert names == ["write", "close", "inactive", "reclaim"]
        assert bytes(server.nodes[2].data) == b"text"


@pytest.mark.statement("N13")
def test_what_is_appended_goes_behind_what_the_file_server_has() -> None:
    server = Little()
    with puffs.local(server, cache=True) as vfs:
        with vfs.open("/f", "ab", buffering=0) as stream:
            stream.write(b"mine ")
            vfs.sync()
            server.nodes[2].data += b"theirs "
            server.nodes[2].attr.size += 7
            stream.write(b"mine again ")
            assert stream.write(b"and again") == 9
        assert vfs.read_text("/f") == "mine theirs mine again and again"


@pytest.mark.statement("N5")
@pytest.mark.parametrize("cache", [False, True])
def test_times_and_sizes_never_go_back(cache: bool) -> None:
    with puffs.local(MemFS(), cache=cache) as vfs:
        seen: list[tuple[int, ...]] = []

        def look() -> None:
            st = vfs.stat("/f")
            seen.append((st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_atime_ns))

        steps: list[Callable[[Any], object]] = [
            lambda stream: stream.write(b"some text"),
            lambda stream: vfs.sync(),
            lambda stream: stream.write(bytes(100_000)),
            lambda stream: stream.seek(0),
            lambda stream: stream.read(9),
            lambda stream: vfs.chmod("/f", 0o600),
            lambda stream: vfs.link("/f", "/g"),
            lambda stream: vfs.rename("/g", "/h"),
            lambda stream: stream.truncate(200_000),
            lambda stream: stream.write(b"more"),
        ]
        with vfs.open("/f", "w+b", buffering=0) as stream:
            look()
            for step in steps:
                step(stream)
                look()
        look()
        for column in zip(*seen, strict=True):
            assert list(column) == sorted(column)
        assert vfs.stat("/f").st_size == 200_000


def test_a_time_that_is_set_stays_when_the_file_is_closed() -> None:
    with puffs.local(MemFS(), cache=True) as vfs:
        with vfs.open("/f", "wb", buffering=0) as stream:
            stream.write(b"text")
            vfs.utime("/f", ns=(1, 2))
        st = vfs.stat("/f")
        assert (st.st_atime_ns, st.st_mtime_ns) == (1, 2)


def test_a_joined_mount_has_the_cache_that_it_was_made_with() -> None:
    with puffs.local(MemFS(), cache=True) as first:
        with puffs.local(first.mount, cache=True) as second:
            with first.open("/f", "wb", buffering=0) as stream:
                stream.write(b"not yet written")
                assert second.read_text("/f") == "not yet written"
    with puffs.local(MemFS()) as first:
        with pytest.raises(ValueError, match="made without one"):
            puffs.local(first.mount, cache=True)


def test_file_servers_with_paths_and_trees_work_with_it() -> None:
    class Kept(puffs.PathFileSystem):
        data = bytearray(b"at first")

        def getattr(self, path: str, file: object = None) -> puffs.Attr:
            if path == "/":
                return puffs.Attr(stat.S_IFDIR | 0o755)
            return puffs.Attr(stat.S_IFREG | 0o644, len(self.data))

        def read(self, path: str, offset: int, size: int, file: object) -> bytes:
            return bytes(self.data[offset : offset + size])

        def write(self, path: str, offset: int, data: memoryview, file: object) -> int:
            self.data[offset : offset + len(data)] = data
            return len(data)

    with puffs.local(Kept(), cache=True) as vfs:
        with vfs.open("/kept", "r+b", buffering=0) as stream:
            stream.write(b"in th")
            assert stream.read() == b"rst"
        assert vfs.read_text("/kept") == "in thrst"
    with puffs.local(puffs.Tree({"f": "text"}), cache=True) as vfs:
        assert vfs.read_text("/f") == "text"
