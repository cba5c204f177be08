"""Paths and names on their way between the kernel and a program: in the program's encoding, and as
libfuse's modules have them.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from puffs.refuse.calls import Method
from puffs.refuse.modules import Stack, Translation

_AS_IT_IS: Final = frozenset(("init", "init_with_config", "destroy"))
"""Operations whose path means nothing."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Names are bytes; the program has them decoded with `encoding` and `errors`.

    Raises `UnicodeError` for what cannot be said.
    """

    encoding: str
    errors: str

    def inward(self, path: str) -> str:
        """Decoded as the program wants it."""
        return os.fsencode(path).decode(self.encoding, self.errors)

    def outward(self, name: str) -> str:
        """The other way round."""
        return os.fsdecode(name.encode(self.encoding, self.errors))

    def target_inward(self, target: str) -> str:
        """As a path."""
        return self.inward(target)

    def target_outward(self, path: str, target: str) -> str:
        """As a name."""
        return self.outward(target)


def translation_of(modules: Translation | None, encoding: str, errors: str) -> Translation | None:
    """All that becomes of paths; None where a program is given them as puffs has them.

    That is UTF-8 with what is none escaped (`os.fsdecode`), also for programs that have asked for
    strict UTF-8: they could not be given such a name at all.
    """
    plain = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    if plain and errors in ("strict", "surrogateescape"):
        return modules
    encoded = Encoded(encoding, errors)
    return encoded if modules is None else Stack((encoded, modules))


class Changed:
    """Makes, of operations of a program, those that take and give paths of the kernel."""

    def __init__(self, modules: Translation | None, encoding: str, errors: str) -> None:
        self._translation = translation_of(modules, encoding, errors)

    def __call__(self, name: str, method: Method) -> Method:
        """The operation `name`."""
        translation = self._translation
        if translation is None or name in _AS_IT_IS:
            return method
        return _CHANGES.get(name, _one_path)(translation, method)


def _one_path(translation: Translation, method: Method) -> Method:
    inward = translation.inward

    def operation(path: str | None, *args: Any) -> Any:
        return method(path if path is None else inward(path), *args)

    return operation


def _two_paths(translation: Translation, method: Method) -> Method:
    return lambda old, new: method(translation.inward(old), translation.inward(new))


def _symlink(translation: Translation, method: Method) -> Method:
    return lambda path, target: method(translation.inward(path), translation.target_inward(target))


def _readlink(translation: Translation, method: Method) -> Method:
    def readlink(path: str) -> str:
        inner = translation.inward(path)
        return translation.target_outward(inner, method(inner))

    return readlink


def _listing(translation: Translation, method: Method) -> Method:
    listing = _one_path(translation, method)

    def readdir(*args: Any) -> Iterator[Any]:
        return _outward(translation.outward, listing(*args))

    return readdir


def _outward(outward: Callable[[str], str | None], items: Iterable[Any]) -> Iterator[Any]:
    """Items of a listing, without those whose names cannot be shown."""
    for item in items:
        name, *rest = (item,) if isinstance(item, str) else item
        shown = outward(name)
        if shown is not None:
            yield (shown, *rest) if rest else shown


_CHANGES: Final[dict[str, Callable[[Translation, Method], Method]]] = {
    "rename": _two_paths,
    "link": _two_paths,
    "symlink": _symlink,
    "readlink": _readlink,
    "readdir": _listing,
    "readdir_with_offset": _listing,
}
