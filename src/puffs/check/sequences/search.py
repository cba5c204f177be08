"""Look for a sequence that gives something else on a mount than on a directory of the host's own.

hypothesis makes the sequences, a worker process carries them out (`puffs.check.worker`), so that no
file server can stop the search.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings

from puffs.check.result import Mode
from puffs.check.runner import CannotStart, WorkerProcess, new_directory
from puffs.check.sequences.script import script
from puffs.check.sequences.shrink import smallest
from puffs.check.sequences.steps import DESCRIPTORS, sequences
from puffs.check.worker import Factory, Job

NEEDED: Final = ("mkdir", "rmdir", "remove", "readdir")
"""Operations without which no sequence can be carried out, and cleaned up after."""
ROUND: Final = 500
"""Sequences that are made of one seed; the next seed is one more."""
SECONDS: Final = 10.0
CPU_SECONDS: Final = 8
"""What a sequence may take, by the clock and of processor time."""


class Difference(Exception):
    """A sequence gives something else on the mount.

    Attributes:
        lines: its steps, up to the first one that differs.
        said: what the steps gave beside the mount.
        mounted, beside: what the last one gave there.
        output: what the file server wrote meanwhile.
    """

    def __init__(
        self, lines: list[str], said: list[str], mounted: str, beside: str, output: str
    ) -> None:
        super().__init__(f"{lines[-1]}: {mounted}, not {beside}")
        self.lines = lines
        self.said = said
        self.mounted = mounted
        self.beside = beside
        self.output = output

    def script(self, title: str) -> str:
        """As a program for a person to run."""
        mounted, beside = _unlike(self.mounted, self.beside)
        ends = {"on the mount": mounted, "on the host's own file system": beside}
        return script(title, self.lines, self.said, ends)


@dataclass
class Progress:
    """How far a search is. `seed`: that of the sequences which are being made."""

    seed: int
    sequences: int = 0
    steps: int = 0
    seconds: float = 0.0
    shrinking: bool = False


@contextmanager
def searching(
    factory: Factory, options: str = "", isolate: bool = False, beside: str | None = None
) -> "Iterator[Search]":
    """A search over a file server that `factory` makes, mounted once for all of it.

    `beside` is a directory in which one for the comparison is made; that for temporary files,
    unless there is another one. Raises `CannotStart`.
    """
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("ab+"))
        mountpoint = stack.enter_context(new_directory())
        directory = stack.enter_context(new_directory(beside))
        job = Job(
            factory,
            Mode.MOUNTED,
            mountpoint,
            f"/puffs-check.{os.getpid()}",
            SECONDS,
            CPU_SECONDS,
            options,
            isolate,
            directory,
        )
        # What a worker that was killed has left; on the mount its successor sees to that.
        stack.callback(shutil.rmtree, directory + job.directory, ignore_errors=True)
        search = Search(lambda: WorkerProcess(job, log))
        stack.callback(search.end)
        search.start()
        yield search


class Search:
    """See `searching`. `make` starts a worker."""

    def __init__(self, make: Callable[[], WorkerProcess]) -> None:
        self._make = make
        self._worker = make()

    def start(self) -> None:
        """Mount. Raises `CannotStart`, also for what no sequence can do without."""
        self._started()
        if missing := [name for name in NEEDED if name not in self._worker.operations]:
            raise CannotStart(f"random sequences need what it does not have: {', '.join(missing)}")

    def end(self) -> None:
        """Unmount."""
        self._worker.end()

    def run(
        self,
        seconds: float,
        seed: int,
        tell: Callable[[Progress], None] = lambda progress: None,
    ) -> tuple[Difference | None, Progress]:
        """Search for so long; the difference as small as it could be made, or None for none.

        `tell` is called before each sequence.
        """
        progress = Progress(seed)
        begin = time.monotonic()

        def count(lines: list[str]) -> None:
            progress.seconds = time.monotonic() - begin
            progress.sequences += 1
            progress.steps += len(lines)
            tell(progress)

        def limited(lines: list[str]) -> Difference | None:
            if time.monotonic() - begin >= seconds:
                raise _Over
            return compared(lines)

        def shows(lines: list[str]) -> list[str] | None:
            found = compared(lines) if lines else None
            return found.lines if found else None

        def compared(lines: list[str]) -> Difference | None:
            count(lines)
            return self.compare(lines)

        try:
            while True:
                self._round(progress.seed, limited)
                progress.seed += 1
        except _Over:
            return None, progress
        except Difference as found:
            progress.shrinking = True
            lines = smallest(found.lines, shows)
            return self.compare(lines) or found, progress

    def _round(self, seed: int, compared: Callable[[list[str]], Difference | None]) -> None:
        @hypothesis.seed(seed)
        @settings(
            max_examples=ROUND,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
            report_multiple_bugs=False,
        )
        @hypothesis.given(sequences(self._worker.operations, os.geteuid() == 0))
        def same(lines: list[str]) -> None:
            if found := compared(lines):
                raise found

        same()

    def compare(self, lines: list[str]) -> Difference | None:
        """Carry out a sequence in both places."""
        used = [name for name in DESCRIPTORS if any(line.startswith(name) for line in lines)]
        looks = [*(f"held({name})" for name in used), "tree()"]
        lines = lines + [look for look in looks if look not in lines[-1:]]
        if self._worker.gone:
            self._worker = self._make()
            self._started()
        mounted, beside, dead = self._worker.play(lines)
        output = self._worker.output()
        if dead:
            found = Difference(lines, beside, dead, "", output)
        elif mounted != beside:
            at = next(n for n, both in enumerate(zip(mounted, beside, strict=True)) if differ(both))
            found = Difference(lines[: at + 1], beside, mounted[at], beside[at], output)
        else:
            return None
        return found

    def _started(self) -> None:
        try:
            self._worker.start()
        except CannotStart:
            self._worker.kill()
            raise


class _Over(BaseException):
    """The time is over. Not an exception that hypothesis would make smaller."""


def differ(both: tuple[str, str]) -> bool:
    """Whether two outcomes are two."""
    return both[0] != both[1]


def _unlike(one: str, other: str) -> tuple[str, str]:
    """Of two outcomes of several lines, the lines that differ."""
    first, second = one.split("\n"), other.split("\n")
    return (
        "\n".join(line for line in first if line not in second) or one,
        "\n".join(line for line in second if line not in first) or other,
    )
