"""The modules of libfuse: paths, names and links on their way."""

import errno
import os
from typing import Any

import pytest

from puffs.refuse.modules import Translation
from puffs.refuse.options import parse
from tests.refuse.asked import Program

BELOW: dict[str, Any] = {"modules": "subdir", "subdir": "/dir"}
LATIN: dict[str, Any] = {"modules": "iconv", "to_code": "latin-1"}


def translation(**keywords: Any) -> Translation:
    made = parse(keywords, "fuse2").translation
    assert made is not None
    return made


@pytest.mark.parametrize("base", ["/a/b", "/a/b/", "a/b"])
def test_subdir_puts_a_directory_before_each_path(base: str) -> None:
    subdir = translation(modules="subdir", subdir=base)
    assert [subdir.inward(path) for path in ("/", "/x", "/x/y")] == ["/a/b", "/a/b/x", "/a/b/x/y"]
    assert subdir.outward("x") == "x"


def test_subdir_of_the_root_changes_nothing() -> None:
    subdir = translation(modules="subdir", subdir="/", rellinks=True)
    assert [subdir.inward(path) for path in ("/", "/x")] == ["/", "/x"]
    assert subdir.target_outward("/x/link", "/y") == "../y"


@pytest.mark.parametrize(
    ("link", "target", "shown"),
    [
        ("/a/link", "/a/file", "file"),
        ("/a/b/link", "/a/file", "../file"),
        ("/a/b/link", "/a/c/../file", "../c/../file"),
        ("/a/b/link", "/a", ".."),
        ("/a/link", "/a", "."),
        ("/a/link", "/about", "/about"),
        ("/a/link", "/etc/passwd", "/etc/passwd"),
        ("/a/link", "file", "file"),
    ],
)
def test_absolute_links_become_relative(link: str, target: str, shown: str) -> None:
    assert translation(modules="subdir", subdir="/a", rellinks=True).target_outward(
        link, target
    ) == (shown)
    assert translation(modules="subdir", subdir="/a").target_outward(link, target) == target
    undone = translation(modules="subdir", subdir="/a", rellinks=True, norellinks=True)
    assert undone.target_outward(link, target) == target


def test_iconv_converts_both_ways() -> None:
    iconv = translation(**LATIN)
    outside = os.fsdecode("ä".encode("latin-1"))
    assert iconv.inward(f"/{outside}") == "/ä"
    assert iconv.outward("ä") == outside
    assert iconv.target_inward(f"../{outside}") == "../ä"
    assert iconv.target_outward("/x", "ä") == outside


def test_what_cannot_be_converted_is_left_out_or_an_error() -> None:
    iconv = translation(**LATIN)
    assert iconv.outward("€") is None
    with pytest.raises(OSError) as caught:
        iconv.target_outward("/x", "€")
    assert caught.value.errno == errno.EILSEQ
    with pytest.raises(OSError) as caught:
        translation(modules="iconv", from_code="ascii", to_code="utf-8").inward("/ä")
    assert caught.value.errno == errno.EILSEQ


@pytest.mark.parametrize("order", ["subdir:iconv", "iconv:subdir"])
def test_several_stand_upon_each_other(order: str) -> None:
    both = translation(modules=order, subdir="/a", rellinks=True, to_code="latin-1")
    outside = os.fsdecode("ä".encode("latin-1"))
    assert both.inward(f"/b/{outside}") == "/a/b/ä"
    assert both.outward("ä") == outside
    assert both.target_outward("/a/b/link", "/a/ä") == f"../{outside}"


def test_the_last_one_is_the_outermost() -> None:
    one = translation(modules="subdir:iconv", subdir="/ä", to_code="latin-1")
    assert one.inward("/x") == "/ä/x"
    with pytest.raises(OSError):  # the directory is put before the path in latin-1, and is none
        translation(modules="iconv:subdir", subdir="/ä", to_code="ascii").inward("/x")


@pytest.mark.fuse
def test_a_directory_is_mounted(asked: Program) -> None:
    asked.start(foreground=True, rellinks=True, **BELOW).until_mounted()
    assert sorted(os.listdir(asked.path)) == ["file", "link"]
    assert (asked.path / "file").read_bytes() == b"x" * 10000
    assert os.readlink(asked.path / "link") == "file"
    assert (asked.path / "link").stat().st_size == 10000
    assert asked.notes("open")[0][1] == "/dir/file"


@pytest.mark.fuse
def test_names_are_made_in_the_set_of_the_program(asked: Program) -> None:
    asked.start(foreground=True, **LATIN).until_mounted()
    outside = os.path.join(os.fsencode(asked.path), "ä".encode("latin-1"))
    os.close(os.open(outside, os.O_CREAT | os.O_WRONLY))
    assert "ä".encode("latin-1") in os.listdir(os.fsencode(asked.path))
    assert ["getattr", "/ä"] in asked.notes("getattr")
