"""Serving a session whose file server answers by messages (`puffs.isolate`).

One thread reads requests and receives answers. As long as each answer comes at once, it waits for
nothing else: a request costs no more than the way to the file server and back. When one does not,
the thread looks at both descriptors, and any number of requests may be under way.
"""

import os
import select
from typing import Final

from puffs.attach.fuse.reader import Read, Reader
from puffs.attach.fuse.session import Session
from puffs.isolate.peer import Peer

MAX_WAITING: Final = 4096
"""Operations under way at once; with more, no further request is read."""
AT_ONCE: Final = 64
"""Requests that are read before answers are looked for."""
LINGER_MS: Final = 1
"""How long what nobody waits for may wait for company."""
GRACE_SECONDS: Final = 5.0
"""How long operations may go on when the connection has ended."""


def serve(session: Session, peer: Peer) -> None:
    """Serve `session` on this thread until it is unmounted; then give everything back."""
    try:
        if session.start():
            reader = session.reader(stepper=peer)
            with session.serving(reader):
                session.begin()
                peer.gathers()
                _serve(session.fileno(), reader, peer)
    finally:
        session.finish()


class _UnderWay:
    """Enough has been read as soon as something is under way (`reader.Sign`)."""

    __slots__ = ("_peer",)

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    @property
    def now(self) -> bool:
        """Whether that is so."""
        return not self._peer.idle


def _serve(fd: int, reader: Reader, peer: Peer) -> None:
    """Serve requests on `fd` until the connection ends, then what is still under way."""
    under_way, requests = _UnderWay(peer), select.poll()
    requests.register(fd, select.POLLIN)
    read = Read.SERVED
    while read is not Read.ENDED:
        if not peer.queues.waiters:
            # What is fire and forget goes with the next request, if that comes soon.
            if not peer.queues.readable or requests.poll(LINGER_MS):
                read = reader.serve_until(under_way)
                continue
            if peer.flush():
                continue
        os.set_blocking(fd, False)
        read = _serve_waiting(fd, reader, peer)
        os.set_blocking(fd, True)
    peer.drain(GRACE_SECONDS)


def _serve_waiting(fd: int, reader: Reader, peer: Peer) -> Read:
    """Serve requests, and receive answers, until none is waited for any more."""
    read = Read.SERVED
    while not peer.idle and read is not Read.ENDED:
        peer.sleep(fd if peer.queues.waiters < MAX_WAITING else None)
        peer.pump()
        for _ in range(AT_ONCE):
            if peer.queues.waiters >= MAX_WAITING:
                break
            read = reader.serve_one()
            if read is not Read.SERVED:
                break
    return read
