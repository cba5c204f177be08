"""The image of a `mem` file system: one file that holds all of it.

    puffs snapshot /mnt/x /srv/x.img
    puffs mount 'mem:?image=/srv/x.img' /mnt/x

`save` writes one and `load` reads it, each in one pass that keeps no more than a record beside the
tree. What is in an image is all that has a name: files that were removed and are only open are
not. Inode numbers and generations are kept, and so is the next number, so a file handle means the
same file before and after, and no number comes to mean another file.

Format, version 1. Numbers are little-endian, and unsigned unless said otherwise. There is no
padding. Names and targets are bytes without an encoding and without a NUL at their end. An image is
a header, records, and nothing behind the last of them:

    header, 20 bytes
         0   8  magic: 89 70 75 66 66 73 0D 0A, that is "\\x89puffs\\r\\n"
         8   4  version: 1
        12   8  the inode number that the next new file gets; below 2^63

    record
         0   4  kind: one of "NODE", "XATR", "DATA", "LINK" and "END "
         4   4  n, the length of the payload
         8   n  payload
       8+n   4  CRC-32 (that of zlib) of all bytes of the image up to here but the checksums

"NODE" is a file and its first name. The first one is the root, which has no parent and no name; all
others name a directory that came before. So there is a way from the root to every file, and none
that leads in circles.

         0   8  inode number of its directory, 0 for the root
         8   8  inode number: not 0, below the next one, and no other file's
        16   4  generation
        20   4  mode as in stat(2): S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO or
                S_IFSOCK, and the permissions; no other bits
        24   4  user
        28   4  group
        32   4  device number, as in stat(2)
        36   8  size of a regular file, below 2^63; 0 for all others
        44  12  last access: seconds since 1970 (8, signed), nanoseconds (4, below 10^9)
        56  12  last modification, likewise
        68  12  last change of attributes, likewise
        80  12  birth, likewise; 0 and 2^32-1 when it is not known
        92   2  m, the length of the name: 1 to 255, 0 for the root
        94   m  name: any bytes but "/" and NUL; neither "." nor ".."; once in a directory
      94+m      target of a symbolic link, up to the end: 1 to 4095 bytes, no NUL; else nothing

"XATR" is an extended attribute of the last "NODE", each of another name.

         0   2  m, the length of the name: 1 to 255
         2   m  name: more than "user.", "trusted." or "security.", and it begins so; or
                "system.posix_acl_access", "system.posix_acl_default"; no NUL
       2+m      value, up to the end: 0 to 65536 bytes. Of the last two it is an ACL as xattr(7)
                shows it to Linux. That of access is of no symbolic link, says more than the
                permissions of the mode, and nothing else than they do; the other is a directory's.

"DATA" is what is stored of the contents of the last "NODE", a regular file. What no "DATA" covers
is a hole. They come in order, at most one for each 65536 bytes.

         0   8  offset in the file: a multiple of 65536
         8      bytes, up to the end: 1 to 65536; zeros behind the end of the file

"LINK" is one more name of a file that came before and is no directory.

         0   8  inode number of its directory
         8   8  inode number of the file
        16      name, up to the end, as in "NODE"

"END " is the last record.

         0   8  number of "NODE" records

The number of links of a file is not stored: it is the number of its names. Nothing is believed that
an image says: `load` refuses what is not as above.
"""

import os
import stat
import zlib
from collections.abc import Callable
from struct import Struct
from typing import BinaryIO, Final, NamedTuple, NoReturn

import puffs
from puffs.fs.extents import CHUNK
from puffs.fs.nodes import (
    FILE_MAX,
    NAME_MAX,
    TARGET_MAX,
    XATTR_MAX,
    Directory,
    File,
    Node,
    Symlink,
    is_xattr,
    xattr_cost,
)
from puffs.fs.replacing import replacing

MAGIC: Final = b"\x89puffs\r\n"
VERSION: Final = 1

_HEADER: Final = Struct("<8sIQ")
_RECORD: Final = Struct("<4sI")
_CHECKSUM: Final = Struct("<I")
_NODE: Final = Struct("<QQIIIIIQqIqIqIqIH")
_LENGTH: Final = Struct("<H")
_NUMBER: Final = Struct("<Q")
_LINK: Final = Struct("<QQ")

_NS: Final = 1_000_000_000
_UNBORN: Final = (0, (1 << 32) - 1)
_BUFFER: Final = 1 << 20
_TYPES: Final = frozenset(
    (
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
    )
)


class ImageError(ValueError):
    """It is no image, it is damaged, or does not fit: the message says what is wrong and where."""


class Image(NamedTuple):
    """What is in an image.

    Attributes:
        root: the tree.
        nodes: all files in it, with the root, by inode number.
        next_ino: the inode number that the next new file gets.
        used: the bytes that contents and extended attributes take.
    """

    root: Directory
    nodes: dict[int, Node]
    next_ino: int
    used: int


# ------------------------------------------------------------------------------------------ writing


def save(path: str, root: Directory, next_ino: int) -> None:
    """Write an image of the tree below `root` to `path`, which appears when it is whole.

    The tree must not change meanwhile. Raises `OSError`, and what was called `path` is still there.
    """
    with replacing(path) as stream:
        _Writer(stream).tree(root, next_ino)


class _Writer:
    """Writes records, and the checksum that runs through them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._write = stream.write
        self._crc = 0

    def tree(self, root: Directory, next_ino: int) -> None:
        """Write all of it, one directory after the other: the names in one stay together."""
        header = _HEADER.pack(MAGIC, VERSION, next_ino)
        self._write(header)
        self._crc = zlib.crc32(header)
        self._node(0, b"", root)
        nodes = 1
        linked: set[Node] = set()
        directories = [root]
        for directory in directories:  # it grows meanwhile
            parent = directory.attr.ino
            for text, node in directory.entries.items():
                name = os.fsencode(text)
                if node in linked:
                    self._record(b"LINK", _LINK.pack(parent, node.attr.ino), name)
                    continue
                self._node(parent, name, node)
                nodes += 1
                if isinstance(node, Directory):
                    directories.append(node)
                elif node.attr.nlink > 1:
                    linked.add(node)
        self._record(b"END ", _NUMBER.pack(nodes))

    def _node(self, parent: int, name: bytes, node: Node) -> None:
        """Write a file: what it is, its extended attributes, its contents."""
        attr = node.attr
        fixed = _NODE.pack(
            parent,
            attr.ino,
            node.generation,
            attr.mode,
            attr.uid,
            attr.gid,
            attr.rdev,
            attr.size if isinstance(node, File) else 0,
            *divmod(attr.atime_ns, _NS),
            *divmod(attr.mtime_ns, _NS),
            *divmod(attr.ctime_ns, _NS),
            *(_UNBORN if attr.btime_ns is None else divmod(attr.btime_ns, _NS)),
            len(name),
        )
        target = os.fsencode(node.target) if isinstance(node, Symlink) else b""
        self._record(b"NODE", fixed, name, target)
        for key, value in (node.xattrs or {}).items():
            label = os.fsencode(key)
            self._record(b"XATR", _LENGTH.pack(len(label)), label, value)
        if isinstance(node, File) and node.extents is not None:
            for offset, chunk in node.extents.chunks():
                self._record(b"DATA", _NUMBER.pack(offset), chunk)

    def _record(self, kind: bytes, *parts: bytes | bytearray) -> None:
        crc = self._crc
        for part in (_RECORD.pack(kind, sum(map(len, parts))), *parts):
            crc = zlib.crc32(part, crc)
            self._write(part)
        self._write(_CHECKSUM.pack(crc))
        self._crc = crc


# ------------------------------------------------------------------------------------------ reading


def load(path: str | os.PathLike[str], size: int, files: int) -> Image:
    """Read the image `path`.

    `size` is how many bytes its contents and extended attributes may take, `files` how many files
    it may hold beside the root (0: any number).

    Raises `ImageError` for what is no image or does not fit, `OSError` when it cannot be read.
    """
    # A fifo must not make this wait for somebody to write to it.
    with open(path, "rb", _BUFFER, opener=_opener) as stream:
        return _Reader(stream, os.fspath(path), size, files).image()


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


class _Reader:
    """Reads records and builds the tree. It believes nothing.

    Each record is checked against what came before it, so the tree is whole after each. No more is
    allocated than what the file holds: a record is no longer than the file, and a stored byte of
    contents is a byte of the image.
    """

    def __init__(self, stream: BinaryIO, path: str, size: int, files: int) -> None:
        found = os.fstat(stream.fileno())
        self._path = path
        self._at = 0
        """The offset of the record that is being read."""
        if not stat.S_ISREG(found.st_mode):
            raise ImageError(f"{path} is no regular file, so it is no image")
        self._stream = stream
        self._end = found.st_size
        self._crc = 0
        self._size = size
        self._max_files = files
        self._used = 0
        self._next_ino = 0
        self._root: Directory | None = None
        self._nodes: dict[int, Node] = {}
        self._ended = False
        # What "XATR" and "DATA" belong to, and where its next "DATA" may begin.
        self._last: Node | None = None
        self._floor = 0

    def image(self) -> Image:
        """All of it."""
        self._header()
        while not self._ended:
            self._record()
        if self._stream.read(1):
            self._refuse("there is something behind the end of the image")
        if self._root is None:
            self._refuse("there is no root")
        return Image(self._root, self._nodes, self._next_ino, self._used)

    def _refuse(self, why: str) -> NoReturn:
        raise ImageError(f"{self._path}: at byte {self._at}: {why}")

    def _header(self) -> None:
        header = self._stream.read(_HEADER.size)
        if header[: len(MAGIC)] != MAGIC:
            self._refuse("this is no image: it does not begin as one")
        if len(header) < _HEADER.size:
            self._refuse("the image is cut off")
        _, version, self._next_ino = _HEADER.unpack(header)
        if version != VERSION:
            self._refuse(f"the image is of version {version}, and only version {VERSION} is known")
        if self._next_ino > FILE_MAX:
            self._refuse(f"the next inode number, {self._next_ino}, is 2^63 or more")
        self._crc = zlib.crc32(header)
        self._at = len(header)

    def _record(self) -> None:
        head = self._stream.read(_RECORD.size)
        if len(head) < _RECORD.size:
            self._refuse("the image is cut off")
        kind, length = _RECORD.unpack(head)
        known = self._kinds.get(kind)
        if known is None:
            self._refuse(f"there is no kind of record {kind!r}")
        least, most, read = known
        if not least <= length <= most:
            self._refuse(f"a record {kind!r} of {length} bytes cannot be")
        after = self._at + _RECORD.size + length + _CHECKSUM.size
        payload = self._stream.read(length) if after <= self._end else b""
        checksum = self._stream.read(_CHECKSUM.size)
        if len(payload) < length or len(checksum) < _CHECKSUM.size:
            self._refuse("the image is cut off")
        self._crc = zlib.crc32(payload, zlib.crc32(head, self._crc))
        if _CHECKSUM.unpack(checksum) != (self._crc,):
            self._refuse("the checksum is wrong: the image is damaged here or before")
        read(self, payload)
        self._at = after

    # ---------------------------------------------------------------------------- kinds of records

    def _node(self, payload: bytes) -> None:
        parent, ino, generation, *fields, length = _NODE.unpack_from(payload)
        name, target = payload[_NODE.size :][:length], payload[_NODE.size + length :]
        if len(name) < length:
            self._refuse("the name is longer than its record")
        if not 0 < ino < self._next_ino:
            self._refuse(f"the inode number {ino} is not between 0 and the next one")
        if ino in self._nodes:
            self._refuse(f"the inode number {ino} is that of another file, too")
        if self._max_files and len(self._nodes) > self._max_files:
            self._refuse(f"the image holds more files than files={self._max_files} lets in")
        node = self._made(self._attr(ino, *fields), target)
        node.generation = generation
        if self._root is not None:
            self._enter(parent, name, node)
        elif parent or name or not isinstance(node, Directory):
            self._refuse("the first file is not the root directory")
        else:
            self._root = node.parent = node
        self._nodes[ino] = self._last = node
        self._floor = 0

    def _attr(
        self, ino: int, mode: int, uid: int, gid: int, rdev: int, size: int, *times: int
    ) -> puffs.Attr:
        if stat.S_IFMT(mode) not in _TYPES or mode != stat.S_IFMT(mode) | stat.S_IMODE(mode):
            self._refuse(f"there is no file of mode {mode:#o}")
        if size > (FILE_MAX if stat.S_ISREG(mode) else 0):
            self._refuse(f"the size {size} cannot be that of a file of mode {mode:#o}")
        seconds, parts = times[::2], times[1::2]
        born = (seconds[3], parts[3]) != _UNBORN
        if any(part >= _NS for part in (parts if born else parts[:3])):
            self._refuse("a time has a second or more of nanoseconds")
        atime, mtime, ctime, btime = (
            second * _NS + part for second, part in zip(seconds, parts, strict=True)
        )
        return puffs.Attr(
            mode,
            size,
            uid=uid,
            gid=gid,
            atime_ns=atime,
            mtime_ns=mtime,
            ctime_ns=ctime,
            btime_ns=btime if born else None,
            ino=ino,
            rdev=rdev,
            blocks=0,
        )

    def _made(self, attr: puffs.Attr, target: bytes) -> Node:
        if attr.type == stat.S_IFLNK:
            if not 0 < len(target) <= TARGET_MAX or b"\0" in target:
                self._refuse(f"a symbolic link cannot have that target of {len(target)} bytes")
            return Symlink(attr, os.fsdecode(target))
        if target:
            self._refuse("a target, although it is no symbolic link")
        if attr.type == stat.S_IFDIR:
            return Directory(attr)
        return File(attr) if attr.type == stat.S_IFREG else Node(attr)

    def _enter(self, parent: int, name: bytes, node: Node) -> None:
        """Give a file a name."""
        directory = self._nodes.get(parent)
        if not isinstance(directory, Directory):
            self._refuse(f"there is no directory {parent} before it")
        if not 0 < len(name) <= NAME_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
            self._refuse(f"{name!r} cannot be the name of a file")
        text = os.fsdecode(name)
        if text in directory.entries:
            self._refuse(f"the name {name!r} is there twice in one directory")
        directory.entries[text] = node
        if isinstance(node, Directory):
            node.parent = directory
            directory.attr.nlink += 1

    def _link(self, payload: bytes) -> None:
        parent, ino = _LINK.unpack_from(payload)
        node = self._nodes.get(ino)
        if node is None:
            self._refuse(f"there is no file {ino} before its further name")
        if isinstance(node, Directory):
            self._refuse(f"the directory {ino} has a second name")
        self._enter(parent, payload[_LINK.size :], node)
        node.attr.nlink += 1
        self._last = None

    def _xattr(self, payload: bytes) -> None:
        node = self._last
        if node is None:
            self._refuse("an extended attribute without a file before it")
        (length,) = _LENGTH.unpack_from(payload)
        label, value = payload[_LENGTH.size :][:length], payload[_LENGTH.size + length :]
        name = os.fsdecode(label)
        if len(label) < length or length > NAME_MAX or b"\0" in label or not is_xattr(name):
            self._refuse(f"{label!r} cannot be the name of an extended attribute")
        if len(value) > XATTR_MAX:
            self._refuse(f"the value of an extended attribute has {len(value)} bytes")
        if node.xattrs is None:
            node.xattrs = {}
        if name in node.xattrs:
            self._refuse(f"the extended attribute {label!r} is there twice")
        if name in puffs.ACL_NAMES:
            self._acl(node, name, value)
        self._take(xattr_cost(name, value))
        node.xattrs[name] = value  # in place: nobody else has seen it yet

    def _acl(self, node: Node, name: str, value: bytes) -> None:
        try:
            acl = puffs.Acl.parse(value)
        except OSError:
            self._refuse(f"the value of {name} is no access control list")
        if name == puffs.ACL_DEFAULT:
            if not isinstance(node, Directory):
                self._refuse(f"{name} of what is no directory")
            return
        if isinstance(node, Symlink) or acl.minimal or acl.mode != node.attr.mode & 0o777:
            self._refuse(f"{name} does not fit the mode {node.attr.mode:o}")
        node.attr.acl = value

    def _data(self, payload: bytes) -> None:
        node = self._last
        if not isinstance(node, File):
            self._refuse("contents without a regular file before them")
        (offset,) = _NUMBER.unpack_from(payload)
        data = memoryview(payload)[_NUMBER.size :]
        if offset % CHUNK or offset > FILE_MAX - len(data):
            self._refuse(f"contents cannot be stored at {offset}")
        if offset < self._floor:
            self._refuse(f"contents at {offset} come after those behind them")
        behind = payload[_NUMBER.size + max(0, node.attr.size - offset) :]
        if behind.count(0) != len(behind):
            self._refuse("what is stored behind the end of the file is not zeros")
        self._take(len(data))
        extents = node.contents()
        extents.write(offset, data, len(data))
        node.attr.blocks = extents.blocks
        self._floor = offset + CHUNK

    def _take(self, size: int) -> None:
        if size > self._size - self._used:
            self._refuse(f"the image holds more than the {self._size} bytes that size= lets in")
        self._used += size

    def _finish(self, payload: bytes) -> None:
        (nodes,) = _NUMBER.unpack(payload)
        if nodes != len(self._nodes):
            self._refuse(f"{nodes} files should be here, and {len(self._nodes)} are")
        self._ended = True

    # For each kind the least and the most bytes of its payload, and who reads it.
    _kinds: Final[dict[bytes, tuple[int, int, Callable[["_Reader", bytes], None]]]] = {
        b"NODE": (_NODE.size, _NODE.size + NAME_MAX + TARGET_MAX, _node),
        b"XATR": (_LENGTH.size, _LENGTH.size + NAME_MAX + XATTR_MAX, _xattr),
        b"DATA": (_NUMBER.size + 1, _NUMBER.size + CHUNK, _data),
        b"LINK": (_LINK.size, _LINK.size + NAME_MAX, _link),
        b"END ": (_NUMBER.size, _NUMBER.size, _finish),
    }
