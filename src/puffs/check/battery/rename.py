"""Renaming: what moves, what is replaced, and what must not be."""

import errno
import stat

import puffs
from puffs.check.expect import equal, expect, leave_out, until_moved
from puffs.check.registry import battery
from puffs.check.target import Target, read_at, write_at

check = battery("rename")


@check(
    "rename-moves-the-name",
    "rename(2): the file has the new name, and the old one is gone",
    needs="create read write rename readdir",
)
def _(t: Target) -> None:
    t.write("old", b"content")
    before = t.ino("old")
    t.rename("old", "new")
    expect(errno.ENOENT, t.lstat, "old")
    equal("names", t.listdir(), ["new"])
    equal("inode number", t.ino("new"), before)
    equal("content", t.read("new"), b"content")


@check(
    "rename-replaces-target",
    "rename(2), POSIX: the target is replaced in one step",
    needs="create read write rename readdir",
)
def _(t: Target) -> None:
    t.write("a", b"from a")
    t.write("b", b"from b")
    t.rename("a", "b")
    equal("content under the new name", t.read("b"), b"from a")
    equal("names", t.listdir(), ["b"])


@check(
    "rename-keeps-a-replaced-open-file",
    "rename(2): a replaced file lives on for those who have it open",
    needs="create read write rename",
)
def _(t: Target) -> None:
    t.write("a", b"new")
    t.write("b", b"replaced")
    with t.open("b", "r+b") as file:
        t.rename("a", "b")
        equal("what the open file holds", read_at(file, 0), b"replaced")
        write_at(file, 0, b"REPLACED")
        equal("what was written to it", read_at(file, 0), b"REPLACED")
        equal("its link count", t.fstat(file).st_nlink, 0)
    equal("content under the name", t.read("b"), b"new")


@check(
    "rename-to-itself",
    "rename(2): the same name twice is a success, and nothing happens",
    needs="create mkdir read write rename",
)
def _(t: Target) -> None:
    t.write("f", b"content")
    t.mkdir("d")
    t.rename("f", "f")
    t.rename("d", "d")
    equal("content", t.read("f"), b"content")
    assert t.exists("d"), "the directory is gone"


@check(
    "rename-between-links-of-one-file",
    "rename(2): two names of the same file both stay",
    needs="create rename link",
)
def _(t: Target) -> None:
    t.write("a")
    t.link("a", "b")
    t.rename("a", "b")
    assert t.exists("a"), "the old name is gone"
    assert t.exists("b"), "the new name is gone"
    equal("link count", t.stat("a").st_nlink, 2)


@check(
    "rename-of-a-missing-name",
    "rename(2): ENOENT, and the target stays",
    needs="create rename",
)
def _(t: Target) -> None:
    t.write("target")
    expect(errno.ENOENT, t.rename, "missing", "target")
    assert t.exists("target"), "the target is gone"


@check(
    "rename-to-a-missing-directory",
    "rename(2): ENOENT, and the source stays",
    needs="create rename",
)
def _(t: Target) -> None:
    t.write("f")
    expect(errno.ENOENT, t.rename, "f", "missing/f")
    assert t.exists("f"), "the source is gone"


@check(
    "rename-to-a-name-of-256-bytes",
    "rename(2): ENAMETOOLONG beyond NAME_MAX; 255 bytes are possible",
    needs="create rename",
)
def _(t: Target) -> None:
    t.write("f")
    expect(errno.ENAMETOOLONG, t.rename, "f", "n" * 256)
    t.rename("f", "n" * 255)
    assert t.exists("n" * 255), "the new name is not there"


@check(
    "rename-of-a-directory",
    "rename(2): all that is below moves along",
    needs="create mkdir read write rename",
)
def _(t: Target) -> None:
    t.mkdir("old")
    t.mkdir("old/sub")
    t.write("old/sub/f", b"content")
    t.stat("old/sub/f")
    t.rename("old", "new")
    expect(errno.ENOENT, t.stat, "old/sub/f")
    equal("content below the new name", t.read("new/sub/f"), b"content")


@check(
    "rename-to-another-directory",
    "rename(2): a file moves from one directory to another",
    needs="create mkdir rename readdir",
)
def _(t: Target) -> None:
    t.mkdir("a")
    t.mkdir("b")
    t.write("a/f")
    t.rename("a/f", "b/g")
    equal("names in the old directory", t.listdir("a"), [])
    equal("names in the new directory", t.listdir("b"), ["g"])


@check(
    "rename-of-a-directory-to-another-one",
    'rename(2): ".." of a moved directory is its new parent',
    needs="mkdir rename",
)
def _(t: Target) -> None:
    t.mkdir("a")
    t.mkdir("b")
    t.mkdir("a/d")
    t.rename("a/d", "b/d")
    equal("inode number of b/d/..", t.ino("b/d/.."), t.ino("b"))
    if t.stat("b").st_nlink > 1:  # where directories count
        equal("link count of the new parent", t.stat("b").st_nlink, 3)
        equal("link count of the old parent", t.stat("a").st_nlink, 2)


@check(
    "rename-over-an-empty-directory",
    "rename(2): a directory replaces an empty one",
    needs="create mkdir rename",
)
def _(t: Target) -> None:
    t.mkdir("a")
    t.write("a/f")
    t.mkdir("b")
    t.rename("a", "b")
    assert t.exists("b/f"), "the content did not move along"
    assert not t.exists("a"), "the old name is still there"


@check(
    "rename-over-a-full-directory",
    "rename(2): ENOTEMPTY (or EEXIST), and nothing is lost",
    needs="create mkdir rename",
)
def _(t: Target) -> None:
    t.mkdir("a")
    t.mkdir("b")
    t.write("b/f")
    expect((errno.ENOTEMPTY, errno.EEXIST), t.rename, "a", "b")
    assert t.exists("a"), "the source is gone"
    assert t.exists("b/f"), "the content of the target is gone"


@check(
    "rename-of-a-directory-over-a-file",
    "rename(2): ENOTDIR, and nothing is lost",
    needs="create mkdir rename",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.write("f")
    expect(errno.ENOTDIR, t.rename, "d", "f")
    assert stat.S_ISREG(t.stat("f").st_mode), "the file is gone"


@check(
    "rename-of-a-file-over-a-directory",
    "rename(2): EISDIR, and nothing is lost",
    needs="create mkdir rename",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.write("f")
    expect(errno.EISDIR, t.rename, "f", "d")
    assert stat.S_ISDIR(t.stat("d").st_mode), "the directory is gone"


@check(
    "rename-into-its-own-subtree",
    "rename(2): EINVAL, and the directory stays",
    needs="mkdir rename",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.mkdir("d/e")
    expect(errno.EINVAL, t.rename, "d", "d/e/f")
    expect(errno.EINVAL, t.rename, "d", "d/e")
    assert t.exists("d/e"), "the directory is gone"


@check(
    "rename-over-its-own-parent",
    "rename(2): ENOTEMPTY (or EEXIST), as the parent is not empty",
    needs="create mkdir rename",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.mkdir("d/e")
    expect((errno.ENOTEMPTY, errno.EEXIST), t.rename, "d/e", "d")
    assert t.exists("d/e"), "the directory is gone"


@check(
    "rename-of-a-symbolic-link",
    "rename(2): the link itself moves, and a link at the target is replaced itself",
    needs="create read write symlink rename readlink",
)
def _(t: Target) -> None:
    t.write("f", b"content")
    t.symlink("f", "link")
    t.rename("link", "moved")
    equal("what the moved link holds", t.readlink("moved"), "f")
    t.write("g", b"other")
    t.rename("g", "moved")
    assert stat.S_ISREG(t.lstat("moved").st_mode), "the link was not replaced"
    equal("content of what the link led to", t.read("f"), b"content")


@check(
    "rename-of-an-open-file",
    "rename(2): an open file stays usable, also when a directory above it moves",
    needs="create mkdir read write rename",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.write("d/f", b"content")
    with t.open("d/f", "r+b") as file:
        t.rename("d/f", "d/g")
        equal("content after the file moved", read_at(file, 0), b"content")
        t.rename("d", "e")
        write_at(file, 0, b"CONTENT")
        equal("content after the directory moved", read_at(file, 0), b"CONTENT")
    equal("content under the new path", t.read("e/g"), b"CONTENT")


@check(
    "rename-and-make-again",
    "rename(2): the old name is free for another file",
    needs="create read write rename",
)
def _(t: Target) -> None:
    t.write("log", b"first")
    t.rename("log", "log.1")
    t.write("log", b"second")
    equal("content of the old file", t.read("log.1"), b"first")
    equal("content of the new file", t.read("log"), b"second")


@check(
    "rename-of-one-of-two-links",
    "rename(2): a replaced name takes one link of its file away",
    needs="create rename link",
)
def _(t: Target) -> None:
    t.write("a")
    t.link("a", "b")
    t.write("c")
    t.rename("c", "b")
    equal("link count of the file that lost a name", t.stat("a").st_nlink, 1)


@check(
    "rename-moves-the-times-of-both-directories",
    "rename(2), POSIX: mtime and ctime of both parents are marked",
    needs="create mkdir rename",
)
def _(t: Target) -> None:
    t.mkdir("a")
    t.mkdir("b")
    t.write("a/f")

    def there_and_back() -> None:
        t.rename("a/f", "b/f")
        t.rename("b/f", "a/f")

    for name in ("a", "b"):
        until_moved(f"mtime of {name}", lambda n=name: t.stat(n).st_mtime_ns, there_and_back)  # type: ignore[misc]


@check(
    "rename-noreplace",
    "renameat2(2) RENAME_NOREPLACE: EEXIST when the target exists",
    needs="create read write rename",
)
def _(t: Target) -> None:
    t.write("a", b"from a")
    t.write("b", b"from b")
    _flagged(t, "a", "c", puffs.RENAME_NOREPLACE)
    assert t.exists("c"), "the new name is not there"
    assert not t.exists("a"), "the old name is still there"
    expect(errno.EEXIST, t.rename2, "c", "b", puffs.RENAME_NOREPLACE)
    equal("content of the target", t.read("b"), b"from b")


@check(
    "rename-exchange",
    "renameat2(2) RENAME_EXCHANGE: both names change places, of whatever type they are",
    needs="create mkdir read write rename",
)
def _(t: Target) -> None:
    t.write("a", b"from a")
    t.write("b", b"from b")
    _flagged(t, "a", "b", puffs.RENAME_EXCHANGE)
    equal("content of a", t.read("a"), b"from b")
    equal("content of b", t.read("b"), b"from a")
    t.mkdir("d")
    t.mkdir("d/sub")
    t.rename2("a", "d/sub", puffs.RENAME_EXCHANGE)
    assert stat.S_ISDIR(t.stat("a").st_mode), "the directory did not move"
    equal("content of the file in its place", t.read("d/sub"), b"from b")
    equal('inode number of ".." of the moved directory', t.ino("a/.."), t.ino())
    expect(errno.ENOENT, t.rename2, "b", "missing", puffs.RENAME_EXCHANGE)


@check(
    "rename-whiteout",
    "renameat2(2) RENAME_WHITEOUT: the device 0:0 takes the old name",
    needs="create read write rename mknod",
    root=True,
)
def _(t: Target) -> None:
    t.write("a", b"content")
    _flagged(t, "a", "b", puffs.RENAME_WHITEOUT)
    equal("content under the new name", t.read("b"), b"content")
    st = t.lstat("a")
    assert stat.S_ISCHR(st.st_mode), f"the old name is of type {stat.filemode(st.st_mode)}"
    equal("device number", st.st_rdev, 0)


@check(
    "rename-flags-that-do-not-go-together",
    "renameat2(2): EINVAL, and both names stay",
    needs="create read write rename",
)
def _(t: Target) -> None:
    t.write("a", b"from a")
    t.write("b", b"from b")
    for flags in (
        puffs.RENAME_NOREPLACE | puffs.RENAME_EXCHANGE,
        puffs.RENAME_WHITEOUT | puffs.RENAME_EXCHANGE,
        1 << 10,
    ):
        expect(errno.EINVAL, t.rename2, "a", "b", flags)
    equal("content of a", t.read("a"), b"from a")
    equal("content of b", t.read("b"), b"from b")


def _flagged(t: Target, old: str, new: str, flags: int) -> None:
    """A rename with flags that a file server need not have."""
    try:
        t.rename2(old, new, flags)
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            leave_out("the file server refuses the flag with EINVAL")
        raise
