"""What a file server does wrong costs one caller an error, it is told of it, and the mount goes on:
mounted, in a process of its own, and in this process (statements 2.7, 6.5).
"""

import logging
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

import puffs
from puffs.check.target import LocalTarget, MountedTarget, Target
from tests.fuse.adversaries import CASES, HERE, MOUNTED, Case, Spoilt, poll
from tests.fuse.calls import fails
from tests.fuse.conftest import Notes, Serve, Served


class Place(Protocol):
    """Where a spoilt file server is used: by `target`."""

    @property
    def target(self) -> Target: ...
    @property
    def log(self) -> list[str]: ...
    def notes(self, *names: str) -> list[tuple[Any, ...]]: ...


class Mounted:
    """A mount of it."""

    def __init__(self, served: Served) -> None:
        self.target = MountedTarget(str(served.path), "", frozenset())
        self._served = served

    @property
    def log(self) -> list[str]:
        return self._served.log

    def notes(self, *names: str) -> list[tuple[Any, ...]]:
        return self._served.notes(*names)


class Here:
    """It is used in this process."""

    def __init__(self, vfs: puffs.LocalFileSystem, tmp_path: Path, log: Path) -> None:
        self.target = LocalTarget(vfs, "", frozenset())
        self._served = Served(tmp_path, tmp_path)
        self._log = log

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines()

    def notes(self, *names: str) -> list[tuple[Any, ...]]:
        return self._served.notes(*names)


Spoil = Callable[[str, Callable[..., Any]], Place]


@pytest.fixture
def spoilt(request: pytest.FixtureRequest, tmp_path: Path, place: str) -> Iterator[Spoil]:
    """Have one operation spoilt, at `place`."""
    vfs: list[puffs.LocalFileSystem] = []
    handler = logging.FileHandler(tmp_path / "log here")
    logger = logging.getLogger("puffs")

    def start(operation: str, spoil: Callable[..., Any]) -> Place:
        if place in ("direct", "isolated"):
            serve: Serve = request.getfixturevalue("serve")
            isolate = place == "isolated"
            make = lambda notes: Spoilt(notes, operation, spoil)  # noqa: E731
            return Mounted(serve(make, isolate=isolate))
        logger.addHandler(handler)
        vfs.append(puffs.local(Spoilt(Notes(tmp_path / "notes"), operation, spoil)))
        return Here(vfs[0], tmp_path, tmp_path / "log here")

    yield start
    for each in vfs:
        each.close()
    logger.removeHandler(handler)
    handler.close()


def at(place: str, *values: object, name: str = "") -> Any:
    """A set of parameters for a test at one place."""
    marks = [pytest.mark.fuse] if place in MOUNTED else []
    return pytest.param(place, *values, marks=marks, id=f"{place} {name}".strip())


PLACES = ("direct", "isolated", "in process")
assert set(PLACES) <= MOUNTED | HERE


@pytest.mark.parametrize(
    ("place", "case"),
    [at(place, case, name=str(case)) for case in CASES for place in PLACES if place in case.places],
)
def test_a_bad_reply_is_an_error_for_one_caller_and_told(spoilt: Spoil, case: Case) -> None:
    here = spoilt(case.operation, case.spoil())
    if case.operation not in ("getattr", "lookup"):
        file = here.target.open("/file")  # so that its cookie stays in use
    else:
        file = None
    try:
        with fails(case.errno):
            case.use(here.target)
    finally:
        if file is not None:
            file.close()
    assert here.target.stat("/").st_ino  # it goes on, and has served by now what it was told
    faults = here.notes("error")
    if not case.kind:
        assert (faults, here.log) == ([], [])
    else:
        assert {fault[1:3] for fault in faults} == {(case.kind, case.hint)}
        for _, _, _, text, *node in faults:
            assert text
            assert node == ([] if case.node is None else [case.node])
        assert len(here.log) == len(faults)  # and not one traceback


@pytest.mark.parametrize("place", [at(place) for place in sorted(MOUNTED)])
@pytest.mark.parametrize("reply", ["text", -1, 1 << 32])
def test_events_that_are_none_are_an_error_of_poll(spoilt: Spoil, reply: object) -> None:
    here = spoilt("poll", lambda *args: reply)
    assert poll(here.target) == select.POLLERR
    assert here.target.stat("/").st_ino
    (fault,) = here.notes("error")
    assert fault[1] == "ERROR"
