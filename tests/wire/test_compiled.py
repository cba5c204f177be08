"""The structs of the compiled loop are those of `abi`. What it does with them is tested where it
serves.
"""

from importlib import import_module

import pytest

from puffs.attach.fuse import abi
from puffs.server.attr import WIRE_SIZE
from tests.needs import cannot

LAYOUTS = {layout.name: layout for layout in vars(abi).values() if isinstance(layout, abi.Layout)}


def test_structs_are_as_long_as_the_codec_says() -> None:
    try:
        compiled = import_module("puffs.attach.fuse._compiled")
    except ImportError:
        cannot("the compiled loop was not built: install gcc, then run `make clean`")
    assert {name: LAYOUTS[name].size for name in compiled.SIZES} == compiled.SIZES
    assert import_module("puffs.refuse._inodes").WIRE == WIRE_SIZE


@pytest.mark.parametrize("layout", [abi.READ_IN, abi.WRITE_IN], ids=["read", "write"])
def test_reads_and_writes_begin_alike(layout: abi.Layout) -> None:
    """One struct stands for what is looked at of both."""
    assert list(layout.fields.values())[:3] == [(0, "Q"), (8, "Q"), (16, "I")]
    assert list(layout.fields)[:3] == ["fh", "offset", "size"]
