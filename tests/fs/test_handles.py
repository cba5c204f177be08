"""Files of `mem` and `null` that are found by handle or number alone."""

import errno
import gc
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from puffs.attach.fuse.syscalls import MNT_DETACH, mount, umount2
from puffs.fs import hostcalls
from puffs.fs.hostfiles import Descriptor
from puffs.fs.hosthandles import HandleNumbers
from puffs.fs.mem import MemFS
from puffs.fs.nodes import Node as MemNode
from puffs.fs.null import NullFS
from tests.fs import memory
from tests.fs.host import (
    SERVER,
    Passed,
    either_right,
    fails,
    in_child,
    in_memory,
    make_many,
    node_of,
    open_descriptors,
    opens_handles,
)
from tests.fs.memory import Box

# ------------------------------------------------------------------------------------------- mem


def test_mem_finds_each_file_by_number_and_handle() -> None:
    box = Box()
    nodes = [box.root, box.mkdir("dir"), box.file("dir/file"), box.symlink("link", "x")]
    nodes += [box.mknod("fifo", stat.S_IFIFO | 0o600), box.tmpfile()]
    for node in nodes:
        ino, _ = box.fs.fileid(node)
        found = box.fs.vget(ino)
        assert (found.node, found.attr) == (node, node.attr)
        assert len(box.fs.nodetofh(node)) == box.fs.fhsize
        assert box.fs.fhtonode(box.fs.nodetofh(node)) is node
    assert len({box.fs.nodetofh(node) for node in nodes}) == len(nodes)


def test_mem_knows_handles_of_another_tree() -> None:
    """Which have the same inode numbers."""
    one, other = Box(), Box()
    ours, theirs = one.file("file"), other.file("file")
    assert one.fs.fileid(ours) != other.fs.fileid(theirs)
    for fid in (other.fs.nodetofh(theirs), bytes(MemFS.fhsize), b"\xff" * MemFS.fhsize):
        with fails(errno.ESTALE):
            one.fs.fhtonode(fid)


def test_mem_finds_a_removed_file_until_nobody_knows_it() -> None:
    box = Box()
    node = box.file("file", b"contents")
    (ino, _), fid = box.fs.fileid(node), box.fs.nodetofh(node)
    box.remove("file")
    assert box.fs.vget(ino).node is box.fs.fhtonode(fid) is node
    box.fs.reclaim(node)
    with fails(errno.ESTALE):
        box.fs.vget(ino)
    with fails(errno.ESTALE):
        box.fs.fhtonode(fid)
    assert box.fs.fileid(box.file("file"))[0] != ino


def test_mem_keeps_a_file_that_nobody_knows_but_that_has_a_name() -> None:
    box = Box()
    node = box.file("file")
    box.fs.reclaim(node)
    assert box.fs.vget(node.attr.ino).node is node


def test_mem_keeps_nothing_of_what_is_gone() -> None:
    box = Box()

    def count() -> int:
        gc.collect()
        return sum(isinstance(thing, MemNode) for thing in gc.get_objects())

    before = count()
    for number in range(100):
        node = box.file(f"f{number}")
        box.remove(f"f{number}")
        box.fs.reclaim(node)
    del node
    assert count() == before


def test_mem_knows_the_way_up() -> None:
    box = Box()
    outer = box.mkdir("outer")
    inner = box.mkdir("outer/inner")

    def above(node: MemNode) -> MemNode:
        return memory.node_of(box.fs.lookup(node, "..", memory.ROOT))

    assert above(inner) is outer
    assert above(outer) is above(box.root) is box.root
    box.rename("outer/inner", "moved")
    assert above(inner) is box.root
    box.fs.rmdir(box.root, "moved", memory.ROOT)
    with fails(errno.ESTALE):
        above(inner)
    with fails(errno.ENOTDIR):
        above(box.file("file"))


# ------------------------------------------------------------------------ numbers made of handles

# Of a file and of the directory it is in, as the kernel of a machine with little-endian words gives
# them: length, type, then what the file system has put in.
EXT4 = "08000000010000006dc0200064f362da", "08000000010000006cc02000c06b8409"
TMPFS = "0c00000001000000d67617890300000000000000", "0c0000000100000094e3781d0200000000000000"
XFS = "0c000000810000008400000000000000adf00263", "0c000000810000008300000000000000a9328aba"
BTRFS = (
    "140000004d0000000201000000000000050000000000000007000000",
    "140000004d0000000101000000000000050000000000000007000000",
)


@pytest.mark.parametrize(
    ("handles", "ino", "generation"),
    [
        (EXT4, 0x20C06D, 0xDA62F364),
        (TMPFS, 3, 0x891776D6),
        (XFS, 0x84, 0x6302F0AD),
        (BTRFS, 0x102, 7),
    ],
    ids=["ext4", "tmpfs", "xfs", "btrfs"],
)
def test_a_number_holds_inode_number_and_generation(
    handles: tuple[str, str], ino: int, generation: int
) -> None:
    handle, like = map(bytes.fromhex, handles)
    numbers = HandleNumbers(like)
    number = numbers.number(handle)
    assert number == generation << 31 | ino
    assert 1 < number < 1 << 63
    assert numbers.handle(number) == handle
    assert numbers.number(like) not in (None, number)


@pytest.mark.parametrize(
    "handles", [EXT4, TMPFS, XFS, BTRFS], ids=["ext4", "tmpfs", "xfs", "btrfs"]
)
def test_only_what_gives_the_handle_back_is_its_number(handles: tuple[str, str]) -> None:
    """Whatever else a handle may hold; a large inode number too."""
    handle, like = map(bytes.fromhex, handles)
    numbers = HandleNumbers(like)
    source = random.Random(1)
    for _ in range(300):
        other = bytearray(handle)
        other[source.randrange(len(other))] ^= 1 << source.randrange(8)
        number = numbers.number(bytes(other))
        assert number is None or numbers.handle(number) == bytes(other)
    assert numbers.number(handle + b"\0") is None
    assert numbers.number(b"\xff" * len(handle)) is None
    for number in (-1, 0, 1 << 63, 1 << 64):
        assert numbers.handle(number) is None


def test_handles_of_an_unknown_kind_have_no_numbers() -> None:
    handle = bytes.fromhex("08000000f8000000") + bytes(8)
    assert HandleNumbers(handle).number(handle) is None
    assert HandleNumbers(handle).handle(5) is None


# ------------------------------------------------------------------------------------------ null


@pytest.fixture(params=["disk", "memory"])
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system with handles."""
    (tmp_path / "exported").mkdir()
    if request.param == "memory":
        with in_memory() as path:
            yield path
    else:
        yield tmp_path / "exported"


@opens_handles
def test_null_finds_each_file_in_the_next_run(exported: Path) -> None:
    paths = make_many(exported, 40)
    (exported / "link").symlink_to("nowhere")
    os.mkfifo(exported / "fifo")
    paths += ["link", "fifo", "d1", "d1/e2"]
    first = Passed(exported)
    ids = {path: first.fs.fileid(first.node(path)) for path in paths}
    fids = {path: first.fs.nodetofh(first.node(path)) for path in paths}
    first.fs.unmounted()
    second, by_fid = Passed(exported), Passed(exported)
    for path in paths:
        number, generation = ids[path]
        node = node_of(second.fs.vget(number))
        assert second.fs.fileid(node) == (number, generation)
        assert node is second.node(path)
        assert by_fid.fs.fhtonode(fids[path]) is by_fid.node(path)
        assert len(fids[path]) <= NullFS.fhsize
        if node.type == stat.S_IFREG:
            assert second.read(node) == path.encode()


@opens_handles
def test_null_finds_nothing_that_is_gone(exported: Path) -> None:
    passed = Passed(exported)
    ids, fids = [], []
    for number in range(50):
        name = f"f{number}"
        node = passed.write(name, b"old")
        ids.append(passed.fs.fileid(node)[0])
        fids.append(passed.fs.nodetofh(node))
        passed.remove(name)
        passed.fs.reclaim(node)
        del node
        passed.write(name, b"new")  # maybe with the same inode number
    for id_, fid in zip(ids, fids, strict=True):
        with fails(errno.ESTALE):
            passed.fs.vget(id_)
        with fails(errno.ESTALE):
            passed.fs.fhtonode(fid)


@opens_handles
def test_null_refuses_what_is_no_handle_of_its_files(exported: Path) -> None:
    (exported / "file").touch()
    passed = Passed(exported)
    fid = passed.fs.nodetofh(passed.node("file"))
    (number, _), source = passed.fs.fileid(passed.node("file")), random.Random(2)
    gc.collect()
    before = open_descriptors()
    bad = [b"", b"\0" * 4, fid[:-1], fid[:8], fid + b"\0", bytes(len(fid)), b"\xff" * NullFS.fhsize]
    bad += [source.randbytes(len(fid)) for _ in range(100)]
    bad += [bytes(4) + fid[4:]]
    for wrong in bad:
        with fails(errno.ESTALE):
            passed.fs.fhtonode(wrong)
    for wrong_number in (1, 2**62, number ^ 1 << 40, *(source.getrandbits(63) for _ in range(100))):
        with fails(errno.ESTALE):
            passed.fs.vget(wrong_number)
    assert open_descriptors() == before


@opens_handles
def test_null_does_not_lead_outside_of_its_directory(exported: Path) -> None:
    for name in ("ours", "theirs"):
        (exported / name / "dir/sub").mkdir(parents=True)
        (exported / name / "dir/file").write_text(name)
    ours, theirs = Passed(exported / "ours"), Passed(exported / "theirs")
    for path in ("", "dir", "dir/sub", "dir/file"):
        node = theirs.node(path)
        with fails(errno.ESTALE):
            ours.fs.fhtonode(theirs.fs.nodetofh(node))
        if node.type == stat.S_IFDIR:
            with fails(errno.ESTALE):
                ours.fs.vget(theirs.fs.fileid(node)[0])
        else:
            # This cannot be told from a file that was moved away, but its generation is not the one
            # that a handle of the other mount has: the host refuses it.
            number, generation = theirs.fs.fileid(node)
            assert ours.fs.fileid(node_of(ours.fs.vget(number))) != (number, generation)


@opens_handles
def test_null_loses_a_directory_that_others_move_away(exported: Path) -> None:
    (exported / "ours/dir/sub").mkdir(parents=True)
    (exported / "elsewhere").mkdir()
    passed = Passed(exported / "ours")
    directory, inner = passed.node("dir"), passed.node("dir/sub")
    number, _ = passed.fs.fileid(inner)
    assert node_of(passed.fs.lookup(inner, "..", SERVER)) is directory
    assert node_of(passed.fs.lookup(directory, "..", SERVER)) is passed.root
    assert node_of(passed.fs.lookup(passed.root, "..", SERVER)) is passed.root
    (exported / "ours/dir").rename(exported / "elsewhere/dir")
    for lost in (directory, inner):
        with fails(errno.ESTALE):
            passed.fs.lookup(lost, "..", SERVER)
    with fails(errno.ESTALE):
        passed.fs.vget(number)
    (exported / "elsewhere/dir/sub").rename(exported / "ours/sub")
    assert node_of(passed.fs.vget(number)) is inner
    assert node_of(passed.fs.lookup(inner, "..", SERVER)) is passed.root


@opens_handles
def test_null_finds_a_renamed_file(exported: Path) -> None:
    (exported / "file").write_text("contents")
    (exported / "dir").mkdir()
    passed = Passed(exported)
    number, _ = passed.fs.fileid(passed.node("file"))
    (exported / "file").rename(exported / "dir/renamed")
    again = Passed(exported)
    assert again.read(node_of(again.fs.vget(number))) == b"contents"


@either_right
def test_null_without_a_right_or_without_handles_promises_none(
    any_host: Path, nobody: bool
) -> None:
    (any_host / "file").touch()
    has_handles = hostcalls.file_handle(Descriptor(os.open(any_host, os.O_PATH))) is not None

    def body(path: str) -> None:
        passed = Passed(path)
        node = passed.node("file")
        number, _ = passed.fs.fileid(node)
        if has_handles and not nobody and os.geteuid() == 0:
            assert node_of(passed.fs.vget(number)) is node
            return
        with fails(errno.EOPNOTSUPP):
            passed.fs.nodetofh(node)
        with fails(errno.ESTALE):
            passed.fs.vget(number)
        with fails(errno.ESTALE):
            passed.fs.fhtonode(bytes(20))

    in_child(body, any_host, nobody=nobody)


@opens_handles
def test_null_promises_no_handles_of_files_in_other_mounts(host: Path) -> None:
    (host / "other").mkdir()
    mount("none", str(host / "other"), "tmpfs", 0, "")
    try:
        (host / "other/file").touch()
        passed = Passed(host)
        node = passed.node("other/file")
        with fails(errno.EOPNOTSUPP):
            passed.fs.nodetofh(node)
        number, _ = passed.fs.fileid(node)
        with fails(errno.ESTALE):
            passed.fs.vget(number)
        # The way up leads out of the mount, and not out of the directory.
        assert node_of(passed.fs.lookup(passed.node("other"), "..", SERVER)) is passed.root
        passed.fs.unmounted()
    finally:
        umount2(str(host / "other"), MNT_DETACH)
