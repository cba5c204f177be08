"""Where the control socket of a mount is, so that it can be found from the mount point.

A socket is named by the device number of its mount (``0:57``), which /proc/self/mountinfo tells of
every mount point. It lies in a directory that only its owner and root can enter: ``/run/puffs`` for
root, ``$XDG_RUNTIME_DIR/puffs`` for others, or where there is no such thing ``/tmp/puffs-UID``.

A server holds a lock on the directory while it binds or removes its socket, and so does whoever
removes that of a dead server: a device number, and with it a name, is soon used again.
"""

import errno
import fcntl
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from puffs.attach.fuse.mountinfo import MountInfo

Device = tuple[int, int]

ROOT_DIRECTORY: Final = "/run/puffs"
_BACKLOG: Final = 8
_GLANCE: Final = 1.0
"""Seconds that a server may take to accept, when it only matters whether there is one."""


def own_directory() -> str:
    """Where the sockets of this user belong."""
    uid = os.geteuid()
    if uid == 0:
        return ROOT_DIRECTORY
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{runtime}/puffs" if runtime.startswith("/") else f"/tmp/puffs-{uid}"


def socket_name(device: Device) -> str:
    """The name of the socket of a mount with that device number."""
    return f"{device[0]}:{device[1]}"


def likely_directories(found: MountInfo) -> list[str]:
    """Where the socket of a mount may be, the likeliest first: with its user, or with its server,
    which may be another one's.
    """
    users = [option[8:] for option in found.options if re.fullmatch(r"user_id=\d+", option)]
    directories = [own_directory()]
    for user in users:
        if user == "0":
            directories.append(ROOT_DIRECTORY)
        directories += [f"/run/user/{user}/puffs", f"/tmp/puffs-{user}"]
    return list(dict.fromkeys(directories + all_directories()))


def all_directories() -> list[str]:
    """Where this user may look: his own directory first, and for root those of all others."""
    directories = [own_directory()]
    if os.geteuid() == 0:
        directories += sorted(map(str, Path("/run/user").glob("*/puffs")))
        directories += sorted(map(str, Path("/tmp").glob("puffs-*")))
    return directories


@contextmanager
def opened(directory: str) -> Iterator[int]:
    """A descriptor of a directory of sockets that nobody but its owner and root can write to.

    Raises `OSError`: it is not there, or it is not to be trusted.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_mode & 0o077 or not _trusted(found.st_uid):
            raise OSError(
                errno.EPERM, f"{directory} is not a directory of yours with mode 0700", directory
            )
        yield fd
    finally:
        os.close(fd)


def _trusted(uid: int) -> bool:
    """Whether what a user has put there may be used: root reads what others tell him, no more."""
    return uid in (0, os.geteuid()) or os.geteuid() == 0


def made(directory: str) -> str:
    """Make the directory if it is missing; return it."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    return directory


def bind(directory_fd: int, name: str) -> socket.socket:
    """A listening socket of that name, in place of one that a dead server has left."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with _locked(directory_fd):
            _remove(directory_fd, name)
            listening.bind(_reach(directory_fd, name))
            os.chmod(name, 0o600, dir_fd=directory_fd)
            listening.listen(_BACKLOG)
        return listening
    except BaseException:
        listening.close()
        raise


def remove_own(directory_fd: int, name: str, inode: int) -> None:
    """Remove a socket of ours, unless that name is another one's by now."""
    with _locked(directory_fd):
        try:
            if os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_ino == inode:
                os.unlink(name, dir_fd=directory_fd)
        except FileNotFoundError:
            pass


def connect(directory_fd: int, name: str, seconds: float) -> socket.socket:
    """Connect to a socket; what blocks longer than `seconds` then raises `TimeoutError`.

    Raises `OSError`: FileNotFoundError, or ConnectionRefusedError for the socket of a dead server,
    which is removed if it is ours to remove.
    """
    try:
        return _connected(directory_fd, name, seconds)
    except ConnectionRefusedError:
        pass
    with _locked(directory_fd):  # it may have been about to listen
        try:
            return _connected(directory_fd, name, seconds)
        except ConnectionRefusedError:
            _remove(directory_fd, name)
            raise


def remove_stale(directory_fd: int) -> None:
    """Remove the sockets of dead servers."""
    for name in os.listdir(directory_fd):
        if not re.fullmatch(r"\d+:\d+", name):
            continue
        try:
            if stat.S_ISSOCK(os.lstat(_reach(directory_fd, name)).st_mode):
                connect(directory_fd, name, _GLANCE).close()
        except OSError:
            continue  # it was one, or it is busy, or just removed


def _connected(directory_fd: int, name: str, seconds: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Not settimeout: a full backlog is to be waited for, which O_NONBLOCK would not do.
        timeval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        try:
            connection.connect(_reach(directory_fd, name))
        except BlockingIOError as exc:
            raise TimeoutError(errno.ETIMEDOUT, "too many wait to be heard") from exc
        connection.settimeout(seconds)
        return connection
    except BaseException:
        connection.close()
        raise


def _reach(directory_fd: int, name: str) -> str:
    """A path that is short enough for a socket's address (unix(7): 108 bytes)."""
    return f"/proc/self/fd/{directory_fd}/{name}"


def _remove(directory_fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory_fd)
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise


@contextmanager
def _locked(directory_fd: int) -> Iterator[None]:
    fcntl.flock(directory_fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(directory_fd, fcntl.LOCK_UN)
