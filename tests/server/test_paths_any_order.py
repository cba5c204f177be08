"""`PathFileSystem`: whatever a host does, in any order, a node answers for its own file."""

import errno
import gc
import os
import stat
import weakref
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import puffs
from tests.server.shelf import CRED, DIR, FILE, Host, Shelf, fails


class AnyOrder(RuleBasedStateMachine):
    """A host that makes, links, moves, removes, opens and forgets files in any order.

    `names` says under which paths the host knows each node, by the rules of POSIX alone; a node is
    asked for its attributes, and must answer for the file that it was made for.
    """

    NAMES = ("a", "b", "c")
    HOST = Host

    def __init__(self) -> None:
        super().__init__()
        self.server = Shelf()
        self.host = self.HOST(self.server)
        self.names: dict[Any, set[str]] = {}
        self.inos: dict[Any, int] = {}
        self.open: list[tuple[Any, Any]] = []

    def pick(self, data: st.DataObject, kind: int | None = None) -> str:
        """A path that exists, of this type."""
        paths = [
            path
            for path, file in self.server.files.items()
            if path != "/" and (kind is None or stat.S_IFMT(file.mode) == kind)
        ]
        return data.draw(st.sampled_from(sorted(paths)))

    def free(self, data: st.DataObject) -> str | None:
        """A path that does not exist, in a directory that does; None if the one drawn is taken."""
        dirs = [path for path, file in self.server.files.items() if stat.S_ISDIR(file.mode)]
        parent = data.draw(st.sampled_from(sorted(dirs)))
        path = parent.rstrip("/") + "/" + data.draw(st.sampled_from(self.NAMES))
        return None if path in self.server.files or path.count("/") > 4 else path

    def know(self, node: Any, path: str) -> None:
        """The host was given `node` for `path`, of which it knows all directories."""
        known = [each for each, paths in self.names.items() if path in paths]
        assert known in ([], [node]), "another node for a name that the host knows"
        if not known:
            assert node not in self.names, "a node that the host knows by another name"
            self.names[node] = {path}
            self.inos[node] = self.server.files[path].ino

    def walk(self, path: str) -> Any:
        node, at = self.host.root, ""
        for name in path.split("/")[1:]:
            at += "/" + name
            node = self.host("lookup", node, name, CRED).node
            self.know(node, at)
        return node

    def spot(self, path: str) -> tuple[Any, str]:
        parent, _, name = path.rpartition("/")
        return (self.walk(parent) if parent else self.host.root), name

    def is_empty(self, path: str) -> bool:
        return not any(each.startswith(path + "/") for each in self.server.files)

    def unname(self, path: str) -> None:
        for paths in self.names.values():
            paths.discard(path)

    def has_files(self) -> bool:
        return len(self.server.files) > 1

    @rule(data=st.data(), directory=st.booleans())
    def make(self, data: st.DataObject, directory: bool) -> None:
        path = self.free(data)
        if path is None:
            return
        place = self.spot(path)
        if directory:
            node = self.host("mkdir", *place, puffs.Attr(DIR), CRED)
        else:
            node, opened = self.host("create", *place, puffs.Attr(FILE), os.O_RDWR, CRED)
            self.open.append((node, opened))
        assert node not in self.names
        self.know(node, path)

    @precondition(has_files)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        self.walk(self.pick(data))

    @precondition(has_files)
    @rule(data=st.data())
    def list(self, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(["/", self.pick(data)]))
        if stat.S_ISDIR(self.server.files[path].mode):
            node = self.walk(path) if path != "/" else self.host.root
            for entry in self.host("readdir", node, 0, None):
                self.know(entry.entry.node, path.rstrip("/") + "/" + entry.name)

    @precondition(has_files)
    @rule(data=st.data())
    def open_file(self, data: st.DataObject) -> None:
        node = self.walk(self.pick(data))
        self.open.append((node, self.host("open", node, os.O_RDWR, CRED)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close_file(self, data: st.DataObject) -> None:
        node, opened = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.host("close", node, opened, os.O_RDWR)

    @precondition(has_files)
    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        path, newpath = self.pick(data), self.free(data)
        if newpath is None or stat.S_ISDIR(self.server.files[path].mode):
            return
        node = self.walk(path)
        self.host("link", node, *self.spot(newpath), CRED)
        self.names[node].add(newpath)

    @precondition(has_files)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        path = self.pick(data)
        if self.is_empty(path):
            kind = "rmdir" if stat.S_ISDIR(self.server.files[path].mode) else "remove"
            self.host(kind, *self.spot(path), CRED)
            self.unname(path)

    def renamed(self, path: str, newpath: str) -> None:
        for node, paths in self.names.items():
            self.names[node] = {
                newpath + each.removeprefix(path)
                if each == path or each.startswith(path + "/")
                else each
                for each in paths
            }

    @precondition(has_files)
    @rule(data=st.data(), exchange=st.booleans())
    def rename(self, data: st.DataObject, exchange: bool) -> None:
        path = self.pick(data)
        newpath = (
            self.pick(data)
            if exchange
            else data.draw(st.sampled_from([self.free(data), self.pick(data)]))
        )
        files = self.server.files
        if (
            newpath is None
            or f"{newpath}/".startswith(path + "/")
            or f"{path}/".startswith(newpath + "/")
        ):
            return
        old, new = files[path], files.get(newpath)
        if exchange:
            self.host.rename(path, newpath, puffs.RENAME_EXCHANGE)
            self.renamed(newpath, "/..")
        else:
            if new is old or (new and (new.mode != old.mode or not self.is_empty(newpath))):
                return
            self.host.rename(path, newpath)
            self.unname(newpath)
        self.renamed(path, newpath)
        self.renamed("/..", path)

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """The host forgets a node that is not open, and that is no directory of one it knows."""
        nodes = [*self.names]
        node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        paths = self.names[node]
        is_above = any(
            other.startswith(path + "/")
            for path in paths
            for others in self.names.values()
            for other in others
        )
        if not is_above and all(node is not each for each, _ in self.open):
            del self.names[node], self.inos[node]
            gone = weakref.ref(node)
            del node, nodes
            if gone() is not None:  # an error that was seen may hold it in its traceback
                gc.collect()
            assert gone() is None, "kept although the host has forgotten it"

    @invariant()
    def every_node_is_its_file(self) -> None:
        for node, paths in self.names.items():
            files = [opened for each, opened in self.open if each is node]
            if paths:
                attr = self.host("getattr", node, None)
                assert attr.ino == self.inos[node]
                assert self.server.asked[-1][1] in paths
            elif files:
                assert self.host("getattr", node, None).ino == self.inos[node]
                assert self.host("getattr", node, files[0]).ino == self.inos[node]
            else:
                with fails(errno.ESTALE):
                    self.host("getattr", node, None)


AnyOrder.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase


class Waiting(Host):
    waits = True


class AnyOrderWaiting(AnyOrder):
    """The same with operations that wait."""

    HOST = Waiting


AnyOrderWaiting.TestCase.settings = settings(deadline=None, max_examples=20, stateful_step_count=30)
TestAnyOrderWaiting = AnyOrderWaiting.TestCase
