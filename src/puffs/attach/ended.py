"""Records of mounts that have ended because their file server had died: why, for `puffs status`.

A record is a file beside the control sockets (`rendezvous`), named after its mount point. The next
mount there removes it; and `AGE` and `MOST` see to it that there are never many.
"""

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from puffs.attach import rendezvous

AGE: Final = 7 * 24 * 3600.0
"""Seconds for which a record is kept."""
MOST: Final = 64
"""Records that are kept of one user's mounts; the oldest go first."""
SIZE_MAX: Final = 1 << 16
"""Bytes of a record: more is none."""

_NAME: Final = re.compile(r"ended-[0-9a-f]{32}")


def leave(mountpoint: str, name: str, why: str) -> None:
    """Leave a record of a mount whose file server has died. Raises `OSError`."""
    record = {
        "mountpoint": mountpoint,
        "name": name,
        "ended": datetime.now().astimezone().isoformat(timespec="seconds"),
        "why": why,
    }
    file_name = _name(mountpoint)
    with rendezvous.opened(rendezvous.made(rendezvous.own_directory())) as directory:
        _tidy(directory)
        new = f"{file_name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(new, flags, 0o600, dir_fd=directory), "w") as file:
                json.dump(record, file)
            os.rename(new, file_name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(new, dir_fd=directory)
            raise


def forget(directory: int, mountpoint: str) -> None:
    """Something has been mounted there: what was before is not asked for any more."""
    with suppress(FileNotFoundError):
        os.unlink(_name(mountpoint), dir_fd=directory)


def find(mountpoint: str) -> dict[str, Any] | None:
    """The record of the mount that was there last, if there is one that this user may read."""
    name = _name(mountpoint)
    for path in rendezvous.all_directories():
        with suppress(OSError), rendezvous.opened(path) as directory:
            found = _read(directory, name)
            if found is not None and found["mountpoint"] == mountpoint:
                return found
    return None


def _name(mountpoint: str) -> str:
    return f"ended-{hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:32]}"


def _read(directory: int, name: str) -> dict[str, Any] | None:
    """A record; None if it is none, or too old. Its author may be another user: nothing is sure."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or _is_old(about):
            return None
        text = file.read(SIZE_MAX)
    try:
        record = json.loads(text)
        return {key: str(record[key]) for key in ("mountpoint", "name", "ended", "why")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_old(about: os.stat_result) -> bool:
    return not 0 <= time.time() - about.st_mtime < AGE


def _tidy(directory: int) -> None:
    """Make room for one more record."""
    kept = sorted(_records(directory), reverse=True)
    for place, (_, name, old) in enumerate(kept, start=1):
        if old or place >= MOST:
            with suppress(OSError):
                os.unlink(name, dir_fd=directory)


def _records(directory: int) -> Iterable[tuple[float, str, bool]]:
    """When each record was made, its name, and whether it is too old. Also what of one was left."""
    for name in os.listdir(directory):
        if _NAME.match(name):
            with suppress(OSError):
                about = os.stat(name, dir_fd=directory, follow_symlinks=False)
                yield about.st_mtime, name, _is_old(about)
