"""Snapshots of `null`: copies that share blocks, on file systems made for the test."""

import errno
import gc
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, umount2
from puffs.fs import hostcalls
from puffs.fs.null import NullFS
from tests.cli.commands import PUFFS, succeeds
from tests.cli.commands import puffs as puffs_
from tests.cli.commands import serving as serving_mount
from tests.fs.host import NOBODY, acl, fails, in_child, open_descriptors
from tests.fs.trees import facts
from tests.needs import cannot

MAKERS = {
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
IMAGE_SIZE = 320 << 20
"""Bytes, all of them a hole: the least that mkfs.xfs takes is 300 MiB."""


@pytest.fixture(params=MAKERS, scope="module")
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A file system of its own, whose files can share blocks."""
    maker, *options = MAKERS[request.param]
    if os.geteuid() != 0:
        cannot("only root may mount")
    if shutil.which(maker) is None:
        cannot(f"{maker} is missing: apt-get install xfsprogs btrfs-progs")
    directory = tmp_path_factory.mktemp(request.param)
    image, top = directory / "image", directory / "top"
    top.mkdir()
    with image.open("wb") as stream:
        stream.truncate(IMAGE_SIZE)
    subprocess.run([maker, *options, image], check=True, capture_output=True)
    mounted = subprocess.run(
        ["mount", "-t", request.param, "-o", "loop", image, top], capture_output=True, text=True
    )
    if mounted.returncode:
        cannot(f"{request.param} cannot be mounted from a file: {mounted.stderr.strip()}")
    try:
        yield top
    finally:
        umount2(str(top), MNT_DETACH | UMOUNT_NOFOLLOW)


@pytest.fixture
def place(disk: Path) -> Iterator[Path]:
    """A directory on it, with nothing in it but the directory `data`."""
    path = disk / "place"
    (path / "data").mkdir(parents=True)
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


@contextmanager
def serving(directory: Path) -> Iterator[NullFS]:
    fs = NullFS(directory)
    fs.mount()
    try:
        yield fs
    finally:
        fs.unmounted()


def snapshot(directory: Path, destination: Path | str) -> None:
    with serving(directory) as fs:
        fs.snapshot(str(destination))


def fill(data: Path) -> None:
    """One of everything."""
    (data / "file").write_bytes(os.urandom(300_000))
    (data / "empty").touch()
    (data / "sub/deeper").mkdir(parents=True)
    os.link(data / "file", data / "sub/deeper/same")
    os.link(data / "file", data / "same")
    (data / "sub/link").symlink_to("../nowhere \udcff")
    os.link(data / "sub/link", data / "link", follow_symlinks=False)
    os.mkfifo(data / "fifo", 0o640)
    os.mknod(data / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(data / "block", stat.S_IFBLK | 0o600, os.makedev(7, 99))
    os.mknod(data / "socket", stat.S_IFSOCK | 0o600)
    (data / "name \udcff\n").write_text("odd")
    with (data / "holes").open("wb") as stream:
        stream.truncate(10 << 20)
        stream.seek(5 << 20)
        stream.write(b"island")
    os.chown(data / "sub", 11, 12)
    os.chown(data / "file", 13, 14)
    os.chown(data / "sub/link", 15, 16, follow_symlinks=False)
    os.chmod(data / "file", 0o6751)
    os.chmod(data / "sub/deeper", 0o3570)
    os.setxattr(data / "file", "user.x", b"\0value")
    os.setxattr(data / "file", "trusted.y", b"")
    os.setxattr(data / "sub", "user.dir", b"x" * 1000)
    os.setxattr(data / "link", "trusted.z", b"of the link", follow_symlinks=False)
    os.setxattr(data / "file", "security.capability", CAPABILITY)
    os.setxattr(data / "sub", "system.posix_acl_default", acl(user=77))
    os.setxattr(data / "holes", "system.posix_acl_access", acl(user=78))
    for number, path in enumerate(sorted(data.rglob("*"))):
        times = (10**9 * number + 123_456_789, 2 * 10**9 * number + 987_654_321)
        os.utime(path, ns=times, follow_symlinks=False)
    os.utime(data, ns=(5, 6))


CAPABILITY = bytes.fromhex("0100000202000000000000000000000000000000")
"""cap_dac_override+ep, as setcap(8) writes it."""


def blocks_in_use(path: Path) -> int:
    fd = os.open(path, os.O_DIRECTORY)
    hostcalls.syncfs(fd)
    found = os.fstatvfs(fd)
    os.close(fd)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


# ----------------------------------------------------------------------------------- what it keeps


def test_everything_is_kept(place: Path) -> None:
    fill(place / "data")
    before = facts(place / "data")
    snapshot(place / "data", place / "copy")
    copied = facts(place / "copy")
    assert copied.keys() == before.keys()
    for path in before:
        assert copied[path] == before[path], path
    assert sorted(os.listdir(place)) == ["copy", "data"]


def test_what_is_written_later_is_not_in_it(place: Path) -> None:
    with serving(place / "data") as fs:
        (place / "data/file").write_bytes(b"old" * 10_000)
        fs.snapshot(str(place / "copy"))
        (place / "data/file").write_bytes(b"new")
        (place / "copy/other").touch()
    assert (place / "copy/file").read_bytes() == b"old" * 10_000
    assert os.listdir(place / "data") == ["file"]


def test_blocks_are_shared(place: Path) -> None:
    (place / "data/file").write_bytes(os.urandom(32 << 20))
    before = blocks_in_use(place)
    snapshot(place / "data", place / "copy")
    assert (place / "copy/file").stat().st_size == 32 << 20
    assert blocks_in_use(place) - before < 8 << 20


def test_nothing_is_inherited_from_where_it_is_put(place: Path) -> None:
    (place / "data/sub").mkdir()
    (place / "data/sub/file").touch()
    before = facts(place / "data")
    target = place / "target"
    target.mkdir()
    os.chown(target, 0, 4711)
    os.chmod(target, 0o2777)
    os.setxattr(target, "system.posix_acl_default", acl(user=77))
    umask = os.umask(0o777)
    try:
        snapshot(place / "data", target / "copy")
    finally:
        os.umask(umask)
    assert facts(target / "copy") == before


def test_all_its_descriptors_are_given_back(place: Path) -> None:
    fill(place / "data")
    gc.collect()  # what earlier tests have left
    with serving(place / "data") as fs:
        before = open_descriptors()
        fs.snapshot(str(place / "copy"))
        with fails(errno.EEXIST):
            fs.snapshot(str(place / "copy"))
        gc.collect()  # what was caught in this test refers to itself
        assert open_descriptors() == before


def chain(top: Path, depth: int) -> None:
    """Directories in one another, each with a file, deeper than any path can be."""
    at = os.open(top, os.O_DIRECTORY)
    for number in range(depth):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, number % 8 << 6, dir_fd=at))
        os.mkdir("directory-with-a-long-name", dir_fd=at)
        below = os.open("directory-with-a-long-name", os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def chain_length(top: Path) -> int:
    """Its length; every file must be right."""
    at = os.open(top, os.O_DIRECTORY)
    for number in range(1 << 20):
        names = sorted(os.listdir(at))
        if not names:
            os.close(at)
            return number
        assert names == ["directory-with-a-long-name", "file"]
        assert stat.S_IMODE(os.stat("file", dir_fd=at).st_mode) == number % 8 << 6
        below = os.open("directory-with-a-long-name", os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    raise AssertionError("it has no end")


def test_neither_depth_nor_few_descriptors_are_a_limit(place: Path) -> None:
    chain(place / "data", 2000)

    def body(path: str) -> None:
        snapshot(Path(path, "data"), Path(path, "copy"))

    in_child(body, place, descriptors=100)
    assert chain_length(place / "copy") == 2000


def test_a_user_may_copy_what_is_his(place: Path) -> None:
    (place / "data/sub").mkdir()
    (place / "data/sub/file").write_text("mine")
    os.setxattr(place / "data/sub/file", "user.x", b"too")
    os.chmod(place / "data/sub", 0o500)
    os.utime(place / "data/sub", ns=(1, 2))

    def body(path: str) -> None:
        snapshot(Path(path, "data"), Path(path, "copy"))

    in_child(body, place, nobody=True)
    assert facts(place / "copy") == facts(place / "data")


# ------------------------------------------------------------------------------- what is refused


def test_it_does_not_replace_anything(place: Path) -> None:
    (place / "file").write_text("precious")
    (place / "dir").mkdir()
    (place / "link").symlink_to("nowhere")
    for name in ("file", "dir", "link", "data"):
        with fails(errno.EEXIST):
            snapshot(place / "data", place / name)
    assert sorted(os.listdir(place)) == ["data", "dir", "file", "link"]
    assert (place / "file").read_text() == "precious"
    with fails(errno.ENOENT):
        snapshot(place / "data", place / "missing/copy")


@pytest.mark.parametrize("inside", ["copy", "a/b/copy"])
def test_it_cannot_be_inside_of_what_it_is_made_of(place: Path, inside: str) -> None:
    (place / "data/a/b").mkdir(parents=True)
    (place / "data/file").write_text("contents")
    before = facts(place / "data")
    with pytest.raises(OSError, match="inside") as caught:
        snapshot(place / "data", place / "data" / inside)
    assert caught.value.errno == errno.EINVAL
    assert facts(place / "data").keys() == before.keys()


def test_a_failure_in_the_middle_leaves_nothing(place: Path) -> None:
    """A user may not give files away; and a directory that he finished last is closed to him."""
    for number in range(5):
        (place / f"data/{number}/sub").mkdir(parents=True)
        (place / f"data/{number}/sub/file").write_text("contents")

    def body(path: str) -> None:
        for directory in Path(path, "data").iterdir():
            os.chmod(directory / "sub", 0o500)
        with pytest.raises(OSError, match=r"4/sub/of-root: ") as caught:
            snapshot(Path(path, "data"), Path(path, "copy"))
        assert caught.value.errno == errno.EPERM
        assert os.listdir(path) == ["data"]

    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    (place / "data/4/sub/of-root").touch()
    in_child(lambda path: as_nobody(body, path), place)


def as_nobody(body: Any, path: str) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    body(path)


def test_an_interruption_in_the_middle_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(place / "data")

    def interrupt(fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hostcalls, "syncfs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        snapshot(place / "data", place / "copy")
    assert os.listdir(place) == ["data"]


def test_no_blocks_are_shared_between_file_systems(place: Path, tmp_path: Path) -> None:
    (place / "data/file").write_text("contents")
    with pytest.raises(OSError, match="same one") as caught:
        snapshot(place / "data", tmp_path / "copy")
    assert caught.value.errno == errno.EOPNOTSUPP
    assert not (tmp_path / "copy").exists()


def test_where_blocks_cannot_be_shared_it_is_refused(any_host: Path) -> None:
    """On ext4, tmpfs and overlayfs; where the first is Btrfs or XFS, the other two."""
    data = any_host / "data"
    data.mkdir()
    (data / "sub").mkdir()
    (data / "sub/file").write_text("contents")
    if shares_blocks(any_host):
        snapshot(data, any_host / "copy")
        assert facts(any_host / "copy") == facts(data)
        return
    before = sorted(os.listdir(any_host))
    with pytest.raises(OSError, match=r"sub/file: its blocks cannot be shared") as caught:
        snapshot(data, any_host / "copy")
    assert caught.value.errno == errno.EOPNOTSUPP
    assert sorted(os.listdir(any_host)) == before


def shares_blocks(directory: Path) -> bool:
    """Whether cp(1) can do it there."""
    (directory / "probe").write_text("x")
    done = subprocess.run(
        ["cp", "--reflink=always", directory / "probe", directory / "probe.copy"],
        capture_output=True,
    )
    for path in (directory / "probe", directory / "probe.copy"):
        path.unlink(missing_ok=True)
    return done.returncode == 0


@pytest.mark.fuse
def test_of_a_real_mount(place: Path, tmp_path: Path) -> None:
    mnt = tmp_path.resolve() / "mnt"
    mnt.mkdir()
    with serving_mount(*PUFFS, "mount", "-f", f"null:{place}/data", mnt, mountpoint=mnt):
        with (mnt / "file").open("w") as stream:
            stream.write("contents")
            stream.flush()
            told = succeeds(*PUFFS, "snapshot", mnt, place / "copy")
        assert re.fullmatch(rf"{place}/copy: [\d.]+ (µs|ms|s)\n", told)
        (mnt / "later").touch()
        done = puffs_("snapshot", mnt, place / "data/copy")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "cannot be made inside of what it is made of" in done.stderr
        assert sorted(os.listdir(mnt)) == ["file", "later"]
    assert os.listdir(place / "copy") == ["file"]
    assert (place / "copy/file").read_text() == "contents"


def test_in_process_too(place: Path) -> None:
    with puffs.local(NullFS(place / "data")) as vfs:
        vfs.write_text("/file", "contents")
        vfs.snapshot(place / "copy")
        vfs.write_text("/file", "later")
        with pytest.raises(FileExistsError, match="copy"):
            vfs.snapshot(place / "copy")
    assert (place / "copy/file").read_text() == "contents"
