"""A small file server that keeps a record of what it is asked, and says what a test wants."""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from errno import EEXIST, ENOENT, ENOTEMPTY
from typing import Any

import pytest

import puffs
from puffs.kernel.args import KernelFlag
from puffs.kernel.flush import HostCache, NothingCached
from puffs.kernel.mount import Mount, args_for
from puffs.kernel.notice import Notice
from puffs.kernel.vnode import Vnode
from puffs.kernel.vnops import OpenFile, Vnops
from puffs.server.operations import Operations

ROOT = 1
CRED = puffs.Cred(1000, 1000, tid=7, umask=0o22, pid=6, groups=())


class Node:
    def __init__(self, attr: puffs.Attr) -> None:
        self.attr = attr
        self.data = bytearray()
        self.names: dict[str, int] = {}
        self.target = ""
        self.xattrs: dict[str, bytes] = {}


class Little(puffs.FileSystem[int]):
    """Cookies are numbers, the root's is 1. `log` has every call: its name, then its arguments.

    `without` names operations that it is not to have. `says` maps an operation to what it is to
    return instead, or raise; a function is called with the operation's arguments.
    """

    def __init__(self, *without: str, root_mode: int = stat.S_IFDIR | 0o755) -> None:
        self.without = frozenset(without)
        self.log: list[tuple[Any, ...]] = []
        self.says: dict[str, Any] = {}
        self.nodes = {ROOT: Node(puffs.Attr(root_mode, ino=ROOT))}
        self.callers: dict[str, puffs.Cred] = {}

    def operations(self) -> Operations:
        return {
            name: self._recorded(name, operation)
            for name, operation in super().operations().items()
            if name not in self.without
        }

    def _recorded(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.log.append((name, *args))
            try:
                self.callers[name] = puffs.caller()
            except LookupError:
                pass
            if name not in self.says:
                return operation(*args)
            said = self.says[name]
            if isinstance(said, BaseException) or (
                isinstance(said, type) and issubclass(said, BaseException)
            ):
                raise said
            return said(*args) if callable(said) else said

        return call

    def asked(self, *names: str) -> list[tuple[Any, ...]]:
        """The recorded calls of these operations."""
        return [call for call in self.log if call[0] in names]

    def _add(self, dir: int, name: str, attr: puffs.Attr) -> int:
        names = self.nodes[dir].names
        if name in names:
            raise OSError(EEXIST, name)
        cookie = max(self.nodes) + 1
        attr.ino = cookie
        self.nodes[cookie] = Node(attr)
        names[name] = cookie
        return cookie

    def mount(self) -> int:
        return ROOT

    def unmount(self, force: bool) -> None: ...

    def unmounted(self) -> None: ...

    def statvfs(self) -> puffs.StatVfs:
        return puffs.StatVfs(blocks=100, bfree=50)

    def sync(self, wait: bool, cred: puffs.Cred) -> None: ...

    def snapshot(self, destination: str) -> None: ...

    def lookup(self, dir: int, name: str, cred: puffs.Cred) -> int | puffs.Entry:
        try:
            return self.nodes[dir].names[name]
        except KeyError:
            raise OSError(ENOENT, name) from None

    def create(
        self, dir: int, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred
    ) -> tuple[int | puffs.Entry, puffs.Open | object]:
        return self._add(dir, name, attr), f"file of {name}"

    def mknod(self, dir: int, name: str, attr: puffs.Attr, cred: puffs.Cred) -> int:
        return self._add(dir, name, attr)

    def mkdir(self, dir: int, name: str, attr: puffs.Attr, cred: puffs.Cred) -> int:
        return self._add(dir, name, attr)

    def symlink(self, dir: int, name: str, target: str, attr: puffs.Attr, cred: puffs.Cred) -> int:
        cookie = self._add(dir, name, attr)
        self.nodes[cookie].target = target
        return cookie

    def link(self, node: int, dir: int, name: str, cred: puffs.Cred) -> None:
        self.nodes[dir].names[name] = node

    def remove(self, dir: int, name: str, cred: puffs.Cred) -> None:
        del self.nodes[dir].names[name]

    def rmdir(self, dir: int, name: str, cred: puffs.Cred) -> None:
        if self.nodes[self.nodes[dir].names[name]].names:
            raise OSError(ENOTEMPTY, name)
        del self.nodes[dir].names[name]

    def rename(
        self, dir: int, name: str, newdir: int, newname: str, flags: int, cred: puffs.Cred
    ) -> None:
        self.nodes[newdir].names[newname] = self.nodes[dir].names.pop(name)

    def open(self, node: int, flags: int, cred: puffs.Cred) -> object:
        return f"open {node}"

    def close(self, node: int, file: Any, flags: int) -> None: ...

    def flush(self, node: int, file: Any, owner: int) -> None: ...

    def fsync(self, node: int, datasync: bool, file: Any) -> None: ...

    def read(self, node: int, offset: int, size: int, file: Any) -> puffs.Buffer:
        return self.nodes[node].data[offset : offset + size]

    def write(self, node: int, offset: int, data: memoryview, file: Any) -> int:
        kept = self.nodes[node]
        kept.data.extend(bytes(max(0, offset - len(kept.data))))
        kept.data[offset : offset + len(data)] = data
        kept.attr.size = len(kept.data)
        return len(data)

    def getattr(self, node: int, file: Any = None) -> puffs.Attr:
        return self.nodes[node].attr

    def setattr(
        self, node: int, changes: puffs.Changes, file: Any, cred: puffs.Cred
    ) -> puffs.Attr | None:
        kept = self.nodes[node]
        if changes.size is not None:
            kept.data = kept.data[: changes.size].ljust(changes.size, b"\0")
        changes.apply(kept.attr)
        return None

    def readlink(self, node: int) -> str:
        return self.nodes[node].target

    def opendir(self, dir: int, cred: puffs.Cred) -> object:
        return f"directory {dir}"

    def closedir(self, dir: int, file: Any) -> None: ...

    def fsyncdir(self, dir: int, datasync: bool, file: Any) -> None: ...

    def readdir(self, dir: int, offset: int, file: Any) -> Iterable[puffs.DirEntry | str]:
        for name, cookie in list(self.nodes[dir].names.items()):
            yield puffs.DirEntry(name, stat.S_IFMT(self.nodes[cookie].attr.mode), cookie)

    def getxattr(self, node: int, name: str) -> bytes:
        return self.nodes[node].xattrs[name]

    def setxattr(self, node: int, name: str, value: bytes, flags: int) -> None:
        self.nodes[node].xattrs[name] = value

    def listxattr(self, node: int) -> list[str]:
        return list(self.nodes[node].xattrs)

    def removexattr(self, node: int, name: str) -> None:
        del self.nodes[node].xattrs[name]

    def inactive(self, node: int) -> None: ...

    def reclaim(self, node: int) -> None: ...

    def suspend(self, status: puffs.Suspend) -> None: ...

    def error(self, kind: str, code: int, text: str, node: Any) -> None: ...


class FakeCache:
    """A cache that writes down what it is told, and has done so when `hear` is called."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.notices: list[Notice] = []

    def _told(self, *what: Any) -> Notice:
        self.log.append(what)
        self.notices.append(Notice())
        return self.notices[-1]

    def hear(self, failure: OSError | None = None) -> None:
        """All that was told has arrived, or the first of it has failed."""
        while self.notices:
            notice = self.notices.pop(0)
            if failure is not None:
                notice.set_exception(failure)
                failure = None
            else:
                notice.set_result(None)

    def invalidate_name(self, dir: Vnode, name: str) -> Notice:
        return self._told("invalidate_name", dir.cookie, name)

    def invalidate_names(self, dir: Vnode | None) -> Notice:
        return self._told("invalidate_names", None if dir is None else dir.cookie)

    def invalidate_attr(self, vnode: Vnode) -> Notice:
        return self._told("invalidate_attr", vnode.cookie)

    def invalidate_pages(self, vnode: Vnode, start: int, end: int) -> Notice:
        return self._told("invalidate_pages", vnode.cookie, start, end)

    def store_pages(self, vnode: Vnode, offset: int, data: bytes) -> Notice:
        return self._told("store_pages", vnode.cookie, offset, data)

    def flush_pages(self, vnode: Vnode, start: int, end: int) -> Notice:
        return self._told("flush_pages", vnode.cookie, start, end)


class FakeHost:
    """An attachment to nothing, which does as a test says."""

    by_call = True
    alone = ""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.cache: HostCache = NothingCached()
        self.in_use = False
        self.flush_fails: OSError | None = None
        self.log: list[tuple[str, *tuple[object, ...]]] = []

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        self.log.append(("call",))
        return function(*args)

    def post(self, function: Callable[[], None]) -> None:
        self.log.append(("post",))
        function()

    def busy(self) -> bool:
        return self.in_use

    def flush(self) -> None:
        self.log.append(("flush",))
        if self.flush_fails is not None:
            raise self.flush_fails

    def check_outside(self) -> None: ...

    def suspend(self, deadline: float) -> None:
        self.log.append(("suspend",))
        if self.flush_fails is not None:
            raise self.flush_fails

    def resume(self) -> None:
        self.log.append(("resume",))

    def holds(self, path: str) -> bool:
        return path.startswith("/mnt/")

    def detach(self, force: bool) -> None:
        self.log.append(("detach", force))
        self.mount.detached(self)


def mounted(
    server: Little, clock: Callable[[], int] = time.time_ns, **args: Any
) -> tuple[Mount, FakeHost]:
    """A running mount of `server`, on a host that is none. Without page cache, if not asked for."""
    args.setdefault("flags", KernelFlag.NOCACHE_PAGE)
    mount = Mount(server, replace(args_for(server), **args), clock=clock)
    host = FakeHost(mount)
    mount.attach(host)
    mount.start()
    server.log.clear()
    return mount, host


def vnops_of(server: Little, **args: Any) -> Vnops:
    """The vnode operations of a running mount of `server`."""
    return Vnops(mounted(server, **args)[0], CRED)


def a_file(
    vnops: Vnops, name: str = "f", data: bytes = b"", flags: int = os.O_RDWR
) -> tuple[Vnode, OpenFile]:
    """A new file, known once and open."""
    found, file = vnops.create(vnops.mount.root(), name, 0o644, flags)
    if data:
        assert vnops.write(file, 0, data) == len(data)
    return found.vnode, file


class Clock:
    """Tells `now`, which moves by a second each time that it is asked."""

    def __init__(self) -> None:
        self.now = 1_000 * 10**9

    def __call__(self) -> int:
        self.now += 10**9
        return self.now


def cached(server: Little, flags: int = 0, **args: Any) -> Vnops:
    """The vnode operations of a running mount that has a page cache."""
    return vnops_of(server, flags=flags, **args)


def contents(server: Little, cookie: int = 2) -> bytes:
    """What the file server has."""
    return bytes(server.nodes[cookie].data)


def stored(vnops: Vnops, server: Little, data: bytes, flags: int = os.O_RDWR) -> OpenFile:
    """A file that the file server has had before anybody opened it."""
    vnode, file = a_file(vnops)
    vnops.close(file)
    server.nodes[2].data[:] = data
    server.nodes[2].attr.size = len(data)
    opened = vnops.open(vnode, flags)
    server.log.clear()
    return opened


@contextmanager
def fails(code: int) -> Iterator[pytest.ExceptionInfo[OSError]]:
    """The body must raise an `OSError` with this errno."""
    with pytest.raises(OSError) as caught:
        yield caught
    assert caught.value.errno == code, os.strerror(caught.value.errno or 0)
