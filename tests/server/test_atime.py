"""When a read moves the time of access."""

import time
from stat import S_IFREG

import pytest

import puffs
from puffs.server.cred import requester

DAY = 86_400


class Reader:
    """Who reads, with or without O_NOATIME."""

    def __init__(self, quietly: bool = False) -> None:
        self.quietly = quietly

    def cred(self) -> puffs.Cred:
        return puffs.Cred(0, 0)

    def noatime(self) -> bool:
        return self.quietly


def file(atime: int, mtime: int, ctime: int) -> puffs.Attr:
    return puffs.Attr(S_IFREG | 0o644, atime_ns=atime, mtime_ns=mtime, ctime_ns=ctime)


@pytest.mark.parametrize(
    ("atime", "mtime", "ctime", "moves"),
    [
        (60, 70, 70, False),
        (60, 60, 70, True),
        (60, 50, 70, True),
        (60, 70, 50, True),
        (DAY - 60, 2 * DAY, 2 * DAY, False),
        (DAY + 60, 2 * DAY, 2 * DAY, True),
    ],
)
def test_it_moves_as_with_relatime(atime: int, mtime: int, ctime: int, moves: bool) -> None:
    """Times are given in seconds before now."""
    now = time.time_ns()
    times = [now - seconds * 10**9 for seconds in (atime, mtime, ctime)]
    attr = file(*times)
    due = puffs.mark_atime(attr)
    assert (attr.atime_ns >= now) == moves
    assert attr.atime_ns >= now or attr.atime_ns == times[0]
    assert due == attr.atime_ns + DAY * 10**9
    assert [attr.mtime_ns, attr.ctime_ns] == times[1:]


def test_it_stays_for_who_reads_quietly() -> None:
    attr = file(5, 10, 10)
    token = requester.set(Reader(quietly=True))
    try:
        assert puffs.mark_atime(attr) == 0
        assert attr.atime_ns == 5
        requester.set(Reader())
        assert puffs.mark_atime(attr) == attr.atime_ns + DAY * 10**9
        assert attr.atime_ns > 10
    finally:
        requester.reset(token)
