"""Who is in the middle of a write(2), told by the WRITEs that it was made into."""

import pytest

from puffs.attach.fuse.writers import Writers

TID, NODE, OTHER = 1 << 30, 3, 4
PAGE = 4096
MAX_WRITE = 1 << 20


def yes() -> bool:
    return True


def no() -> bool:
    return False


def writers() -> Writers:
    """With a thread that was seen before."""
    found = Writers(MAX_WRITE)
    found.came(TID)
    return found


@pytest.mark.parametrize(
    ("offset", "size", "may_go_on"),
    [
        (100, PAGE - 100, True),  # ends with the page that it began within
        (100, 3 * PAGE - 100, True),  # pages may be large
        (100, 50, False),
        (0, PAGE, False),
        (PAGE, 2 * PAGE, False),
        (0, MAX_WRITE, True),
        (5, MAX_WRITE, False),
    ],
)
def test_a_write_that_ends_where_the_kernel_parts_them_may_go_on(
    offset: int, size: int, may_go_on: bool
) -> None:
    found = writers()
    found.wrote(TID, NODE, offset, size)
    assert found.unfinished(yes) is may_go_on
    assert found.goes_on(TID, NODE, offset + size) is may_go_on


def test_only_the_next_one_of_the_same_thread_at_that_place_is_the_rest() -> None:
    found = writers()
    found.wrote(TID, NODE, 100, PAGE - 100)
    found.came(TID + 1)
    assert not found.goes_on(TID + 1, NODE, PAGE)
    assert not found.goes_on(TID, OTHER, PAGE)
    assert not found.goes_on(TID, NODE, 2 * PAGE)
    assert found.goes_on(TID, NODE, PAGE)


def test_anything_else_that_a_thread_asks_for_shows_that_it_is_done() -> None:
    found = writers()
    found.wrote(TID, NODE, 100, PAGE - 100)
    found.came(TID)
    assert not found.unfinished(yes)
    assert not found.goes_on(TID, NODE, PAGE)


def test_the_rest_ends_it() -> None:
    found = writers()
    found.wrote(TID, NODE, 100, PAGE - 100)
    found.wrote(TID, NODE, PAGE, 904)
    assert not found.unfinished(yes)


def test_the_rest_is_waited_for_as_long_as_it_may_come() -> None:
    found = writers()
    with open("/proc/thread-self/stat") as stat:
        me = int(stat.read().split()[0])
    found.wrote(TID, NODE, 100, PAGE - 100)  # there is no such thread
    assert found.unfinished(yes)
    assert not found.unfinished(no)
    found.wrote(me, NODE, 100, PAGE - 100)
    assert found.unfinished(no)


def test_what_is_first_seen_at_a_page_may_have_begun_before() -> None:
    found = Writers(MAX_WRITE)
    assert found.goes_on(TID, NODE, PAGE)
    assert not found.goes_on(TID, NODE, PAGE + 1)
    assert not found.goes_on(TID, NODE, 0)
