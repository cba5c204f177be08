"""Access control lists: what is one, whom it grants what, and how it follows the mode."""

import os
from errno import EACCES, EINVAL, EOPNOTSUPP
from stat import S_IFDIR, S_IFLNK, S_IFREG, S_IMODE, S_ISGID

import pytest

import puffs
from puffs.server.acl import EMPTY, GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ
from tests.kernel.little import fails

OWNER = puffs.Cred(1000, 1, groups=())
NAMED = puffs.Cred(1004, 4, groups=())
STAFF = puffs.Cred(1001, 7, groups=())
CLUB = puffs.Cred(1002, 8, groups=(3, 50))
BOTH = puffs.Cred(1003, 7, groups=(50,))
NOBODY = puffs.Cred(1005, 9, groups=())


def entries(
    owner: int, named: int, group: int, club: int, mask: int, other: int
) -> tuple[puffs.AclEntry, ...]:
    """A list that names the user 1004 and the group 50."""
    return (
        puffs.AclEntry(USER_OBJ, owner),
        puffs.AclEntry(USER, named, 1004),
        puffs.AclEntry(GROUP_OBJ, group),
        puffs.AclEntry(GROUP, club, 50),
        puffs.AclEntry(MASK, mask),
        puffs.AclEntry(OTHER, other),
    )


LONG = puffs.Acl(entries(7, 6, 5, 4, 7, 1))
SHORT = puffs.Acl(
    (puffs.AclEntry(USER_OBJ, 6), puffs.AclEntry(GROUP_OBJ, 4), puffs.AclEntry(OTHER, 0))
)


def file(mode: int, acl: puffs.Acl | None = None, kind: int = S_IFREG) -> puffs.Attr:
    attr = puffs.Attr(kind | mode, uid=1000, gid=7)
    if acl is not None:
        attr.acl = acl.pack()
    return attr


def test_a_list_is_the_value_of_an_attribute() -> None:
    value = LONG.pack()
    assert value[:4] == EMPTY
    assert value[4:12] == bytes((1, 0, 7, 0)) + b"\xff" * 4
    assert value[12:20] == bytes((2, 0, 6, 0)) + (1004).to_bytes(4, "little")
    assert puffs.Acl.parse(value) == LONG
    assert (f"{LONG.mode:o}", LONG.minimal) == ("771", False)
    assert (f"{SHORT.mode:o}", SHORT.minimal) == ("640", True)


def without(*tags: int) -> tuple[puffs.AclEntry, ...]:
    return tuple(entry for entry in LONG.entries if entry.tag not in tags)


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        without(USER_OBJ),
        without(GROUP_OBJ),
        without(OTHER),
        without(MASK),
        (*LONG.entries, puffs.AclEntry(OTHER, 0)),
        LONG.entries[::-1],
        (*without(OTHER), puffs.AclEntry(OTHER, 8)),
        (*without(OTHER), puffs.AclEntry(3, 0), puffs.AclEntry(OTHER, 0)),
        tuple(entry._replace(id=0xFFFFFFFF) for entry in LONG.entries),
    ],
)
def test_what_is_no_list(wrong: tuple[puffs.AclEntry, ...]) -> None:
    with fails(EINVAL):
        puffs.Acl(wrong)


@pytest.mark.parametrize(
    "value", [b"", b"\2\0\0", b"\1\0\0\0" + LONG.pack()[4:], LONG.pack() + b"x", LONG.pack()[:-1]]
)
def test_bytes_that_are_no_list(value: bytes) -> None:
    with fails(EINVAL):
        puffs.Acl.parse(value)


@pytest.mark.parametrize(
    ("who", "acl", "granted"),
    [
        (OWNER, entries(5, 7, 7, 7, 2, 7), 5),  # the mask is not for owners
        (NAMED, entries(7, 6, 7, 7, 7, 7), 6),
        (NAMED, entries(7, 6, 7, 7, 5, 7), 4),
        (STAFF, entries(7, 7, 4, 7, 7, 7), 4),
        (STAFF, entries(7, 7, 6, 7, 2, 7), 2),
        (CLUB, entries(7, 7, 7, 1, 7, 7), 1),
        (NOBODY, entries(7, 7, 7, 7, 1, 6), 6),  # nor for others
    ],
)
def test_whom_it_grants_what(
    who: puffs.Cred, acl: tuple[puffs.AclEntry, ...], granted: int
) -> None:
    attr = file(puffs.Acl(acl).mode, puffs.Acl(acl))
    for want in range(1, 8):
        if want & ~granted:
            with fails(EACCES):
                puffs.check_access(attr, want, who)
        else:
            puffs.check_access(attr, want, who)


def test_one_of_several_groups_has_to_grant_it_all() -> None:
    attr = file(0o770, puffs.Acl(entries(7, 0, 4, 2, 7, 7)))
    puffs.check_access(attr, os.R_OK, BOTH)
    puffs.check_access(attr, os.W_OK, BOTH)
    with fails(EACCES):
        puffs.check_access(attr, os.R_OK | os.W_OK, BOTH)


def test_a_list_whose_mask_grants_nothing_is_not_looked_at() -> None:
    attr = file(0o704, puffs.Acl(entries(7, 7, 7, 7, 0, 4)))
    puffs.check_access(attr, os.R_OK, NAMED)
    with fails(EACCES):
        puffs.check_access(attr, os.R_OK, STAFF)


def test_it_follows_a_chmod() -> None:
    attr = file(0o771, LONG)
    puffs.Changes(mode=0o4620).apply(attr)
    assert attr.acl == puffs.Acl(entries(6, 6, 5, 4, 2, 0)).pack()
    assert S_IMODE(attr.mode) == 0o4620
    assert f"{SHORT.with_mode(0o751).mode:o}" == "751"


@pytest.mark.parametrize(
    ("mode", "inherited"), [(0o666, entries(6, 6, 5, 4, 6, 0)), (0o700, entries(7, 6, 5, 4, 0, 0))]
)
def test_a_new_file_begins_with_the_default_acl(
    mode: int, inherited: tuple[puffs.AclEntry, ...]
) -> None:
    default = puffs.Acl(entries(7, 6, 5, 4, 7, 0)).pack()
    asked = puffs.Cred(1000, 1, umask=0o777)
    attr, access = file(mode), puffs.Acl(inherited)
    assert puffs.new_acls(default, attr, asked) == {puffs.ACL_ACCESS: access.pack()}
    assert (S_IMODE(attr.mode), attr.acl) == (access.mode, access.pack())
    directory = file(mode | S_ISGID, kind=S_IFDIR)
    acls = puffs.new_acls(default, directory, asked)
    assert acls == {puffs.ACL_ACCESS: access.pack(), puffs.ACL_DEFAULT: default}
    assert directory.mode == S_IFDIR | S_ISGID | access.mode
    link = file(0o777, kind=S_IFLNK)
    assert (puffs.new_acls(default, link, asked), S_IMODE(link.mode)) == ({}, 0o777)


def test_without_a_default_acl_the_umask_holds() -> None:
    attr = file(0o4777)
    assert puffs.new_acls(None, attr, puffs.Cred(1000, 1, umask=0o027)) == {}
    assert (S_IMODE(attr.mode), attr.acl) == (0o4750, None)
    assert puffs.new_acls(SHORT.pack(), attr, puffs.Cred(1000, 1, umask=0o777)) == {}
    assert (S_IMODE(attr.mode), attr.acl) == (0o4640, None)


@pytest.mark.parametrize(
    ("who", "mode"), [(OWNER, 0o771), (BOTH, 0o2771), (puffs.Cred(0, 0), 0o2771)]
)
def test_setting_one_sets_the_mode(who: puffs.Cred, mode: int) -> None:
    attr = file(0o2600)
    assert puffs.set_acl(attr, puffs.ACL_ACCESS, LONG.pack(), who) == LONG.pack()
    assert (S_IMODE(attr.mode), attr.acl) == (mode, LONG.pack())
    assert puffs.set_acl(attr, puffs.ACL_ACCESS, SHORT.pack(), who) is None
    assert (S_IMODE(attr.mode) & 0o777, attr.acl) == (0o640, None)


@pytest.mark.parametrize("none", [b"", EMPTY])
def test_an_empty_list_takes_it_away_and_leaves_the_mode(none: bytes) -> None:
    attr = file(0o771, LONG, S_IFDIR)
    assert puffs.set_acl(attr, puffs.ACL_ACCESS, none, OWNER) is None
    assert (S_IMODE(attr.mode), attr.acl) == (0o771, None)
    assert puffs.set_acl(attr, puffs.ACL_DEFAULT, none, OWNER) is None


def test_what_cannot_have_one() -> None:
    for kind, name, code in (
        (S_IFLNK, puffs.ACL_ACCESS, EOPNOTSUPP),
        (S_IFREG, puffs.ACL_DEFAULT, EACCES),
    ):
        attr = file(0o640, kind=kind)
        with fails(code):
            puffs.set_acl(attr, name, LONG.pack(), OWNER)
        assert S_IMODE(attr.mode) == 0o640
    with fails(EINVAL):
        puffs.set_acl(file(0o640), puffs.ACL_ACCESS, LONG.pack()[:-1], OWNER)
    directory = file(0o750, kind=S_IFDIR)
    assert puffs.set_acl(directory, puffs.ACL_DEFAULT, LONG.pack(), OWNER) == LONG.pack()
    assert S_IMODE(directory.mode) == 0o750
