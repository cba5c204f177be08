"""`null`, operation by operation, over real directories. See tests/fuse for the mounted one."""

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.fs.hostfiles import Node
from puffs.fs.null import NullFS
from tests.fs.host import (
    SERVER,
    Passed,
    acl,
    either_right,
    fails,
    in_child,
    make_crowd,
    make_many,
    new_attr,
    open_descriptors,
)

USER = puffs.Cred(1000, 1001, groups=())
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may act for others")


# ------------------------------------------------------------------------------- what it is made of


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        NullFS(str(tmp_path / "nowhere"))


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        NullFS(str(tmp_path / "file"))


def test_no_directory_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="null:/srv/data"):
        NullFS("")


@pytest.mark.parametrize("cache", ["soon", "-1", "", "nan"])
def test_a_cache_that_is_no_time_is_refused(host: Path, cache: str) -> None:
    with pytest.raises(ValueError, match="forever"):
        NullFS(str(host), cache=cache)


def test_how_long_names_and_attributes_may_be_trusted(host: Path) -> None:
    for given, ttl in ((None, 1.0), ("0", 0.0), ("2.5", 2.5), (7, 7.0), ("forever", puffs.FOREVER)):
        fs = NullFS(host) if given is None else NullFS(host, cache=given)
        assert (fs.name_ttl, fs.attr_ttl, fs.negative_ttl) == (ttl, ttl, 0.0)


def test_a_relative_directory_stays_the_same_one(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host / "here").touch()
    monkeypatch.chdir(host.parent)
    fs = NullFS("host")
    monkeypatch.chdir("/")
    assert fs.lookup(fs.mount(), "here", SERVER)
    fs.unmounted()


def test_all_descriptors_are_given_back(host: Path) -> None:
    paths = make_many(host)
    before = open_descriptors()
    passed = Passed(host)
    nodes = [passed.node(path) for path in paths]
    assert open_descriptors() > before
    passed.fs.unmounted()
    assert open_descriptors() == before
    assert nodes


def test_a_file_that_is_forgotten_gives_its_descriptor_back(host: Path) -> None:
    (host / "a").touch()
    passed = Passed(host)
    before = open_descriptors()
    node = passed.node("a")
    assert open_descriptors() == before + 1
    passed.fs.reclaim(node)
    assert open_descriptors() == before


# ------------------------------------------------------------------------------ looking and listing


def make_every_type(host: Path) -> None:
    (host / "file").write_bytes(b"contents")
    (host / "dir").mkdir()
    (host / "link").symlink_to("nowhere/at all")
    os.mkfifo(host / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host / "socket"))
    if os.geteuid() == 0:
        os.mknod(host / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.utime(host / "file", ns=(1_111_111_111, -2_222_222_222))
    os.link(host / "file", host / "second name")


def test_attributes_are_those_of_the_host(any_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(any_host)  # the path of a socket must be short
    make_every_type(Path())
    passed = Passed(any_host)
    for name in os.listdir(any_host):
        st = os.lstat(any_host / name)
        node = passed.node(name)
        attr = passed.fs.getattr(node)
        assert attr.to_stat(st.st_dev) == st, name
        assert (attr.atime_ns, attr.mtime_ns, attr.ctime_ns, attr.rdev, attr.blocks) == (
            st.st_atime_ns,
            st.st_mtime_ns,
            st.st_ctime_ns,
            st.st_rdev,
            st.st_blocks,
        ), name
        assert attr.btime_ns is None or attr.btime_ns <= st.st_ctime_ns


def test_a_listing_has_every_name_with_its_type_and_attributes(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(host)
    make_every_type(Path())
    (host / os.fsdecode(b"\xff not UTF-8")).touch()
    (host / ("n" * 255)).touch()
    passed = Passed(host)
    listing = passed.listing()
    assert listing.keys() == set(os.listdir(host))
    for name, entry in listing.items():
        st = os.lstat(host / name)
        assert stat.S_IFMT(entry.type) == stat.S_IFMT(st.st_mode)
        assert entry.ino == st.st_ino
        assert isinstance(entry.entry, puffs.Entry)
        assert entry.entry.attr == passed.fs.lookup(passed.root, name, SERVER).attr


def test_what_the_host_was_told_just_now_is_listed_by_name(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(host)
    make_every_type(Path())
    passed = Passed(host)
    passed.fs.name_ttl = puffs.FOREVER
    first, second = passed.listing(), passed.listing()
    assert all(entry.entry is not None for entry in first.values())
    for name, entry in second.items():
        assert stat.S_IFMT(entry.type) == stat.S_IFMT(first[name].type)
        assert entry.ino == first[name].ino
        common = stat.S_IFMT(entry.type) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
        assert (entry.entry is None) == common


def test_what_was_told_for_no_time_or_not_taken_is_listed_with_attributes(host: Path) -> None:
    make_crowd(host)
    passed = Passed(host / "crowd")
    passed.fs.name_ttl = 0.0
    for _ in range(2):
        assert all(entry.entry is not None for entry in passed.listing().values())
    passed.fs.name_ttl = puffs.FOREVER
    taking = iter(passed.fs.readdir(passed.root, 0, None))
    taken = {next(taking).name for _ in range(3)}
    for name, entry in passed.listing().items():
        assert entry.entry is not None or name in taken


def test_a_listing_goes_on_while_names_are_removed(host: Path) -> None:
    make_crowd(host)
    passed = Passed(host / "crowd")
    listing = iter(passed.fs.readdir(passed.root, 0, None))
    first = next(listing)
    for path in (host / "crowd").iterdir():
        path.unlink()
    rest = list(listing)
    assert len({first.name, *(entry.name for entry in rest)}) == 1 + len(rest)


def test_a_listing_that_is_not_read_to_its_end_gives_its_descriptors_back(host: Path) -> None:
    make_crowd(host)
    passed = Passed(host / "crowd")
    passed.listing()
    before = open_descriptors()
    listing = passed.fs.readdir(passed.root, 0, None)
    next(listing)
    assert open_descriptors() > before
    del listing
    assert open_descriptors() == before


def test_what_is_not_there_is_not_found(host: Path) -> None:
    (host / "file").touch()
    passed = Passed(host)
    with fails(errno.ENOENT):
        passed.node("nothing")
    with fails(errno.ENOTDIR):
        passed.node("file/below")
    with fails(errno.ENAMETOOLONG):
        passed.node("n" * 256)


def test_hard_links_are_one_file(any_host: Path) -> None:
    (any_host / "dir").mkdir()
    (any_host / "a").touch()
    os.link(any_host / "a", any_host / "dir/b")
    passed = Passed(any_host)
    assert passed.node("a") is passed.node("dir/b")
    assert passed.node("a") != passed.node("dir")


def test_only_links_can_be_read_as_links(host: Path) -> None:
    (host / "link").symlink_to("target")
    passed = Passed(host)
    assert passed.fs.readlink(passed.node("link")) == "target"
    with fails(errno.EINVAL):
        passed.fs.readlink(passed.root)


# ------------------------------------------------------------------------------------------- making


def test_every_type_can_be_made(host: Path) -> None:
    passed = Passed(host)
    passed.write("file", b"x", 0o640)
    passed.mkdir("dir", 0o1750)
    passed.symlink("link", "to/there")
    passed.mknod("fifo", stat.S_IFIFO | 0o600)
    passed.mknod("socket", stat.S_IFSOCK | 0o777)
    made = {name: stat.filemode(os.lstat(host / name).st_mode) for name in os.listdir(host)}
    assert made == {
        "file": "-rw-r-----",
        "dir": "drwxr-x--T",
        "link": "lrwxrwxrwx",
        "fifo": "prw-------",
        "socket": "srwxrwxrwx",
    }
    assert os.readlink(host / "link") == "to/there"


@as_root
def test_a_device_can_be_made(host: Path) -> None:
    Passed(host).mknod("device", stat.S_IFBLK | 0o600, os.makedev(7, 300))
    st = os.stat(host / "device")
    assert (st.st_mode, st.st_rdev) == (stat.S_IFBLK | 0o600, os.makedev(7, 300))


@either_right
def test_the_umask_of_the_server_plays_no_part(host: Path, nobody: bool) -> None:
    def body(path: str) -> None:
        os.umask(0o077)
        passed = Passed(path, puffs.Cred(os.geteuid(), os.getegid()))
        passed.write("file", b"", 0o4666)
        passed.mkdir("dir", 0o777)
        passed.mknod("fifo", stat.S_IFIFO | 0o666)
        modes = [
            stat.S_IMODE(os.stat(f"{path}/{name}").st_mode) for name in ("file", "dir", "fifo")
        ]
        assert modes == [0o4666, 0o777, 0o666]
        assert os.umask(0) == 0o077

    in_child(body, host, nobody=nobody)


def test_a_default_acl_is_not_overridden(host: Path) -> None:
    try:
        os.setxattr(host, "system.posix_acl_default", acl(user=1000))
    except OSError as error:
        pytest.skip(f"no ACLs here: {error}")
    passed = Passed(host)
    passed.write("file", b"", 0o666)
    passed.mkdir("dir", 0o777)
    assert stat.S_IMODE(os.stat(host / "file").st_mode) == 0o640
    assert stat.S_IMODE(os.stat(host / "dir").st_mode) == 0o750


@either_right
def test_a_file_that_is_created_read_only_can_be_written_to_meanwhile(
    host: Path, nobody: bool
) -> None:
    def body(path: str) -> None:
        passed = Passed(path, puffs.Cred(os.geteuid(), os.getegid()))
        node, file = passed.create("file", 0o444)
        assert passed.fs.write(node, 0, memoryview(b"written"), file) == 7
        passed.set(node, puffs.Changes(size=3), file)
        passed.fs.close(node, file, 0)
        assert passed.read(node) == b"wri"
        assert passed.fs.getattr(node).mode == stat.S_IFREG | 0o444

    in_child(body, host, nobody=nobody)


def test_what_others_made_meanwhile_is_looked_up_again(host: Path) -> None:
    (host / "taken").write_text("theirs")
    passed = Passed(host)
    with fails(errno.ESTALE):
        passed.create("taken")
    assert (host / "taken").read_text() == "theirs"
    for make in (passed.mkdir, lambda name: passed.symlink(name, "to")):
        with fails(errno.EEXIST):
            make("taken")


def test_a_file_without_a_name_can_be_given_one(any_host: Path) -> None:
    passed = Passed(any_host)
    attr = new_attr(stat.S_IFREG | 0o600, SERVER)
    entry, opened = passed.fs.tmpfile(passed.root, attr, os.O_RDWR, SERVER)
    node, file = entry.node, opened.file
    assert isinstance(node, Node)
    assert isinstance(file, int)
    assert passed.fs.getattr(node).nlink == 0
    passed.fs.write(node, 0, memoryview(b"text"), file)
    assert passed.link(node, "named") is node
    passed.fs.close(node, file, 0)
    assert (any_host / "named").read_text() == "text"
    assert set(os.listdir(any_host)) - {"low"} == {"named"}


def test_links_to_anything_but_directories(host: Path) -> None:
    (host / "file").touch()
    (host / "link").symlink_to("target")
    passed = Passed(host)
    assert passed.link(passed.node("file"), "file2") is passed.node("file")
    assert passed.link(passed.node("link"), "link2") is passed.node("link")
    assert os.readlink(host / "link2") == "target"
    with fails(errno.EPERM):
        passed.link(passed.mkdir("dir"), "dir2")


@as_root
def test_files_are_made_in_the_name_of_the_caller(host: Path) -> None:
    mine = host / "mine"
    mine.mkdir(mode=0o700)  # the caller's right to make files here was checked before
    before = Path("/proc/self/status").read_text()
    passed = Passed(mine, USER)
    passed.write("file", b"", 0o4755)
    passed.mkdir("dir")
    passed.symlink("link", "to")
    passed.mknod("fifo", stat.S_IFIFO | 0o600)
    passed.mknod("device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for name in ("file", "dir", "link", "fifo", "device"):
        st = os.lstat(mine / name)
        assert (st.st_uid, st.st_gid) == (1000, 1001), name
    assert stat.S_IMODE(os.stat(mine / "file").st_mode) == 0o4755
    after = Path("/proc/self/status").read_text()
    wanted = ("Uid:", "Gid:", "CapEff:", "CapPrm:", "Groups:")
    told = [
        [line for line in text.splitlines() if line.startswith(wanted)] for text in (before, after)
    ]
    assert told[0] == told[1]


@as_root
def test_a_set_gid_directory_hands_its_group_down(host: Path) -> None:
    os.chown(host, 0, 77)
    host.chmod(0o2777)
    passed = Passed(host, USER)
    passed.write("file", b"")
    passed.mkdir("dir")
    assert [os.stat(host / name).st_gid for name in ("file", "dir")] == [77, 77]
    assert os.stat(host / "dir").st_mode & stat.S_ISGID
    assert not os.stat(host / "file").st_mode & stat.S_ISGID


@as_root
def test_who_fails_to_make_a_file_is_himself_again(host: Path) -> None:
    passed = Passed(host, USER)
    passed.mkdir("dir")
    with fails(errno.EEXIST):
        passed.mkdir("dir")
    passed.cred = SERVER
    passed.mkdir("mine")
    assert os.stat(host / "mine").st_uid == os.geteuid()


# ---------------------------------------------------------------------------- removing and renaming


def test_removing(host: Path) -> None:
    (host / "file").touch()
    (host / "dir/full").mkdir(parents=True)
    passed = Passed(host)
    with fails(errno.EISDIR):
        passed.remove("dir")
    with fails(errno.ENOTDIR):
        passed.rmdir("file")
    with fails(errno.ENOTEMPTY):
        passed.rmdir("dir")
    passed.rmdir("dir/full")
    passed.rmdir("dir")
    passed.remove("file")
    assert os.listdir(host) == []
    with fails(errno.ENOENT):
        passed.remove("file")


def test_renaming_with_flags(host: Path) -> None:
    (host / "a").write_text("a")
    (host / "b").write_text("b")
    passed = Passed(host)
    with fails(errno.EEXIST):
        passed.rename("a", "b", puffs.RENAME_NOREPLACE)
    passed.rename("a", "b", puffs.RENAME_EXCHANGE)
    assert ((host / "a").read_text(), (host / "b").read_text()) == ("b", "a")
    passed.rename("a", "b")
    assert os.listdir(host) == ["b"]
    assert (host / "b").read_text() == "b"
    passed.rename("b", "c", puffs.RENAME_NOREPLACE)
    with fails(errno.EINVAL):
        passed.rename("c", "d", puffs.RENAME_EXCHANGE | puffs.RENAME_NOREPLACE)


@as_root
def test_renaming_leaves_a_whiteout(host: Path) -> None:
    (host / "a").touch()
    Passed(host).rename("a", "b", puffs.RENAME_WHITEOUT)
    st = os.stat(host / "a")
    assert (stat.S_IFMT(st.st_mode), st.st_rdev) == (stat.S_IFCHR, 0)


# ------------------------------------------------------------------------------------ open and data


def test_reading_and_writing_anywhere(any_host: Path) -> None:
    passed = Passed(any_host)
    node, file = passed.create("file")
    assert passed.fs.write(node, 5_000_000_000, memoryview(b"far"), file) == 3
    assert passed.fs.read(node, 4_999_999_999, 100, file) == b"\0far"
    assert passed.fs.read(node, 1 << 40, 100, file) == b""
    assert passed.fs.getattr(node, file).size == 5_000_000_003
    passed.fs.fsync(node, True, file)
    passed.fs.fsync(node, False, file)
    passed.fs.flush(node, file, 0)
    passed.fs.close(node, file, 0)


def test_appending_goes_by_the_offset(host: Path) -> None:
    (host / "file").write_text("12345")
    passed = Passed(host)
    node = passed.node("file")
    with passed.open(node, os.O_WRONLY | os.O_APPEND) as file:
        passed.fs.write(node, 2, memoryview(b"xx"), file)
    assert (host / "file").read_text() == "12xx5"


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: os.mkfifo(path), errno.ENXIO),
        (lambda path: os.symlink("x", path), errno.ENXIO),
        (lambda path: os.mkdir(path), errno.EISDIR),
    ],
    ids=["fifo", "link", "directory"],
)
def test_only_regular_files_can_be_opened(
    host: Path, make: Callable[[Path], Any], code: int
) -> None:
    make(host / "it")
    passed = Passed(host)
    with fails(code):
        passed.fs.open(passed.node("it"), os.O_RDONLY, SERVER)


def test_a_host_keeps_what_it_has_cached_of_a_file_that_did_not_change() -> None:
    passed = Passed(os.path.dirname(os.__file__))  # long since installed
    node = passed.node("os.py")
    kept = []
    for _ in range(3):
        opened = passed.fs.open(node, os.O_RDONLY, SERVER)
        kept.append(opened.keep_cache)
        assert isinstance(opened.file, int)
        passed.fs.close(node, opened.file, 0)
    assert kept == [False, True, True]


def test_a_host_keeps_nothing_of_a_file_that_may_have_changed(host: Path) -> None:
    (host / "file").write_text("fresh")
    passed = Passed(host)
    node = passed.node("file")
    for _ in range(3):
        opened = passed.fs.open(node, os.O_RDONLY, SERVER)
        assert not opened.keep_cache
        assert isinstance(opened.file, int)
        passed.fs.close(node, opened.file, 0)


def test_holes(any_host: Path) -> None:
    passed = Passed(any_host)
    node, file = passed.create("file")
    size = 1 << 20
    passed.fs.fallocate(node, 0, 0, size, file)
    passed.fs.write(node, 0, memoryview(b"x" * size), file)
    passed.fs.fallocate(node, 3, 1 << 16, 1 << 16, file)  # KEEP_SIZE | PUNCH_HOLE
    assert passed.fs.seek(node, 0, os.SEEK_HOLE, file) == 1 << 16
    assert passed.fs.seek(node, 1 << 16, os.SEEK_DATA, file) == 1 << 17
    assert passed.fs.getattr(node).size == size
    with fails(errno.ENXIO):
        passed.fs.seek(node, size, os.SEEK_DATA, file)
    with fails(errno.EOPNOTSUPP):
        passed.fs.fallocate(node, 0x800, 0, 4096, file)
    passed.fs.close(node, file, 0)


def test_copying_a_range(any_host: Path) -> None:
    passed = Passed(any_host)
    node, file = passed.create("from")
    to, to_file = passed.create("to")
    passed.fs.write(node, 0, memoryview(b"0123456789"), file)
    assert passed.fs.copy_file_range(node, 2, file, to, 1, to_file, 4, 0) == 4
    assert passed.fs.read(to, 0, 100, to_file) == b"\x002345"
    with fails(errno.EINVAL):
        passed.fs.copy_file_range(node, 2, file, to, 1, to_file, 4, 1)


# --------------------------------------------------------------------------------------- attributes


def test_times_change_one_by_one(host: Path) -> None:
    (host / "file").touch()
    (host / "link").symlink_to("file")
    passed = Passed(host)
    for name in ("file", "link"):
        node = passed.node(name)
        passed.set(node, puffs.Changes(atime_ns=-5, mtime_ns=7_000_000_001))
        attr = passed.set(node, puffs.Changes(mtime_ns=9_000_000_001))
        assert (attr.atime_ns, attr.mtime_ns) == (-5, 9_000_000_001)
        attr = passed.set(node, puffs.Changes(atime_ns=1, atime_now=True))
        assert attr.atime_ns == attr.ctime_ns
        assert attr.mtime_ns == os.lstat(host / name).st_mtime_ns == 9_000_000_001


def test_mode_and_size_change(host: Path) -> None:
    (host / "file").write_text("12345")
    passed = Passed(host)
    node = passed.node("file")
    assert passed.set(node, puffs.Changes(mode=0o4751)).mode == stat.S_IFREG | 0o4751
    assert passed.set(node, puffs.Changes(size=3)).size == 3
    assert (host / "file").read_text() == "123"


@as_root
def test_the_owner_changes_and_a_mode_given_with_it_stays(host: Path) -> None:
    (host / "file").touch()
    (host / "link").symlink_to("file")
    passed = Passed(host)
    attr = passed.set(passed.node("file"), puffs.Changes(uid=5, mode=0o4755))
    assert (attr.uid, attr.gid, attr.mode & 0o7777) == (5, 0, 0o4755)
    assert passed.set(passed.node("link"), puffs.Changes(gid=6)).gid == 6
    assert os.stat(host / "file").st_gid == 0


@either_right
def test_extended_attributes(any_host: Path, nobody: bool) -> None:
    (any_host / "file").touch()

    def body(path: str) -> None:
        passed = Passed(path)
        node = passed.node("file")
        with fails(errno.ENODATA):
            passed.fs.getxattr(node, "user.one")
        passed.fs.setxattr(node, "user.one", b"1", os.XATTR_CREATE)
        with fails(errno.EEXIST):
            passed.fs.setxattr(node, "user.one", b"2", os.XATTR_CREATE)
        assert passed.fs.getxattr(node, "user.one") == b"1"
        assert list(passed.fs.listxattr(node)) == ["user.one"]
        passed.fs.removexattr(node, "user.one")
        assert list(passed.fs.listxattr(node)) == []

    try:
        os.setxattr(any_host / "file", "user.try", b"")
        os.removexattr(any_host / "file", "user.try")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    in_child(body, any_host, nobody=nobody)


def test_the_size_of_the_file_system_is_the_hosts(host: Path) -> None:
    ours, theirs = Passed(host).fs.statvfs(), os.statvfs(host)
    assert (ours.blocks, ours.frsize, ours.files) == (
        theirs.f_blocks,
        theirs.f_frsize,
        theirs.f_files,
    )


def test_file_ids_are_the_same_next_time(any_host: Path) -> None:
    paths = make_many(any_host, 20)
    first, second = Passed(any_host), Passed(any_host)
    ids = [first.fs.fileid(first.node(path)) for path in paths]
    assert ids == [second.fs.fileid(second.node(path)) for path in paths]
    assert len(dict(ids)) == len(ids)
    for path in paths:
        assert first.attr(path).ino == os.stat(any_host / path).st_ino


def test_everything_can_be_synced(host: Path) -> None:
    passed = Passed(host)
    before = open_descriptors()
    passed.fs.sync(True, SERVER)
    passed.fs.fsyncdir(passed.root, False, None)
    assert open_descriptors() == before
