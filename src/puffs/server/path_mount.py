"""`PathMount`: the mount of a `PathFileSystem`, where paths take the place of nodes."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from puffs.server.types import Buffer, Cookie


class PathMount:
    """What `PathFileSystem.mounted` is given: hosts are told by it that files have changed.

    The methods are those of `puffs.Mount`, and as there: from any thread, never waiting; change
    first, then tell. `mount` is that `Mount`. A path that no host has come by is no error.
    """

    def __init__(self, mount: Any, find: Callable[[str], Cookie]) -> None:
        self.mount = mount
        self._find = find

    def invalidate_name(self, path: str) -> Future[None]:
        """`path` has come, gone, or leads to another file."""
        dir, _, name = path.rstrip("/").rpartition("/")
        notice: Future[None] = self.mount.invalidate_name(self._find(dir), name)
        return notice

    def invalidate_names(self, path: str | None = None) -> Future[None]:
        """The same for all names in the directory `path`; None: for all that hosts know."""
        dir = None if path is None else self._find(path)
        notice: Future[None] = self.mount.invalidate_names(dir)
        return notice

    def invalidate_attr(self, path: str) -> Future[None]:
        """The attributes of what is at `path` have changed; or what a symbolic link holds."""
        notice: Future[None] = self.mount.invalidate_attr(self._find(path))
        return notice

    def invalidate_pages(self, path: str, start: int = 0, end: int = 0) -> Future[None]:
        """The contents of a file have changed between `start` and `end` (bytes; 0: to the end)."""
        notice: Future[None] = self.mount.invalidate_pages(self._find(path), start, end)
        return notice

    def flush_pages(self, path: str, start: int = 0, end: int = 0) -> Future[None]:
        """Have hosts write what they have buffered of a file, between `start` and `end`."""
        notice: Future[None] = self.mount.flush_pages(self._find(path), start, end)
        return notice

    def store_pages(self, path: str, offset: int, data: Buffer) -> Future[None]:
        """A file holds `data` from `offset` on now: hosts keep it, or forget what they had."""
        notice: Future[None] = self.mount.store_pages(self._find(path), offset, data)
        return notice
