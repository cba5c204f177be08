"""A directory to mount on: finding it, and finding out whether what is mounted there still answers.

A file system whose server hangs takes every process along that touches it. So the table of mounts
is read first, and a file system that has a server (FUSE, NFS...) is asked by a child process that
can be left behind.
"""

import errno
import os
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from puffs.attach.fuse.mountinfo import MountInfo, covering, read_mounts

ANSWER_SECONDS = 3.0
"""How long a file system may take to answer before it counts as hung."""

MAX_SYMLINKS = 40
"""As many as the kernel follows in one path (path_resolution(7))."""

_SERVED = ("fuse", "nfs", "cifs", "smb", "9p", "ceph", "afs", "lustre")

_CHECK = "check the path"

# statvfs, because the kernel answers stat from its cache, also after the server has gone.
_ASK = """\
import os, sys
try:
    os.statvfs(sys.argv[1])
except OSError as error:
    sys.exit(min(error.errno, 255))
"""


class MountError(OSError):
    """Something that has to do with a mount cannot be done.

    `errno` is the reason for programs; the text, also in `strerror`, is one line for people that
    says what is wrong, where, and what to do.
    """

    def __str__(self) -> str:
        """The text alone: the errno's name would say less, and twice."""
        return str(self.strerror)


def shown(path: str) -> str:
    """Return `path` as one word of one line, fit to be pasted into a shell if it is printable."""
    return shlex.quote(path) if path.isprintable() else ascii(path)


def check_mountpoint(path: str | os.PathLike[str], rootmode: int) -> str:
    """Return the absolute real path of a place that a file system may be mounted on.

    Any directory will do, empty or not, also the root of another mount; but not a mount made by
    puffs, nor one whose server has gone or hangs.

    Args:
        path: what the user named.
        rootmode: mode of the root of the file system. A directory is mounted on a directory, and
            anything else on a regular file; a symbolic link cannot be mounted (mount(2)).

    Raises:
        MountError: it is not there, of the wrong type, in use, or not to be reached.
    """
    if stat.S_ISLNK(rootmode):
        raise MountError(
            errno.EINVAL,
            "the root of the file system is a symbolic link, which Linux does not mount: give it "
            "another root, or use it without a mount (puffs.local)",
        )
    mounts = read_mounts()
    make = "mkdir -p" if stat.S_ISDIR(rootmode) else "touch"
    real = _resolve(path, mounts, f"make it first ({make} {shown(os.fspath(path))})")
    mount = covering(real, mounts)
    if mount is not None:
        _check_served(mount)
        if mount.mountpoint == real and mount.is_ours:
            raise MountError(
                errno.EBUSY,
                f"{shown(real)} is already a mount of puffs (type {mount.fstype}): unmount it "
                f"first (puffs umount {shown(real)}) or choose another mount point",
            )
    with _explained(real, "make it again"):
        mode = os.lstat(real).st_mode
    if stat.S_ISDIR(rootmode) and not stat.S_ISDIR(mode):
        raise MountError(
            errno.ENOTDIR,
            f"{shown(real)} is not a directory: choose a directory as the mount point",
        )
    if not stat.S_ISDIR(rootmode) and not stat.S_ISREG(mode):
        raise MountError(
            errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL,
            f"{shown(real)} is not a regular file, and the root of the file system is no "
            "directory: choose a regular file as the mount point",
        )
    return real


def resolve(path: str | os.PathLike[str]) -> str:
    """Return `path` absolute and without symbolic links, "." and "..".

    The last component may be a dead mount: it is not touched. Dead mounts on the way are an error.

    Raises:
        MountError: the way to the last component cannot be walked, or the last one is not there.
    """
    return _resolve(path, read_mounts(), _CHECK)


def is_stale(path: str | os.PathLike[str]) -> bool:
    """Whether `path` lies on a FUSE mount whose server has gone without unmounting (ENOTCONN).

    Takes up to ANSWER_SECONDS when the server is there but hangs: that is not stale.

    Raises:
        MountError: the way to `path` cannot be walked.
    """
    mounts = read_mounts()
    mount = covering(_resolve(path, mounts, _CHECK), mounts)
    return mount is not None and mount.is_fuse and _ask(mount.mountpoint) == errno.ENOTCONN


def _resolve(path: str | os.PathLike[str], mounts: list[MountInfo], if_missing: str) -> str:
    # Not os.path.realpath: that calls lstat for the last component too, which a hung mount there
    # would never answer. readlink on the root of a mount is answered by the kernel alone.
    text = os.fspath(path)
    if not text or "\0" in text:
        raise MountError(errno.EINVAL, f"{text!r} is no path: name a mount point")
    asked: set[int] = set()
    links = 0
    with _explained(text, if_missing):
        here = "/" if text.startswith("/") else os.getcwd()
        todo = text.split("/")[::-1]
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = os.path.dirname(here)
                continue
            mount = covering(here, mounts)
            if mount is not None and mount.mount_id not in asked:
                asked.add(mount.mount_id)
                _check_served(mount)
            entry = os.path.join(here, name)
            try:
                target = os.readlink(entry)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                here = entry
                continue
            links += 1
            if links > MAX_SYMLINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), entry)
            if target.startswith("/"):
                here = "/"
            todo.extend(target.split("/")[::-1])
    return here


@contextmanager
def _explained(path: str, if_missing: str) -> Iterator[None]:
    """Turn the OSError of a walk to `path` into a MountError with a remedy."""
    try:
        yield
    except MountError:
        raise
    except OSError as error:
        where = shown(error.filename or path)
        parent = shown(os.path.dirname(error.filename or path))
        texts = {
            errno.ENOENT: f"{where} does not exist: {if_missing}",
            errno.ENOTDIR: f"{parent} is not a directory: {_CHECK}",
            errno.EACCES: f"no permission to search {parent}: ask its owner, or go another way",
        }
        code = error.errno or errno.EIO
        text = texts.get(code, f"{where}: {os.strerror(code)}: {_CHECK}")
        raise MountError(code, text) from error


def _check_served(mount: MountInfo) -> None:
    """Raise MountError if the mount needs a server and that one has gone or hangs."""
    if not mount.fstype.startswith(_SERVED):
        return
    where = shown(mount.mountpoint)
    answer = _ask(mount.mountpoint)
    if answer == errno.ENOTCONN:
        raise MountError(
            errno.ENOTCONN,
            f"{where} is a stale mount (type {mount.fstype}), its server has gone: "
            f"unmount it first (puffs umount {where}, or umount -l {where})",
        )
    if answer is None:
        raise MountError(
            errno.ETIMEDOUT,
            f"{where} is a mount (type {mount.fstype}) whose server does not answer: end the "
            f"server and unmount it (umount -l {where}), or choose another mount point",
        )


def _ask(mountpoint: str) -> int | None:
    """Return the errno with which a file system answers, 0 for success, None if it does not.

    A process that waits for a hung server may be beyond SIGKILL until the server ends, and a thread
    would keep this process from exiting. So it is a child, and nobody waits for it.
    """
    # Not in our working directory: a child that is left behind must not keep anything busy.
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _ASK, mountpoint], cwd="/", stderr=subprocess.DEVNULL
    )
    try:
        return child.wait(ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.returncode is None:
            child.kill()
            threading.Thread(target=child.wait, daemon=True).start()
