"""Files that are forgotten and keep their numbers (`remember`), by a clock of the test's own."""

import gc

import pytest

from puffs.refuse.remembering import Remembered
from puffs.server.path_nodes import Names


class Tree:
    """A tree of names, and what is remembered of it for ten seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.names = Names(False)
        operations = Remembered(self.names, 10.0, lambda: self.now).operations()
        self._fileid, self._reclaim = operations["fileid"], operations["reclaim"]

    def number(self, name: str) -> int:
        """Look a name up, have its number, and forget it."""
        node = self.names.adopt((self.names.root, name))
        number: int = self._fileid(node)[0]
        self._reclaim(node)
        return number


@pytest.mark.parametrize(("later", "same"), [(0.0, True), (9.0, True), (10.0, False)])
def test_a_number_stays_for_as_long_as_was_asked(later: float, same: bool) -> None:
    tree = Tree()
    first = tree.number("a")
    tree.now = later
    tree.number("b")
    gc.collect()
    assert (tree.number("a") == first) == same


def test_what_is_looked_up_again_is_remembered_anew() -> None:
    tree = Tree()
    first = tree.number("a")
    for tree.now in (9.0, 18.0, 27.0):
        assert tree.number("a") == first


def test_a_file_that_has_lost_its_name_is_not_kept() -> None:
    tree = Tree()
    first = tree.number("a")
    node = tree.names.adopt((tree.names.root, "a"))
    tree.names.leave(node.place, node)
    del node
    assert tree.number("a") != first
