"""docs/migrating.md: its programs run as they stand, and its table of options is the one obeyed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from puffs.attach.fuse.mountinfo import find_mount
from tests.fuse.conftest import PATIENCE
from tests.fuse.others import comes_true
from tests.refuse.option_table import BEGIN, END, PAGE, table

PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_table_of_options_is_the_one_that_is_obeyed() -> None:
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert shown == table(), "python -m tests.refuse.option_table writes it anew"


def test_there_is_a_program_for_each_library_and_beside_it_one_for_puffs() -> None:
    imports = ["refuse.fusepy", "refuse import mfusepy", "refuse import pyfuse3"]
    for wanted in [
        *imports,
        "refuse import llfuse",
        "PathFileSystem",
        "puffs.FileSystem[",
        "except",
    ]:
        assert any(wanted in program for program in PROGRAMS), wanted


@pytest.mark.fuse
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_says_hello(program: str, open_place: Path, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(program)
    with subprocess.Popen(
        [sys.executable, script, open_place], stderr=subprocess.PIPE, text=True
    ) as process:

        def mounted_or_ended() -> bool:
            return find_mount(str(open_place)) is not None or process.poll() is not None

        assert comes_true(mounted_or_ended, PATIENCE)
        assert process.poll() is None, process.communicate()
        assert os.listdir(open_place) == ["hello"]
        assert (open_place / "hello").read_text() == "Hello!\n"
        subprocess.run(["umount", open_place], check=True)
        _, complaints = process.communicate(timeout=PATIENCE)
    assert (process.returncode, complaints) == (0, "")
