"""How servers begin and end, and who waits for whom: what is seen from outside of the mount."""

import errno
import os
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.syscalls import UMOUNT_NOFOLLOW, umount2
from tests.fuse.conftest import give_back
from tests.refuse.saying import plain
from tests.refuse.stage import PATIENCE, Stage, end

GOES_ON: Final = 5.0
"""Seconds after which a server that has not ended is taken to go on."""

_TOLD: Final = ("init", "destroy", "raised", "returned")
"""How the lines begin that `servers/ending.py` writes itself."""


def ended(stage: Stage, act: Callable[[subprocess.Popen[bytes]], Any], *more: str) -> Any:
    """Start a server, do something that ends it; return its status and what it has told."""
    server = stage.start(*more)
    try:
        stage.wait_for(lambda: stage.mounted() or server.poll() is not None, server)
        try:
            os.statvfs(stage.mountpoint)  # it is served from here on
        except OSError:
            pass  # or has ended already
        try:
            seen = act(server)
        except OSError as error:
            seen = type(error).__name__
        try:
            status: int | str = server.wait(GOES_ON)
        except subprocess.TimeoutExpired:
            status = "goes on"
        left = stage.mounted()
    finally:
        give_back(stage.mountpoint)
        end(server)
    told = [line for line in stage.said().splitlines() if line.startswith(_TOLD)]
    return plain({"seen": seen, "status": status, "told": told, "left": left})


def _signal(number: signal.Signals) -> Callable[[subprocess.Popen[bytes]], None]:
    return lambda server: os.kill(server.pid, number)


def _make(stage: Stage, name: str, server: subprocess.Popen[bytes]) -> None:
    """Make a directory, which `servers/ending.py` takes for an order."""
    os.mkdir(stage.mountpoint / name)


def endings(stage: Stage) -> dict[str, Any]:
    """`servers/ending.py`, ended in every way."""

    def unmount(server: subprocess.Popen[bytes]) -> None:
        umount2(str(stage.mountpoint), UMOUNT_NOFOLLOW)

    def fail_and_unmount(server: subprocess.Popen[bytes]) -> str:
        with pytest.raises(OSError) as caught:
            _make(stage, "ValueError", server)
        unmount(server)
        return errno.errorcode[caught.value.errno or 0]

    return {
        "unmounted": ended(stage, unmount),
        "SIGTERM": ended(stage, _signal(signal.SIGTERM)),
        "SIGINT": ended(stage, _signal(signal.SIGINT)),
        "SIGHUP": ended(stage, _signal(signal.SIGHUP)),
        "fuse_exit": ended(stage, partial(_make, stage, "exit")),
        "an exception": ended(stage, fail_and_unmount),
        "init fails": ended(stage, unmount, "fails"),
        "an option that is not known": ended(stage, unmount, "no_such_option"),
    }


def critical(stage: Stage) -> dict[str, Any]:
    """Exceptions that mean the end."""
    return {
        name: ended(stage, partial(_make, stage, name))
        for name in ("SystemExit", "KeyboardInterrupt")
    }


def waits(stage: Stage) -> dict[str, Any]:
    """`servers/blocking.py`: whether a read that takes its time keeps others waiting."""
    alone = stage.twin.command.endswith("nothreads")
    os.mkfifo(stage.side)
    with stage.serving() as server:
        found = find_mount(str(stage.mountpoint))
        assert found is not None
        waiting = Path(f"/sys/fs/fuse/connections/{found.device[1]}/waiting")
        reader = subprocess.Popen(
            ["cat", stage.mountpoint / "slow"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        release = os.open(stage.side, os.O_WRONLY)  # waits until the server reads
        other = subprocess.Popen(["test", "-e", stage.mountpoint / "other"])

        def decided() -> bool:
            return other.poll() is not None or (alone and int(waiting.read_text()) > 1)

        stage.wait_for(decided, server)
        beside = other.poll() is not None
        os.write(release, b"at last")
        os.close(release)
        read, _ = reader.communicate(timeout=PATIENCE)
        other.wait(PATIENCE)
        lines = stage.said().splitlines()
    order = lines.index("getattr /other") < lines.index("read /slow")
    return {"beside": beside, "served first": order, "read": plain(read)}
