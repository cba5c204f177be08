"""One end of the pipes to a file server in another process, where the other end does not answer."""

import errno
import time
from collections.abc import Iterator

import pytest

from puffs.isolate import messages, pipes
from puffs.isolate.frames import Class
from puffs.isolate.peer import Call, Kind, Peer
from puffs.isolate.rooms import COUNT, Rooms
from puffs.kernel.queues import Queues

SECONDS = 100.0
"""How long a message may take."""
STATVFS = messages.ROWS["statvfs"]
KIND = Kind(
    "statvfs",
    Class.VFS,
    STATVFS.type,
    STATVFS.request.requests(Class.VFS, STATVFS.type),
    messages.PING.unpack,
)


class Silent:
    """What is asked of a file server that answers nothing; `gone` is what is said of its end."""

    def __init__(self, peer: Peer, gone: list[str]) -> None:
        self.peer = peer
        self.gone = gone

    def asked(self, ago: float) -> Call:
        """A call for whose answer somebody waits since so many seconds."""
        call = Call(self.peer, KIND)
        self.peer.begin(call)
        call.since = time.monotonic() - ago
        return call


@pytest.fixture
def silent() -> Iterator[Silent]:
    ours, theirs = pipes.pair()
    rooms, gone = Rooms(), list[str]()
    peer = Peer(ours, rooms, Queues(COUNT), SECONDS, gone.append, gone.append)
    try:
        yield Silent(peer, gone)
    finally:
        peer.close()
        theirs.close()
        rooms.close()


def code_of(call: Call) -> int | None:
    assert isinstance(call.error, OSError)
    return call.error.errno


@pytest.mark.statement("Q16")
def test_when_it_hangs_those_who_have_not_waited_so_long_get_errors_too(silent: Silent) -> None:
    first, second = silent.asked(SECONDS), silent.asked(SECONDS * 0.6)
    silent.peer.tick()
    assert silent.gone == [f"has not answered anything for {SECONDS:g} seconds"]
    assert (code_of(first), code_of(second)) == (errno.ETIMEDOUT, errno.ENXIO)
    assert (first.over, second.over) == (True, True)
