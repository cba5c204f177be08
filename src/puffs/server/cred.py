"""Who asks: credentials, and `caller()`, which tells them in any operation."""

import os
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Final, Protocol


class Cred:
    """The credentials of a caller: `uid`, `gid`, the thread `tid` and, where a file is made, its
    `umask`.

    A host tells the thread that calls and its effective ids, and no more. `pid` and `groups` are
    therefore looked up in `/proc` when they are asked for, unless they were given; once the thread
    is gone they are 0 and empty.
    """

    __slots__ = ("_groups", "_pid", "gid", "tid", "uid", "umask")

    def __init__(
        self,
        uid: int,
        gid: int,
        tid: int = 0,
        umask: int = 0,
        *,
        pid: int | None = None,
        groups: tuple[int, ...] | None = None,
    ) -> None:
        self.uid = uid
        self.gid = gid
        self.tid = tid
        self.umask = umask
        self._pid = pid
        self._groups = groups

    @classmethod
    def current(cls) -> "Cred":
        """The credentials of this very process and thread."""
        groups = tuple(os.getgroups())
        return cls(
            os.geteuid(), os.getegid(), threading.get_native_id(), pid=os.getpid(), groups=groups
        )

    @property
    def pid(self) -> int:
        """The process that the calling thread belongs to."""
        if self._pid is not None:
            return self._pid
        line = self._status("Tgid:")
        return int(line) if line else 0

    @property
    def groups(self) -> tuple[int, ...]:
        """The supplementary groups of the caller."""
        if self._groups is not None:
            return self._groups
        return tuple(int(word) for word in self._status("Groups:").split())

    def known(self) -> tuple[int | None, tuple[int, ...] | None]:
        """`pid` and `groups` as far as they were given: None for what would be looked up."""
        return self._pid, self._groups

    @property
    def superuser(self) -> bool:
        """Whether the caller passes every permission check but execution (statement 3.7: the
        "juggernaut").
        """
        return self.uid == 0

    def in_group(self, gid: int) -> bool:
        """Whether `gid` is the caller's group or one of his supplementary groups."""
        return gid == self.gid or gid in self.groups

    def _status(self, field: str) -> str:
        try:
            text = Path(f"/proc/{self.tid}/status").read_text(errors="replace")
        except OSError:
            return ""
        return next(
            (line[len(field) :] for line in text.splitlines() if line.startswith(field)), ""
        ).strip()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cred):
            return NotImplemented
        return (self.uid, self.gid, self.tid) == (other.uid, other.gid, other.tid)

    def __hash__(self) -> int:
        return hash((self.uid, self.gid, self.tid))

    def __repr__(self) -> str:
        return f"Cred(uid={self.uid}, gid={self.gid}, tid={self.tid})"


NOCRED: Final = Cred(0, 0, pid=0, groups=())
"""The credentials of the kernel half (statement 2.4); as those of the superuser."""
FSCRED: Final = Cred(0, 0, pid=0, groups=())
"""The credentials of the file system itself, for what no caller has asked for, such as a flush."""


class Requester(Protocol):
    """What an attachment puts into `requester` while it serves: it knows the request that is under
    way.
    """

    def cred(self) -> Cred:
        """The credentials of the caller of the request that is under way."""
        ...

    def noatime(self) -> bool:
        """Whether the read that is under way is to move no time of access."""
        ...


requester: ContextVar[Requester] = ContextVar("puffs.requester")


def caller() -> Cred:
    """Who called the operation that is running. For use inside the operations of a file server.

    Raises `LookupError` outside of any operation.
    """
    try:
        return requester.get().cred()
    except LookupError:
        raise LookupError(
            "puffs.caller() is for use inside an operation of a file server"
        ) from None
