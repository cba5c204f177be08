"""A process that mounts isolated file servers, one after the other, and outlives them all."""

import os
import signal
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import puffs
from puffs.isolate.isolation import Isolation
from tests.fuse.conftest import PATIENCE


class Host:
    """What is done there."""

    def mount(self, make: Callable[[], Any], path: Path, options: str, how: Isolation) -> int:
        """Mount what `make` makes; the process of the file server."""
        self.mounted = puffs.mount(make, path, options, isolate=how)
        return self.mounted.server_pid

    def why(self) -> str:
        """Wait until the mount is gone; why it is, if its file server has died."""
        assert self.mounted.wait(PATIENCE), "the mount is not gone"
        return self.mounted.why

    def unmount(self) -> None:
        self.mounted.unmount(force=True)

    def call(self, method: str, *args: Any) -> Any:
        """A method of the mount."""
        return getattr(self.mounted, method)(*args)


class Parent:
    """That process: its methods are those of `Host`, called there.

    It is killed when a call takes too long; `alive` tells.
    """

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _obey(theirs)
            finally:
                os._exit(1)
        theirs.close()
        self.alive = True

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self._connection.send((name, args))
            if not self._connection.poll(PATIENCE):
                self.end()
                raise AssertionError(f"{name} does not return")
            result, error = self._connection.recv()
            if error is not None:
                raise error
            return result

        return call

    def end(self, number: int = signal.SIGKILL) -> None:
        """Kill it."""
        if self.alive:
            self.alive = False
            os.kill(self.pid, number)
            os.waitpid(self.pid, 0)
            self._connection.close()


def _obey(connection: Connection) -> None:
    host = Host()
    while True:
        name, args = connection.recv()
        try:
            result = getattr(host, name)(*args)
        except Exception as exc:
            connection.send((None, exc))
        else:
            connection.send((result, None))
