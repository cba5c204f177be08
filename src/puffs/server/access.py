"""Access checks for file servers that decide themselves (statement 3.7, POSIX 4.7 "File Access
Permissions").

Each helper raises the `OSError` that POSIX asks for, or returns None. A file server that does not
define `access` needs none of them on FUSE: the host checks with the same rules before it asks.
"""

import errno
import os
import stat

from puffs.server.attr import Attr, Changes
from puffs.server.cred import Cred


def check_access(attr: Attr, want: int, cred: Cred) -> None:
    """May `cred` read (`os.R_OK`), write (`os.W_OK`) or execute (`os.X_OK`) a file with these
    attributes?

    Raises `PermissionError` (EACCES). The superuser may do everything but execute a file on which
    nobody has execute permission.
    """
    mode = attr.mode
    if cred.superuser:
        if want & os.X_OK and not stat.S_ISDIR(mode) and not mode & 0o111:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    if cred.uid == attr.uid:
        granted = mode >> 6
    elif cred.in_group(attr.gid):
        granted = mode >> 3
    else:
        granted = mode
    if want & ~granted & 0o7:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def check_sticky(directory: Attr, attr: Attr, cred: Cred) -> None:
    """May `cred` take a name of a file with attributes `attr` away from `directory`, as far as the
    sticky bit goes?

    Raises `PermissionError` (EPERM). In a sticky directory only the owner of the file, of the
    directory, or the superuser may remove or rename.
    """
    if directory.mode & stat.S_ISVTX and not (
        cred.superuser or cred.uid in (attr.uid, directory.uid)
    ):
        raise _not_permitted()


def check_setattr(attr: Attr, changes: Changes, cred: Cred) -> None:
    """May `cred` make these changes to a file with attributes `attr`?

    Raises `PermissionError`: EPERM for changes that are the owner's, EACCES where write permission
    would do. Truncation is judged here by write permission; through an open file it needs no check.
    """
    if cred.superuser:
        return
    owner = cred.uid == attr.uid
    if changes.uid is not None and not (owner and changes.uid == attr.uid):
        raise _not_permitted()
    if changes.gid is not None and not (
        owner and (changes.gid == attr.gid or cred.in_group(changes.gid))
    ):
        raise _not_permitted()
    if changes.mode is not None and not owner:
        raise _not_permitted()
    times = [
        (changes.atime_ns, changes.atime_now),
        (changes.mtime_ns, changes.mtime_now),
    ]
    if not owner and any(ns is not None and not now for ns, now in times):
        raise _not_permitted()
    if not owner and any(ns is not None and now for ns, now in times):
        check_access(attr, os.W_OK, cred)
    if changes.size is not None:
        check_access(attr, os.W_OK, cred)


def inherit(directory: Attr, attr: Attr) -> Attr:
    """Give a new file made in `directory` the group that a set-group-ID directory hands down, and
    return `attr`.

    A new directory also inherits the set-group-ID bit itself (inode(7)).
    """
    if directory.mode & stat.S_ISGID:
        attr.gid = directory.gid
        if stat.S_ISDIR(attr.mode):
            attr.mode |= stat.S_ISGID
    return attr


def _not_permitted() -> PermissionError:
    return PermissionError(errno.EPERM, os.strerror(errno.EPERM))
