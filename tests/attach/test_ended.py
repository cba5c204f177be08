"""Records of ended mounts: found by who may, trusted as far as they can be, and never many."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from puffs.attach import ended, rendezvous

WHY = "the file server (process 7) was killed by SIGKILL (Killed)"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where control sockets and records are."""
    path = tmp_path / "puffs"
    monkeypatch.setattr(rendezvous, "own_directory", lambda: str(path))
    monkeypatch.setattr(rendezvous, "all_directories", lambda: [str(path)])
    return path


def records(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def test_what_was_left_is_found_by_the_mount_point_alone(directory: Path) -> None:
    mountpoint = os.fsdecode(b"/mnt/\xff\n'odd'")
    assert ended.find(mountpoint) is None
    ended.leave(mountpoint, "mem", WHY)
    found = ended.find(mountpoint)
    assert found is not None
    assert (found["mountpoint"], found["name"], found["why"]) == (mountpoint, "mem", WHY)
    assert ended.find("/mnt/other") is None
    (path,) = records(directory)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_newest_counts_and_a_new_mount_ends_it(directory: Path) -> None:
    for why in ("first", "second"):
        ended.leave("/mnt/x", "mem", why)
    found = ended.find("/mnt/x")
    assert found is not None
    assert found["why"] == "second"
    with rendezvous.opened(str(directory)) as fd:
        ended.forget(fd, "/mnt/y")
        assert ended.find("/mnt/x") == found
        ended.forget(fd, "/mnt/x")
        ended.forget(fd, "/mnt/x")
    assert ended.find("/mnt/x") is None
    assert records(directory) == []


def test_there_are_never_many_and_none_is_old(directory: Path) -> None:
    for number in range(ended.MOST + 10):
        ended.leave(f"/mnt/{number}", "mem", WHY)
        for path in records(directory):  # each a second older than the next
            about = path.stat()
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns - 10**9))
    assert len(records(directory)) == ended.MOST
    assert ended.find("/mnt/9") is None
    assert ended.find("/mnt/10") is not None
    for path in records(directory):
        os.utime(path, (0, 0))
    assert ended.find("/mnt/10") is None
    ended.leave("/mnt/new", "mem", WHY)
    assert len(records(directory)) == 1


def _forged(path: Path) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "mountpoint": "/mnt/other"}))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


SPOILS: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda path: path.write_bytes(b"\xff{"),
    "no object": lambda path: path.write_text("[]"),
    "not all": lambda path: path.write_text('{"mountpoint": "/mnt/x"}'),
    "deep": lambda path: path.write_text("[" * 60_000),
    "another mount point": _forged,
    "a FIFO": _fifo,
    "a link": _link,
    "of the future": lambda path: os.utime(path, (1 << 33, 1 << 33)),
    "everybody's": lambda path: path.parent.chmod(0o777),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_what_is_no_record_is_none(directory: Path, spoil: Callable[[Path], object]) -> None:
    ended.leave("/mnt/x", "mem", WHY)
    (path,) = records(directory)
    spoil(path)
    assert ended.find("/mnt/x") is None


def test_what_is_told_is_text(directory: Path) -> None:
    ended.leave("/mnt/x", "mem", WHY)
    (path,) = records(directory)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "why": {"a": [1]}, "state": "running"}))
    found = ended.find("/mnt/x")
    assert found is not None
    assert "state" not in found
    assert all(isinstance(value, str) for value in found.values())
