"""The table of handlers of pyfuse3 and llfuse: what each is given, and what its reply becomes."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from puffs.attach.fuse.dispatch import Refusal
from puffs.refuse.inode_plain import NO_FH
from puffs.refuse.inode_values import (
    PollHandle,
    attributes,
    context_of,
    opened,
    size_of,
)
from puffs.server.attr import Attr
from puffs.server.cred import Cred, caller
from puffs.server.errors import Absent
from puffs.server.types import Entry, Open

# --------------------------------------------------------------------- what handlers are given


def _in_directory(dir: int, name: str, cred: Cred) -> tuple[Any, ...]:
    return dir, os.fsencode(name), context_of(cred)


def _create(dir: int, name: str, attr: Attr, flags: int, cred: Cred) -> tuple[Any, ...]:
    return dir, os.fsencode(name), attr.mode & ~cred.umask, flags, context_of(cred)


def _mknod(dir: int, name: str, attr: Attr, cred: Cred) -> tuple[Any, ...]:
    return dir, os.fsencode(name), attr.mode & ~cred.umask, attr.rdev, context_of(cred)


def _mkdir(dir: int, name: str, attr: Attr, cred: Cred) -> tuple[Any, ...]:
    return dir, os.fsencode(name), attr.mode & ~cred.umask, context_of(cred)


def _symlink(dir: int, name: str, target: str, _attr: Attr, cred: Cred) -> tuple[Any, ...]:
    return dir, os.fsencode(name), os.fsencode(target), context_of(cred)


def _link(node: int, dir: int, name: str, cred: Cred) -> tuple[Any, ...]:
    return node, dir, os.fsencode(name), context_of(cred)


def _rename(
    dir: int, name: str, newdir: int, newname: str, flags: int, cred: Cred
) -> tuple[Any, ...]:
    return dir, os.fsencode(name), newdir, os.fsencode(newname), flags, context_of(cred)


def _rename_plainly(
    dir: int, name: str, newdir: int, newname: str, flags: int, cred: Cred
) -> tuple[Any, ...]:
    if flags:  # the handler has no place for them
        raise Refusal(errno.EINVAL, os.strerror(errno.EINVAL))
    return dir, os.fsencode(name), newdir, os.fsencode(newname), context_of(cred)


def _node(node: int, *_: object) -> tuple[Any, ...]:
    return node, context_of(caller())


def _node_with(node: int, what: int, cred: Cred) -> tuple[Any, ...]:
    return node, what, context_of(cred)


def _opendir(dir: int, cred: Cred) -> tuple[Any, ...]:
    return dir, context_of(cred)


def _file(_node: int, file: int | None, *_: object) -> tuple[Any, ...]:
    return (NO_FH if file is None else file,)


def _sync(_node: int, datasync: bool, file: int | None) -> tuple[Any, ...]:
    return NO_FH if file is None else file, datasync


def _read(_node: int, offset: int, size: int, file: int | None) -> tuple[Any, ...]:
    return NO_FH if file is None else file, offset, size


def _write(_node: int, offset: int, data: memoryview, file: int | None) -> tuple[Any, ...]:
    return NO_FH if file is None else file, offset, bytes(data)


def _xattr(node: int, name: str) -> tuple[Any, ...]:
    return node, os.fsencode(name), context_of(caller())


def _statfs() -> tuple[Any, ...]:
    return (context_of(caller()),)


def _poll(
    node: int, _events: int, file: int | None, wake: Callable[[], None] | None
) -> tuple[Any, ...]:
    handle = None if wake is None else PollHandle(wake)
    return node, NO_FH if file is None else file, handle, context_of(caller())


def _vget(ino: int) -> tuple[Any, ...]:
    return ino, b".", context_of(caller())


# ------------------------------------------------------------------- what becomes of their replies


def _same(reply: Any) -> Any:
    return reply


def _nothing(_reply: object) -> None:
    return None


def entry_of(reply: Any) -> Entry:
    """A node, its attributes and their lifetimes, of the `EntryAttributes` that a handler gave."""
    attr = attributes(reply)
    return Entry(attr.ino, attr, reply.entry_timeout, attr.ttl)


def _found(reply: Any) -> Entry:
    entry = entry_of(reply)
    if entry.node == 0:
        raise Absent(reply.entry_timeout)
    return entry


def _created(reply: Any) -> tuple[Entry, Open]:
    return entry_of(reply[1]), opened(reply[0])


def _created_by_number(reply: Any) -> tuple[Entry, Open]:
    return entry_of(reply[1]), Open(reply[0], keep_cache=True)


def _opened_by_number(reply: Any) -> Open:
    return Open(reply, keep_cache=True)


def _opened_directory(reply: Any) -> Open:
    return Open(reply)


ENTERING: Final = frozenset((entry_of, _found, _created, _created_by_number))
"""Those whose replies bring a node."""


def _allowed(reply: object) -> None:
    if not reply:
        raise Refusal(errno.EACCES, os.strerror(errno.EACCES))


def _events(reply: int | None) -> int:
    return reply or 0


# ---------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class Row:
    """One operation of puffs, and the handler that serves it.

    `given` makes the handler's arguments of the operation's, `made` what the operation returns of
    what the handler has returned. An `optional` one is implemented where the program's class has
    the handler: the kernel is told not to ask again. The others always are, and a caller is told
    ENOSYS where the handler is missing, as by the originals.
    """

    operation: str
    handler: str
    given: Callable[..., tuple[Any, ...]]
    made: Callable[[Any], Any]
    optional: bool = False


ROWS: Final = (
    Row("lookup", "lookup", _in_directory, _found),
    Row("vget", "lookup", _vget, _found),
    Row("create", "create", _create, _created, optional=True),
    Row("mknod", "mknod", _mknod, entry_of),
    Row("mkdir", "mkdir", _mkdir, entry_of),
    Row("symlink", "symlink", _symlink, entry_of),
    Row("link", "link", _link, entry_of),
    Row("remove", "unlink", _in_directory, _nothing),
    Row("rmdir", "rmdir", _in_directory, _nothing),
    Row("rename", "rename", _rename, _nothing),
    Row("readlink", "readlink", _node, _same),
    Row("getattr", "getattr", _node, attributes),
    Row("access", "access", _node_with, _allowed, optional=True),
    Row("open", "open", _node_with, opened, optional=True),
    Row("close", "release", _file, _nothing, optional=True),
    Row("flush", "flush", _file, _nothing, optional=True),
    Row("fsync", "fsync", _sync, _nothing, optional=True),
    Row("read", "read", _read, _same),
    Row("write", "write", _write, _same),
    Row("opendir", "opendir", _opendir, _opened_directory, optional=True),
    Row("closedir", "releasedir", _file, _nothing, optional=True),
    Row("fsyncdir", "fsyncdir", _sync, _nothing, optional=True),
    Row("getxattr", "getxattr", _xattr, _same, optional=True),
    Row("listxattr", "listxattr", _node, _same, optional=True),
    Row("removexattr", "removexattr", _xattr, _nothing, optional=True),
    Row("poll", "poll", _poll, _events, optional=True),
    Row("statvfs", "statfs", _statfs, size_of, optional=True),
)
"""For pyfuse3. What is missing here has a form of its own: `setattr`, `setxattr`, and listings."""

_OF_LLFUSE: Final = {
    "create": Row("create", "create", _create, _created_by_number, optional=True),
    "rename": Row("rename", "rename", _rename_plainly, _nothing),
    "open": Row("open", "open", _node_with, _opened_by_number, optional=True),
}
LLFUSE_ROWS: Final = tuple(_OF_LLFUSE.get(row.operation, row) for row in ROWS)
