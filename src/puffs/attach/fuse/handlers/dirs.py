"""Handlers for open directories."""

import os
from collections.abc import Iterable

from puffs.attach.fuse.abi import (
    DIRENT,
    ENTRY_OUT,
    FSYNC_IN,
    FUSE_FSYNC_FDATASYNC,
    OPEN_OUT,
    OUT_HEADER,
    READ_IN,
    RELEASE_IN,
    Opcode,
    dirent_size,
    direntplus_size,
    pack_dirent,
)
from puffs.attach.fuse.channel import BODY
from puffs.attach.fuse.files import unwrap
from puffs.attach.fuse.handlers import Handlers, Serving
from puffs.attach.fuse.replies import open_flags, pack_entry
from puffs.kernel import police
from puffs.kernel.directory import OpenDirectory
from puffs.kernel.vnode import ROOT_ID, Vnode
from puffs.server.types import DirEntry, Entry

_UNKNOWN_INO = 0xFFFFFFFF
"""Shown where the inode number of an entry is not known: readdir(3) passes over entries with number
0.
"""

_NO_ENTRY = bytes(ENTRY_OUT.size)
"""In a readdirplus: only the name is told, no node."""


def handlers(serving: Serving) -> Handlers:
    """The handlers of this family, by opcode."""
    return {**_opens(serving), **_reads(serving)}


def _opens(serving: Serving) -> Handlers:
    mount, channel, files, ok = serving.mount, serving.channel, serving.files, serving.reply.ok
    buffer, nodes = channel.buffer, mount.vnodes.by_nodeid
    fs_readdir, fs_opendir = mount.ops["readdir"], mount.ops.get("opendir")
    fs_closedir, fs_fsyncdir = mount.ops.get("closedir"), mount.ops.get("fsyncdir")

    def release(vnode: Vnode, fh: int) -> None:
        file = files.directory[fh].file
        try:
            if fs_closedir is not None:
                fs_closedir(vnode.cookie, file)
        finally:
            files.closedir(fh)

    def opendir(unique: int, nodeid: int, _length: int) -> None:
        vnode = nodes[nodeid]
        file, hints = unwrap(
            fs_opendir(vnode.cookie, channel.cred()) if fs_opendir is not None else None
        )
        above = vnode.ino if nodeid == ROOT_ID else _UNKNOWN_INO
        fh = files.opendir(vnode, OpenDirectory(fs_readdir, vnode.cookie, file, vnode.ino, above))
        body = OPEN_OUT.struct.pack(fh, open_flags(hints), 0)
        if not channel.send(OUT_HEADER.struct.pack(OUT_HEADER.size + len(body), 0, unique) + body):
            release(vnode, fh)

    def releasedir(unique: int, nodeid: int, _length: int) -> None:
        release(nodes[nodeid], RELEASE_IN.struct.unpack_from(buffer, BODY)[0])
        ok(None, unique)

    def fsyncdir(unique: int, nodeid: int, _length: int) -> None:
        fh, flags, _ = FSYNC_IN.struct.unpack_from(buffer, BODY)
        datasync = bool(flags & FUSE_FSYNC_FDATASYNC)
        ok(fs_fsyncdir(nodes[nodeid].cookie, datasync, files.directory[fh].file), unique)  # type: ignore[misc]

    # OPENDIR keeps what readdir yields, so it is answered here even for servers that have no
    # `opendir`.
    return {Opcode.OPENDIR: opendir, Opcode.RELEASEDIR: releasedir, Opcode.FSYNCDIR: fsyncdir}


def _reads(serving: Serving) -> Handlers:
    mount, channel, files = serving.mount, serving.channel, serving.files
    buffer, vnodes, reply = channel.buffer, mount.vnodes, serving.reply
    fd, nodes = channel.fd, vnodes.by_nodeid

    def send(unique: int, parts: list[bytes], length: int) -> bool:
        try:
            os.write(
                fd, b"".join((OUT_HEADER.struct.pack(OUT_HEADER.size + length, 0, unique), *parts))
            )
        except OSError as exc:
            channel.refused(exc)
            return False
        return True

    def readdir(unique: int, _nodeid: int, _length: int) -> None:
        fh, offset, room, *_ = READ_IN.struct.unpack_from(buffer, BODY)
        directory = files.directory[fh]
        parts: list[bytes] = []
        used = 0
        for position, entry in directory.entries(offset):
            name = police.filename(entry.name, "readdir", directory.cookie)
            if used + dirent_size(len(name)) > room:
                break
            parts.append(pack_dirent(entry.ino or _UNKNOWN_INO, position, name, entry.type >> 12))
            used += len(parts[-1])
        send(unique, parts, used)

    def told(parent: Vnode, entry: Entry) -> tuple[Vnode, bytes]:
        """Count one entry as known to the kernel, and its `fuse_entry_out`."""
        cookie, attr, _ = police.node(entry, parent, "lookup")
        assert attr is not None
        vnode = vnodes.adopt(cookie)
        return vnode, pack_entry(vnode, attr, reply.lifetimes_of(entry))

    def plus(
        parent: Vnode, entry: DirEntry, position: int, name: bytes, told_of: list[Vnode]
    ) -> Iterable[bytes]:
        """One `fuse_direntplus`, in two parts; `told_of` collects the nodes that were counted."""
        if entry.entry is None or entry.entry.attr is None:
            return _NO_ENTRY, pack_dirent(
                entry.ino or _UNKNOWN_INO, position, name, entry.type >> 12
            )
        vnode, entry_out = told(parent, entry.entry)
        told_of.append(vnode)
        kind = entry.entry.attr.mode >> 12
        return entry_out, pack_dirent(entry.ino or vnode.ino, position, name, kind)

    def readdirplus(unique: int, nodeid: int, _length: int) -> None:
        fh, offset, room, *_ = READ_IN.struct.unpack_from(buffer, BODY)
        directory, parent = files.directory[fh], nodes[nodeid]
        parts: list[bytes] = []
        told_of: list[Vnode] = []
        used = 0
        try:
            for position, entry in directory.entries(offset):
                name = police.filename(entry.name, "readdir", directory.cookie)
                size = direntplus_size(len(name))
                if used + size > room:
                    break
                parts.extend(plus(parent, entry, position, name, told_of))
                used += size
            delivered = send(unique, parts, used)
        except BaseException:
            delivered = False
            raise
        finally:
            if not delivered:
                for vnode in told_of:
                    vnodes.forget(vnode.nodeid, 1)

    assert ENTRY_OUT.size + DIRENT.size == direntplus_size(0)
    return {Opcode.READDIR: readdir, Opcode.READDIRPLUS: readdirplus}
