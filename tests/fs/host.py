"""A directory of the host passed through by `null`, as a host asks for it: operations by path."""

import os
import resource
import signal
import stat
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import puffs
from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, mount, umount2
from puffs.fs.hostfiles import Node
from puffs.fs.null import NullFS

SERVER = puffs.Cred(os.geteuid(), os.getegid(), groups=())
NOBODY = 65534

opens_handles = pytest.mark.skipif(
    os.geteuid() != 0, reason="handles are for root to open (CAP_DAC_READ_SEARCH)"
)
either_right = pytest.mark.parametrize("nobody", [False, True], ids=["privileged", "unprivileged"])


@contextmanager
def fails(code: int) -> Iterator[None]:
    """The body must raise the `OSError` of this errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == code, os.strerror(caught.value.errno or 0)


def new_attr(mode: int, cred: puffs.Cred, rdev: int = 0) -> puffs.Attr:
    """What the kernel half gives to the operations that make files."""
    attr = puffs.Attr(mode, uid=cred.uid, gid=cred.gid, rdev=rdev)
    attr.atime_ns = attr.mtime_ns = attr.ctime_ns = attr.btime_ns = time.time_ns()
    return attr


class Passed:
    """A `NullFS` of `host` and its root. Paths are relative to the root."""

    def __init__(self, host: Path | str, cred: puffs.Cred = SERVER) -> None:
        self.fs = NullFS(str(host))
        self.root = self.fs.mount()
        self.cred = cred

    def at(self, path: str) -> tuple[Node, str]:
        """The directory and the last name of `path`."""
        *parents, name = path.split("/")
        node = self.root
        for parent in parents:
            node = self.find(node, parent)
        return node, name

    def find(self, dir: Node, name: str) -> Node:
        return node_of(self.fs.lookup(dir, name, self.cred))

    def node(self, path: str) -> Node:
        return self.find(*self.at(path)) if path else self.root

    def attr(self, path: str) -> puffs.Attr:
        return self.fs.getattr(self.node(path))

    def create(self, path: str, mode: int = 0o644, flags: int = os.O_RDWR) -> tuple[Node, int]:
        """Make a file; the node and the open file."""
        attr = new_attr(stat.S_IFREG | mode, self.cred)
        entry, opened = self.fs.create(*self.at(path), attr, flags, self.cred)
        return node_of(entry), file_of(opened)

    def write(self, path: str, data: bytes, mode: int = 0o644) -> Node:
        """Make a file with contents."""
        node, file = self.create(path, mode)
        assert self.fs.write(node, 0, memoryview(data), file) == len(data)
        self.fs.close(node, file, 0)
        return node

    @contextmanager
    def open(self, node: Node, flags: int = os.O_RDONLY) -> Iterator[int]:
        file = file_of(self.fs.open(node, flags, self.cred))
        try:
            yield file
        finally:
            self.fs.close(node, file, flags)

    def read(self, node: Node) -> bytes:
        with self.open(node) as file:
            return self.fs.read(node, 0, 1 << 20, file)

    def mkdir(self, path: str, mode: int = 0o755) -> Node:
        attr = new_attr(stat.S_IFDIR | mode, self.cred)
        return node_of(self.fs.mkdir(*self.at(path), attr, self.cred))

    def mknod(self, path: str, mode: int, rdev: int = 0) -> Node:
        attr = new_attr(mode, self.cred, rdev)
        return node_of(self.fs.mknod(*self.at(path), attr, self.cred))

    def symlink(self, path: str, target: str) -> Node:
        attr = new_attr(stat.S_IFLNK | 0o777, self.cred)
        return node_of(self.fs.symlink(*self.at(path), target, attr, self.cred))

    def link(self, node: Node, path: str) -> Node:
        return node_of(self.fs.link(node, *self.at(path), self.cred))

    def remove(self, path: str) -> None:
        self.fs.remove(*self.at(path), self.cred)

    def rmdir(self, path: str) -> None:
        self.fs.rmdir(*self.at(path), self.cred)

    def rename(self, path: str, new: str, flags: int = 0) -> None:
        self.fs.rename(*self.at(path), *self.at(new), flags, self.cred)

    def listing(self, path: str = "") -> dict[str, puffs.DirEntry]:
        return {entry.name: entry for entry in self.fs.readdir(self.node(path), 0, None)}

    def set(self, node: Node, changes: puffs.Changes, file: int | None = None) -> puffs.Attr:
        return self.fs.setattr(node, changes, file, self.cred)


def acl(*, user: int) -> bytes:
    """An ACL that lets a user read and execute: the value of its extended attribute [acl(5)].

    user::rwx, user:USER:r-x, group::r-x, mask::r-x, other::---
    """
    nobody = 0xFFFFFFFF
    entries = ((1, 7, nobody), (2, 5, user), (4, 5, nobody), (16, 5, nobody), (32, 0, nobody))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def node_of(entry: object) -> Node:
    assert isinstance(entry, puffs.Entry)
    assert isinstance(entry.node, Node)
    return entry.node


def file_of(opened: object) -> int:
    assert isinstance(opened, puffs.Open)
    assert isinstance(opened.file, int)
    return opened.file


@contextmanager
def in_memory() -> Iterator[Path]:
    """A directory on a tmpfs; skips where there is none."""
    mounts = Path("/proc/self/mountinfo").read_text()
    if not any(
        line.split()[4] == "/dev/shm" and " - tmpfs " in line for line in mounts.splitlines()
    ):
        pytest.skip("/dev/shm is no tmpfs here: mount -t tmpfs tmpfs /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="puffs-test-") as directory:
        yield Path(directory)


@contextmanager
def overlaid(directory: Path) -> Iterator[Path]:
    """A directory on an overlayfs, which has no file handles; skips where none can be mounted.

    In it is the directory `low`, with a file, of the lower layer.
    """
    top, layers = directory / "top", {}
    for name in ("lower", "upper", "work"):
        layers[name] = directory / name
    (layers["lower"] / "low").mkdir(parents=True)
    (layers["lower"] / "low/file").write_text("from below")
    for path in (top, layers["upper"], layers["work"]):
        path.mkdir()
    options = ",".join(f"{name}dir={path}" for name, path in layers.items())
    try:
        mount("overlay", str(top), "overlay", 0, options)
    except OSError as error:
        pytest.skip(f"overlayfs cannot be mounted: {error.strerror}")
    try:
        yield top
    finally:
        umount2(str(top), MNT_DETACH | UMOUNT_NOFOLLOW)


def in_child(
    body: Callable[[str], None], host: Path, *, descriptors: int = 0, nobody: bool = False
) -> None:
    """Run `body`, given a path of `host`, in a process that ends with it; its failure is ours.

    `descriptors`: how many the process may have at most. `nobody`: as a user without any rights, to
    whom everything in `host` is given before.
    """
    if nobody:
        if os.geteuid() != 0:
            pytest.skip("another user can only be had by root")
        for path in (host, *host.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    sys.stdout.flush()
    readable, writable = os.pipe()
    # Of this path the user needs no part but the last.
    fd = os.open(host, os.O_PATH)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
            if nobody:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            body(f"/proc/self/fd/{fd}")
            status = 0
        except BaseException:
            os.write(writable, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    os.close(writable)
    os.close(fd)
    try:
        with open(readable, errors="replace") as report:
            text = report.read()
    except BaseException:  # it takes too long
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    assert status == 0, f"in the child: {text or status}"


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def make_many(host: Path, count: int = 200) -> list[str]:
    """Files in directories, each holding its own path; their paths."""
    paths = []
    for number in range(count):
        path = f"d{number % 7}/e{number % 3}/f{number}"
        (host / path).parent.mkdir(parents=True, exist_ok=True)
        (host / path).write_text(path)
        paths.append(path)
    return paths


def make_crowd(host: Path) -> None:
    (host / "crowd").mkdir()
    for number in range(40):
        (host / "crowd" / str(number)).touch()
