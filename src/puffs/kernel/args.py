"""Mount arguments: what a mounting asks of the kernel half, checked in the order of the reference
(M7 to M25).

Where the reference let bad arguments through, they are errors here: section 6.1 of the statements,
items 1 to 5.
"""

import errno
from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Final

VERSION: Final = 1
"""The version of these arguments. Another one is refused (M7)."""


class KernelFlag(IntFlag):
    """How the kernel half is to treat a file server (statement 2.5), numbered as in the reference.

    The flags of the reference that would change nothing here are not among them, and refused as
    any other unknown one is: `docs/decisions.md` says why.
    """

    NOCACHE_PAGE = 0x2
    """No page cache in the kernel half: reads and writes go to the file server as they come."""
    WTCACHE = 0x8
    """Write through: what is written stays to be read, and goes to the file server at once."""
    NOFLUSH_META = 0x200
    """The file server keeps times itself: they are not flushed to it."""


_KERNEL_FLAG_MASK: Final = sum(flag.value for flag in KernelFlag)

FHFLAG_DYNAMIC: Final = 1
FHFLAG_NFSV2: Final = 2
FHFLAG_NFSV3: Final = 4
FHFLAG_MASK: Final = 7

FHSIZE_MAX: Final = 1020
"""The longest file handle: 1024 bytes less the kernel's header of 4 (C6)."""
_FHSIZE_NFS: Final = {FHFLAG_NFSV2: ("NFSv2", 28), FHFLAG_NFSV3: ("NFSv3", 60)}

REQUEST_HEADER: Final = 4096
"""What a request may need beside its data (C8)."""
REQUEST_MAX: Final = 1 << 20
"""The largest data of one request: what a host takes at most unless its limits were raised."""

BUCKETS_DEFAULT: Final = 256
BUCKETS_MAX: Final = 8192

PREFIX: Final = "puffs:"
NAME_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class MountArgs:
    """What a mounting asks for. `checked()` gives back what was granted.

    `name` names the file server; `fhsize` is the length of its file handles in bytes (0: none), or
    the largest with FHFLAG_DYNAMIC; `request_size` is the largest data of one request in bytes (0:
    as much as the host takes); `flags` are of `KernelFlag`; `buckets` is the reference's size of
    the node table, kept within its limits and otherwise without effect on a Python dict.
    """

    name: str
    version: int = VERSION
    fhsize: int = 0
    fhflags: int = 0
    request_size: int = 0
    buckets: int = 0
    flags: int = 0

    def checked(self) -> "MountArgs":
        """The arguments as granted: sizes clamped, the name made printable and prefixed.

        Raises `OSError` (EINVAL) with a message that says which argument is wrong.
        """
        if self.version != VERSION:  # M7
            raise _invalid(f"mount arguments of version {self.version}, this is version {VERSION}")
        unknown = int(self.flags) & ~_KERNEL_FLAG_MASK
        if unknown:  # M8, improved: they were cleared
            raise _invalid(f"unknown kernel flags {unknown:#x}")
        if self.fhflags & ~FHFLAG_MASK:  # M9, improved: unknown flags were ignored
            raise _invalid(f"unknown file handle flags {self.fhflags & ~FHFLAG_MASK:#x}")
        if (
            not 0 <= self.fhsize <= FHSIZE_MAX
        ):  # M10; M11 compared after an addition that could overflow
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
            name=PREFIX + _printable(self.name),  # M15
            request_size=_clamp_request(self.request_size),  # M16, M17
            buckets=min(max(self.buckets or BUCKETS_DEFAULT, 1), BUCKETS_MAX),  # M25
        )


def _clamp_request(size: int) -> int:
    """M16, M17; the reference's floor of 4096 left no room for data, hence a floor of one page of
    data here.
    """
    return REQUEST_MAX if not 0 < size <= REQUEST_MAX else max(size, REQUEST_HEADER)


def _printable(name: str) -> str:
    """`name` within its field: bytes outside of 0x20 to 0x7e become dots, the rest is cut off
    (M15).
    """
    return "".join(char if " " <= char <= "~" else "." for char in name[:NAME_MAX])


def _invalid(text: str) -> OSError:
    return OSError(errno.EINVAL, text)
