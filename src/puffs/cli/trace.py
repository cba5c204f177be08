"""`puffs trace`."""

import json
import os
import sys
import time

import click

from puffs.attach.asking import mounted
from puffs.attach.asking import trace as traced
from puffs.attach.fuse.trace import line

IDLE_SECONDS = 0.2
"""How often it is looked whether the time is up."""


@click.command()
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
@click.option(
    "--only",
    metavar="OP",
    multiple=True,
    help="Show this operation only, as lookup or write; may be given several times.",
)
@click.option(
    "--for", "seconds", metavar="SECONDS", type=click.FloatRange(min=0), help="Stop after a while."
)
def trace(mountpoint: str, as_json: bool, only: tuple[str, ...], seconds: float | None) -> None:
    """Show what is asked of the mount on MOUNTPOINT, an operation a line, until ^C or its end.

    A line tells when the operation began, which one it is, the path and the arguments, who called,
    what came of it, and how long it took. What the kernel answers by itself is not seen. The mount
    never waits for who reads the trace: he who is too slow is told how many operations he missed.

    \b
    Examples:
      puffs trace /mnt/x
      puffs trace --only read --only write /mnt/x
      puffs trace --json --for 10 /mnt/x > trace.jsonl
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        with traced(mounted(mountpoint), list(only), IDLE_SECONDS) as events:
            if not as_json:
                click.echo(f"tracing {mountpoint}: ^C ends it", err=True)
            for event in events:
                if event:
                    print(json.dumps(event) if as_json else line(event), flush=True)
                if deadline is not None and time.monotonic() >= deadline:
                    return
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # as in `puffs trace /mnt/x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
