"""`make statements`: counts what is proved and writes docs/semantics.md; with ``--break`` looks for
marks that prove nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tests.statements import page
from tests.statements.plugin import find
from tests.statements.table import CLASSES, Statement, TableError, load

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 300
"""How long the tests of one function may take."""
TEST_SECONDS: Final = 20
"""How long one of them may: a broken function may leave it waiting."""

Marks = dict[str, list[str]]
"""Names of tests, by id."""


def marks_of_all_tests() -> Marks:
    """What every test is marked with."""
    return _pytest("--collect-only", "tests")


def main() -> int:
    try:
        table = load()
    except TableError as exc:
        print(f"statements.toml: {exc}", file=sys.stderr)
        return 1
    marks = marks_of_all_tests()
    if "--break" in sys.argv[1:]:
        return _break(table, marks)
    page.FILE.write_text(page.page(table, marks))
    return _count(table, marks)


def _count(table: Mapping[str, Statement], marks: Marks) -> int:
    print(f"{'':16}statements  proved")
    for kind in CLASSES:
        ids = [row.id for row in table.values() if row.kind == kind]
        proved = "-" if kind == CLASSES[-1] else str(sum(id_ in marks for id_ in ids))
        print(f"{kind:16}{len(ids):10}  {proved:>6}")
    applies = [row for row in table.values() if row.applies]
    absent = dict.fromkeys(row.function for row in applies if not _is_there(row.function))
    idle = [id_ for id_ in marks if id_ in table and not table[id_].applies]
    return _complain(
        ("not proved yet", [row.id for row in applies if row.id not in marks]),
        ("functions that are not there", absent),
        ("marks of no statement", sorted(marks.keys() - table.keys())),
        ("marks of what does not apply", idle),
    )


def _break(table: Mapping[str, Statement], marks: Marks) -> int:
    """Break each function in turn, and see whether the tests of its statements notice."""
    of_function: defaultdict[str, list[str]] = defaultdict(list)
    unproved = []
    for row in table.values():
        if row.id in marks and row.applies and _is_there(row.function):
            of_function[row.function].append(row.id)
        elif row.applies:
            unproved.append(row.id)
    worthless: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(partial(noticed, marks), of_function, of_function.values())
        for (function, ids), proved in zip(of_function.items(), results, strict=True):
            told = [id_ if id_ in proved else f"{id_} (NOTHING FAILS)" for id_ in ids]
            print(f"{function}: {' '.join(told)}", flush=True)
            worthless += [id_ for id_ in ids if id_ not in proved]
    broken = sum(map(len, of_function.values()))
    print(f"\n{broken - len(worthless)} of {broken} statements are proved by a test that can fail")
    return _complain(("marks that prove nothing", worthless), ("not proved yet", unproved))


def noticed(marks: Marks, function: str, ids: Sequence[str]) -> set[str]:
    """The statements of which a test fails when `function` raises.

    The tests without mounts are enough where there are any.
    """
    files: set[str] = set()
    for id_ in ids:
        of_id = {nodeid.partition("::")[0] for nodeid in marks[id_]}
        files |= {file for file in of_id if file.startswith("tests/kernel/")} or of_id
    prove = ",".join(ids)
    failed = _pytest(f"--break={function}", f"--prove={prove}", *sorted(files))
    return {id_ for id_, tests in failed.items() if tests}


def _pytest(*words: str) -> Marks:
    """Run pytest with the plugin; what that wrote."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "marks")
        command = [sys.executable, "-m", "pytest", "-p", "tests.statements.plugin"]
        command += ["-q", "--tb=no", "--no-header", "-p", "no:cacheprovider"]
        command += [f"--timeout={TEST_SECONDS}", f"--statements-to={file}", *words]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            sys.exit(f"{' '.join(command)} has not ended after {SECONDS} s")
        if not file.exists():
            sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
        marks: Marks = json.loads(file.read_text())
        return marks


def _is_there(function: str) -> bool:
    try:
        find(function)
    except LookupError:
        return False
    return True


def _complain(*complaints: tuple[str, Iterable[str]]) -> int:
    """Print what there is to complain of; the exit status."""
    status = 0
    for what, ids in complaints:
        if listed := list(ids):
            print(f"{what} ({len(listed)}): {' '.join(listed)}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
