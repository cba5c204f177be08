"""The door of a private user and mount namespace: no root, no helper, but only the processes in it
see the mount. `puffs exec` goes through it.
"""

import errno
from typing import Final

from puffs.attach.fuse.doors import reasons
from puffs.attach.fuse.doors.device import device_shut
from puffs.attach.fuse.doors.door import Door, MountRequest
from puffs.attach.fuse.doors.reasons import DoorShut, Reason
from puffs.attach.fuse.machine import CAP_SYS_ADMIN, Machine
from puffs.attach.fuse.mountpoint import MountError
from puffs.attach.fuse.options import MountOptions
from puffs.attach.fuse.syscalls import CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_SLAVE

MAX_NAMESPACES: Final = "/proc/sys/user/max_user_namespaces"
FOR_USERS: Final = "/proc/sys/kernel/unprivileged_userns_clone"
"""Debian, Ubuntu and Arch only."""
RESTRICTED: Final = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
"""AppArmor 4, Ubuntu from 23.10 on."""


def enter(machine: Machine, *, user: bool) -> None:
    """Move this process into a mount namespace of its own; it must have one thread only.

    Mounts made in it are seen by this process and its children, and mounts made outside go on
    arriving.

    Args:
        user: into a new user namespace too, with all capabilities in there. User and group keep
            their numbers; all others are shown as nobody, and cannot be taken (a user has the right
            to map himself only).

    Raises:
        DoorShut: not permitted here.
        MountError: this process has several threads.
    """
    uid, gid = machine.uid(), machine.gid()
    try:
        machine.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0))
        if user:
            # A user may map his group only when nobody in there can drop groups
            # (user_namespaces(7)).
            machine.write("/proc/self/setgroups", "deny")
            machine.write("/proc/self/uid_map", f"{uid} {uid} 1")
            machine.write("/proc/self/gid_map", f"{gid} {gid} 1")
        machine.mount("none", "/", "", MS_REC | MS_SLAVE, "")
    except OSError as error:
        code = error.errno or errno.EIO
        if code == errno.EINVAL and int(machine.status("Threads") or 1) > 1:
            text = "a new user namespace needs a process with one thread, and this one has more"
            raise MountError(code, text) from error
        raise DoorShut(why_not_entered(machine, code, user=user), code) from error


def why_not_entered(machine: Machine, code: int, *, user: bool) -> Reason:
    """What the errno of `enter` means here."""
    if not user:
        return reasons.MOUNT_SECCOMP if machine.filtered() else reasons.MOUNT_FORBIDDEN
    if known := switched_off(machine):
        return known
    if code in (errno.ENOSPC, errno.EUSERS):
        return reasons.USERNS_LIMIT
    if code in (errno.EINVAL, errno.ENOSYS):
        return reasons.NO_USERNS
    return reasons.USERNS_SECCOMP if machine.filtered() else reasons.USERNS_FORBIDDEN


def switched_off(machine: Machine) -> Reason | None:
    """What the settings of the machine say against a user namespace."""
    if machine.number(MAX_NAMESPACES) == 0:
        return reasons.USERNS_NONE
    if machine.may(CAP_SYS_ADMIN):  # the others are for those without privilege
        return None
    if machine.number(FOR_USERS) == 0:
        return reasons.USERNS_ROOT
    if machine.number(RESTRICTED) == 1:
        return reasons.USERNS_APPARMOR
    return None


def _open(_request: MountRequest, machine: Machine) -> int:
    """Never opened for a mount that others are to see: say what it could do."""
    raise _shut(machine, MountOptions()) or DoorShut(reasons.ONE_COMMAND)


def _shut(machine: Machine, _options: MountOptions) -> DoorShut | None:
    if shut := device_shut(machine):
        return shut
    reason = switched_off(machine)
    return DoorShut(reason) if reason else None


NAMESPACE = Door("puffs exec", _open, _shut)
