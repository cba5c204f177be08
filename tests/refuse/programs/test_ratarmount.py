"""ratarmount, written for mfusepy: archives as directories."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.refuse.programs.served import (
    EACH_SIDE,
    SECONDS,
    TIMES,
    Serve,
    Words,
    make_tree,
    mounted,
    on_each_side,
    program,
    same,
    seen,
)

pytestmark = pytest.mark.fuse


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path.resolve() / "tree")


@pytest.fixture
def archive(tree: Path) -> Path:
    """That tree as an archive."""
    path = tree.parent / "archive.tar.gz"
    subprocess.run(["tar", "-C", str(tree), "-czf", str(path), "."], check=True)
    return path


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path.resolve() / "mnt"
    path.mkdir()
    return path


OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("-f",),
    ("--prefix", "directory"),
    ("-o", "modules=subdir,subdir=directory"),
    ("-o", "ro,direct_io"),
)


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_an_archive_looks_the_same(tree: Path, archive: Path, options: tuple[str, ...]) -> None:
    words: Words = [program("ratarmount"), *options, archive]
    shown = tree / "directory" if "directory" in " ".join(options) else tree
    with on_each_side(words, tree.parent) as mountpoints:
        for mountpoint in mountpoints:
            same(mountpoint, shown)
            same(mountpoint, mountpoints[0])
            assert seen(mountpoint) == seen(mountpoints[0])


def test_several_archives_and_a_directory_are_one_tree(tree: Path, archive: Path) -> None:
    # ratarmount cannot follow hard links there.
    (tree / "directory/the same").unlink()
    subprocess.run(["tar", "-C", str(tree), "-czf", str(archive), "."], check=True)
    second = tree.parent / "second.zip"
    with zipfile.ZipFile(second, "w") as file:
        file.writestr("hello.txt", "Hello from the second\n")
        file.writestr("more/deep/file", "more\n" * 1000)
    third = tree.parent / "third"
    third.mkdir()
    (third / "third").write_text("a directory beside archives\n")
    words: Words = [program("ratarmount"), archive, second, third]
    with on_each_side(words, tree.parent) as mountpoints:
        for mountpoint in mountpoints:
            assert (mountpoint / "hello.txt").read_text() == "Hello from the second\n"
            assert (mountpoint / "third").read_text() == "a directory beside archives\n"
            same(mountpoint, mountpoints[0])
            assert seen(mountpoint, *TIMES) == seen(mountpoints[0], *TIMES)


@EACH_SIDE
def test_the_index_is_kept_beside_the_archive(
    archive: Path, mountpoint: Path, serve: Serve
) -> None:
    index = Path(f"{archive}.index.sqlite")
    words = serve([program("ratarmount"), archive, mountpoint])
    with mounted(words, mountpoint):
        before = seen(mountpoint)
    made = index.stat()
    with mounted(words, mountpoint):
        assert seen(mountpoint) == before
    assert (index.stat().st_ino, index.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


@EACH_SIDE
def test_mounted_over_the_directory_that_it_shows(tree: Path, archive: Path, serve: Serve) -> None:
    copy = tree.parent / "copy"
    subprocess.run(["cp", "-a", str(tree), str(copy)], check=True)
    shutil.copy(archive, tree / "directory/inner.tar.gz")
    shutil.copy(archive, copy / "directory/inner.tar.gz")
    unpacked = tree.parent / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-C", str(unpacked), "-xzf", str(archive)], check=True)
    # Archives in it become directories.
    with mounted(serve([program("ratarmount"), "--recursive", tree, tree]), tree):
        same(tree / "directory/inner.tar.gz", unpacked)
        assert (tree / "hello.txt").read_text() == "Hello!\n"
    (tree / "directory/inner.tar.gz.index.sqlite").unlink()
    same(tree, copy)


@EACH_SIDE
def test_what_is_written_goes_to_the_overlay_and_is_committed(
    tree: Path, mountpoint: Path, serve: Serve
) -> None:
    ratarmount = program("ratarmount")
    archive = tree.parent / "archive.tar"
    subprocess.run(["tar", "-C", str(tree), "-cf", str(archive), "."], check=True)
    overlay = tree.parent / "overlay"
    words: Words = [ratarmount, "--write-overlay", overlay, archive]
    with mounted(serve([*words, mountpoint]), mountpoint):
        change(mountpoint)
        changed = seen(mountpoint, "st_ctime_ns")
    change(tree)
    assert (overlay / "directory/new/file").read_text() == "new\n"

    done = subprocess.run(
        [*map(str, serve([ratarmount, "--commit-overlay", "--write-overlay", overlay, archive]))],
        input="commit\n",
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done
    with mounted(serve([ratarmount, archive, mountpoint]), mountpoint):
        same(mountpoint, tree)
        assert changed.keys() == seen(mountpoint).keys()


def change(root: Path) -> None:
    """All kinds of changes."""
    (root / "directory/new").mkdir()
    (root / "directory/new/file").write_text("new\n")
    with (root / "hello.txt").open("a") as file:
        file.write("and more\n")
    (root / "nothing").unlink()
    os.rename(root / "directory/secret", root / "directory/renamed")
    (root / "directory/program").chmod(0o700)
    os.truncate(root / "directory/below/large", 1000)
    with (root / "directory/below/large").open("r+b") as file:
        file.seek(500)
        file.write(b"in the middle")
    (root / "empty").rmdir()
