"""Counters: how many requests of each kind, how long they took, what they gave.

Each reader counts for itself, so that one thread alone writes a row; they are put together when
somebody asks.
"""

from collections import Counter
from collections.abc import Iterable
from struct import Struct
from typing import Final

from puffs.attach.fuse.abi import OUT_HEADER, Opcode
from puffs.attach.fuse.describe import error_name, operation_of

BUCKETS: Final = 41
"""Of a histogram. Bucket N counts what took less than 2**N nanoseconds, and not less than half of
that; the last one also all that took longer, which is 18 minutes.
"""

_unpack_size: Final = Struct("=I").unpack_from


class Row:
    """The counters of one opcode."""

    __slots__ = ("amount", "buckets", "count", "errors", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        """Nanoseconds."""
        self.amount = 0
        """Bytes of data, read or written."""
        self.buckets = [0] * BUCKETS
        self.errors: Counter[int] = Counter()


class Tally:
    """The counters of one reader."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}

    def reset(self) -> None:
        """Count from zero; from any thread. What is being counted just now goes to the old rows."""
        self.rows = {}

    def add(self, opcode: int, elapsed: int, error: int, length: int, reply: bytes) -> None:
        """Count a request.

        Args:
            opcode: of the request.
            elapsed: nanoseconds.
            error: the errno, or 0.
            length: bytes of the reply's body.
            reply: the whole reply, header and body; empty where it is data.
        """
        rows = self.rows
        row = rows.get(opcode)
        if row is None:
            row = rows[opcode] = Row()
        row.count += 1
        row.total += elapsed
        row.buckets[min(elapsed.bit_length(), BUCKETS - 1)] += 1
        if error:
            row.errors[error] += 1
        elif opcode == Opcode.READ:
            row.amount += length
        elif opcode == Opcode.WRITE and length >= 4:
            row.amount += _unpack_size(reply, OUT_HEADER.size)[0]


def summary(tallies: Iterable[Tally]) -> dict[str, dict[str, object]]:
    """All counters together, by operation: what `puffs status --json` shows.

    `requests`, `seconds` (in all), `errors` by name, `bytes`, and `latency`: pairs of an upper
    bound in nanoseconds and how many took less than that, but not less than the bound before.
    """
    joined: dict[str, Row] = {}
    for tally in tallies:
        for opcode, row in tally.rows.copy().items():
            into = joined.setdefault(operation_of(opcode), Row())
            into.count += row.count
            into.total += row.total
            into.amount += row.amount
            into.errors.update(dict(row.errors))  # a copy: the reader goes on
            into.buckets = [a + b for a, b in zip(into.buckets, row.buckets, strict=True)]
    return {
        operation: {
            "requests": row.count,
            "seconds": row.total / 1e9,
            "bytes": row.amount,
            "errors": {error_name(code): count for code, count in sorted(row.errors.items())},
            "latency": [[1 << n, count] for n, count in enumerate(row.buckets) if count],
        }
        for operation, row in sorted(joined.items())
    }
