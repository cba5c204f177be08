"""What a file server does wrong costs one caller an error, it is told of it, and the mount goes on:
mounted, in a process of its own, and in this process (statements 2.7, 6.5).

At each place one mount takes all cases, one after the other.
"""

import logging
import os
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.check.target import LocalTarget, MountedTarget, Target
from tests.fuse.adversaries import (
    CASES,
    HERE,
    MOUNTED,
    Adversary,
    Case,
    Spoilt,
    poll,
)
from tests.fuse.calls import fails
from tests.fuse.conftest import Notes, Serve, Served, give_back

PLACES = ("direct", "isolated", "in process", "in process, isolated")
assert set(PLACES) == MOUNTED | HERE


class Place:
    """An adversary, used by `target`."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._case = directory / "case"
        self._case.touch()
        self._directory = directory
        self._served = Served(directory / "mnt", directory)
        self._stack = ExitStack()
        isolate = "isolated" in name
        make = partial(Adversary, Notes(directory / "notes"), self._case)
        self.target: Target
        if name in MOUNTED:
            self._served.path.mkdir()
            self._stack.callback(give_back, self._served.path)
            self._stack.callback(self._served.clean_up)
            self._served.start(lambda _: make(), isolate=isolate)
            self.target = MountedTarget(str(self._served.path), "", frozenset())
        else:
            handler = logging.FileHandler(directory / "log")
            logging.getLogger("puffs").addHandler(handler)
            self._stack.callback(handler.close)
            self._stack.callback(logging.getLogger("puffs").removeHandler, handler)
            vfs = self._stack.enter_context(puffs.local(make, isolate=isolate))
            self.target = LocalTarget(vfs, "", frozenset())

    def begin(self, case: Case) -> None:
        """Be that bad from now on."""
        self._served.forget_notes()
        if (log := self._directory / "log").exists():
            os.truncate(log, 0)
        self._case.write_text(str(CASES.index(case)))

    def be_honest(self) -> None:
        self._case.write_text("")

    @property
    def log(self) -> list[str]:
        return self._served.log

    def faults(self) -> list[tuple[Any, ...]]:
        """What it was told of: kind, hint, text and perhaps node."""
        return [note[1:] for note in self._served.notes("error")]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Place]]:
    made: dict[str, Place] = {}

    def place(name: str) -> Place:
        if name not in made:
            made[name] = Place(name, tmp_path_factory.mktemp("adversary").resolve())
        return made[name]

    yield place
    for each in made.values():
        each.close()


def at(place: str, *values: object, name: str = "") -> Any:
    """A set of parameters for a test at one place."""
    marks = [pytest.mark.fuse] if place in MOUNTED else []
    return pytest.param(place, *values, marks=marks, id=f"{place} {name}".strip())


@pytest.mark.statement("2.7", "2.7a")
@pytest.mark.parametrize(
    ("place", "case"),
    [at(place, case, name=str(case)) for place in PLACES for case in CASES if place in case.places],
)
def test_a_bad_reply_is_an_error_for_one_caller_and_told(
    places: Callable[[str], Place], place: str, case: Case
) -> None:
    here = places(place)
    here.target.stat("/file")
    with here.target.open("/file"):  # so that its cookie stays in use
        here.begin(case)
        try:
            with fails(case.errno):
                case.use(here.target)
        finally:
            here.be_honest()
    assert here.target.stat("/dir").st_ino  # it has served by now what it was told
    assert {"file", "dir", "link"} <= set(here.target.listdir("/"))
    faults = here.faults()
    if not case.kind:
        assert (faults, here.log) == ([], [])
        return
    assert {fault[:2] for fault in faults} == {(case.kind, case.hint)}
    for _, _, text, *node in faults:
        assert text
        assert node == ([] if case.node is None else [case.node])
    assert len(here.log) == len(faults)  # and not one traceback


@pytest.mark.fuse
@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("reply", ["text", -1, 1 << 32])
def test_events_that_are_none_are_an_error_of_poll(serve: Serve, reply: object) -> None:
    served = serve(lambda notes: Spoilt(notes, "poll", lambda *args: reply))
    assert poll(MountedTarget(str(served.path), "", frozenset())) == select.POLLERR
    assert (served.path / "dir").is_dir()
    (fault,) = served.notes("error")
    assert fault[1] == "ERROR"
