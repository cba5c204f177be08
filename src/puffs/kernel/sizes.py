"""The size of a file system, as a mount knows it: what the file server says, the identity fields,
which are the kernel half's, and what is left to say when the file server fails (V1 to V7).
"""

import os
from copy import copy
from typing import Final

from puffs.kernel import police
from puffs.server.attr import StatVfs

IOSIZE: Final = 4096
"""In what units hosts should read and write, whatever the file server says: a page.

Statements C9 and V3 have a sector of 512 bytes, which is slower and helps nobody."""

NOTHING: Final = StatVfs(bsize=512)
"""What is said for a file server without `statvfs` (section 3.8): no blocks of 512 bytes."""


class StatVfsError(OSError):
    """The file server failed to tell the size of its file system; its errno.

    `statvfs` is what is known all the same: the identity fields, which are right, and the numbers
    of its last good reply, zeroes if there was none (V5; 6.1 item 16).
    """

    def __init__(self, code: int, statvfs: StatVfs) -> None:
        super().__init__(code, os.strerror(code))
        self.statvfs = statvfs


class Sizes:
    """The last good reply to `statvfs` of the mount with this `fsid`."""

    def __init__(self, fsid: int) -> None:
        self._fsid = fsid
        self._last = self._patched(NOTHING)

    def good(self, reply: object) -> StatVfs:
        """What the file server returned, with the identity fields of the mount (V3, V4).

        A copy: the file server may change its own. Raises `ProtocolFault` for what is no reply.
        """
        self._last = patched = self._patched(police.statvfs(reply))
        return copy(patched)

    def failed(self, code: int) -> StatVfsError:
        """What is to be raised when the file server failed with this errno (V5)."""
        return StatVfsError(code, copy(self._last))

    def _patched(self, reply: StatVfs) -> StatVfs:
        patched = copy(reply)
        patched.fsid = self._fsid
        patched.bsize = IOSIZE
        return patched
