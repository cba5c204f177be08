"""The structs of the compiled loop are those of `abi`. What it does with them is tested where it
serves.
"""

import errno
import stat
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from puffs.attach.fuse import abi, compiled
from puffs.refuse import pyfuse3
from puffs.refuse.attributes import attributes
from puffs.refuse.inodes import AsyncInodes
from puffs.server.attr import WIRE_SIZE, Attr
from tests.needs import cannot

LAYOUTS = {layout.name: layout for layout in vars(abi).values() if isinstance(layout, abi.Layout)}


def test_structs_are_as_long_as_the_codec_says() -> None:
    try:
        loop = import_module(compiled.LOOP)
    except ImportError:
        cannot("the compiled loop was not built: install gcc, then run `make clean`")
    assert {name: LAYOUTS[name].size for name in loop.SIZES} == loop.SIZES
    assert loop.WIRE == WIRE_SIZE


@pytest.mark.parametrize("layout", [abi.READ_IN, abi.WRITE_IN], ids=["read", "write"])
def test_reads_and_writes_begin_alike(layout: abi.Layout) -> None:
    """One struct stands for what is looked at of both."""
    assert list(layout.fields.values())[:3] == [(0, "Q"), (8, "Q"), (16, "I")]
    assert list(layout.fields)[:3] == ["fh", "offset", "size"]


class TwoHandlers(pyfuse3.Operations):
    """A program for pyfuse3 that has these only."""

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        raise pyfuse3.FUSEError(errno.EPERM)


def test_handlers_of_programs_for_pyfuse3_are_compiled_unless_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inodes = AsyncInodes(TwoHandlers(), pyfuse3.Operations)
    if compiled.module(compiled.INODES) is None:
        cannot("they were not built, or are not wanted")
    assert inodes.compiled_handlers().keys() == {abi.Opcode.LOOKUP, abi.Opcode.MKDIR}
    monkeypatch.setenv(compiled.PURE, "1")
    assert inodes.compiled_handlers() == {}


TIMES = (0, 1, 1_700_000_000, 1_700_000_000_987_654_321, -1, 0.25, -0.25, 1e18, True)
NUMBERS = (0, 1, 0o100644, 2**31, 2**32 - 1, 2**32, 2**63, -1, True)


@pytest.mark.parametrize("use_ns", [True, False], ids=["nanoseconds", "seconds"])
@pytest.mark.parametrize("use_ino", [True, False], ids=["ino", "no ino"])
def test_attributes_are_made_of_what_programs_tell_as_by_the_plain_ones(
    use_ns: bool, use_ino: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiled.module(compiled.PATHS) is None:
        cannot("it was not built, or is not wanted")
    made = attributes(use_ns, use_ino, None)
    monkeypatch.setenv(compiled.PURE, "1")
    plain = attributes(use_ns, use_ino, None)
    file = {"st_mode": stat.S_IFREG | 0o644}
    told: list[dict[str, Any]] = [file, {"st_mode": 0}, {}]
    told += [file | {f"st_{kind}time": time} for kind in "amc" for time in TIMES]
    names = ("size", "blocks", "mode", "nlink", "uid", "gid", "rdev", "blksize", "ino")
    told += [file | {f"st_{name}": number} for name in names for number in NUMBERS]
    told += [file | {"st_size": "long"}, file | {"st_atime": float("nan")}]
    for each in told:
        assert outcome(made, each) == outcome(plain, each), each


def outcome(attr_of: Callable[[Any], Attr], told: dict[str, Any]) -> object:
    try:
        return attr_of(told)
    except Exception as exc:
        return repr(exc)
