"""`puffs umount`."""

import errno
import time
from itertools import chain, repeat
from typing import Final

import click

from puffs.attach.asking import NoControl, ask, mounted
from puffs.attach.fuse.mountinfo import MountInfo, find_mount
from puffs.attach.fuse.mounting import abort_connection, unmount, unmount_this
from puffs.attach.fuse.mountpoint import MountError, is_stale, resolve
from puffs.attach.fuse.watcher import still_mounted
from puffs.kernel.mount import Refused

SECONDS: Final = 30.0
"""How long the server may take to agree and to write what is buffered."""
FORCE_SECONDS: Final = 5.0
"""The same with --force, before it is counted as hung."""
_OURS_TO_TRY: Final = (errno.EPERM, errno.EACCES, errno.ENXIO)
"""Why a server may be unable to unmount what another process can."""
PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between two attempts of --wait; the last one goes on."""


class _Umount(click.Command):
    """Has --wait without seconds: click would take the mount point for them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say for how long in any case."""
        options = args[: args.index("--")] if "--" in args else args
        spelt = ["--wait=inf" if word in ("-w", "--wait") else word for word in options]
        return super().parse_args(ctx, spelt + args[len(options) :])


def _seconds(_ctx: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not value >= 0:
        raise click.BadParameter("a number of seconds is needed")
    return value


@click.command(cls=_Umount)
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option("-f", "--force", is_flag=True, help="Take it away from whoever uses it; see below.")
@click.option("-l", "--lazy", is_flag=True, help="Detach it now, even while it is in use.")
@click.option(
    "-w",
    "--wait",
    metavar="[=SECONDS]",
    type=float,
    callback=_seconds,
    help="Try until it is not busy any more, for as long as you like, or for some seconds.",
)
def umount(mountpoint: str, force: bool, lazy: bool, wait: float | None) -> None:
    """Unmount what is mounted on MOUNTPOINT.

    The file server is asked first, and may refuse. With --force nobody is asked: who has files open
    there gets errors, and a server that does not answer is cut off. With --lazy the name goes now,
    and who uses the mount may go on.

    A stale mount, whose server has gone, is taken away even while somebody still holds it.

    \b
    Examples:
      puffs umount /mnt/x
      puffs umount --wait=10 /mnt/x
      puffs umount --force /mnt/x
    """
    if wait is None:
        _umount(mountpoint, force, lazy)
    elif force or lazy:
        raise click.UsageError("--wait does not go with --force or --lazy: those do not wait")
    else:
        _when_idle(mountpoint, wait)


def _when_idle(mountpoint: str, seconds: float) -> None:
    """Unmount as soon as neither its users nor the file server say EBUSY."""
    found = find_mount(resolve(mountpoint))
    deadline = time.monotonic() + seconds
    for pause in chain(PAUSES, repeat(PAUSES[-1])):
        try:
            _umount(mountpoint, force=False, lazy=False)
            return
        except OSError as exc:
            if found is not None and still_mounted(found.mount_id, found.device) is None:
                return  # somebody was faster
            left = deadline - time.monotonic()
            if exc.errno != errno.EBUSY:
                raise
            if left <= 0:
                raise MountError(errno.EBUSY, f"after {seconds:g} s: {exc.strerror}") from exc
        time.sleep(min(pause, left))


def _umount(mountpoint: str, force: bool, lazy: bool) -> None:
    if not lazy and _by_server(mountpoint, force):
        return
    try:
        unmount(mountpoint, lazy=lazy)
    except MountError as exc:
        # Nothing in a stale mount can be used any more, so nobody is robbed of it.
        if exc.errno != errno.EBUSY or not (force or is_stale(mountpoint)):
            raise
        _cut_off(mounted(mountpoint))


def _by_server(mountpoint: str, force: bool) -> bool:
    """Have the server unmount it. False where that is for us to do, or to fail at."""
    try:
        found = mounted(mountpoint)
    except MountError:
        return False
    try:
        ask(found, "unmount", FORCE_SECONDS if force else SECONDS, force=force)
    except NoControl as exc:
        if exc.errno == errno.ETIMEDOUT:
            if not force:
                raise MountError(
                    errno.ETIMEDOUT, f"{exc}: cut it off with puffs umount --force"
                ) from exc
            _cut_off(found)
            return True
    except Refused:
        raise
    except OSError as exc:
        if exc.errno not in _OURS_TO_TRY:
            raise
    return still_mounted(found.mount_id, found.device) is None


def _cut_off(found: MountInfo) -> None:
    """Take a mount away from its users and its server."""
    unmount_this(found, lazy=True)
    try:
        abort_connection(found.device[1])
    except MountError:
        pass  # it has none any more, or is not ours to abort: the name has gone all the same
