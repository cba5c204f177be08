"""Handlers for names: lookup, making, linking, removing and renaming; and forgetting, which undoes
lookups.
"""

import os

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
from puffs.attach.fuse.handlers import Handlers, Serving

_S_IFDIR = 0o040000
_S_IFREG = 0o100000
_S_IFLNK = 0o120777


def split_names(body: bytes, count: int) -> list[str]:
    """The `count` NUL-terminated names of a request, as `str`."""
    return [os.fsdecode(name) for name in body.split(b"\0", count)[:count]]


def handlers(serving: Serving) -> Handlers:
    """The handlers of this family, by opcode."""
    return {**_lookups(serving), **_making(serving), **_moving(serving)}


def _lookups(serving: Serving) -> Handlers:
    channel, vnodes, reply = serving.channel, serving.mount.vnodes, serving.reply
    buffer, view, cred = channel.buffer, channel.view, channel.cred
    nodes, forget_node = vnodes.by_nodeid, vnodes.forget
    found, itself = reply.found, reply.itself
    fs_lookup, fs_getattr = serving.mount.ops["lookup"], serving.mount.ops["getattr"]
    unpack_forget = FORGET_IN.struct.unpack_from
    unpack_batch = BATCH_FORGET_IN.struct.unpack_from
    iter_forgets = FORGET_ONE.struct.iter_unpack
    forgets_at = BODY + BATCH_FORGET_IN.size

    def lookup(unique: int, nodeid: int, length: int) -> None:
        parent = nodes[nodeid]
        name = str(view[BODY : length - 1], "utf-8", "surrogateescape")
        if (
            name == "."
        ):  # a file handle is being opened (FUSE_EXPORT_SUPPORT): the node itself is meant
            itself(fs_getattr(parent.cookie, None), unique, parent)
        else:
            found(fs_lookup(parent.cookie, name, cred()), unique, parent)

    def forget(_unique: int, nodeid: int, _length: int) -> None:
        forget_node(nodeid, unpack_forget(buffer, BODY)[0])

    def batch_forget(_unique: int, _nodeid: int, _length: int) -> None:
        count, _ = unpack_batch(buffer, BODY)
        for nodeid, lookups in iter_forgets(
            view[forgets_at : forgets_at + count * FORGET_ONE.size]
        ):
            forget_node(nodeid, lookups)

    return {Opcode.LOOKUP: lookup, Opcode.FORGET: forget, Opcode.BATCH_FORGET: batch_forget}


def _making(serving: Serving) -> Handlers:
    mount, channel, reply = serving.mount, serving.channel, serving.reply
    buffer, view = channel.buffer, channel.view
    nodes, new_attr, cred_of = mount.vnodes.by_nodeid, mount.new_attr, channel.cred_with_umask
    made, created, itself = reply.made, reply.created, reply.itself
    ops = mount.ops
    fs_mknod, fs_mkdir, fs_symlink = ops.get("mknod"), ops.get("mkdir"), ops.get("symlink")
    fs_link, fs_create, fs_tmpfile = ops.get("link"), ops.get("create"), ops.get("tmpfile")
    fs_getattr = ops["getattr"]

    def name_at(offset: int, length: int) -> str:
        """The one name of a request: after its struct, and up to where extensions begin."""
        return str(bytes(view[offset:length]).partition(b"\0")[0], "utf-8", "surrogateescape")

    def mknod(unique: int, nodeid: int, length: int) -> None:
        mode, rdev, umask, _ = MKNOD_IN.struct.unpack_from(buffer, BODY)
        parent, cred = nodes[nodeid], cred_of(umask)
        name = name_at(BODY + MKNOD_IN.size, length)
        attr = new_attr(mode, cred, rdev)
        made(fs_mknod(parent.cookie, name, attr, cred), unique, parent, "mknod")  # type: ignore[misc]

    def mkdir(unique: int, nodeid: int, length: int) -> None:
        mode, umask = MKDIR_IN.struct.unpack_from(buffer, BODY)
        parent, cred = nodes[nodeid], cred_of(umask)
        name = name_at(BODY + MKDIR_IN.size, length)
        attr = new_attr(_S_IFDIR | mode & 0o7777, cred)
        made(fs_mkdir(parent.cookie, name, attr, cred), unique, parent, "mkdir")  # type: ignore[misc]

    def symlink(unique: int, nodeid: int, length: int) -> None:
        parent, cred = nodes[nodeid], cred_of(0)
        name, target = split_names(bytes(view[BODY:length]), 2)
        attr = new_attr(_S_IFLNK, cred)
        attr.size = len(os.fsencode(target))
        made(fs_symlink(parent.cookie, name, target, attr, cred), unique, parent, "symlink")  # type: ignore[misc]

    def create(unique: int, nodeid: int, length: int) -> None:
        flags, mode, umask, _ = CREATE_IN.struct.unpack_from(buffer, BODY)
        parent, cred = nodes[nodeid], cred_of(umask)
        name = name_at(BODY + CREATE_IN.size, length)
        attr = new_attr(_S_IFREG | mode & 0o7777, cred)
        flags &= ~(os.O_CREAT | os.O_EXCL | os.O_NOCTTY)
        made_and_open = fs_create(parent.cookie, name, attr, flags, cred)  # type: ignore[misc]
        created(made_and_open, unique, parent, flags, "create")

    def tmpfile(unique: int, nodeid: int, _length: int) -> None:
        flags, mode, umask, _ = CREATE_IN.struct.unpack_from(buffer, BODY)
        parent, cred = nodes[nodeid], cred_of(umask)
        attr = new_attr(_S_IFREG | mode & 0o7777, cred)
        attr.nlink = 0
        flags &= ~(os.O_TMPFILE & ~os.O_DIRECTORY)
        created(fs_tmpfile(parent.cookie, attr, flags, cred), unique, parent, flags, "tmpfile")  # type: ignore[misc]

    def link(unique: int, nodeid: int, length: int) -> None:
        (oldnodeid,) = LINK_IN.struct.unpack_from(buffer, BODY)
        node, parent = nodes[oldnodeid], nodes[nodeid]
        name = name_at(BODY + LINK_IN.size, length)
        entry = fs_link(node.cookie, parent.cookie, name, channel.cred())  # type: ignore[misc]
        attr = getattr(entry, "attr", None)
        itself(fs_getattr(node.cookie, None) if attr is None else attr, unique, node)

    return {
        Opcode.MKNOD: mknod,
        Opcode.MKDIR: mkdir,
        Opcode.SYMLINK: symlink,
        Opcode.CREATE: create,
        Opcode.TMPFILE: tmpfile,
        Opcode.LINK: link,
    }


def _moving(serving: Serving) -> Handlers:
    mount, channel = serving.mount, serving.channel
    buffer, view, cred = channel.buffer, channel.view, channel.cred
    nodes, ok = mount.vnodes.by_nodeid, serving.reply.ok
    fs_remove, fs_rmdir, fs_rename = (mount.ops.get(name) for name in ("remove", "rmdir", "rename"))

    def unlink(unique: int, nodeid: int, length: int) -> None:
        name = str(view[BODY : length - 1], "utf-8", "surrogateescape")
        ok(fs_remove(nodes[nodeid].cookie, name, cred()), unique)  # type: ignore[misc]

    def rmdir(unique: int, nodeid: int, length: int) -> None:
        name = str(view[BODY : length - 1], "utf-8", "surrogateescape")
        ok(fs_rmdir(nodes[nodeid].cookie, name, cred()), unique)  # type: ignore[misc]

    def rename_from(
        body: int, newdir: int, flags: int, unique: int, nodeid: int, length: int
    ) -> None:
        name, newname = split_names(bytes(view[body:length]), 2)
        old, new = nodes[nodeid].cookie, nodes[newdir].cookie
        ok(fs_rename(old, name, new, newname, flags, cred()), unique)  # type: ignore[misc]

    def rename(unique: int, nodeid: int, length: int) -> None:
        (newdir,) = RENAME_IN.struct.unpack_from(buffer, BODY)
        rename_from(BODY + RENAME_IN.size, newdir, 0, unique, nodeid, length)

    def rename2(unique: int, nodeid: int, length: int) -> None:
        newdir, flags, _ = RENAME2_IN.struct.unpack_from(buffer, BODY)
        rename_from(BODY + RENAME2_IN.size, newdir, flags, unique, nodeid, length)

    return {
        Opcode.UNLINK: unlink,
        Opcode.RMDIR: rmdir,
        Opcode.RENAME: rename,
        Opcode.RENAME2: rename2,
    }
