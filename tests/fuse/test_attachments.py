"""A mount that is used in process as well: what changes there shows at once on the mount, although
the kernel may trust for ever what it was told.
"""

import errno
import mmap
import multiprocessing
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.fs.mem import MemFS
from puffs.kernel.mount import Mount
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Serve, Served
from tests.fuse.inside import Inside

pytestmark = pytest.mark.fuse


class Outside:
    """The calls of `puffs.local` that are used here, on the mount: for the kernel to answer."""

    def __init__(self, top: Path) -> None:
        self._top = str(top)

    def _at(self, path: str) -> str:
        return self._top + path

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(os, name)
        return lambda path, *args: call(self._at(path), *args)

    def rename(self, src: str, dst: str) -> None:
        os.rename(self._at(src), self._at(dst))

    def link(self, src: str, dst: str) -> None:
        os.link(self._at(src), self._at(dst))

    def symlink(self, target: str, dst: str) -> None:
        os.symlink(target, self._at(dst))

    def read_bytes(self, path: str) -> bytes:
        return Path(self._at(path)).read_bytes()

    def write_bytes(self, path: str, data: bytes) -> int:
        return Path(self._at(path)).write_bytes(data)


SHOWN = [
    *("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks"),
    *("st_mtime_ns", "st_ctime_ns"),
]


def view(fs: Any, path: str) -> list[Any]:
    """What can be seen at a path, or the errno."""
    try:
        st = fs.lstat(path)
    except OSError as exc:
        return [exc.errno]
    seen = [getattr(st, field) for field in SHOWN]
    if stat.S_ISREG(st.st_mode):
        seen.append(fs.read_bytes(path))
    elif stat.S_ISLNK(st.st_mode):
        seen.append(fs.readlink(path))
    return seen


def paths(fs: Any, top: str = "/") -> list[str]:
    """All paths that there are, by listing."""
    found = [top]
    if stat.S_ISDIR(fs.lstat(top).st_mode):
        for name in sorted(fs.listdir(top)):
            found += paths(fs, f"{top.rstrip('/')}/{name}")
    return found


def assert_same(outside: Any, vfs: Any, *more: str) -> None:
    """Both sides see the same.

    The names come first, of what is there and of `more`: to list a directory brings the kernel all
    that is in it anew.
    """
    there = paths(vfs)
    for path in (*there, *more):
        assert view(outside, path) == view(vfs, path), path
    assert paths(outside) == there


@pytest.fixture
def inside() -> Inside:
    return Inside()


@pytest.fixture
def served(serve: Serve, inside: Inside) -> Served:
    """A `mem` with a few files, for whose process `inside` speaks."""
    served = serve(lambda notes: MemFS(), on_ready=inside.on_ready)
    outside = Outside(served.path)
    outside.write_bytes("/f", b"contents of f")
    outside.write_bytes("/g", b"contents of g")
    outside.mkdir("/dir")
    outside.mkdir("/dir/sub")
    outside.write_bytes("/dir/sub/deep", bytes(3 * mmap.PAGESIZE))
    outside.mkdir("/empty")
    outside.link("/f", "/dir/f")
    outside.symlink("f", "/symlink")
    return served


def _append(vfs: Any) -> None:
    with vfs.open("/f", "ab") as file:
        file.write(b" and more")


def _write_in_the_middle(vfs: Any) -> None:
    with vfs.open("/dir/sub/deep", "r+b") as file:
        file.seek(mmap.PAGESIZE + 7)
        file.write(b"here")


def _change_back(vfs: Any) -> None:
    vfs.rename("/f", "/new")
    vfs.write_text("/f", "another f")


CHANGES: dict[str, Callable[[Any], object]] = {
    "create": lambda vfs: vfs.write_text("/new", "new"),
    "create below": lambda vfs: vfs.write_text("/dir/sub/new", "new"),
    "write": lambda vfs: vfs.write_text("/f", "other contents, and longer ones"),
    "write in the middle": _write_in_the_middle,
    "append": _append,
    "truncate": lambda vfs: vfs.truncate("/dir/sub/deep", 10),
    "extend": lambda vfs: vfs.truncate("/f", 10000),
    "chmod": lambda vfs: vfs.chmod("/f", 0o600),
    "chmod of a directory": lambda vfs: vfs.chmod("/dir", 0o700),
    "chown": lambda vfs: vfs.chown("/f", 7, 8),
    "utime": lambda vfs: vfs.utime("/f", ns=(1, 2)),
    "mkdir": lambda vfs: vfs.mkdir("/new"),
    "mkfifo": lambda vfs: vfs.mkfifo("/new"),
    "symlink": lambda vfs: vfs.symlink("f", "/new"),
    "link": lambda vfs: vfs.link("/f", "/new"),
    "link below": lambda vfs: vfs.link("/g", "/dir/sub/new"),
    "remove": lambda vfs: vfs.remove("/g"),
    "remove one of two": lambda vfs: vfs.remove("/f"),
    "rmdir": lambda vfs: vfs.rmdir("/empty"),
    "rmtree": lambda vfs: vfs.rmtree("/dir"),
    "rename": lambda vfs: vfs.rename("/f", "/new"),
    "rename over another": lambda vfs: vfs.rename("/g", "/f"),
    "rename of a directory": lambda vfs: vfs.rename("/dir", "/new"),
    "rename of a directory over another": lambda vfs: vfs.rename("/dir/sub", "/empty"),
    "rename to elsewhere": lambda vfs: vfs.rename("/dir/sub", "/new"),
    "exchange": lambda vfs: vfs.rename("/f", "/dir", flags=puffs.RENAME_EXCHANGE),
    "another file under the name": _change_back,
    "setxattr": lambda vfs: vfs.setxattr("/f", "user.a", b"value"),
}


def make(vfs: Any, change: str) -> None:
    CHANGES[change](vfs)


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_in_process_shows_at_once(served: Served, inside: Inside, change: str) -> None:
    outside = Outside(served.path)
    known = [*paths(outside), "/new", "/dir/sub/new"]
    before = [view(outside, path) for path in known]
    assert before[-2:] == [[errno.ENOENT]] * 2
    for path in known[:-2]:  # after it has read a file, the kernel asks for its attributes anew
        outside.lstat(path)
    inside.vfs.begin(make, change)
    inside.vfs.end()
    assert_same(outside, inside.vfs, *known)
    assert before != [view(outside, path) for path in known]


def test_files_that_are_open_show_it_too(served: Served, inside: Inside) -> None:
    with opened(served.path / "f") as f, opened(served.path / "g") as g:
        assert (os.fstat(f).st_nlink, os.fstat(g).st_nlink) == (2, 1)
        assert os.read(f, 100) == b"contents of f"
        inside.vfs.rename("/g", "/f")
        assert (os.fstat(f).st_nlink, os.fstat(g).st_nlink) == (1, 1)
        inside.vfs.remove("/dir/f")
        inside.vfs.remove("/f")
        assert (os.fstat(f).st_nlink, os.fstat(g).st_nlink) == (0, 0)
        assert os.pread(g, 100, 0) == b"contents of g"
    with opened(served.path / "dir", os.O_RDONLY) as dir:
        inside.vfs.write_text("/dir/new", "")
        assert sorted(os.listdir(dir)) == ["new", "sub"]
        assert os.stat("new", dir_fd=dir).st_size == 0


def test_memory_that_is_mapped_shows_it_too(served: Served, inside: Inside) -> None:
    with opened(served.path / "dir/sub/deep") as fd, mmap.mmap(fd, 3 * mmap.PAGESIZE) as memory:
        assert memory[mmap.PAGESIZE + 7 : mmap.PAGESIZE + 11] == bytes(4)
        inside.vfs.begin(_write_in_the_middle)
        inside.vfs.end()
        assert memory[mmap.PAGESIZE + 7 : mmap.PAGESIZE + 11] == b"here"


def test_what_is_read_while_it_is_being_written_is_read_anew(
    serve: Serve, mountpoint: Path, inside: Inside
) -> None:
    reached, go = multiprocessing.Event(), multiprocessing.Event()

    class Slow(MemFS):
        def write(self, node: Any, offset: int, data: memoryview, file: object) -> int:
            if bytes(data) == b"slowly":
                reached.set()
                assert go.wait(PATIENCE)
            return super().write(node, offset, data, file)

    served = serve(lambda notes: Slow(), "threads=2", on_ready=inside.on_ready)
    (served.path / "f").write_bytes(b"contents")
    with opened(served.path / "f", os.O_RDONLY) as fd:
        inside.vfs.begin("write_bytes", "/f", b"slowly")
        assert reached.wait(PATIENCE)
        assert os.pread(fd, 100, 0) == b""  # it has been truncated
        go.set()
        inside.vfs.end()
        assert os.pread(fd, 100, 0) == b"slowly"


# ------------------------------------------------ what programs have stored, and is not yet written


@pytest.fixture
def memory(served: Served) -> Any:
    """/dir/sub/deep, three pages, mapped and dirty at its very beginning and in its last page."""
    with opened(served.path / "dir/sub/deep") as fd, mmap.mmap(fd, 3 * mmap.PAGESIZE) as memory:
        memory[:5] = b"dirty"
        memory[-5:] = b"dirty"
        yield memory


def test_who_opens_a_file_in_process_reads_what_was_stored(inside: Inside, memory: Any) -> None:
    read = inside.vfs.read_bytes("/dir/sub/deep")
    assert (read[:5], read[-5:]) == (b"dirty", b"dirty")


def test_a_write_in_process_and_what_was_stored_are_both_there(inside: Inside, memory: Any) -> None:
    inside.vfs.begin(_write_beside)
    inside.vfs.end()
    read = inside.vfs.read_bytes("/dir/sub/deep")
    assert read[:15] == b"stire" + bytes(5) + b"write"
    assert memory[:15] == read[:15]


def _write_beside(vfs: Any) -> None:
    with vfs.open("/dir/sub/deep", "r+b", buffering=0) as file:
        file.write(b"sti")
        file.seek(3)
        file.write(b"re")
        file.seek(10)
        file.write(b"write")


def test_what_was_stored_does_not_bring_back_what_was_cut_off(
    served: Served, inside: Inside, memory: Any
) -> None:
    inside.vfs.truncate("/dir/sub/deep", 3)
    assert inside.vfs.read_bytes("/dir/sub/deep") == b"dir"
    assert served.path.joinpath("dir/sub/deep").read_bytes() == b"dir"


# --------------------------------------------------------------------------------- at the same time


NAMES = ["/a", "/b", "/c", "/d", "/d/a", "/d/b", "/e", "/e/a"]

OPERATIONS: list[Callable[[Any, str, str], object]] = [
    lambda fs, one, two: fs.write_bytes(one, two.encode() * 100),
    lambda fs, one, two: fs.remove(one),
    lambda fs, one, two: fs.rename(one, two),
    lambda fs, one, two: fs.rename(one, two),
    lambda fs, one, two: fs.link(one, two),
    lambda fs, one, two: fs.symlink(two[1:], one),
    lambda fs, one, two: fs.mkdir(one),
    lambda fs, one, two: fs.rmdir(one),
    lambda fs, one, two: fs.chmod(one, 0o700 if one < two else 0o711),
    lambda fs, one, two: fs.truncate(one, len(two)),
    lambda fs, one, two: fs.lstat(one),
    lambda fs, one, two: fs.listdir(one),
    lambda fs, one, two: fs.read_bytes(one),
]


def hammer(fs: Any, seed: int, count: int) -> int:
    """So many operations, drawn at random on a few names; how many of them have succeeded."""
    chance, done = random.Random(seed), 0
    for _ in range(count):
        operation = chance.choice(OPERATIONS)
        try:
            operation(fs, chance.choice(NAMES), chance.choice(NAMES))
            done += 1
        except OSError:
            pass
    return done


@pytest.mark.parametrize("seed", [1, 2])
def test_from_both_sides_at_the_same_time(
    serve: Serve, mountpoint: Path, inside: Inside, seed: int
) -> None:
    served = serve(lambda notes: MemFS(), on_ready=inside.on_ready)
    outside = Outside(served.path)
    count = 500
    inside.vfs.begin(hammer, seed, count)
    assert hammer(outside, seed + 100, 2 * count) > count / 5
    assert inside.vfs.end(60) > count / 10
    assert_same(outside, inside.vfs, *NAMES)
    assert served.log == []


def asks_for_a_cache(mount: Mount) -> None:
    puffs.local(mount, cache=True)


def test_the_page_cache_of_the_kernel_is_the_only_one(served: Served, inside: Inside) -> None:
    inside.mount.begin(asks_for_a_cache)
    with pytest.raises(ValueError, match="made without one"):
        inside.mount.end()


def test_a_kernel_that_buffers_writes_shares_with_nobody(serve: Serve, inside: Inside) -> None:
    """It would go on believing its own sizes, whatever it is told."""
    served = serve(lambda notes: MemFS(), "writeback", on_ready=inside.on_ready)
    with fails(errno.EOPNOTSUPP, "mem cannot be shared", "mount it without"):
        inside.vfs.listdir("/")
    served.path.joinpath("f").write_bytes(b"contents")
    assert served.path.joinpath("f").read_bytes() == b"contents"
