"""Observing a session: what is counted and traced, that nothing is lost or slowed when it is
switched, and that no kernel can break it.
"""

import errno
import logging
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puffs.attach.fuse import describe, trace
from puffs.attach.fuse.abi import MESSAGES, Opcode
from puffs.attach.fuse.describe import SHAPES, open_flags
from puffs.attach.fuse.dispatch import ROUTES
from puffs.attach.fuse.observe import Observation
from puffs.attach.fuse.tally import summary
from puffs.attach.fuse.trace import SlowLog, Trace, line
from tests.attach.fake_kernel import PATIENCE, ROOT, FakeKernel
from tests.attach.toy import Toy

pytestmark = pytest.mark.usefixtures("loop")

O_LARGEFILE = 0o100000
MISSING = errno.ENOENT


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    with FakeKernel(Toy()) as kernel:
        yield kernel


@pytest.fixture
def observation(kernel: FakeKernel) -> Observation:
    return Observation(kernel.mount, kernel.session.observe)


def counted(observation: Observation) -> dict[str, Any]:
    """How often each operation was asked for."""
    return {name: row["requests"] for name, row in summary(observation.tallies()).items()}


class Blocking(Toy):
    """Its `read` waits until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = threading.Event()
        self.go_on = threading.Event()

    def read(self, node: int, offset: int, size: int, file: object) -> bytes:
        self.inside.set()
        assert self.go_on.wait(PATIENCE)
        return super().read(node, offset, size, file)


# -------------------------------------------------------------------------------------- statistics


def test_counts_requests_errors_bytes_and_time(
    kernel: FakeKernel, observation: Observation
) -> None:
    observation.count(True)
    node = kernel.lookup(b"file")
    for name in (b"none", b"neither"):
        assert kernel.ask(Opcode.LOOKUP, ROOT, name).error == MISSING
    fh = kernel.open(node, flags=os.O_RDWR)
    assert kernel.ask(Opcode.WRITE, node, data=b"12345", fh=fh, offset=0, size=5).error == 0
    assert kernel.ask(Opcode.READ, node, fh=fh, offset=3, size=100).body == b"45nts"
    kernel.tell(Opcode.FORGET, node, nlookup=1)  # and a STATFS as a fence

    rows: dict[str, Any] = summary(observation.tallies())
    assert counted(observation) == {
        "forget": 1,
        "lookup": 3,
        "open": 1,
        "read": 1,
        "statvfs": 1,
        "write": 1,
    }
    assert {name: row["errors"] for name, row in rows.items() if row["errors"]} == {
        "lookup": {"ENOENT": 2}
    }
    assert {name: row["bytes"] for name, row in rows.items() if row["bytes"]} == {
        "read": 5,
        "write": 5,
    }
    for row in rows.values():
        assert sum(count for _, count in row["latency"]) == row["requests"]
        bounds = [bound for bound, _ in row["latency"]]
        assert bounds == sorted(bounds)
        assert 0 < row["seconds"] <= sum(bound * count for bound, count in row["latency"]) / 1e9
        assert row["seconds"] >= sum(bound / 2 * count for bound, count in row["latency"]) / 1e9


def test_counts_only_while_it_is_on_and_from_zero(
    kernel: FakeKernel, observation: Observation
) -> None:
    kernel.lookup(b"file")
    observation.count(True)
    kernel.lookup(b"file")
    observation.count(True)  # again: nothing happens
    kernel.lookup(b"file")
    assert counted(observation) == {"lookup": 2}
    observation.reset()
    kernel.lookup(b"dir")
    assert counted(observation) == {"lookup": 1}
    observation.count(False)
    kernel.lookup(b"dir")
    observation.count(True)
    kernel.ask(Opcode.GETATTR)
    assert counted(observation) == {"getattr": 1}


def test_while_it_is_off_nothing_is_in_the_way(
    kernel: FakeKernel, observation: Observation
) -> None:
    def ways() -> tuple[object, ...]:
        kernel.lookup(b"file")  # a reader changes over at its next request
        (reader,) = kernel.session._readers
        return reader.channel.write, reader.channel.writev

    assert ways() == (os.write, os.writev)
    observation.count(True)
    assert os.write not in ways()
    observation.count(False)
    assert ways() == (os.write, os.writev)


def test_a_request_that_began_unobserved_is_passed_over() -> None:
    server = Blocking()
    with FakeKernel(server) as kernel:
        observation = Observation(kernel.mount, kernel.session.observe)
        node = kernel.lookup(b"file")
        unique = kernel.send_bytes(
            Opcode.READ,
            node,
            MESSAGES[Opcode.READ].request.pack(size=10),  # type: ignore[union-attr]
        )
        assert server.inside.wait(PATIENCE)
        observation.count(True)
        server.go_on.set()
        assert kernel.receive().unique == unique
        assert (counted(observation), observation.under_way()) == ({}, [])
        kernel.lookup(b"file")
        assert counted(observation) == {"lookup": 1}


def test_the_oldest_request_under_way() -> None:
    server = Blocking()
    with FakeKernel(server) as kernel:
        observation = Observation(kernel.mount, kernel.session.observe)
        observation.count(True)
        node = kernel.lookup(b"file")
        assert observation.under_way() == []
        body = MESSAGES[Opcode.READ].request.pack(size=10)  # type: ignore[union-attr]
        kernel.send_bytes(Opcode.READ, node, body, uid=1000)
        assert server.inside.wait(PATIENCE)
        (seen,) = observation.under_way()
        told = trace.request(seen, observation.locate(seen))
        assert (told["operation"], told["path"]) == ("read", "/file")
        assert told["arguments"] == {"offset": 0, "size": 10}
        assert (told["caller"]["uid"], told["caller"]["tid"]) == (1000, os.getpid())
        server.go_on.set()
        assert kernel.receive().error == 0
        assert observation.under_way() == []


# ------------------------------------------------------------------------------------------- trace


def told(trace: Trace) -> list[str]:
    """What was traced, without times."""
    return [
        f"{event['operation']} {event['path']} "
        + "".join(f"{name}={value} " for name, value in event["arguments"].items())
        + f"-> {event['result']}"
        for event in trace.get(PATIENCE)
    ]


def test_each_operation_says_what_matters(kernel: FakeKernel, observation: Observation) -> None:
    node, directory, link = (kernel.lookup(name) for name in (b"file", b"dir", b"link"))
    fh = kernel.open(node, flags=os.O_RDWR)
    tracing = Trace(observation)
    observation.add(tracing)
    ask = kernel.ask
    ask(Opcode.LOOKUP, ROOT, b"file")
    ask(Opcode.LOOKUP, directory, b"none")
    ask(Opcode.GETATTR, directory)
    ask(
        Opcode.SETATTR,
        node,
        valid=1 << 0 | 1 << 3 | 1 << 8,
        mode=stat.S_IFREG | 0o600,
        size=4,
    )
    ask(Opcode.OPEN, node, flags=O_LARGEFILE | os.O_WRONLY | os.O_APPEND)
    ask(Opcode.READ, node, fh=fh, offset=1, size=4096)
    ask(Opcode.WRITE, node, data=b"x", fh=fh, offset=4, size=1)
    ask(Opcode.CREATE, directory, b"new", flags=os.O_RDWR | os.O_EXCL, mode=stat.S_IFREG | 0o640)
    ask(Opcode.MKDIR, ROOT, b"made", mode=0o750)
    ask(Opcode.MKNOD, ROOT, b"fifo", mode=stat.S_IFIFO | 0o644)
    ask(Opcode.SYMLINK, ROOT, b"to", b"dir/new")
    ask(Opcode.READLINK, link)
    ask(Opcode.LINK, directory, b"again", oldnodeid=node)
    ask(Opcode.RENAME2, ROOT, b"file", b"moved", newdir=directory, flags=1)
    ask(Opcode.GETATTR, node)
    ask(Opcode.UNLINK, directory, b"moved")
    ask(Opcode.RMDIR, ROOT, b"made")
    ask(Opcode.SETXATTR, node, b"user.a", data=b"value", size=5, flags=1)
    ask(Opcode.GETXATTR, node, b"user.b", size=100)
    ask(Opcode.ACCESS, node, mask=os.R_OK | os.X_OK)
    ask(Opcode.FALLOCATE, node, fh=fh, length=10, mode=1)
    ask(Opcode.LSEEK, node, fh=fh, offset=2, whence=os.SEEK_HOLE)
    ask(Opcode.SETLKW, node, fh=fh, lk_start=0, lk_end=9, lk_type=1)
    ask(Opcode.STATFS)
    kernel.tell(Opcode.BATCH_FORGET, 0, data=b"", count=0)
    assert told(tracing)[:-1] == [
        "lookup /file -> -rw-r--r-- 8 bytes",
        "lookup /dir/none -> ENOENT",
        "getattr /dir -> drwxr-xr-x",
        "setattr /file mode=0600 size=4 mtime=now -> -rw------- 4 bytes",
        "open /file flags=WRONLY|APPEND -> ok",
        "read /file offset=1 size=4096 -> 3 bytes",
        "write /file offset=4 size=1 -> 1 byte",
        "create /dir/new flags=RDWR|EXCL mode=0640 -> -rw-r----- 0 bytes",
        "mkdir /made mode=0750 -> drwxr-x---",
        "mknod /fifo mode=prw-r--r-- rdev=0 -> prw-r--r-- 0 bytes",
        "symlink /to target=dir/new -> lrwxrwxrwx 7 bytes",
        "readlink /link -> target",
        "link /file to=/dir/again -> -rw------- 5 bytes",
        "rename /file to=/dir/moved flags=NOREPLACE -> ok",
        "getattr /dir/moved -> -rw------- 5 bytes",
        "remove /dir/moved -> ok",
        "rmdir /made -> ok",
        "setxattr /dir/moved name=user.a size=5 flags=CREATE -> ok",
        "getxattr /dir/moved name=user.b size=100 -> ENODATA",
        "access /dir/moved mode=R|X -> EACCES",
        "fallocate /dir/moved mode=KEEP_SIZE offset=0 length=10 -> ok",
        "seek /dir/moved offset=2 whence=HOLE -> 5",
        "advlock /dir/moved op=wait lock=WRITE start=0 end=9 pid=0 -> ok",
        "statvfs  -> ok",
        "forget  nodes=0 -> ok",
    ]


def test_a_listing_says_how_many_names(kernel: FakeKernel, observation: Observation) -> None:
    fh = kernel.open(ROOT, Opcode.OPENDIR)
    tracing = Trace(observation)
    observation.add(tracing)
    for plus in (False, True):
        entries = kernel.listing(ROOT, fh, plus=plus)
        kernel.listing(ROOT, fh, offset=entries[-1].next, plus=plus)
    assert told(tracing) == [
        "readdir / offset=0 size=4096 -> 5 names",
        "readdir / offset=5 size=4096 -> the end",
        "readdirplus / offset=0 size=4096 -> 5 names",
        "readdirplus / offset=5 size=4096 -> the end",
    ]


def test_a_trace_of_some_operations(kernel: FakeKernel, observation: Observation) -> None:
    tracing = Trace(observation, describe.opcodes_of("getattr") | describe.opcodes_of("UNLINK"))
    observation.add(tracing)
    kernel.lookup(b"file")
    kernel.ask(Opcode.GETATTR)
    kernel.ask(Opcode.UNLINK, ROOT, b"file")
    assert [text.split()[0] for text in told(tracing)] == ["getattr", "remove"]


def test_a_line_for_people(kernel: FakeKernel, observation: Observation) -> None:
    tracing = Trace(observation)
    observation.add(tracing)
    kernel.ask(Opcode.LOOKUP, ROOT, b"a name\n")
    (event,) = tracing.get(PATIENCE)
    command = re.escape(event["caller"]["command"])
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d\.\d{{6}} lookup    '/a name\\n' +{command}\[{os.getpid()}\] uid 0 +"
        r"= ENOENT, [\d.]+ (µs|ms|s)",
        line(event),
    )


def test_a_trace_that_nobody_reads_loses_lines_and_holds_up_nothing(
    kernel: FakeKernel, observation: Observation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "HELD", 10)
    tracing = Trace(observation)
    observation.add(tracing)
    for _ in range(25):
        kernel.ask(Opcode.GETATTR)
    events = tracing.get(PATIENCE)
    assert [event.get("lost", 0) for event in events] == [0] * 10 + [15]
    assert "15 operations" in line(events[-1])
    kernel.ask(Opcode.GETATTR)
    assert [event.get("lost", 0) for event in tracing.get(PATIENCE)] == [0]


def test_a_trace_that_ends_is_read_to_its_end(kernel: FakeKernel, observation: Observation) -> None:
    tracing = Trace(observation)
    observation.add(tracing)
    kernel.ask(Opcode.GETATTR)
    tracing.end()
    assert len(tracing.get(PATIENCE)) == 1
    for _ in range(2):
        with pytest.raises(EOFError):
            tracing.get(PATIENCE)


def test_every_opcode_has_a_name_and_its_members_exist() -> None:
    assert SHAPES.keys() == ROUTES.keys()
    for opcode, shape in SHAPES.items():
        layout = MESSAGES[Opcode(opcode)].request
        members = set(layout.zeros) if layout is not None else set()
        wanted = {item.split(":")[0].rpartition("=")[2] for item in shape.arguments.split()}
        wanted |= {shape.other} - {""}
        assert wanted <= members, opcode


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (os.O_RDONLY, "RDONLY"),
        (os.O_RDWR | os.O_SYNC, "RDWR|SYNC"),
        (os.O_WRONLY | os.O_DSYNC, "WRONLY|DSYNC"),
        (os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, "RDONLY|DIRECTORY|NOFOLLOW"),
        (os.O_RDWR | os.O_TMPFILE, "RDWR|TMPFILE"),
        (O_LARGEFILE | 0x20, "EXEC"),
        (1 << 30, "RDONLY|0x40000000"),
    ],
)
def test_flags_of_open(flags: int, text: str) -> None:
    assert set(open_flags(flags).split("|")) == set(text.split("|"))


@given(
    opcode=st.one_of(st.sampled_from(sorted(SHAPES)), st.integers(0, 5000)),
    body=st.binary(max_size=200),
    head=st.binary(max_size=200),
    error=st.integers(0, 600),
    ext=st.booleans(),
)
def test_nothing_that_a_kernel_says_breaks_it(
    opcode: int, body: bytes, head: bytes, error: int, ext: bool
) -> None:
    nodes = describe.nodes_of(opcode, 7, body)
    paths = tuple(f"/{node}" for node in nodes)
    assert isinstance(describe.subject(opcode, body, paths, ext), str)
    for name, value in describe.arguments(opcode, body, paths, ext).items():
        assert isinstance(name, str)
        assert isinstance(value, int | str)
    entries = describe.count_names(opcode, head)
    assert isinstance(describe.outcome(opcode, error, len(head), head, entries), str)


# -------------------------------------------------------------------------------- slow requests


def test_slow_requests_are_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "LOOK_SECONDS", 0.01)
    seen = threading.Event()
    texts: list[logging.LogRecord] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record)
            seen.set()

    listener = Listener()
    logging.getLogger("puffs").addHandler(listener)
    server = Blocking()
    try:
        with FakeKernel(server) as kernel:
            observation = Observation(kernel.mount, kernel.session.observe)
            slow = SlowLog(observation, 0.001)
            node = kernel.lookup(b"file")
            body = MESSAGES[Opcode.READ].request.pack(size=10)  # type: ignore[union-attr]
            seen.clear()
            kernel.send_bytes(Opcode.READ, node, body, uid=1000)
            assert seen.wait(PATIENCE)
            record = texts[-1]
            assert "read      /file offset=0 size=10 by " in record.getMessage()
            assert f"[{os.getpid()}] uid 1000 goes on after" in record.getMessage()
            assert record.__dict__["puffs"]["operation"] == "read"
            seen.clear()
            server.go_on.set()
            assert kernel.receive().error == 0
            assert seen.wait(PATIENCE)
            assert "uid 1000 ended after" in texts[-1].getMessage()
            slow.close()
            assert not observation.on
    finally:
        logging.getLogger("puffs").removeHandler(listener)


# --------------------------------------------------------------------------------- switching


@pytest.mark.parametrize("what", ["statistics", "trace"])
def test_switching_on_and_off_loses_no_request(
    kernel: FakeKernel, observation: Observation, what: str
) -> None:
    """Two threads: one asks without a pause, the other switches."""
    done = threading.Event()
    failed: list[BaseException] = []

    def on_and_off() -> Callable[[], None]:
        if what == "statistics":
            observation.count(True)
            return lambda: observation.count(False)
        tracing = Trace(observation)
        observation.add(tracing)
        return lambda: observation.remove(tracing)

    def switch() -> None:
        try:
            for _ in range(50):
                off = on_and_off()
                progress()
                off()
                progress()
        except BaseException as exc:
            failed.append(exc)
        finally:
            done.set()

    asked = 0

    def progress() -> None:
        before = asked
        while asked < before + 3:
            pass

    node = kernel.lookup(b"file")
    switcher = threading.Thread(target=switch, daemon=True)
    switcher.start()
    while not done.is_set():
        assert kernel.ask(Opcode.GETATTR, node).error == 0
        assert kernel.ask(Opcode.READ, node, size=3).body == b"con"
        assert kernel.ask(Opcode.LOOKUP, ROOT, b"none").error == MISSING
        asked += 1
    switcher.join()
    assert failed == []
    assert asked >= 300
    assert observation.under_way() == []
