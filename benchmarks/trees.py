"""Trees of files unpacked, listed, read, copied, cloned and removed by the usual programs.

All servers are mounted at once. Each does a step in turn, in another order every round, with one
process that works through four parts of the tree, or with four processes that have a part each.
Before every step the kernel forgets all names, attributes and pages of all mounts, so that each
step reaches the servers; what they let the kernel keep helps them within a step. After that the
step is made once in a directory of no server, so that the first server finds the programs warm.
"""

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import workload
from benchmarks.processes import BenchmarkError, last_words
from benchmarks.programs import compile_example
from benchmarks.results import Sample
from benchmarks.servers import (
    COMPILED_PYTHON,
    INODES,
    PATHS,
    PLAIN_PYTHON,
    Server,
    mount_all,
    need_compiled,
)

PART = "trees"
PASSTHROUGH, TMPFS = "passthrough_ll", "tmpfs"
NULL_PASSTHROUGH = "puffs-null-passthrough"

STORE = "/dev/shm"  # tmpfs: what is below the servers costs little
STEP_SECONDS = 120.0
SPACE = 300 << 20  # what one server needs of the backing directory at its fullest

_MOUNT = ["puffs", "mount", "-f"]

PASSTHROUGH_SERVERS = {
    PASSTHROUGH: Server(
        ["{build}/passthrough_ll", "-f", "-o", "source={backing}", "{mountpoint}"],
        partial(compile_example, "passthrough_ll"),
    ),
    # It shows all of the machine, and has no option to show less.
    "passthrough": Server(
        ["{build}/passthrough", "-f", "{mountpoint}"],
        partial(compile_example, "passthrough"),
        inside="{mountpoint}{backing}",
    ),
    "puffs-null": Server([*PLAIN_PYTHON, *_MOUNT, "null:{backing}", "{mountpoint}"]),
    "puffs-null-compiled": Server(
        [*COMPILED_PYTHON, *_MOUNT, "null:{backing}", "{mountpoint}"], need_compiled
    ),
    # The kernel reads and writes the files itself: less than all others do.
    NULL_PASSTHROUGH: Server(
        [*PLAIN_PYTHON, *_MOUNT, "-o", "passthrough", "null:{backing}", "{mountpoint}"]
    ),
    "bindfs": Server(["bindfs", "-f", "{backing}", "{mountpoint}"]),
    "mfusepy": Server([*PATHS, "mfusepy", "loopback", "{mountpoint}", "{backing}"]),
    "fusepy": Server([*PATHS, "fuse", "loopback", "{mountpoint}", "{backing}"]),
    "pyfuse3": Server([*INODES, "pyfuse3", "loopback", "{mountpoint}", "{backing}"]),
    "llfuse": Server([*INODES, "llfuse", "loopback", "{mountpoint}", "{backing}"]),
}
MEMORY_SERVERS = {
    TMPFS: Server([], inside="{backing}"),
    "puffs-mem": Server([*PLAIN_PYTHON, *_MOUNT, "mem:", "{mountpoint}"]),
    "puffs-mem-compiled": Server(
        [*COMPILED_PYTHON, *_MOUNT, "mem:", "{mountpoint}"], need_compiled
    ),
    "mfusepy-memory": Server([*PATHS, "mfusepy", "memory", "{mountpoint}"]),
    "fusepy-memory": Server([*PATHS, "fuse", "memory", "{mountpoint}"]),
}
SERVERS = PASSTHROUGH_SERVERS | MEMORY_SERVERS

STEPS = {
    # name: what the shell does for a part, in a directory of the server's
    "unpack": 'mkdir "$part"; tar -xf "$data/$part.tar" -C "$part"',
    "find": 'find "$part/tree" -printf "%M %u %s %T@ %p\\n" >/dev/null',
    "read": 'find "$part/tree" -type f -exec cat {} + >/dev/null',
    "copy": 'cp -a "$part/tree" "$part/copy"',
    "clone": 'git clone -q "$data/$part.git" "$part/clone"',
    "status": 'test -z "$(git -C "$part/clone" status --short)"',
    "remove": 'rm -r "$part"',
}
NEEDED = {"status": "clone"}  # a step: the one that must come before it
ALWAYS = {"unpack", "remove"}  # without these no other step can be made
PROCESSES = (1, 4)


def operation(step: str, processes: int) -> str:
    """Return the name of a step that so many processes make."""
    return step if processes == 1 else f"{step} x{processes}"


OPERATIONS = [operation(step, processes) for processes in PROCESSES for step in STEPS]


def forget(directories: list[Path]) -> None:
    """Have the kernel drop its caches of names and inodes, and FUSE servers hear of it."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
    except OSError as error:
        raise BenchmarkError(f"only root may drop the caches: {error}") from None
    for directory in directories:
        for _ in range(10):  # the kernel sends at most 8 requests in a row before what is forgotten
            os.statvfs(directory)


def run_step(step: str, groups: list[list[str]], data: Path, directory: Path) -> int:
    """Run a step in `directory`, a process for each group of parts; return the nanoseconds.

    Raises BenchmarkError, with the last line that was written, when one of them fails.
    """
    script = f"set -e; for part; do {STEPS[step]}; done"
    environment = os.environ | workload.GIT_ENVIRONMENT | {"data": str(data), "LC_ALL": "C"}
    with tempfile.TemporaryFile() as output:
        before = time.monotonic_ns()
        processes = [
            subprocess.Popen(
                ["sh", "-c", script, step, *parts],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            for parts in groups
        ]
        ended = wait_for_all(processes)
        ns = time.monotonic_ns() - before
        if not ended:
            for process in processes:
                process.kill()  # it is gone when the server is
            raise BenchmarkError(f"{step}: not done in {STEP_SECONDS:.0f} s")
        failed = [process for process in processes if process.wait()]
        if failed:
            raise BenchmarkError(f"{step}: {last_words(output) or 'failed and does not say why'}")
    return ns


def wait_for_all(processes: list[subprocess.Popen[bytes]]) -> bool:
    """Wait until all have ended; return False when that takes too long."""
    deadline = time.monotonic() + STEP_SECONDS
    with ExitStack() as stack:
        poll = select.poll()
        waiting = set()
        for process in processes:
            fd = os.pidfd_open(process.pid)
            stack.callback(os.close, fd)
            poll.register(fd, select.POLLIN)
            waiting.add(fd)
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for fd, _ in poll.poll(left * 1000):
                poll.unregister(fd)
                waiting.remove(fd)
    return True


def measure(
    places: dict[str, Path],
    steps: list[str],
    rounds: int,
    data: Path,
    parts: list[str],
    missing: dict[str, str],
    progress: Callable[[str], None],
) -> Iterator[Sample]:
    """Yield what every step took on every server in every round.

    A server on which a step fails is measured no more: it goes from `places` to `missing`.
    """
    order = list(places)
    warm = data / "warm"
    warm.mkdir()
    for number in range(rounds):
        for processes in PROCESSES:
            groups = [parts[first::processes] for first in range(processes)]
            for step in steps:
                forget(list(places.values()))
                run_step(step, groups, data, warm)
                for turn in range(len(order)):
                    server = order[(turn + number) % len(order)]
                    if server not in places:
                        continue
                    name = operation(step, processes)
                    progress(f"trees, round {number + 1} of {rounds}: {name}, {server}")
                    try:
                        ns = run_step(step, groups, data, places[server])
                    except BenchmarkError as error:
                        missing[server] = str(error)
                        del places[server]
                    else:
                        yield Sample(PART, number, server, name, 1, ns)


def run(
    servers: list[str],
    steps: list[str],
    rounds: int,
    missing: dict[str, str],
    build: Path,
    progress: Callable[[str], None],
) -> Iterator[Sample]:
    """Mount the servers and yield what was measured; servers that do not mount are `missing`."""
    with ExitStack() as stack:
        store = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="puffs-bench-", dir=STORE))
        )
        space = os.statvfs(store)
        if space.f_bavail * space.f_frsize < SPACE * len(servers):
            needed = SPACE * len(servers) >> 20
            raise BenchmarkError(f"the trees need {needed} MiB in {STORE}; fewer servers need less")
        progress("trees: making them")
        parts = workload.make(store)
        places = mount_all(stack, SERVERS, servers, build, PART, missing, store)
        yield from measure(places, steps, rounds, store, parts, missing, progress)
