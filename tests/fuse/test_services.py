"""File systems as parts of a system: sd_notify(3), a systemd unit, mount(8) and fstab(5)."""

import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cli.commands import PUFFS, SECONDS, puffs, serving
from tests.fuse import others, world
from tests.fuse.others import needs_fusermount3, needs_root, nobody_left

pytestmark = [pytest.mark.fuse, needs_root]


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_tells_that_it_is_ready_and_that_it_stops(
    mountpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"puffs-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        manager.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        with serving(*PUFFS, "mount", "-f", "mem:", mountpoint, mountpoint=mountpoint) as server:
            ready = manager.recv(1000).decode().splitlines()
            assert ready == ["READY=1", f"MAINPID={server.pid}"]
            server.terminate()
            assert manager.recv(1000) == b"STOPPING=1"
            assert server.wait(SECONDS) == 0


def test_a_service_that_cannot_mount_is_never_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert puffs("mount", "-f", "mem:", tmp_path / "missing").returncode == 1
        with pytest.raises(BlockingIOError):
            manager.recv(1000)


UNIT = Path(__file__).parents[2] / "contrib/puffs@.service"


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / "puffs@mnt-x.service"
    unit.write_text(UNIT.read_text())
    line = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.stderr + done.stdout == ""
    for setting in ("Type=notify", "KillMode=process"):
        assert setting in unit.read_text().splitlines()


MOUNT_8 = f"""
sbin=$(readlink -f /sbin)
mount -t tmpfs none $sbin -o mode=755
printf '#!/bin/sh\\nexec {sys.executable} -m puffs.cli.mount_puffs "$@"\\n' > $sbin/mount.puffs
chmod 755 $sbin/mount.puffs
"""


def by_mount_8(script: str, mountpoint: Path) -> "subprocess.CompletedProcess[str]":
    """Run a shell script as root where mount(8) finds mount.puffs; $D is a mount point."""
    words = f"{MOUNT_8}\nD={mountpoint}\n{textwrap.dedent(script)}"
    line = ["unshare", "--mount", "--propagation", "private", "sh", "-c", words]
    return subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_mount_8_mounts_by_type(mountpoint: Path) -> None:
    done = by_mount_8(
        """
        set -e
        mount -t puffs 'mem:?size=1M' $D -o ro,nofail,_netdev,x-systemd.automount,user,comment=x
        grep " $D " /proc/mounts
        umount $D
        mount -t puffs.other mem: $D; echo hi > $D/f; cat $D/f; grep " $D " /proc/mounts; umount $D
        """,
        mountpoint,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, word, second = done.stdout.splitlines()
    assert first.split()[2:4][0] == "fuse.puffs.mem"
    assert {"ro", "noexec", "nosuid"} <= set(first.split()[3].split(","))
    assert (word, second.split()[2]) == ("hi", "fuse.puffs.other")
    assert nobody_left(mountpoint)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ("-o bogus mem: $D", 1, "unknown mount option 'bogus'"),
        ("mex: $D", 1, "did you mean mem:?"),
        ("mem: $D/missing", 32, "missing does not exist"),
    ],
)
def test_mount_8_is_told_what_is_wrong(
    mountpoint: Path, words: str, status: int, says: str
) -> None:
    done = by_mount_8(f"mount -t puffs {words}", mountpoint)
    assert done.returncode == status
    assert says in done.stderr


def test_mount_8_may_pretend_and_be_sloppy(mountpoint: Path) -> None:
    done = by_mount_8(
        """
        mount -f -t puffs mem: $D && ! grep " $D " /proc/mounts || exit 1
        mount -s -t puffs mem: $D -o bogus && umount $D
        """,
        mountpoint,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_fusermount3
def test_fstab_lets_an_ordinary_user_mount(tmp_path: Path) -> None:
    place = others.place(tmp_path)
    (place / "d").mkdir()
    os.chown(place / "d", world.NOBODY, world.NOBODY)
    script = f"""
        echo 'mem:?size=1M {place}/d puffs user,noauto,nofail 0 0' > /mnt/fstab
        mount --bind /mnt/fstab /etc/fstab
        exec setpriv --reuid {world.NOBODY} --regid {world.NOBODY} --clear-groups sh -ec '
            mount {place}/d; grep " {place}/d fuse" /proc/mounts; umount {place}/d;
            ! grep " {place}/d fuse" /proc/mounts'
        """
    inside = [sys.executable, "-c", PREPARE, str(place)]
    words = f"{MOUNT_8}\n{textwrap.dedent(script)}"
    line = ["unshare", "--mount", "--propagation", "private", *inside, "sh", "-c", words]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=UNIT.parents[1]
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"user_id={world.NOBODY}" in done.stdout
    assert "noexec" in done.stdout


PREPARE = """
import os, sys
from tests.fuse import world
from puffs.attach.fuse.syscalls import MS_NOSUID, mount
mount("none", world.STASH, "tmpfs", MS_NOSUID, "mode=755")
world.open_ways([sys.base_prefix, sys.prefix, os.getcwd(), sys.argv[1]])
world.devices(True)
os.execvp(sys.argv[2], sys.argv[2:])
"""
