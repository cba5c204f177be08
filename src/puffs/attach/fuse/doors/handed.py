"""The door of a connection that somebody else has opened and mounted.

The mount point then is ``/dev/fd/N``: serve that descriptor; nothing is mounted or unmounted by us.
"""

import errno
import os
import re
import select
import stat
from typing import Final

from puffs.attach.fuse.doors import reasons
from puffs.attach.fuse.doors.door import Door, MountRequest
from puffs.attach.fuse.doors.reasons import DoorShut
from puffs.attach.fuse.machine import Machine
from puffs.attach.fuse.mountpoint import MountError
from puffs.attach.fuse.options import MountOptions

FUSE_DEVICE: Final = (10, 229)
"""major and minor of /dev/fuse (Documentation/admin-guide/devices.txt of the kernel)."""

_STILL_OPEN: Final = (
    "max_write",
    "threads",
    "control",
    "slow",
    "namecache",
    "pagecache",
    "passthrough",
)
"""Options of the server, and not of the mount."""


def descriptor_of(mountpoint: str | os.PathLike[str]) -> int | None:
    """The N of a mount point ``/dev/fd/N``; None for any other."""
    found = re.fullmatch(r"/dev/fd/(\d{1,9})", os.fsdecode(mountpoint))
    return int(found[1]) if found else None


def adopt(fd: int) -> int:
    """Make a descriptor that was inherited or received fit to be served, and return it.

    Programs that are started from now on do not inherit it: they would keep a dead mount alive.

    Raises:
        MountError: it is not open, or no connection to FUSE.
    """
    try:
        found = os.fstat(fd)
        os.set_inheritable(fd, False)
    except OSError as error:
        raise MountError(
            error.errno or errno.EBADF,
            f"descriptor {fd} is not open: open /dev/fuse, mount it, and pass it on as {fd}",
        ) from error
    device = os.major(found.st_rdev), os.minor(found.st_rdev)
    if not stat.S_ISCHR(found.st_mode) or device != FUSE_DEVICE:
        raise MountError(
            errno.ENODEV,
            f"descriptor {fd} is not one of /dev/fuse: open that, mount it, and pass it on as {fd}",
        )
    dead = select.poll()
    dead.register(fd, 0)  # errors are always told
    if dead.poll(0):
        raise MountError(
            errno.ENODEV,
            f"descriptor {fd} is not mounted, or not any more: mount it before it is passed on",
        )
    return fd


def check_options(options: MountOptions) -> None:
    """Refuse what only the one who mounts can decide.

    Raises:
        MountError: an option has come too late.
    """
    chosen = {name: getattr(options, name) for name in _STILL_OPEN}
    if options != MountOptions(**chosen):
        raise MountError(
            errno.EINVAL,
            f"the connection has been mounted already: only {', '.join(_STILL_OPEN)} can still "
            "be chosen, the other mount options belong to the command that mounts",
        )


def _open(_request: MountRequest, _machine: Machine) -> int:
    raise DoorShut(reasons.NOT_HANDED)


def _shut(_machine: Machine, _options: MountOptions) -> DoorShut | None:
    return DoorShut(reasons.NOT_HANDED)


HANDED = Door("puffs serve", _open, _shut)
