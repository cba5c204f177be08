"""How servers begin and end, and who waits for whom: what is seen from outside of the mount."""

import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
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

_TOLD: Final = ("init", "destroy", "raised", "returned", "deleted", "told")
"""How the lines begin that servers write themselves."""


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
        _unmount(stage)

    def unmount_what_is_left(server: subprocess.Popen[bytes]) -> None:
        with suppress(OSError):
            _unmount(stage)

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
        "init fails": ended(stage, unmount_what_is_left, "fails"),
        "an option that is not known": ended(stage, unmount, "no_such_option"),
    }


def closings(stage: Stage) -> dict[str, Any]:
    """`servers/closing.py`, ended in every way."""

    def unmount(server: subprocess.Popen[bytes]) -> None:
        _unmount(stage)

    def twice(server: subprocess.Popen[bytes]) -> list[Any]:
        """End the first mount, and use the second."""
        links = [_links(stage)]
        with pytest.raises(OSError):
            _make(stage, "end", server)
        stage.wait_for(lambda: _links(stage) not in (0, links[0]), server)
        links.append(_links(stage))
        with pytest.raises(OSError):
            _make(stage, "end", server)
        return links

    by_order = partial(_make, stage, "end")
    return {
        "unmounted": ended(stage, unmount),
        "ended": ended(stage, by_order),
        "an exception": ended(stage, partial(_make, stage, "ValueError")),
        "SystemExit": ended(stage, partial(_make, stage, "SystemExit")),
        "KeyboardInterrupt": ended(stage, partial(_make, stage, "KeyboardInterrupt")),
        "SIGINT": ended(stage, _signal(signal.SIGINT)),
        "SIGTERM": ended(stage, _signal(signal.SIGTERM)),
        "SIGHUP": ended(stage, _signal(signal.SIGHUP)),
        "it stays": ended(stage, by_order, "stays"),
        "twice": ended(stage, twice, "again"),
        "too early": ended(stage, by_order, "early"),
    }


def _links(stage: Stage) -> int:
    """How many links the root has, which tells which mount it is; 0: there is none."""
    try:
        return os.stat(stage.mountpoint).st_nlink if stage.mounted() else 0
    except OSError:
        return 0


def daemons(stage: Stage) -> dict[str, Any]:
    """`servers/daemon.py`: what starts it ends, and it goes on in another process."""
    return {
        "unmounted": _daemon(stage, lambda pid: _unmount(stage)),
        "terminated": _daemon(stage, lambda pid: os.kill(pid, signal.SIGTERM)),
        "not a mount point": _not_begun(stage, "/nothing/there"),
        "an option that is not known": _not_begun(stage, str(stage.mountpoint), "no_such_option"),
    }


def _daemon(stage: Stage, end_it: Callable[[int], None]) -> dict[str, Any]:
    stage.side.unlink(missing_ok=True)
    server = stage.start()
    status = server.wait(PATIENCE)
    mounted = stage.mounted()
    try:
        os.chmod(stage.mountpoint, 0o700)
        asked = _noted(stage, "asked")
        end_it(asked["pid"])
        _noted(stage, "ends")
        left = stage.mounted()
    finally:
        give_back(stage.mountpoint)
    return {
        "status": status,
        "mounted": mounted,
        "told": stage.said().splitlines(),
        "events": _events(stage),
        "left": left,
    }


def _not_begun(stage: Stage, *words: str) -> dict[str, Any]:
    """A mount that fails, and in which process that is told."""
    stage.side.unlink(missing_ok=True)
    command = stage.command()
    place = command.index(str(stage.mountpoint))
    server = stage.run([*command[:place], *words])
    return {"status": server.wait(PATIENCE), "events": _events(stage)}


def _noted(stage: Stage, event: str) -> dict[str, Any]:
    """Wait until something has come to pass in a daemon, and return what it said then."""
    pause = threading.Event()  # that is never set
    for _ in range(int(PATIENCE / 0.01)):
        lines = stage.side.read_text().splitlines() if stage.side.exists() else []
        for note in map(json.loads, lines):
            if note["event"] == event:
                return dict(note)
        pause.wait(0.01)
    raise AssertionError(f"{event}: never, in {lines}\n{stage.said()}")


def _events(stage: Stage) -> list[dict[str, Any]]:
    """All that has come to pass."""
    notes = [json.loads(line) for line in stage.side.read_text().splitlines()]
    return [{name: value for name, value in note.items() if name != "pid"} for note in notes]


def _unmount(stage: Stage) -> None:
    umount2(str(stage.mountpoint), UMOUNT_NOFOLLOW)


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
