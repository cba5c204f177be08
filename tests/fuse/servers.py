"""File servers for tests with real mounts: small ones, and one with every operation that notes what
it is asked.
"""

import errno
import stat
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import puffs
from tests.attach.toy import Unchecked
from tests.fuse.conftest import Notes


class Hello(puffs.FileSystem[str]):
    """Ten lines: one file that can be listed and read. Cookies are paths."""

    text: ClassVar[bytes] = b"Hello!\n"

    def mount(self) -> str:
        return "/"

    def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:
        if (dir, name) != ("/", "hello.txt"):
            raise FileNotFoundError(name)
        return "/hello.txt"

    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        if node == "/":
            return puffs.Attr(stat.S_IFDIR | 0o755, nlink=2)
        return puffs.Attr(stat.S_IFREG | 0o644, size=len(self.text))

    def readdir(self, dir: str, offset: int, file: object) -> list[str]:
        return ["hello.txt"]

    def read(self, node: str, offset: int, size: int, file: object) -> bytes:
        return self.text[offset : offset + size]


class Noting(Unchecked):
    """`Unchecked`, whose calls are noted: the operation, and those of its arguments that are plain.

    A host trusts none of its replies for longer than it takes to use them.
    """

    name_ttl: float = 0
    attr_ttl: float = 0

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        super().__init__()

    def _recorded(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            plain = [bytes(arg) if isinstance(arg, memoryview) else arg for arg in args]
            shown = [arg for arg in plain if isinstance(arg, int | str | bytes)]
            self.notes.add(name, *shown)
            return operation(*args)

        return call


class Cached(Noting):
    """The same, and the host may trust all it was told for ever."""

    name_ttl: float = puffs.FOREVER
    attr_ttl: float = puffs.FOREVER
    negative_ttl: float = puffs.FOREVER


class Many(puffs.FileSystem[int]):
    """A directory of `count` files, whose entries may know their positions. Cookies are numbers."""

    def __init__(self, count: int, *, positions: bool = False, plus: bool = False) -> None:
        self.numbers = list(range(1, count + 1))
        self.positions = positions
        self.plus = plus

    def mount(self) -> int:
        return 0

    def lookup(self, dir: int, name: str, cred: puffs.Cred) -> int:
        number = int(name.removeprefix("file ")) if name.startswith("file ") else 0
        if number not in self.numbers:
            raise FileNotFoundError(errno.ENOENT, name)
        return number

    def getattr(self, node: int, file: object = None) -> puffs.Attr:
        kind = stat.S_IFREG if node else stat.S_IFDIR
        return puffs.Attr(kind | 0o755, size=node, ino=node + 1000)

    def readdir(self, dir: int, offset: int, file: object) -> Iterator[puffs.DirEntry]:
        for number in list(self.numbers):
            if number > offset:
                entry = puffs.Entry(number, self.getattr(number)) if self.plus else None
                position = number if self.positions else 0
                yield puffs.DirEntry(
                    f"file {number:04}", stat.S_IFREG, number + 1000, position, entry
                )

    def remove(self, dir: int, name: str, cred: puffs.Cred) -> None:
        self.numbers.remove(self.lookup(dir, name, cred))

    def create(self, dir: int, name: str, attr: puffs.Attr, flags: int, cred: puffs.Cred) -> int:
        number = int(name.removeprefix("file "))
        self.numbers.append(number)
        self.numbers.sort()
        return number
