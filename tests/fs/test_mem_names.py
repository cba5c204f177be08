"""`mem`: what every operation on names answers, how rename works, which times move."""

import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import puffs
from tests.fs.memory import OLD, ROOT, Box, a_tree, fails, new_attr, quietly

LONG = "n" * 256
LONG_TEXT = "ä" * 128  # 128 characters, 256 bytes


# ------------------------------------------------------------------------------------------- errors

ERRORS: list[tuple[str, int, Callable[[Box], object]]] = [
    ("lookup: missing", errno.ENOENT, lambda b: b.node("none")),
    ("lookup: below a file", errno.ENOTDIR, lambda b: b.node("file/x")),
    ("lookup: long name", errno.ENAMETOOLONG, lambda b: b.node(LONG)),
    ("lookup: long in bytes", errno.ENAMETOOLONG, lambda b: b.node(LONG_TEXT)),
    ("create: exists", errno.EEXIST, lambda b: b.file("file")),
    ("create: below a file", errno.ENOTDIR, lambda b: b.file("file/x")),
    ("create: long name", errno.ENAMETOOLONG, lambda b: b.file(LONG)),
    ("mkdir: exists", errno.EEXIST, lambda b: b.mkdir("file")),
    ("mknod: exists", errno.EEXIST, lambda b: b.mknod("dir", stat.S_IFIFO)),
    ("symlink: exists", errno.EEXIST, lambda b: b.symlink("sym", "x")),
    ("link: exists", errno.EEXIST, lambda b: b.link("file", "fifo")),
    ("link: of a directory", errno.EPERM, lambda b: b.link("dir", "new")),
    ("link: long name", errno.ENAMETOOLONG, lambda b: b.link("file", LONG)),
    ("remove: missing", errno.ENOENT, lambda b: b.remove("none")),
    ("remove: a directory", errno.EISDIR, lambda b: b.remove("dir")),
    ("rmdir: missing", errno.ENOENT, lambda b: b.rmdir("none")),
    ("rmdir: a file", errno.ENOTDIR, lambda b: b.rmdir("file")),
    ("rmdir: not empty", errno.ENOTEMPTY, lambda b: b.rmdir("full")),
    ("rename: long name", errno.ENAMETOOLONG, lambda b: b.rename("file", LONG)),
    ("rename: into itself", errno.EINVAL, lambda b: b.rename("full", "full/x")),
    ("rename: over its parent", errno.ENOTEMPTY, lambda b: b.rename("full/deep", "full")),
    ("rename: unknown flag", errno.EINVAL, lambda b: b.rename("file", "x", 8)),
    ("rename: flags at odds", errno.EINVAL, lambda b: b.rename("file", "dir", 3)),
    ("rename: whiteout and exchange", errno.EINVAL, lambda b: b.rename("file", "dir", 6)),
    ("rename: exchange with its parent", errno.EINVAL, lambda b: b.rename("full", "full/deep", 2)),
    ("rename: exchange with its child", errno.EINVAL, lambda b: b.rename("full/deep", "full", 2)),
    ("readdir: of a file", errno.ENOTDIR, lambda b: b.names("file")),
    ("readlink: of a file", errno.EINVAL, lambda b: b.fs.readlink(b.node("file"))),
    ("read: a directory", errno.EISDIR, lambda b: b.read(b.node("dir"))),
    ("read: a fifo", errno.EINVAL, lambda b: b.read(b.node("fifo"))),
    ("write: a directory", errno.EISDIR, lambda b: b.write(b.node("dir"), 0, b"x")),
    ("truncate: a directory", errno.EISDIR, lambda b: b.set(b.node("dir"), size=0)),
    ("truncate: a symbolic link", errno.EINVAL, lambda b: b.set(b.node("sym"), size=0)),
]


@pytest.mark.parametrize(
    ("code", "call"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
def test_errors(code: int, call: Callable[[Box], object]) -> None:
    box = a_tree()
    with fails(code):
        call(box)


def test_nothing_is_made_in_a_directory_that_was_removed() -> None:
    box = a_tree()
    gone = box.node("dir")
    box.rmdir("dir")
    file = box.node("file")
    attempts: list[Callable[[], object]] = [
        lambda: box.fs.create(gone, "x", new_attr(stat.S_IFREG), 0, ROOT),
        lambda: box.fs.mkdir(gone, "x", new_attr(stat.S_IFDIR), ROOT),
        lambda: box.fs.link(file, gone, "x", ROOT),
        lambda: box.fs.rename(box.root, "file", gone, "x", 0, ROOT),
    ]
    for attempt in attempts:
        with fails(errno.ENOENT):
            attempt()
    assert list(box.fs.readdir(gone, 0, None)) == []


def test_a_failed_operation_changes_nothing() -> None:
    box = a_tree()
    before = {name: box.attr(name).copy() for name in ["", *box.names()]}
    for _, _, call in ERRORS:
        with pytest.raises(OSError):  # which one: test_errors
            call(box)
    assert {name: box.attr(name) for name in ["", *box.names()]} == before


# ------------------------------------------------------------------------------------------- rename

KINDS = ["none", "file", "link", "dir", "full", "sym"]


def renameat2(source: Path, target: Path, flags: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    at_fdcwd = -100
    if libc.renameat2(at_fdcwd, bytes(source), at_fdcwd, bytes(target), flags) == 0:
        return 0
    return ctypes.get_errno()


@pytest.mark.parametrize("flags", [0, puffs.RENAME_NOREPLACE, puffs.RENAME_EXCHANGE])
@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_rename_answers_as_the_kernel_does(
    source: str, target: str, flags: int, tmp_path: Path
) -> None:
    """Every pair of kinds, and a file with itself, beside a real directory."""
    real = tmp_path
    (real / "file").write_bytes(b"contents")
    os.link(real / "file", real / "link")
    (real / "dir").mkdir()
    (real / "full").mkdir()
    (real / "full" / "inner").touch()
    (real / "sym").symlink_to("file")
    expected = renameat2(real / source, real / target, flags)
    if flags and expected == errno.EINVAL:
        pytest.skip(f"the file system of {tmp_path} has no renameat2(2)")

    box = a_tree()
    box.rmdir("full/deep")
    box.remove("fifo")
    if expected:
        with fails(expected):
            box.rename(source, target, flags)
    else:
        box.rename(source, target, flags)

    def of_real(name: str) -> tuple[int, object]:
        path = real / name
        if path.is_dir() and not path.is_symlink():
            return stat.S_IFDIR, {child.name for child in path.iterdir()}
        return stat.S_IFMT(path.lstat().st_mode), path.lstat().st_nlink

    def of_mem(name: str) -> tuple[int, object]:
        attr = box.attr(name)
        if attr.type == stat.S_IFDIR:
            return attr.type, box.names(name)
        return attr.type, attr.nlink

    assert {n: of_mem(n) for n in box.names()} == {p.name: of_real(p.name) for p in real.iterdir()}


@pytest.mark.parametrize(
    ("source", "target", "flags", "links"),
    [
        ("d/sub", "e/sub", 0, {"": 4, "d": 2, "e": 4}),
        ("d/sub", "d/new", 0, {"": 4, "d": 3, "e": 3}),
        ("d/sub", "e/empty", 0, {"": 4, "d": 2, "e": 3}),
        ("d/sub", "e/empty", puffs.RENAME_EXCHANGE, {"": 4, "d": 3, "e": 3}),
        ("d/sub", "e/file", puffs.RENAME_EXCHANGE, {"": 4, "d": 2, "e": 4}),
        ("e/file", "d/sub", puffs.RENAME_EXCHANGE, {"": 4, "d": 2, "e": 4}),
        ("e/file", "d/file", 0, {"": 4, "d": 3, "e": 3}),
        ("d/sub", "sub", puffs.RENAME_WHITEOUT, {"": 5, "d": 2, "e": 3}),
    ],
)
def test_a_directory_counts_its_subdirectories(
    source: str, target: str, flags: int, links: dict[str, int]
) -> None:
    box = Box()
    for path in ("d", "e", "d/sub", "e/empty"):
        box.mkdir(path)
    box.file("e/file")
    box.rename(source, target, flags)
    assert {path: box.attr(path).nlink for path in links} == links
    if flags != puffs.RENAME_EXCHANGE and box.attr(target).type == stat.S_IFDIR:
        # It knows its new place: nothing may be moved into itself.
        with fails(errno.EINVAL):
            box.rename(target, f"{target}/x")


def test_a_moved_directory_may_take_in_what_it_was_in_before() -> None:
    box = Box()
    box.mkdir("a")
    box.mkdir("a/b")
    box.rename("a/b", "b")
    box.rename("a", "b/a")
    assert box.names() == {"b"}
    assert box.attr("").nlink == 3
    with fails(errno.EINVAL):
        box.rename("b", "b/a/b")


def test_what_a_rename_replaces_loses_a_link() -> None:
    box = a_tree()
    replaced = box.node("file")
    box.rename("fifo", "link")
    assert box.fs.getattr(replaced).nlink == 1
    assert box.attr("link").type == stat.S_IFIFO


def test_a_whiteout_stays_behind() -> None:
    box = a_tree()
    ino = box.attr("file").ino
    box.rename("file", "moved", puffs.RENAME_WHITEOUT)
    left = box.attr("file")
    assert (left.mode, left.rdev, left.nlink) == (stat.S_IFCHR, 0, 1)
    assert box.attr("moved").ino == ino != left.ino


# -------------------------------------------------------------------------------------------- times

# What is called, and what moves then: atime, mtime and ctime of the root, of "file", of "fifo".
TIMES: list[tuple[str, Callable[[Box], object], str, str, str]] = [
    ("create", lambda b: b.file("new"), "mc", "", ""),
    ("mkdir", lambda b: b.mkdir("new"), "mc", "", ""),
    ("mknod", lambda b: b.mknod("new", stat.S_IFIFO), "mc", "", ""),
    ("symlink", lambda b: b.symlink("new", "x"), "mc", "", ""),
    ("tmpfile", lambda b: b.tmpfile(), "", "", ""),
    ("link", lambda b: b.link("file", "new"), "mc", "c", ""),
    ("remove", lambda b: b.remove("link"), "mc", "c", ""),
    ("rmdir", lambda b: b.rmdir("dir"), "mc", "", ""),
    ("rename", lambda b: b.rename("file", "new"), "mc", "c", ""),
    ("replace", lambda b: b.rename("fifo", "file"), "mc", "c", "c"),
    ("exchange", lambda b: b.rename("fifo", "file", 2), "mc", "c", "c"),
    ("rename onto itself", lambda b: b.rename("file", "link"), "", "", ""),
    ("chmod", lambda b: b.set(b.node("file"), mode=0o600), "", "c", ""),
    ("chown", lambda b: b.set(b.node("file"), uid=1), "", "c", ""),
    ("utimens", lambda b: b.set(b.node("file"), mtime_ns=OLD), "", "c", ""),
    ("truncate", lambda b: b.set(b.node("file"), size=3), "", "mc", ""),
    ("write", lambda b: b.write(b.node("file"), 0, b"x"), "", "mc", ""),
    ("write of nothing", lambda b: b.write(b.node("file"), 0, b""), "", "", ""),
    ("fallocate", lambda b: b.reserve(b.node("file"), 0, 1), "", "mc", ""),
    ("setxattr", lambda b: b.fs.setxattr(b.node("file"), "user.new", b"", 0), "", "c", ""),
    ("removexattr", lambda b: b.fs.removexattr(b.node("file"), "user.x"), "", "c", ""),
    ("read", lambda b: b.read(b.node("file")), "", "a", ""),
    ("lookup", lambda b: b.node("file"), "", "", ""),
    ("readdir", lambda b: b.names(), "a", "", ""),
    ("getxattr", lambda b: b.fs.getxattr(b.node("file"), "user.x"), "", "", ""),
]


@pytest.mark.parametrize(
    ("call", "directory", "file", "fifo"), [row[1:] for row in TIMES], ids=[row[0] for row in TIMES]
)
def test_times_move_when_posix_says(
    call: Callable[[Box], object], directory: str, file: str, fifo: str
) -> None:
    box = a_tree()
    box.fs.setxattr(box.node("file"), "user.x", b"1", 0)
    nodes = [box.root, box.node("file"), box.node("fifo")]
    for node in nodes:
        attr = box.fs.getattr(node)
        attr.atime_ns = attr.mtime_ns = attr.ctime_ns = OLD
    before = time.time_ns()
    call(box)
    after = time.time_ns()

    for node, moves in zip(nodes, (directory, file, fifo), strict=True):
        attr = box.fs.getattr(node)
        moved = {"a": attr.atime_ns, "m": attr.mtime_ns, "c": attr.ctime_ns}
        assert {name for name, ns in moved.items() if ns != OLD} == set(moves)
        assert all(before <= moved[name] <= after for name in moves)


def test_a_read_moves_the_time_of_access_once_for_each_change() -> None:
    box = a_tree()
    box.symlink("symlink", "target")
    for name, change in (
        ("file", lambda node: box.write(node, 0, b"x")),
        ("file", lambda node: box.set(node, mode=0o600)),
        ("symlink", lambda node: box.set(node, uid=5)),
    ):
        node = box.node(name)
        read = box.fs.readlink if name == "symlink" else box.read
        with quietly():
            read(node)
        seen = []
        for _ in range(2):
            box.fs.setattr(node, puffs.Changes(atime_ns=OLD), None, ROOT)
            read(node)
            read(node)
            seen.append(node.attr.atime_ns)
            read(node)
            assert node.attr.atime_ns == seen[-1]
            change(node)
        assert OLD < seen[0] < seen[1]


def test_both_directories_of_a_rename_move_their_times() -> None:
    box = Box()
    nodes = [box.mkdir("a"), box.mkdir("b")]
    box.file("a/file")
    for node in nodes:
        box.set(node, mtime_ns=OLD, ctime_ns=OLD)
    box.rename("a/file", "b/file")
    assert all(min(node.attr.mtime_ns, node.attr.ctime_ns) > OLD for node in nodes)
