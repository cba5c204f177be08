"""`puffs umount`: what is asked, what is said, and how long it tries."""

import errno
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.conftest import PATIENCE, Serve, Served
from tests.fuse.servers import Noting

pytestmark = pytest.mark.fuse

PUFFS = [sys.executable, "-m", "puffs", "umount"]


class Refusing(Noting):
    """Refuses to be unmounted until the directory `yes` has been made, or for good."""

    code = errno.EBUSY

    def unmount(self, force: bool) -> None:
        if not force and (100, "yes") not in self.names:
            raise OSError(self.code, "the archive is being written")


class Forbidding(Refusing):
    code = errno.EPERM


def umount(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [*PUFFS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@contextmanager
def trying(served: Served, *arguments: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """`puffs umount` that has asked the file server more than once."""
    command = [*PUFFS, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            pause = threading.Event()
            for _ in range(int(PATIENCE / 0.02)):
                if len(served.notes("unmount")) > 1:
                    break
                pause.wait(0.02)
            assert process.poll() is None
            yield process
        finally:
            process.kill()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, complaints = process.communicate(timeout=PATIENCE)
    return process.returncode, complaints


@pytest.mark.statement("U9")
@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_a_refusal_has_the_errno_and_the_words_of_the_file_server(
    serve: Serve, wait: tuple[str, ...]
) -> None:
    served = serve(Forbidding)
    done = umount(*wait, served.path)
    says = "puffs: toy refuses to be unmounted: the archive is being written (EPERM)\n"
    assert (done.returncode, done.stderr) == (1, says)
    assert served.mounted()
    assert served.notes("unmount") == [("unmount", False)]


@pytest.mark.parametrize("option", ["--wait", "-w", "--wait=60"])
def test_it_can_wait_until_nobody_uses_it(serve: Serve, option: str) -> None:
    served = serve(Noting)
    with open(served.path / "file") as file, trying(served, option, served.path) as process:
        file.close()
        assert ended(process) == (0, "")
    assert (served.mounted(), served.ended()) == (False, 0)
    assert len(served.notes("unmounted")) == 1


def test_it_can_wait_until_the_file_server_agrees(serve: Serve) -> None:
    served = serve(Refusing)
    with trying(served, served.path, "--wait") as process:
        served.path.joinpath("yes").mkdir()
        assert ended(process) == (0, "")
    assert (served.mounted(), served.ended()) == (False, 0)


@pytest.mark.parametrize("seconds", ["0", "0.3"])
def test_it_waits_no_longer_than_it_is_told(serve: Serve, seconds: str) -> None:
    served = serve(Refusing)
    done = umount(f"--wait={seconds}", served.path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"puffs: after {seconds} s: toy refuses to be unmounted: ")
    assert len(served.notes("unmount")) >= 1 + (seconds != "0")
    assert served.mounted()


def test_somebody_else_may_be_faster(serve: Serve) -> None:
    served = serve(Refusing)
    with trying(served, "--wait", served.path) as process:
        served.child.unmount(force=True)
        assert ended(process) == (0, "")
    assert len(served.notes("unmounted")) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--wait", "--force", "/mnt"], "--wait does not go with --force"),
        (["-w", "-l", "/mnt"], "--wait does not go with"),
        (["--wait=soon", "/mnt"], "'soon'"),
        (["--wait=-1", "/mnt"], "seconds"),
        (["--wait=nan", "/mnt"], "seconds"),
        (["--wait"], "MOUNTPOINT"),
    ],
)
def test_a_wait_that_makes_no_sense(arguments: list[str], says: str) -> None:
    done = umount(*arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_waiting_needs_a_mount(tmp_path: Path) -> None:
    done = umount("--wait", "--", tmp_path)
    assert (done.returncode, "is not mounted" in done.stderr) == (1, True)
