"""Fixtures of the tests with a fake kernel."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def silent() -> Iterator[None]:
    """Tracebacks of thousands of made-up failures are not worth formatting."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
