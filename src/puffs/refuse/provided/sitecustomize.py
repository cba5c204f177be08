"""Brings the modules of puffs under the names that programs import: `fuse`, `pyfuse3` and others.

The directory of this file is put in front of PYTHONPATH by `puffs refuse`, so every Python that the
program starts runs this file before anything else (see site in Python's library). It may be any
Python: this file is written for old ones too.
"""

import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

OLDEST = (3, 11)
"""What puffs itself needs."""

API = "PUFFS_REFUSE_API"
"""The environment variable that says whose API the name `fuse` stands for."""

PLACE = os.path.dirname(os.path.abspath(__file__))
HOME = os.path.dirname(os.path.dirname(os.path.dirname(PLACE)))
"""Where the package puffs lies, with others that are no business of the program."""

PROVIDED = {
    "fuse": "puffs.refuse." + os.environ.get(API, "fusepy"),
    "fusepy": "puffs.refuse.fusepy",
    "mfusepy": "puffs.refuse.mfusepy",
    "pyfuse3": "puffs.refuse.pyfuse3",
    "pyfuse3._pyfuse3": "puffs.refuse.pyfuse3._pyfuse3",
    "pyfuse3.asyncio": "puffs.refuse.pyfuse3.asyncio",
    "pyfuse3_asyncio": "puffs.refuse.pyfuse3.asyncio",
    "llfuse": "puffs.refuse.llfuse",
}
"""Module that a program imports, to the one that it gets."""

CALLS_LIBFUSE = b"fuse_main_real"
"""What the text of each copy of fusepy or mfusepy has: the function of libfuse that it calls."""


class Instead:
    """Finds and loads modules by a table: a name stands for another module, and is that module."""

    def __init__(self, table: "dict[str, str]") -> None:
        self.table = table

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: object = None
    ) -> "ModuleSpec | None":
        """Called for every import; see `importlib.abc.MetaPathFinder`."""
        if name not in self.table:
            return None
        # Not a Loader by name, for importlib.abc takes as long as all the rest here.
        loader: Any = self  # looked at by type checkers only
        return ModuleSpec(name, loader, origin=self.table[name])

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python to make a module: it does not live long."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the other module in its place."""
        sys.modules[module.__name__] = import_module(self.table[module.__name__])


class Provided(Instead):
    """Finds what puffs provides, and puffs, wherever the program's own modules lie."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: object = None
    ) -> "ModuleSpec | None":
        """Called for every import."""
        if name == "puffs":
            return PathFinder.find_spec(name, [HOME])
        package, _, last = name.rpartition(".")
        if package and last in PROVIDED and _is_copy(PathFinder.find_spec(name, path)):
            self.table[name] = PROVIDED[last]
        return super().find_spec(name, path, target)

    def exec_module(self, module: ModuleType) -> None:
        """Load it, if this Python is new enough."""
        if sys.version_info < OLDEST:
            has, needs = (".".join(map(str, version[:2])) for version in (sys.version_info, OLDEST))
            text = f"{module.__name__}: puffs needs Python {needs} or later, and this is {has}"
            # Programs that can do without fuse are silent about an ImportError.
            print(f"puffs refuse: {text}", file=sys.stderr)
            raise ImportError(text, name=module.__name__)
        super().exec_module(module)


def _is_copy(spec: "ModuleSpec | None") -> bool:
    """Whether this is a program's own copy of fusepy or mfusepy, inside one of its packages."""
    if spec is None or spec.origin is None or not spec.has_location:
        return False
    with open(spec.origin, "rb") as file:
        return CALLS_LIBFUSE in file.read()


def run_hidden() -> None:
    """Run the `sitecustomize` of the program's own environment, which this one hides."""
    places = [place for place in sys.path if os.path.abspath(place) != PLACE]
    spec = PathFinder.find_spec("sitecustomize", places)
    if spec is not None and spec.loader is not None:
        # Here, for few environments have one: it would make every start of Python longer.
        from importlib.util import module_from_spec

        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    if sys.platform == "linux":
        sys.meta_path.insert(0, Provided(PROVIDED))
    run_hidden()
