"""`puffs mount` and `puffs umount`: real processes, real mounts, and nothing left of them."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from puffs.attach.fuse.mounting import mount_fuse
from puffs.attach.fuse.options import MountOptions
from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, umount2
from tests.cli.commands import (
    PUFFS,
    SECONDS,
    all_end,
    mounted,
    processes,
    puffs,
    run,
    serving,
    succeeds,
)

pytestmark = pytest.mark.fuse

SERVERS = '''
import errno
import logging
import stat

import puffs


class Fine(puffs.FileSystem[str]):
    """One empty directory."""

    def __init__(self, password: str = "") -> None:
        pass

    def mount(self) -> str:
        return "/"

    def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:
        if name == "mistake":
            raise ValueError("a mistake of the author")
        raise FileNotFoundError

    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        return puffs.Attr(stat.S_IFDIR | 0o755)


class NoSource(Fine):
    def mount(self) -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/archive")


class Picky(Fine):
    def __init__(self, size: int = 0) -> None:
        raise ValueError("size is too small:\\n0")


class Incomplete(puffs.FileSystem[str]):
    def mount(self) -> str:
        return "/"


class Rootless(Fine):
    def mount(self) -> None:
        return None


class Mistaken(Fine):
    def mount(self) -> str:
        return {}["key"]
'''


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount on; whatever is still mounted there after the test is taken away."""
    path = tmp_path.resolve() / "mnt"
    path.mkdir()
    (path.parent / "servers.py").write_text(SERVERS)
    yield path
    while mounted(path):
        umount2(str(path), MNT_DETACH | UMOUNT_NOFOLLOW)


def nothing_left(mnt: Path) -> None:
    assert mounted(mnt) == []
    assert processes(mnt) == {}


def complains(done: "subprocess.CompletedProcess[str]", *says: str, prog: str = "puffs") -> None:
    """Assert that a command has failed with one line that has all of `says`."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{prog}: ")
    for part in says:
        assert re.search(part, done.stderr), done.stderr


# Mounting


def test_mounts_in_the_background_and_unmounts(mnt: Path) -> None:
    assert succeeds(*PUFFS, "mount", "mem:", mnt) == ""
    assert mounted(mnt) == ["fuse.puffs.mem puffs:mem"]
    (mnt / "file").touch()  # another process serves
    succeeds("sh", "-c", f"echo hello > {mnt}/file && mkdir {mnt}/dir")
    assert succeeds("ls", mnt) == "dir\nfile\n"
    assert succeeds("cat", mnt / "file") == "hello\n"
    with all_end(mnt) as servers:
        assert servers
        assert succeeds(*PUFFS, "umount", mnt) == ""
        assert mounted(mnt) == []
    nothing_left(mnt)


def test_a_background_server_holds_no_terminal_and_no_directory(mnt: Path) -> None:
    succeeds(*PUFFS, "mount", "servers.py:Fine", "mnt", cwd=mnt.parent)
    server = json.loads(succeeds(*PUFFS, "status", "--json", mnt))["pid"]
    assert os.readlink(f"/proc/{server}/cwd") == "/"
    for standard in (0, 1, 2):
        assert os.readlink(f"/proc/{server}/fd/{standard}") == "/dev/null"
    assert os.getsid(server) != os.getsid(0)
    succeeds(*PUFFS, "umount", "--wait", mnt)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_foreground_server_and_nothing_is_left(
    mnt: Path, number: signal.Signals
) -> None:
    with serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt) as server, all_end(mnt):
        succeeds("sh", "-c", f"echo hello > {mnt}/file")
        server.send_signal(number)
        output, complaints = server.communicate(timeout=SECONDS)
        assert (server.returncode, output, complaints) == (0, "", "")
    nothing_left(mnt)


def test_a_signal_ends_it_also_while_it_is_in_use(mnt: Path) -> None:
    with serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt) as server, all_end(mnt):
        with subprocess.Popen(["sleep", "1000"], cwd=mnt) as user:
            try:
                server.terminate()
                assert server.wait(SECONDS) == 0
                assert mounted(mnt) == []
            finally:
                user.kill()
    nothing_left(mnt)


def test_a_foreground_server_ends_when_it_is_unmounted(mnt: Path) -> None:
    with serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt) as server:
        succeeds("umount", mnt)
        assert server.wait(SECONDS) == 0
    nothing_left(mnt)


def test_nothing_is_left_of_a_server_that_was_killed(mnt: Path) -> None:
    with serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt) as server, all_end(mnt):
        server.kill()
        server.wait(SECONDS)
    nothing_left(mnt)


def test_options_may_be_given_several_times(mnt: Path) -> None:
    options = ["-o", "ro,fsname=a name", "-o", "noexec"]
    with serving(*PUFFS, "mount", "-f", *options, "mem:", mnt, mountpoint=mnt):
        table = Path("/proc/mounts").read_text().splitlines()
        line = next(line for line in table if str(mnt) in line)
        assert line.startswith("a\\040name ")
        assert {"ro", "noexec", "nosuid", "nodev"} <= {*line.split()[3].split(",")}
        assert "Read-only file system" in run("touch", mnt / "file").stderr


def test_an_argument_of_a_spec_does_not_show_in_the_mount(mnt: Path) -> None:
    spec = f"{mnt.parent}/servers.py:Fine?password=hunter2"
    with serving(*PUFFS, "mount", "-f", spec, mnt, mountpoint=mnt):
        assert mounted(mnt) == ["fuse.puffs.fine puffs:fine"]
        assert "hunter2" not in Path("/proc/mounts").read_text()


def test_a_mistake_of_the_author_is_logged_and_the_mount_goes_on(mnt: Path) -> None:
    spec = f"{mnt.parent}/servers.py:Fine"
    with serving(*PUFFS, "mount", "-f", spec, mnt, mountpoint=mnt) as server:
        assert "No such file" in run("ls", mnt / "missing").stderr
        assert "Input/output error" in run("ls", mnt / "mistake").stderr
        assert "No such file" in run("ls", mnt / "missing").stderr
        server.terminate()
        _, log = server.communicate(timeout=SECONDS)
    assert log.startswith("puffs: lookup failed in the file server")
    assert log.count("Traceback") == 1
    assert log.endswith("ValueError: a mistake of the author\n")


# What cannot be mounted

IN_VAIN: dict[str, tuple[str, list[str], list[str]]] = {
    "no mount point": ("mem:", ["gone"], ["gone does not exist", "mkdir -p"]),
    "no directory": ("mem:", ["servers.py"], ["servers.py is not a directory", "choose"]),
    "below a file": ("mem:", ["servers.py/mnt"], ["servers.py is not a directory"]),
    "unknown option": ("mem:", ["mnt", "-o", "allow_othr"], ["did you mean 'allow_other'"]),
    "bad option": ("mem:", ["mnt", "-o", "max_read=1"], ["max_read=BYTES needs a number"]),
    "unknown file system": ("mme:", ["mnt"], ["no file system 'mme': did you mean mem:"]),
    "no such class": ("servers.py:Fin", ["mnt"], ["servers.py has no 'Fin'; did you mean Fine"]),
    "bad argument": ("mem:?size=much", ["mnt"], ["size"]),
    "no source": ("servers.py:NoSource", ["mnt"], ["/data/archive: No such file or directory"]),
    "refuses": ("servers.py:Picky", ["mnt"], ["Picky: size is too small: 0"]),
    "incomplete": ("servers.py:Incomplete", ["mnt"], ["Incomplete lacks lookup, getattr"]),
    "no root": ("servers.py:Rootless", ["mnt"], [r"mount\(\) returned None"]),
}


@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
@pytest.mark.parametrize(("spec", "arguments", "says"), IN_VAIN.values(), ids=IN_VAIN.keys())
def test_says_in_a_line_what_is_wrong_and_leaves_nothing(
    mnt: Path, spec: str, arguments: list[str], says: list[str], foreground: list[str]
) -> None:
    complains(puffs("mount", *foreground, spec, *arguments, cwd=mnt.parent), *says)
    nothing_left(mnt)


@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
def test_says_that_a_mount_point_is_in_use(mnt: Path, foreground: list[str]) -> None:
    with serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt):
        done = puffs("mount", *foreground, "mem:", mnt)
        complains(done, "already a mount of puffs", "unmount it first", "puffs umount")
        assert len(mounted(mnt)) == 1
    nothing_left(mnt)


@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
def test_says_that_a_mount_is_stale(mnt: Path, foreground: list[str]) -> None:
    with stale(mnt):
        done = puffs("mount", *foreground, "mem:", mnt)
        complains(done, "stale mount", "its server has gone", f"puffs umount {mnt}")


NO_DEVICE = """
mount -t tmpfs none /dev
mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9
exec "$@"
"""
CONFINED = {
    "no device": (
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", NO_DEVICE, "sh"],
        ["there is no /dev/fuse", "modprobe fuse|--device /dev/fuse"],
    ),
    "no privilege": (
        ["setpriv", "--bounding-set", "-sys_admin"],
        ["not permitted without CAP_SYS_ADMIN", "run as root"],
    ),
}


@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
@pytest.mark.parametrize(("confined", "says"), CONFINED.values(), ids=CONFINED.keys())
def test_says_why_nothing_can_be_mounted_here(
    mnt: Path, confined: list[str], says: list[str], foreground: list[str]
) -> None:
    if shutil.which(confined[0]) is None:
        pytest.skip(f"{confined[0]} is missing: install util-linux")
    complains(run(*confined, *PUFFS, "mount", *foreground, "mem:", mnt), *says, "puffs.local")
    nothing_left(mnt)


@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
def test_a_mistake_in_mount_is_named_on_the_terminal(mnt: Path, foreground: list[str]) -> None:
    done = puffs("mount", *foreground, "servers.py:Mistaken", "mnt", cwd=mnt.parent)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "puffs: KeyError: 'key'"
    # The log is on stderr in the foreground only.
    assert ("Traceback" in done.stderr) == bool(foreground)
    nothing_left(mnt)


# Unmounting


@contextmanager
def stale(mnt: Path) -> Iterator[None]:
    """A mount whose server has gone."""
    mode = stat.S_IFDIR | 0o755
    os.close(mount_fuse(str(mnt), MountOptions(), fsname="mem:", subtype="mem", rootmode=mode))
    yield


def test_takes_a_stale_mount_away(mnt: Path) -> None:
    with stale(mnt):
        assert succeeds(*PUFFS, "umount", mnt) == ""
        assert mounted(mnt) == []


def test_takes_a_stale_mount_away_that_somebody_holds(mnt: Path) -> None:
    with stale(mnt):
        holder = os.open(mnt, os.O_PATH)
        try:
            assert succeeds(*PUFFS, "umount", mnt) == ""
            assert mounted(mnt) == []
        finally:
            os.close(holder)


def test_unmounts_a_busy_mount_only_when_told_to(mnt: Path) -> None:
    with serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt) as server:
        with subprocess.Popen(["sleep", "1000"], cwd=mnt) as user:
            try:
                complains(puffs("umount", mnt), "is busy", f"'sleep' with pid {user.pid}")
                assert mounted(mnt)
                assert succeeds(*PUFFS, "umount", "--lazy", mnt) == ""
                assert mounted(mnt) == []
            finally:
                user.kill()
        assert server.wait(SECONDS) == 0
    nothing_left(mnt)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("mnt", ["mnt is not mounted"]),
        ("gone", ["gone does not exist"]),
        ("/proc", ["type proc and not of FUSE", "use umount /proc"]),
    ],
)
def test_says_why_it_cannot_unmount(mnt: Path, place: str, says: list[str]) -> None:
    complains(puffs("umount", place, cwd=mnt.parent), *says)
