"""fio, which reads back and verifies what it has written, and the stressors of stress-ng."""

import os
import tempfile
from pathlib import Path
from typing import Final

import pytest

from tests.needs import need
from tests.programs.places import PROGRAM, also, run

pytestmark = PROGRAM

FIO: Final = """
[global]
ioengine={engine}
directory={directory}
size=4m
bsrange=512-64k
blockalign=512
numjobs=3
verify=crc32c
verify_fatal=1
verify_backlog=64
end_fsync=1
group_reporting=1
[sequential]
rw=write
[random]
rw=randwrite
[mixed]
rw=randrw
"""
"""A job file of fio(1)."""

ENGINES: Final = {
    "psync": "",
    "psync-direct": "direct=1\n",
    "mmap": "",
    "libaio-direct": "direct=1\niodepth=8\n",
}

STRESSORS: Final = (
    "access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup fallocate"
    " fcntl fiemap file-ioctl filename flock fpunch fsize fstat getdent handle hdd inode-flags"
    " inotify io iomix lease link locka lockf lockofd mknod open rename symlink sync-file touch"
    " utime verity xattr"
)
"""Those of the class "filesystem", but for those that are busy elsewhere than in the directory that
they are given: bind-mount and fanotify (all mounts of the machine), binderfs, procfs, eventfd and
ioprio. fiemap and verity find nothing to do, as on tmpfs.
"""


@pytest.mark.parametrize("engine", ENGINES)
@also("mem-writeback", "null-threads")
def test_fio(place: Path, engine: str) -> None:
    need("fio")
    jobs = FIO.format(engine=engine.partition("-")[0], directory=place)
    (place / "jobs").write_text(jobs.replace("[sequential]", f"{ENGINES[engine]}[sequential]"))
    run("fio", place / "jobs", cwd=place)


def failing(directory: Path, stressors: list[str]) -> dict[str, str]:
    """Run stressors of stress-ng(1) for a second each; what those print that fail."""
    found = {}
    for name in stressors:
        command = ("stress-ng", f"--{name}", "2", "--timeout", "1", "--temp-path", directory)
        try:
            run(*command, "--verify", cwd=directory)
        except pytest.fail.Exception as failed:
            found[name] = str(failed)
    return found


def test_stressors(place: Path) -> None:
    need("stress-ng")
    found = failing(place, STRESSORS.split())
    with tempfile.TemporaryDirectory(dir="/dev/shm") as tmpfs:
        there_too = failing(Path(tmpfs), list(found))
    assert found.keys() - there_too.keys() == set(), found
    assert list(place.iterdir()) == []
    (place / "file").write_text("it is still good\n")
    assert (place / "file").read_text() == "it is still good\n"


@pytest.mark.parametrize("place", ["mem"], indirect=True)
def test_space_is_given_back(place: Path) -> None:
    need("stress-ng")
    before = os.statvfs(place).f_bfree
    assert failing(place, ["hdd", "fallocate", "dirmany", "mmap", "xattr"]) == {}
    for _ in range(1000):  # the kernel may let a request overtake some FORGETs, but not for ever
        if os.statvfs(place).f_bfree == before:
            break
    assert os.statvfs(place).f_bfree == before
