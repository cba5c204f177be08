"""`puffs list`."""

import json
from typing import Final

import click

from puffs.attach.fuse.mountinfo import list_mounts
from puffs.attach.fuse.mountpoint import shown
from puffs.attach.fuse.trace import shown_text
from puffs.cli.status import aligned, status_of

SECONDS: Final = 2.0
"""How long each server may take to answer."""


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def list(as_json: bool) -> None:
    """List all mounts of puffs, of all users, also those whose server has gone.

    `puffs status` tells what the states mean.

    \b
    Examples:
      puffs list
      puffs list --json | jq -r '.[] | select(.state == "dead").mountpoint'
    """
    found = [status_of(mount, SECONDS) for mount in list_mounts()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [("STATE", "PID", "NAME", "MOUNTPOINT")]
    rows += [
        (
            shown_text(row["state"]),
            str(row["server_pid"] or "-"),
            shown_text(row["name"]),
            shown(row["mountpoint"]),
        )
        for row in found
    ]
    if found:
        click.echo("\n".join(aligned(rows)))
