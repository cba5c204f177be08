"""System calls as tests use them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def fails(code: int, *says: str) -> Iterator[None]:
    """The body must raise an `OSError` with this errno, and with these words in its text."""
    with pytest.raises(OSError) as caught:
        yield
    assert errno.errorcode.get(caught.value.errno or 0) == errno.errorcode[code], caught.value
    for words in says:
        assert words in str(caught.value)


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR, mode: int = 0o644) -> Iterator[int]:
    """A descriptor."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def held_open(path: Path) -> Iterator[int]:
    """A descriptor of a file whose server may go away: it is closed all the same."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        try:
            os.close(fd)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
