"""Attributes: mode, owner, times, numbers, and when they must move by themselves."""

import errno
import os
import stat
import time
from collections.abc import Callable

from puffs.check import libc
from puffs.check.expect import PAUSES, equal, expect, leave_out, until_moved
from puffs.check.registry import battery
from puffs.check.target import Target, append, write_at

check = battery("attributes")

SECOND = 1_000_000_000
SLACK = 3 * SECOND
"""How far the clocks and time stamps of the file server and of this process may be apart."""


# ------------------------------------------------------------------------------------------- mode


@check(
    "chmod",
    "chmod(2): the permission bits are as set, the type stays",
    needs="create mkdir setattr",
)
def _(t: Target) -> None:
    t.write("f")
    t.mkdir("d")
    for name, kind in (("f", stat.S_IFREG), ("d", stat.S_IFDIR)):
        for mode in (0o600, 0o755, 0o444, 0o000, 0o777):
            t.chmod(name, mode)
            st = t.stat(name)
            equal(f"mode of {name}", f"{st.st_mode:o}", f"{kind | mode:o}")


@check(
    "chmod-special-bits",
    "chmod(2): set-user-ID, set-group-ID and sticky bit",
    needs="create mkdir setattr",
    root=True,
)
def _(t: Target) -> None:
    t.write("f")
    t.mkdir("d")
    for name, mode in (("f", 0o4755), ("f", 0o2755), ("d", 0o1777), ("d", 0o2775), ("f", 0o755)):
        t.chmod(name, mode)
        equal(f"mode of {name}", f"{t.mode(name):o}", f"{mode:o}")


@check(
    "chmod-follows-a-symbolic-link",
    "chmod(2): the target is changed, not the link",
    needs="create symlink readlink setattr",
)
def _(t: Target) -> None:
    t.write("f")
    t.symlink("f", "link")
    before = t.lstat("link").st_mode
    t.chmod("link", 0o640)
    equal("mode of the target", f"{t.mode('f'):o}", "640")
    equal("mode of the link", f"{t.lstat('link').st_mode:o}", f"{before:o}")


@check("attributes-of-a-missing-file", "chmod(2), chown(2), utimensat(2): ENOENT", needs="setattr")
def _(t: Target) -> None:
    expect(errno.ENOENT, t.chmod, "missing", 0o600)
    expect(errno.ENOENT, t.chown, "missing", os.geteuid(), os.getegid())
    expect(errno.ENOENT, t.touch, "missing")


@check(
    "fchmod",
    "fchmod(2): as chmod(2), also of a file without a name",
    needs="create setattr remove",
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "wb") as file:
        t.remove("f")
        os.fchmod(file.fileno(), 0o604)
        equal("mode", f"{stat.S_IMODE(t.fstat(file).st_mode):o}", "604")


@check(
    "mkdir-in-a-set-group-id-directory",
    "inode(7): what is made in it gets its group, and directories the bit too",
    needs="create mkdir setattr",
    root=True,
)
def _(t: Target) -> None:
    t.mkdir("d")
    t.chown("d", -1, 12345)
    t.chmod("d", 0o2755)
    t.write("d/f")
    t.mkdir("d/e")
    equal("group of the file", t.stat("d/f").st_gid, 12345)
    equal("group of the directory", t.stat("d/e").st_gid, 12345)
    equal("mode of the directory", f"{t.mode('d/e') & stat.S_ISGID:o}", f"{stat.S_ISGID:o}")


# ------------------------------------------------------------------------------------------ owner


@check(
    "chown",
    "chown(2): owner and group are as set, -1 leaves them",
    needs="create setattr",
    root=True,
)
def _(t: Target) -> None:
    t.write("f")
    for uid, gid, wanted in (
        (1000, 2000, (1000, 2000)),
        (-1, 3000, (1000, 3000)),
        (4000, -1, (4000, 3000)),
        (0, 0, (0, 0)),
        (3_000_000_000, 3_000_000_001, (3_000_000_000, 3_000_000_001)),
    ):
        t.chown("f", uid, gid)
        st = t.stat("f")
        equal(f"owner after chown({uid}, {gid})", (st.st_uid, st.st_gid), wanted)


@check(
    "lchown",
    "lchown(2): the link is changed, not its target",
    needs="create symlink readlink setattr",
    root=True,
)
def _(t: Target) -> None:
    t.write("f")
    t.symlink("f", "link")
    t.lchown("link", 1000, 2000)
    st = t.lstat("link")
    equal("owner of the link", (st.st_uid, st.st_gid), (1000, 2000))
    equal("owner of the target", t.stat("f").st_uid, 0)


@check(
    "chown-clears-set-id",
    "chown(2): set-user-ID and set-group-ID of a program are cleared",
    needs="create setattr",
    root=True,
)
def _(t: Target) -> None:
    t.write("f")
    t.chmod("f", 0o6755)
    t.chown("f", 1000, 1000)
    equal("mode", f"{t.mode('f'):o}", "755")


# ------------------------------------------------------------------------------------------ times


@check(
    "utime", "utimensat(2): both times are as set, in whole seconds", needs="create mkdir setattr"
)
def _(t: Target) -> None:
    t.write("f")
    t.mkdir("d")
    for name in ("f", "d"):
        t.utime(name, 1_000_000_000 * SECOND, 1_234_567_890 * SECOND)
        st = t.stat(name)
        equal(f"atime of {name}", st.st_atime_ns, 1_000_000_000 * SECOND)
        equal(f"mtime of {name}", st.st_mtime_ns, 1_234_567_890 * SECOND)


@check(
    "utime-fractions",
    "utimensat(2): the greatest time the file system can keep that is not later",
    needs="create setattr",
)
def _(t: Target) -> None:
    t.write("f")
    for asked in (1_000_000_000_123_456_789, 1_234_567_890_999_999_999):
        t.utime("f", asked, asked)
        st = t.stat("f")
        wanted = {asked - asked % step for step in (1, 100, 1000, 10**6, 10**7, SECOND, 2 * SECOND)}
        for what, got in (("atime", st.st_atime_ns), ("mtime", st.st_mtime_ns)):
            assert got in wanted, f"{what}: {got} where {asked} was set"


@check(
    "utime-before-1970-and-after-2038",
    "utimensat(2): times are signed, and more than 32 bits",
    needs="create setattr",
)
def _(t: Target) -> None:
    t.write("f")
    for seconds in (-1, -86_400 * 365, 2**31, 2**32 + 5):
        t.utime("f", seconds * SECOND, seconds * SECOND)
        equal("mtime", t.stat("f").st_mtime_ns, seconds * SECOND)
        equal("atime", t.stat("f").st_atime_ns, seconds * SECOND)


@check("utime-now", "utimensat(2): without times both are set to now", needs="create setattr")
def _(t: Target) -> None:
    t.write("f")
    t.utime("f", 0, 0)
    t.touch("f")
    st = t.stat("f")
    _now("atime", st.st_atime_ns)
    _now("mtime", st.st_mtime_ns)


@check(
    "utime-omit",
    "utimensat(2) UTIME_OMIT, UTIME_NOW: each time for itself",
    needs="create setattr",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.write("f")
    t.utime("f", 1 * SECOND, 2 * SECOND)
    libc.utimens(t.at("f"), (0, libc.UTIME_OMIT), (5, 0))
    st = t.stat("f")
    equal("atime, left out", st.st_atime_ns, 1 * SECOND)
    equal("mtime, set", st.st_mtime_ns, 5 * SECOND)
    libc.utimens(t.at("f"), (0, libc.UTIME_NOW), (0, libc.UTIME_OMIT))
    st = t.stat("f")
    _now("atime, set to now", st.st_atime_ns)
    equal("mtime, left out", st.st_mtime_ns, 5 * SECOND)


@check(
    "utime-of-a-symbolic-link",
    "utimensat(2) AT_SYMLINK_NOFOLLOW: the link is changed, not its target",
    needs="create symlink readlink setattr",
)
def _(t: Target) -> None:
    t.write("f")
    t.utime("f", 7 * SECOND, 7 * SECOND)
    t.symlink("f", "link")
    t.utime("link", 8 * SECOND, 9 * SECOND, follow=False)
    equal("mtime of the link", t.lstat("link").st_mtime_ns, 9 * SECOND)
    equal("mtime of the target", t.stat("link").st_mtime_ns, 7 * SECOND)


@check(
    "times-of-a-new-file",
    "open(2), mkdir(2), POSIX: all times of what is made are now",
    needs="create mkdir",
)
def _(t: Target) -> None:
    t.write("f")
    t.mkdir("d")
    for name in ("f", "d"):
        st = t.stat(name)
        _now(f"mtime of {name}", st.st_mtime_ns)
        _now(f"ctime of {name}", st.st_ctime_ns)
        _now(f"atime of {name}", st.st_atime_ns)


@check(
    "write-moves-mtime-and-ctime",
    "write(2), POSIX: mtime and ctime are marked",
    needs="create write",
)
def _(t: Target) -> None:
    with t.open("f", "wb") as file:
        until_moved("mtime", lambda: t.stat("f").st_mtime_ns, lambda: append(file, b"x"))
        until_moved("ctime", lambda: t.stat("f").st_ctime_ns, lambda: append(file, b"x"))


@check(
    "write-moves-an-old-mtime",
    "write(2), POSIX: mtime becomes now, whatever it was set to",
    needs="create write setattr",
)
def _(t: Target) -> None:
    t.write("f", b"content")
    t.utime("f", 5 * SECOND, 5 * SECOND)
    with t.open("f", "r+b") as file:
        write_at(file, 0, b"C")
    _now("mtime", t.stat("f").st_mtime_ns)


@check(
    "truncate-moves-mtime",
    "truncate(2), POSIX: mtime is marked when the size changes",
    needs="create write setattr",
)
def _(t: Target) -> None:
    t.write("f", b"content")
    for size in (3, 10):
        t.utime("f", 5 * SECOND, 5 * SECOND)
        t.truncate("f", size)
        _now(f"mtime after truncation to {size} bytes", t.stat("f").st_mtime_ns)


@check(
    "chmod-moves-ctime",
    "chmod(2), chown(2), utimensat(2), POSIX: ctime is marked, mtime is not",
    needs="create setattr",
)
def _(t: Target) -> None:
    t.write("f")
    t.utime("f", 5 * SECOND, 5 * SECOND)
    for act in (
        lambda: t.chmod("f", t.mode("f") ^ 0o010),
        lambda: t.chown("f", os.geteuid(), os.getegid()),
        lambda: t.utime("f", 5 * SECOND, 5 * SECOND),
    ):
        until_moved("ctime", lambda: t.stat("f").st_ctime_ns, act)
        equal("mtime", t.stat("f").st_mtime_ns, 5 * SECOND)


@check(
    "read-leaves-mtime",
    "read(2), POSIX: reading marks neither mtime nor ctime",
    needs="create read write setattr",
)
def _(t: Target) -> None:
    t.write("f", b"content")
    t.utime("f", 5 * SECOND, 5 * SECOND)
    before = t.stat("f")
    t.read("f")
    after = t.stat("f")
    equal("mtime", after.st_mtime_ns, before.st_mtime_ns)
    equal("ctime", after.st_ctime_ns, before.st_ctime_ns)


Act = Callable[[Target, str], object]

# What marks the times of a directory: how it is prepared, what is done, what it needs beside mkdir.
_DIRECTORY_TIMES: tuple[tuple[str, Act, Act, str], ...] = (
    ("create", lambda t, n: None, lambda t, n: t.write(f"d/{n}"), "create"),
    ("mkdir", lambda t, n: None, lambda t, n: t.mkdir(f"d/{n}"), ""),
    ("symlink", lambda t, n: None, lambda t, n: t.symlink("x", f"d/{n}"), "symlink"),
    ("mknod", lambda t, n: None, lambda t, n: t.mknod(f"d/{n}", stat.S_IFIFO | 0o600), "mknod"),
    ("link", lambda t, n: t.write(n), lambda t, n: t.link(n, f"d/{n}"), "create link"),
    ("remove", lambda t, n: t.write(f"d/{n}"), lambda t, n: t.remove(f"d/{n}"), "create remove"),
    ("rmdir", lambda t, n: t.mkdir(f"d/{n}"), lambda t, n: t.rmdir(f"d/{n}"), "rmdir"),
    (
        "rename",
        lambda t, n: t.write(f"d/{n}"),
        lambda t, n: t.rename(f"d/{n}", f"d/{n}-moved"),
        "create rename",
    ),
)


def _marks_directory(operation: str, prepare: Act, act: Act, needs: str) -> None:
    @check(
        f"{operation}-moves-the-times-of-the-directory",
        f"{operation}(2), POSIX: mtime and ctime of the directory are marked",
        needs=f"mkdir {needs}",
    )
    def _(t: Target) -> None:
        t.mkdir("d")
        for what in ("st_mtime_ns", "st_ctime_ns"):
            names = iter([f"{what}-{number}" for number in range(len(PAUSES))])
            name = ""

            def prepare_next() -> None:
                nonlocal name
                name = next(names)  # noqa: B023  # called within this turn of the loop
                prepare(t, name)

            until_moved(
                f"{what[3:8]} of the directory",
                lambda: int(getattr(t.stat("d"), what)),  # noqa: B023
                lambda: act(t, name),  # noqa: B023
                prepare_next,
            )


for _row in _DIRECTORY_TIMES:
    _marks_directory(*_row)


# ---------------------------------------------------------------------------------------- numbers


@check(
    "inode-numbers",
    "stat(2): st_ino is the same for the same file, and another for another one",
    needs="create mkdir symlink",
)
def _(t: Target) -> None:
    if not t.numbered:
        leave_out("the file server does not number its files")
    t.write("f")
    t.write("g")
    t.mkdir("d")
    t.symlink("f", "link")
    names = (".", "f", "g", "d", "link")
    first = [t.lstat(name).st_ino for name in names]
    equal("different inode numbers", len(set(first)), len(names))
    equal("inode numbers asked again", [t.lstat(name).st_ino for name in names], first)
    equal("devices", {t.lstat(name).st_dev for name in names}, {t.stat().st_dev})


@check(
    "stat-and-fstat-agree",
    "fstat(2): the same attributes by name and by open file",
    needs="create write setattr",
)
def _(t: Target) -> None:
    t.write("f", b"content")
    t.chmod("f", 0o640)
    with t.open("f", "r+b") as file:
        write_at(file, 0, b"longer than before")
        by_name, by_file = t.stat("f"), t.fstat(file)
    for field in ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns"):
        equal(f"{field} of fstat", getattr(by_file, field), getattr(by_name, field))


def _now(what: str, time_ns: int) -> None:
    away = (time_ns - time.time_ns()) / SECOND
    assert abs(away) < SLACK / SECOND, f"{what} is {away:+.3f} s away from now"
