"""`puffs mount`."""

import sys

import click

from puffs.attach.fuse.options import help_rows
from puffs.attach.main import mount_command
from puffs.cli.spec import parse_spec


class _WithOptions(click.Command):
    """A command whose help ends with the mount options."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Mount OPTIONS, separated by commas"):
            formatter.write_dl(help_rows())


@click.command(cls=_WithOptions)
@click.argument("spec", metavar="SPEC")
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option("-f", "--foreground", is_flag=True, help="Serve in the foreground until unmounted.")
@click.option(
    "-o",
    "options",
    metavar="OPTIONS",
    multiple=True,
    help="Mount options, see below; may be given several times.",
)
@click.option(
    "--slow",
    metavar="SECONDS",
    help="Log requests that take longer: what, by whom, how long. As -o slow=SECONDS.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How to log (to stderr with -f, else to syslog).",
)
def mount(
    spec: str,
    mountpoint: str,
    foreground: bool,
    options: tuple[str, ...],
    slow: str | None,
    log_format: str,
) -> None:
    """Mount the file system SPEC on MOUNTPOINT.

    It is served in the background, and the command is done once the mount can be used. `puffs
    umount` ends it; with -f so does ^C. `puffs --help` tells what a SPEC is.

    \b
    Examples:
      puffs mount mem: /mnt/x
      puffs mount 'mem:?size=64M' /mnt/x -o allow_other,noexec
      puffs mount -f ./hello.py:Hello /mnt/hello
      puffs mount -f --slow 0.5 --log-format json mem: /mnt/x
    """
    factory = parse_spec(spec).factory
    if slow is not None:
        options += (f"slow={slow}",)
    sys.exit(
        mount_command(
            "puffs",
            factory,
            mountpoint,
            options,
            foreground=foreground,
            json_log=log_format == "json",
        )
    )
