"""`puffs resume`."""

from typing import Final

import click

from puffs.attach.asking import ask, mounted

SECONDS: Final = 30.0


@click.command()
@click.argument("mountpoint", metavar="MOUNTPOINT")
def resume(mountpoint: str) -> None:
    """Let the mount on MOUNTPOINT go on that `puffs suspend` has suspended."""
    ask(mounted(mountpoint), "resume", SECONDS)
