"""A program for fusepy's API that writes down what it is asked, and how tests run it.

    python -m tests.refuse.asked {"mountpoint": ..., "notes": ..., "api": ..., "keywords": {...}}

It has /file, /dir/file, /dir/link (to /dir/file) and /secret; a file "NAME" that is written or
truncated keeps its contents. An extended attribute of /file that is set does something: see `_DO`.
"""

import errno
import importlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from puffs.attach.fuse.mountinfo import MountInfo, find_mount
from tests.fuse.conftest import PATIENCE, give_back
from tests.fuse.others import comes_true

INO = 4242


class Asked:
    """The operations; `notes` gets a line for each that is asked for."""

    use_ns = True

    def __init__(self, notes: str) -> None:
        self.notes = open(notes, "a", buffering=1)  # as long as it is mounted
        self.modes = {
            "/": stat.S_IFDIR | 0o755,
            "/dir": stat.S_IFDIR | 0o750,
            "/file": stat.S_IFREG | 0o644,
            "/dir/file": stat.S_IFREG | 0o640,
            "/dir/link": stat.S_IFLNK | 0o777,
            "/secret": stat.S_IFREG | 0o600,
        }
        self.data = dict.fromkeys(self.modes, b"x" * 10000)
        self.changed = 0

    def __call__(self, name: str, *args: Any) -> Any:
        """As fusepy asks."""
        if not hasattr(self, name):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return getattr(self, name)(*args)

    def note(self, *words: object) -> None:
        self.notes.write(" ".join(map(str, words)) + "\n")

    def init(self, path: str) -> None:
        self.note("init", os.getpid(), os.getcwd())

    def destroy(self, path: str) -> None:
        self.note("destroy", os.getpid())

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        self.note("getattr", path)
        if path not in self.modes:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return {
            "st_mode": self.modes[path],
            "st_nlink": 1,
            "st_size": len(self.data[path]),
            "st_uid": 7,
            "st_gid": 8,
            "st_ino": INO,
            "st_mtime": self.changed,
        }

    def readdir(self, path: str, fh: int) -> list[str]:
        here = path.rstrip("/") + "/"
        names = [name.removeprefix(here) for name in self.modes if name.startswith(here)]
        return [".", "..", *(name for name in names if name and "/" not in name)]

    def readlink(self, path: str) -> str:
        return "/dir/file"

    def open(self, path: str, flags: int) -> int:
        self.note("open", path, "O_TRUNC" if flags & os.O_TRUNC else "")
        return 3

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self.note("read", path, size)
        return self.data[path][offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.note("write", path, len(data))
        self.data[path] = self.data[path][:offset] + data
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        self.note("truncate", path, length)
        self.data[path] = self.data[path][:length]

    def create(self, path: str, mode: int, fi: object = None) -> int:
        self.modes[path], self.data[path] = stat.S_IFREG | mode & 0o777, b""
        return 3

    def unlink(self, path: str) -> None:
        self.note("unlink", path)
        del self.modes[path]

    def rename(self, old: str, new: str) -> None:
        self.note("rename", old, new)
        self.modes[new], self.data[new] = self.modes.pop(old), self.data.pop(old)

    def flush(self, path: str, fh: int) -> None:
        self.note("flush", path)

    def lock(self, path: str, fh: int, cmd: int, lock: object) -> int:
        self.note("lock", path)
        return 0

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> None:
        getattr(self, f"_do_{name.removeprefix('user.')}")()

    def _do_change(self) -> None:
        """/file has other contents of the same length, from elsewhere."""
        self.changed += 1_000_000_000
        self.data["/file"] = b"y" * 10000

    def _do_exit(self) -> None:
        self.note("exit", os.getpid())
        _api.fuse_exit()

    def _do_wait(self) -> None:
        self.note("waits")
        threading.Event().wait(PATIENCE)


_api: Any = None


def main() -> None:
    """Mount it; then say how that has ended."""
    global _api
    plan = json.loads(sys.argv[1])
    _api = importlib.import_module(f"puffs.refuse.{plan['api']}")
    for name in plan["ignored"]:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    operations = Asked(plan["notes"])
    try:
        _api.FUSE(operations, plan["mountpoint"], **plan["keywords"])
    except RuntimeError as exc:
        operations.note("RuntimeError", *exc.args)
        sys.exit(3)
    operations.note("returned", os.getpid())


class Program:
    """The program as it runs. `wait` for its end; `notes` are its lines, as lists of words."""

    def __init__(self, tmp_path: Path, mountpoint: Path) -> None:
        self.path = mountpoint
        self._notes = tmp_path / "asked"
        self.process: subprocess.Popen[str]

    def start(
        self, api: str = "fusepy", ignored: tuple[str, ...] = (), **keywords: Any
    ) -> "Program":
        plan = {
            "mountpoint": str(self.path),
            "notes": str(self._notes),
            "api": api,
            "keywords": keywords,
            "ignored": ignored,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.refuse.asked", json.dumps(plan)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def wait(self) -> tuple[int, str]:
        """The exit status of what was started, and what it has written to stderr."""
        _, complaints = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, complaints

    def notes(self, *which: str) -> list[list[str]]:
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        noted = [line.split(" ") for line in lines]
        return [note for note in noted if not which or note[0] in which]

    def until_noted(self, *which: str) -> list[str]:
        """Wait for such a note; the last one."""
        assert comes_true(lambda: bool(self.notes(*which)), PATIENCE), f"never noted: {which}"
        return self.notes(*which)[-1]

    def until_mounted(self) -> MountInfo:

        def mounted_or_failed() -> bool:
            return find_mount(str(self.path)) is not None or bool(self.process.poll())

        assert comes_true(mounted_or_failed, PATIENCE), "it is never mounted"
        found = find_mount(str(self.path))
        assert found is not None, self.wait()
        os.statvfs(self.path)
        return found

    def do(self, what: str) -> None:
        """Have the program do something."""
        os.setxattr(self.path / "file", f"user.{what}", b"")


@contextmanager
def program(tmp_path: Path, mountpoint: Path) -> Iterator[Program]:
    """A `Program` that has ended, and is unmounted, afterwards."""
    made = Program(tmp_path, mountpoint)
    try:
        yield made
    finally:
        give_back(mountpoint)
        if hasattr(made, "process"):
            if made.process.poll() is None:
                made.process.kill()
            made.process.communicate()


if __name__ == "__main__":
    main()
