"""Directories: every name once, also while others come and go."""

import errno
import os
import stat
from collections import Counter

from puffs.check import libc
from puffs.check.expect import equal, expect, shown
from puffs.check.registry import battery
from puffs.check.target import Target

check = battery("directories")


@check(
    "listing-has-every-name-once",
    "readdir(3): each of 1,000 names, and none of them twice",
    needs="create readdir",
)
def _(t: Target) -> None:
    wanted = _fill(t, 1000)
    _once(t.listdir(), wanted)


@check(
    "listing-of-long-names",
    "getdents(2): names of 255 bytes, however few fit into one answer",
    needs="create readdir",
)
def _(t: Target) -> None:
    wanted = {f"{number:03}".ljust(255, "n") for number in range(300)}
    for name in wanted:
        t.write(name)
    _once(t.listdir(), wanted)


@check(
    "listing-follows-changes",
    "readdir(3): a directory opened anew shows what is there then",
    needs="create mkdir remove rename readdir",
)
def _(t: Target) -> None:
    equal("names in an empty directory", t.listdir(), [])
    t.write("a")
    equal("names after a file was made", t.listdir(), ["a"])
    t.mkdir("b")
    equal("names after a directory was made", set(t.listdir()), {"a", "b"})
    t.rename("a", "c")
    equal("names after a rename", set(t.listdir()), {"b", "c"})
    t.remove("c")
    equal("names after a removal", t.listdir(), ["b"])


@check(
    "listing-tells-types",
    "readdir(3): d_type and d_ino are those of stat(2), where they are given",
    needs="create mkdir symlink readdir",
)
def _(t: Target) -> None:
    t.write("file")
    t.mkdir("directory")
    t.symlink("file", "link")
    with t.scandir() as entries:
        for entry in entries:
            kinds = (
                entry.is_file(follow_symlinks=False),
                entry.is_dir(follow_symlinks=False),
                entry.is_symlink(),
            )
            wanted = tuple(entry.name == name for name in ("file", "directory", "link"))
            equal(f"(file, directory, link) of {entry.name}", kinds, wanted)


@check(
    "listing-of-what-is-no-directory",
    "opendir(3): ENOTDIR, ENOENT",
    needs="create readdir",
)
def _(t: Target) -> None:
    t.write("f")
    expect(errno.ENOTDIR, t.listdir, "f")
    expect(errno.ENOENT, t.listdir, "missing")


@check(
    "listing-while-names-go",
    "readdir(3): removing what was listed hides nothing of the rest (rm -r)",
    needs="create remove readdir",
)
def _(t: Target) -> None:
    wanted = _fill(t, 1000)
    seen = []
    with t.scandir() as entries:
        for entry in entries:
            seen.append(entry.name)
            t.remove(entry.name)
    _once(seen, wanted)
    equal("names at the end", t.listdir(), [])


@check(
    "listing-while-names-come",
    "readdir(3): names added meanwhile repeat and hide nothing of the rest",
    needs="create readdir",
)
def _(t: Target) -> None:
    wanted = _fill(t, 500)
    seen = []
    with t.scandir() as entries:
        for entry in entries:
            seen.append(entry.name)
            if len(seen) <= 200:
                t.write(f"new-{len(seen)}")
    _once([name for name in seen if not name.startswith("new-")], wanted)
    twice = [name for name, count in Counter(seen).items() if count > 1]
    equal("names seen twice", twice, [])


@check(
    "listing-while-names-change",
    "readdir(3): what is there all along is listed once",
    needs="create remove readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    stay = _fill(t, 400)
    go = {f"go-{number}" for number in range(400)}
    for name in go:
        t.write(name)
    seen: list[str] = []
    fd = _opened(t)
    try:
        while part := libc.getdents(fd, 1024):
            seen += [entry.name for entry in part]
            for entry in part:
                if entry.name in go:
                    go.remove(entry.name)
                    t.remove(entry.name)
                    t.write(f"come-{entry.name}")
    finally:
        os.close(fd)
    _once([name for name in seen if name in stay], stay)


@check(
    "rewinddir",
    "rewinddir(3): the directory is read again, as it is then",
    needs="create remove readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.write("a")
    t.write("b")
    fd = _opened(t)
    try:
        _once(_names(fd, 4096), {"a", "b"})
        t.remove("a")
        t.write("c")
        os.lseek(fd, 0, os.SEEK_SET)
        _once(_names(fd, 4096), {"b", "c"})
    finally:
        os.close(fd)


@check(
    "seekdir",
    "telldir(3), seekdir(3): a position leads back to the entry behind it",
    needs="create readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    _fill(t, 200)
    fd = _opened(t)
    try:
        entries: list[libc.Dirent] = []
        while part := libc.getdents(fd, 2000):
            entries += part
        for index in (0, 1, 2, 100, 37, len(entries) - 2):
            os.lseek(fd, entries[index].next, os.SEEK_SET)
            found = libc.getdents(fd, 2000)
            equal(f"names behind entry {index}", found[0].name, entries[index + 1].name)
        os.lseek(fd, entries[-1].next, os.SEEK_SET)
        equal("names behind the last entry", libc.getdents(fd, 2000), [])
    finally:
        os.close(fd)


@check(
    "seekdir-while-names-go",
    "telldir(3), seekdir(3): a position stays good while other names come and go",
    needs="create remove readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    _fill(t, 300)
    fd = _opened(t)
    try:
        entries: list[libc.Dirent] = []
        while part := libc.getdents(fd, 2000):
            entries += part
        named = [entry for entry in entries if entry.name not in (".", "..")]
        for entry in named[::3]:
            t.remove(entry.name)
        t.write("new")
        for index in (31, 100, 199):
            os.lseek(fd, named[index].next, os.SEEK_SET)
            found = [entry.name for entry in libc.getdents(fd, 2000)]
            stayed = next(e.name for at, e in enumerate(named) if at > index and at % 3)
            assert stayed in found, f"{stayed} is missing behind entry {index}"
            before = {entry.name for entry in named[: index + 1]}
            equal(f"names from before entry {index}", before.intersection(found), set())
    finally:
        os.close(fd)


@check(
    "listing-in-small-parts",
    "getdents(2): nothing is lost when only few entries fit into the caller's buffer",
    needs="create readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    wanted = _fill(t, 300)
    fd = _opened(t)
    try:
        _once(_names(fd, 64), wanted)
    finally:
        os.close(fd)


@check(
    "listing-has-dot-and-dotdot",
    'readdir(3): "." and ".." come once, as directories',
    needs="create mkdir readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.write("d/f")
    fd = os.open(t.at("d"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        entries = libc.getdents(fd, 4096)
    finally:
        os.close(fd)
    equal("names", sorted(entry.name for entry in entries), [".", "..", "f"])
    for entry in entries:
        if entry.name != "f":
            equal(f"type of {entry.name}", entry.type, stat.S_IFDIR)


@check(
    "removed-open-directory",
    "rmdir(2), readdir(3): a removed directory that is open has no names (or ENOENT)",
    needs="mkdir rmdir readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.mkdir("d")
    fd = os.open(t.at("d"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        t.rmdir("d")
        try:
            names = [entry.name for entry in libc.getdents(fd, 4096)]
        except FileNotFoundError:
            return
        assert set(names) <= {".", ".."}, f"a removed directory has the names {shown(names)}"
    finally:
        os.close(fd)


@check(
    "tree-of-directories",
    "readdir(3): a tree is walked as it was made",
    needs="create mkdir readdir",
)
def _(t: Target) -> None:
    wanted = set()
    for outer in range(5):
        t.mkdir(f"{outer}")
        for inner in range(5):
            t.mkdir(f"{outer}/{inner}")
            for name in ("a", "b"):
                t.write(f"{outer}/{inner}/{name}")
                wanted.add(f"{outer}/{inner}/{name}")
    found = {
        f"{outer}/{inner}/{name}"
        for outer in t.listdir()
        for inner in t.listdir(outer)
        for name in t.listdir(f"{outer}/{inner}")
    }
    equal("files", found, wanted)


def _fill(t: Target, count: int) -> set[str]:
    names = {f"name-{number}" for number in range(count)}
    for name in names:
        t.write(name)
    return names


def _once(seen: list[str], wanted: set[str]) -> None:
    """Every name of `wanted` was seen, once, and no other one."""
    missing = sorted(wanted - set(seen))
    assert not missing, f"{len(missing)} of {len(wanted)} names are missing: {shown(missing)}"
    twice = [name for name, count in Counter(seen).items() if count > 1]
    assert not twice, f"{len(twice)} names were listed more than once: {shown(twice)}"
    strange = sorted(set(seen) - wanted)
    assert not strange, f"names that are not there were listed: {shown(strange)}"


def _opened(t: Target) -> int:
    return os.open(t.at("."), os.O_RDONLY | os.O_DIRECTORY)


def _names(fd: int, room: int) -> list[str]:
    """The names of an open directory from where it stands, without "." and ".."."""
    names: list[str] = []
    while part := libc.getdents(fd, room):
        names += [entry.name for entry in part]
    return [name for name in names if name not in (".", "..")]
