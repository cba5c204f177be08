"""What comes of small servers, each with its own files."""

import errno
import fcntl
import mmap
import os
import stat
import threading
from typing import Any

from puffs.check import libc
from tests.refuse.cases.mounts import as_nobody
from tests.refuse.saying import Place, Say, case, elsewhere, opened, read, size_of, write


@case("defaults")
def what_is_not_there(at: Place, say: Say) -> None:
    """Everything, of a server that has nearly nothing."""
    file, link, root = at("file"), at("link"), at(".")
    say("root", os.lstat, root)
    say("list", os.listdir, os.fsdecode(root))
    say("file", os.lstat, file)
    say("access", os.access, root, os.R_OK | os.W_OK | os.X_OK)
    say("statvfs", lambda: [os.statvfs(root).f_bsize, os.statvfs(root).f_namemax])
    say("readlink", os.readlink, link)
    say("mkdir", os.mkdir, at("new"))
    say("mknod", os.mkfifo, at("new"))
    say("symlink", os.symlink, b"x", at("new"))
    say("create", os.open, at("new"), os.O_WRONLY | os.O_CREAT)
    say("listxattr", os.listxattr, root)
    say("getxattr", os.getxattr, root, "user.x")
    say("setxattr", os.setxattr, root, "user.x", b"1")
    say("removexattr", os.removexattr, root, "user.x")
    say("chmod", os.chmod, root, 0o700)
    say("chown", os.chown, root, 1, 1)
    say("utime", os.utime, root)
    with opened(root, os.O_RDONLY) as fd:
        say("fsync of a directory", os.fsync, fd)
        say("ioctl of a directory", fcntl.ioctl, fd, 0x80086601, bytes(8))


@case("defaults of files")
def what_is_not_there_of_files(at: Place, say: Say) -> None:
    file = at("file")
    say("unlink", os.unlink, file)
    say("rmdir", os.rmdir, at("dir"))
    say("rename", os.rename, file, at("new"))
    say("link", os.link, file, at("new"))
    say("truncate", os.truncate, file, 0)
    with opened(file) as fd:
        say("read", os.pread, fd, 10, 0)
        say("write", os.pwrite, fd, b"x", 0)
        say("fsync", os.fsync, fd)
        say("ioctl", fcntl.ioctl, fd, 0x80086601, bytes(8))
        say("fallocate", libc.fallocate, fd, 0, 0, 10)
        say("lock", fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        say("flock", fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        say("ftruncate", os.ftruncate, fd, 0)
        say("fchmod", os.fchmod, fd, 0o600)
        say("close", os.close, os.dup(fd))


@case("context")
def who_reads(at: Place, say: Say) -> None:
    say("stat", lambda: stat.filemode(os.lstat(at("uid")).st_mode))
    say("uid", read, at("uid"))
    say("gid", read, at("gid"))
    say("pid", lambda: int(read(at("pid"))) == os.getpid())
    say("another process", elsewhere, lambda: int(read(at("pid"))) == os.getpid())
    say("another user", as_nobody, read, at("uid"))
    say("another user's group", as_nobody, read, at("gid"))
    told: list[bool] = []

    def look() -> None:
        told.append(int(read(at("pid"))) == threading.get_native_id())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    say("a thread is told by its own number", lambda: told)


@case("opened")
def open_files(at: Place, say: Say) -> None:
    say("direct", read, at("direct"))
    say("direct: size", size_of, at("direct"))
    for name in ("kept", "dropped"):
        say(f"{name}: first", lambda path: len(read(path)), at(name))
        first = read(at(name))
        say(f"{name}: as before", lambda path, before: read(path) == before, at(name), first)
    with opened(at("direct")) as fd:
        say("mapped", lambda: mmap.mmap(fd, 8).close())
    say("full", os.write, os.open(at("new"), os.O_RDWR | os.O_CREAT), b"data")
    fd = os.open(at("new full"), os.O_RDWR | os.O_CREAT)
    say("created", os.pread, fd, 100, 0)
    say("close fails", os.close, fd)
    fd = os.open(at("dropped"), os.O_WRONLY)
    say("nothing is written", os.write, fd, b"x")
    os.close(fd)


@case("offsets")
def piece_by_piece(at: Place, say: Say) -> None:
    names = os.listdir(os.fsdecode(at(".")))
    say("count", len, names)
    say("in order", lambda: names == [str(number) for number in range(len(names))])
    with opened(at("."), os.O_RDONLY) as fd:
        first = libc.getdents(fd, 500)
        say("positions", lambda: [[each.name, each.next] for each in first[:4]])
        os.lseek(fd, 5010, os.SEEK_SET)
        say("at a position", lambda: libc.getdents(fd, 300)[0].name)
        os.lseek(fd, 10_000_000, os.SEEK_SET)
        say("past the end", libc.getdents, fd, 300)


@case("hello")
def hello(at: Place, say: Say) -> None:
    say("list", os.listdir, os.fsdecode(at(".")))
    say("read", read, at("message"))
    say("stat", os.lstat, at("message"))
    say("root", os.lstat, at("."))
    say("missing", os.lstat, at("missing"))
    say("write", os.open, at("message"), os.O_WRONLY)
    say("mkdir", os.mkdir, at("dir"))
    say("create", os.open, at("new"), os.O_WRONLY | os.O_CREAT)
    say("unlink", os.unlink, at("message"))
    say("chmod", os.chmod, at("message"), 0o600)
    say("listxattr", os.listxattr, at("message"))
    say("statvfs", lambda: os.statvfs(at(".")).f_bsize)
    say("access", os.access, at("message"), os.R_OK)
    with opened(at("message"), os.O_RDONLY) as fd:
        say("fsync", os.fsync, fd)
        say("past the end", os.pread, fd, 10, 100)
        say("lock", fcntl.lockf, fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


@case("replies")
def replies(at: Place, say: Say) -> None:
    for number in (1, 2, 13, 38, 61, 116, 133):
        say(f"error {number}", os.lstat, at(f"error {number}"))
        if number != errno.ENOSYS:  # after that no open is asked for any more
            say(f"open {number}", os.open, at(f"open {number}"), os.O_RDONLY)
    for number in (5, 13, 61):
        with opened(at(f"read {number}"), os.O_RDONLY) as fd:
            say(f"read {number}", os.read, fd, 10)
    say("absent", os.lstat, at("absent"))
    say("absent again", os.lstat, at("absent"))
    say("asked once", read, at("asked"))
    say("direct", read, at("direct"))
    say("short", read, at("short"))
    first = read(at("kept"))
    say("kept", lambda: read(at("kept")) == first)
    first = read(at("dropped"))
    say("dropped", lambda: read(at("dropped")) == first)
    with opened(at("stream"), os.O_RDONLY) as fd:
        say("seek in a stream", os.lseek, fd, 3, os.SEEK_SET)
        say("pread of a stream", os.pread, fd, 3, 0)
    say("access", os.access, at("yes"), os.R_OK)
    say("no access", os.access, at("no access"), os.R_OK)
    say("default of statfs", lambda: os.statvfs(at(".")).f_bsize)
    say("default of fsync", lambda: os.fsync(os.open(at("file"), os.O_RDONLY)))


@case("replies")
def fields(at: Place, say: Say) -> None:
    """Which fields setattr is asked for: bits in the number of an error that begins at one."""
    file = os.fsdecode(at("file"))
    say("mode", os.chmod, file, 0o600)
    say("uid", os.chown, file, 1, -1)
    say("gid", os.chown, file, -1, 1)
    say("both", os.chown, file, 1, 1)
    say("size", os.truncate, file, 3)
    say("times", os.utime, file, (1, 2))
    say("now", os.utime, file)
    say("atime", libc.utimens, file, (1, 0), (0, libc.UTIME_OMIT))
    say("mtime now", libc.utimens, file, (0, libc.UTIME_OMIT), (0, libc.UTIME_NOW))


@case("replies")
def pieces(at: Place, say: Say) -> None:
    with opened(at("."), os.O_RDONLY) as fd:
        found = []
        while some := libc.getdents(fd, 1000):
            found += some
        say("names", lambda: [[int(each.name), each.next] for each in found])
        os.lseek(fd, 50, os.SEEK_SET)
        say("between two", lambda: int(libc.getdents(fd, 1000)[0].name))


@case("noting")
def what_is_asked(at: Place, say: Say) -> None:
    """The operations that some calls come to."""
    assert at.side is not None
    notes = at.side
    directory = at("d")

    def heard(label: str, call: Any, *args: Any) -> None:
        before = len(notes.read_bytes())
        call(*args)
        for _ in range(1000):
            lines = notes.read_bytes()[before:].decode().splitlines()
            verbs = [line.partition(" ")[0] for line in lines]
            closed = verbs.count("release") + verbs.count("releasedir")
            if closed >= sum(verbs.count(verb) for verb in ("open", "create", "opendir")):
                break
            os.statvfs(at.mountpoint)  # release is sent without waiting for it
        say(label, lambda: lines)

    def change_open() -> None:
        with opened(directory + b"/file") as fd:
            os.ftruncate(fd, 3)
            os.fsync(fd)
            os.fdatasync(fd)

    def duplicates() -> None:
        with opened(directory + b"/file") as fd:
            os.close(os.dup(fd))
            os.close(os.dup(fd))

    def unlink_open() -> None:
        with opened(directory + b"/moved"):
            os.unlink(directory + b"/moved")

    def make_and_remove() -> None:
        os.mkdir(at("e"))
        os.rmdir(at("e"))

    heard("mkdir", os.mkdir, directory)
    heard("create, write, close", write, directory + b"/file")
    heard("replace", write, directory + b"/file")
    heard("read", read, directory + b"/file")
    heard("change while open", change_open)
    heard("duplicates", duplicates)
    heard("list", os.listdir, directory)
    heard("chmod", os.chmod, directory + b"/file", 0o600)
    heard("chown", os.chown, directory + b"/file", -1, 1)
    heard("utime", os.utime, directory + b"/file")
    heard("truncate", os.truncate, directory + b"/file", 1)
    heard("rename", os.rename, directory + b"/file", directory + b"/moved")
    heard("symlink", os.symlink, b"target", directory + b"/link")
    heard("link", os.link, directory + b"/moved", directory + b"/other")
    heard("mknod", os.mknod, directory + b"/node")
    heard("fifo", os.mkfifo, directory + b"/fifo")
    heard("setxattr", os.setxattr, directory + b"/moved", "user.a", b"1")
    heard("removexattr", os.removexattr, directory + b"/moved", "user.a")
    heard("access", os.access, directory + b"/moved", os.R_OK)
    heard("unlink while open", unlink_open)
    heard("rmdir", make_and_remove)
    say("first of all", lambda: notes.read_text().splitlines()[0])
