"""Handlers for open directories."""

from puffs.attach.fuse.abi import (
    DIRENT,
    ENTRY_OUT,
    FSYNC_IN,
    FUSE_FSYNC_FDATASYNC,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    Opcode,
    dirent_size,
    direntplus_size,
    pack_dirent,
)
from puffs.attach.fuse.channel import BODY
from puffs.attach.fuse.files import unwrap
from puffs.attach.fuse.flow import InSteps, Steps
from puffs.attach.fuse.handlers import Handlers, Serving
from puffs.attach.fuse.replies import UNKNOWN_INO, open_flags
from puffs.kernel import police
from puffs.kernel.attachment import Filling
from puffs.kernel.directory import OpenDirectory
from puffs.kernel.vnode import Vnode
from puffs.server.stepping import listed


def handlers(serving: Serving) -> Handlers:
    """The handlers of this family, by opcode."""
    return {**_opens(serving), **_reads(serving)}


def _opens(serving: Serving) -> Handlers:
    mount, channel, files, ok = serving.mount, serving.channel, serving.files, serving.reply.ok
    buffer, nodes = channel.buffer, mount.vnodes.by_nodeid
    fs_readdir, fs_opendir = mount.ops["readdir"], mount.ops.get("opendir")
    fs_closedir, fs_fsyncdir = mount.ops.get("closedir"), serving.operation("fsyncdir")

    def opendir(unique: int, nodeid: int, _length: int) -> Steps:
        vnode = nodes[nodeid]
        reply = (yield fs_opendir(vnode.cookie, channel.cred())) if fs_opendir is not None else None
        file, hints = unwrap(reply)
        above = vnode.ino if vnode.parent is None else vnode.parent.ino
        fh = files.opendir(vnode, OpenDirectory(fs_readdir, vnode.cookie, file, vnode.ino, above))
        told = False
        try:
            told = channel.send(unique, OPEN_OUT.struct.pack(fh, open_flags(hints), 0))
        finally:
            if not told:  # nobody waits for it any more
                files.take_back(fh)

    def releasedir(unique: int, nodeid: int, _length: int) -> Steps:
        fh, *_ = RELEASE_IN.struct.unpack_from(buffer, BODY)
        file = files.directory[fh].file
        try:
            if fs_closedir is not None:
                yield fs_closedir(nodes[nodeid].cookie, file)
        finally:
            files.close(fh)
        ok(None, unique)

    def fsyncdir(unique: int, nodeid: int, _length: int) -> None:
        fh, flags, _ = FSYNC_IN.struct.unpack_from(buffer, BODY)
        datasync = bool(flags & FUSE_FSYNC_FDATASYNC)
        ok(fs_fsyncdir(nodes[nodeid].cookie, datasync, files.directory[fh].file), unique)

    # OPENDIR keeps what readdir yields, so it is answered here even for servers without `opendir`.
    steps = serving.flow.steps
    return {
        Opcode.OPENDIR: steps(opendir),
        Opcode.RELEASEDIR: steps(releasedir),
        Opcode.FSYNCDIR: fsyncdir,
    }


def _reads(serving: Serving) -> Handlers:
    channel, files, vnodes = serving.channel, serving.files, serving.mount.vnodes
    buffer, nodes, reply = channel.buffer, vnodes.by_nodeid, serving.reply
    later, namemax = serving.flow.asynchronous, serving.mount.namemax

    def readdir(unique: int, _nodeid: int, _length: int) -> Steps:
        fh, offset, room, *_ = READ_IN.struct.unpack_from(buffer, BODY)
        directory = files.directory[fh]
        if later:
            yield from _fetched(directory, offset)
        parts: list[bytes] = []
        used = 0
        for position, entry in directory.entries(offset, given=later):
            name = police.filename(entry.name, "readdir", directory.cookie, namemax)
            if used + dirent_size(len(name)) > room:
                break
            parts.append(pack_dirent(entry.ino or UNKNOWN_INO, position, name, entry.type >> 12))
            used += len(parts[-1])
        channel.send(unique, *parts)

    def readdirplus(unique: int, nodeid: int, _length: int) -> Steps:
        fh, offset, room, *_ = READ_IN.struct.unpack_from(buffer, BODY)
        directory, parent = files.directory[fh], nodes[nodeid]
        if later:
            yield from _fetched(directory, offset)
        parts: list[bytes] = []
        told_of: list[Vnode] = []
        used = 0
        delivered = False
        try:
            for position, entry in directory.entries(offset, given=later):
                name = police.filename(entry.name, "readdir", directory.cookie, namemax)
                size = direntplus_size(len(name))
                if used + size > room:
                    break
                parts.extend(reply.plus(parent, entry, position, name, told_of))
                used += size
            delivered = channel.send(unique, *parts)
        finally:
            if not delivered:
                for vnode in told_of:
                    vnodes.forget(vnode.nodeid, 1)

    assert ENTRY_OUT.size + DIRENT.size == direntplus_size(0)
    steps, filling = serving.flow.steps, serving.mount.filling
    plus = readdirplus if filling is None else _filled(serving, filling)
    return {Opcode.READDIR: steps(readdir), Opcode.READDIRPLUS: steps(plus)}


def _filled(serving: Serving, filling: Filling) -> InSteps:
    """READDIRPLUS for a file server that fills the answers itself."""
    channel, files, vnodes = serving.channel, serving.files, serving.mount.vnodes
    buffer, nodes, fill = channel.buffer, vnodes.by_nodeid, filling.fill

    def readdirplus(unique: int, nodeid: int, _length: int) -> Steps:
        fh, offset, room, *_ = READ_IN.struct.unpack_from(buffer, BODY)
        directory = files.directory[fh]
        answer = serving.reply.answer(nodes[nodeid], room)
        delivered = False
        try:
            yield fill(directory.cookie, offset, directory.file, answer)
            delivered = channel.send(unique, *answer.parts)
        finally:
            if not delivered:
                answer.take_back()

    return readdirplus


def _fetched(directory: OpenDirectory, offset: int) -> Steps:
    """Have what the file server lists, as far as it is needed, before any of it is delivered."""
    if offset == 0:
        directory.rewind()
    while directory.needs(offset):
        directory.give((yield listed(directory.ask())))
