"""A server for tests, written for pyfuse3 (`Memory`): files in memory, which tells what became of
lookup counts and of each handler. Runs as a program: `python -m tests.refuse.inode_memory`.
"""

import errno
import json
import os
import signal
import stat
import sys
import threading
from collections import Counter
from importlib import import_module
from typing import Any

from puffs.refuse import pyfuse3

WAITS = b"waits"
"""A file of this name takes long to be opened."""
BREAKS = b"breaks"
"""Looking for this name is a mistake in the program."""
IMPOSSIBLE = b"impossible"
"""A file of this name has a size below 0."""


class Node:
    def __init__(self, mode: int, **fields: Any) -> None:
        self.mode = mode
        self.data = bytearray()
        self.target = b""
        self.names: dict[bytes, int] = {}
        self.parent = pyfuse3.ROOT_INODE
        self.uid = self.gid = self.rdev = 0
        self.atime = self.mtime = self.ctime = 1_000_000_007
        self.links = 1
        self.xattrs: dict[bytes, bytes] = {}
        vars(self).update(fields)


class Memory(pyfuse3.Operations):
    """All handlers. `told` minus `forgotten` is what the kernel should know."""

    timeout = 0.0
    daemon = False

    def __init__(self, sleep: Any, entries: int = 0) -> None:
        self.sleep = sleep
        self.nodes = {pyfuse3.ROOT_INODE: Node(stat.S_IFDIR | 0o755, links=2)}
        self.next = 10
        self.calls: Counter[str] = Counter()
        self.told: Counter[int] = Counter()
        self.forgotten: Counter[int] = Counter()
        self.contexts: list[tuple[str, int, int, int]] = []
        self.handle: Any = None
        self.ready = False
        self.removed: list[int] = []
        for number in range(entries):
            self.enter(pyfuse3.ROOT_INODE, b"entry %d" % number, Node(stat.S_IFREG | 0o644))

    # ---- helpers

    def enter(self, parent: int, name: bytes, node: Node) -> int:
        inode = self.next
        self.next += 1
        self.nodes[inode] = node
        node.parent = parent
        self.nodes[parent].names[name] = inode
        return inode

    def node(self, inode: int) -> Node:
        """A node that has a name."""
        node = self.nodes.get(inode)
        if node is None or not node.links:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return node

    def attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        node = self.node(inode)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = node.mode
        entry.st_nlink = node.links
        entry.st_uid, entry.st_gid, entry.st_rdev = node.uid, node.gid, node.rdev
        entry.st_size = len(node.target or node.data)
        entry.st_blocks = (entry.st_size + 511) // 512
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = (
            node.atime,
            node.mtime,
            node.ctime,
        )
        entry.entry_timeout = entry.attr_timeout = self.timeout
        if self.nodes[node.parent].names.get(IMPOSSIBLE) == inode:
            entry.st_size = -28
        return entry

    def tell(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = self.attributes(inode)
        self.told[inode] += 1
        return entry

    def called(self, name: str, ctx: Any = None) -> None:
        self.calls[name] += 1
        if ctx is not None:
            self.contexts.append((name, ctx.uid, ctx.pid, ctx.umask))

    def child(self, parent: int, name: bytes) -> int:
        try:
            return self.node(parent).names[name]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None

    def waits(self, inode: int) -> bool:
        return self.nodes[self.nodes[inode].parent].names.get(WAITS) == inode

    def summary(self) -> dict[str, Any]:
        left = Counter(self.told)
        left.subtract(self.forgotten)
        return {
            "calls": dict(self.calls),
            "told": sum(self.told.values()),
            "left": {inode: count for inode, count in left.items() if count},
            "contexts": self.contexts,
            "removed": self.removed,
        }

    # ---- handlers

    def init(self) -> None:
        self.called("init")

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        self.called("lookup", ctx)
        if name == b".":
            return self.tell(parent_inode)
        if name == b"..":
            return self.tell(self.node(parent_inode).parent)
        if name == BREAKS:
            raise LookupError("a mistake")
        if name == b"absent":
            entry = pyfuse3.EntryAttributes()
            entry.entry_timeout = 100
            return entry
        return self.tell(self.child(parent_inode, name))

    async def forget(self, inode_list: Any) -> None:
        self.calls["forget"] += 1
        for inode, count in inode_list:
            self.forgotten[inode] += count
            assert self.forgotten[inode] <= self.told[inode], "forgotten more often than told"

    async def getattr(self, inode: int, ctx: Any) -> Any:
        self.called("getattr", ctx)
        await self.sleep(0)
        return self.attributes(inode)

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        self.called("setattr" if fh is None else "fsetattr", ctx)
        node = self.node(inode)
        if fields.update_mode:
            node.mode = attr.st_mode
        if fields.update_uid:
            node.uid = attr.st_uid
        if fields.update_gid:
            node.gid = attr.st_gid
        if fields.update_atime:
            node.atime = attr.st_atime_ns
        if fields.update_mtime:
            node.mtime = attr.st_mtime_ns
        if fields.update_ctime:
            node.ctime = attr.st_ctime_ns
        if fields.update_size:
            node.data[:] = node.data[: attr.st_size].ljust(attr.st_size, b"\0")
        return self.attributes(inode)

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        self.called("readlink", ctx)
        return self.node(inode).target

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        self.called("mknod", ctx)
        return self.tell(self.enter(parent_inode, name, Node(mode, rdev=rdev)))

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        self.called("mkdir", ctx)
        return self.tell(self.enter(parent_inode, name, Node(mode, links=2)))

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        self.called("unlink", ctx)
        inode = self.child(parent_inode, name)
        del self.nodes[parent_inode].names[name]
        self.nodes[inode].links -= 1

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        self.called("rmdir", ctx)
        if self.node(self.child(parent_inode, name)).names:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        del self.nodes[parent_inode].names[name]

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> Any:
        self.called("symlink", ctx)
        return self.tell(self.enter(parent_inode, name, Node(stat.S_IFLNK | 0o777, target=target)))

    async def rename(
        self,
        parent_old: int,
        name_old: bytes,
        parent_new: int,
        name_new: bytes,
        flags: int,
        ctx: Any,
    ) -> None:
        self.called("rename", ctx)
        moved, old, new = (
            self.child(parent_old, name_old),
            self.nodes[parent_old],
            self.node(parent_new),
        )
        if flags & pyfuse3.RENAME_EXCHANGE:
            old.names[name_old] = self.child(parent_new, name_new)
        else:
            if flags & pyfuse3.RENAME_NOREPLACE and name_new in new.names:
                raise pyfuse3.FUSEError(errno.EEXIST)
            del old.names[name_old]
        new.names[name_new] = moved

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> Any:
        self.called("link", ctx)
        self.node(new_parent_inode).names[new_name] = inode
        self.nodes[inode].links += 1
        return self.tell(inode)

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        self.called("open", ctx)
        if self.waits(inode):
            await self.sleep(1.0)
        return pyfuse3.FileInfo(fh=inode)

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        self.called("create", ctx)
        inode = self.enter(parent_inode, name, Node(mode))
        return pyfuse3.FileInfo(fh=inode), self.tell(inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        self.called("read")
        return bytes(self.nodes[fh].data[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self.called("write")
        assert type(buf) is bytes
        data = self.nodes[fh].data
        data[len(data) :] = bytes(max(0, off - len(data)))
        data[off : off + len(buf)] = buf
        return len(buf)

    async def flush(self, fh: int) -> None:
        self.called("flush")

    async def release(self, fh: int) -> None:
        self.called("release")

    async def fsync(self, fh: int, datasync: bool) -> None:
        self.called("fdatasync" if datasync else "fsync")

    async def poll(self, inode: int, fh: int, poll_handle: Any, ctx: Any) -> int:
        self.called("poll", ctx)
        import select

        if poll_handle is not None and not self.ready:
            self.ready = True
            threading.Timer(0.2, poll_handle.notify).start()
            return 0
        return select.POLLIN if self.ready else 0

    async def opendir(self, inode: int, ctx: Any) -> int:
        self.called("opendir", ctx)
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        self.called("readdir")
        names = [(b".", fh), (b"..", self.nodes[fh].parent), *self.nodes[fh].names.items()]
        for position, (name, inode) in enumerate(names[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self.attributes(inode), position):
                return
            if name not in (b".", b".."):
                self.told[inode] += 1
            if name == b"raises":
                raise pyfuse3.FUSEError(errno.EIO)

    async def releasedir(self, fh: int) -> None:
        self.called("releasedir")

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        self.called("fsyncdir")

    async def statfs(self, ctx: Any) -> Any:
        self.called("statfs", ctx)
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 1024
        data.f_blocks, data.f_bfree, data.f_bavail = 1000, 0, 400
        data.f_files, data.f_ffree, data.f_favail = 100, 50, 40
        data.f_namemax = 200
        data.__setstate__({"f_bfree": 1001 / 2})  # as programs that divide have it
        return data

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        self.called("setxattr", ctx)
        if name == b"user.invalidate":
            pyfuse3.invalidate_inode(inode)
            pyfuse3.invalidate_entry_async(pyfuse3.ROOT_INODE, value, ignore_enoent=True)
        if name == b"user.store":
            self.nodes[inode].data[:] = value
            pyfuse3.notify_store(inode, 0, value)
        if name == b"user.end":
            pyfuse3.terminate()
        self.node(inode).xattrs[name] = value

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        self.called("getxattr", ctx)
        try:
            return self.node(inode).xattrs[name]
        except KeyError:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR) from None

    async def listxattr(self, inode: int, ctx: Any) -> Any:
        self.called("listxattr", ctx)
        return list(self.node(inode).xattrs)

    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        self.called("removexattr", ctx)
        if self.node(inode).xattrs.pop(name, None) is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)

    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        self.called("access", ctx)
        return bool(self.node(inode).mode & mode << 6)

    def stacktrace(self) -> None:
        self.called("stacktrace")


HANDLERS = (
    *("lookup", "getattr", "mkdir", "unlink", "rmdir", "open", "create", "read", "write"),
    *("flush", "release", "readdir", "setattr", "opendir", "releasedir"),
)


class OwnAttributes(pyfuse3.EntryAttributes):
    """A class of the program's own."""


class Promise:
    """What can be awaited and is no coroutine."""

    def __init__(self, coroutine: Any) -> None:
        self.coroutine = coroutine

    def __await__(self) -> Any:
        return self.coroutine.__await__()


def pausing(sleep: Any, handler: Any) -> Any:
    """The same handler, which waits a little in the beginning."""

    async def paused(*args: Any) -> Any:
        await sleep(0)
        return await handler(*args)

    return paused


def promising(_sleep: Any, handler: Any) -> Any:
    """The same handler, which is no `async def`."""
    return lambda *args: Promise(handler(*args))


def replying_oddly(_sleep: Any, handler: Any) -> Any:
    """The same handler, which replies with other types where that makes no difference."""

    async def odd(*args: Any) -> Any:
        return oddly(await handler(*args))

    return odd


def oddly(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return memoryview(reply)
    if isinstance(reply, tuple):
        return tuple(map(oddly, reply))
    if isinstance(reply, pyfuse3.EntryAttributes):
        own = OwnAttributes()
        own.__setstate__(reply.__getstate__())
        return own
    return reply


WAYS = {"pausing": pausing, "promising": promising, "replying oddly": replying_oddly}
"""How handlers may come to their ends."""


class Bare(pyfuse3.Operations):
    """Only what a listing needs."""

    async def getattr(self, inode: int, ctx: Any) -> Any:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode = inode, stat.S_IFDIR | 0o755
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        pass


async def ticking(ops: Memory, sleep: Any) -> None:
    """A task of the program beside `main`: counts."""
    while True:
        await sleep(0.005)
        ops.calls["tick"] += 1


def run(ops: Any, loop: str, options: set[str], mountpoint: str, max_tasks: int) -> str:
    """Serve; what has become of `main`."""
    pyfuse3.init(ops, mountpoint, options)
    if ops.daemon and os.fork():
        os._exit(0)
    how = "returned"
    try:
        if loop == "asyncio":
            import asyncio

            from puffs.refuse.pyfuse3 import asyncio as switch

            switch.enable()

            async def beside() -> None:
                background = asyncio.create_task(ticking(ops, asyncio.sleep))
                try:
                    await pyfuse3.main()
                finally:
                    background.cancel()

            asyncio.run(beside())
        else:
            import trio

            async def both() -> None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ticking, ops, trio.sleep)
                    try:
                        await pyfuse3.main(max_tasks=max_tasks)
                    finally:
                        nursery.cancel_scope.cancel()

            trio.run(both)
    except* LookupError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
        how = f"raised {error!r}"
    except* KeyboardInterrupt:
        how = "interrupted"
    finally:
        pyfuse3.close()
    return how


def main() -> None:
    mountpoint, notes, words = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loop = words.get("loop", "trio")
    sleep = import_module(loop).sleep
    if words.get("bare"):
        pyfuse3.init(Bare(), mountpoint, set(words["options"]))
        import trio

        trio.run(pyfuse3.main)
        pyfuse3.close()
        return
    ops = Memory(sleep, words.get("entries", 0))
    for name in HANDLERS if "way" in words else ():
        setattr(ops, name, WAYS[words["way"]](sleep, getattr(ops, name)))
    ops.timeout = words.get("timeout", 0.0)
    ops.enable_writeback_cache = words.get("writeback", False)
    if words.get("daemon"):
        ops.daemon = True
    how = run(ops, loop, set(words.get("options", ())), mountpoint, words.get("max_tasks", 99))
    with open(notes, "w") as file:
        json.dump({"how": how, **ops.summary()}, file)


if __name__ == "__main__":
    main()
