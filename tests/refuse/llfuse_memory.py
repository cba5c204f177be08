"""A server for tests, written for llfuse: `inode_memory`'s files, whose handlers are called here
without waiting. Runs as a program: `python -m tests.refuse.llfuse_memory`.
"""

import json
import stat
import sys
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

from puffs.refuse import llfuse
from tests.refuse.inode_memory import Memory, Node


async def _no_sleep(_seconds: float) -> None:
    pass


def _now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a handler that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


PATIENCE = 20.0

_PLAIN = (
    *("lookup", "getattr", "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink"),
    *("link", "read", "write", "flush", "release", "fsync", "opendir", "releasedir", "fsyncdir"),
    *("forget", "statfs", "getxattr", "listxattr", "removexattr", "access"),
)


def _plain(name: str) -> Any:
    def handler(self: "Plain", *args: Any) -> Any:
        assert not self.inside, "two handlers at once"
        self.inside = True
        try:
            return _now(getattr(self.memory, name)(*args))
        finally:
            self.inside = False

    return handler


class Plain(llfuse.Operations):
    """Hands on to a `Memory`; one call at a time, as the lock promises."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.inside = False
        self.meeting = threading.Barrier(4)

    for _name in _PLAIN:
        locals()[_name] = _plain(_name)

    def meet(self) -> None:
        """Wait for three others, with the lock given up."""
        with llfuse.lock_released:
            self.meeting.wait(PATIENCE)

    def init(self) -> None:
        self.memory.called("init")

    def destroy(self) -> None:
        self.memory.called("destroy")

    def open(self, inode: int, flags: int, ctx: Any) -> int:
        """Waits with the lock given up where the name says so."""
        if self.memory.waits(inode):
            self.meet()
        self.memory.called("open", ctx)
        return inode

    def create(self, *args: Any) -> Any:
        info, entry = _now(self.memory.create(*args))
        return info.fh, entry

    def rename(self, old: int, name_old: bytes, new: int, name_new: bytes, ctx: Any) -> None:
        _now(self.memory.rename(old, name_old, new, name_new, 0, ctx))

    def readdir(self, fh: int, off: int) -> Iterator[Any]:
        self.memory.called("readdir")
        names = [(b".", fh), *self.memory.nodes[fh].names.items()]
        for position, (name, inode) in enumerate(names[off:], off + 1):
            yield name, self.memory.attributes(inode), position

    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        self.memory.called("setxattr", ctx)
        if name == b"user.meet":
            self.meet()
        if name == b"user.invalidate":
            llfuse.invalidate_inode(inode)
            llfuse.invalidate_entry(llfuse.ROOT_INODE, value)
        if name == b"user.store":
            self.memory.nodes[inode].data[:] = value
            llfuse.notify_store(inode, 0, value)
        self.memory.node(inode).xattrs[name] = value

    def stacktrace(self) -> None:
        self.memory.called("stacktrace")


def main() -> None:
    mountpoint, notes, words = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    memory = Memory(_no_sleep)
    for number in range(words.get("entries", 0)):
        memory.enter(llfuse.ROOT_INODE, b"entry %d" % number, Node(stat.S_IFREG | 0o644))
    memory.timeout = words.get("timeout", 0.0)
    program = Plain(memory)
    llfuse.init(program, mountpoint, set(words.get("options", llfuse.default_options)))
    how = "returned"
    try:
        how = f"returned {llfuse.main(workers=words.get('workers'))}"
    except LookupError as exc:
        how = f"raised {exc!r}"
    finally:
        llfuse.close()
    left = [each.name for each in threading.enumerate() if each.name.startswith("llfuse-notify")]
    with open(notes, "w") as file:
        json.dump({"how": how, "threads": left, **memory.summary()}, file)


if __name__ == "__main__":
    main()
