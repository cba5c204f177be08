"""A sample of the fuzzed mountings, on real mounts."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from puffs.attach.asking import ask, mounted
from puffs.attach.child import ChildMount, spawn
from puffs.attach.control import Control
from puffs.attach.fuse.init import Terms
from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mountpoint import MountError
from puffs.attach.fuse.options import parse_options
from puffs.attach.fuse.places import MountPoint, session_of
from puffs.kernel.args import MountArgs
from puffs.kernel.mount import Mount
from tests.fuse.calls import fails
from tests.fuse.conftest import PATIENCE
from tests.kernel.fuzzed import LEVELS, Plan, Responder, complaint, plans

pytestmark = [pytest.mark.fuse, pytest.mark.loops]

SAMPLE = 12

COMMANDS = ("ls -la", "touch -c", "stat -f", "cat", "rm -rf", "cp /dev/null")
"""The first three are for files of all types."""


def serve(plan: Plan, path: Path) -> ChildMount:
    """Mount what is planned, served by a child process."""

    def run(ready: Callable[[Mount], None]) -> None:
        server = Responder(plan)
        mount = Mount(server, MountArgs.copyin(plan))
        connection = MountPoint(path).connect(mount, parse_options([]), lambda: None)

        def on_ready() -> None:
            control.start()
            ready(mount)

        terms = Terms(mount.args.payload)
        session = session_of(connection, mount, terms=terms, on_table=None, on_ready=on_ready)
        control = Control(mount, session, listen=True, slow=None)
        try:
            session.serve()
        finally:
            control.close()

    return spawn(run, str(path))


@pytest.mark.parametrize("level", LEVELS[:-1])
def test_what_is_not_granted_is_not_mounted(level: int, mountpoint: Path) -> None:
    refused = [plan for plan in plans(level) if complaint(plan)]
    for plan in refused[:3]:
        with pytest.raises(MountError) as caught:
            serve(dict(plan), mountpoint)
        assert caught.value.errno in (errno.EINVAL, errno.EPROTO)
        assert str(caught.value) in complaint(plan)
        assert find_mount(str(mountpoint)) is None


@pytest.mark.parametrize("number", range(SAMPLE))
def test_what_is_granted_can_be_used_and_unmounted(number: int, mountpoint: Path) -> None:
    plan = plans(LEVELS[-1])[number]
    kind = stat.S_IFMT(plan["mode"])
    if kind != stat.S_IFDIR:
        mountpoint.rmdir()
        mountpoint.touch()
    if kind == stat.S_IFLNK:
        with fails(errno.EINVAL, "symbolic link"):
            serve(dict(plan), mountpoint)
        return
    with serve(dict(plan), mountpoint) as child:
        status = ask(mounted(mountpoint), "status")
        assert status["max_write"] <= status["args"]["request_size"] - 4096
        found = find_mount(str(mountpoint))
        assert found is not None
        assert found.source == status["args"]["name"]
        assert stat.S_IFMT(os.lstat(mountpoint).st_mode) == kind
        for command in COMMANDS if kind in (stat.S_IFDIR, stat.S_IFREG) else COMMANDS[:3]:
            words = [*command.split(), f"{mountpoint}/x" if kind == stat.S_IFDIR else mountpoint]
            subprocess.run(words, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
        assert ask(mounted(mountpoint), "status")["state"] == "running"
        child.unmount()
    assert find_mount(str(mountpoint)) is None
