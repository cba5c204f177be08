"""`puffs snapshot`."""

import os
from typing import Final

import click

from puffs.attach.asking import ask, mounted
from puffs.attach.fuse.mountpoint import shown
from puffs.attach.fuse.trace import duration

SECONDS: Final = 3600.0
"""How long it may take to write everything."""


@click.command()
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.argument("destination", metavar="DEST")
def snapshot(mountpoint: str, destination: str) -> None:
    """Save the file system that is mounted on MOUNTPOINT as it is now, all of it, to DEST.

    Whoever uses the mount waits meanwhile, and notices nothing else. DEST appears when it is whole;
    it lies outside of the mount.

    mem: writes an image, which puffs mount 'mem:?image=DEST' loads; a file DEST is replaced. null:
    makes a copy that shares its blocks with the directory, where the file system of both can do
    that; there must be no DEST. File servers of yours do it if they have the operation.

    \b
    Examples:
      puffs snapshot /mnt/x /srv/x.img
      puffs mount 'mem:?image=/srv/x.img' /mnt/y
    """
    destination = os.path.abspath(destination)
    made = ask(mounted(mountpoint), "snapshot", SECONDS, destination=destination)
    size = "" if made["bytes"] is None else f"{made['bytes']} bytes, "
    click.echo(f"{shown(destination)}: {size}{duration(made['seconds'])}")
