"""Handlers for attributes: stat, chmod and the like, access, symbolic links, xattrs."""

import errno
import os
from stat import S_IMODE
from typing import Any

from puffs.attach.fuse.abi import (
    ACCESS_IN,
    COMPAT_SETXATTR_IN,
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_CTIME,
    FATTR_FH,
    FATTR_GID,
    FATTR_KILL_SUIDGID,
    FATTR_LOCKOWNER,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    FUSE_GETATTR_FH,
    FUSE_SETXATTR_EXT,
    GETATTR_IN,
    GETXATTR_IN,
    GETXATTR_OUT,
    SETATTR_IN,
    SETXATTR_IN,
    STATX_IN,
    STATX_OUT,
    Opcode,
)
from puffs.attach.fuse.channel import BODY
from puffs.attach.fuse.flow import Steps
from puffs.attach.fuse.handlers import Handlers, Serving
from puffs.attach.fuse.replies import lifetime
from puffs.kernel import police
from puffs.kernel.vnode import Vnode
from puffs.server.access import check_access
from puffs.server.acl import ACL_NAMES
from puffs.server.attr import Attr, Changes
from puffs.server.cred import Cred

_NS = 1_000_000_000
_NO_CHANGES = FATTR_FH | FATTR_LOCKOWNER
_STATX_BASIC_STATS = 0x7FF
_STATX_BTIME = 0x800


def handlers(serving: Serving) -> Handlers:
    """The handlers of this family, by opcode."""
    return {**_stat(serving), **_links_and_access(serving), **_xattrs(serving)}


def _time(seconds: int, nanoseconds: int) -> int:
    """A time in nanoseconds. Seconds before the epoch come as two's complement."""
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * _NS + nanoseconds


def changes_of(buffer: bytearray, now_ns: int) -> tuple[Changes, int | None]:
    """A `fuse_setattr_in` as `Changes`, and the `fh` of the open file that it came through."""
    valid, _, fh, size, _, atime, mtime, ctime, *rest = SETATTR_IN.struct.unpack_from(buffer, BODY)
    atime_part, mtime_part, ctime_part, mode, _, uid, gid, _ = rest
    # With FUSE_HANDLE_KILLPRIV_V2 a request to change nothing asks to take set-id bits away: it
    # comes before a write, or for a chown(2) without an owner and a group.
    kill = valid & FATTR_KILL_SUIDGID or not valid & ~_NO_CHANGES
    changes = Changes(kill_suidgid=bool(kill))
    if valid & FATTR_MODE:
        changes.mode = S_IMODE(mode)
    if valid & FATTR_UID:
        changes.uid = uid
    if valid & FATTR_GID:
        changes.gid = gid
    if valid & FATTR_SIZE:
        changes.size = size
    if valid & FATTR_ATIME:
        changes.atime_now = bool(valid & FATTR_ATIME_NOW)
        changes.atime_ns = now_ns if changes.atime_now else _time(atime, atime_part)
    if valid & FATTR_MTIME:
        changes.mtime_now = bool(valid & FATTR_MTIME_NOW)
        changes.mtime_ns = now_ns if changes.mtime_now else _time(mtime, mtime_part)
    if valid & FATTR_CTIME:
        changes.ctime_ns = _time(ctime, ctime_part)
    return changes, fh if valid & FATTR_FH else None


def check_shed(attr: Attr, changes: Changes, cred: Cred) -> None:
    """Set-id bits are taken away for who owns a file, or may write to it: EPERM.

    The kernel has not checked who asks for nothing else: it may be anybody, by chown(2).
    """
    alone = changes.size is None and changes.uid is None and changes.gid is None
    if changes.mode is None or not alone or cred.uid == attr.uid:
        return
    try:
        check_access(attr, os.W_OK, cred)
    except PermissionError:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from None


def _stat(serving: Serving) -> Handlers:
    mount, channel, reply = serving.mount, serving.channel, serving.reply
    buffer, cred, clock = channel.buffer, channel.cred, mount.clock
    nodes, file_of = mount.vnodes.by_nodeid, serving.files.file
    send_attr, changed = reply.attr, reply.changed
    fs_getattr, fs_setattr = mount.ops["getattr"], serving.operation("setattr")
    sees_opens = "open" in mount.ops
    unpack = GETATTR_IN.struct.unpack_from

    def getattr_(unique: int, nodeid: int, _length: int) -> None:
        flags, _, fh = unpack(buffer, BODY)
        vnode = nodes[nodeid]
        file = file_of[fh] if flags & FUSE_GETATTR_FH else None
        send_attr(fs_getattr(vnode.cookie, file), unique, vnode)

    def shedding(unique: int, vnode: Vnode, changes: Changes, file: Any, who: Cred) -> Steps:
        """Set-id bits are to go: that depends on those that are there."""
        reply = yield fs_getattr(vnode.cookie, file)
        before = police.attributes(reply, vnode.cookie, "getattr")
        changes.shed(before, who)
        if sees_opens and not vnode.opens:  # else it may be a write through an open file
            check_shed(before, changes, who)
        changed(fs_setattr(vnode.cookie, changes, file, who), unique, vnode, file)

    def setattr_(unique: int, nodeid: int, _length: int) -> None:
        changes, fh = changes_of(buffer, clock())
        vnode, who = nodes[nodeid], cred()
        file = None if fh is None else file_of[fh]
        if changes.kill_suidgid:
            serving.flow.go(shedding(unique, vnode, changes, file, who))
        else:
            changed(fs_setattr(vnode.cookie, changes, file, who), unique, vnode, file)

    def statx(unique: int, nodeid: int, _length: int) -> Steps:
        flags, _, fh, _, _ = STATX_IN.struct.unpack_from(buffer, BODY)
        vnode = nodes[nodeid]
        file = file_of[fh] if flags & FUSE_GETATTR_FH else None
        reply = yield fs_getattr(vnode.cookie, file)
        attr = police.attributes(reply, vnode.cookie, "getattr")
        channel.send(unique, statx_reply(attr, attr.ino or vnode.ino, mount.server.attr_ttl))

    steps = serving.flow.steps
    return {
        Opcode.GETATTR: getattr_,
        Opcode.SETATTR: setattr_,
        Opcode.STATX: steps(statx),
    }


def statx_reply(attr: Attr, ino: int, ttl: float) -> bytes:
    """A `fuse_statx_out`: what `fuse_attr` has, and the time of birth where it is known."""
    seconds, nanoseconds = lifetime(ttl)
    times = {"atime": attr.atime_ns, "mtime": attr.mtime_ns, "ctime": attr.ctime_ns}
    if attr.btime_ns is not None:
        times["btime"] = attr.btime_ns
    parts: dict[str, int] = {}
    for name, ns in times.items():
        parts[f"stat_{name}_tv_sec"], parts[f"stat_{name}_tv_nsec"] = divmod(ns, _NS)
    return STATX_OUT.pack(
        attr_valid=seconds,
        attr_valid_nsec=nanoseconds,
        stat_mask=_STATX_BASIC_STATS | (_STATX_BTIME if "btime" in times else 0),
        stat_blksize=attr.blksize,
        stat_nlink=attr.nlink,
        stat_uid=attr.uid,
        stat_gid=attr.gid,
        stat_mode=attr.mode,
        stat_ino=ino,
        stat_size=attr.size,
        stat_blocks=attr.blocks,
        stat_rdev_major=os.major(attr.rdev),
        stat_rdev_minor=os.minor(attr.rdev),
        **parts,
    )


def _links_and_access(serving: Serving) -> Handlers:
    mount, channel, ok = serving.mount, serving.channel, serving.reply.ok
    buffer, nodes = channel.buffer, mount.vnodes.by_nodeid
    fs_readlink, fs_access = serving.operation("readlink"), serving.operation("access")

    def readlink(unique: int, nodeid: int, _length: int) -> Steps:
        cookie = nodes[nodeid].cookie
        target = yield fs_readlink(cookie)
        channel.send(unique, police.target(target, cookie))

    def access(unique: int, nodeid: int, _length: int) -> None:
        mask, _ = ACCESS_IN.struct.unpack_from(buffer, BODY)
        ok(fs_access(nodes[nodeid].cookie, mask, channel.cred()), unique)

    return {Opcode.READLINK: serving.flow.steps(readlink), Opcode.ACCESS: access}


def _xattrs(serving: Serving) -> Handlers:
    mount, channel, ok = serving.mount, serving.channel, serving.reply.ok
    buffer, view, nodes = channel.buffer, channel.view, mount.vnodes.by_nodeid
    fs_get, fs_set = serving.operation("getxattr"), serving.operation("setxattr")
    fs_list, fs_remove = serving.operation("listxattr"), serving.operation("removexattr")
    set_in = SETXATTR_IN if serving.init_flags & FUSE_SETXATTR_EXT else COMPAT_SETXATTR_IN

    def send_sized(value: bytes, unique: int, room: int) -> None:
        """A value for which the caller has `room` bytes; 0 asks how many it needs (getxattr(2))."""
        if room == 0:
            value = GETXATTR_OUT.struct.pack(len(value), 0)
        elif len(value) > room:
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
        channel.send(unique, value)

    def getxattr(unique: int, nodeid: int, length: int) -> Steps:
        room, _ = GETXATTR_IN.struct.unpack_from(buffer, BODY)
        name = os.fsdecode(bytes(view[BODY + GETXATTR_IN.size : length - 1]))
        cookie = nodes[nodeid].cookie
        value = yield fs_get(cookie, name)
        send_sized(police.xattr(value, cookie, "getxattr"), unique, room)

    def listxattr(unique: int, nodeid: int, _length: int) -> Steps:
        room, _ = GETXATTR_IN.struct.unpack_from(buffer, BODY)
        cookie, cred = nodes[nodeid].cookie, channel.cred()
        names = police.xattr_names((yield fs_list(cookie)), cookie)
        send_sized(police.visible(names, cred), unique, room)

    def setxattr(unique: int, nodeid: int, length: int) -> None:
        size, flags, *_ = set_in.struct.unpack_from(buffer, BODY)
        name, _, value = bytes(view[BODY + set_in.size : length]).partition(b"\0")
        ok(fs_set(nodes[nodeid].cookie, os.fsdecode(name), value[:size], flags), unique)

    def removexattr(unique: int, nodeid: int, length: int) -> Steps:
        name = os.fsdecode(bytes(view[BODY : length - 1]))
        try:
            yield fs_remove(nodes[nodeid].cookie, name)
        except OSError as exc:
            # An ACL that is not there may be taken away, whatever a file server says to that.
            if name not in ACL_NAMES or mount.errno_of(exc, "removexattr") != errno.ENODATA:
                raise
        ok(None, unique)

    steps = serving.flow.steps
    return {
        Opcode.GETXATTR: steps(getxattr),
        Opcode.LISTXATTR: steps(listxattr),
        Opcode.SETXATTR: setxattr,
        Opcode.REMOVEXATTR: steps(removexattr),
    }
