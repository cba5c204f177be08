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
from functools import partial
from typing import Any, Final

from puffs.isolate import frames, messages
from puffs.isolate.child import HELLO_ID, life
from puffs.isolate.frames import BUFFER_SIZE, REPLY_SIZE, Class, FrameError, Own
from puffs.isolate.isolation import Isolation
from puffs.isolate.lines import Lines
from puffs.isolate.peer import Peer
from puffs.isolate.pipes import pair
from puffs.isolate.process import start
from puffs.isolate.remote import Hello, Remote
from puffs.isolate.rooms import COUNT, Rooms
from puffs.isolate.unasked import Unasked
from puffs.kernel.attachment import Servable
from puffs.kernel.mount import Mount, ServerDied
from puffs.kernel.queues import Queues
from puffs.server.errors import ProtocolFault
from puffs.server.stepping import finish

logger = logging.getLogger("puffs")

_READ: Final = 1 << 16
GRACE_SECONDS: Final = 5.0
"""How long the process may take to end by itself, when all is over."""


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
        rooms = Rooms()
        ours, theirs = pair()
        upcalls, unasked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            run = partial(life, make, theirs, unasked, rooms, threads)
            keep = (*theirs, unasked.fileno())
            self._process = start(run, keep, isolation.confinement)
        except BaseException:
            ours.close()
            upcalls.close()
            raise
        finally:
            theirs.close()
            unasked.close()
        self.pid = self._process.pid
        queues = Queues(COUNT)
        self.peer = Peer(ours, rooms, queues, isolation.timeout, self._fault, self._give_up)
        self._unasked = Unasked(upcalls, self.peer.known, self._fault, self._give_up)
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
        self.peer.sleep()  # others that it has forked may have the other end too
        try:
            length = os.readv(reads, (packet,))
        except BlockingIOError:
            length = 0
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
        self._unasked.attach(mount, self.server.wakes)
        mount.vnodes.turn = self.peer.turn
        with self._attaching:
            self._mount, self._buried = mount, buried or _nothing
        if self._ended.is_set():
            threading.Thread(target=self._bury, name="puffs-bury", daemon=True).start()

    @property
    def died(self) -> str:
        """How the process has ended, if it has not been asked to."""
        if self.peer.queues.dead:  # it has closed its end: it ends by itself, or is killed
            self._ended.wait(GRACE_SECONDS)
        return f"{self} {self._why}" if self._ended.is_set() and not self._closing else ""

    def __enter__(self) -> "Isolated":
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if self._kept:
            return
        died = self.died
        self.close()
        if died and isinstance(exc, OSError):  # which says less
            raise ServerDied(errno.EIO, died) from exc

    def finish(self, result: Any) -> Any:
        """What `Mount` is given as `finish` where threads wait for answers themselves: if there
        will be none, the error tells how the process has ended.
        """
        try:
            return finish(result)
        except OSError as exc:
            if exc.errno == errno.ENXIO and self.died:
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
        self.peer.rooms.close()
        self._unasked.close()

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
            self._unasked.fileno(): self._unasked.listen,
        }
        poll = select.poll()
        for fd in (process.pidfd, *watched):
            poll.register(fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            for fd in ready:
                if fd in watched and not self._safely(watched[fd]):
                    poll.unregister(fd)
            if process.pidfd in ready:
                break
        self._safely(partial(self._relay, lines))
        self._log(lines.rest())
        how = process.wait()
        self._why = f"{self._why}, and {how}" if self._why else str(how)
        self.peer.shut()
        self._bury()

    def _safely(self, listen: Callable[[], bool]) -> bool:
        """Call what listens to the process. Whatever that has sent, its end is to be noticed."""
        try:
            return listen()
        except Exception:
            logger.exception("what %s has said cannot be served", self)
            self._give_up("has said what cannot be served")
            return False

    def _bury(self) -> None:
        """The process has ended: so has the mount, if that was not asked for (U8, Q16)."""
        with self._attaching:
            mount, self._mount = None if self._closing else self._mount, None
            if mount is not None and not mount.userdead(f"{self} {self._why}"):
                mount = None
            self._ended.set()  # from here on it is known
        if mount is not None:
            self._buried(mount)

    # ----------------------------------------------------------------------------- what it writes

    def _relay(self, lines: Lines) -> bool:
        """Log what it has written. False when nothing more will come."""
        try:
            data = os.read(self._process.output, _READ)
        except BlockingIOError:
            return True
        self._log(lines.feed(data, time.monotonic()))
        return bool(data)

    def _log(self, lines: Iterable[str]) -> None:
        for line in lines:
            logger.warning("%s", line)
