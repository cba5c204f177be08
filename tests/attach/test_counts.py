"""Lookup counts: what the kernel half counts is what the kernel was told and has not forgotten.

A kernel does whatever it likes, in any order; a model keeps the books a second time.
"""

import os
import stat
from collections import Counter
from functools import partial
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import puffs
from puffs.attach.fuse import abi, compiled
from puffs.attach.fuse.abi import Opcode
from tests.attach.fake_kernel import PATIENCE, ROOT, FakeKernel, request_body
from tests.attach.toy import ROOT as ROOT_COOKIE
from tests.attach.toy import Toy

NAMES = [b"a", b"b", b"file", b"dir"]
Names = st.sampled_from(NAMES)
IFREG, IFDIR = stat.S_IFREG, stat.S_IFDIR

MAKING: dict[Opcode, dict[str, int]] = {
    Opcode.CREATE: {"mode": IFREG | 0o644, "flags": os.O_RDWR},
    Opcode.MKNOD: {"mode": IFREG | 0o644},
    Opcode.MKDIR: {"mode": 0o755},
    Opcode.SYMLINK: {},
    Opcode.TMPFILE: {"mode": IFREG | 0o600, "flags": os.O_RDWR},
}


class WithIds(Toy):
    """Node ids are the file server's own."""

    def fileid(self, node: int) -> tuple[int, int]:
        return node, 5


class SameIds(Toy):
    """All files have the same number."""

    def fileid(self, node: int) -> tuple[int, int]:
        return 5, node


class Looking(Toy):
    """Its listing says how attributes are found, and does not find them."""

    def __init__(self) -> None:
        super().__init__()
        self.looked: list[str] = []

    def readdir(self, dir: int, offset: int, file: object) -> Any:
        for name in ("file", "gone", "dir"):
            yield puffs.DirEntry(name, entry=partial(self.look, dir, name))

    def look(self, dir: int, name: str) -> puffs.Entry | None:
        self.looked.append(name)
        if name == "gone":
            return None
        node = self.names[dir, name]
        return puffs.Entry(node, self.attrs[node])


def test_attributes_in_a_listing_are_looked_for_when_a_host_wants_them() -> None:
    toy = Looking()
    with FakeKernel(toy) as kernel:
        fh = kernel.ask(Opcode.OPENDIR, ROOT).fields(Opcode.OPENDIR)["fh"]
        plain = kernel.listing(ROOT, fh)
        assert [entry.name for entry in plain] == [b".", b"..", b"file", b"gone", b"dir"]
        assert toy.looked == []
        plus = kernel.listing(ROOT, fh, plus=True)
        assert [entry.name for entry in plus if entry.nodeid] == [b"file", b"dir"]
        assert toy.looked == ["file", "gone", "dir"]
        assert kernel.lookup(b"file") == plus[2].nodeid


class Namesakes(Toy):
    """Has methods that are called as those of other kinds of file servers are."""

    def fill(self) -> None:
        raise AssertionError("nobody asks for this")

    def forgotten(self) -> None:
        raise AssertionError("nobody tells this")


def test_only_who_derives_from_it_counts_and_fills_for_itself() -> None:
    with FakeKernel(Namesakes()) as kernel:
        fh = kernel.ask(Opcode.OPENDIR, ROOT).fields(Opcode.OPENDIR)["fh"]
        names = [entry.name for entry in kernel.listing(ROOT, fh, plus=True)]
        assert names[:2] == [b".", b".."]
        assert b"file" in names
        node = kernel.lookup(b"file")
        kernel.tell(Opcode.FORGET, node, nlookup=1)
        assert kernel.until_quiet() == []


def test_a_number_that_is_taken_is_replaced_by_one_of_this_mount_alone() -> None:
    generations = set()
    for _ in range(2):
        with FakeKernel(SameIds()) as kernel:
            entries = [
                kernel.entry(Opcode.LOOKUP, ROOT, name) for name in (b"file", b"dir", b"link")
            ]
            assert (entries[0]["nodeid"], entries[0]["generation"]) == (5, 101)
            numbers = {entry["nodeid"] for entry in entries}
            assert len(numbers) == 3
            # A handle of this mount must open nothing in the next one.
            assert entries[1]["generation"] == entries[2]["generation"]
            generations.add(entries[1]["generation"])
            for entry in entries:
                attr = kernel.ask(Opcode.GETATTR, entry["nodeid"]).fields(Opcode.GETATTR)
                assert attr["attr_mode"] == entry["attr_mode"]
    assert len(generations) == 2


class Counts(RuleBasedStateMachine):
    """What was told and not forgotten, by node id; what is open, by `fh`; and what must have been
    called.
    """

    toy_class: type[Toy] = Toy
    plain = False  # which loop serves

    def __init__(self) -> None:
        super().__init__()
        self.toy = self.toy_class()
        with mock.patch.dict(os.environ, {compiled.PURE: "1" if self.plain else "0"}):
            self.kernel = FakeKernel(self.toy)
            assert self.kernel.ready.wait(PATIENCE)
        self.lookups: Counter[int] = Counter()
        self.modes: dict[int, int] = {ROOT: IFDIR}
        self.files: dict[int, int] = {}
        self.directories: dict[int, int] = {}
        self.cookies: dict[int, int] = {ROOT: ROOT_COOKIE}
        self.ever: dict[int, int] = {}
        self.reclaimed: Counter[int] = Counter()
        self.inactive: Counter[int] = Counter()

    def teardown(self) -> None:
        left = {cookie for nodeid, cookie in self.cookies.items() if nodeid != ROOT}
        opened = {
            self.cookies[nodeid] for nodeid in (*self.files.values(), *self.directories.values())
        }
        self.kernel.close()
        if self.kernel.failure is not None:
            raise self.kernel.failure
        # The end reclaims what is left, once, and makes inactive what is open, once.
        self.reclaimed.update(left)
        self.inactive.update(opened)
        self.check_calls()

    # ------------------------------------------------------------------------------- the books

    def told(self, entry: dict[str, Any], cookie: int) -> int:
        """The kernel was told of a node once more."""
        nodeid: int = entry["nodeid"]
        assert nodeid not in (0, ROOT)
        if nodeid not in self.cookies and self.toy_class is Toy:
            assert nodeid not in self.ever, "a node id was given twice"
        assert self.cookies.setdefault(nodeid, cookie) == cookie
        assert sum(known == cookie for known in self.cookies.values()) == 1
        self.ever[nodeid] = cookie
        self.lookups[nodeid] += 1
        self.modes[nodeid] = stat.S_IFMT(entry["attr_mode"])
        return nodeid

    def is_open(self, nodeid: int) -> bool:
        return nodeid in self.files.values() or nodeid in self.directories.values()

    def settle(self, nodeid: int) -> None:
        """Nobody may know a node any more."""
        if nodeid != ROOT and not self.lookups[nodeid] and not self.is_open(nodeid):
            del self.lookups[nodeid]
            self.reclaimed[self.cookies.pop(nodeid)] += 1

    def forgotten(self, nodeid: int, lookups: int) -> None:
        self.lookups[nodeid] -= lookups
        self.settle(nodeid)

    def closed(self, nodeid: int) -> None:
        if not self.is_open(nodeid):
            self.inactive[self.cookies[nodeid]] += 1
            self.settle(nodeid)

    def pick(self, data: st.DataObject, *, kind: int = 0, root: bool = True) -> int:
        """A node that the kernel knows."""
        known = [node for node, number in self.lookups.items() if number]
        known += [ROOT] if root else []
        if kind:
            known = [node for node in known if self.modes[node] == kind]
        return data.draw(st.sampled_from(sorted(known)))

    def knows(self, kind: int = 0) -> bool:
        return any(
            number and (not kind or self.modes[node] == kind)
            for node, number in self.lookups.items()
        )

    # --------------------------------------------------------------------------------- requests

    @initialize()
    def begin(self) -> None:
        self.check()

    @rule(data=st.data(), name=Names)
    def lookup(self, data: st.DataObject, name: bytes) -> None:
        parent = self.pick(data, kind=IFDIR)
        cookie = self.toy.names.get((self.cookies[parent], name.decode()))
        reply = self.kernel.ask(Opcode.LOOKUP, parent, name)
        assert bool(reply.error) == (cookie is None)
        if cookie is not None:
            self.told(reply.fields(Opcode.LOOKUP), cookie)

    @rule(data=st.data(), opcode=st.sampled_from(sorted(MAKING)), name=Names)
    def make(self, data: st.DataObject, opcode: Opcode, name: bytes) -> None:
        parent = self.pick(data, kind=IFDIR)
        names = [name, b"target"] if opcode is Opcode.SYMLINK else [name]
        body = request_body(opcode, MAKING[opcode], names, b"")
        reply = self.kernel.exchange(opcode, parent, body)
        if reply.error:
            return
        cookie = max(self.toy.attrs)
        fields = reply.fields(opcode)
        if "entry_nodeid" in fields:
            entry = {key.removeprefix("entry_"): value for key, value in fields.items()}
            self.files[fields["open_fh"]] = self.told(entry, cookie)
        else:
            self.told(fields, cookie)

    @precondition(lambda self: self.knows(IFREG))
    @rule(data=st.data(), name=Names)
    def link(self, data: st.DataObject, name: bytes) -> None:
        parent, node = self.pick(data, kind=IFDIR), self.pick(data, kind=IFREG, root=False)
        reply = self.kernel.ask(Opcode.LINK, parent, name, oldnodeid=node)
        if not reply.error:
            assert self.told(reply.fields(Opcode.LINK), self.cookies[node]) == node

    @rule(data=st.data(), name=Names, opcode=st.sampled_from([Opcode.UNLINK, Opcode.RMDIR]))
    def remove(self, data: st.DataObject, name: bytes, opcode: Opcode) -> None:
        self.kernel.ask(opcode, self.pick(data, kind=IFDIR), name)

    @precondition(lambda self: self.knows(IFREG))
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        node = self.pick(data, kind=IFREG, root=False)
        self.files[self.kernel.open(node, flags=os.O_RDWR)] = node

    @rule(data=st.data())
    def opendir(self, data: st.DataObject) -> None:
        node = self.pick(data, kind=IFDIR)
        self.directories[self.kernel.open(node, Opcode.OPENDIR)] = node

    @precondition(lambda self: self.directories)
    @rule(data=st.data(), size=st.sampled_from([0, 160, 320, 4096]), offset=st.integers(0, 8))
    def readdirplus(self, data: st.DataObject, size: int, offset: int) -> None:
        fh = data.draw(st.sampled_from(sorted(self.directories)))
        node = self.directories[fh]
        reply = self.kernel.ask(Opcode.READDIRPLUS, node, fh=fh, size=size, offset=offset)
        assert reply.error == 0
        assert len(reply.body) <= size
        at = 0
        while at < len(reply.body):
            entry = abi.ENTRY_OUT.unpack(reply.body, at)
            _, _, length, _ = abi.DIRENT.struct.unpack_from(reply.body, at + abi.ENTRY_OUT.size)
            at += abi.direntplus_size(length)
            if entry["nodeid"]:
                self.told(entry, self.ever.get(entry["nodeid"], self.found(entry)))

    def found(self, entry: dict[str, Any]) -> int:
        """The cookie of an entry that the kernel had not known."""
        vnode = self.kernel.mount.vnodes.by_nodeid[entry["nodeid"]]
        assert isinstance(vnode.cookie, int)
        assert self.toy.attrs[vnode.cookie].mode == entry["attr_mode"]
        return vnode.cookie

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        fh = data.draw(st.sampled_from(sorted(self.files)))
        node = self.files.pop(fh)
        assert self.kernel.ask(Opcode.RELEASE, node, fh=fh).error == 0
        self.closed(node)

    @precondition(lambda self: self.directories)
    @rule(data=st.data())
    def releasedir(self, data: st.DataObject) -> None:
        fh = data.draw(st.sampled_from(sorted(self.directories)))
        node = self.directories.pop(fh)
        assert self.kernel.ask(Opcode.RELEASEDIR, node, fh=fh).error == 0
        self.closed(node)

    @precondition(lambda self: self.knows())
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        node = self.pick(data, root=False)
        lookups = data.draw(st.integers(1, self.lookups[node]))
        self.kernel.tell(Opcode.FORGET, node, nlookup=lookups)
        self.forgotten(node, lookups)

    @precondition(lambda self: self.knows())
    @rule(data=st.data())
    def batch_forget(self, data: st.DataObject) -> None:
        known = sorted(node for node, number in self.lookups.items() if number)
        some = data.draw(st.lists(st.sampled_from(known), unique=True))
        ones = {node: data.draw(st.integers(1, self.lookups[node])) for node in some}
        body = b"".join(abi.FORGET_ONE.pack(nodeid=node, nlookup=n) for node, n in ones.items())
        self.kernel.tell(Opcode.BATCH_FORGET, 0, data=body, count=len(ones))
        for node, lookups in ones.items():
            self.forgotten(node, lookups)

    @rule()
    def forget_the_root(self) -> None:
        self.kernel.tell(Opcode.FORGET, ROOT, nlookup=1)

    @rule(nodeid=st.sampled_from([0, 77, 1 << 63, (1 << 64) - 1]))
    def forget_what_nobody_knows(self, nodeid: int) -> None:
        if nodeid not in self.cookies:
            self.kernel.tell(Opcode.FORGET, nodeid, nlookup=1)

    # ------------------------------------------------------------------------------ the comparison

    @invariant()
    def check(self) -> None:
        table = self.kernel.mount.vnodes
        opens = Counter((*self.files.values(), *self.directories.values()))
        got = {vnode.nodeid: (vnode.lookups, vnode.opens, vnode.cookie) for vnode in table}
        root = got.pop(ROOT)
        assert root == (1, opens[ROOT], ROOT_COOKIE)
        assert got == {
            node: (self.lookups[node], opens[node], cookie)
            for node, cookie in self.cookies.items()
            if node != ROOT
        }
        assert table.by_nodeid.keys() == {ROOT, *got}
        assert len(table) == len(got) + 1
        self.check_calls()

    def check_calls(self) -> None:
        assert Counter(args[0] for args in self.toy.called("reclaim")) == self.reclaimed
        assert Counter(args[0] for args in self.toy.called("inactive")) == self.inactive


class PlainCounts(Counts):
    plain = True


class CountsWithIds(Counts):
    toy_class = WithIds


class PlainCountsWithIds(CountsWithIds):
    plain = True


TestCounts = Counts.TestCase
TestPlainCounts = PlainCounts.TestCase
TestCountsWithIds = CountsWithIds.TestCase
TestPlainCountsWithIds = PlainCountsWithIds.TestCase
for case in (TestCounts, TestPlainCounts, TestCountsWithIds, TestPlainCountsWithIds):
    case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
