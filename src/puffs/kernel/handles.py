"""File handles: bytes that name a file for good (puffs_fhtovp, puffs_vptofh).

These are the handles that a file server makes itself, for hosts that pass on any bytes: in process,
9P, NFS. Their sizes are the file server's own, and never count the header that a host may put
before them. Linux makes the handles of FUSE out of node id and generation and asks for none of
this; it asks for the file of a node id (`VnodeTable.regain`).

Neither function counts anything but the vnode that it returns: an error leaves all as it was.
"""

import errno
import os
from collections.abc import Callable
from typing import Any

from puffs.kernel import police
from puffs.kernel.args import FHFLAG_DYNAMIC
from puffs.kernel.mount import Mount
from puffs.kernel.vnode import NOWHERE, Vnode

Call = Callable[..., Any]
"""Calls a function with arguments where the operations of a mount run; gives its result, finished.
"""


class HandleTooLong(OSError):
    """A file handle is longer than there is room for: E2BIG. It needs `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(errno.E2BIG, f"the file handle has {size} bytes")
        self.size = size


def fhtovp(mount: Mount, fid: bytes, call: Call | None = None) -> Vnode:
    """The vnode of the file that `fid` names, counted once as known to the host.

    `call` None stands for `mount.call`. Raises EOPNOTSUPP where there are no handles, EINVAL for a
    `fid` that has no length of a handle, and what `fhtonode` raises: ESTALE for what is gone.
    """
    args = mount.args
    if not args.fhsize:  # F1
        raise _error(errno.EOPNOTSUPP)
    # F2. F3, improved: where all handles have one length, a shorter one is none.
    if len(fid) > args.fhsize or (len(fid) < args.fhsize and not args.fhflags & FHFLAG_DYNAMIC):
        raise _error(errno.EINVAL)
    call = call or mount.call
    reply = call(_operation(mount, "fhtonode"), bytes(fid))  # F4
    cookie, _, _ = police.node(reply, NOWHERE, "fhtonode")  # F6, improved: it was believed
    vnode: Vnode = call(mount.vnodes.adopt, cookie)  # F5
    return vnode


def vptofh(mount: Mount, vnode: Vnode, room: int | None = None, call: Call | None = None) -> bytes:
    """The file handle of a vnode.

    `room` is how many bytes the caller has place for, None: any number. A handle that is longer is
    `HandleTooLong`, which says how long it is; to ask for that is what a room of 0 is for (H2, H6).
    `call` None stands for `mount.call`. Raises EOPNOTSUPP where there are no handles, and what
    `nodetofh` raises.
    """
    size, cookie = mount.args.fhsize, vnode.cookie
    if not size:  # H1
        raise _error(errno.EOPNOTSUPP)
    dynamic = bool(mount.args.fhflags & FHFLAG_DYNAMIC)
    if not dynamic and room is not None and room < size:  # H2: nobody need be asked
        raise HandleTooLong(size)
    reply = (call or mount.call)(_operation(mount, "nodetofh"), cookie)  # H3, H4
    fid = police.handle(reply, size, dynamic, cookie)  # H5, H7, H8
    if room is not None and room < len(fid):  # H6
        raise HandleTooLong(len(fid))
    return fid


def _operation(mount: Mount, name: str) -> Callable[..., Any]:
    operation = mount.ops.get(name)
    if operation is None:
        raise _error(mount.missing(name))
    return operation


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
