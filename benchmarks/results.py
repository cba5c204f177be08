"""Samples, and what is made of them: medians, paired ratios, tables, files.

Nothing here measures anything or reads a clock.
"""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple


class Sample(NamedTuple):
    """Some calls of one operation on one server, right after each other."""

    part: str
    round: int
    server: str
    operation: str
    calls: int
    ns: int  # for all calls together


class Unit(NamedTuple):
    """How absolute figures are written."""

    name: str
    ns: int
    decimals: int

    def text(self, ns: float) -> str:
        """Return a duration as it stands in a table."""
        return f"{ns / self.ns:.{self.decimals}f}"


MICROSECONDS = Unit("µs", 1000, 1)
SECONDS = Unit("s", 1_000_000_000, 3)
ABSENT = "–"  # what was not measured


class Table(NamedTuple):
    """What one table of the report shows."""

    part: str
    title: str
    note: str  # what its figures are multiples of
    base: str  # the server that is shown in `unit`, and all others as multiples of
    unit: Unit
    servers: Sequence[str]
    operations: Sequence[str]
    pairs: Sequence[tuple[str, str, str]] = ()  # (server, other, title): rows of their own
    apart: Sequence[str] = ()  # servers that do less than all others: at the end, and named


class Costs:
    """The nanoseconds that one call took, by server, operation and round of one part."""

    def __init__(self, samples: Iterable[Sample], part: str) -> None:
        """Keep the samples of `part`."""
        costs: defaultdict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        for sample in samples:
            if sample.part == part:
                costs[sample.server, sample.operation][sample.round] = sample.ns / sample.calls
        self._costs = dict(costs)

    def typical(self, server: str, operation: str) -> float | None:
        """Return the median of all rounds, None when nothing was measured."""
        rounds = self._costs.get((server, operation))
        return median(rounds.values()) if rounds else None

    def ratio(self, server: str, other: str, operation: str) -> float | None:
        """Return the median of the ratios of the rounds in which both were measured, or None."""
        ours = self._costs.get((server, operation), {})
        theirs = self._costs.get((other, operation), {})
        ratios = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys()]
        return median(ratios) if ratios else None

    def servers(self) -> set[str]:
        """Return the servers of which there is any sample."""
        return {server for server, _ in self._costs}

    def operations(self) -> set[str]:
        """Return the operations of which there is any sample."""
        return {operation for _, operation in self._costs}


def rows(table: Table, samples: Iterable[Sample]) -> list[list[str]]:
    """Return the cells of a table, its heading first; what was not measured at all is left out."""
    costs = Costs(samples, table.part)
    operations = [name for name in table.operations if name in costs.operations()]
    servers = [name for name in table.servers if name in costs.servers()]
    apart = [name for name in table.apart if name in costs.servers()]
    if not operations or not servers:
        return []

    def ratios(server: str, other: str) -> list[str]:
        found = (costs.ratio(server, other, operation) for operation in operations)
        return [ABSENT if ratio is None else f"{ratio:.2f}" for ratio in found]

    def absolute(server: str) -> list[str]:
        found = (costs.typical(server, operation) for operation in operations)
        return [ABSENT if ns is None else table.unit.text(ns) for ns in found]

    cells = [["server", *operations]]
    for server in servers:
        if server == table.base:
            cells.append([f"{server} ({table.unit.name})", *absolute(server)])
        else:
            cells.append([server, *ratios(server, table.base)])
    for server, other, title in table.pairs:
        if {server, other} <= costs.servers():
            cells.append([title, *ratios(server, other)])
    cells += [[server, *ratios(server, table.base)] for server in apart]
    return cells


def text(cells: list[list[str]]) -> str:
    """Return a table for people: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        columns = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *columns]).rstrip())
    return "\n".join(lines)


def pack(samples: Iterable[Sample]) -> list[dict[str, object]]:
    """Return the samples for JSON: an object for each series, its nanoseconds by round."""
    series: defaultdict[tuple[str, str, str, int], dict[str, int]] = defaultdict(dict)
    for sample in samples:
        key = (sample.part, sample.server, sample.operation, sample.calls)
        series[key][str(sample.round)] = sample.ns
    return [
        {"part": part, "server": server, "operation": operation, "calls": calls, "ns": ns}
        for (part, server, operation, calls), ns in series.items()
    ]


def unpack(series: Iterable[dict[str, object]]) -> list[Sample]:
    """Return the samples that `pack` has packed."""
    samples = []
    for each in series:
        part, server, operation, calls = (
            str(each["part"]),
            str(each["server"]),
            str(each["operation"]),
            each["calls"],
        )
        rounds = each["ns"]
        assert isinstance(calls, int)
        assert isinstance(rounds, dict)
        samples += [
            Sample(part, int(number), server, operation, calls, ns) for number, ns in rounds.items()
        ]
    return samples


def write_json(target: Path, samples: Iterable[Sample]) -> None:
    """Write every sample to a file, and what machine they are of."""
    about = {"kernel": platform.release(), "cpus": os.cpu_count()}
    target.write_text(json.dumps(about | {"samples": pack(samples)}) + "\n")
