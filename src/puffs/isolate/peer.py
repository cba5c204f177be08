"""The kernel half's end of the way to a file server in another process.

`Peer` sends what is on the queues of a mount and brings the answers back. Whoever wants an answer
receives: the thread that serves a host, by `step`, `pump` and `tick`; or any thread, by `finish`,
one at a time and for all others.
"""

import errno
import os
import select
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, ClassVar, Final, NamedTuple

from puffs.isolate import frames, messages
from puffs.isolate.far import Far, Known
from puffs.isolate.frames import (
    BUFFER_SIZE,
    FRAME_MAX,
    NO_ROOM,
    NOBODY,
    REPLY_SIZE,
    Class,
    FrameError,
    Own,
)
from puffs.isolate.pipes import Ends
from puffs.isolate.rooms import Rooms
from puffs.kernel.queues import Message, Place, Queues
from puffs.server.cred import Requester
from puffs.server.errors import MAX_ERRNO, ProtocolFault
from puffs.server.stepping import WAITING, Done

PATIENCE_MS: Final = 2
"""How long an answer is waited for alone; then its host is served otherwise."""
_LATER: Final = frozenset((errno.EAGAIN, errno.ENOMEM))
"""What does not go now, and does when the other side has received."""
_CLOSED: Final = frozenset((errno.EPIPE, errno.EBADF))

BAD_MAX: Final = 1000
"""After so many packets that are none, it is no file server."""


Decode = Callable[[memoryview, int, int, memoryview | None], Any]
"""Makes the result of the body of a reply: of a packet, where it begins and where it ends, and the
memory of the room if its tail is there.
"""


class Kind(NamedTuple):
    """What the calls of one operation have in common.

    `pack` makes a frame: of the id, the node, who asks (uid, gid, tid), the room, its memory or
    None, and the values.
    """

    operation: str
    class_: int
    type: int
    pack: Callable[..., bytes]
    decode: Decode


class Call(Message):
    """A message that is to be answered: of a `kind`, about a `node`, asked for by `who`, with
    `values`. `bulk`: it, or its answer, may be too long for a frame.
    """

    faf = False
    endless = False
    """It may take any time."""
    seconds: float | None = None
    """How long it may take, where that is less than usual."""
    late: Callable[[Any], None] | None = None
    """Called with a result that came when nobody waited any more, to undo what it gave away."""
    after: Callable[[Any], Any] | None = None
    """Makes of the result what is the result then."""
    since = 0.0
    """When somebody began to wait for it in earnest, on the monotonic clock; 0: nobody has."""
    heard = 0
    """How many packets had been received then."""

    def __init__(
        self,
        peer: "Peer",
        kind: Kind,
        node: int = 0,
        who: tuple[int, int, int] = NOBODY,
        values: Sequence[Any] = (),
        bulk: bool = False,
    ) -> None:
        self.peer = peer
        self.kind = kind
        self.operation = kind.operation
        self.node = node
        self.who = who
        self.values = values
        self.bulk = bulk

    def pack(self, id_: int, room: int) -> bytes:
        """Its frame."""
        memory = self.peer.rooms.memory(room) if room >= 0 else None
        return self.kind.pack(id_, self.node, *self.who, room, memory, *self.values)

    def keep(self) -> None:
        """It is packed later than at once: what it looks at must be there then."""
        self.values = [
            bytes(value) if type(value) is memoryview else value for value in self.values
        ]

    def wait(self) -> Any:
        """The result, waited for on this thread."""
        return self.peer.finish(self)

    def then(self, function: Callable[[Any], Any]) -> "Call":
        """The same with a further step, on the thread that brings the answer."""
        self.after = function
        return self


class Peer:
    """One end of two pipes, and the queues before it. Also a `Stepper`.

    `seconds` is how long a message may take, None: for ever. `fault` is told of what is wrong with
    what is received and belongs to no message; `gone` when the other side has closed, with the
    words for it if it is this side that has had enough.
    """

    kind: ClassVar[type] = Call
    copies: ClassVar[bool] = True

    def __init__(
        self,
        ends: Ends,
        rooms: Rooms,
        queues: Queues,
        seconds: float | None,
        fault: Callable[[str], None],
        gone: Callable[[str], None],
    ) -> None:
        self.queues = queues
        self.known = Known()
        self.rooms = rooms
        self._ends = ends
        self._readable = select.poll()
        self._readable.register(ends.reads, select.POLLIN)
        self._nudge = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._shut = False
        self._seconds = seconds
        self._fault = fault
        self._gone = gone
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self._vector = (self._buffer,)
        self.turn: Final = threading.RLock()
        """Held while an answer is made use of in one step (`Call.after`): see `VnodeTable.turn`."""
        self._leading = threading.Lock()
        """Held by the thread that receives."""
        self._gathers = 0
        self._heard = 0
        self._bad = 0
        self._stepped: Call
        self._under_way: dict[Requester, Call] = {}
        self._lent: list[Call] = []
        """Calls whose results, views of shared memory, are being looked at by the thread that
        serves: until it comes back here."""
        self._pinged: Call | None = None

    def sleep(self, beside: int | None = None, seconds: float | None = None) -> None:
        """Wait until there is something to be done here, by `pump`; or until the descriptor
        `beside` is readable, or the `seconds` have passed.
        """
        poll = select.poll()
        poll.register(self._ends.reads, select.POLLIN)
        poll.register(self._nudge, select.POLLIN)
        if self.queues.readable:
            poll.register(self._ends.writes, select.POLLOUT)
        if beside is not None:
            poll.register(beside, select.POLLIN)
        # A tick that ends a call leaves something to be woken by.
        limits = [limit for limit in (seconds, self.tick()) if limit is not None]
        poll.poll(max(0.0, min(limits)) * 1000 if limits else None)

    # ----------------------------------------------------------------------------------- sending

    def gathers(self) -> None:
        """This thread will `flush` what it fires, or send it with what it steps next."""
        self._gathers = threading.get_ident()

    def fire(self, message: Message) -> None:
        """Send what nobody waits for."""
        self.queues.send(message)
        if threading.get_ident() != self._gathers:
            self.flush()

    def flush(self) -> bool:
        """Send what is on the queues, as far as the pipe takes it; whether that was all. Never
        waits.
        """
        queues = self.queues
        with queues.lock:
            while queues.readable:
                batch = queues.fetch(FRAME_MAX, 1)
                if not self._put(batch, b"".join(message.frame for message in batch)):
                    return False
            return True

    def _put(self, batch: Sequence[Message], packet: bytes) -> bool:
        """Send what was fetched; False when it could not be sent."""
        try:
            os.write(self._ends.writes, packet)
        except OSError as exc:
            if exc.errno in _CLOSED:  # whoever receives will see it
                return False
            self.queues.unfetch(batch)
            if exc.errno not in _LATER:
                self.end(f"cannot be sent a message: {exc.strerror}")
            return False
        return True

    # ------------------------------------------------------- for the thread that serves (Stepper)

    def begin(self, call: Call) -> None:
        """Send a call, for whose answer nobody waits yet."""
        queues = self.queues
        with queues.lock:
            if queues.pass_by(call):
                self._put((call,), call.frame)
                return
        if call.place is Place.PARKED:
            call.keep()
        self.flush()

    def step(self, call: Call) -> Any:
        """Send a call, and receive its answer if that comes at once. See `Stepper`."""
        if self._lent:
            self._free_lent()
        self.begin(call)
        if self.queues.waiters == 1 and self._leading.acquire(blocking=False):
            try:
                if self._readable.poll(PATIENCE_MS):
                    self._receive()
            finally:
                self._leading.release()
        if call.place is not Place.DONE:
            self._stepped = call
            return WAITING
        if call.room >= 0:
            self._lent.append(call)
        if call.error is not None:
            raise call.error
        return call.result

    def adopt(self, who: Requester, done: Done) -> None:
        """Have what was just stepped finish later. See `Stepper`."""
        call = self._stepped
        del self._stepped
        self._under_way[who] = call
        self._since(call)

        def completed(result: Any, error: BaseException | None) -> None:
            del self._under_way[who]
            try:
                done(result, error)
            finally:
                self._free(call)

        self.queues.adopt(call, completed)

    def cancel(self, who: Requester) -> None:
        """Wait for it no longer. See `Stepper`."""
        call = self._under_way.get(who)
        if call is not None:
            self.interrupt(call)

    def interrupt(self, call: Call, code: int = errno.EINTR) -> None:
        """Its waiter goes away, with this errno (Q7); the file server is told, if it has it."""
        if self.queues.interrupt(call, code):
            frame = _INTERRUPT(0, 0, *NOBODY, NO_ROOM, None, call.id)
            self.queues.send(Message("interrupt", lambda _id, _room: frame, faf=True))
        self.flush()  # that, or what has got its room

    def pump(self) -> None:
        """Receive what there is, and send what could not be sent before."""
        self._free_lent()
        with self._leading:
            self._receive_all()
        self.flush()

    def drain(self, seconds: float) -> bool:
        """Receive until nobody waits any more, `seconds` at most; whether that is so (Q17)."""
        deadline = monotonic() + seconds
        while self.queues.waiters and (left := deadline - monotonic()) > 0:
            self.sleep(seconds=left)
            self.pump()
        return not self.queues.waiters

    @property
    def idle(self) -> bool:
        """Whether there is nothing to wait for: neither an answer nor room in the pipe."""
        return not self.queues.waiters and not self.queues.readable

    def tick(self) -> float | None:
        """Look after what is under way for long: to be called after the seconds returned, which
        are None if nothing is to be looked after.

        A call that takes too long fails with ETIMEDOUT. If nothing at all was heard meanwhile, not
        even the answer to the question whether anybody is there, the file server hangs.
        """
        now = monotonic()
        looks: list[float] = []
        for call in self.queues.unanswered():
            assert isinstance(call, Call)
            seconds = self._seconds if call.seconds is None else call.seconds
            if call.endless or seconds is None:
                continue
            if not call.since:
                self._since(call, now)
            waited = now - call.since
            if waited >= seconds:
                self._overdue(call, seconds)
            elif waited >= seconds / 2:
                self._ping()
            looks.append(seconds / 8)
        return min(looks, default=None)

    # ----------------------------------------------------------------------- for any other thread

    def finish(self, call: Call) -> Any:
        """Send a call and wait for its answer, which is the caller's own.

        On the thread that serves too, where nothing else can be done.
        """
        if call.after is None:
            call.after = _own
        self.begin(call)
        self._since(call)
        try:
            while not call.over:
                if self._leading.acquire(blocking=False):
                    try:
                        self._lead(call)
                    finally:
                        self._leading.release()
                        self.queues.wake()
                else:
                    self.queues.sleep(lambda: call.over or not self._leading.locked())
            return call.outcome()
        except BaseException:
            self.interrupt(call)
            raise
        finally:
            self._free(call)

    def _lead(self, call: Call) -> None:
        """Receive for all, until `call` is over."""
        if self._readable.poll(PATIENCE_MS):
            self._receive()
        while not call.over:
            self.sleep()
            self._receive_all()
            self.flush()

    # --------------------------------------------------------------------------------- receiving

    def _receive_all(self) -> None:
        """Receive what there is, and notice the end of it."""
        while self._receive():
            pass
        if self._shut:
            self.end("")

    def _receive(self) -> bool:
        """Receive one packet; False when there is none, or will be none."""
        buffer = self._buffer
        try:
            length = os.readv(self._ends.reads, self._vector)
        except BlockingIOError:
            return False
        except OSError:
            length = 0
        if not length:
            self.end("")
            return False
        self._heard += 1
        try:
            if (header := frames.lone_reply(buffer, length)) is not None:
                self._answered(header, length, REPLY_SIZE)
            else:
                for at, end in frames.split(buffer, length):
                    self._answered(frames.reply(buffer, at, end), end, at + REPLY_SIZE)
        except FrameError as exc:
            return self._bad_packet(exc)
        return True

    def _bad_packet(self, exc: FrameError) -> bool:
        """Tell of it; False when it was one too many."""
        self._bad += 1
        if self._bad >= BAD_MAX:
            self.end(f"has sent {BAD_MAX} packets that are none: {exc}")
            return False
        self._fault(str(exc))
        return True

    def _answered(self, header: frames.Reply, end: int, at: int) -> None:
        class_, type_, id_, rv, tail = header
        try:
            call = self.queues.answer(id_)
        except LookupError as exc:
            raise FrameError(str(exc)) from None
        assert isinstance(call, Call)
        result: Any = None
        error: BaseException | None = None
        try:
            if type_ != call.kind.type or class_ != call.kind.class_:
                raise FrameError("the answer to another operation")
            if rv:
                error = self._error(rv, at, end)
            else:
                room = self.rooms.memory(call.room) if tail else None
                if call.after is None:
                    result = call.kind.decode(self._buffer, at, end, room)
                else:
                    with self.turn:
                        result = call.after(call.kind.decode(self._buffer, at, end, room))
        except FrameError as exc:
            error = ProtocolFault("ERROR", f"{call.operation}: {exc}", node=self._node_of(call))
        except Exception as exc:
            error = exc
        except BaseException:  # a signal, and the thread may have received for another one
            self.queues.complete(call, None, OSError(errno.EINTR, os.strerror(errno.EINTR)))
            raise
        waited_for = self.queues.complete(call, result, error)
        if not waited_for and error is None and call.late is not None:
            call.late(result)

    def _node_of(self, call: Call) -> Far | None:
        """What a call is about."""
        return self.known.find(call.node)

    def _error(self, rv: int, at: int, end: int) -> OSError:
        """What a call has failed with."""
        words, kind, hint, id_ = messages.FAULT.unpack(self._buffer, at, end)
        text = messages.words_in(words)
        if not len(kind):
            return OSError(rv, text)
        if not (0 < rv <= MAX_ERRNO and 0 < hint <= MAX_ERRNO):
            raise FrameError(f"a fault with the errno {rv} and the hint {hint}")
        node = self.known.object(id_) if id_ else None
        return ProtocolFault(messages.words_in(kind), text, hint, node, rv)

    def _free(self, call: Call) -> None:
        """Nobody looks at the room of a call any more: what has waited for one is sent."""
        if call.room >= 0:
            self.queues.free(call)
            self.flush()

    def _free_lent(self) -> None:
        while self._lent:
            self._free(self._lent.pop())

    # ------------------------------------------------------------------------------- life and death

    def end(self, why: str) -> None:
        """There is no file server any more: all that waits fails with ENXIO (Q16)."""
        if not self.queues.dead:
            self.queues.userdead()
            self._gone(why)

    def shut(self) -> None:
        """Have whoever receives notice that the file server has gone. From any thread."""
        self._shut = True
        os.eventfd_write(self._nudge, 1)

    def hang_up(self) -> None:
        """Say that nothing more will be sent: the other side ends."""
        with self.queues.lock:
            if self._ends.writes >= 0:
                os.close(self._ends.writes)
                self._ends = self._ends._replace(writes=-1)

    def close(self) -> None:
        """Give the descriptors back. Nobody may use them any more."""
        self.hang_up()
        os.close(self._ends.reads)
        os.close(self._nudge)

    def _since(self, call: Call, now: float = 0.0) -> None:
        call.since, call.heard = now or monotonic(), self._heard

    def _overdue(self, call: Call, seconds: float) -> None:
        silent = call.heard == self._heard
        self.interrupt(call, errno.ETIMEDOUT)
        if silent:
            self.end(f"has not answered anything for {seconds:g} seconds")

    def _ping(self) -> None:
        """Ask whether anybody is there."""
        if self._pinged is not None and not self._pinged.over:
            return
        self._pinged = ping = Call(self, _PING)
        ping.endless = True
        try:
            self.begin(ping)
        except OSError:  # ENXIO: it is known already that nobody is
            pass


def _own(result: Any) -> Any:
    """A result that is good for longer than the buffer, which other threads receive into."""
    return bytes(result) if type(result) is memoryview else result


_PING: Final = Kind(
    "ping",
    Class.OWN,
    Own.PING,
    messages.PING.requests(Class.OWN, Own.PING),
    messages.PING.unpack,
)
_INTERRUPT: Final = messages.INTERRUPT.requests(Class.OWN, Own.INTERRUPT, faf=True)
