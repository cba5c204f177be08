"""The battery itself: right about file systems that are right, and honest about what it needs."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from puffs.attach.fuse.mountinfo import covering, read_mounts
from puffs.check.registry import Check, all_checks, select
from puffs.check.result import Mode, Outcome, Result
from puffs.check.runner import run
from puffs.fs.mem import MemFS
from puffs.server.cred import Cred
from puffs.server.operations import REQUIRED

MODES = [Mode.IN_PROCESS, pytest.param(Mode.MOUNTED, marks=pytest.mark.fuse)]

REAL = ("ext4", "xfs", "btrfs", "tmpfs")
"""What the battery must pass on, whatever its author thinks that POSIX says."""


def not_passed(results: list[Result]) -> list[str]:
    return [
        f"{result.check.name}: {result.verdict.outcome}: {result.verdict.message} {result.output}"
        for result in results
        if result.verdict.outcome is not Outcome.PASSED
    ]


@pytest.mark.parametrize("parent", [tempfile.gettempdir(), "/dev/shm"])
def test_every_check_passes_on_a_file_system_of_the_host(parent: str) -> None:
    mount = covering(str(Path(parent).resolve()), read_mounts())
    if mount is None or mount.fstype not in REAL:
        pytest.skip(f"{parent} is on {mount and mount.fstype}, not on one of {', '.join(REAL)}")
    with tempfile.TemporaryDirectory(dir=parent) as path:
        command = [sys.executable, str(Path(__file__).with_name("directory.py")), path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    *failures, last = done.stdout.splitlines()
    assert failures == []
    assert int(last.removeprefix("passed: ")) > 100


@pytest.mark.parametrize("mode", MODES)
def test_mem_passes_every_check(mode: Mode) -> None:
    results = list(run(MemFS, mode, all_checks()))
    assert not_passed(results) == []
    assert len(results) > 100


class Reduced(MemFS):
    """`mem` with the operations of one check, and `mkdir` for the directory that it works in."""

    def __init__(self, needs: frozenset[str]) -> None:
        super().__init__()
        self._needs = needs | {"mkdir", *REQUIRED}

    def operations(self) -> Mapping[str, Any]:
        return {name: op for name, op in super().operations().items() if name in self._needs}


class ReducedWithoutAcls(Reduced):
    """The same without extended attributes, and so without ACLs."""

    posix_acl: bool = False


def reduced(check: Check) -> Reduced:
    has_xattrs = {"getxattr", "setxattr"} <= check.needs
    return (Reduced if has_xattrs else ReducedWithoutAcls)(check.needs)


@pytest.mark.timeout(240)  # mounts once for each check
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("group", sorted({check.group for check in all_checks()}))
def test_a_check_needs_no_more_than_it_says(group: str, mode: Mode) -> None:
    for check in select([group]):
        results = list(run(partial(reduced, check), mode, [check]))
        assert not_passed(results) == []


class Unnumbered(MemFS):
    """`mem` without inode numbers of its own, as the simplest file servers are."""

    def operations(self) -> Mapping[str, Any]:
        return {name: op for name, op in super().operations().items() if name != "fileid"}

    def _count_in(self, parent: Any, node: Any, cred: Cred) -> None:
        super()._count_in(parent, node, cred)
        node.attr.ino = 0

    def __init__(self) -> None:
        super().__init__()
        self._root.attr.ino = 0


@pytest.mark.parametrize("mode", MODES)
def test_inode_numbers_are_not_asked_of_who_has_none(mode: Mode) -> None:
    results = list(run(Unnumbered, mode, all_checks()))
    assert [line for line in not_passed(results) if "does not number" not in line] == []


def test_every_check_says_where_its_rule_comes_from() -> None:
    def complete(check: Check) -> bool:
        source, colon, text = check.rule.partition(": ")
        return bool(colon and text) and ("(" in source or "POSIX" in source)

    assert [check.name for check in all_checks() if not complete(check)] == []


def test_checks_are_selected_by_name_and_by_group() -> None:
    chosen = select(["rename-replaces-target", "xattrs"])
    assert {check.group for check in chosen} == {"rename", "xattrs"}
    assert [check.name for check in chosen if check.group == "rename"] == ["rename-replaces-target"]


def test_a_selection_of_nothing_that_exists_is_an_error() -> None:
    with pytest.raises(ValueError, match="no check and no group nothing; the groups are names"):
        select(["nothing"])
