"""Fixtures of the tests with a fake kernel."""

import logging
from collections.abc import Iterator

import pytest

from puffs.attach.fuse import compiled
from tests.needs import cannot


@pytest.fixture
def silent() -> Iterator[None]:
    """Tracebacks of thousands of made-up failures are not worth formatting."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(params=["compiled", "plain"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both loops, one after the other: whoever uses this is served by this one."""
    chosen: str = request.param
    monkeypatch.setenv(compiled.PURE, "1" if chosen == "plain" else "0")
    if chosen == "compiled" and compiled.module() is None:
        cannot("the compiled loop was not built: install gcc, then run `make clean`")
    return chosen
