"""Who may do what, as POSIX has it: the checks for file servers that decide themselves."""

import os
from errno import EACCES, EPERM
from stat import S_IFDIR, S_IFREG, S_ISGID, S_ISVTX

import pytest

import puffs
from tests.kernel.little import fails

ROOT = puffs.Cred(0, 0, groups=())
OWNER = puffs.Cred(1000, 1, groups=())
MEMBER = puffs.Cred(1001, 7, groups=())
ALSO = puffs.Cred(1002, 8, groups=(3, 7))
OTHER = puffs.Cred(1003, 9, groups=(3,))


def file(mode: int, kind: int = S_IFREG) -> puffs.Attr:
    return puffs.Attr(kind | mode, uid=1000, gid=7)


@pytest.mark.statement("3.7")
@pytest.mark.parametrize(
    ("who", "mode"),
    [
        (OWNER, 0o500),
        (OWNER, 0o577),
        (MEMBER, 0o050),
        (MEMBER, 0o757),
        (ALSO, 0o050),
        (OTHER, 0o005),
    ],
)
def test_each_class_has_its_own_bits_and_no_others(who: puffs.Cred, mode: int) -> None:
    for want in (os.R_OK, os.X_OK, os.R_OK | os.X_OK, 0):
        puffs.check_access(file(mode), want, who)
    with fails(EACCES):
        puffs.check_access(file(mode), os.W_OK, who)
    with fails(EACCES):
        puffs.check_access(file(mode), os.W_OK | os.R_OK, who)


@pytest.mark.statement("3.7")
def test_the_superuser_may_all_but_execute_what_nobody_can() -> None:
    puffs.check_access(file(0), os.R_OK | os.W_OK, ROOT)
    puffs.check_access(file(0o001), os.X_OK, ROOT)
    puffs.check_access(file(0, S_IFDIR), os.X_OK, ROOT)
    with fails(EACCES):
        puffs.check_access(file(0o666), os.X_OK, ROOT)


@pytest.mark.statement("3.7a")
@pytest.mark.parametrize(
    ("who", "changes", "code"),
    [
        (ROOT, puffs.Changes(uid=5, gid=5, mode=0o4777, mtime_ns=5), 0),
        (OWNER, puffs.Changes(uid=1000), 0),
        (OWNER, puffs.Changes(uid=5), EPERM),
        (OWNER, puffs.Changes(gid=1), 0),
        (OWNER, puffs.Changes(gid=7), 0),
        (OWNER, puffs.Changes(gid=8), EPERM),
        (OTHER, puffs.Changes(gid=3), EPERM),
        (OWNER, puffs.Changes(mode=0o600), 0),
        (MEMBER, puffs.Changes(mode=0o600), EPERM),
        (OWNER, puffs.Changes(mtime_ns=5), 0),
        (MEMBER, puffs.Changes(mtime_ns=5), EPERM),
        (MEMBER, puffs.Changes(mtime_ns=5, mtime_now=True, atime_ns=5, atime_now=True), 0),
        (OTHER, puffs.Changes(mtime_ns=5, mtime_now=True), EACCES),
        (MEMBER, puffs.Changes(size=0), 0),
        (OTHER, puffs.Changes(size=0), EACCES),
        (OTHER, puffs.Changes(), 0),
    ],
)
def test_what_may_be_changed(who: puffs.Cred, changes: puffs.Changes, code: int) -> None:
    attr = file(0o620)
    if not code:
        puffs.check_setattr(attr, changes, who)
        return
    with fails(code):
        puffs.check_setattr(attr, changes, who)


@pytest.mark.parametrize("who", [ROOT, OWNER, OTHER])
def test_a_sticky_directory_protects_files_of_others(who: puffs.Cred) -> None:
    directory = puffs.Attr(S_IFDIR | S_ISVTX | 0o777, uid=1003)
    puffs.check_sticky(directory, file(0o666), who)
    puffs.check_sticky(puffs.Attr(S_IFDIR | 0o777, uid=5), file(0o666), MEMBER)
    with fails(EPERM):
        puffs.check_sticky(directory, file(0o666), MEMBER)


def test_a_set_group_id_directory_hands_its_group_down() -> None:
    directory = puffs.Attr(S_IFDIR | S_ISGID | 0o775, gid=42)
    assert puffs.inherit(directory, file(0o644)).gid == 42
    below = puffs.inherit(directory, file(0o755, S_IFDIR))
    assert (below.gid, bool(below.mode & S_ISGID)) == (42, True)
    assert puffs.inherit(puffs.Attr(S_IFDIR | 0o775, gid=42), file(0o644)).gid == 7
