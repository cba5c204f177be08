"""Permissions: what another user may do. The host decides, or the file server's `access` does."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from puffs.check.expect import equal, expect
from puffs.check.registry import battery
from puffs.check.target import Target

check = battery("permissions")

OTHER = 65_534


@contextmanager
def other(t: Target, member_of: tuple[int, ...] = ()) -> Iterator[int]:
    """Be another user for a while, in these supplementary groups.

    Gives a descriptor of the directory, to start paths from. A path to the mount point may lead
    through directories that are closed to others.
    """
    groups, gid = os.getgroups(), os.getegid()
    directory = os.open(t.at("."), os.O_PATH | os.O_DIRECTORY)
    try:
        os.setgroups(member_of)
        os.setegid(OTHER)
        os.seteuid(OTHER)
        yield directory
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
        os.close(directory)


@check(
    "permission-to-read-and-write",
    "open(2): EACCES without the permission bit, for others as for the owner's group",
    needs="create read write setattr",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    for mode in (0o600, 0o644, 0o602, 0o666):
        t.write(f"{mode:o}", b"content")
        t.chmod(f"{mode:o}", mode)
    with other(t) as directory:

        def may(name: str, flags: int) -> None:
            os.close(os.open(name, flags, dir_fd=directory))

        may("644", os.O_RDONLY)
        may("666", os.O_RDWR)
        may("602", os.O_WRONLY)
        expect(errno.EACCES, may, "600", os.O_RDONLY)
        expect(errno.EACCES, may, "644", os.O_WRONLY)
        expect(errno.EACCES, may, "602", os.O_RDWR)


@check(
    "permission-of-the-group",
    "path_resolution(7): members of the group have the group's permission only",
    needs="create read write setattr",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    for name, mode in (("open", 0o640), ("closed", 0o604)):
        t.write(name, b"content")
        t.chown(name, 0, OTHER)
        t.chmod(name, mode)
    with other(t) as directory:

        def may(name: str) -> None:
            os.close(os.open(name, os.O_RDONLY, dir_fd=directory))

        may("open")
        expect(errno.EACCES, may, "closed")


@check(
    "permission-of-supplementary-groups",
    "credentials(7): each supplementary group counts as the user's group does",
    needs="create read write setattr",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    t.write("f")
    t.chown("f", 0, 4321)
    t.chmod("f", 0o640)
    for groups, granted in (((), False), ((4321,), True), ((1, 2, 4321), True), ((1, 2), False)):
        with other(t, groups) as directory:

            def may() -> None:
                os.close(os.open("f", os.O_RDONLY, dir_fd=directory))  # at once

            if granted:
                may()
            else:
                expect(errno.EACCES, may)


@check(
    "permission-to-search",
    "path_resolution(7): EACCES without search permission on a directory",
    needs="create mkdir setattr readdir",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    for name, mode in (("open", 0o755), ("no-search", 0o744), ("no-list", 0o711)):
        t.mkdir(name)
        t.write(f"{name}/f")
        t.chmod(name, mode)
    with other(t) as directory:

        def may_stat(name: str) -> None:
            os.stat(name, dir_fd=directory)

        def may_list(name: str) -> None:
            os.close(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory))

        may_stat("open/f")
        may_stat("no-list/f")
        may_list("no-search")
        expect(errno.EACCES, may_stat, "no-search/f")
        expect(errno.EACCES, may_list, "no-list")


@check(
    "permission-to-change-a-directory",
    "open(2), unlink(2), mkdir(2): EACCES without write permission on the directory",
    needs="create mkdir remove setattr",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    t.write("f")
    t.chmod("f", 0o666)
    t.mkdir("open")
    t.write("open/f")
    t.chmod("open", 0o777)
    with other(t) as directory:

        def remove(name: str) -> None:
            os.unlink(name, dir_fd=directory)

        def mkdir(name: str) -> None:
            os.mkdir(name, dir_fd=directory)

        expect(errno.EACCES, remove, "f")
        expect(errno.EACCES, mkdir, "d")
        mkdir("open/d")
        remove("open/f")
        equal("owner of what another user made", os.stat("open/d", dir_fd=directory).st_uid, OTHER)


@check(
    "permission-in-a-sticky-directory",
    "unlink(2): EPERM for files of others in a directory with the sticky bit",
    needs="create mkdir remove rename setattr",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    t.mkdir("tmp")
    t.write("tmp/theirs")
    t.write("tmp/own")
    t.chown("tmp/own", OTHER, OTHER)
    t.chmod("tmp", 0o1777)
    with other(t) as directory:

        def remove(name: str) -> None:
            os.unlink(name, dir_fd=directory)

        def rename(old: str, new: str) -> None:
            os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)

        expect((errno.EPERM, errno.EACCES), remove, "tmp/theirs")
        expect((errno.EPERM, errno.EACCES), rename, "tmp/theirs", "tmp/x")
        expect((errno.EPERM, errno.EACCES), rename, "tmp/own", "tmp/theirs")
        remove("tmp/own")


@check(
    "permission-to-change-attributes",
    "chmod(2), chown(2), utimensat(2): EPERM for who is not the owner",
    needs="create setattr",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    t.write("theirs")
    t.chmod("theirs", 0o644)
    t.write("own")
    t.chown("own", OTHER, OTHER)
    with other(t) as directory:

        def chmod(name: str, mode: int) -> None:
            os.chmod(name, mode, dir_fd=directory)

        def chown(name: str, uid: int) -> None:
            os.chown(name, uid, -1, dir_fd=directory)

        def utime(name: str) -> None:
            os.utime(name, (5, 5), dir_fd=directory)

        expect(errno.EPERM, chmod, "theirs", 0o777)
        expect(errno.EPERM, chown, "theirs", OTHER)
        expect(errno.EPERM, chown, "own", 0)
        expect(errno.EPERM, utime, "theirs")
        chmod("own", 0o600)
        utime("own")


@check(
    "write-clears-set-id",
    "write(2): a write by an ordinary user takes set-user-ID and set-group-ID away",
    needs="create read write setattr",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    t.write("f", b"content")
    t.chmod("f", 0o6777)
    with other(t) as directory:
        fd = os.open("f", os.O_WRONLY, dir_fd=directory)
        try:
            os.write(fd, b"CONTENT")
        finally:
            os.close(fd)
    equal("mode", f"{t.mode('f'):o}", "777")


@check(
    "truncate-and-chown-clear-set-id",
    "truncate(2), chown(2): as a write; of set-group-ID only where the group may execute",
    needs="create write setattr",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    for name in ("cut", "given", "emptied"):
        t.write(name, b"content")
        t.chown(name, OTHER, OTHER)
        t.chmod(name, 0o6777)
    with other(t) as directory:
        os.truncate(f"/proc/self/fd/{directory}/cut", 3)
        os.chown("given", -1, OTHER, dir_fd=directory)
        os.close(os.open("emptied", os.O_WRONLY | os.O_TRUNC, dir_fd=directory))
    for name in ("cut", "given", "emptied"):
        equal(f"mode of {name}", f"{t.mode(name):o}", "777")
    t.chmod("given", 0o6767)
    t.chown("given", 0, 0)
    equal("mode of what root has given", f"{t.mode('given'):o}", "2767")


@check(
    "set-group-id-is-for-members",
    "chmod(2), open(2): who is not in the group of a file cannot give it the bit",
    needs="create mkdir setattr",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    t.write("f")
    t.chown("f", OTHER, 4321)
    t.mkdir("d")
    t.chown("d", 0, 4321)
    t.chmod("d", 0o2777)
    with other(t) as directory:
        os.chmod("f", 0o6755, dir_fd=directory)
        os.close(os.open("d/f", os.O_WRONLY | os.O_CREAT, 0o2755, dir_fd=directory))
    equal("mode after chmod", f"{t.mode('f'):o}", "4755")
    st = t.stat("d/f")
    equal("group of what was made", st.st_gid, 4321)
    equal("bit of what was made", f"{st.st_mode & stat.S_ISGID:o}", "0")
