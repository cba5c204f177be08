"""What files hold."""

import ctypes
import fcntl
import mmap
import os
import select
import threading

from puffs.check import libc
from tests.refuse.saying import Place, Say, case, mode_of, opened, read, size_of, write

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO = 1, 2, 8, 16


def open_and_close(path: bytes, flags: int, mode: int = 0o644) -> str:
    os.close(os.open(path, flags, mode))
    return "opened"


@case("tree")
def opens(at: Place, say: Say) -> None:
    write(at("file"))
    os.mkdir(at("dir"))
    os.symlink(b"file", at("link"))
    for label, name, flags in (
        ("read", "file", os.O_RDONLY),
        ("missing", "missing", os.O_RDONLY),
        ("exclusive, there", "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        ("exclusive, new", "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        ("exclusive, a symlink", "link", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        ("directory, written", "dir", os.O_WRONLY),
        ("directory, created", "dir", os.O_RDONLY | os.O_CREAT),
        ("directory asked for", "file", os.O_RDONLY | os.O_DIRECTORY),
        ("directory", "dir", os.O_RDONLY | os.O_DIRECTORY),
        ("path only", "file", os.O_PATH),
        ("direct", "file", os.O_RDONLY | os.O_DIRECT),
        ("sync", "file", os.O_WRONLY | os.O_SYNC),
        ("no atime", "file", os.O_RDONLY | os.O_NOATIME),
        ("no name", "dir", os.O_RDWR | os.O_TMPFILE),
        ("access mode 3", "file", 3),
        ("below a file", "file/x", os.O_RDONLY | os.O_CREAT),
        ("slash after", "file/", os.O_RDONLY),
    ):
        say(label, open_and_close, at(name), flags)
    say("truncating", open_and_close, at("file"), os.O_WRONLY | os.O_TRUNC)
    say("truncated", size_of, at("file"))


@case("tree")
def created_modes(at: Place, say: Say) -> None:
    """A file may be created with a mode that does not let it be opened again, as root or not."""
    fd = os.open(at("none"), os.O_RDWR | os.O_CREAT, 0)
    say("write", os.write, fd, b"data")
    os.close(fd)
    say("is", os.lstat, at("none"))
    say("sticky", open_and_close, at("sticky"), os.O_RDWR | os.O_CREAT, 0o5755)
    say("sticky is", mode_of, at("sticky"))


@case("tree")
def descriptors(at: Place, say: Say) -> None:
    write(at("file"))
    with opened(at("file"), os.O_RDONLY) as fd:
        say("write to read-only", os.write, fd, b"x")
        say("flags", lambda: oct(fcntl.fcntl(fd, fcntl.F_GETFL)))
    with opened(at("file"), os.O_WRONLY) as fd:
        say("read from write-only", os.read, fd, 1)
    with opened(at("file"), os.O_RDWR | os.O_APPEND) as one, opened(at("file")) as two:
        say("append", os.write, one, b"abc")
        say("append past an end that has moved", os.pwrite, two, b"X", 20)
        say("append again", os.write, one, b"def")
        say("pwrite to appending", os.pwrite, one, b"ghi", 0)
        say("seen by the other", os.pread, two, 100, 0)


@case("tree")
def reads_and_writes(at: Place, say: Say) -> None:
    with opened(at("file"), os.O_RDWR | os.O_CREAT) as fd:
        say("empty", os.read, fd, 10)
        say("write", os.write, fd, b"hello")
        say("nothing", os.write, fd, b"")
        say("past the end", os.pwrite, fd, b"end", 10)
        say("the hole", os.pread, fd, 100, 0)
        say("at the end", os.pread, fd, 10, 13)
        say("after the end", os.pread, fd, 10, 1000)
        say("negative", os.pread, fd, 10, -1)
        say("several", os.preadv, fd, [bytearray(3), bytearray(4)], 0)
        say("gathered", os.pwritev, fd, [b"ab", b"cd"], 3)
        say("all", os.pread, fd, 100, 0)
        say("size", lambda: os.fstat(fd).st_size)
    big = bytes(range(256)) * 5000 + b"end"
    say("large", write, at("big"), big)
    say("large comes back", lambda: read(at("big")) == big)
    with opened(at("big")) as fd:
        for offset, size in ((4095, 2), (131_071, 3), (1_048_575, 70_000), (1_279_999, 100)):
            found = os.pread(fd, size, offset)
            say(f"{size} at {offset}", lambda same: same, found == big[offset:][:size])
        say("overwrite", os.pwrite, fd, b"x" * 200_000, 60_001)
        say("overwritten", lambda: os.pread(fd, 200_004, 60_000).count(b"x"))


@case("tree")
def directly(at: Place, say: Say) -> None:
    """O_DIRECT."""
    write(at("file"), bytes(8192) + b"tail")
    fd = say("open", os.open, at("file"), os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4096)
    say("read", lambda: os.preadv(fd, [buffer], 4096))
    say("read the tail", lambda: os.preadv(fd, [buffer], 8192))
    say("write", lambda: os.pwritev(fd, [buffer], 0))
    os.close(fd)


@case("tree")
def seeks(at: Place, say: Say) -> None:
    with opened(at("file"), os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"data", 0)
        os.pwrite(fd, b"data", 1 << 20)
        for label, offset, whence in (
            ("set", 5, os.SEEK_SET),
            ("current", 5, os.SEEK_CUR),
            ("end", -1, os.SEEK_END),
            ("beyond", 1 << 40, os.SEEK_SET),
            ("negative", -1, os.SEEK_SET),
            ("whence", 0, 9),
        ):
            say(label, os.lseek, fd, offset, whence)
        if not at.backing:  # where holes are is the machine's file system's doing
            for label, offset in (("start", 0), ("end", 1 << 20), ("past", 1 << 21)):
                say(f"data at {label}", os.lseek, fd, offset, os.SEEK_DATA)
                say(f"hole at {label}", os.lseek, fd, offset, os.SEEK_HOLE)
        else:
            say("data", os.lseek, fd, 0, os.SEEK_DATA)
            say("data past the end", os.lseek, fd, 1 << 21, os.SEEK_DATA)


@case("tree")
def fallocates(at: Place, say: Say) -> None:
    with opened(at("file"), os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"x" * 8192)
        for label, mode, offset, size in (
            ("longer", 0, 0, 20_000),
            ("keeping the size", KEEP_SIZE, 0, 40_000),
            ("a hole", PUNCH_HOLE | KEEP_SIZE, 0, 4096),
            ("zeros", ZERO, 4096, 100),
            ("nothing", 0, 0, 0),
            ("negative", 0, -1, 10),
            ("unknown", 0x4000, 0, 10),
        ):
            say(label, libc.fallocate, fd, mode, offset, size)
            say(f"{label}: size", lambda: os.fstat(fd).st_size)
        say("xs", lambda: os.pread(fd, 8192, 0).count(b"x"))
    with opened(at("file"), os.O_RDONLY) as fd:
        say("read-only", libc.fallocate, fd, 0, 0, 10)


@case("tree")
def mapped(at: Place, say: Say) -> None:
    write(at("file"), b"a" * 5000)
    with opened(at("file")) as fd:
        with mmap.mmap(fd, 0) as memory:
            memory[0:3] = b"xyz"
            memory[4999:5000] = b"z"
            say("flush", memory.flush)
            say("seen by read", os.pread, fd, 4, 0)
            say("written is seen", os.pwrite, fd, b"Q", 100)
            say("in memory", lambda: memory[100:101])
        with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as memory:
            memory[0:3] = b"not"
        say("private stays", os.pread, fd, 3, 0)
    say("after", lambda: read(at("file"))[-2:])


@case("tree")
def copies(at: Place, say: Say) -> None:
    write(at("from"), b"0123456789" * 1000)
    with opened(at("from")) as source, opened(at("to"), os.O_RDWR | os.O_CREAT) as target:
        say("copy_file_range", os.copy_file_range, source, target, 5000, 0, 0)
        say("within itself", os.copy_file_range, source, source, 10, 0, 20_000)
        say("sendfile", os.sendfile, target, source, 0, 3000)
        say("size", lambda: os.fstat(target).st_size)
        come, go = os.pipe()
        say("splice in", os.splice, source, go, 100, offset_src=3)
        say("in the pipe", os.read, come, 200)
        os.write(go, b"spliced")
        say("splice out", os.splice, come, target, 7, offset_dst=1)
        say("came", os.pread, target, 10, 0)
        for fd in (come, go):
            os.close(fd)


@case("tree")
def flushes(at: Place, say: Say) -> None:
    with opened(at("file"), os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"data")
        say("fsync", os.fsync, fd)
        say("fdatasync", os.fdatasync, fd)
        other = os.dup(fd)
        say("close a copy", os.close, other)
        say("still there", os.pread, fd, 10, 0)
    with opened(os.fsencode(at.path), os.O_RDONLY) as fd:
        say("directory", os.fsync, fd)
        say("syncfs", lambda: ctypes.CDLL(None).syncfs(fd))


@case("tree")
def polled(at: Place, say: Say) -> None:
    write(at("file"))
    with opened(at("file")) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLOUT)
        say("ready", lambda: [events for _, events in poll.poll(0)])


@case("tree")
def ioctls(at: Place, say: Say) -> None:
    write(at("file"))
    with opened(at("file")) as fd:
        say("flags", fcntl.ioctl, fd, 0x80086601, bytes(8))
        say("unknown", fcntl.ioctl, fd, 0x5678, 0)
        say("terminal", os.isatty, fd)
    with opened(os.fsencode(at.path), os.O_RDONLY) as fd:
        say("directory", fcntl.ioctl, fd, 0x80086601, bytes(8))


@case("tree")
def threads(at: Place, say: Say) -> None:
    """Several at once, each with files of its own, and all with one."""
    write(at("all"), bytes(8 * 100))
    found: dict[int, bool] = {}

    def work(number: int) -> None:
        name = at(f"file {number}")
        for turn in range(10):
            write(name, b"%d %d" % (number, turn) * 1000)
        with opened(at("all")) as fd:
            for turn in range(100):
                os.pwrite(fd, b"%d" % number, number * 100 + turn)
        found[number] = read(name) == b"%d 9" % number * 1000

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    say("each", lambda: sorted(found.items()))
    say("all", lambda: read(at("all")) == b"".join(b"%d" % number * 100 for number in range(8)))
