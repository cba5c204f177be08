"""Policing: what no file server may return is refused, and told by kind (statement 2.7)."""

import os
import stat
from collections.abc import Callable
from errno import E2BIG, EINVAL, ENAMETOOLONG, EPROTO
from typing import Any

import pytest

import puffs
from puffs.kernel import police
from puffs.kernel.vnode import Vnode
from puffs.server.errors import ProtocolFault

PARENT = Vnode("parent", 2, 0, 2)
FILE = puffs.Attr(stat.S_IFREG | 0o644)

REFUSED: list[tuple[str, Callable[[], object], str, int]] = [
    ("lookup of None", lambda: police.node(None, PARENT, "lookup"), "LOOKUP", EINVAL),
    ("mkdir of None", lambda: police.node(None, PARENT, "mkdir"), "MAKENODE", EINVAL),
    (
        "an entry without a cookie",
        lambda: police.node(puffs.Entry(None, FILE), PARENT, "lookup"),
        "LOOKUP",
        EINVAL,
    ),
    ("unhashable", lambda: police.node([], PARENT, "lookup"), "LOOKUP", EINVAL),
    ("the parent", lambda: police.node("parent", PARENT, "lookup"), "LOOKUP", EINVAL),
    ("the parent made", lambda: police.node("parent", PARENT, "create"), "MAKENODE", EINVAL),
    ("attributes None", lambda: police.attributes(None, 1, "getattr"), "ERROR", EINVAL),
    (
        "attributes without a type",
        lambda: police.attributes(puffs.Attr(0o644), 1, "getattr"),
        "MAKENODE",
        EINVAL,
    ),
    (
        "attributes of no type that there is",
        lambda: police.attributes(puffs.Attr(0o130644), 1, "getattr"),
        "MAKENODE",
        EINVAL,
    ),
    ("read of None", lambda: police.data(None, 5, 1), "READ", EINVAL),
    ("read of str", lambda: police.data("text", 5, 1), "READ", EINVAL),
    ("too much read", lambda: police.data(b"123456", 5, 1), "READ", E2BIG),
    ("too much in a view", lambda: police.data(memoryview(b"123456"), 5, 1), "READ", E2BIG),
    ("write of None", lambda: police.amount(None, 5, 1), "WRITE", EINVAL),
    ("write of bool", lambda: police.amount(True, 5, 1), "WRITE", EINVAL),
    ("too much written", lambda: police.amount(6, 5, 1), "WRITE", EINVAL),
    ("less than nothing written", lambda: police.amount(-1, 5, 1), "WRITE", EINVAL),
    ("seek of None", lambda: police.position(None, 1), "ERROR", EINVAL),
    ("seek before the start", lambda: police.position(-1, 1), "ERROR", EINVAL),
    ("seek too far", lambda: police.position(1 << 63, 1), "ERROR", EINVAL),
    ("readlink of None", lambda: police.target(None, 1), "READLINK", EINVAL),
    ("an empty link", lambda: police.target("", 1), "READLINK", EINVAL),
    ("a link with NUL", lambda: police.target("a\0b", 1), "READLINK", EINVAL),
    ("a link too long", lambda: police.target("x" * 4096, 1), "READLINK", EINVAL),
    ("a name of bytes", lambda: police.filename(b"x", "readdir", 1), "READDIR", EINVAL),
    ("an empty name", lambda: police.filename("", "readdir", 1), "READDIR", EINVAL),
    ("a name with /", lambda: police.filename("a/b", "readdir", 1), "READDIR", EINVAL),
    ("a name with NUL", lambda: police.filename("a\0", "readdir", 1), "READDIR", EINVAL),
    ("a name too long", lambda: police.filename("ü" * 128, "readdir", 1), "READDIR", ENAMETOOLONG),
    ("an entry that is none", lambda: police.entry(7, 1), "READDIR", EINVAL),
    ("an attribute of str", lambda: police.xattr("text", 1, "getxattr"), "GETEXTATTR", EINVAL),
    (
        "an attribute too long",
        lambda: police.xattr(bytes(65537), 1, "getxattr"),
        "GETEXTATTR",
        E2BIG,
    ),
    ("attribute names None", lambda: police.xattr_names(None, 1), "LISTEXTATTR", EINVAL),
    ("attribute names in one", lambda: police.xattr_names("user.a", 1), "LISTEXTATTR", EINVAL),
    ("an attribute name int", lambda: police.xattr_names([7], 1), "LISTEXTATTR", EINVAL),
    ("an empty attribute name", lambda: police.xattr_names([""], 1), "LISTEXTATTR", EINVAL),
    ("an attribute name with NUL", lambda: police.xattr_names(["a\0"], 1), "LISTEXTATTR", EINVAL),
    (
        "too many attribute names",
        lambda: police.xattr_names(["x" * 255] * 257, 1),
        "LISTEXTATTR",
        E2BIG,
    ),
    ("statvfs of None", lambda: police.statvfs(None), "ERROR", EINVAL),
]


@pytest.mark.statement("2.7a")
@pytest.mark.parametrize(
    ("call", "kind", "hint"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refused(call: Callable[[], object], kind: str, hint: int) -> None:
    with pytest.raises(ProtocolFault) as caught:
        call()
    fault = caught.value
    assert (fault.errno, fault.kind, fault.hint) == (EPROTO, kind, hint)
    assert fault.text, "the author is told what was wrong"


ALLOWED: list[tuple[str, Any, Any]] = [
    ("a cookie", police.node("c", PARENT, "lookup"), ("c", None, None)),
    ("a full read", police.data(b"12345", 5, 1), b"12345"),
    ("a bytearray", bytes(police.data(bytearray(b"123"), 5, 1)), b"123"),
    (
        "a view of wider items",
        bytes(police.data(memoryview(b"12345678").cast("I"), 8, 1)),
        b"12345678",
    ),
    ("all written", police.amount(5, 5, 1), 5),
    ("nothing written", police.amount(0, 5, 1), 0),
    ("a link", police.target("x" * 4095, 1), b"x" * 4095),
    ("a link of bytes", police.target(b"\xff", 1), b"\xff"),
    ("the longest name", police.filename("x" * 255, "readdir", 1), b"x" * 255),
    ("a name that is not UTF-8", police.filename("\udcff", "readdir", 1), b"\xff"),
    ("a bare name", police.entry("x", 1).name, "x"),
    ("attribute names", police.xattr_names(iter(["user.a", "user.b"]), 1), b"user.a\0user.b\0"),
    ("no attribute names", police.xattr_names([], 1), b""),
    ("the longest attribute", len(police.xattr(bytearray(65536), 1, "getxattr")), 65536),
    ("no file", police.opened(None).file, None),
    ("a file", police.opened("object").file, "object"),
    ("a node alone", police.created("node"), ("node", None, False)),
    ("a node and a file", police.created(("node", "file")), ("node", "file", True)),
]


@pytest.mark.parametrize(
    ("found", "expected"), [r[1:] for r in ALLOWED], ids=[r[0] for r in ALLOWED]
)
def test_allowed(found: object, expected: object) -> None:
    assert found == expected


def test_an_entry_brings_its_attributes() -> None:
    entry = puffs.Entry("c", FILE)
    assert police.node(entry, PARENT, "lookup") == ("c", FILE, entry)


def test_os_results_are_taken_for_attributes() -> None:
    here = os.stat("/")
    assert police.attributes(here, 1, "getattr").mode == here.st_mode
    whole = os.statvfs("/")
    assert police.statvfs(whole).blocks == whole.f_blocks


def test_open_hints_are_kept() -> None:
    hints = puffs.Open("f", direct_io=True)
    assert police.opened(hints) is hints
