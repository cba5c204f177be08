"""The dispatch table: what serves each opcode, decided once, when the kernel and the file server
are both known.

`ROUTES` says which operation an opcode belongs to, and what the kernel is told when the file server
does not have it: ENOSYS where that makes the kernel answer for itself from then on ("never ask
again"), the errno of the operation table otherwise. Nothing is answered with a success that is
none.
"""

import errno
import os
from typing import Final, NamedTuple

from puffs.attach.fuse.abi import FUSE_WRITEBACK_CACHE, MESSAGES, Opcode
from puffs.attach.fuse.channel import Handler
from puffs.attach.fuse.handlers import Handlers, Serving, attrs, control, data, dirs, locks, names
from puffs.kernel.args import KernelFlag
from puffs.kernel.mount import Mount

ENOSYS = errno.ENOSYS


class Refusal(OSError):
    """The answer for an opcode that the file server has no operation for."""


class Route(NamedTuple):
    """The operation that serves an opcode; None for what the kernel half or the protocol does
    itself.

    `absent`: the errno for the kernel when the file server lacks the operation; None for that of
    the operation table.
    """

    operation: str | None
    absent: int | None = None


ROUTES: Final[dict[Opcode, Route]] = {
    Opcode.LOOKUP: Route("lookup"),
    Opcode.FORGET: Route(None),
    Opcode.GETATTR: Route("getattr"),
    Opcode.SETATTR: Route("setattr"),
    Opcode.READLINK: Route("readlink"),
    Opcode.SYMLINK: Route("symlink"),
    Opcode.MKNOD: Route("mknod"),
    Opcode.MKDIR: Route("mkdir"),
    Opcode.UNLINK: Route("remove"),
    Opcode.RMDIR: Route("rmdir"),
    Opcode.RENAME: Route("rename"),
    Opcode.LINK: Route("link"),
    Opcode.OPEN: Route("open", ENOSYS),  # opens succeed without a message
    Opcode.READ: Route("read"),
    Opcode.WRITE: Route("write"),
    Opcode.STATFS: Route(None),
    Opcode.RELEASE: Route(None),
    Opcode.FSYNC: Route("fsync", ENOSYS),  # succeeds without a message
    Opcode.SETXATTR: Route("setxattr", ENOSYS),  # EOPNOTSUPP without a message, as the next three
    Opcode.GETXATTR: Route("getxattr", ENOSYS),
    Opcode.LISTXATTR: Route("listxattr", ENOSYS),
    Opcode.REMOVEXATTR: Route("removexattr", ENOSYS),
    Opcode.FLUSH: Route("flush", ENOSYS),  # succeeds without a message
    Opcode.INIT: Route(None, errno.EIO),  # answered before this table exists, and never sent twice
    Opcode.OPENDIR: Route("readdir"),
    Opcode.READDIR: Route("readdir"),
    Opcode.RELEASEDIR: Route("readdir"),
    Opcode.FSYNCDIR: Route("fsyncdir", ENOSYS),  # succeeds without a message
    Opcode.GETLK: Route("advlock", ENOSYS),  # the kernel keeps the locks, as for the next two
    Opcode.SETLK: Route("advlock", ENOSYS),
    Opcode.SETLKW: Route("advlock", ENOSYS),
    Opcode.ACCESS: Route("access", ENOSYS),  # allowed without a message
    Opcode.CREATE: Route("create", ENOSYS),  # the kernel sends MKNOD and OPEN instead
    Opcode.INTERRUPT: Route(None),
    Opcode.BMAP: Route(None, ENOSYS),  # block devices only
    Opcode.DESTROY: Route(None),
    Opcode.IOCTL: Route("ioctl", ENOSYS),  # ENOTTY without a message
    Opcode.POLL: Route("poll", ENOSYS),  # always ready, without a message
    Opcode.NOTIFY_REPLY: Route(None),
    Opcode.BATCH_FORGET: Route(None),
    Opcode.FALLOCATE: Route("fallocate", ENOSYS),  # EOPNOTSUPP without a message
    Opcode.READDIRPLUS: Route("readdir"),
    Opcode.RENAME2: Route("rename"),
    Opcode.LSEEK: Route("seek", ENOSYS),  # the kernel takes all for data
    Opcode.COPY_FILE_RANGE: Route("copy_file_range", ENOSYS),  # the kernel copies by read and write
    Opcode.SETUPMAPPING: Route(None, ENOSYS),  # virtiofs only
    Opcode.REMOVEMAPPING: Route(None, ENOSYS),
    Opcode.SYNCFS: Route("sync", ENOSYS),  # succeeds without a message
    Opcode.TMPFILE: Route("tmpfile", ENOSYS),  # EOPNOTSUPP without a message
    Opcode.STATX: Route("getattr"),
    Opcode.COPY_FILE_RANGE_64: Route("copy_file_range", ENOSYS),
}
"""Every opcode of the protocol but CUSE_INIT, which no file system is sent."""

TABLE_SIZE: Final = 64
"""Opcodes up to here have a place in the table; the rest, and what has no route, is not known:

ENOSYS.
"""


def _open_is_ours(mount: Mount) -> bool:
    """Opens must come to us: to count them, to have nothing cached, or to refuse writing where
    nothing can be written (statement 2.6).
    """
    uncached = bool(mount.args.flags & KernelFlag.NOCACHE_PAGE)
    return mount.tracks_opens or uncached or not (mount.read_only or "write" in mount.ops)


def _flush_is_ours(mount: Mount) -> bool:
    """Closing gives record locks back."""
    return "advlock" in mount.ops


_NEEDS_HANDLER: Final = {Opcode.OPEN: _open_is_ours, Opcode.FLUSH: _flush_is_ours}
"""Opcodes that the kernel half serves for its own sake although the file server lacks the
operation.
"""


def _has_unseen_data(serving: Serving) -> bool:
    """With a write-back cache there is data that the file server has not seen, and the kernel asks
    it for holes all the same.
    """
    return bool(serving.init_flags & FUSE_WRITEBACK_CACHE)


_KEPT_BACK: Final = {Opcode.LSEEK: _has_unseen_data}
"""Opcodes that are refused although the file server has the operation."""


def build(serving: Serving) -> list[Handler]:
    """The table for one channel: handlers by opcode."""
    mount = serving.mount
    table = [_refuse(ENOSYS)] * TABLE_SIZE
    handlers = _all_handlers(serving)
    for opcode, route in ROUTES.items():
        ours = opcode in _NEEDS_HANDLER and _NEEDS_HANDLER[opcode](mount)
        present = route.operation in mount.ops or (route.operation is None and route.absent is None)
        kept_back = opcode in _KEPT_BACK and _KEPT_BACK[opcode](serving)
        if (present or ours) and not kept_back and opcode in handlers:
            plain = handlers[opcode]
            kind = serving.compiled.get(opcode)
            table[opcode] = plain if kind is None else kind(serving, plain)
        else:
            table[opcode] = _refuse(_absent(mount, route))
    return table


def _absent(mount: Mount, route: Route) -> int:
    if route.absent is not None:
        return route.absent
    assert route.operation is not None
    return mount.missing(route.operation)


def _all_handlers(serving: Serving) -> Handlers:
    families = [names, data, attrs, control]
    if "readdir" in serving.mount.ops:  # without it no directory is ever open
        families.append(dirs)
    if "advlock" in serving.mount.ops:
        families.append(locks)
    table: Handlers = {}
    for family in families:
        table.update(family.handlers(serving))
    return table


def _refuse(code: int) -> Handler:
    def refuse(_unique: int, _nodeid: int, _length: int) -> None:
        raise Refusal(code, os.strerror(code))

    return refuse


def operation_name(opcode: int) -> str:
    """What an opcode is called in messages: its operation, or the name of the opcode."""
    return _NAMES.get(opcode) or f"opcode {opcode}"


def wants_reply(opcode: int) -> bool:
    """Whether the kernel waits for a reply to this opcode."""
    return opcode not in _SILENT


_NO_ROUTE: Final = Route(None)
_NAMES: Final[dict[int, str]] = {
    opcode: ROUTES.get(opcode, _NO_ROUTE).operation or opcode.name.lower() for opcode in Opcode
}
_SILENT: Final = frozenset(opcode for opcode, message in MESSAGES.items() if not message.has_reply)
