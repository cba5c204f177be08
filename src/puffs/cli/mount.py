"""`puffs mount`."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from puffs.attach.fuse.options import help_rows
from puffs.attach.isolating import ISOLATE, ISOLATE_HELP, ROWS, UsageError, isolation_from
from puffs.attach.main import mount_command
from puffs.cli.spec import maker_of, parse_spec

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _WithOptions(click.Command):
    """A command whose help ends with the mount options."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Mount OPTIONS, separated by commas"):
            formatter.write_dl(help_rows())


def _isolating(command: _Command) -> _Command:
    """The options of `attach.isolating`."""
    for row in reversed(ROWS):
        command = click.option(row.flag, metavar=row.metavar, help=row.help)(command)
    return click.option(ISOLATE, is_flag=True, help=ISOLATE_HELP)(command)


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
@_isolating
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
    isolate: bool,
    **limits: str | None,
) -> None:
    """Mount the file system SPEC on MOUNTPOINT.

    It is served in the background, and the command is done once the mount can be used. `puffs
    umount` ends it; with -f so does ^C. `puffs --help` tells what a SPEC is.

    With --isolate the code that SPEC names runs in a process of its own, from its import on. When
    that dies, the mount is taken away, and `puffs status` tells why.

    \b
    Examples:
      puffs mount mem: /mnt/x
      puffs mount 'mem:?size=64M' /mnt/x -o allow_other,noexec
      puffs mount -f ./hello.py:Hello /mnt/hello
      puffs mount -f --slow 0.5 --log-format json mem: /mnt/x
      puffs mount --isolate --user nobody --memory 512M ./hello.py:Hello /mnt/hello
    """
    try:
        isolation = isolation_from(isolate, limits)
    except UsageError as exc:
        raise click.UsageError(str(exc)) from exc
    factory = parse_spec(spec).factory if isolation is None else maker_of(spec)
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
            isolation=isolation,
        )
    )
