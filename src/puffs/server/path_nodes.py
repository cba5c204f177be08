"""The nodes behind a `PathFileSystem`: where each of them is, and operations on nodes made of
operations on paths.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from errno import EINVAL, ENOENT, ESTALE
from threading import Condition, RLock
from typing import Any, Final
from weakref import ref

from puffs.server.attr import Attr, as_attr
from puffs.server.cred import Cred
from puffs.server.operations import OPERATIONS, Kind, Operations
from puffs.server.path_mount import PathMount
from puffs.server.types import RENAME_EXCHANGE, Cookie, DirEntry, Entry, Open

_NEVER: Final = -1
_PREFIX_MAX: Final = 4096
_DOTS: Final = frozenset((".", ".."))


class Node:
    """A file as the host knows it: a cookie, equal to nothing but itself.

    `place` is the directory and the name in it, one tuple so that no thread sees half of a move;
    `links` are the further places that `link` has given it.
    `prefix`, for a directory, is its path with a slash behind it, right as long as `at` is the `at`
    of the tree. `files` are what `open` and `create` returned for files that are still open.
    """

    __slots__ = ("__weakref__", "at", "files", "links", "place", "prefix")

    def __init__(self, place: "Place | None") -> None:
        self.place: Place = place or (self, "")
        self.links: list[Place] | None = None
        self.prefix = ""
        self.at = _NEVER
        self.files: list[object] | None = None

    def __repr__(self) -> str:
        names = []
        node = self
        while node.place[0] is not node:
            node, name = node.place
            names.append(name)
        return f"<node {'/'.join(reversed(names)).replace('//', '/', 1)}>"


Place = tuple[Node, str]
"""A directory and a name in it."""
Spot = tuple[Node, str | None]
"""A place, or with None the node itself."""

_GONE: Final = Node(None)
"""The directory of everything that has lost its name.

What a node is called in it is its last path.
"""


class _Held(ref[Node]):
    """A node in the table of names, which does not keep it; and its place there."""

    __slots__ = ("place",)

    place: Place


class Places:
    """Nodes by place, held weakly: one that nobody else holds any more is not there.

    Changed under `lock`, and looked at without. `held` is looked at by who is asked most of all.
    """

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        self.held: dict[Place, _Held] = {}
        held = self.held

        def gone(each: _Held) -> None:
            with lock:
                if held.get(each.place) is each:
                    del held[each.place]

        self._gone = gone

    def get(self, place: Place) -> Node | None:
        """The node at `place`, if there is one."""
        held = self.held.get(place)
        return None if held is None else held()

    def put(self, place: Place, node: Node) -> None:
        """Have `node` at `place`."""
        held = self.held[place] = _Held(node, self._gone)
        held.place = place

    def add(self, place: Place) -> Node:
        """A new node at `place`."""
        node = Node(place)
        self.put(place, node)
        return node

    def take(self, place: Place) -> Node | None:
        """Have none at `place`; the one that was there."""
        held = self.held.pop(place, None)
        return None if held is None else held()


class Names:
    """The tree of names of one mount. Invariants, under the lock:

    - `nodes[place]` is the node, for the place and the links of every node but the root that is not
      gone, and for no other place;
    - a directory whose `at` is that of the tree has the right `prefix`, and so have all directories
      above it.

    Prefixes are kept in directories only. To rename or remove a file, the usual case, makes none of
    them wrong; to rename or remove a directory outdates all of them by one addition.

    The table (`Places`) holds its nodes weakly, and a node holds its directory. What the host has
    forgotten, and all below it, is dropped with the last reference; a name that is looked up in
    that very moment keeps its node.

    `keep_files` says that the tree will be told when open files are closed.
    """

    def __init__(self, keep_files: bool) -> None:
        self._keep_files = keep_files
        self.lock = RLock()
        self.nodes = Places(self.lock)
        self.at = 0
        self._top = Node(None)
        self.root = Node((self._top, "/"))
        self.root.prefix = "/"
        self._top.at = self.root.at = self.at
        self._moving: list[Node] = []
        self._rested = Condition(self.lock)

    # -------------------------------------------------------------------------- from nodes to paths

    def find(self, node: Node) -> tuple[str, bool]:
        """The path of `node`, the last one if it is gone, and whether it is still there."""
        parent, name = node.place
        if parent.at == self.at:
            return parent.prefix + name, True
        prefix, there = self._prefix(parent)
        return prefix + name, there

    def path(self, node: Node) -> str:
        """The path of `node`; ESTALE when it is gone."""
        parent, name = node.place
        if parent.at == self.at:
            return parent.prefix + name
        path, there = self.find(node)
        if not there:
            raise OSError(ESTALE, os.strerror(ESTALE))
        return path

    def reach(self, node: Node, file: Any) -> tuple[str, Any]:
        """The path of `node` and the open file to use.

        A node that is gone needs one: ESTALE when it has none.
        """
        path, there = self.find(node)
        if not there and file is None:
            if not node.files:
                raise OSError(ESTALE, os.strerror(ESTALE))
            file = node.files[-1]
        return path, file

    def below(self, dir: Node, name: str) -> str:
        """The path of `name` in `dir`. In a directory that is gone there is nothing: ENOENT."""
        if dir.at == self.at:
            return dir.prefix + name
        prefix, there = self._prefix(dir)
        if not there:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
        return prefix + name

    def paths(self, spots: tuple[Spot, ...]) -> list[str]:
        """Where each of `spots` is."""
        return [self.path(node) if name is None else self.below(node, name) for node, name in spots]

    def call(self, method: Callable[..., Any], spots: tuple[Spot, ...], *args: Any) -> Any:
        """Call `method` with the paths of `spots`; again if it misses something that moved."""
        while True:
            paths = self.paths(spots)
            try:
                return method(*paths, *args)
            except OSError as error:
                if all(self.stands(error, *what) for what in zip(paths, spots, strict=True)):
                    raise

    def call_at(self, method: Callable[..., Any], node: Node, *args: Any) -> Any:
        """The same with the path of `node` alone."""
        while True:
            parent, name = node.place
            path = parent.prefix + name if parent.at == self.at else self.path(node)
            try:
                return method(path, *args)
            except OSError as error:
                if self.stands(error, path, (node, None)):
                    raise

    def call_below(self, method: Callable[..., Any], place: Place, *args: Any) -> Any:
        """The same with the path of a name alone."""
        dir, name = place
        while True:
            path = dir.prefix + name if dir.at == self.at else self.below(dir, name)
            try:
                return method(path, *args)
            except OSError as error:
                if self.stands(error, path, place):
                    raise

    def at_path(self, path: str) -> Cookie:
        """The node at `path`; what is no node of this tree where the host has come by none."""
        node: Node | None = self.root
        for name in filter(None, path.split("/")):
            node = self.nodes.get((node, name)) if node is not None else None
        return node or _GONE

    def after(self, result: Any, then: Callable[[Any], Any]) -> Any:
        """What `then` makes of the result of a method, which it is given."""
        return then(result)

    def _prefix(self, dir: Node) -> tuple[str, bool]:
        """What goes before a name in `dir`, and whether `dir` is still there."""
        if dir.at == self.at:
            return dir.prefix, True
        with self.lock:
            outdated = []
            while dir.at != self.at and dir is not _GONE:
                outdated.append(dir)
                dir = dir.place[0]
            there = dir is not _GONE
            prefix = dir.prefix
            while outdated:
                dir = outdated.pop()
                prefix += dir.place[1] + "/"
                if there and len(prefix) <= _PREFIX_MAX:  # kept ones take depth squared in all
                    dir.prefix = prefix
                    dir.at = self.at
            return prefix, there

    def _outdate(self, dir: Node) -> None:
        """`dir` is about to get another path: no prefix that begins with its own stays in use."""
        if dir.at == self.at:  # else there is none, or not in use: see the invariants
            self.at += 1
            self._top.at = self.root.at = self.at

    # ---------------------------------------------------------------------------- names that change

    def adopt(self, place: Place) -> Node:
        """The node at `place`, made if there is none."""
        with self.lock:
            return self.nodes.get(place) or self.nodes.add(place)

    def found(self, place: Place, known: Node | None, path: str, attr: Attr) -> Entry | None:
        """The entry for what was found by `path` when `known` was at `place`.

        None when the name or a directory has moved meanwhile: look again.
        """
        with self.lock:
            if self.nodes.get(place) is not known or self.below(*place) != path:
                return None
            return Entry(known or self.nodes.add(place), attr)

    def fresh(self, place: Place) -> Node:
        """A new node for a file that was just made at `place`."""
        with self.lock:
            known = self.nodes.get(place)
            if known is not None:
                self.leave(place, known)
            return self.nodes.add(place)

    def leave(self, place: Place, node: Node | None) -> None:
        """The name at `place` was taken away, and `node` with it if that is still there."""
        if node is None:
            return
        with self.lock:
            held = self.nodes.held.get(place)
            if held is None or held() is not node:
                return
            last = self.find(node)[0]
            del self.nodes.held[place]
            if node.links and place != node.place:
                node.links.remove(place)
            else:
                if node.at == self.at:
                    self._outdate(node)
                node.place = node.links.pop() if node.links else (_GONE, last)

    def link(self, node: Node, place: Place) -> None:
        """`node` was given the further name at `place`."""
        with self.lock:
            self.leave(place, self.nodes.get(place))
            self.nodes.put(place, node)
            if node.place[0] is _GONE:
                node.place = place
            elif node.links is None:
                node.links = [place]
            else:
                node.links.append(place)

    def rename(self, place: Place, newplace: Place, exchange: bool) -> None:
        """What was at `place` is at `newplace` now.

        What was there has lost its name, or with `exchange` has changed places with it.
        """
        if place == newplace:
            return
        with self.lock:
            if not exchange:
                self.leave(newplace, self.nodes.get(newplace))
            node, target = self.nodes.take(place), self.nodes.take(newplace)
            for moved, at, to in ((node, place, newplace), (target, newplace, place)):
                if moved is None:
                    continue
                self.nodes.put(to, moved)
                if moved.place == at:
                    self._outdate(moved)
                    moved.place = to
                elif moved.links:
                    moved.links[moved.links.index(at)] = to

    # --------------------------------------------------------------------------------- files in use

    def opened(self, node: Node, reply: object) -> None:
        """`open` or `create` has returned `reply` for `node`."""
        file = reply.file if isinstance(reply, Open) else reply
        if file is not None and self._keep_files:
            files = node.files
            if files is None:
                with self.lock:
                    files = node.files = [] if node.files is None else node.files
            files.append(file)

    def closed(self, node: Node, file: object) -> None:
        """An open file of `node` is given back."""
        with self.lock:
            files = node.files or []
            for index, each in enumerate(files):
                if each is file:
                    del files[index]
                    return

    # --------------------------------------------------------------- against moves at the same time

    def moving(self, nodes: list[Node]) -> None:
        """The file server is about to move these."""
        with self.lock:
            self._moving += nodes

    def moved(self, nodes: list[Node]) -> None:
        """It has moved them or failed to, and their places say so."""
        with self.lock:
            for node in nodes:
                self._moving.remove(node)
            self._rested.notify_all()

    def stands(self, error: OSError, path: str | None, spot: Spot) -> bool:
        """Whether `error`, met at `path`, is the answer: not so if `spot` had moved from there.
        What has no path has not moved.

        Judged when no directory above it is being moved: waits for those that are.
        """
        if path is None or not is_missing(error):
            return True
        node, name = spot
        if self._moving:
            with self.lock:
                self._rested.wait_for(lambda: not self._is_moving(node))
        if name is not None and node.at == self.at:
            return path == node.prefix + name
        now = self.find(node)[0]
        return path == (now if name is None else f"{now.removesuffix('/')}/{name}")

    def _is_moving(self, node: Node) -> bool:
        """Whether `node`, or a directory above it, is being moved. Under the lock."""
        return any(is_below(node, each) for each in self._moving)


def is_missing(error: OSError) -> bool:
    """Whether this is ENOENT, also as `OSError(errno.ENOENT)`, which is no `FileNotFoundError`, and
    as a class of the file server's own.
    """
    return isinstance(error, FileNotFoundError) or error.errno == ENOENT or error.args == (ENOENT,)


def is_below(dir: Node, node: Node | None) -> bool:
    """Whether `dir` is `node` or somewhere below it."""
    while dir is not node and dir.place[0] is not dir:
        dir = dir.place[0]
    return dir is node


# ------------------------------------------------- operations on nodes, made of operations on paths
#
# Each factory takes the tree of names and the method of the class. getattr, read and write, taken
# most of all, spell out what `Names.path` does.

Method = Callable[..., Any]


def _mount(names: Names, method: Method | None) -> Method:
    def mount() -> Any:
        return names.root if method is None else names.after(method(), lambda _: names.root)

    return mount


def _mounted(names: Names, method: Method) -> Method:
    def mounted(mount: Any) -> Any:
        return method(PathMount(mount, names.at_path))

    return mounted


def _lookup(names: Names, method: Method) -> Method:
    get = names.nodes.held.get

    def lookup(dir: Node, name: str, cred: Cred) -> Entry:
        place = (dir, name)
        while True:
            at, held = names.at, get(place)
            known = None if held is None else held()
            path = dir.prefix + name if dir.at == at else names.below(dir, name)
            try:
                attr = method(path, None)
            except OSError as error:
                if names.stands(error, path, place):
                    if known is not None and is_missing(error):
                        names.leave(place, known)
                    raise
                continue
            if type(attr) is not Attr:
                attr = as_attr(attr)
            if known is not None and at == names.at == dir.at and get(place) is held:
                return Entry(known, attr)  # nothing has moved meanwhile
            entry = names.found(place, known, path, attr)
            if entry is not None:
                return entry

    return lookup


def _getattr(names: Names, method: Method) -> Method:
    def getattr(node: Node, file: Any = None) -> Any:
        while True:
            parent, name = node.place
            if parent.at == names.at:
                path = parent.prefix + name
            else:
                path, file = names.reach(node, file)
            try:
                return method(path, file)
            except OSError as error:
                if names.stands(error, path, (node, None)):
                    raise

    return getattr


def _transfer(names: Names, method: Method) -> Method:
    """read and write: `what` is the size to read or the data to write."""

    def transfer(node: Node, offset: int, what: Any, file: Any) -> Any:
        while True:
            parent, name = node.place
            if parent.at == names.at:
                path = parent.prefix + name
            else:
                path, file = names.reach(node, file)
            try:
                return method(path, offset, what, file)
            except OSError as error:
                if names.stands(error, path, (node, None)):
                    raise

    return transfer


def _on_open_file(names: Names, method: Method, index: int) -> Method:
    def operation(node: Node, *args: Any) -> Any:
        while True:
            path, file = names.reach(node, args[index])
            try:
                return method(path, *args[:index], file, *args[index + 1 :])
            except OSError as error:
                if names.stands(error, path, (node, None)):
                    raise

    return operation


def _copy_file_range(names: Names, method: Method) -> Method:
    def copy_file_range(
        node: Node,
        offset: int,
        file: Any,
        to: Node,
        to_offset: int,
        to_file: Any,
        size: int,
        flags: int,
    ) -> Any:
        path, file = names.reach(node, file)
        to_path, to_file = names.reach(to, to_file)
        return method(path, offset, file, to_path, to_offset, to_file, size, flags)

    return copy_file_range


def _on_node(names: Names, method: Method) -> Method:
    def operation(node: Node, *args: Any) -> Any:
        return names.call_at(method, node, *args)

    return operation


def _give_back(names: Names, method: Method) -> Method:
    """What is owed to the file server whatever has become of the file: its last path will do."""

    def operation(node: Node, *args: Any) -> Any:
        return method(names.find(node)[0], *args)

    return operation


def _open(names: Names, method: Method) -> Method:
    def open(node: Node, flags: int, cred: Cred) -> Any:
        def opened(reply: Any) -> Any:
            names.opened(node, reply)
            return reply

        return names.after(names.call_at(method, node, flags, cred), opened)

    return open


def _close(names: Names, method: Method | None) -> Method:
    def close(node: Node, file: Any, flags: int) -> Any:
        names.closed(node, file)
        return None if method is None else method(names.find(node)[0], file, flags)

    return close


def _create(names: Names, method: Method) -> Method:
    def create(dir: Node, name: str, attr: Attr, flags: int, cred: Cred) -> Any:
        def created(reply: Any) -> Any:
            node = names.fresh((dir, name))
            if reply is None:
                return node
            names.opened(node, reply)
            return node, reply

        return names.after(names.call_below(method, (dir, name), attr, flags, cred), created)

    return create


def _make(names: Names, method: Method) -> Method:
    def operation(dir: Node, name: str, *args: Any) -> Any:
        place = (dir, name)
        return names.after(names.call_below(method, place, *args), lambda _: names.fresh(place))

    return operation


def _link(names: Names, method: Method) -> Method:
    def link(node: Node, dir: Node, name: str, cred: Cred) -> Any:
        place = (dir, name)
        linked = names.call(method, ((node, None), place), cred)
        return names.after(linked, lambda _: names.link(node, place))

    return link


def _remove(names: Names, method: Method) -> Method:
    def operation(dir: Node, name: str, cred: Cred) -> Any:
        place = (dir, name)
        known = names.nodes.get(place)
        return names.after(
            names.call_below(method, place, cred), lambda _: names.leave(place, known)
        )

    return operation


def to_be_moved(names: Names, place: Place, newplace: Place, exchange: bool) -> list[Node]:
    """The nodes that a rename moves; EINVAL when one of them would come to lie in itself."""
    node = names.nodes.get(place)
    target = names.nodes.get(newplace) if exchange else None
    if is_below(newplace[0], node) or is_below(place[0], target):
        raise OSError(EINVAL, os.strerror(EINVAL))
    return [each for each in (node, target) if each is not None]


def _rename(names: Names, method: Method) -> Method:
    def rename(dir: Node, name: str, newdir: Node, newname: str, flags: int, cred: Cred) -> None:
        exchange = bool(flags & RENAME_EXCHANGE)
        place, newplace = (dir, name), (newdir, newname)
        moving = to_be_moved(names, place, newplace, exchange)
        path, newpath = names.below(dir, name), names.below(newdir, newname)
        names.moving(moving)
        try:
            method(path, newpath, flags, cred)
            names.rename(place, newplace, exchange)
        finally:
            names.moved(moving)

    return rename


def _readdir(names: Names, method: Method) -> Method:
    def readdir(dir: Node, offset: int, file: Any) -> Iterable[DirEntry | str]:
        if not names.find(dir)[1]:
            return ()
        return entries(names, dir, names.call_at(method, dir, offset, file))

    return readdir


def entries(names: Names, dir: Node, replies: Iterable[Any]) -> Iterator[DirEntry | str]:
    """What a class's `readdir` yields, as a host takes it: pairs become entries with nodes."""
    for reply in replies:
        if isinstance(reply, tuple):
            name, attributes = reply
            if name not in _DOTS:
                attr = as_attr(attributes)
                yield DirEntry(name, attr.mode, attr.ino, 0, Entry(names.adopt((dir, name)), attr))
        elif isinstance(reply, DirEntry) and reply.entry is not None:
            raise TypeError(
                f"{reply!r} has an entry, but paths have no cookies: yield (name, attributes)"
            )
        else:
            yield reply


def _error(names: Names, method: Method) -> Method:
    def error(kind: str, code: int, text: str, node: object) -> Any:
        path = names.find(node)[0] if isinstance(node, Node) else None
        return method(kind, code, text, path)

    return error


Factories = dict[str, Callable[[Any, Method], Method]]

COMMON: Final[Factories] = {
    "mount": _mount,
    "mounted": _mounted,
    "copy_file_range": _copy_file_range,
    "open": _open,
    "create": _create,
    "flush": _give_back,
    "close": _close,
    "closedir": _give_back,
    "mknod": _make,
    "mkdir": _make,
    "symlink": _make,
    "link": _link,
    "remove": _remove,
    "rmdir": _remove,
    "error": _error,
}
"""Operations that need more than what the operation table says: a node first, and perhaps an open
file.
"""


DIRECT: Final[Factories] = COMMON | {
    "lookup": _lookup,
    "getattr": _getattr,
    "read": _transfer,
    "write": _transfer,
    "rename": _rename,
    "readdir": _readdir,
}
"""The same where no method waits."""


def adapted(
    defined: Operations,
    find: Method,
    *,
    names: Callable[[bool], Names] = Names,
    factories: Factories = DIRECT,
    on_open_file: Callable[[Any, Method, int], Method] = _on_open_file,
) -> Operations:
    """Operations on nodes for the operations on paths in `defined`, over a tree of names of their
    own.

    `find` is the `getattr` that serves as lookup. `names` makes the tree, `factories` and
    `on_open_file` the operations.
    """
    told_of_files = "open" in defined or "close" in defined
    tree = names(told_of_files)
    operations = {"mount": _mount(tree, None), "lookup": factories["lookup"](tree, find)}
    if told_of_files:
        operations["close"] = _close(tree, None)
    for name, method in defined.items():
        row = OPERATIONS[name]
        if name in factories:
            operations[name] = factories[name](tree, method)
        elif row.kind in (Kind.VFS, Kind.SUSPEND):
            operations[name] = method
        elif "file" in row.args:
            operations[name] = on_open_file(tree, method, row.args.index("file") - 1)
        else:
            operations[name] = _on_node(tree, method)
    return operations
