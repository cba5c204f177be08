"""The table of mounts: reading a line, and finding the mount that a path lies on."""

import os
from dataclasses import replace

import pytest

from puffs.attach.fuse.mountinfo import MountInfo, covering, find_mount, parse, read_mounts

EXT4 = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n"
OURS = (
    b"42 27 0:39 / /mnt/x rw,nosuid,nodev,relatime - fuse.puffs.mem mem: rw,user_id=0,group_id=0\n"
)


def test_the_fields_of_a_line() -> None:
    assert parse(EXT4 + OURS) == [
        MountInfo(27, 1, (254, 0), "/", "/", "ext4", "/dev/vda", ("rw", "relatime", "discard")),
        MountInfo(
            42,
            27,
            (0, 39),
            "/",
            "/mnt/x",
            "fuse.puffs.mem",
            "mem:",
            ("rw", "nosuid", "nodev", "relatime", "user_id=0", "group_id=0"),
        ),
    ]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (rb"/a\040b", "/a b"),
        (rb"/a\011b\012c", "/a\tb\nc"),
        (rb"/a\134b", "/a\\b"),
        (rb"/a\134040b", r"/a\040b"),
        (rb"/\043x", "/#x"),
        ("/\u00fc".encode(), "/\u00fc"),
        (b"/\xff", "/\udcff"),
        # Blanks to Python but not to the kernel: not escaped, and no end of a line or field.
        (b"/a\x0bb\x0cc\rd\x85e\xc2\xa0", "/a\x0bb\x0cc\rd\udc85e\xa0"),
    ],
)
def test_names_come_back_as_they_are(field: bytes, text: str) -> None:
    first, second = parse(OURS.replace(b"/mnt/x", field) + EXT4)
    assert first.mountpoint == text
    assert (first.fstype, second.mountpoint) == ("fuse.puffs.mem", "/")


@pytest.mark.parametrize("tags", [b"", b" shared:5", b" shared:5 master:1 propagate_from:2"])
def test_tags_before_the_dash_are_skipped(tags: bytes) -> None:
    (mount,) = parse(EXT4.replace(b" - ", tags + b" - "))
    assert (mount.fstype, mount.source) == ("ext4", "/dev/vda")


def test_a_mount_may_have_an_empty_source() -> None:
    (mount,) = parse(EXT4.replace(b"/dev/vda", b""))
    assert (mount.fstype, mount.source, mount.options[0]) == ("ext4", "", "rw")


@pytest.mark.parametrize(
    ("fstype", "fuse", "ours"),
    [
        ("fuse", True, False),
        ("fuseblk", True, False),
        ("fuse.sshfs", True, False),
        ("fuse.puffs.mem", True, True),
        ("fuse.puffsy", True, False),
        ("fusectl", False, False),
        ("ext4", False, False),
    ],
)
def test_which_mounts_are_fuse_and_which_are_ours(fstype: str, fuse: bool, ours: bool) -> None:
    mount = replace(parse(OURS)[0], fstype=fstype)
    assert (mount.is_fuse, mount.is_ours) == (fuse, ours)


def mounted(mount_id: int, parent_id: int, mountpoint: str) -> MountInfo:
    return replace(parse(OURS)[0], mount_id=mount_id, parent_id=parent_id, mountpoint=mountpoint)


PLAIN = [mounted(1, 0, "/"), mounted(2, 1, "/mnt"), mounted(3, 2, "/mnt/x")]
STACKED = [*PLAIN, mounted(4, 3, "/mnt/x")]
HIDDEN = [*PLAIN, mounted(5, 2, "/mnt")]
SELF_PARENT = [mounted(7, 7, "/"), mounted(8, 7, "/mnt")]
BELOW_ROOT_ONLY = [mounted(9, 6, "/mnt")]


@pytest.mark.parametrize(
    ("mounts", "path", "mount_id"),
    [
        (PLAIN, "/", 1),
        (PLAIN, "/home", 1),
        (PLAIN, "/mnt", 2),
        (PLAIN, "/mnt/xy", 2),
        (PLAIN, "/mnt/x", 3),
        (PLAIN, "/mnt/x/y/z", 3),
        (PLAIN[::-1], "/mnt/x/y", 3),
        (STACKED, "/mnt/x", 4),
        (STACKED[::-1], "/mnt/x/y", 4),
        (HIDDEN, "/mnt/x", 5),
        (SELF_PARENT, "/mnt/a", 8),
        (SELF_PARENT, "/a", 7),
        (BELOW_ROOT_ONLY, "/mnt/a", 9),
        (BELOW_ROOT_ONLY, "/a", None),
        ([], "/", None),
    ],
)
def test_a_path_lies_on_the_mount_that_a_walk_ends_in(
    mounts: list[MountInfo], path: str, mount_id: int | None
) -> None:
    found = covering(path, mounts)
    assert (found and found.mount_id) == mount_id


def test_the_table_agrees_with_stat_about_this_machine() -> None:
    for path, fstype in (("/proc", "proc"), ("/sys", "sysfs")):
        device = os.stat(path).st_dev
        found = find_mount(path)
        assert found is not None
        assert found.device == (os.major(device), os.minor(device))
        assert found.fstype == fstype
    assert find_mount("/proc/self") is None
    assert len(read_mounts()) > 1
