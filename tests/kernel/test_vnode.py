"""The vnode table: one vnode for a cookie, exact counts, each end once and at the right time."""

import threading
from collections import Counter
from collections.abc import Hashable
from errno import EEXIST, ENXIO, EPROTO, ESTALE
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puffs.kernel.vnode import OWN_IDS, ROOT_ID, VnodeTable
from puffs.server.errors import ProtocolFault
from tests.kernel.little import fails


class Table(VnodeTable):
    """A table with a root, and a record of what was made inactive and reclaimed."""

    def __init__(self, **kwargs: Any) -> None:
        self.ends: list[tuple[str, Hashable]] = []
        super().__init__(
            generation=9,
            inactive=lambda cookie: self.ends.append(("inactive", cookie)),
            reclaim=lambda cookie: self.ends.append(("reclaim", cookie)),
            **kwargs,
        )
        self.root = self.set_root("root")


def test_one_cookie_one_vnode() -> None:
    table = Table()
    first = table.adopt("a")
    assert table.adopt("a") is first
    assert table.find("a") is first
    assert table.adopt(("b", 1)) is table.adopt(("b", 1)), "equal cookies are the same file"
    assert len(table) == 3


@pytest.mark.statement("N7", "2.9b")
def test_the_last_forget_reclaims() -> None:
    table = Table()
    node = table.adopt("a")
    table.adopt("a")
    table.adopt("a")
    table.forget(node.nodeid, 2)
    assert table.ends == []
    table.forget(node.nodeid, 1)
    assert table.ends == [("reclaim", "a")]
    assert table.find("a") is None
    with fails(ESTALE):
        table.by_nodeid[node.nodeid]
    table.forget(node.nodeid, 1)
    assert table.ends == [("reclaim", "a")], "once"


def test_more_forgotten_than_was_told_ends_it_once() -> None:
    table = Table()
    node = table.adopt("a")
    table.forget(node.nodeid, 100)
    assert table.ends == [("reclaim", "a")]


@pytest.mark.statement("N6", "N7")
def test_an_open_file_outlives_its_lookups() -> None:
    table = Table()
    node = table.adopt("a")
    table.open(node)
    table.open(node)
    table.forget(node.nodeid, 1)
    assert table.ends == []
    table.close(node)
    assert table.ends == [], "still open"
    table.close(node)
    assert table.ends == [("inactive", "a"), ("reclaim", "a")]


@pytest.mark.statement("N6")
def test_inactive_comes_each_time_that_the_last_open_file_is_closed() -> None:
    table = Table()
    node = table.adopt("a")
    for _ in range(2):
        table.open(node)
        table.close(node)
    assert table.ends == [("inactive", "a")] * 2


@pytest.mark.statement("N7")
@pytest.mark.statement("U3")
def test_the_root_is_never_reclaimed() -> None:
    table = Table()
    table.forget(ROOT_ID, 1_000_000)
    table.open(table.root)
    table.close(table.root)
    assert table.ends == [("inactive", "root")]
    assert list(table.clear()) == []


def test_a_node_id_is_never_used_twice() -> None:
    table = Table()
    seen = {ROOT_ID}
    for _ in range(100):
        node = table.adopt("a")
        assert node.nodeid not in seen
        seen.add(node.nodeid)
        table.forget(node.nodeid, 1)


@pytest.mark.statement("N4")
def test_a_new_file_must_not_bring_a_cookie_that_is_in_use() -> None:
    table = Table()
    node = table.adopt("a")
    for cookie in ("a", "root"):
        with pytest.raises(ProtocolFault) as caught:
            table.adopt(cookie, new=True)
        fault = caught.value
        assert (fault.errno, fault.kind, fault.hint) == (EPROTO, "MAKENODE", EEXIST)
    assert node.lookups == 1, "the refused one is not counted"
    assert table.adopt("b", new=True).lookups == 1


def test_fileid_gives_node_ids_and_generations() -> None:
    table = Table(fileid=lambda cookie: (len(cookie) * 100, 7))
    node = table.adopt("abc")
    assert (node.nodeid, node.generation, node.ino) == (300, 7, 300)
    assert table.root.nodeid == ROOT_ID


def test_a_fileid_that_is_taken_gets_an_id_of_ours() -> None:
    table = Table(fileid=lambda cookie: (ROOT_ID if cookie == "liar" else 5, 0))
    first, second, liar = table.adopt("a"), table.adopt("b"), table.adopt("liar")
    assert first.nodeid == 5
    assert second.nodeid >= OWN_IDS
    assert liar.nodeid >= OWN_IDS
    assert second.ino == 5, "what is shown stays the file server's"


@pytest.mark.parametrize("reply", [(0, 0), (1 << 64, 0), (-1, 0), (5, -1), (5, 1 << 32)])
def test_an_impossible_fileid_is_a_protocol_fault(reply: tuple[int, int]) -> None:
    table = VnodeTable(generation=0, fileid=lambda cookie: reply)
    with pytest.raises(ProtocolFault, match="fileid"):
        table.adopt("a")
    assert len(table) == 0


def test_without_fileid_the_generation_is_the_mounts() -> None:
    assert Table().adopt("a").generation == 9


@pytest.mark.statement("U2")
def test_clear_ends_every_node_once() -> None:
    table = Table()
    known, opened = table.adopt("known"), table.adopt("open")
    table.open(opened)
    assert sorted(table.clear()) == [
        ("inactive", "open"),
        ("reclaim", "known"),
        ("reclaim", "open"),
    ]
    table.close(opened)
    table.forget(opened.nodeid, 1)
    table.forget(known.nodeid, 1)
    assert table.ends == [], "nothing comes a second time"
    assert len(table) == 0


@pytest.mark.statement("N15")
def test_nothing_is_made_of_a_mount_that_has_ended() -> None:
    table = Table()
    known = table.adopt("a")
    assert [name for name, _ in table.clear()] == ["reclaim"]
    with fails(ENXIO):
        table.adopt("a")
    with fails(ENXIO):
        table.adopt("b", table.root, "b", new=True)
    table.forget(known.nodeid, 1)
    assert (len(table), table.ends) == (0, [])


def test_busy_while_a_file_is_open() -> None:
    table = Table()
    node = table.adopt("a")
    assert not table.busy()
    table.open(node)
    assert table.busy()
    table.close(node)
    assert not table.busy()


@given(
    st.lists(st.tuples(st.sampled_from(("adopt", "forget", "open", "close")), st.integers(0, 2)))
)
def test_counts_are_exact(steps: list[tuple[str, int]]) -> None:
    """Whatever a host does: a node lives exactly while it is known or open."""
    table = Table()
    lookups: Counter[int] = Counter()
    opens: Counter[int] = Counter()
    nodes: dict[int, Any] = {}
    reclaimed: Counter[int] = Counter()
    for step, cookie in steps:
        if step == "adopt":
            nodes[cookie] = table.adopt(cookie)
            lookups[cookie] += 1
        elif step == "open" and lookups[cookie] + opens[cookie]:
            table.open(nodes[cookie])
            opens[cookie] += 1
        elif step == "forget" and lookups[cookie]:
            table.forget(nodes[cookie].nodeid, 1)
            lookups[cookie] -= 1
        elif step == "close" and opens[cookie]:
            table.close(nodes[cookie])
            opens[cookie] -= 1
        else:
            continue
        alive = bool(lookups[cookie] + opens[cookie])
        assert (table.find(cookie) is not None) is alive
        reclaimed[cookie] += not alive
    ends = Counter(cookie for what, cookie in table.ends if what == "reclaim")
    assert ends == +reclaimed


def test_threads_lose_no_count() -> None:
    table = Table()
    start = threading.Barrier(4)

    def use() -> None:
        start.wait()
        for _ in range(3000):
            node = table.adopt("a")
            table.open(node)
            table.forget(node.nodeid, 1)
            table.close(node)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.find("a") is None
    assert table.ends[-1] == ("reclaim", "a")
    assert table.ends.count(("reclaim", "a")) <= table.ends.count(("inactive", "a"))
