"""Mounting and unmounting.

There are several ways to a mount, the doors: `DOORS`, tried in order. Each is a function that
returns the descriptor of a mounted connection or raises `DoorShut`.
"""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from puffs.attach.fuse.mountinfo import MountInfo, find_mount, is_below, read_mounts
from puffs.attach.fuse.mountpoint import MountError as MountError
from puffs.attach.fuse.mountpoint import resolve, shown
from puffs.attach.fuse.options import MountOptions, kernel_data, source_name, type_name
from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, mount, umount2

DEVICE = "/dev/fuse"
CONNECTIONS = "/sys/fs/fuse/connections"

SHOWN_HOLDERS = 3
"""How many processes the message about a busy mount names."""

_CAP_SYS_ADMIN = 1 << 21  # capabilities(7)


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What a door is asked for.

    Attributes:
        mountpoint: absolute, as `check_mountpoint` returned it.
        options: what the user asked for.
        source: the source of the mount, for /proc/mounts.
        fstype: ``fuse.puffs.NAME``.
        rootmode: mode of the root; its type counts.
    """

    mountpoint: str
    options: MountOptions
    source: str
    fstype: str
    rootmode: int


class DoorShut(Exception):
    """One way to a mount is not open to this process: why, what opens it, and the errno."""

    def __init__(self, why: str, remedy: str, code: int = errno.EPERM) -> None:
        super().__init__(why, remedy, code)
        self.why = why
        self.remedy = remedy
        self.code = code


_NO_NODE = "run `modprobe fuse` as root; start a container with --device /dev/fuse"

_OPEN_REFUSED: dict[int, tuple[str, str]] = {
    errno.ENOENT: ("there is no /dev/fuse", _NO_NODE),
    errno.EISDIR: ("/dev/fuse is a directory and not the device", _NO_NODE),
    errno.ENODEV: ("the kernel has no FUSE behind /dev/fuse", "run `modprobe fuse` as root"),
    errno.ENXIO: ("the kernel has no FUSE behind /dev/fuse", "run `modprobe fuse` as root"),
    errno.EACCES: (
        "no permission to open /dev/fuse",
        "run as root, or let root run `chmod a+rw /dev/fuse`",
    ),
    errno.EPERM: (
        "opening /dev/fuse is forbidden, as the device cgroup of a container does it",
        "start the container with --device /dev/fuse",
    ),
}
"""open(2) of the device: errno to why and remedy."""

_NO_PRIVILEGE = (
    "mount(2) is not permitted without CAP_SYS_ADMIN",
    "run as root; start a container with --cap-add SYS_ADMIN",
)
_FORBIDDEN = (
    "mount(2) is forbidden although this process has CAP_SYS_ADMIN",
    "allow it in what confines the process: seccomp, AppArmor, SELinux, a user namespace",
)


def mount_fuse(
    mountpoint: str, options: MountOptions, *, fsname: str, subtype: str, rootmode: int
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
    shut: list[DoorShut] = []
    for door in DOORS:
        try:
            return door(request)
        except DoorShut as reason:
            shut.append(reason)
    reasons = "; ".join(f"{reason.why} ({reason.remedy})" for reason in shut)
    raise MountError(
        shut[0].code,
        f"cannot mount on {shown(mountpoint)}: {reasons}; "
        "or use the files without a mount, with puffs.local",
    )


def _privileged(request: MountRequest) -> int:
    """The door of mount(2): for root, or for CAP_SYS_ADMIN in the namespace of the mounts."""
    target = request.mountpoint
    before = find_mount(target)
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        code = error.errno or errno.EIO
        if code in _OPEN_REFUSED:
            raise DoorShut(*_OPEN_REFUSED[code], code) from error
        raise MountError(code, f"cannot open {DEVICE}: {error.strerror}") from error
    try:
        data = kernel_data(request.options, fd, request.rootmode, os.getuid(), os.getgid())
        mount(request.source, target, request.fstype, request.options.flags, data)
    except OSError as error:
        os.close(fd)
        raise _refused(error, target) from error
    except BaseException:
        # A signal's exception (KeyboardInterrupt) may come when the mount has just been made.
        os.close(fd)
        if find_mount(target) != before:
            umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW)
        raise
    return fd


def _refused(error: OSError, target: str) -> DoorShut | MountError:
    code = error.errno or errno.EIO
    if code == errno.ENODEV:
        return DoorShut("the kernel has no FUSE", "run `modprobe fuse` as root", code)
    if code in (errno.EPERM, errno.EACCES):
        return DoorShut(*(_FORBIDDEN if _has_privilege() else _NO_PRIVILEGE), code)
    return MountError(code, f"cannot mount on {shown(target)}: {os.strerror(code)}")


def _has_privilege() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _CAP_SYS_ADMIN)
    return False


DOORS: tuple[Callable[[MountRequest], int], ...] = (_privileged,)
"""The ways to a mount, in the order in which they are tried."""


def unmount(mountpoint: str | os.PathLike[str], *, lazy: bool = False) -> None:
    """Unmount the topmost FUSE mount on `mountpoint`, whether its server lives or not.

    Without `lazy` the kernel may first write out what it has buffered: not to be called from the
    thread that serves the mount.

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
    try:
        umount2(target, UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0))
    except OSError as error:
        code = error.errno or errno.EIO
        text = f"cannot unmount {shown(target)}: {os.strerror(code)}"
        if code == errno.EBUSY:
            text = _busy(found)
        elif code == errno.EPERM:
            text = f"no permission to unmount {shown(target)}: run as root"
        elif code == errno.EINVAL:
            text = f"{shown(target)} is not mounted, or locked: unmount it where it was mounted"
        raise MountError(code, text) from error


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
