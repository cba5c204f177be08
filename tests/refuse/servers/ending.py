"""How `FUSE()` begins and ends.

`python ending.py LIBRARY MOUNTPOINT [OPTION[=VALUE]...]`. Making a directory whose name is that of
an exception raises it; `exit` leaves by `fuse_exit`. What comes to pass is written to stdout.
"""

import builtins
import errno
import importlib
import stat
import sys
from typing import Any

LIBRARY: Any = importlib.import_module(sys.argv[1])


def say(*words: object) -> None:
    print(*words, flush=True)


class Ending(LIBRARY.Operations):
    """Nothing but a root, in which directories seem to be made."""

    use_ns = True

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def init(self, path: str) -> None:
        say("init", path)
        if self.fails:
            raise ValueError("as told")

    def destroy(self, path: str) -> None:
        say("destroy", path)

    def __del__(self) -> None:
        say("deleted")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        if path != "/":
            raise LIBRARY.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}

    def mkdir(self, path: str, mode: int) -> int:
        if path == "/exit":
            LIBRARY.fuse_exit()
            return 0
        raise getattr(builtins, path[1:])("as told")


def main(library: str, mountpoint: str, *words: str) -> None:
    options: dict[str, Any] = {"foreground": True}
    options |= {name: value or True for name, _, value in (word.partition("=") for word in words)}
    fails = options.pop("fails", False)
    try:
        LIBRARY.FUSE(Ending(fails), mountpoint, **options)
    except BaseException as error:
        say("raised", type(error).__name__, *error.args)
        raise SystemExit(3) from None
    say("returned")


if __name__ == "__main__":
    main(*sys.argv[1:])
