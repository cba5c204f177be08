"""Open directories: what `readdir` yields, in the order and with the positions that a host can rely
on.

A file server that gives each entry its own position (`DirEntry.next`) is asked to continue there.
For one that does not, the kernel half keeps what was yielded for as long as the directory is open,
so that seekdir(3) works and nothing is skipped or shown twice while the directory changes; a read
from position 0 (rewinddir) asks anew.

"." and ".." come first and are the kernel half's own.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from stat import S_IFDIR
from typing import Any, Final

from puffs.kernel import police
from puffs.server.errors import ProtocolFault
from puffs.server.types import Cookie, DirEntry

_DOT: Final = (1 << 63) - 2
"""Positions behind "." and ".." where the file server's own positions are used; beyond all of
those.
"""
_DOTDOT: Final = (1 << 63) - 1
_DOTS: Final = frozenset((".", ".."))

Readdir = Callable[[Cookie, int, object], Iterable[DirEntry | str]]


class Part(list[DirEntry | str]):
    """A part of a listing, where it comes in several: `more` asks for the next one, which has the
    rest; None: there is none.
    """

    more: Callable[[], Any] | None = None


class OpenDirectory:
    """One open directory.

    `file` is what `opendir` gave, `ino` and `parent_ino` are shown for "." and "..".
    """

    __slots__ = (
        "_ahead",
        "_dots",
        "_kept",
        "_more",
        "_own_positions",
        "_readdir",
        "_source",
        "cookie",
        "file",
    )

    def __init__(
        self, readdir: Readdir, cookie: Cookie, file: object, ino: int, parent_ino: int
    ) -> None:
        self.cookie = cookie
        self.file = file
        self._readdir = readdir
        self._dots = (DirEntry(".", S_IFDIR, ino, 1), DirEntry("..", S_IFDIR, parent_ino, 2))
        self._source: Iterator[DirEntry] | None = None
        self._kept: list[DirEntry] = []
        self._more: Callable[[], Any] | None = None
        """What asks for the next part of a listing that was given."""
        self._own_positions = False
        # With positions of the file server's own: the entry that was taken but found no room, and
        # where it stands.
        self._ahead: tuple[int, DirEntry] | None = None

    def entries(self, offset: int, *, given: bool = False) -> Iterator[tuple[int, DirEntry]]:
        """The entries from position `offset` on, each with the position behind it.

        The caller takes what it has room for; the last one it takes but cannot deliver is given
        again next time. `given` says that `give` was called where it is needed.
        """
        if given:
            return self._from_kept(offset)
        if offset == 0:
            self._start()
        elif self._source is None:
            self._start()
            if not self._own_positions:
                self._keep_until(offset - 2)
        if self._own_positions:
            return self._from_server(offset)
        return self._from_kept(offset)

    def rewind(self) -> None:
        """A read from the beginning comes next: what is kept is forgotten, and all asked anew."""
        self._source = self._more = None
        self._kept = []

    def needs(self, offset: int) -> bool:
        """Whether the file server is to be asked before a read from `offset`; and then again, for
        its answer may be a part.
        """
        return self._source is None or (self._more is not None and offset - 2 >= len(self._kept))

    def ask(self) -> Any:
        """What the file server's `readdir` returns: for `give`, when it has become a list."""
        if self._more is not None:
            return self._more()
        return self._readdir(self.cookie, 0, self.file)

    def give(self, listing: Iterable[DirEntry | str]) -> None:
        """Keep a listing, or a `Part` of one, of a file server that cannot be asked while it is
        delivered.
        """
        entries = (police.entry(reply, self.cookie) for reply in listing)
        new = [entry for entry in entries if entry.name not in _DOTS]
        self._kept += new
        self._more = listing.more if isinstance(listing, Part) else None
        if self._more is not None and not new:
            self.rewind()
            raise ProtocolFault("READDIR", "a part of a listing is empty", node=self.cookie)
        self._own_positions = False
        self._ahead = None
        self._source = iter(())

    def _start(self) -> None:
        """Ask the file server from the beginning, and see whose positions count."""
        self._kept = []
        self._ahead = None
        self._source = None
        source = self._ask(0)
        first = next(source, None)
        self._own_positions = first is not None and first.next > 0
        self._source = source
        if first is None:
            return
        if self._own_positions:
            self._ahead = (0, first)
        else:
            self._kept.append(first)

    def _ask(self, offset: int) -> Iterator[DirEntry]:
        cookie = self.cookie
        try:
            for reply in self._readdir(cookie, offset, self.file):
                entry = police.entry(reply, cookie)
                if entry.name not in _DOTS:
                    yield entry
        except Exception:
            # A listing that failed is over, but the directory is not: the next read asks anew.
            self._source = self._ahead = None
            raise

    def _keep_until(self, count: int) -> bool:
        """Take entries until `count` of them are kept. False when there are fewer."""
        missing = count - len(self._kept)
        if missing > 0 and self._source is not None:
            self._kept.extend(islice(self._source, missing))
        return len(self._kept) >= count

    def _from_kept(self, offset: int) -> Iterator[tuple[int, DirEntry]]:
        for position in range(offset, 2):
            yield position + 1, self._dots[position]
        position = max(offset, 2)
        if not self._keep_until(position - 2):
            return
        kept, source = self._kept, self._source
        # The node of an entry is told of at once or never: the next time it may be gone.
        while position - 2 < len(kept):
            entry = kept[position - 2]
            kept[position - 2] = _name_only(entry)
            position += 1
            yield position, entry
        for entry in source or ():
            kept.append(_name_only(entry))
            position += 1
            yield position, entry

    def _from_server(self, offset: int) -> Iterator[tuple[int, DirEntry]]:
        if offset == 0:
            yield _DOT, self._dots[0]
        if offset in (0, _DOT):
            yield _DOTDOT, self._dots[1]
        at = 0 if offset in (_DOT, _DOTDOT) else offset
        if self._ahead is not None and self._ahead[0] == at:
            entry: DirEntry | None = self._ahead[1]
        else:
            self._source = self._ask(at)
            entry = next(self._source, None)
        while entry is not None:
            if not 0 < entry.next < _DOT:
                raise ProtocolFault(
                    "READDIR",
                    f"readdir gave {entry.name!r} the position {entry.next}",
                    node=self.cookie,
                )
            self._ahead = (at, _name_only(entry))
            yield entry.next, entry
            at = entry.next
            assert self._source is not None
            entry = next(self._source, None)
        self._ahead = None


def _name_only(entry: DirEntry) -> DirEntry:
    if entry.entry is None:
        return entry
    return DirEntry(entry.name, entry.type, entry.ino, entry.next)
