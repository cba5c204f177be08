"""What comes of the answers of an operation: `servers/answers.py`."""

import fcntl
import os

from tests.refuse.saying import Place, Say, case, opened

TOLD = (
    *("raise 13", "raise 2", "raise 61", "raise 38", "raise 133", "raise 0"),
    *(
        "raise -13",
        "raise OSError",
        "raise ValueError",
        "raise KeyError",
        "raise NotImplementedError",
    ),
    *("raise FileNotFoundError", "raise PermissionError", "raise TimeoutError"),
    *("return 0", "return -13", "return -38", "return 13"),
)


@case("answers")
def errors(at: Place, say: Say) -> None:
    for told in TOLD:
        say(f"unlink: {told}", os.unlink, at(told))
        say(f"mkdir: {told}", os.mkdir, at(f"new {told}"))
        say(f"chmod: {told}", os.chmod, at(told), 0o600)
        say(f"stat: {told}", os.lstat, at(f"stat {told}"))


@case("answers")
def errors_of_open_files(at: Place, say: Say) -> None:
    for told in ("raise 13", "raise ValueError", "raise 61"):
        say(f"open: {told}", os.open, at(told), os.O_RDONLY)
        with opened(at(f"read {told}"), os.O_RDONLY | os.O_DIRECT) as fd:
            say(f"read: {told}", os.read, fd, 4096)
        with opened(at(f"write {told}"), os.O_WRONLY) as fd:
            say(f"write: {told}", os.write, fd, b"data")


@case("answers")
def reads(at: Place, say: Say) -> None:
    for kind in ("whole", "short", "long", "bytearray", "memoryview", "none"):
        with opened(at(f"read {kind}"), os.O_RDONLY) as fd:
            say(kind, os.read, fd, 100)


@case("answers")
def writes(at: Place, say: Say) -> None:
    for kind in ("short", "long", "return 0", "return -5", "return 4"):
        with opened(at(f"write {kind}"), os.O_WRONLY) as fd:
            say(kind, os.write, fd, b"data")


@case("answers")
def stats(at: Place, say: Say) -> None:
    for kind in ("none", "empty", "unknown", "times", "big"):
        say(kind, os.lstat, at(f"stat {kind}"))
    found = os.lstat(at("stat big"))
    say("blocks", lambda: [found.st_blocks, found.st_blksize])


def kinds(path: bytes) -> list[tuple[str, bool]]:
    return [(os.fsdecode(entry.name), entry.is_dir()) for entry in os.scandir(path)]


@case("answers")
def listings(at: Place, say: Say) -> None:
    for kind in ("names", "no dots", "tuples", "twice", "long", "numbers", "nothing", "set"):
        say(kind, os.listdir, os.fsdecode(at(f"list {kind}")))
    say("kinds", kinds, at("list tuples"))
    say("inodes", lambda: [entry.name for entry in os.scandir(at("list inodes"))])


@case("answers")
def links(at: Place, say: Say) -> None:
    say("short", os.readlink, at("link short"))
    say("long", lambda: len(os.readlink(at("link long"))))


@case("answers")
def sizes(at: Place, say: Say) -> None:
    found = os.statvfs(at.path)
    names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_namemax")
    say("is", lambda: {name: getattr(found, name) for name in names})


@case("answers")
def extended_attributes(at: Place, say: Say) -> None:
    for name in ("user.empty", "user.text", "user.missing"):
        say(name, os.getxattr, at("file"), name)
    say("none", os.listxattr, at("none"))
    say("an iterator", os.listxattr, at("file"))


@case("answers")
def ioctls(at: Place, say: Say) -> None:
    """Commands with a size and a direction in them, as _IOR and its like make them."""
    gives, turns, answers, unknown = 0x80087801, 0xC0087802, 0x7803, 0x7804
    with opened(at("read whole")) as fd:
        say("gives", fcntl.ioctl, fd, gives, bytes(8))
        say("turns", fcntl.ioctl, fd, turns, b"12345678")
        say("answers", fcntl.ioctl, fd, answers, 0)
        say("unknown", fcntl.ioctl, fd, unknown, 0)
