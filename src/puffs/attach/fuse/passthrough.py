"""Passthrough: files of the host that the kernel reads, writes and maps itself, past the file
server that has opened them (fuse(4), FUSE_PASSTHROUGH).

The kernel knows such a file by a backing id, and fails an open with EIO that does not go together
with the others of its file: all of them use one backing file, or none does. So none is answered
like that; it is the first open of a file that decides for those beside it:

    the file is open   the new open brings     and becomes
    not at all         a descriptor            passthrough, by a backing id made for it
    not at all         none                    as without `-o passthrough`
    passthrough        a descriptor            passthrough, by the same id
    passthrough        none                    the same with direct I/O: what it reads and writes is
                                               sent to the file server
    otherwise          whatever                as without `-o passthrough`

What the kernel has cached of a file it drops with each passthrough open, and caches nothing as long
as there is one.
"""

import errno
import fcntl
import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from puffs.attach.fuse.abi import (
    BACKING_MAP,
    FOPEN_DIRECT_IO,
    FOPEN_NOFLUSH,
    FOPEN_PARALLEL_DIRECT_WRITES,
    FOPEN_PASSTHROUGH,
    FUSE_DEV_IOC_BACKING_CLOSE,
    FUSE_DEV_IOC_BACKING_OPEN,
)
from puffs.attach.fuse.doors.reasons import NO_PASSTHROUGH
from puffs.attach.fuse.machine import CAP_SYS_ADMIN, HERE, Machine
from puffs.attach.fuse.mountpoint import MountError, shown
from puffs.attach.fuse.options import MountOptions, OptionError
from puffs.kernel.attachment import Servable, name_of
from puffs.kernel.vnode import Vnode
from puffs.server.types import Open

logger = logging.getLogger("puffs")

MAX_STACK_DEPTH: Final = 1
"""`fuse_init_out.max_stack_depth`: backing files are on no file system that stands on another one
(overlayfs), and such a file system may still stand on this mount. With 2 it would be the other way.
"""

_COMPANIONS: Final = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH
"""What the kernel takes beside FOPEN_PASSTHROUGH."""

_WHY_NOT: Final = {
    errno.ELOOP: "its file system stands on another one, as overlayfs does",
    errno.EBADF: "its backing_fd is not open",
    errno.EISDIR: "its backing_fd is a directory",
    errno.EINVAL: "its backing_fd is no regular file",
    errno.EPERM: "this process has no CAP_SYS_ADMIN any more",
}
_SHOWN: Final = 3
"""How many files or processes a message names."""


def check(options: MountOptions, server: Servable, *, isolated: bool) -> None:
    """Refuse `-o passthrough` where it cannot be had.

    Raises `OptionError`; `MountError` (EPERM) for a lack of privilege.
    """
    if not options.passthrough:
        return
    refusals = (
        (options.writeback, "it excludes writeback: omit one of them"),
        (not options.pagecache, "it excludes nopagecache: omit one of them"),
        (isolated, "the file server's descriptors are in another process: mount without isolate"),
        (
            not server.passthrough,
            f"{name_of(server)} passes no files of the host through: omit it",
        ),
    )
    for refused, why in refusals:
        if refused:
            raise OptionError(f"passthrough: {why}")
    if not permitted():
        text = f"passthrough: {NO_PASSTHROUGH.why}: {NO_PASSTHROUGH.remedy}, or omit it"
        raise MountError(errno.EPERM, text)


def permitted(machine: Machine = HERE) -> bool:
    """Whether the kernel lets this process name backing files."""
    return machine.may(CAP_SYS_ADMIN) and not machine.in_user_namespace()


class _Way:
    """How a file is open: by the backing file `id`, or by none (0)."""

    __slots__ = ("id", "opens")

    def __init__(self, id: int) -> None:
        self.id = id
        self.opens = 0


class BackingFiles:
    """The backing files of one connection, whose descriptor is `fd`; `mountpoint` is for people.

    Any number of threads may call.
    """

    def __init__(self, fd: int, mountpoint: str) -> None:
        self._fd = fd
        self._mountpoint = mountpoint
        self._ways: dict[Vnode, _Way] = {}
        self._opens: dict[int, Vnode] = {}
        self._lock = threading.Lock()
        self._complained: set[int] = set()

    def __len__(self) -> int:
        return len(self._passed())

    def opened(self, vnode: Vnode, fh: int, hints: Open | None, flags: int) -> tuple[int, int]:
        """A file is open as `fh`, with `flags` if it is not passed through.

        Returns its FOPEN_ bits and its backing id.
        """
        fd = None if hints is None else hints.backing_fd
        with self._lock:
            way = self._ways.get(vnode)
            if way is None:
                way = self._ways[vnode] = _Way(0 if fd is None else self._name(fd, vnode))
            way.opens += 1
            self._opens[fh] = vnode
        if not way.id:
            return flags, 0
        if fd is None:
            flags |= FOPEN_DIRECT_IO
        return flags & _COMPANIONS | FOPEN_PASSTHROUGH, way.id

    def closed(self, fh: int) -> None:
        """It is open no more. The last open of a file gives its backing id back."""
        with self._lock:
            vnode = self._opens.pop(fh, None)
            if vnode is None:  # a directory, or what was taken back before it was `opened`
                return
            way = self._ways[vnode]
            way.opens -= 1
            if not way.opens:
                del self._ways[vnode]
                self._give_back(way)

    def end(self) -> None:
        """The connection is about to be closed: give all back while its descriptor is there."""
        with self._lock:
            for way in self._ways.values():
                self._give_back(way)

    def check_held(self, device: tuple[int, int] | None) -> None:
        """EOPNOTSUPP while data may be written past the file server. `device`: of the mount.

        That is so while a file is open, and also when it is closed, but mapped: then nobody tells.
        """
        files = [shown(vnode.path()) for vnode in self._passed()]
        if files:
            whose = f"open files are read and written past the file server: {_some(files)}"
        elif programs := list(_mapping(device)):
            whose = f"memory is mapped from files past the file server: by {_some(programs)}"
        else:
            return
        text = f"{whose}; close them, or mount without -o passthrough"
        raise OSError(errno.EOPNOTSUPP, f"passthrough: {text}")

    def _passed(self) -> list[Vnode]:
        with self._lock:
            return [vnode for vnode, way in self._ways.items() if way.id]

    def _name(self, fd: int, vnode: Vnode) -> int:
        """A new backing id; 0 where the kernel gives none: the file server is asked then."""
        try:
            request = bytearray(BACKING_MAP.struct.pack(fd, 0, 0))
            return int(fcntl.ioctl(self._fd, FUSE_DEV_IOC_BACKING_OPEN, request, True))
        except OSError as exc:
            if exc.errno not in self._complained:
                self._complained.add(exc.errno or 0)
                why = _WHY_NOT.get(exc.errno or 0, exc.strerror)
                logger.warning(
                    "%s: %s is not passed through: %s (this is said once)",
                    self._mountpoint,
                    vnode.path(),
                    why,
                )
            return 0

    def _give_back(self, way: _Way) -> None:
        id_, way.id = way.id, 0
        if not id_:
            return
        try:
            fcntl.ioctl(self._fd, FUSE_DEV_IOC_BACKING_CLOSE, id_.to_bytes(4, sys.byteorder))
        except OSError as exc:
            logger.error("%s: backing file %d stays open: %s", self._mountpoint, id_, exc)


def _mapping(device: tuple[int, int] | None) -> Iterator[str]:
    """The programs that share memory with files of the mount `device`."""
    if device is None:
        return
    # proc_pid_maps(5): a range, permissions, an offset, the device.
    shared = re.compile(rf"^\S+ ...s \S+ {device[0]:02x}:{device[1]:02x} ", re.MULTILINE)
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if shared.search((process / "maps").read_text(errors="replace")):
                command = (process / "comm").read_text(errors="replace").rstrip("\n")
                yield f"{command!r} with pid {process.name}"
        except OSError:  # it has just ended
            continue


def _some(names: list[str]) -> str:
    """The first few, for a message."""
    return ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")
