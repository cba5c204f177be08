"""SPEC: how a command line names a file server.

    mem:                              registered under a name
    mem:?size=64M&files=1000          with arguments
    NAME:ARGUMENT?key=value           with a first argument, a directory for example
    package.module:Class?key=value    something that can be imported
    ./file.py:Class?key=value         something in a file

What follows the colon or an equals sign is decoded as in a URL: ``%3F`` is a question mark, ``%26``
an ampersand, ``%25`` a percent sign. Arguments are strings, unless the file server's signature says
int, float or bool. An argument may be a secret, so no message repeats one, and a mount is named
after its class.
"""

import difflib
import importlib.util
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import unquote

from puffs.kernel.mount import Servable
from puffs.server.errors import explain

GROUP: Final = "puffs.filesystems"
"""The entry point group in which packages register names."""

BUILT_IN: Final[Mapping[str, str]] = {
    "mem": "puffs.fs.mem:MemFS",
    "null": "puffs.fs.null:NullFS",
}
"""What puffs brings itself, known also where its metadata is not installed."""

_FORMS = "a SPEC is NAME:, package.module:Class or ./file.py:Class; `puffs --help` explains it"


class SpecError(ValueError):
    """A SPEC does not lead to a file server: one line for the person who typed it."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a SPEC names.

    Attributes:
        factory: makes the file server, anew each time it is called unless the SPEC names an
            instance. Raises `SpecError` when the arguments do not suit it.
        name: what the file server is called, for people; holds no argument.
    """

    factory: Callable[[], Servable]
    name: str


def maker_of(text: str) -> Callable[[], Servable]:
    """What makes the file server that `text` names, where it is called: its module is loaded there,
    and may start threads. Raises `SpecError` there, too.
    """
    return lambda: parse_spec(text).factory()


def parse_spec(text: str) -> Spec:
    """Find what `text` names and check its arguments; nothing is made yet.

    Raises:
        SpecError: there is no such thing, it is no file server, or does not take the arguments.
    """
    place, _, query = text.partition("?")
    left, colon, right = place.partition(":")
    if not colon or not left:
        raise _no_form(place)
    keywords = _keywords(query)
    registered = _registered(left)
    if registered is not None:
        positional = [_decoded(right)] if right else []
        return _spec(_load(left, registered), left, positional, keywords)
    home, _, path = place.rpartition(":")  # a file's name may hold colons, the path of a class not
    if not _is_dotted(path):
        raise _unknown(left) if path else _no_class(home)
    module = _from_file(home) if _is_path(home) else _from_module(home)
    return _spec(_attribute(module, home, path), path, [], keywords)


def _no_form(place: str) -> SpecError:
    if place in _names():
        return SpecError(f"{place!r} is written with a colon: {place}:")
    return SpecError(f"{place!r} names no file server: {_FORMS}")


def _no_class(home: str) -> SpecError:
    if _is_path(home) or "." in home:
        return SpecError(f"{home}: which class of it? Write {home}:CLASS")
    return _unknown(home)


def _unknown(name: str) -> SpecError:
    names = _names()
    near = difflib.get_close_matches(name, names, n=3) or names
    return SpecError(f"there is no file system {name!r}: did you mean {_listed(near)}?")


def _listed(names: Iterable[str]) -> str:
    return " or ".join(f"{name}:" for name in names)


def _names() -> list[str]:
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def _keywords(query: str) -> dict[str, str]:
    keywords: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise SpecError(
                "arguments follow the question mark as key=value, parted by '&' "
                "(quote it for the shell)"
            )
        if key in keywords:
            raise SpecError(f"argument {key!r} is given twice")
        keywords[key] = _decoded(value)
    return keywords


def _decoded(text: str) -> str:
    """What an argument says. It may be a path of any bytes."""
    return unquote(text, errors="surrogateescape")


# Finding


def _registered(name: str) -> str | None:
    """The ``module:object`` that is registered as `name`."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    for point in entry_points(group=GROUP, name=name):
        return point.value
    return None


def _load(name: str, place: str) -> object:
    module, _, path = place.partition(":")
    return _attribute(_imported(name, lambda: import_module(module)), name, path)


def _is_path(text: str) -> bool:
    return text.endswith(".py") or os.sep in text


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _from_module(name: str) -> ModuleType:
    if not _is_dotted(name):
        raise SpecError(f"{name!r} is no name of a module: {_FORMS}")
    _search_first(os.getcwd())
    return _imported(name, lambda: import_module(name))


def _from_file(path: str) -> ModuleType:
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise SpecError(f"there is no file {path}")
    # Not under its own name, which may be that of a module of the standard library.
    name = "spec_" + re.sub(r"\W", "_", Path(path).stem)
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or (loader := found.loader) is None:
        raise SpecError(f"{path} is not a Python file: its name should end with .py")
    module = importlib.util.module_from_spec(found)
    _search_first(os.path.dirname(path))
    sys.modules[name] = module  # for dataclasses, pickle and the like, which look there

    def execute() -> ModuleType:
        loader.exec_module(module)
        return module

    return _imported(path, execute)


def _search_first(directory: str) -> None:
    """Let modules in `directory` be imported, as the interpreter does for a script's."""
    if directory not in sys.path:
        sys.path.insert(0, directory)


def _imported(place: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except ModuleNotFoundError as exc:
        if exc.name is None or not (place + ".").startswith(exc.name + "."):
            raise SpecError(f"{place} needs the module {exc.name}, which is not installed") from exc
        near = difflib.get_close_matches(place, _names(), n=1)
        hint = f"./{place}.py" if Path(f"{place}.py").exists() else _listed(near)
        raise SpecError(
            f"there is no module {exc.name!r}" + (f"; did you mean {hint}?" if hint else "")
        ) from exc
    except SystemExit as exc:
        raise SpecError(
            f"{place} ends the program when it is imported: "
            "put what it runs below `if __name__ == '__main__':`"
        ) from exc
    except Exception as exc:
        what = ": ".join(filter(None, (type(exc).__name__, str(exc) and explain(exc))))
        raise SpecError(f"{place} cannot be imported: {what}") from exc


def _attribute(module: ModuleType, place: str, path: str) -> object:
    found: object = module
    for name in path.split("."):
        if not hasattr(found, name):
            candidates = [key for key, value in vars(found).items() if _is_server(value)]
            near = difflib.get_close_matches(name, candidates, n=3) or candidates
            hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
            raise SpecError(f"{place} has no {name!r}{hint}")
        found = getattr(found, name)
    return found


# Arguments


def _is_server(found: object) -> bool:
    """Whether it is a file server, or a class of them."""
    return callable(getattr(found, "operations", None))


def _spec(found: object, place: str, positional: list[str], keywords: dict[str, str]) -> Spec:
    if _is_server(found) and not isinstance(found, type):
        if positional or keywords:
            raise SpecError(f"{place} is a file server that exists already: it takes no arguments")
        server = typing.cast(Servable, found)
        return Spec(lambda: server, server.name or type(server).__name__.lower())
    if not callable(found) or (isinstance(found, type) and not _is_server(found)):
        raise SpecError(f"{place} is no file server: it should be derived from puffs.FileSystem")
    make = _bound(found, place, positional, keywords)
    return Spec(make, getattr(found, "name", "") or place.rpartition(".")[2].lower())


def _bound(
    make: Callable[..., Any], place: str, positional: list[str], keywords: dict[str, str]
) -> Callable[[], Servable]:
    """Return `make` with its arguments, which have been checked against its signature."""
    signature = _signature(make)
    takes = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    try:
        bound = signature.bind(*positional, **keywords)
    except TypeError as exc:
        usage = f"it takes {', '.join(takes)}" if takes else "it takes no arguments"
        raise SpecError(f"{place}: {exc}; {usage}") from exc
    for name, value in bound.arguments.items():
        if isinstance(value, str):  # and not the collected rest of them
            hint = signature.parameters[name].annotation
            bound.arguments[name] = _converted(f"{place}: {name}", value, hint)

    def factory() -> Servable:
        try:
            server = make(*bound.args, **bound.kwargs)
        except (TypeError, ValueError) as exc:
            raise SpecError(f"{place}: {explain(exc)}") from exc
        if not _is_server(server):
            raise SpecError(f"{place} made no file server, but a {type(server).__name__}")
        return typing.cast(Servable, server)

    return factory


def _signature(make: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(make, eval_str=True)
    except NameError:  # annotated with what only a type checker knows: strings will have to do
        return inspect.signature(make)


_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def _int(text: str) -> int:
    digits = text.rstrip("KMGT")
    return int(digits) << _SHIFTS[text[len(digits) :]]


def _bool(text: str) -> bool:
    return {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}[text]


_CONVERT: dict[object, tuple[Callable[[str], object], str]] = {
    bool: (_bool, "yes or no"),
    int: (_int, "a whole number like 4096, 64K or 16M"),
    float: (float, "a number"),
}


def _converted(what: str, value: str, hint: object) -> object:
    """`value` as the type that `hint` asks for; a union with str takes it as it is."""
    wanted = typing.get_args(hint) or (hint,)
    if str in wanted:
        return value
    for kind in wanted:
        if kind in _CONVERT:
            convert, needs = _CONVERT[kind]
            try:
                return convert(value)
            except (ValueError, KeyError):
                raise SpecError(f"{what} needs {needs}") from None
    return value
