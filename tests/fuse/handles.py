"""File handles of mounts, as Linux makes them; and a kernel that forgets."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puffs.attach.asking import ask, mounted
from puffs.attach.fuse.syscalls import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    mount,
)
from puffs.fs import hostcalls


def handle_of(path: Path | str) -> bytes:
    """The handle of a file; a symbolic link is not followed. [name_to_handle_at(2)]"""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        found = hostcalls.file_handle(fd)
    finally:
        os.close(fd)
    assert found is not None
    return found[1]


@contextmanager
def descriptor_of(path: Path | str, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened(mount_fd: int, handle: bytes, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor of the file that a handle names. [open_by_handle_at(2)]"""
    fd = hostcalls.open_by_handle_at(mount_fd, handle, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def contents(mount_fd: int, handle: bytes) -> bytes:
    """All of the file that a handle names."""
    with opened(mount_fd, handle) as fd:
        return os.read(fd, 1 << 20)


def number_in(handle: bytes) -> int:
    """The node id in a handle of a FUSE mount: two words, the high one first."""
    high, low = (int.from_bytes(handle[at : at + 4], sys.byteorder) for at in (8, 12))
    return high << 32 | low


def nodes(path: Path) -> int:
    """How many files the kernel knows, as far as the file server can tell; the root is one."""
    known: int = ask(mounted(path), "status")["nodes"]
    return known


def drop_caches(mountpoint: Path) -> None:
    """Have the kernel forget what nobody uses of a mount: names, nodes and pages.

    Mounting again with the same flags does that for this mount alone, where drop_caches in
    /proc/sys/vm would take from tests beside this one what their kernel has been let keep.
    """
    flags = os.statvfs(mountpoint).f_flag & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("none", str(mountpoint), "none", MS_REMOUNT | flags, "")


def forget_all(path: Path) -> None:
    """Have the kernel forget all files of a mount but the root; none may be open.

    It tells the file server a moment later.
    """
    for _ in range(200):
        drop_caches(path)
        if nodes(path) == 1:
            return
    raise AssertionError(f"{nodes(path)} files are still known")
