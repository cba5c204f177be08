"""Mounts for the length of a test, served from child processes and taken away whatever happens."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from puffs.attach.child import ChildMount
from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mounting import abort_connection, unmount_this
from puffs.attach.fuse.mountpoint import MountError
from puffs.attach.serve import Options, Server, mount

logger = logging.getLogger("puffs")

PATIENCE: Final = 5.0
"""Seconds after which a server that has not ended is counted as hung."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One mount of a test."""

    path: Path
    child: ChildMount
    process: int
    """A descriptor of the child's process (pidfd_open(2))."""
    device: tuple[int, int] | None


class Trials:
    """The mounts of one test. `make_directory` makes a fresh directory for each."""

    def __init__(self, make_directory: Callable[[], Path]) -> None:
        self._make_directory = make_directory
        self._trials: list[Trial] = []

    def __call__(
        self, fs: Server, *, options: Options = (), mountpoint: str | os.PathLike[str] | None = None
    ) -> Path:
        """Mount `fs`; return the mount point. See `puffs.testing.puffs_mount`."""
        path = Path(mountpoint) if mountpoint is not None else self._make_directory()
        path = path.resolve()
        try:
            child = mount(fs, path, options, process=True)
        except MountError as exc:
            _skip_if_nobody_can(exc)
            raise
        found = find_mount(str(path))
        device = found.device if found is not None else None
        self._trials.append(Trial(path, child, os.pidfd_open(child.pid), device))
        return path

    def unmount(self, path: str | os.PathLike[str]) -> None:
        """Unmount one of them now. Raises as `Mount.unmount` does."""
        trial = self._trial(path)
        trial.child.unmount()
        self._trials.remove(trial)
        os.close(trial.process)

    def pid(self, path: str | os.PathLike[str]) -> int:
        """The process that serves one of them."""
        return self._trial(path).child.pid

    def end(self) -> list[str]:
        """Take all away, the last first. What was left all the same, a line each."""
        left: list[str] = []
        while self._trials:
            left += _taken_away(self._trials.pop())
        return left

    def _trial(self, path: str | os.PathLike[str]) -> Trial:
        for trial in self._trials:
            if trial.path == Path(path).absolute():
                return trial
        raise ValueError(f"puffs_mount has mounted nothing on {os.fspath(path)}")


def _skip_if_nobody_can(exc: MountError) -> None:
    """Skip the test where this machine lets nobody mount."""
    import pytest

    from puffs.attach.fuse.doctor import examine

    if not examine().open:
        if os.environ.get("PUFFS_REQUIRE_FUSE") == "1":
            pytest.fail(f"PUFFS_REQUIRE_FUSE=1, but {exc}", pytrace=False)
        pytest.skip(str(exc))


def _taken_away(trial: Trial) -> list[str]:
    """Unmount, by force if need be. What is left then."""
    ending = threading.Thread(target=_end, args=(trial.child,), daemon=True)
    ending.start()
    ending.join(PATIENCE)
    if ending.is_alive():  # it hangs: free whoever waits for it, then end it
        _detach(trial)
        signal.pidfd_send_signal(trial.process, signal.SIGKILL)
        ending.join(PATIENCE)
    _detach(trial)
    left = []
    if ending.is_alive():
        left.append(f"process {trial.child.pid}, which serves {trial.path}, cannot be ended")
    else:
        os.close(trial.process)
    found = find_mount(str(trial.path))
    if found is not None and found.device == trial.device:
        left.append(f"{trial.path} is still mounted, as {found.fstype}")
    return left


def _end(child: ChildMount) -> None:
    try:
        child.unmount(force=True)
    except OSError as exc:
        logger.warning("%s: %s", child.mountpoint, exc)
    child.wait()


def _detach(trial: Trial) -> None:
    """Take the mount from the tree, if it is still there, and its connection from its users."""
    found = find_mount(str(trial.path))
    if found is None or found.device != trial.device:
        return
    try:
        abort_connection(found.device[1])
    except MountError:
        pass  # it has none any more
    try:
        unmount_this(found, lazy=True)
    except MountError as exc:
        logger.warning("%s", exc)
