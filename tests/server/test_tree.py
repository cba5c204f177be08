"""`Tree`: what values become, through the operations that a host calls."""

import errno
import logging
import os
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import puffs
from puffs.kernel.mount import Mount
from tests.server.shelf import CRED, Host, fails


class Visitor(Host):
    """A host that reads files and lists directories."""

    def __init__(self, entries: Any) -> None:
        super().__init__(puffs.Tree(entries))

    def read(self, path: str) -> bytes:
        opened = self("open", self.node(path), os.O_RDONLY, CRED)
        data: bytes = self("read", self.node(path), 0, 1 << 20, opened.file)
        return data

    def list(self, path: str = "") -> list[str]:
        return [entry.name for entry in self("readdir", self.node(path), 0, None)]

    def attr(self, path: str) -> puffs.Attr:
        attr: puffs.Attr = self("getattr", self.node(path), None)
        return attr


def test_ten_seconds() -> None:
    visitor = Visitor({"hello.txt": "Hello!\n", "clock": {"now": lambda: time.ctime() + "\n"}})
    assert visitor.list() == ["hello.txt", "clock"]
    assert visitor.read("/hello.txt") == b"Hello!\n"
    assert visitor.list("/clock") == ["now"]
    assert visitor.read("/clock/now").endswith(f" {time.localtime().tm_year}\n".encode())


@pytest.mark.parametrize(
    ("value", "contents", "size"),
    [
        ("text", b"text", 4),
        ("grüße €\n", "grüße €\n".encode(), 12),
        ("\udcff", b"\xff", 1),  # what os.fsdecode gives for a byte that is no UTF-8
        ("", b"", 0),
        (b"\0\1\2", b"\0\1\2", 3),
        (bytearray(b"array"), b"array", 5),
        (memoryview(b"view")[1:], b"iew", 3),
        (lambda: "called", b"called", 0),
        (lambda: b"called", b"called", 0),
        (str, b"", 0),
    ],
)
def test_a_file_of_a_value(value: Any, contents: bytes, size: int) -> None:
    visitor = Visitor({"f": value})
    attr = visitor.attr("/f")
    assert (attr.mode, attr.size, attr.nlink) == (stat.S_IFREG | 0o444, size, 1)
    assert visitor.read("/f") == contents
    opened = visitor("open", visitor.node("/f"), os.O_RDONLY, CRED)
    assert opened.direct_io is callable(value)  # the size before it was opened must end no read
    assert visitor.attr("/f").size == len(contents)
    assert visitor("read", visitor.node("/f"), 1, 2, opened.file) == contents[1:3]
    assert visitor("read", visitor.node("/f"), 100, 2, opened.file) == b""


def test_attributes() -> None:
    before = time.time_ns()
    visitor = Visitor({"d": {}, "f": "x", "l": puffs.Tree.Link("über")})
    modes = {path: visitor.attr(path).mode for path in ("", "/d", "/f", "/l")}
    directory = stat.S_IFDIR | 0o555
    assert modes == {
        "": directory,
        "/d": directory,
        "/f": stat.S_IFREG | 0o444,
        "/l": stat.S_IFLNK | 0o777,
    }
    for path in modes:
        attr = visitor.attr(path)
        assert (attr.uid, attr.gid) == (os.geteuid(), os.getegid())
        assert before <= attr.mtime_ns == attr.atime_ns == attr.ctime_ns <= time.time_ns()
    assert visitor.attr("/l").size == 5
    entries = {entry.name: entry.type for entry in visitor("readdir", visitor.root, 0, None)}
    assert entries == {"d": stat.S_IFDIR, "f": stat.S_IFREG, "l": stat.S_IFLNK}
    assert visitor("lookup", visitor.root, "f", CRED).attr == visitor.attr("/f")


def test_it_is_read_only_and_trusted_for_no_time() -> None:
    tree = puffs.Tree({})
    assert Mount(tree).read_only
    assert (tree.name_ttl, tree.attr_ttl, tree.negative_ttl) == (0, 0, 0)


def test_links() -> None:
    visitor = Visitor({"l": puffs.Tree.Link("d/../f")})
    assert visitor("readlink", visitor.node("/l")) == "d/../f"
    with pytest.raises(ValueError, match="1 to 4095 bytes"):
        puffs.Tree.Link("")
    with pytest.raises(ValueError, match="without NUL"):
        puffs.Tree.Link("a\0b")
    with pytest.raises(TypeError):
        puffs.Tree.Link(5)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------ live contents


def test_a_callable_is_called_at_each_open_and_only_then() -> None:
    calls = iter(range(100))
    visitor = Visitor({"count": lambda: f"{next(calls)} and more"})
    node = visitor.node("/count")
    assert visitor.attr("/count").size == 0
    assert visitor.list() == ["count"]
    first, second = (visitor("open", node, os.O_RDONLY, CRED).file for _ in range(2))
    assert visitor("read", node, 0, 1, first) == b"0"
    assert visitor("read", node, 0, 1, second) == b"1"
    assert visitor("read", node, 2, 3, first) == b"and"


def test_the_size_of_made_contents_is_known_while_they_are_open() -> None:
    contents = iter(["long contents", "short"])
    visitor = Visitor({"f": lambda: next(contents)})
    node = visitor.node("/f")
    sizes = [visitor.attr("/f").size]
    for _ in range(2):
        visitor("open", node, os.O_RDONLY, CRED)
        sizes.append(visitor.attr("/f").size)
        assert visitor("lookup", visitor.root, "f", CRED).attr.size == sizes[-1]
    visitor("inactive", node)
    assert [*sizes, visitor.attr("/f").size] == [0, 13, 5, 0]


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (PermissionError(errno.EACCES, "not you"), PermissionError),
        (OSError(errno.EBUSY, "later"), OSError),
        (ZeroDivisionError("oops"), ZeroDivisionError),
    ],
)
def test_what_a_callable_raises_is_what_open_raises(raised: Exception, seen: type) -> None:
    def broken() -> str:
        raise raised

    visitor = Visitor({"f": broken})
    with pytest.raises(seen) as caught:
        visitor.read("/f")
    assert caught.value is raised


def test_an_unfinished_callable_does_not_say_that_opening_is_not_implemented() -> None:
    """A host told ENOSYS would never open any file again."""

    def unfinished() -> str:
        raise NotImplementedError

    visitor = Visitor({"f": unfinished})
    with pytest.raises(RuntimeError, match=r"unfinished.* is not finished") as caught:
        visitor.read("/f")
    assert not isinstance(caught.value, NotImplementedError)


def test_a_callable_that_returns_no_contents_is_named() -> None:
    visitor = Visitor({"d": {"f": lambda: 5}})
    with pytest.raises(TypeError, match=r"d/f: .*lambda.* returned int, not str or bytes"):
        visitor.read("/d/f")


def test_a_mapping_that_changes_shows_the_change() -> None:
    inner: dict[str, Any] = {"f": "old"}
    visitor = Visitor({"d": MappingProxyType(inner)})
    directory, file = visitor.node("/d"), visitor.node("/d/f")
    inner["f"] = "newer"
    inner["g"] = {"h": b"deep"}
    assert (visitor.read("/d/f"), visitor.attr("/d/f").size) == (b"newer", 5)
    assert visitor.node("/d/f") == file
    assert visitor.list("/d") == ["f", "g"]
    assert visitor.read("/d/g/h") == b"deep"
    del inner["f"]
    with fails(errno.ENOENT):
        visitor("lookup", directory, "f", CRED)
    with fails(errno.ESTALE):
        visitor("getattr", file, None)


def test_a_value_of_another_type_is_another_file() -> None:
    entries: dict[str, Any] = {"x": "file"}
    visitor = Visitor(entries)
    file = visitor.node("/x")
    entries["x"] = {"y": "inner"}
    assert visitor.node("/x") != file
    assert visitor.read("/x/y") == b"inner"
    with fails(errno.ESTALE):
        visitor("open", file, os.O_RDONLY, CRED)
    entries["x"] = "file again"
    assert visitor.node("/x") == file


def test_an_open_file_keeps_its_contents() -> None:
    entries: dict[str, Any] = {"f": bytearray(b"old")}
    visitor = Visitor(entries)
    node = visitor.node("/f")
    opened = visitor("open", node, os.O_RDONLY, CRED)
    entries["f"][:] = b"changed"
    assert visitor("read", node, 0, 10, opened.file) == b"old"
    assert visitor.read("/f") == b"changed"


def test_a_listing_goes_on_while_the_mapping_changes() -> None:
    entries: dict[str, Any] = {"a": "", "b": "", "c": ""}
    visitor = Visitor(entries)
    listing = visitor("readdir", visitor.root, 0, None)
    assert next(listing).name == "a"
    del entries["b"]
    entries["d"] = ""
    assert [entry.name for entry in listing] == ["c"]


def test_looking_makes_nothing() -> None:
    entries: defaultdict[str, Any] = defaultdict(dict)
    visitor = Visitor(entries)
    with fails(errno.ENOENT):
        visitor.node("/x")
    assert not entries


def test_any_mapping_will_do() -> None:
    class Squares(Mapping[str, str]):
        def __getitem__(self, name: str) -> str:
            if not name.isdigit():
                raise KeyError(name)
            return str(int(name) ** 2)

        def __iter__(self) -> Iterator[str]:
            return iter(["1", "2", "3"])

        def __len__(self) -> int:
            return 3

    visitor = Visitor({"squares": Squares()})
    assert visitor.list("/squares") == ["1", "2", "3"]
    assert visitor.read("/squares/12") == b"144"  # found, though not listed
    with fails(errno.ENOENT):
        visitor.node("/squares/x")


# ----------------------------------------------------------------------------------- what cannot be

BAD: list[tuple[Any, Any, type[Exception], str]] = [
    ("", "x", ValueError, "'' cannot be the name of a file"),
    (".", "x", ValueError, "'.' cannot be the name"),
    ("..", "x", ValueError, "'..' cannot be the name"),
    ("a/b", "x", ValueError, "'a/b' cannot be the name"),
    ("a\0b", "x", ValueError, "cannot be the name"),
    ("ä" * 128, "x", ValueError, "a name of 256 bytes, where 255 are possible"),
    ("\ud800", "x", ValueError, "cannot be encoded"),
    (5, "x", TypeError, "5: a name must be str, not int"),
    (b"f", "x", TypeError, "a name must be str, not bytes"),
    ("f", "\ud800", ValueError, "f: .* cannot be encoded"),
    (
        "f",
        5,
        TypeError,
        "f: int makes no file; str, bytes, a callable .* a mapping and Tree.Link do",
    ),
    ("f", None, TypeError, "f: NoneType makes no file"),
    ("f", ["x"], TypeError, "f: list makes no file"),
    (
        "f",
        Path("/etc/motd"),
        TypeError,
        "f: PosixPath makes no file;.* and so does its `read_bytes`",
    ),
]


@pytest.mark.parametrize(("name", "value", "error", "text"), BAD)
def test_what_is_wrong_from_the_start_is_an_error(
    name: Any, value: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        puffs.Tree({name: value})
    with pytest.raises(error, match=r"^d/e/.*" + text.removeprefix("f: ")):
        puffs.Tree({"fine": "", "d": {"e": {name: value}}})


@pytest.mark.parametrize(("name", "value"), [row[:2] for row in BAD])
def test_what_turns_up_later_is_left_out_and_logged_once(
    name: Any, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    entries: dict[Any, Any] = {}
    visitor = Visitor({"d": entries})
    entries.update({"before": "", name: value, "after": ""})
    with caplog.at_level(logging.WARNING, "puffs"):
        for _ in range(3):
            assert visitor.list("/d") == ["before", "after"]
        with fails(errno.ENOENT):
            visitor("lookup", visitor.node("/d"), name, CRED)
    (record,) = caplog.records
    assert record.getMessage().startswith("left out of the tree: d/")


def test_what_was_left_out_comes_back_when_it_can_be(caplog: pytest.LogCaptureFixture) -> None:
    entries: dict[str, Any] = {}
    visitor = Visitor(entries)
    for value, listed in [(5, []), ("fine", ["f"]), (5, [])]:
        entries["f"] = value
        assert visitor.list() == listed
    assert len(caplog.records) == 2


@pytest.mark.parametrize("entries", [[], "text", None, 5, lambda: ""])
def test_the_root_is_a_mapping(entries: Any) -> None:
    with pytest.raises(TypeError, match="a Tree is made of a mapping of names, not of "):
        puffs.Tree(entries)


def test_a_mapping_that_contains_itself_is_an_error_and_one_used_twice_is_not() -> None:
    inner: dict[str, Any] = {}
    inner["again"] = {"and": inner}
    with pytest.raises(ValueError, match=r"^d/again/and: a mapping that contains itself"):
        puffs.Tree({"d": inner})
    shared = {"f": "both"}
    visitor = Visitor({"a": shared, "b": shared})
    assert visitor.read("/a/f") == visitor.read("/b/f") == b"both"


def test_mappings_in_mappings_without_end() -> None:
    """Far deeper than Python's own recursion goes, and many times over the same one."""
    deep: dict[str, Any] = {}
    for _ in range(2000):
        deep = {"a": deep, "b": deep}
    assert Visitor(deep).list("/a" * 1000) == ["a", "b"]


def test_types_are_public() -> None:
    """What type checkers must accept; this file is checked strictly."""
    now: Callable[[], str] = time.ctime
    files: dict[str, str] = {"f": "x"}
    puffs.Tree({"now": now, "files": files, "b": b"", "link": puffs.Tree.Link("f"), "d": {"e": {}}})
