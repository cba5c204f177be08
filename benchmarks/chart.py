"""The chart of the report: SVG, for light and dark pages, from samples and nothing else.

Each table is a panel: a row for each operation, a mark for each server, on a logarithmic axis of
multiples. What is further to the left is faster.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from benchmarks.results import Costs, Sample, Table

WIDTH, MARGIN = 900, 24
COLUMNS = 2
LABELS = 112  # how wide the names of operations are
HEAD, AXIS, GAP = 46, 26, 26  # of a panel, in pixels: above its rows, below, and to the next one
ROW = 21
TITLE = 88  # where the first panel begins
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
ROOM = 1.15  # how far the axis goes beyond what it shows

SHAPES = {
    # name: the path of a mark around (0, 0)
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "ring": "M-5.4 0a5.4 5.4 0 1 0 10.8 0a5.4 5.4 0 1 0-10.8 0z"
    "M-2.4 0a2.4 2.4 0 1 1 4.8 0a2.4 2.4 0 1 1-4.8 0z",
    "square": "M-3.6-3.6h7.2v7.2h-7.2z",
    "diamond": "M0-5L5 0L0 5L-5 0z",
    "up": "M0-4.8L4.6 3.4H-4.6z",
    "down": "M0 4.8L4.6-3.4H-4.6z",
    "plus": "M-1.3-4.6h2.6v3.3h3.3v2.6h-3.3v3.3h-2.6v-3.3h-3.3v-2.6h3.3z",
    "bar": "M-1.4-5.5h2.8v11h-2.8z",
}


class Mark(NamedTuple):
    """How the servers of one framework are shown."""

    name: str
    servers: frozenset[str]
    shape: str
    light: str  # its colour on a light page
    dark: str  # and on a dark one


def _mark(name: str, shape: str, light: str, dark: str, *servers: str) -> Mark:
    return Mark(name, frozenset(servers or (name,)), shape, light, dark)


# Later ones are drawn over earlier ones.
MARKS = (
    _mark("passthrough.c", "bar", "#57606a", "#8b949e", "passthrough"),
    _mark("bindfs", "plus", "#57606a", "#8b949e"),
    _mark("bare Python loop", "plus", "#0a7f5a", "#3fc796", "bare-python"),
    _mark("llfuse", "down", "#8250df", "#bc8cff"),
    _mark("pyfuse3", "up", "#b3261e", "#ff7b72"),
    _mark("fusepy", "square", "#9a6700", "#e3b341", "fusepy", "fusepy-memory"),
    _mark("mfusepy", "diamond", "#bc4c00", "#ffa657", "mfusepy", "mfusepy-memory"),
    _mark(
        "puffs, compiled loop",
        "ring",
        "#0969da",
        "#58a6ff",
        "puffs-compiled",
        "puffs-null-compiled",
        "puffs-mem-compiled",
    ),
    _mark("puffs", "circle", "#0969da", "#58a6ff", "puffs", "puffs-null", "puffs-mem"),
)
LOUD = MARKS[-1]  # its figures stand at the end of each row
FIGURES = 44  # how wide they are

STYLE = """
svg { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif }
.page { fill: #fff; stroke: #d0d7de } .text { fill: #1f2328 } .faint { fill: #59636e }
.grid { stroke: #eaeef2 } .base { stroke: #8c959f; stroke-width: 1.5 } .mark { stroke: #fff }
.title { font-size: 18px; font-weight: 600 } .panel { font-size: 13px; font-weight: 600 }
.loud { font-weight: 600 } .end { text-anchor: end } .middle { text-anchor: middle }
"""
DARK_STYLE = """
.page { fill: #0d1117; stroke: #30363d } .text { fill: #e6edf3 } .faint { fill: #9198a1 }
.grid { stroke: #21262d } .base { stroke: #6e7681 } .mark { stroke: #0d1117 }
"""


class Panel(NamedTuple):
    """A table, and what there is to show of it."""

    table: Table
    operations: list[str]
    ratios: dict[tuple[str, str], float]  # by operation and server


def panel(table: Table, samples: Sequence[Sample]) -> Panel:
    """Return what a table has to show in a chart."""
    costs = Costs(samples, table.part)
    ratios = {}
    for operation in table.operations:
        for server in table.servers:
            ratio = costs.ratio(server, table.base, operation)
            if ratio is not None and server != table.base and mark_of(server):
                ratios[operation, server] = ratio
    shown = {operation for operation, _ in ratios}
    return Panel(table, [name for name in table.operations if name in shown], ratios)


def mark_of(server: str) -> Mark | None:
    """Return how a server is shown; None when it is only in the table."""
    return next((mark for mark in MARKS if server in mark.servers), None)


def text(x: float, y: float, classes: str, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" class="{classes}"/>'


def symbol(x: float, y: float, mark: Mark) -> str:
    index = MARKS.index(mark)
    path = SHAPES[mark.shape]
    return f'<path d="{path}" transform="translate({x:.1f} {y:.1f})" class="mark m{index}"/>'


def legend(panels: Iterable[Panel], y: float) -> list[str]:
    """Return a line that names the marks in use, the loud one first."""
    used = {mark_of(server) for each in panels for _, server in each.ratios}
    parts, x = [], MARGIN + 6.0
    for mark in reversed(MARKS):
        if mark in used:
            parts.append(symbol(x, y - 4, mark))
            parts.append(text(x + 11, y, "loud text" if mark is LOUD else "text", mark.name))
            x += 32 + 6.6 * len(mark.name)
    return parts


def draw(shown: Panel, left: float, top: float, width: float) -> list[str]:
    """Return the elements of a panel whose corner is at (left, top)."""
    start, end = left + LABELS, left + width - FIGURES
    first, last = top + HEAD, top + HEAD + ROW * len(shown.operations)
    smallest = math.log(min(1.0, *shown.ratios.values()) / ROOM)
    largest = math.log(max(1.0, *shown.ratios.values()) * ROOM)

    def place(ratio: float) -> float:
        return start + (math.log(ratio) - smallest) / (largest - smallest) * (end - start)

    parts = [text(left, top + 14, "panel text", shown.table.title)]
    parts.append(text(left, top + 31, "faint", shown.table.note))
    for tick in TICKS:
        if smallest <= math.log(tick) <= largest:
            parts.append(
                line(place(tick), first, place(tick), last, "base" if tick == 1 else "grid")
            )
            parts.append(text(place(tick), last + 16, "middle faint", f"{tick:g}×"))
    for row, operation in enumerate(shown.operations):
        y = first + ROW * (row + 0.5)
        parts.append(text(start - 12, y + 4, "end text", operation.replace("_", " ")))
        for mark in MARKS:
            for server in shown.table.servers:
                ratio = shown.ratios.get((operation, server))
                if server in mark.servers and ratio is not None:
                    parts.append(symbol(place(ratio), y, mark))
                    if mark is LOUD:
                        parts.append(
                            text(
                                left + width,
                                y + 4,
                                f"end loud m{MARKS.index(mark)}",
                                f"{ratio:.2f}",
                            )
                        )
    return parts


def figures(shown: Panel) -> str:
    """Return the loud figures of a panel in words, for those who cannot see it."""
    found = [
        f"{operation} {ratio:.2f}"
        for (operation, server), ratio in shown.ratios.items()
        if server in LOUD.servers
    ]
    return f"{shown.table.title}, {shown.table.note}: {', '.join(found)}."


def chart(title: str, note: str, tables: Iterable[Table], samples: Iterable[Sample]) -> str:
    """Return the chart of the tables of which anything was measured."""
    samples = list(samples)
    panels = [shown for shown in (panel(table, samples) for table in tables) if shown.ratios]
    width = (WIDTH - 2 * MARGIN - GAP * (COLUMNS - 1)) / COLUMNS
    body: list[str] = [text(MARGIN, 36, "title text", title), *legend(panels, 62)]
    top = float(TITLE)
    for begin in range(0, len(panels), COLUMNS):
        beside = panels[begin : begin + COLUMNS]
        for column, shown in enumerate(beside):
            body += draw(shown, MARGIN + column * (width + GAP), top, width)
        rows = max(len(shown.operations) for shown in beside)
        top += HEAD + ROW * rows + AXIS + GAP
    height = top + 12
    body.append(text(MARGIN, top, "faint", note))
    colours = "".join(f".m{index} {{ fill: {mark.light} }} " for index, mark in enumerate(MARKS))
    dark = "".join(f".m{index} {{ fill: {mark.dark} }} " for index, mark in enumerate(MARKS))
    size, inside = f"0 0 {WIDTH} {height:.0f}", f'width="{WIDTH - 1}" height="{height - 1:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<desc>{escape(' '.join(map(figures, panels)))}</desc>",
            f"<style>{STYLE}{colours}",
            f"@media (prefers-color-scheme: dark) {{{DARK_STYLE}{dark}}}</style>",
            f'<rect x=".5" y=".5" {inside} rx="6" class="page"/>',
            *body,
            "</svg>\n",
        ]
    )
