"""Mounting and unmounting.

There are several ways to a mount, the doors: see `doors`.
"""

import errno
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from puffs.attach.fuse.doors import DOORS
from puffs.attach.fuse.doors.device import DEVICE as DEVICE
from puffs.attach.fuse.doors.door import MountRequest
from puffs.attach.fuse.doors.fusermount import unmount_by_helper
from puffs.attach.fuse.doors.reasons import DoorShut, Reason
from puffs.attach.fuse.machine import HERE, Machine
from puffs.attach.fuse.mountinfo import MountInfo, find_mount, is_below, read_mounts
from puffs.attach.fuse.mountpoint import MountError as MountError
from puffs.attach.fuse.mountpoint import resolve, shown
from puffs.attach.fuse.options import MountOptions, source_name, type_name
from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, mount, umount2

CONNECTIONS = "/sys/fs/fuse/connections"

SHOWN_HOLDERS = 3
"""How many processes the message about a busy mount names."""


def mount_fuse(
    mountpoint: str,
    options: MountOptions,
    *,
    fsname: str,
    subtype: str,
    rootmode: int,
    machine: Machine = HERE,
) -> int:
    """Mount a FUSE file system and return the descriptor that its requests are read from.

    The mount waits for INIT to be answered on that descriptor: whoever touches it before that
    hangs. Closing the descriptor without unmounting leaves a stale mount.

    Args:
        mountpoint: as `check_mountpoint` returned it.
        options: their `fsname` and `subtype` go before the arguments of these names.
        fsname: the source, as /proc/mounts shows it. It must hold no secret.
        subtype: NAME, or ``puffs.NAME``; the type becomes ``fuse.puffs.NAME``.
        rootmode: mode of the root; its type counts.
        machine: what to mount with.

    Raises:
        MountError: no way to mount is open to this process (the text tells of each why, and the
            remedy), or the kernel refused the mount. Nothing is left open or mounted.
    """
    request = MountRequest(
        mountpoint,
        options,
        source_name(options.fsname or fsname),
        type_name(options.subtype or subtype),
        rootmode,
    )
    before = find_mount(mountpoint)
    shut: dict[Reason, list[str]] = {}
    code = 0
    for door in DOORS:
        try:
            return door.open(request, machine)
        except DoorShut as closed:
            shut.setdefault(closed.reason, []).append(door.name)
            code = code or closed.code
        except MountError:
            raise
        except BaseException:
            # A signal's exception (KeyboardInterrupt) may come when the mount has just been made.
            left = find_mount(mountpoint)
            if left is not None and left != before:
                unmount_this(left, lazy=True, machine=machine)
            raise
    reasons = "; ".join(
        f"{', '.join(names)}: {reason.why} ({reason.remedy})" for reason, names in shut.items()
    )
    raise MountError(
        code,
        f"cannot mount on {shown(mountpoint)}: {reasons}; or use the files without a mount, with "
        "puffs.local (`puffs doctor` tells what this machine can do)",
    )


def unmount(mountpoint: str | os.PathLike[str], *, lazy: bool = False) -> None:
    """Unmount the topmost FUSE mount on `mountpoint`, whether its server lives or not.

    Without `lazy` the kernel may first write out what it has buffered: not to be called from the
    thread that serves the mount. Where this process has no privilege, fusermount3 does it for the
    user who mounted.

    Args:
        lazy: take the name away now and let those who still use the mount go on (MNT_DETACH).

    Raises:
        MountError: EINVAL: nothing of the kind is mounted there; EBUSY: in use, with the first few
            processes that use it; EPERM: not permitted.
    """
    target = resolve(mountpoint)
    found = find_mount(target)
    if found is None:
        raise MountError(errno.EINVAL, f"{shown(target)} is not mounted: see /proc/mounts")
    if not found.is_fuse:
        raise MountError(
            errno.EINVAL,
            f"{shown(target)} is a mount of type {found.fstype} and not of FUSE: "
            f"use umount {shown(target)}",
        )
    unmount_this(found, lazy=lazy)


def unmount_this(found: MountInfo, *, lazy: bool, machine: Machine = HERE) -> None:
    """Unmount what `find_mount` has found, which must be the topmost mount on its place.

    Touches no file system on the way. Raises as `unmount` does.
    """
    target = found.mountpoint
    try:
        machine.umount2(target, UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0))
        return
    except OSError as error:
        code = error.errno or errno.EIO
    if code == errno.EPERM and f"user_id={machine.uid()}" in found.options:
        complaint = unmount_by_helper(machine, target, lazy=lazy)
        if complaint is None:
            return
        if os.strerror(errno.EBUSY) in complaint:
            code = errno.EBUSY
        else:
            raise MountError(code, f"cannot unmount {shown(target)}: fusermount3: {complaint}")
    text = f"cannot unmount {shown(target)}: {os.strerror(code)}"
    if code == errno.EBUSY:
        text = _busy(found)
    elif code == errno.EPERM:
        text = f"no permission to unmount {shown(target)}: run as root"
    elif code == errno.EINVAL:
        text = f"{shown(target)} is not mounted, or locked: unmount it where it was mounted"
    raise MountError(code, text)


def _busy(mounted: MountInfo) -> str:
    target = mounted.mountpoint
    holders = list(islice(_holders(mounted), SHOWN_HOLDERS + 1))
    names = ", ".join(holders[:SHOWN_HOLDERS])
    if len(holders) > SHOWN_HOLDERS:
        names += " and others"
    used = f" (used by {names})" if names else ""
    return (
        f"{shown(target)} is busy{used}: end or leave what uses it, "
        f"or detach it (umount -l {shown(target)})"
    )


def _holders(mounted: MountInfo) -> Iterator[str]:
    """Yield what is mounted on it, and who has a working directory, root or open file in it.

    Only the links in /proc are read, which the kernel answers by itself.
    """
    for other in read_mounts():
        if other.parent_id == mounted.mount_id:
            yield f"the mount {shown(other.mountpoint)}"
    processes = [process for process in Path("/proc").iterdir() if process.name.isdecimal()]
    for process in sorted(processes, key=lambda process: int(process.name)):
        if _holds(process, mounted.mountpoint):
            try:
                command = (process / "comm").read_text(errors="replace").rstrip("\n")
            except OSError:  # it has just ended
                continue
            yield f"{command!r} with pid {process.name}"


def _holds(process: Path, target: str) -> bool:
    try:
        links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
    except OSError:  # it has just ended, or belongs to somebody else
        return False
    for link in links:
        try:
            if is_below(os.readlink(link), target):
                return True
        except OSError:
            continue
    return False


def abort_connection(minor: int) -> None:
    """End a FUSE connection by force: whoever waits for its server gets an error.

    It helps against a server that hangs; the mount stays, stale, until it is unmounted. Through
    fusectl, which is mounted for the moment where it is missing.

    Args:
        minor: the minor number of the mount's device (`MountInfo.device`).

    Raises:
        MountError: there is no such connection, or it is not permitted.
    """
    try:
        if _abort(minor):
            return
        try:
            mount("fusectl", CONNECTIONS, "fusectl", 0, "")
            mounted = True
        except OSError as error:
            # EBUSY: it has been mounted there all along, or since a moment.
            if error.errno != errno.EBUSY:
                raise
            mounted = False
        try:
            if _abort(minor):
                return
        finally:
            if mounted:
                umount2(CONNECTIONS, MNT_DETACH)
    except OSError as error:
        raise MountError(
            error.errno or errno.EIO,
            f"cannot abort FUSE connection {minor}: {error.strerror}: run as root or as its owner",
        ) from error
    raise MountError(errno.ENOENT, f"there is no FUSE connection {minor}: see /proc/self/mountinfo")


def _abort(minor: int) -> bool:
    """Write to the connection's abort file; False if there is none."""
    try:
        fd = os.open(f"{CONNECTIONS}/{minor}/abort", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.write(fd, b"1")
    finally:
        os.close(fd)
    return True
