"""Serving messages, in the process of the file server: from a packet to an operation, and back.

`Dispatch` does that for one message. `serve` has it done by threads, `serve_async` by an event loop
for file servers with `async def` operations.
"""

import errno
import logging
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import CoroutineType
from typing import Any, Final

from puffs.isolate import frames, messages
from puffs.isolate.answers import Answers, Args, Room
from puffs.isolate.frames import BUFFER_SIZE, REQUEST_SIZE, Class, FrameError, Own
from puffs.isolate.messages import ROWS, Row
from puffs.isolate.objects import Objects
from puffs.isolate.rooms import Rooms
from puffs.kernel import police
from puffs.kernel.attachment import Servable
from puffs.server.cred import Cred, requester
from puffs.server.operations import Operations
from puffs.server.stepping import WAITING, Done, Stepper, aside, finish, is_async, listed
from puffs.server.types import Cookie, Entry, Suspend

logger = logging.getLogger("puffs")

Handler = Callable[[frames.Request, memoryview, int, int], None]
"""Serves one message: is given its header, and where in which packet its body is."""


class Asker:
    """Who has asked for what is under way (`puffs.server.cred.Requester`)."""

    __slots__ = ("header", "traceless")

    def __init__(
        self,
        header: frames.Request = (0, 0, 0, 0, *frames.NOBODY, frames.NO_ROOM, 0),
        traceless: bool = False,
    ) -> None:
        self.header = header
        self.traceless = traceless

    def noatime(self) -> bool:
        """Whether this read is to move no time of access."""
        return self.traceless

    def cred(self) -> Cred:
        """The caller."""
        who = self.header[4:7]
        if who == frames.NOBODY:
            raise LookupError("nobody called this operation: it comes from the kernel half")
        return Cred(*who)


class Dispatch:
    """What serves the messages to `server`: replies are written to the descriptor `writes`, what is
    long to `rooms`.

    `mount` makes what its `mounted` operation is given, of the path of the mount; `wake` passes on
    what `poll` was asked to tell. `stepper` is for `async def` operations.
    """

    def __init__(
        self,
        server: Servable,
        writes: int,
        rooms: Rooms,
        mount: Callable[[str], Any],
        wake: Callable[[int], None],
        stepper: Stepper | None = None,
    ) -> None:
        ops = dict(server.operations())
        self._writes = writes
        self._rooms = rooms
        self._stepper = stepper
        reclaim = ops.get("reclaim")

        def forgotten(cookie: Cookie) -> None:
            if reclaim is not None:
                self._aside("reclaim", reclaim, cookie)

        self._objects = Objects(ops.get("fileid"), forgotten)
        closers = {name: ops.get(name) for name in ("close", "closedir")}

        def close(closer: str, cookie: Cookie, file: Any) -> None:
            if (operation := closers[closer]) is not None:
                self._aside(closer, operation, cookie, file, *((0,) if closer == "close" else ()))

        self._answers = Answers(self._objects, close, (server.fhsize, server.fhflags))
        self._under_way: dict[int, Asker] = {}
        """Who asked for operations that wait, by the ids of their messages."""
        value = self._objects.values.__getitem__
        self._in: Final[Mapping[str, Callable[[Any], Any]]] = {
            **messages.IN,
            "node": value,
            "file": value,
            "data": _data,
            "mount": lambda field: mount(messages.text_in(field)),
            "wake": lambda number: (lambda: wake(number)) if number else None,
        }
        self._handlers: dict[tuple[int, int], Handler] = {
            (Class.OWN, Own.DROP): self._drop,
            (Class.OWN, Own.INTERRUPT): self._interrupt,
            (Class.OWN, Own.MORE): self._more,
            (Class.OWN, Own.PING): self._ping,
        }
        self.number_of = self._objects.number_of
        """The number by which the kernel half knows a cookie, 0 if it does not."""
        self.mounted = threading.Event()
        """Hosts may ask: the file server has been told, if it wants to be."""
        if "mounted" not in ops:
            self.mounted.set()
        operations = completed(ops)
        for name in operations.keys() & ROWS.keys():
            row = ROWS[name]
            self._handlers[row.class_, row.type] = self._handler(row, operations[name])

    def packet(self, packet: memoryview, length: int, asker: Asker) -> None:
        """Serve what came, on this thread; `asker` is told for whom."""
        try:
            if (header := frames.lone_request(packet, length)) is not None:
                self._serve(header, packet, REQUEST_SIZE, length, asker)
            else:
                for at, end in frames.split(packet, length):
                    header = frames.request(packet, at, end)
                    self._serve(header, packet, at + REQUEST_SIZE, end, asker)
        except FrameError as exc:
            logger.error("what the kernel half has sent cannot be served: %s", exc)

    def _serve(
        self, header: frames.Request, packet: memoryview, at: int, end: int, asker: Asker
    ) -> None:
        asker.header = header
        handler = self._handlers.get(header[:2])
        if handler is None:
            raise FrameError(f"a message of class {header[0]} and type {header[1]}")
        handler(header, packet, at, end)

    def _send(self, frame: bytes) -> None:
        """Send a reply; that nobody wants it any more, the loop will find out."""
        try:
            os.write(self._writes, frame)
        except BrokenPipeError:
            pass

    # ----------------------------------------------------------------------------------- operations

    def _handler(self, row: Row, operation: Callable[..., Any]) -> Handler:
        if row.name == "reclaim":
            return self._reclaim(row)
        if row.operation.faf and row.name not in messages.ANSWERED:
            return self._unanswered(row, operation)
        args_of, send, rooms = self._args(row), self._send, self._rooms
        answer, failure = self._answers.packer(row), self._answers.failure(row)
        own, reads = len(row.operation.args), row.name in messages.READS

        def handler(header: frames.Request, packet: memoryview, at: int, end: int) -> None:
            id_, room = header[2], header[7]
            try:
                memory = rooms.memory(room) if room >= 0 else None
                args = args_of(header, packet, at, end, memory)
                if reads:
                    _note(bool(args[own]))
                result = operation(*args[:own])
                if type(result) is CoroutineType:
                    result = self._stepped(result, id_, partial(later, id_, memory, args))
                    if result is WAITING:
                        return
                frame = answer(id_, memory, result, args)
            except BaseException as exc:  # sys.exit() there is a mistake as any other
                frame = failure(id_, exc)
            send(frame)

        def later(
            id_: int, memory: Room, args: Args, result: Any, error: BaseException | None
        ) -> None:
            del self._under_way[id_]
            try:
                frame = answer(id_, memory, result, args) if error is None else failure(id_, error)
            except BaseException as exc:
                frame = failure(id_, exc)
            send(frame)

        return handler

    def _unanswered(self, row: Row, operation: Callable[..., Any]) -> Handler:
        """A handler of what is fire and forget."""
        args_of, about_node, served = self._args(row), row.about_node, self._objects.served

        def handler(header: frames.Request, packet: memoryview, at: int, end: int) -> None:
            try:
                args = args_of(header, packet, at, end, None)
            except (OSError, FrameError) as exc:
                logger.error("%s could not be called: %s", row.name, exc)
            else:
                self._aside(row.name, operation, *args)
            if about_node:
                served(header[3])
            if row.name == "mounted":
                self.mounted.set()

        return handler

    def _args(self, row: Row) -> Callable[[frames.Request, memoryview, int, int, Room], Args]:
        """What takes the arguments of an operation from its message, and behind them what else is
        in there.
        """
        unpack, values, about_node = row.request.unpack, self._objects.values, row.about_node
        into = dict(self._in)
        if row.name in ("close", "closedir"):
            into["file"] = self._objects.take  # it is known no more
        if row.name == "suspend":
            into["signed"] = _status
        conversions = [
            (at, into[sort]) for at, sort in enumerate(row.sorts[about_node:]) if sort in into
        ]

        def args_of(
            header: frames.Request, packet: memoryview, at: int, end: int, memory: Room
        ) -> Args:
            args = [*unpack(packet, at, end, memory if header[8] else None)]
            for place, convert in conversions:
                args[place] = convert(args[place])
            return [values[header[3]], *args] if about_node else args

        return args_of

    def _stepped(self, begun: Any, id_: int, later: Done) -> Any:
        """Run what an `async def` has begun, to its end or to where it waits."""
        if self._stepper is None:
            return finish(begun)
        asker = requester.get()
        assert isinstance(asker, Asker)
        result = self._stepper.step(begun)
        if result is WAITING:
            self._under_way[id_] = who = Asker(asker.header, asker.traceless)
            self._stepper.adopt(who, later)
        return result

    def _aside(self, name: str, operation: Callable[..., Any], *args: Any) -> None:
        """Call what nobody waits for."""
        try:
            result = operation(*args)
            if self._stepper is None:
                finish(result)
            else:
                aside(self._stepper, result)
        except BaseException:
            logger.exception("%s failed in the file server", name)

    def _reclaim(self, row: Row) -> Handler:
        """See `Objects.drop`."""
        unpack, drop = row.request.unpack, self._objects.drop

        def handler(header: frames.Request, packet: memoryview, at: int, end: int) -> None:
            drop(header[3], *unpack(packet, at, end))

        return handler

    # ------------------------------------------------------------------------- messages of our own

    def _drop(self, _header: frames.Request, packet: memoryview, at: int, end: int) -> None:
        (drops,) = messages.DROP.unpack(packet, at, end)
        for dropped in frames.unpack_drops(drops):
            self._objects.drop(*dropped)

    def _interrupt(self, _header: frames.Request, packet: memoryview, at: int, end: int) -> None:
        (id_,) = messages.INTERRUPT.unpack(packet, at, end)
        who = self._under_way.get(id_)
        if who is not None and self._stepper is not None:
            self._stepper.cancel(who)

    def _more(self, header: frames.Request, packet: memoryview, at: int, end: int) -> None:
        id_ = header[2]
        try:
            (number,) = messages.MORE.unpack(packet, at, end)
            rest = self._objects.take(number)
            if rest is None:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            frame = _pack_more(id_, 0, self._rooms.memory(header[7]), self._answers.part(*rest))
        except BaseException as exc:
            frame = self._answers.failure(_MORE)(id_, exc)
        self._send(frame)

    def _ping(self, header: frames.Request, packet: memoryview, at: int, end: int) -> None:
        messages.PING.unpack(packet, at, end)
        self._send(_pack_ping(header[2], 0, None))


def _note(traceless: bool) -> None:
    """What is asked for now is a read; whether it is to leave no trace."""
    asker = requester.get(None)
    if isinstance(asker, Asker):
        asker.traceless = traceless


def _data(field: memoryview) -> memoryview:
    """What is to be written. In a room it is there until the answer has been sent; what is short
    is copied, and lasts.
    """
    return field.toreadonly() if len(field) > frames.FRAME_MAX else memoryview(bytes(field))


def _status(number: int) -> Suspend:
    try:
        return Suspend(number)
    except ValueError:
        raise FrameError(f"a suspension with the status {number}, which is none") from None


_pack_more: Final = messages.MORE_REPLY.replies(Class.OWN, Own.MORE)
_pack_ping: Final = messages.PING.replies(Class.OWN, Own.PING)
_MORE: Final = ROWS["readdir"]._replace(class_=Class.OWN, type=Own.MORE)


# What an operation would be asked for next, with the first answer.


def completed(ops: Operations) -> dict[str, Callable[..., Any]]:
    """The same operations, with those that give a node asking for its attributes themselves, which
    the kernel half would do next; and an `async def` listing collected.
    """
    whole = dict(ops)
    for name in ("lookup", "mknod", "mkdir", "symlink", "vget"):
        if name in ops:
            whole[name] = _with_attr(name, ops[name], ops["getattr"])
    if "readdir" in ops:
        readdir = ops["readdir"]
        whole["readdir"] = lambda *args: listed(readdir(*args))
    return whole


def _with_attr(
    name: str, operation: Callable[..., Any], getattr_: Callable[..., Any]
) -> Callable[..., Any]:
    kind = "LOOKUP" if name in ("lookup", "vget") else "MAKENODE"

    def entry_of(reply: Any) -> Entry:
        entry = reply if type(reply) is Entry else Entry(reply)
        police.usable(entry.node, kind, name)
        return entry

    def entry_with(entry: Entry, attr: Any) -> Entry:
        return Entry(entry.node, attr, entry.name_ttl, entry.attr_ttl)

    def plain(*args: Any) -> Any:
        entry = entry_of(operation(*args))
        return entry if entry.attr is not None else entry_with(entry, getattr_(entry.node, None))

    async def waiting(*args: Any) -> Any:
        entry = entry_of(await _awaited(operation(*args)))
        if entry.attr is not None:
            return entry
        return entry_with(entry, await _awaited(getattr_(entry.node, None)))

    return waiting if is_async(operation) or is_async(getattr_) else plain


async def _awaited(result: Any) -> Any:
    return await result if isinstance(result, CoroutineType) else result


# The loops.


def serve(dispatch: Dispatch, reads: int, threads: int) -> None:
    """Serve messages on this thread, and on others beside it, until the kernel half has gone.

    The threads read from one pipe: each packet goes to one of them. Only one does until the file
    server has been told that it is mounted, for no host asks before.
    """

    def beside() -> None:
        dispatch.mounted.wait()
        _serve(dispatch, reads)

    others = [
        threading.Thread(target=beside, name=f"puffs {number}", daemon=True)
        for number in range(1, threads)
    ]
    for thread in others:
        thread.start()
    try:
        _serve(dispatch, reads)
    finally:
        dispatch.mounted.set()
    for thread in others:
        thread.join()


def _serve(dispatch: Dispatch, reads: int) -> None:
    buffer, asker = memoryview(bytearray(BUFFER_SIZE)), Asker()
    requester.set(asker)
    packet, vector = dispatch.packet, (buffer,)
    while length := os.readv(reads, vector):
        packet(buffer, length, asker)


async def serve_async(make: Callable[[Stepper], Dispatch], reads: int) -> None:
    """The same in the running event loop; `make` makes what serves, with what steps operations."""
    import asyncio

    from puffs.server.aio import AsyncioStepper

    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    stepper = AsyncioStepper(loop)
    dispatch = make(stepper)
    buffer, asker = memoryview(bytearray(BUFFER_SIZE)), Asker()
    os.set_blocking(reads, False)

    def receive() -> None:
        token = requester.set(asker)
        try:
            for _ in range(AT_ONCE):
                length = os.readv(reads, (buffer,))
                if not length:
                    loop.remove_reader(reads)
                    ended.set_result(None)
                    return
                stepper.inside(dispatch.packet, buffer, length, asker)
        except BlockingIOError:
            pass
        finally:
            requester.reset(token)

    loop.add_reader(reads, receive)
    await ended
    await stepper.drain(0)
    stepper.close()


AT_ONCE: Final = 64
"""Packets that are served before the loop gets another turn."""
