"""Flags of open(2), and files that are made without a name."""

import errno
import os
import stat

from puffs.check import libc
from puffs.check.expect import equal, expect, leave_out
from puffs.check.registry import battery
from puffs.check.target import Target

check = battery("opening")

TMPFILE = "tmpfile read write"


@check(
    "open-nofollow-and-directory",
    "open(2) O_NOFOLLOW: ELOOP for a symbolic link, O_DIRECTORY: ENOTDIR for a file",
    needs="create symlink readlink mkdir readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.write("f")
    t.symlink("f", "link")
    t.mkdir("d")
    expect(errno.ELOOP, os.open, t.at("link"), os.O_RDONLY | os.O_NOFOLLOW)
    expect(errno.ENOTDIR, os.open, t.at("f"), os.O_RDONLY | os.O_DIRECTORY)
    os.close(os.open(t.at("d"), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))


@check(
    "open-path",
    "open(2) O_PATH: the file can be named by it, and neither read nor written",
    needs="create write",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.write("f", b"content")
    fd = os.open(t.at("f"), os.O_PATH)
    try:
        equal("size", os.fstat(fd).st_size, 7)
        expect(errno.EBADF, os.read, fd, 10)
        expect(errno.EBADF, os.write, fd, b"x")
    finally:
        os.close(fd)


@check(
    "open-sync",
    "open(2) O_SYNC, O_DSYNC: what is written is there, as without them",
    needs="create read write",
    mounted_only=True,
)
def _(t: Target) -> None:
    for name, flag in (("sync", os.O_SYNC), ("dsync", os.O_DSYNC)):
        fd = os.open(t.at(name), os.O_RDWR | os.O_CREAT | flag, 0o600)
        try:
            equal("written", os.write(fd, b"content"), 7)
            equal("content", os.pread(fd, 100, 0), b"content")
        finally:
            os.close(fd)
        equal("content by name", t.read(name), b"content")


@check(
    "open-read-only-and-truncate",
    "open(2) O_TRUNC: needs permission to write, and no open for writing",
    needs="create write setattr",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.write("f", b"content")
    os.close(os.open(t.at("f"), os.O_RDONLY | os.O_TRUNC))
    equal("size", t.stat("f").st_size, 0)


@check(
    "create-read-only",
    "open(2) O_CREAT: the mode limits later opens, not this one",
    needs="create read write setattr",
    mounted_only=True,
)
def _(t: Target) -> None:
    fd = os.open(t.at("f"), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444)
    try:
        equal("written", os.write(fd, b"content"), 7)
        os.ftruncate(fd, 3)
        equal("content", os.pread(fd, 100, 0), b"con")
    finally:
        os.close(fd)
    equal("mode", f"{t.mode('f'):o}", "444")


@check(
    "execute",
    "execve(2): a file with permission to execute can be run, another one is EACCES",
    needs="create read write setattr",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.write("run", b"#!/bin/sh\nexit 42\n")
    t.chmod("run", 0o600)
    expect(errno.EACCES, os.posix_spawn, t.at("run"), ["run"], os.environ)
    t.chmod("run", 0o700)
    if t.statvfs().f_flag & os.ST_NOEXEC:
        leave_out("the mount has noexec")
    pid = os.posix_spawn(t.at("run"), ["run"], os.environ)
    equal("exit status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 42)


@check(
    "tmpfile",
    "open(2) O_TMPFILE: a file like any other, without a name",
    needs=TMPFILE + " readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    fd = _unnamed(t, os.O_RDWR, 0o640)
    try:
        equal("written", os.write(fd, b"content"), 7)
        equal("content", os.pread(fd, 100, 0), b"content")
        st = os.fstat(fd)
        equal("link count", st.st_nlink, 0)
        equal("size", st.st_size, 7)
        assert stat.S_ISREG(st.st_mode), f"it is of type {stat.filemode(st.st_mode)}"
        equal("names in the directory", t.listdir(), [])
    finally:
        os.close(fd)


@check(
    "tmpfile-linked",
    "open(2) O_TMPFILE, linkat(2): it can be given a name, by /proc and by descriptor",
    needs=TMPFILE + " link",
    mounted_only=True,
)
def _(t: Target) -> None:
    ways = [("by-proc", libc.link_by_proc)]
    if os.geteuid() == 0:  # CAP_DAC_READ_SEARCH
        ways.append(("by-descriptor", libc.link_by_descriptor))
    for name, link in ways:
        fd = _unnamed(t, os.O_RDWR, 0o600)
        try:
            os.write(fd, b"content")
            link(fd, t.at(name))
            equal("link count", os.fstat(fd).st_nlink, 1)
        finally:
            os.close(fd)
        equal("content", t.read(name), b"content")


@check(
    "tmpfile-exclusive",
    "open(2) O_TMPFILE, O_EXCL: it cannot be given a name (ENOENT)",
    needs=TMPFILE + " link",
    mounted_only=True,
)
def _(t: Target) -> None:
    fd = _unnamed(t, os.O_RDWR | os.O_EXCL, 0o600)
    try:
        expect(errno.ENOENT, libc.link_by_proc, fd, t.at("name"))
    finally:
        os.close(fd)


@check(
    "unlinked-file-gets-no-name",
    "linkat(2): ENOENT for a file whose last name was removed",
    needs="create write remove link",
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "wb") as file:
        t.remove("f")
        expect(errno.ENOENT, libc.link_by_proc, file.fileno(), t.at("name"))


def _unnamed(t: Target, flags: int, mode: int) -> int:
    try:
        return os.open(t.at("."), os.O_TMPFILE | flags, mode)
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            leave_out("the file server, or this host, makes no files without a name (EOPNOTSUPP)")
        raise
