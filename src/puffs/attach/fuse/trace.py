"""Traces, operation by operation; and the log of slow ones.

An operation is told as a mapping of plain values (`event`): a line of ``puffs trace --json`` and of
the control socket; and as a line for people (`line`), in the order of the reference family's dump:
when, operation, path and arguments, caller, result, how long it took.
"""

import logging
import time
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, Final

from puffs.attach.fuse.abi import Opcode
from puffs.attach.fuse.describe import arguments, error_name, operation_of, outcome, subject
from puffs.attach.fuse.mountpoint import shown
from puffs.attach.fuse.observe import Ended, Observation, Seen, command_of

logger = logging.getLogger("puffs")

Event = dict[str, Any]

HELD: Final = 4096
"""Operations that a trace holds for who reads it; more are lost, and counted."""
LOOK_SECONDS: Final = 1.0
"""How often it is looked for requests that do not end."""

_BATCH: Final = 256
_TARGET_WIDTH: Final = 52
_CALLER_WIDTH: Final = 20
_PATHS: Final = frozenset(("name", "target", "to"))
"""Arguments that hold what users have named."""


class Trace:
    """What one reader of a trace gets: operations as they end.

    A sink of an `Observation`: add it there, and remove it at the end. `only`: the opcodes that are
    wanted, None for all.
    """

    from_start = True

    def __init__(self, observation: Observation, only: frozenset[int] | None = None) -> None:
        self._observation = observation
        self._only = only
        self._queue: SimpleQueue[Ended | None] = SimpleQueue()
        self._lock = Lock()
        self._lost = 0

    def put(self, ended: Ended) -> None:
        """See `Sink`."""
        seen = ended.seen
        if self._only is not None and seen.header[1] not in self._only:
            return
        if self._queue.qsize() >= HELD:
            with self._lock:
                self._lost += 1
            return
        if not seen.when:  # it began before anybody traced
            seen.when = time.time_ns() - ended.elapsed
            seen.paths = self._observation.locate(seen)
        self._queue.put(ended)

    def end(self) -> None:
        """Have `get` raise `EOFError` once all else has been taken."""
        self._queue.put(None)

    def get(self, seconds: float) -> list[Event]:
        """What has ended since the last time, as `event` tells it; waits for some for `seconds`.

        ``{"lost": N}`` stands for operations that were lost. Raises `EOFError` after the last.
        """
        events: list[Event] = []
        try:
            ended = self._queue.get(timeout=seconds)
            while ended is not None and len(events) < _BATCH:
                events.append(event(ended))
                ended = self._queue.get_nowait()
        except Empty:
            pass
        else:
            if ended is not None:
                events.append(event(ended))
            else:
                self._queue.put(None)  # for the next time
                if not events:
                    raise EOFError
        with self._lock:
            lost, self._lost = self._lost, 0
        return [*events, {"lost": lost}] if lost else events


class SlowLog:
    """Logs requests that take longer than `seconds`: while they do, and again when they end.

    A sink, with a thread of its own.
    """

    from_start = False

    def __init__(self, observation: Observation, seconds: float) -> None:
        self._observation = observation
        self._limit = int(seconds * 1e9)
        self._queue: SimpleQueue[tuple[Seen, int, int] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="puffs-slow", daemon=True)
        self._thread.start()
        observation.add(self)

    def put(self, ended: Ended) -> None:
        """See `Sink`."""
        if ended.elapsed >= self._limit:
            # Now, for the caller waits for the reply; soon he and his path may be gone.
            self._find(ended.seen)
            self._queue.put((ended.seen, ended.elapsed, ended.error))

    def _find(self, seen: Seen) -> None:
        seen.paths = self._observation.locate(seen)
        seen.command = seen.command or command_of(seen.header[6])

    def close(self) -> None:
        """Look no more."""
        self._observation.remove(self)
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                ended = self._queue.get(timeout=LOOK_SECONDS)
            except Empty:
                self._look()
                continue
            if ended is None:
                return
            seen, elapsed, error = ended
            self._log(seen, elapsed, "ended with " + error_name(error) if error else "ended")

    def _look(self) -> None:
        now = time.monotonic_ns()
        for seen in self._observation.under_way():
            if now - seen.started < self._limit:
                return  # those that follow are younger
            if not seen.reported:
                seen.reported = True
                self._find(seen)
                self._log(seen, now - seen.started, "goes on")

    def _log(self, seen: Seen, elapsed: int, state: str) -> None:
        told = request(seen, seen.paths)
        logger.warning(
            "slow: %s by %s %s after %.3f s",
            _target(told),
            _caller(told["caller"]),
            state,
            elapsed / 1e9,
            extra={"puffs": {**told, "state": state, "seconds": elapsed / 1e9}},
        )


def request(seen: Seen, paths: tuple[str, ...]) -> Event:
    """What is told of a request, ended or not: operation, path, arguments and caller."""
    _, opcode, unique, _, uid, gid, tid, *_ = seen.header
    return {
        "operation": operation_of(opcode),
        "opcode": Opcode(opcode).name if opcode in Opcode._value2member_map_ else opcode,
        "unique": unique,
        "path": subject(opcode, seen.body, paths, seen.ext),
        "arguments": arguments(opcode, seen.body, paths, seen.ext),
        "caller": {"tid": tid, "uid": uid, "gid": gid, "command": seen.command},
    }


def event(ended: Ended) -> Event:
    """An operation that has ended.

    To what `request` tells it adds `when` (seconds since 1970 when it began), `error` (the name of
    an errno, or None), `result` (for people) and `seconds` (how long it took).
    """
    seen = ended.seen
    opcode = seen.header[1]
    return {
        "when": seen.when / 1e9,
        **request(seen, seen.paths),
        "error": error_name(ended.error) if ended.error else None,
        "result": outcome(opcode, ended.error, ended.length, ended.head, ended.entries),
        "seconds": ended.elapsed / 1e9,
    }


def line(told: Mapping[str, Any]) -> str:
    """An operation on one line, for people; `told` is an `event`, perhaps of another process."""
    if "lost" in told:
        return f"... {told['lost']} operations were not shown: they came too fast"
    when = float(told["when"])
    clock = time.strftime("%H:%M:%S", time.localtime(when)) + f".{int(when % 1 * 1e6):06}"
    return (
        f"{clock} {_target(told):{_TARGET_WIDTH}} {_caller(told['caller']):{_CALLER_WIDTH}} "
        f"= {shown_text(told['result'])}, {duration(float(told['seconds']))}"
    )


def duration(seconds: float) -> str:
    """A time span with three digits and a fitting unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def shown_text(value: object) -> str:
    """A value as part of a line that goes to a terminal."""
    text = str(value)
    return text if text.isprintable() else ascii(text)


def _target(told: Mapping[str, Any]) -> str:
    path = shown(told["path"]) if told["path"] else ""
    words = [
        f"{shown_text(name)}={shown(value) if name in _PATHS else shown_text(value)}"
        for name, value in told["arguments"].items()
    ]
    return " ".join([f"{shown_text(told['operation']):9}", *([path] if path else []), *words])


def _caller(caller: Mapping[str, Any]) -> str:
    if not caller["tid"]:
        return "kernel"
    return f"{shown_text(caller['command'] or 'thread')}[{caller['tid']}] uid {caller['uid']}"
