"""Path walk, as path_resolution(7) has it: from a path to the directory it ends in and the file.

Every vnode that a walk comes by is counted as known to this host, and given back when the walk is
left. The directories from the root on are kept meanwhile: they are what ".." means.
"""

import errno
import os
from stat import S_ISDIR, S_ISLNK
from typing import Final

from puffs.attach.local.permissions import Permissions
from puffs.kernel.vnops import Found, Vnops, error

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

SYMLINKS_MAX: Final = 40
"""How many symbolic links one walk follows (path_resolution(7))."""
PATH_MAX: Final = 4096
"""Bytes of a path, with the NUL that it would end with (limits.h)."""

DOTS: Final = frozenset(("", ".", ".."))
"""Last components that are no name in a directory; "" is the root's."""


def text_of(path: Path) -> str:
    """A path as `str`. Raises what `os` does: `TypeError` for no path, `ValueError` for NUL."""
    text = os.fsdecode(path)
    if "\0" in text:
        raise ValueError("embedded null byte")
    return text


class Place:
    """Where a path leads: the directories down to the one that `name` is in, and what it is there.

    `last` is None when there is no such file. `slash`: the path ended with one, so that only a
    directory will do.
    """

    __slots__ = ("_vnops", "dirs", "last", "name", "slash")

    def __init__(self, vnops: Vnops) -> None:
        root = vnops.mount.root()
        self.dirs = [Found(root, vnops.getattr(root))]
        self.name = ""
        self.last: Found | None = None
        self.slash = False
        self._vnops = vnops

    @property
    def dir(self) -> Found:
        """The directory that `name` is in; itself if the name is one of `DOTS`."""
        return self.dirs[-1]

    def found(self) -> Found:
        """What the path leads to. Raises ENOENT, or ENOTDIR because of a slash at its end."""
        if self.last is None:
            raise error(errno.ENOENT)
        if self.slash and self.name and not S_ISDIR(self.last.attr.mode):
            raise error(errno.ENOTDIR)
        return self.last

    def ascend(self) -> None:
        """Go up, but not beyond the root."""
        if len(self.dirs) > 1:
            self._vnops.forget(self.dirs.pop().vnode)

    def restart(self) -> None:
        """Back to the root."""
        while len(self.dirs) > 1:
            self.ascend()

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.last is not None and self.last is not self.dirs[-1]:
            self._vnops.forget(self.last.vnode)
        self.restart()


class Namei:
    """The walks of one caller."""

    def __init__(self, vnops: Vnops, permissions: Permissions) -> None:
        self._vnops = vnops
        self._permissions = permissions

    def resolve(self, path: str, follow: bool) -> Place:
        """Walk `path`; a symbolic link at its end is followed if `follow`.

        A file that does not exist is no error; anything else on the way is. The result is a
        context manager.
        """
        if not path:
            raise error(errno.ENOENT)
        if len(os.fsencode(path)) >= PATH_MAX:
            raise error(errno.ENAMETOOLONG)
        place = Place(self._vnops)
        try:
            self._walk(place, path, follow)
        except BaseException:
            place.__exit__()
            raise
        return place

    def _walk(self, place: Place, path: str, follow: bool) -> None:
        vnops, search = self._vnops, self._permissions.search
        todo = _components(path)
        place.slash = path.endswith("/")
        links = 0
        while todo:
            name = place.name = todo.pop()
            if not S_ISDIR(place.dir.attr.mode):
                raise error(errno.ENOTDIR)
            search(place.dir)
            if name == ".":
                continue
            if name == "..":
                place.ascend()
                continue
            try:
                found = vnops.lookup(place.dir.vnode, name)
            except FileNotFoundError:
                if todo:
                    raise
                return
            if S_ISLNK(found.attr.mode) and (todo or follow):
                links += 1
                target = self._read(found, links)
                if target.startswith("/"):
                    place.restart()
                    place.name = ""
                if not todo:
                    place.slash = place.slash or target.endswith("/")
                todo.extend(_components(target))
            elif todo:
                place.dirs.append(found)
            else:
                place.last = found
                return
        place.last = place.dir

    def _read(self, link: Found, links: int) -> str:
        """What a symbolic link holds that is to be followed, the `links`-th of its walk."""
        try:
            if links > SYMLINKS_MAX:
                raise error(errno.ELOOP)
            return self._vnops.readlink(link.vnode)
        finally:
            self._vnops.forget(link.vnode)


def _components(path: str) -> list[str]:
    """The components of a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name]
