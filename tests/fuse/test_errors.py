"""What a file server does wrong costs one caller an error, and the mount goes on."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import puffs
from tests.fuse.adversaries import Spoilt
from tests.fuse.calls import fails
from tests.fuse.conftest import Serve, Served
from tests.fuse.others import comes_true
from tests.fuse.servers import Noting

pytestmark = [pytest.mark.fuse, pytest.mark.loops]


@pytest.fixture(params=[False, True], ids=["direct", "isolated"])
def isolate(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


Spoil = Callable[[str, Callable[..., Any]], Served]


@pytest.fixture
def spoilt(serve: Serve) -> Spoil:
    def start(operation: str, spoil: Callable[..., Any]) -> Served:
        return serve(lambda notes: Spoilt(notes, operation, spoil))

    return start


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any) -> Any:
        raise error

    return fail


def goes_on(served: Served) -> None:
    """The mount still answers."""
    assert served.path.joinpath("dir").is_dir()


def tracebacks(served: Served, count: int) -> bool:
    """Whether so many have been logged; what another process prints is read from a pipe."""
    return comes_true(
        lambda: (
            served.log.count("Traceback (most recent call last):") == count
            and served.log[-1].startswith("ValueError: ")
        )
    )


# ------------------------------------------------------------------------------------- exceptions


def test_a_mistake_is_eio_and_one_traceback(spoilt: Spoil) -> None:
    served = spoilt("read", raising(ValueError("a mistake of mine")))
    with fails(errno.EIO):
        read_file(served.path)
    assert tracebacks(served, 1)
    assert served.log[0] == "read failed in the file server; the caller gets EIO"
    assert served.log[-1] == "ValueError: a mistake of mine"
    assert "test_errors.py" in "".join(served.log)  # it says where
    goes_on(served)
    with fails(errno.EIO):
        read_file(served.path)
    assert tracebacks(served, 2)
    assert len(served.notes("read")) == 2


def test_a_name_that_is_not_there_is_no_news(serve: Serve) -> None:
    served = serve(Noting)
    with fails(errno.ENOENT):
        os.stat(served.path / "nothing")
    assert served.log == []


def test_the_file_server_is_told_the_words_that_are_logged(spoilt: Spoil) -> None:
    served = spoilt("mkdir", raising(OSError(4711, "?")))
    with fails(errno.EPROTO):
        os.mkdir(served.path / "new")
    goes_on(served)
    (note,) = served.notes("error")
    assert "mkdir raised errno 4711" in note[3]
    (line,) = served.log
    assert note[3] in line


def test_nobody_hears_of_a_failing_close(spoilt: Spoil) -> None:
    served = spoilt("close", raising(ValueError("a mistake")))
    for _ in range(2):
        assert served.path.joinpath("file").read_text() == "contents"
    served.child.unmount()
    assert tracebacks(served, 2)
    assert len(served.notes("close")) == 2
    assert served.ended() == 0


def read_file(path: Path) -> object:
    """With one request, which a kernel that reads ahead would repeat when it fails."""
    fd = os.open(path / "file", os.O_RDONLY | os.O_DIRECT)
    try:
        return os.pread(fd, 4, 0)
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------------ replies


def test_a_short_write_is_a_short_write(serve: Serve) -> None:
    class Short(Noting):
        def open(self, node: int, flags: int, cred: puffs.Cred) -> puffs.Open:
            return puffs.Open(direct_io=True)

        def write(self, node: int, offset: int, data: memoryview, file: object) -> int:
            return super().write(node, offset, data[:3], file)

    served = serve(Short)
    fd = os.open(served.path / "file", os.O_WRONLY)
    try:
        assert os.pwrite(fd, b"1234", 0) == 3
    finally:
        os.close(fd)
    assert served.log == []


def test_a_name_that_is_no_text_comes_back_as_it_was(serve: Serve) -> None:
    served = serve(Noting)
    raw = b"latin-1 \xe4, broken utf-8 \xc3, control \x01\n\x7f"
    where = os.fsencode(served.path) + b"/" + raw
    os.mkdir(where)
    assert raw in os.listdir(os.fsencode(served.path))
    os.symlink(raw, where + b"/link")
    assert os.readlink(where + b"/link") == raw
    os.rename(where, where + b"\xff")
    assert os.lstat(where + b"\xff/link").st_mode == stat.S_IFLNK | 0o777
    os.setxattr(where + b"\xff", b"user.\xe4", b"\xff")
    assert os.listxattr(where + b"\xff") == [os.fsdecode(b"user.\xe4")]
    os.remove(where + b"\xff/link")
    os.rmdir(where + b"\xff")
    assert raw not in os.listdir(os.fsencode(served.path))
    assert served.log == []
