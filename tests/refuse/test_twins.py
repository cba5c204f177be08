"""Servers written for other libraries: on puffs callers see what they see on the libraries."""

import fnmatch

import pytest

from tests.needs import cannot
from tests.refuse.different import DIFFERENT, row_for
from tests.refuse.stage import STOCK_PYTHON
from tests.refuse.twins import TWINS, answers, differences, otherwise, recorded

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(200)]

LONG = (
    "* use_ino",
    "* nothreads",
    "pyfuse3 tmpfs",
    "pyfuse3 tmpfs writeback",
    "* devices omits",
    "* kernel_cache",
)
"""Servers of `make test-full`: others are much like them."""

SOME = [
    pytest.param(name, marks=pytest.mark.slow)
    if any(fnmatch.fnmatchcase(name, each) for each in LONG)
    else name
    for name in TWINS
]


@pytest.mark.parametrize("name", SOME)
def test_callers_see_the_same_on_puffs(name: str) -> None:
    assert not list(differences(name, answers(TWINS[name], stock=False)))


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_the_libraries_still_answer_what_was_recorded(name: str) -> None:
    if not STOCK_PYTHON.exists():
        cannot(f"{STOCK_PYTHON} is missing: `make test-full` makes it")
    assert answers(TWINS[name], stock=True) == recorded(name)


def test_each_difference_has_a_reason_and_each_reason_a_difference() -> None:
    places = [
        (name, case, label)
        for name in TWINS
        for case, labels in otherwise(name).items()
        for label in labels
    ]
    reasons = {place: row_for(*place) for place in places}
    assert [place for place, row in reasons.items() if row is None] == []
    assert [row for row in DIFFERENT if row not in reasons.values()] == []


def test_what_is_answered_otherwise_is_not_what_the_library_answers() -> None:
    for name in TWINS:
        theirs = recorded(name)
        for case, labels in otherwise(name).items():
            for label, answer in labels.items():
                assert theirs.get(case, {}).get(label) != answer, (name, case, label)
