"""Open files and directories as the kernel names them: by a number of ours, `fh`."""

import errno
import os
from typing import Any

from puffs.attach.fuse.passthrough import BackingFiles
from puffs.kernel.directory import OpenDirectory
from puffs.kernel.mount import Mount
from puffs.kernel.vnode import Vnode
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

    `file` gives the file server's object of each open file; `direct` has those whose data passes
    the page cache by; `backing` is there with `-o passthrough`.
    """

    def __init__(self, mount: Mount) -> None:
        self.file: dict[int, Any] = _ByNumber({NO_FH: None})
        self.directory: dict[int, OpenDirectory] = _ByNumber()
        self._node: dict[int, Vnode] = _ByNumber()
        self.direct: set[int] = set()
        self.backing: BackingFiles | None = None
        self._mount = mount
        self._vnodes = mount.vnodes

    def __len__(self) -> int:
        return len(self._node)

    def open(self, vnode: Vnode, file: object) -> int:
        """Enter an open file; its number."""
        fh = self._vnodes.open(vnode)
        self._node[fh] = vnode
        self.file[fh] = file
        return fh

    def opendir(self, vnode: Vnode, directory: OpenDirectory) -> int:
        """Enter an open directory; its number."""
        fh = self._vnodes.open(vnode)
        self._node[fh] = vnode
        self.directory[fh] = directory
        return fh

    def close(self, fh: int) -> None:
        """Drop an open file or directory; the last one of a node makes it inactive."""
        if fh == NO_FH:
            return
        if fh not in self.file:
            del self.directory[fh]
        else:
            del self.file[fh]
            if self.direct:
                self.direct.discard(fh)
            if self.backing is not None:
                self.backing.closed(fh)
        self._vnodes.close(self._node.pop(fh))

    def take_back(self, fh: int) -> None:
        """Close what the kernel will not: it has not heard of it, or will not be heard again."""
        if fh == NO_FH:
            return
        cookie = self._node[fh].cookie
        if fh in self.directory:
            self._mount.tell("closedir", cookie, self.directory[fh].file)
        else:
            self._mount.tell("close", cookie, self.file[fh], 0)
        self.close(fh)

    def close_all(self) -> None:
        """The connection is over: take everything back.

        That is also what was closed last: an unmount does not wait for a RELEASE to arrive.
        """
        for fh in list(self._node):
            self.take_back(fh)


def unwrap(reply: object) -> tuple[Any, Open | None]:
    """What `open` returned: the file server's object, and the hints if there are any."""
    if type(reply) is Open:
        return reply.file, reply
    return reply, None
