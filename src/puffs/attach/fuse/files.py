"""Open files and directories as the kernel names them: by a number of ours, `fh`."""

import errno
import os
from itertools import count
from typing import Any

from puffs.kernel.directory import OpenDirectory
from puffs.kernel.vnode import Vnode, VnodeTable
from puffs.server.types import Open

NO_FH = 0
"""What the kernel sends when an open needed no message: there is no object of the file server's
then.
"""


class _ByNumber(dict[int, Any]):
    def __missing__(self, fh: int) -> Any:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class OpenFiles:
    """All open files and directories of one session.

    `file` gives the file server's object of each open file.
    """

    def __init__(self, vnodes: VnodeTable) -> None:
        self.file: dict[int, Any] = _ByNumber({NO_FH: None})
        self.directory: dict[int, OpenDirectory] = _ByNumber()
        self._node: dict[int, Vnode] = _ByNumber()
        self._vnodes = vnodes
        self._numbers = count(1)

    def open(self, vnode: Vnode, file: object) -> int:
        """Enter an open file; its number."""
        fh = next(self._numbers)
        self.file[fh] = file
        self._node[fh] = vnode
        self._vnodes.open(vnode)
        return fh

    def close(self, fh: int) -> None:
        """The kernel gave an open file back; the last one makes its node inactive."""
        del self.file[fh]
        self._vnodes.close(self._node.pop(fh))

    def opendir(self, vnode: Vnode, directory: OpenDirectory) -> int:
        """Enter an open directory; its number."""
        fh = next(self._numbers)
        self.directory[fh] = directory
        self._node[fh] = vnode
        self._vnodes.open(vnode)
        return fh

    def closedir(self, fh: int) -> None:
        """The kernel gave an open directory back."""
        del self.directory[fh]
        self._vnodes.close(self._node.pop(fh))


def unwrap(reply: object) -> tuple[Any, Open | None]:
    """What `open` returned: the file server's object, and the hints if there are any."""
    if type(reply) is Open:
        return reply.file, reply
    return reply, None
