"""`puffs suspend`."""

from typing import Final

import click

from puffs.attach.asking import ask, mounted
from puffs.kernel.suspend import SECONDS

_TO_SAY_SO: Final = 10.0
"""Seconds that the server may need beyond those that it is given."""


@click.command()
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=SECONDS,
    show_default=True,
    help="How long to try.",
)
def suspend(mountpoint: str, timeout: float) -> None:
    """Suspend the mount on MOUNTPOINT: nothing is done there until `puffs resume`.

    What the kernel has buffered is written first. Operations that come meanwhile wait, and are done
    after the resume; none fails. So what is behind the mount can be copied as it stands.

    \b
    Example:
      puffs suspend /mnt/x && cp -a /srv/x /backup/x; puffs resume /mnt/x
    """
    found = mounted(mountpoint)
    ask(found, "suspend", timeout + _TO_SAY_SO, timeout=timeout)
