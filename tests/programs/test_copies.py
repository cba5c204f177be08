"""Copies of a tree with everything that a file can be and have, there and back: rsync, tar, cp."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fs.trees import facts
from tests.needs import need
from tests.programs.places import NOBODY, PROGRAM, also, run

pytestmark = PROGRAM

SPARSE = 1 << 26
LONG_AGO = 86400 * 10**9 + 123456789

NAMES = (
    "plain",
    " blank at both ends ",
    "-n",
    "new\nline",
    "tab\tback\\slash",
    "*?[]'\"$;&",
    "ünï\u4e16\u754c",
    "\x01\x7f",
    "not UTF-8: \udcff\udcfe",
    "x" * 255,
    ".hidden",
    "...",
)


def odd_tree(top: Path, acls: bool) -> Path:
    """Files of all types, odd names, links, holes, extended attributes, and ACLs where wanted."""
    top.mkdir()
    for number, name in enumerate(NAMES):
        directory = top / name
        directory.mkdir()
        file = directory / name
        file.write_bytes(os.urandom(number * 5000))
        (directory / "link").symlink_to(name)
        os.link(file, top / f"hard link {number}")
        for mode in (0o000, 0o400, 0o644, 0o2755, 0o4711, 0o7777):
            made = directory / f"{mode:o}"
            made.write_text(name, errors="surrogateescape")
            os.chown(made, NOBODY - number, number)
            made.chmod(mode)
        os.setxattr(file, "user.name", name.encode(errors="surrogateescape"))
        os.setxattr(file, "user.large", os.urandom(2000))
        os.setxattr(directory, "trusted.of directory", b"")
    (top / "dangling").symlink_to("x" * 4000)
    os.chown(top / "dangling", 7, 8, follow_symlinks=False)
    os.mkfifo(top / "fifo")
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(250, 300))
    (top / "empty directory").mkdir(mode=0o1777)
    deep = top
    for level in range(40):
        deep /= f"level {level}"
        deep.mkdir()
    with (top / "sparse").open("wb") as file_with_holes:
        for offset in (1 << 20, 1 << 25, (1 << 25) + 8192):
            file_with_holes.seek(offset)
            file_with_holes.write(b"data" * 1024)
        file_with_holes.truncate(SPARSE)
    if acls:
        run("setfacl", "-m", f"u:{NOBODY}:rwx,g:7:r,m::rx", top / "plain/644")
        run("setfacl", "-d", "-m", f"u:{NOBODY}:rw,o::-", top / "empty directory")
    # Its own time, too: rsync takes two times of the same second for one.
    for number, path in enumerate((*sorted(top.rglob("*"), reverse=True), top)):
        time = LONG_AGO + number * 1_000_000_007 * (-1 if number % 5 == 0 else 1)
        os.utime(path, ns=(time, time), follow_symlinks=False)
    return top


@pytest.fixture
def source(place: Path, tmp_path: Path) -> Path:
    """The tree, on the disk."""
    need("setfacl", "acl")
    probe = place / "probe"
    probe.touch()
    acls = not subprocess.call(["setfacl", "-m", "u:7:r", probe], stderr=subprocess.DEVNULL)
    probe.unlink()
    return odd_tree(tmp_path / "source", acls)


def same(copy: Path, source: Path) -> None:
    """A copy has everything of its source but times of access and exactly the same holes."""
    found, expected = _comparable(copy), _comparable(source)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert (copy / "sparse").stat().st_blocks * 512 < 1 << 20


def _comparable(top: Path) -> dict[str, Any]:
    seen = {}
    for name, (attributes, contents, *rest) in facts(top).items():
        attributes.pop("atime", None)
        if isinstance(contents, tuple):
            contents = contents[1]
        seen[name] = (attributes, contents, *rest)
    return seen


@also("null-writeback", "mem-threads")
def test_rsync(place: Path, source: Path, tmp_path: Path) -> None:
    need("rsync")
    there, back = place / "there", tmp_path / "back"
    command = ("rsync", "-aHAXS", "--numeric-ids")
    run(*command, f"{source}/", there)
    same(there, source)
    again = (*command, "-n", "--itemize-changes", "--delete", "--checksum")
    assert run(*again, f"{source}/", there) == ""
    run(*command, f"{there}/", back)
    assert run(*again, f"{there}/", back) == ""
    same(back, source)

    (source / "plain/plain").write_text("changed")
    run(*command, "--delete", "--inplace", f"{source}/", there)
    same(there, source)


@also("mem-isolated", "null-threads")
def test_tar(place: Path, source: Path, tmp_path: Path) -> None:
    need("tar")
    options = ("--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner")
    archive, there, back = tmp_path / "there.tar", place / "there", tmp_path / "back"
    run("tar", "-C", source, *options, "--format=posix", "-cf", archive, ".")
    there.mkdir()
    run("tar", "-C", there, *options, "-xpf", archive)
    assert run("tar", "-C", there, *options, "--compare", "-f", archive) == ""
    same(there, source)
    run("tar", "-C", there, *options, "--format=posix", "-cf", place / "back.tar", ".")
    assert run("tar", "-C", there, *options, "--compare", "-f", place / "back.tar") == ""
    back.mkdir()
    run("tar", "-C", back, *options, "-xpf", place / "back.tar")
    same(back, source)


@also("mem-writeback", "null-threads")
def test_cp_and_find(place: Path, source: Path, tmp_path: Path) -> None:
    there, beside, back = place / "there", place / "beside", tmp_path / "back"
    for origin, copy in ((source, there), (there, beside), (beside, back)):
        run("cp", "-a", origin, copy)
        same(copy, source)
    shown = r"%p %y %m %U %G %s %T@ %l\0"
    found = ["-printf", shown, "-o", "-xtype", "f", "-samefile", "plain/plain", "-links", "+1"]
    for expression in (["-not", "-type", "d", *found], ["-type", "d", "-printf", r"%p %m %n\0"]):
        names = [set(run("find", ".", *expression, cwd=top).split("\0")) for top in (source, there)]
        assert names[0] == names[1]
    run("rm", "-r", there, beside)
    assert list(place.iterdir()) == []
