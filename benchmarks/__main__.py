"""puffs and its peers compared: round trips with a server in C, trees with libfuse's own examples.

Three parts, all of them unless some are named: round trips with caller and servers on one CPU
(--pinned: what a request costs), round trips with the CPUs that the kernel chooses (--unpinned:
what a user feels, most of which is waking another CPU), and trees of files (--trees).
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks import trees, trips
from benchmarks.processes import BenchmarkError
from benchmarks.results import MICROSECONDS, SECONDS, Sample, Table, pack, rows, text

PARTS = {
    trips.PINNED: "round trips, caller and servers on one CPU",
    trips.UNPINNED: "round trips on the CPUs that the kernel chooses",
    trees.PART: "trees of files",
}
PAIRS = (
    (trips.ASYNC, trips.PLAIN, "async def / def"),
    (trips.ISOLATED, trips.PLAIN, "isolated / direct"),
)
TREES = "; unpack: 2,600 files, 100 MB; clone: 652 files, 25 MB; x4: with four processes"
TABLES = (
    *(
        Table(
            part,
            f"{PARTS[part]}, multiples of a bare loop in C",
            trips.FLOOR,
            MICROSECONDS,
            list(trips.SERVERS),
            list(trips.OPERATIONS),
            PAIRS,
        )
        for part in (trips.PINNED, trips.UNPINNED)
    ),
    Table(
        trees.PART,
        "trees on pass-through servers over tmpfs, multiples of libfuse's passthrough_ll in C"
        + TREES,
        trees.PASSTHROUGH,
        SECONDS,
        list(trees.PASSTHROUGH_SERVERS),
        trees.OPERATIONS,
    ),
    Table(
        trees.PART,
        "trees in memory, multiples of tmpfs" + TREES,
        trees.TMPFS,
        SECONDS,
        list(trees.MEMORY_SERVERS),
        trees.OPERATIONS,
    ),
)
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def parse_arguments() -> argparse.Namespace:
    names = [*dict.fromkeys([*trips.SERVERS, *trips.OPERATIONS, *trees.SERVERS, *trees.STEPS])]
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
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no directory {arguments.json.absolute().parent}")
    return arguments


def chosen(names: Iterable[str], only: Iterable[str], always: Iterable[str] = ()) -> list[str]:
    """Return those of `names` that are in `only`, or all when none is; and those of `always`."""
    names = list(names)
    some = {name for name in names if name in only}
    return [name for name in names if name in some.union(always)] if some else names


def chosen_parts(parts: list[str] | None, only: list[str]) -> list[str]:
    """Return the parts that were asked for, or else those to which a name in `only` belongs."""
    names = {
        trips.PINNED: {*trips.SERVERS, *trips.OPERATIONS},
        trips.UNPINNED: {*trips.SERVERS, *trips.OPERATIONS},
        trees.PART: {*trees.SERVERS, *trees.STEPS},
    }
    if parts:
        return [part for part in PARTS if part in parts]
    return [part for part in PARTS if not only or names[part].intersection(only)]


def show_progress(what: str) -> None:
    """Tell how far it is, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what} ", end="", file=sys.stderr, flush=True)


def run_part(
    part: str, arguments: argparse.Namespace, build: Path, missing: dict[str, str]
) -> list[Sample]:
    """Measure one part as asked."""
    only = arguments.only
    if part == trees.PART:
        servers = chosen(trees.SERVERS, only, [trees.PASSTHROUGH, trees.TMPFS])
        needed = [trees.NEEDED[name] for name in only if name in trees.NEEDED]
        steps = chosen(trees.STEPS, only, [*trees.ALWAYS, *needed])
        rounds = arguments.tree_rounds
        return list(trees.run(servers, steps, rounds, missing, build, show_progress))
    servers = chosen(trips.SERVERS, only, [trips.FLOOR])
    operations = chosen(trips.OPERATIONS, only)
    rounds = arguments.rounds
    return list(trips.run(part, servers, operations, rounds, missing, build, show_progress))


def run(arguments: argparse.Namespace) -> int:
    """Measure as asked and print the result; return the exit status."""
    missing: dict[str, str] = {}
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="puffs-bench-") as directory:
        for part in chosen_parts(arguments.parts, arguments.only):
            samples += run_part(part, arguments, Path(directory).resolve(), missing)
    show_progress("")
    print(
        f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}: "
        f"medians of {arguments.rounds} rounds (trees: {arguments.tree_rounds})"
    )
    for table in TABLES:
        cells = rows(table, samples)
        if cells:
            print(f"\n{table.title}\n\n{text(cells)}")
    for name, reason in missing.items():
        print(f"\n{name}: not measured: {reason}")
    if arguments.json:
        result = {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "missing": missing,
            "samples": pack(samples),
        }
        arguments.json.write_text(json.dumps(result) + "\n")
    return 1 if trips.OURS & missing.keys() else 0


def interrupted(number: int, frame: object) -> None:
    """Leave through every `finally`, and let no second signal disturb them."""
    for each in ENDING_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    arguments = parse_arguments()
    for number in ENDING_SIGNALS:
        signal.signal(number, interrupted)
    try:
        return run(arguments)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
