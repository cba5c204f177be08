"""`make recorded`: what the libraries themselves answer, into recorded/*.json.

`python -m tests.refuse.record [PATTERN]`
"""

import fnmatch
import json
import sys

from tests.refuse.twins import RECORDED, TWINS, Answers, answers, record_of


def text(found: Answers) -> str:
    """Answers as JSON, a line for each."""
    cases = []
    for case, labels in found.items():
        lines = [f"  {json.dumps(label)}: {json.dumps(value)}" for label, value in labels.items()]
        cases.append(f" {json.dumps(case)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(cases) + "\n}\n"


def main(pattern: str = "*") -> None:
    """Record those servers whose names are like `pattern`."""
    RECORDED.mkdir(exist_ok=True)
    for name, twin in TWINS.items():
        if fnmatch.fnmatchcase(name, pattern):
            found = answers(twin, stock=True)
            record_of(name).write_text(text(found))
            print(f"{record_of(name)} is written", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
