"""Where the demo puts its files: a mounted file system, or one in this process."""

import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import IO, Final, NamedTuple, Protocol

from puffs.attach.local.vfs import LocalFileSystem
from puffs.cli.demo_tree import TOP, Readable, Tick, below, walk

CHUNK: Final = 1 << 20


class StepError(Exception):
    """A step of the demo went wrong: one line."""


class Place(Readable, Protocol):
    """A place to put files. `unpacking` and `copying` say how that is done."""

    unpacking: str
    copying: str

    def unpack(self, archive: Path, directory: str, tick: Tick) -> None:
        """Make `directory` and unpack a tar file into it."""
        ...

    def copy(self, source: Path, directory: str, tick: Tick) -> None:
        """Copy the tree `source`, which is on the host, to the new `directory`."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file or directory another name."""
        ...

    def rmtree(self, directory: str, tick: Tick) -> None:
        """Remove a directory with all that is in it."""
        ...


class Host:
    """Directories of the host, a mounted one for example; used as any program would use them."""

    unpacking = "tar -x"
    copying = "cp -a"

    def __init__(self, root: Path) -> None:
        self._root = root

    def lstat(self, path: str) -> os.stat_result:
        """As `Readable` says."""
        return os.lstat(self._root / path)

    def listdir(self, path: str) -> list[str]:
        """As `Readable` says."""
        return os.listdir(self._root / path)

    def readlink(self, path: str) -> str:
        """As `Readable` says."""
        return os.readlink(self._root / path)

    def checksum(self, path: str) -> str:
        """As `Readable` says. The kernel is made to ask for the contents, also if it has them."""
        with open(self._root / path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return hashlib.file_digest(file, "sha256").hexdigest()

    def unpack(self, archive: Path, directory: str, tick: Tick) -> None:
        """As `Place` says, by tar(1)."""
        os.mkdir(self._root / directory)
        run(["tar", "-xvf", str(archive), "-C", str(self._root / directory)], tick)

    def copy(self, source: Path, directory: str, tick: Tick) -> None:
        """As `Place` says, by cp(1)."""
        run(["cp", "-av", str(source), str(self._root / directory)], tick)

    def rename(self, old: str, new: str) -> None:
        """As `Place` says."""
        os.rename(self._root / old, self._root / new)

    def rmtree(self, directory: str, tick: Tick) -> None:
        """As `Place` says, by rm(1)."""
        run(["rm", "-rv", str(self._root / directory)], tick)


class _Item(NamedTuple):
    """A file to be made: `target` of a symbolic link, `open` for the contents of a regular file."""

    path: str
    mode: int
    mtime_ns: int
    target: str
    open: Callable[[], IO[bytes]]


class InProcess:
    """A file system that is not mounted: this process does what the programs would do."""

    unpacking = "unpack the tar file"
    copying = "copy the source"

    def __init__(self, vfs: LocalFileSystem) -> None:
        self._vfs = vfs

    def lstat(self, path: str) -> os.stat_result:
        """As `Readable` says."""
        return self._vfs.lstat(path)

    def listdir(self, path: str) -> list[str]:
        """As `Readable` says."""
        return self._vfs.listdir(path)

    def readlink(self, path: str) -> str:
        """As `Readable` says."""
        return self._vfs.readlink(path)

    def checksum(self, path: str) -> str:
        """As `Readable` says."""
        digest = hashlib.sha256()
        with self._vfs.open(path, "rb", buffering=0) as file:
            while data := file.read(CHUNK):
                digest.update(data)
        return digest.hexdigest()

    def unpack(self, archive: Path, directory: str, tick: Tick) -> None:
        """As `Place` says, by `tarfile`."""
        with tarfile.open(archive) as tar:
            self._fill(directory, (_archived(tar, member) for member in tar), tick)

    def copy(self, source: Path, directory: str, tick: Tick) -> None:
        """As `Place` says."""
        found = walk(Host(source), TOP)
        self._fill(directory, (_on_host(source, path, status) for path, status in found), tick)

    def rename(self, old: str, new: str) -> None:
        """As `Place` says."""
        self._vfs.rename(old, new)

    def rmtree(self, directory: str, tick: Tick) -> None:
        """As `Place` says."""
        for path, status in reversed([*walk(self, directory)]):
            remove = self._vfs.rmdir if stat.S_ISDIR(status.st_mode) else self._vfs.remove
            remove(below(directory, path))
            tick()

    def _fill(self, directory: str, items: Iterable[_Item], tick: Tick) -> None:
        times = []
        for item in items:
            path, kind = below(directory, item.path), stat.S_IFMT(item.mode)
            if kind == stat.S_IFLNK:
                self._vfs.symlink(item.target, path)
            elif kind == stat.S_IFDIR:
                self._vfs.mkdir(path)
            else:
                with item.open() as content, self._vfs.open(path, "wb", buffering=0) as file:
                    shutil.copyfileobj(content, file, CHUNK)
            if kind != stat.S_IFLNK:
                self._vfs.chmod(path, stat.S_IMODE(item.mode))
            times.append((path, item.mtime_ns))
            tick()
        for path, mtime_ns in reversed(times):  # a directory after all that is made in it
            self._vfs.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def _on_host(source: Path, path: str, status: os.stat_result) -> _Item:
    where = source / path
    target = os.readlink(where) if stat.S_ISLNK(status.st_mode) else ""
    return _Item(path, status.st_mode, status.st_mtime_ns, target, lambda: where.open("rb"))


def _archived(tar: tarfile.TarFile, member: tarfile.TarInfo) -> _Item:
    kind = stat.S_IFDIR if member.isdir() else stat.S_IFLNK if member.issym() else stat.S_IFREG
    # tarfile's own mtime is a float, which has no room for nanoseconds.
    mtime = Decimal(member.pax_headers.get("mtime", member.mtime))
    return _Item(
        member.name.removeprefix("./"),
        kind | member.mode,
        int(mtime * 1_000_000_000),
        member.linkname,
        partial(_extracted, tar, member),
    )


def _extracted(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None, f"{member.name} is a regular file"
    return file


def pack(source: Path, archive: Path, tick: Tick) -> None:
    """Make a tar file of all in `source`, by tar(1); its format keeps nanoseconds."""
    run(["tar", "--format=posix", "-cvf", str(archive), "-C", str(source), "."], tick)


def run(command: list[str], tick: Tick) -> None:
    """Run a program that prints a line for each file; `StepError` tells how it failed."""
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints) as program:
            try:
                for _line in program.stdout or ():
                    tick()
            except BaseException:
                program.kill()
                raise
        if program.returncode:
            complaints.seek(0)
            why = complaints.readline().strip() or f"exit status {program.returncode}"
            raise StepError(f"{' '.join(command)}: {why}")
