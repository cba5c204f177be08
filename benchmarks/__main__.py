"""Round trips of puffs and its peers, as multiples of what a server in C needs for the same.

All servers are mounted at once and serve the same file. A caller in C makes short bursts of one
system call on each in turn, in another order every round; a burst is compared with the floor's
burst of the same round, so that whatever slows the machine for a while slows both. Caller and
servers share one CPU: waking another one costs more than all that is measured here.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.processes import BenchmarkError, Caller, mounted

HERE = Path(__file__).parent
PEER_PYTHON = HERE.parent / ".venv-bench/bin/python"
FLOOR = "floor"
# The same file server, with `def`, with `async def`, and in a process of its own.
PLAIN, ASYNC, ISOLATED = "puffs", "puffs-async", "puffs-isolated"

SERVERS: dict[str, list[str]] = {
    # name: command, to which the mount point is added
    FLOOR: ["{build}/floor"],
    "bare-python": [sys.executable, "-m", "benchmarks.bare"],
    PLAIN: [sys.executable, "-m", "benchmarks.server"],
    ASYNC: [sys.executable, "-m", "benchmarks.server", "--async"],
    ISOLATED: [sys.executable, "-m", "benchmarks.server", "--isolated"],
    "mfusepy": [str(PEER_PYTHON), "-m", "benchmarks.peer_mfusepy"],
}
OURS = {FLOOR, "bare-python", PLAIN}  # without one of these there is nothing to compare

OPERATIONS = {
    # name: calls in a burst; a burst of any takes a few milliseconds
    "stat": 200,
    "fstat": 200,
    "read_4k": 200,
    "write_4k": 200,
    "read_1m": 16,
    "write_1m": 16,
    "open_close": 200,
}

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Burst(NamedTuple):
    """Some calls of one operation on one server, right after each other."""

    round: int
    server: str
    operation: str
    calls: int
    ns: int  # for all calls together


def compile_c(source: Path, target: Path) -> None:
    """Compile one of the C programs beside this file with the machine's `cc`."""
    command = ["cc", "-O2", "-Wall", "-o", str(target), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise BenchmarkError("no C compiler: install gcc (as root: apt install gcc)") from None
    if done.returncode:
        raise BenchmarkError(f"{source.name} does not compile:\n{done.stderr}")


def measure(
    caller: Caller, files: dict[str, Path], operations: list[str], rounds: int
) -> Iterator[Burst]:
    """Yield the bursts of all rounds, and before them of a round 0 that only warms things up."""
    names = list(files)
    for number in range(rounds + 1):
        for operation in operations:
            calls = OPERATIONS[operation]
            for turn in range(len(names)):
                server = names[(turn + number) % len(names)]
                ns = caller.burst(operation, calls, files[server])
                yield Burst(number, server, operation, calls, ns)


def table(bursts: list[Burst], servers: list[str], operations: list[str]) -> list[list[str]]:
    """Return the rows to print: the floor in microseconds, the others as multiples of it.

    At the end, what `async def` costs: those operations as multiples of the same with `def`.
    """
    cost = {(b.round, b.server, b.operation): b.ns / b.calls for b in bursts if b.round > 0}
    rounds = sorted({number for number, _, _ in cost})

    def ratio(server: str, other: str, operation: str) -> str:
        pairs = [(cost[n, server, operation], cost[n, other, operation]) for n in rounds]
        return f"{median(ours / theirs for ours, theirs in pairs):.2f}"

    rows = [["server", *operations]]
    for server in servers:
        if server == FLOOR:
            floors = [median(cost[n, FLOOR, operation] for n in rounds) for operation in operations]
            rows.append([f"{server} (µs)", *(f"{floor / 1000:.1f}" for floor in floors)])
        else:
            rows.append([server, *(ratio(server, FLOOR, operation) for operation in operations)])
    for server, title in ((ASYNC, "async def / def"), (ISOLATED, "isolated / direct")):
        if {PLAIN, server} <= set(servers):
            pairs = (ratio(server, PLAIN, operation) for operation in operations)
            rows.append([title, *pairs])
    return rows


def print_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))


@contextmanager
def one_cpu(pinned: bool) -> Iterator[int | None]:
    """Keep this process, and every one it starts, on the last CPU that it may use."""
    if not pinned:
        yield None
        return
    before = os.sched_getaffinity(0)
    cpu = max(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def parse_arguments() -> argparse.Namespace:
    names = [*SERVERS, *OPERATIONS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="bursts of each kind (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every burst to FILE")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=names,
        metavar="NAME",
        help="measure only these servers (the floor always runs) or these operations; may be "
        f"given more than once: {', '.join(names)}",
    )
    parser.add_argument("--unpinned", action="store_true", help="let the kernel choose the CPUs")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no directory {arguments.json.absolute().parent}")
    return arguments


def chosen(names: Iterable[str], only: list[str]) -> list[str]:
    """Return those of `names` that are in `only`, or all when none is."""
    names = list(names)
    return [name for name in names if name in only] or names


def run(arguments: argparse.Namespace) -> int:
    """Measure as asked and print the result; return the exit status."""
    servers = [FLOOR, *(name for name in chosen(SERVERS, arguments.only) if name != FLOOR)]
    operations = chosen(OPERATIONS, arguments.only)
    missing: dict[str, str] = {}
    files: dict[str, Path] = {}
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="puffs-bench-"))
        build = Path(directory).resolve()
        for program in ("floor", "caller"):
            compile_c(HERE / f"{program}.c", build / program)
        cpu = stack.enter_context(one_cpu(not arguments.unpinned))
        caller = stack.enter_context(Caller(build / "caller"))
        for name in servers:
            mountpoint = build / f"mnt-{name}"
            command = [part.format(build=build) for part in SERVERS[name]]
            try:
                stack.enter_context(mounted([*command, str(mountpoint)], mountpoint, HERE.parent))
            except BenchmarkError as error:
                missing[name] = str(error)
            else:
                files[name] = mountpoint / "data"
        if FLOOR in missing:
            raise BenchmarkError(f"the floor cannot be mounted (that needs root): {missing[FLOOR]}")
        bursts = []
        for burst in measure(caller, files, operations, arguments.rounds):
            if sys.stderr.isatty():
                print(f"\rround {burst.round} of {arguments.rounds} ", end="", file=sys.stderr)
            bursts.append(burst)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)

    where = "any CPU" if cpu is None else f"caller and servers on CPU {cpu}"
    print(
        f"Round trips on Linux {platform.release()}, Python {platform.python_version()}, {where}: "
        f"medians of {arguments.rounds} rounds,\nmultiples of the floor (a server in C with "
        "nothing but a read-write loop on /dev/fuse)\n"
    )
    print_table(table(bursts, list(files), operations))
    for name, reason in missing.items():
        print(f"\n{name}: not measured: {reason}")
    if arguments.json:
        result = {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "cpu": cpu,
            "missing": missing,
            "bursts": [burst._asdict() for burst in bursts],
        }
        arguments.json.write_text(json.dumps(result) + "\n")
    return 1 if OURS & missing.keys() else 0


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
