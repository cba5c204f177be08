"""SPEC: what a command line can name, and what is said when it cannot be found."""

import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import pytest

import puffs
from puffs.cli import spec as spec_module
from puffs.cli.spec import BUILT_IN, GROUP, SpecError, parse_spec

SERVERS = '''
"""File servers of all kinds."""
from __future__ import annotations

import os
import stat
from dataclasses import dataclass

import puffs


class One(puffs.FileSystem[str]):
    """One empty directory; `given` is what it was made with."""

    def __init__(
        self,
        text: str = "",
        count: int = 0,
        share: float | None = None,
        loud: bool = False,
        either: int | str = 0,
        any=None,
    ) -> None:
        if text == "refuse":
            raise ValueError("text must not be that")
        self.given = (text, count, share, loud, either, any)

    def mount(self) -> str:
        return "/"

    def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:
        raise FileNotFoundError

    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        return puffs.Attr(stat.S_IFDIR | 0o755)


class Bare(One):
    name = "plain"

    def __init__(self) -> None:
        super().__init__("bare")


class Outer:
    Inner = Bare


class NoServer:
    pass


def make(text: str) -> One:
    return One(text)


def make_nothing() -> None:
    return None


def needs(what: Unknown) -> One:
    return One(what)


existing = One("existing")
number = 3
'''


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory with file servers in it; nothing of it stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("servers.py").write_text(SERVERS)
    Path("json.py").write_text(SERVERS)
    package = Path("package_of_mine")
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "deep.py").write_text("from servers import One as Deep\n")
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def given(text: str) -> object:
    return getattr(parse_spec(text).factory(), "given", None)


DEFAULTS = ("", 0, None, False, 0, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("servers:One", DEFAULTS),
        ("servers.py:One", DEFAULTS),
        ("./servers.py:One", DEFAULTS),
        ("package_of_mine.deep:Deep", DEFAULTS),
        ("./json.py:One", DEFAULTS),
        ("servers:One?text=a", ("a", *DEFAULTS[1:])),
        ("servers:One?", DEFAULTS),
        ("servers:One?text=", DEFAULTS),
        ("servers:One?text=a%26b%3Dc+d%25&", ("a&b=c+d%", *DEFAULTS[1:])),
        ("servers:One?text=x?y:z=", ("x?y:z=", *DEFAULTS[1:])),
        ("servers:One?count=12", ("", 12, *DEFAULTS[2:])),
        ("servers:One?count=64K", ("", 64 << 10, *DEFAULTS[2:])),
        ("servers:One?share=1.5&loud=yes", ("", 0, 1.5, True, 0, None)),
        ("servers:One?loud=0&any=7", ("", 0, None, False, 0, "7")),
        ("servers:One?either=7", ("", 0, None, False, "7", None)),
        ("servers:Bare", ("bare", *DEFAULTS[1:])),
        ("servers:Outer.Inner", ("bare", *DEFAULTS[1:])),
        ("servers:make?text=a", ("a", *DEFAULTS[1:])),
        ("servers:needs?what=a", ("a", *DEFAULTS[1:])),
        ("servers:existing", ("existing", *DEFAULTS[1:])),
    ],
)
def test_leads_to_a_file_server_with_its_arguments(text: str, expected: object) -> None:
    assert given(text) == expected


def test_a_file_imports_what_lies_beside_it() -> None:
    Path("package_of_mine/near.py").write_text("from servers import One\n")
    with pytest.raises(SpecError, match=r"near\.py needs the module servers"):
        parse_spec("package_of_mine/near.py:One")
    Path("servers.py").rename("package_of_mine/servers.py")
    assert given("package_of_mine/near.py:One") == DEFAULTS


def test_each_call_makes_another_one() -> None:
    factory = parse_spec("servers:One").factory
    assert factory() is not factory()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mem:", "mem"),
        ("mem:?size=64M&files=1000", "mem"),
        ("servers:One?text=secret", "one"),
        ("servers:Bare", "plain"),
        ("servers:make?text=secret", "make"),
        ("servers:existing", "one"),
    ],
)
def test_the_name_is_that_of_the_class(text: str, name: str) -> None:
    assert parse_spec(text).name == name


def test_mem_takes_limits() -> None:
    with puffs.local(parse_spec("mem:?size=64M&files=1000").factory) as vfs:
        space = vfs.statvfs("/")
    assert space.f_blocks * space.f_frsize == 64 << 20
    assert space.f_files == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' names no file server: .*package.module:Class"),
        (":", "names no file server"),
        ("mem", "'mem' is written with a colon: mem:"),
        ("servers.py", "names no file server: .*file.py:Class"),
        ("servers.py:", "servers.py: which class of it. Write servers.py:CLASS"),
        ("memm:", "there is no file system 'memm': did you mean mem:?"),
        ("sftp:user:password@host/", "there is no file system 'sftp': did you mean"),
        ("http://host/?token=password", "there is no file system 'http'"),
        ("nowhere.py:One", "there is no file .*/nowhere.py"),
        ("nowhere:One", "there is no module 'nowhere'"),
        ("memm:One", "there is no module 'memm'; did you mean mem:"),
        ("package_of_mine.deeep:Deep", "there is no module 'package_of_mine.deeep'"),
        ("servers:Onne", "servers has no 'Onne'; did you mean One"),
        ("servers:Outer.Inna", "servers has no 'Inna'; did you mean Inner"),
        ("servers:NoServer", "NoServer is no file server: .*puffs.FileSystem"),
        ("servers:number", "number is no file server"),
        ("servers:os.path", "path is no file server"),
        (
            "servers:One?tex=password",
            "One: got an unexpected keyword argument 'tex'; it takes text",
        ),
        ("servers:Bare?tex=password", "Bare: got an unexpected .* it takes no arguments"),
        ("servers:make", "make: missing a required argument: 'text'; it takes text"),
        ("servers:existing?text=password", "existing is a file server that exists already"),
        ("servers:One?text=password&text=b", "argument 'text' is given twice"),
        ("servers:One?password", "arguments follow the question mark as key=value"),
        ("servers:One?count=password", "One: count needs a whole number"),
        ("servers:One?share=password", "One: share needs a number"),
        ("servers:One?loud=password", "One: loud needs yes or no"),
    ],
)
def test_says_in_a_line_what_is_wrong_and_repeats_no_argument(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_spec(text)
    assert len(str(caught.value).splitlines()) == 1
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("servers:One?text=refuse", "One: text must not be that"),
        ("servers:make_nothing", "make_nothing made no file server, but a NoneType"),
        ("mem:?size=much", "mem: .*size"),
    ],
)
def test_says_what_the_file_server_itself_refuses(text: str, message: str) -> None:
    factory = parse_spec(text).factory
    with pytest.raises(SpecError, match=message):
        factory()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n", "bad.py cannot be imported: SyntaxError: .*line 1"),
        ("1 / 0\n", "bad.py cannot be imported: ZeroDivisionError"),
        ("import nowhere_at_all\n", "bad.py needs the module nowhere_at_all"),
        ("import sys; sys.exit(3)\n", "bad.py ends the program .*__name__"),
    ],
)
def test_says_why_a_file_cannot_be_imported(source: str, message: str) -> None:
    Path("bad.py").write_text(source)
    with pytest.raises(SpecError, match=message):
        parse_spec("bad.py:One")


def test_packages_register_names(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("mine", "servers:One", GROUP), EntryPoint("gone", "nowhere:X", GROUP)]

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        return [point for point in points if group == GROUP and name in (None, point.name)]

    monkeypatch.setattr(spec_module, "entry_points", entry_points)
    monkeypatch.syspath_prepend(Path.cwd())
    assert given("mine:/srv/a%3Fb:c?count=2") == ("/srv/a?b:c", 2, *DEFAULTS[2:])
    assert given("mine:/srv/%FF%C3%A4") == (os.fsdecode(b"/srv/\xff\xc3\xa4"), *DEFAULTS[1:])
    assert given("mine:") == DEFAULTS
    with pytest.raises(SpecError, match=re.escape("'minne': did you mean mine:?")):
        parse_spec("minne:")
    with pytest.raises(SpecError, match=r"gone.* needs the module nowhere"):
        parse_spec("gone:")


def test_the_built_in_names_are_those_that_are_registered() -> None:
    points = distribution("puffs").entry_points.select(group=GROUP)
    assert {point.name: point.value for point in points} == BUILT_IN
