"""The battery as a class of pytest tests: see `puffs.testing.conformance`."""

import math
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, ClassVar, NoReturn

import pytest

from puffs.check.registry import Check, select
from puffs.check.result import Mode, Outcome, Result
from puffs.check.runner import CannotStart, Limits, applicable, checking
from puffs.check.worker import Factory

RunCheck = Callable[[Check], Result]


def suite(
    make: Factory,
    *,
    only: Iterable[str],
    mounted: bool,
    in_process: bool,
    options: str,
    isolate: bool,
    seconds: float,
) -> type:
    """A class with a method for each group, parametrised by mode and check."""
    limits = Limits(seconds, math.ceil(seconds / 2))
    checks = select(only)
    modes = [*([Mode.IN_PROCESS] if in_process else []), *([Mode.MOUNTED] if mounted else [])]

    class Conformance(_Suite):
        """What `puffs check` looks for."""

        running = _Running(partial(checking, make, limits=limits, options=options, isolate=isolate))

    for group in dict.fromkeys(check.group for check in checks):
        cases = [
            pytest.param(mode, check, id=f"{mode.replace(' ', '-')}-{check.name}")
            for mode in modes
            for check in applicable(checks, mode)
            if check.group == group
        ]
        if cases:
            setattr(Conformance, f"test_{group}", _method(group, cases))
    return Conformance


class _Running:
    """A file server for each mode, from its first check on. `checking` starts one."""

    def __init__(self, checking: Callable[[Mode], AbstractContextManager[RunCheck]]) -> None:
        self._checking = checking
        self._stack = ExitStack()
        self._found: dict[Mode, RunCheck | CannotStart] = {}

    def __call__(self, mode: Mode) -> RunCheck:
        """What runs a check in that mode. Fails or skips the test when it cannot be had."""
        if mode not in self._found:
            try:
                self._found[mode] = self._stack.enter_context(self._checking(mode))
            except CannotStart as exc:
                self._found[mode] = exc
        found = self._found[mode]
        if isinstance(found, CannotStart):
            _not_started(mode, found)
        return found

    def end(self) -> None:
        """End them all."""
        self._found.clear()
        self._stack.close()


class _Suite:
    running: ClassVar[_Running]

    @classmethod
    def teardown_class(cls) -> None:
        """End the file servers. [pytest calls it after the last test of the class]"""
        cls.running.end()


def _method(group: str, cases: list[Any]) -> Callable[..., None]:
    def test(self: _Suite, mode: Mode, check: Check) -> None:
        judge(self.running(mode)(check))

    test.__name__ = f"test_{group}"
    test.__doc__ = f"The checks of the group {group}."
    marked: Callable[..., None] = pytest.mark.parametrize(("mode", "check"), cases)(test)
    return marked


def judge(result: Result) -> None:
    """Pass, skip or fail."""
    verdict = result.verdict
    if verdict.outcome is Outcome.LEFT_OUT:
        pytest.skip(verdict.message)
    if verdict.outcome is not Outcome.PASSED:
        where = f" ({verdict.where})" if verdict.where else ""
        text = f"{result.check.rule}\n{result.mode}: {verdict.message}{where}"
        if result.output:
            text += f"\nThe file server wrote:\n{result.output}"
        pytest.fail(text, pytrace=False)


def _not_started(mode: Mode, exc: CannotStart) -> NoReturn:
    """Skip or fail: what cannot be mounted anywhere here is not the file server's fault."""
    from puffs.attach.fuse.doctor import examine

    if mode is Mode.MOUNTED and not examine().open and os.environ.get("PUFFS_REQUIRE_FUSE") != "1":
        pytest.skip(str(exc))
    text = f"the file server cannot be checked {mode}: {exc}"
    pytest.fail(f"{text}\n{exc.output}" if exc.output else text, pytrace=False)
