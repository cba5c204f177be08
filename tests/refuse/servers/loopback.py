"""A directory of the machine, passed through: every operation that fusepy and mfusepy have.

`python loopback.py LIBRARY DIRECTORY MOUNTPOINT [OPTION[=VALUE]...]`. LIBRARY is `fuse` (that is
fusepy) or `mfusepy`; options are passed to `FUSE()` as keywords.
"""

import ctypes
import errno
import fcntl
import importlib
import os
import sys
import time
from typing import Any

LIBRARY: Any = importlib.import_module(sys.argv[1])
STAT = (
    *("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid"),
    *("st_rdev", "st_size", "st_blksize", "st_blocks"),
)
TIMES = ("st_atime", "st_mtime", "st_ctime")
FS = (
    *("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail"),
    *("f_files", "f_ffree", "f_favail", "f_flag", "f_namemax"),
)
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
LIBC = ctypes.CDLL(None, use_errno=True)


def timespecs(times: tuple[int, int] | None) -> Any:
    """The two times of utimensat(2). What means "now" and "not" comes as nanoseconds."""
    if times is None:
        return None
    fields = (part for when in times for part in divmod(when, 10**9))
    return (ctypes.c_long * 4)(*fields)


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Loopback(LIBRARY.Operations):
    """Paths of the mount are paths below `directory`; file handles are descriptors."""

    use_ns = True

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def below(self, path: str) -> str:
        return self.directory + path

    # Names.

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        found = os.lstat(self.below(path)) if fh is None else os.fstat(fh)
        attrs = {name: getattr(found, name) for name in STAT}
        return attrs | {name: getattr(found, name + "_ns") for name in TIMES}

    def access(self, path: str, amode: int) -> int:
        if not os.access(self.below(path), amode):
            raise LIBRARY.FuseOSError(errno.EACCES)
        return 0

    def readlink(self, path: str) -> str:
        return os.readlink(self.below(path))

    def mknod(self, path: str, mode: int, dev: int) -> int:
        os.mknod(self.below(path), mode, dev)
        return self.given(path)

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self.below(path), mode)
        return self.given(path)

    def symlink(self, target: str, source: str) -> int:
        os.symlink(source, self.below(target))
        return self.given(target)

    def given(self, path: str) -> int:
        """What is made belongs to who made it, as on any file system."""
        uid, gid, _ = LIBRARY.fuse_get_context()
        os.lchown(self.below(path), uid, gid)
        return 0

    def link(self, target: str, source: str) -> int:
        os.link(self.below(source), self.below(target), follow_symlinks=False)
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self.below(path))
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self.below(path))
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self.below(old), self.below(new))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self.below(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.lchown(self.below(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        place = os.fsencode(self.below(path))
        now = time.time_ns()
        return checked(LIBC.utimensat(-100, place, timespecs(times or (now, now)), 0x100))

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self.below(path) if fh is None else fh, length)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self.below(path))
        return {name: getattr(found, name) for name in FS}

    # Open files.

    def create(self, path: str, mode: int, fi: object = None) -> int:
        fd = os.open(self.below(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        self.given(path)
        return fd

    def open(self, path: str, flags: int) -> int:
        return os.open(self.below(path), flags & ~os.O_DIRECT)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def flush(self, path: str, fh: int) -> int:
        os.close(os.dup(fh))
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        (os.fdatasync if datasync else os.fsync)(fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        return checked(LIBC.fallocate(fh, mode, ctypes.c_long(offset), ctypes.c_long(size)))

    def flock(self, path: str, fh: int, op: int) -> int:
        fcntl.flock(fh, op)
        return 0

    # Directories.

    def opendir(self, path: str) -> int:
        return os.open(self.below(path), os.O_RDONLY | os.O_DIRECTORY)

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int] | None, int]]:
        with os.scandir(self.below(path)) as entries:
            found = [(each.name, each.stat(follow_symlinks=False)) for each in entries]
        named = [(name, {"st_ino": s.st_ino, "st_mode": s.st_mode}, 0) for name, s in found]
        return [(".", None, 0), ("..", None, 0), *named]

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        os.fsync(fh)
        return 0

    def releasedir(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    # Extended attributes.

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        return os.getxattr(self.below(path), name, follow_symlinks=False)

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        os.setxattr(self.below(path), name, value, options, follow_symlinks=False)
        return 0

    def listxattr(self, path: str) -> list[str]:
        return os.listxattr(self.below(path), follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> int:
        os.removexattr(self.below(path), name, follow_symlinks=False)
        return 0


def main(library: str, directory: str, mountpoint: str, *words: str) -> None:
    options = {name: value or True for name, _, value in (word.partition("=") for word in words)}
    os.umask(0)  # the caller's has been applied already
    LIBRARY.FUSE(Loopback(directory), mountpoint, foreground=True, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
