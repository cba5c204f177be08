"""What a file server does wrong costs one caller an error, and the mount goes on."""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import puffs
from tests.attach.toy import ROOT
from tests.fuse.calls import fails
from tests.fuse.conftest import Notes, Serve, Served
from tests.fuse.servers import Noting

pytestmark = pytest.mark.fuse

FILE, DIR, LINK = ROOT + 1, ROOT + 2, ROOT + 3


class Spoilt(Noting):
    """One operation raises or returns something that it should not."""

    def __init__(self, notes: Notes, operation: str, spoil: Callable[..., Any]) -> None:
        self.spoiling = (operation, spoil)
        super().__init__(notes)

    def _recorded(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        spoilt, spoil = self.spoiling
        return super()._recorded(name, spoil if name == spoilt else operation)


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


def tracebacks(served: Served) -> int:
    return served.log.count("Traceback (most recent call last):")


# ------------------------------------------------------------------------------------- exceptions


def test_a_mistake_is_eio_and_one_traceback(spoilt: Spoil) -> None:
    served = spoilt("read", raising(ValueError("a mistake of mine")))
    with fails(errno.EIO):
        read_file(served.path)
    assert tracebacks(served) == 1
    assert served.log[0] == "read failed in the file server; the caller gets EIO"
    assert served.log[-1] == "ValueError: a mistake of mine"
    assert "test_errors.py" in "".join(served.log)  # it says where
    goes_on(served)
    with fails(errno.EIO):
        read_file(served.path)
    assert tracebacks(served) == len(served.notes("read")) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError(errno.ENOENT, "gone"), errno.ENOENT),
        (FileNotFoundError("gone"), errno.ENOENT),
        (PermissionError(), errno.EACCES),
        (OSError(errno.EDQUOT, "full"), errno.EDQUOT),
        (NotImplementedError(), errno.EOPNOTSUPP),
    ],
    ids=repr,
)
def test_an_errno_reaches_the_caller_and_not_the_log(
    spoilt: Spoil, error: Exception, code: int
) -> None:
    served = spoilt("setxattr", raising(error))
    with fails(code):
        os.setxattr(served.path / "file", "user.a", b"")
    goes_on(served)
    assert served.log == []


def test_a_name_that_is_not_there_is_no_news(serve: Serve) -> None:
    served = serve(Noting)
    with fails(errno.ENOENT):
        os.stat(served.path / "nothing")
    assert served.log == []


@pytest.mark.parametrize("number", [0, -5, 512, 4711])
def test_an_errno_that_does_not_exist_is_a_protocol_error(spoilt: Spoil, number: int) -> None:
    served = spoilt("mkdir", raising(OSError(number, "?")))
    with fails(errno.EPROTO):
        os.mkdir(served.path / "new")
    (note,) = served.notes("error")
    assert note[:2] == ("error", "ERROR")
    assert f"mkdir raised errno {number}" in note[3]
    (line,) = served.log
    assert note[3] in line
    goes_on(served)


def test_nobody_hears_of_a_failing_close(spoilt: Spoil) -> None:
    served = spoilt("close", raising(ValueError("a mistake")))
    for _ in range(2):
        assert served.path.joinpath("file").read_text() == "contents"
    served.child.unmount()
    assert tracebacks(served) == len(served.notes("close")) == 2
    assert served.ended() == 0


# ------------------------------------------------------------------------------- bad replies (2.7)


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


@dataclass
class Bad:
    """A reply that no file server may give."""

    operation: str
    reply: object
    use: Callable[[Path], object]
    kind: str
    node: int | None = None


def entry(name: object, **other: Any) -> puffs.DirEntry:
    return puffs.DirEntry(name, **other)  # type: ignore[arg-type]


def stat_new(path: Path) -> object:
    return os.stat(path / "anything")


def make_dir(path: Path) -> None:
    os.mkdir(path / "new")


def make_file(path: Path) -> object:
    return os.open(path / "new", os.O_CREAT | os.O_RDWR)


def make_fifo(path: Path) -> None:
    os.mkfifo(path / "new")


def make_link(path: Path) -> None:
    os.symlink("target", path / "new")


def read_file(path: Path) -> object:
    """With one request, which a kernel that reads ahead would repeat when it fails."""
    fd = os.open(path / "file", os.O_RDONLY | os.O_DIRECT)
    try:
        return os.pread(fd, 4, 0)
    finally:
        os.close(fd)


def write_file(path: Path) -> object:
    fd = os.open(path / "file", os.O_WRONLY)
    try:
        return os.pwrite(fd, b"1234", 0)
    finally:
        os.close(fd)


def read_link(path: Path) -> object:
    return os.readlink(path / "link")


def seek_file(path: Path) -> object:
    fd = os.open(path / "file", os.O_RDONLY)
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE)
    finally:
        os.close(fd)


BAD = [
    Bad("lookup", None, stat_new, "LOOKUP"),
    Bad("lookup", ROOT, stat_new, "LOOKUP", ROOT),
    Bad("lookup", [ROOT], stat_new, "LOOKUP"),
    Bad("lookup", ("a tuple", ["with a list"]), stat_new, "LOOKUP"),
    Bad("lookup", Unhashable(), stat_new, "LOOKUP"),
    Bad("lookup", puffs.Entry(7, puffs.Attr(0o644)), stat_new, "MAKENODE", 7),
    Bad("mkdir", None, make_dir, "MAKENODE"),
    Bad("mkdir", ROOT, make_dir, "MAKENODE", ROOT),
    Bad("mkdir", FILE, make_dir, "MAKENODE", FILE),
    Bad("create", None, make_file, "MAKENODE"),
    Bad("create", (None, "file"), make_file, "MAKENODE"),
    Bad("create", FILE, make_file, "MAKENODE", FILE),
    Bad("create", (FILE, "file"), make_file, "MAKENODE", FILE),
    Bad("mknod", FILE, make_fifo, "MAKENODE", FILE),
    Bad("symlink", FILE, make_link, "MAKENODE", FILE),
    Bad("read", bytes(4097), read_file, "READ", FILE),
    Bad("read", "text", read_file, "READ", FILE),
    Bad("read", None, read_file, "READ", FILE),
    Bad("write", 5, write_file, "WRITE", FILE),
    Bad("write", -1, write_file, "WRITE", FILE),
    Bad("write", None, write_file, "WRITE", FILE),
    Bad("readlink", "a\0b", read_link, "READLINK", LINK),
    Bad("readlink", "", read_link, "READLINK", LINK),
    Bad("readlink", "x" * 4096, read_link, "READLINK", LINK),
    Bad("readdir", [entry("a/b")], os.listdir, "READDIR", ROOT),
    Bad("readdir", [entry("a\0b")], os.listdir, "READDIR", ROOT),
    Bad("readdir", [entry("")], os.listdir, "READDIR", ROOT),
    Bad("readdir", [entry("x" * 256)], os.listdir, "READDIR", ROOT),
    Bad("readdir", [entry(b"bytes")], os.listdir, "READDIR", ROOT),
    Bad("readdir", [7], os.listdir, "READDIR", ROOT),
    Bad("readdir", [entry("a", next=5), entry("b")], os.listdir, "READDIR", ROOT),
    Bad(
        "readdir",
        [entry("a", entry=puffs.Entry(ROOT, puffs.Attr(stat.S_IFDIR)))],
        os.listdir,
        "LOOKUP",
        ROOT,
    ),
    Bad("getattr", 17, lambda path: os.stat(path / "file"), "ERROR", FILE),
    Bad("getxattr", "text", lambda path: os.getxattr(path / "file", "user.a"), "GETEXTATTR", FILE),
    Bad("listxattr", "user.a", lambda path: os.listxattr(path / "file"), "LISTEXTATTR", FILE),
    Bad("seek", -1, seek_file, "ERROR", FILE),
    Bad("statvfs", {}, os.statvfs, "ERROR"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.operation}-{bad.reply!r}"[:50])
def test_a_reply_that_no_file_server_may_give(spoilt: Spoil, bad: Bad, mountpoint: Path) -> None:
    if bad.operation == "getattr":  # the root must have attributes
        root = puffs.Attr(stat.S_IFDIR | 0o755)
        served = spoilt("getattr", lambda node, file: root if node == ROOT else bad.reply)
    elif bad.operation == "lookup":
        known = {"file": FILE, "dir": DIR, "link": LINK}
        served = spoilt("lookup", lambda dir, name, cred: known.get(name, bad.reply))
    else:
        served = spoilt(bad.operation, lambda *args: bad.reply)
        served.path.joinpath("file").stat()
        with open(served.path / "file"):  # so that its cookie stays in use
            with fails(errno.EPROTO):
                bad.use(mountpoint)
    if bad.operation in ("getattr", "lookup"):
        with fails(errno.EPROTO):
            bad.use(mountpoint)
    faults = served.notes("error")
    assert {fault[1] for fault in faults} == {bad.kind}
    for fault in faults:
        text, *node = fault[3:]
        assert text
        assert node == ([] if bad.node is None else [bad.node])
    assert len(served.log) == len(faults)
    assert tracebacks(served) == 0
    if bad.operation != "getattr":
        goes_on(served)
    assert os.path.ismount(mountpoint)


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
