"""The same calls on a file system in process and on a real one, and what came of them.

The real side runs in a child that has a new directory for its root, so that paths, absolute
symbolic links too, are the same on both sides, and that becomes the caller for each call.
"""

import errno
import os
import pickle
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

import puffs

UMASK = 0o022
LONG = "n" * 256


class Caller(NamedTuple):
    """Who makes the calls."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    def cred(self) -> puffs.Cred:
        return puffs.Cred(self.uid, self.gid, umask=UMASK, groups=self.groups)


ROOT = Caller(0, 0, ())
USER = Caller(1000, 1000, (2000,))


Api = Any
"""One side: it has calls by the names of `os`, `os.path` and `open`."""


class RealApi:
    """The real side. `os.access` is to judge by the effective ids, as everything else does."""

    open = staticmethod(open)

    def access(self, path: str, mode: int) -> bool:
        return os.access(path, mode, effective_ids=True)

    def __getattr__(self, name: str) -> Any:
        for module in (os, os.path):
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)


def build(api: Api) -> None:
    """Make the tree that every call starts from. As root."""
    for path, mode, uid in (
        ("/dir", 0o755, 0),
        ("/dir/sub", 0o755, 0),
        ("/mine", 0o755, 1000),
        ("/mine/sub", 0o755, 1000),
        ("/mine/sub/deep", 0o755, 1000),
        ("/mine/empty", 0o755, 1000),
        ("/mine/notmine", 0o755, 0),
        ("/secret", 0o700, 0),
        ("/secret/in", 0o777, 0),
        ("/sticky", 0o1777, 0),
        ("/sticky/d", 0o777, 0),
        ("/pub", 0o777, 0),
        ("/pub/full", 0o777, 0),
        ("/noexec", 0o644, 0),
        ("/group", 0o770, 0),
    ):
        api.mkdir(path)
        api.chown(path, uid, 2000 if path == "/group" else uid)
        api.chmod(path, mode)
    for path, mode, uid in (
        ("/dir/file", 0o644, 0),
        ("/mine/f", 0o644, 1000),
        ("/mine/suid", 0o6755, 1000),
        ("/mine/sgid", 0o2644, 1000),
        ("/mine/none", 0o000, 1000),
        ("/mine/foreign", 0o666, 0),
        ("/secret/f", 0o666, 0),
        ("/sticky/theirs", 0o666, 0),
        ("/sticky/mine", 0o666, 1000),
        ("/pub/private", 0o600, 0),
        ("/pub/shared", 0o666, 0),
        ("/pub/run", 0o711, 0),
        ("/pub/full/x", 0o644, 0),
        ("/group/f", 0o660, 0),
    ):
        with api.open(path, "wb") as stream:
            stream.write(b"contents of " + path.encode())
        api.chown(path, uid, 2000 if path == "/group/f" else uid)
        api.chmod(path, mode)
    for target, path in (
        ("dir/file", "/ln"),
        ("dir", "/lnd"),
        ("dir/", "/lnslash"),
        ("/mine/f", "/abs"),
        ("/", "/toroot"),
        ("pub/new", "/dangling"),
        ("nowhere/new", "/nowhere"),
        ("loop", "/loop"),
        ("dir/..", "/up"),
        ("../mine/f", "/pub/over"),
        ("secret/f", "/hidden"),
    ):
        api.symlink(target, path)
    api.mkfifo("/pub/fifo", 0o666)
    api.chmod("/pub/fifo", 0o666)
    api.link("/mine/f", "/mine/hard")


PATHS = (
    *("", "/", ".", "..", "//", "dir", "/dir", "dir/", "dir/.", "dir/..", "./dir/./file"),
    *("//dir//file", "dir/file", "dir/file/", "dir/file/x", "dir/file/..", "missing", "missing/"),
    *("missing/x", "missing/..", "ln", "ln/", "lnd", "lnd/", "lnd/file", "lnslash", "lnslash/file"),
    *("abs", "toroot", "toroot/mine/f", "dangling", "dangling/", "nowhere", "loop", "loop/x", "up"),
    *("up/dir/file", "pub/over", "hidden", "secret", "secret/f", "secret/..", "secret/in"),
    *("secret/new", "noexec/f", "noexec/..", "noexec", "noexec/.", "sticky/theirs", "sticky/mine"),
    *("sticky/d", "sticky/new", "pub/private", "pub/shared", "pub/run", "pub/full", "pub/full/"),
    *("pub/fifo", "pub/new", "pub/new/", "mine/f", "mine/sub", "mine/sub/", "mine/sub/deep"),
    *("mine/empty", "mine/empty/", "mine/empty/.", "mine/empty/..", "mine/suid", "mine/sgid"),
    *(
        "mine/none",
        "mine/foreign",
        "mine/notmine",
        "mine/hard",
        "mine/new",
        "mine/new/",
        "mine/new/.",
    ),
    *("mine/sub/new", "group/f", "group/new", LONG, "dir/" + LONG, "missing/" + LONG),
    "./" * 2100,
    *("mine/" + "ü" * 127, "mine/" + "ü" * 128, "mine/\udcff"),
)

NOT_OPENED = frozenset(("pub/fifo", "sticky/mine"))
"""The real fifo waits for another process, and the real file is subject to a sysctl(8) setting,
fs.protected_regular."""

OPEN_MODES = ("rb", "wb", "ab", "xb", "rb+", "wb+", "ab+", "xb+")


def opened(mode: str) -> Callable[[Api, str], object]:
    """Open a file and use it for what it was opened for."""

    def call(api: Api, path: str) -> object:
        if path in NOT_OPENED:
            return None
        with api.open(path, mode, buffering=0) as stream:
            result: list[object] = [stream.tell(), stream.seekable()]
            if stream.writable():
                result.append(stream.write(b"written"))
            if stream.readable():
                stream.seek(0)
                result.append(stream.read())
            return result

    return call


def _stat(api: Api, path: str, follow: bool = True) -> object:
    return _seen(api.stat(path, follow_symlinks=follow))


def _seen(st: os.stat_result) -> tuple[object, ...]:
    if stat.S_ISDIR(st.st_mode):  # sizes and link counts of directories are a file system's own
        return st.st_mode, st.st_uid, st.st_gid
    return st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_nlink


def _utime(api: Api, path: str) -> object:
    api.utime(path, (1000000001.25, 2))
    st = api.stat(path)
    return st.st_atime_ns, st.st_mtime_ns


def _utime_ns(api: Api, path: str) -> object:
    api.utime(path, ns=(1_000_000_007, 5_999_999_999), follow_symlinks=False)
    st = api.lstat(path)
    return st.st_atime_ns, st.st_mtime_ns


def _access(api: Api, path: str) -> object:
    return [api.access(path, mode) for mode in range(8)]


def _questions(api: Api, path: str) -> object:
    return [getattr(api, name)(path) for name in ("exists", "lexists", "isfile", "isdir", "islink")]


def _scandir(api: Api, path: str) -> object:
    with api.scandir(path) as entries:
        return sorted(_entry(entry) for entry in entries)


def _entry(entry: Any) -> tuple[object, ...]:
    questions = (
        entry.is_dir,
        entry.is_file,
        lambda: entry.stat().st_mode,
        lambda: entry.stat(follow_symlinks=False).st_mode,
        lambda: entry.inode() == entry.stat(follow_symlinks=False).st_ino,
        entry.is_symlink,
        lambda: entry.is_dir(follow_symlinks=False),
        lambda: entry.is_file(follow_symlinks=False),
    )
    return entry.name, entry.path, *map(outcome, questions)


def _walk(api: Api, path: str) -> object:
    errors: list[object] = []
    found = []
    for follow in (False, True):
        walk = api.walk(path, onerror=lambda exc: errors.append((exc.errno, exc.filename)))
        found.append(sorted((top, sorted(dirs), sorted(files)) for top, dirs, files in walk))
        if follow and path not in ("lnd", "dir"):
            break
    return found, sorted(errors, key=repr)


def _xattr(api: Api, path: str) -> object:
    api.setxattr(path, "user.colour", b"red", os.XATTR_CREATE)
    result = [api.getxattr(path, "user.colour"), api.listxattr(path)]
    api.removexattr(path, b"user.colour")
    return result


def _chmod_then_stat(mode: int) -> Callable[[Api, str], object]:
    def call(api: Api, path: str) -> object:
        api.chmod(path, mode)
        return _stat(api, path)

    return call


CALLS: dict[str, Callable[[Api, str], object]] = {
    "stat": _stat,
    "lstat": lambda api, path: _stat(api, path, False),
    "bytes": lambda api, path: _seen(api.stat(os.fsencode(path))),
    "questions": _questions,
    "access": _access,
    "listdir": lambda api, path: sorted(api.listdir(path)),
    "listdir_bytes": lambda api, path: sorted(api.listdir(os.fsencode(path))),
    "scandir": _scandir,
    "walk": _walk,
    "readlink": lambda api, path: api.readlink(path),
    "statvfs": lambda api, path: api.statvfs(path).f_namemax,
    **{f"open_{mode}": opened(mode) for mode in OPEN_MODES},
    "mkdir": lambda api, path: api.mkdir(path),
    "mkdir_7777": lambda api, path: api.mkdir(path, 0o7777),
    "makedirs": lambda api, path: api.makedirs(path),
    "makedirs_ok": lambda api, path: api.makedirs(path, exist_ok=True),
    "rmdir": lambda api, path: api.rmdir(path),
    "remove": lambda api, path: api.remove(path),
    "mknod": lambda api, path: api.mknod(path, stat.S_IFREG | 0o666),
    "mknod_device": lambda api, path: api.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    "mknod_dir": lambda api, path: api.mknod(path, stat.S_IFDIR | 0o777),
    "mkfifo": lambda api, path: api.mkfifo(path, 0o666),
    "symlink": lambda api, path: api.symlink("any/where", path),
    "symlink_empty": lambda api, path: api.symlink("", path),
    "link_to": lambda api, path: api.link("mine/f", path),
    "link_dir": lambda api, path: api.link("mine/sub", path),
    "rename_from": lambda api, path: api.rename(path, "mine/target"),
    "rename_from_slash": lambda api, path: api.rename(path, "mine/target/"),
    "rename_out": lambda api, path: api.rename(path, "pub/full/target"),
    "rename_over_file": lambda api, path: api.rename(path, "mine/sgid"),
    "rename_over_dir": lambda api, path: api.rename(path, "mine/empty"),
    "rename_file_to": lambda api, path: api.rename("mine/f", path),
    "rename_dir_to": lambda api, path: api.rename("mine/sub", path),
    "rename_full_to": lambda api, path: api.replace("pub/full", path),
    "rename_below": lambda api, path: api.rename("mine", path),
    "chmod": _chmod_then_stat(0o640),
    "chmod_suid": _chmod_then_stat(0o7777),
    "chown": lambda api, path: api.chown(path, 1000, 1000),
    "chown_group": lambda api, path: api.chown(path, -1, 2000),
    "chown_none": lambda api, path: api.chown(path, -1, -1),
    "lchown": lambda api, path: api.chown(path, 0, -1, follow_symlinks=False),
    "utime_now": lambda api, path: api.utime(path),
    "utime": _utime,
    "utime_ns": _utime_ns,
    "truncate": lambda api, path: api.truncate(path, 3),
    "truncate_longer": lambda api, path: api.truncate(path, 5000),
    "xattr": _xattr,
    "xattr_none": lambda api, path: api.getxattr(path, "user.none", follow_symlinks=False),
    "xattr_trusted": lambda api, path: api.setxattr(path, "trusted.x", b"1"),
}

LOOKING = frozenset(
    (
        *("stat", "lstat", "bytes", "questions", "access", "listdir", "listdir_bytes", "scandir"),
        *("walk", "readlink", "statvfs", "open_rb"),
    )
)
"""Calls that change nothing: whether they did is looked up once, in the end, as for those that
failed."""
AFTERWARDS = "afterwards"
SILENT = frozenset(
    ("mknod", "mknod_device", "mknod_dir", "mkfifo", "utime_now", "utime", "utime_ns")
)
"""Calls of `os` whose errors do not name the path. Ours do."""


def failed(said: object) -> bool:
    """Whether an outcome is an error."""
    return isinstance(said, Failure)


class Failure(NamedTuple):
    """What a caller can see of an error."""

    kind: str
    errno: str | None = None
    filename: object = None
    filename2: object = None
    text: str | None = None


def outcome(call: Callable[[], object]) -> object:
    """What a call returned, or the error it raised with what the caller can see of it."""
    try:
        return call()
    except OSError as exc:
        name = errno.errorcode.get(exc.errno or 0)
        return Failure(type(exc).__name__, name, exc.filename, exc.filename2, exc.strerror)
    except ValueError as exc:
        return Failure(type(exc).__name__)


def state(api: Api) -> list[object]:
    """All that is there now, as root sees it."""
    seen: list[object] = []
    todo = ["/"]
    while todo:
        path = todo.pop()
        st = api.lstat(path)
        content: object = None
        if stat.S_ISDIR(st.st_mode):
            todo.extend(os.path.join(path, name) for name in api.listdir(path))
        elif stat.S_ISLNK(st.st_mode):
            content = api.readlink(path)
        elif stat.S_ISREG(st.st_mode):
            with api.open(path, "rb", buffering=0) as stream:
                content = stream.read()
        seen.append((path, _seen(st), content))
    return sorted(seen, key=repr)


Result = dict[str, tuple[object, list[object]]]


def real(caller: Caller, base: str, name: str) -> Result:
    """What a call does on a real file system, for each path, and what changes there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            result = _run_as(caller, base, name)
            with open(writer, "wb") as stream:
                pickle.dump(result, stream)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as stream:
        data = stream.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child that calls the real file system failed ({status:#x})"
    loaded: Result = pickle.loads(data)
    return loaded


def _run_as(caller: Caller, base: str, name: str) -> Result:
    os.umask(UMASK)
    os.chroot(base)
    os.chdir("/")
    os.chmod("/", 0o755)
    api: Api = RealApi()
    result: Result = {}
    changes = name not in LOOKING
    call = CALLS[name]
    build(api)
    fresh = state(api)
    for path in PATHS:
        os.setgroups(caller.groups)
        os.setresgid(caller.gid, caller.gid, 0)
        os.setresuid(caller.uid, caller.uid, 0)
        said = outcome(lambda path=path: call(api, path))  # type: ignore[misc]
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        now = state(api) if changes and not failed(said) else fresh
        result[path] = said, _difference(fresh, now)
        if now != fresh:
            _clear(api)
            build(api)
    result[AFTERWARDS] = None, _difference(fresh, state(api))
    return result


def _clear(api: Api) -> None:
    for top, dirs, names in api.walk("/", topdown=False):
        for name in names:
            api.remove(os.path.join(top, name))
        for name in dirs:
            path = os.path.join(top, name)
            (api.remove if api.islink(path) else api.rmdir)(path)
    api.chown("/", 0, 0)
    api.chmod("/", 0o755)


def _difference(before: list[object], after: list[object]) -> list[object]:
    """What has changed: the rows that are gone, and those that are new."""
    gone = [("gone", row) for row in before if row not in after]
    return gone + [row for row in after if row not in before]


def in_process(
    caller: Caller,
    make: Callable[[], puffs.FileSystem[Any]],
    name: str,
    cache: bool,
    isolate: bool = False,
) -> Result:
    """The same in process, with or without page cache; or with `isolate` in another process."""
    result: Result = {}
    changes = name not in LOOKING
    call = CALLS[name]
    with (
        puffs.local(make, cred=ROOT.cred(), cache=cache, isolate=isolate) as root,
        puffs.local(root.mount, cred=caller.cred()) as api,
    ):
        build(root)
        fresh = state(root)
        for path in PATHS:
            said = outcome(lambda path=path: call(api, path))  # type: ignore[misc]
            assert len(root.mount.vnodes) == 1, "vnodes are left over"
            now = state(root) if changes and not failed(said) else fresh
            result[path] = said, _difference(fresh, now)
            if now != fresh:
                _clear(root)
                build(root)
        result[AFTERWARDS] = None, _difference(fresh, state(root))
    return result
