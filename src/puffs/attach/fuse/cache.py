"""What Linux has cached of a mount: `puffs.kernel.flush.HostCache`, by notifications.

Names are taken out of the cache (NOTIFY_INVAL_ENTRY) and not merely expired: a lookup that is under
way could make an expired name valid again. NOTIFY_DELETE is not used, since it tells the kernel
that the file has no name left, which may be wrong where there are hard links.
"""

import os
from collections.abc import Callable, Iterator
from stat import S_IFREG, S_ISDIR
from typing import Final

from puffs.attach.fuse.abi import (
    notify_inc_epoch,
    notify_inval_entry,
    notify_inval_inode,
    notify_store,
)
from puffs.kernel.mount import Mount
from puffs.kernel.notice import Notice, done
from puffs.kernel.vnode import Vnode

ATTRIBUTES_ONLY: Final = -1
"""`fuse_notify_inval_inode_out.off`: leave the pages."""
INC_EPOCH_MINOR: Final = 44
"""The first protocol with NOTIFY_INC_EPOCH; no INIT flag tells of it."""


class KernelCache:
    """The kernel's cache of `mount`; `send` hands notifications to the thread that writes them.

    `minor` is the protocol that was negotiated, 0 before.
    """

    def __init__(self, mount: Mount, send: Callable[..., Notice]) -> None:
        self.minor = 0
        self._mount = mount
        self._send = send

    def invalidate_name(self, dir: Vnode, name: str) -> Notice:
        """Forget a name, and what depends on it.

        The kernel waits for lookups, and for changes of names, that are under way in `dir`.
        """
        # By itself a name that the kernel has not cached leaves the directory as it was.
        return self._tell(dir, notify_inval_entry(dir.nodeid, os.fsencode(name)), _whole(dir))

    def invalidate_names(self, dir: Vnode | None) -> Notice:
        """Forget all names, or those in `dir`; the kernel has one message for all (7.44)."""
        directories = [each for each in self._mount.vnodes if S_ISDIR(each.type)]
        if dir is not None:
            directories = [dir]
        if self.minor >= INC_EPOCH_MINOR:
            return self._send(notify_inc_epoch(), *map(_whole, directories))
        return self._send(*self._known_names(dir), *map(_whole, directories))

    def _known_names(self, dir: Vnode | None) -> Iterator[bytes]:
        """A message for each name by which the kernel saw a node last."""
        for vnode in self._mount.vnodes:
            parent = vnode.parent
            if parent is not None and (dir is None or parent is dir):
                yield notify_inval_entry(parent.nodeid, os.fsencode(vnode.name))

    def invalidate_attr(self, vnode: Vnode) -> Notice:
        """Forget the attributes; for a symbolic link and a directory also what pages hold of it."""
        if vnode.type != S_IFREG:
            return self._tell(vnode, _whole(vnode))
        return self._tell(vnode, notify_inval_inode(vnode.nodeid, ATTRIBUTES_ONLY, 0))

    def invalidate_pages(self, vnode: Vnode, start: int, end: int) -> Notice:
        """Write, then drop, what is cached from `start` to `end` (0: to the end)."""
        length = end - start if end else 0
        return self._tell(vnode, notify_inval_inode(vnode.nodeid, start, length))

    def flush_pages(self, vnode: Vnode, start: int, end: int) -> Notice:
        """The same: the kernel has no message that writes and keeps."""
        if "write" not in self._mount.ops:  # nothing is ever dirty
            return done()
        return self.invalidate_pages(vnode, start, end)

    def store_pages(self, vnode: Vnode, offset: int, data: bytes) -> Notice:
        """Keep `data` as the contents from `offset` on."""
        return self._tell(vnode, notify_store(vnode.nodeid, offset, data))

    def _tell(self, vnode: Vnode, *messages: bytes) -> Notice:
        told_of = vnode.lookups > vnode.holds  # else only this process knows the node
        return self._send(*messages) if told_of else done()


def _whole(vnode: Vnode) -> bytes:
    """All that is cached of a node itself: attributes and pages."""
    return notify_inval_inode(vnode.nodeid, 0, 0)
