"""A server of `servers/` and where it runs: on the library that it was written for, or on puffs."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from puffs.attach.fuse.mountinfo import find_mount
from tests.fuse.conftest import give_back

HERE: Final = Path(__file__).parent
REPOSITORY: Final = HERE.parents[1]
STOCK_PYTHON: Final = REPOSITORY / ".venv-refuse/bin/python"
"""A Python that has the libraries themselves: `make test-full` and `make recorded` see to it."""

PATIENCE: Final = 20.0
"""Seconds for a mount to be there, and for a server to end."""


class Library(NamedTuple):
    """A library, by the name of its module, and what chooses it."""

    module: str
    api: str = "fusepy"
    """What `puffs refuse --api` is told, for what imports `fuse`."""
    environment: Mapping[str, str] = {}
    """For the library itself."""


LIBRARIES: Final = {
    "fusepy": Library("fuse"),
    "mfusepy": Library("mfusepy", environment={"FUSE_LIBRARY_NAME": "fuse3"}),
    "mfusepy2": Library("mfusepy", environment={"FUSE_LIBRARY_NAME": "fuse"}),
    "pyfuse3": Library("pyfuse3"),
    "llfuse": Library("llfuse"),
}


class Twin(NamedTuple):
    """A server, and what is done with it."""

    binding: str
    command: str
    """The program and its words; {module}, {backing}, {side} and {mountpoint} are put in."""
    sections: tuple[str, ...] = ()
    """Of cases that are made on its mount."""
    life: "Callable[[Stage], dict[str, Any]] | None" = None
    """Instead: what is done with the server itself."""


class Stage:
    """Where a server is run: its directories, and how it is started."""

    def __init__(self, twin: Twin, stock: bool, directory: Path) -> None:
        self.twin = twin
        self.stock = stock
        self.mountpoint = directory / "mnt"
        self.backing = directory / "backing"
        self.side = directory / "side"
        self.output = directory / "output"
        self.mountpoint.mkdir()
        self.backing.mkdir()

    def command(self, *more: str) -> list[str]:
        library = LIBRARIES[self.twin.binding]
        places = {
            "module": library.module,
            "backing": self.backing,
            "side": self.side,
            "mountpoint": self.mountpoint,
        }
        words = [word.format_map(places) for word in self.twin.command.split()]
        program = [str(HERE / "servers" / words[0]), *words[1:], *more]
        if self.stock:
            return [str(STOCK_PYTHON), *program]
        return [sys.executable, "-m", "puffs.refuse", "--api", library.api, *program]

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the server."""
        return self.run(self.command(*more))

    def run(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start the server by another command line."""
        self.output.unlink(missing_ok=True)
        environment = {**os.environ, **LIBRARIES[self.twin.binding].environment}
        with self.output.open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**environment, "PYTHONWARNINGS": "ignore", "HERE": str(REPOSITORY)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @contextmanager
    def serving(self, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """A server that is mounted; it is unmounted afterwards."""
        server = self.start(*more)
        try:
            self.wait_for(self.mounted, server)
            yield server
        finally:
            give_back(self.mountpoint)
            end(server)

    def mounted(self) -> bool:
        """Whether it is in the table of mounts."""
        return find_mount(str(self.mountpoint)) is not None

    def wait_for(self, true: Callable[[], bool], server: subprocess.Popen[bytes]) -> None:
        """Wait until `true`, while the server lives."""
        pause = threading.Event()  # that is never set
        for _ in range(int(PATIENCE / 0.01)):
            if true():
                return
            if server.poll() is not None:
                break
            pause.wait(0.01)
        raise AssertionError(f"{self.command()} does not do what it should:\n{self.said()}")

    def said(self) -> str:
        """What the server has written."""
        return self.output.read_text(errors="replace")


def end(server: subprocess.Popen[bytes]) -> int:
    """Wait for a server that has no reason to go on, and make it end if it does."""
    try:
        return server.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        return server.wait()
