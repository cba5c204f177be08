"""Mount arguments: what a mounting asks of the kernel half, checked in the order of the reference
(M1 to M25).

They come as a record of plain data (`MountArgs.copyin`), and what was granted goes back as one
(`MountArgs.copyout`). Where the reference let bad arguments through, they are errors here: section
6.1 of the statements, items 1 to 5.
"""

import errno
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import IntFlag
from typing import Any, Final

from puffs.server.types import FHFLAG_DYNAMIC as FHFLAG_DYNAMIC
from puffs.server.types import FHFLAG_NFSV2 as FHFLAG_NFSV2
from puffs.server.types import FHFLAG_NFSV3 as FHFLAG_NFSV3

logger = logging.getLogger("puffs")

VERSION: Final = 1
"""The version of these arguments. Another one is refused (M7)."""

MNT_UPDATE: Final = 0x10000
"""The flag of mount(2) that asks to change what is mounted already."""


class KernelFlag(IntFlag):
    """How hosts and the kernel half are to treat a file server (statement 2.5), numbered as in the
    reference.

    The flags of the reference that would change nothing here are not among them, and refused as
    any other unknown one is: `docs/decisions.md` says why.
    """

    NOCACHE_NAME = 0x1
    """Hosts remember no names: each walk asks the file server."""
    NOCACHE_PAGE = 0x2
    """No page cache, in hosts or here: each read and write asks the file server."""
    WTCACHE = 0x8
    """Write through: what is written stays to be read, and goes to the file server at once."""
    NOFLUSH_META = 0x200
    """The file server keeps times itself: they are not flushed to it."""


KERNEL_FLAG_MASK: Final = sum(flag.value for flag in KernelFlag)

FHFLAG_MASK: Final = FHFLAG_DYNAMIC | FHFLAG_NFSV2 | FHFLAG_NFSV3

FHANDLE_SIZE_MAX: Final = 1024
"""The longest file handle that a host passes on, with the header that it puts before it (C6)."""
FHANDLE_HEADER: Final = 4
"""That header: length and padding. File servers never see it, and no size here counts it (C5)."""


def tofhsize(size: int) -> int:
    """The length of a whole handle whose file server's part has `size` bytes (C5)."""
    return size + FHANDLE_HEADER if size else 0


def fromfhsize(size: int) -> int:
    """The length of the file server's part of a handle of `size` bytes; never negative (C5)."""
    return max(0, size - FHANDLE_HEADER)


FHSIZE_MAX: Final = fromfhsize(FHANDLE_SIZE_MAX)
"""The longest file handle that a file server may make: 1020 bytes (C6)."""
_FHSIZE_NFS: Final = {
    FHFLAG_NFSV2: ("NFSv2", fromfhsize(32)),
    FHFLAG_NFSV3: ("NFSv3", fromfhsize(64)),
}
"""What the protocols take, in the order in which they are checked (C7)."""

REQUEST_HEADER: Final = 4096
"""What a request may need beside its data (C8)."""
REQUEST_MIN: Final = 2 * REQUEST_HEADER
"""The smallest request: one page of data. The reference's was 4096, with room for none (M17)."""
REQUEST_MAX: Final = REQUEST_HEADER + (1 << 20)
"""The largest request: as much data as a host takes unless its limits were raised (C8)."""

pnodebuckets_default = 256
"""Tunable: the size of a node table that asks for none (C1)."""
maxpnodebuckets = 8192
"""Tunable: the largest node table. Unlike the reference's it has an effect (C2, C3)."""

PREFIX: Final = "puffs:"
NAME_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class MountArgs:
    """What a mounting asks for. `checked()` gives back what was granted.

    `name` names the file server; `flags` are of `KernelFlag`; `fhsize` is the length of its file
    handles in bytes (0: none), or the largest with FHFLAG_DYNAMIC in `fhflags`; `request_size` is
    the largest request in bytes, its data and REQUEST_HEADER (0: as much as the host takes);
    `buckets` is the reference's size of the node table, kept within its limits and otherwise
    without effect on a Python dict.
    """

    name: str
    version: int = VERSION
    flags: int = 0
    fhsize: int = 0
    fhflags: int = 0
    request_size: int = 0
    buckets: int = 0

    @property
    def payload(self) -> int:
        """The largest data of one request in bytes, once the arguments were checked."""
        return self.request_size - REQUEST_HEADER

    @classmethod
    def copyin(cls, data: Mapping[str, Any] | None) -> "MountArgs":
        """The arguments in a record of plain data, not yet checked.

        Raises `OSError`: EINVAL for no record (M4), or for one whose fields are not these (M6; 6.1
        item 1: there are none to spare).
        """
        if data is None:
            raise _invalid("no mount arguments")
        kinds: dict[str, type] = {field.name: int for field in fields(cls)} | {"name": str}
        if unknown := data.keys() - kinds.keys():
            raise _invalid(f"unknown mount arguments {', '.join(sorted(map(str, unknown)))}")
        if "name" not in data:
            raise _invalid("mount arguments without the name of a file server")
        for name, value in data.items():
            if type(value) is not kinds[name]:
                raise _invalid(
                    f"mount argument {name}: {value!r} is {type(value).__name__}, not "
                    f"{kinds[name].__name__}"
                )
        return cls(**data)

    def copyout(self) -> dict[str, Any]:
        """The same as a record of plain data.

        For `Mount.args` it holds what was granted (M1, M2).
        """
        return asdict(self)

    def checked(self) -> "MountArgs":
        """The arguments as granted: sizes clamped, the name made printable and prefixed.

        Raises `OSError` (EINVAL) with a message that says which argument is wrong.
        """
        if self.version != VERSION:  # M7
            raise _invalid(f"mount arguments of version {self.version}, this is version {VERSION}")
        # M8, M9, improved: unknown flags were ignored.
        flags = int(self.flags)
        if flags & ~KERNEL_FLAG_MASK:
            raise _invalid(f"unknown mount flags {flags & ~KERNEL_FLAG_MASK:#x}")
        if self.fhflags & ~FHFLAG_MASK:
            raise _invalid(f"unknown file handle flags {self.fhflags & ~FHFLAG_MASK:#x}")
        # M10; M11: the reference compared after an addition that could overflow.
        if not 0 <= self.fhsize <= FHSIZE_MAX:
            raise _invalid(
                f"file handles of {self.fhsize} bytes: at most {FHSIZE_MAX} are possible"
            )
        for flag, (protocol, limit) in _FHSIZE_NFS.items():  # M13, M14; M12: no handles, no check
            if self.fhflags & flag and self.fhsize > limit:
                raise _invalid(
                    f"file handles of {self.fhsize} bytes: {protocol} takes {limit} at most"
                )
        return replace(
            self,
            name=PREFIX + _printable(self.name),
            flags=flags,
            request_size=_clamp_request(self.request_size),
            buckets=_clamp_buckets(self.buckets),
        )


def check_flags(flags: int) -> None:
    """The first check of a mounting, before its arguments are looked at (M3): `flags` of mount(2).

    Raises `OSError`: EOPNOTSUPP for MNT_UPDATE.
    """
    if flags & MNT_UPDATE:
        raise OSError(
            errno.EOPNOTSUPP,
            "a mount cannot be changed while it is there: unmount it, and mount it again",
        )


def _clamp_request(size: int) -> int:
    """M16, M17: nothing, or too much, is the largest; too little is the smallest."""
    return max(size, REQUEST_MIN) if 0 < size <= REQUEST_MAX else REQUEST_MAX


def _clamp_buckets(buckets: int) -> int:
    """M25: never an error."""
    buckets = max(buckets or pnodebuckets_default, 1)
    if buckets > maxpnodebuckets:
        logger.info("using %d hash buckets: adjust maxpnodebuckets for more", maxpnodebuckets)
    return min(buckets, maxpnodebuckets)


def _printable(name: str) -> str:
    """`name` within its field: it ends at a NUL, bytes outside of 0x20 to 0x7e become dots, and
    what is beyond NAME_MAX is cut off (M15).
    """
    raw = name.partition("\0")[0].encode(errors="surrogatepass")[:NAME_MAX]
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E else "." for byte in raw)


def _invalid(text: str) -> OSError:
    return OSError(errno.EINVAL, text)
