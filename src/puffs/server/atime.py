"""The time of access, which hosts leave to file servers.

Linux marks the files of every FUSE mount S_NOATIME: whoever answers a read moves `atime_ns`, or
nobody does. What the host's cache answers moves nothing.
"""

import time
from typing import Final

from puffs.server.attr import Attr
from puffs.server.cred import requester

_DAY_NS: Final = 24 * 3600 * 1_000_000_000


def mark_atime(attr: Attr) -> int:
    """Move the time of access of what is being read, if it is to be moved. For use inside `read`,
    `readdir` and `readlink`.

    The rule is that of relatime (mount(8)): it moves when it is not later than the last
    modification or change, or more than a day old. It stays for a file that was opened with
    O_NOATIME, and on a mount with `noatime`, or for directories `nodiratime`.

    Returns the time from which on the next read may move it, in nanoseconds. A file server that
    keeps that, and takes 0 instead whenever the file changes, need not ask for every read.
    """
    asked = requester.get(None)
    if asked is not None and asked.noatime():
        return 0
    now, atime = time.time_ns(), attr.atime_ns
    if atime <= attr.mtime_ns or atime <= attr.ctime_ns or now - atime >= _DAY_NS:
        attr.atime_ns = atime = now
    return atime + _DAY_NS
