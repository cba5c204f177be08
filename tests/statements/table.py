"""The table of statements: `statements.toml`, read and checked."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("statements.toml")

AS_STATED, IMPROVED, NOT_APPLICABLE = CLASSES = ("as stated", "improved", "not applicable")
HOSTS: Final = ("FUSE", "in process", "isolated")

COUNTS: Final = {
    "C": 11,
    "M": 32,
    "S": 6,
    "T": 1,
    "U": 14,
    "R": 9,
    "V": 7,
    "P": 11,
    "Y": 3,
    "F": 6,
    "H": 9,
    "I": 3,
    "D": 8,
    "O": 2,
    "N": 16,
    "Q": 19,
}
"""How many statements there are of each letter, numbered from 1."""
TOPICS: Final = ("2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7", "2.8", "2.9", "3.7")
"""The whole topics."""


class TableError(ValueError):
    """The table is not what it should be; the text says where."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One row: see the head of the file for what the fields mean."""

    id: str
    says: str
    kind: str
    how: str
    alive: tuple[str, ...]
    function: str

    @property
    def applies(self) -> bool:
        """Whether there is something to prove."""
        return self.kind != NOT_APPLICABLE


def load(text: str | None = None) -> dict[str, Statement]:
    """The rows by id, in the order of the file. Raises `TableError`."""
    rows = tomllib.loads(FILE.read_text() if text is None else text)
    table = {id_: _statement(id_, row) for id_, row in rows.items()}
    wanted = [f"{letter}{n}" for letter, last in COUNTS.items() for n in range(1, last + 1)]
    if missing := [id_ for id_ in (*wanted, *TOPICS) if id_ not in table]:
        raise TableError(f"no rows for {', '.join(missing)}")
    return table


def _statement(id_: str, row: dict[str, Any]) -> Statement:
    statement = Statement(
        id_,
        row.pop("says", ""),
        row.pop("class", ""),
        row.pop("how", ""),
        tuple(row.pop("alive", ())),
        row.pop("function", ""),
    )
    if mistake := _mistake(statement, row):
        raise TableError(f"{id_}: {mistake}")
    return statement


def _mistake(row: Statement, rest: dict[str, Any]) -> str | None:
    """What is wrong with a row."""
    if rest:
        return f"unknown fields {', '.join(rest)}"
    if not row.says:
        return "says nothing"
    if row.kind not in CLASSES:
        return f"has the class {row.kind!r}, not one of {', '.join(CLASSES)}"
    if bool(row.how) == (row.kind == AS_STATED):
        return "`how` belongs to what is not as stated, and to nothing else"
    if not set(row.alive) <= set(HOSTS) or bool(row.alive) != row.applies:
        return f"is alive on {row.alive or 'nothing'}; hosts are {', '.join(HOSTS)}"
    if bool(row.function) != row.applies or not re.fullmatch(r"(puffs(\.\w+)+)?", row.function):
        return f"has the function {row.function!r}"
    return None
