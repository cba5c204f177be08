"""What no file server may do, and the places where one does it: mounted, in a process of its own,
in this process.

A case says what one operation returns or raises, who asks for it, which errno he gets, and what the
file server is told.
"""

import errno
import fcntl
import os
import select
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import puffs
from puffs.check.target import Target
from tests.attach.toy import ROOT
from tests.fuse.conftest import Notes
from tests.fuse.servers import Noting

FILE, DIR, LINK = ROOT + 1, ROOT + 2, ROOT + 3
KNOWN = {"file": FILE, "dir": DIR, "link": LINK}

MOUNTED: Final = frozenset(("direct", "isolated"))
HERE: Final = frozenset(("in process", "in process, isolated"))
EVERYWHERE: Final = MOUNTED | HERE


class Spoilt(Noting):
    """One operation raises or returns something that it should not."""

    def __init__(self, notes: Notes, operation: str, spoil: Callable[..., Any]) -> None:
        self.spoiling = (operation, spoil)
        super().__init__(notes)

    def _recorded(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        spoilt, spoil = self.spoiling
        return super()._recorded(name, spoil if name == spoilt else operation)


class Adversary(Noting):
    """Does what the case says whose number is in the file `case`; without one it is honest."""

    def __init__(self, notes: Notes, case: Path) -> None:
        self._case = case
        super().__init__(notes)

    def _recorded(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        honest = super()._recorded(name, operation)

        def call(*args: Any) -> Any:
            number = self._case.read_text()
            case = CASES[int(number)] if number else None
            return honest(*args) if case is None or case.operation != name else case.spoil()(*args)

        return call


class Unhashable:
    """What is compared by its contents and can change: Python makes no keys of such."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)


class Raises:
    """What an operation raises, as a reply."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"raises {self.error!r}"


NO: Final[Any] = "no"
"""What is nothing that a type checker would let through."""
NO_LOCK: Final = puffs.Lock(NO, 0, 0, 0)
NOT_IMPLEMENTED: Final = Raises(NotImplementedError())


@dataclass
class Case:
    """`operation` gives `reply`, and `use` has it asked for. The caller gets `errno`, and the file
    server an error of this `kind` and `hint` about `node`; "" stands for none.

    `places` has those where that is so.
    """

    operation: str
    reply: object
    use: Callable[[Target], object]
    kind: str
    node: int | None = None
    hint: int = errno.EINVAL
    errno: int = errno.EPROTO
    places: frozenset[str] = EVERYWHERE

    def __str__(self) -> str:
        return f"{self.operation}-{self.reply!r}"[:50]

    def spoil(self) -> Callable[..., Any]:
        """In place of the operation: the three files that are there are found and looked at."""

        def spoil(*args: Any) -> object:
            if self.operation == "lookup" and args[1] in KNOWN:
                return KNOWN[args[1]]
            if self.operation == "getattr" and args[0] == ROOT:
                return puffs.Attr(stat.S_IFDIR | 0o755)
            if self.operation == "advlock" and args[1] != "get":
                return None
            if isinstance(self.reply, Raises):
                raise self.reply.error
            return self.reply

        return spoil


def entry(name: Any, **other: Any) -> puffs.DirEntry:
    return puffs.DirEntry(name, **other)


def look_up(target: Target) -> object:
    return target.stat("/anything")


def look_at(target: Target) -> object:
    return target.stat("/file")


def list_(target: Target) -> object:
    return target.listdir("/")


def make_dir(target: Target) -> None:
    target.mkdir("/new")


def make_file(target: Target) -> object:
    with target.open("/new", "xb"):
        return None


def make_fifo(target: Target) -> None:
    target.mknod("/new", stat.S_IFIFO | 0o600)


def make_link(target: Target) -> None:
    target.symlink("target", "/new")


def change(target: Target) -> None:
    target.chmod("/file", 0o600)


def read(target: Target) -> object:
    with target.open("/file") as file:
        return file.read(4)


def write(target: Target) -> object:
    with target.open("/file", "r+b") as file:
        return file.write(b"1234")


def read_link(target: Target) -> object:
    return target.readlink("/link")


def seek(target: Target) -> object:
    with target.open("/file") as file:
        return file.seek(0, os.SEEK_HOLE)


def get_xattr(target: Target) -> object:
    return target.getxattr("/file", "user.a")


def set_xattr(target: Target) -> None:
    target.setxattr("/file", "user.a", b"value")


def list_xattrs(target: Target) -> object:
    return target.listxattr("/file")


def copy(target: Target) -> object:
    with target.open("/file", "r+b") as file:
        return os.copy_file_range(file.fileno(), file.fileno(), 4, 0, 100)


def control(target: Target) -> object:
    with target.open("/file") as file:
        return fcntl.ioctl(file.fileno(), 0x80047001, bytes(4))  # _IOR('p', 1, 4 bytes)


def poll(target: Target) -> int:
    """What poll(2) says, where it cannot fail."""
    with target.open("/file") as file:
        waiting = select.poll()
        waiting.register(file.fileno(), select.POLLIN)
        return waiting.poll(0)[0][1]


def test_lock(target: Target) -> object:
    with target.open("/file", "r+b") as file:
        asked = struct.pack("@hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock
        return fcntl.fcntl(file.fileno(), fcntl.F_GETLK, asked)


def make_nameless(target: Target) -> object:
    os.close(os.open(target.at("/dir"), os.O_TMPFILE | os.O_RDWR))
    return None


_MAKING: Final = {
    "mkdir": make_dir,
    "create": make_file,
    "mknod": make_fifo,
    "symlink": make_link,
    "tmpfile": make_nameless,
}


def _bad_nodes() -> list[Case]:
    """Cookies that a new file cannot have."""
    cases = []
    for operation, use in _MAKING.items():
        places = MOUNTED if operation == "tmpfile" else EVERYWHERE
        for reply, node, hint in (
            (None, None, errno.EINVAL),
            ([], None, errno.EINVAL),
            (FILE, FILE, errno.EEXIST),
            (puffs.Entry(FILE, puffs.Attr(stat.S_IFREG)), FILE, errno.EEXIST),
        ):
            cases.append(Case(operation, reply, use, "MAKENODE", node, hint, places=places))
        parent = DIR if operation == "tmpfile" else ROOT
        cases.append(Case(operation, parent, use, "MAKENODE", parent, places=places))
        nothing = puffs.Entry(7, puffs.Attr(0o644))  # has no file type
        cases.append(Case(operation, nothing, use, "MAKENODE", 7, places=places))
    return cases


CASES: Final = [
    # ---------------------------------------- cookies
    Case("lookup", None, look_up, "LOOKUP"),
    Case("lookup", ROOT, look_up, "LOOKUP", ROOT),
    Case("lookup", puffs.Entry(ROOT, puffs.Attr(stat.S_IFDIR)), look_up, "LOOKUP", ROOT),
    Case("lookup", [ROOT], look_up, "LOOKUP"),
    Case("lookup", ("a tuple", ["with a list"]), look_up, "LOOKUP"),
    Case("lookup", Unhashable(), look_up, "LOOKUP"),
    Case("lookup", puffs.Entry(7, puffs.Attr(0o644)), look_up, "MAKENODE", 7),
    Case("lookup", puffs.Entry(7, NO), look_up, "ERROR", 7),
    *_bad_nodes(),
    Case("create", (None, "file"), make_file, "MAKENODE"),
    Case("create", (FILE, "file"), make_file, "MAKENODE", FILE, errno.EEXIST),
    # ---------------------------------------- data
    Case("read", bytes(1 << 17), read, "READ", FILE, errno.E2BIG),
    Case("read", bytearray(1 << 18), read, "READ", FILE, errno.E2BIG),
    Case("read", bytes(2 << 20), read, "READ", FILE, errno.E2BIG),
    Case("read", "text", read, "READ", FILE),
    Case("read", None, read, "READ", FILE),
    Case("write", 5, write, "WRITE", FILE),
    Case("write", -1, write, "WRITE", FILE),
    Case("write", 1 << 64, write, "WRITE", FILE),
    Case("write", None, write, "WRITE", FILE),
    Case("write", 4.0, write, "WRITE", FILE),
    Case("write", True, write, "WRITE", FILE),
    Case("copy_file_range", 5, copy, "WRITE", FILE, places=MOUNTED),
    Case("copy_file_range", -1, copy, "WRITE", FILE, places=MOUNTED),
    Case("readlink", "a\0b", read_link, "READLINK", LINK),
    Case("readlink", "", read_link, "READLINK", LINK),
    Case("readlink", "x" * 4096, read_link, "READLINK", LINK),
    Case("readlink", None, read_link, "READLINK", LINK),
    Case("seek", -1, seek, "ERROR", FILE),
    Case("seek", 1 << 63, seek, "ERROR", FILE),
    # ---------------------------------------- listings
    Case("readdir", [entry("a/b")], list_, "READDIR", ROOT),
    Case("readdir", [entry("a\0b")], list_, "READDIR", ROOT),
    Case("readdir", [entry("")], list_, "READDIR", ROOT),
    Case("readdir", [entry("x" * 256)], list_, "READDIR", ROOT, errno.ENAMETOOLONG),
    Case("readdir", [entry(b"bytes")], list_, "READDIR", ROOT),
    Case("readdir", [7], list_, "READDIR", ROOT),
    # Elsewhere it is kept as a whole, and nobody looks at the positions.
    Case(
        "readdir",
        [entry("a", next=5), entry("b")],
        list_,
        "READDIR",
        ROOT,
        places=frozenset(("direct", "in process")),
    ),
    Case(
        "readdir",
        [entry("a", entry=puffs.Entry(ROOT, puffs.Attr(stat.S_IFDIR)))],
        list_,
        "LOOKUP",
        ROOT,
        places=MOUNTED,
    ),
    Case(
        "readdir",
        [entry("a", entry=puffs.Entry(None, puffs.Attr(stat.S_IFREG)))],
        list_,
        "LOOKUP",
        places=MOUNTED,
    ),
    # ---------------------------------------- attributes
    Case("getattr", 17, look_at, "ERROR", FILE),
    Case("getattr", None, look_at, "ERROR", FILE),
    Case("getattr", puffs.Attr(0o644), look_at, "MAKENODE", FILE),
    Case("setattr", 17, change, "ERROR", FILE),
    Case("getxattr", "text", get_xattr, "GETEXTATTR", FILE),
    Case("getxattr", bytes(65537), get_xattr, "GETEXTATTR", FILE, errno.E2BIG),
    Case("listxattr", "user.a", list_xattrs, "LISTEXTATTR", FILE),
    Case("listxattr", ["a\0b"], list_xattrs, "LISTEXTATTR", FILE),
    Case("listxattr", [""], list_xattrs, "LISTEXTATTR", FILE),
    Case("listxattr", ["a" * 65536], list_xattrs, "LISTEXTATTR", FILE, errno.E2BIG),
    # ---------------------------------------- other
    Case("statvfs", {}, Target.statvfs, "ERROR"),
    Case("ioctl", b"12345", control, "ERROR", FILE, errno.E2BIG, places=MOUNTED),
    Case("ioctl", "text", control, "ERROR", FILE, places=MOUNTED),
    Case("advlock", 17, test_lock, "ERROR", FILE, places=MOUNTED),
    Case("advlock", NO_LOCK, test_lock, "ERROR", FILE, places=MOUNTED),
    # ---------------------------------------- what is raised
    *(
        Case("mkdir", Raises(OSError(number, "?")), make_dir, "ERROR")
        for number in (0, -5, 512, 4711, 1 << 40)
    ),
    *(
        Case("setxattr", Raises(error), set_xattr, "", errno=code)
        for error, code in [
            (FileNotFoundError(errno.ENOENT, "gone"), errno.ENOENT),
            (FileNotFoundError("gone"), errno.ENOENT),
            (PermissionError(), errno.EACCES),
            (OSError(errno.EDQUOT, "full"), errno.EDQUOT),
            (OSError(errno.ERFKILL, "the last one that has a name"), errno.ERFKILL),
            (MemoryError(), errno.ENOMEM),
        ]
    ),
    # To Linux ENOSYS would mean: never ask again.
    Case("setxattr", NOT_IMPLEMENTED, set_xattr, "", errno=errno.EOPNOTSUPP, places=MOUNTED),
    Case("setxattr", NOT_IMPLEMENTED, set_xattr, "", errno=errno.ENOSYS, places=HERE),
]
"""Every kind of reply that statement 2.7 and `puffs.kernel.police` know."""
