"""`mem`: making files, their life, attributes, limits. See test_mem_names and test_mem_data too."""

import errno
import gc
import os
import stat
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from itertools import count

import pytest

import puffs
from puffs.fs.mem import MemFS
from tests.fs.memory import OLD, ROOT, USER, Box, a_tree, fails, node_of

# -------------------------------------------------------------------------------- what is promised


def test_what_it_does_not_define_is_switched_off_in_the_kernel() -> None:
    operations = MemFS().operations()
    assert not operations.keys() & {"open", "close", "flush", "fsync", "opendir", "access"}
    assert {"create", "tmpfile", "rename", "copy_file_range", "fileid"} <= operations.keys()


def test_a_host_may_trust_everything_for_ever() -> None:
    fs = MemFS()
    assert fs.name == "mem"
    assert fs.name_ttl == fs.attr_ttl == fs.negative_ttl == puffs.FOREVER


def test_the_root_belongs_to_who_serves_it() -> None:
    box = Box()
    attr = box.attr("")
    assert (attr.type, attr.uid, attr.gid) == (stat.S_IFDIR, os.geteuid(), os.getegid())
    assert box.fs.fileid(box.root)[0] == attr.ino == 1


# ------------------------------------------------------------------------------------- making files


@pytest.mark.parametrize(
    ("kind", "rdev"),
    [
        (stat.S_IFREG, 0),
        (stat.S_IFIFO, 0),
        (stat.S_IFSOCK, 0),
        (stat.S_IFCHR, os.makedev(1, 3)),
        (stat.S_IFBLK, os.makedev(7, 0)),
    ],
    ids=["regular", "fifo", "socket", "character", "block"],
)
def test_mknod_makes_every_type(kind: int, rdev: int) -> None:
    box = Box()
    box.mknod("it", kind | 0o640, rdev)
    attr = box.attr("it")
    assert (attr.mode, attr.rdev, attr.nlink) == (kind | 0o640, rdev, 1)
    if kind == stat.S_IFREG:
        box.write(box.node("it"), 0, b"works")
        assert box.read(box.node("it")) == b"works"


def test_a_symbolic_link_keeps_any_bytes() -> None:
    box = Box()
    target = os.fsdecode(b"to/\xff\xc3\xa4")
    node = box.symlink("sym", target)
    assert box.fs.readlink(node) == target
    assert box.attr("sym").size == 6


def test_names_of_any_bytes_and_of_255_bytes() -> None:
    box = Box()
    names = {os.fsdecode(b"\xff\xfe"), "ä" * 127 + "x", "n" * 255, "\n"}
    for name in names:
        box.file(name)
    assert box.names() == names


def test_no_inode_number_is_used_twice() -> None:
    box = Box()
    seen = {box.fs.fileid(box.root)[0]}
    for _ in range(100):
        node = box.file("file")
        ino, _ = box.fs.fileid(node)
        assert ino == box.attr("file").ino
        seen.add(ino)
        box.remove("file")
        box.fs.reclaim(node)
    assert len(seen) == 101


def test_another_file_system_has_other_generations() -> None:
    """So a file handle of one does not open a file of the next."""
    one, other = Box(), Box()
    ino, generation = one.fs.fileid(one.file("file"))
    assert other.fs.fileid(other.file("file"))[0] == ino
    assert other.fs.fileid(other.node("file"))[1] != generation


@pytest.mark.parametrize("make", [Box.file, Box.mkdir], ids=["file", "directory"])
def test_a_set_group_id_directory_hands_its_group_down(make: Callable[..., object]) -> None:
    box = Box()
    attr = box.fs.getattr(box.mkdir("shared", 0o2775))
    attr.gid = 4711
    make(box, "shared/it", cred=USER)
    made = box.attr("shared/it")
    assert (made.uid, made.gid) == (USER.uid, 4711)
    assert bool(made.mode & stat.S_ISGID) == stat.S_ISDIR(made.mode)


# ----------------------------------------------------------------------------- links and lifetimes


def test_hard_links_are_one_file() -> None:
    box = a_tree()
    assert box.node("link") is box.node("file")
    assert box.attr("file").nlink == 2
    box.mkdir("full/sub")
    box.link("link", "full/sub/third")
    assert box.attr("file").nlink == 3
    box.remove("file")
    box.remove("link")
    assert box.attr("full/sub/third").nlink == 1
    assert box.read(box.node("full/sub/third")) == b"contents"


def test_a_removed_file_lives_until_nobody_knows_it() -> None:
    box = Box(size="64K")
    node = box.file("file", b"contents")
    box.remove("file")
    assert box.fs.getattr(node).nlink == 0
    assert box.write(node, 8, b", more") == 6
    assert box.read(node) == b"contents, more"
    with fails(errno.ENOSPC):
        box.reserve(box.file("other"), 0, 1 << 16)
    box.fs.reclaim(node)
    box.reserve(box.node("other"), 0, 1 << 16)
    box.fs.reclaim(node)  # what is gone cannot be freed again
    assert box.fs.statvfs().bfree == 0


def test_a_file_with_a_name_survives_being_forgotten() -> None:
    box = Box()
    node = box.file("file", b"contents")
    box.fs.reclaim(node)
    assert box.read(box.node("file")) == b"contents"


def test_a_removed_directory_has_no_links() -> None:
    box = a_tree()
    node = box.node("dir")
    box.rmdir("dir")
    assert box.fs.getattr(node).nlink == 0
    assert box.attr("").nlink == 3


def test_a_temporary_file_may_be_given_a_name() -> None:
    box = Box(files=2)
    node = box.tmpfile()
    assert box.fs.getattr(node).nlink == 0
    assert box.names() == set()
    box.write(node, 0, b"made in secret")
    box.fs.link(node, box.root, "public", ROOT)
    box.fs.reclaim(node)
    assert box.attr("public").nlink == 1
    assert box.read(box.node("public")) == b"made in secret"

    box.fs.reclaim(box.tmpfile())  # never named: gone, and there is room for another one
    box.tmpfile()


# ---------------------------------------------------------------------------------------- listings


def test_a_listing_tells_types_numbers_and_attributes() -> None:
    box = a_tree()
    for entry in box.fs.readdir(box.root, 0, None):
        attr = box.attr(entry.name)
        assert (stat.S_IFMT(entry.type), entry.ino, entry.next) == (attr.type, attr.ino, 0)
        assert isinstance(entry.entry, puffs.Entry)
        assert node_of(entry.entry) is box.node(entry.name)


def test_a_listing_goes_on_while_the_directory_changes() -> None:
    box = Box()
    for number in range(10):
        box.file(f"old{number}")
    listing = iter(box.fs.readdir(box.root, 0, None))
    seen = [next(listing).name for _ in range(3)]
    for number in range(10):
        box.file(f"new{number}")
    rest = sorted({f"old{number}" for number in range(10)} - set(seen))
    box.remove(rest[0])
    box.rename(rest[1], "renamed")
    seen += [entry.name for entry in listing]
    assert len(seen) == len(set(seen))
    assert set(rest[2:]) <= set(seen)
    assert not {rest[0], rest[1]} & set(seen)  # what is gone is not handed out


# --------------------------------------------------------------------------- attributes and xattrs


def test_attributes_are_changed_in_place() -> None:
    box = a_tree()
    node = box.node("file")
    attr = box.fs.getattr(node)
    assert box.set(node, mode=0o4711, uid=12, mtime_ns=OLD) is attr is box.attr("link")
    assert (attr.mode, attr.uid, attr.mtime_ns) == (stat.S_IFREG | 0o4711, 12, OLD)
    assert attr.size == 8


@pytest.mark.parametrize(
    "name",
    ["user.x", "trusted.x", "security.x"],
)
def test_extended_attributes(name: str) -> None:
    box = a_tree()
    node = box.node("file")
    with fails(errno.ENODATA):
        box.fs.getxattr(node, name)
    with fails(errno.ENODATA):
        box.fs.setxattr(node, name, b"", os.XATTR_REPLACE)
    box.fs.setxattr(node, name, b"one", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        box.fs.setxattr(node, name, b"two", os.XATTR_CREATE)
    assert bytes(box.fs.getxattr(node, name)) == b"one"
    box.fs.setxattr(node, name, b"\0\xff", os.XATTR_REPLACE)
    box.fs.setxattr(node, "user.other", b"", 0)
    assert bytes(box.fs.getxattr(box.node("link"), name)) == b"\0\xff"
    assert set(box.fs.listxattr(node)) == {name, "user.other"}
    box.fs.removexattr(node, name)
    with fails(errno.ENODATA):
        box.fs.removexattr(node, name)
    assert set(box.fs.listxattr(node)) == {"user.other"}
    assert list(box.fs.listxattr(box.root)) == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("x", errno.EOPNOTSUPP),
        ("user.", errno.EINVAL),
        ("system.x", errno.EOPNOTSUPP),
        ("os2.x", errno.EOPNOTSUPP),
    ],
)
def test_extended_attributes_that_no_file_has(name: str, code: int) -> None:
    box = Box()
    for call in (
        lambda: box.fs.getxattr(box.root, name),
        lambda: box.fs.setxattr(box.root, name, b"", 0),
        lambda: box.fs.removexattr(box.root, name),
    ):
        with fails(code):
            call()


@pytest.mark.parametrize(
    "change",
    [
        lambda b, n: b.write(n, 0, b"x"),
        lambda b, n: b.set(n, size=1),
        lambda b, n: b.set(n, uid=5),
        lambda b, n: b.reserve(n, 0, 1),
    ],
    ids=["write", "truncate", "chown", "fallocate"],
)
def test_capabilities_of_a_file_go_when_it_is_changed(change: Callable[..., object]) -> None:
    box = Box()
    node = box.file("program", b"contents")
    box.fs.setxattr(node, "security.capability", b"powers", 0)
    box.fs.setxattr(node, "user.x", b"", 0)
    box.set(node, mode=0o755)
    assert "security.capability" in box.fs.listxattr(node)
    change(box, node)
    assert list(box.fs.listxattr(node)) == ["user.x"]


# ------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("text", "number"),
    [(8192, 8192), ("8192", 8192), ("8K", 8 << 10), ("64M", 64 << 20), ("2g", 2 << 30)],
)
def test_limits_are_numbers_with_units(text: int | str, number: int) -> None:
    report = MemFS(size=text, files=text).statvfs()
    assert (report.blocks * report.frsize, report.files) == (number, number)
    assert (report.bfree, report.ffree) == (report.blocks, number)


@pytest.mark.parametrize("text", ["", "K", "-1", -1, "1.5M", "64MB", "64 KM", "0x10", "ten", "²"])
@pytest.mark.parametrize("name", ["size", "files"])
def test_limits_that_are_no_numbers_are_refused(name: str, text: int | str) -> None:
    with pytest.raises(ValueError, match=rf"mem: {name}={text} is no number: give one such as"):
        MemFS(size=text) if name == "size" else MemFS(files=text)


def test_without_limits_the_machine_is_the_limit() -> None:
    report = MemFS().statvfs()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert report.blocks * report.frsize == memory
    assert (report.files, report.namemax) == (0, 255)
    box = Box()
    with fails(errno.ENOSPC):
        box.reserve(box.file("file"), 0, memory + 1)


def test_the_number_of_files_is_limited() -> None:
    box = Box(files=4)
    made = [box.file("a"), box.mkdir("b"), box.symlink("c", "a")]
    assert box.fs.statvfs().ffree == 1
    box.link("a", "b/a")  # a name, no file
    made.append(box.mknod("d", stat.S_IFIFO))
    for attempt in (
        lambda: box.file("e"),
        lambda: box.tmpfile(),
        lambda: box.rename("a", "e", puffs.RENAME_WHITEOUT),
    ):
        with fails(errno.ENOSPC):
            attempt()
    assert box.names() == {"a", "b", "c", "d"}
    box.remove("d")
    with fails(errno.ENOSPC):  # somebody may still have it open
        box.file("e")
    box.fs.reclaim(made[-1])
    box.file("e")
    box.clear()
    assert box.fs.statvfs().ffree == 4


def test_extended_attributes_count() -> None:
    box = Box(size=100)
    node = box.file("file", b"x" * 50)
    box.fs.setxattr(node, "user.a", b"x" * 40, 0)
    with fails(errno.ENOSPC):
        box.fs.setxattr(node, "user.b", b"", 0)
    with fails(errno.ENOSPC):
        box.fs.setxattr(node, "user.a", b"x" * 45, 0)
    box.fs.setxattr(node, "user.a", b"x" * 10, 0)
    box.fs.setxattr(node, "user.b", b"x" * 10, 0)
    box.fs.removexattr(node, "user.a")
    box.clear()
    assert box.write(box.file("all"), 0, b"x" * 101) == 100


def test_room_comes_back_when_everything_is_removed() -> None:
    """Down to the last byte, whatever was done before."""
    size = 300_000
    box = Box(size=size)
    box.mkdir("d")
    for number in range(10):
        node = box.file(f"d/{number}", b"x" * (1000 * number))
        box.fs.setxattr(node, "user.x", b"value", 0)
        box.fs.setxattr(node, "security.capability", b"value", 0)
        box.set(node, size=500 * number)
    box.reserve(box.node("d/0"), 100_000, 5000)
    box.fs.fallocate(box.node("d/9"), 3, 10, 4000, None)
    box.link("d/1", "one")
    replaced = box.node("d/3")
    box.rename("d/2", "d/3")
    box.rename("d/4", "d/5", puffs.RENAME_EXCHANGE)
    box.rename("d/6", "six", puffs.RENAME_WHITEOUT)
    box.fs.reclaim(box.tmpfile())
    box.copy(box.node("d/9"), 0, box.node("d/1"), 100, 4000)
    with fails(errno.ENOSPC):
        box.reserve(box.file("all"), 0, size)
    box.clear()
    box.fs.reclaim(replaced)
    report = box.fs.statvfs()
    assert report.bfree == report.blocks
    box.reserve(box.file("all"), 0, size)
    with fails(errno.ENOSPC):
        box.write(box.node("all"), size, b"x")


# -------------------------------------------------------------------------------- scale and threads


def test_a_directory_of_many_files_is_as_fast_as_a_small_one() -> None:
    def per_file(files: int) -> float:
        box = Box()
        names = [f"file-{number:06}" for number in range(files)]
        started = time.process_time()
        nodes = [box.file(name) for name in names]
        assert all(box.node(name) is node for name, node in zip(names, nodes, strict=True))
        assert sum(1 for _ in box.fs.readdir(box.root, 0, None)) == files
        for name, node in zip(names, nodes, strict=True):
            box.remove(name)
            box.fs.reclaim(node)
        return (time.process_time() - started) / files

    gc.disable()  # the collector's own price grows with what is alive
    try:
        small = min(per_file(2_000) for _ in range(5))
        assert per_file(200_000) < 4 * small
    finally:
        gc.enable()


def test_a_file_without_contents_takes_half_a_kilobyte() -> None:
    box = Box()
    files = 10_000
    tracemalloc.start()
    try:
        for number in range(files):
            box.file(f"file-{number}")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / files < 512


def together(work: Callable[[int], None]) -> None:
    """Run `work` in four threads that are switched as often as can be."""
    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def test_every_name_is_given_once() -> None:
    box = Box()
    names = [f"file-{number}" for number in range(500)]
    made: list[str] = []

    def work(me: int) -> None:
        for name in names:
            try:
                box.file(name)
            except FileExistsError:
                continue
            made.append(name)

    together(work)
    assert sorted(made) == sorted(names)


def test_limits_hold_with_many_threads() -> None:
    for _ in range(60):
        box = Box(size=10_000, files=500)
        node = box.file("file")
        stored: list[int] = []

        def fill(me: int, box: Box = box, stored: list[int] = stored) -> None:
            with fails(errno.ENOSPC):
                for number in count():
                    stored.append(box.write(box.file(f"{me}-{number}"), 0, b"x" * 70))

        together(fill)
        assert sum(stored) == 10_000
        box.clear()
        box.reserve(node, 0, 10_000)
