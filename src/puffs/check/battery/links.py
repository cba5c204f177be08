"""Hard links, files without a name, symbolic links."""

import errno
import os
import stat

from puffs.check.expect import PAUSES, equal, expect, until_moved
from puffs.check.registry import battery
from puffs.check.target import Target, read_at, write_at

check = battery("links")


@check(
    "link-counts",
    "link(2), unlink(2): st_nlink counts the names of a file",
    needs="create link remove",
)
def _(t: Target) -> None:
    t.write("a")
    for number, name in enumerate(("b", "c"), 2):
        t.link("a", name)
        for either in ("a", name):
            equal(f"link count of {either}", t.stat(either).st_nlink, number)
    t.remove("a")
    equal("link count after the first name went", t.stat("b").st_nlink, 2)
    t.remove("c")
    equal("link count after the second name went", t.stat("b").st_nlink, 1)


@check(
    "link-is-the-same-file",
    "link(2): both names lead to one file",
    needs="create read write link",
)
def _(t: Target) -> None:
    t.write("a", b"old")
    t.link("a", "b")
    equal("inode number", t.ino("b"), t.ino("a"))
    with t.open("b", "r+b") as file:
        write_at(file, 0, b"longer than before")
    equal("content under the other name", t.read("a"), b"longer than before")
    equal("size under the other name", t.stat("a").st_size, 18)


@check(
    "link-survives-the-first-name",
    "unlink(2): the file lives as long as it has a name",
    needs="create mkdir read write link remove",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.write("a", b"content")
    t.link("a", "d/b")
    t.remove("a")
    equal("content under the second name", t.read("d/b"), b"content")


@check(
    "link-to-an-existing-name",
    "link(2): EEXIST, and the target stays",
    needs="create mkdir read write link",
)
def _(t: Target) -> None:
    t.write("a", b"from a")
    t.write("b", b"from b")
    t.mkdir("d")
    expect(errno.EEXIST, t.link, "a", "b")
    expect(errno.EEXIST, t.link, "a", "d")
    expect(errno.EEXIST, t.link, "a", "a")
    equal("content of the target", t.read("b"), b"from b")
    equal("link count", t.stat("a").st_nlink, 1)


@check("link-of-a-missing-name", "link(2): ENOENT", needs="create link")
def _(t: Target) -> None:
    t.write("a")
    expect(errno.ENOENT, t.link, "missing", "b")
    expect(errno.ENOENT, t.link, "a", "missing/b")


@check("link-of-a-directory", "link(2): EPERM", needs="mkdir link")
def _(t: Target) -> None:
    t.mkdir("d")
    expect(errno.EPERM, t.link, "d", "e")


@check("link-moves-ctime", "link(2), POSIX: ctime of the file is marked", needs="create link")
def _(t: Target) -> None:
    t.write("a")
    names = iter(range(len(PAUSES)))
    until_moved("ctime", lambda: t.stat("a").st_ctime_ns, lambda: t.link("a", str(next(names))))


@check(
    "remove-moves-ctime",
    "unlink(2), POSIX: ctime of a file with further names is marked",
    needs="create link remove",
)
def _(t: Target) -> None:
    t.write("a")
    until_moved(
        "ctime",
        lambda: t.stat("a").st_ctime_ns,
        lambda: t.remove("b"),
        prepare=lambda: t.link("a", "b"),
    )


@check(
    "unlinked-open-file",
    "unlink(2): a file without a name can be used by those who have it open",
    needs="create read write remove",
)
def _(t: Target) -> None:
    t.write("f", b"content")
    with t.open("f", "r+b") as file:
        t.remove("f")
        equal("content", read_at(file, 0), b"content")
        write_at(file, 7, b" and more")
        equal("content after a write", read_at(file, 0), b"content and more")
        st = t.fstat(file)
        equal("size", st.st_size, 16)
        equal("link count", st.st_nlink, 0)
    expect(errno.ENOENT, t.stat, "f")


@check(
    "unlinked-open-file-and-its-successor",
    "unlink(2): a new file of the same name is another file",
    needs="create read write remove",
)
def _(t: Target) -> None:
    t.write("f", b"first")
    with t.open("f", "r+b") as file:
        t.remove("f")
        t.write("f", b"second")
        write_at(file, 0, b"FIRST")
        equal("content of the first file", read_at(file, 0), b"FIRST")
    equal("content of the second file", t.read("f"), b"second")


@check(
    "unlinked-open-file-truncated",
    "ftruncate(2): a file without a name can be cut and extended",
    needs="create read write setattr remove",
)
def _(t: Target) -> None:
    t.write("f", b"content")
    with t.open("f", "r+b") as file:
        t.remove("f")
        file.truncate(3)
        equal("content", read_at(file, 0), b"con")


@check(
    "directory-link-count",
    "stat(2): 2 and one for each subdirectory; 1 where they are not counted",
    needs="mkdir rmdir",
)
def _(t: Target) -> None:
    t.mkdir("d")
    empty = t.stat("d").st_nlink
    assert empty in (1, 2), f"link count of an empty directory is {empty}"
    for number in range(1, 4):
        t.mkdir(f"d/{number}")
        wanted = 1 if empty == 1 else 2 + number
        equal(f"link count with {number} subdirectories", t.stat("d").st_nlink, wanted)
    t.rmdir("d/2")
    equal("link count after one has gone", t.stat("d").st_nlink, 1 if empty == 1 else 4)


@check(
    "symlink-holds-its-target",
    "symlink(2), readlink(2): any text comes back as it was",
    needs="symlink readlink",
)
def _(t: Target) -> None:
    targets = ("f", "../up/./down//x/", "/absolute", "blank and \n", os.fsdecode(b"\xff\xfe"), "ü")
    for number, target in enumerate((*targets, "x" * 1023)):
        t.symlink(target, str(number))
        equal("what the link holds", t.readlink(str(number)), target)
        st = t.lstat(str(number))
        assert stat.S_ISLNK(st.st_mode), f"the link is of type {stat.filemode(st.st_mode)}"
        equal("size of the link", st.st_size, len(os.fsencode(target)))


@check(
    "symlink-is-followed",
    "path_resolution(7): a link leads to its target, from the directory that it is in",
    needs="create mkdir read write symlink readlink",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.write("f", b"content")
    t.write("d/g", b"below")
    t.symlink("../f", "d/up")
    t.symlink("d", "way")
    equal("content through the link", t.read("d/up"), b"content")
    equal("content through a link to a directory", t.read("way/g"), b"below")
    equal("content through both", t.read("way/up"), b"content")
    equal("inode number through the link", t.ino("d/up"), t.ino("f"))
    assert stat.S_ISLNK(t.lstat("d/up").st_mode), "lstat followed the link"


@check(
    "symlink-over-an-existing-name",
    "symlink(2): EEXIST",
    needs="create symlink",
)
def _(t: Target) -> None:
    t.write("f")
    t.symlink("f", "link")
    expect(errno.EEXIST, t.symlink, "x", "f")
    expect(errno.EEXIST, t.symlink, "x", "link")


@check(
    "symlink-dangling",
    "open(2): ENOENT; with O_CREAT the target is made",
    needs="create symlink readlink",
)
def _(t: Target) -> None:
    t.symlink("target", "link")
    expect(errno.ENOENT, t.stat, "link")
    expect(errno.ENOENT, t.open, "link")
    t.write("link")
    assert stat.S_ISREG(t.lstat("target").st_mode), "the target of the link was not made"
    assert stat.S_ISLNK(t.lstat("link").st_mode), "the link was replaced"


@check("symlink-loop", "path_resolution(7): ELOOP", needs="symlink readlink")
def _(t: Target) -> None:
    t.symlink("a", "a")
    t.symlink("c", "b")
    t.symlink("b", "c")
    for name in ("a", "b", "c/x"):
        expect(errno.ELOOP, t.stat, name)
    expect(errno.ELOOP, t.open, "b")


@check(
    "symlink-chain",
    "POSIX SYMLOOP_MAX: at least eight links in a row are followed",
    needs="create read write symlink readlink",
)
def _(t: Target) -> None:
    t.write("0", b"end")
    for number in range(1, 9):
        t.symlink(str(number - 1), str(number))
    equal("content through eight links", t.read("8"), b"end")


@check(
    "symlink-removed",
    "unlink(2): the link goes, and what it leads to stays",
    needs="create symlink readlink remove",
)
def _(t: Target) -> None:
    t.write("f")
    t.symlink("f", "link")
    t.remove("link")
    assert not t.exists("link"), "the link is still there"
    assert t.exists("f"), "what the link led to is gone"


@check("readlink-of-no-link", "readlink(2): EINVAL", needs="create mkdir symlink readlink")
def _(t: Target) -> None:
    t.write("f")
    t.mkdir("d")
    expect(errno.EINVAL, t.readlink, "f")
    expect(errno.EINVAL, t.readlink, "d")
    expect(errno.ENOENT, t.readlink, "missing")
