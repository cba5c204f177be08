"""CPython's own tests of files, run on the mount: no failure that tmpfs does not have."""

import sys
import tempfile
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.needs import cannot
from tests.programs.places import PROGRAM, run

pytestmark = PROGRAM

MODULES: Final = (
    "test_dbm test_dbm_dumb test_dbm_gnu test_dbm_ndbm test_fcntl test_file test_filecmp"
    " test_fileinput test_fileio test_genericpath test_glob test_io test_mailbox"
    " test_mmap test_os test_pathlib test_posix test_posixpath test_shelve test_shutil test_sqlite3"
    " test_tarfile test_tempfile test_unicode_file_functions test_zipfile test_zipimport"
)

FIND: Final = """
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(f"test.{name}")))
"""
"""Which of these modules of tests there are: Debian's Python leaves out some."""


def interpreter() -> tuple[str, list[str]]:
    """An interpreter that came with its tests, and those of the `MODULES` that it has."""
    for python in (sys.executable, "/usr/bin/python3"):
        if "test_os" in (found := run(python, "-c", FIND, *MODULES.split(), check=False).split()):
            return python, found
    cannot("no python3 here has its tests: install libpython3.11-testsuite, or that of its version")


def failing(directory: Path, python: str, modules: list[str]) -> set[str]:
    """Run tests of CPython's; the names of those that fail."""
    report = directory / "report.xml"
    options = ("-j2", "--timeout", "300", "--tempdir", directory, "--junit-xml", report)
    printed = run(
        python,
        "-m",
        "test",
        *options,
        *modules,
        cwd=directory,
        seconds=500,
        check=False,
        env={"TMPDIR": str(directory)},
    )
    assert report.exists(), printed
    cases = ElementTree.parse(report).iter("testcase")
    results = {case.get("name", ""): [child.tag for child in case] for case in cases}
    assert len(results) > 100 * len(modules) / 4, printed
    return {name for name, tags in results.items() if {"error", "failure"} & {*tags}}


def test_modules(place: Path) -> None:
    python, modules = interpreter()
    found = failing(place, python, modules)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as tmpfs:
        there_too = failing(Path(tmpfs), python, modules) if found else set()
    assert found - there_too == set()
