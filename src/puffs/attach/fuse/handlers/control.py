"""Handlers for the file system as a whole, for ioctl and poll, and for the messages of the protocol
itself.
"""

from puffs.attach.fuse.abi import (
    FUSE_POLL_SCHEDULE_NOTIFY,
    IOCTL_IN,
    IOCTL_OUT,
    KSTATFS,
    OUT_HEADER,
    POLL_IN,
    POLL_OUT,
    Opcode,
    notify_poll,
)
from puffs.attach.fuse.channel import BODY
from puffs.attach.fuse.handlers import Handlers, Serving
from puffs.server.errors import ProtocolFault


def handlers(serving: Serving) -> Handlers:
    """The handlers of this family, by opcode."""
    return {**_whole(serving), **_devices(serving)}


def _whole(serving: Serving) -> Handlers:
    mount, channel, ok = serving.mount, serving.channel, serving.reply.ok

    def statfs(unique: int, _nodeid: int, _length: int) -> None:
        # Other threads wake this one with a statvfs(2) of the mount when they want something done
        # here.
        serving.run_calls()
        st = mount.statvfs()
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
        channel.send(OUT_HEADER.struct.pack(OUT_HEADER.size + len(body), 0, unique) + body)

    def syncfs(unique: int, _nodeid: int, _length: int) -> None:
        ok(mount.ops["sync"](True, channel.cred()), unique)

    def destroy(unique: int, _nodeid: int, _length: int) -> None:
        ok(None, unique)

    def ignored(_unique: int, _nodeid: int, _length: int) -> None:
        """INTERRUPT: served one at a time, the request it names is answered before this is read.

        NOTIFY_REPLY: unasked.
        """

    return {
        Opcode.STATFS: statfs,
        Opcode.SYNCFS: syncfs,
        Opcode.DESTROY: destroy,
        Opcode.INTERRUPT: ignored,
        Opcode.NOTIFY_REPLY: ignored,
    }


def _devices(serving: Serving) -> Handlers:
    mount, channel, file_of = serving.mount, serving.channel, serving.files.file
    buffer, view, nodes, notify = (
        channel.buffer,
        channel.view,
        mount.vnodes.by_nodeid,
        serving.notify,
    )
    fs_ioctl, fs_poll = mount.ops.get("ioctl"), mount.ops.get("poll")

    def ioctl(unique: int, nodeid: int, _length: int) -> None:
        fh, _, command, _, in_size, out_size = IOCTL_IN.struct.unpack_from(buffer, BODY)
        cookie = nodes[nodeid].cookie
        start = BODY + IOCTL_IN.size
        data = bytes(view[start : start + in_size])
        reply = fs_ioctl(cookie, command, data, out_size, file_of.get(fh), channel.cred())  # type: ignore[misc]
        result, answer = _ioctl_reply(reply)
        if len(answer) > out_size:
            raise ProtocolFault(
                "ERROR", f"ioctl returned {len(answer)} bytes for {out_size}", node=cookie
            )
        body = IOCTL_OUT.struct.pack(result, 0, 0, 0) + answer
        channel.send(OUT_HEADER.struct.pack(OUT_HEADER.size + len(body), 0, unique) + body)

    def poll(unique: int, nodeid: int, _length: int) -> None:
        fh, kh, flags, events = POLL_IN.struct.unpack_from(buffer, BODY)
        wake = (lambda: notify(notify_poll(kh))) if flags & FUSE_POLL_SCHEDULE_NOTIFY else None
        revents = fs_poll(nodes[nodeid].cookie, events, file_of[fh], wake)  # type: ignore[misc]
        body = POLL_OUT.struct.pack(revents, 0)
        channel.send(OUT_HEADER.struct.pack(OUT_HEADER.size + len(body), 0, unique) + body)

    return {Opcode.IOCTL: ioctl, Opcode.POLL: poll}


def _ioctl_reply(reply: object) -> tuple[int, bytes]:
    """What `ioctl` returned: the result, the bytes, or both."""
    match reply:
        case int():
            return reply, b""
        case (int() as result, bytes() as data):
            return result, data
        case bytes():
            return 0, reply
    raise ProtocolFault("ERROR", f"ioctl returned {reply!r}, not int, bytes or a pair of them")
