"""What a door is."""

from collections.abc import Callable
from dataclasses import dataclass

from puffs.attach.fuse.doors.reasons import DoorShut
from puffs.attach.fuse.machine import Machine
from puffs.attach.fuse.options import MountOptions


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


@dataclass(frozen=True, slots=True)
class Door:
    """One way to a mount.

    Attributes:
        name: what people know it by.
        open: mounts and returns the descriptor of the connection. Raises `DoorShut`, or
            `MountError` when another door would not help either; leaves nothing behind then.
        shut: what can be said against it without trying, in the order in which it would be met;
            None when nothing can.
    """

    name: str
    open: Callable[[MountRequest, Machine], int]
    shut: Callable[[Machine, MountOptions], DoorShut | None]
