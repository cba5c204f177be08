"""The file server of the benchmark, written with mfusepy (ctypes over libfuse).

It serves what `floor.c` serves. Run as `python -m benchmarks.peer_mfusepy MOUNTPOINT` by a Python
that has mfusepy; it ends when it is unmounted.
"""

import errno
import stat
import sys
from typing import Any

import mfusepy

SIZE = 16 << 20


class OneFile(mfusepy.Operations):  # type: ignore[misc]  # mfusepy has no types
    """A root directory with one file of 16 MiB, `data`."""

    use_ns = True

    def __init__(self) -> None:
        self.content = bytearray(SIZE)
        self.attrs = {
            "/": {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2},
            "/data": {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": SIZE},
        }

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        try:
            return self.attrs[path]
        except KeyError:
            raise mfusepy.FuseOSError(errno.ENOENT) from None

    def open(self, path: str, flags: int) -> int:
        return 0

    def release(self, path: str, fh: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(memoryview(self.content)[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.content[offset : offset + len(data)] = data
        return len(data)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", "data"]


if __name__ == "__main__":
    mfusepy.FUSE(
        OneFile(),
        sys.argv[1],
        foreground=True,
        nothreads=True,
        direct_io=True,
        entry_timeout=0,
        attr_timeout=0,
        negative_timeout=0,
        fsname="puffs-mfusepy",
    )
