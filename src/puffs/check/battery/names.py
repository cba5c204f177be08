"""Names: making files and directories, taking them away, and what cannot be a name."""

import errno
import os
import stat

from puffs.check.expect import equal, expect
from puffs.check.registry import battery
from puffs.check.target import Target, append

check = battery("names")

NAME_MAX = 255


@check(
    "create-makes-an-empty-file",
    "open(2) O_CREAT: a regular file of no length",
    needs="create",
)
def _(t: Target) -> None:
    t.write("f")
    st = t.lstat("f")
    assert stat.S_ISREG(st.st_mode), f"the new file is of type {stat.filemode(st.st_mode)}"
    equal("size of the new file", st.st_size, 0)
    equal("link count of the new file", st.st_nlink, 1)


@check(
    "create-belongs-to-the-caller",
    "open(2): the owner of a new file is the caller's effective user",
    needs="create mkdir",
)
def _(t: Target) -> None:
    t.write("f")
    t.mkdir("d")
    for name in ("f", "d"):
        equal(f"owner of {name}", t.stat(name).st_uid, os.geteuid())


@check(
    "create-excl-of-an-existing-name",
    "open(2) O_EXCL: EEXIST, also for a dangling symbolic link",
    needs="create mkdir symlink",
)
def _(t: Target) -> None:
    t.write("file")
    t.mkdir("directory")
    t.symlink("nowhere", "link")
    for name in ("file", "directory", "link"):
        expect(errno.EEXIST, t.open, name, "xb")
    assert not t.exists("nowhere"), "the target of the link was made"


@check(
    "create-of-an-existing-file-keeps-it",
    "open(2) O_CREAT: an existing file is opened as it is",
    needs="create read write",
)
def _(t: Target) -> None:
    t.write("f", b"old")
    before = t.ino("f")
    with t.open("f", "ab") as file:
        append(file, b"new")
    equal("inode number", t.ino("f"), before)
    equal("content", t.read("f"), b"oldnew")


@check("open-of-a-missing-file", "open(2): ENOENT without O_CREAT")
def _(t: Target) -> None:
    expect(errno.ENOENT, t.open, "missing")
    expect(errno.ENOENT, t.stat, "missing")
    expect(errno.ENOENT, t.lstat, "missing")


@check(
    "create-in-a-missing-directory",
    "open(2), mkdir(2): ENOENT when a directory of the path is missing",
    needs="create mkdir",
)
def _(t: Target) -> None:
    expect(errno.ENOENT, t.open, "missing/f", "wb")
    expect(errno.ENOENT, t.mkdir, "missing/d")


@check(
    "file-in-the-place-of-a-directory",
    "path_resolution(7): ENOTDIR when a component is no directory",
    needs="create mkdir remove",
)
def _(t: Target) -> None:
    t.write("f")
    for call in (t.stat, t.open, t.mkdir, t.remove, t.listdir):
        expect(errno.ENOTDIR, call, "f/x")


@check(
    "trailing-slash",
    "path_resolution(7): a slash at the end of a path asks for a directory",
    needs="create mkdir",
)
def _(t: Target) -> None:
    t.write("f")
    t.mkdir("d")
    expect(errno.ENOTDIR, t.stat, "f/")
    equal("inode number of d/", t.ino("d/"), t.ino("d"))


@check(
    "dot-and-dotdot",
    'path_resolution(7): "." is the directory itself, ".." the one above',
    needs="mkdir",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.mkdir("d/e")
    equal("inode number of d/.", t.ino("d/."), t.ino("d"))
    equal("inode number of d/e/..", t.ino("d/e/.."), t.ino("d"))
    equal("inode number of d/..", t.ino("d/.."), t.ino("."))


@check(
    "open-of-a-directory-for-writing",
    "open(2): EISDIR",
    needs="mkdir write",
)
def _(t: Target) -> None:
    t.mkdir("d")
    expect(errno.EISDIR, t.open, "d", "r+b")
    expect(errno.EISDIR, t.open, "d", "wb")


@check(
    "mkdir-makes-an-empty-directory",
    "mkdir(2): the new directory is empty",
    needs="mkdir readdir",
)
def _(t: Target) -> None:
    t.mkdir("d")
    assert stat.S_ISDIR(t.lstat("d").st_mode), "mkdir made something else"
    equal("names in the new directory", t.listdir("d"), [])
    equal("names in the directory above", t.listdir(), ["d"])


@check(
    "mkdir-mode",
    "mkdir(2): the permission bits are mode & ~umask",
    needs="mkdir",
)
def _(t: Target) -> None:
    for mode in (0o700, 0o755, 0o711):
        t.mkdir(f"{mode:o}", mode)
        equal("permission bits", f"{t.mode(f'{mode:o}'):o}", f"{mode & ~_umask():o}")


@check(
    "create-mode",
    "open(2): the permission bits of a new file are mode & ~umask",
    needs="create",
)
def _(t: Target) -> None:
    t.write("f")
    equal("permission bits", f"{t.mode('f'):o}", f"{0o666 & ~_umask():o}")


@check(
    "mkdir-of-an-existing-name",
    "mkdir(2): EEXIST, also for a dangling symbolic link",
    needs="create mkdir symlink",
)
def _(t: Target) -> None:
    t.write("file")
    t.mkdir("directory")
    t.symlink("nowhere", "link")
    for name in ("file", "directory", "link", "."):
        expect(errno.EEXIST, t.mkdir, name)


@check(
    "remove-takes-the-name-away",
    "unlink(2): the name is gone",
    needs="create remove readdir",
)
def _(t: Target) -> None:
    t.write("f")
    t.write("g")
    t.remove("f")
    expect(errno.ENOENT, t.lstat, "f")
    equal("names", t.listdir(), ["g"])


@check(
    "remove-of-a-missing-name",
    "unlink(2), rmdir(2): ENOENT",
    needs="remove rmdir",
)
def _(t: Target) -> None:
    expect(errno.ENOENT, t.remove, "missing")
    expect(errno.ENOENT, t.rmdir, "missing")


@check(
    "remove-of-a-directory",
    "unlink(2): EISDIR (POSIX: EPERM), and the directory stays",
    needs="mkdir remove",
)
def _(t: Target) -> None:
    t.mkdir("d")
    expect((errno.EISDIR, errno.EPERM), t.remove, "d")
    assert t.exists("d"), "the directory is gone"


@check(
    "rmdir-takes-an-empty-directory-away",
    "rmdir(2): the directory is gone",
    needs="mkdir rmdir readdir",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.rmdir("d")
    expect(errno.ENOENT, t.lstat, "d")
    equal("names", t.listdir(), [])


@check(
    "rmdir-of-a-full-directory",
    "rmdir(2): ENOTEMPTY (or EEXIST), and nothing is lost",
    needs="create mkdir rmdir",
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.write("d/f")
    expect((errno.ENOTEMPTY, errno.EEXIST), t.rmdir, "d")
    assert t.exists("d/f"), "the file in the directory is gone"


@check(
    "rmdir-of-a-file",
    "rmdir(2): ENOTDIR, also for a symbolic link to a directory",
    needs="create mkdir symlink rmdir",
)
def _(t: Target) -> None:
    t.write("f")
    t.mkdir("d")
    t.symlink("d", "link")
    expect(errno.ENOTDIR, t.rmdir, "f")
    expect(errno.ENOTDIR, t.rmdir, "link")


@check(
    "name-used-again",
    "unlink(2), open(2): the next file of a name has nothing of the one before",
    needs="create read write remove mkdir rmdir",
)
def _(t: Target) -> None:
    t.write("n", b"old content")
    t.remove("n")
    t.write("n")
    equal("content of the new file", t.read("n"), b"")
    t.remove("n")
    t.mkdir("n")
    assert stat.S_ISDIR(t.stat("n").st_mode), "a directory in place of a file is none"
    t.rmdir("n")
    t.write("n", b"file")
    equal("content of a file in place of a directory", t.read("n"), b"file")


@check(
    "name-of-255-bytes",
    "pathconf(3) NAME_MAX: 255 bytes can be a name",
    needs="create mkdir remove rmdir readdir",
)
def _(t: Target) -> None:
    limit = t.statvfs().f_namemax or NAME_MAX
    equal("f_namemax of statvfs", limit, NAME_MAX)
    name, directory = "n" * NAME_MAX, "ü" * (NAME_MAX // 2) + "d"
    t.write(name)
    t.mkdir(directory)
    equal("names", set(t.listdir()), {name, directory})
    t.stat(f"{directory}/../{name}")
    t.remove(name)
    t.rmdir(directory)
    equal("names after removal", t.listdir(), [])


@check(
    "name-of-256-bytes",
    "open(2), mkdir(2), stat(2): ENAMETOOLONG beyond NAME_MAX",
    needs="create mkdir",
)
def _(t: Target) -> None:
    name = "n" * (NAME_MAX + 1)
    expect(errno.ENAMETOOLONG, t.lstat, name)
    expect(errno.ENAMETOOLONG, t.open, name, "wb")
    expect(errno.ENAMETOOLONG, t.mkdir, name)


@check(
    "name-of-any-bytes",
    "POSIX 3.170: a name may hold every byte but NUL and slash, and is no text",
    needs="create read write remove readdir",
)
def _(t: Target) -> None:
    names = {"new\nline", " blank ", "back\\slash", "-dash", "quo'te\"", "...", "ü", "\x01\x7f"}
    names.add(os.fsdecode(b"not UTF-8: \xff\xfe\x80"))
    for name in names:
        t.write(name, os.fsencode(name))
    equal("names", set(t.listdir()), names)
    for name in names:
        equal(f"content of {name!r}", t.read(name), os.fsencode(name))
        t.remove(name)
    equal("names after removal", t.listdir(), [])


@check(
    "names-are-compared-byte-by-byte",
    "POSIX 4.13: names differ in case and in Unicode form, as bytes do",
    needs="create write read",
)
def _(t: Target) -> None:
    names = ("a", "A", "\u00e9", "e\u0301", "ss", "ß")
    for name in names:
        t.write(name, ascii(name).encode())
    for name in names:
        equal(f"content of {name!a}", t.read(name), ascii(name).encode())


@check(
    "a-thousand-names",
    "open(2), stat(2): each of many names in one directory leads to its own file",
    needs="create write",
)
def _(t: Target) -> None:
    for number in range(1000):
        t.write(str(number), b"x" * (number % 7))
    for number in range(1000):
        equal(f"size of {number}", t.stat(str(number)).st_size, number % 7)


@check(
    "fifty-directories-deep",
    "mkdir(2), rmdir(2): directories in directories",
    needs="mkdir rmdir create read write remove",
)
def _(t: Target) -> None:
    paths = ["/".join(["d"] * depth) for depth in range(1, 51)]
    for path in paths:
        t.mkdir(path)
    t.write(paths[-1] + "/f", b"deep")
    equal("content at the bottom", t.read(paths[-1] + "/f"), b"deep")
    t.remove(paths[-1] + "/f")
    for path in reversed(paths):
        t.rmdir(path)
    assert not t.exists("d"), "the topmost directory is still there"


@check(
    "access-of-a-name", "access(2): F_OK tells whether there is such a file", needs="create write"
)
def _(t: Target) -> None:
    t.write("f")
    assert t.access("f", os.F_OK), "access says that the file does not exist"
    assert t.access("f", os.R_OK | os.W_OK), "the owner may not read and write his new file"
    assert not t.access("missing", os.F_OK), "access says that a missing file exists"


def _umask() -> int:
    """The umask of this process, which can be asked only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
