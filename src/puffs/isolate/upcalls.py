"""What a file server in a process of its own has to say unasked: in that process.

`MountThere` is what its `mounted` operation gets in place of the `Mount`: flush operations, and an
unmount, as messages on a socket of their own, so that they may be sent from any thread and never
wait for an operation.
"""

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable
from itertools import count

from puffs.isolate import frames, messages
from puffs.isolate.frames import BUFFER_SIZE, NO_ROOM, REPLY_SIZE, Class, FrameError, Own
from puffs.kernel.flush import Flushing, FlushRequest, check, replaced
from puffs.kernel.notice import Notice, done
from puffs.server.types import Buffer, Cookie

logger = logging.getLogger("puffs")


class Upcalls:
    """The socket for what is said unasked. `number_of` gives the numbers of cookies."""

    number_of: Callable[[object], int]

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._ids = count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, Notice] = {}
        self._ended = False

    def start(self) -> None:
        """Receive answers from now on."""
        threading.Thread(target=self._receive, name="puffs-upcalls", daemon=True).start()

    def flush(self, request: FlushRequest) -> Notice:
        """A flush operation. That of a cookie that nobody knows is done at once."""
        check(request)
        node = 0
        if request.cookie is not None and not (node := self.number_of(request.cookie)):
            return done()
        name = b"" if request.name is None else os.fsencode(request.name)
        pack = messages.FLUSH.requests(Class.FLUSH, request.op)
        rest = (request.start, request.end, request.name is not None, name)
        return self._ask(lambda id_: pack(id_, node, *frames.NOBODY, NO_ROOM, None, *rest))

    def unmount(self, force: bool) -> Notice:
        """Ask for an unmount."""
        return self._ask(lambda id_: _pack_unmount(id_, 0, *frames.NOBODY, NO_ROOM, None, force))

    def wake(self, number: int) -> None:
        """What `poll` was asked to tell has happened."""
        self._send(_pack_wake(0, 0, *frames.NOBODY, NO_ROOM, None, number))

    def _ask(self, pack: Callable[[int], bytes]) -> Notice:
        notice, id_ = Notice(), next(self._ids)
        frame = pack(id_)
        with self._lock:
            if self._ended:
                raise OSError(errno.ENXIO, "the mount has ended")
            self._waiting[id_] = notice
        self._send(frame)
        return notice

    def _send(self, frame: bytes) -> None:
        try:
            self._connection.send(frame, socket.MSG_NOSIGNAL)
        except OSError:
            self._end()

    def _receive(self) -> None:
        buffer = memoryview(bytearray(BUFFER_SIZE))
        while True:
            try:
                length = self._connection.recv_into(buffer)
            except OSError:
                length = 0
            if not length:
                self._end()
                return
            try:
                for at, end in frames.split(buffer, length):
                    self._answered(buffer, at, end)
            except FrameError as exc:
                logger.error("what the kernel half has answered cannot be read: %s", exc)

    def _answered(self, datagram: memoryview, at: int, end: int) -> None:
        _, _, id_, rv, _ = frames.reply(datagram, at, end)
        words, *_ = messages.FAULT.unpack(datagram, at + REPLY_SIZE, end)
        with self._lock:
            notice = self._waiting.pop(id_, None)
        if notice is None:
            return
        if rv:
            text = messages.words_in(words) or os.strerror(rv)
            notice.set_exception(OSError(rv, text))
        else:
            notice.set_result(None)

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            notices = list(self._waiting.values())
            self._waiting.clear()
        for notice in notices:
            notice.set_exception(OSError(errno.ENXIO, os.strerror(errno.ENXIO)))


_pack_unmount = messages.UNMOUNT.requests(Class.UNMOUNT, 0)
_pack_wake = messages.WAKE.requests(Class.OWN, Own.WAKE, faf=True)


class MountThere(Flushing):
    """A mount, as a file server in a process of its own sees it: `mountpoint`, the flush operations
    and `unmount`.
    """

    def __init__(self, upcalls: Upcalls, mountpoint: str) -> None:
        self.mountpoint = mountpoint
        """Where a host shows it; empty while none does."""
        self._upcalls = upcalls

    def flush(self, request: FlushRequest) -> Notice:
        """Serve one request in the form that messages have: see `FlushOp`."""
        return self._upcalls.flush(request)

    def store_pages(self, node: Cookie, offset: int, data: Buffer) -> Notice:
        """As `Mount.store_pages`, but that no host keeps the contents: they forget what they had,
        and ask.
        """
        return self.flush(replaced(node, offset, data))

    def unmount(self, force: bool = False) -> Notice:
        """Ask for an unmount, as `Mount.unmount`: the notice tells whether it was refused.

        When it is done this process ends.
        """
        return self._upcalls.unmount(force)
