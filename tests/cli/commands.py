"""Commands as a user starts them, and what they leave behind on the machine."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 30
"""Longer than anything here should take."""

PUFFS = [sys.executable, "-m", "puffs"]


def run(*command: str | Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=SECONDS, cwd=cwd
    )


def puffs(*arguments: str | Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return run(*PUFFS, *arguments, cwd=cwd)


def succeeds(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command that must have nothing to complain about; return what it prints."""
    done = run(*command, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), (command, done)
    return done.stdout


def mounted(mountpoint: Path) -> list[str]:
    """Type and source of what is mounted on a path, by the kernel's own table."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if before.split(" ")[4] == str(mountpoint):
            found.append(" ".join(after.split(" ")[:2]))
    return found


def processes(mountpoint: Path) -> dict[int, str]:
    """The processes with the path of a mount point in their command line."""
    found = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal() and int(directory.name) != os.getpid():
            try:
                command = (directory / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it has just ended
                continue
            if str(mountpoint) in command:
                found[int(directory.name)] = command.replace("\0", " ")
    return found


@contextmanager
def all_end(mountpoint: Path) -> Iterator[dict[int, str]]:
    """Expect that the processes of a mount, which name it in their command lines, end."""
    found = processes(mountpoint)
    descriptors = []
    for pid in found:
        try:
            descriptors.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    try:
        yield found
        for descriptor in descriptors:
            ready, _, _ = select.select([descriptor], [], [], SECONDS)
            assert ready, processes(mountpoint)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def wait_until_mounted(mountpoint: Path) -> None:
    """Wait until something is mounted there and answers."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as table:
        changes = select.poll()
        changes.register(table, select.POLLPRI)
        while not mounted(mountpoint):
            assert changes.poll(SECONDS * 1000), f"nothing was mounted on {mountpoint}"
            table.seek(0)
            table.read()
    succeeds("stat", "-f", mountpoint)


@contextmanager
def serving(*command: str | Path, mountpoint: Path) -> "Iterator[subprocess.Popen[str]]":
    """Run a command that serves in the foreground until it is told to end."""
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until_mounted(mountpoint)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
