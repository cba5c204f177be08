"""`puffs mounter`."""

import pwd

import click

from puffs.attach.fuse.handover import hand_over
from puffs.attach.fuse.options import parse_options


@click.command()
@click.argument("socket", metavar="SOCKET")
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option("-o", "options", metavar="OPTIONS", multiple=True, help="Mount options.")
@click.option(
    "--user",
    metavar="USER",
    help="Who may fetch the connection and use the mount; else whoever SOCKET lets in.",
)
def mounter(socket: str, mountpoint: str, options: tuple[str, ...], user: str | None) -> None:
    """Mount for a `puffs serve` that may not: open, mount, hand over.

    It meets the server at the Unix socket SOCKET, and ends when the mount can be used. The mount is
    for the server's user, or for all with -o allow_other. When the server ends, a watcher that
    stays behind unmounts (-o noauto_unmount: does not).

    \b
    Examples:
      puffs mounter /run/share/x.sock /mnt/x -o allow_other
      puffs mounter --user nobody /run/share/x.sock /mnt/x
    """
    wanted = parse_options(options)
    if wanted.auto_unmount is None:
        wanted.auto_unmount = True
    hand_over(socket, mountpoint, wanted, None if user is None else _uid(user))


def _uid(user: str) -> int:
    try:
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ValueError(f"there is no user {user!r}") from None
