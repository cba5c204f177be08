"""`puffs check`, as an author runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from puffs.check.registry import select
from puffs.check.result import Mode
from puffs.check.runner import applicable

SERVERS = """
import errno
import os

from puffs.fs.mem import MemFS


class Good(MemFS):
    pass


class Bad(MemFS):
    def rename(self, dir, name, newdir, newname, flags, cred):
        if newname not in newdir.entries:
            super().rename(dir, name, newdir, newname, flags, cred)


class NoXattrs(MemFS):
    posix_acl = False

    def operations(self):
        return {name: op for name, op in super().operations().items() if "xattr" not in name}


class InProcessOnly(MemFS):
    def mount(self):
        if os.getpid() != os.getpgrp():  # what serves a mount is a process below the worker
            raise PermissionError(errno.EACCES, "not here")
        return super().mount()


class NoStart(MemFS):
    def __init__(self):
        raise RuntimeError("no database")
"""


def check(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "servers.py").write_text(SERVERS)
    return subprocess.run(
        [sys.executable, "-m", "puffs", "check", *words],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.fuse
def test_a_server_that_is_right_gets_status_0_and_a_score(tmp_path: Path) -> None:
    done = check(tmp_path, "./servers.py:Good", "--only", "rename", "--only", "locks")
    assert done.stderr == ""
    assert done.returncode == 0
    checks = select(["rename", "locks"])
    count = sum(len(applicable(checks, mode)) for mode in Mode)
    assert (
        done.stdout.splitlines()[-1] == f"check: {count} passed, 0 failed, 0 left out; score: 100 %"
    )
    table = done.stdout.splitlines()
    assert [line.split()[0] for line in table[3:5]] == ["rename", "locks"]


def test_a_failure_is_shown_beside_its_rule(tmp_path: Path) -> None:
    done = check(tmp_path, "./servers.py:Bad", "--only", "rename-replaces-target", "--in-process")
    assert done.returncode == 1
    rule = "rename(2), POSIX: the target is replaced in one step"
    assert f"rename-replaces-target  {rule}" in done.stdout
    assert "content under the new name: b'from b', expected b'from a'" in done.stdout
    assert done.stdout.splitlines()[-1] == "check: 0 passed, 1 failed, 0 left out; score: 0 %"


def test_what_is_left_out_is_listed_with_the_missing_operation(tmp_path: Path) -> None:
    done = check(tmp_path, "./servers.py:NoXattrs", "--only", "xattrs", "--in-process")
    assert done.returncode == 0
    assert "not implemented: getxattr" in done.stdout
    assert "xattr-set-and-get" in done.stdout
    assert done.stdout.splitlines()[-1] == "check: 0 passed, 0 failed, 8 left out; score: 0 %"


def test_json_has_every_result(tmp_path: Path) -> None:
    done = check(tmp_path, "./servers.py:Bad", "--only", "rename", "--in-process", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    results = {result["name"]: result for result in document["checks"]}
    assert len(results) == document["passed"] + document["failed"]
    bad = results["rename-replaces-target"]
    assert bad["outcome"] == "failed"
    assert bad["mode"] == "in process"
    assert bad["where"].startswith("rename.py:")
    assert results["rename-of-a-missing-name"]["outcome"] == "passed"


def test_without_a_mount_the_rest_is_checked_and_the_reason_told(tmp_path: Path) -> None:
    words = "./servers.py:InProcessOnly", "--only", "mkdir-mode", "--only", "flock-shares"
    done = check(tmp_path, *words)
    assert done.returncode == 0
    assert "it cannot be mounted: not here" in done.stdout
    assert done.stdout.splitlines()[-1] == "check: 1 passed, 0 failed, 2 left out; score: 100 %"


def test_without_a_mount_that_was_asked_for_it_fails(tmp_path: Path) -> None:
    done = check(tmp_path, "./servers.py:InProcessOnly", "--only", "mkdir-mode", "--mounted")
    assert done.returncode == 1
    assert done.stderr.startswith("puffs: the file server cannot be checked mounted: not here")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["./servers.py:NoStart"], "puffs: the file server cannot be checked in process: Runtime"),
        (["./servers.py:Good", "--only", "nothing"], "puffs: there is no check and no group noth"),
        (["./servers.py:Good", "--only", "locks", "--in-process"], "puffs: there is nothing to"),
        (["./servers.py:Nobody"], "puffs: "),
    ],
)
def test_what_cannot_be_done_is_one_error(tmp_path: Path, words: list[str], message: str) -> None:
    done = check(tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stdout == ""
