"""Access checks for file servers that decide themselves (statement 3.7, POSIX 4.7 "File Access
Permissions", acl(5)), and what new files inherit.

Each check raises the `OSError` that POSIX asks for, or returns None. A file server that does not
define `access` needs none of them on FUSE: the host checks with the same rules before it asks. One
that does calls, in each operation, the check of the same name:

    lookup      check_access(dir, os.X_OK, cred)
    open        check_open(attr, flags, cred)
    opendir     check_open(dir, os.O_RDONLY, cred)
    create, mknod, mkdir, symlink, link, tmpfile      check_make(dir, cred)
    remove, rmdir      check_remove(dir, attr, cred)
    rename      check_rename(dir, attr, newdir, old, cred, flags)
    setattr     check_setattr(attr, changes, cred, writing=...)
    getxattr, setxattr, removexattr      check_xattr(attr, name, want, puffs.caller())
    access      check_access(attr, mode, cred)

They take the attributes of the file, with its access ACL in `Attr.acl` where it has one. What is
read and written by an open file was decided when it was opened.
"""

import errno
import os
import stat
from typing import Final

from puffs.server.acl import ACL_ACCESS, ACL_DEFAULT, EMPTY, Acl
from puffs.server.attr import Attr, Changes
from puffs.server.cred import Cred
from puffs.server.types import RENAME_EXCHANGE

_FMODE_EXEC: Final = 0x20
"""Among the flags of an open by execve(2), which asks for nothing else (linux/fs.h)."""
_WANTS: Final = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK, os.O_RDWR: os.R_OK | os.W_OK}


def check_access(attr: Attr, want: int, cred: Cred) -> None:
    """May `cred` read (`os.R_OK`), write (`os.W_OK`) or execute (`os.X_OK`) a file with these
    attributes?

    Raises `PermissionError` (EACCES). The superuser may do everything but execute a file on which
    nobody has execute permission. As in Linux, an ACL whose mask grants nothing is not looked at.
    """
    mode = attr.mode
    if cred.superuser:
        if want & os.X_OK and not stat.S_ISDIR(mode) and not mode & 0o111:
            raise _denied()
        return
    if cred.uid == attr.uid:
        granted = mode >> 6
    elif mode & stat.S_IRWXG and (acl := attr.acl) is not None:
        granted = want if Acl.parse(acl).grants(want, attr.uid, attr.gid, cred) else 0
    elif cred.in_group(attr.gid):
        granted = mode >> 3
    else:
        granted = mode
    if want & ~granted & 0o7:
        raise _denied()


def check_open(attr: Attr, flags: int, cred: Cred) -> None:
    """May `cred` open a file, or directory, with these `flags` of open(2)?

    Raises `PermissionError`: EACCES; EPERM for O_NOATIME by who is not the owner. An open by
    execve(2), which FUSE marks, asks for execution.
    """
    want = os.X_OK if flags & _FMODE_EXEC else _WANTS.get(flags & os.O_ACCMODE, 0)
    check_access(attr, want, cred)
    if flags & os.O_NOATIME and not _owns(attr, cred):
        raise _not_permitted()


def check_make(directory: Attr, cred: Cred) -> None:
    """May `cred` make a name in `directory`? Raises `PermissionError` (EACCES)."""
    check_access(directory, os.W_OK | os.X_OK, cred)


def check_remove(directory: Attr, attr: Attr, cred: Cred) -> None:
    """May `cred` take the name of a file with attributes `attr` away from `directory`?

    Raises `PermissionError`: EACCES; EPERM in a sticky directory.
    """
    check_make(directory, cred)
    check_sticky(directory, attr, cred)


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


def check_rename(
    directory: Attr, attr: Attr, newdir: Attr, old: Attr | None, cred: Cred, flags: int = 0
) -> None:
    """May `cred` rename what has the attributes `attr` from `directory` to `newdir`, where `old` is
    now; None: nothing is there?

    Raises `PermissionError` as `check_remove`. A directory that gets another parent is written to
    itself, for its "..": `directory` and `newdir` are the same object where they are the same.
    """
    check_remove(directory, attr, cred)
    if old is None:
        check_make(newdir, cred)
    else:
        check_remove(newdir, old, cred)
    if directory is newdir:
        return
    if stat.S_ISDIR(attr.mode):
        check_access(attr, os.W_OK, cred)
    if flags & RENAME_EXCHANGE and old is not None and stat.S_ISDIR(old.mode):
        check_access(old, os.W_OK, cred)


def check_setattr(attr: Attr, changes: Changes, cred: Cred, *, writing: bool = False) -> None:
    """May `cred` make these changes to a file with attributes `attr`?

    Raises `PermissionError`: EPERM for changes that are the owner's, EACCES where write permission
    would do. Truncation is judged here by write permission, unless it is by a file that is open for
    `writing`.
    What chmod(2) drops silently, set-group-ID of who is not in the group, is taken out of
    `changes`.
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
    if changes.mode is not None and not (owner or changes.kill_suidgid):
        raise _not_permitted()
    times = [
        (changes.atime_ns, changes.atime_now),
        (changes.mtime_ns, changes.mtime_now),
    ]
    if not owner and any(ns is not None and not now for ns, now in times):
        raise _not_permitted()
    if not owner and any(ns is not None and now for ns, now in times):
        check_access(attr, os.W_OK, cred)
    if changes.size is not None and not writing:
        check_access(attr, os.W_OK, cred)
    if changes.mode is not None and changes.mode & stat.S_ISGID:
        gid = attr.gid if changes.gid is None else changes.gid
        changes.mode &= ~0 if cred.in_group(gid) else ~stat.S_ISGID


def check_xattr(attr: Attr, name: str, want: int, cred: Cred) -> None:
    """May `cred` read (`os.R_OK`) or write (`os.W_OK`) the extended attribute `name`? [xattr(7)]

    Raises `OSError`: EACCES; for writing EPERM where permission does not help, and ENODATA for
    reading, as for what is not there. Those of "security." and "system." all may read.
    """
    writing = want & os.W_OK
    space = name.partition(".")[0]
    if space == "system":
        if writing and not _owns(attr, cred):
            raise _not_permitted()
        return
    if space == "security":
        if writing and not cred.superuser:
            raise _not_permitted()
        return
    hidden = _not_permitted() if writing else OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    if space == "trusted":
        if not cred.superuser:
            raise hidden
        return
    if space == "user":
        if not (stat.S_ISREG(attr.mode) or stat.S_ISDIR(attr.mode)):
            raise hidden
        sticky = stat.S_ISDIR(attr.mode) and attr.mode & stat.S_ISVTX
        if sticky and writing and not _owns(attr, cred):
            raise hidden
    check_access(attr, want, cred)


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


def new_acls(default: bytes | None, attr: Attr, cred: Cred) -> dict[str, bytes]:
    """What a new file gets in a directory with the default ACL `default`; None: it has none.

    Narrows the permissions of `attr`, by the default ACL or else by the umask of `cred`, and sets
    its `acl`. Returns the extended attributes that the file is made with. A symbolic link has
    neither. [acl(5), umask(2)]
    """
    if stat.S_ISLNK(attr.mode):
        return {}
    if default is None:
        attr.mode &= ~(cred.umask & 0o777)
        return {}
    access = Acl.parse(default).narrowed(attr.mode)
    attr.mode = attr.mode & ~0o777 | access.mode
    acls: dict[str, bytes] = {}
    if not access.minimal:
        acls[ACL_ACCESS] = attr.acl = access.pack()
    if stat.S_ISDIR(attr.mode):
        acls[ACL_DEFAULT] = default
    return acls


def set_acl(attr: Attr, name: str, value: bytes, cred: Cred) -> bytes | None:
    """`cred` sets the ACL `name` of a file with attributes `attr`: returns what is to be kept.

    None: nothing, and what was kept is to be taken away. An access ACL sets the permission bits and
    `acl` of `attr`, and takes set-group-ID away where `cred` is not in the group of the file, as
    chmod(2) does; it is not kept where the bits say all. Raises `OSError`: EINVAL for what is no
    ACL, EOPNOTSUPP for symbolic links, EACCES for a default ACL of what is no directory.
    [setxattr(2)]
    """
    if stat.S_ISLNK(attr.mode):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    none = value in (b"", EMPTY)
    if name == ACL_DEFAULT:
        if none:
            return None
        if not stat.S_ISDIR(attr.mode):
            raise _denied()
        return Acl.parse(value).pack()
    if none:
        attr.acl = None
        return None
    acl = Acl.parse(value)
    attr.mode = attr.mode & ~0o777 | acl.mode
    if attr.mode & stat.S_ISGID and not (cred.superuser or cred.in_group(attr.gid)):
        attr.mode &= ~stat.S_ISGID
    attr.acl = None if acl.minimal else acl.pack()
    return attr.acl


def _owns(attr: Attr, cred: Cred) -> bool:
    return cred.superuser or cred.uid == attr.uid


def _denied() -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _not_permitted() -> PermissionError:
    return PermissionError(errno.EPERM, os.strerror(errno.EPERM))
