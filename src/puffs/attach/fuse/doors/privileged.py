"""The door of mount(2): for root, or for CAP_SYS_ADMIN in the user namespace that the mounts belong
to.
"""

import errno
import os

from puffs.attach.fuse.doors import reasons
from puffs.attach.fuse.doors.device import device_shut, open_device
from puffs.attach.fuse.doors.door import Door, MountRequest
from puffs.attach.fuse.doors.reasons import DoorShut, Reason
from puffs.attach.fuse.machine import CAP_SYS_ADMIN, Machine
from puffs.attach.fuse.mountpoint import MountError, shown
from puffs.attach.fuse.options import MountOptions, kernel_data


def mount_device(request: MountRequest, machine: Machine, uid: int, gid: int) -> int:
    """Open the device and mount it for the user `uid`, of group `gid`; return the descriptor.

    Raises:
        DoorShut: not here.
        MountError: the kernel will not have this mount.
    """
    target = request.mountpoint
    fd = open_device(machine)
    try:
        data = kernel_data(request.options, fd, request.rootmode, uid, gid)
        machine.mount(request.source, target, request.fstype, request.options.flags, data)
    except OSError as error:
        os.close(fd)
        code = error.errno or errno.EIO
        if reason := why_not_mounted(machine, code):
            raise DoorShut(reason, code) from error
        text = f"cannot mount on {shown(target)}: {os.strerror(code)}"
        raise MountError(code, text) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def why_not_mounted(machine: Machine, code: int) -> Reason | None:
    """What the errno of mount(2) means here; None when no door has to do with it."""
    if code == errno.ENODEV:
        return reasons.NO_FUSE
    if code not in (errno.EPERM, errno.EACCES):
        return None
    if not machine.may(CAP_SYS_ADMIN):
        return reasons.NO_PRIVILEGE
    if code == errno.EACCES and (profile := machine.apparmor_profile()):
        return reasons.mount_apparmor(profile)
    if code == errno.EPERM and machine.filtered():
        return reasons.MOUNT_SECCOMP
    return reasons.MOUNT_NAMESPACE if machine.in_user_namespace() else reasons.MOUNT_FORBIDDEN


def _open(request: MountRequest, machine: Machine) -> int:
    return mount_device(request, machine, machine.uid(), machine.gid())


def _shut(machine: Machine, _options: MountOptions) -> DoorShut | None:
    if shut := device_shut(machine):
        return shut
    return None if machine.may(CAP_SYS_ADMIN) else DoorShut(reasons.NO_PRIVILEGE)


PRIVILEGED = Door("mount(2)", _open, _shut)
