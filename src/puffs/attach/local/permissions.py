"""The host's part in permissions: what Linux decides before it asks a file system.

A file server that defines `access` decides all this itself, as on FUSE without
`default_permissions`. What kind of file an operation can be for, and whether the file system can
be changed at all, is the host's to say in any case.
"""

import errno
import os
from stat import S_ISDIR, S_ISGID, S_ISREG, S_ISVTX

from puffs.kernel.mount import Mount
from puffs.kernel.vnops import error
from puffs.server.access import check_access, check_setattr, check_sticky
from puffs.server.attr import Attr, Changes, without_set_id
from puffs.server.cred import Cred


class Permissions:
    """What `cred` may do on `mount`. Each check raises `OSError` or returns None."""

    def __init__(self, mount: Mount, cred: Cred) -> None:
        self._cred = cred
        self._read_only = mount.read_only
        self._decides = "access" not in mount.ops

    def change(self) -> None:
        """EROFS on a file system that cannot be changed."""
        if self._read_only:
            raise error(errno.EROFS)

    def may(self, attr: Attr, want: int) -> None:
        """Read, write or execute a file (`os.R_OK`, `os.W_OK`, `os.X_OK`)."""
        if want & os.W_OK:
            self.change()
        if self._decides:
            check_access(attr, want, self._cred)

    def search(self, dir: Attr) -> None:
        """Pass through a directory."""
        if self._decides:
            check_access(dir, os.X_OK, self._cred)

    def make_in(self, dir: Attr) -> None:
        """Make a name in a directory."""
        self.change()
        if self._decides:
            check_access(dir, os.W_OK | os.X_OK, self._cred)

    def take_from(self, dir: Attr, victim: Attr, as_dir: bool) -> None:
        """Take the name of a file away, or with `as_dir` that of a directory, by the name."""
        self.change()
        if self._decides:
            check_access(dir, os.W_OK | os.X_OK, self._cred)
            check_sticky(dir, victim, self._cred)
        if as_dir != S_ISDIR(victim.mode):
            raise error(errno.ENOTDIR if as_dir else errno.EISDIR)

    def set(self, attr: Attr, changes: Changes) -> None:
        """Change attributes. Takes set-group-id out of `changes` where the caller cannot give it.

        That is silent, as chmod(2) has it.
        """
        self.change()
        if not self._decides:
            return
        check_setattr(attr, changes, self._cred)
        if changes.mode is not None and changes.mode & S_ISGID and not self._cred.superuser:
            gid = attr.gid if changes.gid is None else changes.gid
            if not self._cred.in_group(gid):
                changes.mode &= ~S_ISGID

    def sheds(self, attr: Attr) -> bool:
        """Whether a write of this caller takes set-user-id or set-group-id away (write(2))."""
        if self._cred.superuser or not S_ISREG(attr.mode):
            return False
        return without_set_id(attr.mode) != attr.mode

    @property
    def never_sheds(self) -> bool:
        """Whether `sheds` is never true."""
        return self._cred.superuser

    def xattr(self, attr: Attr, name: str, want: int) -> None:
        """Read or write an extended attribute (xattr(7))."""
        if want & os.W_OK:
            self.change()
        if not self._decides or name.startswith(("security.", "system.")):
            return
        forbidden = error(errno.EPERM if want & os.W_OK else errno.ENODATA)
        if name.startswith("trusted."):
            if not self._cred.superuser:
                raise forbidden
            return
        if name.startswith("user."):
            if not (S_ISREG(attr.mode) or S_ISDIR(attr.mode)):
                raise forbidden
            sticky = S_ISDIR(attr.mode) and attr.mode & S_ISVTX and want & os.W_OK
            if sticky and not (self._cred.superuser or self._cred.uid == attr.uid):
                raise forbidden
        check_access(attr, want, self._cred)
