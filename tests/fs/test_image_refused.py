"""Images of `mem` that are damaged or forged: refused, or as good as any other."""

import os
import stat
import tracemalloc
from pathlib import Path
from struct import pack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puffs.fs.extents import CHUNK
from puffs.fs.image import ImageError
from puffs.fs.mem import MemFS
from puffs.fs.nodes import FILE_MAX
from tests.fs.host import acl
from tests.fs.images import (
    LNK,
    REG,
    Record,
    check,
    data,
    directory,
    end,
    file,
    golden,
    link,
    loaded,
    next_ino_of,
    records_of,
    rich,
    root,
    saved,
    sealed,
    symlink,
    tree,
    xattr,
)
from tests.fs.memory import a_tree

# -------------------------------------------------------------------------------- what is refused


def refused(image: bytes, directory: Path, says: str, **limits: int) -> None:
    with pytest.raises(ImageError, match=says):
        loaded(image, directory, **limits)


BAD: dict[str, tuple[list[Record], str]] = {
    "no root": ([end(0)], "no root"),
    "two roots": ([root(), root(ino=2), end(2)], "no directory 0 before it"),
    "root is a file": ([root(mode=REG), end(1)], "not the root directory"),
    "root has a name": ([root(name=b"x"), end(1)], "not the root directory"),
    "root has a parent": ([root(parent=1), end(1)], "not the root directory"),
    "xattr before the root": ([xattr(b"user.a", b""), root(), end(1)], "without a file"),
    "inode number 0": ([root(), file(0, b"f"), end(2)], "inode number 0"),
    "inode number to come": ([root(), file(100, b"f"), end(2)], "inode number 100 is not"),
    "inode number twice": ([root(), file(2, b"f"), file(2, b"g"), end(3)], "2 is that of another"),
    "inode number of the root": ([root(), file(1, b"f"), end(2)], "1 is that of another"),
    "unknown parent": ([root(), file(2, b"f", parent=9), end(2)], "no directory 9"),
    "own parent": ([root(), directory(2, b"d", parent=2), end(2)], "no directory 2"),
    "cycle": (
        [root(), directory(2, b"d", parent=3), directory(3, b"d", parent=2), end(3)],
        "no directory 3",
    ),
    "parent is a file": ([root(), file(2, b"f"), file(3, b"g", parent=2), end(3)], "directory 2"),
    "two parents": ([root(), directory(2, b"d"), link(1, 2, b"e"), end(2)], "2 has a second name"),
    "link to the root": ([root(), link(1, 1, b"e"), end(1)], "1 has a second name"),
    "link to nothing": ([root(), link(1, 2, b"e"), end(1)], "no file 2 before"),
    "link in nothing": ([root(), file(2, b"f"), link(3, 2, b"e"), end(2)], "no directory 3"),
    "name twice": ([root(), file(2, b"f"), file(3, b"f"), end(3)], "'f' is there twice"),
    "linked name twice": ([root(), file(2, b"f"), link(1, 2, b"f"), end(2)], "'f' is there twice"),
    "no name": ([root(), file(2, b""), end(2)], "b'' cannot be the name"),
    "slash": ([root(), file(2, b"a/b"), end(2)], "b'a/b' cannot be the name"),
    "NUL": ([root(), file(2, b"a\0b"), end(2)], "cannot be the name"),
    "dot": ([root(), file(2, b"."), end(2)], r"b'\.' cannot be the name"),
    "dot dot": ([root(), file(2, b"f"), link(1, 2, b".."), end(2)], r"b'\.\.' cannot be the name"),
    "long name": ([root(), file(2, b"f" * 256), end(2)], "cannot be the name"),
    "long link": ([root(), file(2, b"f"), link(1, 2, b"f" * 256), end(2)], "272 bytes cannot be"),
    "name beyond": ([root(), file(2, b"f", name_length=2), end(2)], "longer than its record"),
    "no type": ([root(), file(2, b"f", mode=0o644), end(2)], "no file of mode 0o644"),
    "unknown type": ([root(), file(2, b"f", mode=0o170644), end(2)], "no file of mode 0o170644"),
    "mode bits": ([root(), file(2, b"f", mode=1 << 31 | REG), end(2)], "no file of mode"),
    "size": ([root(), file(2, b"f", size=1 << 63), end(2)], "the size 9223372036854775808"),
    "size of a fifo": (
        [root(), file(2, b"f", mode=stat.S_IFIFO, size=1), end(2)],
        "the size 1 cannot",
    ),
    "nanoseconds": ([root(), file(2, b"f", mtime=(0, 10**9)), end(2)], "a second or more"),
    "birth": ([root(), file(2, b"f", btime=(1, (1 << 32) - 1)), end(2)], "a second or more"),
    "no target": ([root(), symlink(2, b"s", b""), end(2)], "target of 0 bytes"),
    "long target": ([root(), symlink(2, b"s", b"x" * 4096), end(2)], "target of 4096 bytes"),
    "target with NUL": ([root(), symlink(2, b"s", b"x\0"), end(2)], "target of 2 bytes"),
    "target of a file": ([root(), file(2, b"f", target=b"x"), end(2)], "no symbolic link"),
    "xattr after a link": (
        [root(), file(2, b"f"), link(1, 2, b"g"), xattr(b"user.a", b""), end(2)],
        "without a file",
    ),
    "xattr twice": (
        [root(), xattr(b"user.a", b""), xattr(b"user.a", b""), end(1)],
        "'user.a' is there twice",
    ),
    "xattr without a name": ([root(), xattr(b"", b"x"), end(1)], "cannot be the name of an ext"),
    "xattr of no kind": ([root(), xattr(b"system.other", b""), end(1)], "cannot be the"),
    "no ACL": ([root(), xattr(b"system.posix_acl_access", b""), end(1)], "no access control list"),
    "ACL of another mode": (
        [root(), xattr(b"system.posix_acl_access", acl(user=5)), end(1)],
        "does not fit the mode 40755",
    ),
    "ACL of a link": (
        [root(), symlink(2, b"s", b"t"), xattr(b"system.posix_acl_access", acl(user=5)), end(2)],
        "does not fit the mode",
    ),
    "default ACL of a file": (
        [root(), file(2, b"f"), xattr(b"system.posix_acl_default", acl(user=5)), end(2)],
        "of what is no directory",
    ),
    "xattr NUL": ([root(), xattr(b"user.a\0b", b""), end(1)], "cannot be the name of an ext"),
    "xattr name": ([root(), xattr(b"user." + b"x" * 251, b""), end(1)], "cannot be the name of an"),
    "xattr beyond": ([root(), xattr(b"user.a", b"", 7), end(1)], "cannot be the name of an ext"),
    "xattr value": ([root(), xattr(b"user.a", b"x" * 65537), end(1)], "has 65537 bytes"),
    "data of a directory": ([root(), data(0, b"x"), end(1)], "without a regular file"),
    "data of a link": ([root(), symlink(2, b"s", b"t"), data(0, b"x"), end(2)], "without a regul"),
    "data after a link": (
        [root(), file(2, b"f", size=1), link(1, 2, b"g"), data(0, b"x"), end(2)],
        "without a regular",
    ),
    "no data": ([root(), file(2, b"f"), data(0, b""), end(2)], "of 8 bytes cannot be"),
    "long data": ([root(), file(2, b"f"), data(0, bytes(65537)), end(2)], "65545 bytes cannot be"),
    "data twice": (
        [root(), file(2, b"f"), data(0, b"\0"), data(0, b"\0"), end(2)],
        "contents at 0 come after",
    ),
    "data backwards": (
        [root(), file(2, b"f"), data(131072, b"\0"), data(65536, b"\0"), end(2)],
        "contents at 65536 come after",
    ),
    "data anywhere": ([root(), file(2, b"f", size=9), data(1, b"x"), end(2)], "be stored at 1$"),
    "data far": (
        [root(), file(2, b"f", size=FILE_MAX), data((1 << 63) - CHUNK, bytes(CHUNK)), end(2)],
        "cannot be stored at",
    ),
    "data too far": (
        [root(), file(2, b"f", size=FILE_MAX), data(1 << 63, b"x"), end(2)],
        "cannot be stored at",
    ),
    "data behind the end": (
        [root(), file(2, b"f", size=2), data(0, b"\0\0\0x"), end(2)],
        "not zer",
    ),
    "too many files": ([root(), file(2, b"f"), end(1)], "1 files should be here, and 2 are"),
    "too few files": ([root(), end(1 << 60)], f"{1 << 60} files should be here"),
    "unknown kind": ([root(), (b"WHAT", b""), end(1)], "no kind of record b'WHAT'"),
    "short node": ([root(), (b"NODE", b"\1" * 93), end(1)], "of 93 bytes cannot be"),
    "short link": ([root(), (b"LINK", b"\1" * 15), end(1)], "of 15 bytes cannot be"),
    "short xattr": ([root(), (b"XATR", b"\1"), end(1)], "of 1 bytes cannot be"),
    "short end": ([root(), (b"END ", b"\1" * 7)], "of 7 bytes cannot be"),
    "no end": ([root(), file(2, b"f")], "cut off"),
    "behind the end": ([root(), end(1), end(1)], "behind the end of the image"),
}


@pytest.mark.parametrize(("records", "says"), BAD.values(), ids=BAD.keys())
def test_nonsense_is_refused(records: list[Record], says: str, tmp_path: Path) -> None:
    """Although all checksums are right."""
    refused(sealed(*records), tmp_path, says)


def test_the_offset_is_that_of_the_record(tmp_path: Path) -> None:
    good = [root(), file(2, b"f"), directory(3, b"d")]
    at = len(sealed(*good))
    refused(
        sealed(*good, file(2, b"x"), end(4)), tmp_path, rf"loaded\.img: at byte {at}: the inode"
    )


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (b"", "at byte 0: this is no image"),
        (b"\x89puffs\r", "this is no image"),
        (b"#!/bin/sh\nexit 0\n" * 10, "this is no image"),
        (golden().replace(b"\r\n", b"\n", 1), "this is no image"),
        (golden()[:8], "at byte 0: the image is cut off"),
        (sealed(root(), end(1), version=2), "version 2, and only version 1 is known"),
        (sealed(root(), end(1), version=0), "version 0, and only version 1 is known"),
        (sealed(root(), end(1), next_ino=1 << 63), "is 2\\^63 or more"),
        (sealed(root(), end(1), next_ino=0), "inode number 1 is not between"),
        (golden() + b"\0", "behind the end"),
    ],
)
def test_what_is_no_image_of_this_version_is_refused(
    image: bytes, says: str, tmp_path: Path
) -> None:
    refused(image, tmp_path, says)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    image = golden()
    for bit in range(8 * len(image)):
        damaged = bytearray(image)
        damaged[bit // 8] ^= 1 << bit % 8
        refused(bytes(damaged), tmp_path, "at byte")


def test_every_cut_is_found(tmp_path: Path) -> None:
    image = golden()
    for length in range(len(image)):
        refused(image[:length], tmp_path, "cut off|no image")


def test_records_that_are_left_out_or_exchanged_are_found(tmp_path: Path) -> None:
    """Also by the checksums: they are not those of single records."""
    image = sealed(root(), file(2, b"f"), file(3, b"g"), end(3))
    first, second = (len(sealed(root())), len(sealed(root(), file(2, b"f"))))
    length = second - first
    one, two = image[first:second], image[second : second + length]
    for middle in (one, two, two + one, one + one):
        damaged = image[:first] + middle + image[second + length :]
        refused(damaged, tmp_path, "checksum|twice|another file")


def test_lengths_are_not_believed(tmp_path: Path) -> None:
    """Nothing is allocated for what is not there."""
    heads = [pack("<4sI", kind, 60_000) for kind in (b"XATR", b"DATA")]
    heads += [pack("<4sI", kind, (1 << 32) - 1) for kind in (b"NODE", b"DATA", b"LINK", b"END ")]
    tracemalloc.start()
    try:
        for head in heads:
            refused(sealed(root(), file(2, b"f")) + head + bytes(50), tmp_path, "cut|cannot be")
        refused(sealed(root(), file(2, b"f", size=FILE_MAX)), tmp_path, "cut off")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_an_image_takes_no_more_room_than_it_has_bytes(tmp_path: Path) -> None:
    """Stored contents begin at the start of a chunk, so nothing has to be filled in before them."""
    chunks = [data(number * CHUNK, b"x") for number in range(1000)]
    box = loaded(sealed(root(), file(2, b"f", size=FILE_MAX), *chunks, end(2)), tmp_path, size=1000)
    assert box.attr("f").blocks == 2


@pytest.mark.parametrize(("size", "files"), [(9, 0), (0, 2)])
def test_limits_hold_for_images_too(size: int, files: int, tmp_path: Path) -> None:
    def image(contents: int, names: int) -> bytes:
        made = [file(n, b"%d" % n) for n in range(2, names + 2)]
        mine = [file(50, b"f", size=99), data(0, b"x" * contents), xattr(b"user.a", b"")]
        return sealed(root(), *made, *mine, end(names + 2))

    loaded(image(3, 1), tmp_path, size=size, files=files)
    says = r"more than the 9 bytes that size= lets in" if size else r"more files than files=2 lets"
    refused(image(4, 2), tmp_path, says, size=size, files=files)


@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
def test_what_is_no_file_is_no_image(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if kind == "directory":
        with pytest.raises(IsADirectoryError):
            MemFS(image=tmp_path)
        return
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(ImageError, match="no regular file"):
        MemFS(image="/dev/zero" if kind == "device" else path)


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        MemFS(image=tmp_path / "missing")
    with pytest.raises(ValueError, match="names no file"):
        MemFS(image="")


# ------------------------------------------------------------------------------------------- fuzz

LIMITS = {"size": 1 << 20, "files": 50}


def survives(image: bytes, directory: Path) -> bool:
    """It is refused, or is a file system like any other, which makes an image like any other."""
    try:
        box = loaded(image, directory, **LIMITS)
    except ImageError:
        return False
    before = tree(box)
    copy = saved(box, directory)
    again = loaded(copy, directory, **LIMITS)
    assert tree(again) == before
    assert saved(again, directory) == copy
    check(again, **LIMITS)
    return True


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    directory = tmp_path_factory.mktemp("seeds")
    return [golden(), saved(a_tree(), directory), saved(rich(), directory)]


numbers = st.sampled_from(
    [0, 1, 2, 3, 50, 254, 255, 256, 4095, 65535, 65536, 0o100644, 0o40755, 0o120777, 10**9]
    + [(1 << bits) + delta for bits in (16, 31, 32, 63) for delta in (-1, 0)]
)
fuzzing = settings(
    max_examples=250,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@fuzzing
@given(choices=st.data())
def test_mutated_bytes(seeds: list[bytes], tmp_path: Path, choices: st.DataObject) -> None:
    image = bytearray(choices.draw(st.sampled_from(seeds)))
    for _ in range(choices.draw(st.integers(1, 4))):
        at = choices.draw(st.integers(0, len(image) - 1))
        size = choices.draw(st.integers(0, 12))
        image[at : at + size] = choices.draw(st.binary(max_size=12))
    survives(bytes(image), tmp_path)


def mutated(record: Record, choices: st.DataObject) -> Record:
    """A record with a field changed, and a length that may not suit it any more."""
    kind, payload = record
    how = choices.draw(st.sampled_from(["number", "bytes", "cut", "longer", "kind"]))
    if how == "kind":
        return choices.draw(st.sampled_from([b"NODE", b"XATR", b"DATA", b"LINK", b"END "])), payload
    at = choices.draw(st.integers(0, max(0, min(len(payload), 110) - 1)))
    if how == "cut":
        return kind, payload[:at]
    if how == "longer":
        return kind, payload + choices.draw(st.binary(max_size=300))
    if how == "number":
        code = choices.draw(st.sampled_from(["<H", "<I", "<Q"]))
        limit = {"<H": 1 << 16, "<I": 1 << 32, "<Q": 1 << 64}[code]
        patch = pack(code, choices.draw(numbers) % limit)
        at -= at % choices.draw(st.sampled_from([1, 2, 4]))
    else:
        patch = choices.draw(st.binary(min_size=1, max_size=9))
    return kind, payload[:at] + patch + payload[at + len(patch) :]


@fuzzing
@given(choices=st.data())
def test_mutated_records_with_right_checksums(
    seeds: list[bytes], tmp_path: Path, choices: st.DataObject
) -> None:
    image = choices.draw(st.sampled_from(seeds))
    records = records_of(image)
    for _ in range(choices.draw(st.integers(1, 3))):
        at = choices.draw(st.integers(0, len(records) - 1))
        match choices.draw(st.sampled_from(["change", "change", "drop", "double", "move"])):
            case "change":
                records[at] = mutated(records[at], choices)
            case "drop" if len(records) > 1:
                del records[at]
            case "double":
                records.insert(choices.draw(st.integers(0, len(records))), records[at])
            case "move":
                records.insert(choices.draw(st.integers(0, len(records) - 1)), records.pop(at))
    survives(sealed(*records, next_ino=next_ino_of(image)), tmp_path)


few = st.integers(0, 6)
modes = st.sampled_from([REG | 0o644, REG, stat.S_IFDIR | 0o1777, LNK, stat.S_IFIFO, 0o170000])
labels = st.sampled_from([b"a", b"b", b"\xff", b"..", b"", b"x/y"])
any_record = st.one_of(
    st.builds(file, few, labels, parent=few, mode=modes),
    st.builds(file, few, labels, size=numbers),
    st.builds(directory, few, labels, parent=few),
    st.builds(symlink, few, labels, labels),
    st.builds(link, few, few, labels),
    st.builds(xattr, labels.map(b"user.".__add__), st.binary(max_size=5)),
    st.builds(data, few.map(CHUNK.__mul__), st.binary(max_size=5) | few.map(bytes)),
    st.builds(end, few),
)


@fuzzing
@given(records=st.lists(any_record, max_size=8), finish=st.booleans())
def test_any_records(tmp_path: Path, records: list[Record], finish: bool) -> None:
    made = sum(kind == b"NODE" for kind, _ in records) + 1
    survives(sealed(root(), *records, *[end(made)] * finish), tmp_path)
