"""`puffs sync`."""

from typing import Final

import click

from puffs.attach.asking import ask, mounted

SECONDS: Final = 600.0
"""How long it may take to write everything."""


@click.command()
@click.argument("mountpoint", metavar="MOUNTPOINT")
def sync(mountpoint: str) -> None:
    """Have everything written that is buffered for the mount on MOUNTPOINT.

    First what the kernel has, then what the file server has: that one is never told of sync(1).

    \b
    Example:
      puffs sync /mnt/x
    """
    ask(mounted(mountpoint), "sync", SECONDS)
