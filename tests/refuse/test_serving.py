"""The life of a `FUSE(...)` call: where it runs, what ends it, and how."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from puffs.attach.fuse.mountinfo import find_mount
from tests.fuse.conftest import PATIENCE
from tests.fuse.others import comes_true, gone
from tests.refuse.asked import Program

pytestmark = pytest.mark.fuse

APIS = ("fusepy", "mfusepy")


def unmount(program: Program) -> None:
    subprocess.run(["umount", program.path], check=True)


def until_gone(program: Program) -> None:
    assert gone(program.path), "it stays mounted"


@pytest.mark.parametrize("api", APIS)
def test_in_the_foreground_it_returns_when_it_has_been_unmounted(asked: Program, api: str) -> None:
    asked.start(api, foreground=True).until_mounted()
    unmount(asked)
    assert asked.wait() == (0, "")
    pid = str(asked.process.pid)
    assert [note[:2] for note in asked.notes("init", "destroy", "returned")] == [
        ["init", pid],
        ["destroy", pid],
        ["returned", pid],
    ]


@pytest.mark.parametrize("api", APIS)
def test_in_the_background_the_caller_ends_when_the_mount_can_be_used(
    asked: Program, api: str
) -> None:
    asked.start(api)
    assert asked.wait() == (0, "")
    assert (asked.path / "file").read_bytes() == b"x" * 10000  # with no waiting
    (_, pid, directory), *others = asked.notes("init")
    assert not others
    assert directory == "/"
    assert pid != str(asked.process.pid)
    assert os.getsid(int(pid)) == int(pid)
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)} == {"/dev/null"}
    unmount(asked)
    assert asked.until_noted("returned") == ["returned", pid], "the program goes on there"
    assert asked.notes("destroy") == [["destroy", pid]]


def test_a_daemon_may_be_given_a_relative_mount_point(
    asked: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", source)
    monkeypatch.chdir(asked.path.parent)
    whole, asked.path = asked.path, Path("mnt")
    asked.start()
    assert asked.wait() == (0, "")
    asked.path = whole
    assert (asked.path / "file").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_as_an_unmount_does(asked: Program, number: signal.Signals) -> None:
    asked.start(foreground=True).until_mounted()
    fd = os.open(asked.path / "file", os.O_RDONLY)  # busy or not
    try:
        asked.process.send_signal(number)
        assert asked.wait() == (0, "")
    finally:
        with pytest.raises(OSError):  # there is nobody to be told that it is closed
            os.close(fd)
    assert find_mount(str(asked.path)) is None
    assert [note[0] for note in asked.notes("destroy", "returned")] == ["destroy", "returned"]


def test_a_daemon_is_ended_by_a_signal(asked: Program) -> None:
    asked.start()
    asked.wait()
    pid = int(asked.notes("init")[0][1])
    os.kill(pid, signal.SIGTERM)
    assert asked.until_noted("returned") == ["returned", str(pid)]
    assert find_mount(str(asked.path)) is None


def test_a_signal_that_the_program_ignores_is_ignored(asked: Program) -> None:
    asked.start(ignored=("SIGHUP",), foreground=True).until_mounted()
    asked.process.send_signal(signal.SIGHUP)
    assert (asked.path / "file").exists()
    asked.process.send_signal(signal.SIGTERM)
    assert asked.wait() == (0, "")


@pytest.mark.parametrize("background", [False, True])
def test_an_operation_may_end_it(asked: Program, background: bool) -> None:
    asked.start(foreground=not background)
    if background:
        asked.wait()
    asked.until_mounted()
    asked.do("exit")  # it is answered
    until_gone(asked)
    assert asked.until_noted("returned")[1] == asked.notes("exit")[0][1]
    assert len(asked.notes("destroy")) == 1


WAITS = "import os, sys; os.setxattr(sys.argv[1], 'user.wait', b'')"


def test_who_waits_in_an_operation_keeps_nobody_else_waiting(asked: Program) -> None:
    asked.start(foreground=True).until_mounted()
    waiting = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(asked.path / "file")],
        stderr=subprocess.DEVNULL,
    )
    asked.until_noted("waits")
    started = time.monotonic()
    assert (asked.path / "dir/file").read_bytes() == b"x" * 10000
    assert time.monotonic() - started < PATIENCE / 2
    assert waiting.poll() is None
    waiting.kill()
    waiting.wait()


@pytest.mark.parametrize(("api", "code"), [("fusepy", "1"), ("mfusepy", "1")])
@pytest.mark.parametrize("foreground", [False, True])
def test_a_mount_point_that_is_not_there(
    asked: Program, api: str, code: str, foreground: bool
) -> None:
    asked.path = asked.path / "not there"
    status, complaint = asked.start(api, foreground=foreground).wait()
    assert status == 3
    assert complaint == (
        f"puffs: '{asked.path}' does not exist: make it first (mkdir -p '{asked.path}')\n"
    )
    assert asked.notes() == [["RuntimeError", code]]


@pytest.mark.parametrize(("api", "code"), [("fusepy", "1"), ("mfusepy", "3")])
def test_an_option_that_is_not_known(asked: Program, api: str, code: str) -> None:
    status, complaint = asked.start(api, alow_other=True).wait()
    assert status == 3
    assert "puffs: unknown mount option 'alow_other' (did you mean 'allow_other'?)" in complaint
    assert asked.notes() == [["RuntimeError", code]]


@pytest.mark.parametrize(("api", "code"), [("fusepy", "1"), ("mfusepy", "4")])
@pytest.mark.parametrize("foreground", [False, True])
def test_what_cannot_be_mounted(asked: Program, api: str, code: str, foreground: bool) -> None:
    """The very process that has called `FUSE` is told."""
    first = Program(asked.path.parent, asked.path)
    first.start(foreground=True).until_mounted()
    try:
        status, complaint = asked.start(api, foreground=foreground, nonempty=True).wait()
        assert status == 3
        assert "is already a mount of puffs" in complaint
        assert ["RuntimeError", code] in asked.notes()
    finally:
        first.process.terminate()
        first.process.communicate()


NOT_CAUGHT = {
    "fusepy": "fusepy.FUSE(fusepy.Operations(), sys.argv[1])",
    "mfusepy": "mfusepy.FUSE(mfusepy.Operations(), sys.argv[1], foreground=True)",
    "llfuse": "llfuse.init(llfuse.Operations(), sys.argv[1])",
}


@pytest.mark.parametrize("api", NOT_CAUGHT)
def test_what_is_printed_of_it_is_short(api: str, tmp_path: Path) -> None:
    """Where the program has called, and why it was in vain; nothing of how puffs has found out."""
    code = f"import sys; from puffs.refuse import {api}\n{NOT_CAUGHT[api]}"
    words = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "nowhere")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "does not exist: make it first" in done.stderr
    assert done.stderr.count("Traceback") == 1
    assert "mountpoint.py" not in done.stderr


def test_when_the_program_is_killed_auto_unmount_takes_the_mount_away(asked: Program) -> None:
    asked.start(foreground=True, auto_unmount=True).until_mounted()
    asked.process.kill()
    until_gone(asked)


def test_without_auto_unmount_it_stays_and_says_so(asked: Program) -> None:
    asked.start(foreground=True).until_mounted()
    asked.process.kill()
    asked.process.wait()
    with pytest.raises(OSError) as caught:
        os.listdir(asked.path)
    assert caught.value.errno == errno.ENOTCONN


SEVERAL = """
import sys, threading, signal, warnings
from puffs.refuse.fusepy import FUSE, Operations
warnings.simplefilter("ignore")

def mount(place):
    FUSE(Operations(), place, foreground=True)

threads = [threading.Thread(target=mount, args=(place,), daemon=True) for place in sys.argv[1:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("all have ended")
"""


def several(asked: Program) -> "tuple[subprocess.Popen[str], list[Path]]":
    places = [asked.path / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SEVERAL, *map(str, places)], stdout=subprocess.PIPE, text=True
    )
    assert comes_true(lambda: all(find_mount(str(place)) for place in places))
    for place in places:
        os.statvfs(place)
    return process, places


def test_threads_of_one_process_may_mount(asked: Program) -> None:
    process, places = several(asked)
    for place in places:
        assert os.listdir(place) == []
        subprocess.run(["umount", place], check=True)
    assert process.communicate(timeout=PATIENCE)[0] == "all have ended\n"


def test_what_threads_have_mounted_ends_with_the_process(asked: Program) -> None:
    process, places = several(asked)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert all(map(gone, places)), "they stay mounted"


COVERED = '''
"""A program whose own source lies below the directory that it is mounted over."""
import os, sys
from puffs.refuse.mfusepy import FUSE, Operations

class Loopback(Operations):
    use_ns = True

    def __init__(self, root):
        self.root = os.open(root, os.O_RDONLY)

    def getattr(self, path, fh=None):
        found = os.stat("." + path, dir_fd=self.root)
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid")
        return {name: getattr(found, name) for name in names}

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(os.open("." + path, os.O_RDONLY, dir_fd=self.root))]

    def read(self, path, size, offset, fh):
        import colorsys  # which is looked for in this directory first
        if path == "/broken":
            raise ValueError("a traceback has lines of this file")
        return os.pread(os.open("." + path, os.O_RDONLY, dir_fd=self.root), size, offset)

FUSE(Loopback(sys.argv[1]), sys.argv[1], foreground=True, nonempty=True)
'''


def test_a_program_may_be_mounted_over_its_own_source(asked: Program) -> None:
    (asked.path / "program.py").write_text(textwrap.dedent(COVERED))
    (asked.path / "broken").write_text("not to be read")
    process = subprocess.Popen(
        [sys.executable, asked.path / "program.py", asked.path], stderr=subprocess.PIPE, text=True
    )
    try:
        asked.process = process
        asked.until_mounted()
        assert sorted(os.listdir(asked.path)) == ["broken", "program.py"]
        assert (asked.path / "program.py").read_text() == textwrap.dedent(COVERED)
        with pytest.raises(OSError):
            (asked.path / "broken").read_bytes()
        process.terminate()
        _, printed = process.communicate(timeout=PATIENCE)
        assert "a traceback has lines of this file" in printed
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
