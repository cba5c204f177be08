"""`loopback.py` that writes down what it is asked: the operations and their plain arguments.

`python noting.py LIBRARY DIRECTORY NOTES MOUNTPOINT [OPTION[=VALUE]...]`
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

LOOPBACK: Any = importlib.import_module("loopback")
# What the kernel asks when it likes is left out.
NOTED = (
    *("access", "mkdir", "rmdir", "unlink", "rename", "link", "symlink"),
    *("create", "open", "flush", "release", "fsync", "truncate", "chmod", "chown", "utimens"),
    *(
        "mknod",
        "opendir",
        "releasedir",
        "fsyncdir",
        "setxattr",
        "removexattr",
        "fallocate",
        "flock",
    ),
)


def plain(argument: Any) -> str:
    """An argument as it is noted; handles and flags differ from run to run."""
    if isinstance(argument, int) and not isinstance(argument, bool):
        return "number"
    return repr(argument) if isinstance(argument, (str, bytes, type(None))) else "object"


class Noting(LOOPBACK.Loopback):
    """Each call is a line of the file `notes`."""

    def __init__(self, directory: str, notes: str) -> None:
        super().__init__(directory)
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, name: str, arguments: tuple[Any, ...]) -> None:
        os.write(self.notes, os.fsencode(" ".join([name, *map(plain, arguments)]) + "\n"))

    def init(self, path: str) -> None:
        self.note("init", (path,))

    def destroy(self, path: str) -> None:
        self.note("destroy", (path,))


def noted(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Noting, *arguments: Any) -> Any:
        self.note(name, arguments)
        return operation(self, *arguments)

    return call


for each in NOTED:
    setattr(Noting, each, noted(each, vars(LOOPBACK.Loopback)[each]))


def main(library: str, directory: str, notes: str, mountpoint: str, *words: str) -> None:
    options = {name: value or True for name, _, value in (word.partition("=") for word in words)}
    os.umask(0)
    server = Noting(directory, notes)
    LOOPBACK.LIBRARY.FUSE(server, mountpoint, foreground=True, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
