"""Serving for real: mount points that are given back whatever happens, and servers that tell what
was asked of them.
"""

import ast
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from puffs.attach.child import ChildMount, spawn
from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mounting import MountError, abort_connection
from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, umount2
from puffs.attach.serve import run
from puffs.isolate.isolation import Isolate
from puffs.kernel.messages import ServerDied
from puffs.kernel.mount import Mount, Servable

PATIENCE = 10.0
"""Seconds after which what has not come to an end will not."""


def give_back(mountpoint: Path) -> None:
    """Take away whatever is mounted there, and let nobody hang on it."""
    while found := find_mount(str(mountpoint)):
        try:
            abort_connection(found.device[1])
        except MountError:
            pass  # it has no connection any more
        try:
            umount2(str(mountpoint), MNT_DETACH | UMOUNT_NOFOLLOW)
        except OSError:
            pass  # its server was faster


class Served:
    """A mount of a file server in a child process, where it may have one of its own (`isolate`).

    `path` is the mount point, `log` the lines of the logger "puffs" in the child, `notes` what the
    file server wrote down (`Noting`).
    """

    def __init__(self, path: Path, directory: Path) -> None:
        self.path = path
        self._log = directory / "log"
        self._notes = directory / "notes"
        self._server = directory / "server pid"
        self._why = directory / "why it died"
        self.child: ChildMount

    def start(
        self,
        make: Callable[["Notes"], Servable],
        options: str = "",
        on_ready: Callable[[Mount], None] = lambda mount: None,
        isolate: Isolate = False,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Mount what `make` makes. `before` and `on_ready` are called in the child, the second one
        before the mount is used.
        """

        def serving(ready: Callable[[Mount], None]) -> None:
            before()
            logging.root.handlers[:] = [logging.FileHandler(self._log)]

            def both(mount: Mount) -> None:
                self._server.write_text(str(mount.server_pid))
                on_ready(mount)
                ready(mount)

            def factory() -> Servable:
                return make(Notes(self._notes))

            try:
                run(factory, self.path, options, isolate=isolate, on_ready=both)
            except ServerDied as exc:
                self._why.write_text(str(exc))
                raise

        self.child = spawn(serving, str(self.path))

    def round_trips(self, true: Callable[[], bool]) -> None:
        """Ask the server something until `true`: it serves in order, so what it was sent before, it
        has served by then. The kernel may let a request overtake some FORGETs, but not for ever.
        """
        for _ in range(1000):
            os.statvfs(self.path)
            if true():
                return
        raise AssertionError("it has not come true")

    @property
    def server_pid(self) -> int:
        """The process that answers."""
        return int(self._server.read_text())

    @property
    def why(self) -> str:
        """Why it has died, once it has `ended` by that."""
        return self._why.read_text() if self._why.exists() else ""

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def notes(self, *names: str) -> list[tuple[Any, ...]]:
        """What was noted, oldest first; with names only what begins with one of them."""
        if not self._notes.exists():
            return []
        lines = self._notes.read_text(errors="surrogateescape").splitlines()
        noted: list[tuple[Any, ...]] = [ast.literal_eval(line) for line in lines]
        return [note for note in noted if not names or note[0] in names]

    def forget_notes(self) -> None:
        self._notes.unlink(missing_ok=True)
        self._notes.touch()

    def mounted(self) -> bool:
        """Whether the mount is in the table of mounts."""
        return find_mount(str(self.path)) is not None

    def ended(self) -> int:
        """Wait for the child; its exit status."""
        status: list[int] = []
        waiter = threading.Thread(target=lambda: status.append(self.child.wait()), daemon=True)
        waiter.start()
        waiter.join(PATIENCE)
        assert status, "the process of the file server goes on"
        return status[0]

    def clean_up(self) -> None:
        """End the child, if need be by force."""
        if not hasattr(self, "child"):
            return
        asking = threading.Thread(target=self._unmount, daemon=True)
        asking.start()
        asking.join(PATIENCE)
        if asking.is_alive():
            give_back(self.path)
            os.kill(self.child.pid, signal.SIGKILL)
            asking.join(PATIENCE)

    def _unmount(self) -> None:
        try:
            self.child.unmount(force=True)
        except OSError:
            give_back(self.path)
            os.kill(self.child.pid, signal.SIGKILL)
            self.child.wait()


class Notes:
    """A file that a server in another process writes to and a test reads: one note a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, *note: Any) -> None:
        """Write down a tuple of plain values, all at once."""
        line = ascii(note) + "\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount on; nothing stays mounted there after the test."""
    path = tmp_path.resolve() / "mnt"
    path.mkdir()
    yield path
    give_back(path)


Serve = Callable[..., Served]
"""`Served.start`: mounts what its argument makes, given `Notes`, in a child process."""


@pytest.fixture
def isolate() -> Isolate:
    """Whether `serve` has the file server in a process of its own, unless a test says otherwise."""
    return False


@pytest.fixture
def serve(mountpoint: Path, tmp_path: Path, isolate: Isolate) -> Iterator[Serve]:
    """Serve a file server for real, from a child process."""
    served = Served(mountpoint, tmp_path)

    def start(make: Callable[[Notes], Servable], *args: Any, **kwargs: Any) -> Served:
        served.start(make, *args, **{"isolate": isolate, **kwargs})
        return served

    yield start
    served.clean_up()
