"""A file whose reads wait, to see who else must wait.

`python blocking.py LIBRARY FIFO MOUNTPOINT [OPTION[=VALUE]...]`. Reading `slow` gives what is
written into FIFO, a fifo outside of the mount; all other files are empty.
"""

import importlib
import stat
import sys
from pathlib import Path
from typing import Any

LIBRARY: Any = importlib.import_module(sys.argv[1])


class Blocking(LIBRARY.Operations):
    """Every name is a file."""

    use_ns = True

    def __init__(self, fifo: str) -> None:
        self.fifo = Path(fifo)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        print("getattr", path, flush=True)
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1}

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        if path != "/slow" or offset:
            return b""
        data = self.fifo.read_bytes()
        print("read", path, flush=True)
        return data


def main(library: str, fifo: str, mountpoint: str, *words: str) -> None:
    options = {name: value or True for name, _, value in (word.partition("=") for word in words)}
    LIBRARY.FUSE(Blocking(fifo), mountpoint, foreground=True, direct_io=True, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
