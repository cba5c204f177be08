"""Handlers for the file system as a whole, for ioctl and poll, and for the messages of the protocol
itself.
"""

from puffs.attach.fuse.abi import (
    FUSE_IOCTL_DIR,
    FUSE_POLL_SCHEDULE_NOTIFY,
    INTERRUPT_IN,
    IOCTL_IN,
    IOCTL_OUT,
    KSTATFS,
    POLL_IN,
    POLL_OUT,
    Opcode,
    notify_poll,
)
from puffs.attach.fuse.channel import BODY
from puffs.attach.fuse.flow import Steps
from puffs.attach.fuse.handlers import Handlers, Serving
from puffs.kernel import police
from puffs.kernel.sizes import NOTHING


def handlers(serving: Serving) -> Handlers:
    """The handlers of this family, by opcode."""
    return {**_whole(serving), **_devices(serving)}


def _whole(serving: Serving) -> Handlers:
    mount, channel, ok = serving.mount, serving.channel, serving.reply.ok

    def statfs(unique: int, _nodeid: int, _length: int) -> Steps:
        # Other threads wake this one with a statvfs(2) of the mount when they want something done
        # here.
        serving.run_calls()
        operation = mount.ops.get("statvfs")
        st = mount.sizes.good((yield operation()) if operation else NOTHING)
        body = KSTATFS.pack(
            blocks=st.blocks,
            bfree=st.bfree,
            bavail=st.bavail,
            files=st.files,
            ffree=st.ffree,
            bsize=st.bsize,
            namelen=st.namemax,
            frsize=st.frsize,
        )
        channel.send(unique, body)

    def syncfs(unique: int, _nodeid: int, _length: int) -> None:
        ok(mount.ops["sync"](True, channel.cred()), unique)

    def destroy(unique: int, _nodeid: int, _length: int) -> None:
        ok(None, unique)

    def interrupt(_unique: int, _nodeid: int, _length: int) -> None:
        serving.flow.interrupt(INTERRUPT_IN.struct.unpack_from(channel.buffer, BODY)[0])

    def unasked(_unique: int, _nodeid: int, _length: int) -> None:
        """NOTIFY_REPLY, the answer to a retrieval that nobody asks for."""

    return {
        Opcode.STATFS: serving.flow.steps(statfs),
        Opcode.SYNCFS: syncfs,
        Opcode.DESTROY: destroy,
        Opcode.INTERRUPT: interrupt,
        Opcode.NOTIFY_REPLY: unasked,
    }


def _devices(serving: Serving) -> Handlers:
    mount, channel, files = serving.mount, serving.channel, serving.files
    file_of = files.file
    buffer, view, nodes, notify = (
        channel.buffer,
        channel.view,
        mount.vnodes.by_nodeid,
        serving.notify,
    )
    fs_ioctl, fs_poll = serving.operation("ioctl"), serving.operation("poll")

    def ioctl(unique: int, nodeid: int, _length: int) -> Steps:
        fh, flags, command, _, in_size, out_size = IOCTL_IN.struct.unpack_from(buffer, BODY)
        cookie = nodes[nodeid].cookie
        file = files.directory[fh].file if flags & FUSE_IOCTL_DIR else file_of[fh]
        start = BODY + IOCTL_IN.size
        data = bytes(view[start : start + in_size])
        reply = fs_ioctl(cookie, command, data, out_size, file, channel.cred())
        result, answer = police.ioctl((yield reply), out_size, cookie)
        channel.send(unique, IOCTL_OUT.struct.pack(result, 0, 0, 0), answer)

    def poll(unique: int, nodeid: int, _length: int) -> Steps:
        fh, kh, flags, events = POLL_IN.struct.unpack_from(buffer, BODY)
        wake = (lambda: notify(notify_poll(kh))) if flags & FUSE_POLL_SCHEDULE_NOTIFY else None
        cookie = nodes[nodeid].cookie
        revents = yield fs_poll(cookie, events, file_of[fh], wake)
        channel.send(unique, POLL_OUT.struct.pack(police.events(revents, cookie), 0))

    steps = serving.flow.steps
    return {Opcode.IOCTL: steps(ioctl), Opcode.POLL: steps(poll)}
