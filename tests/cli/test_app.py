"""The command `puffs` as a whole."""

import re
import sys

import pytest

import puffs
from tests.cli.commands import PUFFS, run, succeeds


def test_version() -> None:
    assert succeeds(*PUFFS, "--version") == f"puffs {puffs.__version__}\n"


def test_help_tells_what_a_spec_is_and_what_each_command_does() -> None:
    text = succeeds(*PUFFS, "--help")
    assert text.startswith("Usage: puffs [OPTIONS] COMMAND")
    assert "mem:?size=64M&files=1000" in text
    for command in ("mount", "umount", "check", "demo"):
        assert re.search(rf"^  {command}  +[A-Z]\w+", text, re.MULTILINE), command
        of_it = succeeds(*PUFFS, command, "--help")
        assert of_it.startswith(f"Usage: puffs {command} [OPTIONS]")


def test_help_of_mount_lists_every_mount_option() -> None:
    text = succeeds(*PUFFS, "mount", "--help")
    for option in ("ro", "allow_other", "max_read=BYTES", "fsname=NAME"):
        assert re.search(rf"^  {option}  +\w", text, re.MULTILINE), option
    assert re.search(r"^ +puffs mount mem: /mnt/x$", text, re.MULTILINE)


@pytest.mark.parametrize("arguments", [["umoun"], ["mount", "mem:"], ["--frobnicate"]])
def test_a_command_line_that_makes_no_sense(arguments: list[str]) -> None:
    done = run(*PUFFS, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: puffs")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_says_what_to_install_where_the_extra_is_missing(missing: str) -> None:
    without = f"import sys; sys.modules[{missing!r}] = None\nfrom puffs.cli import main; main()"
    done = run(sys.executable, "-c", without)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "puffs: the command line needs click and rich: pip install 'puffs[cli]'\n"
    )
    done = run(sys.executable, "-c", without, "refuse", "--", "program")
    assert done.stderr.endswith("; python -m puffs.refuse does the same without\n")
