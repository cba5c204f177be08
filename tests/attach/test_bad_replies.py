"""What a file server returns is not believed (statement 2.7).

A reply that cannot be given costs one caller an error, and leaves nothing counted and nothing open.
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

import pytest

import puffs
from puffs.attach.fuse import abi
from puffs.attach.fuse.abi import Opcode
from tests.attach.fake_kernel import ROOT, FakeKernel, Reply
from tests.attach.toy import ROOT as ROOT_COOKIE
from tests.attach.toy import Bare, Toy

pytestmark = pytest.mark.usefixtures("loop")


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


def dirent(name: object, **other: Any) -> list[puffs.DirEntry]:
    return [puffs.DirEntry(name, **other)]  # type: ignore[arg-type]


FILE = stat.S_IFREG | 0o644
GOOD = puffs.Attr(FILE)
NEW = {
    Opcode.MKDIR: "mkdir",
    Opcode.MKNOD: "mknod",
    Opcode.SYMLINK: "symlink",
    Opcode.CREATE: "create",
    Opcode.TMPFILE: "tmpfile",
}

BAD: list[tuple[Opcode, str, object, str]] = [
    (Opcode.LOOKUP, "lookup", None, "LOOKUP"),
    (Opcode.LOOKUP, "lookup", puffs.Entry(None, GOOD), "LOOKUP"),
    (Opcode.LOOKUP, "lookup", ROOT_COOKIE, "LOOKUP"),
    (Opcode.LOOKUP, "lookup", puffs.Entry(ROOT_COOKIE, GOOD), "LOOKUP"),
    (Opcode.LOOKUP, "lookup", [1], "LOOKUP"),
    (Opcode.LOOKUP, "lookup", ("pair", [1]), "LOOKUP"),
    (Opcode.LOOKUP, "lookup", Unhashable(), "LOOKUP"),
    (Opcode.LOOKUP, "lookup", puffs.Entry(5, "attr"), "ERROR"),  # type: ignore[arg-type]
    (Opcode.LOOKUP, "lookup", puffs.Entry(5, puffs.Attr(0o644)), "MAKENODE"),
    (Opcode.LOOKUP, "getattr", None, "ERROR"),
    (Opcode.GETATTR, "getattr", None, "ERROR"),
    (Opcode.GETATTR, "getattr", 0o644, "ERROR"),
    (Opcode.STATX, "getattr", None, "ERROR"),
    (Opcode.SETATTR, "setattr", 17, "ERROR"),
    *((opcode, name, None, "MAKENODE") for opcode, name in NEW.items()),
    *((opcode, name, ROOT_COOKIE, "MAKENODE") for opcode, name in NEW.items()),
    *((opcode, name, ROOT_COOKIE + 1, "MAKENODE") for opcode, name in NEW.items()),
    *((opcode, name, [], "MAKENODE") for opcode, name in NEW.items()),
    (Opcode.CREATE, "create", (None, "file"), "MAKENODE"),
    (Opcode.CREATE, "create", (ROOT_COOKIE + 1, "file"), "MAKENODE"),
    (Opcode.READ, "read", b"12345", "READ"),
    (Opcode.READ, "read", bytearray(5), "READ"),
    (Opcode.READ, "read", None, "READ"),
    (Opcode.READ, "read", "text", "READ"),
    (Opcode.WRITE, "write", 5, "WRITE"),
    (Opcode.WRITE, "write", -1, "WRITE"),
    (Opcode.WRITE, "write", None, "WRITE"),
    (Opcode.WRITE, "write", 4.0, "WRITE"),
    (Opcode.WRITE, "write", True, "WRITE"),
    (Opcode.COPY_FILE_RANGE, "copy_file_range", 5, "WRITE"),
    (Opcode.COPY_FILE_RANGE_64, "copy_file_range", 5, "WRITE"),
    (Opcode.READLINK, "readlink", "a\0b", "READLINK"),
    (Opcode.READLINK, "readlink", "", "READLINK"),
    (Opcode.READLINK, "readlink", "x" * 4096, "READLINK"),
    (Opcode.READLINK, "readlink", None, "READLINK"),
    (Opcode.READDIR, "readdir", dirent("a/b"), "READDIR"),
    (Opcode.READDIR, "readdir", dirent("a\0b"), "READDIR"),
    (Opcode.READDIR, "readdir", dirent(""), "READDIR"),
    (Opcode.READDIR, "readdir", dirent("x" * 256), "READDIR"),
    (Opcode.READDIR, "readdir", dirent(b"bytes"), "READDIR"),
    (Opcode.READDIR, "readdir", [7], "READDIR"),
    (Opcode.READDIR, "readdir", dirent("a", next=1) + dirent("b", next=-1), "READDIR"),
    (Opcode.READDIR, "readdir", dirent("a", next=(1 << 63) - 2), "READDIR"),
    (Opcode.READDIRPLUS, "readdir", dirent("a/b"), "READDIR"),
    (Opcode.READDIRPLUS, "readdir", dirent("a", entry=puffs.Entry(None, GOOD)), "LOOKUP"),
    (Opcode.READDIRPLUS, "readdir", dirent("a", entry=puffs.Entry(ROOT_COOKIE, GOOD)), "LOOKUP"),
    (Opcode.GETXATTR, "getxattr", "text", "GETEXTATTR"),
    (Opcode.GETXATTR, "getxattr", bytes(65537), "GETEXTATTR"),
    (Opcode.LISTXATTR, "listxattr", "user.a", "LISTEXTATTR"),
    (Opcode.LISTXATTR, "listxattr", ["a\0b"], "LISTEXTATTR"),
    (Opcode.LISTXATTR, "listxattr", [""], "LISTEXTATTR"),
    (Opcode.LSEEK, "seek", -1, "ERROR"),
    (Opcode.LSEEK, "seek", None, "ERROR"),
    (Opcode.IOCTL, "ioctl", b"12345", "ERROR"),
    (Opcode.IOCTL, "ioctl", "text", "ERROR"),
    (Opcode.STATFS, "statvfs", 1, "ERROR"),
]
"""Opcode, operation, what it returns, and the kind that the file server is told."""

BAD_BUT_A_MISTAKE: list[tuple[Opcode, str, object]] = [
    # Numbers that no field of a reply holds: an error for the caller and a traceback.
    (Opcode.LOOKUP, "lookup", puffs.Entry(5, puffs.Attr(FILE, ino=-1))),
    (Opcode.LOOKUP, "lookup", puffs.Entry(5, puffs.Attr(FILE, ino=1 << 64))),
    (Opcode.LOOKUP, "lookup", puffs.Entry(5, GOOD, name_ttl="long")),  # type: ignore[arg-type]
    (Opcode.MKDIR, "mkdir", puffs.Entry(5, puffs.Attr(FILE, ino=-1))),
    (Opcode.CREATE, "create", (puffs.Entry(5, puffs.Attr(FILE, ino=-1)), "file")),
    (Opcode.GETATTR, "getattr", puffs.Attr(FILE, ino=-1)),
    (Opcode.READDIRPLUS, "readdir", dirent("a", entry=puffs.Entry(5, puffs.Attr(FILE, ino=-1)))),
    (Opcode.READDIRPLUS, "readdir", dirent("a", ino=-1, entry=puffs.Entry(5, GOOD))),
    (Opcode.READDIR, "readdir", dirent("a", ino=-1)),
    (Opcode.POLL, "poll", None),
    (Opcode.OPEN, "open", puffs.Open("file", direct_io=[])),  # type: ignore[arg-type]
    (Opcode.OPENDIR, "opendir", puffs.Open("file", direct_io=[])),  # type: ignore[arg-type]
]


def ask_on(kernel: FakeKernel, toy: Toy, opcode: Opcode) -> Callable[[], Reply]:
    """A request of this opcode that succeeds unless the file server spoils it."""
    file, link = kernel.lookup(b"file"), kernel.lookup(b"link")
    fh, dh = kernel.open(file, flags=os.O_RDWR), kernel.open(ROOT, Opcode.OPENDIR)
    toy.calls.clear()
    asked: dict[Opcode, Callable[[], Reply]] = {
        Opcode.LOOKUP: lambda: kernel.ask(Opcode.LOOKUP, ROOT, b"dir"),
        Opcode.GETATTR: lambda: kernel.ask(Opcode.GETATTR, file),
        Opcode.STATX: lambda: kernel.ask(Opcode.STATX, file),
        Opcode.SETATTR: lambda: kernel.ask(Opcode.SETATTR, file, valid=1, mode=0o600),
        Opcode.MKNOD: lambda: kernel.ask(Opcode.MKNOD, ROOT, b"new", mode=FILE),
        Opcode.SYMLINK: lambda: kernel.ask(Opcode.SYMLINK, ROOT, b"new", b"target"),
        Opcode.READ: lambda: kernel.ask(Opcode.READ, file, fh=fh, size=4),
        Opcode.WRITE: lambda: kernel.ask(Opcode.WRITE, file, data=b"1234", fh=fh, size=4),
        Opcode.COPY_FILE_RANGE: lambda: kernel.ask(
            opcode, file, fh_in=fh, nodeid_out=file, fh_out=fh, len=4
        ),
        Opcode.COPY_FILE_RANGE_64: lambda: kernel.ask(
            opcode, file, fh_in=fh, nodeid_out=file, fh_out=fh, len=4
        ),
        Opcode.READLINK: lambda: kernel.ask(Opcode.READLINK, link),
        Opcode.READDIR: lambda: kernel.ask(opcode, ROOT, fh=dh, size=4096),
        Opcode.READDIRPLUS: lambda: kernel.ask(opcode, ROOT, fh=dh, size=4096),
        Opcode.GETXATTR: lambda: kernel.ask(Opcode.GETXATTR, file, b"user.a"),
        Opcode.LISTXATTR: lambda: kernel.ask(Opcode.LISTXATTR, file),
        Opcode.LSEEK: lambda: kernel.ask(Opcode.LSEEK, file, fh=fh, whence=os.SEEK_HOLE),
        Opcode.IOCTL: lambda: kernel.ask(Opcode.IOCTL, file, fh=fh, out_size=4),
        Opcode.STATFS: lambda: kernel.ask(Opcode.STATFS, ROOT),
        Opcode.POLL: lambda: kernel.ask(Opcode.POLL, file, fh=fh),
        Opcode.OPEN: lambda: kernel.ask(Opcode.OPEN, file),
        Opcode.OPENDIR: lambda: kernel.ask(Opcode.OPENDIR, ROOT),
    }
    return asked.get(opcode, lambda: kernel.ask(opcode, ROOT, b"new"))


def counts(kernel: FakeKernel) -> dict[object, tuple[int, int]]:
    """By cookie, how often the kernel half thinks that the kernel knows it and has it open."""
    return {vnode.cookie: (vnode.lookups, vnode.opens) for vnode in kernel.mount.vnodes}


def shown(value: object) -> str:
    return value.name if isinstance(value, Opcode) else repr(value)[:40]


@pytest.mark.parametrize(("opcode", "operation", "reply", "kind"), BAD, ids=shown)
def test_a_bad_reply_is_a_protocol_error(
    opcode: Opcode,
    operation: str,
    reply: object,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    toy = Toy()
    with FakeKernel(toy) as kernel:
        ask = ask_on(kernel, toy, opcode)
        before = counts(kernel)
        toy.reply[operation] = reply
        assert errno.errorcode.get(ask().error) == "EPROTO"
        (fault,) = toy.called("error")
        assert fault[0] == kind
        assert fault[2]  # for people
        assert counts(kernel) == before
        assert [record.exc_info for record in caplog.records] == [None]
        toy.reply.clear()
        assert kernel.ask(Opcode.GETATTR, ROOT).error == 0
        assert kernel.until_quiet() == []


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(("opcode", "operation", "reply"), BAD_BUT_A_MISTAKE, ids=shown)
def test_a_mistaken_reply_leaves_nothing_counted(
    opcode: Opcode, operation: str, reply: object
) -> None:
    toy = Toy()
    with FakeKernel(toy) as kernel:
        ask = ask_on(kernel, toy, opcode)
        before = counts(kernel)
        toy.reply[operation] = reply
        assert ask().error in (errno.EIO, errno.EPROTO)
        toy.reply.clear()
        assert counts(kernel) == before
        assert kernel.until_quiet() == []
    made = len(toy.called("open")) + len(toy.called("create")) + len(toy.called("opendir"))
    closed = len(toy.called("close")) + len(toy.called("closedir"))
    assert closed == made + 2  # what the test had opened before counting


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    "reply",
    [
        (puffs.Entry(5, puffs.Attr(FILE, ino=-1)), "file"),
        (puffs.Entry(5, GOOD, attr_ttl="long"), "file"),  # type: ignore[arg-type]
        (5, "file"),  # of which getattr knows nothing
        (5, puffs.Open("file", direct_io=[])),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_what_create_opened_is_closed_when_its_reply_is_bad(reply: object) -> None:
    toy = Toy()
    with FakeKernel(toy) as kernel:
        kernel.lookup(b"file")
        toy.reply["create"] = reply
        assert kernel.ask(Opcode.CREATE, ROOT, b"new").error in (errno.EPROTO, errno.EIO)
        assert [args[1] for args in toy.called("close")] == ["file"]


@pytest.mark.usefixtures("silent")
def test_an_open_file_of_a_class_without_open_and_close_is_refused_and_not_counted() -> None:
    class Confused(Bare):
        def create(
            self, dir: int, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
        ) -> tuple[int, object]:
            return 7, "file"

    with FakeKernel(Confused()) as kernel:
        before = counts(kernel)
        assert kernel.ask(Opcode.CREATE, ROOT, b"new").error == errno.EPROTO
        assert counts(kernel) == before


@pytest.mark.usefixtures("silent")
def test_a_lock_that_cannot_be_given_back_does_not_keep_the_file_open() -> None:
    toy = Toy()
    with FakeKernel(toy) as kernel:
        file = kernel.lookup(b"file")
        fh = kernel.open(file)
        toy.refuse["advlock"] = OSError(errno.ENOLCK, "no locks")
        kernel.ask(Opcode.RELEASE, file, fh=fh, release_flags=abi.FUSE_RELEASE_FLOCK_UNLOCK)
        assert len(toy.called("close")) == len(toy.called("inactive")) == 1


@pytest.mark.parametrize(
    ("refused", "code"), [("advlock", 0), ("flush", errno.ENOSPC), ("close", 0)]
)
def test_closing_tells_what_went_wrong_with_writing_and_not_with_locks(
    refused: str, code: int
) -> None:
    toy = Toy()
    with FakeKernel(toy) as kernel:
        file = kernel.lookup(b"file")
        fh = kernel.open(file)
        toy.refuse[refused] = OSError(errno.ENOSPC, "no room")
        assert kernel.ask(Opcode.FLUSH, file, fh=fh, lock_owner=7).error == code
        assert len(toy.called("advlock")) == len(toy.called("flush")) == 1


def test_a_class_with_fsyncdir_alone_can_be_mounted() -> None:
    class Odd(Bare):
        def fsyncdir(self, dir: int, datasync: bool, file: object) -> None:
            pass

    with FakeKernel(Odd()) as kernel:
        assert kernel.ask(Opcode.FSYNCDIR, ROOT).error == errno.ENOSYS


# ------------------------------------------------------------------------- data that is kept


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize(
    "keep",
    [
        lambda data: data,
        lambda data: data[:],
        lambda data: data[1:3],
        lambda data: memoryview(data),
        lambda data: data[2:].cast("B"),
        lambda data: iter(data),
    ],
    ids=["itself", "whole", "slice", "view", "cast", "iterator"],
)
def test_data_that_is_kept_never_shows_another_request(
    keep: Callable[[memoryview], Any], failing: bool
) -> None:
    kept: list[Any] = []

    class Keeper(Toy):
        def write(self, node: int, offset: int, data: memoryview, file: object) -> int:
            kept.append(keep(data))
            if failing and offset:
                raise OSError(errno.ENOSPC, "full")
            return len(data)

        def operations(self) -> dict[str, Callable[..., Any]]:
            return {**super().operations(), "write": self.write}

    toy = Keeper()
    kept.clear()
    with FakeKernel(toy) as kernel:
        file = kernel.lookup(b"file")
        for at, data in enumerate((b"aaaa", b"bbbb", b"cccc")):
            reply = kernel.ask(Opcode.WRITE, file, data=data, offset=at, size=4)
            assert reply.error == (errno.ENOSPC if failing and at else 0)
            assert kernel.until_quiet() == []
        for view, byte in zip(kept, b"abc", strict=True):
            try:
                seen = set(view)
            except ValueError:  # released: using it raises
                continue
            assert seen <= {byte}
        assert kernel.ask(Opcode.GETATTR, ROOT).error == 0
        kept.clear()
