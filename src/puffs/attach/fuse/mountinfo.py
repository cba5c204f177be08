"""What is mounted where: /proc/self/mountinfo (proc_pid_mountinfo(5)).

Reading the table touches no mounted file system, so none of this can hang on a dead one.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from puffs.attach.fuse.options import TYPE_PREFIX

TABLE = Path("/proc/self/mountinfo")

_TOP = -1


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One mount as the kernel lists it.

    Attributes:
        mount_id: the kernel's number of the mount; may be used again after the unmount.
        parent_id: the mount that this one is mounted on.
        device: (major, minor). A FUSE connection is known to fusectl by its minor.
        root: the directory of the file system that forms the root of the mount.
        mountpoint: where it is mounted, relative to the root of this process.
        fstype: ``ext4``, ``fuse.puffs.mem``...
        source: the device, or a name.
        options: of the mount, then of the file system; each as it stands in the table.
    """

    mount_id: int
    parent_id: int
    device: tuple[int, int]
    root: str
    mountpoint: str
    fstype: str
    source: str
    options: tuple[str, ...]

    @property
    def is_fuse(self) -> bool:
        """Whether a process serves it through /dev/fuse."""
        return self.fstype in ("fuse", "fuseblk") or self.fstype.startswith("fuse.")

    @property
    def is_ours(self) -> bool:
        """Whether puffs mounted it."""
        return self.fstype.startswith(TYPE_PREFIX)


def parse(table: bytes) -> list[MountInfo]:
    """Return the mounts of a table, in its order (proc_pid_mountinfo(5)).

    A line is "id parent major:minor root mountpoint options [tag...] - type source options", with
    blanks and backslashes in a field written in octal.
    """
    # Only "\n" ends a line and only " " a field: names may hold every other blank.
    return [_parse_line(line) for line in table.split(b"\n") if line]


def _parse_line(line: bytes) -> MountInfo:
    mount, _, filesystem = line.partition(b" - ")
    mount_id, parent_id, device, root, mountpoint, options = mount.split(b" ")[:6]
    fstype, source, super_options = filesystem.split(b" ")[:3]
    major, minor = device.split(b":")
    words = dict.fromkeys(options.split(b",") + super_options.split(b","))
    return MountInfo(
        int(mount_id),
        int(parent_id),
        (int(major), int(minor)),
        _text(root),
        _text(mountpoint),
        _text(fstype),
        _text(source),
        tuple(_text(word) for word in words),
    )


def _text(field: bytes) -> str:
    if b"\\" in field:  # hardly ever, and tables are long where many file systems are mounted
        field = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), field)
    return os.fsdecode(field)


def read_mounts() -> list[MountInfo]:
    """Return what is mounted in the mount namespace of this process, now."""
    return parse(TABLE.read_bytes())


def list_mounts() -> list[MountInfo]:
    """Return the mounts that puffs made, of all users, in the order in which they were made."""
    return [mount for mount in read_mounts() if mount.is_ours]


def covering(path: str, mounts: Iterable[MountInfo]) -> MountInfo | None:
    """Return the mount that a walk to `path` ends in, None when the table does not tell.

    Args:
        path: absolute, without symbolic links, "." and "..".
        mounts: the table, as `read_mounts` gives it.
    """
    children: dict[int, list[MountInfo]] = {}
    mounts = list(mounts)
    known = {mount.mount_id for mount in mounts}
    for mount in mounts:
        # The mount of our root directory hangs on itself, or on one that we cannot see.
        parent = mount.parent_id
        top = parent == mount.mount_id or parent not in known
        children.setdefault(_TOP if top else parent, []).append(mount)
    # As the kernel walks: within a mount, the first mount point on the way leads into the next one.
    # A mount that lies below a directory that something else was mounted on later is never reached.
    found, here = None, _TOP
    while on_the_way := [
        mount for mount in children.pop(here, []) if is_below(path, mount.mountpoint)
    ]:
        found = min(on_the_way, key=lambda mount: len(mount.mountpoint))
        here = found.mount_id
    return found


def is_below(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or something in it, by name; both absolute."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def find_mount(mountpoint: str) -> MountInfo | None:
    """Return what is mounted on `mountpoint`, the topmost of several, or None.

    Args:
        mountpoint: absolute and without symbolic links, as `mountpoint.resolve` gives it.
    """
    mount = covering(mountpoint, read_mounts())
    return mount if mount is not None and mount.mountpoint == mountpoint else None
