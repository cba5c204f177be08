"""Times of access, and of birth.

Hosts leave the time of access to file servers, and what a cache answers moves nothing: so the
checks have what is cached forgotten first.
"""

import io
import os
import time
from collections.abc import Callable

from puffs.check import libc
from puffs.check.expect import equal, leave_out
from puffs.check.registry import battery
from puffs.check.target import File, Target, read_at

check = battery("times")

SECOND = 1_000_000_000
OLD = 5 * SECOND
SLACK = 3 * SECOND
"""How far the clocks of the file server and of this process may be apart."""


@check(
    "read-moves-atime",
    "read(2), POSIX: atime is marked, at least when it is older than mtime (relatime, mount(8))",
    needs="create read write setattr",
)
def _(t: Target) -> None:
    t.write("f", b"content")
    t.utime("f", OLD, OLD + SECOND)
    with t.open("f") as file:
        _forget(file)
        equal("content", read_at(file, 0), b"content")
    _moved(t, lambda: t.stat("f").st_atime_ns)
    equal("mtime", t.stat("f").st_mtime_ns, OLD + SECOND)


@check(
    "readdir-moves-atime",
    "readdir(3), POSIX: atime of the directory is marked, as by a read",
    needs="create mkdir readdir setattr",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.write("d/f")
    t.utime("d", OLD, OLD + SECOND)
    equal("names", t.listdir("d"), ["f"])
    _moved(t, lambda: t.stat("d").st_atime_ns)


@check(
    "readlink-moves-atime",
    "readlink(2), POSIX: atime of the link is marked, as by a read",
    needs="symlink readlink setattr",
)
def _(t: Target) -> None:
    t.symlink("target", "link")
    t.utime("link", OLD, OLD + SECOND, follow=False)
    equal("what the link holds", t.readlink("link"), "target")
    _moved(t, lambda: t.lstat("link").st_atime_ns)


@check(
    "stat-leaves-atime",
    "stat(2), write(2), chmod(2), POSIX: none of them marks atime",
    needs="create write setattr",
)
def _(t: Target) -> None:
    t.write("f", b"content")
    t.utime("f", OLD, OLD + SECOND)
    t.stat("f")
    t.chmod("f", 0o600)
    with t.open("f", "r+b") as file:
        file.write(b"CONTENT")
        t.fstat(file)
    equal("atime", t.stat("f").st_atime_ns, OLD)


@check(
    "open-noatime-leaves-atime",
    "open(2) O_NOATIME: reads do not mark atime",
    needs="create read write setattr",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.write("f", b"content")
    t.utime("f", OLD, OLD + SECOND)
    fd = os.open(t.at("f"), os.O_RDONLY | os.O_NOATIME)
    with io.FileIO(fd) as file:
        _forget(file)
        equal("content", read_at(file, 0), b"content")
    equal("atime", t.stat("f").st_atime_ns, OLD)


@check(
    "birth-time",
    "statx(2) stx_btime: when the file was made, whatever was done to it since",
    needs="create setattr write",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.write("f")
    born = libc.birth_ns(t.at("f"))
    if born is None:
        leave_out("the file server tells no time of birth")
    assert abs(born - time.time_ns()) < SLACK, f"the file was born at {born / SECOND} s"
    t.write("f", b"content")
    t.utime("f", OLD, OLD)
    t.chmod("f", 0o600)
    equal("time of birth afterwards", libc.birth_ns(t.at("f")), born)


def _moved(t: Target, atime_ns: Callable[[], int]) -> None:
    """It was old, and must be now; a file server may have none that move."""
    found = atime_ns()
    if found == OLD:
        reason = "the mount says so" if t.statvfs().f_flag & os.ST_NOATIME else "noatime"
        leave_out(f"the file server moves no times of access ({reason})")
    away = (found - time.time_ns()) / SECOND
    assert abs(away) < SLACK / SECOND, f"atime is {away:+.3f} s away from now"


def _forget(file: File) -> None:
    """Have the host forget what it has cached of the file (posix_fadvise(2))."""
    try:
        fd = file.fileno()
    except io.UnsupportedOperation:
        return  # in process there is no cache
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
