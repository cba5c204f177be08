"""The basic life of a file system, as the reference was tested: roots of every type, and the end of
files, once and at the right time.
"""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import puffs
from tests.attach.toy import ROOT
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Notes, Serve, Served
from tests.fuse.servers import Noting

pytestmark = [pytest.mark.fuse, pytest.mark.loops]


@pytest.fixture(params=[False, True], ids=["direct", "isolated"])
def isolate(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


FILE, DIR = ROOT + 1, ROOT + 2

KINDS = {
    "directory": stat.S_IFDIR,
    "regular file": stat.S_IFREG,
    "fifo": stat.S_IFIFO,
    "character device": stat.S_IFCHR,
    "block device": stat.S_IFBLK,
    "socket": stat.S_IFSOCK,
    "symbolic link": stat.S_IFLNK,
}
MOUNTED = [name for name in KINDS if name != "symbolic link"]


class Rooted(Noting):
    """Its root is of any type, and holds "root" if that can be."""

    def __init__(self, notes: Notes, kind: int) -> None:
        super().__init__(notes)
        self.attrs[ROOT] = puffs.Attr(kind | 0o666, rdev=os.makedev(1, 3), size=4)
        self.data[ROOT] = bytearray(b"root")
        self.targets[ROOT] = "elsewhere"


ServeRoot = Callable[[str], Served]


@pytest.fixture
def serve_root(serve: Serve, mountpoint: Path) -> ServeRoot:
    """Mount a file system whose root is of a type, on what such a root is mounted on."""

    def start(kind: str) -> Served:
        if kind != "directory":
            mountpoint.rmdir()
            mountpoint.touch()
        return serve(lambda notes: Rooted(notes, KINDS[kind]))

    return start


def ends(served: Served, cookie: int) -> list[tuple[str, int]]:
    """The `inactive` and `reclaim` of a file, in order."""
    return [(note[0], note[1]) for note in served.notes("inactive", "reclaim") if note[1] == cookie]


def has_ended(served: Served, cookie: int, times: int) -> bool:
    """Whether there were so many of them."""
    return len(ends(served, cookie)) >= times


# ------------------------------------------------------------------------------------------ roots


@pytest.mark.statement("R7")
@pytest.mark.parametrize("kind", MOUNTED)
def test_root(serve_root: ServeRoot, kind: str) -> None:
    served = serve_root(kind)
    st = os.lstat(served.path)
    assert stat.S_IFMT(st.st_mode) == KINDS[kind]
    assert stat.S_IMODE(st.st_mode) == 0o666
    os.chmod(served.path, 0o600)
    assert stat.S_IMODE(os.lstat(served.path).st_mode) == 0o600
    assert os.statvfs(served.path).f_namemax == 255
    served.child.unmount()
    assert (served.mounted(), served.ended()) == (False, 0)
    assert served.notes("unmounted") == [("unmounted",)]
    assert ("reclaim", ROOT) not in served.notes("reclaim")


@pytest.mark.statement("R7")
@pytest.mark.parametrize("kind", KINDS)
def test_root_in_process(kind: str, tmp_path: Path) -> None:
    server = Rooted(Notes(tmp_path / "notes"), KINDS[kind])
    with puffs.local(server) as vfs:
        assert stat.S_IFMT(vfs.lstat("/").st_mode) == KINDS[kind]
        vfs.utime("/", ns=(5, 7))
        assert vfs.lstat("/").st_mtime_ns == 7
        if kind == "symbolic link":
            assert vfs.readlink("/") == "elsewhere"
        if kind == "regular file":
            vfs.write_text("/", "text")
            assert vfs.read_text("/") == "text"
    noted = Served(tmp_path, tmp_path).notes("reclaim", "unmounted")
    assert noted == [("unmounted",)]


def test_root_symbolic_link_is_not_mounted(serve_root: ServeRoot) -> None:
    with fails(errno.EINVAL, "symbolic link", "puffs.local"):
        serve_root("symbolic link")


def test_root_fifo_is_a_pipe_of_the_host(serve_root: ServeRoot) -> None:
    served = serve_root("fifo")
    with opened(served.path) as fd:
        os.write(fd, b"through")
        assert os.read(fd, 100) == b"through"
    assert served.notes("read", "write", "open") == []


def test_root_device_is_not_for_the_file_server(serve_root: ServeRoot) -> None:
    served = serve_root("character device")
    with fails(errno.EACCES):  # mounts are nodev unless told otherwise
        os.open(served.path, os.O_RDONLY)
    assert served.notes("open") == []


# --------------------------------------------------------------------------- inactive and reclaim


@pytest.mark.statement("N6")
@pytest.mark.parametrize("kind", ["regular file", "directory"])
def test_inactive_of_a_root(serve_root: ServeRoot, kind: str) -> None:
    served = serve_root(kind)
    for times in (1, 2):
        os.close(os.open(served.path, os.O_RDONLY))
        served.round_trips(partial(has_ended, served, ROOT, times))
        assert ends(served, ROOT) == [("inactive", ROOT)] * times


@pytest.mark.statement("N6")
def test_inactive_basic(serve: Serve) -> None:
    """0, 1, 2: each time that the last one closes it, and not for anything else."""
    served = serve(Noting)
    path = served.path / "file"
    path.stat()
    os.statvfs(served.path)
    assert ends(served, FILE) == []
    for times in (1, 2):
        with opened(path), opened(path) as fd:
            assert os.read(fd, 100) == b"contents"
            assert len(ends(served, FILE)) == times - 1
        served.round_trips(partial(has_ended, served, FILE, times))
        assert ends(served, FILE) == [("inactive", FILE)] * times


@pytest.mark.statement("N6", "N7")
def test_inactive_reclaim_of_a_directory(serve: Serve) -> None:
    """One that is removed while it is open goes when it is closed."""
    served = serve(Noting)
    path = served.path / "dir"
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        path.rmdir()
        assert not path.exists()
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
        os.statvfs(served.path)
        assert ends(served, DIR) == []
    served.round_trips(partial(has_ended, served, DIR, 2))
    assert ends(served, DIR) == [("inactive", DIR), ("reclaim", DIR)]


@pytest.mark.statement("N6", "N7")
def test_inactive_reclaim_of_a_file(serve: Serve) -> None:
    served = serve(Noting)
    path = served.path / "file"
    with opened(path):
        path.unlink()
        os.statvfs(served.path)
        assert ends(served, FILE) == []
    served.round_trips(partial(has_ended, served, FILE, 2))
    assert ends(served, FILE) == [("inactive", FILE), ("reclaim", FILE)]
    served.child.unmount()
    assert ends(served, FILE) == [("inactive", FILE), ("reclaim", FILE)]


@pytest.mark.statement("N7")
def test_reclaim_hardlink(serve: Serve) -> None:
    """A file with two names goes with the second one."""
    served = serve(Noting)
    first, second = served.path / "file", served.path / "second"
    os.link(first, second)
    first.unlink()
    with opened(second) as fd:
        assert os.read(fd, 100) == b"contents"
    served.round_trips(partial(has_ended, served, FILE, 1))
    assert ends(served, FILE) == [("inactive", FILE)]
    second.unlink()
    served.round_trips(partial(has_ended, served, FILE, 2))
    assert ends(served, FILE) == [("inactive", FILE), ("reclaim", FILE)]


def test_unlink_accessible(serve: Serve) -> None:
    """A removed file can be used in every way by whoever has it open."""
    served = serve(Noting)
    path = served.path / "new"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        path.unlink()
        with fails(errno.ENOENT):
            path.stat()
        assert os.pwrite(fd, b"still here", 0) == 10
        assert os.pread(fd, 100, 6) == b"here"
        os.ftruncate(fd, 5)
        os.fchmod(fd, 0o640)
        os.fsync(fd)
        st = os.fstat(fd)
        assert (st.st_size, st.st_nlink, stat.S_IMODE(st.st_mode)) == (5, 0, 0o640)


# ---------------------------------------------------------------------------------------- signals


READER = """
import os, signal, sys
handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
fd = os.open(sys.argv[1], os.O_RDONLY)
print("reading", flush=True)
print(os.read(fd, 100), len(handled), flush=True)
"""


class Gated(Noting):
    """A read waits until the file `go` is there, beside the notes."""

    def read(self, node: int, offset: int, size: int, file: object) -> bytes:
        self.notes.add("entered")
        go = self.notes.path.with_name("go")
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if go.exists():
                break
            pause.wait(0.01)
        return super().read(node, offset, size, file)


@contextmanager
def reading(path: Path) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "reading\n"
            yield process
        finally:
            process.kill()


@pytest.mark.statement("2.7c")
def test_signals(serve: Serve, tmp_path: Path) -> None:
    """USR1 does not interrupt who waits for the file server."""
    served = serve(Gated)
    with reading(served.path / "file") as process:
        pause = threading.Event()
        while not served.notes("entered"):
            pause.wait(0.01)
        for _ in range(20):
            os.kill(process.pid, signal.SIGUSR1)
        assert process.poll() is None
        (tmp_path / "go").touch()
        output, _ = process.communicate(timeout=PATIENCE)
    assert output == "b'contents' 1\n"
    assert len(served.notes("read")) == 1
