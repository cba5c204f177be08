"""Mount arguments on real mounts: what the kernel is told, and that failures leave nothing."""

import errno
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import puffs
from puffs.attach.asking import ask, mounted
from puffs.attach.fuse.mountinfo import find_mount
from puffs.kernel.args import REQUEST_HEADER
from tests.fuse.calls import fails
from tests.fuse.conftest import Serve
from tests.fuse.servers import Cached, Hello, Noting

pytestmark = pytest.mark.fuse


@pytest.mark.statement("M24", "C8")
@pytest.mark.parametrize(
    ("options", "max_write"), [("", 1 << 20), ("max_write=4096", 4096), ("max_write=65536", 65536)]
)
def test_the_size_of_requests_is_the_one_that_was_granted(
    serve: Serve, options: str, max_write: int
) -> None:
    served = serve(Noting, options)
    status = ask(mounted(served.path), "status")
    assert status["max_write"] == max_write
    assert status["args"]["request_size"] == max_write + REQUEST_HEADER
    served.path.joinpath("new").write_bytes(b"x" * (3 * max_write))
    assert max(len(note[3]) for note in served.notes("write")) == max_write


class Named(Noting):
    name = "häuser\n"


@pytest.mark.statement("C4", "O2")
def test_the_name_is_that_of_the_source_and_of_the_type(serve: Serve) -> None:
    served = serve(Named)
    found = find_mount(str(served.path))
    assert found is not None
    assert found.source == "puffs:h..user."
    assert found.fstype == "fuse.puffs.häuser_"
    assert ask(mounted(served.path), "status")["args"]["name"] == "puffs:h..user."


@pytest.mark.statement("2.5")
def test_without_a_page_cache_each_read_is_asked_for(serve: Serve) -> None:
    served = serve(Keeping, "nopagecache")
    for _ in range(3):
        assert served.path.joinpath("file").read_bytes() == b"contents"
    assert len([note for note in served.notes("read") if note[2] == 0]) == 3


def test_with_a_page_cache_it_is_not(serve: Serve) -> None:
    served = serve(Keeping)
    for _ in range(3):
        assert served.path.joinpath("file").read_bytes() == b"contents"
    assert len([note for note in served.notes("read") if note[2] == 0]) == 1


class Keeping(Cached):
    def open(self, node: int, flags: int, cred: puffs.Cred) -> puffs.Open:
        return puffs.Open("file", keep_cache=True)


@pytest.mark.statement("2.5")
@pytest.mark.parametrize(("option", "lookups"), [("namecache", 1), ("nonamecache", 3)])
def test_without_a_name_cache_each_walk_is_asked_for(
    serve: Serve, option: str, lookups: int
) -> None:
    served = serve(Cached, option)
    for _ in range(3):
        served.path.joinpath("file").stat()
    assert len(served.notes("lookup")) == lookups


# ------------------------------------------------------------------------------------- failures


def run(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )


@pytest.mark.statement("M3")
def test_a_mount_cannot_be_changed(serve: Serve) -> None:
    served = serve(Noting)
    made: list[str] = []

    def make() -> Hello:
        made.append("a file server")
        return Hello()

    with fails(errno.EOPNOTSUPP, "unmount it, and mount it again"):
        puffs.mount(make, served.path, "remount,ro")
    assert made == []
    assert served.path.joinpath("file").read_text() == "contents"


LEAVES_NOTHING = """
import errno, os, resource, sys
import puffs
from puffs.attach.fuse.mountinfo import find_mount
from tests.attach.toy import Toy

where, how = sys.argv[1:]
toy = Toy()
if how == "root":
    toy.refuse["getattr"] = OSError(errno.EACCES, "no")
before = sorted(os.listdir("/proc/self/fd"))
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
if how == "descriptors":  # one for /dev/fuse, and none for the table of mounts after that
    top = os.open("/dev/null", os.O_RDONLY)
    os.close(top)
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, limits[1]))
try:
    puffs.mount(toy, where, "nocontrol")
except OSError as error:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    print(errno.errorcode[error.errno])
print([name for name, *_ in toy.calls if name.startswith(("mount", "unmount"))])
print(find_mount(where), sorted(os.listdir("/proc/self/fd")) == before)
"""


@pytest.mark.statement("M23", "M31")
@pytest.mark.parametrize(
    ("how", "code"), [("root", "EACCES"), ("descriptors", "EMFILE"), ("place", "ENOTDIR")]
)
def test_a_mounting_that_fails_leaves_nothing(mountpoint: Path, how: str, code: str) -> None:
    where = mountpoint
    if how == "place":
        where = mountpoint / "file"
        where.touch()
    done = run(LEAVES_NOTHING, where, how)
    assert done.stdout.splitlines() == [code, "['mount', 'unmounted']", "None True"], done.stderr
