"""What size costs: memory per file, and the time of operations among a thousand files and a
million.

Servers of all sizes are mounted at once. This process makes short bursts of calls on each in turn;
a burst is compared with the one of the same round on the smallest. Everything shares one CPU.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.processes import BenchmarkError, mounted, unmount
from benchmarks.scale_server import DIRECTORY, PER_DIRECTORY, TREE, place

HERE = Path(__file__).parent
SHAPES = (DIRECTORY, TREE)


class Plan(NamedTuple):
    """How large it all is."""

    sizes: tuple[int, ...]
    """Files of the servers that are compared, the first the one to compare with."""
    live: int
    """Files made for the memory of each."""
    rounds: int
    opened: int
    """Files open at once."""
    mounts: int
    """Mounts in one process."""


FULL = Plan((1000, 100_000, 1_000_000), live=1_000_000, rounds=15, opened=10_000, mounts=100)
QUICK = Plan((1000, 20_000), live=20_000, rounds=5, opened=1000, mounts=10)


class Burst(NamedTuple):
    """Calls of one operation on one server, right after each other."""

    round: int
    shape: str
    files: int
    operation: str
    calls: int
    ns: int  # for all calls together


def progress(words: str) -> None:
    """Show what is going on, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)


def server_command(kind: str, files: int, shape: str, mountpoint: Path) -> list[str]:
    words = [kind, str(files), shape, str(mountpoint)]
    return [sys.executable, "-m", "benchmarks.scale_server", *words]


def status(mountpoint: Path) -> dict[str, Any]:
    """What `puffs status` says of a mount."""
    command = [sys.executable, "-m", "puffs", "status", "--json", str(mountpoint)]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=HERE.parent))
    return found


def rss(pid: int) -> int:
    """The memory that a process takes now, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# ------------------------------------------------------------------------------------------- memory


def memory_of_mem(plan: Plan, directory: Path) -> dict[str, float]:
    """Make empty files in `mem` through a mount; what each takes, and how long making it took."""
    mountpoint = directory / "mem"
    with mounted(server_command("mem", 0, TREE, mountpoint), mountpoint, HERE.parent):
        before = status(mountpoint)
        at_first = rss(before["pid"])
        ns = []
        for number in range(plan.live):
            above, name = place(number, TREE)
            if number % PER_DIRECTORY == 0:
                progress(f"mem: {number} files")
                (mountpoint / above).mkdir()
            began = time.perf_counter_ns()
            os.close(os.open(f"{mountpoint}/{above}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            ns.append(time.perf_counter_ns() - began)
        made = rss(before["pid"]) - at_first
        check_live(mountpoint, before["nodes"] + plan.live)
    tenth = plan.live // 10
    return {
        "files": plan.live,
        "bytes_per_file": made / plan.live,
        "create_last_tenth_to_first": sum(ns[-tenth:]) / sum(ns[:tenth]),
        "create_longest_ms": max(ns) / 1e6,
    }


def memory_of_vnodes(plan: Plan, directory: Path) -> dict[str, float]:
    """Look files up whose server keeps nothing of them; what the kernel half keeps of each."""
    mountpoint = directory / "numbers"
    command = server_command("numbers", plan.live, DIRECTORY, mountpoint)
    with mounted(command, mountpoint, HERE.parent):
        before = status(mountpoint)
        at_first = rss(before["pid"])
        for number in range(1, plan.live + 1):
            if number % PER_DIRECTORY == 0:
                progress(f"vnodes: {number} files")
            os.stat(f"{mountpoint}/{number}")
        made = rss(before["pid"]) - at_first
        check_live(mountpoint, before["nodes"] + plan.live)
    return {"files": plan.live, "bytes_per_vnode": made / plan.live}


def check_live(mountpoint: Path, nodes: int) -> None:
    """Raise BenchmarkError when the kernel has forgotten some of the files."""
    live = status(mountpoint)["nodes"]
    if live < nodes:
        raise BenchmarkError(f"the kernel has forgotten files: {live} of {nodes} are live")


# --------------------------------------------------------------------------------------------- time


class Tree:
    """The files of one server, and the calls that are made on them."""

    def __init__(self, root: Path, shape: str, files: int) -> None:
        """`root` is the mount point."""
        self.root, self.shape, self.files = root, shape, files
        self._new: list[str] = []
        self._made = 0

    def warm(self) -> None:
        """Have every file live in the kernel."""
        for number in range(self.files):
            if number % PER_DIRECTORY == 0:
                progress(f"{self.shape} of {self.files}: {number} files")
            os.stat(self._path(number))

    def lookup(self, calls: int) -> int:
        """Stat files by name: the kernel half is asked for the name."""
        paths = self._any(calls)
        began = time.perf_counter_ns()
        for path in paths:
            os.stat(path)
        return time.perf_counter_ns() - began

    def open_close(self, calls: int) -> int:
        """Open files and close them."""
        paths = self._any(calls)
        began = time.perf_counter_ns()
        for path in paths:
            os.close(os.open(path, os.O_RDONLY))
        return time.perf_counter_ns() - began

    def readdir(self, calls: int) -> int:
        """List a directory; for as many entries as it is asked for, whatever it has."""
        parent = os.path.dirname(self._any(1)[0])
        began = time.perf_counter_ns()
        with os.scandir(parent) as entries:
            found = sum(1 for _ in entries)
        return (time.perf_counter_ns() - began) * calls // found

    def create(self, calls: int) -> int:
        """Make files, where others are."""
        paths = [f"{os.path.dirname(path)}/new{i}" for i, path in enumerate(self._any(calls))]
        began = time.perf_counter_ns()
        for path in paths:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        self._new = paths
        return time.perf_counter_ns() - began

    def unlink(self, calls: int) -> int:
        """Remove what `create` has made."""
        paths, self._new = self._new, []
        began = time.perf_counter_ns()
        for path in paths:
            os.unlink(path)
        return time.perf_counter_ns() - began

    def _any(self, calls: int) -> list[str]:
        return [self._path(random.randrange(self.files)) for _ in range(calls)]

    def _path(self, number: int) -> str:
        directory, name = place(number, self.shape)
        return f"{self.root}/{directory}/{name}" if directory else f"{self.root}/{name}"


Call = Callable[[Tree, int], int]

OPERATIONS: dict[str, tuple[Call, int, int]] = {
    # name: what makes the calls, how many a burst, and in every how manieth round
    "lookup": (Tree.lookup, 200, 1),
    "open+close": (Tree.open_close, 100, 1),
    "create": (Tree.create, 100, 1),
    "unlink": (Tree.unlink, 100, 1),
    "readdir, an entry": (Tree.readdir, 1000, 5),
}


def measure(trees: list[Tree], rounds: int) -> Iterator[Burst]:
    """Yield the bursts of all rounds, and before them of a round 0 that only warms things up."""
    for number in range(rounds + 1):
        progress(f"round {number} of {rounds}")
        for name, (call, calls, every) in OPERATIONS.items():
            if number % every:
                continue
            for turn in range(len(trees)):
                tree = trees[(turn + number) % len(trees)]
                yield Burst(number, tree.shape, tree.files, name, calls, call(tree, calls))


def times(plan: Plan, directory: Path) -> list[Burst]:
    """Measure all operations in all trees."""
    trees = []
    with ExitStack() as stack:
        for shape in SHAPES:
            for files in plan.sizes:
                progress(f"{shape} of {files}: is being made")
                mountpoint = directory / f"{shape}-{files}"
                command = server_command("asked", files, shape, mountpoint)
                stack.enter_context(mounted(command, mountpoint, HERE.parent))
                trees.append(Tree(mountpoint, shape, files))
                trees[-1].warm()
        return list(measure(trees, plan.rounds))


def rows(bursts: list[Burst], sizes: tuple[int, ...]) -> Iterator[list[str]]:
    """A row for each shape and operation: microseconds in the smallest, the others' ratios to it,
    medians of the rounds.
    """
    cost = {(b.round, b.shape, b.files, b.operation): b.ns / b.calls for b in bursts if b.round}
    first, *others = sizes
    for shape in SHAPES:
        for name, (_, _, every) in OPERATIONS.items():
            rounds = sorted({b.round for b in bursts if b.round and b.round % every == 0})
            base = median(cost[n, shape, first, name] for n in rounds)
            ratios = (
                median(cost[n, shape, files, name] / cost[n, shape, first, name] for n in rounds)
                for files in others
            )
            yield [f"{shape}: {name}", f"{base / 1000:.1f}", *(f"{r:.2f}" for r in ratios)]


# ----------------------------------------------------------------------------------- open files


def open_files(plan: Plan, directory: Path) -> dict[str, float]:
    """Open many files at once."""
    mountpoint = directory / "opened"
    command = server_command("numbers", plan.opened, DIRECTORY, mountpoint)
    with mounted(command, mountpoint, HERE.parent):
        for number in range(1, plan.opened + 1):
            os.stat(f"{mountpoint}/{number}")
        pid = status(mountpoint)["pid"]
        at_first, opened, ns = rss(pid), [], []
        progress(f"{plan.opened} open files")
        try:
            for number in range(1, plan.opened + 1):
                began = time.perf_counter_ns()
                opened.append(os.open(f"{mountpoint}/{number}", os.O_RDONLY))
                ns.append(time.perf_counter_ns() - began)
            taken = rss(pid) - at_first
        finally:
            for fd in opened:
                os.close(fd)
    tenth = plan.opened // 10
    return {
        "files": plan.opened,
        "bytes_per_open_file": taken / plan.opened,
        "open_last_tenth_to_first": sum(ns[-tenth:]) / sum(ns[:tenth]),
    }


# --------------------------------------------------------------------------------------- mounts


def many_mounts(plan: Plan, directory: Path) -> dict[str, float]:
    """Mount many file servers in one process, use each, and unmount them."""
    progress(f"{plan.mounts} mounts in one process")
    places = directory / "many"
    places.mkdir()
    command = [sys.executable, "-m", "benchmarks.scale_server", "many", str(plan.mounts)]
    with subprocess.Popen(
        [*command, str(places)],
        cwd=HERE.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            before, during = (json.loads(server.stdout.readline()) for _ in range(2))
            for number in range(plan.mounts):
                if (places / str(number) / "hello").read_text() != "Hello!\n":
                    raise BenchmarkError(f"mount {number} does not serve its file")
            server.stdin.write("\n")
            server.stdin.flush()
            after = json.loads(server.stdout.readline())
        finally:
            server.stdin.close()
            for number in range(plan.mounts):  # those that the server has left, if it has failed
                unmount(places / str(number))
    return {
        "mounts": plan.mounts,
        "mount_ms": during["seconds"] * 1000 / plan.mounts,
        "unmount_ms": after["seconds"] * 1000 / plan.mounts,
        "kib_per_mount": (during["rss"] - before["rss"]) / plan.mounts / 1024,
        "threads_per_mount": (during["threads"] - before["threads"]) / plan.mounts,
        "fds_per_mount": (during["fds"] - before["fds"]) / plan.mounts,
        "threads_left": after["threads"] - before["threads"],
        "fds_left": after["fds"] - before["fds"],
    }


# ------------------------------------------------------------------------------------------ the run


def print_table(table: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *others in table:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))


PARTS: dict[str, Callable[[Plan, Path], Any]] = {
    "mem": memory_of_mem,
    "vnodes": memory_of_vnodes,
    "open-files": open_files,
    "mounts": many_mounts,
    "times": times,
}


def run(plan: Plan, parts: list[str]) -> dict[str, Any]:
    """Measure as planned, print the results, and return them."""
    results: dict[str, Any] = {}
    print(
        f"Cost of scale on Linux {platform.release()}, Python {platform.python_version()}: "
        f"medians of {plan.rounds} rounds\n"
    )
    with tempfile.TemporaryDirectory(prefix="puffs-scale-") as directory:
        for name in parts:
            results[name] = found = PARTS[name](plan, Path(directory).resolve())
            progress("")
            if name == "times":
                titles = [f"{files:,}" for files in plan.sizes]
                titles[0] += " (µs)"
                print_table([["among files", *titles], *rows(found, plan.sizes)])
                results[name] = [burst._asdict() for burst in found]
            else:
                print(name, *(f"{key}={value:.4g}" for key, value in found.items()), sep="  ")
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run, of seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE")
    parser.add_argument(
        "--only", action="append", choices=PARTS, help="measure only this; may be given repeatedly"
    )
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    plan = QUICK if arguments.quick else FULL
    try:
        results = run(plan, arguments.only or list(PARTS))
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        about = {"kernel": platform.release(), "python": platform.python_version()}
        arguments.json.write_text(json.dumps(about | plan._asdict() | results) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
