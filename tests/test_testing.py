"""The fixture `puffs_mount`, as other people's tests meet it: in a pytest of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from puffs.attach.fuse.mountinfo import read_mounts

pytestmark = pytest.mark.fuse

SECONDS = 60

FILE_SERVERS = '''
import errno, os, signal, stat, threading
import pytest
import puffs


class Small(puffs.FileSystem):
    """One file, whose server dies when it is read by another name."""

    text = b"hello"

    def mount(self):
        return "/"

    def lookup(self, dir, name, cred):
        if name not in ("file", "die"):
            raise FileNotFoundError
        return name

    def getattr(self, node, file=None):
        if node == "/":
            return puffs.Attr(stat.S_IFDIR | 0o755)
        return puffs.Attr(stat.S_IFREG | 0o644, size=len(self.text))

    def read(self, node, offset, size, file):
        if node == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.text[offset : offset + size]


class Stubborn(Small):
    def unmount(self, force):
        raise OSError(errno.EBUSY, "never")
'''


def pytest_run(directory: Path, tests: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run tests in a directory as people do who have puffs installed."""
    (directory / "test_theirs.py").write_text(FILE_SERVERS + tests)
    temp = directory / "tmp"
    temp.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "test_theirs.py"],
        cwd=directory,
        env={**os.environ, "TMPDIR": str(temp), **environ},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    left = [mount for mount in read_mounts() if mount.mountpoint.startswith(str(directory))]
    assert left == []
    assert servers(directory) == []
    return done


def servers(directory: Path) -> list[int]:
    """Processes that still run in the directory, as the servers would."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and os.readlink(process / "cwd") == str(directory):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def outcomes(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    """Outcome by test, of pytest's own summary."""
    return {
        name: outcome
        for outcome, name in re.findall(r"^([A-Z]+) test_theirs\.py::(\w+)", done.stdout, re.M)
    }


def test_a_mount_for_one_test(tmp_path: Path) -> None:
    done = pytest_run(
        tmp_path,
        """
seen = []

def test_use(puffs_mount):
    path = puffs_mount(Small)
    assert (path / "file").read_bytes() == b"hello"
    assert puffs_mount.pid(path) != os.getpid()
    assert os.path.ismount(path)
    seen.append(path)

def test_it_has_gone():
    assert not os.path.ismount(seen[0])

def test_several_with_options_and_places(puffs_mount, tmp_path):
    first = puffs_mount(Small)
    second = puffs_mount(lambda: Small(), options="noexec", mountpoint=tmp_path)
    assert second == tmp_path
    assert os.statvfs(second).f_flag & os.ST_NOEXEC
    assert not os.statvfs(first).f_flag & os.ST_NOEXEC

def test_unmounting_by_hand(puffs_mount):
    path = puffs_mount(Small)
    puffs_mount.unmount(path)
    assert not os.path.ismount(path)
    assert puffs_mount(Small, mountpoint=path) == path

def test_a_refusal_is_told_and_then_overruled(puffs_mount):
    path = puffs_mount(Stubborn)
    with pytest.raises(OSError, match="refuses"):
        puffs_mount.unmount(path)
    assert (path / "file").exists()
""",
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "5 passed" in done.stdout


def test_cleans_up_after_all_that_can_go_wrong(tmp_path: Path) -> None:
    done = pytest_run(
        tmp_path,
        """
def test_fails(puffs_mount):
    path = puffs_mount(Small)
    assert (path / "file").read_bytes() == b"something else"

def test_leaves_files_open(puffs_mount):
    os.open(puffs_mount(Small) / "file", os.O_RDONLY)

def quietly(path):
    with pytest.raises(OSError):
        path.read_bytes()

def test_leaves_a_reader_hanging(puffs_mount):
    hangs, hang = os.pipe()

    class Hanging(Small):
        def read(self, *args):
            os.write(hang, b"!")
            threading.Event().wait()

    path = puffs_mount(Hanging)
    threading.Thread(target=quietly, args=(path / "file",), daemon=True).start()
    assert os.read(hangs, 1) == b"!"

def test_the_server_dies(puffs_mount):
    path = puffs_mount(Small)
    with pytest.raises(OSError) as caught:
        (path / "die").read_bytes()
    assert caught.value.errno in (errno.ECONNABORTED, errno.ENOTCONN)

def test_the_server_is_stopped(puffs_mount):
    os.kill(puffs_mount.pid(puffs_mount(Small)), signal.SIGSTOP)

def test_the_file_server_cannot_be_made(puffs_mount):
    with pytest.raises(puffs.MountError, match="no_such_thing"):
        puffs_mount(lambda: Small().no_such_thing)
""",
    )
    assert outcomes(done).pop("test_fails") == "FAILED"
    assert [name for name, outcome in outcomes(done).items() if outcome != "PASSED"] == [
        "test_fails"
    ], done.stdout


def test_skips_where_nothing_can_be_mounted(tmp_path: Path) -> None:
    nobody_can = '''
import puffs.attach.fuse.doctor, puffs.attach.trial

@pytest.fixture
def nowhere(monkeypatch):
    """A machine on which no door is open."""
    def refuse(*args, **kwargs):
        raise puffs.MountError(errno.EPERM, "no door is open")
    monkeypatch.setattr(puffs.attach.trial, "mount", refuse)
    class Nothing:
        open = False
    monkeypatch.setattr(puffs.attach.fuse.doctor, "examine", Nothing)

def test_use(nowhere, puffs_mount):
    puffs_mount(Small)
'''
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    done = pytest_run(first, nobody_can, PUFFS_REQUIRE_FUSE="0")
    assert "1 skipped" in done.stdout
    assert "no door is open" in done.stdout
    done = pytest_run(second, nobody_can, PUFFS_REQUIRE_FUSE="1")
    assert "1 failed" in done.stdout


def test_costs_others_next_to_nothing(tmp_path: Path) -> None:
    """Those who have puffs installed and do not use the fixture do not wait for it."""
    (tmp_path / "test_theirs.py").write_text(
        "import sys\n"
        "def test_nothing_was_imported():\n"
        "    loaded = [name for name in sys.modules if name.partition('.')[0] == 'puffs']\n"
        "    assert sorted(loaded) == ['puffs', 'puffs.testing']\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout
