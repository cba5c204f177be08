"""Carry out a sequence of steps in a directory, and tell what came of each."""

import errno
import fcntl
import os
import re
import shutil
import stat
from functools import lru_cache
from types import CodeType
from typing import Any, Final

from puffs.check.sequences import calls

_ASSIGNED: Final = re.compile(r"(f\d) = ")
_KNOWN: Final = {
    "os": os,
    "fcntl": fcntl,
    "stat": stat,
    **{name: value for name, value in vars(calls).items() if callable(value)},
}


def play(lines: list[str], directory: str) -> list[str]:
    """What each line gives: its value for people, or the name of its error.

    They are carried out in `directory`, which is made for it and taken away again, with what a
    predecessor has left there. What was opened is closed.
    """
    if os.path.lexists(directory):
        shutil.rmtree(directory)
    home = os.open(".", os.O_PATH)
    mask = os.umask(0)
    os.mkdir(directory, 0o777)
    os.chdir(directory)
    os.umask(0o022)
    names: dict[str, Any] = {**_KNOWN, "f0": -1, "f1": -1, "f2": -1}
    opened: set[int] = set()
    try:
        return [_said(line, names, opened) for line in lines]
    finally:
        for fd in opened - {-1}:
            try:
                os.close(fd)
            except OSError:  # a step has closed it
                pass
        os.umask(mask)
        os.fchdir(home)
        os.close(home)
        shutil.rmtree(directory)


def _said(line: str, names: dict[str, Any], opened: set[int]) -> str:
    assigned = _ASSIGNED.match(line)
    try:
        value = eval(_compiled(line[assigned.end() :] if assigned else line), names)
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, f"errno {exc.errno}")
    except (ValueError, IndexError, OverflowError) as exc:
        return type(exc).__name__
    if assigned:
        names[assigned[1]] = value
        opened.add(value)
        return ""
    if isinstance(value, list):
        return "\n".join(value)
    return "" if value is None else str(value)


@lru_cache(maxsize=20_000)
def _compiled(source: str) -> CodeType:
    return compile(source, source, "eval")
