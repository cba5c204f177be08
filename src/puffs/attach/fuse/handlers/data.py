"""Handlers for open files and their data."""

import errno
import os
from pickle import PickleBuffer
from struct import Struct
from typing import Any

from puffs.attach.fuse.abi import (
    COPY_FILE_RANGE_IN,
    COPY_FILE_RANGE_OUT,
    FALLOCATE_IN,
    FLUSH_IN,
    FOPEN_DIRECT_IO,
    FSYNC_IN,
    FUSE_FSYNC_FDATASYNC,
    FUSE_RELEASE_FLOCK_UNLOCK,
    FUSE_WRITE_KILL_SUIDGID,
    LSEEK_IN,
    LSEEK_OUT,
    OPEN_IN,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    WRITE_IN,
    Opcode,
    notify_inval_inode,
)
from puffs.attach.fuse.cache import ATTRIBUTES_ONLY
from puffs.attach.fuse.channel import BODY
from puffs.attach.fuse.files import NO_FH
from puffs.attach.fuse.flow import Steps
from puffs.attach.fuse.handlers import Handlers, Serving
from puffs.attach.fuse.handlers.locks import unlocker
from puffs.kernel import police
from puffs.server.attr import Changes
from puffs.server.types import Cookie


class BufferKept(Exception):
    """The file server still holds a view into the buffer: the channel needs another one.

    Its cause is what the operation raised, if it did: that is still to be answered.
    """


def handlers(serving: Serving) -> Handlers:
    """The handlers of this family, by opcode."""
    return {**_opens(serving), **_closes(serving), **_data(serving), **_ranges(serving)}


def _opens(serving: Serving) -> Handlers:
    mount, channel, reply = serving.mount, serving.channel, serving.reply
    buffer, cred = channel.buffer, channel.cred
    nodes, file_of, ok, opened = mount.vnodes.by_nodeid, serving.files.file, reply.ok, reply.opened
    ops = mount.ops
    fs_open, fs_fsync = ops.get("open"), serving.operation("fsync")
    writable = mount.read_only or "write" in ops  # a read-only mount sends no opens for writing
    server_flags = serving.open_flags
    untracked = reply.open_flags(None)
    if untracked & FOPEN_DIRECT_IO:
        serving.files.direct.add(NO_FH)

    def open_(unique: int, nodeid: int, _length: int) -> None:
        flags, _ = OPEN_IN.struct.unpack_from(buffer, BODY)
        vnode = nodes[nodeid]
        if not writable and flags & os.O_ACCMODE != os.O_RDONLY:  # statement 2.6
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if fs_open is not None:
            opened(fs_open(vnode.cookie, server_flags(flags), cred()), unique, vnode)
        elif mount.tracks_opens:
            opened(None, unique, vnode)
        else:
            channel.send(unique, OPEN_OUT.struct.pack(NO_FH, untracked, 0))

    def fsync(unique: int, nodeid: int, _length: int) -> None:
        fh, flags, _ = FSYNC_IN.struct.unpack_from(buffer, BODY)
        datasync = bool(flags & FUSE_FSYNC_FDATASYNC)
        ok(fs_fsync(nodes[nodeid].cookie, datasync, file_of[fh]), unique)

    return {Opcode.OPEN: open_, Opcode.FSYNC: fsync}


def _closes(serving: Serving) -> Handlers:
    """FLUSH and RELEASE: in steps where locks are to be given back, or operations may wait."""
    if "advlock" in serving.mount.ops or serving.flow.asynchronous:
        return _closes_in_steps(serving)
    return _closes_at_once(serving)


def _closes_at_once(serving: Serving) -> Handlers:
    files, buffer, ok = serving.files, serving.channel.buffer, serving.reply.ok
    nodes, file_of = serving.mount.vnodes.by_nodeid, files.file
    fs_close, fs_flush = serving.mount.ops.get("close"), serving.operation("flush")

    def release(unique: int, nodeid: int, _length: int) -> None:
        fh, flags, _, _ = RELEASE_IN.struct.unpack_from(buffer, BODY)
        cookie, file = nodes[nodeid].cookie, file_of[fh]
        try:
            if fs_close is not None:
                fs_close(cookie, file, flags)
        finally:
            files.close(fh)
        ok(None, unique)

    def flush(unique: int, nodeid: int, _length: int) -> None:
        fh, _, _, owner = FLUSH_IN.struct.unpack_from(buffer, BODY)
        ok(fs_flush(nodes[nodeid].cookie, file_of[fh], owner), unique)

    return {Opcode.RELEASE: release, Opcode.FLUSH: flush}


def _closes_in_steps(serving: Serving) -> Handlers:
    mount, files, buffer, ok = (
        serving.mount,
        serving.files,
        serving.channel.buffer,
        serving.reply.ok,
    )
    nodes, file_of, steps = mount.vnodes.by_nodeid, files.file, serving.flow.steps
    fs_close, fs_flush = mount.ops.get("close"), mount.ops.get("flush")
    unlock = unlocker(mount)

    def release(unique: int, nodeid: int, _length: int) -> Steps:
        fh, flags, release_flags, owner = RELEASE_IN.struct.unpack_from(buffer, BODY)
        cookie, file = nodes[nodeid].cookie, file_of[fh]
        try:
            try:
                if unlock is not None and release_flags & FUSE_RELEASE_FLOCK_UNLOCK:
                    yield unlock(cookie, file, owner, True)
            finally:
                if fs_close is not None:
                    yield fs_close(cookie, file, flags)
        finally:
            files.close(fh)
        ok(None, unique)

    def flush(unique: int, nodeid: int, _length: int) -> Steps:
        fh, _, _, owner = FLUSH_IN.struct.unpack_from(buffer, BODY)
        cookie, file = nodes[nodeid].cookie, file_of[fh]
        if unlock is not None:
            try:
                yield unlock(cookie, file, owner, False)
            except OSError as error:  # close(2) tells what went wrong with writing, and not this
                if error.errno == errno.EINTR:  # the caller has gone, and waits for nothing
                    raise
        ok(fs_flush(cookie, file, owner) if fs_flush is not None else None, unique)

    return {Opcode.RELEASE: steps(release), Opcode.FLUSH: steps(flush)}


def _data(serving: Serving) -> Handlers:
    mount, channel, reply = serving.mount, serving.channel, serving.reply
    buffer, view = channel.buffer, channel.view
    nodes, file_of = mount.vnodes.by_nodeid, serving.files.file
    send_data, send_written = reply.data, reply.written
    fs_read, fs_write = serving.operation("read"), serving.operation("write")
    looks_on, waits = serving.flow.looks_on, serving.flow.waits
    small = len(buffer) // 2
    # Only the members that are used. Both structs begin with them.
    unpack, unpack_write = Struct("=QQI").unpack_from, Struct("=QQII").unpack_from
    fs_getattr, fs_setattr = mount.ops["getattr"], serving.operation("setattr")
    direct, go = serving.files.direct, serving.flow.go
    payload = BODY + WRITE_IN.size
    assert READ_IN.fields["size"] == WRITE_IN.fields["size"] == (16, "I")

    def read(unique: int, nodeid: int, _length: int) -> None:
        fh, offset, size = unpack(buffer, BODY)
        cookie = nodes[nodeid].cookie
        send_data(fs_read(cookie, offset, size, file_of[fh]), unique, size, cookie)

    def shedding(unique: int, nodeid: int) -> Steps:
        """A write past the page cache has to take set-id bits away by itself.

        Before other writes the kernel has asked for that with a SETATTR.
        """
        fh, offset, size = unpack(buffer, BODY)
        cookie, file, who = nodes[nodeid].cookie, file_of[fh], channel.cred()
        data = memoryview(bytes(view[payload : payload + size]))
        before = police.attributes((yield fs_getattr(cookie, file)), cookie, "getattr")
        changes = Changes(kill_suidgid=True)
        changes.shed(before, who)
        if changes.mode is not None:
            yield fs_setattr(cookie, changes, file, who)
            serving.notify(notify_inval_inode(nodeid, ATTRIBUTES_ONLY, 0))
        send_written(fs_write(cookie, offset, data, file), unique, size, cookie)

    def write(unique: int, nodeid: int, _length: int) -> None:
        fh, offset, size, flags = unpack_write(buffer, BODY)
        if flags & FUSE_WRITE_KILL_SUIDGID and fh in direct:
            go(shedding(unique, nodeid))
            return
        cookie = nodes[nodeid].cookie
        # Slices are views of their own. PickleBuffer has each of them count as a use of `lent`.
        lent = view[payload : payload + size]
        data = memoryview(PickleBuffer(lent))
        try:
            send_written(fs_write(cookie, offset, data, file_of[fh]), unique, size, cookie)
        finally:
            if looks_on and waits(unique):
                raise BufferKept
            # A view that the file server has kept is dead from here on: using it raises. What was
            # made of it lives, and goes on showing this buffer.
            try:
                data.release()
                lent.release()
            except BufferError as exc:
                raise BufferKept from exc.__context__

    def write_later(unique: int, nodeid: int, length: int) -> None:
        """An operation that waits outlives the request in the buffer.

        So it gets a copy of what is small. Of what fills the buffer it gets the buffer, if it does
        wait: another one costs as much as the copy, and most operations do not wait.
        """
        fh, offset, size, flags = unpack_write(buffer, BODY)
        if size > small or (flags & FUSE_WRITE_KILL_SUIDGID and fh in direct):
            write(unique, nodeid, length)
            return
        cookie = nodes[nodeid].cookie
        data = memoryview(bytes(view[payload : payload + size]))
        send_written(fs_write(cookie, offset, data, file_of[fh]), unique, size, cookie)

    return {Opcode.READ: read, Opcode.WRITE: write_later if looks_on else write}


def _ranges(serving: Serving) -> Handlers:
    mount, channel = serving.mount, serving.channel
    buffer, steps = channel.buffer, serving.flow.steps
    nodes, file_of, ok, written = (
        mount.vnodes.by_nodeid,
        serving.files.file,
        serving.reply.ok,
        serving.reply.written,
    )
    fs_seek, fs_fallocate = serving.operation("seek"), serving.operation("fallocate")
    fs_copy = serving.operation("copy_file_range")

    def lseek(unique: int, nodeid: int, _length: int) -> Steps:
        fh, offset, whence, _ = LSEEK_IN.struct.unpack_from(buffer, BODY)
        cookie = nodes[nodeid].cookie
        if offset >> 63:  # a negative one, as two's complement
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        where = yield fs_seek(cookie, offset, whence, file_of[fh])
        channel.send(unique, LSEEK_OUT.struct.pack(police.position(where, cookie)))

    def fallocate(unique: int, nodeid: int, _length: int) -> None:
        fh, offset, size, mode, _ = FALLOCATE_IN.struct.unpack_from(buffer, BODY)
        ok(fs_fallocate(nodes[nodeid].cookie, mode, offset, size, file_of[fh]), unique)

    def copied() -> tuple[Any, int, Cookie]:
        """What the operation returns, how much was asked for, and where it goes."""
        fields = COPY_FILE_RANGE_IN.struct.unpack_from(buffer, BODY)
        fh, offset, to_id, to_fh, to_offset, size, flags = fields
        node, to = nodes[channel.header[3]].cookie, nodes[to_id].cookie
        file, to_file = file_of[fh], file_of[to_fh]
        return fs_copy(node, offset, file, to, to_offset, to_file, size, flags), size, to

    def copy_file_range(unique: int, _nodeid: int, _length: int) -> Steps:
        reply, size, to = copied()
        written(police.amount((yield reply), size, to, "copy_file_range"), unique, size, to)

    def copy_file_range_64(unique: int, _nodeid: int, _length: int) -> Steps:
        reply, size, to = copied()
        amount = police.amount((yield reply), size, to, "copy_file_range")
        channel.send(unique, COPY_FILE_RANGE_OUT.struct.pack(amount))

    return {
        Opcode.LSEEK: steps(lseek),
        Opcode.FALLOCATE: fallocate,
        Opcode.COPY_FILE_RANGE: steps(copy_file_range),
        Opcode.COPY_FILE_RANGE_64: steps(copy_file_range_64),
    }
