"""A file server whose files change by themselves: what it tells the kernel to forget, the kernel
asks for anew, and until then not.
"""

import asyncio
import errno
import mmap
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.attach.fuse.mountinfo import find_mount
from tests.attach.toy import ROOT
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Serve, Served
from tests.fuse.inside import Inside
from tests.fuse.servers import Cached, Noting

pytestmark = [pytest.mark.fuse, pytest.mark.loops]

FILE, DIR, LINK = ROOT + 1, ROOT + 2, ROOT + 3
"""The cookies of what a `Toy` begins with."""
PAGE = mmap.PAGESIZE


class Changing(Cached):
    """Its files change behind the kernel's back, which may trust everything for ever."""

    def become(self, node: int, contents: bytes) -> None:
        self.data[node][:] = contents
        self.attrs[node].size = len(contents)

    def contents(self, node: int) -> bytes:
        return bytes(self.data[node])

    def appear(self, dir: int, name: str) -> None:
        self._add(dir, name, puffs.Attr(stat.S_IFREG | 0o644))
        self.attrs[dir].mtime_ns += 1_000_000_000

    def disappear(self, dir: int, name: str) -> None:
        del self.names[dir, name]
        self.attrs[dir].mtime_ns += 1_000_000_000

    def chmod(self, node: int, mode: int) -> None:
        self.attrs[node].mode = stat.S_IFMT(self.attrs[node].mode) | mode

    def lead(self, node: int, target: str) -> None:
        self.targets[node] = target


@pytest.fixture
def inside() -> Inside:
    return Inside()


@pytest.fixture
def served(serve: Serve, inside: Inside) -> Served:
    """A `Changing`, for whose process `inside` speaks."""
    return serve(Changing, on_ready=inside.on_ready)


# ---------------------------------------------------------------------------------- stale, then not


@pytest.mark.statement("2.8")
def test_contents(served: Served, inside: Inside) -> None:
    path = served.path / "file"
    with open(path, "rb", buffering=0) as file:
        assert file.read() == b"contents"
        inside.server.become(FILE, b"quite other contents")
        assert os.pread(file.fileno(), 100, 0) == b"contents"  # as the kernel knows them
        inside.mount.invalidate_pages(FILE)
        assert os.pread(file.fileno(), 100, 0) == b"quite other contents"
        assert path.stat().st_size == 20


@pytest.mark.statement("2.8")
def test_contents_in_a_range(served: Served, inside: Inside) -> None:
    before, after = b"a" * 4 * PAGE, b"b" * 4 * PAGE
    inside.server.become(FILE, before)
    with opened(served.path / "file", os.O_RDONLY) as fd:
        assert os.pread(fd, 5 * PAGE, 0) == before
        inside.server.become(FILE, after)
        inside.mount.invalidate_pages(FILE, PAGE + 10, 2 * PAGE + 10)
        seen = os.pread(fd, 5 * PAGE, 0)
    assert [seen[at * PAGE : at * PAGE + 1] for at in range(4)] == [b"a", b"b", b"b", b"a"]


def test_contents_that_are_given_to_the_kernel_are_not_asked_for(
    served: Served, inside: Inside
) -> None:
    with opened(served.path / "file", os.O_RDONLY) as fd:
        inside.server.become(FILE, bytes(2 * PAGE))  # what it is given is longer than what it knew
        inside.mount.store_pages(FILE, PAGE, b"b" * PAGE)
        inside.mount.store_pages(FILE, 0, b"a" * PAGE)
        assert os.pread(fd, 3 * PAGE, 0) == b"a" * PAGE + b"b" * PAGE
    assert served.notes("read") == []


@pytest.mark.statement("2.8")
def test_a_file_that_has_become_shorter(served: Served, inside: Inside) -> None:
    inside.server.become(FILE, b"a" * 4 * PAGE)
    path = served.path / "file"
    assert len(path.read_bytes()) == 4 * PAGE
    inside.server.become(FILE, b"short")
    inside.mount.invalidate_pages(FILE, 0, 4 * PAGE)
    assert path.read_bytes() == b"short"


def test_attributes(served: Served, inside: Inside) -> None:
    with opened(served.path / "file", os.O_RDONLY) as fd:
        os.read(fd, 100)
        os.fstat(fd)
        served.forget_notes()
        inside.server.chmod(FILE, 0o600)
        assert os.fstat(fd).st_mode & 0o777 == 0o644
        inside.mount.invalidate_attr(FILE)
        assert os.fstat(fd).st_mode & 0o777 == 0o600
        assert os.pread(fd, 100, 0) == b"contents"
        assert served.notes("read") == [], "what is in the page cache stays there"


def test_attributes_of_a_directory_and_what_a_symbolic_link_holds(
    served: Served, inside: Inside
) -> None:
    dir, link = served.path / "dir", served.path / "link"
    assert dir.stat().st_mode & 0o777 == 0o755
    assert os.readlink(link) == "target"
    inside.server.chmod(DIR, 0o700)
    inside.server.lead(LINK, "elsewhere")
    assert (dir.stat().st_mode & 0o777, os.readlink(link)) == (0o755, "target")
    inside.mount.invalidate_attr(DIR)
    inside.mount.invalidate_attr(LINK)
    assert (dir.stat().st_mode & 0o777, os.readlink(link)) == (0o700, "elsewhere")


@pytest.mark.statement("2.8")
def test_a_name(served: Served, inside: Inside) -> None:
    file, new = served.path / "file", served.path / "new"
    before = served.path.stat().st_mtime_ns
    assert (file.exists(), new.exists()) == (True, False)
    inside.server.disappear(ROOT, "file")
    inside.server.appear(ROOT, "new")
    assert (file.exists(), new.exists()) == (True, False)
    assert served.path.stat().st_mtime_ns == before
    inside.mount.invalidate_name(ROOT, "file")
    inside.mount.invalidate_name(ROOT, "new")
    assert (file.exists(), new.exists()) == (False, True)
    assert served.path.stat().st_mtime_ns > before


class Listed(Changing):
    """The kernel keeps its listings."""

    def opendir(self, dir: int, cred: puffs.Cred) -> object:
        return puffs.Open(cache_dir=True, keep_cache=True)


def test_a_name_that_nobody_has_looked_up_changes_the_listing(serve: Serve, inside: Inside) -> None:
    served = serve(Listed, on_ready=inside.on_ready)
    for _ in range(2):
        assert sorted(os.listdir(served.path)) == ["dir", "file", "link"]
    inside.server.appear(ROOT, "new")
    assert "new" not in os.listdir(served.path)
    inside.mount.invalidate_name(ROOT, "new")
    assert "new" in os.listdir(served.path)


@pytest.mark.statement("2.8")
@pytest.mark.parametrize("only", [None, DIR])
def test_all_names(served: Served, inside: Inside, only: int | None) -> None:
    file, new = served.path / "file", served.path / "dir" / "new"
    assert (file.exists(), new.exists()) == (True, False)
    inside.server.disappear(ROOT, "file")
    inside.server.appear(DIR, "new")
    assert (file.exists(), new.exists()) == (True, False)
    inside.mount.invalidate_names(only)
    assert new.exists()
    if only is None:
        assert not file.exists()


def test_what_nobody_knows_is_no_error(served: Served, inside: Inside) -> None:
    for node in (FILE, 4711):
        inside.mount.invalidate_pages(node)
        inside.mount.invalidate_attr(node)
        inside.mount.flush_pages(node)
    inside.mount.invalidate_name(4711, "file")
    inside.mount.invalidate_name(ROOT, "no such name")
    inside.mount.invalidate_name(ROOT, "n" * 2000)
    with fails(errno.EINVAL, "101 is not a directory"):
        served.path.joinpath("file").stat()
        inside.mount.invalidate_name(FILE, "x")


# -------------------------------------------------------------------------------------- dirty pages


@pytest.mark.statement("2.8")
@pytest.mark.parametrize("operation", ["flush_pages", "invalidate_pages"])
def test_what_a_program_has_stored_in_mapped_memory_is_written(
    served: Served, inside: Inside, operation: str
) -> None:
    """The reference discards it when pages are invalidated; Linux never does."""
    inside.server.become(FILE, bytes(3 * PAGE))
    with opened(served.path / "file") as fd, mmap.mmap(fd, 3 * PAGE) as memory:
        memory[PAGE : PAGE + 5] = b"dirty"
        memory[2 * PAGE : 2 * PAGE + 5] = b"other"
        assert inside.server.contents(FILE) == bytes(3 * PAGE)
        getattr(inside.mount, operation)(FILE, PAGE, 2 * PAGE)
        assert inside.server.contents(FILE) == bytes(PAGE) + b"dirty" + bytes(2 * PAGE - 5)
        getattr(inside.mount, operation)(FILE)
        assert inside.server.contents(FILE)[2 * PAGE :] == b"other" + bytes(PAGE - 5)
        assert memory[PAGE : PAGE + 5] == b"dirty"


# --------------------------------------------------------------------------------- in an operation


class Obeying(Cached):
    """Extended attributes are commands, obeyed inside the operation."""

    def mounted(self, mount: puffs.Mount) -> None:
        self.its = mount

    def setxattr(self, node: int, name: str, value: bytes, flags: int) -> None:
        self.attrs[FILE].size = 1
        notice = self.its.invalidate_pages(FILE)
        notice.add_done_callback(lambda done: self.notes.add("told", str(done.exception())))
        if name == "user.wait":
            notice.result()


def test_inside_an_operation_the_kernel_is_told(serve: Serve) -> None:
    served = serve(Obeying)
    assert served.path.joinpath("file").stat().st_size == 8
    os.setxattr(served.path / "dir", "user.tell", b"")
    served.round_trips(lambda: served.notes("told") == [("told", "None")])
    assert served.path.joinpath("file").stat().st_size == 1


def test_waiting_for_the_kernel_inside_an_operation_is_an_error(serve: Serve) -> None:
    served = serve(Obeying)
    served.path.joinpath("file").stat()
    with fails(errno.EIO):
        os.setxattr(served.path / "file", "user.wait", b"")
    assert served.log[-1].startswith("RuntimeError: waiting for a notification inside an operation")
    served.round_trips(lambda: served.notes("told") == [("told", "None")])
    assert served.path.joinpath("file").stat().st_size == 1


class Awaiting(Noting):
    """`async def`: a task of its own, begun by `mounted`, awaits what it tells."""

    attr_ttl: float = puffs.FOREVER

    async def mounted(self, mount: puffs.Mount) -> None:  # type: ignore[override]
        self.its, self.go = mount, asyncio.Event()
        await self.go.wait()
        self.attrs[FILE].size = 1
        await mount.invalidate_attr(FILE)
        self.notes.add("told")

    async def setxattr(  # type: ignore[override]
        self, node: int, name: str, value: bytes, flags: int
    ) -> None:
        if name == "user.wait":
            await self.its.invalidate_attr(FILE)
        self.go.set()


def test_a_task_may_await_it_and_an_operation_may_not(serve: Serve) -> None:
    served = serve(Awaiting)
    assert served.path.joinpath("file").stat().st_size == 8
    with fails(errno.EIO):
        os.setxattr(served.path / "file", "user.wait", b"")
    assert served.path.joinpath("file").stat().st_size == 8
    os.setxattr(served.path / "file", "user.go", b"")
    served.round_trips(lambda: served.notes("told") == [("told",)])
    assert served.path.joinpath("file").stat().st_size == 1


# ------------------------------------------------------------------------------------- with paths


class Sensors(puffs.PathFileSystem):
    """Readings, one to a file, that come from elsewhere."""

    name_ttl: float = puffs.FOREVER
    attr_ttl: float = puffs.FOREVER
    negative_ttl: float = puffs.FOREVER

    def __init__(self) -> None:
        self.readings = {"north": b"1\n"}

    def mounted(self, mount: Any) -> None:
        self.its = mount

    def getattr(self, path: str, file: Any = None) -> puffs.Attr:
        if path in ("/", "/room"):
            return puffs.Attr(stat.S_IFDIR | 0o755, nlink=2)
        try:
            reading = self.readings[path.removeprefix("/room/")]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, path) from None
        return puffs.Attr(stat.S_IFREG | 0o444, size=len(reading))

    def readdir(self, path: str, offset: int, file: Any) -> Iterator[str]:
        yield from ["room"] if path == "/" else list(self.readings)

    def read(self, path: str, offset: int, size: int, file: Any) -> bytes:
        return self.readings[path.removeprefix("/room/")][offset : offset + size]

    def change(self, name: str, reading: bytes | None) -> None:
        if reading is None:
            del self.readings[name]
        else:
            self.readings[name] = reading

    def tell(self, method: str, *args: Any) -> None:
        getattr(self.its, method)(*args).result(PATIENCE)


def test_paths_take_the_place_of_nodes(serve: Serve, inside: Inside) -> None:
    served = serve(lambda notes: Sensors(), on_ready=inside.on_ready)
    north, south = served.path / "room/north", served.path / "room/south"
    assert (north.read_bytes(), south.exists()) == (b"1\n", False)
    inside.server.change("north", b"22\n")
    inside.server.change("south", b"3\n")
    assert (north.read_bytes(), south.exists()) == (b"1\n", False)
    inside.server.tell("invalidate_pages", "/room/north")
    inside.server.tell("invalidate_name", "/room/south")
    assert (north.read_bytes(), south.read_bytes()) == (b"22\n", b"3\n")
    inside.server.change("north", b"4444\n")
    assert north.stat().st_size == 3
    inside.server.tell("invalidate_attr", "/room/north")
    assert north.stat().st_size == 5
    inside.server.change("south", None)
    assert south.exists()
    inside.server.tell("invalidate_names", "/room")
    assert not south.exists()
    inside.server.tell("invalidate_pages", "/nowhere/at/all")
    inside.server.tell("invalidate_name", "/nowhere/at/all")
    with fails(errno.EINVAL, "is not a regular file"):
        inside.server.tell("flush_pages", "/room")


def readme_example(name: str) -> Any:
    """A class of the README, as it stands there."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (block,) = [block for block in blocks if f"class {name}(" in block]
    scope: dict[str, Any] = {"puffs": puffs, "errno": errno, "stat": stat}
    exec(block, scope)
    return scope[name]


def test_the_example_of_the_readme(serve: Serve, inside: Inside) -> None:
    served = serve(lambda notes: readme_example("Board")(), on_ready=inside.on_ready)
    note = served.path / "milk"
    assert not note.exists()
    inside.server.pin("milk", b"two bottles\n")
    assert note.read_bytes() == b"two bottles\n"
    with opened(note, os.O_RDONLY) as fd:
        inside.server.pin("milk", b"one bottle\n")
        assert os.pread(fd, 100, 0) == b"one bottle\n"
    assert os.listdir(served.path) == ["milk"]


# ------------------------------------------------------------------------------------ its own mount


class Told(Cached):
    """Notes that it is told of its mount, and by whom it is asked first."""

    def mounted(self, mount: puffs.Mount) -> None:
        self.notes.add("it is", type(mount).__name__, mount.mountpoint)
        with fails(errno.EDEADLK):
            mount.call(len, "")


@pytest.mark.parametrize("options", ["", "threads=3"])
def test_a_file_server_is_told_of_its_mount_once(serve: Serve, options: str) -> None:
    served = serve(Told, options)
    served.path.joinpath("file").stat()
    assert served.notes("mounted", "it is", "lookup") == [
        ("mounted",),
        ("it is", "Mount", str(served.path)),
        ("lookup", ROOT, "file"),
    ]


def test_what_goes_wrong_there_is_logged_and_the_mount_goes_on(serve: Serve) -> None:
    class Wrong(Cached):
        def mounted(self, mount: puffs.Mount) -> None:
            raise ZeroDivisionError("at once")

    served = serve(Wrong)
    assert served.path.joinpath("file").read_bytes() == b"contents"
    assert "mounted failed in the file server" in served.log[0]


# ------------------------------------------------------------------------------------------ the end


def test_an_end_does_not_wait_for_what_the_kernel_cannot_be_told_any_more(
    mountpoint: Path, tmp_path: Path
) -> None:
    """A `mkdir` that is not served holds its directory, and so what is told of a name there."""
    script = tmp_path / "script.py"
    script.write_text(STOPS_SERVING)
    with subprocess.Popen(
        [sys.executable, str(script), str(mountpoint)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        failed: list[int | None] = []

        def make() -> None:
            try:
                mountpoint.joinpath("made").mkdir()
            except OSError as exc:
                failed.append(exc.errno)

        making = threading.Thread(target=make)
        making.start()
        out, _ = process.communicate(timeout=PATIENCE)
        making.join(PATIENCE)
    assert out == "finished\n"
    assert failed == [errno.ECONNABORTED]
    assert find_mount(str(mountpoint)) is None


STOPS_SERVING = """
import asyncio, select, sys
import puffs
from puffs.fs.mem import MemFS

class Held(MemFS):
    def mkdir(self, *args):
        raise SystemExit("never comes so far")

session = puffs.session(Held, sys.argv[1])
root = session.mount.root()

def next_request():
    select.select([session], [], [])

session.handle_one()  # there is nothing yet, but what serves has been made
print("ready", flush=True)
opcodes = session._reader._handlers
mkdir = opcodes[9]
held = []
opcodes[9] = lambda *request: held.append(request)
while not held:
    next_request()
    session.handle_one()
notice = session.mount.invalidate_name(root.cookie, "other")
assert not notice.done()
asyncio.run(session.finish())
notice.result()
print("finished", flush=True)
"""
