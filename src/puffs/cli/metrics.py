"""`puffs metrics`: statistics in the text format that Prometheus reads."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import click

from puffs.attach.asking import ask, mounted

_Sample = tuple[str, Mapping[str, object], float]

_GAUGES: Final = (
    ("uptime_seconds", "gauge", "Time since the mount could be used.", "uptime"),
    ("nodes", "gauge", "Files that the kernel knows.", "nodes"),
    ("open_files", "gauge", "Open files and directories.", "open_files"),
    ("threads", "gauge", "Threads that serve.", "threads"),
    ("requests_under_way", "gauge", "Requests that have not been answered.", "under_way"),
)
"""Name, type, help, and where `status` has it."""
_BOUNDS: Final = tuple(1 << power for power in range(10, 37))
"""Nanoseconds, from 1 µs to 69 s: always the same, as Prometheus wants it."""


@click.command()
@click.argument("mountpoint", metavar="MOUNTPOINT")
def metrics(mountpoint: str) -> None:
    """Print statistics of the mount on MOUNTPOINT for Prometheus.

    The first use switches statistics on, and all counters begin there.

    \b
    Example:
      puffs metrics /mnt/x > /var/lib/node_exporter/textfile/puffs.prom
    """
    click.echo("\n".join(exposition(ask(mounted(mountpoint), "stats", action="on"))))


def exposition(status: Mapping[str, Any]) -> Iterable[str]:
    """The lines of the text format, version 0.0.4, for a `status` with statistics."""
    mount = {"mountpoint": status["mountpoint"], "name": status["name"]}
    for name, kind, text, key in _GAUGES:
        yield from _family(name, kind, text, [("", {}, float(status[key]))], mount)
    oldest = status["oldest"]
    age = float(oldest["seconds"]) if oldest else 0.0
    yield from _family(
        "oldest_request_seconds",
        "gauge",
        "Age of the oldest request that has not been answered.",
        [("", {}, age)],
        mount,
    )
    operations = status["operations"].items()
    yield from _family(
        "request_duration_seconds",
        "histogram",
        "Requests by operation, and how long they took.",
        [sample for name, row in operations for sample in _histogram(name, row)],
        mount,
    )
    yield from _family(
        "request_errors_total",
        "counter",
        "Requests that were answered with an error.",
        [
            ("", {"operation": name, "errno": code}, float(count))
            for name, row in operations
            for code, count in row["errors"].items()
        ],
        mount,
    )
    yield from _family(
        "data_bytes_total",
        "counter",
        "Bytes that were read and written.",
        [
            ("", {"operation": name}, float(row["bytes"]))
            for name, row in operations
            if name in ("read", "write")
        ],
        mount,
    )


def _histogram(operation: str, row: Mapping[str, Any]) -> Iterable[_Sample]:
    latency = {int(bound): int(count) for bound, count in row["latency"]}
    for bound in _BOUNDS:
        below = sum(count for upper, count in latency.items() if upper <= bound)
        yield "_bucket", {"operation": operation, "le": f"{bound / 1e9:.9g}"}, float(below)
    yield "_bucket", {"operation": operation, "le": "+Inf"}, float(row["requests"])
    yield "_sum", {"operation": operation}, float(row["seconds"])
    yield "_count", {"operation": operation}, float(row["requests"])


def _family(
    name: str, kind: str, text: str, samples: Iterable[_Sample], mount: Mapping[str, object]
) -> Iterable[str]:
    yield f"# HELP puffs_{name} {text}"
    yield f"# TYPE puffs_{name} {kind}"
    for suffix, labels, value in samples:
        pairs = ",".join(
            f'{label}="{_escaped(str(text))}"' for label, text in {**mount, **labels}.items()
        )
        yield f"puffs_{name}{suffix}{{{pairs}}} {value:.10g}"


def _escaped(text: str) -> str:
    """A label's value: UTF-8, with backslash, quote and newline escaped."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
