"""The same program on the library that it was written for, and on puffs: `puffs refuse`.

All servers are mounted at once and show one tree of 2,000 small files and one large file: a
directory, passed through, or ratarmount's view of an archive. Each does a step in turn, in another
order every round. Before each the kernel forgets all that it has of the mounts.
"""

import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import trees
from benchmarks.processes import BenchmarkError
from benchmarks.programs import HERE, PEER_PYTHON
from benchmarks.results import Sample
from benchmarks.servers import PROVIDED, Server, mount_all, ours

PART = "refuse"
PATHS, INODES = ("mfusepy", "fusepy"), ("pyfuse3", "llfuse")
RATARMOUNT = "ratarmount"

FILES, SIZE = 2000, 8_000
FILES_IN_A_DIRECTORY = 50
LARGE = 128 << 20
STEP_SECONDS = 120.0

STEPS = {
    "walk": 'find "$place/tree" -printf "%M %u %s %T@ %p\\n" >/dev/null',
    "read": 'find "$place/tree" -type f -exec cat {} + >/dev/null',
    "large": 'cat "$place/large" >/dev/null',
}

_PROGRAMS = HERE.parent / ".venv-refuse" / "bin"
_ARCHIVE = ["-f", "--index-file", "{build}/{name}.sqlite", "{build}/tree.tar", "{mountpoint}"]


def _servers() -> dict[str, Server]:
    """Each program twice: with its library, and with what puffs provides."""
    found = {}
    for library in (*PATHS, *INODES):
        module = "fuse" if library == "fusepy" else library
        peer = "peer_paths" if library in PATHS else "peer_inodes"
        words = ["-m", f"benchmarks.{peer}", module, "loopback", "{mountpoint}", "{build}/shown"]
        found[library] = Server([PEER_PYTHON, *words])
        found[ours(library)] = Server([*PROVIDED, *words])
    program = str(_PROGRAMS / RATARMOUNT)
    for name, before in ((RATARMOUNT, []), (ours(RATARMOUNT), PROVIDED)):
        words = [word.replace("{name}", name) for word in _ARCHIVE]
        found[name] = Server([*before, program, *words])
    return found


SERVERS = _servers()


def make(directory: Path) -> None:
    """Make what is shown: `shown`, and `tree.tar` of it."""
    shown = directory / "shown"
    for number in range(FILES):
        place = shown / "tree" / f"{number // FILES_IN_A_DIRECTORY:02}"
        if number % FILES_IN_A_DIRECTORY == 0:
            place.mkdir(parents=True)
        (place / f"file-{number:04}.dat").write_bytes(os.urandom(SIZE))
    with (shown / "large").open("wb") as large:
        for _ in range(LARGE >> 20):
            large.write(os.urandom(1 << 20))
    with tarfile.open(directory / "tree.tar", "w") as archive:
        archive.add(shown / "tree", "tree")
        archive.add(shown / "large", "large")


def run_step(step: str, place: Path) -> int:
    """Make a step; return the nanoseconds. Raises BenchmarkError when it fails."""
    before = time.monotonic_ns()
    try:
        done = subprocess.run(
            ["sh", "-c", STEPS[step]],
            env=os.environ | {"place": str(place)},
            stderr=subprocess.PIPE,
            timeout=STEP_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{step}: not done in {STEP_SECONDS:.0f} s") from None
    ns = time.monotonic_ns() - before
    if done.returncode or done.stderr:
        raise BenchmarkError(f"{step}: {done.stderr.decode(errors='replace').strip()[-200:]}")
    return ns


def run(
    servers: list[str],
    steps: list[str],
    rounds: int,
    missing: dict[str, str],
    build: Path,
    progress: Callable[[str], None],
) -> Iterator[Sample]:
    """Mount the servers and yield what was measured; servers that do not mount are `missing`.

    A round before the first only warms things up.
    """
    with ExitStack() as stack:
        store = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="puffs-bench-", dir=trees.STORE))
        )
        progress("refuse: making what is shown")
        make(store)
        places = mount_all(stack, SERVERS, servers, store, PART, missing)
        order = list(places)
        for number in range(rounds + 1):
            for step in steps:
                for turn in range(len(order)):
                    server = order[(turn + number) % len(order)]
                    if server not in places:
                        continue
                    progress(f"refuse, round {number} of {rounds}: {step}, {server}")
                    trees.forget(list(places.values()))
                    try:
                        ns = run_step(step, places[server])
                    except BenchmarkError as error:
                        missing[server] = str(error)
                        del places[server]
                    else:
                        if number:
                            yield Sample(PART, number, server, step, 1, ns)
