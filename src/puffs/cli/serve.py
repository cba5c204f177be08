"""`puffs serve`."""

import sys

import click

from puffs.attach.fuse.handover import Handover
from puffs.attach.main import mount_command
from puffs.cli.spec import parse_spec


@click.command()
@click.argument("spec", metavar="SPEC")
@click.option(
    "--fd-socket",
    "path",
    metavar="PATH",
    required=True,
    help="The socket over which a mounter hands the connection over.",
)
@click.option("-o", "options", metavar="OPTIONS", multiple=True, help="max_write=BYTES, threads=N.")
def serve(spec: str, path: str, options: tuple[str, ...]) -> None:
    """Serve the file system SPEC where somebody else mounts it.

    This process needs no right to mount and no /dev/fuse: `puffs mounter`, or another privileged
    program, hands it the connection, as a descriptor over the Unix socket PATH (SCM_RIGHTS). Which
    of the two is started first does not matter. It serves in the foreground, with one thread for
    each descriptor that comes.

    \b
    Examples:
      puffs serve mem: --fd-socket /run/share/x.sock       # in the container
      puffs mounter /run/share/x.sock /mnt/x               # as root, outside
    """
    factory = parse_spec(spec).factory
    sys.exit(mount_command("puffs", factory, Handover(path), options, foreground=True))
