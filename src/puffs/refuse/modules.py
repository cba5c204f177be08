"""The modules that libfuse stacks on a file system: each translates paths between the kernel and
the program.

`subdir` shows one directory of the program's tree as the root; `iconv` has names in one character
set for the program and in another for everybody else.
"""

import codecs
import errno
import locale
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from puffs.attach.fuse.options import OptionError


class Translation(Protocol):
    """What becomes of paths and names on their way. Raises `OSError` for what cannot be said."""

    def inward(self, path: str) -> str:
        """A path of the kernel, as the program has it."""
        ...

    def outward(self, name: str) -> str | None:
        """A name that the program lists, as the kernel gets it; None: it cannot be shown."""
        ...

    def target_inward(self, target: str) -> str:
        """The target of a link that is to be made."""
        ...

    def target_outward(self, path: str, target: str) -> str:
        """The target of the link at `path`, both as the program has them."""
        ...


@dataclass(frozen=True, slots=True)
class Subdir:
    """The program's directory `base` is the root: absolute, and without "/" at the end."""

    base: str
    relative_links: bool

    def inward(self, path: str) -> str:
        """Below `base`."""
        return self.base + path if path != "/" else self.base or "/"

    def outward(self, name: str) -> str | None:
        """Unchanged: a name says nothing of its directory."""
        return name

    def target_inward(self, target: str) -> str:
        """Unchanged, as in libfuse."""
        return target

    def target_outward(self, path: str, target: str) -> str:
        """With `rellinks`, an absolute path to what is below `base` begins at the link."""
        inside = target == self.base or target.startswith(f"{self.base}/")
        if not (self.relative_links and target.startswith("/") and inside):
            return target
        here = path.split("/")[1:-1]
        there = [part for part in target.split("/") if part]
        common = 0
        while common < min(len(here), len(there)) and here[common] == there[common]:
            common += 1
        return "/".join([".."] * (len(here) - common) + there[common:]) or "."


@dataclass(frozen=True, slots=True)
class Iconv:
    """Names are in the character set `inside` for the program, and in `outside` for others."""

    inside: str
    outside: str

    def inward(self, path: str) -> str:
        """EILSEQ for a path that is none in `outside`, or cannot be said in `inside`."""
        return _converted(path, self.outside, self.inside)

    def outward(self, name: str) -> str | None:
        """A name that cannot be said in `outside` is left out, as in libfuse."""
        try:
            return _converted(name, self.inside, self.outside)
        except OSError:
            return None

    def target_inward(self, target: str) -> str:
        """As a path."""
        return _converted(target, self.outside, self.inside)

    def target_outward(self, path: str, target: str) -> str:
        """As a path, the other way round."""
        return _converted(target, self.inside, self.outside)


def _converted(text: str, source: str, target: str) -> str:
    """Names are bytes, and str only by way of `os.fsdecode`."""
    try:
        return os.fsdecode(os.fsencode(text).decode(source).encode(target))
    except UnicodeError:
        raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ), text) from None


@dataclass(frozen=True, slots=True)
class Stack:
    """Several, one upon the other; the first is next to the program."""

    layers: tuple[Translation, ...]

    def inward(self, path: str) -> str:
        """From the outermost to the innermost."""
        for layer in reversed(self.layers):
            path = layer.inward(path)
        return path

    def outward(self, name: str) -> str | None:
        """From the innermost to the outermost."""
        shown: str | None = name
        for layer in self.layers:
            if shown is None:
                break
            shown = layer.outward(shown)
        return shown

    def target_inward(self, target: str) -> str:
        """From the outermost to the innermost."""
        for layer in reversed(self.layers):
            target = layer.target_inward(target)
        return target

    def target_outward(self, path: str, target: str) -> str:
        """From the innermost to the outermost, each with the path as it stands below it."""
        paths = [path]
        for layer in self.layers[:-1]:
            paths.append(_outer(layer, paths[-1]))
        for layer, below in zip(self.layers, paths, strict=True):
            target = layer.target_outward(below, target)
        return target


def _outer(layer: Translation, path: str) -> str:
    """A path as the layer above `layer` has it."""
    if isinstance(layer, Subdir):
        return path.removeprefix(layer.base) or "/"
    return layer.outward(path) or path


# -------------------------------------------------------------------------------------- making them

Options = Mapping[str, str | bool]


def _subdir(options: Options) -> Subdir:
    base = options.get("subdir")
    if not isinstance(base, str):
        raise OptionError("modules=subdir needs subdir=DIR too: the directory to show")
    return Subdir("/" + base.strip("/") if base.strip("/") else "", bool(options.get("rellinks")))


def _iconv(options: Options) -> Iconv:
    inside, outside = options.get("from_code", "UTF-8"), options.get("to_code", "")
    return Iconv(
        _charset("from_code", str(inside)),
        _charset("to_code", str(outside) or locale.getencoding()),
    )


def _charset(option: str, name: str) -> str:
    """The codec of a character set, in which "/" must be a byte, since paths are made of these."""
    try:
        fits = "/a".encode(codec := codecs.lookup(name).name) == b"/a"
    except LookupError:
        raise OptionError(
            f"mount option {option!r}: Python has no character set {name!r} (see its module codecs)"
        ) from None
    if not fits:
        raise OptionError(f"mount option {option!r}: {name} has more than a byte for each '/'")
    return codec


@dataclass(frozen=True, slots=True)
class Module:
    """A module: the options that are its own, and what makes it of them."""

    options: tuple[str, ...]
    make: "Maker"


class Maker(Protocol):
    """Makes a translation of options. Raises `OptionError`."""

    def __call__(self, options: Options, /) -> Translation:
        """Make it."""
        ...


MODULES: Final = {
    "subdir": Module(("subdir", "rellinks", "norellinks"), _subdir),
    "iconv": Module(("from_code", "to_code"), _iconv),
}
"""All that libfuse brings along."""


def stacked(names: tuple[str, ...], options: Options) -> Translation | None:
    """The modules of these names, the innermost first; None for none. Raises `OptionError`."""
    layers = tuple(MODULES[name].make(options) for name in names)
    if len(layers) < 2:
        return layers[0] if layers else None
    return Stack(layers)
