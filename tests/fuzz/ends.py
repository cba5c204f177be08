"""Both ends of the way to an isolated file server, without its process: what comes is given to the
very code that serves it.
"""

import os
import sys
from collections.abc import Callable
from stat import S_IFREG
from typing import Any, Final

import puffs
from puffs.isolate import messages, pipes
from puffs.isolate.frames import BUFFER_SIZE
from puffs.isolate.messages import ROWS, Row
from puffs.isolate.peer import Call, Peer
from puffs.isolate.remote import Hello, Remote
from puffs.isolate.rooms import COUNT, Rooms
from puffs.isolate.serving import Asker, Dispatch
from puffs.kernel.queues import Queues
from puffs.server.cred import Cred
from puffs.server.types import Buffer, DirEntry, Entry, Lock

ROOMS: Final = Rooms()
ROOM_NUMBER: Final = 0
ROOM: Final = ROOMS.memory(ROOM_NUMBER)
"""The room of all requests."""
ATTR: Final = puffs.Attr(S_IFREG | 0o644)
FILE: Final = "an open file"


class Server:
    """A file server of one file, whose operations all succeed."""

    name_ttl = attr_ttl = negative_ttl = 1.0
    name, fhsize, fhflags, posix_acl, asynchronous = "one", 8, 0, True, False
    passthrough = names_for_all = False

    def operations(self) -> dict[str, Callable[..., Any]]:
        return {name: self._operation(row.result) for name, row in ROWS.items()}

    def _operation(self, result: str) -> Callable[..., Any]:
        return lambda *_: RESULTS[result]


RESULTS: Final[dict[str, Any]] = {
    "": None,
    "node": "file",
    "entry": Entry("file", ATTR),
    "created": (Entry("file", ATTR), FILE),
    "open": FILE,
    "data": b"",
    "amount": 0,
    "position": 0,
    "events": 0,
    "attr": ATTR,
    "target": "target",
    "listing": [DirEntry("name", S_IFREG, 2, 1), DirEntry("other", next=2, entry=Entry("file"))],
    "xattr": b"value",
    "bytes": bytes(Server.fhsize),
    "names": ["user.name"],
    "lock": Lock(0, 0, 0, 0),
    "ioctl": (0, b""),
    "statvfs": puffs.StatVfs(),
}

_MOUNT, _OPEN = ROWS["mount"], ROWS["open"]
NODE: Final = 1
OPENED: Final = 2
WHO: Final = (1000, 100, 4321, ROOM_NUMBER, ROOM)
"""uid, gid, tid, room and its memory."""
NO_CRED: Final = messages.cred_out(Cred(0, 0, pid=0, groups=()))
BEFORE: Final = (
    _MOUNT.request.requests(_MOUNT.class_, _MOUNT.type)(1, 0, *WHO),
    _OPEN.request.requests(_OPEN.class_, _OPEN.type)(2, NODE, *WHO, 0, NO_CRED),
)
"""What makes the file known as `NODE`, and open as `OPENED`."""


def served(packet: bytes, room: Buffer) -> list[bytes]:
    """What the process of the file server answers to a packet."""
    ours, theirs = pipes.pair()
    os.set_blocking(theirs.writes, False)  # all answers to a packet are to fit
    try:
        dispatch = Dispatch(Server(), theirs.writes, ROOMS, lambda path: path, lambda number: None)
        for before in BEFORE:
            dispatch.packet(memoryview(before), len(before), Asker())
            assert os.read(ours.reads, BUFFER_SIZE)
        ROOM[: len(room)] = room
        dispatch.packet(memoryview(packet.ljust(BUFFER_SIZE, b"\0")), len(packet), Asker())
        return _all(ours.reads)
    finally:
        ours.close()
        theirs.close()


def _all(reads: int) -> list[bytes]:
    """The packets that are in a pipe."""
    packets: list[bytes] = []
    while True:
        try:
            packets.append(os.read(reads, BUFFER_SIZE))
        except BlockingIOError:
            return packets


HELLO: Final = Hello(
    "one", frozenset(ROWS), (1.0, 1.0, 1.0), Server.fhsize, Server.fhflags, True, False
)


class _Mounted:
    mountpoint = "/mnt"


def answered(packet: bytes, room: Buffer) -> BaseException | None:
    """What the operation that the first frame answers has failed with in the kernel half."""
    row = BY_KIND.get((packet[5] & 0xF, int.from_bytes(packet[6:8], sys.byteorder)))
    if row is None or row.operation.faf:
        return None
    ours, theirs = pipes.pair()
    told: list[str] = []
    peer = Peer(ours, ROOMS, Queues(COUNT), None, told.append, told.append)
    try:
        remote = Remote(peer, HELLO)
        arguments = ARGUMENTS | dict.fromkeys(("node", "file"), remote.known.object(NODE))
        call: Call = remote.operations()[row.name](*(arguments.get(sort, 5) for sort in row.sorts))
        call.bulk = True
        peer.begin(call)
        assert call.room >= 0
        ROOMS.memory(call.room)[: len(room)] = room
        os.write(theirs.writes, packet[:8] + call.id.to_bytes(8, sys.byteorder) + packet[16:])
        peer.pump()
        assert call.over, "the answer has not come"
        assert call.error is None or isinstance(call.error, OSError), call.error
        return call.error
    finally:
        peer.close()
        theirs.close()


BY_KIND: Final[dict[tuple[int, int], Row]] = {(row.class_, row.type): row for row in ROWS.values()}
ARGUMENTS: Final[dict[str, Any]] = {
    "text": "text",
    "bytes": b"bytes",
    "attr": ATTR,
    "changes": puffs.Changes(size=5),
    "cred": Cred(0, 0),
    "data": memoryview(b"data"),
    "lock": Lock(0, 0, 0, 0),
    "mount": _Mounted,
    "wake": None,
}
"""By sort; numbers are all the same."""
