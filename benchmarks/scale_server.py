"""The servers of `benchmarks.scale`.

    python -m benchmarks.scale_server KIND FILES SHAPE MOUNTPOINT
    python -m benchmarks.scale_server many COUNT DIRECTORY

The first serves one mount until it is unmounted. KIND is one of `KINDS`; FILES files are there when
it is mounted, all in the root (SHAPE `directory`) or a thousand in each directory (`tree`). The
second mounts COUNT file servers below DIRECTORY in one process, writes what that took as a line of
JSON, waits for a line, unmounts them and writes such a line again.
"""

import json
import os
import stat
import sys
import threading
import time
from pathlib import Path

import puffs
from puffs.fs.mem import MemFS
from puffs.fs.nodes import directory

DIRECTORY, TREE = "directory", "tree"
PER_DIRECTORY = 1000
"""Files in each directory of a tree."""


def place(number: int, shape: str) -> tuple[str, str]:
    """The directory of a file, "" for the root, and its name there."""
    if shape == DIRECTORY:
        return "", f"f{number:07}"
    above, below = divmod(number, PER_DIRECTORY)
    return f"d{above:04}", f"f{below:03}"


class Mem(MemFS):
    """`mem` with files in it from the start."""

    def __init__(self, files: int, shape: str) -> None:
        """Make the files."""
        super().__init__()
        cred = puffs.Cred.current()
        root = parent = self.mount()
        last = ""
        for number in range(files):
            above, name = place(number, shape)
            if above != last:
                self.mkdir(root, above, puffs.Attr(stat.S_IFDIR | 0o755), cred)
                parent, last = directory(root).find(above), above
            self.create(parent, name, puffs.Attr(stat.S_IFREG | 0o644), 0, cred)


class Asked(Mem):
    """The same, but the host asks for every name each time."""

    name_ttl = 0.0
    negative_ttl = 0.0


class Numbers(puffs.FileSystem[int]):
    """A root with files whose names and cookies are numbers, and which take no memory here.

    What it takes is what the kernel half keeps of each file that is live or open.
    """

    name_ttl = puffs.FOREVER
    attr_ttl = puffs.FOREVER

    def __init__(self, files: int, shape: str) -> None:
        """There is nothing to be made."""
        self._files = range(1, files + 1)
        self._root = puffs.Attr(stat.S_IFDIR | 0o755)
        self._file = puffs.Attr(stat.S_IFREG | 0o644)

    def mount(self) -> int:
        return 0

    def lookup(self, dir: int, name: str, cred: puffs.Cred) -> puffs.Entry:
        if not (name.isdecimal() and int(name) in self._files):
            raise FileNotFoundError
        return puffs.Entry(int(name), self._file)

    def getattr(self, node: int, file: object = None) -> puffs.Attr:
        return self._file if node else self._root

    def open(self, node: int, flags: int, cred: puffs.Cred) -> object:
        return None

    def close(self, node: int, file: object, flags: int) -> None:
        """Nothing belongs to an open file here."""

    def readdir(self, dir: int, offset: int, file: object) -> list[puffs.DirEntry]:
        return [puffs.DirEntry(str(number), stat.S_IFREG) for number in self._files]


KINDS: dict[str, type[Mem | Numbers]] = {"mem": Mem, "asked": Asked, "numbers": Numbers}


def facts(**more: float) -> None:
    """Write what this process has and takes now, and `more`."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    now = {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }
    print(json.dumps(now | more), flush=True)


def many(count: int, below: Path) -> None:
    """Mount, tell, wait, unmount, tell."""
    facts()
    places = [below / str(number) for number in range(count)]
    for place in places:
        place.mkdir()
    began = time.perf_counter()
    mounts = [puffs.mount(puffs.Tree({"hello": "Hello!\n"}), place) for place in places]
    facts(seconds=time.perf_counter() - began)
    sys.stdin.readline()
    began = time.perf_counter()
    for mount in mounts:
        mount.unmount()
    facts(seconds=time.perf_counter() - began)


if __name__ == "__main__":
    if sys.argv[1] == "many":
        many(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        kind, files, shape, mountpoint = sys.argv[1:]
        puffs.main(lambda: KINDS[kind](int(files), shape), ["-f", mountpoint])
