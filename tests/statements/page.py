"""`docs/semantics.md`, made from the table of statements and the marks of the tests."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.statements.table import CLASSES, Statement

FILE: Final = Path(__file__).parents[2] / "docs" / "semantics.md"

_HEAD = """\
# The statements

puffs for Python does what the kernel half of NetBSD's puffs did in April 2007, when it could still
suspend a file system. Its source was taken apart into statements, each with a number. This is what
has become of each of them: done as stated, improved, or not applicable.

The letters are the functions of that source: C constants, M mount, S and T start, U unmount, R
root, V statvfs, P page flush, Y sync, F handle to vnode, H vnode to handle, I init, done and
snapshot, D suspension, O operations table. N are its rules for vnodes, Q those of its message
queues. Numbers with a point are topics: 2.1 states, 2.5 flags, 2.6 missing operations, 2.7 bad
replies, 2.8 flush operations, 2.9 caches, 3.7 permissions; a letter behind them is a part of the
topic that has a function of its own.

"Alive" tells on which hosts a user meets it; "isolated" is a file server in a process of its own,
whatever the host. A test that proves a statement is marked with its number,
`@pytest.mark.statement("M7")`. `make statements` counts, and makes this page from
`tests/statements/statements.toml` and from the marks; `make statements BREAK=1` replaces each
function below by one that raises, and requires that a marked test fails.

"""


def page(table: Mapping[str, Statement], marks: Mapping[str, Sequence[str]]) -> str:
    """The text of the page; `marks` are the names of tests by id."""
    return _HEAD + "\n".join([*_counts(table), "", *_rows(table, marks)]) + "\n"


def _counts(table: Mapping[str, Statement]) -> Iterator[str]:
    counts = Counter(row.kind for row in table.values())
    yield "| class | statements |"
    yield "|---|---|"
    for kind in CLASSES:
        yield f"| {kind} | {counts[kind]} |"


def _rows(table: Mapping[str, Statement], marks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield "| | the reference | here | alive | function | tests |"
    yield "|---|---|---|---|---|---|"
    for row in table.values():
        here = row.kind if not row.how else f"{row.kind}: {row.how}"
        function = f"`{row.function.removeprefix('puffs.')}`" if row.function else ""
        tests = "<br>".join(f"`{name}`" for name in names(marks.get(row.id, ())))
        cells = (row.id, row.says, here, ", ".join(row.alive), function, tests)
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def names(nodeids: Sequence[str]) -> list[str]:
    """Tests as people name them: without what they are parametrized with, and each once."""
    short = (nodeid.partition("[")[0].removeprefix("tests/") for nodeid in nodeids)
    return list(dict.fromkeys(short))
