"""`puffs umount`."""

import errno

import click

from puffs.attach.fuse.mounting import unmount
from puffs.attach.fuse.mountpoint import MountError, is_stale


@click.command()
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option("-l", "--lazy", is_flag=True, help="Detach it now, even while it is in use.")
def umount(mountpoint: str, lazy: bool) -> None:
    """Unmount what is mounted on MOUNTPOINT.

    A stale mount, whose server has gone, is taken away even while somebody still holds it.

    \b
    Examples:
      puffs umount /mnt/x
      puffs umount -l /mnt/x
    """
    try:
        unmount(mountpoint, lazy=lazy)
    except MountError as exc:
        # Nothing in a stale mount can be used any more, so nobody is robbed of it.
        if exc.errno != errno.EBUSY or not is_stale(mountpoint):
            raise
        unmount(mountpoint, lazy=True)
