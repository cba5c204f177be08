"""Reading what is there: the part of the battery for file servers that change nothing.

The checks walk the whole tree of such a file server, or a small one that they have made where that
can be done.
"""

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator

from puffs.check import libc
from puffs.check.expect import equal, expect, same_data
from puffs.check.registry import battery
from puffs.check.target import Target, read_at

check = battery("reading")

MOST_FILES = 500
MOST_BYTES = 1 << 24
"""How much of a large tree, and of a large file, is looked at."""

UNKNOWN_INO = 0xFFFFFFFF
"""What stands in a listing for an inode number that the file server did not tell."""

_REFUSED = (errno.EROFS, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)


@check(
    "every-listed-name-is-there",
    "readdir(3), lstat(2): what is listed can be asked for",
    needs="readdir",
)
def _(t: Target) -> None:
    for path, st in _walk(t):
        assert st.st_mode & 0o170000, f"{path} has no file type in its mode {st.st_mode:o}"
        assert st.st_nlink >= 1, f"{path} has a name, and a link count of {st.st_nlink}"
        assert st.st_ino, f"{path} has the inode number 0"


@check(
    "types-of-listed-names",
    "readdir(3): d_type and d_ino are those of lstat(2), where they are given",
    needs="readdir",
)
def _(t: Target) -> None:
    for directory in _directories(t):
        with t.scandir(directory) as entries:
            for entry in entries:
                path = f"{directory}/{entry.name}"
                st = t.lstat(path)
                kinds = (
                    entry.is_dir(follow_symlinks=False),
                    entry.is_file(follow_symlinks=False),
                    entry.is_symlink(),
                )
                mode = st.st_mode
                wanted = (stat.S_ISDIR(mode), stat.S_ISREG(mode), stat.S_ISLNK(mode))
                equal(f"(directory, file, link) of {path}", kinds, wanted)


@check(
    "inode-numbers-of-listed-names",
    "readdir(3): d_ino is st_ino, where it is given",
    needs="readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    for directory in _directories(t):
        fd = os.open(t.at(directory), os.O_RDONLY | os.O_DIRECTORY)
        try:
            while part := libc.getdents(fd, 4096):
                for entry in part:
                    if entry.name != ".." and entry.ino != UNKNOWN_INO:
                        path = f"{directory}/{entry.name}"
                        equal(f"inode number of {path}", t.lstat(path).st_ino, entry.ino)
        finally:
            os.close(fd)


@check("listing-twice", "readdir(3): the same names while nothing changes", needs="readdir")
def _(t: Target) -> None:
    for directory in _directories(t):
        first, second = t.listdir(directory), t.listdir(directory)
        equal(f"names in {directory}", sorted(second), sorted(first))
        equal(f"different names in {directory}", len(set(first)), len(first))


@check(
    "size-is-what-can-be-read",
    "stat(2): st_size is the number of bytes up to the end of the file",
    needs="read readdir",
)
def _(t: Target) -> None:
    for path, st in _files(t):
        with t.open(path) as file:
            data = read_at(file, 0, MOST_BYTES)
        # As in /proc, 0 may stand for a size that is not known beforehand.
        if st.st_size or not data:
            equal(f"bytes in {path}", len(data), min(st.st_size, MOST_BYTES))


@check(
    "read-of-parts",
    "pread(2): parts of a file are parts of the whole",
    needs="read readdir",
)
def _(t: Target) -> None:
    rng = random.Random(1)
    for path, _st in _files(t):
        with t.open(path) as file:
            data = read_at(file, 0, MOST_BYTES)
            for _ in range(5):
                offset, size = rng.randrange(len(data) + 1), rng.randrange(1, 70_000)
                wanted = data[offset : offset + size]
                got = read_at(file, offset, len(wanted))
                same_data(f"{len(wanted)} bytes of {path} at {offset}", got, wanted)


@check(
    "symbolic-links-can-be-read",
    "readlink(2): the target, as long as st_size says",
    needs="readlink readdir",
)
def _(t: Target) -> None:
    for path, st in _walk(t):
        if _link(st):
            target = t.readlink(path)
            assert target, f"{path} leads to an empty name"
            if st.st_size:  # 0 where it is not known, as in /proc
                equal(f"size of {path}", st.st_size, len(os.fsencode(target)))


@check(
    "directories-have-dot-and-dotdot",
    'path_resolution(7): "." is the directory itself, ".." the one above',
    needs="readdir",
)
def _(t: Target) -> None:
    for path, st in _walk(t):
        if stat.S_ISDIR(st.st_mode):
            equal(f"inode number of {path}/.", t.ino(f"{path}/."), t.ino(path))
            equal(f"inode number of {path}/..", t.ino(f"{path}/.."), t.ino(os.path.dirname(path)))


@check(
    "missing-names",
    "stat(2), open(2): ENOENT for a name that is not there, ENOTDIR below a file",
    needs="readdir",
)
def _(t: Target) -> None:
    for directory in _directories(t):
        expect(errno.ENOENT, t.lstat, f"{directory}/no such name")
        expect(errno.ENOENT, t.open, f"{directory}/no such name")
    for path, _st in _files(t):
        expect(errno.ENOTDIR, t.stat, f"{path}/x")


@check(
    "inode-numbers-stay",
    "stat(2): st_ino and the type of a file do not change",
    needs="readdir",
)
def _(t: Target) -> None:
    first, second = (
        {path: (t.ino(path), stat.S_IFMT(st.st_mode)) for path, st in _walk(t) if not _link(st)}
        for _ in range(2)
    )
    for path, before in first.items():
        equal(f"inode number and type of {path}", second.get(path), before)


@check(
    "what-is-missing-is-refused",
    "open(2), mkdir(2), rename(2) ...: EROFS or EOPNOTSUPP for what the file server does not have",
    needs="readdir",
)
def _(t: Target) -> None:
    path = next((path for path, _ in _files(t)), "")
    names = sorted(t.listdir())
    attempts: list[tuple[str, Callable[..., object], tuple[str | int, ...]]] = [
        ("mkdir", t.mkdir, ("new",)),
        ("symlink", t.symlink, ("x", "new")),
        ("create", t.open, ("new", "xb")),
        ("mknod", t.mknod, ("new", stat.S_IFIFO | 0o600)),
    ]
    if path:
        attempts += [
            ("write", t.open, (path, "r+b")),
            ("remove", t.remove, (path,)),
            ("rename", t.rename, (path, "new")),
            ("link", t.link, (path, "new")),
            ("setattr", t.chmod, (path, 0o600)),
        ]
    present = t.operations | ({"create"} if "mknod" in t.operations else set())
    for operation, call, args in attempts:
        if operation not in present:
            expect(_REFUSED, call, *args)
    equal("names afterwards", sorted(t.listdir()), names)


def _sample(t: Target) -> None:
    """Make a small tree, as far as the file server can, unless that has been done."""
    ops = t.operations
    if {"create", "write", "mkdir"} <= ops and not t.exists("sample"):
        t.mkdir("sample")
        t.mkdir("sample/empty")
        t.write("sample/nothing")
        t.write("sample/short", b"content\n")
        t.write("sample/long", random.Random(2).randbytes(300_001))
        if "symlink" in ops:
            t.symlink("short", "sample/link")
        if "mknod" in ops:
            t.mknod("sample/fifo", stat.S_IFIFO | 0o600)


def _walk(t: Target) -> Iterator[tuple[str, os.stat_result]]:
    """Paths and attributes of what is there, directories before what is in them."""
    _sample(t)
    left = ["."]
    count = 0
    while left:
        directory = left.pop(0)
        for name in sorted(t.listdir(directory)):
            count += 1
            if count > MOST_FILES:
                return
            path = f"{directory}/{name}"
            st = t.lstat(path)
            if stat.S_ISDIR(st.st_mode):
                left.append(path)
            yield path, st


def _directories(t: Target) -> Iterator[str]:
    yield "."
    yield from (path for path, st in _walk(t) if stat.S_ISDIR(st.st_mode))


def _files(t: Target) -> Iterator[tuple[str, os.stat_result]]:
    yield from ((path, st) for path, st in _walk(t) if stat.S_ISREG(st.st_mode))


def _link(st: os.stat_result) -> bool:
    return stat.S_ISLNK(st.st_mode)
