"""`Isolated`: a file server in a process of its own, from here: started, watched, ended.

A thread of its own reads what the process writes and what the file server says unasked, and notices
the end of it.
"""

import errno
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from puffs.isolate import frames, messages
from puffs.isolate.child import HELLO_ID, life
from puffs.isolate.frames import BUFFER_SIZE, REPLY_SIZE, REQUEST_SIZE, Class, FrameError, Own
from puffs.isolate.isolation import Isolation
from puffs.isolate.lines import Lines
from puffs.isolate.peer import Peer
from puffs.isolate.pipes import pair
from puffs.isolate.process import start
from puffs.isolate.remote import Hello, Remote
from puffs.isolate.rooms import COUNT, Rooms
from puffs.kernel.attachment import Servable
from puffs.kernel.flush import FlushRequest
from puffs.kernel.mount import Mount, ServerDied
from puffs.kernel.queues import Queues
from puffs.server.errors import ProtocolFault
from puffs.server.stepping import finish

logger = logging.getLogger("puffs")

GRACE_SECONDS: Final = 5.0
"""How long the process may take to end by itself, when all is over."""
Answer = Callable[[BaseException | None], None]
"""Tells the file server what became of what it has said: None, or why not."""
_WORDS_MAX: Final = 256
_READ: Final = 1 << 16
_NOTICES_MAX: Final = 1024
"""Flush operations under way; with more, what is said unasked is not listened to."""


def _nothing(_mount: Mount) -> None:
    pass


class Isolated:
    """A file server that `make` makes in a process of its own, where `threads` serve.

    Raises `OSError` or `ValueError` if there can be no such process, and `OSError` with the words
    of the file server if it cannot be built.

    Attributes:
        server: what stands for the file server here.
        peer: the way to it.
        pid: its process.
    """

    def __init__(
        self, make: Callable[[], Servable], isolation: Isolation, *, threads: int = 1
    ) -> None:
        self._mount: Mount | None = None
        self._buried: Callable[[Mount], None] = _nothing
        self._attaching = threading.Lock()
        self._why = ""
        """What was wrong with it, if it is this side that has ended it."""
        self._ended = threading.Event()
        self._closing = False
        self._kept = False
        self._notices = 0
        rooms = Rooms()
        ours, theirs = pair()
        self._upcalls, unasked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            run = partial(life, make, theirs, unasked, rooms, threads)
            keep = (*theirs, unasked.fileno())
            self._process = start(run, keep, isolation.confinement)
        except BaseException:
            ours.close()
            self._upcalls.close()
            raise
        finally:
            theirs.close()
            unasked.close()
        self.pid = self._process.pid
        queues = Queues(COUNT)
        self.peer = Peer(ours, rooms, queues, isolation.timeout, self._fault, self._give_up)
        self._thread = threading.Thread(target=self._watch, name="puffs-isolated", daemon=True)
        self._thread.start()
        try:
            self.server = Remote(self.peer, self._hello(ours.reads))
        except BaseException:
            self.close()
            raise

    def _hello(self, reads: int) -> Hello:
        """What the file server says when it has been built, however long that takes."""
        packet = memoryview(bytearray(BUFFER_SIZE))
        poll = select.poll()
        poll.register(reads, select.POLLIN)
        poll.poll()
        length = os.readv(reads, (packet,))
        if not length:
            self._process.kill()
            self._ended.wait()
            raise OSError(errno.EIO, f"{self} {self._why} before it was built")
        (at, end), *_ = frames.split(packet, length)
        *what, rv, _ = frames.reply(packet, at, end)
        if what != [Class.OWN, Own.HELLO, HELLO_ID]:
            raise FrameError(f"{self} does not begin by saying what it is")
        if rv:
            words, *_ = messages.FAULT.unpack(packet, at + REPLY_SIZE, end)
            raise OSError(rv, messages.words_in(words))
        return Hello.unpack(packet, at + REPLY_SIZE, end)

    def __str__(self) -> str:
        return f"the file server (process {self.pid})"

    # ------------------------------------------------------------------------------- life and death

    def attach(self, mount: Mount, buried: Callable[[Mount], None] | None = None) -> None:
        """This is the mount of the file server. It dies with it; then `buried` is called, on a
        thread of its own.
        """
        mount.server_pid = self.pid
        mount.vnodes.turn = self.peer.turn
        with self._attaching:
            self._mount, self._buried = mount, buried or _nothing
        if self._ended.is_set():
            self._bury()

    @property
    def died(self) -> str:
        """How the process has ended, if it has not been asked to."""
        return f"{self} {self._why}" if self._ended.is_set() and not self._closing else ""

    def __enter__(self) -> "Isolated":
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._kept:
            if died := self.died:
                self.close()
                raise ServerDied(errno.EIO, died)
            self.close()

    def finish(self, result: Any) -> Any:
        """What `Mount` is given as `finish` where threads wait for answers themselves: if there
        will be none, the error tells how the process has ended.
        """
        try:
            return finish(result)
        except OSError as exc:
            if exc.errno == errno.ENXIO and self.peer.queues.dead:
                self._ended.wait(GRACE_SECONDS)  # it has closed its end: it ends, or is killed
                if self.died:
                    raise ServerDied(errno.ENXIO, self.died) from exc
            raise

    def kept(self) -> None:
        """The end of the block is not that of the process: who called this calls `close`."""
        self._kept = True

    def close(self) -> None:
        """End the process, by itself if it does that soon. Again: nothing."""
        if self._closing:
            return
        self._closing = True
        self.peer.hang_up()
        if self._process.wait(GRACE_SECONDS) is None:
            logger.error("%s does not end by itself: it is killed", self)
            self._process.kill()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._process.close()
        self.peer.close()
        self._upcalls.close()

    def _give_up(self, why: str) -> None:
        """The connection is closed, or of no use any more: `why`, unless the other side says so."""
        self._why = self._why or why
        if not self._closing:
            self._process.kill()

    def _fault(self, text: str) -> None:
        """What has come belongs to no message and is no good: told as any bad reply (2.7)."""
        if self._mount is not None:
            self._mount.errno_of(ProtocolFault("ERROR", text), "reply")
        else:
            logger.error("%s: %s", self, text)

    def _watch(self) -> None:
        """The thread: until the process has ended."""
        process, lines = self._process, Lines()
        watched: dict[int, Callable[[], bool]] = {
            process.output: partial(self._relay, lines),
            self._upcalls.fileno(): self._listen,
        }
        poll = select.poll()
        for fd in (process.pidfd, *watched):
            poll.register(fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            for fd in ready:
                if fd in watched and not watched[fd]():
                    poll.unregister(fd)
            if process.pidfd in ready:
                break
        self._relay(lines)
        self._log(lines.rest())
        how = process.wait()
        self._why = f"{self._why}, and {how}" if self._why else str(how)
        self._ended.set()
        self.peer.shut()
        if not self._closing:
            self._bury()

    def _bury(self) -> None:
        """The process has ended unasked: so does the mount (U8, Q16)."""
        with self._attaching:
            mount, self._mount = self._mount, None
        if mount is not None and mount.userdead(f"{self} {self._why}"):
            self._buried(mount)

    # ------------------------------------------------------------------------ what it says unasked

    def _relay(self, lines: Lines) -> bool:
        """Log what it has written. False when nothing more will come."""
        while True:
            try:
                data = os.read(self._process.output, _READ)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._log(lines.feed(data, time.monotonic()))

    def _log(self, lines: Iterable[str]) -> None:
        for line in lines:
            logger.warning("%s", line)

    def _listen(self) -> bool:
        """Take one datagram of `upcalls`. False when nothing more will come."""
        datagram = memoryview(bytearray(BUFFER_SIZE))
        try:
            length = self._upcalls.recv_into(datagram, 0, socket.MSG_DONTWAIT)
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
                run = partial(self._unmount, bool(force), answer)
                threading.Thread(target=run, name="puffs-unmount", daemon=True).start()
            case Class.OWN if type_ == Own.WAKE:
                (number,) = messages.WAKE.unpack(*body)
                self.server.wakes.call(number)
            case _:
                raise FrameError(f"a message of class {class_} and type {type_}")

    def _flush(self, node: int, request: FlushRequest, answer: Answer) -> None:
        known = self.peer.known.find(node)
        if node and known is None:  # nobody knows it any more
            answer(None)
            return
        try:
            if self._mount is None or self._notices >= _NOTICES_MAX:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            notice = self._mount.flush(request._replace(cookie=known))
        except OSError as exc:
            answer(exc)
            return
        self._notices += 1

        def told(notice: Future[None]) -> None:
            self._notices -= 1
            answer(notice.exception())

        notice.add_done_callback(told)

    def _unmount(self, force: bool, answer: Answer) -> None:
        try:
            if self._mount is not None:
                self._mount.unmount(force)
        except OSError as exc:
            answer(exc)
        else:
            answer(None)

    def _answer(self, class_: int, type_: int, id_: int, exc: BaseException | None) -> None:
        code = 0 if exc is None else (exc.errno if isinstance(exc, OSError) else 0) or errno.EIO
        text = str(exc.strerror if isinstance(exc, OSError) else exc or "").encode()
        pack = messages.FAULT.replies(class_, type_)
        try:
            frame = pack(id_, code, None, text[:_WORDS_MAX], b"", 0, 0)
            self._upcalls.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as failure:
            logger.debug("%s does not listen: %s", self, failure)
