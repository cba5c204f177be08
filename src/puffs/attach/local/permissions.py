"""The host's part in permissions: what Linux decides before it asks a file system.

A file server that defines `access` decides all this itself, as on FUSE without
`default_permissions`. What kind of file an operation can be for, and whether the file system can
be changed at all, is the host's to say in any case, and so are ACLs: only owners set them.
"""

import errno
import os
from stat import S_IRWXG, S_ISDIR, S_ISGID, S_IXGRP

from puffs.kernel.vnops import Found, Vnops, error
from puffs.server.access import (
    check_access,
    check_make,
    check_remove,
    check_rename,
    check_setattr,
    check_xattr,
)
from puffs.server.acl import ACL_ACCESS, ACL_NAMES
from puffs.server.attr import Attr, Changes
from puffs.server.cred import Cred


class Permissions:
    """What `cred` may do by `vnops`. Each check raises `OSError` or returns None."""

    def __init__(self, vnops: Vnops, cred: Cred) -> None:
        mount = vnops.mount
        self._vnops = vnops
        self._cred = cred
        self._read_only = mount.read_only
        self._decides = "access" not in mount.ops
        self._acls = self._decides and mount.server.posix_acl and not cred.superuser

    def change(self) -> None:
        """EROFS on a file system that cannot be changed."""
        if self._read_only:
            raise error(errno.EROFS)

    def may(self, file: Found, want: int) -> None:
        """Read, write or execute a file (`os.R_OK`, `os.W_OK`, `os.X_OK`)."""
        if want & os.W_OK:
            self.change()
        if self._decides:
            check_access(self._attr(file), want, self._cred)

    def search(self, dir: Found) -> None:
        """Pass through a directory."""
        if self._decides:
            check_access(self._attr(dir), os.X_OK, self._cred)

    def make_in(self, dir: Found) -> None:
        """Make a name in a directory."""
        self.change()
        if self._decides:
            check_make(self._attr(dir), self._cred)

    def take_from(self, dir: Found, victim: Found, as_dir: bool) -> None:
        """Take the name of a file away, or with `as_dir` that of a directory, by the name."""
        self.change()
        if self._decides:
            check_remove(self._attr(dir), victim.attr, self._cred)
        _check_kind(victim.attr, as_dir)

    def rename(
        self, dir: Found, file: Found, newdir: Found, old: Found | None, flags: int, as_dir: bool
    ) -> None:
        """Rename what is in `dir` to a name in `newdir`, where `old` is now. It must be what
        `as_dir` says.
        """
        self.change()
        if self._decides:
            same = dir.vnode is newdir.vnode
            source = self._attr(dir)
            target = source if same else self._attr(newdir)
            replaced = None if old is None else self._attr(old)
            check_rename(source, self._attr(file), target, replaced, self._cred, flags)
        if old is not None:
            _check_kind(old.attr, as_dir)

    def set(self, file: Found, changes: Changes) -> None:
        """Change attributes: as `check_setattr`, which may take something out of `changes`."""
        self.change()
        if self._decides:
            check_setattr(self._attr(file), changes, self._cred)

    def given(self, dir: Found, mode: int) -> int:
        """The permission bits with which a file that is no directory is made.

        Set-group-ID on what can be executed is for members of the group that `dir` hands down.
        """
        both = S_ISGID | S_IXGRP
        if mode & both != both or not dir.attr.mode & S_ISGID:
            return mode
        member = self._cred.superuser or self._cred.in_group(dir.attr.gid)
        return mode if member else mode & ~S_ISGID

    def shed(self, changes: Changes, attr: Attr) -> Changes:
        """The same changes of a file with attributes `attr`, as a write of this caller makes them:
        with set-user-id and set-group-id taken away (write(2)).
        """
        changes.kill_suidgid = not self._cred.superuser
        changes.shed(attr, self._cred)
        return changes

    @property
    def never_sheds(self) -> bool:
        """Whether `shed` never changes anything."""
        return self._cred.superuser

    def xattr(self, file: Found, name: str, want: int) -> None:
        """Read or write an extended attribute (xattr(7))."""
        if want & os.W_OK:
            self.change()
        if self._decides or name in ACL_NAMES:
            check_xattr(self._attr(file), name, want, self._cred)

    def _attr(self, file: Found) -> Attr:
        """The attributes, with the access ACL where it decides anything."""
        attr = file.attr
        if self._acls and attr.uid != self._cred.uid and attr.mode & S_IRWXG:
            try:
                attr.acl = self._vnops.getxattr(file.vnode, ACL_ACCESS)
            except OSError as exc:
                if exc.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                    raise
        return attr


def _check_kind(victim: Attr, as_dir: bool) -> None:
    if as_dir != S_ISDIR(victim.mode):
        raise error(errno.ENOTDIR if as_dir else errno.EISDIR)
