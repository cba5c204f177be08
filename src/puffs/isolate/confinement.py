"""What the process of a file server may do: as whom it runs, and how much memory and time it has.

A `Confinement` is checked in the process that starts the other one, with errors for people, and put
into force in that other one, from where there is no way back.
"""

import ctypes
import errno
import mmap
import os
import pwd
import re
import resource
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

HEADROOM: Final = 16 << 20
"""Bytes that a process needs beyond what the interpreter has when it starts: among them the stack
of one thread.
"""
GRACE_SECONDS: Final = 5
"""How much longer than its processor time a process lives that does not end at SIGXCPU."""

_SHIFTS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SECONDS: Final = {"": 1, "S": 1, "M": 60, "H": 3600}
_NUMBER: Final = re.compile(r"([0-9]+)([A-Za-z]?)")

_UID_MAX: Final = (1 << 32) - 2  # the one above means "leave it" to setresuid(2)
_CPU_MAX: Final = 1 << 32
"""136 years. The kernel counts in nanoseconds, and much more would overflow into much less."""
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class Identity(NamedTuple):
    """Whom a process becomes; `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the process of a file server may do.

    Attributes:
        user: as whom it runs: a name or a uid; None: as who starts it. With a user it can also not
            become another one again by executing something.
        memory: bytes of its address space (RLIMIT_AS).
        cpu: seconds of processor time, in all (RLIMIT_CPU).
    """

    user: str | None = None
    memory: int | None = None
    cpu: int | None = None

    def check(self) -> None:
        """Find out what can be known before there is a process.

        Raises:
            ValueError: there is no such user; the memory or the time is too little.
            PermissionError: only root can become another user.
        """
        identity = self.identity()
        if identity is not None and os.geteuid() not in (0, identity.uid):
            raise PermissionError(
                errno.EPERM, f"only root may run a file server as another user ({self.user})"
            )
        if self.memory is not None:
            now = _address_space()
            if self.memory < now + HEADROOM:
                raise ValueError(
                    f"{_mebibytes(self.memory)} of memory is too little: the interpreter has "
                    f"{_mebibytes(now)} when it starts; give it {_mebibytes(now + HEADROOM)} "
                    "or more"
                )
        if self.cpu is not None and self.cpu < 1:
            raise ValueError("a file server needs at least one second of processor time")

    def identity(self) -> Identity | None:
        """Whom the process becomes, as passwd(5) and group(5) say; None: nobody else.

        A uid that has no name has the group of the same number. Raises `ValueError` if there is no
        such user.
        """
        if self.user is None:
            return None
        try:
            if self.user.isascii() and self.user.isdigit():
                uid = int(self.user)
                try:
                    user = pwd.getpwuid(uid)
                except KeyError:
                    if uid > _UID_MAX:
                        raise
                    return Identity(uid, uid, ())
            else:
                user = pwd.getpwnam(self.user)
        except (KeyError, ValueError):
            raise ValueError(
                f"there is no user {self.user!r}: give a name that `getent passwd` shows, or a uid"
            ) from None
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
        return Identity(user.pw_uid, user.pw_gid, tuple(groups))

    def enter(self, identity: Identity | None) -> None:
        """Confine the calling process, for good.

        Args:
            identity: what `identity` has found before the fork: names are looked up by libraries
                that may have threads and connections.

        Raises:
            OSError: it cannot be confined so; the text says in which respect.
        """
        steps: list[tuple[str, Callable[[], None]]] = [
            ("be kept from dumping core", lambda: _limit(resource.RLIMIT_CORE, 0, 0))
        ]
        if (memory := self.memory) is not None:
            steps.append(
                ("be limited in memory", lambda: _limit(resource.RLIMIT_AS, memory, memory))
            )
        if (cpu := self.cpu) is not None:
            soft = min(cpu, _CPU_MAX)
            steps.append(
                (
                    "be limited in time",
                    lambda: _limit(resource.RLIMIT_CPU, soft, soft + GRACE_SECONDS),
                )
            )
        if identity is not None:
            steps.append((f"run as user {self.user}", lambda: _become(identity)))
        for what, step in steps:
            try:
                step()
            except OSError as exc:
                raise OSError(exc.errno, f"it cannot {what}: {exc.strerror}") from None


def _limit(which: int, soft: int, hard: int) -> None:
    """Set a limit, but none beyond the one that is there: setrlimit(2)."""
    most = resource.getrlimit(which)[1]
    if most == resource.RLIM_INFINITY:
        most = (1 << 63) - 1
    resource.setrlimit(which, (min(soft, most), min(hard, most)))


def _become(identity: Identity) -> None:
    """Be another user, with no way back: credentials(7), no_new_privs, capabilities(7).

    With no_new_privs no program that is executed brings a right along, so the bounding set of
    capabilities says nothing any more.
    """
    if os.geteuid() == 0:
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    if identity.uid != 0:  # the change of user takes them away, unless securebits forbid that
        header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
        _check(_libc.capset(header, bytes(24)))
    arguments = [ctypes.c_ulong(number) for number in (1, 0, 0, 0)]
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, *arguments))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _address_space() -> int:
    """Bytes of address space of this process: proc_pid_statm(5). 0 where it cannot be known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except OSError:
        return 0


def _mebibytes(size: int) -> str:
    return f"{-(-size >> 20)}M"


def parse_size(text: str) -> int:
    """Bytes, from text like 64M. Raises `ValueError` with what stands behind "NAME needs"."""
    return _parsed(
        text, lambda unit: 1 << _SHIFTS[unit], "a number of bytes, such as 512M, 2G or 786432K"
    )


def parse_seconds(text: str) -> int:
    """Seconds, from text like 10m. Raises `ValueError` with what stands behind "NAME needs"."""
    return _parsed(text, _SECONDS.__getitem__, "a number of seconds, or one such as 90s, 10m or 2h")


def _parsed(text: str, factor: Callable[[str], int], needs: str) -> int:
    try:
        found = _NUMBER.fullmatch(text)
        if found is None:
            raise KeyError(text)
        return int(found[1]) * factor(found[2].upper())
    except (KeyError, ValueError):  # int() refuses thousands of digits
        raise ValueError(needs) from None
