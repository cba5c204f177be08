"""Data with `-o passthrough`: fio on `null` against fio on the directory that it passes through.

Random reads and writes of 4 KiB, sequential ones of 1 MiB, by pread(2) and pwrite(2), by mapped
memory, and past the page cache (O_DIRECT), on a tmpfs and on the disk; anything else is in the page
cache from the start. Short runs in turn, medians of paired ratios of what went through. With
passthrough all is done on the caller's processor, so his processor time for each read and write is
compared, too: on a busy machine that is the better figure. Run as root: `python -m
benchmarks.passthrough`; it needs fio.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks.processes import BenchmarkError, mounted
from benchmarks.programs import run
from benchmarks.results import ABSENT, Costs, Sample, text, write_json

T = TypeVar("T")

MIB = 1 << 20
SIZE = 64 * MIB
DIRECTORY, PASSTHROUGH, PLAIN = "directory", "null, passthrough", "null"
OPTIONS = {PASSTHROUGH: ["-o", "passthrough"], PLAIN: []}
"""How `null` is mounted. The directory itself is the third one."""
PLACES = {"tmpfs": "/dev/shm", "disk": "/var/tmp"}
PROCESSOR = ", processor time"
"""Behind the name of a place: what is measured there is that, and not the time that passes."""
DIRECT = "psync, O_DIRECT"
ENGINES = {"psync": ["psync"], "mmap": ["mmap"], DIRECT: ["psync", "--direct=1"]}
"""The engine of fio, and what goes with it."""


class Job(NamedTuple):
    """What fio does."""

    rw: str
    size: int
    engine: str

    @property
    def name(self) -> str:
        """The row of the table."""
        what = "read" if self.rw.endswith("read") else "write"
        how = "4 KiB random" if self.size == 4096 else "1 MiB sequential"
        return f"{how} {what}, {self.engine}"


JOBS = [
    Job(prefix + direction, size, engine)
    for prefix, size in (("rand", 4096), ("", MIB))
    for direction in ("read", "write")
    for engine in ENGINES
]


class Done(NamedTuple):
    """What a run of fio has done."""

    calls: int
    ns: int
    processor_ns: int


def fio(job: Job, paths: Sequence[Path], seconds: float) -> list[Done]:
    """Run a job on files that are there, one after the other, by one fio."""
    command = [
        "fio",
        "--output-format=json",
        f"--rw={job.rw}",
        f"--bs={job.size}",
        f"--size={SIZE}",
        "--ioengine=" + ENGINES[job.engine][0],
        *ENGINES[job.engine][1:],
        f"--runtime={int(seconds * 1000)}ms",
        "--time_based",
        "--norandommap",
        "--fallocate=none",
        "--invalidate=0",  # what is cached stays cached
        "--fadvise_hint=0",  # posix_fadvise(2) does not reach the host's file
        "--thread",
        "--stonewall",
    ]
    for number, path in enumerate(paths):
        command += [f"--name={number}", f"--filename={path}"]
    direction = "read" if job.rw.endswith("read") else "write"
    runs = []
    for report in json.loads(run(command))["jobs"]:
        ns = report[direction]["runtime"] * 1_000_000
        percent = report["usr_cpu"] + report["sys_cpu"]
        runs.append(Done(report[direction]["total_ios"], ns, round(ns * percent / 100)))
    return runs


def measure(place: str, directory: Path, rounds: int, seconds: float) -> Iterator[Sample]:
    """Mount `null` on a directory twice, and run each job on all three in turn."""
    host = directory / "host"
    host.mkdir()
    # The same file, or its own page cache would be cold after what the others have written.
    names = {DIRECTORY: "data", PASSTHROUGH: "data", PLAIN: "plain"}
    for name in sorted(set(names.values())):
        (host / name).write_bytes(os.urandom(SIZE))
    with ExitStack() as stack:
        roots = {DIRECTORY: host}
        for server, options in OPTIONS.items():
            roots[server] = directory / f"mnt-{len(roots)}"
            words = ["mount", f"null:{host}?cache=forever", str(roots[server]), "-f", *options]
            command = [sys.executable, "-m", "puffs", *words]
            stack.enter_context(mounted(command, roots[server], directory))
        for job in JOBS:
            os.sync()  # what the last job has written is not to slow down this one
            # The first round warms up.
            turns = [each for number in range(rounds + 1) for each in rotated([*roots], number)]
            done = fio(job, [roots[server] / names[server] for server in turns], seconds)
            for turn, (server, each) in enumerate(zip(turns, done, strict=True)):
                if (number := turn // len(roots)) and each.calls and each.processor_ns:
                    for part, ns in ((place, each.ns), (place + PROCESSOR, each.processor_ns)):
                        yield Sample(part, number, server, job.name, each.calls, ns)


def rotated(those: list[T], number: int) -> list[T]:
    """`those`, beginning with another one each round."""
    number %= len(those)
    return those[number:] + those[:number]


def rows(place: str, samples: list[Sample]) -> list[list[str]]:
    """The cells of the table of one place: absolute figures of the directory, and ratios to it."""
    passed, processor = Costs(samples, place), Costs(samples, place + PROCESSOR)
    cells = [[place, f"{DIRECTORY} (MiB/s)", PASSTHROUGH, "its processor time", PLAIN]]
    for job in JOBS:
        ns = passed.typical(DIRECTORY, job.name)
        ratios = (
            passed.ratio(DIRECTORY, PASSTHROUGH, job.name),
            processor.ratio(DIRECTORY, PASSTHROUGH, job.name),
            passed.ratio(DIRECTORY, PLAIN, job.name),
        )
        speed = ABSENT if ns is None else f"{job.size / MIB / ns * 1e9:.0f}"
        cells.append([job.name, speed, *(ABSENT if r is None else f"{r:.2f}" for r in ratios)])
    return cells


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passthrough", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="rounds (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.1, help="how long each run lasts (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to FILE")
    arguments = parser.parse_args()
    samples: list[Sample] = []
    print(
        f"fio on Linux {platform.release()}, {os.cpu_count()} CPUs: speed, as a part of the "
        f"directory's; medians of {arguments.rounds} rounds"
    )
    try:
        for place, parent in PLACES.items():
            with tempfile.TemporaryDirectory(prefix="puffs-bench-", dir=parent) as directory:
                path = Path(directory).resolve()
                samples += measure(place, path, arguments.rounds, arguments.seconds)
            print(f"\n{text(rows(place, samples))}", flush=True)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        write_json(arguments.json, samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
