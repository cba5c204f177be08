"""Descriptors over a Unix socket: SCM_RIGHTS (unix(7))."""

import array
import socket


def receive(peer: socket.socket, size: int, limit: int) -> tuple[bytes, list[int]]:
    """Receive up to `size` bytes, and the up to `limit` descriptors that come with the first.

    Nothing of either at the end. The descriptors are closed on exec from the start, which
    `socket.recv_fds` of Python 3.11 does not do (it drops its flags): a program that another thread
    starts must not inherit them.
    """
    fds = array.array("i")
    space = socket.CMSG_LEN(limit * fds.itemsize)
    data, ancillary, _, _ = peer.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)
