"""What Linux decides on bits that a caller may not give."""

import stat

import pytest

import puffs
from puffs.attach.local.permissions import Permissions
from puffs.kernel.vnops import Found, Vnops
from tests.kernel.little import Little, mounted

MINE = puffs.Attr(stat.S_IFREG | 0o644, uid=1000, gid=7)


@pytest.mark.statement("3.7b")
@pytest.mark.parametrize(
    ("gid", "groups", "asked", "given"),
    [
        (7, (), 0o2755, 0o2755),
        (1, (3, 7), 0o2755, 0o2755),
        (1, (3,), 0o2755, 0o755),
        (1, (), 0o1644, 0o1644),
    ],
)
def test_set_group_id_is_dropped_and_sticky_is_not_minded(
    gid: int, groups: tuple[int, ...], asked: int, given: int
) -> None:
    mount, _ = mounted(Little())
    vnops, found = Vnops(mount, puffs.Cred(1000, gid)), Found(mount.root(), MINE)
    changes = puffs.Changes(mode=asked)
    Permissions(vnops, puffs.Cred(1000, gid, groups=groups)).set(found, changes)
    assert changes.mode == given
