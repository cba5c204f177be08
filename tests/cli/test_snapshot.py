"""`puffs snapshot` of real mounts, and `puffs mount` of what it made."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, umount2
from tests.cli.commands import PUFFS, mounted, serving, succeeds
from tests.cli.commands import puffs as puffs_
from tests.fs.trees import facts

pytestmark = pytest.mark.fuse

NO_SPARE_FILES = """
import puffs
from puffs.fs.mem import MemFS


class Plain(MemFS):
    '''Without files that have no name (O_TMPFILE).'''

    def operations(self):
        return {name: op for name, op in super().operations().items() if name != "tmpfile"}


class Silent(MemFS):
    '''Makes no snapshots.'''

    def operations(self):
        return {name: op for name, op in super().operations().items() if name != "snapshot"}
"""


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount on; whatever is still mounted there after the test is taken away."""
    path = tmp_path.resolve() / "mnt"
    path.mkdir()
    (path.parent / "servers.py").write_text(NO_SPARE_FILES)
    yield path
    for point in (path, path.parent / "other"):
        while mounted(point):
            umount2(str(point), MNT_DETACH | UMOUNT_NOFOLLOW)


def fill(top: Path) -> None:
    """One of everything, as far as the caller may."""
    (top / "sub/deeper").mkdir(parents=True)
    (top / "file").write_bytes(os.urandom(300_000))
    os.link(top / "file", top / "sub/deeper/same")
    (top / "sub/link").symlink_to("../nowhere \udcff")
    os.link(top / "sub/link", top / "link", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "socket", stat.S_IFSOCK | 0o600)
    (top / "name \udcff\n").write_text("odd")
    with (top / "holes").open("wb") as stream:
        stream.truncate(10 << 20)
        stream.seek(5 << 20)
        stream.write(b"island")
    os.chmod(top / "file", 0o6751)
    os.chmod(top / "sub/deeper", 0o3570)
    if os.geteuid() == 0:
        os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chown(top / "sub", 11, 12)
        os.chown(top / "sub/link", 15, 16, follow_symlinks=False)
        os.setxattr(top / "file", "trusted.y", b"")
    os.setxattr(top / "file", "user.x", b"\0value")
    os.setxattr(top / "sub", "user.dir", b"x" * 1000)
    for number, path in enumerate(sorted(top.rglob("*"))):
        times = (10**9 * number + 123_456_789, 2 * 10**9 * number + 987_654_321)
        os.utime(path, ns=times, follow_symlinks=False)


def numbers(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): path.lstat().st_ino for path in top.rglob("*")}


def test_a_file_system_in_memory_outlives_its_server(mnt: Path) -> None:
    image = mnt.parent / "x.img"
    with serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt):
        fill(mnt)
        before, inos = facts(mnt), numbers(mnt)
        told = succeeds(*PUFFS, "snapshot", mnt, image)
        size = image.stat().st_size
        assert re.fullmatch(rf"{image}: {size} bytes, [\d.]+ (µs|ms|s)\n", told)
        (mnt / "file").write_text("later")
        (mnt / "sub/deeper/later").touch()
    assert not mounted(mnt)
    succeeds(*PUFFS, "mount", f"mem:?image={image}&size=64M&files=20", mnt)
    after = facts(mnt)
    assert after.keys() == before.keys()
    for path in before:
        assert after[path] == before[path], path
    assert numbers(mnt) == inos
    (mnt / "new").touch()
    assert (mnt / "new").stat().st_ino not in inos.values()
    assert os.statvfs(mnt).f_files == 20
    succeeds(*PUFFS, "umount", mnt)


def test_what_is_still_in_the_cache_of_the_host_is_in_it(mnt: Path) -> None:
    """Nobody has closed or synced the file."""
    image = mnt.parent / "x.img"
    with serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt):
        with (mnt / "file").open("wb", buffering=0) as stream:
            stream.write(b"contents" * 10_000)
            succeeds(*PUFFS, "snapshot", mnt, image)
    succeeds(*PUFFS, "mount", f"mem:?image={image}", mnt)
    assert (mnt / "file").read_bytes() == b"contents" * 10_000
    succeeds(*PUFFS, "umount", mnt)


def test_a_relative_destination_is_that_of_the_caller(mnt: Path) -> None:
    with serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt):
        (mnt / "file").touch()
        told = succeeds(*PUFFS, "snapshot", "mnt", "x \udcff.img", cwd=mnt.parent)
        assert told.startswith(ascii(f"{mnt.parent}/x \udcff.img"))
    succeeds(*PUFFS, "mount", "mem:?image=x %FF.img", "mnt", cwd=mnt.parent)
    assert os.listdir(mnt) == ["file"]
    succeeds(*PUFFS, "umount", mnt)


def complains(mountpoint: Path, destination: Path | str, *says: str) -> None:
    done = puffs_("snapshot", mountpoint, destination)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    for part in ("puffs: ", *says):
        assert part in done.stderr


def test_says_why_it_cannot_be_made(mnt: Path) -> None:
    beside = mnt.parent
    (beside / "dir").mkdir()
    (beside / "way").symlink_to(mnt)
    complains(mnt, beside / "x.img", f"{mnt} is not mounted")
    before = sorted(os.listdir(beside))
    with serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt):
        (mnt / "sub").mkdir()
        for inside in (mnt, mnt / "x.img", mnt / "sub/x.img", beside / "way/x.img"):
            complains(mnt, inside, f"{inside}: a snapshot cannot be made on its own mount")
        complains(mnt, beside / "missing/x.img", f"{beside}/missing does not exist: check the path")
        complains(mnt, beside / "dir", f"{beside}/dir: it exists and is no regular file")
        complains(mnt, "/dev/full", "/dev/full: it exists and is no regular file")
        (mnt / "it goes on").touch()
        assert sorted(os.listdir(mnt)) == ["it goes on", "sub"]
        assert os.listdir(mnt / "sub") == []
    with serving(*PUFFS, "mount", "-f", f"{beside}/servers.py:Silent", mnt, mountpoint=mnt):
        complains(mnt, beside / "x.img", "mem makes no snapshots")
    with serving(*PUFFS, "mount", "-f", f"null:{beside}/dir", mnt, mountpoint=mnt):
        (mnt / "file").touch()
        complains(mnt, beside / "way", f"{beside}/way: ")
    assert sorted({*os.listdir(beside)} - {"__pycache__"}) == before


def test_says_what_is_wrong_with_an_image(mnt: Path) -> None:
    image = mnt.parent / "x.img"
    succeeds(*PUFFS, "shell", "mem:", "-c", f"write a b; snapshot host:{image}")
    whole = image.read_bytes()
    for damaged, size, says in (
        (whole[:-1], 0, f"x.img: at byte {len(whole) - 20}: the image is cut off"),
        (whole[:50] + b"!" + whole[51:], 0, "x.img: at byte 20: the checksum is wrong"),
        (b"text", 0, "x.img: at byte 0: this is no image"),
        (whole, 1, "the image holds more than the 1 bytes that size= lets in"),
    ):
        image.write_bytes(damaged)
        for foreground in ([], ["-f"]):
            done = puffs_("mount", *foreground, f"mem:?image={image}&size={size}", mnt)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
            assert done.stderr.startswith("puffs: mem: ")
            assert says in done.stderr
    assert not mounted(mnt)


def test_the_shell_makes_and_uses_images(mnt: Path) -> None:
    image = mnt.parent / "x.img"
    spec = f"mem:?image={image}"
    succeeds(*PUFFS, "shell", "mem:", "-c", f"mkdir /d; write /d/f one; snapshot host:{image}")
    assert succeeds(*PUFFS, "shell", spec, "-c", "cat /d/f") == "one\n"
    succeeds(*PUFFS, "shell", spec, "-c", f"write /d/f two; snapshot host:{image}")
    assert succeeds(*PUFFS, "shell", spec, "-c", "cat /d/f") == "two\n"
    done = puffs_("shell", spec, "-c", "snapshot x.img")
    assert done.returncode == 2
    assert "write host:x.img" in done.stderr


def test_on_a_file_system_whose_files_need_names(mnt: Path) -> None:
    other = mnt.parent / "other"
    other.mkdir()
    with (
        serving(*PUFFS, "mount", "-f", f"{mnt.parent}/servers.py:Plain", other, mountpoint=other),
        serving(*PUFFS, "mount", "-f", "mem:", mnt, mountpoint=mnt),
    ):
        (mnt / "file").write_text("contents")
        succeeds(*PUFFS, "snapshot", mnt, other / "x.img")
        assert os.listdir(other) == ["x.img"]
        assert succeeds(*PUFFS, "shell", f"mem:?image={other}/x.img", "-c", "cat /file") == (
            "contents"
        )
