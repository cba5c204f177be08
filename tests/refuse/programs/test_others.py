"""Small programs written for fusepy: what is seen through them is the same on puffs."""

import os
import struct
import subprocess
import time
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.refuse.programs.served import (
    ENVIRONMENT,
    SIDES,
    TIMES,
    WITHOUT_LIBFUSE,
    Words,
    make_tree,
    module,
    mounted,
    program,
    seen,
)

pytestmark = pytest.mark.fuse

BLOCK: Final = 512


@dataclass(frozen=True)
class Use:
    """How a program is used.

    `words` makes what it shows, in a directory that is empty the first time, and returns its
    command; `act` uses the mount, and returns what it has seen of it.
    """

    words: Callable[[Path, Path], Words]
    act: Callable[[Path], object]
    without: tuple[str, ...] = ()
    """Fields of attributes that are different each time."""
    complains: bool = False
    """It has exceptions of its own, whatever it runs on."""
    shown: str = "."
    """The directory of which all is the same each time."""


def text_of(name: str, text: str) -> Callable[[Path], object]:
    def act(mountpoint: Path) -> object:
        assert (mountpoint / name).read_text() == text
        with pytest.raises(FileNotFoundError):
            os.lstat(mountpoint / "there is no such")
        return os.statvfs(mountpoint).f_namemax

    return act


def fsspec_local(directory: Path, mountpoint: Path) -> Words:
    tree = directory / "tree"
    if not tree.exists():
        make_tree(tree)
    return [*module("fsspec.fuse"), "local", tree, mountpoint]


def fsspec_zip(directory: Path, mountpoint: Path) -> Words:
    archive = directory / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("directory/hello.txt", "Hello!\n")
        file.writestr("large", bytes(range(256)) * 400)
    return [*module("fsspec.fuse"), f"zip::file://{archive}", "/", mountpoint]


MEMORY = """
import sys, fsspec, fsspec.fuse
memory = fsspec.filesystem("memory")
memory.pipe({"/directory/hello.txt": b"Hello!\\n", "/large": bytes(range(256)) * 10_000})
fsspec.fuse.run(memory, "/", sys.argv[1], foreground=True, threads=True)
"""


def fsspec_memory(directory: Path, mountpoint: Path) -> Words:
    python, *_ = module("fsspec")
    script = directory / "memory.py"
    script.write_text(MEMORY)
    return [python, script, mountpoint]


def change_memory(mountpoint: Path) -> object:
    text_of("directory/hello.txt", "Hello!\n")(mountpoint)
    (mountpoint / "made").mkdir()
    (mountpoint / "made/file").write_text("written through the mount\n")
    (mountpoint / "large").unlink()
    assert (mountpoint / "made/file").read_text() == "written through the mount\n"
    return sorted(os.listdir(mountpoint))


def explode(directory: Path, mountpoint: Path) -> Words:
    fsspec_zip(directory, mountpoint)
    return [program("explode"), mountpoint, directory / "archive.zip"]


def exefs(directory: Path, mountpoint: Path) -> Words:
    image = directory / "exefs.bin"
    contents = {b"banner": b"Hello!\n", b"logo": bytes(range(256))}
    table, data = b"", b""
    for name, content in contents.items():
        table += struct.pack("<8sII", name, len(data), len(content))
        data += content.ljust(BLOCK, b"\0")
    image.write_bytes(table.ljust(BLOCK, b"\0") + data)
    return [program("mount_exefs"), "-f", image, mountpoint]


def cache_mtime(directory: Path, mountpoint: Path) -> Words:
    tree = directory / "tree"
    if not tree.exists():
        make_tree(tree)
    cache = directory / f"cache of {mountpoint.name}"
    return [program("fuse-cache-mtime"), "--cache-dir", cache, tree, mountpoint]


def legitfs(directory: Path, mountpoint: Path) -> Words:
    repository = directory / "repository"
    tree = repository / "tree"
    if not tree.exists():
        make_tree(tree)
        git = [
            "git",
            "-C",
            str(repository),
            "-c",
            "user.name=test",
            "-c",
            "user.email=t@example.org",
        ]
        for words in ["init", "-q"], ["add", "."], ["commit", "-qm", "all"]:
            subprocess.run([*git, *words], check=True)
    return [program("legitfs"), "-r", repository, mountpoint]


def committed(mountpoint: Path) -> object:
    (file,) = mountpoint.glob(".git/objects/*/hello.txt")
    return text_of(str(file.relative_to(mountpoint)), "Hello!\n")(mountpoint)


def cowfs(directory: Path, mountpoint: Path) -> Words:
    store = directory / f"store of {mountpoint.name}"
    store.mkdir()
    return [program("cowfs"), "mount", store, mountpoint]


def change_cow(mountpoint: Path) -> object:
    (mountpoint / "directory").mkdir()
    (mountpoint / "directory/file").write_bytes(bytes(range(256)) * 4000)
    with (mountpoint / "directory/file").open("r+b") as file:
        file.seek(100_000)
        file.write(b"in the middle")
    os.rename(mountpoint / "directory/file", mountpoint / "renamed")
    assert (mountpoint / "renamed").read_bytes()[100_000:100_013] == b"in the middle"
    os.truncate(mountpoint / "renamed", 1000)
    return sorted(os.listdir(mountpoint))


def versions(directory: Path, mountpoint: Path) -> Words:
    repository = directory / f"repository of {mountpoint.name}"
    repository.mkdir()
    return [program("vfs-fuse"), repository, mountpoint]


def commit(mountpoint: Path) -> object:
    (mountpoint / "directory").mkdir()
    (mountpoint / "file").write_text("Hello!\n")
    os.rename(mountpoint / "file", mountpoint / "directory/file")
    with (mountpoint / "directory/file").open("a") as file:
        file.write("more\n")
    os.truncate(mountpoint / "directory/file", 8)
    repository = mountpoint.parent / f"repository of {mountpoint.name}"
    git = ["git", "-C", str(repository), "log", "--format=%s"]
    commits = subprocess.run(git, capture_output=True, check=True, text=True).stdout
    return sorted(os.listdir(mountpoint)), (mountpoint / "directory/file").read_bytes(), commits


def ephemeral(directory: Path, mountpoint: Path) -> Words:
    store = directory / f"store of {mountpoint.name}"
    return [program("globaleaks-eph-fs"), "-s", store, mountpoint]


def keep_secrets(mountpoint: Path) -> object:
    """Its names are UUIDs; a file is gone when it is removed, and its key with it."""
    one, other = (mountpoint / str(uuid.UUID(int=number, version=4)) for number in (1, 2))
    data = bytes(range(256)) * 1000
    one.write_bytes(data)
    other.write_bytes(b"")
    assert one.read_bytes() == data
    with pytest.raises(OSError, match="Read-only"):
        one.rename(other)
    with pytest.raises(FileNotFoundError):
        (mountpoint / "no UUID").write_bytes(b"")
    one.chmod(0o600)
    other.unlink()
    store = mountpoint.parent / f"store of {mountpoint.name}"
    assert all(data[:256] not in path.read_bytes() for path in store.iterdir())
    return sorted(os.listdir(mountpoint)), one.stat().st_mode


EASY = """
import sys, easyfuse, llfuse
operations = easyfuse.Operations()
root = operations.fs[llfuse.ROOT_INODE]
directory = easyfuse.Directory("directory", operations.fs, root, inode=10)
easyfuse.File("inner", operations.fs, directory, inode=11).content = b"inner\\n"
easyfuse.File("hello.txt", operations.fs, root, inode=12).content = b"Hello!\\n"
llfuse.init(operations, sys.argv[1], [])
try:
    llfuse.main(workers=1)
finally:
    llfuse.close()
"""


def easyfuse(directory: Path, mountpoint: Path) -> Words:
    """Its times are numbers with fractions. What it makes has random inodes, that it sorts by."""
    python, *_ = module("easyfuse")
    script = directory / "easy.py"
    script.write_text(EASY)
    return [python, script, mountpoint]


def change_easy(mountpoint: Path) -> object:
    (mountpoint / "made").mkdir()
    (mountpoint / "made/file").write_text("written\n")
    (mountpoint / "hello.txt").unlink()
    times = [abs(path.stat().st_mtime - time.time()) < 100 for path in mountpoint.rglob("*")]
    return times, sorted(path.name for path in mountpoint.rglob("*"))


def tagfs(directory: Path, mountpoint: Path) -> Words:
    store = directory / f"store of {mountpoint.name}"
    store.mkdir()
    return [program("pytagfs"), "-m", mountpoint, "-d", store]


def tag(mountpoint: Path) -> object:
    (mountpoint / "red").mkdir()
    (mountpoint / "red/apple").write_text("Hello!\n")
    assert (mountpoint / "red/apple").read_text() == "Hello!\n"
    return sorted(os.listdir(mountpoint / "red"))


USES: Final = {
    "fsspec-local": Use(fsspec_local, text_of("hello.txt", "Hello!\n"), TIMES),
    "fsspec-zip": Use(fsspec_zip, text_of("directory/hello.txt", "Hello!\n"), TIMES),
    "fsspec-memory": Use(fsspec_memory, change_memory, TIMES),
    "explosive-fuse": Use(explode, text_of("archive.zip/directory/hello.txt", "Hello!\n"), TIMES),
    "ninfs": Use(exefs, text_of("banner.bin", "Hello!\n"), TIMES),
    "fuse-cache-mtime": Use(cache_mtime, text_of("hello.txt", "Hello!\n"), ("st_ctime_ns",)),
    "legitfs": Use(legitfs, committed, TIMES, complains=True),
    "pytagfs": Use(tagfs, tag, TIMES),
    "vfsfusepy": Use(versions, commit, TIMES, shown="directory"),
    "globaleaks-eph-fs": Use(ephemeral, keep_secrets, TIMES),
}


COMPILED: Final = {
    "cowfs": Use(cowfs, change_cow, TIMES),
    "easyfuse": Use(easyfuse, change_easy, TIMES),
}
"""Those that are built where they are installed, or need what is."""


@pytest.mark.parametrize(
    "name", [*USES, *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILED)]
)
def test_what_is_seen_is_the_same(name: str, tmp_path: Path) -> None:
    use, found = {**USES, **COMPILED}[name], []
    for serve in SIDES:
        mountpoint = tmp_path.resolve() / serve.__name__
        mountpoint.mkdir()
        words = serve(use.words(tmp_path, mountpoint))
        with mounted(words, mountpoint, complains=use.complains):
            found.append((use.act(mountpoint), seen(mountpoint / use.shown, *use.without)))
    assert len(found[0][1]) > 2
    assert found == found[:1] * len(SIDES)


OFF_LINUX = """
import ctypes.util, sys  # which finds libraries of the system that there is
sys.platform, name, library = "darwin", *sys.argv[1:]
from importlib import import_module
module = import_module(name)
print(module.__name__ == library, module.FUSE.__module__ == library, module.__file__)
"""


@pytest.mark.parametrize(("name", "library"), [("fusepy", "fuse"), ("mfusepy", "mfusepy")])
@pytest.mark.skipif(WITHOUT_LIBFUSE in os.environ, reason="the libraries need it")
def test_off_linux_the_library_itself_is_imported(name: str, library: str) -> None:
    (python, *_) = module(library)
    command = [python, "-c", OFF_LINUX, f"puffs.refuse.{name}", library]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    told = subprocess.check_output(command, env=environment, text=True).split()
    assert told[:2] == ["True", "True"]
    assert Path(told[2]).is_relative_to(ENVIRONMENT)
