"""The calls about attributes: stat, chmod, utime, extended attributes and their like."""

import errno
import math
import os
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISREG
from typing import Final

from puffs.attach.local.calls import Calls
from puffs.attach.local.namei import Path, text_of
from puffs.kernel.vnops import Found, error
from puffs.server.acl import ACL_NAMES
from puffs.server.attr import Changes

_NS: Final = 1_000_000_000
_XATTR_NAME_MAX: Final = 255


class AttributeCalls(Calls):
    """The attributes of files, by path."""

    def stat(self, path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        """The attributes of a file, as `os.stat`."""
        with self._found(path, follow_symlinks) as found:
            return found.attr.to_stat(self._device)

    def lstat(self, path: Path) -> os.stat_result:
        """The attributes of a file or of the symbolic link itself, as `os.lstat`."""
        return self.stat(path, follow_symlinks=False)

    def exists(self, path: Path) -> bool:
        """Whether a path leads to a file."""
        return self._mode(path, True) is not None

    def lexists(self, path: Path) -> bool:
        """Whether a path names a file or symbolic link."""
        return self._mode(path, False) is not None

    def isfile(self, path: Path) -> bool:
        """Whether a path leads to a regular file."""
        return S_ISREG(self._mode(path, True) or 0)

    def isdir(self, path: Path) -> bool:
        """Whether a path leads to a directory."""
        return S_ISDIR(self._mode(path, True) or 0)

    def islink(self, path: Path) -> bool:
        """Whether a path names a symbolic link."""
        return S_ISLNK(self._mode(path, False) or 0)

    def _mode(self, path: Path, follow: bool) -> int | None:
        """The mode of a file; None when it cannot be had."""
        if b"\0" in os.fsencode(path):
            return None
        try:
            return self.stat(path, follow_symlinks=follow).st_mode
        except OSError:
            return None

    def access(self, path: Path, mode: int, *, follow_symlinks: bool = True) -> bool:
        """Whether `mode` (`os.F_OK`, `os.R_OK | os.W_OK | os.X_OK`) is allowed, as `os.access`."""
        try:
            with self._found(path, follow_symlinks) as found:
                if mode != os.F_OK:
                    self._permissions.may(found, mode)
                    self._vnops.access(found.vnode, mode)
                return True
        except OSError:
            return False

    def chmod(self, path: Path, mode: int, *, follow_symlinks: bool = True) -> None:
        """Change the permission bits, as `os.chmod`. Those of a symbolic link: EOPNOTSUPP."""
        with self._found(path, follow_symlinks) as found:
            if S_ISLNK(found.attr.mode):
                raise error(errno.EOPNOTSUPP)
            self._set(found, Changes(mode=S_IMODE(mode)))

    def chown(self, path: Path, uid: int, gid: int, *, follow_symlinks: bool = True) -> None:
        """Change owner and group, as `os.chown`; -1 leaves one as it is."""
        with self._found(path, follow_symlinks) as found:
            changes = Changes(
                uid=None if uid == -1 else uid,
                gid=None if gid == -1 else gid,
                kill_suidgid=not S_ISDIR(found.attr.mode),
            )
            changes.shed(found.attr, self._cred)
            self._set(found, changes)

    def utime(
        self,
        path: Path,
        times: tuple[float, float] | None = None,
        *,
        ns: tuple[int, int] | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        """Set the times of access and modification, as `os.utime`: now, if none are given."""
        if times is not None and ns is not None:
            raise ValueError("utime: you may specify either 'times' or 'ns' but not both")
        now = times is None and ns is None
        if times is not None:
            ns = _nanoseconds(times[0]), _nanoseconds(times[1])
        elif ns is None:
            ns = (self.mount.clock(),) * 2
        changes = Changes(atime_ns=ns[0], mtime_ns=ns[1], atime_now=now, mtime_now=now)
        with self._found(path, follow_symlinks) as found:
            self._set(found, changes)

    def truncate(self, path: Path, length: int) -> None:
        """Cut a file, or make it longer, to `length` bytes, as `os.truncate`."""
        with self._at(path):
            if length < 0:
                raise error(errno.EINVAL)
            with self._found(path, True) as found:
                if S_ISDIR(found.attr.mode):
                    raise error(errno.EISDIR)
                if not S_ISREG(found.attr.mode):
                    raise error(errno.EINVAL)
                self._permissions.may(found, os.W_OK)
                self._truncate(found, length)

    def _truncate(self, found: Found, size: int) -> None:
        changes = self._permissions.shed(Changes(size=size), found.attr)
        self._vnops.setattr(found.vnode, changes)

    def _set(self, found: Found, changes: Changes) -> None:
        self._permissions.set(found, changes)
        self._vnops.setattr(found.vnode, changes)

    def getxattr(
        self, path: Path, attribute: str | bytes, *, follow_symlinks: bool = True
    ) -> bytes:
        """The value of an extended attribute, as `os.getxattr`."""
        with self._found(path, follow_symlinks) as found:
            name = _xattr_name(attribute)
            self._permissions.xattr(found, name, os.R_OK)
            return self._vnops.getxattr(found.vnode, name)

    def setxattr(
        self,
        path: Path,
        attribute: str | bytes,
        value: bytes,
        flags: int = 0,
        *,
        follow_symlinks: bool = True,
    ) -> None:
        """Set an extended attribute, as `os.setxattr`."""
        with self._found(path, follow_symlinks) as found:
            name = _xattr_name(attribute)
            self._permissions.xattr(found, name, os.W_OK)
            if name in ACL_NAMES:
                flags = 0  # that there is one, or none, makes no difference
            self._vnops.setxattr(found.vnode, name, bytes(value), flags)

    def listxattr(self, path: Path = "/", *, follow_symlinks: bool = True) -> list[str]:
        """The names of the extended attributes, as `os.listxattr`."""
        with self._found(path, follow_symlinks) as found:
            return self._vnops.listxattr(found.vnode)

    def removexattr(
        self, path: Path, attribute: str | bytes, *, follow_symlinks: bool = True
    ) -> None:
        """Take an extended attribute away, as `os.removexattr`."""
        with self._found(path, follow_symlinks) as found:
            name = _xattr_name(attribute)
            self._permissions.xattr(found, name, os.W_OK)
            try:
                self._vnops.removexattr(found.vnode, name)
            except OSError as exc:
                if exc.errno != errno.ENODATA or name not in ACL_NAMES:
                    raise


def _nanoseconds(seconds: float) -> int:
    if isinstance(seconds, int):
        return seconds * _NS
    part, whole = math.modf(seconds)
    return int(whole) * _NS + math.floor(part * 1e9)


def _xattr_name(attribute: str | bytes) -> str:
    name = text_of(attribute)
    if not 0 < len(os.fsencode(name)) <= _XATTR_NAME_MAX:
        raise error(errno.ERANGE)
    return name
