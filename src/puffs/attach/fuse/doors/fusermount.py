"""The door of fusermount3, the set-user-ID program of libfuse: for ordinary users.

It opens the device, mounts it, and sends the descriptor over a socket that it was given
(fusermount3(1)). libfuse itself is not needed.
"""

import errno
import os
import re
import socket
import stat
import subprocess
from typing import Final

from puffs.attach.fuse.doors import reasons
from puffs.attach.fuse.doors.device import device_shut, why_not_opened
from puffs.attach.fuse.doors.door import Door, MountRequest
from puffs.attach.fuse.doors.reasons import DoorShut, Reason
from puffs.attach.fuse.doors.rights import receive
from puffs.attach.fuse.machine import CAP_SYS_ADMIN, Machine
from puffs.attach.fuse.options import MountOptions, fusermount_data
from puffs.attach.fuse.syscalls import MS_NODEV, MS_NOSUID

PROGRAMS: Final = ("fusermount3", "fusermount")
"""The second is that of libfuse 2, with the same protocol."""

FILE_SYSTEMS: Final = frozenset(
    (
        *("9p", "afs", "aufs", "autofs", "bcachefs", "btrfs", "ceph", "cifs", "ecryptfs", "exfat"),
        *("ext2", "ext3", "ext4", "f2fs", "fuse", "fuseblk", "gfs2", "gpfs", "hfsplus", "jffs2"),
        *("jfs", "lustre", "msdos", "ncpfs", "nfs", "nfs4", "nilfs2", "ntfs", "ntfs3", "overlay"),
        *("ramfs", "reiserfs", "smb3", "squashfs", "tmpfs", "ubifs", "ufsd", "vfat", "xfs", "zfs"),
    )
)
"""The types of file systems that it mounts on for ordinary users: a list compiled into it."""

CONFIGURATION: Final = "/etc/fuse.conf"

_APPARMOR: Final = "/sys/module/apparmor/parameters/enabled"

_SOCKET: Final = "_FUSE_COMMFD"
"""The environment variable that names the socket's descriptor."""

_SAYS: Final[tuple[tuple[str, Reason], ...]] = (
    ("user_allow_other", reasons.NO_ALLOW_OTHER),
    ("no write access to mountpoint", reasons.NOT_YOURS),
    ("not owned by user", reasons.NOT_YOURS),
    ("is forbidden", reasons.NOT_OVER_THAT),
    ("too many FUSE filesystems", reasons.TOO_MANY),
)
"""What it complains of in the C locale, and what that means."""

_DEVICE_SAYS: Final = (
    ("device not found", errno.ENOENT),
    ("/dev/fuse: Permission denied", errno.EACCES),
    ("/dev/fuse: Operation not permitted", errno.EPERM),
)
"""The same for what kept it from opening the device: the errno."""


def open_by_helper(request: MountRequest, machine: Machine) -> int:
    """Have fusermount3 mount, and return the descriptor.

    It is run also where it seems to have no privilege: other programs take its name and its place,
    and mount by other means.

    Raises:
        DoorShut: it is not there, or refuses.
    """
    program = machine.which(*PROGRAMS)
    if program is None:
        raise DoorShut(reasons.NO_HELPER, errno.ENOENT)
    if reason := _not_for_users(machine, request.options):
        raise DoorShut(reason)
    if stat.S_IFMT(request.rootmode) not in (stat.S_IFDIR, stat.S_IFREG):
        raise DoorShut(reasons.ODD_ROOT)
    words = fusermount_data(request.options, request.source, request.fstype)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            helper = subprocess.Popen(
                [program, "-o", words, "--", request.mountpoint],
                stderr=subprocess.PIPE,
                env={**os.environ, _SOCKET: str(theirs.fileno()), "LC_ALL": "C"},
                pass_fds=[theirs.fileno()],
            )
        with helper:
            assert helper.stderr is not None
            _, received = receive(ours, 1, 1)
            try:
                complaint = helper.stderr.read().decode(errors="replace")
            except BaseException:
                for fd in received:
                    os.close(fd)
                raise
    if not received:
        raise DoorShut(_why_refused(machine, complaint))
    return received[0]


def unmount_by_helper(machine: Machine, mountpoint: str, *, lazy: bool) -> str | None:
    """Have fusermount3 unmount, which it does for the user who mounted.

    Returns None when that is done, else its complaint, in the C locale.
    """
    program = machine.which(*PROGRAMS)
    if program is None:
        return "there is no fusermount3"
    done = subprocess.run(
        [program, "-u", *(["-z"] if lazy else []), "--", mountpoint],
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    return None if done.returncode == 0 else _last_line(done.stderr.decode(errors="replace"))


def allows_others(machine: Machine) -> bool | None:
    """Whether ordinary users may use allow_other; None when the configuration cannot be read."""
    text = machine.read(CONFIGURATION)
    if text is None:
        try:
            machine.stat(CONFIGURATION)
        except FileNotFoundError:
            return False
        except OSError:
            pass
        return None
    return re.search(r"^\s*user_allow_other\s*(#.*)?$", text, re.MULTILINE) is not None


def _not_for_users(machine: Machine, options: MountOptions) -> Reason | None:
    """What fusermount3 refuses or, worse, ignores when the user is not root."""
    if machine.uid() == 0:
        return None
    if options.allow_other and allows_others(machine) is False:
        return reasons.NO_ALLOW_OTHER
    if ~options.flags & (MS_NOSUID | MS_NODEV):
        return reasons.NOT_FOR_USERS
    return None


def _last_line(complaint: str) -> str:
    """The last thing that the program said, without its name."""
    lines = complaint.strip().splitlines() or ["it says nothing"]
    return re.sub(r"^\S*fusermount3?: ", "", lines[-1])


def _why_refused(machine: Machine, complaint: str) -> Reason:
    text = _last_line(complaint)
    for part, reason in _SAYS:
        if part in text:
            return reason
    for part, code in _DEVICE_SAYS:
        if part in text and (missing := why_not_opened(machine, code)):
            return missing
    if useless := powerless(machine):
        return useless
    if "mount failed: Permission denied" in text and machine.read(_APPARMOR) == "Y":
        return reasons.HELPER_APPARMOR
    if "mount failed: Operation not permitted" in text:
        return reasons.HELPER_REFUSED
    return Reason(f"fusermount3 refuses: {text}", "see fusermount3(1)")


def powerless(machine: Machine) -> Reason | None:
    """Why fusermount3 gains no privilege here; None when it does."""
    if machine.uid() == 0:
        return None if machine.may(CAP_SYS_ADMIN) else reasons.NO_PRIVILEGE
    program = machine.which(*PROGRAMS)
    if program is None:
        return reasons.NO_HELPER
    if machine.status("NoNewPrivs") == "1":
        return reasons.HELPER_NO_NEW_PRIVS
    if machine.mount_flags(program) & os.ST_NOSUID:
        return reasons.HELPER_NOSUID
    found = machine.stat(program)
    # In a user namespace that does not know root, its files seem to be nobody's.
    if found.st_uid != 0 or not found.st_mode & stat.S_ISUID:
        return reasons.HELPER_POWERLESS
    if not machine.may(CAP_SYS_ADMIN, "CapBnd"):
        return reasons.HELPER_BOUNDED
    return None


def _shut(machine: Machine, options: MountOptions) -> DoorShut | None:
    if machine.which(*PROGRAMS) is None:
        return DoorShut(reasons.NO_HELPER, errno.ENOENT)
    if shut := device_shut(machine):
        return shut
    reason = _not_for_users(machine, options) or powerless(machine)
    return DoorShut(reason) if reason else None


FUSERMOUNT = Door("fusermount3", open_by_helper, _shut)
