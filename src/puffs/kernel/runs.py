"""`Runs`: bytes of a file that were written and are not where they belong yet, gaps between."""

from bisect import bisect_left, bisect_right
from typing import Final

from puffs.server.types import Buffer

_OVERHEAD: Final = 4096
"""What a run counts beside its bytes, so that many small ones are not taken for little memory."""


class _Run:
    """Bytes without a gap, from `start` to `end`."""

    __slots__ = ("data", "start")

    def __init__(self, start: int, data: Buffer) -> None:
        self.start = start
        self.data = bytearray(data)

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def part(self, start: int, end: int) -> bytes:
        """A copy of what it has between `start` and `end`."""
        with memoryview(self.data) as view:
            return bytes(view[max(start - self.start, 0) : max(end - self.start, 0)])


class Runs:
    """Runs in order of their offsets. Two that touch become one."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __bool__(self) -> bool:
        return bool(self._runs)

    @property
    def end(self) -> int:
        """Behind the last byte; 0 when there is none."""
        return self._runs[-1].end if self._runs else 0

    @property
    def memory(self) -> int:
        """The bytes of memory that they count for."""
        return sum(len(run.data) + _OVERHEAD for run in self._runs)

    def write(self, offset: int, data: Buffer) -> None:
        """Add bytes, in place of older ones. At least one."""
        end = offset + len(data)
        low = bisect_left(self._runs, offset, key=_end)
        high = bisect_right(self._runs, end, low, key=_start)
        joined = self._runs[low:high]
        if joined and joined[0].start <= offset:
            run = joined[0]
            run.data[offset - run.start : end - run.start] = data
        else:
            run = _Run(offset, data)
        if joined and joined[-1] is not run:
            run.data += joined[-1].part(end, joined[-1].end)
        self._runs[low:high] = [run]

    def between(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """Copies of the bytes between `start` and `end`, each with its offset."""
        low, high = self._range(start, end)
        return [(max(start, run.start), run.part(start, end)) for run in self._runs[low:high]]

    def covers(self, start: int, end: int) -> bool:
        """Whether there is no gap between `start` and `end`."""
        low, high = self._range(start, end)
        return high - low == 1 and self._runs[low].start <= start and end <= self._runs[low].end

    def cut(self, start: int, end: int) -> None:
        """Take the bytes between `start` and `end` away."""
        low, high = self._range(start, end)
        runs = self._runs[low:high]
        left = [_Run(run.start, run.part(run.start, start)) for run in runs if run.start < start]
        left += [_Run(end, run.part(end, run.end)) for run in runs if run.end > end]
        self._runs[low:high] = left

    def _range(self, start: int, end: int) -> tuple[int, int]:
        """Where in the list the runs are that have bytes between `start` and `end`."""
        low = bisect_right(self._runs, start, key=_end)
        return low, bisect_left(self._runs, end, low, key=_start)


def _start(run: _Run) -> int:
    return run.start


def _end(run: _Run) -> int:
    return run.end
