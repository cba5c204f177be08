"""Programs that work on a mount while it is suspended and resumed.

Each ends when its standard input does, and says "ok" if all went well.
"""

import mmap
import os
import select
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

FILE_RECORDS: Final = 400
"""Records after which the appender empties its file and starts anew."""


class Journal:
    """What the appender has done, in memory that others see: how many records it has begun and how
    many it has written, and the number of the first one in its file.
    """

    _layout = struct.Struct("=QQQ")

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(self._layout.size)
            self._memory = mmap.mmap(file.fileno(), self._layout.size)

    def read(self) -> tuple[int, int, int]:
        """Begun, written, first in the file."""
        begun, written, first = self._layout.unpack(self._memory)
        return begun, written, first

    def begun(self, number: int) -> None:
        self._memory[0:8] = number.to_bytes(8, sys.byteorder)

    def written(self, number: int) -> None:
        self._memory[8:16] = number.to_bytes(8, sys.byteorder)

    def first(self, number: int) -> None:
        self._memory[16:24] = number.to_bytes(8, sys.byteorder)


def record(number: int, size: int) -> bytes:
    """The record with that number."""
    return (b"%012d\n" % number * (size // 13 + 1))[:size]


def records(data: bytes, size: int) -> range:
    """The numbers of the records in `data`, which must be whole, right and in order."""
    assert len(data) % size == 0, f"{len(data)} bytes are no whole records"
    first = int(data[:12]) if data else 0
    numbers = range(first, first + len(data) // size)
    assert data == b"".join(record(number, size) for number in numbers)
    return numbers


def go_on() -> bool:
    return not select.select([0], [], [], 0)[0]


def append(path: str, journal_path: str, size: str) -> None:
    """Append records, and now and then begin anew."""
    journal = Journal(Path(journal_path))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while go_on():
        if number and number % FILE_RECORDS == 0:
            journal.first(number)
            os.ftruncate(fd, 0)
        data = record(number, int(size))
        number += 1
        journal.begun(number)
        assert os.write(fd, data) == len(data)
        journal.written(number)
    os.close(fd)


def truncate(path: str) -> None:
    """Make a file longer and shorter, and look whether it is as long as it was made."""
    with open(path, "w+b", buffering=0) as file:
        size = 0
        while go_on():
            size = (size * 7 + 1234) % 100_000
            file.truncate(size)
            assert os.fstat(file.fileno()).st_size == size
            assert file.write(b"x") == 1


def read(path: str) -> None:
    """Read a file from beginning to end, past what is cached, so that the kernel reads ahead."""
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    while go_on():
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        at = 0
        while at < size:
            data = os.pread(fd, 1 << 16, at)
            assert data.strip(b"r") == b""
            at += len(data)


def store(path: str) -> None:
    """Write to a file through memory that it is mapped to."""
    with open(path, "w+b") as file:
        file.truncate(1 << 20)
        with mmap.mmap(file.fileno(), 1 << 20) as memory:
            number = 0
            while go_on():
                number += 1
                for at in range(0, 1 << 20, 1 << 14):
                    memory[at : at + 8] = number.to_bytes(8, "little")


def names(path: str) -> None:
    """Make, move and remove."""
    os.mkdir(path)
    number = 0
    while go_on():
        number += 1
        with open(f"{path}/{number}", "w"):
            pass
        os.rename(f"{path}/{number}", f"{path}/moved")
        os.link(f"{path}/moved", f"{path}/also")
        assert sorted(os.listdir(path)) == ["also", "moved"]
        os.unlink(f"{path}/moved")
        os.unlink(f"{path}/also")


PROGRAMS: Final = {
    function.__name__: function for function in (append, truncate, read, store, names)
}


class Program:
    """One of `PROGRAMS`, at work in a process of its own."""

    def __init__(self, name: str, *arguments: str | Path) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, name, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> str:
        """Have it end; what it says."""
        output, _ = self._process.communicate(timeout=60)
        return output

    def kill(self) -> None:
        """End it in any case."""
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
    print("ok")
