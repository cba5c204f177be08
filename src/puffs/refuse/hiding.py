"""Files that are open and lose their names, as libfuse's high-level interface keeps them.

A program that names its files by paths could not find them any more. So libfuse does not remove
such a file: it renames it, to a name that nobody is looking for, and removes it when it is closed.
`hard_remove` switches that off; the program then gets None for the path of a file that is gone.
"""

import os
from collections.abc import Callable, Iterator
from errno import EBUSY
from functools import partial
from itertools import count
from typing import Any, Final, Protocol, cast
from weakref import WeakKeyDictionary

from puffs.server.attr import Attr
from puffs.server.cred import FSCRED, Cred
from puffs.server.path_nodes import DIRECT, Factories, Method, Names, Node, Place, is_missing
from puffs.server.types import RENAME_EXCHANGE, DirEntry, Entry, Open

_DOTS: Final = frozenset((".", ".."))

_TRIES: Final = 10
"""How many names are tried, as libfuse does."""


class Keeping(Protocol):
    """What is asked for open files (`Settings`)."""

    @property
    def hard_remove(self) -> bool:
        """Whether an open file is removed at once."""
        ...

    @property
    def readdir_ino(self) -> bool:
        """Whether listings have the inode numbers of files that the host knows."""
        ...

    @property
    def auto_cache(self) -> bool:
        """Whether what is cached of a file that has not changed stays valid at open."""
        ...


class HidingNames(Names):
    """The tree of names of a mount in which open files outlive their names.

    `find`, `rename_file`, `remove_file` and `release` are the program's operations, by paths.
    """

    def __init__(
        self,
        keep_files: bool,
        asked: Keeping,
        find: Method,
        rename_file: Method,
        remove_file: Method,
        release: Method,
    ) -> None:
        super().__init__(keep_files)
        self.asked = asked
        self.look = find
        self._rename_file = rename_file
        self._remove_file = remove_file
        self.release = release
        self.hidden: set[Node] = set()
        """Nodes whose files are open and have lost their names."""
        self.stamps: WeakKeyDictionary[Node, tuple[int, int]] = WeakKeyDictionary()
        """Size and time of modification when a file was opened last, for `auto_cache`."""
        self.number_of: Callable[[Node], int] = lambda node: 0
        """The inode number of a node that the host knows, else 0."""
        self._numbers = count(1)

    def number(self, place: Place) -> int:
        """The inode number of what is at `place`; 0 if the host does not know it."""
        node = self.nodes.get(place)
        return 0 if node is None else self.number_of(node)

    def reach(self, node: Node, file: Any) -> tuple[str, Any]:
        """As in `Names`, but a file that is gone has no path: None, which is no `str`."""
        path, there = self.find(node)
        if there:
            return path, file
        return cast(str, None), super().reach(node, file)[1]

    def last_path(self, node: Node) -> str | None:
        """The path of a node; None when it is gone."""
        path, there = self.find(node)
        return path if there else None

    def is_to_stay(self, node: Node | None) -> bool:
        """Whether `node` is open, and about to lose its last name."""
        return bool(
            node is not None and node.files and not node.links and not self.asked.hard_remove
        )

    def hide(self, place: Place, node: Node) -> None:
        """Rename the open file `node` at `place`. EBUSY when no name for it can be found."""
        hidden = self._unused(place[0])
        self._rename_file(self.below(*place), self.below(*hidden), 0, FSCRED)
        with self.lock:
            self.rename(place, hidden, False)
            self.hidden.add(node)
        self._let_go(node)  # it may have been closed meanwhile

    def _unused(self, dir: Node) -> Place:
        for _ in range(_TRIES):
            number = next(self._numbers)
            place = (dir, f".fuse_hidden{os.getpid() & 0xFFFFFFFF:08x}{number & 0xFFFFFFFF:08x}")
            if self.nodes.get(place) is not None:
                continue
            try:
                self.look(self.below(*place), None)
            except OSError as error:
                if is_missing(error):
                    return place
        raise OSError(EBUSY, os.strerror(EBUSY))

    def closed(self, node: Node, file: object) -> None:
        """An open file of `node` is given back; the last one of a hidden file removes it."""
        try:
            if node.files is not None:
                node.files.remove(file)  # a number, or a structure that equals only itself
        except ValueError:
            pass  # it was not known to be open
        if self.hidden and node in self.hidden:
            self._let_go(node)

    def _let_go(self, node: Node) -> None:
        with self.lock:
            if node.files or node not in self.hidden:
                return
            self.hidden.discard(node)
            place, path = node.place, self.find(node)[0]
        self._remove_file(path, FSCRED)
        self.leave(place, node)

    def unchanged(self, node: Node, attr: Attr) -> bool:
        """Whether `node` is as it was when it was opened last."""
        stamp = attr.size, attr.mtime_ns
        with self.lock:
            known, self.stamps[node] = self.stamps.get(node), stamp
        return known == stamp


def _getattr(names: HidingNames, method: Method) -> Method:
    ask, hidden = DIRECT["getattr"](names, method), names.hidden

    def getattr(node: Node, file: Any = None) -> Any:
        attr = ask(node, file)
        if hidden and node in hidden and attr.nlink:
            attr.nlink -= 1  # its name is nobody's
        return attr

    return getattr


def _open(names: HidingNames, method: Method) -> Method:
    opened = names.opened

    def open(node: Node, flags: int, cred: Cred) -> Any:
        reply = names.call_at(method, node, flags, cred)
        opened(node, reply)
        if names.asked.auto_cache:
            return _kept_if_unchanged(names, node, reply)
        return reply

    return open


def _kept_if_unchanged(names: HidingNames, node: Node, reply: Any) -> Open:
    opened = reply if isinstance(reply, Open) else Open(reply)
    attr = names.look(names.path(node), opened.file)
    opened.keep_cache = names.unchanged(node, attr) or opened.keep_cache
    return opened


def _create(names: HidingNames, method: Method) -> Method:
    def create(dir: Node, name: str, attr: Attr, flags: int, cred: Cred) -> Any:
        place = (dir, name)
        reply = names.call_below(method, place, attr, flags, cred)
        file = reply.file if isinstance(reply, Open) else reply
        path = names.below(dir, name)
        try:
            found = names.look(path, file)
        except OSError:
            names.release(path, file, flags)
            raise
        node = names.fresh(place)
        names.opened(node, reply)
        return Entry(node, found), reply

    return create


def _close(names: HidingNames, method: Method) -> Method:
    last_path, closed = names.last_path, names.closed

    def close(node: Node, file: Any, flags: int) -> None:
        try:
            method(last_path(node), file, flags)
        finally:
            closed(node, file)

    return close


def _flush(names: HidingNames, method: Method) -> Method:
    last_path = names.last_path

    def flush(node: Node, file: Any, owner: int) -> None:
        method(last_path(node), file, owner)

    return flush


def _closedir(names: HidingNames, method: Method) -> Method:
    def closedir(node: Node, file: Any) -> None:
        method(names.last_path(node), file)

    return closedir


def _remove(names: HidingNames, method: Method) -> Method:
    def remove(dir: Node, name: str, cred: Cred) -> None:
        place = (dir, name)
        known = names.nodes.get(place)
        if known is not None and names.is_to_stay(known):
            names.hide(place, known)
            return
        names.call_below(method, place, cred)
        names.leave(place, known)

    return remove


def _rename(names: HidingNames, method: Method) -> Method:
    rename_nodes = DIRECT["rename"](names, method)

    def rename(dir: Node, name: str, newdir: Node, newname: str, flags: int, cred: Cred) -> None:
        newplace = (newdir, newname)
        target = names.nodes.get(newplace)
        if (
            target is not None
            and not flags & RENAME_EXCHANGE
            and target is not names.nodes.get((dir, name))
            and names.is_to_stay(target)
        ):
            names.hide(newplace, target)
        rename_nodes(dir, name, newdir, newname, flags, cred)

    return rename


def _readdir(names: HidingNames, method: Method) -> Method:
    listed, look = DIRECT["readdir"](names, method), DIRECT["lookup"](names, names.look)

    def lookup(dir: Node, name: str) -> Entry | None:
        try:
            found: Entry = look(dir, name, FSCRED)
        except OSError:  # it has gone, or whoever looks it up is to be told
            return None
        return found

    def readdir(dir: Node, offset: int, file: Any) -> Iterator[DirEntry]:
        """Each name comes with what finds its attributes: a host that wants those, to show them,
        would ask for each name, and each time wait for an answer.
        """
        for item in listed(dir, offset, file):
            entry = item if isinstance(item, DirEntry) else DirEntry(item)
            if entry.entry is None and entry.name not in _DOTS:
                entry.entry = partial(lookup, dir, entry.name)
            if names.asked.readdir_ino and not entry.ino:
                entry.ino = names.number((dir, entry.name))
            yield entry

    return readdir


HIDING: Final[Factories] = DIRECT | {
    "getattr": _getattr,
    "open": _open,
    "create": _create,
    "close": _close,
    "flush": _flush,
    "closedir": _closedir,
    "remove": _remove,
    "rename": _rename,
    "readdir": _readdir,
}
"""Operations on nodes, made of operations on paths, over `HidingNames`."""
