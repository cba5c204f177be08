"""A sequence as a script that a person can run in any directory."""

import inspect
import re
import types
from collections.abc import Iterable

from puffs.check.sequences import calls

_WORD = re.compile(r"[A-Za-z_]\w*")
_INTRODUCTION = '''"""{title}

Run it with a directory as its argument: it works in there, in a new directory of its own.
"""

from __future__ import annotations

'''
_BEGIN = """
os.umask(0o022)
os.chdir(tempfile.mkdtemp(dir=sys.argv[1]))
os.chmod(".", 0o777)
f0 = f1 = f2 = -1
"""


def script(title: str, lines: list[str], said: list[str], ends: dict[str, str]) -> str:
    """The lines, each as it went on the host's own directory: `said` are the outcomes there.

    The last one is what differs, and is printed; `ends` are the outcomes that it had, by where.
    """
    body = [_step(line, outcome) for line, outcome in zip(lines[:-1], said, strict=False)]
    last = lines[-1]
    parts = [_INTRODUCTION.format(title=title)]
    functions, modules, values = _used([*lines, "attempt"])
    modules |= {"os", "sys", "tempfile"}
    if any("suppress" in part for part in body):
        modules.add("contextlib")
    parts.append("".join(f"import {name}\n" for name in sorted(modules)))
    parts += [f"{name} = {value!r}" for name, value in values.items()]
    parts += [f"\n{source}\n" for source in functions]
    parts.append(_BEGIN)
    parts += body
    call = last.partition(" = ")[2] if re.match(r"f\d = ", last) else last
    for where, outcome in ends.items():
        parts += [f"# {where}: {text}" for text in (outcome or "no error").split("\n")]
    parts.append(f"print(attempt(lambda: {call}))")
    return "\n".join(parts) + "\n"


def _step(line: str, outcome: str) -> str:
    if re.fullmatch(r"E[A-Z0-9]+", outcome):
        return f"with contextlib.suppress(OSError):  # {outcome}\n    {line}"
    if re.fullmatch(r"\w+Error", outcome):
        return f"with contextlib.suppress({outcome}):\n    {line}"
    return line


def _used(sources: Iterable[str]) -> tuple[list[str], set[str], dict[str, object]]:
    """What of `calls` these need, in the order in which it is there: the source of functions, the
    modules to import, constants.
    """
    needed: set[str] = set()
    todo = list(sources)
    modules: set[str] = set()
    for source in todo:
        for word in {*_WORD.findall(source)} & vars(calls).keys() - needed:
            value = vars(calls)[word]
            needed.add(word)
            if inspect.isfunction(value):
                todo.append(inspect.getsource(value))
    functions: list[str] = []
    values: dict[str, object] = {}
    for name, value in vars(calls).items():
        if name not in needed:
            continue
        if isinstance(value, types.ModuleType):
            modules.add(name)
        elif inspect.isfunction(value):
            functions.append(inspect.getsource(value).rstrip())
        elif isinstance(value, int):
            values[name] = value
    return functions, modules, values
