"""Whole file systems in a process of their own: they behave as they do anywhere else, and nothing
is kept there of what nobody knows any more.
"""

import errno
import gc
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

import puffs
from puffs.fs.mem import MemFS
from puffs.fs.null import NullFS
from puffs.isolate.objects import Objects
from puffs.isolate.rooms import COUNT
from tests.attach.toy import ROOT
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import Notes, Serve, Served
from tests.fuse.handles import drop_caches, handle_of
from tests.fuse.handles import opened as opened_by_handle
from tests.fuse.others import comes_true, gone, needs_root
from tests.fuse.servers import Cached, Many, Noting

pytestmark = pytest.mark.fuse

FILE, DIR, LINK = ROOT + 1, ROOT + 2, ROOT + 3
MIB: Final = 1 << 20
BATTERY: Final = Path(__file__).parents[1] / "check" / "directory.py"


@pytest.fixture
def isolate() -> bool:
    return True


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The directory behind a mount of `null`."""
    path = tmp_path / "host"
    path.mkdir()
    return path


@needs_root
@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("mem", "threads=4"),
        ("null", "threads=1"),
        pytest.param("null", "threads=4", marks=pytest.mark.slow),
    ],
)
def test_every_check_of_the_battery_passes(
    serve: Serve, host: Path, what: str, options: str
) -> None:
    served = serve(lambda _: MemFS() if what == "mem" else NullFS(host), f"allow_other,{options}")
    done = subprocess.run(
        [sys.executable, BATTERY, served.path], capture_output=True, text=True, timeout=50
    )
    *failures, last = done.stdout.splitlines()
    assert (done.stderr, failures) == ("", [])
    assert int(last.removeprefix("passed: ")) > 100
    assert served.log == []


def make_tree(top: Path) -> None:
    """Files of all kinds and sizes, with holes, links, times and extended attributes."""
    for number in range(60):
        path = top / f"d{number % 7}" / f"e{number % 3}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 5000))
        os.setxattr(path, "user.number", b"%d" % number)
        path.chmod(0o600 + number % 8)
        if number % 5 == 0:
            os.link(path, path.with_name(f"also {number}"))
        if number % 6 == 0:
            path.with_name(f"link {number}").symlink_to(path.name)
    with (top / "holes").open("wb") as file:
        for at in (0, 3 * MIB, 9 * MIB):
            os.pwrite(file.fileno(), b"data", at)
    os.mkfifo(top / "fifo")
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(number * 10**9 + 1, number * 10**9 + 7), follow_symlinks=False)


@needs_root
@pytest.mark.parametrize("options", ["", "threads=4"])
@pytest.mark.parametrize("what", ["mem", "null"])
def test_a_tree_that_is_unpacked_is_the_same_tree(
    serve: Serve, host: Path, tmp_path: Path, what: str, options: str
) -> None:
    tree, archive = tmp_path / "tree", tmp_path / "tree.tar"
    tree.mkdir()
    make_tree(tree)
    subprocess.run(["tar", "-C", tree, "--xattrs", "-cf", archive, "."], check=True)
    served = serve(lambda _: MemFS() if what == "mem" else NullFS(host), options)
    unpack = ["tar", "-C", str(served.path), "--xattrs", "--xattrs-include=*", "-xpf", str(archive)]
    done = subprocess.run(unpack, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    compare = ["rsync", "-niaHAX", "--checksum", "--delete", f"{tree}/", f"{served.path}/"]
    done = subprocess.run(compare, capture_output=True, text=True, timeout=50)
    different = [line for line in done.stdout.splitlines() if not line.endswith(" ./")]
    assert (done.returncode, done.stderr, different) == (0, "", [])
    assert served.log == []


@pytest.mark.parametrize("options", ["", "threads=4"])
def test_more_callers_with_a_mebibyte_each_than_there_are_rooms(serve: Serve, options: str) -> None:
    served = serve(lambda _: MemFS(), options)
    callers = COUNT + 16
    fd = os.open(served.path / "file", os.O_CREAT | os.O_RDWR | os.O_DIRECT)

    def write_and_read(number: int) -> bool:
        with mmap.mmap(-1, MIB) as data, mmap.mmap(-1, MIB) as back:
            data[:] = number.to_bytes(2, "little") * (MIB // 2)
            assert os.pwritev(fd, [data], number * MIB) == MIB
            assert os.preadv(fd, [back], number * MIB) == MIB
            return bytes(back) == bytes(data)

    try:
        with ThreadPoolExecutor(callers) as pool:
            assert all(pool.map(write_and_read, range(callers)))
    finally:
        os.close(fd)
    assert served.log == []


def test_values_of_64_kib(serve: Serve) -> None:
    served = serve(lambda _: MemFS())
    path = served.path / "file"
    path.touch()
    value = os.urandom(65536)
    os.setxattr(path, "user.large", value)
    assert os.getxattr(path, "user.large") == value
    names = [f"user.{number:0200}" for number in range(300)]
    for name in names:
        os.setxattr(path, name, b"")
    assert sorted(os.listxattr(path)) == sorted([*names, "user.large"])


def test_memory_that_is_mapped(serve: Serve) -> None:
    served = serve(lambda _: MemFS())
    with (served.path / "file").open("w+b") as file:
        file.truncate(MIB)
        with mmap.mmap(file.fileno(), MIB) as memory:
            memory[:4] = b"head"
            memory[-4:] = b"tail"
            memory.flush()
    assert (served.path / "file").read_bytes() == b"head" + bytes(MIB - 8) + b"tail"


@needs_root
def test_handles_outlive_what_the_kernel_remembers(serve: Serve) -> None:
    served = serve(lambda _: MemFS())
    for number in range(50):
        (served.path / f"{number}").write_text(f"contents of {number}")
    handles = [handle_of(served.path / f"{number}") for number in range(50)]
    drop_caches(served.path)
    with opened(served.path, os.O_RDONLY) as mount:
        for number, handle in enumerate(handles):
            with opened_by_handle(mount, handle, os.O_RDONLY) as fd:
                assert os.read(fd, 100) == b"contents of %d" % number


def test_a_snapshot_is_written_there(serve: Serve, tmp_path: Path) -> None:
    served = serve(lambda _: MemFS())
    (served.path / "file").write_text("contents")
    served.child.snapshot(tmp_path / "image")
    (served.path / "file").write_text("later")
    with puffs.local(lambda: MemFS(image=tmp_path / "image"), isolate=True) as vfs:
        assert vfs.read_text("/file") == "contents"


# ---------------------------------------------------------------------------- what is known there


class Counting:
    """How many objects the kernel half knows, as the value of an extended attribute."""

    def getxattr(self, node: object, name: str) -> bytes:
        if name != "user.objects":
            raise OSError(errno.ENODATA, "no such attribute")
        counts = [len(one) for one in gc.get_objects() if isinstance(one, Objects)]
        return b"%d" % counts[0]


class CountingMany(Counting, Many):
    pass


class CountingMem(Counting, MemFS):
    pass


def objects(served: Served) -> int:
    return int(os.getxattr(served.path, "user.objects"))


def forgotten(served: Served) -> bool:
    """Whether the root alone is known, or is so soon."""

    def root_alone() -> bool:
        drop_caches(served.path)
        return objects(served) == 1

    return comes_true(root_alone)


@needs_root
@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_a_directory_of_20_000_entries(serve: Serve, positions: bool, plus: bool) -> None:
    served = serve(lambda _: CountingMany(20_000, positions=positions, plus=plus))
    assert objects(served) == 1
    listed = os.listdir(served.path)
    assert listed == [f"file {number:04}" for number in range(1, 20_001)]
    with os.scandir(served.path) as entries:
        for number, entry in zip(range(1, 1001), entries, strict=False):
            assert entry.stat().st_size == number
    assert forgotten(served)
    assert served.log == []


@needs_root
@pytest.mark.parametrize("options", ["", "threads=4"])
def test_nothing_is_known_any_more_when_all_is_forgotten(serve: Serve, options: str) -> None:
    served = serve(lambda _: CountingMem(), options)

    def work(top: Path) -> None:
        top.mkdir()
        for number in range(40):
            (top / f"{number}").write_bytes(bytes(number * 1000))
            os.link(top / f"{number}", top / f"also {number}")
            os.rename(top / f"{number}", top / f"moved {number}")
            (top / f"link {number}").symlink_to("elsewhere")
        assert len(os.listdir(top)) == 120
        for path in list(top.iterdir())[::2]:
            path.unlink()

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(work, [served.path / f"of {number}" for number in range(4)]))
    with opened(served.path / "of 0", os.O_RDONLY):
        assert objects(served) > 1  # whatever the kernel has forgotten by itself
    assert forgotten(served)
    assert served.log == []


# ----------------------------------------------------------------------------- what it says unasked


class Telling(Cached):
    """Changes by itself, and tells its mount, when it is set an extended attribute: its name says
    how, and the mount's answer is noted.
    """

    def mounted(self, mount: puffs.Mount) -> None:
        self.mount_of_mine = mount
        self.notes.add("mounted on", mount.mountpoint)

    def setxattr(self, node: int, name: str, value: bytes, flags: int) -> None:
        tell = getattr(self, name.removeprefix("user."))
        notice = tell()
        notice.add_done_callback(lambda done: self.notes.add("told", repr(done.exception())))

    def contents(self) -> Any:
        self.data[FILE][:] = b"others!!"
        return self.mount_of_mine.invalidate_pages(FILE)

    def given(self) -> Any:
        self.data[FILE][:] = b"others!!"
        return self.mount_of_mine.store_pages(FILE, 0, b"others!!")

    def attributes(self) -> Any:
        self.attrs[FILE].mode = self.attrs[FILE].type | 0o600
        return self.mount_of_mine.invalidate_attr(FILE)

    def one_name(self) -> Any:
        self.names[ROOT, "dir"] = FILE
        return self.mount_of_mine.invalidate_name(ROOT, "dir")

    def all_names(self) -> Any:
        self.names[ROOT, "dir"] = FILE
        return self.mount_of_mine.invalidate_names()

    def buffers(self) -> Any:
        return self.mount_of_mine.flush_pages(FILE)

    def unknown(self) -> Any:
        return self.mount_of_mine.invalidate_attr(4711)

    def wrong(self) -> Any:
        return self.mount_of_mine.invalidate_pages(DIR)

    def end(self) -> Any:
        return self.mount_of_mine.unmount(force=True)


def told(served: Served, how: str) -> None:
    """It has told its mount, and that has done what it was told."""
    os.setxattr(served.path, f"user.{how}", b"")
    assert comes_true(lambda: bool(served.notes("told")))
    assert served.notes("told") == [("told", "None")]


CHANGES: Final[dict[str, Callable[[Path], object]]] = {
    "contents": lambda path: (path / "file").read_bytes(),
    "given": lambda path: (path / "file").read_bytes(),
    "attributes": lambda path: (path / "file").stat().st_mode,
    "one_name": lambda path: (path / "dir").is_dir(),
    "all_names": lambda path: (path / "dir").is_dir(),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_file_server_that_changes_by_itself_tells_its_mount(serve: Serve, how: str) -> None:
    served = serve(Telling)
    look = CHANGES[how]
    before = look(served.path)
    assert served.notes("mounted on") == [("mounted on", str(served.path))]
    assert (served.path / "dir").is_dir()
    told(served, how)
    assert look(served.path) != before
    assert served.log == []


def test_what_is_mapped_is_written_when_it_says_so(serve: Serve) -> None:
    served = serve(Telling)
    with opened(served.path / "file") as fd, mmap.mmap(fd, 8) as memory:
        memory[:8] = b"from mem"
        told(served, "buffers")
        assert ("write", FILE, 0, b"from mem", "file 0") in served.notes("write")


def test_what_nobody_knows_is_done_at_once(serve: Serve) -> None:
    told(serve(Telling), "unknown")


def test_what_cannot_be_told_is_an_error_there(serve: Serve) -> None:
    served = serve(Telling)
    assert (served.path / "dir").is_dir()
    os.setxattr(served.path, "user.wrong", b"")
    assert comes_true(lambda: bool(served.notes("told")))
    ((_, error),) = served.notes("told")
    assert f"OSError({errno.EINVAL}" in error


def test_it_may_have_itself_unmounted(serve: Serve) -> None:
    served = serve(Telling)
    os.setxattr(served.path, "user.end", b"")
    assert gone(served.path)
    assert (served.ended(), served.why) == (0, "")
    assert served.notes("unmounted") == [("unmounted",)]


# --------------------------------------------------------------- its unmounting, and its handles


class Refusing(Noting):
    def unmount(self, force: bool) -> None:
        raise OSError(errno.EXDEV, "not before tea")


def test_an_unmount_is_refused_in_its_own_words_and_forced(serve: Serve) -> None:
    served = serve(Refusing)
    with fails(errno.EXDEV, "not before tea"):
        served.child.unmount()
    assert (served.path / "dir").is_dir()
    served.child.unmount(force=True)
    assert (served.ended(), served.why) == (0, "")
    assert served.notes("unmounted") == [("unmounted",)]


def test_an_unmount_while_it_is_suspended_is_refused_and_forced(serve: Serve) -> None:
    served = serve(Noting)
    with served.child.suspended(), fails(errno.EBUSY, "suspended"):
        served.child.unmount()
    assert (served.path / "dir").is_dir()
    served.child.suspend()
    served.child.unmount(force=True)
    assert (served.ended(), served.why) == (0, "")


class Handled(Noting):
    """Has handles of 8 bytes, or so it says."""

    fhsize = 8

    def __init__(self, notes: Notes, handle: object) -> None:
        self.handle = handle
        super().__init__(notes)

    def nodetofh(self, node: int) -> bytes:
        return self.handle  # type: ignore[return-value]

    def fhtonode(self, fid: bytes) -> int:
        return FILE


@pytest.mark.parametrize(
    ("handle", "hint"),
    [
        (bytes(9), errno.E2BIG),
        (bytes(65536), errno.E2BIG),
        (bytes(7), errno.EINVAL),
        (8, errno.EINVAL),
    ],
    ids=["9", "65536", "7", "none"],
)
def test_a_handle_that_is_none(tmp_path: Path, handle: object, hint: int) -> None:
    notes = tmp_path / "notes"
    with puffs.local(partial(Handled, Notes(notes), handle), isolate=True) as vfs:
        with fails(errno.EPROTO):
            vfs.name_to_handle("/file")
        assert vfs.stat("/file").st_size == 8
    told = Served(tmp_path, tmp_path).notes("error")
    assert [(note[1], note[2], note[-1]) for note in told] == [("VPTOFH", hint, FILE)]


def test_how_long_a_handle_is_may_be_asked(tmp_path: Path) -> None:
    make = partial(Handled, Notes(tmp_path / "notes"), b"handle 8")
    with puffs.local(make, isolate=True) as vfs:
        with pytest.raises(OSError) as caught:
            vfs.name_to_handle("/file", room=4)
        assert caught.value.errno == errno.E2BIG
        handle = vfs.name_to_handle("/file", room=caught.value.size)  # type: ignore[attr-defined]
        with vfs.open_by_handle(handle, "rb") as file:
            assert file.read() == b"contents"
