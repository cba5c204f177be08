"""INIT: what the kernel offers, what this mount has a use for, and what both then hold to (fuse(4),
protocol 7.31 on).

What the kernel does not offer is not used, and nothing is answered that it did not offer.
"""

import errno
from dataclasses import dataclass
from typing import Final, Self

from puffs.attach.fuse.abi import (
    COMPAT_INIT_IN,
    FUSE_ABORT_ERROR,
    FUSE_ASYNC_READ,
    FUSE_ATOMIC_O_TRUNC,
    FUSE_AUTO_INVAL_DATA,
    FUSE_BIG_WRITES,
    FUSE_CACHE_SYMLINKS,
    FUSE_DIRECT_IO_ALLOW_MMAP,
    FUSE_DO_READDIRPLUS,
    FUSE_DONT_MASK,
    FUSE_EXPORT_SUPPORT,
    FUSE_FLOCK_LOCKS,
    FUSE_HANDLE_KILLPRIV_V2,
    FUSE_INIT_EXT,
    FUSE_MAX_PAGES,
    FUSE_NO_EXPORT_SUPPORT,
    FUSE_NO_OPEN_SUPPORT,
    FUSE_PARALLEL_DIROPS,
    FUSE_PASSTHROUGH,
    FUSE_POSIX_ACL,
    FUSE_POSIX_LOCKS,
    FUSE_READDIRPLUS_AUTO,
    FUSE_SETXATTR_EXT,
    FUSE_WRITEBACK_CACHE,
    INIT_IN,
    INIT_OUT,
    KERNEL_MINOR_VERSION,
    KERNEL_VERSION,
    MIN_MINOR_VERSION,
)
from puffs.attach.fuse.options import MountOptions
from puffs.attach.fuse.passthrough import MAX_STACK_DEPTH
from puffs.kernel.mount import Mount

PAGE: Final = 4096
MAX_BACKGROUND: Final = 64
"""Requests that nobody waits for directly (read-ahead, asynchronous I/O) under way at once, unless
a mount asks for more or less.
"""

REQUEST_ROOM: Final = 8192
"""What the largest request may need beside its data: headers, names, extensions.

Also the kernel's own minimum.
"""

_ALWAYS: Final = (
    FUSE_BIG_WRITES
    | FUSE_AUTO_INVAL_DATA
    | FUSE_PARALLEL_DIROPS
    | FUSE_ABORT_ERROR
    | FUSE_MAX_PAGES
    | FUSE_CACHE_SYMLINKS
    | FUSE_NO_OPEN_SUPPORT
    | FUSE_SETXATTR_EXT
    | FUSE_INIT_EXT
    | FUSE_DIRECT_IO_ALLOW_MMAP
)
_FOR_OPERATION: Final = {
    "readdir": FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO,
    "setattr": FUSE_HANDLE_KILLPRIV_V2,  # else the kernel asks for capabilities before each write
    "advlock": FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS,
}
_FOR_TERM: Final = {
    "async_read": FUSE_ASYNC_READ,
    "atomic_o_trunc": FUSE_ATOMIC_O_TRUNC,
    "writeback": FUSE_WRITEBACK_CACHE,
    "passthrough": FUSE_PASSTHROUGH,
}
_UNLESS_TERM: Final = {"posix_locks": FUSE_POSIX_LOCKS, "flocks": FUSE_FLOCK_LOCKS}
_NEEDED: Final = {
    "writeback": "this kernel has no write-back cache: omit -o writeback",
    "passthrough": "this kernel has no passthrough (Linux 6.9 and later have): omit -o passthrough",
}
"""Terms that a mount is not made without."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a mount asks of the kernel; all as in `MountOptions`, but that nothing is undecided."""

    max_write: int
    writeback: bool = False
    passthrough: bool = False
    max_readahead: int | None = None
    max_background: int = MAX_BACKGROUND
    congestion_threshold: int = MAX_BACKGROUND * 3 // 4
    async_read: bool = True
    atomic_o_trunc: bool = False
    posix_locks: bool = True
    flocks: bool = True

    @classmethod
    def of(cls, options: MountOptions, max_write: int) -> Self:
        """What `options` ask for, with what they leave open."""
        background = options.max_background or MAX_BACKGROUND
        return cls(
            max_write,
            options.writeback,
            options.passthrough,
            options.max_readahead,
            background,
            options.congestion_threshold or max(1, background * 3 // 4),
            options.async_read,
            options.atomic_o_trunc,
            options.posix_locks,
            options.flocks,
        )


class WrongProtocol(OSError):
    """The kernel speaks a protocol that puffs does not."""

    def __init__(self, major: int, minor: int) -> None:
        need = f"{KERNEL_VERSION}.{MIN_MINOR_VERSION}"
        super().__init__(
            errno.EPROTONOSUPPORT,
            f"the kernel speaks FUSE {major}.{minor}; puffs needs {need} or later (Linux 5.4)",
        )


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What both sides hold to. `max_write` is the largest data of one request in bytes."""

    minor: int
    flags: int
    max_write: int
    max_readahead: int
    max_background: int = MAX_BACKGROUND
    congestion_threshold: int = MAX_BACKGROUND * 3 // 4

    @property
    def buffer_size(self) -> int:
        """The length of a buffer that every request fits into."""
        return self.max_write + REQUEST_ROOM

    def reply(self) -> bytes:
        """The body of the reply to INIT."""
        return INIT_OUT.pack(
            major=KERNEL_VERSION,
            minor=self.minor,
            max_readahead=self.max_readahead,
            flags=self.flags & 0xFFFFFFFF,
            max_background=self.max_background,
            congestion_threshold=self.congestion_threshold,
            max_write=self.max_write,
            time_gran=1,
            max_pages=-(-self.max_write // PAGE),
            flags2=self.flags >> 32,
            max_stack_depth=MAX_STACK_DEPTH if self.flags & FUSE_PASSTHROUGH else 0,
        )


def newer_major(body: memoryview) -> bytes | None:
    """The reply to a kernel of a later major version: ours, and it will ask again in terms of that.

    None if it is not.
    """
    major, *_ = COMPAT_INIT_IN.struct.unpack_from(body)
    return INIT_OUT.pack(major=KERNEL_VERSION) if major > KERNEL_VERSION else None


def negotiate(body: memoryview, mount: Mount, terms: Terms) -> Negotiated:
    """Settle on what the `fuse_init_in` in `body` offers, what `mount` has a use for, and `terms`.

    Raises `WrongProtocol`, and `OSError` for a kernel that cannot.
    """
    major, minor, max_readahead, offered = COMPAT_INIT_IN.struct.unpack_from(body)
    if major != KERNEL_VERSION or minor < MIN_MINOR_VERSION:
        raise WrongProtocol(major, minor)
    if offered & FUSE_INIT_EXT and len(body) >= INIT_IN.size:
        offered |= INIT_IN.unpack(body)["flags2"] << 32
    wanted = _ALWAYS
    for operation, flags in _FOR_OPERATION.items():
        if operation in mount.ops:
            wanted |= flags
    for term, flag in _FOR_TERM.items():
        if getattr(terms, term):
            if term in _NEEDED and not offered & flag:
                raise OSError(errno.EOPNOTSUPP, _NEEDED[term])
            wanted |= flag
    if mount.filling is not None:  # it tells of nodes in every listing
        wanted &= ~FUSE_READDIRPLUS_AUTO
    for term, flag in _UNLESS_TERM.items():
        if not getattr(terms, term):
            wanted &= ~flag
    if mount.server.posix_acl:
        wanted |= FUSE_DONT_MASK  # a default ACL takes the place of the umask
        if "access" not in mount.ops:  # with this the kernel checks permissions, by ACLs too
            wanted |= FUSE_POSIX_ACL
    if mount.exports:
        wanted |= FUSE_EXPORT_SUPPORT
    elif "fileid" not in mount.ops:  # with it, handles are good for what the kernel remembers
        wanted |= FUSE_NO_EXPORT_SUPPORT
    # Without max_pages a request holds 32 pages.
    limit = terms.max_write if offered & FUSE_MAX_PAGES else min(terms.max_write, 32 * PAGE)
    if terms.max_readahead is not None:
        max_readahead = min(max_readahead, terms.max_readahead)
    return Negotiated(
        min(minor, KERNEL_MINOR_VERSION),
        offered & wanted,
        limit,
        max_readahead,
        terms.max_background,
        terms.congestion_threshold,
    )
