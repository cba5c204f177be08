"""Servers for tests in processes of their own, and what they tell of themselves at the end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mounting import MountError, abort_connection

PATIENCE = 20.0


class Served:
    """A mount that another process serves. `path` is where."""

    def __init__(self, path: Path, notes: Path, process: subprocess.Popen[bytes]) -> None:
        self.path = path
        self._notes = notes
        self.process = process

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def unmount(self) -> dict[str, Any]:
        """Unmount; what the server tells of itself."""
        subprocess.run(["umount", self.path], check=True, timeout=PATIENCE)
        return self.summary()

    def signal(self, number: signal.Signals) -> dict[str, Any]:
        """Send a signal, which is to end it."""
        self.process.send_signal(number)
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """What it tells when it has ended by itself."""
        self.process.wait(PATIENCE)
        summary: dict[str, Any] = json.loads(self._notes.read_text())
        return summary

    def give_back(self) -> None:
        """Leave nothing behind, whatever has happened."""
        while found := find_mount(str(self.path)):
            try:
                abort_connection(found.device[1])
            except MountError:
                pass
            subprocess.run(["umount", "-l", self.path], check=False)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)


Serve = Callable[..., Served]


def serving(tmp_path: Path, module: str) -> Iterator[Serve]:
    """What starts servers, and ends them."""
    started: list[Served] = []

    def serve(**words: Any) -> Served:
        place = tmp_path / f"mount {len(started)}"
        place.mkdir()
        notes = tmp_path / f"notes {len(started)}"
        process = subprocess.Popen(
            [sys.executable, "-m", module, place, notes, json.dumps(words)],
            cwd=Path(__file__).parents[2],
        )
        served = Served(place, notes, process)
        started.append(served)
        while not os.path.ismount(place):
            if process.poll() is not None:
                pytest.fail(f"it has ended with {process.returncode}")
            try:
                process.wait(0.01)
            except subprocess.TimeoutExpired:
                pass
        return served

    try:
        yield serve
    finally:
        for served in started:
            served.give_back()
