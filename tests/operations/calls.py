"""The calls of docs/operations.md: what each does, in a directory of its own."""

import fcntl
import mmap
import os
import select
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from puffs.check import libc

FD_NONE: Final = -1


class Place(NamedTuple):
    """Where a call is made: a directory on the mount, and an open file of it.

    In there are `file` and `other` with some bytes, `link` to `file`, `dir` with two names, `empty`
    and `fifo`; `new` is free.
    """

    path: Path
    fd: int

    def __call__(self, name: str) -> str:
        return str(self.path / name)


class Case(NamedTuple):
    """A call as a person writes it, and as it is made. `opens`: what is open before, and how."""

    call: str
    act: Callable[[Place], Any]
    opens: str = ""
    flags: int = os.O_RDWR


def _closed(fd: int) -> None:
    os.close(fd)


def _mapped(place: Place) -> None:
    with mmap.mmap(place.fd, 0) as memory:
        memory[0:1] = b"x"
        memory.flush()


def _listed(path: str) -> list[str]:
    return [os.path.join(path, name) for name in os.listdir(path)]


def _polled(place: Place) -> None:
    poll = select.poll()
    poll.register(place.fd, select.POLLIN)
    poll.poll(0)


def _ioctl(place: Place) -> None:
    fcntl.ioctl(place.fd, 0x80086601, bytes(8))  # FS_IOC_GETFLAGS, as lsattr(1)


CASES: Final[dict[str, tuple[Case, ...]]] = {
    "Attributes": (
        Case('stat("file")', lambda p: os.stat(p("file"))),
        Case('stat("new")', lambda p: os.path.exists(p("new"))),
        Case('stat("dir/a")', lambda p: os.stat(p("dir/a"))),
        Case('stat("link")', lambda p: os.stat(p("link"))),
        Case('lstat("link")', lambda p: os.lstat(p("link"))),
        Case("fstat(fd)", lambda p: os.fstat(p.fd), "file"),
        Case('access("file", R_OK)', lambda p: os.access(p("file"), os.R_OK)),
        Case('chmod("file", mode)', lambda p: os.chmod(p("file"), 0o600)),
        Case("fchmod(fd, mode)", lambda p: os.fchmod(p.fd, 0o600), "file"),
        Case('chown("file", uid, gid)', lambda p: os.chown(p("file"), 1, 1)),
        Case('utimensat("file", times)', lambda p: os.utime(p("file"), (1, 1))),
        Case('truncate("file", size)', lambda p: os.truncate(p("file"), 2)),
        Case("ftruncate(fd, size)", lambda p: os.ftruncate(p.fd, 2), "file"),
        Case('statvfs("file")', lambda p: os.statvfs(p("file"))),
    ),
    "Names": (
        Case('mkdir("new")', lambda p: os.mkdir(p("new"))),
        Case('rmdir("empty")', lambda p: os.rmdir(p("empty"))),
        Case('unlink("file")', lambda p: os.unlink(p("file"))),
        Case('rename("file", "new")', lambda p: os.rename(p("file"), p("new"))),
        Case('rename("file", "other")', lambda p: os.rename(p("file"), p("other"))),
        Case(
            'renameat2("file", "other", RENAME_EXCHANGE)',
            lambda p: libc.rename2(p("file"), p("other"), 2),
        ),
        Case('link("file", "new")', lambda p: os.link(p("file"), p("new"))),
        Case('symlink("file", "new")', lambda p: os.symlink("file", p("new"))),
        Case('readlink("link")', lambda p: os.readlink(p("link"))),
        Case('mknod("new", S_IFIFO)', lambda p: os.mknod(p("new"), stat.S_IFIFO | 0o600)),
        Case('mknod("new", S_IFREG)', lambda p: os.mknod(p("new"))),
    ),
    "Open files": (
        Case('close(open("file"))', lambda p: _closed(os.open(p("file"), os.O_RDONLY))),
        Case(
            'close(open("file", O_WRONLY | O_TRUNC))',
            lambda p: _closed(os.open(p("file"), os.O_WRONLY | os.O_TRUNC)),
        ),
        Case(
            'close(open("new", O_WRONLY | O_CREAT))',
            lambda p: _closed(os.open(p("new"), os.O_WRONLY | os.O_CREAT)),
        ),
        Case(
            'close(open("file", O_WRONLY | O_CREAT))',
            lambda p: _closed(os.open(p("file"), os.O_WRONLY | os.O_CREAT)),
        ),
        Case(
            'close(open("dir", O_RDWR | O_TMPFILE))',
            lambda p: _closed(os.open(p("dir"), os.O_RDWR | os.O_TMPFILE)),
        ),
        Case("pread(fd, 4, 0)", lambda p: os.pread(p.fd, 4, 0), "file"),
        Case("pwrite(fd, data, 0)", lambda p: os.pwrite(p.fd, b"x", 0), "file"),
        Case(
            "write(fd, data), O_APPEND",
            lambda p: os.write(p.fd, b"x"),
            "file",
            os.O_RDWR | os.O_APPEND,
        ),
        Case("mmap(fd), a byte changed, msync", _mapped, "file"),
        Case("fsync(fd)", lambda p: os.fsync(p.fd), "file"),
        Case("fdatasync(fd)", lambda p: os.fdatasync(p.fd), "file"),
        Case("lseek(fd, 0, SEEK_END)", lambda p: os.lseek(p.fd, 0, os.SEEK_END), "file"),
        Case("lseek(fd, 0, SEEK_DATA)", lambda p: os.lseek(p.fd, 0, os.SEEK_DATA), "file"),
        Case("fallocate(fd, 0, 0, 100)", lambda p: libc.fallocate(p.fd, 0, 0, 100), "file"),
        Case(
            "copy_file_range(fd, 0, fd, 10, 4)",
            lambda p: os.copy_file_range(p.fd, p.fd, 4, 0, 10),
            "file",
        ),
        Case("fcntl(fd, F_SETLK, F_WRLCK)", lambda p: fcntl.lockf(p.fd, fcntl.LOCK_EX), "file"),
        Case("flock(fd, LOCK_EX)", lambda p: fcntl.flock(p.fd, fcntl.LOCK_EX), "file"),
        Case("poll(fd)", _polled, "file"),
        Case("ioctl(fd, command)", _ioctl, "file"),
    ),
    "Directories": (
        Case("opendir, readdir, closedir", lambda p: os.listdir(p("dir"))),
        Case(
            "the same, and lstat of each name",
            lambda p: [os.lstat(e) for e in os.scandir(p("dir"))],
        ),
        Case("fsync(fd) of a directory", lambda p: os.fsync(p.fd), "dir", os.O_RDONLY),
        Case('chdir("dir")', lambda p: os.close(os.open(p("dir"), os.O_PATH | os.O_DIRECTORY))),
    ),
    "Extended attributes": (
        Case('getxattr("file", name)', lambda p: os.getxattr(p("file"), "user.a")),
        Case('setxattr("file", name, value)', lambda p: os.setxattr(p("file"), "user.b", b"1")),
        Case('listxattr("file")', lambda p: os.listxattr(p("file"))),
        Case('removexattr("file", name)', lambda p: os.removexattr(p("file"), "user.a")),
    ),
}
"""By heading, in the order of the page."""
