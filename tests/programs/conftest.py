"""The mount that a program runs on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs.places import KINDS, PLAIN, mounted


@pytest.fixture(params=PLAIN)
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The mount point of one of the `KINDS`."""
    with mounted(KINDS[request.param]) as path:
        yield path
