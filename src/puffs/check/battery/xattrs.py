"""Extended attributes."""

import errno
import os
import stat

from puffs.check import libc
from puffs.check.battery.permissions import other
from puffs.check.expect import equal, expect, leave_out, same_data
from puffs.check.registry import battery
from puffs.check.target import Target

check = battery("xattrs")

ALL = "create getxattr setxattr listxattr removexattr"


@check("xattr-set-and-get", "setxattr(2), getxattr(2): any bytes come back", needs=ALL + " mkdir")
def _(t: Target) -> None:
    t.write("f")
    t.mkdir("d")
    for name in ("f", "d"):
        for value in (b"value", b"", bytes(range(256)), b"x" * 2000):
            t.setxattr(name, "user.test", value)
            same_data(f"value of {len(value)} bytes", t.getxattr(name, "user.test"), value)


@check("xattr-list", "listxattr(2): every name once", needs=ALL)
def _(t: Target) -> None:
    t.write("f")
    equal("names on a new file", _user(t, "f"), [])
    names = [f"user.name-{number}" for number in range(30)]
    for name in names:
        t.setxattr("f", name, name.encode())
    equal("names", sorted(_user(t, "f")), sorted(names))
    for name in names:
        equal(f"value of {name}", t.getxattr("f", name), name.encode())


@check("xattr-missing", "getxattr(2), removexattr(2): ENODATA", needs=ALL)
def _(t: Target) -> None:
    t.write("f")
    expect(errno.ENODATA, t.getxattr, "f", "user.missing")
    expect(errno.ENODATA, t.removexattr, "f", "user.missing")


@check("xattr-remove", "removexattr(2): the attribute is gone, the others stay", needs=ALL)
def _(t: Target) -> None:
    t.write("f")
    t.setxattr("f", "user.a", b"1")
    t.setxattr("f", "user.b", b"2")
    t.removexattr("f", "user.a")
    expect(errno.ENODATA, t.getxattr, "f", "user.a")
    equal("names", _user(t, "f"), ["user.b"])


@check(
    "xattr-create-and-replace",
    "setxattr(2) XATTR_CREATE: EEXIST, XATTR_REPLACE: ENODATA",
    needs=ALL,
)
def _(t: Target) -> None:
    t.write("f")
    expect(errno.ENODATA, t.setxattr, "f", "user.a", b"0", os.XATTR_REPLACE)
    t.setxattr("f", "user.a", b"1", os.XATTR_CREATE)
    expect(errno.EEXIST, t.setxattr, "f", "user.a", b"2", os.XATTR_CREATE)
    equal("value", t.getxattr("f", "user.a"), b"1")
    t.setxattr("f", "user.a", b"3", os.XATTR_REPLACE)
    equal("value after it was replaced", t.getxattr("f", "user.a"), b"3")


@check(
    "xattr-belongs-to-the-file",
    "xattr(7): attributes are the file's, whatever its names are",
    needs=ALL + " link rename remove",
)
def _(t: Target) -> None:
    t.write("f")
    t.setxattr("f", "user.a", b"value")
    t.link("f", "g")
    equal("value under another name", t.getxattr("g", "user.a"), b"value")
    t.rename("f", "h")
    equal("value after a rename", t.getxattr("h", "user.a"), b"value")
    t.remove("h")
    t.write("f")
    equal("names on a new file of the old name", _user(t, "f"), [])


@check(
    "xattr-size",
    "getxattr(2): ERANGE for too little room; 0 asks for the size",
    needs=ALL,
    mounted_only=True,
)
def _(t: Target) -> None:
    t.write("f")
    path = t.at("f")
    for size in (1, 127, 128, 129, 1000):
        t.setxattr("f", "user.a", b"x" * size)
        for room in (0, size, size + 1):
            equal(f"length with room for {room}", libc.getxattr(path, "user.a", room), size)
        if size > 1:
            expect(errno.ERANGE, libc.getxattr, path, "user.a", size - 1)
    length = libc.listxattr(path, 0)
    equal("length of the list", libc.listxattr(path, length), length)
    expect(errno.ERANGE, libc.listxattr, path, length - 1)


@check(
    "xattr-names",
    "xattr(7): EOPNOTSUPP for a name space that is not known, ERANGE beyond 255 bytes",
    needs=ALL,
)
def _(t: Target) -> None:
    t.write("f")
    for name in ("nothing", "other.name"):
        expect(errno.EOPNOTSUPP, t.setxattr, "f", name, b"value")
    longest = "user.".ljust(255, "n")
    t.setxattr("f", longest, b"value")
    equal("value of the longest name", t.getxattr("f", longest), b"value")
    expect(errno.ERANGE, t.setxattr, "f", longest + "n", b"value")


@check(
    "xattr-of-special-files",
    'xattr(7): "user." is for files and directories only (EPERM)',
    needs=ALL + " mknod",
)
def _(t: Target) -> None:
    t.mknod("fifo", stat.S_IFIFO | 0o600)
    expect(errno.EPERM, t.setxattr, "fifo", "user.a", b"value")


@check(
    "xattr-trusted",
    'xattr(7): "trusted." is the superuser\'s; to others it is not there',
    needs=ALL + " setattr",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    t.write("f")
    t.chmod("f", 0o666)
    try:
        t.setxattr("f", "trusted.a", b"value")
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            leave_out('the file server has no "trusted." attributes (EOPNOTSUPP)')
        raise
    equal("value", t.getxattr("f", "trusted.a"), b"value")
    assert "trusted.a" in t.listxattr("f"), "it is not in the list"
    with other(t) as directory:
        path = f"/proc/self/fd/{directory}/f"
        expect(errno.ENODATA, os.getxattr, path, "trusted.a")
        expect(errno.EPERM, os.setxattr, path, "trusted.b", b"value")
        equal("names for others", [n for n in os.listxattr(path) if n.startswith("trusted.")], [])


def _user(t: Target, path: str) -> list[str]:
    """Names that are not the host's own."""
    return [name for name in t.listxattr(path) if name.startswith("user.")]
