"""The vnode operations as plain calls: what is checked before, policed after, and counted."""

import logging
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from errno import (
    E2BIG,
    EACCES,
    EEXIST,
    EFBIG,
    EINVAL,
    EIO,
    ENAMETOOLONG,
    ENOENT,
    ENOSYS,
    ENXIO,
    EOPNOTSUPP,
    EPROTO,
    EROFS,
)
from typing import Any

import pytest

import puffs
from puffs.kernel.mount import Mount
from puffs.kernel.vnode import Vnode
from puffs.kernel.vnops import Vnops
from tests.kernel.little import CRED, ROOT, Little, a_file, fails, mounted, vnops_of

# -------------------------------------------------------------------------------------- lookup


@pytest.mark.statement("N1")
def test_dot_is_answered_without_a_message() -> None:
    server = Little()
    vnops = vnops_of(server)
    found = vnops.lookup(vnops.mount.root(), ".")
    assert found.vnode is vnops.mount.root()
    assert server.asked("lookup") == []


@pytest.mark.statement("N2")
def test_a_name_that_is_not_there() -> None:
    server = Little()
    vnops = vnops_of(server)
    with fails(ENOENT) as caught:
        vnops.lookup(vnops.mount.root(), "none")
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value.__cause__, OSError), "with what the file server raised"
    assert len(vnops.mount.vnodes) == 1


@pytest.mark.statement("N3")
def test_a_file_is_not_its_own_parent() -> None:
    server = Little()
    vnops = vnops_of(server)
    server.says["lookup"] = ROOT
    with fails(EPROTO):
        vnops.lookup(vnops.mount.root(), "x")
    assert server.asked("error")[0][1] == "LOOKUP"


@pytest.mark.statement("N3")
def test_a_known_cookie_is_the_same_vnode() -> None:
    server = Little()
    vnops = vnops_of(server)
    root = vnops.mount.root()
    vnops.forget(vnops.mkdir(root, "d", 0o755).vnode)
    server.nodes[ROOT].names["other"] = server.nodes[ROOT].names["d"]
    first, second = vnops.lookup(root, "d"), vnops.lookup(root, "other")
    assert first.vnode is second.vnode
    vnops.forget(first.vnode)
    assert server.asked("reclaim")[1:] == [], "it is still known by the other name"
    vnops.forget(second.vnode)
    assert len(server.asked("reclaim")) == 2


def test_attributes_that_come_with_an_entry_save_a_question() -> None:
    server = Little()
    vnops = vnops_of(server)
    attr = puffs.Attr(stat.S_IFREG | 0o600, 7)
    server.says["lookup"] = puffs.Entry(70, attr)
    found = vnops.lookup(vnops.mount.root(), "x")
    assert found.attr.size == 7
    assert server.asked("getattr") == []
    assert found.attr.ino == found.vnode.ino != 0, "a number is filled in"
    attr.size = 9
    assert found.attr.size == 7, "the reply is a copy"
    assert attr.ino == 0, "and what the file server keeps is left alone"


@pytest.mark.parametrize("broken", [OSError(EIO, "broken"), ValueError("oops"), None])
def test_a_node_whose_attributes_cannot_be_had_is_given_back(broken: object) -> None:
    server = Little()
    vnops = vnops_of(server)
    server.says.update(lookup=70, getattr=broken)
    with fails(EPROTO if broken is None else EIO):
        vnops.lookup(vnops.mount.root(), "x")
    assert server.asked("reclaim") == [("reclaim", 70)]
    assert len(vnops.mount.vnodes) == 1


IMPOSSIBLE_NAMES = [("", EINVAL), ("..", EINVAL), ("a/b", EINVAL), ("a\0", EINVAL)]
IMPOSSIBLE_NAMES += [("x" * 256, ENAMETOOLONG), ("ü" * 128, ENAMETOOLONG)]


@pytest.mark.parametrize(("name", "code"), IMPOSSIBLE_NAMES)
def test_impossible_names_never_reach_the_file_server(name: str, code: int) -> None:
    server = Little()
    vnops = vnops_of(server)
    root = vnops.mount.root()
    calls: list[Callable[[], object]] = [
        lambda: vnops.lookup(root, name),
        lambda: vnops.create(root, name, 0o644, 0),
        lambda: vnops.mkdir(root, name, 0o755),
        lambda: vnops.mknod(root, name, stat.S_IFIFO),
        lambda: vnops.symlink(root, name, "x"),
        lambda: vnops.link(root, root, name),
        lambda: vnops.remove(root, name),
        lambda: vnops.rmdir(root, name),
        lambda: vnops.rename(root, name, root, "x"),
        lambda: vnops.rename(root, "x", root, name),
    ]
    for call in calls:
        with fails(code):
            call()
    assert server.log == []


# -------------------------------------------------------------------------------------- making


def making(vnops: Vnops, name: str) -> Vnode:
    """Make something called `name` by the operation of that name."""
    root = vnops.mount.root()
    match name:
        case "create":
            found, file = vnops.create(root, name, 0o644, os.O_RDWR)
            vnops.close(file)
            return found.vnode
        case "mknod":
            return vnops.mknod(root, name, stat.S_IFIFO | 0o600).vnode
        case "mkdir":
            return vnops.mkdir(root, name, 0o755).vnode
        case _:
            return vnops.symlink(root, name, "target").vnode


MAKING = ("create", "mknod", "mkdir", "symlink")


@pytest.mark.statement("N4")
@pytest.mark.parametrize("operation", MAKING)
@pytest.mark.parametrize("cookie", [None, ROOT, 70], ids=["none", "the root's", "in use"])
def test_a_new_node_needs_a_cookie_of_its_own(operation: str, cookie: object) -> None:
    server = Little()
    vnops = vnops_of(server)
    vnops.mount.vnodes.adopt(70)
    server.says[operation] = lambda *args: cookie
    with fails(EPROTO):
        making(vnops, operation)
    ((_, kind, hint, _, _),) = server.asked("error")
    assert kind == "MAKENODE"
    assert hint == (EEXIST if cookie == 70 else EINVAL)
    assert len(vnops.mount.vnodes) == 2, "nothing was counted"


@pytest.mark.parametrize("operation", MAKING)
def test_new_attributes_are_complete(operation: str) -> None:
    server = Little()
    mount = Mount(server, clock=lambda: 123_456_789_012)
    mount.start()
    vnops = Vnops(mount, CRED)
    vnode = making(vnops, operation)
    attr = server.nodes[vnode.cookie].attr  # type: ignore[index]
    assert (attr.uid, attr.gid) == (1000, 1000)
    assert attr.atime_ns == attr.mtime_ns == attr.ctime_ns == 123_456_789_012
    expected = {
        "create": stat.S_IFREG | 0o644,
        "mknod": stat.S_IFIFO | 0o600,
        "mkdir": stat.S_IFDIR | 0o755,
        "symlink": stat.S_IFLNK | 0o777,
    }
    assert attr.mode == expected[operation]


@pytest.mark.statement("N4")
def test_symlink_text() -> None:
    server = Little()
    vnops = vnops_of(server)
    root = vnops.mount.root()
    with fails(ENAMETOOLONG):
        vnops.symlink(root, "l", "x" * 4096)
    with fails(ENOENT):
        vnops.symlink(root, "l", "")
    assert server.log == []
    found = vnops.symlink(root, "l", "x" * 4095)
    assert found.attr.size == 4095
    assert vnops.readlink(found.vnode) == "x" * 4095


def test_create_opens() -> None:
    server = Little()
    vnops = vnops_of(server)
    vnode, file = a_file(vnops)
    assert file.file == "file of f"
    assert server.asked("open") == []
    vnops.forget(vnode)
    assert server.asked("reclaim") == [], "it is open"
    vnops.close(file)
    assert [call[0] for call in server.log[-3:]] == ["close", "inactive", "reclaim"]


def test_create_that_returns_a_node_alone_is_followed_by_open() -> None:
    server = Little()
    vnops = vnops_of(server)
    server.says["create"] = lambda dir, name, attr, flags, cred: server._add(dir, name, attr)
    _, file = vnops.create(vnops.mount.root(), "f", 0o644, os.O_WRONLY)
    assert file.file == "open 2"
    assert server.asked("open") == [("open", 2, os.O_WRONLY, CRED)]


@pytest.mark.statement("2.6")
def test_without_create_a_file_is_made_and_opened() -> None:
    server = Little("create")
    vnops = vnops_of(server)
    _, file = a_file(vnops, data=b"text")
    assert file.file == "open 2"
    assert bytes(server.nodes[2].data) == b"text"
    server.says["open"] = OSError(EACCES, "no")
    with fails(EACCES):
        vnops.create(vnops.mount.root(), "g", 0o644, os.O_RDWR)
    assert server.asked("reclaim") == [("reclaim", 3)]


@pytest.mark.parametrize("operation", ["open", "getattr"])
def test_a_create_that_fails_halfway_gives_back_what_it_has(operation: str) -> None:
    server = Little()
    vnops = vnops_of(server)
    if operation == "open":
        server.says["create"] = lambda dir, name, attr, flags, cred: server._add(dir, name, attr)
    server.says[operation] = OSError(EIO, "broken")
    with fails(EIO):
        a_file(vnops)
    ends = [call[0] for call in server.log if call[0] in ("close", "inactive", "reclaim")]
    assert ends == (["reclaim"] if operation == "open" else ["close", "inactive", "reclaim"])


def test_names_are_moved_and_removed() -> None:
    server = Little()
    vnops = vnops_of(server)
    root = vnops.mount.root()
    vnode, _ = a_file(vnops)
    directory = vnops.mkdir(root, "d", 0o755).vnode
    vnops.link(vnode, directory, "second")
    vnops.rename(root, "f", directory, "third")
    vnops.remove(directory, "second")
    assert server.nodes[ROOT].names == {"d": 3}
    assert server.nodes[3].names == {"third": 2}
    with fails(39):
        vnops.rmdir(root, "d")
    vnops.remove(directory, "third")
    vnops.rmdir(root, "d")
    assert server.nodes[ROOT].names == {}


# ----------------------------------------------------------------------------- missing operations


@pytest.mark.statement("2.6")
@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("create", lambda v, n: v.create(n, "x", 0o644, 0)),
        ("mknod", lambda v, n: v.mknod(n, "x", stat.S_IFIFO)),
        ("mkdir", lambda v, n: v.mkdir(n, "x", 0o755)),
        ("symlink", lambda v, n: v.symlink(n, "x", "y")),
        ("link", lambda v, n: v.link(n, n, "x")),
        ("remove", lambda v, n: v.remove(n, "x")),
        ("rmdir", lambda v, n: v.rmdir(n, "x")),
        ("rename", lambda v, n: v.rename(n, "x", n, "y")),
        ("setattr", lambda v, n: v.setattr(n, puffs.Changes(mode=0))),
        ("readlink", lambda v, n: v.readlink(n)),
        ("readdir", lambda v, n: v.opendir(n, 1)),
        ("read", lambda v, n: v.read(v.open(n, os.O_RDONLY), 0, 5)),
        ("write", lambda v, n: v.write(v.open(n, os.O_RDWR), 0, b"x")),
        ("fallocate", lambda v, n: v.fallocate(v.open(n, 0), 0, 0, 1)),
        ("copy_file_range", lambda v, n: v.copy_file_range(v.open(n, 0), 0, v.open(n, 0), 0, 1)),
        ("getxattr", lambda v, n: v.getxattr(n, "user.x")),
        ("setxattr", lambda v, n: v.setxattr(n, "user.x", b"")),
        ("listxattr", lambda v, n: v.listxattr(n)),
        ("removexattr", lambda v, n: v.removexattr(n, "user.x")),
    ],
)
def test_missing_is_not_supported(missing: str, call: Callable[[Vnops, Vnode], object]) -> None:
    without = ("create", "mknod") if missing == "create" else (missing,)
    vnops = vnops_of(Little(*without))
    with fails(EOPNOTSUPP):
        call(vnops, vnops.mount.root())


@pytest.mark.statement("2.6")
@pytest.mark.parametrize("missing", ["open", "close", "flush", "fsync", "access"])
def test_missing_is_a_success(missing: str) -> None:
    vnops = vnops_of(Little(missing))
    vnode, first = a_file(vnops)
    file = vnops.open(vnode, os.O_RDWR)
    vnops.flush(file)
    vnops.fsync(file)
    vnops.access(vnode, os.R_OK)
    vnops.close(file)
    vnops.close(first)
    directory = vnops.opendir(vnops.mount.root(), 1)
    vnops.fsyncdir(directory)
    vnops.closedir(directory)


@pytest.mark.statement("2.6a")
def test_a_regular_file_that_cannot_be_written_is_read_only() -> None:
    server = Little("write")
    vnops = vnops_of(server)
    vnode = vnops.mknod(vnops.mount.root(), "f", stat.S_IFREG | 0o666).vnode
    for flags in (os.O_WRONLY, os.O_RDWR):
        with fails(EROFS):
            vnops.open(vnode, flags)
    with fails(EROFS):
        vnops.access(vnode, os.W_OK)
    assert server.asked("open") == []
    vnops.close(vnops.open(vnode, os.O_RDONLY))
    vnops.access(vnode, os.R_OK)
    fifo = vnops.mknod(vnops.mount.root(), "p", stat.S_IFIFO | 0o666).vnode
    vnops.close(vnops.open(fifo, os.O_WRONLY))
    vnops.access(fifo, os.W_OK)


@pytest.mark.statement("2.6")
def test_without_seek_all_is_data() -> None:
    vnops = vnops_of(Little())
    _, file = a_file(vnops, data=b"12345")
    assert vnops.seek(file, 2, os.SEEK_DATA) == 2
    assert vnops.seek(file, 2, os.SEEK_HOLE) == 5
    for offset in (5, 6, -1):
        with fails(ENXIO):
            vnops.seek(file, offset, os.SEEK_DATA)


@pytest.mark.statement("2.1")
@pytest.mark.statement("N15")
@pytest.mark.parametrize("when", ["mounting", "dying"])
def test_only_a_running_mount_is_asked(when: str) -> None:
    server = Little()
    mount, _ = mounted(server)
    vnops = Vnops(mount, CRED)
    vnode, file = a_file(vnops)
    if when == "mounting":
        server = Little()
        vnops = Vnops(Mount(server), CRED)
    else:
        mount.unmount(force=True)
    server.log.clear()
    for call in (
        lambda: vnops.lookup(vnode, "x"),
        lambda: vnops.mkdir(vnode, "x", 0o755),
        lambda: vnops.read(file, 0, 1),
        lambda: vnops.getattr(vnode),
        lambda: vnops.opendir(vnode, 1),
    ):
        with fails(ENXIO):
            call()
    assert server.log == []


@pytest.mark.statement("N16")
def test_a_file_server_that_hangs_in_one_call_blocks_no_other() -> None:
    server = Little()
    vnops = vnops_of(server)
    vnode, file = a_file(vnops, "x")
    entered, go_on = threading.Event(), threading.Event()

    def hang(*args: object) -> bytes:
        entered.set()
        assert go_on.wait(10)
        return b""

    server.says["read"] = hang
    reading = threading.Thread(target=vnops.read, args=(file, 0, 10), daemon=True)
    reading.start()
    assert entered.wait(10)
    try:
        assert vnops.getattr(vnode).size == 0
        assert vnops.write(file, 0, b"on the same file") == 16
        vnops.remove(vnops.mount.root(), "x")
        assert reading.is_alive()
    finally:
        go_on.set()
        reading.join(10)


def test_giving_back_after_the_end_is_quiet() -> None:
    server = Little()
    mount, _ = mounted(server)
    vnops = Vnops(mount, CRED)
    vnode, file = a_file(vnops)
    directory = vnops.opendir(mount.root(), 1)
    mount.unmount(force=True)
    ended = len(server.asked("inactive", "reclaim"))
    vnops.forget(vnode)
    vnops.close(file)
    vnops.closedir(directory)
    assert len(server.asked("inactive", "reclaim")) == ended


# ---------------------------------------------------------------------------------------- data


@pytest.mark.statement("N12")
def test_reading_nothing_asks_nothing() -> None:
    server = Little()
    vnops = vnops_of(server)
    _, file = a_file(vnops, data=b"12345")
    assert vnops.read(file, 0, 0) == b""
    assert server.asked("read") == []


@pytest.mark.statement("N12")
def test_a_negative_offset() -> None:
    server = Little()
    vnops = vnops_of(server)
    _, file = a_file(vnops)
    with fails(EINVAL):
        vnops.read(file, -1, 5)
    with fails(EINVAL):
        vnops.write(file, -1, b"x")
    assert server.asked("read", "write") == []


@pytest.mark.statement("N12")
def test_a_read_goes_in_requests_and_ends_at_a_short_one() -> None:
    server = Little()
    vnops = vnops_of(server, request_size=8192)
    data = bytes(range(256)) * 40  # 10240 bytes: two requests and a half
    _, file = a_file(vnops, data=data)
    assert vnops.read(file, 0, 1 << 20) == data
    assert [call[2:4] for call in server.asked("read")] == [(0, 4096), (4096, 4096), (8192, 4096)]
    assert vnops.read(file, 100, 5000) == data[100:5100]


@pytest.mark.statement("N12")
@pytest.mark.statement("2.7")
@pytest.mark.parametrize("said", [b"123456", None, "text"])
def test_a_read_that_gives_something_else(said: object) -> None:
    server = Little()
    vnops = vnops_of(server)
    _, file = a_file(vnops)
    server.says["read"] = lambda *args: said
    with fails(EPROTO):
        vnops.read(file, 0, 5)
    assert server.asked("error")[0][1] == "READ"


def test_what_was_read_is_not_changed_by_later_reads() -> None:
    server = Little()
    vnops = vnops_of(server)
    _, file = a_file(vnops)
    buffer = bytearray(b"first")
    server.says["read"] = lambda *args: memoryview(buffer)
    data = vnops.read(file, 0, 5)
    buffer[:] = b"later"
    assert data == b"first"


@pytest.mark.statement("N13")
def test_a_write_goes_in_requests() -> None:
    server = Little()
    vnops = vnops_of(server, request_size=8192)
    _, file = a_file(vnops)
    data = os.urandom(10000)
    assert vnops.write(file, 0, data) == 10000
    assert bytes(server.nodes[2].data) == data
    assert [call[2] for call in server.asked("write")] == [0, 4096, 8192]


@pytest.mark.statement("N13")
def test_a_write_that_takes_less() -> None:
    server = Little()
    vnops = vnops_of(server, request_size=8192)
    _, file = a_file(vnops)
    server.says["write"] = lambda node, offset, data, file: len(data) if offset == 0 else 10
    assert vnops.write(file, 0, bytes(9000)) == 4106
    assert len(server.asked("write")) == 2, "a short one is the last"
    server.says["write"] = lambda *args: 0
    with fails(EIO):
        vnops.write(file, 0, b"x")
    assert vnops.write(file, 0, b"") == 0


@pytest.mark.statement("N13")
@pytest.mark.statement("2.7")
@pytest.mark.parametrize("said", [6, -1, None])
def test_a_write_that_cannot_be(said: object) -> None:
    server = Little()
    vnops = vnops_of(server)
    _, file = a_file(vnops)
    server.says["write"] = lambda *args: said
    with fails(EPROTO):
        vnops.write(file, 0, b"12345")


def test_a_write_beyond_all_files() -> None:
    vnops = vnops_of(Little())
    _, file = a_file(vnops)
    with fails(EFBIG):
        vnops.write(file, (1 << 63) - 3, b"12345")


def test_data_that_a_file_server_keeps_is_dead_afterwards() -> None:
    server = Little()
    vnops = vnops_of(server)
    _, file = a_file(vnops)
    kept: list[memoryview] = []

    def keep(node: int, offset: int, data: memoryview, file: object) -> int:
        kept.append(data)
        kept.append(data[1:])
        return len(data)

    server.says["write"] = keep
    buffer = bytearray(b"12345")
    vnops.write(file, 0, buffer)
    buffer[:] = b"xxxxx"
    assert bytes(kept[1]) == b"2345", "never other data"

    def keep_all(node: int, offset: int, data: memoryview, file: object) -> int:
        kept[:] = [data]
        return len(data)

    server.says["write"] = keep_all
    vnops.write(file, 0, b"12345")
    with pytest.raises(ValueError, match="released"):
        kept[0].tobytes()


def test_ranges_are_policed() -> None:
    server = Little()
    replies: dict[str, Any] = {
        "seek": lambda *args: 3,
        "fallocate": lambda *args: None,
        "copy_file_range": lambda *args: 4,
    }
    mount, _ = mounted(server)
    mount.ops.update(replies)
    vnops = Vnops(mount, CRED)
    _, file = a_file(vnops)
    assert vnops.seek(file, 0, os.SEEK_DATA) == 3
    vnops.fallocate(file, 0, 0, 10)
    for offset, length in ((-1, 5), (0, 0), (0, -1)):
        with fails(EINVAL):
            vnops.fallocate(file, 0, offset, length)
    assert vnops.copy_file_range(file, 0, file, 5, 4) == 4
    with fails(EPROTO):
        vnops.copy_file_range(file, 0, file, 5, 3)
    mount.ops["seek"] = lambda *args: -1
    with fails(EPROTO):
        vnops.seek(file, 0, os.SEEK_DATA)


# ---------------------------------------------------------------------------------- attributes


def test_attributes_are_copies_with_a_number() -> None:
    server = Little()
    vnops = vnops_of(server)
    vnode, file = a_file(vnops)
    attr = vnops.getattr(vnode, file)
    assert attr is not server.nodes[2].attr
    assert attr == server.nodes[2].attr
    assert server.asked("getattr")[-1] == ("getattr", 2, "file of f")
    vnops.getattr(vnode)
    assert server.asked("getattr")[-1] == ("getattr", 2, None)


@pytest.mark.parametrize("returns", ["attributes", "nothing"])
def test_setattr_gives_the_attributes_afterwards(returns: str) -> None:
    server = Little()
    vnops = vnops_of(server)
    vnode, file = a_file(vnops)
    server.log.clear()
    if returns == "attributes":
        server.says["setattr"] = lambda *args: puffs.Attr(stat.S_IFREG | 0o600, ino=2)
    attr = vnops.setattr(vnode, puffs.Changes(mode=0o600), file)
    assert attr.mode == stat.S_IFREG | 0o600
    assert len(server.asked("getattr")) == (returns == "nothing")


@pytest.mark.statement("N11")
@pytest.mark.parametrize("said", ["", "x" * 4096, "a\0b", None, 7])
def test_a_link_that_cannot_be(said: object) -> None:
    server = Little()
    vnops = vnops_of(server)
    vnode = vnops.symlink(vnops.mount.root(), "l", "x").vnode
    server.says["readlink"] = lambda node: said
    with fails(EPROTO):
        vnops.readlink(vnode)
    assert server.asked("error")[0][1] == "READLINK"


def test_extended_attributes() -> None:
    server = Little()
    vnops = vnops_of(server)
    vnode, _ = a_file(vnops)
    vnops.setxattr(vnode, "user.a", b"1")
    vnops.setxattr(vnode, "user.b", bytes(65536))
    assert vnops.listxattr(vnode) == ["user.a", "user.b"]
    assert vnops.getxattr(vnode, "user.a") == b"1"
    vnops.removexattr(vnode, "user.a")
    assert vnops.listxattr(vnode) == ["user.b"]


@pytest.mark.statement("2.7")
def test_an_attribute_that_is_too_long_is_not_sent() -> None:
    server = Little()
    vnops = vnops_of(server)
    with fails(E2BIG):
        vnops.setxattr(vnops.mount.root(), "user.a", bytes(65537))
    assert server.log == []


# --------------------------------------------------------------------------------- directories


@pytest.mark.statement("N8")
def test_a_directory_is_read_in_batches() -> None:
    server = Little()
    vnops = vnops_of(server)
    root = vnops.mount.root()
    for number in range(10):
        vnops.forget(vnops.mkdir(root, f"d{number}", 0o755).vnode)
    directory = vnops.opendir(root, 1)
    offset, names = 0, []
    while batch := vnops.readdir(directory, offset, 3):
        assert len(batch) <= 3
        names += [entry.name for _, entry in batch]
        offset = batch[-1][0]
    assert names == [".", "..", *(f"d{number}" for number in range(10))]
    assert server.asked("readdir") == [("readdir", ROOT, 0, "directory 1")]
    vnops.closedir(directory)
    vnops.closedir(directory)
    assert server.asked("closedir") == [("closedir", ROOT, "directory 1")], "once"


@pytest.mark.statement("N8")
@pytest.mark.statement("2.7")
@pytest.mark.parametrize("name", ["", "a/b", "x" * 256, b"bytes"])
def test_a_name_that_cannot_be(name: Any) -> None:
    server = Little()
    vnops = vnops_of(server)
    server.says["readdir"] = [puffs.DirEntry("good"), puffs.DirEntry(name)]
    directory = vnops.opendir(vnops.mount.root(), 1)
    with fails(EPROTO):
        vnops.readdir(directory, 0, 10)
    assert server.asked("error")[0][1] == "READDIR"


def test_an_open_directory_outlives_its_name() -> None:
    server = Little()
    vnops = vnops_of(server)
    root = vnops.mount.root()
    vnode = vnops.mkdir(root, "d", 0o755).vnode
    directory = vnops.opendir(vnode, 1)
    vnops.rmdir(root, "d")
    vnops.forget(vnode)
    assert server.asked("reclaim") == []
    assert [entry.name for _, entry in vnops.readdir(directory, 0, 9)] == [".", ".."]
    vnops.closedir(directory)
    assert server.asked("reclaim") == [("reclaim", 2)]


# -------------------------------------------------------------------------------------- errors


def test_a_mistake_is_eio_and_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    server = Little()
    vnops = vnops_of(server)
    mistake = ValueError("oops")
    server.says["lookup"] = mistake
    with caplog.at_level(logging.ERROR, "puffs"), fails(EIO) as caught:
        vnops.lookup(vnops.mount.root(), "x")
    assert caught.value.__cause__ is mistake
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is mistake


def test_a_refusal_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    server = Little()
    vnops = vnops_of(server)
    for said, code in ((FileNotFoundError, ENOENT), (NotImplementedError, ENOSYS)):
        server.says["lookup"] = said
        with fails(code):
            vnops.lookup(vnops.mount.root(), "x")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("said", "logged"), [(OSError(EIO, "too late"), False), (ValueError("oops"), True)]
)
def test_close_reports_to_nobody(
    said: Exception, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = Little()
    vnops = vnops_of(server)
    vnode, file = a_file(vnops)
    vnops.forget(vnode)
    server.says["close"] = said
    vnops.close(file)
    assert server.asked("reclaim") == [("reclaim", 2)], "it is closed all the same"
    assert len(caplog.records) == logged
    vnops.close(file)
    assert len(server.asked("close")) == 1


def test_operations_can_ask_who_calls() -> None:
    server = Little()
    vnops = vnops_of(server)
    vnode, file = a_file(vnops, data=b"x")
    other = puffs.Cred(5, 6, groups=())
    vnops.by(other).read(file, 0, 1)
    vnops.close(file)
    vnops.forget(vnode)
    assert server.callers["create"] == CRED
    assert server.callers["write"] == CRED
    assert server.callers["read"] is other
    assert server.callers["reclaim"] == CRED
    with pytest.raises(LookupError):
        puffs.caller()


# --------------------------------------------------------------------------------------- async


class Async(puffs.FileSystem[int]):
    """A file server whose operations wait."""

    async def mount(self) -> int:  # type: ignore[override]
        return 1

    async def lookup(self, dir: int, name: str, cred: puffs.Cred) -> int:  # type: ignore[override]
        import asyncio

        await asyncio.sleep(0)
        if name != "f":
            raise FileNotFoundError(name)
        return 2

    async def getattr(self, node: int, file: object = None) -> puffs.Attr:  # type: ignore[override]
        return puffs.Attr((stat.S_IFDIR if node == 1 else stat.S_IFREG) | 0o755)

    async def read(self, node: int, offset: int, size: int, file: object) -> bytes:  # type: ignore[override]
        return f"{puffs.caller().uid}".encode()

    async def readdir(  # type: ignore[override]
        self, dir: int, offset: int, file: object
    ) -> AsyncIterator[puffs.DirEntry | str]:
        for number in range(5):
            yield f"n{number}"

    async def listxattr(self, node: int) -> list[str]:  # type: ignore[override]
        return ["user.a"]

    async def statvfs(self) -> puffs.StatVfs:  # type: ignore[override]
        return puffs.StatVfs(blocks=5)


def test_async_operations_are_waited_for() -> None:
    mount = Mount(Async())
    mount.start()
    vnops = Vnops(mount, CRED)
    found = vnops.lookup(mount.root(), "f")
    assert vnops.read(vnops.open(found.vnode, os.O_RDONLY), 0, 9) == b"1000"
    with fails(ENOENT):
        vnops.lookup(mount.root(), "none")
    directory = vnops.opendir(mount.root(), 1)
    assert [entry.name for _, entry in vnops.readdir(directory, 0, 4)] == [".", "..", "n0", "n1"]
    assert [entry.name for _, entry in vnops.readdir(directory, 4, 9)] == ["n2", "n3", "n4"]
    assert vnops.listxattr(found.vnode) == ["user.a"]
    assert vnops.statvfs().blocks == 5
    mount.unmount()
