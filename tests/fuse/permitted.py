"""What users may do: a small tree, and a table of calls that each of them tries in it.

`answers` gives, for any directory of the host, what came of each call by each user, so that file
systems can be compared.
"""

import json
import os
import re
import stat
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import errorcode
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import puffs
from puffs.check import libc
from puffs.server import acl
from puffs.server.types import RENAME_EXCHANGE, RENAME_NOREPLACE

ALICE, BOB, NAMED, STAFF, CLUB = 1000, 1001, 1004, 77, 50


class User(NamedTuple):
    """Who tries: his ids and supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


USERS: Final = {
    "root": User(0, 0),
    "owner": User(ALICE, ALICE),
    "owner in the group": User(ALICE, ALICE, (STAFF,)),
    "by his group": User(BOB, STAFF),
    "by a supplementary group": User(1002, 1002, (9, STAFF)),
    "other": User(1003, 1003),
    "named in ACLs": User(NAMED, NAMED),
    "in a group of ACLs": User(1005, 1005, (CLUB,)),
}


def _acl(owner: int, group: int, mask: int, other: int, named: int, club: int) -> bytes:
    return puffs.Acl(
        (
            puffs.AclEntry(acl.USER_OBJ, owner),
            puffs.AclEntry(acl.USER, named, NAMED),
            puffs.AclEntry(acl.GROUP_OBJ, group),
            puffs.AclEntry(acl.GROUP, club, CLUB),
            puffs.AclEntry(acl.MASK, mask),
            puffs.AclEntry(acl.OTHER, other),
        )
    ).pack()


# The tree: name, mode, owner, access ACL, default ACL. Names that end with "/" are directories.
_GRANTS = _acl(7, 4, 7, 0, 6, 5)
_TREE: Final[tuple[tuple[str, int, int, bytes | None, bytes | None], ...]] = (
    ("home/", 0o750, ALICE, None, None),
    ("home/f", 0o640, ALICE, None, None),
    ("home/run", 0o754, ALICE, None, None),
    ("home/d/", 0o755, ALICE, None, None),
    ("home/d/f", 0o604, ALICE, None, None),
    ("pub/", 0o777, ALICE, None, None),
    ("pub/f", 0o640, ALICE, None, None),
    ("pub/all", 0o666, ALICE, None, None),
    ("pub/group", 0o060, ALICE, None, None),
    ("pub/others", 0o606, ALICE, None, None),
    ("pub/only", 0o711, ALICE, None, None),
    ("pub/d/", 0o755, ALICE, None, None),
    ("pub/d2/", 0o777, ALICE, None, None),
    ("pub/suid", 0o6777, ALICE, None, None),
    ("pub/suid-755", 0o6755, ALICE, None, None),
    ("from/", 0o777, ALICE, None, None),
    ("from/f", 0o666, ALICE, None, None),
    ("tmp/", 0o1777, 0, None, None),
    ("tmp/a", 0o666, ALICE, None, None),
    ("tmp/b", 0o666, BOB, None, None),
    ("tmp/d/", 0o777, ALICE, None, None),
    ("own-tmp/", 0o1777, ALICE, None, None),
    ("own-tmp/b", 0o666, BOB, None, None),
    ("set-gid/", 0o2777, ALICE, None, None),
    ("no-list/", 0o711, ALICE, None, None),
    ("no-list/f", 0o644, ALICE, None, None),
    ("no-search/", 0o744, ALICE, None, None),
    ("no-search/f", 0o644, ALICE, None, None),
    ("shut/", 0o700, ALICE, None, None),
    ("shut/f", 0o666, ALICE, None, None),
    ("acl/", 0o755, ALICE, None, None),
    ("acl/f", 0o640, ALICE, _GRANTS, None),
    ("acl/masked", 0o640, ALICE, _acl(7, 6, 4, 4, 7, 6), None),
    ("acl/denies", 0o640, ALICE, _acl(6, 6, 7, 6, 0, 0), None),
    ("acl/no-mask", 0o640, ALICE, _acl(6, 7, 0, 4, 7, 7), None),
    ("acl/d/", 0o750, ALICE, _acl(7, 5, 7, 0, 7, 1), None),
    ("acl/d/f", 0o666, ALICE, None, None),
    ("acl/hands-down/", 0o777, ALICE, None, _acl(7, 5, 7, 0, 6, 7)),
    ("acl/hands-down-gid/", 0o2777, ALICE, None, _acl(7, 5, 6, 0, 6, 7)),
)

Call = Callable[[], object]


def _open(path: str, flags: int, mode: int = 0) -> None:
    os.close(os.open(path, flags, mode))


_create = partial(_open, flags=os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def _stat(path: str) -> None:
    os.stat(path)


def _access(path: str) -> list[bool]:
    return [os.access(path, mode) for mode in range(8)]


def _getxattr(path: str) -> str:
    return os.getxattr(path, "user.set").decode()


def _list(path: str) -> list[str]:
    return sorted(os.listdir(path))


def _write(path: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"x")
    os.close(fd)


def _run(path: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(path, [path])
        except OSError as exc:
            os._exit(exc.errno or 255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _rename(old: str, new: str, flags: int = 0) -> None:
    libc.rename2(old, new, flags)


def _truncate_open_file() -> None:
    """The permission to write was checked when it was opened."""
    fd = os.open("pub/all", os.O_RDWR)
    with suppress(PermissionError):  # for the owner there is less to write afterwards
        os.chmod("pub/all", 0o400)
    os.ftruncate(fd, 1)
    os.close(fd)


def _write_what_it_makes_read_only() -> None:
    fd = os.open("pub/new", os.O_CREAT | os.O_RDWR, 0o444)
    os.write(fd, b"x")
    os.ftruncate(fd, 0)
    os.close(fd)


def _make_unnamed(path: str) -> str:
    fd = os.open(path, os.O_TMPFILE | os.O_RDWR, 0o666)
    try:
        return f"{os.fstat(fd).st_mode:o}"
    finally:
        os.close(fd)


def _enter(path: str) -> None:
    with _in(path):
        pass


@contextmanager
def _in(path: str) -> Iterator[None]:
    here = os.open(".", os.O_PATH)
    try:
        os.chdir(path)
        yield
    finally:
        os.fchdir(here)
        os.close(here)


_READ: Final = (
    *("home/f", "home/d/f", "pub/f", "pub/all", "pub/group", "pub/others", "no-list/f"),
    *("no-search/f", "shut/f", "acl/f", "acl/masked", "acl/denies", "acl/no-mask", "acl/d/f"),
)
_CHANGED: Final = ("home/f", "pub/f", "pub/all", "shut/f", "acl/f", "acl/masked")
_DIRECTORIES: Final = (
    *("home", "pub", "tmp", "no-list", "no-search", "shut", "acl/d", "acl/hands-down"),
)
_MOVED: Final = ("home/f", "pub/f", "tmp/a", "tmp/b", "own-tmp/b", "acl/d/f", "no-search/f")


def _looks() -> dict[str, Call]:
    """Calls that change nothing."""
    calls: dict[str, Call] = {}
    for path in _READ:
        calls |= {
            f"open {path} to read": partial(_open, path, os.O_RDONLY),
            f"open {path} to write": partial(_open, path, os.O_WRONLY),
            f"open {path} to do both": partial(_open, path, os.O_RDWR),
            f"open {path} to append": partial(_open, path, os.O_WRONLY | os.O_APPEND),
            f"open {path} to read quietly": partial(_open, path, os.O_RDONLY | os.O_NOATIME),
            f"stat {path}": partial(_stat, path),
            f"access {path}": partial(_access, path),
            f"getxattr {path}": partial(_getxattr, path),
        }
    for path in _DIRECTORIES:
        calls[f"list {path}"] = partial(_list, path)
        calls[f"enter {path}"] = partial(_enter, path)
    for path in ("home/run", "pub/only", "pub/all", "acl/f"):
        calls[f"execute {path}"] = partial(_run, path)
    return calls


def _changes() -> dict[str, Call]:
    """Calls that change something. Their names tell the directories that they need."""
    calls: dict[str, Call] = {}
    for path in _CHANGED:
        calls |= {
            f"open {path} to empty it": partial(_open, path, os.O_RDONLY | os.O_TRUNC),
            f"truncate {path}": partial(os.truncate, path, 1),
            f"touch {path}": partial(os.utime, path),
            f"set the times of {path}": partial(os.utime, path, ns=(5, 5)),
            f"setxattr {path}": partial(os.setxattr, path, "user.new", b"value"),
            f"removexattr {path}": partial(os.removexattr, path, "user.set"),
            f"chmod {path}": partial(os.chmod, path, 0o6755),
            f"setfacl {path}": partial(os.setxattr, path, puffs.ACL_ACCESS, _GRANTS),
        }
    for path in _DIRECTORIES:
        new = f"{path}/new"
        calls |= {
            f"make a directory in {path}": partial(os.mkdir, new),
            f"make a fifo in {path}": partial(os.mkfifo, new),
            f"make a link in {path}": partial(os.symlink, "x", new),
            f"make a file in {path}": partial(_create, new, mode=0o666),
            f"make an unnamed file in {path}": partial(_make_unnamed, path),
            f"give from/f a name in {path}": partial(os.link, "from/f", new),
            f"move from/f into {path}": partial(_rename, "from/f", new),
        }
    for path in _MOVED:
        calls |= {
            f"remove {path}": partial(os.remove, path),
            f"rename {path}": partial(_rename, path, f"{path}-new"),
            f"move {path} to from/": partial(_rename, path, "from/new"),
            f"replace {path} by from/f": partial(_rename, "from/f", path),
            f"exchange {path} and from/f": partial(_rename, "from/f", path, RENAME_EXCHANGE),
            f"do not replace {path} by from/f": partial(_rename, "from/f", path, RENAME_NOREPLACE),
        }
    for path in ("home/d", "pub/d", "pub/d2", "tmp/d"):
        calls |= {
            f"rmdir {path}": partial(os.rmdir, path),
            f"rename {path}": partial(_rename, path, f"{path}-new"),
            f"move {path} to from/": partial(_rename, path, "from/new"),
            f"exchange {path} and from/f": partial(_rename, "from/f", path, RENAME_EXCHANGE),
        }
    for mode in (0o2777, 0o2767, 0o4770):
        for path in ("set-gid", "acl/hands-down-gid", "pub"):
            new = f"{path}/new"
            calls |= {
                f"make a file {mode:o} in {path}": partial(_create, new, mode=mode),
                f"make a directory {mode:o} in {path}": partial(os.mkdir, new, mode),
                f"make a fifo {mode:o} in {path}": partial(os.mkfifo, new, mode),
            }
    for owner in ((0, -1), (ALICE, -1), (-1, STAFF), (-1, ALICE), (-1, CLUB), (-1, -1)):
        for path in ("pub/all", "pub/suid-755", "pub/d"):
            # To FUSE a chown(2) of nothing is what comes before a write to a set-id file.
            if owner != (-1, -1) or path != "pub/suid-755":
                calls[f"chown {path} to {owner}"] = partial(os.chown, path, *owner)
    for name in ("trusted.new", "security.new"):
        calls[f"set {name} of pub/all"] = partial(os.setxattr, "pub/all", name, b"value")
    return calls | {
        "set user.new of own-tmp": partial(os.setxattr, "own-tmp", "user.new", b"value"),
        "setfacl of pub/d": partial(os.setxattr, "pub/d", puffs.ACL_DEFAULT, _GRANTS),
        "setfacl of pub/suid": partial(os.setxattr, "pub/suid", puffs.ACL_ACCESS, _GRANTS),
        "write pub/suid": partial(_write, "pub/suid"),
        "truncate pub/suid": partial(os.truncate, "pub/suid", 0),
        "take the bits of pub/suid away": partial(os.chmod, "pub/suid", 0o777),
        "truncate pub/all, open before": _truncate_open_file,
        "write what it makes read-only in pub/": _write_what_it_makes_read_only,
    }


_LOOKS: Final = _looks()
_CHANGES: Final = _changes()
_TOPS: Final = frozenset(name.partition("/")[0] for name, *_ in _TREE)

Answers = dict[str, tuple[object, ...]]
"""By user and call: what it returns, or the errno; and of what may change something, what is there
afterwards.
"""


def answers(directory: Path, users: tuple[str, ...]) -> Answers:
    """What comes of each call by each of `users`, on the file system of `directory`."""
    said: Answers = {}
    for name in users:
        top = directory / name
        top.mkdir()
        for call, answer in _tries(top, USERS[name]).items():
            said[f"{name}: {call}"] = tuple(answer)
    return said


def _tries(top: Path, user: User) -> dict[str, list[object]]:
    """The same for one user, in a process of its own that is he or root by turns."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(top)
            os.umask(0o027)
            said = _all_tries(user)
            with open(write, "w") as out:
                json.dump(said, out)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    answered: dict[str, list[object]] = json.loads(text)
    return answered


def _all_tries(user: User) -> dict[str, list[object]]:
    said: dict[str, list[object]] = {}
    _make("looks", _TOPS)
    for name, call in _LOOKS.items():
        with _in("looks"):
            said[name] = [_answer(user, call)]
    fresh: dict[frozenset[str], tuple[str, dict[str, object]]] = {}
    for number, (name, call) in enumerate(_CHANGES.items()):
        tops = _TOPS.intersection(re.findall(r"[a-z][a-z-]*", name))
        if tops not in fresh:
            _make(str(number), tops)
            with _in(str(number)):
                fresh[tops] = str(number), _shape(Path())
        tree, before = fresh[tops]
        with _in(tree):
            came, after = _answer(user, call), _shape(Path())
        said[name] = [came, after]
        if after != before:
            del fresh[tops]  # it is of no more use
    return said


def _answer(user: User, call: Call) -> object:
    """What a call of `user` returns, or the errno it fails with. Root is the saved user."""
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, 0)
    os.setresuid(user.uid, user.uid, 0)
    try:
        return call()
    except OSError as exc:
        return errorcode[exc.errno or 0]
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])


def _make(tree: str, tops: frozenset[str]) -> None:
    """Make the tree, as far as it is in the directories `tops`."""
    os.mkdir(tree)
    os.chmod(tree, 0o755)
    for name, mode, uid, access, default in _TREE:
        if name.partition("/")[0] not in tops:
            continue
        path = Path(tree, name)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_bytes(b"#!/bin/true\n")
            os.setxattr(path, "user.set", b"value")
        os.chown(path, uid, STAFF)
        path.chmod(mode)
        if access is not None:
            os.setxattr(path, puffs.ACL_ACCESS, access)
        if default is not None:
            os.setxattr(path, puffs.ACL_DEFAULT, default)


def _shape(tree: Path) -> dict[str, object]:
    """Modes, owners, sizes and ACLs of all that is in a tree."""
    shape: dict[str, object] = {}
    for path in sorted(tree.rglob("*")):
        st = path.lstat()
        link, regular = stat.S_ISLNK(st.st_mode), stat.S_ISREG(st.st_mode)
        acls = () if link else tuple(_acl_of(path, name) for name in sorted(puffs.ACL_NAMES))
        size = st.st_size if regular else 0
        shape[str(path)] = (f"{st.st_mode:o}", st.st_uid, st.st_gid, size, *acls)
    return shape


def _acl_of(path: Path, name: str) -> str:
    try:
        return os.getxattr(path, name).hex()
    except OSError as exc:
        return errorcode[exc.errno or 0]
