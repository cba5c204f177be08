"""Images of `mem` made by hand, from the description of the format and not by its code."""

import errno
import os
import stat
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from struct import pack, unpack_from
from typing import Any

from puffs.fs.extents import CHUNK
from puffs.fs.nodes import FILE_MAX, Directory, File, Node, Symlink
from tests.fs.memory import ROOT, Box, a_tree, fails, node_of, quietly

REG, DIR, LNK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
ROOT_INO = 1
KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE of fallocate(2)."""

Record = tuple[bytes, bytes]
"""Kind and payload."""


@dataclass(frozen=True)
class NodeRecord:
    """A "NODE", with defaults for what a test does not care about."""

    ino: int
    name: bytes = b""
    parent: int = ROOT_INO
    mode: int = REG | 0o644
    generation: int = 7
    uid: int = 1000
    gid: int = 100
    rdev: int = 0
    size: int = 0
    atime: tuple[int, int] = (10, 1)
    mtime: tuple[int, int] = (20, 2)
    ctime: tuple[int, int] = (30, 3)
    btime: tuple[int, int] = (-40, 4)
    target: bytes = b""
    name_length: int | None = None

    def record(self, **changes: Any) -> Record:
        it = replace(self, **changes)
        length = len(it.name) if it.name_length is None else it.name_length
        times = [number for time in (it.atime, it.mtime, it.ctime, it.btime) for number in time]
        owner = (it.uid, it.gid, it.rdev)
        fixed = (it.parent, it.ino, it.generation, it.mode, *owner, it.size, *times, length)
        return b"NODE", pack("<QQ IIIII Q qI qI qI qI H", *fixed) + it.name + it.target


root = NodeRecord(ROOT_INO, parent=0, mode=DIR | 0o755).record


def file(ino: int, name: bytes, **fields: Any) -> Record:
    return NodeRecord(ino, name, **fields).record()


def directory(ino: int, name: bytes, **fields: Any) -> Record:
    return NodeRecord(ino, name, mode=DIR | 0o700, **fields).record()


def symlink(ino: int, name: bytes, target: bytes) -> Record:
    return NodeRecord(ino, name, mode=LNK | 0o777, target=target).record()


def xattr(name: bytes, value: bytes, length: int | None = None) -> Record:
    return b"XATR", pack("<H", len(name) if length is None else length) + name + value


def data(offset: int, stored: bytes) -> Record:
    return b"DATA", pack("<Q", offset) + stored


def link(parent: int, ino: int, name: bytes) -> Record:
    return b"LINK", pack("<QQ", parent, ino) + name


def end(nodes: int) -> Record:
    return b"END ", pack("<Q", nodes)


def sealed(
    *records: Record,
    next_ino: int = 100,
    magic: bytes = b"\x89puffs\r\n",
    version: int = 1,
) -> bytes:
    """An image of records, with the right checksums."""
    image = magic + pack("<IQ", version, next_ino)
    crc = zlib.crc32(image)
    for kind, payload in records:
        record = kind + pack("<I", len(payload)) + payload
        crc = zlib.crc32(record, crc)
        image += record + pack("<I", crc)
    return image


def records_of(image: bytes) -> list[Record]:
    """The records of an image that is whole."""
    at, found = 20, []
    while at < len(image):
        kind, length = unpack_from("<4sI", image, at)
        found.append((kind, image[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def next_ino_of(image: bytes) -> int:
    number: int = unpack_from("<Q", image, 12)[0]
    return number


def loaded(image: bytes, directory: Path, size: int = 0, files: int = 0) -> Box:
    """The file system in an image."""
    path = directory / "loaded.img"
    path.write_bytes(image)
    return Box(size, files, path)


def saved(box: Box, directory: Path) -> bytes:
    """The image of a file system."""
    path = directory / "saved.img"
    box.fs.snapshot(str(path))
    return path.read_bytes()


def names_of(box: Box) -> dict[Node, list[str]]:
    """All files, each with its paths, in the order of listings."""
    found: dict[Node, list[str]] = {box.root: ["/"]}
    todo = [("", box.root)]
    for path, node in todo:
        for entry in box.fs.readdir(node, 0, None):
            child = node_of(box.fs.lookup(node, entry.name, ROOT))
            assert entry.ino == child.attr.ino
            if isinstance(child, Directory):
                todo.append((f"{path}/{entry.name}", child))
            found.setdefault(child, []).append(f"{path}/{entry.name}")
    return found


def tree(box: Box) -> dict[str, Any]:
    """All that can be seen of a file system: for each path, in order, its file and its paths."""
    found = {}
    with quietly():
        for node, paths in names_of(box).items():
            found.update(dict.fromkeys(paths, (facts(box, node), paths)))
    return found


def facts(box: Box, node: Node) -> Any:
    """What operations tell of a file."""
    more: Any = None
    if isinstance(node, Symlink):
        more = box.fs.readlink(node)
    elif isinstance(node, File):
        more = data_of(box, node)
    xattrs = {name: bytes(box.fs.getxattr(node, name)) for name in box.fs.listxattr(node)}
    return type(node), box.fs.getattr(node).copy(), box.fs.fileid(node), xattrs, more


def data_of(box: Box, node: Node) -> list[tuple[int, bytes]]:
    """What a file has stored: offsets and bytes."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while True:
        try:
            start = box.seek(node, at, os.SEEK_DATA)
        except OSError as exc:
            assert exc.errno == errno.ENXIO  # noqa: PT017  there is no more
            return found
        at = box.seek(node, start, os.SEEK_HOLE)
        found.append((start, box.read(node, start, at - start)))


def check(box: Box, size: int, files: int) -> None:
    """What must be so in every file system: what is counted is there, and there is room for the
    rest of its limits, to the last byte. Changes it.
    """
    names = names_of(box)
    below: Counter[Node | None] = Counter(
        node.parent for node in names if isinstance(node, Directory)
    )
    below[box.root] -= 1
    used = 0
    for node, paths in names.items():
        attr = box.fs.getattr(node)
        if isinstance(node, Directory):
            assert (attr.nlink, len(paths)) == (2 + below[node], 1)
        else:
            assert attr.nlink == len(paths)
        if isinstance(node, File):
            taken = node.contents().allocated
            assert attr.blocks == (taken + 511) // 512
            box.set(node, size=FILE_MAX)  # what was behind its end can be seen now
            assert sum(len(data) for _, data in data_of(box, node)) == taken
            used += taken
        used += sum(len(name) + len(value) for name, value in (node.xattrs or {}).items())
    inos = {node.attr.ino for node in names}
    assert len(inos) == len(names)
    assert box.fs.statvfs().ffree == files - (len(names) - 1)
    if len(names) <= files:
        new = box.file("a name that was not there")
        assert new.attr.ino > max(inos)
        if size > used:
            box.reserve(new, 0, size - used)
        with fails(errno.ENOSPC):
            box.write(new, size - used, b"x")


# ------------------------------------------------------------------------------------------ samples

SIMPLE: tuple[Record, ...] = (
    root(),
    file(2, b"f", size=3, btime=(0, (1 << 32) - 1)),
    xattr(b"user.a", b"v"),
    data(0, b"abc"),
    link(1, 2, b"g"),
    end(2),
)
"""The root, and a file that has two names, an extended attribute and three bytes."""


def rich() -> Box:
    """A file system with something of everything."""
    box = a_tree()
    box.file("name \udcff\n")
    box.symlink("odd", "to \udcfe")
    box.link("sym", "full/sym")
    box.link("fifo", "full/deep/fifo")
    box.mknod("device", stat.S_IFBLK | 0o6612, os.makedev(259, 70_000))
    box.mknod("null", stat.S_IFCHR, os.makedev(1, 3))
    box.mknod("socket", stat.S_IFSOCK | 0o7)
    holes = box.file("holes")
    box.set(holes, size=FILE_MAX)
    for at, text in ((0, b"a"), (CHUNK - 1, b"bc"), (5 * CHUNK + 7, b"d" * CHUNK), (1 << 40, b"e")):
        box.write(holes, at, text)
    box.reserve(holes, CHUNK, 10, KEEP_SIZE | 2)
    box.reserve(box.file("reserved", b"begin"), 0, 3 * CHUNK + 5, KEEP_SIZE)
    box.file("full/large", bytes(range(256)) * 1000)
    box.set(box.node("full"), mode=0o3750, uid=1 << 31, mtime_ns=-1, ctime_ns=-1_500_000_000)
    box.set(box.node("file"), mode=0o4711, mtime_ns=(1 << 62) + 123_456_789)
    box.fs.getattr(box.node("dir")).btime_ns = None
    for node, name, value in (
        (box.node("file"), "user.x", b"\0value"),
        (box.node("file"), "security.\udcff", b"x" * 65536),
        (box.node("odd"), "trusted.empty", b""),
        (box.root, "user.root", b"of the root"),
    ):
        box.fs.setxattr(node, name, value, 0)
    box.file("gone")
    box.remove("gone")  # one number is left out
    return box


def golden() -> bytes:
    """The image of `SIMPLE`."""
    return sealed(*SIMPLE, next_ino=5)
