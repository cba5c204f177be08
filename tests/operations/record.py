"""Which requests the kernel sends for a call, as `puffs trace` shows them.

The file server is `null` over a directory that is filled behind its back, so that the kernel has
never seen what a call is about (cold). Then the same once more in another directory where all has
been looked up, and read, before (warm).
"""

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import puffs
from puffs.attach.asking import ask, mounted, trace
from puffs.fs.null import NullFS
from tests.operations.calls import CASES, FD_NONE, Case, Place

_IDLE: Final = 5.0
_LATER: Final = frozenset(("forget",))
"""Requests that come at some time of the kernel's choice."""
_SAME: Final = {"readdirplus": "readdir"}
"""What a trace tells apart and is one operation."""


class Everything(NullFS):
    """`null`, which may be trusted for an hour, with the operations that it does not have."""

    negative_ttl = 3600.0

    def __init__(self, directory: str) -> None:
        super().__init__(directory, cache=3600)

    def advlock(
        self, node: Any, op: str, lock: puffs.Lock, owner: int, file: Any
    ) -> puffs.Lock | None:
        return None

    def poll(self, node: Any, events: int, file: Any, wake: Callable[[], None] | None) -> int:
        return events


class Guarded(Everything):
    """The same, which checks permissions itself: all are allowed."""

    def access(self, node: Any, mode: int, cred: puffs.Cred) -> None:
        pass


class Request(NamedTuple):
    """An operation, the name that it was about, and the error, if it gave one."""

    operation: str
    name: str
    error: str = ""


class Row(NamedTuple):
    """What a call causes."""

    call: str
    cold: list[Request]
    warm: list[Request]


class Recording(NamedTuple):
    """Rows by heading, and the version of the protocol that was spoken."""

    protocol: str
    rows: dict[str, list[Row]]


def record(server: type[Everything] = Everything) -> Recording:
    """Make every call on a mount."""
    with tempfile.TemporaryDirectory() as behind, tempfile.TemporaryDirectory() as at:
        with puffs.mount(lambda: server(behind), at, process=True):
            found = mounted(at)
            with trace(found, [], _IDLE) as events:
                recorder = _Recorder(Path(behind), Path(at), events)
                rows = {
                    heading: [recorder.row(case) for case in cases]
                    for heading, cases in CASES.items()
                }
            return Recording(ask(found, "status")["protocol"], rows)


class _Recorder:
    def __init__(self, behind: Path, at: Path, events: Iterator[dict[str, Any]]) -> None:
        self._behind = behind
        self._at = at
        self._events = events
        self._callers = threading.get_native_id(), 0  # and nobody else: 0 is the kernel
        self._count = 0

    def row(self, case: Case) -> Row:
        return Row(case.call, self._agreed(case, False), self._agreed(case, True))

    def _agreed(self, case: Case, warm: bool) -> list[Request]:
        """What came twice: the kernel may forget anything at any time, and then asks again."""
        seen: list[list[Request]] = []
        while (requests := self._requests(case, warm)) not in seen:
            seen.append(requests)
        return requests

    def _requests(self, case: Case, warm: bool) -> list[Request]:
        self._count += 1
        name = f"case-{self._count}"
        _fill(self._behind / name)
        path = self._at / name
        path.stat()
        fd = os.open(path / case.opens, case.flags) if case.opens else FD_NONE
        try:
            if warm:
                _look_at_all(path, fd)
            self._until_marked()
            case.act(Place(path, fd))
            return [_request(event, f"/{name}") for event in self._until_marked()]
        finally:
            if fd != FD_NONE:
                os.close(fd)

    def _until_marked(self) -> list[dict[str, Any]]:
        """What came before now: up to the search for a name that nobody else looks for."""
        self._count += 1
        mark = self._at / f"mark-{self._count}"
        try:
            mark.stat()
        except FileNotFoundError:
            pass
        found: list[dict[str, Any]] = []
        for event in self._events:
            if not event:
                raise TimeoutError("the trace has stopped")
            if event["operation"] == "lookup" and event["path"] == f"/{mark.name}":
                return found
            if event["operation"] not in _LATER and event["caller"]["tid"] in self._callers:
                found.append(event)
        raise EOFError


def _request(event: dict[str, Any], place: str) -> Request:
    operation = _SAME.get(event["operation"], event["operation"])
    name = event["path"].removeprefix(place).strip("/")
    missing = "ENOENT" if str(event["result"]).startswith("no such name") else ""
    return Request(operation, name, event["error"] or missing)


def _fill(directory: Path) -> None:
    """What `Place` promises."""
    directory.mkdir()
    for name in ("file", "other"):
        (directory / name).write_bytes(b"some data that can be read\n")
    os.setxattr(directory / "file", "user.a", b"1")
    (directory / "link").symlink_to("file")
    (directory / "empty").mkdir()
    (directory / "dir").mkdir()
    for name in ("a", "b"):
        (directory / "dir" / name).write_bytes(b"")
    os.mkfifo(directory / "fifo")


def _look_at_all(path: Path, fd: int) -> None:
    """Have the kernel know it."""
    for top, _, names in os.walk(path):
        os.stat(top)
        for name in names:
            os.lstat(os.path.join(top, name))
    os.readlink(path / "link")
    try:
        os.stat(path / "new")
    except FileNotFoundError:
        pass
    if fd != FD_NONE:
        try:
            os.pread(fd, 100, 0)
        except OSError as exc:
            if exc.errno != errno.EISDIR:
                raise
