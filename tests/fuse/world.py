"""Running a command as an ordinary user, in a mount namespace with the world that a test needs.

Run as a program by root: makes the namespace, becomes the user, and then the command. Nothing of it
is seen outside, and nothing outlives the command.
"""

import ctypes
import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from puffs.attach.fuse.mountinfo import read_mounts
from puffs.attach.fuse.syscalls import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_NOSUID,
    MS_REC,
    MS_SLAVE,
    mount,
    umount2,
    unshare,
)

NOBODY: Final = 65534
MS_BIND: Final = 1 << 12
PR_SET_NO_NEW_PRIVS: Final = 38
SECONDS: Final = 40

OPEN: Final = stat.S_IROTH | stat.S_IXOTH

STASH: Final = "/mnt"
"""Mounted over, in the namespace, to keep things at hand."""


def command(
    *words: str | Path,
    user: int = NOBODY,
    device: bool = True,
    files: dict[str, str] | None = None,
    reach: Sequence[str | Path] = (),
    no_new_privs: bool = False,
) -> list[str]:
    """The command line that runs `words` as another user.

    Args:
        user: his number, and that of his group.
        device: whether there is a /dev/fuse, which all may open, or none.
        files: texts that are to stand in place of files that exist.
        reach: directories that he is to get at, although one above them is closed to him.
        no_new_privs: whether set-user-ID programs gain nothing.
    """
    plan = {
        "words": [str(word) for word in words],
        "user": user,
        "device": device,
        "files": files or {},
        "reach": [sys.base_prefix, sys.prefix, str(Path(__file__).parents[2]), *map(str, reach)],
        "no_new_privs": no_new_privs,
    }
    return [sys.executable, "-m", __name__, json.dumps(plan)]


def run(*words: str | Path, **plan: Any) -> "subprocess.CompletedProcess[str]":
    """Run `words` to their end; keyword arguments as those of `command`."""
    line = command(*words, **plan)
    return subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False)


def main(plan: dict[str, Any]) -> None:
    unshare(CLONE_NEWNS)
    mount("none", "/", "", MS_REC | MS_SLAVE, "")
    for copy in read_mounts():  # which would keep their connections alive
        if copy.is_fuse:
            umount2(copy.mountpoint, MNT_DETACH)
    mount("none", STASH, "tmpfs", MS_NOSUID, "mode=755")
    open_ways(plan["reach"])
    for path, text in plan["files"].items():
        instead = f"{STASH}/{path.replace('/', '_')}"
        Path(instead).write_text(text)
        mount(instead, path, "", MS_BIND, "")
    devices(plan["device"])
    os.setgroups([])
    os.setresgid(*[plan["user"]] * 3)
    os.setresuid(*[plan["user"]] * 3)
    if plan["no_new_privs"]:
        assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    os.environ["HOME"] = "/"
    os.execvp(plan["words"][0], plan["words"])


def open_ways(paths: Sequence[str]) -> None:
    """Put an open directory in place of each closed one on the way to `paths`, with them in it."""
    closed: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(Path(path).resolve() for path in paths):
        for above in reversed(path.parents):
            # A directory that may only be passed through was closed, and may soon be again.
            if above.stat().st_mode & OPEN != OPEN:
                closed.setdefault(above, []).append(path)
                break
    for number, (above, inside) in enumerate(closed.items()):
        for place, path in enumerate(inside):
            kept = Path(f"{STASH}/{number}.{place}")
            kept.mkdir()
            mount(str(path), str(kept), "", MS_BIND | MS_REC, "")
        mount("none", str(above), "tmpfs", MS_NOSUID, "mode=755")
        for place, path in enumerate(inside):
            if path != above:
                path.mkdir(parents=True, exist_ok=True)
            mount(f"{STASH}/{number}.{place}", str(path), "", MS_BIND | MS_REC, "")


def devices(fuse: bool) -> None:
    """A /dev of our own: the real one is everybody's."""
    numbers = {"null": (1, 3), "zero": (1, 5), "urandom": (1, 9)}
    if fuse:
        numbers["fuse"] = (10, 229)
    mount("none", "/dev", "tmpfs", MS_NOSUID, "mode=755")
    for name, (major, minor) in numbers.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR, os.makedev(major, minor))
        os.chmod(f"/dev/{name}", 0o666)
    os.symlink("/proc/self/fd", "/dev/fd")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
