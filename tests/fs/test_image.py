"""Images of `mem`: the format, what is kept, what is refused, and that no half of one appears."""

import errno
import os
import resource
import signal
import stat
import sys
import threading
import tracemalloc
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.fs import replacing
from puffs.fs.extents import CHUNK
from puffs.fs.mem import MemFS
from tests.fs.host import acl, in_child, in_memory
from tests.fs.images import (
    KEEP_SIZE,
    REG,
    check,
    directory,
    end,
    golden,
    loaded,
    records_of,
    rich,
    root,
    saved,
    sealed,
    tree,
)
from tests.fs.memory import Box, a_tree, fails, quietly

GOLDEN = """
89 70 75 66 66 73 0d 0a  01 00 00 00  05 00 00 00 00 00 00 00

4e 4f 44 45  5e 00 00 00
00 00 00 00 00 00 00 00  01 00 00 00 00 00 00 00  07 00 00 00  ed 41 00 00
e8 03 00 00  64 00 00 00  00 00 00 00  00 00 00 00 00 00 00 00
0a 00 00 00 00 00 00 00  01 00 00 00  14 00 00 00 00 00 00 00  02 00 00 00
1e 00 00 00 00 00 00 00  03 00 00 00  d8 ff ff ff ff ff ff ff  04 00 00 00
00 00
ac b7 34 12
4e 4f 44 45  5f 00 00 00
01 00 00 00 00 00 00 00  02 00 00 00 00 00 00 00  07 00 00 00  a4 81 00 00
e8 03 00 00  64 00 00 00  00 00 00 00  03 00 00 00 00 00 00 00
0a 00 00 00 00 00 00 00  01 00 00 00  14 00 00 00 00 00 00 00  02 00 00 00
1e 00 00 00 00 00 00 00  03 00 00 00  00 00 00 00 00 00 00 00  ff ff ff ff
01 00  66
9b 8c 34 88
58 41 54 52  09 00 00 00  06 00  75 73 65 72 2e 61  76
db 60 d9 92
44 41 54 41  0b 00 00 00  00 00 00 00 00 00 00 00  61 62 63
9c 75 1f a3
4c 49 4e 4b  11 00 00 00  01 00 00 00 00 00 00 00  02 00 00 00 00 00 00 00  67
22 85 65 18
45 4e 44 20  08 00 00 00  02 00 00 00 00 00 00 00
f0 c5 b3 3b
"""
"""The root, and a file that has two names, an extended attribute and three bytes."""

# -------------------------------------------------------------------------------------- the format


def test_the_format_is_as_described(tmp_path: Path) -> None:
    """Byte by byte: images outlive this version of puffs."""
    image = bytes.fromhex(GOLDEN)
    assert golden() == image
    box = loaded(image, tmp_path)
    node = box.node("f")
    attr = box.fs.getattr(node)
    assert box.node("g") is node
    assert (attr.ino, attr.mode, attr.nlink, attr.size, attr.blocks) == (2, REG | 0o644, 2, 3, 1)
    assert (attr.uid, attr.gid, attr.rdev, attr.btime_ns) == (1000, 100, 0, None)
    assert (attr.atime_ns, attr.mtime_ns, attr.ctime_ns) == (
        10_000_000_001,
        20_000_000_002,
        30_000_000_003,
    )
    assert box.fs.fileid(node) == (2, 7)
    with quietly():
        assert box.read(node) == b"abc"
    assert box.fs.getxattr(node, "user.a") == b"v"
    assert box.attr("").btime_ns == -39_999_999_996
    assert saved(box, tmp_path) == image
    assert box.file("next").attr.ino == 5


def test_the_unit_of_contents_is_that_of_the_format() -> None:
    assert CHUNK == 65536


# ------------------------------------------------------------------------------------ what is kept


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    box = rich()
    before = tree(box)
    image = saved(box, tmp_path)
    assert tree(box) == before
    again = loaded(image, tmp_path, size=1 << 30, files=1000)
    after = tree(again)
    assert list(after) == list(before)
    for path in before:
        assert after[path] == before[path], path
    assert saved(again, tmp_path) == image
    check(again, 1 << 30, 1000)


def test_an_empty_file_system_too(tmp_path: Path) -> None:
    box = Box()
    assert tree(loaded(saved(box, tmp_path), tmp_path)) == tree(box)


def test_what_is_reserved_stays_reserved_and_hidden(tmp_path: Path) -> None:
    box = Box(size=100_000)
    box.reserve(box.file("file", b"12345"), 0, 90_000, KEEP_SIZE)
    again = loaded(saved(box, tmp_path), tmp_path, size=100_000)
    assert again.attr("file").size == 5
    with fails(errno.ENOSPC):
        again.reserve(again.file("other"), 0, 10_001)
    assert again.write(again.node("file"), 5, b"x" * 89_995) == 89_995


def test_a_file_that_is_only_open_is_not_in_it(tmp_path: Path) -> None:
    box = Box()
    box.file("removed", b"contents")
    box.file("kept", b"contents")
    box.remove("removed")
    box.write(box.tmpfile(), 0, b"contents")
    again = loaded(saved(box, tmp_path), tmp_path, size=8 + 1, files=2)
    assert again.names() == {"kept"}
    again.write(again.file("there is room"), 0, b"x")


def test_all_room_comes_back(tmp_path: Path) -> None:
    again = loaded(saved(rich(), tmp_path), tmp_path, size=1 << 24, files=100)
    again.clear()
    again.fs.removexattr(again.root, "user.root")
    found = again.fs.statvfs()
    assert (found.bfree, found.ffree) == (found.blocks, 100)
    again.reserve(again.file("all"), 0, 1 << 24)


def test_a_file_keeps_its_identity_and_no_other_file_gets_it(tmp_path: Path) -> None:
    """Not even one that gets the same number as one that was made after the snapshot."""
    box = Box()
    kept = box.fs.fileid(box.file("kept"))
    saved(box, tmp_path)
    lost = box.fs.fileid(box.file("lost"))
    again = Box(image=tmp_path / "saved.img")
    assert again.fs.fileid(again.node("kept")) == kept
    assert again.fs.fileid(again.root) == box.fs.fileid(box.root)
    new = again.fs.fileid(again.file("new"))
    assert new[0] == lost[0]
    assert new != lost


def test_numbers_are_not_used_again_after_a_restart(tmp_path: Path) -> None:
    box = Box()
    gone = box.file("gone").attr.ino
    box.remove("gone")
    again = loaded(saved(box, tmp_path), tmp_path)
    assert again.file("new").attr.ino > gone


def test_it_is_of_one_moment(tmp_path: Path) -> None:
    """A file that is moved all the time is in every image, once."""
    box = Box()
    box.mkdir("a")
    box.mkdir("b")
    for number in range(300):
        box.file(f"filler-{number}")
    box.file("a/it")
    ended = threading.Event()

    def move() -> None:
        for source, target in ((n % 2, (n + 1) % 2) for n in count()):
            if ended.is_set():
                return
            box.rename(f"{'ab'[source]}/it", f"{'ab'[target]}/it")

    mover = threading.Thread(target=move)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    mover.start()
    try:
        for _ in range(30):
            again = loaded(saved(box, tmp_path), tmp_path)
            assert sorted([*again.names("a"), *again.names("b")]) == ["it"]
    finally:
        ended.set()
        mover.join()
        sys.setswitchinterval(interval)


DEPTH = 5000


def test_depth_is_no_limit(tmp_path: Path) -> None:
    nested = (directory(n, b"d", parent=n - 1) for n in range(2, DEPTH + 1))
    again = loaded(sealed(root(), *nested, end(DEPTH), next_ino=DEPTH + 1), tmp_path)
    image = saved(again, tmp_path)
    node, depth = again.root, 1
    while names := list(again.fs.readdir(node, 0, None)):
        assert isinstance(names[0].entry, puffs.Entry)
        node = names[0].entry.node  # type: ignore[assignment]
        depth += 1
    assert depth == DEPTH
    assert len(records_of(image)) == DEPTH + 1


@pytest.mark.parametrize("step", ["save", "load"])
def test_contents_are_not_held_twice(tmp_path: Path, step: str) -> None:
    size = 64 << 20
    box = Box()
    box.write(box.file("file"), 0, os.urandom(size))
    path = tmp_path / "large.img"
    box.fs.snapshot(str(path))
    tracemalloc.start()
    try:
        if step == "save":
            box.fs.snapshot(str(path))
        else:
            del box
            box = Box(image=path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (size if step == "load" else 0) + (8 << 20)


# ------------------------------------------------------------------------------ whole or not at all


def listing(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_it_replaces_what_was_there_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    path.write_text("something else")
    box = a_tree()
    box.fs.snapshot(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tree(Box(image=path)) == tree(box)
    assert os.listdir(tmp_path) == ["x.img"]


def test_the_longest_name_will_do(tmp_path: Path) -> None:
    a_tree().fs.snapshot(str(tmp_path / ("x" * 255)))
    assert os.listdir(tmp_path) == ["x" * 255]


@pytest.mark.parametrize("kind", ["directory", "fifo", "symlink"])
def test_it_takes_the_place_of_a_file_only(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    make: dict[str, Callable[[], Any]] = {
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "symlink": lambda: path.symlink_to("nowhere"),
    }
    make[kind]()
    before = path.lstat()
    with pytest.raises(FileExistsError, match=r"it: it exists and is no regular file"):
        a_tree().fs.snapshot(str(path))
    assert path.lstat() == before
    assert os.listdir(tmp_path) == ["it"]


def test_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing/x\.img: No such file"):
        a_tree().fs.snapshot(str(tmp_path / "missing/x.img"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file/x\.img: "):
        a_tree().fs.snapshot(str(tmp_path / "file/x.img"))


def large() -> Box:
    box = Box()
    box.write(box.file("file"), 0, bytes(4 << 20))
    return box


def test_without_room_the_old_one_stays(tmp_path: Path) -> None:
    saved(a_tree(), tmp_path)
    before = listing(tmp_path)

    def body(path: str) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        with pytest.raises(OSError, match=r"saved\.img: File too large"):
            large().fs.snapshot(f"{path}/saved.img")
        assert listing(Path(path)) == before

    in_child(body, tmp_path)
    assert listing(tmp_path) == before


def test_interrupted_the_old_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(a_tree(), tmp_path)
    before = listing(tmp_path)

    def interrupt(fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        large().fs.snapshot(str(tmp_path / "saved.img"))
    monkeypatch.undo()
    assert listing(tmp_path) == before


def test_killed_the_old_one_stays_and_nothing_is_left(tmp_path: Path) -> None:
    """When all is written and has no name yet."""
    saved(a_tree(), tmp_path)
    before = listing(tmp_path)
    pid = os.fork()
    if pid == 0:
        os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
        try:
            large().fs.snapshot(str(tmp_path / "saved.img"))
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert listing(tmp_path) == before


def test_it_is_on_stable_storage_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file first, then its name, then the directory."""
    seen: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        seen.append((kind, (tmp_path / "saved.img").exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    saved(a_tree(), tmp_path)
    assert seen == [("file", False), ("directory", True)]


def test_where_files_need_a_name_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/cli has a file system that really is so."""
    monkeypatch.setattr(replacing, "_UNNAMED", os.O_DIRECTORY | os.O_WRONLY)  # EISDIR
    box = a_tree()
    assert tree(loaded(saved(box, tmp_path), tmp_path)) == tree(box)
    before = listing(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda fd: os.close(-1))
    with fails(errno.EBADF):
        box.fs.snapshot(str(tmp_path / "saved.img"))
    assert listing(tmp_path) == before


def test_in_process(tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    with puffs.local(MemFS()) as vfs:
        vfs.write_text("/hello", "Hello!\n")
        vfs.snapshot(path)
        vfs.write_text("/hello", "later")
        with pytest.raises(FileNotFoundError, match=r"missing/x\.img"):
            vfs.snapshot(tmp_path / "missing/x.img")
    with puffs.local(MemFS(image=path)) as vfs:
        assert vfs.read_text("/hello") == "Hello!\n"
    with in_memory() as other:
        with puffs.local(MemFS(image=path)) as vfs:
            vfs.snapshot(other / "y.img")
        assert (other / "y.img").read_bytes() == path.read_bytes()


def test_access_control_lists_are_kept(tmp_path: Path) -> None:
    image, names = tmp_path / "image", (puffs.ACL_ACCESS, puffs.ACL_DEFAULT)
    with puffs.local(MemFS) as vfs:
        vfs.mkdir("dir", 0o750)
        for name in names:
            vfs.setxattr("dir", name, acl(user=1000))
        vfs.mkdir("dir/below")
        vfs.snapshot(image)
        wanted = [vfs.getxattr(path, name) for path in ("dir", "dir/below") for name in names]
    with puffs.local(MemFS(image=image)) as vfs:
        found = [vfs.getxattr(path, name) for path in ("dir", "dir/below") for name in names]
        assert found == wanted
        vfs.chmod("dir/below", 0o700)
        assert puffs.Acl.parse(vfs.getxattr("dir/below", puffs.ACL_ACCESS)).mode == 0o700
