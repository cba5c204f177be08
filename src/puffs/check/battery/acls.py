"""POSIX access control lists: acl(5), getfacl(1), setfacl(1)."""

import errno
import os
import stat

from puffs.check.battery.permissions import OTHER, other
from puffs.check.expect import equal, expect, leave_out
from puffs.check.registry import battery
from puffs.check.target import Target
from puffs.server import acl
from puffs.server.acl import ACL_ACCESS, ACL_DEFAULT, Acl, AclEntry

check = battery("acls")

ALL = "create getxattr setxattr removexattr setattr"
NAMED = 1234


@check(
    "acl-sets-the-mode",
    "acl(5): the permission bits are those of owner, mask and others",
    needs=ALL,
)
def _(t: Target) -> None:
    t.write("f")
    t.chmod("f", 0o4640)
    _set(t, "f", ACL_ACCESS, _acl(7, 4, 0, named=6, mask=6))
    equal("mode", f"{t.mode('f'):o}", "4760")
    _is(t, "f", ACL_ACCESS, _acl(7, 4, 0, named=6, mask=6))


@check(
    "acl-without-names-is-the-mode",
    "acl(5): a list of owner, group and others sets the bits, and nothing else is kept",
    needs=ALL,
)
def _(t: Target) -> None:
    t.write("f")
    _set(t, "f", ACL_ACCESS, _acl(7, 4, 0, named=6, mask=6))
    _set(t, "f", ACL_ACCESS, _acl(6, 4, 1))
    equal("mode", f"{t.mode('f'):o}", "641")
    expect(errno.ENODATA, t.getxattr, "f", ACL_ACCESS)


@check(
    "chmod-changes-the-acl",
    "acl(5), chmod(2): owner, mask and others of the list follow the mode",
    needs=ALL,
)
def _(t: Target) -> None:
    t.write("f")
    _set(t, "f", ACL_ACCESS, _acl(7, 5, 0, named=6, mask=7))
    t.chmod("f", 0o624)
    equal("mode", f"{t.mode('f'):o}", "624")
    _is(t, "f", ACL_ACCESS, _acl(6, 5, 4, named=6, mask=2))
    t.chmod("f", 0o600)
    _is(t, "f", ACL_ACCESS, _acl(6, 5, 0, named=6, mask=0))


@check(
    "acl-removed",
    "setfacl(1) -b: the list is gone, and may be removed once more",
    needs=ALL,
)
def _(t: Target) -> None:
    t.write("f")
    _set(t, "f", ACL_ACCESS, _acl(7, 4, 0, named=6, mask=6))
    for _ in range(2):
        t.removexattr("f", ACL_ACCESS)
        expect(errno.ENODATA, t.getxattr, "f", ACL_ACCESS)
    equal("mode", f"{t.mode('f'):o}", "760")


@check(
    "acl-refused",
    "acl(5): EINVAL for what is no list, EACCES for a default list of a file",
    needs=ALL + " mkdir",
)
def _(t: Target) -> None:
    t.write("f")
    t.mkdir("d")
    good = _acl(7, 5, 0, named=7, mask=7).pack()
    _set(t, "f", ACL_ACCESS, _acl(7, 5, 0))
    for bad in (good + b"x", good[:-8], good[:4] + good[12:], good[:12]):
        for name in ("f", "d"):
            expect(errno.EINVAL, t.setxattr, name, ACL_ACCESS, bad)
    expect(errno.EACCES, t.setxattr, "f", ACL_DEFAULT, good)
    equal("mode", f"{t.mode('f'):o}", "750")


@check(
    "default-acl-is-inherited",
    "acl(5): what is made gets it, narrowed by the mode asked for; directories hand it on",
    needs=ALL + " mkdir mknod",
)
def _(t: Target) -> None:
    t.mkdir("d")
    default = _acl(7, 5, 4, named=7, mask=7)
    _set(t, "d", ACL_DEFAULT, default)
    umask = os.umask(0o077)  # which counts for nothing
    try:
        t.write("d/f")
        t.mkdir("d/e", 0o751)
        t.mknod("d/fifo", stat.S_IFIFO | 0o620)
    finally:
        os.umask(umask)
    for name, mode, inherited in (
        ("d/f", "664", _acl(6, 5, 4, named=7, mask=6)),
        ("d/e", "750", _acl(7, 5, 0, named=7, mask=5)),
        ("d/fifo", "620", _acl(6, 5, 0, named=7, mask=2)),
    ):
        equal(f"mode of {name}", f"{t.mode(name):o}", mode)
        _is(t, name, ACL_ACCESS, inherited)
    _is(t, "d/e", ACL_DEFAULT, default)
    expect(errno.ENODATA, t.getxattr, "d/f", ACL_DEFAULT)


@check(
    "umask-without-a-default-acl",
    "umask(2), acl(5): where there is no default list, the umask holds",
    needs=ALL + " mkdir",
)
def _(t: Target) -> None:
    t.mkdir("d")
    _set(t, "d", ACL_ACCESS, _acl(7, 5, 5, named=7, mask=7))
    umask = os.umask(0o027)
    try:
        t.write("d/f")
        t.mkdir("d/e")
    finally:
        os.umask(umask)
    equal("mode of a file", f"{t.mode('d/f'):o}", "640")
    equal("mode of a directory", f"{t.mode('d/e'):o}", "750")
    expect(errno.ENODATA, t.getxattr, "d/f", ACL_ACCESS)


@check(
    "acl-moves-ctime",
    "setxattr(2), POSIX: ctime is marked, mtime is not",
    needs=ALL,
)
def _(t: Target) -> None:
    t.write("f")
    t.utime("f", 5, 5)
    before = t.stat("f").st_ctime_ns
    _set(t, "f", ACL_ACCESS, _acl(7, 5, 0, named=7, mask=7))
    equal("mtime", t.stat("f").st_mtime_ns, 5)
    assert t.stat("f").st_ctime_ns >= before, "ctime has gone back"


@check(
    "acl-decides",
    "acl(5): the entry for a user, or for his groups, decides within the mask",
    needs=ALL + " read write",
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    allowed = {
        "user": (_acl(6, 0, 0, named=6, mask=6, user=OTHER), True, True),
        "masked": (_acl(6, 0, 0, named=6, mask=4, user=OTHER), True, False),
        "nothing": (_acl(6, 6, 6, named=0, mask=6, user=OTHER), False, False),
        "group": (_acl(6, 0, 0, named=4, mask=6, group=OTHER), True, False),
        "others": (_acl(6, 0, 4, named=0, mask=6), True, False),
    }
    for name, (entries, *_) in allowed.items():
        t.write(name)
        _set(t, name, ACL_ACCESS, entries)
    with other(t) as directory:

        def may(name: str, flags: int) -> None:
            os.close(os.open(name, flags, dir_fd=directory))

        for name, (_, reads, writes) in allowed.items():
            for flags, granted in ((os.O_RDONLY, reads), (os.O_WRONLY, writes)):
                if granted:
                    may(name, flags)
                else:
                    expect(errno.EACCES, may, name, flags)


@check(
    "acl-is-the-owners-to-set",
    "acl(5), setxattr(2): EPERM for who is not the owner",
    needs=ALL,
    mounted_only=True,
    root=True,
)
def _(t: Target) -> None:
    t.chmod(".", 0o755)
    t.write("f")
    t.chmod("f", 0o666)
    value = _acl(6, 6, 6, named=6, mask=6)
    _set(t, "f", ACL_ACCESS, value)
    with other(t) as directory:
        path = f"/proc/self/fd/{directory}/f"
        expect(errno.EPERM, os.setxattr, path, ACL_ACCESS, value.pack())
        expect(errno.EPERM, os.removexattr, path, ACL_ACCESS)


def _acl(
    owner: int,
    group_obj: int,
    others: int,
    *,
    named: int | None = None,
    mask: int = 0,
    user: int = NAMED,
    group: int | None = None,
) -> Acl:
    """A list; with `named` one that names `group`, or else `user`."""
    entries = [AclEntry(acl.USER_OBJ, owner), AclEntry(acl.GROUP_OBJ, group_obj)]
    if named is not None:
        if group is None:
            entries.insert(1, AclEntry(acl.USER, named, user))
        else:
            entries.append(AclEntry(acl.GROUP, named, group))
        entries.append(AclEntry(acl.MASK, mask))
    return Acl([*entries, AclEntry(acl.OTHER, others)])


def _set(t: Target, path: str, name: str, value: Acl) -> None:
    try:
        t.setxattr(path, name, value.pack())
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            leave_out("the file server keeps no ACLs (EOPNOTSUPP)")
        raise


def _is(t: Target, path: str, name: str, wanted: Acl) -> None:
    equal(f"{name} of {path}", Acl.parse(t.getxattr(path, name)), wanted)
