"""Programs that are mounted for real, in processes of their own."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import give_back
from tests.refuse.asked import Program, program


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory to mount on that every user can reach."""
    top = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    top.chmod(0o755)
    path = top / "mnt"
    path.mkdir()
    yield path
    give_back(path)
    shutil.rmtree(top)


@pytest.fixture
def asked(tmp_path: Path, open_place: Path) -> Iterator[Program]:
    """The program of `asked`, to be started."""
    with program(tmp_path, open_place) as made:
        yield made
