"""Names: made, linked, renamed, taken away."""

import os

from puffs.check import libc
from tests.refuse.saying import Place, Say, case, mode_of, opened, read, set_times, size_of, write

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def listing(at: Place) -> list[str]:
    return sorted(map(os.fsdecode, os.listdir(os.fsencode(at.path))))


@case("tree")
def directories(at: Place, say: Say) -> None:
    write(at("file"))
    say("mkdir", os.mkdir, at("dir"))
    say("exists", os.mkdir, at("dir"))
    say("exists as a file", os.mkdir, at("file"))
    say("no parent", os.mkdir, at("missing/dir"))
    say("below a file", os.mkdir, at("file/dir"))
    say("below", os.mkdir, at("dir/below"))
    say("nlink", lambda: os.lstat(at("dir")).st_nlink)
    say("not empty", os.rmdir, at("dir"))
    say("rmdir of a file", os.rmdir, at("file"))
    say("rmdir missing", os.rmdir, at("missing"))
    say("rmdir dot", os.rmdir, at("dir/."))
    say("unlink of a directory", os.unlink, at("dir"))
    say("rmdir below", os.rmdir, at("dir/below"))
    say("rmdir", os.rmdir, at("dir"))
    say("unlink missing", os.unlink, at("missing"))
    say("unlink", os.unlink, at("file"))
    say("left", listing, at)


@case("tree")
def umask(at: Place, say: Say) -> None:
    before = os.umask(0o027)
    try:
        os.mkdir(at("dir"), 0o777)
        write(at("file"), mode=0o666)
        os.mkfifo(at("fifo"), 0o666)
        os.symlink(b"file", at("link"))
        os.mknod(at("node"), 0o100777)
    finally:
        os.umask(before)
    for name in ("dir", "file", "fifo", "link", "node"):
        say(name, mode_of, at(name))


@case("tree")
def renames(at: Place, say: Say) -> None:
    write(at("a"), b"a")
    write(at("b"), b"b")
    os.mkdir(at("dir"))
    os.mkdir(at("full"))
    write(at("full/x"))
    say("to a new name", os.rename, at("a"), at("c"))
    say("it is there", read, at("c"))
    say("it is not there", os.lstat, at("a"))
    say("over another", os.rename, at("c"), at("b"))
    say("over another: is", read, at("b"))
    say("into a directory", os.rename, at("b"), at("dir/b"))
    say("to itself", os.rename, at("dir/b"), at("dir/b"))
    say("missing", os.rename, at("missing"), at("x"))
    say("a file over a directory", os.rename, at("dir/b"), at("full"))
    say("a directory over a file", os.rename, at("full"), at("dir/b"))
    say("over a full directory", os.rename, at("dir"), at("full"))
    say("into itself", os.rename, at("dir"), at("dir/sub"))
    os.mkdir(at("empty"))
    say("over an empty directory", os.rename, at("full"), at("empty"))
    say("below it", read, at("empty/x"))
    say("left", listing, at)


@case("tree")
def renames_with_flags(at: Place, say: Say) -> None:
    write(at("a"), b"a")
    write(at("b"), b"b")
    old, new, free = (os.fsdecode(at(name)) for name in ("a", "b", "c"))
    say("not over another", libc.rename2, old, new, NOREPLACE)
    say("to a free name", libc.rename2, old, free, NOREPLACE)
    say("left", listing, at)
    say("exchange with nothing", libc.rename2, new, os.fsdecode(at("z")), EXCHANGE)
    say("unknown", libc.rename2, new, free, 64)


@case("tree")
def renames_of_open_files(at: Place, say: Say) -> None:
    write(at("a"), b"first")
    write(at("b"), b"second")
    with opened(at("a")) as a, opened(at("b")) as b:
        say("over an open file", os.rename, at("a"), at("b"))
        say("read the moved one", os.pread, a, 10, 0)
        say("read the replaced one", os.pread, b, 10, 0)
        say("write the replaced one", os.pwrite, b, b"S", 0)
        say("read it again", os.pread, b, 10, 0)
        say("fstat the moved one", os.fstat, a)
        say("fstat the replaced one", lambda: os.fstat(b).st_size)
        say("by name", read, at("b"))
        say("write the moved one", os.pwrite, a, b"F", 0)
    say("by name after", read, at("b"))
    say("left", listing, at)


@case("tree")
def renames_above_open_files(at: Place, say: Say) -> None:
    os.mkdir(at("dir"))
    write(at("dir/file"), b"below")
    with opened(at("dir/file")) as fd:
        say("rename", os.rename, at("dir"), at("moved"))
        say("read", os.pread, fd, 10, 0)
        say("write", os.pwrite, fd, b"B", 0)
        say("fstat", os.fstat, fd)
        say("ftruncate", os.ftruncate, fd, 3)
    say("by name", read, at("moved/file"))


@case("tree")
def unlinks_of_open_files(at: Place, say: Say) -> None:
    write(at("file"), b"alive")
    fd = os.open(at("file"), os.O_RDWR)
    say("unlink", os.unlink, at("file"))
    say("gone", os.lstat, at("file"))
    say("read", os.pread, fd, 10, 0)
    say("write", os.pwrite, fd, b"still ", 0)
    say("read again", os.pread, fd, 10, 0)
    say("size", lambda: os.fstat(fd).st_size)
    say("fchmod", os.fchmod, fd, 0o600)
    say("mode", lambda: oct(os.fstat(fd).st_mode))
    say("ftruncate", os.ftruncate, fd, 2)
    say("futimens", set_times, fd, (5, 7))
    say("a new one of the name", write, at("file"), b"new")
    say("read the old one", os.pread, fd, 10, 0)
    say("close", os.close, fd)
    say("read the new one", read, at("file"))
    say("left", listing, at)


@case("tree")
def directories_of_open_files(at: Place, say: Say) -> None:
    """Whether a directory counts as empty whose only file is open and has lost its name."""
    os.mkdir(at("dir"))
    write(at("dir/file"))
    fd = os.open(at("dir/file"), os.O_RDONLY)
    os.unlink(at("dir/file"))
    say("listed", lambda: os.listdir(os.fsdecode(at("dir"))))
    say("rmdir", os.rmdir, at("dir"))
    os.close(fd)
    say("read", lambda: len(listing(at)) <= 1)


@case("tree")
def hard_links(at: Place, say: Say) -> None:
    write(at("a"), b"one")
    os.mkdir(at("dir"))
    say("link", os.link, at("a"), at("b"))
    say("nlink", lambda: [os.lstat(at("a")).st_nlink, os.lstat(at("b")).st_nlink])
    say("same", lambda: os.lstat(at("a")).st_ino == os.lstat(at("b")).st_ino)
    say("exists", os.link, at("a"), at("dir"))
    say("missing", os.link, at("missing"), at("c"))
    say("directory", os.link, at("dir"), at("c"))
    say("write one", write, at("a"), b"two")
    say("read the other", lambda: read(at("b")))
    say("rename to the other", os.rename, at("a"), at("b"))
    say("unlink", os.unlink, at("a"))
    say("left", listing, at)


@case("tree")
def symlinks(at: Place, say: Say) -> None:
    write(at("file"), b"here")
    for label, target in (
        ("relative", b"file"),
        ("absolute", b"/nowhere/at/all"),
        ("long", b"x" * 4000),
        ("too long", b"x" * 4096),
        ("loop", b"loop"),
        ("empty", b""),
        ("unicode", "grün".encode()),
    ):
        say(label, os.symlink, target, at(label))
        say(f"{label}: readlink", os.readlink, at(label))
        say(f"{label}: size", size_of, at(label))
    say("followed", read, at("relative"))
    say("dangling", read, at("absolute"))
    say("endless", read, at("loop"))
    say("exists", os.symlink, b"file", at("file"))
    say("readlink of a file", os.readlink, at("file"))
    say("not followed", os.open, at("relative"), os.O_RDONLY | os.O_NOFOLLOW)


@case("tree")
def long_and_odd_names(at: Place, say: Say) -> None:
    for label, name in (
        ("255", b"n" * 255),
        ("unicode", "Größe ✓".encode()),
        ("newline", b"a\nb"),
        ("backslash", b"a\\b"),
        ("comma", b"a,b=c"),
        ("dots", b"..."),
        ("hidden", b".fuse_hidden"),
        ("control", b"\x01\x7f"),
    ):
        say(f"{label}: write", write, at(name))
        say(f"{label}: mode", mode_of, at(name))
    say("left", listing, at)


@case("tree")
def names_that_are_too_long(at: Place, say: Say) -> None:
    name = b"n" * 256
    say("write", write, at(name))
    say("stat", mode_of, at(name))
    say("listed", listing, at)
    say("longer than any", os.lstat, at(b"n" * 1025))


@case("tree")
def names_that_are_not_utf8(at: Place, say: Say) -> None:
    name, other = b"caf\xe9", b"\xff\xfe"
    say("write", write, at(name), b"coffee")
    say("stat", os.lstat, at(name))
    say("read", read, at(name))
    say("mkdir", os.mkdir, at(other))
    say("rename", os.rename, at(name), at(other + b"/" + name))
    say("symlink", os.symlink, name, at(b"l\xe9nk"))
    say("readlink", os.readlink, at(b"l\xe9nk"))
    say("listed", listing, at)
    say("setxattr", os.setxattr, at(other), b"user.\xe9", b"1")
    say("unlink", os.unlink, at(other + b"/" + name))
    say("rmdir", os.rmdir, at(other))
