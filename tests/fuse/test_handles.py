"""File handles of real mounts: name_to_handle_at(2) and open_by_handle_at(2), also of what the
kernel has forgotten, and of another run of the file server.
"""

import errno
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import puffs
from puffs.attach.asking import ask, mounted
from puffs.attach.trial import Trials
from puffs.fs import hostcalls
from puffs.fs.mem import MemFS
from puffs.fs.null import NullFS
from tests.fs.host import fails, in_memory, opens_handles
from tests.fuse.async_twin import async_twin
from tests.fuse.conftest import Notes
from tests.fuse.handles import (
    contents,
    descriptor_of,
    forget_all,
    handle_of,
    nodes,
    number_in,
    opened,
)

pytestmark = [pytest.mark.fuse, pytest.mark.loops, opens_handles]

MANY = 1000
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Taken(NamedTuple):
    """A handle, and what it is of: type, and names if it is a directory."""

    handle: bytes
    type: int
    names: list[str]


def make_many(top: Path) -> None:
    """`MANY` files in directories of three levels, each holding its own path; and a few others."""
    for number in range(MANY):
        path = f"a{number % 10}/b{number % 20}/c{number % 3}/f{number}"
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(path)
    (top / "link").symlink_to("a0")
    os.mkfifo(top / "fifo")


def take(top: Path) -> dict[str, Taken]:
    """The handles of all that is below `top`, by path."""
    taken = {}
    for above, dirs, files in os.walk(top):
        for name in (*dirs, *files):
            path = os.path.join(above, name)
            kind = stat.S_IFMT(os.lstat(path).st_mode)
            names = sorted(os.listdir(path)) if kind == stat.S_IFDIR else []
            taken[os.path.relpath(path, top)] = Taken(handle_of(path), kind, names)
    return taken


def check(mount_fd: int, top: Path, path: str, taken: Taken) -> None:
    """The handle opens its own file; of a directory the kernel finds out where it is."""
    handle, kind, names = taken
    if kind == stat.S_IFREG:
        assert contents(mount_fd, handle) == path.encode()
    elif kind == stat.S_IFDIR:
        with opened(mount_fd, handle, DIRECTORY) as fd:
            assert os.readlink(f"/proc/self/fd/{fd}") == str(top / path)
            assert sorted(os.listdir(fd)) == names
    else:
        with opened(mount_fd, handle, os.O_PATH) as fd:
            assert stat.S_IFMT(os.fstat(fd).st_mode) == kind


def check_all(top: Path, taken: dict[str, Taken]) -> None:
    with descriptor_of(top, DIRECTORY) as mount_fd:
        for path in taken:
            check(mount_fd, top, path, taken[path])


def check_asked(top: Path, taken: dict[str, Taken], notes: "Asked") -> None:
    """The same, each file being one that the file server is asked for by its number."""
    with descriptor_of(top, DIRECTORY) as mount_fd:
        forget_all(top)
        files = [path for path in taken if taken[path].type != stat.S_IFDIR]
        for path in files:
            check(mount_fd, top, path, taken[path])
        # To find its way to one directory, the kernel lists others: these are for one at a time.
        deep = [path for path in taken if path.count("/") == 2][::7]
        for path in deep:
            forget_all(top)
            check(mount_fd, top, path, taken[path])
    assert len(files) > MANY * 4 // 5
    assert len(deep) > 5
    assert {number_in(taken[path].handle) for path in (*files, *deep)} <= notes.numbers()


def check_stale(top: Path, taken: dict[str, Taken]) -> None:
    with descriptor_of(top) as mount_fd:
        for handle, _, _ in taken.values():
            with fails(errno.ESTALE), opened(mount_fd, handle, os.O_PATH):
                pass


class Asked(Notes):
    """What `vget` was asked for, in the processes of file servers."""

    def noting(self, cls: Any) -> Any:
        """A file server that notes it."""
        notes = self

        class Noting(cls):  # type: ignore[misc]
            def vget(self, ino: int) -> object:
                notes.add(ino)
                return super().vget(ino)

        return Noting

    def clear(self) -> None:
        self.path.unlink()

    def numbers(self) -> set[int]:
        return {int(line.strip("(),")) for line in self.path.read_text().splitlines()}


@pytest.fixture
def notes(tmp_path: Path) -> Asked:
    return Asked(tmp_path / "notes")


@pytest.fixture(params=["disk", "memory"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The host's directory, for `null`: on the disk, or on a tmpfs."""
    if request.param == "memory":
        with in_memory() as path:
            yield path
    else:
        (tmp_path / "host").mkdir()
        yield tmp_path / "host"


def without(taken: dict[str, Taken], end: str) -> dict[str, Taken]:
    """Take the files whose names end so out of `taken`."""
    files = [path for path in taken if path.endswith(end) and taken[path].type == stat.S_IFREG]
    gone = {path: taken.pop(path) for path in files}
    for path in taken:
        names = [name for name in taken[path].names if f"{path}/{name}" not in gone]
        taken[path] = taken[path]._replace(names=names)
    return gone


@pytest.mark.parametrize("twin", [False, True], ids=["def", "async"])
def test_mem_finds_what_the_kernel_has_forgotten_and_an_image_has_kept(
    puffs_mount: Trials, notes: Asked, tmp_path: Path, twin: bool
) -> None:
    cls = notes.noting(MemFS)
    make = async_twin(cls) if twin else cls
    top = puffs_mount(make)
    make_many(top)
    taken = take(top)
    check_asked(top, taken, notes)
    check_all(top, taken)

    gone = without(taken, "7")
    for path in gone:
        (top / path).unlink()
    check_stale(top, gone)
    forget_all(top)
    check_stale(top, gone)
    check_all(top, taken)

    image = tmp_path / "image"
    ask(mounted(top), "snapshot", 60, destination=str(image))
    puffs_mount.unmount(top)
    notes.clear()
    puffs_mount(partial(make, image=image), mountpoint=top)
    check_asked(top, taken, notes)
    check_stale(top, gone)
    assert take(top) == taken


def test_null_finds_what_the_kernel_has_forgotten_and_the_last_run_knew(
    puffs_mount: Trials, notes: Asked, host: Path
) -> None:
    make_many(host)
    make = partial(notes.noting(NullFS), str(host))
    top = puffs_mount(make)
    taken = take(top)
    check_asked(top, taken, notes)
    check_all(top, taken)

    gone = without(taken, "7")
    for path in gone:
        (host / path).unlink()
    forget_all(top)
    check_stale(top, gone)
    check_all(top, taken)

    puffs_mount.unmount(top)
    notes.clear()
    puffs_mount(make, mountpoint=top)
    assert nodes(top) == 1, "this run knows nothing yet"
    check_asked(top, taken, notes)
    check_stale(top, gone)
    assert take(top) == taken, "and it gives the same handles"


def make_few(top: Path) -> None:
    for number in range(10):
        (top / f"d{number}").mkdir()
        (top / f"d{number}/f").write_text(f"d{number}/f")


def test_a_handle_of_another_mount_is_stale(puffs_mount: Trials, host: Path) -> None:
    servers: list[Any] = [MemFS, MemFS]
    for name in ("one", "two"):
        (host / name).mkdir()
        servers.append(partial(NullFS, str(host / name)))
    tops = [puffs_mount(server) for server in servers]
    for top in tops:
        make_few(top)
    handles = [take(top) for top in tops]
    for top, own in zip(tops, handles, strict=True):
        # While the kernel knows files of these numbers, and when it does not.
        for _ in range(2):
            check_all(top, own)
            for others in handles:
                if others is not own:
                    check_stale(top, others)
            forget_all(top)


def test_without_fileid_there_are_no_handles(puffs_mount: Trials) -> None:
    top = puffs_mount(partial(puffs.Tree, {"file": "contents"}))
    with descriptor_of(top / "file") as fd:
        assert hostcalls.file_handle(fd) is None


def test_a_removed_file_that_is_open_is_still_found(puffs_mount: Trials) -> None:
    """As on the file systems of the host; and once it is closed, it is gone."""
    top = puffs_mount(MemFS)
    (top / "file").write_text("contents")
    handle = handle_of(top / "file")
    with descriptor_of(top) as mount_fd:
        with descriptor_of(top / "file"):
            (top / "file").unlink()
            assert contents(mount_fd, handle) == b"contents"
        forget_all(top)
        with fails(errno.ESTALE):
            contents(mount_fd, handle)


def test_the_roots_of_all_mounts_have_one_handle(puffs_mount: Trials) -> None:
    """Linux makes it so, and asks nobody."""
    assert handle_of(puffs_mount(MemFS)) == handle_of(puffs_mount(MemFS))
