"""Opening /dev/fuse, and why it cannot be opened."""

import errno
import fcntl
import os
import struct
from typing import Final

from puffs.attach.fuse.abi import FUSE_DEV_IOC_CLONE
from puffs.attach.fuse.doors import reasons
from puffs.attach.fuse.doors.reasons import DoorShut, Reason
from puffs.attach.fuse.machine import Machine
from puffs.attach.fuse.mountpoint import MountError

DEVICE: Final = "/dev/fuse"

_WORLD: Final = 0o006

_OPEN_REFUSED: Final[dict[int, Reason]] = {
    errno.ENOENT: reasons.NO_NODE,
    errno.EISDIR: reasons.DIRECTORY,
    errno.ENODEV: reasons.NO_DRIVER,
    errno.ENXIO: reasons.NO_DRIVER,
    errno.EACCES: reasons.NOT_PERMITTED,
    errno.EPERM: reasons.DEVICE_CGROUP,
}
"""open(2) of the device."""


def open_device(machine: Machine) -> int:
    """Open /dev/fuse. The descriptor is nobody's until it is mounted.

    Raises:
        DoorShut: it cannot be opened here.
        MountError: what has nothing to do with doors: too many open files, out of memory.
    """
    try:
        return machine.open(DEVICE)
    except OSError as error:
        code = error.errno or errno.EIO
        if reason := why_not_opened(machine, code):
            raise DoorShut(reason, code) from error
        raise MountError(code, f"cannot open {DEVICE}: {error.strerror}") from error


def why_not_opened(machine: Machine, code: int) -> Reason | None:
    """What the errno of open(2) of the device means here; None when it says all itself."""
    if code == errno.ENOENT and not has_fuse(machine):
        return reasons.NO_MODULE
    if code == errno.EACCES and _for_everybody(machine):
        return reasons.NO_DEVICES
    return _OPEN_REFUSED.get(code)


def device_shut(machine: Machine) -> DoorShut | None:
    """Why /dev/fuse cannot be opened; None when it can."""
    try:
        os.close(open_device(machine))
    except DoorShut as shut:
        return shut
    except MountError as error:
        return DoorShut(Reason(str(error), "try again"), error.errno or errno.EIO)
    return None


def has_fuse(machine: Machine) -> bool:
    """Whether the kernel knows file systems of type fuse at present (proc_filesystems(5))."""
    return "fuse" in (machine.read("/proc/filesystems") or "").split()


def _for_everybody(machine: Machine) -> bool:
    """Whether the mode of the node lets everybody open it."""
    try:
        return machine.stat(DEVICE).st_mode & _WORLD == _WORLD
    except OSError:
        return False


def clone_device(machine: Machine, fd: int) -> int:
    """Another descriptor of the connection `fd`, for another thread (FUSE_DEV_IOC_CLONE, fuse(4)).

    A request must be answered on the descriptor that it was read from.

    Raises:
        DoorShut, MountError: as `open_device`.
        OSError: the kernel does not make one.
    """
    clone = open_device(machine)
    try:
        fcntl.ioctl(clone, FUSE_DEV_IOC_CLONE, struct.pack("=I", fd))
    except BaseException:
        os.close(clone)
        raise
    return clone
