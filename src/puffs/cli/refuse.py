"""`puffs refuse`."""

import click

from puffs.refuse.runner import FUSE_APIS, run


@click.command("refuse", context_settings={"allow_interspersed_args": False})
@click.option(
    "--api",
    type=click.Choice(FUSE_APIS),
    default=FUSE_APIS[0],
    show_default=True,
    help="Whose API `import fuse` brings.",
)
@click.argument("command", metavar="-- COMMAND", nargs=-1, required=True, type=click.UNPROCESSED)
def refuse(api: str, command: tuple[str, ...]) -> None:
    """Run COMMAND, a Python program that was written for another library, on puffs.

    The modules fuse, mfusepy, pyfuse3 and llfuse are puffs for it, and for all Python programs that
    it starts. It may be installed in another environment than puffs, where it needs neither those
    libraries nor libfuse. COMMAND is a program, a .py file, or options for this Python.

    \b
    Examples:
      puffs refuse -- ratarmount archive.tar.gz /mnt/x
      puffs refuse -- borg mount /srv/repo /mnt/x
      puffs refuse --api mfusepy -- ./server.py /mnt/x
      puffs refuse -- -m package.server /mnt/x
    """
    run(api, command)
