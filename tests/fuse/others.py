"""What tests with other users, and with servers that die, have in common."""

import os
import select
import shutil
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from puffs.attach.fuse.mountinfo import find_mount
from tests.cli.commands import PUFFS, SECONDS, processes
from tests.fuse import world

SOON: Final = 2.0
"""Within so many seconds a dead server's mount is gone."""

needs_fusermount3 = pytest.mark.skipif(
    shutil.which("fusermount3") is None and os.environ.get("PUFFS_REQUIRE_FUSE") != "1",
    reason="there is no fusermount3: install the package fuse3",
)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
needs_passthrough = pytest.mark.skipif(
    os.getuid() != 0 or tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9),
    reason="passthrough is for root, on Linux 6.9 and later",
)


def place(tmp_path: Path) -> Path:
    """A directory that belongs to the ordinary user."""
    path = tmp_path.resolve() / "place"
    path.mkdir()
    os.chown(path, world.NOBODY, world.NOBODY)
    return path


def as_user(script: str, place: Path, **plan: Any) -> str:
    """Run a shell script as an ordinary user; it must succeed. Returns what it prints.

    In it, $P is the command `puffs` and $D a directory of that user to mount on.
    """
    (place / "d").mkdir(exist_ok=True)
    os.chown(place / "d", world.NOBODY, world.NOBODY)
    words = f'P="{" ".join(PUFFS)}"; D={place}/d\n{textwrap.dedent(script)}'
    done = world.run("sh", "-ec", words, reach=[place], **plan)
    assert done.returncode == 0, done
    return done.stdout


def comes_true(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Whether something that nothing tells of becomes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        select.select([], [], [], 0.005)
    return True


def gone(mountpoint: Path) -> bool:
    """Whether nothing is mounted on a path, or becomes so soon: the table of mounts tells."""
    with open("/proc/self/mountinfo") as table:
        changes = select.poll()
        changes.register(table, select.POLLPRI)
        end = time.monotonic() + SOON
        while find_mount(str(mountpoint)) and time.monotonic() < end:
            changes.poll(max(0, end - time.monotonic()) * 1000)
    return find_mount(str(mountpoint)) is None


def waiting(mountpoint: Path) -> int:
    """How many requests the kernel has for a mount that were not answered."""
    found = find_mount(str(mountpoint))
    assert found is not None
    return int(Path(f"/sys/fs/fuse/connections/{found.device[1]}/waiting").read_text())


def nobody_left(mountpoint: Path) -> bool:
    """Whether the processes that name a path in their command line have ended, or do so soon."""
    return comes_true(lambda: not processes(mountpoint), SOON)


def watcher_of(mountpoint: Path) -> int:
    """The process that watches over a mount."""
    (pid,) = [pid for pid, line in processes(mountpoint).items() if "fuse.watcher" in line]
    return pid
