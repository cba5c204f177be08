"""FUSE over io_uring against read(2) and write(2): the same server in C by each way.

The ways are in `uring.c`, and each is also measured with what Python would add: a lock that is held
while a request is worked on, for a microsecond longer. All servers are mounted at once, and callers
in C make short bursts on each in turn. Mounted anew, they get other CPUs: the kernel then keeps
caller and server on one CPU, or on two, for seconds. Where a figure jumps between such states the
median says what is usual, and the mean what it costs. Run as root, where
/sys/module/fuse/parameters/enable_uring is Y: `python -m benchmarks.uring`.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean

from benchmarks.processes import BenchmarkError, Caller, mounted
from benchmarks.programs import HERE, compile_c
from benchmarks.results import ABSENT, MICROSECONDS, Costs, Sample, text, write_json
from benchmarks.trips import PINNED, UNPINNED, one_cpu

SWITCH = Path("/sys/module/fuse/parameters/enable_uring")
LOCKED_NS = 1000
PYTHON = ", Python"
"""Behind the name of a way: with the lock of Python."""

WAYS = {
    "device": ["device", "0"],
    "clones": ["clones", "0"],
    "one ring, depth 8": ["ring", "8"],
    "rings, depth 1": ["rings", "1"],
    "rings, depth 8": ["rings", "8"],
    "rings, depth 64": ["rings", "64"],
}
"""The first two words for `uring.c`."""
BASE = "device"
OPERATIONS = {
    # name: calls in a burst, by all callers together
    "stat": 256,
    "fstat": 256,
    "read_4k": 256,
    "write_4k": 256,
    "read_1m": 16,
    "write_1m": 16,
    "open_close": 128,
}
CALLERS = (1, 8, 64)


def name_of(operation: str, callers: int) -> str:
    """The operation of a sample, as `callers.c` is told it."""
    return f"{operation}*{callers}"


def measure(part: str, suffix: str, build: Path, rounds: int, first: int) -> Iterator[Sample]:
    """Mount a server for each way, and yield the bursts of some rounds, numbered from `first`."""
    locked = str(LOCKED_NS if suffix else 0)
    files: dict[str, Path] = {}
    with ExitStack() as stack:
        if part == PINNED:
            stack.enter_context(one_cpu())
        caller = stack.enter_context(Caller(build / "callers"))
        for number, (way, words) in enumerate(WAYS.items()):
            root = build / f"mnt-{number}"
            command = [str(build / "uring"), *words, locked, str(root)]
            stack.enter_context(mounted(command, root, build))
            files[way] = root / "data"
        order = list(files)
        for number in range(rounds + 1):  # the first one warms up
            for callers in CALLERS:
                for operation, calls in OPERATIONS.items():
                    each = max(calls // callers, 1)
                    for turn in range(len(order)):
                        way = order[(turn + number) % len(order)]
                        asked = name_of(operation, callers)
                        ns = caller.burst(asked, each, files[way])
                        if number:
                            calls_made, place = each * callers, first + number
                            yield Sample(part, place, way + suffix, asked, calls_made, ns)


def rows(part: str, suffix: str, callers: int, samples: Sequence[Sample]) -> list[list[str]]:
    """The cells of a table: what the device takes, and what the other ways take of that."""
    costs = Costs(samples, part)
    base = BASE + suffix
    asked = [name_of(operation, callers) for operation in OPERATIONS]

    def ratio(way: str, operation: str) -> str:
        median = costs.ratio(way, base, operation)
        mean = mean_of(way, operation) / mean_of(base, operation)
        return ABSENT if median is None else f"{median:.2f} ({mean:.2f})"

    def mean_of(way: str, operation: str) -> float:
        return fmean(
            sample.ns / sample.calls
            for sample in samples
            if (sample.part, sample.server, sample.operation) == (part, way, operation)
        )

    def absolute(operation: str) -> str:
        median = costs.typical(base, operation)
        mean = MICROSECONDS.text(mean_of(base, operation))
        return ABSENT if median is None else f"{MICROSECONDS.text(median)} ({mean})"

    cells = [[f"{part}, callers: {callers}", *OPERATIONS]]
    cells.append([f"{base} ({MICROSECONDS.name})", *map(absolute, asked)])
    cells += [
        [way + suffix, *(ratio(way + suffix, operation) for operation in asked)]
        for way in WAYS
        if way != BASE
    ]
    return cells


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uring", description=__doc__)
    parser.add_argument("--mounts", type=int, default=10, help="how often to mount (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in each (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every burst to FILE")
    arguments = parser.parse_args()
    samples: list[Sample] = []
    mounts, rounds = arguments.mounts, arguments.rounds
    try:
        if not SWITCH.exists() or SWITCH.read_text().strip() != "Y":
            raise BenchmarkError(f"FUSE over io_uring is off: let root run `echo Y > {SWITCH}`")
        print(
            f"Linux {platform.release()}, {os.cpu_count()} CPUs: medians of paired ratios of "
            f"{mounts * rounds} rounds (in brackets: ratios of means)"
        )
        with tempfile.TemporaryDirectory(prefix="puffs-bench-") as directory:
            build = Path(directory).resolve()
            for program in ("uring", "callers"):
                compile_c(HERE / f"{program}.c", build / program, ["-pthread"])
            for part in (PINNED, UNPINNED):
                for suffix in ("", PYTHON):
                    for mount in range(mounts):
                        samples += measure(part, suffix, build, rounds, mount * rounds)
                    for callers in CALLERS:
                        print(f"\n{text(rows(part, suffix, callers, samples))}", flush=True)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        write_json(arguments.json, samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
