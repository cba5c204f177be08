"""Handlers for record locks and flock(2), for file servers that keep them themselves."""

import fcntl
from collections.abc import Callable
from typing import Any

from puffs.attach.fuse.abi import FUSE_LK_FLOCK, LK_IN, LK_OUT, Opcode
from puffs.attach.fuse.channel import BODY
from puffs.attach.fuse.flow import Steps
from puffs.attach.fuse.handlers import Handlers, Serving
from puffs.kernel import police
from puffs.kernel.mount import Mount
from puffs.server.types import Cookie, Lock

_TO_END = (1 << 63) - 1


def unlocker(mount: Mount) -> Callable[[Cookie, object, int, bool], Any] | None:
    """What gives all locks of one owner back: at close for record locks, at the last close for
    flock(2).
    """
    fs_advlock = mount.ops.get("advlock")
    if fs_advlock is None:
        return None

    def unlock(cookie: Cookie, file: object, owner: int, flock: bool) -> Any:
        lock = Lock(fcntl.F_UNLCK, 0, _TO_END, 0, flock)
        return fs_advlock(cookie, "set", lock, owner, file)

    return unlock


def handlers(serving: Serving) -> Handlers:
    """The handlers of this family, by opcode."""
    mount, channel, file_of, ok = (
        serving.mount,
        serving.channel,
        serving.files.file,
        serving.reply.ok,
    )
    buffer, nodes = channel.buffer, mount.vnodes.by_nodeid
    fs_advlock = mount.ops["advlock"]

    def asked(nodeid: int, op: str) -> Any:
        fh, owner, start, end, kind, pid, flags, _ = LK_IN.struct.unpack_from(buffer, BODY)
        lock = Lock(kind, start, end, pid, bool(flags & FUSE_LK_FLOCK))
        return fs_advlock(nodes[nodeid].cookie, op, lock, owner, file_of[fh])

    def getlk(unique: int, nodeid: int, _length: int) -> Steps:
        reply = yield asked(nodeid, "get")
        lock = police.lock(reply, nodes[nodeid].cookie) or Lock(fcntl.F_UNLCK, 0, 0, 0)
        channel.send(unique, LK_OUT.struct.pack(lock.start, lock.end, lock.type, lock.pid))

    def setlk(unique: int, nodeid: int, _length: int) -> None:
        ok(asked(nodeid, "set"), unique)

    def setlkw(unique: int, nodeid: int, _length: int) -> None:
        ok(asked(nodeid, "wait"), unique)

    return {Opcode.GETLK: serving.flow.steps(getlk), Opcode.SETLK: setlk, Opcode.SETLKW: setlkw}
