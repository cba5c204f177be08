"""What callers see, as data that two mounts can be compared by."""

import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

JUST_NOW: Final = 600.0
"""Seconds within which a time counts as the time of the call."""

_HIDDEN: Final = re.compile(r"\.fuse_hidden[0-9a-f]+")


class Place(NamedTuple):
    """Where a case makes its calls."""

    path: Path
    """A directory of its own on the mount, or the mount point; relative to that."""
    mountpoint: Path
    backing: Path | None = None
    """Where the same files are outside of the mount, if anywhere."""
    side: Path | None = None
    """A file beside the mount by which the server and the caller speak: notes, a fifo."""

    def __call__(self, name: str | bytes) -> bytes:
        """The path of a name in it."""
        return os.path.join(os.fsencode(self.path), os.fsencode(name))


class Say:
    """The answers of a case: a label for each call, and what came of it."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}

    def __call__(self, label: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call, write down what it returned or its errno, and return it."""
        assert label not in self.answers, label
        try:
            value = call(*args, **kwargs)
        except OSError as error:
            self.answers[label] = errno.errorcode.get(error.errno or 0, f"errno {error.errno}")
            return None
        self.answers[label] = plain(value)
        return value


def plain(value: Any) -> Any:
    """A value as JSON has it, and as it is in every run."""
    if isinstance(value, os.stat_result):
        return attributes(value)
    if isinstance(value, bytes):
        return plain(ascii(value)[2:-1] if len(value) < 200 else f"{len(value)} bytes")
    if isinstance(value, str):
        return _HIDDEN.sub(".fuse_hidden#", value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def moment(ns: int) -> Any:
    """A time, or that it is the time of the call."""
    return "now" if abs(time.time() - ns / 1e9) < JUST_NOW else ns


def attributes(found: os.stat_result) -> dict[str, Any]:
    """What stat(2) says of a file, without what another run has otherwise."""
    return {
        "mode": oct(found.st_mode),
        "nlink": found.st_nlink,
        "owner": [found.st_uid, found.st_gid],
        "size": None if stat.S_ISDIR(found.st_mode) else found.st_size,
        "rdev": found.st_rdev,
        "times": [moment(found.st_atime_ns), moment(found.st_mtime_ns), moment(found.st_ctime_ns)],
    }


Case = Callable[[Place, Say], None]
CASES: Final[dict[str, dict[str, Case]]] = {}
"""By section, in the order in which they are made."""


def case(section: str) -> Callable[[Case], Case]:
    """Enter a case into a section; its name is that of the function."""

    def enter(function: Case) -> Case:
        cases = CASES.setdefault(section, {})
        assert function.__name__ not in cases
        cases[function.__name__] = function
        return function

    return enter


@contextmanager
def opened(path: bytes, flags: int = os.O_RDWR, mode: int = 0o644) -> Iterator[int]:
    """A descriptor."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def write(path: bytes, data: bytes = b"0123456789", mode: int = 0o644) -> None:
    """Make a file, or replace what it holds."""
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode) as fd:
        os.write(fd, data)


def read(path: bytes) -> bytes:
    """All of a file."""
    with opened(path, os.O_RDONLY) as fd:
        parts = []
        while part := os.read(fd, 1 << 17):
            parts.append(part)
        return b"".join(parts)


def elsewhere(act: Callable[[], Any], uid: int | None = None) -> Any:
    """Make a call in another process, as another user if one is given; return its plain answer."""
    come, go = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            say = Say()
            say("answer", act)
            os.write(go, json.dumps(say.answers).encode())
        finally:
            os._exit(0)
    os.close(go)
    with os.fdopen(come, "rb") as answer:
        told = answer.read()
    os.waitpid(pid, 0)
    return json.loads(told)["answer"] if told else "ended without an answer"


def mode_of(path: bytes) -> str:
    """Type and permissions of a file, in octal."""
    return oct(os.lstat(path).st_mode)


def size_of(path: bytes) -> int:
    """The size of a file."""
    return os.lstat(path).st_size


def set_times(path: bytes | int, ns: tuple[int, int], *, follow: bool = True) -> None:
    """utimensat(2) with both times."""
    if isinstance(path, int):
        os.utime(path, ns=ns)
    else:
        os.utime(path, ns=ns, follow_symlinks=follow)
