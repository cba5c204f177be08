"""What is said of the mount itself, and what another user may do."""

import os
import struct
from pathlib import Path
from typing import Any

from tests.refuse.saying import Place, Say, case, elsewhere, mode_of, read, write

NOBODY = 65534
OF_A_RUN = ("fd=",)


def mount_line(mountpoint: Path) -> list[str]:
    """The fields of a mount in /proc/mounts, without what differs from run to run."""
    lines = [line.split(" ") for line in Path("/proc/mounts").read_text().splitlines()]
    source, _, kind, options = next(line[:4] for line in lines if line[1] == str(mountpoint))
    kept = [word for word in options.split(",") if not word.startswith("fd=")]
    return [source.replace(os.fsdecode(mountpoint.parent), "..."), kind, *sorted(kept)]


@case("mount")
def mount_table(at: Place, say: Say) -> None:
    say("mount", mount_line, at.mountpoint)


def as_nobody(call: Any, *args: Any) -> Any:
    return elsewhere(lambda: call(*args), NOBODY)


@case("users")
def another_user(at: Place, say: Say) -> None:
    os.chmod(at("."), 0o777)
    write(at("public"), b"all may read")
    write(at("private"), b"one may read")
    os.chmod(at("private"), 0o600)
    os.mkdir(at("closed"), 0o700)
    for label, call in (
        ("stat", lambda: os.lstat(at("public")).st_size),
        ("read", lambda: read(at("public"))),
        ("read what is private", lambda: read(at("private"))),
        ("write", lambda: os.close(os.open(at("public"), os.O_WRONLY))),
        ("list", lambda: sorted(map(os.fsdecode, os.listdir(at("."))))),
        ("list what is closed", lambda: os.listdir(at("closed"))),
        ("search what is closed", lambda: os.lstat(at("closed/x"))),
        ("access", lambda: [os.access(at("private"), mode) for mode in (os.F_OK, os.R_OK)]),
        ("make", lambda: write(at("mine"))),
        ("owner", lambda: [os.lstat(at("mine")).st_uid, os.lstat(at("mine")).st_gid]),
        ("make a directory", lambda: os.mkdir(at("mine too"))),
        ("chmod of another's", lambda: os.chmod(at("public"), 0o666)),
        ("chmod", lambda: os.chmod(at("mine"), 0o4711)),
        ("chown", lambda: os.chown(at("mine"), 1, 1)),
        ("times of another's", lambda: os.utime(at("public"), (1, 1))),
        ("touch another's", lambda: os.utime(at("public"))),
        ("unlink another's", lambda: os.unlink(at("private"))),
        ("statvfs", lambda: os.statvfs(at(".")).f_namemax > 0),
        ("trusted attribute", lambda: os.setxattr(at("mine"), "trusted.x", b"1")),
    ):
        say(label, as_nobody, call)


@case("users")
def sticky(at: Place, say: Say) -> None:
    os.chmod(at("."), 0o1777)
    write(at("root's"))
    say("unlink", as_nobody, os.unlink, at("root's"))
    say("rename", as_nobody, os.rename, at("root's"), at("x"))


@case("users")
def set_ids(at: Place, say: Say) -> None:
    os.chmod(at("."), 0o2777)
    os.chown(at("."), -1, 42)
    say("make", as_nobody, os.mkdir, at("dir"))
    say("group", lambda: os.lstat(at("dir")).st_gid)
    write(at("program"))
    os.chmod(at("program"), 0o6777)
    say("written", as_nobody, write, at("program"))
    say("mode", mode_of, at("program"))


def _acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as an extended attribute: kind, permissions and id of each entry (acl(5))."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


OWNER, USER, GROUP, MASK, OTHER = 1, 2, 4, 16, 32
ANYBODY = 0xFFFFFFFF


@case("acls")
def acls(at: Place, say: Say) -> None:
    """Another user is let in by an ACL, and kept out by one."""
    access, default = "system.posix_acl_access", "system.posix_acl_default"
    os.mkdir(at("dir"), 0o755)
    write(at("dir/file"))
    os.chmod(at("dir/file"), 0o600)
    say("none", os.getxattr, at("dir/file"), access)
    say("read without", as_nobody, read, at("dir/file"))
    to_nobody = _acl(
        (OWNER, 6, ANYBODY), (USER, 4, NOBODY), (GROUP, 0, ANYBODY), (MASK, 4, ANYBODY),
        (OTHER, 0, ANYBODY),
    )  # fmt: skip
    say("set", os.setxattr, at("dir/file"), access, to_nobody)
    say("get", lambda: os.getxattr(at("dir/file"), access) == to_nobody)
    say("mode", mode_of, at("dir/file"))
    say("as the server should have", os.chmod, at("dir/file"), 0o640)
    say("read by nobody", as_nobody, read, at("dir/file"))
    say("write by nobody", as_nobody, lambda: os.close(os.open(at("dir/file"), os.O_WRONLY)))
    say("chmod", os.chmod, at("dir/file"), 0o600)
    say("read after chmod", as_nobody, read, at("dir/file"))
    say("nonsense", os.setxattr, at("dir/file"), access, b"nonsense")
    say("default", os.setxattr, at("dir"), default, to_nobody)
    say("default of a file", os.setxattr, at("dir/file"), default, to_nobody)
    say("list", lambda: sorted(os.listxattr(at("dir"))))
    os.umask(0o027)
    say("make", write, at("dir/new"))
    say("mkdir", os.mkdir, at("dir/sub"))
    os.umask(0o022)
    say("mode of what is new", mode_of, at("dir/new"))
    say("mode of a new directory", mode_of, at("dir/sub"))
    say("remove", os.removexattr, at("dir"), default)
