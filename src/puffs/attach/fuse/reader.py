"""A reader: one descriptor of a connection, its dispatch table, and the loop between them.

The loop is all that stands between the kernel and the table: read a request into a buffer that is
kept, unpack its header, call what the table has for its opcode. A session has one reader or, when
several threads serve, one for each.
"""

import errno
import os
import select
from collections.abc import Callable, Container, Sequence
from enum import Enum, auto
from time import monotonic
from typing import Any, Protocol

from puffs.attach.fuse import compiled
from puffs.attach.fuse.abi import IN_HEADER, Opcode
from puffs.attach.fuse.channel import BODY, Channel, Handler, Header, Request
from puffs.attach.fuse.dispatch import Refusal, build, operation_name, wants_reply
from puffs.attach.fuse.files import OpenFiles
from puffs.attach.fuse.flow import DirectFlow, Flow
from puffs.attach.fuse.gate import Gate, Phase
from puffs.attach.fuse.handlers import CompiledHandlers, Handling, Serving
from puffs.attach.fuse.handlers.data import BufferKept
from puffs.attach.fuse.init import Negotiated
from puffs.attach.fuse.replies import Answer, Replies
from puffs.attach.fuse.writers import Writers
from puffs.kernel.mount import Mount
from puffs.server.errors import Absent
from puffs.server.stepping import Stepper

AGAIN = frozenset((errno.EINTR, errno.ENOENT))
"""read(2) of the device: a signal, or the request went away. The next one may come."""
END = frozenset((errno.ENODEV, errno.ECONNABORTED))
"""read(2) of the device: unmounted, or aborted."""


class Stop(BaseException):
    """Leave the loop although the connection lives; raised on the thread that serves."""


class Resumed(Exception):
    """Leave the loop to serve what was held back, and come back."""


class Read(Enum):
    """What came of reading."""

    SERVED = auto()
    NOTHING = auto()
    """Nothing to be read now, from a descriptor that does not block."""
    ENDED = auto()
    """Unmounted, or aborted: nothing more will come."""


class Observer(Protocol):
    """Watches requests and replies (`observe`). It costs nothing while there is none."""

    def tap(self, channel: Channel, flags: int) -> Callable[[list[Handler]], None]:
        """Called before a dispatch table is built, on the thread that will serve by it.

        Puts its own `write` and `writev` into `channel`; returns what is to wrap the handlers of
        the fresh table, in place. `flags` are the FUSE_ bits that were negotiated.
        """
        ...


class Sign(Protocol):
    """A sign for a loop on the same thread: `now` is looked at after each request."""

    @property
    def now(self) -> bool:
        """Whether it is to come back."""
        ...


class Enough:
    """A sign that is set."""

    __slots__ = ("now",)

    def __init__(self, now: bool) -> None:
        self.now = now


_ONE = Enough(True)

ReadVector = Callable[[int, Sequence[bytearray]], int]
"""os.readv, or what stands for it."""


class Reader:
    """Reads and serves on `fd`. `run_calls` runs what other threads want done on this one.

    `on_table` is given each fresh dispatch table and may change it in place. `wakers` are the
    threads that do nothing but wake it (`Gate`).
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
        wakers: Container[int],
        stepper: Stepper | None = None,
        on_table: Callable[[list[Handler]], None] | None = None,
        traceless: Container[int] = (),
    ) -> None:
        self.mount = mount
        self.unmounted = False
        """Whether that was the end, and no accident."""
        self._compiled = compiled.module()
        kind = Channel if self._compiled is None else self._compiled.CompiledChannel
        self.channel: Channel = kind(fd, negotiated.buffer_size, traceless)
        self._files = files
        self._flags = negotiated.flags
        self._notify = notify
        self._run_calls = run_calls
        self._wakers = wakers
        self._on_table = on_table
        self._observer: Observer | None = None
        self._gate: Gate | None = None
        self.held: dict[int, bytes] = {}
        """Requests that are held back, by their unique ids."""
        self._handlers: list[Handler] = []
        self._names_last = mount.names_last
        self._patience: Any = None
        self._flow: Flow = DirectFlow()
        if stepper is not None:
            from puffs.attach.fuse.stepped_flow import SteppedFlow

            self._flow = SteppedFlow(self.channel, stepper, self._fail_later)
        self.rebuild()

    def observe(self, observer: Observer | None) -> None:
        """Have `observer` watch from the next request on; None: nobody. From any thread.

        Invariant: whatever `rebuild` does at this moment, the table ends as the observer wants it,
        or as one whose every handler first rebuilds it.
        """
        self._observer = observer
        self.rebuild_soon()

    @property
    def observed_by(self) -> Observer | None:
        """Who watches."""
        return self._observer

    def hold(self, phase: Phase, writers: Writers, most: int) -> None:
        """Put a gate in front of the table, or one of another phase: see `Gate`.

        While this reader stands still, on whatever thread.
        """
        self._gate = Gate(phase, self.held, writers, self._wakers, self._run_calls, most)
        self.rebuild()

    def release(self) -> None:
        """Take the gate away; at its next request the reader serves what was held back.

        From any thread.
        """
        if self._gate is not None:
            self._gate = None
            self.rebuild_soon()

    @property
    def gated(self) -> bool:
        """Whether there is a gate."""
        return self._gate is not None

    def background_requests(self) -> int:
        """How many background requests may have come since this was asked last, or are held."""
        gate = self._gate
        if gate is None:
            return 0
        came, gate.background = gate.background, 0
        return came + gate.writes_held

    def busy(self) -> bool:
        """Whether an operation goes on between two requests."""
        return self._flow.busy()

    def serve_held(self) -> None:
        """Serve what was held back, if it is not to be held any more."""
        while self.held and self._gate is None:
            request = self.held.pop(next(iter(self.held)))

            def again(_fd: int, vector: Sequence[bytearray], request: bytes = request) -> int:
                vector[0][: len(request)] = request
                return len(request)

            Reader._loop(self, _ONE, again)

    def rebuild_soon(self) -> None:
        """Make the table anew at the next request, and serve first what is held back no more.

        From any thread.
        """
        self._handlers[:] = [self._rebuild_and_serve] * len(self._handlers)

    def _rebuild_and_serve(self, unique: int, nodeid: int, length: int) -> None:
        self.rebuild()
        if self.held and self._gate is None:
            self.held[unique] = bytes(self.channel.view[:length])
            raise Resumed
        opcode = self.channel.header[1]
        self._handlers[opcode if opcode < len(self._handlers) else 0](unique, nodeid, length)

    def rebuild(self) -> None:
        """Make the dispatch table anew: the channel's buffer or its ways to write have changed."""
        wanted = None
        while wanted != (now := (self._observer, self._gate)):  # another thread may change them
            wanted = now
            self._build(*wanted)

    def _build(self, observer: Observer | None, gate: Gate | None) -> None:
        self.channel.write, self.channel.writev = os.write, os.writev
        wrap = observer.tap(self.channel, self._flags) if observer is not None else None
        answer = Answer if self._compiled is None else self._compiled.Answer
        self._replies = Replies(self.channel, self.mount, self._files, self._flow, answer)
        handlers = build(
            Serving(
                self.mount,
                self.channel,
                self._files,
                self._replies,
                self._flow,
                self._flags,
                self._notify,
                self._run_calls,
                self._compiled_handlers() if wrap is None else {},
            )
        )
        if self._on_table is not None:
            self._on_table(handlers)
        if wrap is not None:
            wrap(handlers)
        if gate is not None:
            gate.wrap(self.channel, handlers)
        self._handlers[:] = handlers  # in place: the loop holds this list

    def _compiled_handlers(self) -> CompiledHandlers:
        """The kinds of compiled handlers that can be used, if there are any."""
        if self._compiled is None:
            return {}
        handlers: CompiledHandlers = self._compiled.HANDLERS
        if not self._flow.asynchronous:
            handlers = handlers | self._compiled.DIRECT_HANDLERS
        server = self.mount.server
        return handlers | server.compiled_handlers() if isinstance(server, Handling) else handlers

    def serve(self) -> None:
        """Serve until the connection ends."""
        while self._loop(None) is not Read.ENDED:
            pass

    def serve_one(self) -> Read:
        """Serve one request, waiting for it only if the descriptor does."""
        return self._loop(_ONE)

    def serve_until(self, enough: Sign) -> Read:
        """Serve one request, and further ones until it is enough; as `serve_one`."""
        return self._loop(enough)

    def serve_for(self, seconds: float, patience_ms: int, enough: Sign) -> Read:
        """Serve requests for so many seconds, or until it is enough.

        `NOTHING` when none has come for `patience_ms` milliseconds or, compiled, up to twice as
        long. For a descriptor that does not block.
        """
        if self._compiled is not None:
            if patience_ms and self._patience is None:
                self._patience = self._compiled.Patience(patience_ms)
            patience = self._patience if patience_ms else None
            outcome: Read | None = self._compiled.run(
                self, self.channel, self._handlers, enough, int(seconds * 1e9), patience
            )
            return outcome or Read.SERVED
        poller, end = select.poll(), monotonic() + seconds
        poller.register(self.channel.fd, select.POLLIN)
        while True:
            outcome = self._loop(_ONE)
            if outcome is Read.NOTHING and poller.poll(patience_ms):
                continue
            if outcome is not Read.SERVED or enough.now or monotonic() > end:
                return outcome

    def _loop(self, enough: Sign | None, readv: ReadVector = os.readv) -> Read:
        channel, handlers = self.channel, self._handlers
        if self._compiled is not None and readv is os.readv:
            outcome: Read | None = self._compiled.run(self, channel, handlers, enough)
            return outcome or Read.SERVED
        fd, buffer = channel.fd, channel.buffer
        vector = (buffer,)
        unpack = IN_HEADER.struct.unpack_from
        known = len(handlers)
        while True:
            try:
                length = readv(fd, vector)
            except OSError as exc:
                if outcome := self.not_read(exc):
                    return outcome
                continue
            if length < BODY:  # the other side of a connection that is no device has closed it
                return Read.ENDED
            channel.header = header = unpack(buffer)
            opcode = header[1]
            try:
                handlers[opcode if opcode < known else 0](header[2], header[3], length)
            except BaseException as exc:
                if outcome := self.raised(header, exc):
                    return outcome
            if enough is not None and enough.now:
                return Read.SERVED

    def not_read(self, exc: OSError) -> Read | None:
        """What it means that reading has raised; None: read again."""
        if exc.errno in END:
            self.unmounted = exc.errno == errno.ENODEV
            return Read.ENDED
        if exc.errno in AGAIN:
            return None
        if isinstance(exc, BlockingIOError):
            return Read.NOTHING
        raise exc

    def raised(self, header: Header, exc: BaseException) -> Read | None:
        """A handler has raised: answer for it. None: that was all; else the loop is to be left,
        since the buffer or the table are others now.
        """
        if isinstance(exc, OSError):  # most of all: a name that is not there
            self._fail(header, exc)
            return None
        if isinstance(exc, BufferKept):
            if exc.__cause__ is not None:
                self._fail(header, exc.__cause__)
            self.channel.renew_buffer()
            self.rebuild()
            return Read.SERVED
        if isinstance(exc, Resumed):
            self.serve_held()
            return Read.SERVED
        if isinstance(exc, Stop | KeyboardInterrupt):
            raise exc
        self._fail(header, exc)
        return None

    def _fail(self, header: Header, exc: BaseException) -> None:
        """Answer a request with the errno for what serving it has raised."""
        opcode, unique = header[1], header[2]
        code = self.mount.errno_of(exc, operation_name(opcode))
        if not wants_reply(opcode):
            return
        if code == errno.ENOSYS and not isinstance(exc, Refusal):
            # To the kernel it would mean: never ask again, for any file. The operation is there.
            code = errno.EOPNOTSUPP
        if code == errno.ENOENT and opcode == Opcode.LOOKUP and self._names_last:
            ttl = exc.ttl if isinstance(exc, Absent) else self.mount.server.negative_ttl
            if ttl > 0:
                self._replies.absent(unique, ttl)
                return
        self.channel.send_error(unique, code)

    def _fail_later(self, request: Request, exc: BaseException) -> None:
        self._fail(request.header, exc)
