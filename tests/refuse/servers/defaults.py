"""As little as a server can have: what the library answers for the rest.

`python defaults.py LIBRARY KIND MOUNTPOINT [OPTION[=VALUE]...]`. KIND is `nothing` (the class of
the library itself), `listing` (a derived class with `getattr` and `readdir`), or `stranger` (an
object of no class of the library, with `getattr` only).
"""

import errno
import importlib
import stat
import sys
from collections.abc import Iterator
from typing import Any

LIBRARY: Any = importlib.import_module(sys.argv[1])


MODES = {
    "/": stat.S_IFDIR | 0o755,
    "/file": stat.S_IFREG | 0o644,
    "/dir": stat.S_IFDIR | 0o755,
    "/link": stat.S_IFLNK | 0o777,
}


class Listing(LIBRARY.Operations):
    """A directory with one empty file, a symlink, and one directory."""

    use_ns = True

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        if path not in MODES:
            raise LIBRARY.FuseOSError(errno.ENOENT)
        return {"st_mode": MODES[path], "st_nlink": 1}

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        yield from (".", "..")
        if path == "/":
            yield from ("file", "dir", "link")


class Stranger:
    """What has no class of the library, and is called as fusepy calls it."""

    use_ns = True

    def __call__(self, operation: str, *arguments: Any) -> Any:
        if not hasattr(self, operation):
            raise LIBRARY.FuseOSError(errno.EFAULT)
        return getattr(self, operation)(*arguments)

    def init(self, path: str) -> None:
        """Asked for by fusepy in any case."""

    def destroy(self, path: str) -> None:
        """Asked for by fusepy in any case."""

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        if path != "/":
            raise LIBRARY.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}


KINDS = {"nothing": LIBRARY.Operations, "listing": Listing, "stranger": Stranger}


def main(library: str, kind: str, mountpoint: str, *words: str) -> None:
    options = {name: value or True for name, _, value in (word.partition("=") for word in words)}
    LIBRARY.FUSE(KINDS[kind](), mountpoint, foreground=True, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
