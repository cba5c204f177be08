"""Listings."""

import os
import stat

from puffs.check import libc
from tests.fuse.handles import drop_caches
from tests.refuse.saying import Place, Say, case, opened, write

MANY = 3000


def kinds_of(path: bytes) -> dict[str, str]:
    return {
        os.fsdecode(e.name): oct(stat.S_IFMT(e.stat(follow_symlinks=False).st_mode))
        for e in os.scandir(path)
    }


@case("tree")
def listings(at: Place, say: Say) -> None:
    say("empty", os.listdir, at.path)
    write(at("file"))
    os.mkdir(at("dir"))
    os.symlink(b"nowhere", at("link"))
    os.mkfifo(at("fifo"))
    say("kinds", lambda: sorted(kinds_of(at(".")).items()))
    say("missing", os.listdir, at("missing"))
    say("file", os.listdir, at("file"))
    if at.backing:
        below = os.listdir(at.backing / at.path.name)
        say("in its order", lambda: os.listdir(at.path) == below)
    else:
        say("order", os.listdir, at.path)


@case("tree")
def entries(at: Place, say: Say) -> None:
    """As getdents64(2) has them: with the dots, kinds and numbers."""
    os.mkdir(at("dir"))
    write(at("dir/file"))
    os.mkdir(at("dir/sub"))
    with opened(at("dir"), os.O_RDONLY) as fd:
        found = []
        while some := libc.getdents(fd, 4096):
            found += some
        say("kinds", lambda: sorted((each.name, oct(each.type)) for each in found))
        say(
            "numbers",
            lambda: sorted(
                (each.name, each.ino == os.lstat(at("dir/" + each.name)).st_ino) for each in found
            ),
        )
        say("the end", libc.getdents, fd, 4096)
        os.lseek(fd, 0, os.SEEK_SET)
        say("again", lambda: len(libc.getdents(fd, 4096)))


@case("tree")
def many(at: Place, say: Say) -> None:
    """Three thousand names: all of them once, and positions to come back to."""
    directory = at.backing / at.path.name if at.backing else at.path
    os.mkdir(directory / "dir")
    for number in range(MANY):
        (directory / "dir" / f"name of a file {number:05}").touch()
    names = os.listdir(at("dir"))
    say("count", lambda: [len(names), len(set(names))])
    say("stat of all", lambda: sum(e.stat().st_size == 0 for e in os.scandir(at("dir"))))
    with opened(at("dir"), os.O_RDONLY) as fd:
        found = []
        while some := libc.getdents(fd, 3000):
            found += some
        say("in small pieces", lambda: [len(found), len({each.name for each in found})])
        middle = len(found) // 2
        os.lseek(fd, found[middle].next, os.SEEK_SET)
        say("back in the middle", lambda: libc.getdents(fd, 300)[0].name == found[middle + 1].name)
        os.lseek(fd, found[9].next, os.SEEK_SET)
        say("back near the start", lambda: libc.getdents(fd, 300)[0].name == found[10].name)


@case("tree")
def changing(at: Place, say: Say) -> None:
    """What was opened before, and is listed after others came and went."""
    os.mkdir(at("dir"))
    for number in range(5):
        write(at(f"dir/{number}"))
    with opened(at("dir"), os.O_RDONLY) as fd:
        say("before", lambda: len(libc.getdents(fd, 4096)))
        os.unlink(at("dir/0"))
        write(at("dir/new"))
        os.lseek(fd, 0, os.SEEK_SET)
        say("rewound", lambda: sorted(each.name for each in libc.getdents(fd, 4096)))
    say("opened again", lambda: sorted(map(os.fsdecode, os.listdir(at("dir")))))


@case("tree")
def removed(at: Place, say: Say) -> None:
    """A directory that is open, and gone."""
    os.mkdir(at("dir"))
    with opened(at("dir"), os.O_RDONLY) as fd:
        say("rmdir", os.rmdir, at("dir"))
        say("make below", lambda: os.mkdir("x", dir_fd=fd))
        say("lookup below", lambda: os.stat("x", dir_fd=fd))
        say("a new one", os.mkdir, at("dir"))


@case("tree")
def by_descriptor(at: Place, say: Say) -> None:
    os.mkdir(at("dir"))
    write(at("dir/file"))
    with opened(at("dir"), os.O_RDONLY) as fd:
        say("stat", lambda: os.stat("file", dir_fd=fd).st_size)
        say("up", lambda: os.stat("..", dir_fd=fd).st_ino == os.stat(at.path).st_ino)
        say("unlink", lambda: os.unlink("file", dir_fd=fd))
        os.rename(at("dir"), at("moved"))
        say("make", lambda: os.mkdir("sub", dir_fd=fd))
    say("it is there", os.listdir, at("moved"))


@case("numbered")
def known_numbers(at: Place, say: Say) -> None:
    """The numbers in a listing that comes in many pieces, of files that are known."""
    assert at.backing is not None
    for number in range(500):
        write(os.fsencode(at.backing / f"{number:0100}"))
    known = {name: os.lstat(at(name)).st_ino for name in os.listdir(at.backing)}
    listed = {entry.name: entry.inode() for entry in os.scandir(at.path)}
    say("all", len, listed)
    say("as stat has them", lambda: sum(listed[name] == known[name] for name in known))


@case("remembered")
def numbers_that_stay(at: Place, say: Say) -> None:
    """The numbers of files that the kernel has forgotten meanwhile."""

    def numbers() -> list[int]:
        return [os.lstat(at(name)).st_ino for name in ("a", "dir", "dir/b")]

    write(at("a"))
    os.mkdir(at("dir"))
    write(at("dir/b"))
    first = numbers()
    for name in range(20):  # what comes after gets other numbers
        write(at(f"other {name}"))
    drop_caches(at.mountpoint)
    say("again", lambda: numbers() == first)
    os.rename(at("dir"), at("moved"))
    drop_caches(at.mountpoint)
    say("moved", lambda: os.lstat(at("moved/b")).st_ino == first[2])
    os.unlink(at("a"))
    write(at("a"))
    say("made anew", lambda: os.lstat(at("a")).st_ino in first)
