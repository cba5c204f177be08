"""Listings that are asked for piece by piece: mfusepy's `readdir_with_offset`.

`python offsets.py mfusepy COUNT MOUNTPOINT [OPTION[=VALUE]...]`. The root has COUNT files, whose
offsets are multiples of ten.
"""

import errno
import importlib
import stat
import sys
from collections.abc import Iterator
from typing import Any

LIBRARY: Any = importlib.import_module(sys.argv[1])
STEP = 10


class Offsets(LIBRARY.Operations):
    """Files 0 to `count`; each is as large as its number."""

    use_ns = True

    def __init__(self, count: int) -> None:
        self.count = count

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if not path[1:].isdecimal() or int(path[1:]) >= self.count:
            raise LIBRARY.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": int(path[1:])}

    def readdir_with_offset(
        self, path: str, offset: int, fh: int
    ) -> Iterator[tuple[str, dict[str, int], int]]:
        names = [".", "..", *map(str, range(self.count))]
        for index in range(offset // STEP, len(names)):
            mode = stat.S_IFDIR if index < 2 else stat.S_IFREG
            yield names[index], {"st_mode": mode}, (index + 1) * STEP


def main(library: str, count: str, mountpoint: str, *words: str) -> None:
    options = {name: value or True for name, _, value in (word.partition("=") for word in words)}
    LIBRARY.FUSE(Offsets(int(count)), mountpoint, foreground=True, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
