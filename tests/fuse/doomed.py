"""File servers that come to a bad end inside of an operation."""

import ctypes
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.fuse.conftest import Notes
from tests.fuse.servers import Noting


def segfault() -> None:
    ctypes.string_at(0)


def exit_() -> None:
    os._exit(3)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def loop() -> None:
    while True:
        pass


def loop_in_c() -> None:
    """With the interpreter's lock held."""
    while True:
        pow(3, 10**7)


def allocate() -> None:
    kept = []
    while True:
        kept.append(bytes(64 << 20))


def close_all() -> None:
    """Close what leads to the parent, and live on."""
    os.closerange(3, 1024)
    signal.pause()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def leave_grandchild() -> None:
    """Die, but leave somebody behind who has the same descriptors and no tie to the parent."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        os.setsid()
        theirs.send(b"%d" % os.getpid())
        signal.pause()
    NOTES[0].add("grandchild", int(ours.recv(20)))
    os._exit(4)


NOTES: Final[list[Notes]] = []


class Doomed(Noting):
    """When the file `armed` is there, the next `operation` comes to its `end`."""

    def __init__(self, notes: Path, armed: Path, operation: str, end: Callable[[], None]) -> None:
        self._doom = (operation, end)
        self._armed = armed
        NOTES[:] = [Notes(notes)]
        super().__init__(Notes(notes))

    def mounted(self, mount: object) -> None:
        pass

    def _recorded(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        inner = super()._recorded(name, operation)
        doomed, end = self._doom
        if name != doomed:
            return inner

        def call(*args: Any) -> Any:
            if self._armed.exists():
                self._armed.unlink()
                end()
            return inner(*args)

        return call
