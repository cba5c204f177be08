"""Whether requests are served by the compiled loop (`_compiled`) or by the plain one.

The compiled one is there when a C compiler was at hand as puffs was installed. Both do the same.
Without a GIL the plain one serves: the compiled one was not tried there.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Final

LOOP: Final = "puffs.attach.fuse._compiled"
INODES: Final = "puffs.refuse._inodes"
PATHS: Final = "puffs.refuse._paths"
"""The compiled modules: the second one is for programs for pyfuse3 and llfuse, the third one for
those for fusepy and mfusepy.
"""
PURE: Final = "PUFFS_PURE"
"""The environment variable that asks for the plain one. Empty or 0: it does not."""


def module(name: str = LOOP) -> ModuleType | None:
    """The module of the compiled loop, or another compiled one; None: the plain one serves."""
    if unwanted() or not has_gil():
        return None
    try:
        return import_module(name)
    except ImportError:
        return None


def unwanted() -> bool:
    """Whether the plain one was asked for."""
    return os.environ.get(PURE, "0") not in ("", "0")


def has_gil() -> bool:
    """Whether threads of this interpreter take turns (PEP 703)."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())
