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

from benchmarks.processes import BenchmarkError, Caller, CallError
from benchmarks.programs import HERE, compile_c
from benchmarks.results import Sample
from benchmarks.servers import (
    COMPILED_PYTHON,
    INODES,
    PATHS,
    PLAIN_PYTHON,
    PROVIDED,
    Server,
    mount_all,
    need_compiled,
    ours,
)

PINNED, UNPINNED = "pinned", "unpinned"

FLOOR, BARE = "floor", "bare-python"
# The same file server: in plain Python, served by the compiled loop, with `async def`, and in a
# process of its own.
PLAIN, COMPILED, ASYNC, ISOLATED = "puffs", "puffs-compiled", "puffs-async", "puffs-isolated"
NO_OPEN = "puffs-no-open"  # does less than all others: the kernel opens files by itself

_SERVER = ["benchmarks.server", "{mountpoint}"]

PEERS = {
    "mfusepy": [*PATHS, "mfusepy"],
    "fusepy": [*PATHS, "fuse"],
    "pyfuse3": [*INODES, "pyfuse3"],
    "llfuse": [*INODES, "llfuse"],
}


def _compile_floor(build: Path) -> None:
    compile_c(HERE / "floor.c", build / "floor")


SERVERS = {
    FLOOR: Server(["{build}/floor", "{mountpoint}"], _compile_floor),
    BARE: Server([sys.executable, "-m", "benchmarks.bare", "{mountpoint}"]),
    PLAIN: Server([*PLAIN_PYTHON, *_SERVER]),
    COMPILED: Server([*COMPILED_PYTHON, *_SERVER], need_compiled),
    ASYNC: Server([*PLAIN_PYTHON, *_SERVER, "--async"]),
    ISOLATED: Server([*PLAIN_PYTHON, *_SERVER, "--isolated"]),
    **{peer: Server([*words, "onefile", "{mountpoint}"]) for peer, words in PEERS.items()},
    # The same programs, unchanged, on the modules that puffs provides.
    **{
        ours(peer): Server([*PROVIDED, *words[1:], "onefile", "{mountpoint}"])
        for peer, words in PEERS.items()
    },
    NO_OPEN: Server([*PLAIN_PYTHON, *_SERVER, "--no-open"]),
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
    # It has no reads that bypass the cache.
    "llfuse": OPERATIONS.keys() - {"read_4k", "read_1m"},
    ours("llfuse"): OPERATIONS.keys() - {"read_4k", "read_1m"},
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
    with ExitStack() as stack:
        compile_c(HERE / "caller.c", build / "caller")
        if part == PINNED:
            stack.enter_context(one_cpu())
        caller = stack.enter_context(Caller(build / "caller"))
        places = mount_all(stack, SERVERS, servers, build, part, missing)
        if FLOOR in missing:
            raise BenchmarkError(f"the floor cannot be mounted (that needs root): {missing[FLOOR]}")
        files = {name: place / "data" for name, place in places.items()}
        yield from measure(part, caller, files, operations, rounds, missing, progress)
