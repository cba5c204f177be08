"""Attributes, times, owners and sizes."""

import os
import stat

from puffs.check import libc
from tests.refuse.saying import Place, Say, case, mode_of, opened, set_times, size_of, write

SECOND = 1_000_000_000
EARLY, LATE = 1_000_000_001, 1_234_567_890_123_456_789


@case("tree")
def stat_what_is_new(at: Place, say: Say) -> None:
    write(at("file"))
    say("file", os.lstat, at("file"))
    say("mkdir", os.mkdir, at("dir"), 0o751)
    say("dir", os.lstat, at("dir"))
    say("symlink", os.symlink, b"file", at("link"))
    say("link", os.lstat, at("link"))
    say("through link", os.stat, at("link"))
    say("missing", os.lstat, at("missing"))
    say("below a file", os.lstat, at("file/below"))
    say("dot", os.lstat, at("dir/."))
    say("slash after a file", os.lstat, at("file/"))


@case("tree")
def stat_the_root(at: Place, say: Say) -> None:
    found = os.lstat(at.mountpoint)
    say("mode", lambda: oct(found.st_mode))
    if at.backing:
        below = os.lstat(at.backing)
        say("number as below", lambda: found.st_ino == below.st_ino)
    else:
        say("number", lambda: found.st_ino)
    say("a mount point", lambda: os.path.ismount(at.mountpoint))


@case("tree")
def blocks(at: Place, say: Say) -> None:
    write(at("file"), bytes(5000))
    if at.backing:
        mine, theirs = os.lstat(at("file")), os.lstat(at.backing / at.path.name / "file")
        names = ("st_blocks", "st_size", "st_nlink", "st_mode", "st_uid", "st_mtime_ns")
        say(
            "as below",
            lambda: {name: getattr(mine, name) == getattr(theirs, name) for name in names},
        )
    else:
        found = os.lstat(at("file"))
        say("blocks", lambda: [found.st_blocks, found.st_blksize])


@case("tree")
def numbers(at: Place, say: Say) -> None:
    """Two files have two numbers, and keep them."""
    write(at("a"))
    write(at("b"))
    first = os.lstat(at("a")).st_ino
    say("different", lambda: first != os.lstat(at("b")).st_ino)
    say("again", lambda: first == os.lstat(at("a")).st_ino)
    say("open", lambda: first == os.fstat(os.open(at("a"), os.O_RDONLY)).st_ino)
    say("rename", os.rename, at("a"), at("c"))
    say("renamed", lambda: first == os.lstat(at("c")).st_ino)
    say("listed", lambda: {e.name: e.inode() == e.stat().st_ino for e in os.scandir(at.path)})


@case("tree")
def chmod(at: Place, say: Say) -> None:
    write(at("file"))
    os.mkdir(at("dir"))
    for mode in (0, 0o644, 0o7777, 0o2755, 0o1777, 0o4711):
        say(f"file {mode:o}", os.chmod, at("file"), mode)
        say(f"file is {mode:o}", mode_of, at("file"))
        say(f"dir {mode:o}", os.chmod, at("dir"), mode)
        say(f"dir is {mode:o}", mode_of, at("dir"))
    with opened(at("file")) as fd:
        say("fchmod", os.fchmod, fd, 0o600)
        say("fstat", os.fstat, fd)
    say("missing", os.chmod, at("missing"), 0o644)


@case("tree")
def chown(at: Place, say: Say) -> None:
    write(at("file"))
    for label, uid, gid in (("both", 1, 2), ("uid", 3, -1), ("gid", -1, 4), ("neither", -1, -1)):
        say(label, os.chown, at("file"), uid, gid)
        say(f"{label}: is", os.lstat, at("file"))
    os.chmod(at("file"), 0o6755)
    say("of a set-id file", os.chown, at("file"), 5, 6)
    say("of a set-id file: is", mode_of, at("file"))
    os.symlink(b"file", at("link"))
    say("lchown", os.lchown, at("link"), 7, 8)
    say("lchown: link is", os.lstat, at("link"))
    say("lchown: file is", os.lstat, at("file"))
    with opened(at("file")) as fd:
        say("fchown", os.fchown, fd, 9, 10)
    say("fchown: is", os.lstat, at("file"))
    say("large", os.chown, at("file"), 4_000_000_000, 4_000_000_000)
    say("large: is", os.lstat, at("file"))


@case("tree")
def times(at: Place, say: Say) -> None:
    write(at("file"))
    os.mkdir(at("dir"))
    for label, name, given in (
        ("both", "file", (EARLY, LATE)),
        ("zero", "file", (0, 0)),
        ("far", "file", (5_000_000_000 * SECOND, 9_000_000_000 * SECOND)),
        ("before 1970", "file", (-SECOND, -SECOND - 1)),
        ("dir", "dir", (LATE, EARLY)),
    ):
        say(label, set_times, at(name), given)
        say(f"{label}: is", os.lstat, at(name))
    say("none", os.utime, at("file"))
    say("none: is", os.lstat, at("file"))
    with opened(at("file")) as fd:
        say("futimens", set_times, fd, (EARLY, LATE))
        say("fstat", os.fstat, fd)
    say("missing", os.utime, at("missing"))


@case("tree")
def times_now_and_not(at: Place, say: Say) -> None:
    write(at("file"))
    os.utime(at("file"), ns=(EARLY, LATE))
    now, omit = libc.UTIME_NOW, libc.UTIME_OMIT
    for label, atime, mtime in (
        ("atime only", (77, 5), (0, omit)),
        ("mtime only", (0, omit), (88, 6)),
        ("neither", (0, omit), (0, omit)),
        ("atime now", (0, now), (0, omit)),
        ("mtime now", (0, omit), (0, now)),
        ("now and given", (0, now), (99, 7)),
    ):
        say(label, libc.utimens, os.fsdecode(at("file")), atime, mtime)
        say(f"{label}: is", os.lstat, at("file"))


@case("tree")
def times_of_a_symlink(at: Place, say: Say) -> None:
    write(at("file"))
    os.utime(at("file"), ns=(EARLY, EARLY))
    os.symlink(b"file", at("link"))
    say("set", set_times, at("link"), (LATE, LATE), follow=False)
    say("link", os.lstat, at("link"))
    say("file", os.lstat, at("file"))


@case("tree")
def truncate(at: Place, say: Say) -> None:
    write(at("file"))
    os.mkdir(at("dir"))
    for size in (5, 20, 0, 100_000):
        say(f"to {size}", os.truncate, at("file"), size)
        say(f"is {size}", size_of, at("file"))
    say("negative", os.truncate, at("file"), -1)
    say("dir", os.truncate, at("dir"), 0)
    say("missing", os.truncate, at("missing"), 0)
    with opened(at("file"), os.O_RDONLY) as fd:
        say("read-only", os.ftruncate, fd, 1)
    with opened(at("file")) as fd:
        say("ftruncate", os.ftruncate, fd, 7)
        say("fstat", lambda: os.fstat(fd).st_size)


@case("tree")
def may_access(at: Place, say: Say) -> None:
    write(at("file"), mode=0o600)
    os.chmod(at("file"), 0o600)
    for label, mode in (("exists", os.F_OK), ("read", os.R_OK), ("write", os.W_OK)):
        say(label, os.access, at("file"), mode)
    say("execute", os.access, at("file"), os.X_OK)
    say("missing", os.access, at("missing"), os.F_OK)
    say("search the root", os.access, at.mountpoint, os.X_OK)


@case("tree")
def file_system(at: Place, say: Say) -> None:
    found = os.statvfs(at.path)
    names = ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax")
    if at.backing:
        below = os.statvfs(at.backing)
        say(
            "as below",
            lambda: {name: getattr(found, name) == getattr(below, name) for name in names},
        )
    else:
        free = ("f_bfree", "f_bavail", "f_ffree", "f_favail")
        say("is", lambda: {name: getattr(found, name) for name in (*names, *free)})
    say("flags", lambda: found.f_flag)
    with opened(os.fsencode(at.path), os.O_RDONLY) as fd:
        say("fstatvfs", lambda: os.fstatvfs(fd).f_namemax == found.f_namemax)


@case("tree")
def kinds(at: Place, say: Say) -> None:
    """Files that are no files."""
    say("fifo", os.mkfifo, at("fifo"), 0o640)
    say("fifo is", os.lstat, at("fifo"))
    say("nobody reads it", os.open, at("fifo"), os.O_WRONLY | os.O_NONBLOCK)
    say("mknod", os.mknod, at("regular"), stat.S_IFREG | 0o640)
    say("mknod is", os.lstat, at("regular"))
    say("socket", os.mknod, at("socket"), stat.S_IFSOCK | 0o600)
    say("socket is", os.lstat, at("socket"))
    say("device", os.mknod, at("device"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    say("device is", os.lstat, at("device"))
    say("device opens", os.open, at("device"), os.O_RDONLY)
    say("exists", os.mknod, at("regular"))
