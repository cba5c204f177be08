"""What a file server in a process of its own says unasked: here, where its mount is.

See `upcalls` for its side. Everything is bounded: how much may be under way, and how much may be no
good.
"""

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final

from puffs.isolate import frames, messages
from puffs.isolate.far import Known
from puffs.isolate.frames import BUFFER_SIZE, REQUEST_SIZE, Class, FrameError, Own
from puffs.isolate.remote import Wakes
from puffs.kernel.flush import FlushRequest
from puffs.kernel.mount import Mount

logger = logging.getLogger("puffs")

NOTICES_MAX: Final = 1024
"""Flush operations under way: EAGAIN for more."""
BAD_MAX: Final = 1000
"""After so many datagrams that are none, it is no file server."""
WORDS_MAX: Final = 256
"""Bytes of what is said about an error."""

Answer = Callable[[BaseException | None], None]
"""Tells the file server what became of what it has said: None, or why not."""


class Unasked:
    """What listens to `connection`, for the file server whose objects are `known`.

    `fault` is told of what is no good, `give_up` when that was too much.
    """

    def __init__(
        self,
        connection: socket.socket,
        known: Known,
        fault: Callable[[str], None],
        give_up: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._known = known
        self._fault = fault
        self._give_up = give_up
        self._mount: Mount | None = None
        self._wakes: Wakes | None = None
        self._notices = threading.BoundedSemaphore(NOTICES_MAX)
        self._unmounting = threading.Lock()
        self._bad = 0

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._connection.fileno()

    def close(self) -> None:
        """Give it back."""
        self._connection.close()

    def attach(self, mount: Mount, wakes: Wakes) -> None:
        """What is said is about this mount, and what `poll` was asked to tell is in `wakes`."""
        self._mount, self._wakes = mount, wakes

    def listen(self) -> bool:
        """Take one datagram. False when nothing more will come."""
        datagram = memoryview(bytearray(BUFFER_SIZE))
        try:
            length = self._connection.recv_into(datagram, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not length:
            return False
        try:
            for at, end in frames.split(datagram, length):
                self._said(datagram, at, end)
        except FrameError as exc:
            self._bad += 1
            if self._bad >= BAD_MAX:
                self._give_up(f"has said {BAD_MAX} things that are none: {exc}")
                return False
            self._fault(f"what was said unasked: {exc}")
        return True

    def _said(self, datagram: memoryview, at: int, end: int) -> None:
        class_, type_, id_, node, *_ = frames.request(datagram, at, end)
        body = datagram, at + REQUEST_SIZE, end
        answer = partial(self._answer, class_, type_, id_)
        match class_:
            case Class.FLUSH:
                start, stop, named, name = messages.FLUSH.unpack(*body)
                text = messages.text_in(name) if named else None
                self._flush(node, FlushRequest(type_, None, start, stop, text), answer)
            case Class.UNMOUNT:
                (force,) = messages.UNMOUNT.unpack(*body)
                self._unmount(bool(force), answer)
            case Class.OWN if type_ == Own.WAKE:
                (number,) = messages.WAKE.unpack(*body)
                if self._wakes is not None:
                    self._wakes.call(number)
            case _:
                raise FrameError(f"a message of class {class_} and type {type_}")

    def _flush(self, node: int, request: FlushRequest, answer: Answer) -> None:
        known = self._known.find(node)
        if node and known is None:  # nobody knows it any more
            answer(None)
            return
        if self._mount is None or not self._notices.acquire(blocking=False):
            answer(OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
            return

        def told(notice: Future[None]) -> None:
            self._notices.release()
            answer(notice.exception())

        try:
            notice = self._mount.flush(request._replace(cookie=known))
        except OSError as exc:
            self._notices.release()
            answer(exc)
        else:
            notice.add_done_callback(told)

    def _unmount(self, force: bool, answer: Answer) -> None:
        """Unmount on a thread of its own, as that waits; one at a time."""
        mount = self._mount
        if mount is None or not self._unmounting.acquire(blocking=False):
            answer(OSError(errno.EBUSY, "it is being mounted or unmounted already"))
            return

        def unmount() -> None:
            try:
                mount.unmount(force)
            except OSError as exc:
                answer(exc)
            else:
                answer(None)
            finally:
                self._unmounting.release()

        threading.Thread(target=unmount, name="puffs-unmount", daemon=True).start()

    def _answer(self, class_: int, type_: int, id_: int, exc: BaseException | None) -> None:
        code = 0 if exc is None else (exc.errno if isinstance(exc, OSError) else 0) or errno.EIO
        text = str(exc.strerror if isinstance(exc, OSError) else exc or "").encode()
        frame = messages.FAULT.replies(class_, type_)(id_, code, None, text[:WORDS_MAX], b"", 0, 0)
        try:
            self._connection.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as failure:
            logger.debug("a file server does not listen: %s", failure)
