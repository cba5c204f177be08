"""What few programs have: poll, record locks, ioctl, fallocate; and the times that are given.

`python devices.py LIBRARY NOTES MOUNTPOINT [WORD...] [OPTION[=VALUE]...]`. What it is asked is
written into the file NOTES. The word `raw` is for `raw_fi`, `omits` for `flag_utime_omit_ok`. There
is no `open`. `data` holds how often it was read; changing its mode changes its time.
"""

import ctypes
import errno
import fcntl
import importlib
import os
import select
import stat
import sys
import threading
import time
from typing import Any, NamedTuple

LIBRARY: Any = importlib.import_module(sys.argv[1])
FILES = ("/file", "/ready", "/waited for", "/data")
SIZE = 10


class Flock(ctypes.Structure):
    """As in fcntl(2)."""

    _fields_ = (
        ("l_type", ctypes.c_short),
        ("l_whence", ctypes.c_short),
        ("l_start", ctypes.c_int64),
        ("l_len", ctypes.c_int64),
        ("l_pid", ctypes.c_int),
    )


END = 1 << 63


class Held(NamedTuple):
    """A lock."""

    owner: int
    pid: int
    type: int
    start: int
    end: int


TYPES = {fcntl.F_RDLCK: "read", fcntl.F_WRLCK: "write", fcntl.F_UNLCK: "none"}
COMMANDS = {fcntl.F_GETLK: "get", fcntl.F_SETLK: "set", fcntl.F_SETLKW: "wait"}


def moment(when: int) -> str:
    """A time as it is noted: the present is another one in each run."""
    return "now" if abs(time.time_ns() - when) < 60 * 10**9 else str(when)


def range_of(asked: Flock) -> tuple[int, int]:
    """First byte, and the one behind the last."""
    return asked.l_start, asked.l_start + asked.l_len if asked.l_len else END


class Devices(LIBRARY.Operations):
    """Four files, and what is done with them."""

    use_ns = True

    def __init__(self, notes: str, words: set[str]) -> None:
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.raw = "raw" in words
        if "omits" in words:
            self.flag_utime_omit_ok = True
        self.sizes = dict.fromkeys(FILES, SIZE)
        self.locks: list[Held] = []
        self.unlocked = threading.Condition()
        self.ready = False
        self.waiting: list[int] = []
        self.reads = 0
        self.changed = 10**18

    def note(self, *words: object) -> None:
        os.write(self.notes, (" ".join(map(str, words)) + "\n").encode())

    def handle(self, fh: Any) -> str:
        """What stands for an open file, as it is noted."""
        return "a struct" if hasattr(fh, "lock_owner") else str(fh)

    def getattr(self, path: str, fh: Any = None) -> dict[str, int]:
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), self.changed)
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2, **times}
        if path not in self.sizes:
            raise LIBRARY.FuseOSError(errno.ENOENT)
        size = self.sizes[path]
        return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": size, **times}

    def readdir(self, path: str, fh: Any) -> list[str]:
        return [".", "..", *(name[1:] for name in FILES)]

    def chmod(self, path: str, mode: int) -> int:
        self.changed += 10**9
        return 0

    def truncate(self, path: str, length: int, fh: Any = None) -> int:
        self.sizes[path] = length
        if path == "/waited for":
            self.become_ready()
        return 0

    def read(self, path: str, size: int, offset: int, fh: Any) -> bytes:
        self.reads += 1
        return f"read {self.reads:5}".encode()[offset : offset + size]

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        self.note("utimens", *map(moment, times or ()))
        return 0

    # poll

    def poll(self, path: str, fh: Any, ph: int | None, reventsp: Any) -> int:
        if path == "/file":
            raise LIBRARY.FuseOSError(errno.EPERM)
        if path == "/data":
            return -errno.EBADF
        if path == "/ready" or self.ready:
            reventsp[0] = select.POLLIN | select.POLLOUT
            self.ready = False
        elif ph is not None:
            self.waiting.append(ph)
            self.note("poll waits")
        return 0

    def become_ready(self) -> None:
        self.ready = True
        libfuse = LIBRARY._libfuse
        for each in self.waiting:
            libfuse.fuse_notify_poll(ctypes.c_void_p(each))
            libfuse.fuse_pollhandle_destroy(ctypes.c_void_p(each))
        self.note("notified", len(self.waiting))
        self.waiting = []

    # locks

    def conflict(self, owner: int, asked: Flock) -> Held | None:
        start, end = range_of(asked)
        for held in self.locks:
            writes = fcntl.F_WRLCK in (held.type, asked.l_type)
            if held.owner != owner and held.start < end and start < held.end and writes:
                return held
        return None

    def lock(self, path: str, fh: Any, cmd: int, lock: Any) -> int:
        """By owner, who is known with `raw_fi` only. Whoever unlocks has no process either."""
        asked = ctypes.cast(lock, ctypes.POINTER(Flock)).contents
        place = (asked.l_whence, asked.l_start, asked.l_len)
        owner = fh.lock_owner if self.raw else asked.l_pid
        handle = self.handle(fh)
        self.note("lock", handle, COMMANDS.get(cmd, cmd), TYPES[asked.l_type], *place, asked.l_pid)
        with self.unlocked:
            if asked.l_type == fcntl.F_UNLCK:
                self.locks = [each for each in self.locks if owner and each.owner != owner]
                self.unlocked.notify_all()
                return 0
            found = self.conflict(owner, asked)
            if cmd == fcntl.F_GETLK:
                asked.l_type = fcntl.F_UNLCK
                if found is not None:
                    asked.l_pid, asked.l_type, asked.l_start = found.pid, found.type, found.start
                    asked.l_len = 0 if found.end == END else found.end - found.start
                return 0
            if found is not None and cmd == fcntl.F_SETLK:
                raise LIBRARY.FuseOSError(errno.EAGAIN)
            self.note("waits" if found else "does not wait")
            self.unlocked.wait_for(lambda: self.conflict(owner, asked) is None)
            self.locks.append(Held(owner, asked.l_pid, asked.l_type, *range_of(asked)))
        return 0

    def flush(self, path: str, fh: Any) -> int:
        self.note("flush", path, self.handle(fh))
        return 0

    def release(self, path: str, fh: Any) -> int:
        self.note("release", path)
        return 0

    # ioctl: bits 0 to 7 are the command, 16 to 29 the size, 30 writes and 31 reads

    def ioctl(self, path: str, cmd: int, arg: Any, fh: Any, flags: int, data: Any) -> int:
        command, size = cmd & 0xFF, cmd >> 16 & 0x3FFF
        came = ctypes.string_at(data, size) if data and cmd >> 30 & 1 else None
        self.note("ioctl", command, self.handle(fh), flags, came, bool(arg), bool(data))
        if command == 1:
            raise LIBRARY.FuseOSError(errno.EPERM)
        if command == 2:
            return -errno.ENOTTY
        if data and cmd >> 31 & 1:
            ctypes.memmove(data, bytes(reversed(came or b"12345678"[:size])), size)
        return 7 if command == 7 else 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: Any) -> int:
        self.note("fallocate", path, mode, offset, size, self.handle(fh))
        if mode:
            raise LIBRARY.FuseOSError(errno.EOPNOTSUPP)
        self.sizes[path] = max(self.sizes[path], offset + size)
        return 0


WORDS = {"raw", "omits"}


def main(library: str, notes: str, mountpoint: str, *words: str) -> None:
    options = {
        name: value or True
        for name, _, value in (word.partition("=") for word in words if word not in WORDS)
    }
    server = Devices(notes, set(words))
    LIBRARY.FUSE(server, mountpoint, raw_fi="raw" in words, foreground=True, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
