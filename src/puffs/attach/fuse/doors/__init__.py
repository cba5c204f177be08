"""The ways to a mount, in the order in which they are tried."""

from typing import Final

from puffs.attach.fuse.doors.door import Door
from puffs.attach.fuse.doors.fusermount import FUSERMOUNT
from puffs.attach.fuse.doors.handed import HANDED
from puffs.attach.fuse.doors.namespace import NAMESPACE
from puffs.attach.fuse.doors.privileged import PRIVILEGED

DOORS: Final[tuple[Door, ...]] = (PRIVILEGED, FUSERMOUNT, NAMESPACE, HANDED)
