"""The kernel half's end of the socket to a file server in another process.

`Peer` sends what is on the queues of a mount and brings the answers back. Whoever wants an answer
receives: the thread that serves a host, by `step`, `pump` and `tick`; or any thread, by `finish`,
one at a time and for all others.
"""

import errno
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, ClassVar, Final, NamedTuple

from puffs.isolate import frames, messages
from puffs.isolate.far import Known
from puffs.isolate.frames import BUFFER_SIZE, FRAME_MAX, NOBODY, REPLY_SIZE, Class, FrameError, Own
from puffs.isolate.rooms import Rooms
from puffs.kernel.queues import Message, Place, Queues
from puffs.server.cred import Requester
from puffs.server.errors import MAX_ERRNO, ProtocolFault
from puffs.server.stepping import WAITING, Done

PATIENCE_US: Final = 2000
"""How long an answer is waited for in the receiving itself, in microseconds; then its host is
served otherwise. (The kernel counts in ticks: it may be some milliseconds.)
"""
# As plain numbers: members of an enumeration cost a microsecond to be joined.
_AT_ONCE: Final = int(socket.MSG_DONTWAIT)
_SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

BAD_MAX: Final = 1000
"""After so many datagrams that are none, with nothing else between them, it is no file server."""


class Kind(NamedTuple):
    """What the calls of one operation have in common.

    `pack` makes a frame: of the id, the node, who asks (uid, gid, tid), and the values. `decode`
    makes the result of the body of a reply: of a datagram, where it begins and where it ends.
    """

    operation: str
    class_: int
    type: int
    pack: Callable[..., bytes]
    decode: Callable[[memoryview, int, int], Any]


class Call(Message):
    """A message that is to be answered: of a `kind`, about a `node`, asked for by `who`, with
    `values`.
    """

    faf = False
    bulk = False
    endless = False
    """It may take any time."""
    late: Callable[[Any], None] | None = None
    """Called with a result that came when nobody waited any more, to undo what it gave away."""
    after: Callable[[Any], Any] | None = None
    """Makes of the result what is the result then."""
    since = 0.0
    """When somebody began to wait for it in earnest, on the monotonic clock; 0: nobody has."""
    heard = 0
    """How many datagrams had been received then."""

    def __init__(
        self,
        peer: "Peer",
        kind: Kind,
        node: int = 0,
        who: tuple[int, int, int] = NOBODY,
        values: Sequence[Any] = (),
    ) -> None:
        self.peer = peer
        self.kind = kind
        self.node = node
        self.who = who
        self.values = values

    @property
    def operation(self) -> str:  # type: ignore[override]
        """What is asked for."""
        return self.kind.operation

    def pack(self, id_: int, room: int) -> bytes:
        """Its frame."""
        return self.kind.pack(id_, self.node, *self.who, *self.values)

    def decode(self, datagram: memoryview, at: int, end: int) -> Any:
        """Its result, of the body of the reply."""
        return self.kind.decode(datagram, at, end)

    def keep(self) -> None:
        """It is packed later than at once: what `pack` looks at must be there then."""

    def wait(self) -> Any:
        """The result, waited for on this thread."""
        return self.peer.finish(self)

    def then(self, function: Callable[[Any], Any]) -> "Call":
        """The same with a further step, on the thread that brings the answer."""
        self.after = function
        return self


class Peer:
    """One end of the socket `connection`, and the queues before it. Also a `Stepper`.

    `seconds` is how long a message may take, None: for ever. `fault` is told of what is wrong with
    what is received and belongs to no message; `gone` when the other side has closed, with the
    words for it if it is this side that has had enough.
    """

    kind: ClassVar[type] = Call
    copies: ClassVar[bool] = True

    def __init__(
        self,
        connection: socket.socket,
        rooms: Rooms,
        queues: Queues,
        seconds: float | None,
        fault: Callable[[str], None],
        gone: Callable[[str], None],
    ) -> None:
        self.queues = queues
        self.known = Known()
        self.rooms = rooms
        self._connection = connection
        timeout = struct.pack("@ll", 0, PATIENCE_US)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._seconds = seconds
        self._fault = fault
        self._gone = gone
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self._sending = threading.Lock()
        self._leading = threading.Lock()
        """Held by the thread that receives."""
        self._heard = 0
        self._bad = 0
        self._stepped: Call
        self._under_way: dict[Requester, Call] = {}
        self._lent: list[Call] = []
        """Calls whose results, views of shared memory, are being looked at by the thread that
        serves: until it comes back here."""
        self._pinged: Call | None = None

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self._connection.fileno()

    # ----------------------------------------------------------------------------------- sending

    def fire(self, message: Message) -> None:
        """Send what nobody waits for."""
        self.queues.send(message)
        self.flush()

    def flush(self) -> None:
        """Send what is on the queues, as far as the socket takes it. Never waits."""
        queues = self.queues
        with self._sending:
            while queues.readable:
                try:
                    batch = queues.fetch(FRAME_MAX, 1)
                except OSError:  # dead, or another thread was faster
                    return
                if not self._put(batch, b"".join(message.frame for message in batch)):
                    return

    def _put(self, batch: Sequence[Message], datagram: bytes) -> bool:
        """Send what was fetched; False when it could not be sent."""
        try:
            self._connection.send(datagram, _SEND)
        except BlockingIOError:
            self.queues.unfetch(batch)
            return False
        except OSError:  # whoever receives will see why
            return False
        return True

    # ------------------------------------------------------- for the thread that serves (Stepper)

    def begin(self, call: Call) -> None:
        """Send a call, for whose answer nobody waits yet."""
        with self._sending:
            if self.queues.pass_by(call):
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
                self._receive(0)
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
                self.queues.free(call)

        call.completed = completed

    def cancel(self, who: Requester) -> None:
        """Wait for it no longer. See `Stepper`."""
        call = self._under_way.get(who)
        if call is not None:
            self.interrupt(call)

    def interrupt(self, call: Call, code: int = errno.EINTR) -> None:
        """Its waiter goes away, with this errno (Q7); the file server is told, if it has it."""
        if self.queues.interrupt(call, code):
            self.fire(
                Message(
                    "interrupt",
                    lambda _id, _room: _INTERRUPT(0, 0, *NOBODY, call.id),
                    faf=True,
                )
            )

    def pump(self) -> None:
        """Receive what there is, and send what could not be sent before."""
        self._free_lent()
        with self._leading:
            while self._receive(_AT_ONCE):
                pass
        self.flush()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to wait for: neither an answer nor room in the socket."""
        return not self.queues.waiters and not self.queues.readable

    @property
    def events(self) -> int:
        """What to poll(2) for."""
        return select.POLLIN | (select.POLLOUT if self.queues.readable else 0)

    def tick(self) -> float | None:
        """Look after what is under way for long: to be called after the seconds returned, which
        are None if nothing is to be looked after.

        A call that takes too long fails with ETIMEDOUT. If nothing at all was heard meanwhile, not
        even the answer to the question whether anybody is there, the file server hangs.
        """
        if self._seconds is None:
            return None
        now = monotonic()
        for call in self.queues.unanswered():
            assert isinstance(call, Call)
            if call.endless:
                continue
            if not call.since:
                self._since(call, now)
            waited = now - call.since
            if waited >= self._seconds:
                self._overdue(call)
            elif waited >= self._seconds / 2:
                self._ping()
        return self._seconds / 8

    # ----------------------------------------------------------------------- for any other thread

    def finish(self, call: Call) -> Any:
        """Send a call and wait for its answer, which is the caller's own.

        On the thread that serves too, where nothing else can be done.
        """
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
            result = call.outcome()
            return bytes(result) if type(result) is memoryview else result
        except BaseException:
            self.interrupt(call)
            raise
        finally:
            self.queues.free(call)

    def _lead(self, call: Call) -> None:
        """Receive for all, until `call` is over."""
        self._receive(0)
        poll = select.poll()
        while not call.over:
            poll.register(self._connection, self.events)
            seconds = self.tick()
            # After a tick that has ended the call, there is something to be woken by: an interrupt
            # that was sent, or the end of the connection.
            poll.poll(None if seconds is None else seconds * 1000)
            while self._receive(_AT_ONCE):
                pass
            self.flush()

    # --------------------------------------------------------------------------------- receiving

    def _receive(self, flags: int) -> bool:
        """Receive one datagram; False when there is none, or will be none."""
        if self.queues.dead:
            return False
        try:
            length = self._connection.recv_into(self._buffer, 0, flags)
        except BlockingIOError:
            return False
        except OSError:
            length = 0
        if not length:
            self.end("")
            return False
        self._heard += 1
        try:
            for at, end in frames.split(self._buffer, length):
                self._answered(at, end)
            self._bad = 0
        except FrameError as exc:
            self._bad += 1
            if self._bad >= BAD_MAX:
                self.end(f"has sent {BAD_MAX} datagrams that are none: {exc}")
                return False
            self._fault(str(exc))
        return True

    def _answered(self, at: int, end: int) -> None:
        class_, type_, id_, rv = frames.reply(self._buffer, at, end)
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
                error = self._error(rv, at + REPLY_SIZE, end)
            else:
                result = call.decode(self._buffer, at + REPLY_SIZE, end)
                if call.after is not None:
                    result = call.after(result)
        except FrameError as exc:
            error = ProtocolFault("ERROR", f"{call.operation}: {exc}")
        except Exception as exc:
            error = exc
        waited_for = self.queues.complete(call, result, error)
        if not waited_for and error is None and call.late is not None:
            call.late(result)

    def _error(self, rv: int, at: int, end: int) -> OSError:
        """What a call has failed with."""
        words, kind, hint, id_ = messages.FAULT.unpack(self._buffer, at, end)
        text = messages.words_in(words)
        if not len(kind):
            return OSError(rv, text)
        if not (0 < rv <= MAX_ERRNO and 0 < hint <= MAX_ERRNO):
            raise FrameError(f"a fault with the errno {rv} and the hint {hint}")
        return ProtocolFault(messages.words_in(kind), text, hint, self.known.find(id_), rv)

    def _free_lent(self) -> None:
        while self._lent:
            self.queues.free(self._lent.pop())

    # ------------------------------------------------------------------------------- life and death

    def end(self, why: str) -> None:
        """There is no file server any more: all that waits fails with ENXIO (Q16)."""
        if not self.queues.dead:
            self.queues.userdead()
            self._gone(why)

    def shut(self) -> None:
        """Have whoever receives notice that the file server has gone. From any thread."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """Give the socket back. Nobody may use it any more."""
        self._connection.close()

    def _since(self, call: Call, now: float = 0.0) -> None:
        call.since, call.heard = now or monotonic(), self._heard

    def _overdue(self, call: Call) -> None:
        if call.heard == self._heard:
            self.end(f"has not answered anything for {self._seconds:g} seconds")
            return
        self.interrupt(call, errno.ETIMEDOUT)

    def _ping(self) -> None:
        """Ask whether anybody is there."""
        if self._pinged is not None and not self._pinged.over:
            return
        self._pinged = ping = Call(self, _PING)
        ping.endless = True
        self.begin(ping)


_PING: Final = Kind(
    "ping",
    Class.OWN,
    Own.PING,
    messages.PING.requests(Class.OWN, Own.PING),
    messages.PING.unpack,
)
_INTERRUPT: Final = messages.INTERRUPT.requests(Class.OWN, Own.INTERRUPT, faf=True)
