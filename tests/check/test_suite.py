"""`puffs.testing.conformance`, in a pytest of its author's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fuse

THEIRS = '''
import os
from puffs.fs.mem import MemFS
from puffs.testing import conformance


class Bad(MemFS):
    """A rename over an existing file does nothing, and xattrs are missing."""

    posix_acl = False

    def rename(self, dir, name, newdir, newname, flags, cred):
        print("asked to rename", name)
        if newname not in newdir.entries:
            super().rename(dir, name, newdir, newname, flags, cred)

    def operations(self):
        return {name: op for name, op in super().operations().items() if "xattr" not in name}


class Dies(MemFS):
    def symlink(self, dir, name, target, attr, cred):
        os._exit(3)


def broken():
    raise RuntimeError("no database")


TestBad = conformance(Bad, only=["rename-replaces-target", "rename-to-itself", "xattrs"])
TestDies = conformance(Dies, only=["symlink-holds-its-target", "chmod"], in_process=False)
TestBroken = conformance(broken, only=["chmod"], mounted=False)
'''


def run(tmp_path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "test_theirs.py").write_text(THEIRS)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *words],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def outcomes(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    found = re.findall(r"^([A-Z]+) test_theirs\.py::(\S+)", done.stdout, re.M)
    return {name: outcome for outcome, name in found}


def test_every_check_is_a_test_in_both_ways_of_use(tmp_path: Path) -> None:
    done = run(tmp_path, "-k", "TestBad")
    found = outcomes(done)
    assert found == {
        "TestBad::test_rename[in-process-rename-replaces-target]": "FAILED",
        "TestBad::test_rename[mounted-rename-replaces-target]": "FAILED",
        "TestBad::test_rename[in-process-rename-to-itself]": "PASSED",
        "TestBad::test_rename[mounted-rename-to-itself]": "PASSED",
    }
    assert "rename(2), POSIX: the target is replaced in one step" in done.stdout
    assert "content under the new name: b'from b', expected b'from a'" in done.stdout
    assert "(rename.py:" in done.stdout
    assert "asked to rename" in done.stdout
    assert "18 skipped" in done.stdout
    assert "not implemented: getxattr" in done.stdout
    assert "Traceback" not in done.stdout
    assert "warning" not in done.stdout


def test_they_are_selected_as_other_tests_are(tmp_path: Path) -> None:
    done = run(tmp_path, "-k", "TestBad and mounted and itself")
    assert outcomes(done) == {"TestBad::test_rename[mounted-rename-to-itself]": "PASSED"}
    assert done.returncode == 0


def test_a_server_that_dies_fails_one_test(tmp_path: Path) -> None:
    done = run(tmp_path, "-k", "TestDies")
    assert outcomes(done) == {
        "TestDies::test_links[mounted-symlink-holds-its-target]": "FAILED",
        "TestDies::test_attributes[mounted-chmod]": "PASSED",
    }
    assert "the file server has ended with exit status 3" in done.stdout


def test_a_server_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    done = run(tmp_path, "-k", "TestBroken")
    assert outcomes(done) == {"TestBroken::test_attributes[in-process-chmod]": "FAILED"}
    assert "cannot be checked in process: RuntimeError: no database" in done.stdout
