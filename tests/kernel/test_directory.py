"""Open directories: every entry once, in positions that stay, however a host reads."""

import stat
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import puffs
from puffs.kernel.directory import OpenDirectory
from puffs.server.errors import ProtocolFault

Listing = list[tuple[int, puffs.DirEntry]]


class Server:
    """A directory of `names`; with `positions` each entry has one of the file server's own."""

    def __init__(self, names: Iterable[str], positions: bool) -> None:
        self.names = list(names)
        self.positions = positions
        self.asked: list[int] = []
        self.fails_at = -1

    def readdir(self, cookie: object, offset: int, file: object) -> Iterable[puffs.DirEntry | str]:
        self.asked.append(offset)
        for number, name in enumerate(list(self.names)):
            if number == self.fails_at:
                raise OSError(5, "no more for now")
            if not self.positions:
                yield name
            elif number >= offset:
                yield puffs.DirEntry(name, stat.S_IFREG, next=number + 1)

    def open(self) -> OpenDirectory:
        return OpenDirectory(self.readdir, "cookie", "file", 20, 10)


def take(directory: OpenDirectory, offset: int, count: int) -> Listing:
    """What a host reads that has room for `count` entries: one more is taken, and does not fit."""
    taken: Listing = []
    for position, entry in directory.entries(offset):
        if len(taken) == count:
            break
        taken.append((position, entry))
    return taken


def read_all(directory: OpenDirectory, counts: Iterable[int] = ()) -> list[str]:
    """All names from the start, in reads of so many entries each; the rest by threes."""
    sizes = iter(counts)
    offset, names = 0, []
    while batch := take(directory, offset, next(sizes, 3)):
        names += [entry.name for _, entry in batch]
        offset = batch[-1][0]
    return names


both = pytest.mark.parametrize("positions", [False, True], ids=["kept", "own"])


@both
def test_dots_come_first_and_are_ours(positions: bool) -> None:
    directory = Server([".", "..", "a"], positions).open()
    (_, dot), (_, dotdot), (_, only) = take(directory, 0, 10)
    assert (dot.name, dot.type, dot.ino) == (".", stat.S_IFDIR, 20)
    assert (dotdot.name, dotdot.type, dotdot.ino) == ("..", stat.S_IFDIR, 10)
    assert only.name == "a"


@both
def test_an_empty_directory_has_dots_only(positions: bool) -> None:
    assert read_all(Server([], positions).open()) == [".", ".."]


@pytest.mark.statement("N8")
@given(
    names=st.integers(0, 12),
    counts=st.lists(st.integers(1, 5)),
    positions=st.booleans(),
)
def test_every_entry_once_however_it_is_read(
    names: int, counts: list[int], positions: bool
) -> None:
    expected = [f"n{number}" for number in range(names)]
    assert read_all(Server(expected, positions).open(), counts) == [".", "..", *expected]


@pytest.mark.statement("N8")
@both
def test_reading_goes_on_from_any_position(positions: bool) -> None:
    """seekdir(3): the position behind an entry leads to the next one, at any time."""
    names = [f"n{number}" for number in range(6)]
    directory = Server(names, positions).open()
    listing = take(directory, 0, 100)
    for index, (position, _) in reversed(list(enumerate(listing))):
        rest = [entry.name for _, entry in take(directory, position, 100)]
        assert rest == [entry.name for _, entry in listing[index + 1 :]]


@both
def test_a_position_is_good_in_a_directory_that_was_not_read(positions: bool) -> None:
    server = Server(["a", "b", "c"], positions)
    behind_a = take(server.open(), 0, 100)[2][0]
    assert [entry.name for _, entry in take(server.open(), behind_a, 9)] == ["b", "c"]


def test_own_positions_are_handed_back() -> None:
    server = Server(["a", "b", "c"], True)
    directory = server.open()
    batch = take(directory, 0, 3)
    assert batch[-1][1].name == "a"
    server.asked.clear()
    assert batch[-1][0] == 1
    assert [entry.name for _, entry in take(directory, 1, 9)] == ["b", "c"]
    assert server.asked == [], "what found no room is still at hand"
    take(directory, 2, 9)
    assert server.asked == [2]


@both
def test_what_was_listed_stays_while_the_directory_changes(positions: bool) -> None:
    server = Server(["a", "b", "c", "d"], positions)
    directory = server.open()
    first = take(directory, 0, 4)
    server.names.remove("a" if not positions else "d")
    rest = [entry.name for _, entry in take(directory, first[-1][0], 9)]
    assert [entry.name for _, entry in first] + rest in (
        [".", "..", "a", "b", "c"],
        [".", "..", "a", "b", "c", "d"],
    )


@both
def test_rewinding_asks_anew(positions: bool) -> None:
    server = Server(["a"], positions)
    directory = server.open()
    assert read_all(directory) == [".", "..", "a"]
    server.names = ["b", "c"]
    assert read_all(directory) == [".", "..", "b", "c"]


@both
@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_listing_that_failed_is_not_taken_for_a_short_one(positions: bool, fails_at: int) -> None:
    server = Server(["a", "b", "c"], positions)
    directory = server.open()
    server.fails_at = fails_at
    for _ in range(2):
        with pytest.raises(OSError, match="no more"):
            take(directory, 0, 9)
    server.fails_at = -1
    assert read_all(directory) == [".", "..", "a", "b", "c"]


@both
def test_after_a_failure_reading_goes_on_where_it_was(positions: bool) -> None:
    server = Server(["a", "b", "c"], positions)
    directory = server.open()
    server.fails_at = 2
    listing = []
    with pytest.raises(OSError, match="no more"):  # noqa: PT012
        for item in directory.entries(0):
            listing.append(item)
    position = listing[-1][0]
    for offset in (listing[-2][0], position):
        with pytest.raises(OSError, match="no more"):
            take(directory, offset, 9)
    server.fails_at = -1
    assert [entry.name for _, entry in take(directory, position, 9)] == ["c"]


@pytest.mark.statement("2.7")
@pytest.mark.parametrize("position", [0, -1, (1 << 63) - 2, 1 << 64])
def test_positions_that_cannot_be_are_refused(position: int) -> None:
    def readdir(cookie: object, offset: int, file: object) -> Iterable[puffs.DirEntry]:
        return [puffs.DirEntry("a", next=1), puffs.DirEntry("b", next=position)]

    with pytest.raises(ProtocolFault) as caught:
        take(OpenDirectory(readdir, "c", None, 1, 1), 0, 9)
    assert caught.value.kind == "READDIR"


def test_the_file_of_opendir_comes_back() -> None:
    seen: list[tuple[object, int, object]] = []

    def readdir(cookie: object, offset: int, file: object) -> Iterable[str]:
        seen.append((cookie, offset, file))
        return ()

    take(OpenDirectory(readdir, "c", "mine", 1, 1), 0, 9)
    assert seen == [("c", 0, "mine")]
