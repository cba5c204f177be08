"""`make recorded`: what the libraries themselves answer, into recorded/*.json.

`python -m tests.refuse.record [PATTERN]`. `python -m tests.refuse.record --puffs [PATTERN]` writes
what puffs answers otherwise, into otherwise/*.json: look at what has changed there.
"""

import fnmatch
import json
import sys
from pathlib import Path

from tests.refuse.twins import (
    TWINS,
    Answers,
    answers,
    otherwise_of,
    record_of,
    recorded,
    unlike,
)


def text(found: Answers) -> str:
    """Answers as JSON, a line for each."""
    cases = []
    for case, labels in found.items():
        lines = [f"  {json.dumps(label)}: {json.dumps(value)}" for label, value in labels.items()]
        cases.append(f" {json.dumps(case)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(cases) + "\n}\n"


def main(*words: str) -> None:
    """Record those servers whose names are like a pattern."""
    puffs = "--puffs" in words
    pattern = next((word for word in words if not word.startswith("-")), "*")
    for name, twin in TWINS.items():
        if fnmatch.fnmatchcase(name, pattern):
            found = answers(twin, stock=not puffs)
            if puffs:
                _write(otherwise_of(name), only_otherwise(recorded(name), found))
            else:
                _write(record_of(name), found)


def only_otherwise(theirs: Answers, ours: Answers) -> Answers:
    """Those answers of puffs that are not the library's."""
    found: Answers = {}
    for case, label, _, answer in unlike(theirs, ours):
        found.setdefault(case, {})[label] = answer
    return found


def _write(path: Path, found: Answers) -> None:
    path.parent.mkdir(exist_ok=True)
    if found:
        path.write_text(text(found))
    else:
        path.unlink(missing_ok=True)
    print(f"{path}: {sum(map(len, found.values()))} answers", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
