"""The calls that make, link, move and remove names."""

import errno
import os
import posixpath
from stat import (
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    S_IMODE,
    S_ISDIR,
    S_ISLNK,
)
from typing import Any, Final, overload

from puffs.attach.local.attributes import AttributeCalls
from puffs.attach.local.namei import DOTS, Path, Place, text_of
from puffs.kernel.vnops import error
from puffs.server.types import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT

_RENAME_FLAGS: Final = frozenset(
    (
        0,
        RENAME_NOREPLACE,
        RENAME_EXCHANGE,
        RENAME_WHITEOUT,
        RENAME_NOREPLACE | RENAME_WHITEOUT,
    )
)
_NODE_TYPES: Final = frozenset((S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK))
_RMDIR_DOTS: Final = {"": errno.EBUSY, ".": errno.EINVAL, "..": errno.ENOTEMPTY}


class NameCalls(AttributeCalls):
    """Names in directories, by path."""

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        """Make a directory, as `os.mkdir`."""
        with self._making(path, may_end_in_slash=True) as place:
            maker, bits = self._maker(mode & 0o1777)
            self._vnops.forget(maker.mkdir(place.dir.vnode, place.name, bits).vnode)

    def makedirs(self, name: Path, mode: int = 0o777, exist_ok: bool = False) -> None:
        """Make a directory and those above it that are missing, as `os.makedirs`."""
        path = os.fsdecode(name).rstrip("/")
        missing: list[str] = []
        above = posixpath.dirname(path)
        while above and not self.exists(above):
            missing.append(above)
            above = posixpath.dirname(above.rstrip("/"))
        for above in reversed(missing):
            try:
                self._mkdir_unless(exist_ok, above, 0o777)
            except FileExistsError:  # somebody was faster, or it is a link that leads nowhere
                pass
        if not (missing and posixpath.basename(path) == "."):
            self._mkdir_unless(exist_ok, name, mode)

    def _mkdir_unless(self, exist_ok: bool, path: Path, mode: int) -> None:
        try:
            self.mkdir(path, mode)
        except OSError:
            if not exist_ok or not self.isdir(path):
                raise

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory, as `os.rmdir`."""
        with self._place(path, False) as place:
            if place.name in DOTS:
                raise error(_RMDIR_DOTS[place.name])
            self._permissions.change()
            if place.last is None:
                raise error(errno.ENOENT)
            self._permissions.take_from(place.dir, place.last, as_dir=True)
            self._vnops.rmdir(place.dir.vnode, place.name)

    def mknod(self, path: Path, mode: int = 0o600 | S_IFREG, device: int = 0) -> None:
        """Make a file of any type but directory and symbolic link, as `os.mknod`."""
        with self._at(path):
            kind = S_IFMT(mode) or S_IFREG
            if kind not in _NODE_TYPES:
                raise error(errno.EPERM if kind == S_IFDIR else errno.EINVAL)
            with self._making(path) as place:
                if kind in (S_IFCHR, S_IFBLK) and not self._cred.superuser:
                    raise error(errno.EPERM)
                maker, bits = self._maker(self._permissions.given(place.dir, S_IMODE(mode)))
                made = maker.mknod(place.dir.vnode, place.name, kind | bits, device)
                self._vnops.forget(made.vnode)

    def mkfifo(self, path: Path, mode: int = 0o666) -> None:
        """Make a named pipe, as `os.mkfifo`. It cannot be opened in process."""
        self.mknod(path, S_IFIFO | S_IMODE(mode))

    def symlink(self, src: Path, dst: Path, target_is_directory: bool = False) -> None:
        """Make the symbolic link `dst` that holds `src`, as `os.symlink`."""
        with self._at(src, dst):
            target = text_of(src)
            if not target:
                raise error(errno.ENOENT)
            with self._making(dst) as place:
                maker, _ = self._maker(0)
                made = maker.symlink(place.dir.vnode, place.name, target)
                self._vnops.forget(made.vnode)

    @overload
    def readlink(self, path: bytes | os.PathLike[bytes]) -> bytes: ...
    @overload
    def readlink(self, path: str | os.PathLike[str]) -> str: ...
    def readlink(self, path: Any) -> Any:
        """What a symbolic link holds, as `os.readlink`."""
        with self._found(path, False) as found:
            if not S_ISLNK(found.attr.mode):
                raise error(errno.EINVAL)
            target = self._vnops.readlink(found.vnode)
            return os.fsencode(target) if isinstance(os.fspath(path), bytes) else target

    def name_to_handle(
        self, path: Path, room: int | None = None, *, follow_symlinks: bool = True
    ) -> bytes:
        """A handle by which `open_by_handle` finds a file under any name. [name_to_handle_at(2)]

        It is the file server's own (`nodetofh`), and as long as that has it. With `room`, one of
        more bytes is an `OSError` (E2BIG), whose `size` tells how many. EOPNOTSUPP where there are
        no handles.
        """
        with self._found(path, follow_symlinks) as found:
            return self._vnops.vptofh(found.vnode, room)

    def link(self, src: Path, dst: Path, *, follow_symlinks: bool = False) -> None:
        """Give the file `src` the further name `dst`, as link(2) does."""
        with self._at(src, dst), self._found(src, follow_symlinks) as found:
            with self._making(dst) as place:
                if S_ISDIR(found.attr.mode):
                    raise error(errno.EPERM)
                self._vnops.link(found.vnode, place.dir.vnode, place.name)

    def remove(self, path: Path) -> None:
        """Remove a file that is no directory, as `os.remove`. It lives on while it is open."""
        with self._place(path, False) as place:
            if place.name in DOTS:
                raise error(errno.EISDIR)
            self._permissions.change()
            if place.last is not None and place.slash and S_ISDIR(place.last.attr.mode):
                raise error(errno.EISDIR)
            found = place.found()
            self._permissions.take_from(place.dir, found, as_dir=False)
            self._vnops.remove(place.dir.vnode, place.name)

    unlink = remove

    def rename(self, src: Path, dst: Path, *, flags: int = 0) -> None:
        """Move a name, replacing what is at `dst`, as `os.rename`.

        `flags`: `puffs.RENAME_NOREPLACE` or its like, as renameat2(2) has them.
        """
        with self._at(src, dst):
            if flags not in _RENAME_FLAGS:
                raise error(errno.EINVAL)
            with self._place(src, False) as old, self._place(dst, False) as new:
                if old.name in DOTS or new.name in DOTS:
                    if flags & RENAME_NOREPLACE and old.name not in DOTS:
                        raise error(errno.EEXIST)
                    raise error(errno.EBUSY)
                self._permissions.change()
                if self._may_rename(old, new, flags):
                    self._vnops.rename(old.dir.vnode, old.name, new.dir.vnode, new.name, flags)

    def replace(self, src: Path, dst: Path) -> None:
        """The same as `rename` without flags, as `os.replace`."""
        self.rename(src, dst)

    def _may_rename(self, old: Place, new: Place, flags: int) -> bool:
        """Check a rename as Linux does. False when there is nothing to do."""
        source, target = old.last, new.last
        exchange = flags & RENAME_EXCHANGE
        if source is None:
            raise error(errno.ENOENT)
        if target is not None and flags & RENAME_NOREPLACE:
            raise error(errno.EEXIST)
        if target is None and exchange:
            raise error(errno.ENOENT)
        is_dir = S_ISDIR(source.attr.mode)
        target_is_dir = target is not None and S_ISDIR(target.attr.mode)
        if exchange and new.slash and not target_is_dir:
            raise error(errno.ENOTDIR)
        if not is_dir and (old.slash or (new.slash and not exchange)):
            raise error(errno.ENOTDIR)
        if any(above.vnode is source.vnode for above in new.dirs):
            raise error(errno.EINVAL)
        if target is not None and any(above.vnode is target.vnode for above in old.dirs):
            raise error(errno.EINVAL if exchange else errno.ENOTEMPTY)
        if target is not None and source.vnode is target.vnode:
            return False
        as_dir = target_is_dir if exchange else is_dir
        self._permissions.rename(old.dir, source, new.dir, target, flags, as_dir)
        return True
