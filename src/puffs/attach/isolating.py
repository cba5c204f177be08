"""The options of command lines for a file server in a process of its own: one table for all of
them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from puffs.isolate.confinement import parse_seconds, parse_size
from puffs.isolate.isolation import Isolation

ISOLATE: Final = "--isolate"
ISOLATE_HELP: Final = (
    "Run the file server in a process of its own: nothing it does harms the one that holds the "
    "mount."
)


class UsageError(ValueError):
    """A command line makes no sense."""


class Row(NamedTuple):
    """An option that goes with `ISOLATE`: the member of `Isolation` that it sets, and how."""

    name: str
    metavar: str
    parse: Callable[[str], Any]
    help: str

    @property
    def flag(self) -> str:
        """How it is written."""
        return f"--{self.name}"


def _timeout(text: str) -> float | None:
    return parse_seconds(text) or None


ROWS: Final = (
    Row("user", "USER", str, "With --isolate: as this user, a name or a number."),
    Row(
        "memory", "SIZE", parse_size, "With --isolate: so much memory at most, such as 512M or 2G."
    ),
    Row(
        "cpu",
        "TIME",
        parse_seconds,
        "With --isolate: so much processor time, such as 90s, 10m or 2h; then it is killed.",
    ),
    Row(
        "timeout",
        "TIME",
        _timeout,
        "With --isolate: how long an operation may take, then its caller gets an error; 0: as long "
        f"as it likes. Without, {Isolation().timeout:g}s.",
    ),
)


def isolation_from(isolate: bool, given: Mapping[str, str | None]) -> Isolation | None:
    """What a command line asks for: `given` are the values of the options, by name, as written.

    None: the file server gets no process of its own. Raises `UsageError`.
    """
    said = {row: text for row in ROWS if (text := given.get(row.name)) is not None}
    if said and not isolate:
        flags = " and ".join(row.flag for row in said)
        raise UsageError(f"{flags}: only with {ISOLATE}, a process that it can be meant for")
    if not isolate:
        return None
    return Isolation(**{row.name: _parsed(row, text) for row, text in said.items()})


def _parsed(row: Row, text: str) -> Any:
    try:
        return row.parse(text)
    except ValueError as exc:
        raise UsageError(f"{row.flag} needs {exc}") from None
