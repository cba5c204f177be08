"""The table of statements, its page, and the tools behind `make statements`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from puffs.kernel.args import MountArgs
from puffs.kernel.mount import Mount
from tests.statements import page
from tests.statements.__main__ import marks_of_all_tests, noticed
from tests.statements.plugin import Broken, break_function, find
from tests.statements.table import FILE, TableError, load

SAYS = 'says = "Something."\n'
FUNCTION = 'alive = ["FUSE"]\nfunction = "puffs.kernel.args.check_flags"\n'


def test_the_page_is_that_of_the_table_and_of_the_marks() -> None:
    text = page.page(load(), marks_of_all_tests())
    assert page.FILE.read_text() == text, "make statements writes it"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('class = "as stated"\n' + FUNCTION, "nothing"),
        (SAYS + FUNCTION, "class"),
        (SAYS + 'class = "better"\n' + FUNCTION, "'better'"),
        (SAYS + 'class = "improved"\n' + FUNCTION, "how"),
        (SAYS + 'class = "as stated"\nhow = "So."\n' + FUNCTION, "how"),
        (SAYS + 'class = "not applicable"\n', "how"),
        (SAYS + 'class = "not applicable"\nhow = "So."\nalive = ["FUSE"]\n', "alive"),
        (SAYS + 'class = "as stated"\nfunction = "puffs.main"\n', "alive"),
        (SAYS + 'class = "as stated"\nalive = ["9P"]\nfunction = "puffs.main"\n', "9P"),
        (SAYS + 'class = "as stated"\nalive = ["FUSE"]\n', "function"),
        (SAYS + 'class = "as stated"\nalive = ["FUSE"]\nfunction = "os.open"\n', "os.open"),
        (SAYS + 'class = "as stated"\nproved = true\n' + FUNCTION, "proved"),
    ],
)
def test_a_row_must_be_complete(row: str, says: str) -> None:
    whole = FILE.read_text()
    start, end = whole.index("[M3]\n") + len("[M3]\n"), whole.index("[M4]\n")
    load(whole)
    with pytest.raises(TableError, match=f"^M3: .*{re.escape(says)}"):
        load(whole[:start] + row + whole[end:])


def test_no_statement_may_be_left_out() -> None:
    whole = FILE.read_text()
    start, end = whole.index("[M3]\n"), whole.index("[M4]\n")
    with pytest.raises(TableError, match="M3"):
        load(whole[:start] + whole[end:])


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Mount, "root", lambda: Mount.root(cast(Mount, None))),
        (MountArgs, "copyin", lambda: MountArgs.copyin(None)),
        (MountArgs, "payload", lambda: MountArgs("x").payload),
    ],
)
def test_what_is_broken_raises(
    owner: type, name: str, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{owner.__module__}.{owner.__qualname__}.{name}"
    found = find(path)
    assert found[:2] == (owner, name)
    monkeypatch.setattr(owner, name, found[2])
    break_function(path)
    with pytest.raises(Broken, match=re.escape(path)):
        call()


@pytest.mark.parametrize("path", ["puffs.kernel.args.nothing", "puffs.no.module", "puffs"])
def test_what_is_not_there_cannot_be_broken(path: str) -> None:
    with pytest.raises(LookupError):
        find(path)


def test_a_mark_that_proves_nothing_is_noticed() -> None:
    file = str(Path("tests", "kernel", "test_args.py"))
    marks = {"M3": [f"{file}::x"], "M4": [f"{file}::y"]}
    assert noticed(marks, "puffs.kernel.args.check_flags", ["M3", "M4"]) == {"M3"}
