"""Runs programs that were written for other libraries: `puffs refuse`, `python -m puffs.refuse`.

The program takes the place of this process, so its exit status and its signals are its own. That
it finds modules of puffs is done in `provided/`, by the environment that it gets from here.
"""

import argparse
import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from puffs.refuse.provided import sitecustomize
from puffs.streams import flush_streams

FUSE_APIS: Final = ("fusepy", "mfusepy")
"""Libraries whose programs may write `import fuse`. By far most were written for the first."""

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
"""Exit statuses of a command that cannot be started, as of a shell."""

_PYTHON: Final = re.compile(r"(python|pypy)[\d.]*[dt]?")
_STARTS_PYTHON: Final = frozenset(("sh", "bash", "dash", "zsh", "ksh", "uv", "pipx"))
"""What scripts are run by that may start a Python program in turn."""

_IGNORE_ENVIRONMENT: Final = frozenset("EIS")
_TAKE_ARGUMENT: Final = frozenset("WX")
_START_PROGRAM: Final = frozenset("cm")
"""Options of Python: with the first nothing of `provided/` is seen."""


class CannotRun(Exception):
    """The command cannot be started, or would not see what is provided."""

    def __init__(self, text: str, status: int = NOT_EXECUTABLE) -> None:
        super().__init__(text)
        self.status = status


def run(api: str, words: Sequence[str]) -> NoReturn:
    """Become the program of the command `words`; `import fuse` brings it this API."""
    try:
        command = command_of(words)
        flush_streams()
        # Python ignores these two, and what is executed would go on to.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        try:
            os.execve(command[0], command, environment(api))
        except OSError as exc:
            raise CannotRun(f"{command[0]} cannot be started: {exc.strerror}") from exc
    except CannotRun as exc:
        print(f"puffs: {exc}", file=sys.stderr)
        sys.exit(exc.status)


def environment(api: str) -> dict[str, str]:
    """The environment of the program, and of all that it starts."""
    before = os.environ.get("PYTHONPATH")
    path = [sitecustomize.PLACE, before] if before else [sitecustomize.PLACE]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), sitecustomize.API: api}


def command_of(words: Sequence[str]) -> list[str]:
    """What to execute for a command: a program, a file of Python, or options for this Python.

    Raises:
        CannotRun: it is not there, is no Python program, or would not see what is provided.
    """
    name = words[0]
    found = shutil.which(name) or (name if _is_python(Path(name)) else None)
    if name.startswith("-"):
        command = [sys.executable, *words]
    elif found is not None:
        command = [sys.executable] if _bare(Path(found)) else []
        command += [found, *words[1:]]
    elif os.path.exists(name):
        raise CannotRun(
            f"{name} is not executable, and no .py or .pyz file: name the Python that is to run "
            "it, as in: puffs refuse -- python3 PROGRAM"
        )
    else:
        raise CannotRun(f"{name or repr(name)}: there is no such program", NOT_FOUND)
    _check(command)
    return command


def _is_python(path: Path) -> bool:
    """Whether this is a file that Python runs, by its name."""
    return path.suffix in (".py", ".pyz") and path.is_file()


def _bare(path: Path) -> bool:
    """Whether this is Python that does not say, or may not say, which Python it is for."""
    return _is_python(path) and not (os.access(path, os.X_OK) and _script_of(path))


def _script_of(path: Path) -> list[str]:
    """What a script names in its first line: an interpreter and its options."""
    try:
        with path.open("rb") as file:
            line = file.readline(4096)
    except OSError as exc:
        raise CannotRun(f"{path} cannot be read: {exc.strerror}") from exc
    words = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
    if words and os.path.basename(words[0]) == "env":
        del words[0]
        while words and (words[0].startswith("-") or "=" in words[0]):
            del words[0]
    return words


def _check(command: Sequence[str]) -> None:
    """Refuse what would run without puffs, and tell why."""
    program = command[0]
    names = {os.path.basename(program), os.path.basename(os.path.realpath(program))}
    if any(map(_PYTHON.fullmatch, names)):
        _check_options(command[1:], f"{' '.join(command)}")
        return
    script = _script_of(Path(program))
    interpreter = os.path.basename(script[0]) if script else ""
    if _PYTHON.fullmatch(interpreter):
        _check_options(script[1:], f"the first line of {program}")
    elif interpreter not in _STARTS_PYTHON:
        raise CannotRun(
            f"{program} is no Python program"
            + (f", but one for {interpreter}" if interpreter else "")
            + ". If it starts one, put `puffs refuse --` in front of that; one that was made to "
            "bring its own Python (by PyInstaller, for example) cannot be given other modules"
        )


def _check_options(words: Sequence[str], where: str) -> None:
    """Refuse options of Python that keep `provided/` away."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word.startswith("--") or word == "-":
            return
        for place, letter in enumerate(word[1:], 2):
            if letter in _START_PROGRAM:
                return
            if letter in _TAKE_ARGUMENT:
                if place == len(word):
                    next(rest, None)
                break
            if letter in _IGNORE_ENVIRONMENT:
                raise CannotRun(
                    f"{where} has the option -{letter}, with which Python sees nothing of what "
                    "puffs provides: run it without, as in: puffs refuse -- python3 PROGRAM"
                )


def main() -> NoReturn:
    """The command line `python -m puffs.refuse`."""
    parser = argparse.ArgumentParser(
        prog="python -m puffs.refuse",
        usage="%(prog)s [-h] [--api NAME] (CMD ARGS... | -m MODULE ARGS...)",
        description="Run a Python program that was written for fusepy, mfusepy, pyfuse3 or llfuse, "
        "unchanged, on puffs.",
    )
    parser.add_argument(
        "--api",
        choices=FUSE_APIS,
        default=FUSE_APIS[0],
        help="whose API `import fuse` brings (default: %(default)s)",
    )
    parser.add_argument(
        "-m",
        dest="module",
        metavar="MODULE ARGS...",
        nargs=argparse.REMAINDER,
        help="a module, run by this Python",
    )
    parser.add_argument(
        "command",
        metavar="CMD ARGS...",
        nargs=argparse.REMAINDER,
        help="a program, a .py file, or behind `--` any options for this Python",
    )
    given = parser.parse_args()
    words = given.command[1:] if given.command[:1] == ["--"] else given.command
    if given.module:
        words = ["-m", *given.module]
    if not words:
        parser.error("name the program to run")
    run(given.api, words)
