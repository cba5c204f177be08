"""What people do with files every day."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import puffs
from tests.fs.host import overlaid
from tests.fs.trees import facts
from tests.needs import cannot, need
from tests.programs.places import PROGRAM, also, run

pytestmark = PROGRAM


def test_an_editor_saves(place: Path) -> None:
    """Whoever reads meanwhile sees the old text or the new one, and never something else."""
    file, done = place / "file", threading.Event()
    texts = [bytes([65 + number]) * (number * 3000 + 1) for number in range(20)]
    file.write_bytes(texts[0])
    seen: set[bytes] = set()

    def look() -> None:
        while not done.is_set():
            seen.add(file.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for text in texts:
            with (place / ".file.swp").open("wb") as new:
                new.write(text)
                new.flush()
                os.fsync(new.fileno())
            os.rename(place / ".file.swp", file)
    finally:
        done.set()
        reader.join()
    assert seen <= set(texts)
    run("sed", "-i", "s/T/new /g", file)
    assert file.read_bytes() == texts[-1].replace(b"T", b"new ")
    assert list(place.iterdir()) == [file]


def test_a_running_program_is_not_written_to_but_replaced(place: Path) -> None:
    program = place / "cat"
    run("cp", shutil.which("cat") or "cat", program)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None
        with pytest.raises(OSError, match="Text file busy") as refused:
            program.open("r+b")
        assert refused.value.errno == errno.ETXTBSY
        run("cp", "--remove-destination", shutil.which("true") or "true", program)
        assert running.communicate(b"it goes on")[0] == b"it goes on"
    assert running.returncode == 0
    run(program)


@also("null-threads")
def test_flock(place: Path) -> None:
    need("flock", "util-linux")
    lock, counter = place / "lock", place / "counter"
    counter.write_text("0")
    count = 'n=$(cat "$0"); echo $((n + 1)) > "$0"'
    loop = 'for i in $(seq 25); do flock "$0" sh -c "$2" "$1"; done'
    crowd = [subprocess.Popen(["sh", "-c", loop, lock, counter, count]) for _ in range(4)]
    assert [process.wait(60) for process in crowd] == [0] * 4
    assert counter.read_text() == "100\n"
    run("flock", lock, "sh", "-c", 'flock -n "$0" true; test $? = 1', lock)


def test_inotify(place: Path) -> None:
    need("inotifywait", "inotify-tools")
    watched = place / "watched"
    watched.mkdir()
    command = ["inotifywait", "-m", "-e", "create,modify,move,delete,attrib,close_write"]
    with subprocess.Popen(
        [*command, "--format", "%e %f", watched],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watcher:
        assert watcher.stdout is not None
        assert watcher.stderr is not None
        while "Watches established" not in watcher.stderr.readline():
            assert watcher.poll() is None
        (watched / "one").write_text("text")
        (watched / "one").chmod(0o600)
        (watched / "one").rename(watched / "two")
        (watched / "two").unlink()
        (watched / "end").mkdir()
        seen: list[str] = []
        while not seen or seen[-1] != "CREATE,ISDIR end":
            seen.append(watcher.stdout.readline().strip())
        watcher.terminate()
    assert seen[:3] == ["CREATE one", "MODIFY one", "CLOSE_WRITE,CLOSE one"]
    assert seen[3:] == [
        "ATTRIB one",
        "MOVED_FROM one",
        "MOVED_TO two",
        "DELETE two",
        "CREATE,ISDIR end",
    ]


def test_overlayfs_on_it(place: Path) -> None:
    with overlaid(place) as top:
        assert (top / "low/file").read_text() == "from below"
        (top / "low/file").write_text("changed")
        (top / "low/new").write_text("new")
        (top / "low").chmod(0o700)
        run("cp", "-a", top / "low", top / "copy")
        (top / "low/file").unlink()
        (top / "copy").rename(top / "moved")
        shutil.rmtree(top / "low")
        assert os.listdir(top) == ["moved"]
        assert (top / "moved/file").read_text() == "changed"
    assert (place / "lower/low/file").read_text() == "from below"
    assert (place / "upper/moved/new").read_text() == "new"


@contextlib.contextmanager
def image_mounted(image: Path, on: Path) -> Iterator[None]:
    """Have the file system in the file `image` mounted by means of a loop device."""
    run("mount", "-o", "loop", image, on)
    try:
        yield
    finally:
        run("umount", on)


def test_an_image_on_it_is_mounted(place: Path, tmp_path: Path) -> None:
    need("mkfs.ext4", "e2fsprogs")
    if not Path("/dev/loop-control").exists():
        cannot("there are no loop devices here: modprobe loop")
    image, there = place / "image", tmp_path / "there"
    there.mkdir()
    run("truncate", "-s", "64M", image)
    run("mkfs.ext4", "-q", image)
    with image_mounted(image, there):
        run("cp", "-a", Path(puffs.__file__).parent, there / "copy")
        before = facts(there / "copy")
    run("fsck.ext4", "-f", "-n", image)
    with image_mounted(image, there):
        assert facts(there / "copy") == before


def wheel(directory: Path) -> Path:
    """A wheel of the package under test, made without a build backend."""
    source, info = Path(puffs.__file__).parent, "puffs-1.0.dist-info"
    path = directory / "puffs-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(source.rglob("*.py")):
            archive.write(file, file.relative_to(source.parent))
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: puffs\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@also("mem-isolated")
def test_a_virtual_environment(place: Path) -> None:
    run(sys.executable, "-m", "venv", place / "venv")
    python = place / "venv/bin/python"
    run(python, "-m", "pip", "install", "-q", "--no-index", wheel(place))
    code = "import puffs, puffs.fs.mem as m; vfs = puffs.local(m.MemFS()); print(m.__file__)"
    assert run(python, "-c", code, cwd=place).startswith(f"{place}/venv/lib")
    run(python, "-m", "pip", "uninstall", "-q", "-y", "puffs")
    assert "No module named" in run(python, "-c", code, cwd=place, check=False)


def test_npm(place: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is missing")
    environment = {"HOME": str(place), "npm_config_offline": "true", "npm_config_audit": "false"}
    library, program = place / "library", place / "program"
    for directory in (library, program):
        directory.mkdir()
        about = {"name": directory.name, "version": "1.0.0", "bin": {directory.name: "run.js"}}
        (directory / "package.json").write_text(json.dumps(about))
    (library / "run.js").write_text("#!/usr/bin/env node\nconsole.log('hello')\n")
    run("npm", "pack", cwd=library, env=environment)
    run("npm", "install", library / "library-1.0.0.tgz", cwd=program, env=environment)
    assert run("npx", "library", cwd=program, env=environment) == "hello\n"
