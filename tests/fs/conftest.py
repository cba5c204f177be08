"""Directories of the host, for `null` to pass through."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fs.host import in_memory, overlaid


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The host's directory."""
    path = tmp_path / "host"
    path.mkdir()
    return path


@pytest.fixture(params=["disk", "memory", "overlay"])
def any_host(request: pytest.FixtureRequest, host: Path) -> Iterator[Path]:
    """The same on several file systems; the last one has no file handles."""
    if request.param == "disk":
        yield host
    else:
        with in_memory() if request.param == "memory" else overlaid(host) as path:
            yield path


@pytest.fixture(scope="module", autouse=True)
def memory_goes_back() -> Iterator[None]:
    """What images have needed is given back: other tests fork from this process, many times, and
    limit the memory of what they fork.
    """
    yield
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in every C library
    if trim is not None:
        trim(0)
