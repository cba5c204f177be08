"""Make a sequence that shows something as short and as plain as it can be.

It works on the lines that a person reads, and each try costs a run on a mount: first many lines at
once are left out, then single ones, then what stands in them is made simpler.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

_SIMPLER: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"as_user\(\d+, lambda: (.*)\)$", r"\1"),
        (r"elsewhere\(lambda: (.*)\)$", r"\1"),
        (r" \| os\.O_\w+", ""),
        (r"\b(?<!\.)(?:[2-9]|\d{2,})\b(?!\.)", "1"),
        (r"\b(?<!\.)(?:[2-9]|\d{5,})\b(?!\.)", "4096"),
        (r"(?<=')\w+/", ""),
    )
)
"""What may stand instead of what; whether it still shows the same is tried."""


def smallest(lines: list[str], shows: Callable[[list[str]], list[str] | None]) -> list[str]:
    """The smallest sequence that was found.

    `shows` carries a sequence out, and returns it as far as it is needed if it shows the thing.
    """
    length = len(lines)
    while length := length // 2:
        at = 0
        while at < len(lines):
            shorter = shows(lines[:at] + lines[at + length :])
            if shorter is not None and len(shorter) < len(lines):
                lines = shorter
            else:
                at += length
    at = 0
    while at < len(lines):
        for line in simpler(lines[at]):
            found = shows([*lines[:at], line, *lines[at + 1 :]])
            if found is not None and len(found) <= len(lines):
                lines = found
                break
        else:
            at += 1
    return lines


def simpler(line: str) -> Iterator[str]:
    """Lines that are simpler in one place each."""
    for pattern, replacement in _SIMPLER:
        for match in pattern.finditer(line):
            changed = line[: match.start()] + match.expand(replacement) + line[match.end() :]
            if changed != line:
                yield changed
