"""A hostile process in place of a file server's, which speaks the frames itself.

It serves honestly until it is told to do its worst, once: then it does that in place of one answer,
or before it.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, Final

import puffs.isolate.isolated
from puffs.isolate import child, frames, messages
from puffs.isolate.frames import BUFFER_SIZE, NO_ROOM, NOBODY, REQUEST_SIZE, RESPONSE, VERSION
from puffs.isolate.isolation import Isolation
from puffs.isolate.pipes import Ends
from puffs.isolate.rooms import Rooms
from puffs.isolate.serving import Asker, Dispatch
from puffs.kernel.attachment import Servable
from tests.fuse.conftest import Notes, Serve, Served
from tests.fuse.servers import Noting

HEADER: Final = Struct("=IBBHQq")
"""Of a reply: length, version, class, type, id, return value."""
REQUEST: Final = Struct("=IBBHQQIIIi")
"""Of a request: the same up to the id; node, uid, gid, tid, room."""


@dataclass
class Asked:
    """What was asked for: the operation, and the header of the message."""

    operation: str
    header: frames.Request

    @property
    def id(self) -> int:
        return self.header[2]

    def answer(
        self,
        body: bytes = b"",
        rv: int = 0,
        *,
        id_: int | None = None,
        class_: int | None = None,
        type_: int | None = None,
        version: int = VERSION,
        length: int | None = None,
    ) -> bytes:
        """A frame that answers it, right but for what is given."""
        return (
            HEADER.pack(
                HEADER.size + len(body) if length is None else length,
                version,
                self.header[0] | RESPONSE if class_ is None else class_,
                self.header[1] if type_ is None else type_,
                self.id if id_ is None else id_,
                rv,
            )
            + body
        )

    def honest(self, *values: Any, room: memoryview | None = None) -> bytes:
        """An answer of these values, packed as any."""
        if self.operation == "more":
            pack = messages.MORE_REPLY.replies(frames.Class.OWN, frames.Own.MORE)
            return pack(self.id, 0, room, *values)
        row = messages.ROWS[self.operation]
        return row.reply.replies(row.class_, row.type)(self.id, 0, room, *values)


def unasked(class_: int, type_: int, id_: int, node: int, body: bytes) -> bytes:
    """A request, as a file server may send it."""
    size = REQUEST.size + len(body)
    return REQUEST.pack(size, VERSION, class_, type_, id_, node, *NOBODY, NO_ROOM) + body


class Hostile:
    """The process. `notes` is for the test to read; `kept` lives as long as the process."""

    def __init__(
        self, server: Servable, notes: Notes, ends: Ends, upcalls: socket.socket, rooms: Rooms
    ) -> None:
        self.notes = notes
        self.ends = ends
        self.upcalls = upcalls
        self.rooms = rooms
        self.kept: list[Any] = []
        self._dispatch = Dispatch(server, ends.writes, rooms, lambda path: None, lambda _: None)

    def say(self, *packets: bytes) -> None:
        """Send packets where answers are expected."""
        for packet in packets:
            os.write(self.ends.writes, packet)

    def call(self, *packets: bytes) -> None:
        """Send packets where what is unasked is expected."""
        for packet in packets:
            self.upcalls.send(packet, socket.MSG_NOSIGNAL)

    def room(self, asked: Asked) -> memoryview:
        """The room that a message has."""
        return self.rooms.memory(asked.header[7])

    def serve(self, operations: str, worst: "Worst", armed: Path, always: bool = False) -> int:
        """Serve honestly, but the first of `operations` when `armed` is there, or all of them."""
        buffer, asker = memoryview(bytearray(BUFFER_SIZE)), Asker()
        while length := os.readv(self.ends.reads, (buffer,)):
            for at, end in frames.split(buffer, length):
                header = frames.request(buffer, at, end)
                row = messages.BY_TYPE.get(header[1])
                name = row.name if row is not None and header[0] == row.class_ else ""
                if header[:2] == (frames.Class.OWN, frames.Own.MORE):
                    name = "more"
                if name in operations.split() and armed.exists():
                    if not always:
                        armed.unlink()
                    if not worst(self, Asked(name, header)):
                        continue
                self._dispatch.packet(buffer[at:end], end - at, asker)
        return 0


Worst = Callable[[Hostile, Asked], object]
"""What it does, once. True: then it answers honestly."""


class Attacked:
    """A mount with a hostile file server.

    `arm` has it do its worst when it is asked next for its operation.
    """

    def __init__(self, served: Served, armed: Path) -> None:
        self.served = served
        self.path = served.path
        self._armed = armed

    def arm(self) -> None:
        self._armed.touch()

    def disarm(self) -> None:
        self._armed.unlink()

    @property
    def did_it(self) -> bool:
        return not self._armed.exists()


def attack(
    serve: Serve,
    tmp_path: Path,
    operations: str,
    worst: Worst,
    timeout: float | None = 10,
    make: Callable[[Notes], Servable] = Noting,
    always: bool = False,
) -> Attacked:
    """Mount a file server that does its worst in place of these operations."""
    armed, notes = tmp_path / "armed", Notes(tmp_path / "notes")

    def life(
        make: Callable[[], Servable], ends: Ends, upcalls: socket.socket, rooms: Rooms, threads: int
    ) -> int:
        server = make()
        os.write(ends.writes, child._hello(server, threads))
        return Hostile(server, notes, ends, upcalls, rooms).serve(operations, worst, armed, always)

    return Attacked(with_life(serve, life, make, isolate=Isolation(timeout=timeout)), armed)


def with_life(
    serve: Serve,
    life: Callable[..., int],
    make: Callable[[Notes], Servable] = Noting,
    isolate: Isolation = Isolation(timeout=10),  # noqa: B008 - it is frozen
) -> Served:
    """Mount a file server whose process does what `life` does."""

    def begin() -> None:  # in the process that serves: nobody else sees it
        puffs.isolate.isolated.life = life  # type: ignore[attr-defined]

    return serve(make, isolate=isolate, before=begin)


assert REQUEST.size == REQUEST_SIZE
