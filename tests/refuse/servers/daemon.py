"""A server that becomes a daemon, and tells where it is then.

`python daemon.py LIBRARY NOTES MOUNTPOINT [OPTION[=VALUE]...]`. A line of JSON is written into the
file NOTES when something comes to pass.
"""

import importlib
import json
import os
import stat
import sys
from typing import Any

LIBRARY: Any = importlib.import_module(sys.argv[1])
STARTED = os.getpid()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Daemon(LIBRARY.Operations):
    """A root, in which directories seem to be made."""

    use_ns = True

    def __init__(self, notes: str) -> None:
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, event: str) -> None:
        """What is to be known of this process, and its number."""
        me = os.getpid()
        line = {
            "event": event,
            "started": me == STARTED,
            "child of what was started": os.getppid() == STARTED and event != "init",
            "leads a session": os.getsid(0) == me,
            "leads its group": os.getpgrp() == me,
            "directory": os.getcwd().replace(os.environ["HERE"], "..."),
            "umask": oct(umask()),
            "streams": [os.readlink(f"/proc/self/fd/{fd}") == os.devnull for fd in range(3)],
            "pid": me,
        }
        os.write(self.notes, (json.dumps(line) + "\n").encode())

    def init(self, path: str) -> None:
        self.note("init")

    def destroy(self, path: str) -> None:
        self.note("destroy")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}

    def chmod(self, path: str, mode: int) -> int:
        self.note("asked")
        return 0


def main(library: str, notes: str, mountpoint: str, *words: str) -> None:
    options = {name: value or True for name, _, value in (word.partition("=") for word in words)}
    server = Daemon(notes)
    os.umask(0o027)
    print("begins", flush=True)
    try:
        LIBRARY.FUSE(server, mountpoint, **options)
    except BaseException as error:
        server.note(f"raised {type(error).__name__} {error.args}")
        raise SystemExit(3) from None
    else:
        server.note("returned")
        print("returned", flush=True)
    finally:
        server.note("ends")


if __name__ == "__main__":
    main(*sys.argv[1:])
