"""Files that are written whole or not at all."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EEXIST, EISDIR, EOPNOTSUPP
from typing import BinaryIO, Final

_BUFFER: Final = 1 << 20
_MODE: Final = 0o600
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_UNNAMED: Final = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
_NAMED: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC


def spare_name() -> str:
    """A name that nobody else gives to a file, for what is to be renamed."""
    return f".puffs-{secrets.token_hex(8)}"


def parted(path: str) -> tuple[str, str]:
    """The directory that `path` is in, and its name there."""
    return os.path.split(os.path.abspath(path))


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A new file for the body to write, which then takes the name `path`, in one step.

    It is on stable storage by then, and may be read by its owner only. If anything fails, whatever
    was called `path` is still there, and no other file is left; the same when this process is
    killed, on file systems that have files without a name (O_TMPFILE, open(2)).

    Raises `OSError`, with `path` in its message: EEXIST when that is something else than a regular
    file.
    """
    parent, name = parted(path)
    try:
        directory = os.open(parent, _DIRECTORY)
        try:
            _check(directory, name)
            with _renamed(directory, name) as fd:
                with open(fd, "wb", _BUFFER, closefd=False) as stream:
                    yield stream
                os.fsync(fd)
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as exc:
        raise OSError(exc.errno, f"{path}: {exc.strerror}") from exc


def _check(directory: int, name: str) -> None:
    """Not in the place of a device, say, which would be lost."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise OSError(EEXIST, "it exists and is no regular file")


@contextmanager
def _renamed(directory: int, name: str) -> Iterator[int]:
    """A new file, called `name` after the body, or gone."""
    spare = spare_name()
    fd, named = _new(directory, spare)
    try:
        yield fd
        if not named:
            # With a descriptor for the directory this is linkat(2) and follows the path of proc(5).
            os.link(f"/proc/self/fd/{fd}", spare, dst_dir_fd=directory)
            named = True
        os.rename(spare, name, src_dir_fd=directory, dst_dir_fd=directory)
        named = False
    finally:
        os.close(fd)
        if named:
            os.unlink(spare, dir_fd=directory)


def _new(directory: int, spare: str) -> tuple[int, bool]:
    """A new file, and whether it has the name `spare`: not where it can be without one."""
    try:
        return os.open(".", _UNNAMED, _MODE, dir_fd=directory), False
    except OSError as exc:
        if exc.errno not in (EOPNOTSUPP, EISDIR):  # EISDIR: it is not even known
            raise
    return os.open(spare, _NAMED, _MODE, dir_fd=directory), True
