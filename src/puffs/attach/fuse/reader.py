"""A reader: one descriptor of a connection, its dispatch table, and the loop between them.

The loop is all that stands between the kernel and the table: read a request into a buffer that is
kept, unpack its header, call what the table has for its opcode. A session has one reader or, when
several threads serve, one for each.
"""

import errno
import os
from collections.abc import Callable
from enum import Enum, auto

from puffs.attach.fuse.abi import IN_HEADER, Opcode
from puffs.attach.fuse.channel import BODY, Channel, Handler, Header, Request
from puffs.attach.fuse.dispatch import build, operation_name, wants_reply
from puffs.attach.fuse.files import OpenFiles
from puffs.attach.fuse.flow import DirectFlow, Flow
from puffs.attach.fuse.handlers import Serving
from puffs.attach.fuse.handlers.data import BufferKept
from puffs.attach.fuse.init import Negotiated
from puffs.attach.fuse.replies import Replies
from puffs.kernel.mount import Mount
from puffs.server.stepping import Stepper

AGAIN = frozenset((errno.EINTR, errno.ENOENT))
"""read(2) of the device: a signal, or the request went away. The next one may come."""
END = frozenset((errno.ENODEV, errno.ECONNABORTED))
"""read(2) of the device: unmounted, or aborted."""


class Stop(BaseException):
    """Leave the loop although the connection lives; raised on the thread that serves."""


class Read(Enum):
    """What came of reading."""

    SERVED = auto()
    NOTHING = auto()
    """Nothing to be read now, from a descriptor that does not block."""
    ENDED = auto()
    """Unmounted, or aborted: nothing more will come."""


class Reader:
    """Reads and serves on `fd`. `run_calls` runs what other threads want done on this one.

    `observe` is given the channel before, and the fresh dispatch table after, a table is built: it
    may put other functions into both.
    """

    def __init__(
        self,
        mount: Mount,
        fd: int,
        negotiated: Negotiated,
        files: OpenFiles,
        *,
        notify: Callable[[bytes], object],
        run_calls: Callable[[], None],
        stepper: Stepper | None = None,
        on_table: Callable[[list[Handler]], None] | None = None,
    ) -> None:
        self.mount = mount
        self.unmounted = False
        """Whether that was the end, and no accident."""
        self.channel = Channel(fd, negotiated.buffer_size)
        self._files = files
        self._flags = negotiated.flags
        self._notify = notify
        self._run_calls = run_calls
        self._on_table = on_table
        self._negative = mount.server.negative_ttl > 0
        self._flow: Flow = DirectFlow()
        if stepper is not None:
            from puffs.attach.fuse.stepped_flow import SteppedFlow

            self._flow = SteppedFlow(self.channel, stepper, self._fail_later)
        self.rebuild()

    def rebuild(self) -> None:
        """Make the dispatch table anew: the channel's buffer or its ways to write have changed."""
        self._replies = Replies(self.channel, self.mount, self._files, self._flow)
        self._handlers = build(
            Serving(
                self.mount,
                self.channel,
                self._files,
                self._replies,
                self._flow,
                self._flags,
                self._notify,
                self._run_calls,
            )
        )
        if self._on_table is not None:
            self._on_table(self._handlers)

    def serve(self) -> None:
        """Serve until the connection ends."""
        while self._loop(once=False) is not Read.ENDED:
            pass

    def serve_one(self) -> Read:
        """Serve one request, waiting for it only if the descriptor does."""
        return self._loop(once=True)

    def _loop(self, once: bool) -> Read:
        channel, handlers = self.channel, self._handlers
        fd, buffer = channel.fd, channel.buffer
        vector = (buffer,)
        readv = os.readv
        unpack = IN_HEADER.struct.unpack_from
        known = len(handlers)
        while True:
            try:
                length = readv(fd, vector)
            except BlockingIOError:
                return Read.NOTHING
            except OSError as exc:
                if exc.errno in END:
                    self.unmounted = exc.errno == errno.ENODEV
                    return Read.ENDED
                if exc.errno in AGAIN:
                    continue
                raise
            if length < BODY:  # the other side of a connection that is no device has closed it
                return Read.ENDED
            channel.header = header = unpack(buffer)
            opcode = header[1]
            try:
                handlers[opcode if opcode < known else 0](header[2], header[3], length)
            except BufferKept as kept:
                if kept.__cause__ is not None:
                    self._fail(header, kept.__cause__)
                channel.renew_buffer()
                self.rebuild()
                return Read.SERVED
            except (Stop, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fail(header, exc)
            if once:
                return Read.SERVED

    def _fail(self, header: Header, exc: BaseException) -> None:
        """Answer a request with the errno for what serving it has raised."""
        _, opcode, unique, *_ = header
        code = self.mount.errno_of(exc, operation_name(opcode))
        if not wants_reply(opcode):
            return
        if code == errno.ENOENT and opcode == Opcode.LOOKUP and self._negative:
            self._replies.absent(unique)
        else:
            self.channel.send_error(unique, code)

    def _fail_later(self, request: Request, exc: BaseException) -> None:
        self._fail(request.header, exc)
