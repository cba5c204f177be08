"""Handlers for names: lookup, making, linking, removing and renaming; and forgetting, which undoes
lookups.
"""

import os
from collections.abc import Callable
from errno import ENAMETOOLONG, ESTALE
from stat import S_IFDIR, S_IFLNK, S_IFREG, S_IMODE
from typing import Final

from puffs.attach.fuse.abi import (
    BATCH_FORGET_IN,
    CREATE_IN,
    FORGET_IN,
    FORGET_ONE,
    LINK_IN,
    MKDIR_IN,
    MKNOD_IN,
    RENAME2_IN,
    RENAME_IN,
    Opcode,
)
from puffs.attach.fuse.channel import BODY
from puffs.attach.fuse.flow import Steps
from puffs.attach.fuse.handlers import Handlers, Serving
from puffs.kernel.mount import Mount
from puffs.kernel.vnode import OWN_IDS, ROOT_ID
from puffs.server.types import Entry

_DOTS: Final = frozenset((".", ".."))

OF_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_NOCTTY
OF_TMPFILE: Final = os.O_TMPFILE & ~os.O_DIRECTORY
"""Flags that have done their work when the file server is asked to make a file."""


def longest_lookup(mount: Mount) -> int:
    """The length of a LOOKUP with the longest name and its NUL. Linux may ask for longer names, and
    looks up every name before it asks for anything else to be done with it.
    """
    return BODY + mount.namemax + 1


def split_names(body: bytes, count: int) -> list[str]:
    """The `count` NUL-terminated names of a request, as `str`."""
    return [os.fsdecode(name) for name in body.split(b"\0", count)[:count]]


def one_name(rest: memoryview) -> str:
    """The one name of a request: up to its NUL, behind which extensions may follow."""
    return str(bytes(rest).partition(b"\0")[0], "utf-8", "surrogateescape")


def handlers(serving: Serving) -> Handlers:
    """The handlers of this family, by opcode."""
    return {
        **_lookups(serving),
        **_making(serving),
        **_making_open(serving),
        **_moving(serving),
    }


def _lookups(serving: Serving) -> Handlers:
    channel, vnodes, reply = serving.channel, serving.mount.vnodes, serving.reply
    buffer, view, cred = channel.buffer, channel.view, channel.cred
    nodes, forget_node, found = vnodes.by_nodeid, vnodes.forget, reply.found
    fs_lookup, by_handle = serving.mount.ops["lookup"], _by_handle(serving)
    unpack_forget = FORGET_IN.struct.unpack_from
    unpack_batch = BATCH_FORGET_IN.struct.unpack_from
    iter_forgets = FORGET_ONE.struct.iter_unpack
    longest = longest_lookup(serving.mount)
    forgets_at, dots_end = BODY + BATCH_FORGET_IN.size, BODY + len("..\0") + 1

    def lookup(unique: int, nodeid: int, length: int) -> None:
        if length > longest:
            raise OSError(ENAMETOOLONG, os.strerror(ENAMETOOLONG))
        name = str(view[BODY : length - 1], "utf-8", "surrogateescape")
        if length < dots_end and name in _DOTS:
            by_handle(unique, nodeid, name)
            return
        parent = nodes[nodeid]
        found(fs_lookup(parent.cookie, name, cred()), unique, parent, name)

    def forget(_unique: int, nodeid: int, _length: int) -> None:
        forget_node(nodeid, unpack_forget(buffer, BODY)[0])

    def batch_forget(_unique: int, _nodeid: int, _length: int) -> None:
        count, _ = unpack_batch(buffer, BODY)
        for nodeid, lookups in iter_forgets(
            view[forgets_at : forgets_at + count * FORGET_ONE.size]
        ):
            forget_node(nodeid, lookups)

    return {Opcode.LOOKUP: lookup, Opcode.FORGET: forget, Opcode.BATCH_FORGET: batch_forget}


def _by_handle(serving: Serving) -> Callable[[int, int, str], None]:
    """LOOKUP of "." and "..", which the kernel sends when a file handle is opened and it does not
    remember the file, or the directory it is in (FUSE_EXPORT_SUPPORT): see `FileSystem.vget`.
    """
    mount, reply, cred = serving.mount, serving.reply, serving.channel.cred
    nodes = mount.vnodes.by_nodeid
    fs_lookup, fs_getattr, fs_vget = map(serving.operation, ("lookup", "getattr", "vget"))

    def itself(unique: int, nodeid: int) -> None:
        vnode = nodes.get(nodeid)
        if vnode is not None and not (mount.exports and mount.counting):
            reply.itself(fs_getattr(vnode.cookie, None), unique, vnode)
        elif mount.exports and nodeid < OWN_IDS:
            reply.regained(fs_vget(nodeid), unique, nodeid)
        else:
            raise OSError(ESTALE, os.strerror(ESTALE))

    def above(unique: int, nodeid: int) -> None:
        vnode = nodes[nodeid]
        if nodeid == ROOT_ID:
            itself(unique, nodeid)
        elif mount.exports:
            reply.above(fs_lookup(vnode.cookie, "..", cred()), unique, vnode)
        else:
            raise OSError(ESTALE, os.strerror(ESTALE))

    def by_handle(unique: int, nodeid: int, name: str) -> None:
        (itself if name == "." else above)(unique, nodeid)

    return by_handle


def _making(serving: Serving) -> Handlers:
    mount, channel = serving.mount, serving.channel
    buffer, view = channel.buffer, channel.view
    nodes, new_attr, cred_of = mount.vnodes.by_nodeid, mount.new_attr, channel.cred_with_umask
    made = serving.reply.made
    fs_mknod, fs_mkdir, fs_symlink = map(serving.operation, ("mknod", "mkdir", "symlink"))

    def mknod(unique: int, nodeid: int, length: int) -> None:
        mode, rdev, umask, _ = MKNOD_IN.struct.unpack_from(buffer, BODY)
        parent, cred = nodes[nodeid], cred_of(umask)
        name = one_name(view[BODY + MKNOD_IN.size : length])
        attr = new_attr(mode, cred, rdev)
        made(fs_mknod(parent.cookie, name, attr, cred), unique, parent, name, "mknod")

    def mkdir(unique: int, nodeid: int, length: int) -> None:
        mode, umask = MKDIR_IN.struct.unpack_from(buffer, BODY)
        parent, cred = nodes[nodeid], cred_of(umask)
        name = one_name(view[BODY + MKDIR_IN.size : length])
        attr = new_attr(S_IFDIR | S_IMODE(mode), cred)
        made(fs_mkdir(parent.cookie, name, attr, cred), unique, parent, name, "mkdir")

    def symlink(unique: int, nodeid: int, length: int) -> None:
        parent, cred = nodes[nodeid], cred_of(0)
        name, target = split_names(bytes(view[BODY:length]), 2)
        attr = new_attr(S_IFLNK | 0o777, cred)
        attr.size = len(os.fsencode(target))
        reply = fs_symlink(parent.cookie, name, target, attr, cred)
        made(reply, unique, parent, name, "symlink")

    return {Opcode.MKNOD: mknod, Opcode.MKDIR: mkdir, Opcode.SYMLINK: symlink}


def _making_open(serving: Serving) -> Handlers:
    mount, channel, reply = serving.mount, serving.channel, serving.reply
    buffer, view = channel.buffer, channel.view
    vnodes, new_attr, cred_of = mount.vnodes, mount.new_attr, channel.cred_with_umask
    fs_create, fs_tmpfile = serving.operation("create"), serving.operation("tmpfile")
    go, made_open = serving.flow.go, reply.made_open

    def create(unique: int, nodeid: int, length: int) -> None:
        flags, mode, umask, _ = CREATE_IN.struct.unpack_from(buffer, BODY)
        parent, cred = vnodes.by_nodeid[nodeid], cred_of(umask)
        name = one_name(view[BODY + CREATE_IN.size : length])
        attr = new_attr(S_IFREG | S_IMODE(mode), cred)
        flags = serving.open_flags(flags & ~OF_CREATE)
        made = fs_create(parent.cookie, name, attr, flags, cred)
        go(made_open(made, unique, parent, name, flags, cred, "create"))

    def tmpfile(unique: int, nodeid: int, _length: int) -> None:
        flags, mode, umask, _ = CREATE_IN.struct.unpack_from(buffer, BODY)
        parent, cred = vnodes.by_nodeid[nodeid], cred_of(umask)
        attr = new_attr(S_IFREG | S_IMODE(mode), cred)
        attr.nlink = 0
        flags = serving.open_flags(flags & ~OF_TMPFILE)
        made = fs_tmpfile(parent.cookie, attr, flags, cred)
        go(made_open(made, unique, parent, "", flags, cred, "tmpfile"))

    return {Opcode.CREATE: create, Opcode.TMPFILE: tmpfile}


def _moving(serving: Serving) -> Handlers:
    mount, channel = serving.mount, serving.channel
    buffer, view, cred = channel.buffer, channel.view, channel.cred
    nodes, ok, itself = mount.vnodes.by_nodeid, serving.reply.ok, serving.reply.itself
    fs_remove, fs_rmdir, fs_rename = map(serving.operation, ("remove", "rmdir", "rename"))
    fs_link, fs_getattr = serving.operation("link"), mount.ops["getattr"]

    def unlink(unique: int, nodeid: int, length: int) -> None:
        name = str(view[BODY : length - 1], "utf-8", "surrogateescape")
        ok(fs_remove(nodes[nodeid].cookie, name, cred()), unique)

    def rmdir(unique: int, nodeid: int, length: int) -> None:
        name = str(view[BODY : length - 1], "utf-8", "surrogateescape")
        ok(fs_rmdir(nodes[nodeid].cookie, name, cred()), unique)

    def link(unique: int, nodeid: int, length: int) -> Steps:
        (oldnodeid,) = LINK_IN.struct.unpack_from(buffer, BODY)
        node, parent = nodes[oldnodeid], nodes[nodeid]
        name = one_name(view[BODY + LINK_IN.size : length])
        entry = yield fs_link(node.cookie, parent.cookie, name, cred())
        attr = entry.attr if isinstance(entry, Entry) else None
        itself(fs_getattr(node.cookie, None) if attr is None else attr, unique, node)

    def rename_from(
        body: int, newdir: int, flags: int, unique: int, nodeid: int, length: int
    ) -> None:
        name, newname = split_names(bytes(view[body:length]), 2)
        old, new = nodes[nodeid].cookie, nodes[newdir].cookie
        ok(fs_rename(old, name, new, newname, flags, cred()), unique)

    def rename(unique: int, nodeid: int, length: int) -> None:
        (newdir,) = RENAME_IN.struct.unpack_from(buffer, BODY)
        rename_from(BODY + RENAME_IN.size, newdir, 0, unique, nodeid, length)

    def rename2(unique: int, nodeid: int, length: int) -> None:
        newdir, flags, _ = RENAME2_IN.struct.unpack_from(buffer, BODY)
        rename_from(BODY + RENAME2_IN.size, newdir, flags, unique, nodeid, length)

    return {
        Opcode.LINK: serving.flow.steps(link),
        Opcode.UNLINK: unlink,
        Opcode.RMDIR: rmdir,
        Opcode.RENAME: rename,
        Opcode.RENAME2: rename2,
    }
