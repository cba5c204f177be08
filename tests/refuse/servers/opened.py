"""Open files with `raw_fi`: handles, `direct_io` and `keep_cache` are set where the file is opened.

`python opened.py LIBRARY MOUNTPOINT [OPTION[=VALUE]...]`. Reading `direct` gives more than its size
says; what `kept` holds changes at each open, and the kernel is told to keep what it has; `dropped`
is the same without.
"""

import errno
import importlib
import itertools
import stat
import sys
from typing import Any

LIBRARY: Any = importlib.import_module(sys.argv[1])
FILES = ("/direct", "/kept", "/dropped")
SIZE = 8


class Opened(LIBRARY.Operations):
    """Three files that can be read, and new ones that tell their handle."""

    use_ns = True

    def __init__(self) -> None:
        self.opens = itertools.count(1)
        self.made: set[str] = set()
        self.closed = 0

    def getattr(self, path: str, fi: Any = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path not in FILES and path not in self.made:
            raise LIBRARY.FuseOSError(errno.ENOENT)
        # An open file is known by its handle, where the library passes it on.
        return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": SIZE, "st_mtime": 1}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(name[1:] for name in (*FILES, *sorted(self.made)))]

    def open(self, path: str, fi: Any) -> int:
        fi.fh = next(self.opens)
        fi.direct_io = path == "/direct"
        fi.keep_cache = path == "/kept"
        return 0

    def create(self, path: str, mode: int, fi: Any) -> int:
        fi.fh = 1000 + next(self.opens)
        fi.direct_io = True
        self.made.add(path)
        return 0

    def read(self, path: str, size: int, offset: int, fi: Any) -> bytes:
        if path == "/direct":
            return b"more than the size says"[offset : offset + size]
        text = f"open {fi.fh}" if fi.fh < 1000 else "created"
        return text.ljust(SIZE).encode()[offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fi: Any) -> int:
        return len(data) if fi.fh > 1000 else 0

    def truncate(self, path: str, length: int, fi: Any = None) -> int:
        return 0

    def unlink(self, path: str) -> int:
        self.made.discard(path)
        return 0

    def flush(self, path: str, fi: Any) -> int:
        return -errno.EDQUOT if path == "/new full" else 0

    def release(self, path: str, fi: Any) -> int:
        self.closed += 1
        return 0


def main(library: str, mountpoint: str, *words: str) -> None:
    options = {name: value or True for name, _, value in (word.partition("=") for word in words)}
    LIBRARY.FUSE(Opened(), mountpoint, foreground=True, raw_fi=True, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
