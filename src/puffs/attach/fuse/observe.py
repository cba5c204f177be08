"""Watching what the kernel asks and what it is answered: for counters, traces and slow requests.

An `Observation` is the observer of a session. It is put into the readers only while somebody wants
something of it, so it costs nothing before and after. While it is there it sees every request
before its handler, and every reply before it is written: whoever made a call has it counted by the
time that the call returns. A request that began unobserved is passed over when it ends.
"""

import os
from collections.abc import Callable, Sequence
from threading import Lock
from time import monotonic_ns, time_ns
from typing import Final, Protocol

from puffs.attach.fuse.abi import FUSE_SETXATTR_EXT, OUT_HEADER, Opcode
from puffs.attach.fuse.channel import BODY, Channel, Handler, Header
from puffs.attach.fuse.describe import count_names, members, nodes_of
from puffs.attach.fuse.dispatch import wants_reply
from puffs.attach.fuse.reader import Observer
from puffs.attach.fuse.tally import Tally
from puffs.kernel.mount import Mount
from puffs.server.types import RENAME_EXCHANGE, Buffer

KEPT: Final = 1024
"""Bytes of a request's body that are kept while it is under way: all but data and long names."""
HEAD: Final = 160
"""Bytes of a reply's body that a trace is given."""

_RENAMES: Final = (Opcode.RENAME, Opcode.RENAME2)
_LISTINGS: Final = (Opcode.READDIR, Opcode.READDIRPLUS)
_REPLY: Final = OUT_HEADER.size


class Seen:
    """A request that was seen to begin."""

    __slots__ = ("body", "command", "ext", "header", "paths", "reported", "started", "when")

    def __init__(self, started: int, header: Header, body: bytes, ext: bool) -> None:
        self.started = started
        """Nanoseconds of the monotonic clock."""
        self.header = header
        self.body = body
        self.ext = ext
        """Whether SETXATTR has the longer struct."""
        self.when = 0
        """Nanoseconds since 1970, if it was traced from its beginning; likewise the next two."""
        self.paths: tuple[str, ...] = ()
        """Of the nodes that it is about (`describe.nodes_of`)."""
        self.command = ""
        """The name of the caller's program."""
        self.reported = False
        """Whether the log has it as slow."""


class Ended:
    """A request that was answered."""

    __slots__ = ("elapsed", "entries", "error", "head", "length", "seen")

    def __init__(
        self, seen: Seen, elapsed: int, error: int, length: int, head: bytes, entries: int
    ) -> None:
        self.seen = seen
        self.elapsed = elapsed
        """Nanoseconds."""
        self.error = error
        """The errno, or 0."""
        self.length = length
        """Bytes of the reply's body."""
        self.head = head
        """The first `HEAD` of them; empty for what was read."""
        self.entries = entries
        """How many names, of a listing."""


class Sink(Protocol):
    """Wants to be told of requests that have ended."""

    from_start: bool
    """Whether paths and callers are to be found when a request begins, and not when it ends."""

    def put(self, ended: Ended) -> None:
        """Take one, at once: this runs on the thread that serves."""
        ...


class Observation:
    """What is watched of the session of `mount`, whose `observe` is `watch`.

    All methods may be called from any thread, but for `tap`.
    """

    def __init__(self, mount: Mount, watch: Callable[[Observer | None], None]) -> None:
        self._nodes = mount.vnodes.by_nodeid
        self._watch = watch
        self._lock = Lock()
        self._on = False
        self._under_way: dict[int, Seen] = {}
        self._tallies: dict[Channel, Tally] = {}
        self._sinks: tuple[Sink, ...] = ()
        self._from_start = False
        self._counting = False

    # --------------------------------------------------------------------------------- who wants it

    @property
    def on(self) -> bool:
        """Whether anything is watched."""
        return self._on

    @property
    def counting(self) -> bool:
        """Whether statistics are on."""
        return self._counting

    def count(self, on: bool) -> None:
        """Switch statistics on, from zero, or off; nothing happens if they are so already."""
        with self._lock:
            if on and not self._counting:
                self._reset()
            self._counting = on
            self._settle()

    def reset(self) -> None:
        """Count from zero again."""
        with self._lock:
            self._reset()

    def add(self, sink: Sink) -> None:
        """Tell `sink` of every request that ends from now on."""
        with self._lock:
            self._sinks = (*self._sinks, sink)
            self._settle()

    def remove(self, sink: Sink) -> None:
        """Tell it of no more."""
        with self._lock:
            self._sinks = tuple(other for other in self._sinks if other is not sink)
            self._settle()

    def _reset(self) -> None:
        for tally in list(self._tallies.values()):
            tally.reset()

    def _settle(self) -> None:
        self._from_start = any(sink.from_start for sink in self._sinks)
        on = self._counting or bool(self._sinks)
        if on is not self._on:
            self._on = on
            self._under_way.clear()
            self._watch(self if on else None)

    # ------------------------------------------------------------------------------- what was seen

    def under_way(self) -> list[Seen]:
        """The requests that were seen to begin and have not ended, the oldest first."""
        return sorted(self._under_way.copy().values(), key=lambda seen: seen.started)

    def tallies(self) -> list[Tally]:
        """The counters, of each reader its own."""
        return list(self._tallies.values())

    def locate(self, seen: Seen) -> tuple[str, ...]:
        """The paths of the nodes that a request is about."""
        return seen.paths or tuple(
            vnode.path() if (vnode := self._nodes.get(nodeid)) is not None else f"<node {nodeid}>"
            for nodeid in nodes_of(seen.header[1], seen.header[3], seen.body)
        )

    # ------------------------------------------------------------------------------- in the readers

    def tap(self, channel: Channel, flags: int) -> Callable[[list[Handler]], None]:
        """See `Observer`."""
        under_way, ext = self._under_way, bool(flags & FUSE_SETXATTR_EXT)
        tally = self._tallies.setdefault(channel, Tally())
        unpack, take = OUT_HEADER.struct.unpack_from, under_way.pop

        def write(fd: int, message: bytes) -> int:
            length, error, unique = unpack(message)
            seen = take(unique, None)
            if seen is not None:
                self._ended(tally, seen, -error, length - _REPLY, message)
            return os.write(fd, message)

        def writev(fd: int, parts: Sequence[Buffer]) -> int:
            length, error, unique = unpack(parts[0])
            seen = take(unique, None)
            if seen is not None:
                self._ended(tally, seen, -error, length - _REPLY, b"")
            return os.writev(fd, parts)

        def watched(handler: Handler) -> Handler:
            def begin(unique: int, nodeid: int, length: int) -> None:
                header = channel.header
                body = bytes(channel.buffer[BODY : min(length, BODY + KEPT)])
                under_way[unique] = seen = Seen(monotonic_ns(), header, body, ext)
                if self._from_start:
                    seen.when = time_ns()
                    seen.paths = self.locate(seen)
                    seen.command = command_of(header[6])
                if wants_reply(header[1]):
                    handler(unique, nodeid, length)
                    return
                try:
                    handler(unique, nodeid, length)
                finally:
                    if take(unique, None) is not None:
                        self._ended(tally, seen, 0, 0, b"")

            return begin

        def wrap(handlers: list[Handler]) -> None:
            handlers[:] = [watched(handler) for handler in handlers]

        channel.write, channel.writev = write, writev
        return wrap

    def _ended(self, tally: Tally, seen: Seen, error: int, length: int, message: bytes) -> None:
        elapsed = monotonic_ns() - seen.started
        opcode = seen.header[1]
        tally.add(opcode, elapsed, error, length, message)
        if self._from_start and opcode in _RENAMES and not error:
            self._follow(seen)
        if self._sinks:
            listing = opcode in _LISTINGS and not error
            ended = Ended(
                seen,
                elapsed,
                error,
                length,
                message[_REPLY : _REPLY + HEAD],
                count_names(opcode, message[_REPLY:]) if listing else 0,
            )
            for sink in self._sinks:
                sink.put(ended)

    def _follow(self, seen: Seen) -> None:
        """Have the paths of what was renamed be right in what is traced next.

        The kernel does not look up again what it has moved itself, and nobody else needs to know.
        """
        _, opcode, _, nodeid, *_ = seen.header
        fields, names = members(opcode, seen.body, seen.ext)
        if len(names) < 2:
            return
        old = self._nodes.get(nodeid), names[0]
        new = self._nodes.get(fields["newdir"]), names[1]
        moves = {old: new}
        if fields.get("flags", 0) & RENAME_EXCHANGE:
            moves[new] = old
        for vnode in list(self._nodes.values()):
            place = moves.get((vnode.parent, vnode.name))
            if place is not None:
                vnode.parent, vnode.name = place


def command_of(tid: int) -> str:
    """The name of the program that a thread runs; empty when it has gone, or cannot be seen."""
    if not tid:
        return ""
    try:
        fd = os.open(f"/proc/{tid}/comm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 64).decode(errors="replace").rstrip("\n")
    except OSError:
        return ""
    finally:
        os.close(fd)
