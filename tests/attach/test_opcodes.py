"""Each opcode of the protocol, sent by a fake kernel to a file server that has every operation, and
to one that has three.
"""

import errno
import fcntl
import os
import select
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import puffs
from puffs.attach.fuse import abi
from puffs.attach.fuse.abi import MESSAGES, Opcode
from tests.attach.fake_kernel import ROOT, Dirent, FakeKernel, Reply, dirents, request_body
from tests.attach.toy import ROOT as ROOT_COOKIE
from tests.attach.toy import Bare, Toy

pytestmark = pytest.mark.usefixtures("loop")

NOT_OPEN = 0
"""The `fh` that a kernel sends when an open needed no message."""

OWNER = 0xABCDEF
COMMAND = 0xC0087701


@dataclass
class Stage:
    """A kernel that knows what the toy begins with, and has it open."""

    kernel: FakeKernel
    toy: Toy
    file: int = field(init=False)
    dir: int = field(init=False)
    link: int = field(init=False)
    fh: int = field(init=False)
    dh: int = field(init=False)

    def __post_init__(self) -> None:
        self.file, self.dir, self.link = (
            self.kernel.lookup(name) for name in (b"file", b"dir", b"link")
        )
        self.fh = self.kernel.open(self.file, flags=os.O_RDWR)
        self.dh = self.kernel.open(ROOT, Opcode.OPENDIR)
        self.kernel.ask(Opcode.SETXATTR, self.file, b"user.a", data=b"value", size=5)
        self.toy.calls.clear()

    def cookie(self, name: str) -> int:
        return self.toy.names[ROOT_COOKIE, name]


@pytest.fixture
def stage() -> Iterator[Stage]:
    toy = Toy()
    with FakeKernel(toy) as kernel:
        yield Stage(kernel, toy)


@dataclass
class Case:
    """A request, as keywords of `FakeKernel.ask`; what must be called; what must come back.

    Strings in `nodeid` and in the values of `fields` name attributes of the stage.
    """

    nodeid: str | int = ROOT
    names: tuple[bytes, ...] = ()
    data: bytes = b""
    fields: dict[str, str | int] = field(default_factory=dict)
    call: str | None = None
    error: int = 0
    gives: dict[str, int] = field(default_factory=dict)
    body: bytes | None = None

    def body_on(self, opcode: Opcode, stage: Stage | None) -> tuple[int, bytes]:
        """The node and the body of the request, on a stage, or with made-up numbers."""

        def number(value: str | int) -> int:
            if isinstance(value, int):
                return value
            known = (
                getattr(stage, value)
                if stage is not None
                else NOT_OPEN
                if value in ("fh", "dh")
                else ROOT
            )
            assert isinstance(known, int)
            return known

        fields = {name: number(value) for name, value in self.fields.items()}
        return number(self.nodeid), request_body(opcode, fields, self.names, self.data)


IFREG, IFDIR, IFLNK, IFIFO = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO
COPY: dict[str, str | int] = {
    "fh_in": "fh",
    "off_in": 2,
    "nodeid_out": "file",
    "fh_out": "fh",
    "off_out": 8,
    "len": 4,
}
LOCK: dict[str, str | int] = {
    "fh": "fh",
    "owner": OWNER,
    "lk_start": 5,
    "lk_end": 9,
    "lk_type": fcntl.F_WRLCK,
    "lk_pid": 99,
}

CASES: dict[Opcode, Case] = {
    Opcode.LOOKUP: Case(ROOT, (b"file",), call="lookup", gives={"attr_mode": IFREG | 0o644}),
    Opcode.FORGET: Case("file", fields={"nlookup": 1}, call="close"),
    Opcode.GETATTR: Case("file", call="getattr", gives={"attr_size": 8, "attr_valid": 1}),
    Opcode.SETATTR: Case(
        "file",
        fields={"valid": abi.FATTR_MODE | abi.FATTR_SIZE, "mode": 0o100600, "size": 3},
        call="setattr",
        gives={"attr_mode": IFREG | 0o600, "attr_size": 3},
    ),
    Opcode.READLINK: Case("link", call="readlink", body=b"target"),
    Opcode.SYMLINK: Case(
        ROOT, (b"new", b"to here"), call="symlink", gives={"attr_mode": IFLNK | 0o777}
    ),
    Opcode.MKNOD: Case(
        ROOT,
        (b"new",),
        fields={"mode": IFIFO | 0o600},
        call="mknod",
        gives={"attr_mode": IFIFO | 0o600},
    ),
    Opcode.MKDIR: Case(
        ROOT, (b"new",), fields={"mode": 0o750}, call="mkdir", gives={"attr_mode": IFDIR | 0o750}
    ),
    Opcode.UNLINK: Case(ROOT, (b"file",), call="remove"),
    Opcode.RMDIR: Case(ROOT, (b"dir",), call="rmdir"),
    Opcode.RENAME: Case(ROOT, (b"file", b"new"), fields={"newdir": "dir"}, call="rename"),
    Opcode.LINK: Case(
        "dir", (b"new",), fields={"oldnodeid": "file"}, call="link", gives={"attr_nlink": 2}
    ),
    Opcode.OPEN: Case("file", fields={"flags": os.O_RDWR}, call="open"),
    Opcode.READ: Case(
        "file", fields={"fh": "fh", "offset": 2, "size": 4}, call="read", body=b"nten"
    ),
    Opcode.WRITE: Case(
        "file",
        data=b"xyz",
        fields={"fh": "fh", "offset": 6, "size": 3},
        call="write",
        gives={"size": 3},
    ),
    Opcode.STATFS: Case(call="statvfs", gives={"st_blocks": 1000, "st_bavail": 10}),
    Opcode.RELEASE: Case("file", fields={"fh": "fh", "flags": os.O_RDWR}, call="close"),
    Opcode.FSYNC: Case("file", fields={"fh": "fh", "fsync_flags": 1}, call="fsync"),
    Opcode.SETXATTR: Case("file", (b"user.b",), b"\0val", {"size": 4, "flags": 1}, "setxattr"),
    Opcode.GETXATTR: Case("file", (b"user.a",), call="getxattr", gives={"size": 5}),
    Opcode.LISTXATTR: Case("file", fields={"size": 7}, call="listxattr", body=b"user.a\0"),
    Opcode.REMOVEXATTR: Case("file", (b"user.a",), call="removexattr"),
    Opcode.FLUSH: Case("file", fields={"fh": "fh", "lock_owner": OWNER}, call="flush"),
    Opcode.INIT: Case(0, fields={"major": 7, "minor": 45}, error=errno.EIO),
    Opcode.OPENDIR: Case("dir", call="opendir"),
    Opcode.READDIR: Case(ROOT, fields={"fh": "dh", "size": 4096}, call="readdir"),
    Opcode.RELEASEDIR: Case(ROOT, fields={"fh": "dh"}, call="closedir"),
    Opcode.FSYNCDIR: Case(ROOT, fields={"fh": "dh"}, call="fsyncdir"),
    Opcode.GETLK: Case(
        "file",
        fields=LOCK,
        call="advlock",
        gives={"lk_start": 5, "lk_end": 9, "lk_type": fcntl.F_WRLCK, "lk_pid": 4711},
    ),
    Opcode.SETLK: Case("file", fields=LOCK, call="advlock"),
    Opcode.SETLKW: Case("file", fields=LOCK, call="advlock"),
    Opcode.ACCESS: Case("file", fields={"mask": os.R_OK}, call="access"),
    Opcode.CREATE: Case(
        ROOT,
        (b"new",),
        fields={"flags": os.O_RDWR | os.O_CREAT | os.O_EXCL, "mode": IFREG | 0o640, "umask": 0o27},
        call="create",
        gives={"entry_attr_mode": IFREG | 0o640},
    ),
    Opcode.INTERRUPT: Case(0, fields={"unique": 2}),
    Opcode.BMAP: Case("file", fields={"blocksize": 512}, error=errno.ENOSYS),
    Opcode.DESTROY: Case(0),
    Opcode.IOCTL: Case(
        "file",
        data=b"12345678",
        fields={"fh": "fh", "cmd": COMMAND, "in_size": 8, "out_size": 8},
        call="ioctl",
        body=abi.IOCTL_OUT.pack(result=7) + b"87654321",
    ),
    Opcode.POLL: Case(
        "file",
        fields={"fh": "fh", "kh": 5, "events": select.POLLIN | select.POLLOUT},
        call="poll",
        gives={"revents": select.POLLIN},
    ),
    Opcode.NOTIFY_REPLY: Case("file", data=b"page", fields={"size": 4}),
    Opcode.BATCH_FORGET: Case(
        0, data=abi.FORGET_ONE.pack(nodeid=99, nlookup=1), fields={"count": 1}
    ),
    Opcode.FALLOCATE: Case(
        "file", fields={"fh": "fh", "offset": 1, "length": 2, "mode": 3}, call="fallocate"
    ),
    Opcode.READDIRPLUS: Case(ROOT, fields={"fh": "dh", "size": 4096}, call="readdir"),
    Opcode.RENAME2: Case(
        ROOT, (b"file", b"new"), fields={"newdir": ROOT, "flags": 1}, call="rename"
    ),
    Opcode.LSEEK: Case(
        "file",
        fields={"fh": "fh", "offset": 3, "whence": os.SEEK_HOLE},
        call="seek",
        gives={"offset": 8},
    ),
    Opcode.COPY_FILE_RANGE: Case("file", fields=COPY, call="copy_file_range", gives={"size": 4}),
    Opcode.SETUPMAPPING: Case("file", fields={"fh": "fh"}, error=errno.ENOSYS),
    Opcode.REMOVEMAPPING: Case("file", error=errno.ENOSYS),
    Opcode.SYNCFS: Case(call="sync"),
    Opcode.TMPFILE: Case(
        ROOT,
        (b"",),
        fields={"flags": os.O_RDWR, "mode": IFREG | 0o600},
        call="tmpfile",
        gives={"entry_attr_mode": IFREG | 0o600, "entry_attr_nlink": 0},
    ),
    Opcode.STATX: Case("file", call="getattr", gives={"stat_size": 8, "stat_mode": IFREG | 0o644}),
    Opcode.COPY_FILE_RANGE_64: Case(
        "file", fields=COPY, call="copy_file_range", gives={"bytes_copied": 4}
    ),
    Opcode.CUSE_INIT: Case(0, error=errno.ENOSYS),
}

FEW: dict[Opcode, int] = {
    # What a file server without the operation must give: the kernel is told not to ask again
    # (ENOSYS) where it then does the right thing by itself, and never a success that is none.
    **dict.fromkeys(MESSAGES, errno.ENOSYS),
    **dict.fromkeys(
        (
            Opcode.SETATTR,
            Opcode.READLINK,
            Opcode.SYMLINK,
            Opcode.MKNOD,
            Opcode.MKDIR,
            Opcode.UNLINK,
            Opcode.RMDIR,
            Opcode.RENAME,
            Opcode.RENAME2,
            Opcode.LINK,
            Opcode.READ,
            Opcode.WRITE,
            Opcode.OPENDIR,
            Opcode.READDIR,
            Opcode.READDIRPLUS,
            Opcode.RELEASEDIR,
        ),
        errno.EOPNOTSUPP,
    ),
    Opcode.LOOKUP: 0,
    Opcode.GETATTR: 0,
    Opcode.STATX: 0,
    Opcode.STATFS: 0,
    Opcode.RELEASE: 0,
    Opcode.DESTROY: 0,
    Opcode.INIT: errno.EIO,
}

EACH = pytest.mark.parametrize("opcode", MESSAGES, ids=lambda opcode: opcode.name)


def size_of(opcode: Opcode) -> int:
    layout = MESSAGES[opcode].reply
    return layout.size if layout is not None else 0


def assert_one(opcode: Opcode, replies: list[Reply]) -> Reply | None:
    """Exactly one reply where one is due, else none."""
    assert len(replies) == MESSAGES[opcode].has_reply
    return replies[0] if replies else None


@EACH
def test_an_opcode_reaches_its_operation_and_is_answered(stage: Stage, opcode: Opcode) -> None:
    case = CASES[opcode]
    nodeid, body = case.body_on(opcode, stage)
    if opcode is Opcode.FORGET:  # of a node that is still open: nothing happens until it is closed
        stage.kernel.tell(Opcode.FORGET, nodeid, nlookup=1)
        assert stage.toy.called("reclaim") == []
        stage.kernel.ask(Opcode.RELEASE, nodeid, fh=stage.fh)
        assert len(stage.toy.called("close")) == len(stage.toy.called("reclaim")) == 1
        return
    reply = assert_one(opcode, stage.kernel.replies_to(opcode, nodeid, body))
    called = [name for name, *_ in stage.toy.calls]
    assert called.count("statvfs") == 1 + (opcode is Opcode.STATFS)
    beside = {"statvfs", "getattr", "inactive"}  # the fence, attributes for a reply, closing
    if opcode is Opcode.FLUSH:
        beside.add("advlock")  # closing a descriptor gives record locks back
    assert set(called) - beside == {case.call} - {None} - beside
    assert case.call is None or case.call in called
    if reply is None:
        return
    assert reply.error == case.error, os.strerror(reply.error)
    if reply.error:
        return
    message = MESSAGES[opcode]
    if message.reply_data:
        assert case.body is None or reply.body == case.body
    else:
        assert len(reply.body) == size_of(opcode)
    if message.reply is not None and not case.body:
        got = reply.fields(opcode)
        assert case.gives.items() <= got.items()


@pytest.mark.statement("O1", "2.6")
@EACH
def test_a_file_server_without_the_operation_gives_an_errno(opcode: Opcode) -> None:
    with FakeKernel(Bare()) as kernel:
        nodeid, body = CASES[opcode].body_on(opcode, None)
        reply = assert_one(opcode, kernel.replies_to(opcode, nodeid, body))
        if reply is None:
            return
        assert errno.errorcode.get(reply.error) == errno.errorcode.get(FEW[opcode])
        if not reply.error:
            assert len(reply.body) == size_of(opcode)


@EACH
def test_a_node_that_nobody_knows_is_stale(stage: Stage, opcode: Opcode) -> None:
    case = CASES[opcode]
    _, body = case.body_on(opcode, stage)
    reply = assert_one(opcode, stage.kernel.replies_to(opcode, 4711, body))
    # Those that are about no file in particular, and those that are refused in any case.
    indifferent = (Opcode.STATFS, Opcode.SYNCFS, Opcode.DESTROY)
    if reply is not None and case.error == 0 and opcode not in indifferent:
        if opcode in (Opcode.READDIR, Opcode.RELEASE, Opcode.RELEASEDIR):
            return  # by the open file alone
        assert errno.errorcode.get(reply.error) == "ESTALE"
        assert not [name for name, *_ in stage.toy.calls if name != "statvfs"]


@EACH
def test_an_open_file_that_nobody_knows_is_a_bad_descriptor(stage: Stage, opcode: Opcode) -> None:
    case = CASES[opcode]
    if "fh" not in case.fields and "fh_in" not in case.fields:
        return
    _, body = case.body_on(opcode, stage)
    layout = MESSAGES[opcode].request
    assert layout is not None
    for name in ("fh", "fh_in", "fh_out"):
        if name not in layout.fields or case.error:
            continue
        at, _ = layout.fields[name]
        nodeid = getattr(stage, case.nodeid) if isinstance(case.nodeid, str) else case.nodeid
        unknown = body[:at] + (4711).to_bytes(8, "little") + body[at + 8 :]
        reply = stage.kernel.exchange(opcode, nodeid, unknown)
        assert errno.errorcode.get(reply.error) == "EBADF"
        assert not [name for name, *_ in stage.toy.calls if name != "statvfs"]


@pytest.mark.parametrize("opcode", [0, 7, 19, 54, 63, 64, 100, 4095, 4097, 1048576, 2**32 - 1])
def test_an_opcode_that_does_not_exist_is_not_implemented(stage: Stage, opcode: int) -> None:
    (reply,) = stage.kernel.replies_to(opcode, ROOT, bytes(16))
    assert reply.error == errno.ENOSYS


@EACH
def test_an_error_of_the_file_server_reaches_the_caller(stage: Stage, opcode: Opcode) -> None:
    case = CASES[opcode]
    if case.call is None or case.call in ("statvfs",):
        return
    stage.toy.refuse[case.call] = OSError(errno.EDQUOT, "no more")
    nodeid, body = case.body_on(opcode, stage)
    reply = assert_one(opcode, stage.kernel.replies_to(opcode, nodeid, body))
    if reply is not None:
        assert errno.errorcode.get(reply.error) == "EDQUOT"
        assert reply.body == b""
    del stage.toy.refuse[case.call]
    stage.kernel.lookup(b"link")  # it goes on


# ---------------------------------------------------------------------- what operations are given


def arguments(stage: Stage, opcode: Opcode, **other: Any) -> list[Any]:
    """What the operation of an opcode was called with."""
    case = CASES[opcode]
    nodeid, body = case.body_on(opcode, stage)
    assert stage.kernel.exchange(opcode, nodeid, body, **other).error == 0
    assert case.call is not None
    (args,) = stage.toy.called(case.call)
    return list(args)


GIVEN: dict[Opcode, Callable[[Stage], list[Any]]] = {
    Opcode.LOOKUP: lambda s: [ROOT_COOKIE, "file", puffs.Cred(12, 34, os.getpid())],
    Opcode.READLINK: lambda s: [s.cookie("link")],
    Opcode.UNLINK: lambda s: [ROOT_COOKIE, "file", puffs.Cred(12, 34, os.getpid())],
    Opcode.RMDIR: lambda s: [ROOT_COOKIE, "dir", puffs.Cred(12, 34, os.getpid())],
    Opcode.RENAME: lambda s: [
        ROOT_COOKIE,
        "file",
        s.cookie("dir"),
        "new",
        0,
        puffs.Cred(12, 34, os.getpid()),
    ],
    Opcode.RENAME2: lambda s: [
        ROOT_COOKIE,
        "file",
        ROOT_COOKIE,
        "new",
        puffs.RENAME_NOREPLACE,
        puffs.Cred(12, 34, os.getpid()),
    ],
    Opcode.LINK: lambda s: [
        s.cookie("file"),
        s.cookie("dir"),
        "new",
        puffs.Cred(12, 34, os.getpid()),
    ],
    Opcode.OPEN: lambda s: [s.cookie("file"), os.O_RDWR, puffs.Cred(12, 34, os.getpid())],
    Opcode.READ: lambda s: [s.cookie("file"), 2, 4, "file 0"],
    Opcode.WRITE: lambda s: [s.cookie("file"), 6, b"xyz", "file 0"],
    Opcode.RELEASE: lambda s: [s.cookie("file"), "file 0", os.O_RDWR],
    Opcode.FSYNC: lambda s: [s.cookie("file"), True, "file 0"],
    Opcode.FLUSH: lambda s: [s.cookie("file"), "file 0", OWNER],
    Opcode.SETXATTR: lambda s: [s.cookie("file"), "user.b", b"\0val", os.XATTR_CREATE],
    Opcode.GETXATTR: lambda s: [s.cookie("file"), "user.a"],
    Opcode.LISTXATTR: lambda s: [s.cookie("file")],
    Opcode.REMOVEXATTR: lambda s: [s.cookie("file"), "user.a"],
    Opcode.OPENDIR: lambda s: [s.cookie("dir"), puffs.Cred(12, 34, os.getpid())],
    Opcode.READDIR: lambda s: [ROOT_COOKIE, 0, "directory 1"],
    Opcode.RELEASEDIR: lambda s: [ROOT_COOKIE, "directory 1"],
    Opcode.FSYNCDIR: lambda s: [ROOT_COOKIE, False, "directory 1"],
    Opcode.GETLK: lambda s: [
        s.cookie("file"),
        "get",
        puffs.Lock(fcntl.F_WRLCK, 5, 9, 99),
        OWNER,
        "file 0",
    ],
    Opcode.SETLK: lambda s: [
        s.cookie("file"),
        "set",
        puffs.Lock(fcntl.F_WRLCK, 5, 9, 99),
        OWNER,
        "file 0",
    ],
    Opcode.SETLKW: lambda s: [
        s.cookie("file"),
        "wait",
        puffs.Lock(fcntl.F_WRLCK, 5, 9, 99),
        OWNER,
        "file 0",
    ],
    Opcode.ACCESS: lambda s: [s.cookie("file"), os.R_OK, puffs.Cred(12, 34, os.getpid())],
    Opcode.IOCTL: lambda s: [
        s.cookie("file"),
        COMMAND,
        b"12345678",
        8,
        "file 0",
        puffs.Cred(12, 34, os.getpid()),
    ],
    Opcode.POLL: lambda s: [s.cookie("file"), select.POLLIN | select.POLLOUT, "file 0", None],
    Opcode.FALLOCATE: lambda s: [s.cookie("file"), 3, 1, 2, "file 0"],
    Opcode.LSEEK: lambda s: [s.cookie("file"), 3, os.SEEK_HOLE, "file 0"],
    Opcode.COPY_FILE_RANGE: lambda s: [
        s.cookie("file"),
        2,
        "file 0",
        s.cookie("file"),
        8,
        "file 0",
        4,
        0,
    ],
}


@pytest.mark.parametrize("opcode", GIVEN, ids=lambda opcode: opcode.name)
def test_an_operation_is_given_what_the_request_says(stage: Stage, opcode: Opcode) -> None:
    expected = GIVEN[opcode](stage)
    assert arguments(stage, opcode, uid=12, gid=34) == expected


@pytest.mark.parametrize(
    ("opcode", "mode", "rdev"),
    [
        (Opcode.CREATE, IFREG | 0o640, 0),
        (Opcode.MKNOD, IFIFO | 0o600, 0),
        (Opcode.MKDIR, IFDIR | 0o750, 0),
        (Opcode.SYMLINK, IFLNK | 0o777, 0),
        (Opcode.TMPFILE, IFREG | 0o600, 0),
    ],
    ids=lambda value: value.name if isinstance(value, Opcode) else "",
)
def test_a_new_file_has_mode_owner_and_times(
    stage: Stage, opcode: Opcode, mode: int, rdev: int
) -> None:
    args = arguments(stage, opcode, uid=12, gid=34)
    attr = next(arg for arg in args if isinstance(arg, puffs.Attr))
    cred = args[-1]
    assert (attr.mode, attr.uid, attr.gid, attr.rdev) == (mode, 12, 34, rdev)
    assert attr.atime_ns == attr.mtime_ns == attr.ctime_ns == attr.btime_ns != 0
    assert (cred.uid, cred.gid, cred.pid) == (12, 34, os.getpid())
    if opcode is Opcode.CREATE:
        assert args[:2] == [ROOT_COOKIE, "new"]
        assert args[3] == os.O_RDWR  # what only concerns the name has been dealt with
        assert cred.umask == 0o27
    if opcode is Opcode.SYMLINK:
        assert args[:3] == [ROOT_COOKIE, "new", "to here"]
        assert attr.size == len("to here")


def test_names_are_bytes_of_any_kind(stage: Stage) -> None:
    raw = bytes(sorted(set(range(1, 256)) - {ord("/")}))
    stage.kernel.entry(Opcode.MKDIR, ROOT, raw, mode=0o755)
    assert stage.toy.called("mkdir")[0][1] == os.fsdecode(raw)
    assert raw in [entry.name for entry in stage.kernel.listing(ROOT, stage.dh)]
    assert stage.kernel.lookup(raw)


def test_a_name_ends_where_the_extensions_begin(stage: Stage) -> None:
    groups = abi.EXT_HEADER.pack(size=16, type=32) + abi.SUPP_GROUPS.pack(nr_groups=1)
    extension = groups + (7).to_bytes(4, "little")
    for opcode in (Opcode.MKDIR, Opcode.MKNOD, Opcode.CREATE, Opcode.SYMLINK):
        fields = {"mode": IFREG | 0o644} if opcode is Opcode.MKNOD else {}
        names = [b"n" + opcode.name.encode(), *([b"t"] if opcode is Opcode.SYMLINK else [])]
        body = request_body(opcode, fields, names, b"") + extension
        reply = stage.kernel.exchange(opcode, ROOT, body, extensions=2)
        assert reply.error == 0
        assert (ROOT_COOKIE, "n" + opcode.name) in stage.toy.names
    assert stage.toy.called("symlink")[0][2] == "t"


def test_only_what_was_set_is_changed(stage: Stage) -> None:
    kernel, file = stage.kernel, stage.file
    past = (1 << 64) - 5  # five seconds before the epoch
    kernel.ask(Opcode.SETATTR, file, valid=abi.FATTR_UID | abi.FATTR_FH, uid=5, fh=stage.fh)
    kernel.ask(Opcode.SETATTR, file, valid=abi.FATTR_ATIME, atime=past, atimensec=250)
    kernel.ask(Opcode.SETATTR, file, valid=abi.FATTR_MTIME | abi.FATTR_MTIME_NOW)
    kernel.ask(Opcode.SETATTR, file, valid=abi.FATTR_GID | abi.FATTR_KILL_SUIDGID, gid=6)
    owner, past_time, now, group = (args[1] for args in stage.toy.called("setattr"))
    assert repr(owner) == "Changes(uid=5)"
    assert repr(past_time) == "Changes(atime_ns=-4999999750)"
    assert now.mtime_now
    assert (now.mtime_ns, now.atime_ns) == (stage.toy.attrs[101].mtime_ns, None)
    assert repr(group) == "Changes(gid=6, kill_suidgid)"
    files = [args[2] for args in stage.toy.called("setattr")]
    assert files == ["file 0", None, None, None]


# ------------------------------------------------------------------------------- open directories


def test_a_listing_has_dots_names_types_and_numbers(stage: Stage) -> None:
    entries = stage.kernel.listing(ROOT, stage.dh)
    assert [(e.name, e.type) for e in entries] == [
        (b".", IFDIR >> 12),
        (b"..", IFDIR >> 12),
        (b"file", IFREG >> 12),
        (b"dir", IFDIR >> 12),
        (b"link", IFLNK >> 12),
    ]
    assert all(entry.ino for entry in entries)
    positions = [entry.next for entry in entries]
    assert len(set(positions)) == len(positions)
    assert stage.kernel.listing(ROOT, stage.dh, positions[-1]) == []


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [320, 500, 4096])
def test_a_listing_can_be_read_in_pieces_from_any_position(
    stage: Stage, plus: bool, size: int
) -> None:
    for number in range(40):
        stage.kernel.entry(Opcode.MKDIR, stage.dir, b"entry %02d" % number)
    dh = stage.kernel.open(stage.dir, Opcode.OPENDIR)

    def read_from(offset: int) -> list[Dirent]:
        found: list[Dirent] = []
        while piece := stage.kernel.listing(stage.dir, dh, offset, size, plus=plus):
            found += piece
            offset = piece[-1].next
        return found

    whole = read_from(0)
    names = [entry.name for entry in whole]
    assert names == [b".", b"..", *(b"entry %02d" % number for number in range(40))]
    for at in (0, 1, 20, 40):
        assert [entry.name for entry in read_from(whole[at].next)] == names[at + 1 :]
    assert [entry.name for entry in read_from(0)] == names  # rewinddir


def test_a_readdirplus_tells_of_nodes_but_not_of_dots(stage: Stage) -> None:
    entries = stage.kernel.listing(ROOT, stage.dh, plus=True)
    nodes = {entry.name: entry.nodeid for entry in entries}
    assert nodes == {b".": 0, b"..": 0, b"file": stage.file, b"dir": stage.dir, b"link": stage.link}


def test_a_readdirplus_brings_attributes(stage: Stage) -> None:
    reply = stage.kernel.ask(Opcode.READDIRPLUS, ROOT, fh=stage.dh, size=4096, offset=2)
    entry = abi.ENTRY_OUT.unpack(reply.body)
    assert (entry["attr_size"], entry["attr_mode"]) == (8, IFREG | 0o644)
    assert [dirent.name for dirent in dirents(reply.body, plus=True)] == [b"file", b"dir", b"link"]
