"""Commands without some of their standard streams, as cron and some daemons start them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import PUFFS, SECONDS, processes, puffs, serving, succeeds
from tests.fuse.others import watcher_of

pytestmark = [pytest.mark.fuse, pytest.mark.loops]

MISSING = [(0,), (1,), (0, 1, 2)]


def without(fds: tuple[int, ...], *command: str | Path) -> int:
    """Run a command without these descriptors; its exit status."""

    def close() -> None:
        for fd in fds:
            os.close(fd)

    line = list(map(str, command))
    return subprocess.run(line, preexec_fn=close, timeout=SECONDS, check=False).returncode


@pytest.mark.parametrize("fds", MISSING, ids=str)
def test_mounting_and_unmounting(mountpoint: Path, fds: tuple[int, ...]) -> None:
    assert without(fds, *PUFFS, "mount", "mem:", mountpoint) == 0
    (server,) = set(processes(mountpoint)) - {watcher_of(mountpoint)}
    assert [os.readlink(f"/proc/{server}/fd/{fd}") for fd in range(3)] == [os.devnull] * 3
    (mountpoint / "file").write_text("contents")
    assert without(fds, *PUFFS, "status", mountpoint) == 0
    assert without(fds, *PUFFS, "list") == 0
    assert without(fds, *PUFFS, "umount", mountpoint) == 0


@pytest.mark.parametrize("fds", MISSING, ids=str)
def test_a_private_mount_for_a_command(tmp_path: Path, fds: tuple[int, ...]) -> None:
    script = f"echo hi > {tmp_path}/f && exit 5"
    assert without(fds, *PUFFS, "exec", "-m", f"mem:{tmp_path}", "--", "sh", "-c", script) == 5


@pytest.mark.parametrize("fds", MISSING, ids=str)
def test_mount_puffs_and_scripts(mountpoint: Path, tmp_path: Path, fds: tuple[int, ...]) -> None:
    mount_puffs = [sys.executable, "-m", "puffs.cli.mount_puffs"]
    assert without(fds, *mount_puffs, "mem:", mountpoint) == 0
    assert puffs("umount", mountpoint).returncode == 0
    script = tmp_path / "script.py"
    script.write_text("import puffs\nputs = puffs.main(puffs.Tree({'file': 'contents'}))\n")
    assert without(fds, sys.executable, script, mountpoint) == 0
    assert (mountpoint / "file").read_text() == "contents"
    assert puffs("umount", mountpoint).returncode == 0


def test_a_failure_has_its_exit_status_where_nobody_can_be_told(tmp_path: Path) -> None:
    assert without((0, 1, 2), *PUFFS, "mount", "mem:", tmp_path / "nothing") == 1
    assert without((2,), *PUFFS, "nonsense") == 2


def test_serving_in_the_foreground(mountpoint: Path) -> None:
    line = f'exec "$0" -m puffs mount -f mem: {mountpoint} <&- >&-'
    with serving("sh", "-c", line, sys.executable, mountpoint=mountpoint):
        succeeds("sh", "-c", f"echo x > {mountpoint}/f && cat {mountpoint}/f")
        assert puffs("umount", mountpoint).returncode == 0


def test_what_is_printed_before_a_child_is_forked_need_not_be_writable(mountpoint: Path) -> None:
    """The program finds out by itself; a mount does not fail because of it."""
    script = (
        "import sys, puffs\n"
        "print('what nobody can write')\n"
        "with puffs.mount(puffs.Tree({'file': 'contents'}), sys.argv[1], process=True):\n"
        "    sys.stderr.write(open(sys.argv[1] + '/file').read())\n"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" "$2" > /dev/full', sys.executable, script, mountpoint],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        check=False,
    )
    assert done.stderr.startswith("contents")
    assert "No space left on device" in done.stderr
