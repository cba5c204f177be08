"""The operation table: every operation of a file server, in one place.

Dispatch, defaults, documentation and the frames of isolated file servers are made from this table.
A file server implements the operations that its class defines; nothing is probed at run time
(puffs(3): the mask of implemented operations).
"""

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from puffs.server.stepping import is_async


class Kind(Enum):
    """The message class of an operation (statement 2.3)."""

    VFS = "vfs"
    VN = "vnode"
    SUSPEND = "suspend"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table.

    `returns` is the sort of its result, empty for none; with a question mark None stands for what
    the kernel half knows. `missing` is what it answers when the file server does not define the
    operation: 0 for success, or an errno (statement 2.6). `faf` marks fire and forget: nobody waits
    and a failure reaches nobody. `changes` marks the operations that change the file system; a file
    server with none of them is mounted read-only.
    """

    name: str
    kind: Kind
    args: tuple[str, ...]
    returns: str
    missing: int = errno.EOPNOTSUPP
    faf: bool = False
    changes: bool = False


def _table(
    kind: Kind, *rows: tuple[str, str, str, int] | tuple[str, str, str, int, str]
) -> Iterable[Operation]:
    for name, args, returns, missing, *flags in rows:
        words = " ".join(flags).split()
        yield Operation(
            name,
            kind,
            tuple(args.split()),
            returns,
            missing,
            faf="faf" in words,
            changes="changes" in words,
        )


_NO = errno.EOPNOTSUPP

OPERATIONS: Final[Mapping[str, Operation]] = {
    row.name: row
    for table in (
        _table(
            Kind.VFS,
            ("mount", "", "node", 0),
            ("mounted", "mount", "", 0, "faf"),
            ("unmount", "force", "", 0),
            ("unmounted", "", "", 0, "faf"),
            ("statvfs", "", "statvfs", 0),
            ("sync", "wait cred", "", 0),
            ("snapshot", "destination", "", _NO),
            ("fileid", "node", "fileid", _NO),
            ("vget", "ino", "entry", _NO),
            ("nodetofh", "node", "bytes", _NO),
            ("fhtonode", "fid", "node", _NO),
        ),
        _table(
            Kind.VN,
            ("lookup", "dir name cred", "entry", _NO),
            ("create", "dir name attr flags cred", "created", _NO, "changes"),
            ("mknod", "dir name attr cred", "entry", _NO, "changes"),
            ("mkdir", "dir name attr cred", "entry", _NO, "changes"),
            ("symlink", "dir name target attr cred", "entry", _NO, "changes"),
            ("link", "node dir name cred", "entry?", _NO, "changes"),
            ("remove", "dir name cred", "", _NO, "changes"),
            ("rmdir", "dir name cred", "", _NO, "changes"),
            ("rename", "dir name newdir newname flags cred", "", _NO, "changes"),
            ("tmpfile", "dir attr flags cred", "created", _NO, "changes"),
            ("open", "node flags cred", "open", 0),
            ("close", "node file flags", "", 0, "faf"),
            ("flush", "node file owner", "", 0),
            ("fsync", "node datasync file", "", 0),
            ("read", "node offset size file", "data", _NO),
            ("write", "node offset data file", "amount", _NO, "changes"),
            ("seek", "node offset whence file", "position", _NO),
            ("fallocate", "node mode offset length file", "", _NO, "changes"),
            (
                "copy_file_range",
                "node offset file to to_offset to_file size flags",
                "amount",
                _NO,
                "changes",
            ),
            ("getattr", "node file", "attr", _NO),
            ("setattr", "node changes file cred", "attr?", _NO, "changes"),
            ("access", "node mode cred", "", 0),
            ("readlink", "node", "target", _NO),
            ("opendir", "dir cred", "open", 0),
            ("closedir", "dir file", "", 0, "faf"),
            ("fsyncdir", "dir datasync file", "", 0),
            ("readdir", "dir offset file", "listing", _NO),
            ("getxattr", "node name", "xattr", _NO),
            ("setxattr", "node name value flags", "", _NO, "changes"),
            ("listxattr", "node", "names", _NO),
            ("removexattr", "node name", "", _NO, "changes"),
            ("advlock", "node op lock owner file", "lock?", _NO),
            ("poll", "node events file wake", "events", _NO),
            ("ioctl", "node command data size file cred", "ioctl", errno.ENOTTY),
            ("inactive", "node", "", 0, "faf"),
            ("reclaim", "node", "", 0, "faf"),
        ),
        _table(Kind.SUSPEND, ("suspend", "status", "", 0, "faf")),
        _table(Kind.ERROR, ("error", "kind code text node", "", 0, "faf")),
    )
    for row in table
}

REQUIRED: Final = ("mount", "lookup", "getattr")
"""Without these there is no file system at all."""

CHANGING: Final = frozenset(row.name for row in OPERATIONS.values() if row.changes)

Operations = Mapping[str, Callable[..., Any]]
"""What a file server implements: bound operations by name."""


def implemented(server: object, base: type) -> dict[str, Callable[..., Any]]:
    """The operations that the class of `server` defines beyond `base`, bound, by name."""
    cls = type(server)
    return {
        name: getattr(server, name)
        for name in OPERATIONS
        if getattr(cls, name, None) is not getattr(base, name, None)
    }


def any_async(server: object) -> bool:
    """Whether the class of `server` has an `async def` among its operations."""
    return any(is_async(getattr(type(server), name, None)) for name in OPERATIONS)
