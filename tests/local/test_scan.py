"""Listing directories in process, beyond what the comparison with `os` covers."""

import os
import stat
from collections.abc import Iterable, Iterator
from errno import EIO

import pytest

import puffs
from puffs.fs.mem import MemFS
from tests.kernel.little import Little, fails


@pytest.fixture
def server() -> Little:
    return Little()


@pytest.fixture
def vfs(server: Little) -> Iterator[puffs.LocalFileSystem]:
    with puffs.local(server) as vfs:
        yield vfs


def test_a_large_directory_is_listed_once(server: Little, vfs: puffs.LocalFileSystem) -> None:
    names = [f"file{number:04}" for number in range(1000)]
    for name in names:
        vfs.mknod(name)
    server.log.clear()
    assert sorted(vfs.listdir("/")) == names
    assert len(server.asked("readdir")) == 1
    assert server.asked("lookup") == []
    assert len(vfs.mount.vnodes) == 1


def test_types_and_numbers_save_questions(server: Little, vfs: puffs.LocalFileSystem) -> None:
    vfs.mkdir("/d")
    vfs.mknod("/f")
    server.log.clear()
    with vfs.scandir("/") as entries:
        found = {entry.name: (entry.is_dir(), entry.is_file(), entry.inode()) for entry in entries}
    assert found == {"d": (True, False, 2), "f": (False, True, 3)}
    assert server.asked("lookup") == []


def test_types_that_are_not_told_are_looked_up(server: Little, vfs: puffs.LocalFileSystem) -> None:
    vfs.mkdir("/d")
    vfs.symlink("d", "/l")
    server.says["readdir"] = lambda dir, offset, file: ["d", "l"]
    with vfs.scandir("/") as entries:
        d, link = sorted(entries, key=lambda entry: entry.name)
    server.log.clear()
    assert d.is_dir()
    assert not d.is_symlink()
    assert d.inode() == 2
    assert len(server.asked("lookup")) == 1, "asked once"
    assert link.is_symlink()
    assert link.is_dir()
    assert not link.is_dir(follow_symlinks=False)
    assert os.fspath(link) == "/l"


def test_types_come_with_entries(server: Little, vfs: puffs.LocalFileSystem) -> None:
    attr = puffs.Attr(stat.S_IFDIR | 0o755, ino=77)
    server.says["readdir"] = [puffs.DirEntry("d", entry=puffs.Entry(77, attr))]
    server.log.clear()
    with vfs.scandir("/") as entries:
        (entry,) = entries
    assert entry.is_dir()
    assert entry.inode() == 77
    assert server.asked("lookup") == []


def test_the_directory_is_given_back(server: Little, vfs: puffs.LocalFileSystem) -> None:
    for _ in vfs.scandir("/"):
        pass
    assert len(server.asked("closedir")) == 1, "at the end"
    vfs.mknod("/f")
    with vfs.scandir("/") as entries:
        next(entries)
    assert len(server.asked("closedir")) == 2, "when it is left"
    with pytest.raises(StopIteration):
        next(entries)
    entries.close()
    assert len(server.asked("closedir")) == 2


def test_one_that_is_forgotten_is_given_back_with_a_warning(
    server: Little, vfs: puffs.LocalFileSystem
) -> None:
    entries = [vfs.scandir("/")]
    with pytest.warns(ResourceWarning, match="unclosed scandir"):
        entries.clear()
    assert len(server.asked("closedir")) == 1


def test_a_listing_that_fails(server: Little, vfs: puffs.LocalFileSystem) -> None:
    vfs.mkdir("/d")

    def broken(dir: int, offset: int, file: object) -> Iterable[str]:
        yield "a"
        raise ValueError("oops")

    server.says["readdir"] = broken
    with fails(EIO) as caught:
        vfs.listdir("/d")
    assert caught.value.filename == "/d"
    assert len(server.asked("closedir")) == 1
    errors: list[OSError] = []
    assert list(vfs.walk("/d", onerror=errors.append)) == []
    assert [error.filename for error in errors] == ["/d"]


def test_removing_while_listing() -> None:
    with puffs.local(MemFS()) as vfs:
        for number in range(300):
            vfs.mknod(f"/f{number}")
        with vfs.scandir("/") as entries:
            for entry in entries:
                vfs.remove(entry.path)
        assert vfs.listdir("/") == []


@pytest.mark.parametrize("topdown", [True, False])
def test_walk_as_os_walk(topdown: bool, tmp_path: os.PathLike[str]) -> None:
    top = os.fspath(tmp_path)
    with puffs.local(MemFS()) as vfs:
        for path in ("a/b/c", "a/d", "e"):
            vfs.makedirs(path)
            os.makedirs(os.path.join(top, path))
        for path in ("a/f", "a/b/g"):
            vfs.write_text(path, "")
            with open(os.path.join(top, path), "w"):
                pass
        vfs.symlink("../e", "a/link")
        os.symlink("../e", os.path.join(top, "a/link"))
        for followlinks in (False, True):
            expected = [
                (
                    os.path.join("/", os.path.relpath(above, top)).rstrip("."),
                    sorted(dirs),
                    sorted(names),
                )
                for above, dirs, names in os.walk(top, topdown, followlinks=followlinks)
            ]
            found = [
                (above, sorted(dirs), sorted(names))
                for above, dirs, names in vfs.walk("/", topdown, followlinks=followlinks)
            ]
            assert sorted(found) == sorted(expected)
            order = [above for above, _, _ in found]
            for above in order:
                parent = os.path.dirname(above)
                if above != "/":
                    assert (order.index(parent) < order.index(above)) is topdown


def test_walk_can_be_pruned() -> None:
    with puffs.local(MemFS()) as vfs:
        vfs.makedirs("/a/b")
        vfs.makedirs("/skip/c")
        seen = []
        for above, dirs, _ in vfs.walk(b"/"):
            seen.append(above)
            if b"skip" in dirs:
                dirs.remove(b"skip")
        assert seen == [b"/", b"/a", b"/a/b"]


def test_a_deep_tree_is_walked() -> None:
    with puffs.local(MemFS()) as vfs:
        deep = "/".join("d" * 80)
        vfs.makedirs(deep)
        assert sum(1 for _ in vfs.walk("/")) == 81
        vfs.rmtree("d")
        assert vfs.listdir() == []
