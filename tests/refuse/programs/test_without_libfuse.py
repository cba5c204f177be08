"""Without libfuse, fusermount and a compiler, all that is here works on puffs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need
from tests.refuse.programs.served import WITHOUT_LIBFUSE, program

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(WITHOUT_LIBFUSE in os.environ, reason="these start the others so"),
]

PROGRAMS = (
    *("fusermount", "fusermount3", "mount.fuse", "mount.fuse3"),
    *("cc", "gcc", "c++", "g++", "c99", "clang", "tcc", "ld", "as"),
)
HIDE = """
set -e
for file in $(ldconfig -p | sed -n 's/.*libfuse[^ ]* .*=> //p') "$@"; do
    [ ! -e "$file" ] || mount --bind /dev/null "$file"
done
ldconfig -C "$HIDDEN/cache"
mount --bind "$HIDDEN/cache" /etc/ld.so.cache
exec $COMMAND
"""
"""Run in a mount namespace of its own: files of libfuse are no libraries there, programs are not
executable, and the cache of libraries knows nothing of them.
"""


def hidden(command: str, directory: Path, seconds: int) -> "subprocess.CompletedProcess[str]":
    need("unshare", "util-linux")
    found = {shutil.which(name) for name in PROGRAMS} - {None}
    files = [os.path.realpath(path) for path in found if path]
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", HIDE, "sh", *files],
        env={**os.environ, "HIDDEN": str(directory), "COMMAND": command, WITHOUT_LIBFUSE: "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def test_nothing_of_them_is_found(tmp_path: Path) -> None:
    code = "from ctypes.util import *; print(find_library('fuse'), find_library('fuse3'), end='')"
    (tmp_path / "find.py").write_text(
        f"{code}\nimport shutil; print(*map(shutil.which, {PROGRAMS!r}))"
    )
    done = hidden(f"{sys.executable} {tmp_path}/find.py", tmp_path, 30)
    assert set(done.stdout.replace("NoneNone", "None None").split()) == {"None"}, done
    stock = hidden(f"{program('ratarmount')} {tmp_path} {tmp_path}", tmp_path, 30)
    assert stock.returncode != 0


def all_pass(tests: Path, marked: str, directory: Path, seconds: int) -> None:
    """Run tests of this directory where nothing of them is found."""
    root = Path(__file__).parents[3]
    arguments = [str(tests), "-q", "-p", "no:cacheprovider", "-m", marked]
    # Those compare with the libraries, which need libfuse.
    arguments += [f"--rootdir={root}", "-c", f"{root}/pyproject.toml", "--ignore-glob=*twins*"]
    (directory / "run.py").write_text(f"import pytest, sys; sys.exit(pytest.main({arguments!r}))")
    done = hidden(f"{sys.executable} {directory}/run.py", directory, seconds)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.timeout(200)
def test_the_programs_run_all_the_same(tmp_path: Path) -> None:
    program("ratarmount")  # where there are no programs, that is what is said
    all_pass(Path(__file__).parent, "not slow", tmp_path, 180)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_that_refuse_does_works_all_the_same(tmp_path: Path) -> None:
    all_pass(Path(__file__).parents[1], "slow or not slow", tmp_path, 880)
