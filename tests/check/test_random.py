"""Random sequences: they find what is wrong, make it small, and find nothing where nothing is."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.check.runner import CannotStart
from puffs.check.sequences.play import play
from puffs.check.sequences.search import Difference, searching
from puffs.fs.mem import MemFS
from puffs.fs.null import NullFS
from tests.fuse.others import needs_passthrough, needs_root

pytestmark = pytest.mark.fuse

SECONDS = 1.5
"""How long each search of the short run takes. The long run is for `make test-full`."""
LONG_SECONDS = 60.0
SEED = 20260101


@pytest.fixture(autouse=True)
def nearby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made goes below the test's own directory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def null(path: Path) -> Callable[[], NullFS]:
    directory = path / "null"
    directory.mkdir()
    directory.chmod(0o755)
    return lambda: NullFS(str(directory))


def explained(found: Difference | None, seed: int) -> str:
    return f"seed {seed}:\n{found.script('')}\n{found.output}" if found else ""


MODES = [
    pytest.param("", False, id="plain"),
    pytest.param("threads=3", False, id="threads"),
    pytest.param("writeback", False, id="writeback"),
    pytest.param("", True, id="isolate"),
]


def search_all(make: Callable[[], Any], options: str, isolate: bool, seconds: float) -> None:
    with searching(make, options, isolate) as search:
        found, progress = search.run(seconds, SEED)
    assert found is None, explained(found, progress.seed)
    assert progress.sequences > 0


@pytest.mark.parametrize(("options", "isolate"), MODES)
def test_mem_is_as_a_real_file_system(options: str, isolate: bool) -> None:
    search_all(MemFS, options, isolate, SECONDS)


@pytest.mark.parametrize("options", ["", pytest.param("passthrough", marks=needs_passthrough)])
def test_null_is_as_a_real_file_system(tmp_path: Path, options: str) -> None:
    search_all(null(tmp_path), options, False, SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", ["mem", "null"])
@pytest.mark.parametrize(("options", "isolate"), MODES)
def test_for_longer(server: str, options: str, isolate: bool, tmp_path: Path) -> None:
    make = MemFS if server == "mem" else null(tmp_path)
    search_all(make, options, isolate, LONG_SECONDS)


@needs_passthrough
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_passthrough_for_longer(tmp_path: Path) -> None:
    search_all(null(tmp_path), "passthrough", False, LONG_SECONDS)


FOUND = {
    "an attribute without a name": ["os.mknod('a')", "runs(os.getxattr('a', 'user.'))"],
    "write to a set-id file by who could not open it": [
        "f0 = os.open('a', os.O_CREAT | os.O_RDWR, 0o4755)",
        "as_user(1000, lambda: os.pwrite(f0, b'x', 0))",
    ],
    "chown of a fifo with set-id bits": [
        "os.mknod('a', stat.S_IFIFO | 0o4755)",
        "os.chown('a', 1000, 1000)",
    ],
}
"""What random sequences have found, and what was mended then."""


@needs_root
@pytest.mark.parametrize("lines", FOUND.values(), ids=FOUND)
def test_what_was_found_once_is_mended(lines: list[str], tmp_path: Path) -> None:
    for make in (MemFS, null(tmp_path)):
        with searching(make) as search:
            found = search.compare(lines)
        assert found is None, explained(found, 0)


# ------------------------------------------------------------------------------ what is found


class KeepsTarget(MemFS):
    """A rename over an existing file does nothing."""

    def rename(self, dir: Any, name: str, newdir: Any, newname: str, flags: int, cred: Any) -> None:
        if newname not in newdir.entries:
            super().rename(dir, name, newdir, newname, flags, cred)


class ShortHoles(MemFS):
    """What is written past the end goes to the end."""

    def write(self, node: Any, offset: int, data: memoryview, file: Any) -> int:
        return super().write(node, min(offset, node.attr.size), data, file)


class LosesWrites(MemFS):
    """A write into a file of two names is lost."""

    def write(self, node: Any, offset: int, data: memoryview, file: Any) -> int:
        return len(data) if node.attr.nlink > 1 else super().write(node, offset, data, file)


class KeepsGroupBits(MemFS):
    """chmod never takes the group's permissions away."""

    def setattr(self, node: Any, changes: Any, file: Any, cred: Any) -> puffs.Attr:
        if changes.mode is not None:
            changes.mode |= 0o070
        return super().setattr(node, changes, file, cred)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "server",
    [
        ShortHoles,
        KeepsGroupBits,
        pytest.param(KeepsTarget, marks=pytest.mark.slow),
        pytest.param(LosesWrites, marks=pytest.mark.slow),
    ],
)
def test_a_planted_mistake_is_found_and_made_small(server: type[MemFS]) -> None:
    with searching(server) as search:
        found, _ = search.run(60, SEED)
    assert found is not None
    assert len(found.lines) <= 8, "\n".join(found.lines)


def test_the_script_shows_the_difference_to_a_person(tmp_path: Path, puffs_mount: Any) -> None:
    lines = ["f0 = os.open('a', os.O_CREAT | os.O_RDWR)", "os.unlink('b')", "os.rename('a', 'b')"]
    lines = [*lines, "f1 = os.open('a', os.O_CREAT | os.O_RDWR)", "os.rename('a', 'b')", "tree()"]
    with searching(KeepsTarget) as search:
        found = search.compare(lines)
    assert found is not None
    script = tmp_path / "difference.py"
    script.write_text(found.script("Not the same."))

    def run(directory: Path) -> str:
        command = [sys.executable, str(script), str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        assert done.stderr == ""
        return done.stdout

    real = tmp_path / "real"
    real.mkdir()
    assert "./a" not in run(real)
    assert "./a" in run(puffs_mount(KeepsTarget))
    text = script.read_text()
    assert "with contextlib.suppress(OSError):  # ENOENT\n    os.unlink('b')\n" in text
    assert "# on the mount: './a': -rwxr-xr-x" in text
    assert "def moved" not in text  # no more than is used


class Hangs(MemFS):
    def write(self, node: Any, offset: int, data: memoryview, file: Any) -> int:
        threading.Event().wait()
        return 0


class Dies(MemFS):
    def write(self, node: Any, offset: int, data: memoryview, file: Any) -> int:
        os._exit(3)


@pytest.mark.parametrize(
    ("server", "message"),
    [(Hangs, "no end within"), (Dies, "the file server has ended with exit status 3")],
)
def test_a_server_that_does_not_answer_is_a_difference(
    server: type[MemFS], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puffs.check.sequences.search.SECONDS", 2.0)
    lines = ["f0 = os.open('a', os.O_CREAT | os.O_RDWR)", "os.write(f0, b'x')", "os.close(f0)"]
    with searching(server) as search:
        assert search.compare(lines[:1]) is None
        found = search.compare(lines)
        assert found is not None
        assert message in found.mounted
        assert search.compare(lines[:1]) is None  # by a new one


# ------------------------------------------------------------------- what is carried out, and how


def test_nothing_is_left_of_a_sequence(tmp_path: Path) -> None:
    """Also where it took its own rights away, or was in the middle of something."""
    lines = [
        "os.mkdir('d', 0o700)",
        "f0 = os.open('d/a', os.O_CREAT | os.O_RDWR)",
        "f1 = os.dup(f0)",
        "os.close(f0)",
        "os.mkfifo('d/p')",
        "os.umask(0o777)",
        "os.chmod('d', 0)",
        "os.pread(f2, 1, 0)",
    ]
    before = os.getcwd(), len(os.listdir("/proc/self/fd"))
    said = play(lines, str(tmp_path / "here"))
    assert said[-1] == "EBADF"
    assert list(tmp_path.iterdir()) == []
    assert (os.getcwd(), len(os.listdir("/proc/self/fd"))) == before
    mask = os.umask(0o022)
    assert mask == os.umask(mask) or mask == 0o022


def test_without_what_every_sequence_needs_nothing_is_searched() -> None:
    class Flat(MemFS):
        def operations(self) -> Any:
            return {name: op for name, op in super().operations().items() if name != "mkdir"}

    with pytest.raises(CannotStart, match="what it does not have: mkdir"), searching(Flat):
        pass


def test_what_a_server_does_not_have_is_not_asked_of_it() -> None:
    class Plain(MemFS):
        """No links of any kind, no attributes beside the usual ones, no holes."""

        posix_acl = False
        LACKING: Iterable[str] = ("link", "symlink", "setxattr", "fallocate", "mknod", "tmpfile")

        def operations(self) -> Any:
            has = super().operations().items()
            return {name: op for name, op in has if name not in self.LACKING}

    search_all(Plain, "", False, SECONDS)


# ------------------------------------------------------------------------ on the command line

SERVER = """
from puffs.fs.mem import MemFS


class Bad(MemFS):
    def rename(self, dir, name, newdir, newname, flags, cred):
        pass
"""


def check(tmp_path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "servers.py").write_text(SERVER)
    return subprocess.run(
        [sys.executable, "-m", "puffs", "check", *words],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.timeout(240)
def test_the_command_prints_a_script_and_the_seed(tmp_path: Path) -> None:
    done = check(tmp_path, "./servers.py:Bad", "--random", "0.5", "--seed", "5")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("print(attempt(lambda: ")
    compile(done.stdout, "difference.py", "exec")
    assert "a difference; --seed 5 finds it again" in done.stderr
    again = check(tmp_path, "./servers.py:Bad", "--random", "0.5", "--seed", "5", "--json")
    assert again.returncode == 1
    assert json.loads(again.stdout)["script"] == done.stdout


def test_the_command_tells_how_far_it_came_without_a_difference(tmp_path: Path) -> None:
    done = check(tmp_path, "mem:", "--random", "0.02", "--seed", "5", "-o", "threads=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("random: ")
    assert done.stdout.endswith("seeds 5 to 5: no difference\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mem:", "--seed", "5"], "--seed goes with --random"),
        (["mem:", "--random", "1", "--only", "names"], "--random is for all operations at once"),
        (["mem:", "--random", "1", "--in-process"], "--random is for all operations at once"),
        (["mem:", "--random", "0"], "0.0 is not in the range x>0"),
        (["mem:", "--random", "1", "-o", "nonsense"], "unknown mount option 'nonsense'"),
    ],
)
def test_what_makes_no_sense_is_one_error(tmp_path: Path, words: list[str], message: str) -> None:
    done = check(tmp_path, *words)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
