"""`null`, while others change the host's directories, and with few descriptors for many files."""

import errno
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

import puffs
from puffs.fs.hostfiles import Node
from tests.fs.host import (
    SERVER,
    Passed,
    either_right,
    fails,
    in_child,
    make_crowd,
    make_many,
    new_attr,
    open_descriptors,
)

FEW = 64
"""So few descriptors that `null` keeps those of 16 files."""

is_root = os.geteuid() == 0


def crowd_out(passed: Passed, crowd: str = "crowd") -> None:
    """Use so many other files that no node keeps its descriptor."""
    for _ in range(2):
        for name in passed.listing(crowd):
            passed.node(f"{crowd}/{name}")


def test_a_directory_that_others_rename_stays_the_same_directory(host: Path) -> None:
    (host / "dir").mkdir()
    (host / "dir/file").write_text("inside")
    passed = Passed(host)
    directory = passed.node("dir")
    (host / "dir").rename(host / "elsewhere")
    assert passed.read(passed.find(directory, "file")) == b"inside"
    assert [entry.name for entry in passed.fs.readdir(directory, 0, None)] == ["file"]
    with fails(errno.ENOENT):
        passed.node("dir")


@either_right
@pytest.mark.parametrize("dropped", [False, True], ids=["held", "dropped"])
def test_a_link_in_the_place_of_a_directory_does_not_lead_outside(
    tmp_path: Path, host: Path, nobody: bool, dropped: bool
) -> None:
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "below/file").write_text("secret")
    outside.chmod(0o777)
    (host / "dir/below").mkdir(parents=True)
    (host / "dir/below/file").write_text("inside")
    make_crowd(host)

    def body(path: str) -> None:
        passed = Passed(path, puffs.Cred(os.geteuid(), os.getegid()))
        below, file = passed.node("dir/below"), passed.node("dir/below/file")
        if dropped:
            crowd_out(passed)
        os.rename(f"{path}/dir", f"{path}/moved")
        os.symlink(outside, f"{path}/dir")
        if dropped and nobody:  # then a directory is found by its name only
            for node in (file, below):
                with fails(errno.ESTALE):
                    passed.fs.getattr(node)
        else:
            assert passed.read(file) == b"inside"
            assert passed.read(passed.find(below, "file")) == b"inside"
        with fails(errno.ENOTDIR):
            passed.node("dir/below")
        assert passed.attr("dir").type == stat.S_IFLNK

    in_child(body, host, descriptors=FEW if dropped else 0, nobody=nobody)


@either_right
def test_files_are_found_again_after_their_descriptors_were_taken(
    any_host: Path, nobody: bool
) -> None:
    paths = make_many(any_host)

    def body(path: str) -> None:
        passed = Passed(path)
        before = open_descriptors()
        nodes = {name: passed.node(name) for name in paths}
        assert open_descriptors() <= before + FEW // 4
        for name, node in nodes.items():
            assert passed.read(node) == name.encode()
            assert passed.node(name) is node
        assert open_descriptors() <= before + FEW // 4

    in_child(body, any_host, descriptors=FEW, nobody=nobody)


def test_descriptor_zero_is_as_good_as_any_other(host: Path) -> None:
    make_crowd(host)
    (host / "dir").mkdir()
    (host / "dir/file").write_text("text")

    def body(path: str) -> None:
        os.close(0)  # the root gets it
        passed = Passed(path)
        file = passed.node("dir/file")
        crowd_out(passed)
        assert passed.read(file) == b"text"

    in_child(body, host, descriptors=FEW, nobody=is_root)


@either_right
def test_files_that_we_rename_are_found_again(host: Path, nobody: bool) -> None:
    make_crowd(host)
    (host / "dir").mkdir()
    for name in ("a", "dir/b", "c", "d"):
        (host / name).write_text(name)

    def body(path: str) -> None:
        passed = Passed(path)
        nodes = {name: passed.node(name) for name in ("a", "dir/b", "c", "d")}
        passed.rename("a", "dir/a")
        passed.rename("dir", "newdir")
        passed.rename("c", "d", puffs.RENAME_EXCHANGE)
        crowd_out(passed)
        for name, node in nodes.items():
            assert passed.read(node) == name.encode()

    in_child(body, host, descriptors=FEW, nobody=nobody)


@either_right
def test_what_others_rename_is_found_again_or_stale(host: Path, nobody: bool) -> None:
    make_crowd(host)
    (host / "dir").mkdir()
    (host / "dir/file").write_text("here")

    def body(path: str) -> None:
        passed = Passed(path)
        file = passed.node("dir/file")
        crowd_out(passed)
        os.rename(f"{path}/dir", f"{path}/other")
        if nobody:
            with fails(errno.ESTALE):
                passed.fs.getattr(file)
        assert passed.node("other/file") is file
        assert passed.read(file) == b"here"

    in_child(body, host, descriptors=FEW, nobody=nobody)


@either_right
@pytest.mark.parametrize("dropped", [False, True], ids=["held", "dropped"])
def test_another_file_of_the_same_name_is_another_file(
    any_host: Path, nobody: bool, dropped: bool
) -> None:
    make_crowd(any_host)
    (any_host / "file").write_text("old")

    def body(path: str) -> None:
        passed = Passed(path)
        old = passed.node("file")
        before = passed.fs.fileid(old)
        if dropped:
            crowd_out(passed)
        os.unlink(f"{path}/file")
        Path(path, "file").write_text("new")
        if dropped:
            with fails(errno.ESTALE):
                passed.fs.getattr(old)
        else:
            assert passed.fs.getattr(old).nlink == 0
        new = passed.node("file")
        assert new != old
        assert passed.read(new) == b"new"
        assert passed.fs.fileid(new) != before

    in_child(body, any_host, descriptors=FEW, nobody=nobody)


@either_right
def test_an_inode_number_that_is_used_again_leads_to_another_file(
    any_host: Path, nobody: bool
) -> None:
    make_crowd(any_host)
    (any_host / "old").touch()

    def body(path: str) -> None:
        passed = Passed(path)
        old = passed.node("old")
        ino, (_, generation) = old.ino, passed.fs.fileid(old)
        crowd_out(passed)
        os.unlink(f"{path}/old")
        for attempt in range(200):
            name = f"new{attempt}"
            Path(path, name).touch()
            if os.stat(f"{path}/{name}").st_ino == ino:
                break
        else:
            return  # this file system does not use numbers again, so there is nothing to confuse
        new = passed.node(name)
        assert new != old
        assert new.ino == ino
        assert passed.fs.fileid(new)[1] != generation
        with fails(errno.ESTALE):
            passed.fs.getattr(old)

    in_child(body, any_host, descriptors=FEW, nobody=nobody)


def test_a_descriptor_that_is_held_keeps_an_inode_number_from_being_used_again(host: Path) -> None:
    (host / "old").write_text("old")
    passed = Passed(host)
    old = passed.node("old")
    ino = old.ino
    (host / "old").unlink()
    for number in range(50):
        (host / str(number)).touch()
        assert os.stat(host / str(number)).st_ino != ino
    assert passed.read(old) == b"old"


@either_right
def test_what_we_removed_is_still_there_for_those_who_know_it(host: Path, nobody: bool) -> None:
    make_crowd(host)
    (host / "dir").mkdir()
    for name in ("file", "replaced", "other"):
        (host / name).write_text(name)

    def body(path: str) -> None:
        passed = Passed(path)
        file, directory, replaced = map(passed.node, ("file", "dir", "replaced"))
        crowd_out(passed)
        passed.remove("file")
        passed.rmdir("dir")
        passed.rename("other", "replaced")
        crowd_out(passed)
        assert [passed.fs.getattr(node).nlink for node in (file, directory, replaced)] == [0] * 3
        assert passed.read(file) == b"file"
        assert passed.read(replaced) == b"replaced"
        assert passed.listing("").keys() == {"crowd", "replaced"}

    in_child(body, host, descriptors=FEW, nobody=nobody)


@either_right
def test_an_open_file_keeps_its_descriptor(host: Path, nobody: bool) -> None:
    make_crowd(host)
    (host / "dir").mkdir()
    (host / "dir/file").write_text("text")

    def body(path: str) -> None:
        passed = Passed(path)
        directory, file = passed.node("dir"), passed.node("dir/file")
        passed.fs.opendir(directory, SERVER)
        with passed.open(file):
            crowd_out(passed)
            os.rename(f"{path}/dir/file", f"{path}/moved")
            os.rename(f"{path}/dir", f"{path}/elsewhere")
            assert passed.fs.getattr(file).size == 4
            assert passed.fs.getattr(directory).nlink == 2
        passed.fs.closedir(directory, None)
        crowd_out(passed)
        if nobody:
            with fails(errno.ESTALE):
                passed.fs.getattr(file)

    in_child(body, host, descriptors=FEW, nobody=nobody)


def test_open_files_take_descriptors_from_those_that_are_not(host: Path) -> None:
    paths = make_many(host)

    def body(path: str) -> None:
        passed = Passed(path)
        before = open_descriptors()
        for name in paths:
            passed.node(name)
        opened = []
        with fails(errno.EMFILE):
            for name in paths:
                node = passed.node(name)
                opened.append((node, passed.fs.open(node, os.O_RDONLY, SERVER).file))
        # Each takes two: its own and that of the node.
        assert 2 * len(opened) >= FEW - before - 2
        for node, file in opened:
            assert isinstance(file, int)
            passed.fs.close(node, file, 0)
        assert passed.read(passed.node(paths[-1])) == paths[-1].encode()

    in_child(body, host, descriptors=FEW)


@either_right
def test_deep_directories_are_found_again(host: Path, nobody: bool) -> None:
    make_crowd(host)
    depth = 1200  # deeper than a path or a recursion can be

    def body(path: str) -> None:
        passed = Passed(path, puffs.Cred(os.geteuid(), os.getegid()))
        attr = new_attr(stat.S_IFDIR | 0o700, passed.cred)
        nodes = [passed.root]
        for _ in range(depth):
            entry = passed.fs.mkdir(nodes[-1], "d", attr, passed.cred)
            assert isinstance(entry.node, Node)
            nodes.append(entry.node)
        crowd_out(passed)
        assert passed.fs.getattr(nodes[-1]).nlink == 2

    try:
        in_child(body, host, descriptors=FEW, nobody=nobody)
    finally:
        subprocess.run(["rm", "-rf", host / "d"], check=True, timeout=30)


def test_directories_that_were_moved_into_one_another_do_not_end_in_a_loop(host: Path) -> None:
    make_crowd(host)
    (host / "a/b").mkdir(parents=True)

    def body(path: str) -> None:
        passed = Passed(path)
        a, b = passed.node("a"), passed.node("a/b")
        os.rename(f"{path}/a/b", f"{path}/b")
        os.rename(f"{path}/a", f"{path}/b/a")
        assert passed.find(b, "a") is a  # as others see it, while b is still known to be in a
        crowd_out(passed)
        with fails(errno.ESTALE):
            passed.fs.getattr(a)
        assert passed.node("b/a") is a

    in_child(body, host, descriptors=FEW, nobody=is_root)


def test_many_threads_with_few_descriptors_never_see_a_wrong_file(host: Path) -> None:
    paths = make_many(host, 60)

    def body(path: str) -> None:
        passed = Passed(path)
        nodes = [passed.node(name) for name in paths]
        wrong: list[object] = []

        def work(start: int) -> None:
            try:
                for step in range(400):
                    place = (start * 17 + step * 7) % len(paths)
                    node, name = nodes[place], paths[place]
                    if step % 3 == 0 and passed.node(name) is not node:
                        wrong.append(name)
                    if passed.read(node) != name.encode():
                        wrong.append(name)
                    if step % 50 == 0:
                        passed.fs.reclaim(node)
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    in_child(body, host, descriptors=FEW)
