"""Sparse contents of a file in memory: what was written takes room, holes take none."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

CHUNK: Final = 1 << 16
"""Bytes are kept in pieces of up to this size; so they are in images, whose format fixes it."""

_ZEROS: Final = bytes(CHUNK)


class Extents:
    """The contents of one file, without its size, which is the caller's.

    Chunk `n` holds the bytes from `n * CHUNK` on and is as long as what was stored in it: a small
    file is one short chunk. What is behind the end of a chunk, and a chunk that is not there, is a
    hole and reads as zeros. `allocated` is the number of bytes that are kept.

    The caller reads up to the end of his file, and punches what is behind it when it shrinks. So
    what is kept behind the end (FALLOC_FL_KEEP_SIZE of fallocate(2)) is zeros, and a file that
    grows shows nothing old.

    Threads: one at a time may change the contents or seek in them; any number may read meanwhile,
    with a GIL or without. A reader finds a chunk once and then looks at that object only, and a
    chunk never changes its length: a longer or shorter one takes its place. (Python moves a
    bytearray that grows, also while another thread copies it, where there is no GIL.)
    """

    __slots__ = ("_chunks", "_order", "allocated")

    def __init__(self) -> None:
        self.allocated = 0
        self._chunks: dict[int, bytearray] = {}
        # The numbers of all chunks in order, made when a seek needs them; None once that changed.
        self._order: list[int] | None = None

    @property
    def blocks(self) -> int:
        """What is kept, in the 512 bytes each that `st_blocks` counts."""
        return (self.allocated + 511) >> 9

    def read(self, offset: int, size: int) -> bytes | bytearray:
        """`size` bytes from `offset`; a private copy."""
        index, start = divmod(offset, CHUNK)
        end = start + size
        chunk = self._chunks.get(index)
        if chunk is not None and end <= len(chunk):
            return chunk[start:end]
        parts: list[bytes | bytearray] = []
        for index, start, end in _pieces(offset, size):
            stored = self._chunks.get(index, b"")
            if end - start == CHUNK == len(stored):
                parts.append(stored)
                continue
            piece = stored[start:end]
            parts.append(piece)
            parts.append(_ZEROS[: end - start - len(piece)])
        return b"".join(parts)

    def write(self, offset: int, data: bytes | bytearray | memoryview, room: int) -> int:
        """Store as much of `data` as `room` new bytes allow; returns how much that was."""
        chunks = self._chunks
        size = len(data)
        done = 0
        while done < size:
            index, start = divmod(offset + done, CHUNK)
            end = min(start + size - done, CHUNK)
            chunk = chunks.get(index)
            have = 0 if chunk is None else len(chunk)
            if end - have > room:
                end = have + room
                if end <= start:
                    break
            piece = data[done : done + end - start]
            try:
                if chunk is None:
                    chunks[index] = bytearray(piece) if start == 0 else bytearray(start) + piece
                    self._order = None
                elif end - start == CHUNK:
                    chunks[index] = bytearray(piece)
                elif end <= have:
                    chunk[start:end] = piece
                else:
                    longer = chunk[:start]
                    longer += bytes(start - len(longer))
                    longer += piece
                    chunks[index] = longer
            except MemoryError:
                # Each of these is done whole or not at all: what was stored before it counts.
                if done:
                    break
                raise
            if end > have:
                self.allocated += end - have
                room -= end - have
            done += end - start
        return done

    def missing(self, offset: int, size: int) -> int:
        """How many new bytes `reserve` or `write` of this range would take."""
        chunks = self._chunks
        return sum(max(0, end - len(chunks.get(i, b""))) for i, _, end in _pieces(offset, size))

    def reserve(self, offset: int, size: int) -> None:
        """Keep every byte of the range, so that writing it takes no room. Holes become zeros."""
        for index, _, end in _pieces(offset, size):
            chunk = self._chunks.get(index)
            if chunk is None:
                self._chunks[index] = bytearray(end)
                self._order = None
                self.allocated += end
            elif len(chunk) < end:
                grown = end - len(chunk)
                longer = chunk[:]
                longer += bytes(grown)
                self._chunks[index] = longer
                self.allocated += grown

    def zero(self, offset: int, size: int) -> None:
        """Overwrite a range that is reserved with zeros."""
        for index, start, end in _pieces(offset, size):
            self._chunks[index][start:end] = _ZEROS[: end - start]

    def punch(self, offset: int, size: int) -> None:
        """Make the range read as zeros; give back whole chunks of it, and ends of chunks."""
        first, start = divmod(offset, CHUNK)
        last, end = divmod(offset + size, CHUNK)
        if first == last:
            self._cut(first, start, end)
            return
        if start:
            self._cut(first, start, CHUNK)
            first += 1
        self._cut(last, 0, end)
        whole = range(first, last)
        chunks = self._chunks
        if len(whole) < len(chunks):
            gone = [index for index in whole if index in chunks]
        else:
            gone = [index for index in chunks if index in whole]
        for index in gone:
            self._cut(index, 0, CHUNK)

    def next_data(self, offset: int) -> int | None:
        """The first byte at or after `offset` that is kept; None when there is none."""
        index, start = divmod(offset, CHUNK)
        if start < len(self._chunks.get(index, b"")):
            return offset
        order = self._order
        if order is None:
            order = self._order = sorted(self._chunks)
        place = bisect_right(order, index)
        return order[place] * CHUNK if place < len(order) else None

    def next_hole(self, offset: int) -> int:
        """The first byte at or after `offset` that is not kept."""
        index, start = divmod(offset, CHUNK)
        while (have := len(self._chunks.get(index, b""))) == CHUNK:
            index, start = index + 1, 0
        return index * CHUNK + max(start, have)

    def chunks(self) -> Iterator[tuple[int, bytearray]]:
        """What is kept, in order: pieces with their offsets. Nobody may change anything meanwhile.

        A piece is kept by one `write` of it.
        """
        for index in sorted(self._chunks):
            yield index * CHUNK, self._chunks[index]

    def _cut(self, index: int, start: int, end: int) -> None:
        """Take a range out of one chunk: its end is given back, its middle becomes zeros."""
        chunk = self._chunks.get(index)
        if chunk is None or start >= len(chunk) or start == end:
            return
        if end < len(chunk):
            chunk[start:end] = _ZEROS[: end - start]
            return
        if start:
            self._chunks[index] = chunk[:start]
        else:
            del self._chunks[index]
            self._order = None
        self.allocated -= len(chunk) - start


def _pieces(offset: int, size: int) -> Iterator[tuple[int, int, int]]:
    """A range chunk by chunk: the chunk's number, and where the range starts and ends in it."""
    index, start = divmod(offset, CHUNK)
    while size > 0:
        end = min(start + size, CHUNK)
        yield index, start, end
        size -= end - start
        index, start = index + 1, 0
