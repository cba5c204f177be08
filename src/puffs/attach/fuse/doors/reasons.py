"""Why a door is shut, and what opens it: each sentence is here once.

The doors raise them, the message of a failed mount lists them, and `puffs doctor` shows them.
"""

import errno
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something cannot be done here, and the remedy; each a part of one line."""

    why: str
    remedy: str


class DoorShut(Exception):
    """One way to a mount is not open to this process: the reason, and the errno for programs."""

    def __init__(self, reason: Reason, code: int = errno.EPERM) -> None:
        super().__init__(reason, code)
        self.reason = reason
        self.code = code


# The device and the kernel

NO_NODE: Final = Reason(
    "there is no /dev/fuse, although the kernel has FUSE",
    "start the container with --device /dev/fuse, "
    "or let root run `mknod -m 666 /dev/fuse c 10 229`",
)
NO_MODULE: Final = Reason(
    "there is no /dev/fuse, and the kernel has no FUSE",
    "run `modprobe fuse` as root, on the host if this is a container",
)
DIRECTORY: Final = Reason(
    "/dev/fuse is a directory and not the device",
    "run `modprobe fuse` on the host, then start the container again with --device /dev/fuse",
)
NO_DRIVER: Final = Reason("the kernel has no FUSE behind /dev/fuse", "run `modprobe fuse` as root")
NO_FUSE: Final = Reason("the kernel has no FUSE", "run `modprobe fuse` as root")
NOT_PERMITTED: Final = Reason(
    "no permission to open /dev/fuse", "run as root, or let root run `chmod a+rw /dev/fuse`"
)
NO_DEVICES: Final = Reason(
    "no device can be opened where /dev/fuse lies: the file system is mounted nodev, or was made "
    "in a container",
    "start the container with --device /dev/fuse instead of making the node in it",
)
DEVICE_CGROUP: Final = Reason(
    "opening /dev/fuse is forbidden, as the device cgroup of a container does it",
    "start the container with --device /dev/fuse; in a systemd unit, DeviceAllow=/dev/fuse rw",
)

# mount(2)

NO_PRIVILEGE: Final = Reason(
    "mount(2) is not permitted without CAP_SYS_ADMIN",
    "run as root; start a container with --cap-add SYS_ADMIN",
)
_ALTHOUGH: Final = "although this process has CAP_SYS_ADMIN"
MOUNT_SECCOMP: Final = Reason(
    f"a seccomp filter forbids mount(2) {_ALTHOUGH}",
    "allow mount in the seccomp profile (docker run --security-opt seccomp=FILE; in a systemd "
    "unit, SystemCallFilter=@mount)",
)
MOUNT_NAMESPACE: Final = Reason(
    f"mount(2) is forbidden {_ALTHOUGH}: the mounts belong to another user namespace",
    "mount in a namespace of your own: puffs exec",
)
MOUNT_FORBIDDEN: Final = Reason(
    f"mount(2) is forbidden {_ALTHOUGH}",
    "allow it in what confines the process: SELinux, AppArmor, a user namespace",
)


def mount_apparmor(profile: str) -> Reason:
    """AppArmor answers mount(2) with EACCES."""
    return Reason(
        f"the AppArmor profile {profile} forbids mount(2) {_ALTHOUGH}",
        "start the container with --security-opt apparmor=unconfined, or allow mount in the "
        "profile",
    )


# fusermount3

NO_HELPER: Final = Reason(
    "there is no fusermount3", "install the package fuse3 (apt install fuse3, dnf install fuse3)"
)
HELPER_POWERLESS: Final = Reason(
    "fusermount3 is not set-user-ID root", "install it as the package fuse3 does: chmod 4755"
)
HELPER_NOSUID: Final = Reason(
    "fusermount3 lies on a file system that is mounted nosuid, so it gains no privilege",
    "mount that file system without nosuid",
)
HELPER_NO_NEW_PRIVS: Final = Reason(
    "no_new_privs is set, so fusermount3 gains no privilege",
    "start without it: docker run without --security-opt no-new-privileges, Kubernetes "
    "allowPrivilegeEscalation: true, systemd NoNewPrivileges=no",
)
HELPER_BOUNDED: Final = Reason(
    "CAP_SYS_ADMIN is out of the bounding set, so not even fusermount3 can gain it",
    "start the container with --cap-add SYS_ADMIN",
)
HELPER_REFUSED: Final = Reason(
    "mount(2) is forbidden to fusermount3",
    "allow it in what confines the process: seccomp, SELinux, a user namespace",
)
HELPER_APPARMOR: Final = Reason(
    "fusermount3 may not mount there: its AppArmor profile knows certain places only",
    "mount below $HOME, /mnt, /media, /tmp or $XDG_RUNTIME_DIR, or allow the place in "
    "/etc/apparmor.d/local/fusermount3",
)
NO_ALLOW_OTHER: Final = Reason(
    "allow_other is for root only here: /etc/fuse.conf lacks user_allow_other",
    "let root add the line user_allow_other to /etc/fuse.conf, or leave out -o allow_other",
)
NOT_FOR_USERS: Final = Reason(
    "the mount options suid and dev are for root only", "leave them out, or run as root"
)
NOT_YOURS: Final = Reason(
    "fusermount3 mounts only on what you may write to",
    "choose a directory that belongs to you as the mount point",
)
NOT_OVER_THAT: Final = Reason(
    "fusermount3 mounts only on file systems that it knows, and not on the one of this directory",
    "choose a directory on another file system, for example below /tmp or $XDG_RUNTIME_DIR",
)
TOO_MANY: Final = Reason(
    "there are more FUSE mounts than mount_max allows to ordinary users",
    "unmount some, or let root raise mount_max in /etc/fuse.conf",
)
ODD_ROOT: Final = Reason(
    "fusermount3 mounts directories and regular files only, and the root is neither",
    "run as root",
)

# A private user and mount namespace

NO_USERNS: Final = Reason(
    "the kernel has no user namespaces", "use a kernel that is built with CONFIG_USER_NS"
)
USERNS_NONE: Final = Reason(
    "user namespaces are switched off: user.max_user_namespaces is 0",
    "let root run `sysctl -w user.max_user_namespaces=10000`",
)
USERNS_ROOT: Final = Reason(
    "user namespaces are for root only: kernel.unprivileged_userns_clone is 0",
    "let root run `sysctl -w kernel.unprivileged_userns_clone=1`",
)
USERNS_APPARMOR: Final = Reason(
    "AppArmor takes the rights in user namespaces away: "
    "kernel.apparmor_restrict_unprivileged_userns is 1",
    "let root allow userns in an AppArmor profile for this program, or run "
    "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
)
USERNS_LIMIT: Final = Reason(
    "there are too many user namespaces, or too deep in one another",
    "end some, or let root raise user.max_user_namespaces",
)
USERNS_SECCOMP: Final = Reason(
    "a seccomp filter forbids a new user namespace",
    "allow unshare and mount in the seccomp profile (docker run --security-opt seccomp=FILE)",
)
USERNS_FORBIDDEN: Final = Reason(
    "a new user namespace is forbidden",
    "leave the chroot, or allow it in what confines the process: SELinux, AppArmor, Landlock",
)
ONE_COMMAND: Final = Reason(
    "a private namespace shows its mounts to one command only",
    "run that one with `puffs exec -m SPEC:DIR -- COMMAND`",
)

# What needs privilege although the mount does not

NO_PASSTHROUGH: Final = Reason(
    "it needs CAP_SYS_ADMIN in the first user namespace",
    "run the server as root, outside of containers with user namespaces",
)

# A connection from somebody else

NOT_HANDED: Final = Reason(
    "nobody has handed over a connection",
    "let root run `puffs mounter SOCKET DIR` and serve it with `puffs serve SPEC --fd-socket "
    "SOCKET`",
)
