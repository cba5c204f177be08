"""Reading directories over a real mount: completely, in pieces, and while they change."""

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import puffs
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Notes, Serve
from tests.fuse.servers import Many

pytestmark = [pytest.mark.fuse, pytest.mark.loops]


@pytest.fixture(params=[False, True], ids=["direct", "isolated"])
def isolate(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


libc = ctypes.CDLL(None, use_errno=True)


SHAPES = pytest.mark.parametrize("shape", ["", "positions", "plus", "positions plus"])


def many(count: int, shape: str) -> Callable[[Notes], Many]:
    return lambda notes: Many(count, positions="positions" in shape, plus="plus" in shape)


class Directory:
    """A directory stream of the C library."""

    class Dirent(ctypes.Structure):
        _fields_: ClassVar = [
            ("ino", ctypes.c_uint64),
            ("off", ctypes.c_int64),
            ("reclen", ctypes.c_ushort),
            ("type", ctypes.c_ubyte),
            ("name", ctypes.c_char * 256),
        ]

    def __init__(self, path: Path) -> None:
        for name, result in (("opendir", ctypes.c_void_p), ("telldir", ctypes.c_long)):
            getattr(libc, name).restype = result
        libc.readdir.restype = ctypes.POINTER(self.Dirent)
        libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
        for name in ("readdir", "telldir", "rewinddir", "closedir"):
            getattr(libc, name).argtypes = (ctypes.c_void_p,)
        self._stream = libc.opendir(os.fsencode(path))
        assert self._stream

    def read(self, count: int = 1 << 30) -> list[str]:
        """The next names, without the dots."""
        names: list[str] = []
        while len(names) < count:
            entry = libc.readdir(self._stream)
            if not entry:
                break
            if entry.contents.name not in (b".", b".."):
                names.append(os.fsdecode(entry.contents.name))
        return names

    def tell(self) -> int:
        return int(libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        libc.rewinddir(self._stream)

    def __enter__(self) -> "Directory":
        return self

    def __exit__(self, *exc: object) -> None:
        libc.closedir(self._stream)


def names(*numbers: int) -> list[str]:
    return [f"file {number:04}" for number in numbers]


@SHAPES
def test_a_long_directory_is_listed_in_order_and_completely(serve: Serve, shape: str) -> None:
    path = serve(many(1000, shape)).path
    everything = names(*range(1, 1001))
    assert os.listdir(path) == everything
    with os.scandir(path) as entries:
        found = {
            entry.name: (entry.inode(), entry.is_file(), entry.stat().st_size) for entry in entries
        }
    assert found == {name: (1001 + at, True, 1 + at) for at, name in enumerate(everything)}
    listed = subprocess.check_output(["ls", "-a", path], text=True, timeout=PATIENCE).split("\n")
    assert listed[:2] == [".", ".."]
    assert listed[2:-1] == everything


@SHAPES
def test_positions_in_a_directory_stay_good(serve: Serve, shape: str) -> None:
    path = serve(many(1000, shape)).path
    with Directory(path) as directory:
        marks = {}
        for at in range(0, 1000, 50):
            marks[at] = directory.tell()
            assert directory.read(50) == names(*range(at + 1, at + 51))
        assert directory.read() == []
        assert len(set(marks.values())) == len(marks)
        for at in (950, 0, 500, 50):
            directory.seek(marks[at])
            assert directory.read(3) == names(at + 1, at + 2, at + 3)
        directory.seek(marks[900])
        assert directory.read() == names(*range(901, 1001))
        directory.rewind()
        assert directory.read() == names(*range(1, 1001))


@SHAPES
def test_a_directory_may_change_while_it_is_read(serve: Serve, shape: str) -> None:
    path = serve(many(1000, shape)).path
    with Directory(path) as directory:
        seen = directory.read(100)
        for name in names(5, 500, 501, 1000):
            path.joinpath(name).unlink()
        path.joinpath(*names(1001)).touch()
        path.joinpath(*names(3000)).touch()
        rest = directory.read()
        # What was there all the time is seen once; the others at most once (POSIX readdir()).
        all_the_time = set(names(*range(1, 1001))) - set(names(5, 500, 501, 1000))
        assert len(seen + rest) == len(set(seen + rest))
        assert set(seen + rest) >= all_the_time
        directory.rewind()
        everything = names(*(set(range(1, 1002)) - {5, 500, 501, 1000}), 3000)
        assert sorted(directory.read()) == sorted(everything)


@pytest.mark.parametrize("isolate", [False])  # a listing is kept as a whole there
def test_the_file_server_continues_where_it_said(serve: Serve) -> None:
    class Watched(Many):
        def __init__(self, notes: Notes) -> None:
            super().__init__(1000, positions=True)
            self.notes = notes

        def readdir(self, dir: int, offset: int, file: object) -> Iterator[puffs.DirEntry]:
            self.notes.add("readdir", offset)
            yield from super().readdir(dir, offset, file)

    served = serve(Watched)
    with opened(served.path, os.O_RDONLY) as fd:
        os.lseek(fd, 990, os.SEEK_SET)  # the position behind the entry 990
        assert os.listdir(fd) == names(*range(991, 1001))
    # First from the beginning, to see whose positions count.
    assert served.notes("readdir")[:2] == [("readdir", 0), ("readdir", 990)]


def test_a_listing_that_fails_is_tried_again(serve: Serve) -> None:
    class Flaky(Many):
        broken = True

        def readdir(self, dir: int, offset: int, file: object) -> Iterator[puffs.DirEntry]:
            for entry in super().readdir(dir, offset, file):
                if entry.name == "file 0600" and self.broken:
                    self.broken = False
                    raise OSError(errno.EHOSTDOWN, "for a moment")
                yield entry

    path = serve(lambda notes: Flaky(1000)).path
    with fails(errno.EHOSTDOWN):
        os.listdir(path)
    assert os.listdir(path) == names(*range(1, 1001))
