"""POSIX access control lists (acl(5)): what a list is, whom it grants what, and how it and the
permission bits of a mode follow each other. The rules are those of POSIX 1003.1e draft 17 as Linux
has them; `access` applies them to files.

An ACL is the value of an extended attribute. `ACL_ACCESS` says who may use a file, `ACL_DEFAULT` of
a directory what the files that are made in it begin with.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from struct import Struct
from typing import Final, NamedTuple, Self

from puffs.server.cred import Cred

ACL_ACCESS: Final = "system.posix_acl_access"
"""The extended attribute with the access ACL of a file."""
ACL_DEFAULT: Final = "system.posix_acl_default"
"""The extended attribute with the default ACL of a directory."""
ACL_NAMES: Final = frozenset((ACL_ACCESS, ACL_DEFAULT))

# The tags of entries, in the order in which they stand (linux/posix_acl.h).
USER_OBJ: Final = 0x01
USER: Final = 0x02
GROUP_OBJ: Final = 0x04
GROUP: Final = 0x08
MASK: Final = 0x10
OTHER: Final = 0x20

_VERSION: Final = Struct("<I")
EMPTY: Final = _VERSION.pack(2)
"""The value of an ACL without entries, which stands for none."""
_ENTRY: Final = Struct("<HHI")
_NO_ID: Final = 0xFFFFFFFF
_TAGS: Final = (USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER)
_NAMED: Final = frozenset((USER, GROUP))
_SHIFTS: Final[Mapping[int, int]] = {USER_OBJ: 6, MASK: 3, OTHER: 0}
"""Where the permission bits of a mode are that stand for an entry."""


class AclEntry(NamedTuple):
    """One entry: `tag` says for whom, `perm` are `os.R_OK | os.W_OK | os.X_OK`, `id` is the number
    of the user or group of a `USER` or `GROUP` entry.
    """

    tag: int
    perm: int
    id: int = _NO_ID


class Acl:
    """A valid access control list.

    Raises `OSError` (EINVAL) for entries that make none: there must be one each for owner, owning
    group and others, and a mask where users or groups are named.
    """

    __slots__ = ("entries",)

    def __init__(self, entries: Iterable[AclEntry]) -> None:
        self.entries = tuple(entries)
        tags = [entry.tag for entry in self.entries]
        named = _NAMED.intersection(tags)
        valid = (
            all(entry.tag in _TAGS and not entry.perm & ~0o7 for entry in self.entries)
            and all(entry.id != _NO_ID for entry in self.entries if entry.tag in _NAMED)
            and all(tags.count(tag) == 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER))
            and tags.count(MASK) in ((1,) if named else (0, 1))
            and tags == sorted(tags)
        )
        if not valid:
            raise _invalid()

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """The list that is the value of an extended attribute. `OSError` (EINVAL) if it is none."""
        if value[: _VERSION.size] != EMPTY or (len(value) - _VERSION.size) % _ENTRY.size:
            raise _invalid()
        return cls(AclEntry(*fields) for fields in _ENTRY.iter_unpack(value[_VERSION.size :]))

    def pack(self) -> bytes:
        """The value of an extended attribute."""
        return EMPTY + b"".join(_ENTRY.pack(*entry) for entry in self.entries)

    @property
    def mode(self) -> int:
        """The permission bits that say the same, as far as bits can: nine of them."""
        bits = {entry.tag: entry.perm for entry in self.entries if entry.tag not in _NAMED}
        return bits[USER_OBJ] << 6 | bits.get(MASK, bits[GROUP_OBJ]) << 3 | bits[OTHER]

    @property
    def minimal(self) -> bool:
        """Whether the permission bits say all, so that no list need be kept."""
        return len(self.entries) == 3

    def with_mode(self, mode: int) -> Self:
        """The list after a chmod(2) to `mode`."""
        return self._by_bits(lambda _perm, bits: bits, mode)

    def narrowed(self, mode: int) -> Self:
        """The list of a file that is made with `mode`, of this one: both must grant."""
        return self._by_bits(lambda perm, bits: perm & bits, mode)

    def _by_bits(self, change: Callable[[int, int], int], mode: int) -> Self:
        shifts = _SHIFTS
        if MASK not in (entry.tag for entry in self.entries):
            shifts = {**_SHIFTS, GROUP_OBJ: _SHIFTS[MASK]}
        return type(self)(
            entry._replace(perm=change(entry.perm, mode >> shifts[entry.tag] & 0o7))
            if entry.tag in shifts
            else entry
            for entry in self.entries
        )

    def grants(self, want: int, uid: int, gid: int, cred: Cred) -> bool:
        """Whether `cred` is granted `want` of a file of the user `uid` and the group `gid`.

        The first entry that fits decides, but of those for groups any one that grants it all.
        """
        mask = 0o7
        for entry in self.entries:
            if entry.tag == MASK:
                mask = entry.perm
        in_a_group = False
        for tag, perm, id_ in self.entries:
            if tag == USER_OBJ and cred.uid == uid:
                return not want & ~perm
            if tag == USER and cred.uid == id_:
                return not want & ~(perm & mask)
            if tag in (GROUP_OBJ, GROUP) and cred.in_group(gid if tag == GROUP_OBJ else id_):
                in_a_group = True
                if not want & ~perm:
                    return not want & ~mask
            if tag == OTHER:
                return not in_a_group and not want & ~perm
        raise AssertionError("a valid list ends with the entry for others")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Acl) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.entries)

    def __repr__(self) -> str:
        return f"Acl({list(self.entries)})"


def _invalid() -> OSError:
    return OSError(errno.EINVAL, os.strerror(errno.EINVAL))
