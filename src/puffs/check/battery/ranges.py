"""Ranges of a file: fallocate, and lseek with SEEK_DATA and SEEK_HOLE."""

import errno
import os

from puffs.check import libc
from puffs.check.expect import equal, expect, leave_out, same_data
from puffs.check.registry import battery
from puffs.check.target import File, Target, read_at, write_at

check = battery("ranges")

MIB = 1 << 20
FILE = "create read write fallocate"


@check("fallocate-extends", "fallocate(2) mode 0: the file grows by NUL bytes", needs=FILE)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        write_at(file, 0, b"content")
        _fallocate(t, file, 0, 100, 9_900)
        equal("size", t.fstat(file).st_size, 10_000)
        same_data("content", read_at(file, 0), b"content" + bytes(9_993))
        t.fallocate(file, 0, 0, 50)
        equal("size after a range inside", t.fstat(file).st_size, 10_000)


@check(
    "fallocate-keeps-the-size",
    "fallocate(2) FALLOC_FL_KEEP_SIZE: the size stays",
    needs=FILE,
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        write_at(file, 0, b"content")
        _fallocate(t, file, libc.KEEP_SIZE, 0, 10_000)
        equal("size", t.fstat(file).st_size, 7)
        equal("content", read_at(file, 0), b"content")


@check(
    "fallocate-punches-a-hole",
    "fallocate(2) FALLOC_FL_PUNCH_HOLE: the range reads as NUL, the size stays",
    needs=FILE,
)
def _(t: Target) -> None:
    data = bytes(range(1, 251)) * 80
    with t.open("f", "w+b") as file:
        write_at(file, 0, data)
        _fallocate(t, file, libc.PUNCH_HOLE | libc.KEEP_SIZE, 1000, 12_345)
        equal("size", t.fstat(file).st_size, len(data))
        same_data("content", read_at(file, 0), data[:1000] + bytes(12_345) + data[13_345:])


@check(
    "fallocate-zeroes-a-range",
    "fallocate(2) FALLOC_FL_ZERO_RANGE: the range reads as NUL",
    needs=FILE,
)
def _(t: Target) -> None:
    data = bytes(range(1, 251)) * 80
    with t.open("f", "w+b") as file:
        write_at(file, 0, data)
        _fallocate(t, file, libc.ZERO_RANGE, 1000, 12_345)
        same_data("content", read_at(file, 0), data[:1000] + bytes(12_345) + data[13_345:])


@check("fallocate-of-no-range", "fallocate(2): EINVAL for a length of 0", needs=FILE)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        expect((errno.EINVAL, errno.EOPNOTSUPP), t.fallocate, file, 0, 0, 0)


@check(
    "fallocate-of-other-modes",
    "fallocate(2): EOPNOTSUPP or EINVAL for what is not supported, and nothing happens",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    data = bytes(range(1, 251)) * 80
    with t.open("f", "w+b") as file:
        write_at(file, 0, data)
        for mode in (libc.PUNCH_HOLE, libc.COLLAPSE_RANGE | libc.KEEP_SIZE, 1 << 20):
            expect((errno.EOPNOTSUPP, errno.EINVAL), t.fallocate, file, mode, 0, 4096)
        same_data("content", read_at(file, 0), data)


@check(
    "seek-data-and-hole",
    "lseek(2) SEEK_DATA, SEEK_HOLE: no data is passed over, and the end is a hole",
    needs="create read write seek",
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        write_at(file, 4 * MIB, b"x" * MIB)
        write_at(file, 8 * MIB, b"y" * MIB)
        for start, data in ((0, 4 * MIB), (5 * MIB, 8 * MIB)):
            found = file.seek(start, os.SEEK_DATA)
            assert start <= found <= data, f"SEEK_DATA from {start} gave {found}, data is at {data}"
        for start, hole in ((4 * MIB, 5 * MIB), (8 * MIB, 9 * MIB)):
            equal(f"SEEK_DATA from {start}", file.seek(start, os.SEEK_DATA), start)
            found = file.seek(start, os.SEEK_HOLE)
            assert hole <= found <= 9 * MIB, f"SEEK_HOLE from {start} gave {found}, not {hole}"


@check(
    "seek-data-past-the-end",
    "lseek(2) SEEK_DATA, SEEK_HOLE: ENXIO past the end, and before the beginning",
    needs="create write seek",
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        write_at(file, 0, b"content")
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            expect(errno.ENXIO, file.seek, 7, whence)
            expect(errno.ENXIO, file.seek, 100, whence)
            expect(errno.ENXIO, file.seek, -1, whence)


def _fallocate(t: Target, file: File, mode: int, offset: int, length: int) -> None:
    """A mode that a file server need not have."""
    try:
        t.fallocate(file, mode, offset, length)
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            leave_out("the file server does not support the mode (EOPNOTSUPP)")
        raise
