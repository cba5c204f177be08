"""What is seen of the demo: the progress of its steps, and in the end tables."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from puffs.cli.demo_tree import Tick, Tree


class Took(NamedTuple):
    """A step that is done."""

    label: str
    seconds: float
    files: int
    size: int


class Show:
    """Steps and tables, on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.steps: list[Took] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show the progress of steps meanwhile."""
        with self._progress:
            yield

    @contextmanager
    def step(self, label: str, tree: Tree | None = None) -> Iterator[Tick]:
        """Time a step. `tree` is what it deals with, if that is known."""
        task = self._progress.add_task(label, total=None if tree is None else len(tree))
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            self._progress.advance(task)

        start = time.perf_counter()
        try:
            yield tick
        except BaseException:
            self._progress.remove_task(task)
            raise
        seconds = time.perf_counter() - start
        self._progress.update(task, total=done or 1, completed=done or 1)
        size = sum(entry.size for entry in tree.values()) if tree else 0
        self.steps.append(Took(label, seconds, done, size))

    def say(self, text: str) -> None:
        """Print a line, as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def times(self) -> None:
        """Print how long each step took."""
        table = Table()
        table.add_column("step")
        for heading in ("files", "seconds", "files/s", "MB/s"):
            table.add_column(heading, justify="right")
        for label, seconds, files, size in self.steps:
            table.add_row(
                label,
                f"{files:,}" if files else "",
                f"{seconds:.2f}",
                f"{files / seconds:,.0f}" if files else "",
                f"{size / seconds / 1e6:,.0f}" if size else "",
            )
        self.console.print(table)

    def requests(self, title: str, counts: Counter[str]) -> None:
        """Print what was asked for, the most frequent first."""
        table = Table()
        table.add_column(title)
        table.add_column("times", justify="right")
        for kind, times in counts.most_common():
            table.add_row(kind, f"{times:,}")
        table.add_section()
        table.add_row("all", f"{counts.total():,}")
        self.console.print(table)
