"""What a field of each kind has, and its bytes, written down by hand: first those of its numbers,
then what follows them.

Who has to change bytes here raises `frames.VERSION`.
"""

import sys
from typing import Any


def u8(value: int) -> bytes:
    return value.to_bytes(1, sys.byteorder)


def u16(value: int) -> bytes:
    return value.to_bytes(2, sys.byteorder)


def u32(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder, signed=value < 0)


def u64(value: int) -> bytes:
    return value.to_bytes(8, sys.byteorder, signed=value < 0)


ONE_AND_A_HALF = u64(0x3FF8000000000000)
"""1.5 as a double of IEEE 754."""

IMAGE = bytes(range(0, 80, 2)) + bytes(40)

FIELDS: dict[str, tuple[Any, bytes, bytes]] = {
    "unsigned": (2**64 - 1, b"\xff" * 8, b""),
    "signed": (-2, u64(-2), b""),
    "flag": (1, u8(1), b""),
    "text": (b"caf\xc3\xa9", u32(5), b"caf\xc3\xa9"),
    "bytes": (b"\0\xff", u32(2), b"\0\xff"),
    "data": (b"data", u32(4), b"data"),
    "cred": (
        (1000, 100, 4321, 0o22, 4320, 3, u32(4) + u32(24)),
        u32(1000) + u32(100) + u32(4321) + u32(0o22) + u32(4320) + u8(3) + u32(8),
        u32(4) + u32(24),
    ),
    "attr": ((17, -5, IMAGE), u64(17) + u64(-5) + IMAGE, b""),
    "changes": (
        (0x81, 0o644, 1000, 100, 1 << 40, -1, 2, 3),
        u16(0x81)
        + (u32(0o644) + u32(1000) + u32(100))
        + (u64(1 << 40) + u64(-1) + u64(2) + u64(3)),
        b"",
    ),
    "lock": (
        (1, 10, 2**63 - 1, 77, 0),
        u32(1) + u64(10) + u64(2**63 - 1) + u32(77) + u8(0),
        b"",
    ),
    "entry": (
        (7, 9, 17, 1, 17, -5, IMAGE, 1.5, 0.0),
        u8(7)
        + (u64(9) + u64(17) + u32(1))
        + (u64(17) + u64(-5) + IMAGE)
        + (ONE_AND_A_HALF + u64(0)),
        b"",
    ),
    "open": ((5, 0x41), u64(5) + u16(0x41), b""),
    "statvfs": (tuple(range(1, 11)), b"".join(map(u64, range(1, 11))), b""),
    "listing": ((3, b"entries"), u64(3) + u32(7), b"entries"),
    "names": (b"user.a\0", u32(7), b"user.a\0"),
    "lifetimes": ((1.5, 0.0, 1.5), ONE_AND_A_HALF + u64(0) + ONE_AND_A_HALF, b""),
}
"""Kind -> the value, the bytes of its numbers, and those that follow."""
