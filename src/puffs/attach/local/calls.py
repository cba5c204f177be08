"""What the calls of `LocalFileSystem` have in common: walks, and errors that name the path."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from puffs.attach.local.host import LocalHost
from puffs.attach.local.namei import Namei, Path, Place, text_of
from puffs.attach.local.permissions import Permissions
from puffs.kernel.mount import Mount
from puffs.kernel.vnops import Found, Vnops, error
from puffs.server.cred import Cred

_devices = count(1)


class Calls:
    """The base of `LocalFileSystem`: one caller's view of one mount."""

    def __init__(self, mount: Mount, cred: Cred | None, *, owner: bool) -> None:
        self.mount = mount
        self._umask_given = cred is not None
        self._cred = cred or Cred.current()
        self._host = LocalHost(mount, self._cred, owner)
        self._vnops = self._host.vnops
        self._permissions = Permissions(self._vnops, self._cred)
        self._walks = Namei(self._vnops, self._permissions)
        self._device = os.makedev(0, next(_devices))

    @contextmanager
    def _at(self, *paths: Path) -> Iterator[None]:
        """Work on the file system; an error names `paths`, as those of `os` do."""
        with self._host:
            try:
                yield
            except OSError as exc:
                for attribute, path in zip(("filename", "filename2"), paths, strict=False):
                    setattr(exc, attribute, os.fspath(path))
                raise

    @contextmanager
    def _place(self, path: Path, follow: bool) -> Iterator[Place]:
        """Walk to a path and hold what is there."""
        with self._at(path), self._walks.resolve(text_of(path), follow) as place:
            yield place

    @contextmanager
    def _found(self, path: Path, follow: bool) -> Iterator[Found]:
        """Walk to a file and hold it. A slash at the end has a symbolic link followed."""
        follow = follow or text_of(path).endswith("/")
        with self._place(path, follow) as place:
            yield place.found()

    @contextmanager
    def _making(self, path: Path, may_end_in_slash: bool = False) -> Iterator[Place]:
        """Walk to where a name is to be made, and check that it may be."""
        with self._place(path, False) as place:
            if place.last is not None:
                raise error(errno.EEXIST)
            if place.slash and not may_end_in_slash:
                raise error(errno.ENOENT)
            self._permissions.make_in(place.dir)
            yield place

    def _maker(self, mode: int) -> tuple[Vnops, int]:
        """The operations for making a file, by a caller with the umask of now; `mode` under it,
        unless the file server keeps ACLs and sees to that.
        """
        cred, vnops = self._cred, self._vnops
        if not self._umask_given:
            umask = current_umask()
            cred = Cred(cred.uid, cred.gid, cred.tid, umask, pid=cred.pid, groups=cred.groups)
            vnops = vnops.by(cred)
        return vnops, mode if self.mount.server.posix_acl else mode & ~cred.umask


def current_umask() -> int:
    """The umask of this process, without changing it for a moment as umask(2) would."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        line = next(line for line in status if line.startswith("Umask:"))
    return int(line.split()[1], 8)
