"""A server that dies takes its mount along: `-o auto_unmount`, the default of commands."""

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from puffs.attach.fuse.mountinfo import MountInfo, find_mount
from puffs.attach.fuse.mounting import mount_fuse, unmount
from puffs.attach.fuse.options import MountOptions
from puffs.attach.fuse.syscalls import mount, umount2, unique_mount_id
from puffs.attach.fuse.watcher import still_mounted, take_away
from tests.cli.commands import SECONDS, processes, puffs
from tests.fuse import others, world
from tests.fuse.others import (
    SOON,
    as_user,
    comes_true,
    gone,
    needs_fusermount3,
    needs_root,
    nobody_left,
    watcher_of,
)

pytestmark = [pytest.mark.fuse, needs_root]

needs_unique_ids = pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (6, 12),
    reason="mounts have no unique ids before Linux 6.8, and those of others none before 6.12",
)


def test_a_killed_server_leaves_no_mount_behind(mountpoint: Path) -> None:
    assert puffs("mount", "mem:", mountpoint).returncode == 0
    watcher = watcher_of(mountpoint)
    (server,) = set(processes(mountpoint)) - {watcher}
    (mountpoint / "f").write_text("x")
    assert comes_true(lambda: "poll" in Path(f"/proc/{watcher}/wchan").read_text())
    descriptors = [os.readlink(fd) for fd in Path(f"/proc/{watcher}/fd").iterdir()]
    assert not [name for name in descriptors if name.startswith(("/dev/fuse", "socket:"))]
    held = os.open(mountpoint / "f", os.O_RDONLY)  # in use: no reason to leave it
    try:
        os.kill(server, signal.SIGKILL)
        assert gone(mountpoint)
    finally:
        os.close(held)
    assert nobody_left(mountpoint)


@needs_fusermount3
def test_a_killed_server_of_an_ordinary_user_leaves_no_mount_behind(tmp_path: Path) -> None:
    place = others.place(tmp_path)
    as_user(
        f"""
        $P mount -f mem: $D & pid=$!
        until grep " $D fuse" /proc/mounts; do sleep 0.02; done
        stat $D; kill -9 $pid
        for i in $(seq {int(SOON / 0.02)}); do
            grep " $D fuse" /proc/mounts || exit 0; sleep 0.02
        done
        exit 1
        """,
        place,
    )
    assert nobody_left(place)


FORKING = """
import os, puffs, time

def fork():
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "60"]) if EXEC else time.sleep(60)
    return "forked"

class Forking(puffs.Tree):
    def __init__(self):
        super().__init__({"fork": fork})
"""


@pytest.mark.parametrize("exec", [False, True])
def test_children_of_the_server_do_not_keep_its_mount(
    mountpoint: Path, tmp_path: Path, exec: bool
) -> None:
    (tmp_path / "forking.py").write_text(FORKING.replace("EXEC", str(exec)))
    assert puffs("mount", f"{tmp_path}/forking.py:Forking", mountpoint).returncode == 0
    (server,) = set(processes(mountpoint)) - {watcher_of(mountpoint)}
    assert (mountpoint / "fork").read_text() == "forked"
    (child, *_) = children(server) - {watcher_of(mountpoint)}
    try:
        os.kill(server, signal.SIGKILL)
        assert gone(mountpoint)
    finally:
        os.kill(child, signal.SIGKILL)


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_signals_that_end_a_server_do_not_end_its_watcher(mountpoint: Path) -> None:
    assert puffs("mount", "mem:", mountpoint).returncode == 0
    watcher = watcher_of(mountpoint)
    (server,) = set(processes(mountpoint)) - {watcher}
    # It ignores them from its first lines on, which it has reached when it waits.
    assert comes_true(lambda: "poll" in Path(f"/proc/{watcher}/wchan").read_text())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(watcher, number)
    os.kill(server, signal.SIGKILL)
    assert gone(mountpoint)


def test_what_was_mounted_later_is_not_taken_away(mountpoint: Path) -> None:
    assert puffs("mount", "mem:", mountpoint).returncode == 0
    watcher = watcher_of(mountpoint)
    (server,) = set(processes(mountpoint)) - {watcher}
    mount("none", str(mountpoint), "tmpfs", 0, "")
    try:
        os.kill(server, signal.SIGKILL)
        assert nobody_left(mountpoint)
        found = find_mount(str(mountpoint))
        assert found is not None
        assert found.fstype == "tmpfs"
    finally:
        umount2(str(mountpoint), 0)
    unmount(mountpoint)


def test_a_mount_is_known_by_its_id_and_its_device(mountpoint: Path) -> None:
    fd = mount_fuse(str(mountpoint), MountOptions(), fsname="", subtype="x", rootmode=stat.S_IFDIR)
    try:
        found = find_mount(str(mountpoint))
        assert found is not None
        assert still_mounted(found.mount_id, found.device) == found
        assert still_mounted(found.mount_id + 1, found.device) is None
        assert still_mounted(found.mount_id, (0, found.device[1] + 1)) is None
        proc = find_mount("/proc")
        assert proc is not None
        assert still_mounted(proc.mount_id, proc.device) is None
        take_away(found, None)  # as on kernels without unique ids
        assert find_mount(str(mountpoint)) is None
    finally:
        os.close(fd)


@needs_unique_ids
def test_another_mount_with_the_same_numbers_is_not_taken_away(mountpoint: Path) -> None:
    """The kernel uses ids and device numbers again at once, unique ids never."""

    def mounted() -> tuple[int, MountInfo, int | None]:
        fd = mount_fuse(
            str(mountpoint), MountOptions(), fsname="", subtype="x", rootmode=stat.S_IFDIR
        )
        found = find_mount(str(mountpoint))
        assert found is not None
        return fd, found, unique_id(mountpoint)

    for _ in range(100):
        fd, first, unique = mounted()
        os.close(fd)
        assert unique_id(mountpoint) == unique  # of a dead mount too, without hanging
        unmount(mountpoint)
        fd, second, other = mounted()
        try:
            if second == first:  # nobody else has mounted anything in between
                assert None is not unique != other is not None
                assert still_mounted(first.mount_id, first.device) == second
                take_away(second, unique)
                assert find_mount(str(mountpoint)) == second
                break
        finally:
            take_away(second, other)
            os.close(fd)
        assert find_mount(str(mountpoint)) is None
    else:
        pytest.fail("no number was used again in 100 mounts")
    assert find_mount(str(mountpoint)) is None


@needs_unique_ids
def test_mounts_of_other_users_have_unique_ids_too(mountpoint: Path) -> None:
    """`puffs mounter` watches over them as root, to whom the kernel tells no attributes of them."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    owner = f"user_id={world.NOBODY},group_id={world.NOBODY}"
    mount("x", str(mountpoint), "fuse.puffs.x", 0, f"fd={fd},rootmode=40000,{owner}")
    unique = unique_id(mountpoint)
    os.close(fd)
    assert unique is not None
    found = find_mount(str(mountpoint))
    assert found is not None
    take_away(found, unique + 1)
    assert find_mount(str(mountpoint)) == found
    take_away(found, unique)
    assert find_mount(str(mountpoint)) is None


def unique_id(path: Path) -> int | None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return unique_mount_id(fd)
    finally:
        os.close(fd)


def test_after_an_unmount_no_watcher_is_left(mountpoint: Path) -> None:
    assert puffs("mount", "mem:", mountpoint).returncode == 0
    assert watcher_of(mountpoint)
    assert puffs("umount", mountpoint).returncode == 0
    assert nobody_left(mountpoint)


def test_without_it_a_dead_mount_stays(mountpoint: Path) -> None:
    assert puffs("mount", "-o", "noauto_unmount", "mem:", mountpoint).returncode == 0
    (server,) = processes(mountpoint)
    os.kill(server, signal.SIGKILL)
    assert nobody_left(mountpoint)
    assert find_mount(str(mountpoint)) is not None


RUN = """
import os, signal, sys, puffs
from puffs.fs.mem import MemFS
mount = puffs.mount(MemFS, sys.argv[1], sys.argv[2])
print("mounted", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("options", "left"), [("auto_unmount", False), ("", True)])
def test_a_program_asks_for_it_by_an_option(mountpoint: Path, options: str, left: bool) -> None:
    line = [sys.executable, "-c", RUN, str(mountpoint), options]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=False)
    assert (done.stdout, done.returncode) == ("mounted\n", -signal.SIGKILL)
    if left:
        assert find_mount(str(mountpoint)) is not None
    else:
        assert gone(mountpoint)
