"""`puffs demo`: what it shows, what it notices, and that nothing is left of it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from puffs.cli.demo_places import Host
from puffs.cli.demo_tree import (
    TOP,
    Tree,
    describe,
    differences,
    gather,
    largest_directory,
    part,
    rest,
)
from tests.cli.commands import PUFFS, SECONDS, mounted, processes
from tests.needs import need

DEMO_SECONDS = 60
"""What the demo promises."""

SMALL = """
import puffs.cli.demo_tree as tree
tree.ENOUGH = 1
tree.LEFT_OUT += ("test", "idlelib", "lib-dynload")
"""
"""Makes the demo a shorter one, with some hundred files."""


def demo(
    *command: str, tmp_path: Path, exit_status: int, patch: str = ""
) -> "tuple[list[str], dict[str, list[str]]]":
    """Run the demo; return its output as lines, and the cells of its tables by the first one."""
    where = tmp_path / "work"
    where.mkdir()
    start = [sys.executable, "-c", f"{patch}\nfrom puffs.cli import main; main()"]
    done = subprocess.run(
        [*command, *start, "demo"],
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        env={**os.environ, "TMPDIR": str(where), "COLUMNS": "100"},
    )
    assert (done.returncode, done.stderr) == (exit_status, ""), done
    assert list(where.iterdir()) == []
    assert processes(where) == {}
    lines = done.stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    return lines, {row[0]: row[1:] for row in rows}


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_a_small_standard_library_is_gathered_with_its_links_and_byte_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a Linux distribution ships it."""
    library, source = tmp_path / "library", tmp_path / "source"
    (library / "package/__pycache__").mkdir(parents=True)
    (library / "package/__pycache__/module.pyc").write_bytes(b"code")
    (library / "package/module.py").write_text("")
    (library / "dist-packages").mkdir()
    (library / "sitecustomize.py").symlink_to("/etc/python/sitecustomize.py")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(library))
    gather(source, lambda: None)
    found = sorted(str(path.relative_to(source)) for path in source.rglob("*"))
    assert found == [
        "links",
        "links/package",
        "package",
        "package/__pycache__",
        "package/__pycache__/module.pyc",
        "package/module.py",
        "sitecustomize.py",
    ]
    assert os.readlink(source / "sitecustomize.py") == "/etc/python/sitecustomize.py"


@pytest.mark.fuse
def test_unpacks_verifies_and_changes_a_real_tree(tmp_path: Path) -> None:
    lines, rows = demo(tmp_path=tmp_path, exit_status=0)
    assert lines[-1] == "demo: ok (mounted)"
    mountpoint = re.search(r"mem: is mounted on (\S+), served by process \d+", lines[0])
    assert mountpoint is not None
    assert mounted(Path(mountpoint[1])) == []
    files = number(rows["tar -x"][0])
    assert files > 1000
    assert rows["cp -a"][0] == rows["compare what tar made"][0] == rows["tar -x"][0]
    assert {"tar -c", "compare what cp made", "remove it", "unmount"} <= rows.keys()
    # Each file was made twice, and its contents asked for again: none came from a cache.
    assert number(rows["CREATE"][0]) > files
    assert number(rows["READ"][0]) > files
    assert number(rows["RENAME"][0]) == 1
    assert number(rows["UNLINK"][0]) + number(rows["RMDIR"][0]) >= number(rows["remove it"][0])


@pytest.mark.skipif(os.geteuid() != 0, reason="taking a capability away needs root")
def test_does_the_same_in_process_where_nothing_can_be_mounted(tmp_path: Path) -> None:
    need("setpriv", "util-linux")
    without = ["setpriv", "--bounding-set", "-sys_admin"]
    lines, rows = demo(*without, tmp_path=tmp_path, exit_status=0, patch=SMALL)
    assert "CAP_SYS_ADMIN" in lines[0]
    assert lines[-1] == "demo: ok (in process)"
    assert number(rows["unpack the tar file"][0]) == number(rows["copy the source"][0]) > 100
    assert number(rows["create"][0]) > 200
    assert number(rows["rename"][0]) == 1


FLAWS = {
    "times": (
        "setattr = MemFS.setattr\n"
        "def flawed(self, node, changes, file, cred):\n"
        "    if changes.mtime_ns: changes.mtime_ns += 1\n"
        "    return setattr(self, node, changes, file, cred)\n"
        "MemFS.setattr = flawed\n",
        r"tar: \S+: mtime_ns is \d+ instead of \d+",
    ),
    "contents": (
        "read = MemFS.read\n"
        "def flawed(self, node, offset, size, file):\n"
        "    return bytes(read(self, node, offset, size, file)).replace(b'import', b'IMPORT')\n"
        "MemFS.read = flawed\n",
        r"tar: \S+: content is [0-9a-f]{64} instead of [0-9a-f]{64}",
    ),
    "names": (
        "import errno\n"
        "def flawed(self, *args):\n"
        "    raise OSError(errno.EXDEV, 'not here')\n"
        "MemFS.rename = flawed\n",
        r".*Invalid cross-device link",
    ),
}


@pytest.mark.fuse
@pytest.mark.parametrize(("patch", "says"), FLAWS.values(), ids=FLAWS.keys())
def test_notices_a_flaw_of_the_file_system(tmp_path: Path, patch: str, says: str) -> None:
    patch = f"{SMALL}from puffs.fs.mem import MemFS\n{patch}"
    lines, _ = demo(tmp_path=tmp_path, exit_status=1, patch=patch)
    assert lines[-1] == "demo: FAILED"
    assert any(re.fullmatch(says, line) for line in lines), lines


@pytest.mark.fuse
@pytest.mark.parametrize(
    ("number", "kill", "status"),
    [
        (signal.SIGINT, os.killpg, 130),  # as a terminal does for ^C
        (signal.SIGTERM, os.kill, 143),
    ],
    ids=["^C", "TERM"],
)
def test_leaves_nothing_when_it_is_interrupted(
    tmp_path: Path, number: signal.Signals, kill: Callable[[int, int], None], status: int
) -> None:
    with subprocess.Popen(
        [*PUFFS, "demo"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        found = re.match(r"mem: is mounted on (\S+), served", process.stdout.readline())
        assert found is not None
        mountpoint = Path(found[1])
        end = time.monotonic() + SECONDS
        while not (mountpoint / "tar/test").exists():  # tar is at work
            assert time.monotonic() < end
        kill(process.pid, number)
        assert process.wait(SECONDS) == status
    assert mounted(mountpoint) == []
    assert list(tmp_path.iterdir()) == []
    assert processes(tmp_path) == {}


# What it compares by


def copied(source: Path, target: Path) -> Tree:
    shutil.copytree(source, target, symlinks=True)
    return describe(Host(target), ".", lambda: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    (top / "dir/sub").mkdir(parents=True)
    (top / "dir/sub/file").write_text("in sub")
    (top / "other").mkdir()
    (top / "file").write_text("text")
    (top / "link").symlink_to("file")
    return top


def change_link(top: Path) -> None:
    (top / "link").unlink()
    (top / "link").symlink_to("dir")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda top: (top / "file").chmod(0o600), r"file: mode is 0o100600 instead of 0o100\d+"),
        (lambda top: os.utime(top / "other", ns=(0, 1)), r"other: mtime_ns is 1 instead of \d+"),
        (lambda top: (top / "file").write_text("tent"), r"file: content is .* instead of .*"),
        (lambda top: (top / "file").write_text("texts"), r"file: size is 5 instead of 4"),
        (lambda top: (top / "file").unlink(), r"file is missing"),
        (lambda top: (top / "new").touch(), r"new should not be there"),
        (change_link, r"link: content is dir instead of file"),
    ],
)
def test_sees_what_is_different(
    tmp_path: Path, source: Path, change: Callable[[Path], object], says: str
) -> None:
    expected = copied(source, tmp_path / "copy")
    assert differences(expected, describe(Host(source), ".", lambda: None)) == []
    change(tmp_path / "copy")
    found = differences(expected, describe(Host(tmp_path / "copy"), ".", lambda: None))
    assert any(re.fullmatch(says, line) for line in found), found


def test_divides_a_tree(source: Path) -> None:
    tree = describe(Host(source), ".", lambda: None)
    assert largest_directory(tree) == "dir"
    assert part(tree, "dir") == {
        TOP: tree["dir"],
        "sub": tree["dir/sub"],
        "sub/file": tree["dir/sub/file"],
    }
    assert rest(tree, "dir").keys() == {"other", "file", "link"}
