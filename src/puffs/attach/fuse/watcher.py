"""Unmounting when the server dies (``-o auto_unmount``): a process of its own waits for that.

It holds one end of a pipe whose other end is the server's, and a descriptor of the server's process
(pidfd_open(2)): the pipe may live on in children that the server has forked. It then takes the
mount away if it is still the same one, and ends.
"""

import errno
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import puffs
from puffs.attach.fuse.mountinfo import MountInfo, covering, find_mount, read_mounts
from puffs.attach.fuse.mounting import unmount_this
from puffs.attach.fuse.mountpoint import MountError, shown
from puffs.attach.fuse.syscalls import MNT_DETACH, umount2, unique_mount_id

SECONDS: Final = 5.0
"""How long `stop` waits for the watcher to end by itself, once it has been told."""

_UNMOUNTED: Final = b"."
_DEAF: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE)
"""What may end a server must not end its watcher."""


class Watcher:
    """The server's side: it lives in the process whose death is to unmount `mountpoint`."""

    def __init__(self, mountpoint: str) -> None:
        """Start watching this process.

        Args:
            mountpoint: where it has just mounted; absolute and real.

        Raises:
            MountError: nothing is mounted there, or no process can be started.
        """
        pidfd = _pidfd()
        try:
            self._process = start(mountpoint, subprocess.PIPE, pidfd)
        finally:
            if pidfd >= 0:
                os.close(pidfd)

    def stop(self) -> None:
        """This process serves no more, and has unmounted: the watcher ends without looking."""
        process = self._process
        assert process.stdin is not None
        try:
            process.stdin.write(_UNMOUNTED)
            process.stdin.close()
        except BrokenPipeError:  # it has ended already
            pass
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pidfd() -> int:
    """A descriptor that becomes readable when this process ends; -1 where that is forbidden."""
    try:
        return os.pidfd_open(os.getpid())
    except OSError:
        return -1


def start(mountpoint: str, lifeline: int, pidfd: int = -1) -> "subprocess.Popen[bytes]":
    """Start a process that unmounts `mountpoint` when the other end of `lifeline` is closed.

    Args:
        mountpoint: absolute and real; what is mounted there now is meant.
        lifeline: one end of a pipe or socket, or PIPE.
        pidfd: of a process whose end counts too; -1: none.

    Raises:
        MountError: nothing is mounted there, or no process can be started.
    """
    found = find_mount(mountpoint)
    if found is None:
        raise MountError(errno.EINVAL, f"{shown(mountpoint)} is not mounted any more")
    major, minor = found.device
    unique = _unique(found)
    # Without the site module, whose hooks are the user's.
    command = [sys.executable, "-S", "-P", "-m", __name__]
    try:
        return subprocess.Popen(
            [
                *command,
                str(found.mount_id),
                f"{major}:{minor}",
                "" if unique is None else str(unique),
                str(pidfd),
                mountpoint,
            ],
            stdin=lifeline,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(puffs.__file__).parent.parent)},
            pass_fds=[pidfd] if pidfd >= 0 else [],
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise MountError(
            error.errno or errno.EIO,
            f"auto_unmount needs a second process, and {sys.executable!r} cannot be started "
            f"({error.strerror}): mount with -o noauto_unmount",
        ) from error


def still_mounted(mount_id: int, device: tuple[int, int]) -> MountInfo | None:
    """The mount with that id and device, wherever it has been moved to, if it is the topmost there.

    Ids and device numbers are used again, but not both by another mount while this one lives: who
    does not know that it lives must look closer (`take_away`).
    """
    mounts = read_mounts()
    for found in mounts:
        if found.mount_id == mount_id and found.device == device and found.is_fuse:
            return found if covering(found.mountpoint, mounts) == found else None
    return None


def _unique(found: MountInfo) -> int | None:
    fd = os.open(found.mountpoint, os.O_PATH | os.O_CLOEXEC)
    try:
        return unique_mount_id(fd)
    finally:
        os.close(fd)


def take_away(found: MountInfo, unique: int | None) -> None:
    """Unmount what was found, if it is the mount with the number `unique` (`unique_mount_id`).

    Its id and device may be those of another mount by now, and at any moment another one may come
    to its place: so it is looked at, and unmounted, through a descriptor that stands for it. With
    None, on kernels without such numbers, its id and device have to do.
    """
    if unique is None:
        unmount_this(found, lazy=True)
        return
    fd = os.open(found.mountpoint, os.O_PATH | os.O_CLOEXEC)
    try:
        if unique_mount_id(fd) != unique:
            return
        try:
            umount2(f"/proc/self/fd/{fd}", MNT_DETACH)
        except PermissionError:  # fusermount3 takes nothing but a path
            unmount_this(found, lazy=True)
    finally:
        os.close(fd)


def _told() -> bool:
    """Whether the server has said that it is over, rather than died."""
    readable = select.select([0], [], [], 0)[0]
    return bool(readable) and os.read(0, 1) == _UNMOUNTED


def main(arguments: list[str]) -> int:
    """The watcher's side.

    Arguments: mount id, major:minor, unique id or nothing, pidfd or -1, mount point (for ps).
    """
    for number in _DEAF:
        signal.signal(number, signal.SIG_IGN)
    mount_id, device, unique, pidfd, _ = arguments
    major, _, minor = device.partition(":")
    waiting = select.poll()
    waiting.register(0, select.POLLRDHUP)  # of a socket; the end of a pipe comes unasked
    if int(pidfd) >= 0:
        waiting.register(int(pidfd), select.POLLIN)
    waiting.poll()
    if _told():
        return 0
    found = still_mounted(int(mount_id), (int(major), int(minor)))
    if found is not None:
        take_away(found, int(unique) if unique else None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
