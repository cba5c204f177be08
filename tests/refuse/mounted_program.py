"""A program for fusepy or mfusepy, on puffs: `python -m tests.refuse.mounted_program`, and then the
module, the class, the mount point, and the keywords of `FUSE(...)` as a literal of Python.

It tells that it is mounted by closing its standard output.
"""

import ast
import ctypes
import errno
import fcntl
import importlib
import os
import select
import stat
import sys
import threading
from typing import Any

from puffs.refuse import mfusepy


class Files:
    """A directory with the files `names`; what is in them is told by `text_of`."""

    use_ns = True
    names: tuple[str, ...] = ("file",)

    def init(self, path: str) -> None:
        os.close(1)

    def getattr(self, path: str, fh: Any = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path[1:] not in self.names:
            raise FileNotFoundError(errno.ENOENT, path)
        return {"st_mode": stat.S_IFREG | 0o666, "st_nlink": 1, "st_size": 4096}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *self.names]

    def open(self, path: str, flags: Any) -> int:
        return 0

    def truncate(self, path: str, length: int, fh: Any = None) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: Any) -> bytes:
        return self.text_of(path[1:]).encode()[offset : offset + size]

    def text_of(self, name: str) -> str:
        return name


class Long(Files):
    """Names as archives of other systems have them."""

    names = ("n" * 1024, "\N{CJK UNIFIED IDEOGRAPH-65E5}" * 100)

    def text_of(self, name: str) -> str:
        return "text"


class Context(Files):
    """Its file tells who reads it."""

    names = ("who",)

    def open(self, path: str, fi: Any) -> int:
        fi.direct_io = 1
        return 0

    def text_of(self, name: str) -> str:
        return repr(mfusepy.fuse_get_context())


class Ending(Files):
    """To read "exit" ends it by `fuse_exit`, and "system" by an exception."""

    names = ("exit", "system")

    def text_of(self, name: str) -> str:
        if name == "system":
            sys.exit(3)
        mfusepy.fuse_exit()
        return name


class BadInit(Files):
    """It cannot begin."""

    def init(self, path: str) -> None:
        raise ValueError("no database")


class Waiting(Files):
    """Who reads "slow" waits until somebody has read "go"."""

    names = ("slow", "go")

    def __init__(self) -> None:
        self.went = threading.Event()

    def text_of(self, name: str) -> str:
        if name == "go":
            self.went.set()
        else:
            self.went.wait()
        return name


class Locks(Files):
    """A record lock is taken by somebody else, everywhere from 100 on."""

    def lock(self, path: str, fh: Any, cmd: int, lock: Any) -> int:
        if isinstance(lock, int):
            lock = ctypes.pointer(mfusepy.c_flock_t.from_address(lock))
        record = lock.contents
        taken = record.l_len == 0 or record.l_start + record.l_len > 100
        if cmd == fcntl.F_GETLK:
            if taken:
                record.l_type, record.l_start, record.l_len = fcntl.F_WRLCK, 100, 0
                record.l_pid = os.getpid()
            else:
                record.l_type = fcntl.F_UNLCK
            return 0
        if taken and record.l_type != fcntl.F_UNLCK:
            return -errno.EAGAIN
        return 0


class Guarded(Files):
    """Its `lock` is none of files."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def text_of(self, name: str) -> str:
        with self.lock:
            return "text"


class Devices(Files):
    """ioctl turns four bytes round, or gives the argument back; poll waits for the first one."""

    def __init__(self) -> None:
        self.ready = False
        self.handle: int | None = None

    def ioctl(self, path: str, cmd: int, arg: Any, fh: Any, flags: int, data: Any) -> int:
        if data is None:
            return int(arg) + 1
        ctypes.memmove(data, ctypes.string_at(data, 4)[::-1], 4)
        self.ready = True
        if self.handle is not None:
            mfusepy.fuse_notify_poll(self.handle)
        return 0

    def poll(self, path: str, fh: Any, ph: int | None, reventsp: Any) -> int:
        self.handle = ph or self.handle
        reventsp.contents.value = select.POLLIN if self.ready else 0
        return 0


class Counting(Files):
    """Its file tells how often it was looked at."""

    asked = 0

    def access(self, path: str, amode: int) -> int:
        return 0

    def getattr(self, path: str, fh: Any = None) -> dict[str, int]:
        self.asked += path != "/"
        return super().getattr(path, fh)

    def text_of(self, name: str) -> str:
        return str(self.asked)


class Sink(Files):
    """What is written goes nowhere, by way of some copies."""

    def write(self, path: str, data: bytes, offset: int, fh: Any) -> int:
        return len(bytearray(data + data)) // 2


def main(api_name: str, class_name: str, mountpoint: str, keywords: str) -> None:
    """Serve."""
    api = importlib.import_module(f"puffs.refuse.{api_name}")
    program = type(class_name, (globals()[class_name], api.Operations), {})
    api.FUSE(program(), mountpoint, foreground=True, **ast.literal_eval(keywords))


if __name__ == "__main__":
    main(*sys.argv[1:])
