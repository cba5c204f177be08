"""Round trips: short bursts of one system call on the same file of every server.

All servers are mounted at once. A caller in C makes a burst on each in turn, in another order
every round; a burst is compared with the floor's burst of the same round, so that whatever slows
the machine for a while slows both.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.processes import BenchmarkError, Caller, CallError, mounted
from benchmarks.programs import HERE, PEER_PYTHON, compile_c, why_missing
from benchmarks.results import Sample

PINNED, UNPINNED = "pinned", "unpinned"

FLOOR, BARE = "floor", "bare-python"
# The same file server, with `def`, with `async def`, and in a process of its own.
PLAIN, ASYNC, ISOLATED = "puffs", "puffs-async", "puffs-isolated"
NO_OPEN = "puffs-no-open"  # does less than all others: the kernel opens files by itself

SERVERS: dict[str, list[str]] = {
    # name: command, to which the mount point is added
    FLOOR: ["{build}/floor"],
    BARE: [sys.executable, "-m", "benchmarks.bare"],
    PLAIN: [sys.executable, "-m", "benchmarks.server"],
    ASYNC: [sys.executable, "-m", "benchmarks.server", "--async"],
    ISOLATED: [sys.executable, "-m", "benchmarks.server", "--isolated"],
    "mfusepy": [PEER_PYTHON, "-m", "benchmarks.peer_paths", "mfusepy", "onefile"],
    "fusepy": [PEER_PYTHON, "-m", "benchmarks.peer_paths", "fuse", "onefile"],
    "pyfuse3": [PEER_PYTHON, "-m", "benchmarks.peer_inodes", "pyfuse3", "onefile"],
    "llfuse": [PEER_PYTHON, "-m", "benchmarks.peer_inodes", "llfuse", "onefile"],
    NO_OPEN: [sys.executable, "-m", "benchmarks.server", "--no-open"],
}
OURS = {FLOOR, BARE, PLAIN}  # without one of these there is nothing to compare

OPERATIONS = {
    # name: calls in a burst; a burst of any takes a few milliseconds
    "stat": 200,
    "fstat": 200,
    "read_4k": 200,
    "write_4k": 200,
    "read_1m": 16,
    "write_1m": 16,
    "open_close": 200,
    "mkdir_rmdir": 100,
    "create_unlink": 100,
}
LIMITED = {
    # name: the operations in which a server does what the others do, where that is not all of them
    "llfuse": OPERATIONS.keys() - {"read_4k", "read_1m"},  # it has no reads that bypass the cache
    NO_OPEN: {"open_close"},
}


@contextmanager
def one_cpu() -> Iterator[int]:
    """Keep this process, and every one it starts, on the last CPU that it may use."""
    before = os.sched_getaffinity(0)
    cpu = max(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def measure(
    part: str,
    caller: Caller,
    files: dict[str, Path],
    operations: list[str],
    rounds: int,
    missing: dict[str, str],
    progress: Callable[[str], None],
) -> Iterator[Sample]:
    """Yield the bursts of all rounds; a round before the first only warms things up.

    A server on which a call fails is measured no more: it goes from `files` to `missing`.
    """
    order = list(files)
    for number in range(rounds + 1):
        progress(f"round trips, {part}, round {number} of {rounds}")
        for operation in operations:
            calls = OPERATIONS[operation]
            for turn in range(len(order)):
                server = order[(turn + number) % len(order)]
                if server not in files or operation not in LIMITED.get(server, operations):
                    continue
                try:
                    ns = caller.burst(operation, calls, files[server])
                except CallError as error:
                    missing[server] = str(error)
                    del files[server]
                else:
                    if number:
                        yield Sample(part, number, server, operation, calls, ns)


def run(
    part: str,
    servers: list[str],
    operations: list[str],
    rounds: int,
    missing: dict[str, str],
    build: Path,
    progress: Callable[[str], None],
) -> Iterator[Sample]:
    """Mount the servers and yield what was measured; servers that do not mount are `missing`."""
    files: dict[str, Path] = {}
    with ExitStack() as stack:
        for program in ("floor", "caller"):
            compile_c(HERE / f"{program}.c", build / program)
        if part == PINNED:
            stack.enter_context(one_cpu())
        caller = stack.enter_context(Caller(build / "caller"))
        for name in servers:
            mountpoint = build / f"{part}-{name}"
            command = [word.format(build=build) for word in SERVERS[name]]
            try:
                stack.enter_context(mounted([*command, str(mountpoint)], mountpoint, HERE.parent))
            except BenchmarkError as error:
                missing[name] = why_missing(name, str(error))
            else:
                files[name] = mountpoint / "data"
        if FLOOR in missing:
            raise BenchmarkError(f"the floor cannot be mounted (that needs root): {missing[FLOOR]}")
        yield from measure(part, caller, files, operations, rounds, missing, progress)
