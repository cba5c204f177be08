"""What is said of the mount itself, and what another user may do."""

import os
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
