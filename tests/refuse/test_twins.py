"""Servers written for other libraries: on puffs callers see what they see on the libraries."""

import fnmatch

import pytest

from tests.needs import cannot
from tests.refuse.different import DIFFERENT, reason_for
from tests.refuse.stage import STOCK_PYTHON
from tests.refuse.twins import TWINS, answers, differences, recorded

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(200)]

LONG = ("* use_ino", "* nothreads", "pyfuse3 tmpfs")
"""Servers of `make test-full`: others are much like them."""

SOME = [
    pytest.param(name, marks=pytest.mark.slow)
    if any(fnmatch.fnmatchcase(name, each) for each in LONG)
    else name
    for name in TWINS
]


@pytest.mark.parametrize("name", SOME)
def test_callers_see_the_same_on_puffs(name: str) -> None:
    found = answers(TWINS[name], stock=False)
    assert not list(differences(name, recorded(name), found))


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_the_libraries_still_answer_what_was_recorded(name: str) -> None:
    if not STOCK_PYTHON.exists():
        cannot(f"{STOCK_PYTHON} is missing: `make test-full` makes it")
    assert answers(TWINS[name], stock=True) == recorded(name)


def test_each_difference_is_of_something_recorded() -> None:
    names = {
        (name, case, label)
        for name in TWINS
        for case, labels in recorded(name).items()
        for label in labels
    }
    for row in DIFFERENT:
        assert any(reason_for(*each) == row.reason for each in names), row
