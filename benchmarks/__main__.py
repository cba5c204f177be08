"""puffs and its peers compared: round trips with a server in C, trees with libfuse's own examples.

Four parts, all of them unless some are named: round trips with caller and servers on one CPU
(--pinned: what a request costs), round trips with the CPUs that the kernel chooses (--unpinned:
what a user feels, most of which is waking another CPU), trees of files (--trees), and programs that
were written for other libraries (--refuse).
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import refuse, trees, trips
from benchmarks.chart import chart
from benchmarks.processes import BenchmarkError
from benchmarks.report import PARTS, TABLES, report
from benchmarks.results import Sample, pack, unpack

EVERYTHING = "everything"  # missing: a part of which nothing, or not all, was measured
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


NAMES = {
    trips.PINNED: [*trips.SERVERS, *trips.OPERATIONS],
    trips.UNPINNED: [*trips.SERVERS, *trips.OPERATIONS],
    trees.PART: [*trees.SERVERS, *trees.STEPS],
    refuse.PART: [*refuse.SERVERS, *refuse.STEPS],
}
"""What `--only` may name, by part."""


def parse_arguments() -> argparse.Namespace:
    names = [*dict.fromkeys(name for some in NAMES.values() for name in some)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    for part, what in PARTS.items():
        parser.add_argument(
            f"--{part}", action="append_const", dest="parts", const=part, help=f"measure {what}"
        )
    parser.add_argument(
        "--rounds", type=int, default=60, help="rounds of round trips (%(default)s)"
    )
    parser.add_argument("--tree-rounds", type=int, default=3, help="rounds of trees (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to FILE")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw FILE, an SVG")
    parser.add_argument(
        "--from",
        type=Path,
        metavar="FILE",
        dest="source",
        help="measure nothing: report what --json has written to FILE",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=names,
        metavar="NAME",
        help="measure only these servers (what others are compared with always runs), operations "
        f"and steps; may be given more than once: {', '.join(names)}",
    )
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.tree_rounds) < 1:
        parser.error("--rounds and --tree-rounds must be 1 or more")
    for option in ("json", "chart"):
        file = getattr(arguments, option)
        if file and not file.absolute().parent.is_dir():
            parser.error(f"--{option}: there is no directory {file.absolute().parent}")
    return arguments


def chosen(names: Iterable[str], only: Iterable[str], always: Iterable[str] = ()) -> list[str]:
    """Return those of `names` that are in `only`, or all when none is; and those of `always`."""
    names = list(names)
    some = {name for name in names if name in only}
    return [name for name in names if name in some.union(always)] if some else names


def chosen_parts(parts: list[str] | None, only: list[str]) -> list[str]:
    """Return the parts that were asked for, or else those to which a name in `only` belongs."""
    if parts:
        return [part for part in PARTS if part in parts]
    return [part for part in PARTS if not only or set(NAMES[part]).intersection(only)]


class Progress:
    """How far it is, on one line of a terminal; elsewhere on a line now and then."""

    SECONDS = 20.0

    def __init__(self) -> None:
        """Show nothing yet."""
        self._terminal = sys.stderr.isatty()
        self._next = 0.0

    def __call__(self, what: str) -> None:
        """Show `what`."""
        if self._terminal:
            print(f"\r\x1b[K{what} ", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self._next:
            print(what, file=sys.stderr, flush=True)
            self._next = time.monotonic() + self.SECONDS

    def end(self) -> None:
        """Leave a terminal as it was."""
        if self._terminal:
            self("")


def run_part(
    part: str,
    arguments: argparse.Namespace,
    build: Path,
    missing: dict[str, str],
    progress: Callable[[str], None],
) -> Iterator[Sample]:
    """Measure one part as asked."""
    only = arguments.only
    if part == trees.PART:
        servers = chosen(trees.SERVERS, only, [trees.PASSTHROUGH, trees.TMPFS])
        needed = [trees.NEEDED[name] for name in only if name in trees.NEEDED]
        steps = chosen(trees.STEPS, only, [*trees.ALWAYS, *needed])
        rounds = arguments.tree_rounds
        return trees.run(servers, steps, rounds, missing, build, progress)
    if part == refuse.PART:
        servers, steps = chosen(refuse.SERVERS, only), chosen(refuse.STEPS, only)
        return refuse.run(servers, steps, arguments.tree_rounds, missing, build, progress)
    servers = chosen(trips.SERVERS, only, [trips.FLOOR])
    operations = chosen(trips.OPERATIONS, only)
    rounds = arguments.rounds
    return trips.run(part, servers, operations, rounds, missing, build, progress)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for; return it as it stands in a file of results."""
    missing: dict[str, dict[str, str]] = {}  # by part
    samples: list[Sample] = []
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="puffs-bench-") as directory:
        for part in chosen_parts(arguments.parts, arguments.only):
            absent = missing[part] = {}
            try:
                samples += run_part(part, arguments, Path(directory).resolve(), absent, progress)
            except BenchmarkError as error:
                absent[EVERYTHING] = str(error)
    progress.end()
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "rounds": arguments.rounds,
        "tree_rounds": arguments.tree_rounds,
        "missing": missing,
        "samples": pack(samples),
    }


def run(arguments: argparse.Namespace) -> int:
    """Measure, or read what was measured; print it and write the files; return the exit status."""
    if arguments.source:
        result = json.loads(arguments.source.read_text())
    else:
        result = measure(arguments)
    samples = unpack(result["samples"])
    conditions = (
        "Linux {kernel}, {cpus} CPUs, Python {python}: medians of {rounds} rounds "
        "(trees: {tree_rounds})"
    ).format_map(result)
    print(report(conditions, samples, result["missing"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(result) + "\n")
    if arguments.chart:
        drawn = [
            table._replace(operations=list(trees.STEPS)) if table.part == trees.PART else table
            for table in TABLES
        ]
        title = "puffs and its peers: further to the left is faster"
        arguments.chart.write_text(chart(title, conditions, drawn, samples))
    absent = {server for part in result["missing"].values() for server in part}
    return 1 if absent & {EVERYTHING, *trips.OURS} else 0


def interrupted(number: int, frame: object) -> None:
    """Leave through every `finally`, and let no second signal disturb them."""
    for each in ENDING_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    arguments = parse_arguments()
    for number in ENDING_SIGNALS:
        signal.signal(number, interrupted)
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
