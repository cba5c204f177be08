"""Attributes of a file (`stat(2)`) and of a file system (`statvfs(3)`), kept as the bytes that a
host is sent.

An attribute reply is the most frequent one of all. `Attr` therefore *is* its wire image, and its
fields are views into it: a reply copies 80 bytes instead of packing 16 numbers. The layout is that
of `fuse_attr` in `fuse(4)` without its inode number, which the kernel half may have to fill in;
`tests/wire` holds it against the codec's table.
"""

import os
import stat
import sys
import time
from struct import Struct
from typing import ClassVar, Final, Self, overload

from puffs.server.acl import Acl
from puffs.server.cred import Cred

_NS: Final = 1_000_000_000

# size blocks | atime mtime ctime, seconds | the same, nanoseconds | mode nlink uid gid rdev blksize
# flags
WIRE: Final = Struct("=QQqqqIIIIIIIIII")
"""The image of an `Attr`, for those who make it of numbers of their own (`Attr.wire`)."""
WIRE_SIZE: Final = WIRE.size
TYPE_BYTE: Final = 53 if sys.byteorder == "little" else 54
"""Where the image has the file type, in the upper half of a byte: the second lowest of `mode`."""


_fractions: Final = Struct("=III").unpack_from
"""The nanoseconds of the times of an image, which begin at byte 40."""


class _Number:
    """A field of the image: a number at a fixed place."""

    __slots__ = ("_offset", "_struct")

    def __init__(self, code: str, offset: int) -> None:
        self._struct = Struct("=" + code)
        self._offset = offset

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: "Attr", owner: type) -> int: ...
    def __get__(self, obj: "Attr | None", owner: type) -> Self | int:
        if obj is None:
            return self
        value: int = self._struct.unpack_from(obj.wire, self._offset)[0]
        return value

    def __set__(self, obj: "Attr", value: int) -> None:
        self._struct.pack_into(obj.wire, self._offset, value)


class _Time:
    """A field of the image: nanoseconds since the epoch, kept as seconds and nanoseconds at two
    places.
    """

    __slots__ = ("_fraction", "_seconds")

    def __init__(self, seconds: int, fraction: int) -> None:
        self._seconds = _Number("q", seconds)
        self._fraction = _Number("I", fraction)

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: "Attr", owner: type) -> int: ...
    def __get__(self, obj: "Attr | None", owner: type) -> Self | int:
        if obj is None:
            return self
        return self._seconds.__get__(obj, owner) * _NS + self._fraction.__get__(obj, owner)

    def __set__(self, obj: "Attr", value: int) -> None:
        seconds, fraction = divmod(value, _NS)
        self._seconds.__set__(obj, seconds)
        self._fraction.__set__(obj, fraction)


class Attr:
    """The attributes of one file: what `getattr` returns and `Entry` carries.

    Every field but `mode` has a default. `mode` holds the type (`stat.S_IFREG`, ...) and the
    permission bits. Times are integer nanoseconds since the epoch, sizes are bytes, `blocks` counts
    512 bytes each and is derived from `size` when left out. `ino` 0 lets the kernel half fill in
    its own number. `btime_ns` is the time of birth, shown by statx(2).

    A file server may keep the `Attr` of a file, change its fields in place and return the same
    object each time: it is copied when the reply is made.

    Raises `struct.error` when a number does not fit its field of `fuse(4)`, such as a negative
    size.
    """

    __slots__ = ("_acl", "btime_ns", "ino", "wire")

    size = _Number("Q", 0)
    blocks = _Number("Q", 8)
    atime_ns = _Time(16, 40)
    mtime_ns = _Time(24, 44)
    ctime_ns = _Time(32, 48)
    mode = _Number("I", 52)
    nlink = _Number("I", 56)
    uid = _Number("I", 60)
    gid = _Number("I", 64)
    rdev = _Number("I", 68)
    blksize = _Number("I", 72)

    wire: bytearray
    ino: int
    btime_ns: int | None
    _acl: bytes | None

    def __init__(
        self,
        mode: int,
        size: int = 0,
        nlink: int = 1,
        uid: int = 0,
        gid: int = 0,
        *,
        atime_ns: int = 0,
        mtime_ns: int = 0,
        ctime_ns: int = 0,
        btime_ns: int | None = None,
        ino: int = 0,
        rdev: int = 0,
        blksize: int = 4096,
        blocks: int | None = None,
    ) -> None:
        atime, atime_part = divmod(atime_ns, _NS)
        mtime, mtime_part = divmod(mtime_ns, _NS)
        ctime, ctime_part = divmod(ctime_ns, _NS)
        self.wire = bytearray(
            WIRE.pack(
                size,
                (size + 511) >> 9 if blocks is None else blocks,
                atime,
                mtime,
                ctime,
                atime_part,
                mtime_part,
                ctime_part,
                mode,
                nlink,
                uid,
                gid,
                rdev,
                blksize,
                0,
            )
        )
        self.ino = ino
        self.btime_ns = btime_ns

    @classmethod
    def from_stat(cls, st: os.stat_result) -> Self:
        """The attributes that `os.stat` and its like have returned."""
        attr = cls.__new__(cls)  # past `__init__`, whose work is half done in `st`
        attr.wire = bytearray(
            WIRE.pack(
                st.st_size,
                st.st_blocks,
                st[stat.ST_ATIME],
                st[stat.ST_MTIME],
                st[stat.ST_CTIME],
                st.st_atime_ns % _NS,
                st.st_mtime_ns % _NS,
                st.st_ctime_ns % _NS,
                st.st_mode,
                st.st_nlink,
                st.st_uid,
                st.st_gid,
                st.st_rdev,
                st.st_blksize,
                0,
            )
        )
        attr.ino = st.st_ino
        attr.btime_ns = None
        return attr

    @classmethod
    def new(cls, mode: int, uid: int, gid: int, rdev: int, now_ns: int) -> Self:
        """The attributes of a file that is made now, and empty."""
        attr = cls.__new__(cls)
        now, part = divmod(now_ns, _NS)
        attr.wire = bytearray(
            WIRE.pack(0, 0, now, now, now, part, part, part, mode, 1, uid, gid, rdev, 4096, 0)
        )
        attr.ino = 0
        attr.btime_ns = now_ns
        return attr

    @classmethod
    def of_wire(cls, wire: bytes | memoryview, ino: int = 0, btime_ns: int | None = None) -> Self:
        """Attributes of a wire image, which is copied.

        Raises `ValueError` where that says more nanoseconds than a second has.
        """
        atime, mtime, ctime = _fractions(wire, 40)
        if atime >= _NS or mtime >= _NS or ctime >= _NS:
            raise ValueError("attributes with a time that is none")
        attr = cls.__new__(cls)
        attr.wire = bytearray(wire)
        attr.ino = ino
        attr.btime_ns = btime_ns
        return attr

    def to_stat(self, dev: int = 0) -> os.stat_result:
        """The same as an `os.stat_result`, as a host on device number `dev` would show it."""
        atime, mtime, ctime = self.atime_ns, self.mtime_ns, self.ctime_ns
        whole = (atime // _NS, mtime // _NS, ctime // _NS)
        parts = (atime / _NS, mtime / _NS, ctime / _NS)
        nanoseconds = (atime, mtime, ctime)
        rest = (self.blksize, self.blocks, self.rdev)
        ids = (self.mode, self.ino, dev, self.nlink, self.uid, self.gid, self.size)
        # The order of os.stat_result: ten for the tuple, then float and ns times, then blksize,
        # blocks and rdev.
        return os.stat_result((*ids, *whole, *parts, *nanoseconds, *rest))

    def copy(self) -> "Attr":
        """A second `Attr` with the same contents."""
        twin = Attr.__new__(Attr)
        twin.wire = self.wire[:]
        twin.ino = self.ino
        twin.btime_ns = self.btime_ns
        return twin

    @property
    def type(self) -> int:
        """The file type alone: `stat.S_IFDIR`, `stat.S_IFREG`, ..."""
        return stat.S_IFMT(self.mode)

    @property
    def acl(self) -> bytes | None:
        """The access ACL of the file, as the value of `puffs.ACL_ACCESS`; None: it has none.

        No host is sent it. It is there for `puffs.check_access` and its like, and `Changes.apply`
        lets it follow the mode. A file server sets it that keeps ACLs (`FileSystem.posix_acl`).
        """
        # Left unset by what makes attributes: these are made for every reply.
        return getattr(self, "_acl", None)

    @acl.setter
    def acl(self, value: bytes | None) -> None:
        self._acl = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Attr):
            return NotImplemented
        return (self.wire, self.ino, self.btime_ns) == (other.wire, other.ino, other.btime_ns)

    __hash__ = None  # type: ignore[assignment]  # mutable, so it must not be a key

    def __repr__(self) -> str:
        kind = stat.filemode(self.mode)
        owner = f"uid={self.uid} gid={self.gid}"
        return f"Attr({kind} size={self.size} nlink={self.nlink} {owner} ino={self.ino})"


class TimedAttr(Attr):
    """Attributes with a lifetime of their own: a host may trust them for `ttl` seconds, whatever
    the file server's `attr_ttl` says. For `getattr` and `setattr`; an `Entry` has its own.
    """

    __slots__ = ("ttl",)

    ttl: float


def as_attr(reply: object) -> Attr:
    """What a file server returned for attributes, as an `Attr`.

    Raises `TypeError` for anything but an `Attr` or an `os.stat_result`.
    """
    if isinstance(reply, Attr):
        return reply
    if isinstance(reply, os.stat_result):
        return Attr.from_stat(reply)
    raise TypeError(f"attributes must be puffs.Attr or os.stat_result, not {type(reply).__name__}")


class Changes:
    """What a `setattr` is to change: only what was set is there, the rest is None.

    `mode` holds permission bits only. `atime_now` and `mtime_now` say that the caller asked for
    "now" instead of naming a time (`UTIME_NOW`): `atime_ns` or `mtime_ns` then hold the present,
    and POSIX asks for write permission only. `kill_suidgid` says that set-user-id and set-group-id
    are taken away on behalf of a write or a change of owner; `mode` is then as that leaves it, and
    needs no permission.
    """

    __slots__ = (
        "atime_now",
        "atime_ns",
        "ctime_ns",
        "gid",
        "kill_suidgid",
        "mode",
        "mtime_now",
        "mtime_ns",
        "size",
        "uid",
    )
    _NUMBERS: ClassVar = ("mode", "uid", "gid", "size", "atime_ns", "mtime_ns", "ctime_ns")

    def __init__(
        self,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        atime_now: bool = False,
        mtime_now: bool = False,
        kill_suidgid: bool = False,
    ) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.atime_ns = atime_ns
        self.mtime_ns = mtime_ns
        self.ctime_ns = ctime_ns
        self.atime_now = atime_now
        self.mtime_now = mtime_now
        self.kill_suidgid = kill_suidgid

    def apply(self, attr: Attr, now_ns: int | None = None) -> None:
        """Write these changes into `attr`, as `chmod(2)`, `chown(2)`, `truncate(2)` and
        `utimensat(2)` would. Where it has an `acl`, that follows the mode.

        The type of the file stays; `ctime_ns` becomes `now_ns` (the clock, when None) unless it was
        set. Permission is the caller's affair: see `puffs.check_setattr`.
        """
        now = time.time_ns() if now_ns is None else now_ns
        if self.mode is not None:
            attr.mode = stat.S_IFMT(attr.mode) | stat.S_IMODE(self.mode)
            if attr.acl is not None:
                attr.acl = Acl.parse(attr.acl).with_mode(self.mode).pack()
        if self.uid is not None:
            attr.uid = self.uid
        if self.gid is not None:
            attr.gid = self.gid
        if self.size is not None:
            attr.size = self.size
            attr.blocks = (self.size + 511) >> 9
            attr.mtime_ns = now
        if self.atime_ns is not None:
            attr.atime_ns = self.atime_ns
        if self.mtime_ns is not None:
            attr.mtime_ns = self.mtime_ns
        attr.ctime_ns = now if self.ctime_ns is None else self.ctime_ns

    def shed(self, attr: Attr, cred: Cred) -> None:
        """Make what `kill_suidgid` asks for a change of `mode`, for a file that is now like `attr`.

        The kernel half does that before a file server is asked. Set-group-id without permission to
        execute, which once meant mandatory locking, stays for members of the group.
        """
        if not self.kill_suidgid or stat.S_ISDIR(attr.mode):
            return
        before = stat.S_IMODE(attr.mode if self.mode is None else self.mode)
        after = without_set_id(before)
        if after & stat.S_ISGID and not (cred.superuser or cred.in_group(attr.gid)):
            after &= ~stat.S_ISGID
        if after != before:
            self.mode = after

    def __repr__(self) -> str:
        parts = [
            f"{name}={getattr(self, name)}"
            for name in self._NUMBERS
            if getattr(self, name) is not None
        ]
        parts += [
            name for name in ("atime_now", "mtime_now", "kill_suidgid") if getattr(self, name)
        ]
        return f"Changes({', '.join(parts)})"


def without_set_id(mode: int) -> int:
    """`mode` as a write by an ordinary user leaves it: no set-user-id, and no set-group-id on a
    group-executable file.

    Set-group-id without group execution once meant mandatory locking and stays (chown(2)).
    """
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


class StatVfs:
    """What `statvfs` returns: the size of the file system, as `statvfs(3)` names it.

    `blocks`, `bfree` and `bavail` count `frsize` bytes each; `bavail` and `favail` are what an
    ordinary user may use. What identifies the file system is the mount's, whatever a file server
    says: `fsid`, and `bsize` as a unit for reading and writing.
    """

    __slots__ = (
        "bavail",
        "bfree",
        "blocks",
        "bsize",
        "favail",
        "ffree",
        "files",
        "frsize",
        "fsid",
        "namemax",
    )

    def __init__(
        self,
        *,
        bsize: int = 4096,
        frsize: int | None = None,
        blocks: int = 0,
        bfree: int = 0,
        bavail: int | None = None,
        files: int = 0,
        ffree: int = 0,
        favail: int | None = None,
        fsid: int = 0,
        namemax: int = 255,
    ) -> None:
        self.bsize = bsize
        self.frsize = bsize if frsize is None else frsize
        self.blocks = blocks
        self.bfree = bfree
        self.bavail = bfree if bavail is None else bavail
        self.files = files
        self.ffree = ffree
        self.favail = ffree if favail is None else favail
        self.fsid = fsid
        self.namemax = namemax

    @classmethod
    def from_statvfs(cls, st: os.statvfs_result) -> Self:
        """What `os.statvfs` has returned."""
        return cls(
            bsize=st.f_bsize,
            frsize=st.f_frsize,
            blocks=st.f_blocks,
            bfree=st.f_bfree,
            bavail=st.f_bavail,
            files=st.f_files,
            ffree=st.f_ffree,
            favail=st.f_favail,
            fsid=st.f_fsid,
            namemax=st.f_namemax,
        )

    def __repr__(self) -> str:
        return f"StatVfs({', '.join(f'{name}={getattr(self, name)}' for name in self.__slots__)})"
