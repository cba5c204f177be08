"""How `init`, `main` and `close` of pyfuse3 and llfuse follow each other.

`python closing.py LIBRARY MOUNTPOINT [WORD...]`. Making a directory is an order: `end` has `main`
return, the name of an exception raises it. What comes to pass is written to stdout. Words: `again`
mounts a second time, `stays` does not unmount, `early` calls `main` before `init`.
"""

import builtins
import errno
import functools
import importlib
import os
import signal
import stat
import sys
from collections.abc import Callable
from typing import Any

NAME = sys.argv[1]
LIBRARY: Any = importlib.import_module(NAME)
PYFUSE3 = NAME == "pyfuse3"
ROOT = LIBRARY.ROOT_INODE


def say(*words: object) -> None:
    print("told", *words, flush=True)


class Closing(LIBRARY.Operations):
    """Nothing but a root, in which directories seem to be made."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def init(self) -> None:
        say("init", self.number)

    def destroy(self) -> None:
        say("destroy", self.number)

    def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        raise LIBRARY.FUSEError(errno.ENOENT)

    def getattr(self, inode: int, ctx: Any) -> Any:
        entry = LIBRARY.EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_nlink = inode, stat.S_IFDIR | 0o755, self.number + 1
        return entry

    def forget(self, inode_list: list[tuple[int, int]]) -> None:
        pass

    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        if name == b"end":
            LIBRARY.terminate() if PYFUSE3 else os.kill(os.getpid(), signal.SIGTERM)
            raise LIBRARY.FUSEError(errno.EALREADY)
        raise getattr(builtins, name.decode())("as told")


def coroutine(operation: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(operation)
    async def call(*arguments: Any) -> Any:
        return operation(*arguments)

    return call


def tried(label: str, call: Callable[..., Any], *args: Any) -> None:
    """Make a call, and say how it ended."""
    try:
        result = call(*args)
    except BaseException as error:
        say(label, "raised", *kinds(error))
    else:
        say(label, "returned", None if result is None else int(result))


def kinds(error: BaseException) -> list[str]:
    """What an exception is, or all those that a group holds."""
    held = getattr(error, "exceptions", None)
    return [type(error).__name__, *(kind for each in held or () for kind in kinds(each))]


def serve() -> Any:
    if PYFUSE3:
        return importlib.import_module("trio").run(LIBRARY.main)
    return LIBRARY.main(workers=1)


def stated(place: str) -> str:
    """What becomes of a call on the mount when nobody serves."""
    try:
        os.listdir(place)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "served"


def main(library: str, mountpoint: str, *words: str) -> None:
    for name in ("lookup", "getattr", "forget", "mkdir") if PYFUSE3 else ():
        setattr(Closing, name, coroutine(vars(Closing)[name]))
    options = set(LIBRARY.default_options) | {"fsname=closing"}
    options |= {word for word in words if word not in ("again", "stays", "early")}
    if "early" in words:
        tried("main", serve)
        tried("init", LIBRARY.init, Closing(0), "/nothing/there", options)
        tried("init", LIBRARY.init, Closing(0), mountpoint, {*options, "no_such_option"})
    for number in (1, 2) if "again" in words else (1,):
        tried("init", LIBRARY.init, Closing(number), mountpoint, options)
        tried("main", serve)
        tried("close", functools.partial(LIBRARY.close, unmount="stays" not in words))
        say("a mount", os.path.ismount(mountpoint) if "stays" not in words else stated(mountpoint))


if __name__ == "__main__":
    main(*sys.argv[1:])
