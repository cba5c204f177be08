"""`Tree`: a file system made of values."""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from errno import ENOENT, ESTALE
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from puffs.server.attr import Attr
from puffs.server.cred import Cred
from puffs.server.filesystem import FileSystem
from puffs.server.types import Buffer, DirEntry, Entry, Open

logger = logging.getLogger("puffs")

_NAME_MAX: Final = 255
_LINK_MAX: Final = 4095
_MISSING: Final = object()
_BUFFERS: Final = (bytes, bytearray, memoryview)
_CONTENTS: Final = (str, *_BUFFERS)
_PERMISSIONS: Final = {stat.S_IFDIR: 0o555, stat.S_IFREG: 0o444, stat.S_IFLNK: 0o777}

Value: TypeAlias = "str | Buffer | Callable[[], str | Buffer] | Tree.Link | Mapping[str, Value]"
"""What may stand in a `Tree`."""


class Place(NamedTuple):
    """The cookie: the names from the root on, and the file type.

    A name whose value becomes one of another type is another file.
    """

    names: tuple[str, ...]
    type: int


class Tree(FileSystem[Place]):
    r"""A read-only file system made of values, in ten seconds.

        puffs.main(puffs.Tree({
            "hello.txt": "Hello!\n",
            "clock": {"now": lambda: time.ctime() + "\n"},
        }))

    A value is one of these:

    - `str` or bytes: a file with these contents. Text is encoded as UTF-8.
    - A callable without arguments that returns one of them: a file whose contents are made each
      time that it is opened, and stay as they are while it is open. Its size is 0 until then, as in
      /proc: what reads a file to its end does well, what goes by the size that it saw before it
      opened the file finds it empty. What the callable raises, the opener gets: an `OSError` as it
      is, anything else as EIO, with a traceback in the log. For a file of this machine, take
      `pathlib.Path("/etc/motd").read_bytes`.
    - A mapping of names to values: a directory.
    - `puffs.Tree.Link("target")`: a symbolic link.

    Mappings are looked into anew for each request: what the program changes in them shows at once.
    A name or value that cannot be is an error when the tree is made. One that turns up later is
    left out, with one line in the log.

    Everything belongs to the user who runs the program, can be read by everybody and written by
    nobody, and is as old as the `Tree`.
    """

    name_ttl: float = 0.0
    attr_ttl: float = 0.0

    class Link:
        """A symbolic link to `target`."""

        __slots__ = ("target",)

        def __init__(self, target: str) -> None:
            """Raises `ValueError` for a target that readlink(2) could not give back."""
            if not 0 < len(os.fsencode(target)) <= _LINK_MAX or "\0" in target:
                raise ValueError(f"a link holds 1 to {_LINK_MAX} bytes without NUL: {target!r}")
            self.target = target

        def __repr__(self) -> str:
            return f"Tree.Link({self.target!r})"

    def __init__(self, entries: Mapping[str, Value]) -> None:
        """Raises `TypeError` or `ValueError`, naming the place, for what cannot be in a tree."""
        _check(entries)
        self._entries = entries
        self._made_ns = time.time_ns()
        self._uid, self._gid = os.geteuid(), os.getegid()
        # Of contents that were made for an open file: sendfile(2) and SEEK_END go by the size.
        self._sizes: dict[Place, int] = {}
        self._left_out: set[tuple[object, ...]] = set()

    # ---------------------------------------------------------------------------------- operations

    def mount(self) -> Place:
        return Place((), stat.S_IFDIR)

    def lookup(self, dir: Place, name: str, cred: Cred) -> Entry:
        value = self._value(dir).get(name, _MISSING)
        if value is _MISSING or not self._fits(dir, name, value):
            raise FileNotFoundError(ENOENT, name)
        node = Place((*dir.names, name), _type(value))
        return Entry(node, self._attr(node, value))

    def getattr(self, node: Place, file: Any = None) -> Attr:
        return self._attr(node, self._value(node))

    def readdir(self, dir: Place, offset: int, file: Any) -> Iterator[DirEntry]:
        mapping = self._value(dir)
        for name in list(mapping):  # a copy: the program may change the mapping meanwhile
            value = mapping.get(name, _MISSING)
            if value is not _MISSING and self._fits(dir, name, value):
                yield DirEntry(name, _type(value))

    def readlink(self, node: Place) -> str:
        target: str = self._value(node).target
        return target

    def open(self, node: Place, flags: int, cred: Cred) -> Open:
        value = self._value(node)
        if not callable(value):
            return Open(_encoded(value))
        try:
            contents = value()
        except NotImplementedError as exc:  # of the callable's own; not an answer to open(2)
            raise RuntimeError(f"{value!r} is not finished") from exc
        if not isinstance(contents, _CONTENTS):
            where, what = "/".join(node.names), type(contents).__name__
            raise TypeError(f"{where}: {value!r} returned {what}, not str or bytes")
        data = _encoded(contents)
        self._sizes[node] = len(data)
        return Open(data, direct_io=True)  # the size that the host remembers must end no read

    def inactive(self, node: Place) -> None:
        self._sizes.pop(node, None)

    def read(self, node: Place, offset: int, size: int, file: bytes) -> bytes:
        return file[offset : offset + size]

    # ------------------------------------------------------------------------------------- helpers

    def _value(self, node: Place) -> Any:
        """What stands at `node` now. ESTALE when that is not a file of its type any more."""
        value: Any = self._entries
        for name in node.names:
            value = value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING
        if _type(value) != node.type:
            raise OSError(ESTALE, os.strerror(ESTALE))
        return value

    def _attr(self, node: Place, value: Any) -> Attr:
        made_ns = self._made_ns
        return Attr(
            node.type | _PERMISSIONS[node.type],
            self._sizes.get(node, 0) if callable(value) else _size(value),
            uid=self._uid,
            gid=self._gid,
            atime_ns=made_ns,
            mtime_ns=made_ns,
            ctime_ns=made_ns,
            btime_ns=made_ns,
        )

    def _fits(self, dir: Place, name: object, value: object) -> bool:
        """Whether this can be in the tree. If not, the log says so, once until it can."""
        place = (*dir.names, name)
        try:
            _vet(name, value)
        except (TypeError, ValueError) as exc:
            if place not in self._left_out:
                self._left_out.add(place)
                logger.warning("left out of the tree: %s: %s", _shown(place), exc)
            return False
        self._left_out.discard(place)
        return True


def _type(value: object) -> int:
    """The file type that a value makes; 0 for none."""
    if isinstance(value, Mapping):
        return stat.S_IFDIR
    if isinstance(value, Tree.Link):
        return stat.S_IFLNK
    return stat.S_IFREG if isinstance(value, _CONTENTS) or callable(value) else 0


def _size(value: Any) -> int:
    """The size of what is no callable."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(_encoded(value))
    if isinstance(value, Tree.Link):
        return len(os.fsencode(value.target))
    return memoryview(value).nbytes if isinstance(value, _BUFFERS) else 0


def _encoded(contents: str | Buffer) -> bytes:
    if isinstance(contents, str):
        return contents.encode("utf-8", "surrogateescape")
    return bytes(contents)


def _vet(name: object, value: object) -> None:
    """Raises `TypeError` or `ValueError` if there can be no file of this name and value."""
    if not isinstance(name, str):
        raise TypeError(f"a name must be str, not {type(name).__name__}")
    try:
        length = len(os.fsencode(name))
        if isinstance(value, str):
            _size(value)
    except UnicodeEncodeError as exc:
        raise ValueError(f"{exc.object[exc.start]!r} cannot be encoded: {exc.reason}") from None
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} cannot be the name of a file")
    if length > _NAME_MAX:
        raise ValueError(f"a name of {length} bytes, where {_NAME_MAX} are possible")
    if not _type(value):
        hint = ", and so does its `read_bytes`" if isinstance(value, Path) else ""
        raise TypeError(
            f"{type(value).__name__} makes no file; str, bytes, a callable that returns one of"
            f" them, a mapping and Tree.Link do{hint}"
        )


def _check(entries: object) -> None:
    """Raise what is wrong with the contents of a mapping, or with those of the mappings in it."""
    if not isinstance(entries, Mapping):
        raise TypeError(f"a Tree is made of a mapping of names, not of {type(entries).__name__}")
    checked: dict[int, Mapping[Any, Any]] = {}  # kept alive, so that no id is used twice
    way: list[_Step] = [_Step((), entries)]
    while way:
        step = way[-1]
        for name, value in step.items:
            place = (*step.place, name)
            try:
                _vet(name, value)
                if any(value is each.mapping for each in way):
                    raise ValueError("a mapping that contains itself")
            except (TypeError, ValueError) as exc:
                raise type(exc)(f"{_shown(place)}: {exc}") from None
            if isinstance(value, Mapping) and id(value) not in checked:
                way.append(_Step(place, value))
                break
        else:
            checked[id(step.mapping)] = step.mapping
            way.pop()


class _Step:
    """A directory on the way from the root to where `_check` is."""

    def __init__(self, place: tuple[object, ...], mapping: Mapping[Any, Any]) -> None:
        self.place = place
        self.mapping = mapping
        self.items = iter(list(mapping.items()))


def _shown(place: tuple[object, ...]) -> str:
    return "/".join(name if isinstance(name, str) else repr(name) for name in place)
