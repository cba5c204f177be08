"""Both ends of the socket to an isolated file server, without socket and process: what comes is
given to the very code that serves it.
"""

import errno
import sys
from collections.abc import Callable
from stat import S_IFREG
from typing import Any, Final, cast

import puffs
from puffs.isolate import messages
from puffs.isolate.messages import ROWS, Row
from puffs.isolate.peer import Call, Peer
from puffs.isolate.remote import Hello, Remote
from puffs.isolate.rooms import COUNT, Rooms
from puffs.isolate.serving import Asker, Dispatch
from puffs.kernel.queues import Queues
from puffs.server.cred import Cred
from puffs.server.types import DirEntry, Entry, Lock

ROOMS: Final = Rooms()
ATTR: Final = puffs.Attr(S_IFREG | 0o644)
FILE: Final = "an open file"


class Wire:
    """In place of a socket: `incoming` is received, what is sent is in `sent`."""

    def __init__(self) -> None:
        self.incoming: list[bytes] = []
        self.sent: list[bytes] = []

    def send(self, frame: bytes, _flags: int) -> int:
        self.sent.append(frame)
        return len(frame)

    def recv_into(self, buffer: memoryview, _size: int, _flags: int) -> int:
        if not self.incoming:
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        datagram = self.incoming.pop()
        buffer[: len(datagram)] = datagram
        return len(datagram)

    def setsockopt(self, *_: object) -> None:
        pass


class Server:
    """A file server of one file, whose operations all succeed."""

    name_ttl = attr_ttl = negative_ttl = 1.0
    name, fhsize, fhflags, asynchronous = "one", 8, 0, False

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
WHO: Final = (1000, 100, 4321)
NO_CRED: Final = messages.cred_out(Cred(0, 0, pid=0, groups=()))
BEFORE: Final = (
    _MOUNT.request.requests(_MOUNT.class_, _MOUNT.type)(1, 0, *WHO),
    _OPEN.request.requests(_OPEN.class_, _OPEN.type)(2, NODE, *WHO, 0, NO_CRED),
)
"""What makes the file known as `NODE`, and open as `OPENED`."""


def served(datagram: bytes) -> list[bytes]:
    """What the process of the file server answers to a datagram."""
    wire = Wire()
    dispatch = Dispatch(
        Server(), cast(Any, wire), ROOMS, lambda path: path, lambda number: None, None
    )
    for came in (*BEFORE, datagram):
        wire.sent.clear()
        dispatch.datagram(memoryview(came), len(came), Asker())
    return wire.sent


HELLO: Final = Hello("one", frozenset(ROWS), (1.0, 1.0, 1.0), Server.fhsize, Server.fhflags)


class _Mounted:
    mountpoint = "/mnt"


def answered(datagram: bytes) -> BaseException | None:
    """What the operation that the first frame answers has failed with in the kernel half."""
    wire = Wire()
    told: list[str] = []
    peer = Peer(cast(Any, wire), ROOMS, Queues(COUNT), None, told.append, told.append)
    row = BY_KIND.get((datagram[5] & 0xF, int.from_bytes(datagram[6:8], sys.byteorder)))
    if row is None or row.operation.faf:
        return None
    remote = Remote(peer, HELLO)
    arguments = ARGUMENTS | dict.fromkeys(("node", "file"), remote.known.object(NODE))
    call: Call = remote.operations()[row.name](*(arguments.get(sort, 5) for sort in row.sorts))
    peer.begin(call)
    wire.incoming.append(datagram[:8] + call.id.to_bytes(8, sys.byteorder) + datagram[16:])
    peer.pump()
    assert call.over, "the answer has not come"
    assert call.error is None or isinstance(call.error, OSError), call.error
    return call.error


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
