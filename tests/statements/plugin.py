"""The pytest plugin behind `make statements`: which tests are marked with which statements, and
which of them fail when a function is replaced by one that raises.

Used as ``pytest -p tests.statements.plugin --statements-to=FILE [--break=PATH --prove=ID,ID...]``,
in a process of its own: what it breaks stays broken. FILE becomes a JSON object of the ids: the
names of all marked tests, or with ``--break`` of those that failed.
"""

import importlib
import inspect
import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest


class Broken(Exception):
    """What a broken function raises: no error that anybody expects."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("statements")
    group.addoption("--statements-to", type=Path, metavar="FILE", help="where to write ids")
    group.addoption("--break", dest="broken", metavar="PATH", help="a function that is to raise")
    group.addoption("--prove", default="", metavar="IDS", help="run the tests of these ids only")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    # Before anything that imports the function by its name.
    if path := early_config.known_args_namespace.broken:
        break_function(path)


def pytest_configure(config: pytest.Config) -> None:
    if file := config.getoption("statements_to"):
        config.pluginmanager.register(Recorder(file, config), "statements-recorder")


def marks_of(item: pytest.Item) -> set[str]:
    """The statements that a test is marked with."""
    return {id_ for mark in item.iter_markers("statement") for id_ in mark.args}


class Recorder:
    """Chooses the tests, and writes down what the run is for."""

    def __init__(self, file: Path, config: pytest.Config) -> None:
        self._file = file
        self._breaking = bool(config.getoption("broken"))
        self._wanted = set(filter(None, config.getoption("prove").split(",")))
        self._marks: dict[str, set[str]] = {}
        self._found: defaultdict[str, list[str]] = defaultdict(list)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        for item in items:
            self._marks[item.nodeid] = marks_of(item)
        if not self._breaking:
            for nodeid, ids in self._marks.items():
                self._note(nodeid, ids)
            return
        chosen = [item for item in items if self._marks[item.nodeid] & self._wanted]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._note(report.nodeid, self._marks[report.nodeid] & self._wanted)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        if self._breaking and self._wanted <= self._found.keys():
            item.session.shouldstop = "every statement has a test that fails"

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(json.dumps(self._found))

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        if self._breaking:  # and threads that wait for what is broken would do so for ever
            os._exit(0)

    def _note(self, nodeid: str, ids: set[str]) -> None:
        for id_ in ids:
            if nodeid not in self._found[id_]:
                self._found[id_].append(nodeid)


def find(path: str) -> tuple[Any, str, Any]:
    """What a dotted path leads to: its owner (a module or class), its name there, and itself as it
    stands there. Raises `LookupError` when there is no such thing.
    """
    names = path.split(".")
    for length in range(len(names) - 1, 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(names[:length]))
        except ModuleNotFoundError:
            continue
        *between, last = names[length:]
        for name in between:
            owner = getattr(owner, name, None)
        found = inspect.getattr_static(owner, last, None)
        if found is not None:
            return owner, last, found
        break
    raise LookupError(f"there is no {path}")


def break_function(path: str) -> None:
    """Replace a function, a method of any kind, or a property by one that raises `Broken`."""
    owner, name, found = find(path)

    def broken(*_args: object, **_kwargs: object) -> NoReturn:
        raise Broken(path)

    kinds: tuple[tuple[type, Callable[[Any], Any]], ...] = (
        (classmethod, classmethod),
        (staticmethod, staticmethod),
        (property, property),
    )
    replacement: Any = broken
    for kind, make in kinds:
        if isinstance(found, kind):
            replacement = make(broken)
    setattr(owner, name, replacement)
