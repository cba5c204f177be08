"""`puffs umount`."""

import errno
from typing import Final

import click

from puffs.attach.asking import NoControl, ask, mounted
from puffs.attach.fuse.mountinfo import MountInfo
from puffs.attach.fuse.mounting import abort_connection, unmount, unmount_this
from puffs.attach.fuse.mountpoint import MountError, is_stale
from puffs.attach.fuse.watcher import still_mounted

SECONDS: Final = 30.0
"""How long the server may take to agree and to write what is buffered."""
FORCE_SECONDS: Final = 5.0
"""The same with --force, before it is counted as hung."""
_OURS_TO_TRY: Final = (errno.EPERM, errno.EACCES, errno.ENXIO)
"""Why a server may be unable to unmount what another process can."""


@click.command()
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option("-f", "--force", is_flag=True, help="Take it away from whoever uses it; see below.")
@click.option("-l", "--lazy", is_flag=True, help="Detach it now, even while it is in use.")
def umount(mountpoint: str, force: bool, lazy: bool) -> None:
    """Unmount what is mounted on MOUNTPOINT.

    The file server is asked first, and may refuse. With --force nobody is asked: who has files open
    there gets errors, and a server that does not answer is cut off. With --lazy the name goes now,
    and who uses the mount may go on.

    A stale mount, whose server has gone, is taken away even while somebody still holds it.

    \b
    Examples:
      puffs umount /mnt/x
      puffs umount --force /mnt/x
    """
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
