"""What few programs have: poll(2), locks, ioctl(2), fallocate(2), times, what stays cached."""

import fcntl
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from puffs.check import libc
from tests.refuse.cases.locks import NOW, holder, other
from tests.refuse.saying import Place, Say, case, opened, read, size_of

IOR, IOW, KIND = 1 << 31, 1 << 30, ord("p") << 8
SECONDS = 20.0


class Notes:
    """What the server has written down since it was asked last."""

    def __init__(self, at: Place) -> None:
        assert at.side is not None
        self._path = at.side
        self._seen = 0
        self.since()

    def since(self) -> list[str]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        seen, self._seen = self._seen, len(lines)
        return lines[seen:]

    def of(self, verb: str) -> list[str]:
        """Those lines that begin with `verb`; what process it is in them is said in words."""
        mine = str(os.getpid())
        found = [line.split(" ") for line in self.since()]
        return [
            " ".join("mine" if word == mine else word for word in words)
            for words in found
            if words[0] == verb
        ]

    def until(self, *wanted: str) -> list[str]:
        """Wait for a note that begins with one of these words; all that came until then."""
        pause = threading.Event()  # that is never set
        lines: list[str] = []
        for _ in range(int(SECONDS / 0.01)):
            lines += self.since()
            if any(line.startswith(wanted) for line in lines):
                return lines
            pause.wait(0.01)
        raise AssertionError(f"never noted: {wanted}")


@case("devices")
def times_given(at: Place, say: Say) -> None:
    """What `utimens` is given."""
    notes = Notes(at)
    file, now, omit = os.fsdecode(at("file")), libc.UTIME_NOW, libc.UTIME_OMIT
    for label, call in (
        ("both", lambda: os.utime(file, ns=(5, 7_000_000_009))),
        ("none", lambda: os.utime(file)),
        ("atime only", lambda: libc.utimens(file, (77, 5), (0, omit))),
        ("mtime only", lambda: libc.utimens(file, (0, omit), (88, 6))),
        ("neither", lambda: libc.utimens(file, (0, omit), (0, omit))),
        ("atime now", lambda: libc.utimens(file, (0, now), (0, omit))),
        ("mtime now", lambda: libc.utimens(file, (0, omit), (0, now))),
        ("now and given", lambda: libc.utimens(file, (0, now), (99, 7))),
    ):
        say(label, call)
        say(f"{label}: given", notes.of, "utimens")


@case("devices")
def without_open(at: Place, say: Say) -> None:
    notes = Notes(at)
    say("read", lambda: len(read(at("file"))))
    fd = os.open(at("ready"), os.O_WRONLY | os.O_TRUNC)
    say("emptied", size_of, at("ready"))
    os.close(fd)
    say("closed", lambda: sorted(notes.until("release /ready")))


@case("devices")
def controls(at: Place, say: Say) -> None:
    notes = Notes(at)
    with opened(at("file"), os.O_RDONLY) as fd:
        for label, command, argument in (
            ("nothing", 3, 0),
            ("a number", 3, 77),
            ("refused", 1, 0),
            ("refused by a number", 2, 0),
            ("a result", 7, 0),
            ("read", IOR | 8 << 16 | 3, bytes(8)),
            ("write", IOW | 4 << 16 | 4, b"abcd"),
            ("both", IOR | IOW | 4 << 16 | 5, b"abcd"),
            ("large", IOR | IOW | 3000 << 16 | 6, bytearray(range(250)) * 12),
            ("both and a result", IOR | IOW | 4 << 16 | 7, bytearray(b"abcd")),
        ):
            say(label, fcntl.ioctl, fd, KIND | command, argument)
            say(f"{label}: asked", lambda: [line[:60] for line in notes.of("ioctl")])
    with opened(at("."), os.O_RDONLY) as fd:
        say("of a directory", fcntl.ioctl, fd, IOW | 4 << 16 | KIND | 4, b"abcd")
        say("of a directory: asked", notes.of, "ioctl")


@case("devices")
def allocates(at: Place, say: Say) -> None:
    notes = Notes(at)
    with opened(at("file")) as fd:
        say("longer", libc.fallocate, fd, 0, 5, 30)
        say("size", lambda: os.fstat(fd).st_size)
        say("asked", notes.of, "fallocate")
        say("a hole", libc.fallocate, fd, 3, 0, 5)
        say("asked for a hole", notes.of, "fallocate")


@contextmanager
def holding(at: Place, kind: int, start: int, length: int) -> Iterator[Callable[[], None]]:
    """Another process has a lock, until it is told to close the file or the block ends."""
    told, tell = os.pipe()
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        with opened(at("file")) as fd:
            os.close(tell)
            fcntl.lockf(fd, kind | NOW, length, start)
            os.write(there, b"!")
            os.read(told, 1)
        os._exit(0)
    os.read(here, 1)
    ends = [tell, told, here, there]

    def end() -> None:
        while ends:
            os.close(ends.pop(0))

    try:
        yield end
    finally:
        end()
        os.waitpid(pid, 0)


@case("locks of a program")
def records(at: Place, say: Say) -> None:
    notes = Notes(at)
    with opened(at("file")) as fd:
        say("lock", fcntl.lockf, fd, fcntl.LOCK_EX | NOW, 10, 5)
        say("lock: asked", notes.of, "lock")
        say("the same", lambda: other(at, lambda o: fcntl.lockf(o, fcntl.LOCK_EX | NOW, 10, 5)))
        say("beside", lambda: other(at, lambda o: fcntl.lockf(o, fcntl.LOCK_EX | NOW, 5, 0)))
        say("who", lambda: other(at, lambda o: holder(o, 0, 0)))
        notes.since()
        say("free", holder, fd, 100, 7)
        say("free: asked", notes.of, "lock")
        say("to shared", fcntl.lockf, fd, fcntl.LOCK_SH | NOW, 0, 0)
        say("to shared: asked", notes.of, "lock")
        say("unlock", fcntl.lockf, fd, fcntl.LOCK_UN, 0, 0)
        say("unlock: asked", notes.of, "lock")
        say("lock all", fcntl.lockf, fd, fcntl.LOCK_EX)
        say("lock all: asked", notes.of, "lock")
    say("closing: asked", notes.of, "lock")
    say("free after closing", lambda: other(at, lambda o: holder(o, 0, 0)))


@case("locks of a program")
def waits(at: Place, say: Say) -> None:
    notes = Notes(at)
    with holding(at, fcntl.LOCK_EX, 0, 5) as end, opened(at("file")) as fd:
        notes.since()
        say("no", fcntl.lockf, fd, fcntl.LOCK_EX | NOW, 5, 0)
        got: list[str] = []

        def wait() -> None:
            fcntl.lockf(fd, fcntl.LOCK_EX, 5, 0)
            got.append("at last")

        thread = threading.Thread(target=wait)
        thread.start()
        notes.until("waits")
        say("meanwhile", lambda: [size_of(at("data")), got])
        end()
        thread.join(SECONDS)
        say("after it has closed", lambda: got)


@case("poll")
def ready(at: Place, say: Say) -> None:
    def events(name: str, wait: float = 0, asked: int = select.POLLIN | select.POLLOUT) -> Any:
        with opened(at(name), os.O_RDONLY) as fd:
            poll = select.poll()
            poll.register(fd, asked)
            return [found for _, found in poll.poll(wait)]

    say("ready", events, "ready")
    say("ready for one", events, "ready", 0, select.POLLIN)
    say("not ready", events, "waited for")
    say("fails", events, "file")
    say("fails with a number", events, "data")
    say("ready at once", events, "ready", 60_000)


@case("poll")
def becomes_ready(at: Place, say: Say) -> None:
    notes = Notes(at)
    with opened(at("waited for"), os.O_RDONLY) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        say("not yet", poll.poll, 0)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(poll.poll(SECONDS * 1000)))
        thread.start()
        notes.until("poll waits")
        os.truncate(at("waited for"), 5)
        thread.join(SECONDS)
        say("then", lambda: [events for each in found for _, events in each])
        say("who waited was told", lambda: "notified 1" in notes.since())


@case("cached")
def kept(at: Place, say: Say) -> None:
    first = read(at("data"))
    again = read(at("data"))
    say("as before", lambda: first == again)
    os.chmod(at("data"), 0o600)
    last = read(at("data"))
    say("as before, after a change", lambda: last == again)
    os.truncate(at("data"), 8)
    say("as before, when it is shorter", lambda: read(at("data")) == last[:8])


@case("cached")
def flushed(at: Place, say: Say) -> None:
    notes = Notes(at)
    for label, flags in (("read", os.O_RDONLY), ("written", os.O_WRONLY), ("both", os.O_RDWR)):
        os.close(os.open(at("file"), flags))
        say(label, lambda: "flush /file 0" in notes.until("release /file"))
