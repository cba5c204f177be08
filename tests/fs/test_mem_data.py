"""`mem`: contents of files. Sparse, large, limited, and against a plain bytearray."""

import errno
import os
import random
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puffs.fs.extents import CHUNK, Extents
from puffs.fs.mem import COPY_MAX
from puffs.fs.nodes import FILE_MAX
from tests.fs.memory import Box, fails

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
PUNCH = PUNCH_HOLE | KEEP_SIZE

# --------------------------------------------------------------------------------- reading, writing


def test_reading_ends_at_the_end_of_the_file() -> None:
    box = Box()
    node = box.file("file", b"0123456789")
    assert box.read(node, 0, 100) == b"0123456789"
    assert box.read(node, 8, 1) == b"8"
    assert box.read(node, 8, 100) == b"89"
    assert box.read(node, 10, 100) == box.read(node, 1 << 40, 1) == b""
    assert box.read(box.file("empty")) == b""


@pytest.mark.parametrize(
    ("offset", "size"), [(50, 10), (95, 10), (100, 10), (500, 10)], ids=["in", "over", "at", "far"]
)
def test_contents_that_a_thread_is_reading_never_change_their_length(
    offset: int, size: int
) -> None:
    # Without a GIL it would read memory that the contents have moved from.
    extents = Extents()
    extents.write(0, b"x" * 100, CHUNK)
    (_, begun), *_ = extents.chunks()
    end = max(100, offset + size)
    extents.write(offset, b"y" * size, CHUNK)
    extents.reserve(0, end + 10)
    extents.punch(end, CHUNK)
    assert len(begun) == 100
    wanted = bytearray(b"x" * 100).ljust(end, b"\0")
    wanted[offset : offset + size] = b"y" * size
    assert extents.read(0, end + 10) == wanted + bytes(10)


def test_what_was_read_does_not_change_afterwards() -> None:
    box = Box()
    data = bytes(range(256)) * (CHUNK // 64)
    node = box.file("file", data)
    pieces = [
        (offset, size, box.fs.read(node, offset, size, None))
        for offset, size in [(0, 10), (0, CHUNK), (5, 2 * CHUNK), (CHUNK, 3 * CHUNK)]
    ]
    box.write(node, 0, b"x" * len(data))
    box.set(node, size=0)
    for offset, size, piece in pieces:
        assert bytes(piece) == data[offset : offset + size]


def test_what_was_written_may_be_used_for_something_else_afterwards() -> None:
    box = Box()
    node = box.file("file")
    buffer = bytearray(b"a" * 3 * CHUNK)
    assert box.fs.write(node, 100, memoryview(buffer), None) == len(buffer)
    buffer[:] = b"b" * len(buffer)
    buffer.extend(b"not lent to anybody")
    assert box.read(node, 100) == b"a" * 3 * CHUNK


@pytest.mark.parametrize("offset", [1 << 32, (1 << 32) - 3, (1 << 40) + 1, FILE_MAX - 5])
def test_files_beyond_4_gib(offset: int) -> None:
    box = Box()
    node = box.file("file", b"start")
    assert box.write(node, offset, b"01234") == 5
    attr = box.fs.getattr(node)
    assert attr.size == offset + 5
    assert attr.blocks * 512 <= 2 * CHUNK
    assert box.read(node, offset - 2, 100) == b"\0\x0001234"
    assert box.read(node, 0, 7) == b"start\0\0"
    assert box.seek(node, 5, os.SEEK_DATA) >= offset - CHUNK
    assert box.seek(node, offset, os.SEEK_HOLE) == offset + 5
    box.set(node, size=5)
    assert box.read(node) == b"start"
    assert attr.blocks == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda b, n: b.write(n, FILE_MAX - 4, b"01234"),
        lambda b, n: b.write(n, FILE_MAX, b"0"),
        lambda b, n: b.set(n, size=FILE_MAX + 1),
        lambda b, n: b.reserve(n, FILE_MAX, 1),
        lambda b, n: b.copy(n, 0, n, FILE_MAX - 3, 4),
    ],
)
def test_nothing_is_beyond_the_largest_offset(change: Callable[..., object]) -> None:
    box = Box()
    node = box.file("file", b"0123")
    with fails(errno.EFBIG):
        change(box, node)
    assert box.read(node) == b"0123"


def test_a_small_file_takes_little_memory() -> None:
    box = Box()
    count = 2_000
    nodes = [box.file(f"file-{number}") for number in range(count)]
    tracemalloc.start()
    try:
        for node in nodes:
            box.write(node, 0, b"x" * 100)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / count < 1024


def test_a_hole_takes_no_memory() -> None:
    box = Box()
    node = box.file("file")
    tracemalloc.start()
    try:
        box.set(node, size=1 << 50)
        box.write(node, 1 << 40, b"x")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < CHUNK
    assert box.fs.getattr(node).size == 1 << 50


# ---------------------------------------------------------------------------------- sizes and holes


def test_a_file_that_grows_shows_nothing_of_what_was_cut_off() -> None:
    box = Box()
    node = box.file("file", b"secret" * CHUNK)
    for size in (3 * CHUNK, CHUNK, 10, 3):
        box.set(node, size=size)
        attr = box.set(node, size=6 * CHUNK)
        assert attr.blocks == (size + 511) // 512
        assert box.read(node) == (b"secret" * CHUNK)[:size] + bytes(6 * CHUNK - size)


def test_blocks_count_what_is_kept() -> None:
    box = Box()
    node = box.file("file")
    attr = box.fs.getattr(node)
    assert attr.blocks == 0
    box.write(node, 0, b"x")
    assert attr.blocks == 1
    box.write(node, 0, b"x" * 4 * CHUNK)
    assert attr.blocks == 4 * CHUNK // 512
    box.reserve(node, CHUNK, 2 * CHUNK, PUNCH)
    assert attr.blocks == 2 * CHUNK // 512
    box.set(node, mode=0o600)
    assert attr.blocks == 2 * CHUNK // 512
    box.set(node, size=0)
    assert attr.blocks == 0


@pytest.mark.parametrize(
    ("whence", "offset", "found"),
    [
        (os.SEEK_DATA, 0, 0),
        (os.SEEK_DATA, 9, 9),
        (os.SEEK_DATA, 10, 3 * CHUNK),
        (os.SEEK_DATA, CHUNK, 3 * CHUNK),
        (os.SEEK_DATA, 4 * CHUNK + 5, 4 * CHUNK + 5),
        (os.SEEK_HOLE, 0, 10),
        (os.SEEK_HOLE, 10, 10),
        (os.SEEK_HOLE, 2 * CHUNK + 3, 2 * CHUNK + 3),
        (os.SEEK_HOLE, 3 * CHUNK, 5 * CHUNK),
        (os.SEEK_HOLE, 8 * CHUNK - 1, 8 * CHUNK - 1),
    ],
)
def test_seek(whence: int, offset: int, found: int) -> None:
    box = Box()
    node = box.file("file", b"x" * 10)
    box.write(node, 3 * CHUNK, b"x" * 2 * CHUNK)
    box.set(node, size=8 * CHUNK)
    assert box.seek(node, offset, whence) == found


def test_seek_past_the_last_data_and_past_the_end() -> None:
    box = Box()
    node = box.file("file", b"x" * 10)
    assert box.seek(node, 3, os.SEEK_HOLE) == 10  # the end counts as a hole
    box.set(node, size=100)
    box.reserve(node, 2 * CHUNK, 10, KEEP_SIZE)  # kept, but behind the end
    with fails(errno.ENXIO):
        box.seek(node, 10, os.SEEK_DATA)
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        with fails(errno.ENXIO):
            box.seek(node, 100, whence)
    with fails(errno.EINVAL):
        box.seek(node, 0, os.SEEK_END)
    with fails(errno.ENXIO):
        box.seek(box.file("empty"), 0, os.SEEK_DATA)


def test_seek_sees_what_came_and_went() -> None:
    box = Box()
    node = box.file("file")
    box.set(node, size=100 * CHUNK)
    for index in (50, 10, 30):
        box.write(node, index * CHUNK, b"x")
        assert box.seek(node, index * CHUNK - 5, os.SEEK_DATA) == index * CHUNK
    assert box.seek(node, 0, os.SEEK_DATA) == 10 * CHUNK
    box.reserve(node, 0, 20 * CHUNK, PUNCH)
    assert box.seek(node, 0, os.SEEK_DATA) == 30 * CHUNK
    box.reserve(node, 7 * CHUNK, CHUNK)
    assert box.seek(node, 0, os.SEEK_DATA) == 7 * CHUNK


@pytest.mark.parametrize(
    ("mode", "offset", "length", "size", "kept", "text"),
    [
        (0, 0, 4, 10, 10, b"0123456789"),
        (0, 5, 10, 15, 15, b"0123456789\0\0\0\0\0"),
        (KEEP_SIZE, 5, 10, 10, 15, b"0123456789"),
        (PUNCH, 2, 3, 10, 10, b"01\0\0\x0056789"),
        (PUNCH, 5, 100, 10, 5, b"01234\0\0\0\0\0"),
        (PUNCH, 0, 100, 10, 0, b"\0\0\0\0\0\0\0\0\0\0"),
        (ZERO_RANGE, 8, 4, 12, 12, b"01234567\0\0\0\0"),
        (ZERO_RANGE | KEEP_SIZE, 8, 4, 10, 12, b"01234567\0\0"),
    ],
)
def test_fallocate(mode: int, offset: int, length: int, size: int, kept: int, text: bytes) -> None:
    box = Box(size=100)
    node = box.file("file", b"0123456789")
    box.reserve(node, offset, length, mode)
    assert box.fs.getattr(node).size == size
    assert box.read(node) == text
    box.reserve(box.file("rest"), 0, 100 - kept)
    with fails(errno.ENOSPC):
        box.write(box.node("rest"), 100 - kept, b"x")


@pytest.mark.parametrize("mode", [PUNCH_HOLE, 4, 8, 32, 64, PUNCH | ZERO_RANGE])
def test_fallocate_refuses_what_it_cannot_do(mode: int) -> None:
    box = Box()
    with fails(errno.EOPNOTSUPP):
        box.reserve(box.file("file", b"x"), 0, 1, mode)


def test_what_was_reserved_can_be_written_when_all_is_full() -> None:
    box = Box(size=4 * CHUNK)
    node = box.file("file", b"start")
    box.reserve(node, CHUNK // 2, 2 * CHUNK)
    other = box.file("other")
    box.write(other, 0, b"x" * 4 * CHUNK)
    with fails(errno.ENOSPC):
        box.write(other, 4 * CHUNK, b"x")
    assert box.write(node, CHUNK // 2, b"y" * 2 * CHUNK) == 2 * CHUNK


def test_a_reservation_that_does_not_fit_reserves_nothing() -> None:
    box = Box(size=CHUNK)
    node = box.file("file", b"x" * 100)
    for mode in (0, ZERO_RANGE, KEEP_SIZE):
        with fails(errno.ENOSPC):
            box.reserve(node, 0, CHUNK + 1, mode)
        with fails(errno.ENOSPC):
            box.reserve(node, 0, 1 << 62, mode)
    assert box.read(node) == b"x" * 100
    assert box.write(box.file("rest"), 0, b"x" * CHUNK) == CHUNK - 100


# ----------------------------------------------------------------------------------- no room left


def test_a_write_that_does_not_fit_is_short_and_then_fails() -> None:
    box = Box(size=CHUNK + 1000)
    node = box.file("file", b"a" * 300)
    assert box.write(node, 300, b"b" * 2 * CHUNK) == CHUNK + 700
    attr = box.fs.getattr(node).copy()
    with fails(errno.ENOSPC):
        box.write(node, CHUNK + 1000, b"c")
    assert box.fs.getattr(node) == attr
    assert box.read(node) == b"a" * 300 + b"b" * (CHUNK + 700)
    assert box.write(node, 0, b"d" * 500) == 500  # overwriting takes no room
    report = box.fs.statvfs()
    assert report.bfree == 0
    box.set(node, size=0)
    box.reserve(node, 0, CHUNK + 1000)


OUT_OF_MEMORY = """
import resource
from tests.fs.memory import Box

box = Box()
node = box.file("file")
data, end = b"x" * (1 << 20), 0
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
try:
    while True:
        end += box.write(node, end, data)
except MemoryError:
    pass
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert box.fs.getattr(node).size == end > 1 << 20
box.set(node, size=end + len(data))
assert box.read(node, end) == bytes(len(data))
assert box.read(node, 0, end) == b"x" * end
box.set(node, size=0)
report = box.fs.statvfs()
assert report.bfree == report.blocks
"""


def test_a_write_that_runs_out_of_memory_is_short_and_then_fails() -> None:
    """In a process of its own, with little memory. The host sees ENOMEM."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], check=True, cwd=root)


def test_a_sparse_write_pays_for_what_it_keeps() -> None:
    box = Box(size=1000)
    node = box.file("file")
    box.write(node, 5 * CHUNK, b"x" * 10)
    with fails(errno.ENOSPC):
        box.write(node, 2 * CHUNK + 1000, b"x")
    assert box.write(node, 9 * CHUNK, b"y" * 1000) == 990
    assert box.fs.getattr(node).size == 9 * CHUNK + 990


# --------------------------------------------------------------------------------- copy_file_range


def test_copies_keep_holes() -> None:
    box = Box()
    source = box.file("source", b"head")
    box.write(source, 5 * CHUNK + 7, b"x" * CHUNK)
    box.set(source, size=9 * CHUNK)
    target = box.file("target", b"y" * 8 * CHUNK)
    assert box.copy(source, 0, target, 11, 1 << 40) == 9 * CHUNK
    assert box.read(target) == b"y" * 11 + box.read(source)
    assert box.fs.getattr(target).size == 9 * CHUNK + 11
    assert box.fs.getattr(target).blocks < 4 * CHUNK // 512


def test_copies_end_where_the_source_ends() -> None:
    box = Box()
    source, target = box.file("source", b"0123456789"), box.file("target", b"abc")
    assert box.copy(source, 7, target, 1, 100) == 3
    assert box.read(target) == b"a789"
    assert box.copy(source, 10, target, 0, 100) == 0
    assert box.copy(source, 99, target, 0, 100) == 0
    assert box.read(target) == b"a789"


def test_copies_within_a_file_must_not_overlap() -> None:
    box = Box()
    node = box.file("file", b"0123456789")
    for to in (0, 3, 4, 5, 8):
        with fails(errno.EINVAL):
            box.copy(node, 4, node, to, 5)
    assert box.copy(node, 0, node, 5, 5) == 5
    assert box.read(node) == b"0123401234"
    with fails(errno.EINVAL):
        box.fs.copy_file_range(node, 0, None, node, 5, None, 5, 1)


def test_large_copies_go_piece_by_piece() -> None:
    box = Box()
    source, target = box.file("source"), box.file("target")
    box.set(source, size=COPY_MAX + 5)
    box.write(source, COPY_MAX, b"01234")
    assert box.copy(source, 0, target, 0, COPY_MAX + 5) == COPY_MAX
    assert box.copy(source, COPY_MAX, target, COPY_MAX, 5) == 5
    assert box.read(target, COPY_MAX - 1) == b"\x0001234"


def test_copies_stop_when_there_is_no_room() -> None:
    box = Box(size=3 * CHUNK)
    source, target = box.file("source", b"x" * 2 * CHUNK), box.file("target")
    box.write(target, 10 * CHUNK, b"y" * 100)
    assert box.copy(source, 0, target, 0, 2 * CHUNK) == CHUNK - 100
    with fails(errno.ENOSPC):
        box.copy(source, 0, target, 5 * CHUNK, 1)
    assert box.read(target, 0, CHUNK) == b"x" * (CHUNK - 100) + bytes(100)


# ---------------------------------------------------------------------------------- against a model

LIMIT = 3 * CHUNK + 100

offsets = st.builds(
    lambda chunk, delta: max(0, chunk * CHUNK + delta),
    st.integers(0, 4),
    st.one_of(st.integers(-3, 3), st.integers(0, CHUNK)),
)
lengths = st.one_of(
    st.integers(1, 10), st.integers(CHUNK - 3, CHUNK + 3), st.integers(1, 3 * CHUNK)
)
operations = st.one_of(
    st.tuples(st.just("write"), offsets, lengths),
    st.tuples(st.just("write"), offsets, lengths),
    st.tuples(st.just("truncate"), offsets, st.just(0)),
    st.tuples(st.just("copy"), offsets, lengths),
    *(
        st.tuples(st.just(f"fallocate {mode}"), offsets, lengths)
        for mode in (0, KEEP_SIZE, PUNCH, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)
    ),
)


class Model:
    """A file as a plain bytearray."""

    def __init__(self) -> None:
        self.data = bytearray()

    def put(self, offset: int, data: bytes) -> None:
        self.grow(offset + len(data))
        self.data[offset : offset + len(data)] = data

    def grow(self, size: int) -> None:
        self.data.extend(bytes(max(0, size - len(self.data))))


def step(box: Box, model: Model, operation: tuple[str, int, int], number: int) -> None:
    """Do one operation to both; where there is no room, the model does what was done."""
    node = box.node("file")
    (name, *rest), offset, length = operation[0].split(), operation[1], operation[2]
    if name == "truncate":
        box.set(node, size=offset)
        model.grow(offset)
        del model.data[offset:]
    elif name == "fallocate":
        mode = int(rest[0])
        try:
            box.reserve(node, offset, length, mode)
        except OSError as exc:
            assert exc.errno == errno.ENOSPC  # noqa: PT017  raised or not, both are right
            return
        if not mode & KEEP_SIZE:
            model.grow(offset + length)
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            end = min(offset + length, len(model.data))
            model.data[offset:end] = bytes(max(0, end - offset))
    else:
        data = bytes([number % 255 + 1]) * length
        if name == "copy":  # from the start of the file, not over itself
            data = bytes(model.data[: min(length, offset)])
        done = 0
        try:
            if name == "write":
                done = box.write(node, offset, data)
            elif data:
                done = box.copy(node, 0, node, offset, len(data))
        except OSError as exc:
            assert exc.errno == errno.ENOSPC  # noqa: PT017
        if done:
            model.put(offset, data[:done])
        if done < len(data):  # there must really be no room for the next byte
            with fails(errno.ENOSPC):
                box.reserve(node, offset + done, 1)


def check(box: Box, model: Model) -> None:
    node = box.node("file")
    attr = box.fs.getattr(node)
    assert attr.size == len(model.data)
    assert box.read(node) == model.data
    chooser = random.Random(len(model.data))
    for _ in range(5):
        offset, size = chooser.randrange(6 * CHUNK), chooser.randrange(2 * CHUNK)
        assert box.read(node, offset, size) == model.data[offset : offset + size]


def check_map(box: Box, model: Model) -> None:
    """Holes are zeros, and data is no more than what the file takes."""
    node = box.node("file")
    at = kept = 0
    while at < len(model.data):
        hole = box.seek(node, at, os.SEEK_HOLE)
        kept += hole - at
        assert hole >= at
        try:
            at = box.seek(node, hole, os.SEEK_DATA)
        except OSError as exc:
            assert exc.errno == errno.ENXIO  # noqa: PT017
            at = len(model.data)
        assert not any(model.data[hole:at])
    assert kept <= box.fs.getattr(node).blocks * 512


@pytest.mark.parametrize("limit", [0, LIMIT], ids=["unlimited", "limited"])
@settings(max_examples=300)
@given(steps=st.lists(operations, max_size=12))
def test_contents_are_those_of_a_bytearray(limit: int, steps: list[tuple[str, int, int]]) -> None:
    box, model = Box(size=limit), Model()
    node = box.file("file")
    for number, operation in enumerate(steps):
        step(box, model, operation, number)
        check(box, model)
    check_map(box, model)
    if limit:
        box.remove("file")
        box.fs.reclaim(node)
        other = box.file("other")
        box.reserve(other, 0, limit)
        with fails(errno.ENOSPC):
            box.write(other, limit, b"x")


# ----------------------------------------------------------------------------------------- threads


def test_readers_do_not_disturb_writers() -> None:
    """No reader and no writer fails, and nobody reads what was never there."""
    box = Box()
    end = 24 * CHUNK
    node = box.file("file", b"x" * end)
    failures: list[BaseException] = []
    done = threading.Event()

    def write() -> None:
        for number in range(400):
            cut = end - 1 - number % 100
            box.set(node, size=cut)
            box.write(node, cut, b"x")
            box.reserve(node, number * CHUNK % end, CHUNK, PUNCH)
            box.write(node, number * CHUNK % end, b"x" * CHUNK)
            box.write(node, cut, b"x" * (end - cut))

    def read() -> None:
        while not done.is_set():
            assert not box.read(node).strip(b"x\0")
            assert box.seek(node, 0, os.SEEK_DATA) <= CHUNK

    def caught(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:
            failures.append(exc)

    readers = [threading.Thread(target=caught, args=(read,)) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for reader in readers:
            reader.start()
        caught(write)
    finally:
        done.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert not failures
    assert box.read(node) == b"x" * end
