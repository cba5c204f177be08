"""Where programs run: mounts that `puffs mount` has made and another process serves."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.cli.commands import PUFFS, wait_until_mounted
from tests.fuse.conftest import give_back

PROGRAM: Final = [pytest.mark.fuse, pytest.mark.slow, pytest.mark.timeout(900)]
"""The marks of a test that runs programs."""

SHOWN: Final = 20_000
"""So many characters of what a failing program has printed are shown, the last ones."""

NOBODY: Final = 65534


@dataclass(frozen=True)
class Kind:
    """What is mounted, and with which further arguments of `puffs mount`."""

    spec: str
    arguments: tuple[str, ...] = ()


KINDS: Final = {
    "mem": Kind("mem:"),
    "mem-writeback": Kind("mem:", ("-o", "writeback")),
    "mem-threads": Kind("mem:", ("-o", "threads=4")),
    "mem-isolated": Kind("mem:", ("--isolate",)),
    "null": Kind("null:{directory}"),
    "null-writeback": Kind("null:{directory}?cache=forever", ("-o", "writeback")),
    "null-threads": Kind("null:{directory}", ("-o", "threads=4")),
}
PLAIN: Final = ("mem", "null")
"""What every program runs on."""


def also(*kinds: str) -> pytest.MarkDecorator:
    """Run a test on mounts of these `KINDS` too."""
    return pytest.mark.parametrize("place", [*PLAIN, *kinds], indirect=True)


@contextmanager
def mounted(kind: Kind) -> Iterator[Path]:
    """A mount of this kind, which all users may come to; what it is a mount of is on the disk."""
    # Not below pytest's directory: each run of pytest closes that to other users again.
    with tempfile.TemporaryDirectory(prefix="puffs-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        with served(kind, Path(name)) as mountpoint:
            yield mountpoint


@contextmanager
def served(kind: Kind, directory: Path) -> Iterator[Path]:
    """A mount of this kind in `directory`, for all users, with devices and set-ids.

    At the end nobody may have it in use any more, and the server must have had nothing to complain
    about.
    """
    mountpoint, host, log = directory / "mnt", directory / "host", directory / "log"
    mountpoint.mkdir()
    host.mkdir()
    spec = kind.spec.format(directory=host)
    command = [*PUFFS, "mount", "-f", spec, str(mountpoint), "-o", "allow_other,suid,dev"]
    with log.open("w") as messages:
        server = subprocess.Popen([*command, *kind.arguments], stdout=messages, stderr=messages)
    try:
        wait_until_mounted(mountpoint)
        yield mountpoint
        run(*PUFFS, "umount", mountpoint)
        assert (server.wait(30), log.read_text()) == (0, "")
    finally:
        give_back(mountpoint)
        server.kill()
        server.wait()


def run(
    *command: str | Path,
    cwd: Path | None = None,
    seconds: float = 120,
    uid: int | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program, as the user `uid` if one is given; return what it prints.

    `env` comes on top of the environment of this process. The exit status must be 0, unless there
    is nothing to `check`. What has not ended within `seconds` is killed with all that it has
    started, and the test fails.
    """
    with tempfile.TemporaryFile("w+", errors="surrogateescape") as output:
        with subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            start_new_session=True,
        ) as process:
            problem = ""
            try:
                if process.wait(seconds) and check:
                    problem = f"exit status {process.returncode}"
            except subprocess.TimeoutExpired:
                problem = f"still running after {seconds} seconds"
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        printed = output.read()
    if problem:
        words = " ".join(map(str, command))
        pytest.fail(f"{words[:500]}\n{problem}\n{printed[-SHOWN:]}", pytrace=False)
    return printed
