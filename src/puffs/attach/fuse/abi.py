"""The FUSE protocol, 7.31 to 7.45, as tables.

Numbers, struct layouts and the shape of every message of ``<linux/fuse.h>``, and pure functions
over them. Nothing here does I/O or knows of puffs, so all of it can be tested and fuzzed on bytes
alone.

A message is a header (``IN_HEADER`` from the kernel, ``OUT_HEADER`` to it) and a body. Integers are
in the byte order of the host, and structs hold no padding that they do not name.

Names: flags, and values that appear in messages, are named as in the header (``FOPEN_KEEP_CACHE``);
version, limits and sizes, operations and structs without their ``FUSE_`` (``Opcode.LOOKUP``,
``READ_IN``). Flags are plain integers: they are tested for every request, and ``IntFlag`` is slow.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

# INIT flags. Bits from 32 on travel in `flags2`, shifted down by 32, and only with FUSE_INIT_EXT.

FUSE_ASYNC_READ: Final = 1 << 0
FUSE_POSIX_LOCKS: Final = 1 << 1
FUSE_FILE_OPS: Final = 1 << 2
FUSE_ATOMIC_O_TRUNC: Final = 1 << 3
FUSE_EXPORT_SUPPORT: Final = 1 << 4
FUSE_BIG_WRITES: Final = 1 << 5
FUSE_DONT_MASK: Final = 1 << 6
FUSE_SPLICE_WRITE: Final = 1 << 7
FUSE_SPLICE_MOVE: Final = 1 << 8
FUSE_SPLICE_READ: Final = 1 << 9
FUSE_FLOCK_LOCKS: Final = 1 << 10
FUSE_HAS_IOCTL_DIR: Final = 1 << 11
FUSE_AUTO_INVAL_DATA: Final = 1 << 12
FUSE_DO_READDIRPLUS: Final = 1 << 13
FUSE_READDIRPLUS_AUTO: Final = 1 << 14
FUSE_ASYNC_DIO: Final = 1 << 15
FUSE_WRITEBACK_CACHE: Final = 1 << 16
FUSE_NO_OPEN_SUPPORT: Final = 1 << 17
FUSE_PARALLEL_DIROPS: Final = 1 << 18
FUSE_HANDLE_KILLPRIV: Final = 1 << 19
FUSE_POSIX_ACL: Final = 1 << 20
FUSE_ABORT_ERROR: Final = 1 << 21
FUSE_MAX_PAGES: Final = 1 << 22
FUSE_CACHE_SYMLINKS: Final = 1 << 23
FUSE_NO_OPENDIR_SUPPORT: Final = 1 << 24
FUSE_EXPLICIT_INVAL_DATA: Final = 1 << 25
FUSE_MAP_ALIGNMENT: Final = 1 << 26
FUSE_SUBMOUNTS: Final = 1 << 27
FUSE_HANDLE_KILLPRIV_V2: Final = 1 << 28
FUSE_SETXATTR_EXT: Final = 1 << 29
FUSE_INIT_EXT: Final = 1 << 30
FUSE_INIT_RESERVED: Final = 1 << 31
FUSE_SECURITY_CTX: Final = 1 << 32
FUSE_HAS_INODE_DAX: Final = 1 << 33
FUSE_CREATE_SUPP_GROUP: Final = 1 << 34
FUSE_HAS_EXPIRE_ONLY: Final = 1 << 35
FUSE_DIRECT_IO_ALLOW_MMAP: Final = 1 << 36
FUSE_PASSTHROUGH: Final = 1 << 37
FUSE_NO_EXPORT_SUPPORT: Final = 1 << 38
FUSE_HAS_RESEND: Final = 1 << 39
FUSE_ALLOW_IDMAP: Final = 1 << 40
FUSE_OVER_IO_URING: Final = 1 << 41
FUSE_REQUEST_TIMEOUT: Final = 1 << 42

# Made here, while the INIT flags are the only FUSE_ names of the module.
INIT_FLAGS: Final[dict[str, int]] = {
    name: value for name, value in tuple(globals().items()) if name.startswith("FUSE_")
}

# Version, limits, sizes.

KERNEL_VERSION: Final = 7
KERNEL_MINOR_VERSION: Final = 45
MIN_MINOR_VERSION: Final = 31
ROOT_ID: Final = 1
MIN_READ_BUFFER: Final = 8192
IOCTL_MAX_IOV: Final = 256
CUSE_INIT_INFO_MAX: Final = 4096
MAX_NR_SECCTX: Final = 31
URING_IN_OUT_HEADER_SZ: Final = 128
URING_OP_IN_OUT_SZ: Final = 128

COMPAT_INIT_OUT_SIZE: Final = 8  # until 7.4
COMPAT_22_INIT_OUT_SIZE: Final = 24  # until 7.22
COMPAT_INIT_IN_SIZE: Final = 16  # until 7.35
COMPAT_SETXATTR_IN_SIZE: Final = 8  # without FUSE_SETXATTR_EXT

# Values and flags in messages.

FUSE_UNIQUE_RESEND: Final = 1 << 63  # in_header.unique of a request that is sent again
FUSE_INVALID_UIDGID: Final = 0xFFFFFFFF  # in_header.uid and .gid where an idmapped mount sends none
FUSE_EXT_GROUPS: Final = 32  # ext_header.type
FUSE_INIT_BSWAP_RESERVED: Final = 436207616  # Opcode.INIT from a host of the other byte order
CUSE_INIT_BSWAP_RESERVED: Final = 1048576  # likewise Opcode.CUSE_INIT

FATTR_MODE: Final = 1 << 0  # setattr_in.valid
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_LOCKOWNER: Final = 1 << 9
FATTR_CTIME: Final = 1 << 10
FATTR_KILL_SUIDGID: Final = 1 << 11

FOPEN_DIRECT_IO: Final = 1 << 0  # open_out.open_flags
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6
FOPEN_PASSTHROUGH: Final = 1 << 7

FUSE_OPEN_KILL_SUIDGID: Final = 1 << 0  # open_in.open_flags, create_in.open_flags
FUSE_RELEASE_FLUSH: Final = 1 << 0  # release_in.release_flags
FUSE_RELEASE_FLOCK_UNLOCK: Final = 1 << 1
FUSE_GETATTR_FH: Final = 1 << 0  # getattr_in.getattr_flags, statx_in.getattr_flags
FUSE_LK_FLOCK: Final = 1 << 0  # lk_in.lk_flags
FUSE_WRITE_CACHE: Final = 1 << 0  # write_in.write_flags
FUSE_WRITE_LOCKOWNER: Final = 1 << 1
FUSE_WRITE_KILL_SUIDGID: Final = 1 << 2
FUSE_READ_LOCKOWNER: Final = 1 << 1  # read_in.read_flags
FUSE_IOCTL_COMPAT: Final = 1 << 0  # ioctl_in.flags, ioctl_out.flags
FUSE_IOCTL_UNRESTRICTED: Final = 1 << 1
FUSE_IOCTL_RETRY: Final = 1 << 2
FUSE_IOCTL_32BIT: Final = 1 << 3
FUSE_IOCTL_DIR: Final = 1 << 4
FUSE_IOCTL_COMPAT_X32: Final = 1 << 5
FUSE_POLL_SCHEDULE_NOTIFY: Final = 1 << 0  # poll_in.flags
FUSE_FSYNC_FDATASYNC: Final = 1 << 0  # fsync_in.fsync_flags
FUSE_ATTR_SUBMOUNT: Final = 1 << 0  # attr.flags
FUSE_ATTR_DAX: Final = 1 << 1
FUSE_SETXATTR_ACL_KILL_SGID: Final = 1 << 0  # setxattr_in.setxattr_flags
FUSE_EXPIRE_ONLY: Final = 1 << 0  # notify_inval_entry_out.flags
FUSE_SETUPMAPPING_FLAG_WRITE: Final = 1 << 0  # setupmapping_in.flags
FUSE_SETUPMAPPING_FLAG_READ: Final = 1 << 1
CUSE_UNRESTRICTED_IOCTL: Final = 1 << 0  # cuse_init_in.flags, cuse_init_out.flags

FUSE_IO_URING_CMD_REGISTER: Final = 1  # the command of an io_uring SQE
FUSE_IO_URING_CMD_COMMIT_AND_FETCH: Final = 2

# ioctl(2) on /dev/fuse, as asm-generic/ioctl.h has them (alpha, mips, powerpc and sparc differ).

FUSE_DEV_IOC_CLONE: Final = 0x8004E500
FUSE_DEV_IOC_BACKING_OPEN: Final = 0x4010E501
FUSE_DEV_IOC_BACKING_CLOSE: Final = 0x4004E502
FUSE_DEV_IOC_SYNC_INIT: Final = 0xE503


class Opcode(IntEnum):
    """What a request asks for: ``in_header.opcode``."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53
    CUSE_INIT = 4096


class Notify(IntEnum):
    """What a notification tells the kernel: ``out_header.error`` of a message with ``unique`` 0."""

    POLL = 1
    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    RETRIEVE = 5
    DELETE = 6
    RESEND = 7
    INC_EPOCH = 8
    PRUNE = 9


class ProtocolError(ValueError):
    """Bytes that are not a well-formed message; the text says which part, and what was expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """One C struct of the protocol.

    ``fields`` maps each member to its offset in bytes and its `struct` code; the members of a
    nested struct are joined to its name (``attr_ino``). Reserved arrays are pad bytes (code
    ``Nx``): zero when packed, and no value when unpacked. Each other member is one value of
    ``struct``; ``zeros`` maps these, in their order, to the value that they have by default.
    """

    name: str
    fields: Mapping[str, tuple[int, str]]
    struct: struct.Struct
    size: int
    zeros: Mapping[str, int | bytes]

    def pack(self, **values: int | bytes) -> bytes:
        """The bytes of this struct with the named members set and the others zero.

        For messages that are rare: with ``struct.pack`` the values go by position, and faster.
        Raises TypeError for a name that is no member, struct.error for a value out of range.
        """
        if unknown := values.keys() - self.zeros.keys():
            raise TypeError(f"{self.name} has no member {', '.join(sorted(unknown))}")
        return self.struct.pack(*{**self.zeros, **values}.values())

    def unpack(self, buffer: bytes | bytearray | memoryview, offset: int = 0) -> dict[str, Any]:
        """The members by name, of the struct at `offset` (bytes) of `buffer`.

        Raises struct.error when the buffer ends before the struct does.
        """
        return dict(zip(self.zeros, self.struct.unpack_from(buffer, offset), strict=True))


#: Every struct of the protocol by its C name.
LAYOUTS: Final[dict[str, Layout]] = {}


def _build(name: str, members: Iterable[tuple[str, str]]) -> Layout:
    codes = "="
    fields: dict[str, tuple[int, str]] = {}
    zeros: dict[str, int | bytes] = {}
    for member, code in members:
        fields[member] = (struct.calcsize(codes), code)
        codes += code
        if code[-1] != "x":
            zeros[member] = b"" if code[-1] == "s" else 0
    packer = struct.Struct(codes)
    return Layout(name, MappingProxyType(fields), packer, packer.size, MappingProxyType(zeros))


def _flat(table: str) -> Iterable[tuple[str, str]]:
    for item in table.split():
        member, kind = item.split(":")
        if kind in LAYOUTS:
            for inner, (_, code) in LAYOUTS[kind].fields.items():
                yield f"{member}_{inner}", code
        else:
            yield member, kind


def _layout(name: str, table: str) -> Layout:
    LAYOUTS[name] = _build(name, _flat(table))
    return LAYOUTS[name]


def _compat(layout: Layout, size: int) -> Layout:
    """The first `size` bytes of a struct that has grown since."""
    members = [(name, code) for name, (offset, code) in layout.fields.items() if offset < size]
    return _build(f"{layout.name} (of {size} bytes)", members)


# Single members that only pad are values all the same: later versions gave such members a use.

IN_HEADER = _layout(
    "fuse_in_header",
    "len:I opcode:I unique:Q nodeid:Q uid:I gid:I pid:I total_extlen:H padding:H",
)
OUT_HEADER = _layout("fuse_out_header", "len:I error:i unique:Q")

ATTR = _layout(
    "fuse_attr",
    "ino:Q size:Q blocks:Q atime:Q mtime:Q ctime:Q atimensec:I mtimensec:I ctimensec:I "
    "mode:I nlink:I uid:I gid:I rdev:I blksize:I flags:I",
)
SX_TIME = _layout("fuse_sx_time", "tv_sec:q tv_nsec:I __reserved:i")
STATX = _layout(
    "fuse_statx",
    "mask:I blksize:I attributes:Q nlink:I uid:I gid:I mode:H __spare0:2x ino:Q size:Q blocks:Q "
    "attributes_mask:Q atime:fuse_sx_time btime:fuse_sx_time ctime:fuse_sx_time mtime:fuse_sx_time "
    "rdev_major:I rdev_minor:I dev_major:I dev_minor:I __spare2:112x",
)
KSTATFS = _layout(
    "fuse_kstatfs",
    "blocks:Q bfree:Q bavail:Q files:Q ffree:Q bsize:I namelen:I frsize:I padding:I spare:24x",
)
FILE_LOCK = _layout("fuse_file_lock", "start:Q end:Q type:I pid:I")

ENTRY_OUT = _layout(
    "fuse_entry_out",
    "nodeid:Q generation:Q entry_valid:Q attr_valid:Q entry_valid_nsec:I attr_valid_nsec:I "
    "attr:fuse_attr",
)
FORGET_IN = _layout("fuse_forget_in", "nlookup:Q")
FORGET_ONE = _layout("fuse_forget_one", "nodeid:Q nlookup:Q")
BATCH_FORGET_IN = _layout("fuse_batch_forget_in", "count:I dummy:I")
GETATTR_IN = _layout("fuse_getattr_in", "getattr_flags:I dummy:I fh:Q")
ATTR_OUT = _layout("fuse_attr_out", "attr_valid:Q attr_valid_nsec:I dummy:I attr:fuse_attr")
STATX_IN = _layout("fuse_statx_in", "getattr_flags:I reserved:I fh:Q sx_flags:I sx_mask:I")
STATX_OUT = _layout(
    "fuse_statx_out", "attr_valid:Q attr_valid_nsec:I flags:I spare:16x stat:fuse_statx"
)
SETATTR_IN = _layout(
    "fuse_setattr_in",
    "valid:I padding:I fh:Q size:Q lock_owner:Q atime:Q mtime:Q ctime:Q "
    "atimensec:I mtimensec:I ctimensec:I mode:I unused4:I uid:I gid:I unused5:I",
)

MKNOD_IN = _layout("fuse_mknod_in", "mode:I rdev:I umask:I padding:I")
MKDIR_IN = _layout("fuse_mkdir_in", "mode:I umask:I")
RENAME_IN = _layout("fuse_rename_in", "newdir:Q")
RENAME2_IN = _layout("fuse_rename2_in", "newdir:Q flags:I padding:I")
LINK_IN = _layout("fuse_link_in", "oldnodeid:Q")

OPEN_IN = _layout("fuse_open_in", "flags:I open_flags:I")
CREATE_IN = _layout("fuse_create_in", "flags:I mode:I umask:I open_flags:I")
OPEN_OUT = _layout("fuse_open_out", "fh:Q open_flags:I backing_id:i")
RELEASE_IN = _layout("fuse_release_in", "fh:Q flags:I release_flags:I lock_owner:Q")
FLUSH_IN = _layout("fuse_flush_in", "fh:Q unused:I padding:I lock_owner:Q")
READ_IN = _layout(
    "fuse_read_in", "fh:Q offset:Q size:I read_flags:I lock_owner:Q flags:I padding:I"
)
WRITE_IN = _layout(
    "fuse_write_in", "fh:Q offset:Q size:I write_flags:I lock_owner:Q flags:I padding:I"
)
WRITE_OUT = _layout("fuse_write_out", "size:I padding:I")
STATFS_OUT = _layout("fuse_statfs_out", "st:fuse_kstatfs")
FSYNC_IN = _layout("fuse_fsync_in", "fh:Q fsync_flags:I padding:I")
SETXATTR_IN = _layout("fuse_setxattr_in", "size:I flags:I setxattr_flags:I padding:I")
GETXATTR_IN = _layout("fuse_getxattr_in", "size:I padding:I")
GETXATTR_OUT = _layout("fuse_getxattr_out", "size:I padding:I")
LK_IN = _layout("fuse_lk_in", "fh:Q owner:Q lk:fuse_file_lock lk_flags:I padding:I")
LK_OUT = _layout("fuse_lk_out", "lk:fuse_file_lock")
ACCESS_IN = _layout("fuse_access_in", "mask:I padding:I")

INIT_IN = _layout("fuse_init_in", "major:I minor:I max_readahead:I flags:I flags2:I unused:44x")
INIT_OUT = _layout(
    "fuse_init_out",
    "major:I minor:I max_readahead:I flags:I max_background:H congestion_threshold:H max_write:I "
    "time_gran:I max_pages:H map_alignment:H flags2:I max_stack_depth:I request_timeout:H "
    "unused:22x",
)
CUSE_INIT_IN = _layout("cuse_init_in", "major:I minor:I unused:I flags:I")
CUSE_INIT_OUT = _layout(
    "cuse_init_out",
    "major:I minor:I unused:I flags:I max_read:I max_write:I dev_major:I dev_minor:I spare:40x",
)

INTERRUPT_IN = _layout("fuse_interrupt_in", "unique:Q")
BMAP_IN = _layout("fuse_bmap_in", "block:Q blocksize:I padding:I")
BMAP_OUT = _layout("fuse_bmap_out", "block:Q")
IOCTL_IN = _layout("fuse_ioctl_in", "fh:Q flags:I cmd:I arg:Q in_size:I out_size:I")
IOCTL_IOVEC = _layout("fuse_ioctl_iovec", "base:Q len:Q")
IOCTL_OUT = _layout("fuse_ioctl_out", "result:i flags:I in_iovs:I out_iovs:I")
POLL_IN = _layout("fuse_poll_in", "fh:Q kh:Q flags:I events:I")
POLL_OUT = _layout("fuse_poll_out", "revents:I padding:I")
FALLOCATE_IN = _layout("fuse_fallocate_in", "fh:Q offset:Q length:Q mode:I padding:I")
LSEEK_IN = _layout("fuse_lseek_in", "fh:Q offset:Q whence:I padding:I")
LSEEK_OUT = _layout("fuse_lseek_out", "offset:Q")
COPY_FILE_RANGE_IN = _layout(
    "fuse_copy_file_range_in",
    "fh_in:Q off_in:Q nodeid_out:Q fh_out:Q off_out:Q len:Q flags:Q",
)
COPY_FILE_RANGE_OUT = _layout("fuse_copy_file_range_out", "bytes_copied:Q")
SETUPMAPPING_IN = _layout("fuse_setupmapping_in", "fh:Q foffset:Q len:Q flags:Q moffset:Q")
REMOVEMAPPING_IN = _layout("fuse_removemapping_in", "count:I")
REMOVEMAPPING_ONE = _layout("fuse_removemapping_one", "moffset:Q len:Q")
SYNCFS_IN = _layout("fuse_syncfs_in", "padding:Q")

# Both are followed by the name (without NUL) and padded to 8 bytes.
DIRENT = _layout("fuse_dirent", "ino:Q off:Q namelen:I type:I")
DIRENTPLUS = _layout("fuse_direntplus", "entry_out:fuse_entry_out dirent:fuse_dirent")

NOTIFY_POLL_WAKEUP_OUT = _layout("fuse_notify_poll_wakeup_out", "kh:Q")
NOTIFY_INVAL_INODE_OUT = _layout("fuse_notify_inval_inode_out", "ino:Q off:q len:q")
NOTIFY_INVAL_ENTRY_OUT = _layout("fuse_notify_inval_entry_out", "parent:Q namelen:I flags:I")
NOTIFY_DELETE_OUT = _layout("fuse_notify_delete_out", "parent:Q child:Q namelen:I padding:I")
NOTIFY_STORE_OUT = _layout("fuse_notify_store_out", "nodeid:Q offset:Q size:I padding:I")
NOTIFY_RETRIEVE_OUT = _layout(
    "fuse_notify_retrieve_out", "notify_unique:Q nodeid:Q offset:Q size:I padding:I"
)
NOTIFY_RETRIEVE_IN = _layout(
    "fuse_notify_retrieve_in", "dummy1:Q offset:Q size:I dummy2:I dummy3:Q dummy4:Q"
)
NOTIFY_PRUNE_OUT = _layout("fuse_notify_prune_out", "count:I padding:I spare:Q")

BACKING_MAP = _layout("fuse_backing_map", "fd:i flags:I padding:Q")
EXT_HEADER = _layout("fuse_ext_header", "size:I type:I")
SECCTX_HEADER = _layout("fuse_secctx_header", "size:I nr_secctx:I")
SECCTX = _layout("fuse_secctx", "size:I padding:I")
SUPP_GROUPS = _layout("fuse_supp_groups", "nr_groups:I")
URING_ENT_IN_OUT = _layout(
    "fuse_uring_ent_in_out", "flags:Q commit_id:Q payload_sz:I padding:I reserved:Q"
)
URING_REQ_HEADER = _layout(
    "fuse_uring_req_header",
    f"in_out:{URING_IN_OUT_HEADER_SZ}s op_in:{URING_OP_IN_OUT_SZ}s "
    "ring_ent_in_out:fuse_uring_ent_in_out",
)
URING_CMD_REQ = _layout("fuse_uring_cmd_req", "flags:Q commit_id:Q qid:H padding:6x")

#: The reply to CREATE and TMPFILE: two structs, one after the other.
CREATE_OUT = _build(
    "fuse_entry_out + fuse_open_out", _flat("entry:fuse_entry_out open:fuse_open_out")
)
COMPAT_INIT_IN = _compat(INIT_IN, COMPAT_INIT_IN_SIZE)
COMPAT_SETXATTR_IN = _compat(SETXATTR_IN, COMPAT_SETXATTR_IN_SIZE)


class Message(NamedTuple):
    """The shape of one operation's request and reply."""

    opcode: Opcode
    request: Layout | None = None
    """The struct that begins the body of the request."""
    names: int = 0
    """How many NUL-terminated strings follow it."""
    data: bool = False
    """Whether bytes follow those: `unit` times the member `counted_by` of the struct."""
    reply: Layout | None = None
    """The struct that begins the body of a reply without error."""
    reply_data: bool = False
    """Whether bytes follow it (GETXATTR, LISTXATTR: come in its place when `size` was not 0)."""
    has_reply: bool = True
    """Whether the kernel waits for a reply (INTERRUPT may be answered, with EAGAIN or ENOSYS)."""
    since: int = 1
    """The minor version that has it first."""
    counted_by: str = "size"
    unit: int = 1


_SHAPES = (
    Message(Opcode.LOOKUP, names=1, reply=ENTRY_OUT),
    Message(Opcode.FORGET, FORGET_IN, has_reply=False),
    Message(Opcode.GETATTR, GETATTR_IN, reply=ATTR_OUT),
    Message(Opcode.SETATTR, SETATTR_IN, reply=ATTR_OUT),
    Message(Opcode.READLINK, reply_data=True),
    Message(Opcode.SYMLINK, names=2, reply=ENTRY_OUT),
    Message(Opcode.MKNOD, MKNOD_IN, names=1, reply=ENTRY_OUT),
    Message(Opcode.MKDIR, MKDIR_IN, names=1, reply=ENTRY_OUT),
    Message(Opcode.UNLINK, names=1),
    Message(Opcode.RMDIR, names=1),
    Message(Opcode.RENAME, RENAME_IN, names=2),
    Message(Opcode.LINK, LINK_IN, names=1, reply=ENTRY_OUT),
    Message(Opcode.OPEN, OPEN_IN, reply=OPEN_OUT),
    Message(Opcode.READ, READ_IN, reply_data=True),
    Message(Opcode.WRITE, WRITE_IN, data=True, reply=WRITE_OUT),
    Message(Opcode.STATFS, reply=STATFS_OUT),
    Message(Opcode.RELEASE, RELEASE_IN),
    Message(Opcode.FSYNC, FSYNC_IN),
    Message(Opcode.SETXATTR, SETXATTR_IN, names=1, data=True),
    Message(Opcode.GETXATTR, GETXATTR_IN, names=1, reply=GETXATTR_OUT, reply_data=True),
    Message(Opcode.LISTXATTR, GETXATTR_IN, reply=GETXATTR_OUT, reply_data=True),
    Message(Opcode.REMOVEXATTR, names=1),
    Message(Opcode.FLUSH, FLUSH_IN),
    Message(Opcode.INIT, INIT_IN, reply=INIT_OUT),
    Message(Opcode.OPENDIR, OPEN_IN, reply=OPEN_OUT),
    Message(Opcode.READDIR, READ_IN, reply_data=True),
    Message(Opcode.RELEASEDIR, RELEASE_IN),
    Message(Opcode.FSYNCDIR, FSYNC_IN, since=2),
    Message(Opcode.GETLK, LK_IN, reply=LK_OUT, since=7),
    Message(Opcode.SETLK, LK_IN, since=7),
    Message(Opcode.SETLKW, LK_IN, since=7),
    Message(Opcode.ACCESS, ACCESS_IN, since=3),
    Message(Opcode.CREATE, CREATE_IN, names=1, reply=CREATE_OUT, since=3),
    Message(Opcode.INTERRUPT, INTERRUPT_IN, has_reply=False, since=7),
    Message(Opcode.BMAP, BMAP_IN, reply=BMAP_OUT, since=8),
    Message(Opcode.DESTROY, since=8),
    Message(
        Opcode.IOCTL,
        IOCTL_IN,
        data=True,
        reply=IOCTL_OUT,
        reply_data=True,
        since=11,
        counted_by="in_size",
    ),
    Message(Opcode.POLL, POLL_IN, reply=POLL_OUT, since=11),
    Message(Opcode.NOTIFY_REPLY, NOTIFY_RETRIEVE_IN, data=True, has_reply=False, since=15),
    Message(
        Opcode.BATCH_FORGET,
        BATCH_FORGET_IN,
        data=True,
        has_reply=False,
        since=16,
        counted_by="count",
        unit=FORGET_ONE.size,
    ),
    Message(Opcode.FALLOCATE, FALLOCATE_IN, since=19),
    Message(Opcode.READDIRPLUS, READ_IN, reply_data=True, since=21),
    Message(Opcode.RENAME2, RENAME2_IN, names=2, since=23),
    Message(Opcode.LSEEK, LSEEK_IN, reply=LSEEK_OUT, since=24),
    Message(Opcode.COPY_FILE_RANGE, COPY_FILE_RANGE_IN, reply=WRITE_OUT, since=28),
    Message(Opcode.SETUPMAPPING, SETUPMAPPING_IN, since=31),
    Message(
        Opcode.REMOVEMAPPING,
        REMOVEMAPPING_IN,
        data=True,
        since=31,
        counted_by="count",
        unit=REMOVEMAPPING_ONE.size,
    ),
    Message(Opcode.SYNCFS, SYNCFS_IN, since=34),
    Message(Opcode.TMPFILE, CREATE_IN, names=1, reply=CREATE_OUT, since=37),
    Message(Opcode.STATX, STATX_IN, reply=STATX_OUT, since=39),
    Message(Opcode.COPY_FILE_RANGE_64, COPY_FILE_RANGE_IN, reply=COPY_FILE_RANGE_OUT, since=45),
    Message(Opcode.CUSE_INIT, CUSE_INIT_IN, reply=CUSE_INIT_OUT, reply_data=True, since=12),
)

#: The shape of every operation.
MESSAGES: Final[dict[Opcode, Message]] = {message.opcode: message for message in _SHAPES}


class Request(NamedTuple):
    """The body of a request, taken apart."""

    opcode: Opcode
    fields: dict[str, int]
    """The members of `Message.request`; those that an older kernel did not send are missing."""
    names: list[bytes]
    """The strings that follow, without their NUL."""
    data: memoryview
    """The bytes at the end: a part of the body that was given, not a copy."""


class Extensions(NamedTuple):
    """What a request that creates a file carries for the kernel's security modules and groups."""

    secctx: list[tuple[bytes, bytes]]
    """(name of the extended attribute, its value) of each security context."""
    groups: list[int]
    """Supplementary groups: gids of the caller."""


def init_flag_names(flags: int) -> list[str]:
    """The names of the INIT flags in the 64-bit number `flags`; ``bit N`` for what has no name."""
    names = [name for name, bit in INIT_FLAGS.items() if flags & bit]
    unknown = flags & ~sum(INIT_FLAGS.values())
    return names + [f"bit {n}" for n in range(unknown.bit_length()) if unknown >> n & 1]


def decode(opcode: int, body: memoryview, *, setxattr_ext: bool = True) -> Request:
    """Take the body of a request apart and check every length.

    For trace and tests; what serves requests unpacks with ``Layout.struct`` instead.

    `body` is what follows ``in_header``, without extensions: these are the last ``total_extlen``
    units of 8 bytes (`parse_extensions`). `setxattr_ext` tells whether FUSE_SETXATTR_EXT was
    negotiated.

    Raises ProtocolError for an unknown opcode and for a body that is too short, too long or lacks
    the NUL of a name.
    """
    try:
        message = MESSAGES[Opcode(opcode)]
    except ValueError:
        raise ProtocolError(
            f"opcode {opcode} is none of FUSE {KERNEL_VERSION}.{KERNEL_MINOR_VERSION}"
        ) from None
    what = message.opcode.name
    layout = message.request
    if layout is INIT_IN and len(body) == COMPAT_INIT_IN_SIZE:
        layout = COMPAT_INIT_IN
    elif layout is SETXATTR_IN and not setxattr_ext:
        layout = COMPAT_SETXATTR_IN

    fields: dict[str, int] = {}
    at = 0
    if layout is not None:
        if len(body) < layout.size:
            raise ProtocolError(
                f"{what} is cut short: {layout.name} takes {layout.size} bytes, "
                f"{len(body)} are there"
            )
        fields = layout.unpack(body)
        at = layout.size

    names: list[bytes] = []
    text = bytes(body) if message.names else b""
    for number in range(1, message.names + 1):
        end = text.find(b"\0", at)
        if end < 0:
            raise ProtocolError(f"{what} is cut short: string {number} has no NUL at its end")
        names.append(text[at:end])
        at = end + 1

    expected = fields[message.counted_by] * message.unit if message.data else 0
    if len(body) - at != expected:
        raise ProtocolError(
            f"{what} has {len(body) - at} bytes after its {'names' if names else 'struct'}, "
            f"not {expected}" + (f" (by its {message.counted_by})" if message.data else "")
        )
    return Request(message.opcode, fields, names, body[at:])


def _padded(size: int) -> int:
    """`size` rounded up to the 8 bytes at which the protocol aligns records."""
    return (size + 7) & ~7


def parse_extensions(body: memoryview, extlen_units: int) -> Extensions:
    """Take apart the extensions at the end of a request (SECURITY_CTX, CREATE_SUPP_GROUP).

    `body` is the request (or the payload of a ring entry) to its very end, `extlen_units` the
    ``total_extlen`` of its header, in units of 8 bytes. Names precede it, so it may be unaligned.

    Raises ProtocolError when a length leads out of its record, or for an unknown type.
    """
    total = 8 * extlen_units
    if total > len(body):
        raise ProtocolError(f"extensions of {total} bytes in a request that has {len(body)}")
    records = bytes(body[len(body) - total :])
    found = Extensions([], [])
    at = 0
    # `at` and `total` are multiples of 8, so a whole header is left or nothing.
    while at < total:
        size, kind = EXT_HEADER.struct.unpack_from(records, at)
        if not EXT_HEADER.size <= size <= total - at:
            raise ProtocolError(f"extension of {size} bytes where {total - at} are left")
        content = records[at + EXT_HEADER.size : at + size]
        if kind <= MAX_NR_SECCTX:
            found.secctx.extend(_parse_secctx(content, kind))
        elif kind == FUSE_EXT_GROUPS:
            found.groups.extend(_parse_groups(content))
        else:
            raise ProtocolError(f"extension of unknown type {kind}")
        at += _padded(size)
    return found


def _parse_secctx(content: bytes, count: int) -> Iterable[tuple[bytes, bytes]]:
    # fuse_secctx_header is an fuse_ext_header whose type is the number of contexts, which may be 0.
    at = 0
    for number in range(1, count + 1):
        name_at = at + SECCTX.size
        name_end = content.find(b"\0", name_at)
        if name_end < 0:
            raise ProtocolError(f"security context {number} of {count} is cut short in its name")
        size, _ = SECCTX.struct.unpack_from(content, at)
        value_end = name_end + 1 + size
        if value_end > len(content):
            raise ProtocolError(
                f"security context {number} of {count} has a value of {size} bytes "
                f"where {len(content) - name_end - 1} are left"
            )
        yield content[name_at:name_end], content[name_end + 1 : value_end]
        at = _padded(value_end)
    if at < len(content):
        raise ProtocolError(f"{len(content) - at} bytes after {count} security contexts")


def _parse_groups(content: bytes) -> Iterable[int]:
    if len(content) < SUPP_GROUPS.size:
        raise ProtocolError(f"group extension of {len(content)} bytes has no room for its count")
    (count,) = SUPP_GROUPS.struct.unpack_from(content)
    size = SUPP_GROUPS.size + 4 * count
    # The header before `content` is 8 bytes long, so both are aligned alike.
    if _padded(size) != _padded(len(content)) or size > len(content):
        raise ProtocolError(f"group extension has {len(content)} bytes for {count} groups")
    return struct.unpack_from(f"={count}I", content, SUPP_GROUPS.size)


_DIRENT_PADDING: Final = tuple(bytes(_padded(n) - n) for n in range(8))


def pack_dirent(ino: int, off: int, name: bytes, type: int) -> bytes:
    """One record of a READDIR reply.

    `off` is where the directory goes on after this entry, `type` a DT_* number (``mode >> 12``).
    The record of a READDIRPLUS reply is an ``ENTRY_OUT``, followed by this.
    """
    length = len(name)
    return DIRENT.struct.pack(ino, off, length, type) + name + _DIRENT_PADDING[length & 7]


def dirent_size(namelen: int) -> int:
    """The bytes that an entry with a name of `namelen` bytes takes in a READDIR reply."""
    return _padded(DIRENT.size + namelen)


def direntplus_size(namelen: int) -> int:
    """The bytes that an entry with a name of `namelen` bytes takes in a READDIRPLUS reply."""
    return _padded(DIRENTPLUS.size + namelen)


def _notification(code: Notify, body: bytes = b"") -> bytes:
    return OUT_HEADER.pack(len=OUT_HEADER.size + len(body), error=code) + body


def notify_poll(kh: int) -> bytes:
    """Wake those who poll a file; `kh` came with the POLL that had FUSE_POLL_SCHEDULE_NOTIFY."""
    return _notification(Notify.POLL, NOTIFY_POLL_WAKEUP_OUT.pack(kh=kh))


def notify_inval_inode(ino: int, off: int, len: int) -> bytes:
    """Drop the attributes and cached pages of node `ino`.

    `off` and `len` are in bytes; `len` <= 0 means to the end, `off` < 0 the attributes only. The
    kernel writes dirty pages first and waits for the server to take them; writing this fails with
    ENOENT for a node that it does not know.
    """
    return _notification(Notify.INVAL_INODE, NOTIFY_INVAL_INODE_OUT.pack(ino=ino, off=off, len=len))


def notify_inval_entry(parent: int, name: bytes, flags: int = 0) -> bytes:
    """Forget the name `name` in node `parent`; FUSE_EXPIRE_ONLY only ends its lifetime."""
    head = NOTIFY_INVAL_ENTRY_OUT.pack(parent=parent, namelen=len(name), flags=flags)
    return _notification(Notify.INVAL_ENTRY, head + name + b"\0")


def notify_store(nodeid: int, offset: int, data: bytes) -> bytes:
    """Put `data` into the page cache of a regular file at `offset` (bytes); the file may grow."""
    head = NOTIFY_STORE_OUT.pack(nodeid=nodeid, offset=offset, size=len(data))
    return _notification(Notify.STORE, head + data)


def notify_retrieve(notify_unique: int, nodeid: int, offset: int, size: int) -> bytes:
    """Ask for cached pages: they come as a NOTIFY_REPLY request whose unique is `notify_unique`."""
    return _notification(
        Notify.RETRIEVE,
        NOTIFY_RETRIEVE_OUT.pack(
            notify_unique=notify_unique, nodeid=nodeid, offset=offset, size=size
        ),
    )


def notify_delete(parent: int, child: int, name: bytes) -> bytes:
    """Tell that `name` in node `parent`, which was node `child`, has been removed."""
    head = NOTIFY_DELETE_OUT.pack(parent=parent, child=child, namelen=len(name))
    return _notification(Notify.DELETE, head + name + b"\0")


def notify_resend() -> bytes:
    """Ask for every request that was read but not answered, once more, with FUSE_UNIQUE_RESEND."""
    return _notification(Notify.RESEND)


def notify_inc_epoch() -> bytes:
    """Invalidate all names and cached directories. Needs 7.44; no INIT flag tells of it."""
    return _notification(Notify.INC_EPOCH)


def notify_prune(nodeids: Sequence[int]) -> bytes:
    """Ask the kernel to drop nodes that nobody uses; FORGET requests follow for those it drops."""
    ids = struct.pack(f"={len(nodeids)}Q", *nodeids)
    return _notification(Notify.PRUNE, NOTIFY_PRUNE_OUT.pack(count=len(nodeids)) + ids)
