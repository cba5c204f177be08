"""`puffs status`."""

import errno
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

from puffs.attach import ended
from puffs.attach.asking import NoControl, ask, mounted
from puffs.attach.fuse.mountinfo import MountInfo, find_mount
from puffs.attach.fuse.mountpoint import MountError, is_stale, resolve, shown
from puffs.attach.fuse.options import TYPE_PREFIX
from puffs.attach.fuse.trace import duration, shown_text


@click.command()
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def status(mountpoint: str, as_json: bool) -> None:
    """Tell how the mount on MOUNTPOINT fares.

    The state is `running`; `dead` when the server has gone without unmounting (puffs umount takes
    the mount away); `hung` when it does not answer; `unknown` when nothing listens that you may
    ask; `ended` when the mount was taken away since its file server, in a process of its own (puffs
    mount --isolate), had died: `why` tells how. The exit status is 0 if it is running, else 1.

    `pid` is the process that holds the mount, `server_pid` the one of the file server.

    \b
    Examples:
      puffs status /mnt/x
      puffs status --json /mnt/x | jq .state
    """
    found = _ended(mountpoint) or status_of(mounted(mountpoint))
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(_lines(found)))
    sys.exit(0 if found["state"] == "running" else 1)


def _ended(mountpoint: str) -> dict[str, Any] | None:
    """What is left of a mount whose file server has died, if nothing is mounted there now."""
    target = resolve(mountpoint)
    if find_mount(target) is not None or (record := ended.find(target)) is None:
        return None
    return {"state": "ended", **record, "pid": None, "server_pid": None}


def status_of(found: MountInfo, seconds: float | None = None) -> dict[str, Any]:
    """What the server of a mount tells, or what can be said without it. Never raises for that."""
    try:
        told = ask(found, "status") if seconds is None else ask(found, "status", seconds)
        return {**told, "mountpoint": found.mountpoint}  # as it is seen from here
    except OSError as exc:
        return {
            "state": _state_without(found, exc),
            "mountpoint": found.mountpoint,
            "name": found.fstype.removeprefix(TYPE_PREFIX),
            "pid": None,
            "server_pid": None,
            "why": str(exc),
        }


def _state_without(found: MountInfo, exc: OSError) -> str:
    if isinstance(exc, NoControl) and exc.errno == errno.ETIMEDOUT:
        return "hung"
    try:
        return "dead" if is_stale(found.mountpoint) else "unknown"
    except MountError:
        return "unknown"


def _lines(found: Mapping[str, Any]) -> Iterable[str]:
    """A status for people."""
    rows = [(name.replace("_", " "), _value(name, found[name])) for name in _ROWS if name in found]
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:{width}}  {value}" for name, value in rows)
    operations = found.get("operations")
    if operations:
        yield ""
        yield from aligned(
            [
                ("OPERATION", "REQUESTS", "MEAN", "BYTES", "ERRORS"),
                *(_operation(name, row) for name, row in operations.items()),
            ]
        )


_ROWS: Final = (
    "state",
    "why",
    "ended",
    "mountpoint",
    "name",
    "pid",
    "server_pid",
    "uptime",
    "protocol",
    "loop",
    "threads",
    "max_write",
    "nodes",
    "open_files",
    "passthrough",
    "waiting",
    "statistics",
    "traces",
    "slow",
    "under_way",
    "oldest",
)


def _value(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if name in ("uptime", "slow"):
        return duration(float(value))
    if name == "oldest":
        caller = value["caller"]
        return (
            f"{shown_text(value['operation'])} {shown(value['path'])} for "
            f"{duration(float(value['seconds']))}, by thread {caller['tid']} of uid {caller['uid']}"
        )
    return shown(value) if name == "mountpoint" else shown_text(value)


def _operation(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    errors = " ".join(f"{shown_text(code)}={count}" for code, count in row["errors"].items())
    mean = duration(row["seconds"] / row["requests"]) if row["requests"] else "-"
    return shown_text(name), str(row["requests"]), mean, str(row["bytes"] or "-"), errors


def aligned(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    """The lines of a table."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
