"""Mount arguments: what is refused, what is granted, and in which order that is found out."""

import logging
from dataclasses import replace
from errno import EINVAL, EOPNOTSUPP
from typing import Any

import pytest

from puffs.kernel import args
from puffs.kernel.args import (
    FHFLAG_DYNAMIC,
    FHFLAG_NFSV2,
    FHFLAG_NFSV3,
    FHSIZE_MAX,
    KERNEL_FLAG_MASK,
    MNT_UPDATE,
    REQUEST_HEADER,
    REQUEST_MAX,
    REQUEST_MIN,
    VERSION,
    KernelFlag,
    MountArgs,
)
from puffs.kernel.mount import Mount
from tests.kernel.little import Little, fails, mounted

ARGS = MountArgs("name")


# ------------------------------------------------------------------------------- plain data, in


@pytest.mark.statement("M3")
def test_a_mount_cannot_be_changed_and_that_is_said_first() -> None:
    args.check_flags(0)
    with fails(EOPNOTSUPP) as caught:
        args.check_flags(MNT_UPDATE | 1)
    assert "unmount it" in str(caught.value)


@pytest.mark.statement("M4")
def test_no_arguments_at_all() -> None:
    with fails(EINVAL):
        MountArgs.copyin(None)


@pytest.mark.statement("M6")
@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({}, "name"),
        ({"fhsize": 12}, "name"),
        ({"name": "x", "spare": 0}, "spare"),
        ({"name": "x", 7: 0}, "7"),
        ({"name": b"x"}, "bytes"),
        ({"name": "x", "fhsize": "12"}, "fhsize"),
        ({"name": "x", "flags": None}, "flags"),
        ({"name": "x", "buckets": 1.5}, "buckets"),
        ({"name": "x", "version": True}, "version"),
    ],
)
def test_a_record_that_is_none(record: dict[Any, Any], says: str) -> None:
    with fails(EINVAL) as caught:
        MountArgs.copyin(record)
    assert says in str(caught.value)


def test_a_record_becomes_arguments_and_is_left_alone() -> None:
    record = {"name": "x", "fhsize": 12, "request_size": 1 << 70}
    assert MountArgs.copyin(record) == MountArgs("x", fhsize=12, request_size=1 << 70)
    assert record == {"name": "x", "fhsize": 12, "request_size": 1 << 70}


# --------------------------------------------------------------------------------- plain data, out


@pytest.mark.statement("M1", "M2", "M19", "M24")
def test_what_was_granted_can_be_had_in_every_state() -> None:
    asked = MountArgs("a\nb", request_size=1, buckets=-7, fhsize=12, fhflags=FHFLAG_DYNAMIC)
    granted = {
        "name": "puffs:a.b",
        "version": VERSION,
        "flags": 0,
        "fhsize": 12,
        "fhflags": FHFLAG_DYNAMIC,
        "request_size": REQUEST_MIN,
        "buckets": 1,
    }
    server = Little()
    mount = Mount(server, asked)
    server.log.clear()
    assert mount.args.copyout() == granted
    mount.start()
    assert mount.args.copyout() == granted
    mount.unmount()
    server.log.clear()
    assert mount.args.copyout() == granted
    mount.args.copyout()["name"] = "changed"
    assert mount.args.copyout() == granted
    assert server.log == []


# -------------------------------------------------------------------------------------- the checks


@pytest.mark.statement("M7", "C10")
@pytest.mark.parametrize("version", [0, 2, -1, VERSION | 1 << 31, 1 << 64])
def test_another_version_is_refused(version: int) -> None:
    with fails(EINVAL) as caught:
        replace(ARGS, version=version).checked()
    assert str(version) in str(caught.value)


@pytest.mark.statement("M8")
@pytest.mark.parametrize("flags", [4, 0x10, 0x400, 1 << 40, -1, KernelFlag.WTCACHE | 0x20])
def test_unknown_flags_are_refused(flags: int) -> None:
    with fails(EINVAL) as caught:
        replace(ARGS, flags=flags | KernelFlag.NOCACHE_NAME.value).checked()
    assert f"{flags & ~KERNEL_FLAG_MASK:#x}" in str(caught.value)


@pytest.mark.statement("M8", "2.5")
def test_known_flags_are_granted() -> None:
    every = (
        KernelFlag.NOCACHE_NAME
        | KernelFlag.NOCACHE_PAGE
        | KernelFlag.WTCACHE
        | KernelFlag.NOFLUSH_META
    )
    granted = replace(ARGS, flags=every).checked()
    assert granted.flags == every == 0x20B
    assert type(granted.copyout()["flags"]) is int


@pytest.mark.statement("M9")
@pytest.mark.parametrize("flags", [0x40, 1 << 64, -8])
def test_unknown_flags_of_handles_are_refused(flags: int) -> None:
    with fails(EINVAL) as caught:
        replace(ARGS, fhflags=FHFLAG_DYNAMIC | flags).checked()
    assert f"{flags & ~7:#x}" in str(caught.value)


@pytest.mark.statement("M10", "M11", "C6")
@pytest.mark.parametrize("size", [FHSIZE_MAX + 1, 1 << 64, (1 << 64) - 3, -1, -1020])
def test_handles_too_long_are_refused(size: int) -> None:
    with fails(EINVAL) as caught:
        replace(ARGS, fhsize=size).checked()
    assert str(size) in str(caught.value)
    assert "1020" in str(caught.value)


@pytest.mark.statement("M10", "C6")
def test_the_longest_handle() -> None:
    assert replace(ARGS, fhsize=1020).checked().fhsize == 1020


@pytest.mark.statement("C5")
@pytest.mark.parametrize(("served", "whole"), [(0, 0), (1, 5), (28, 32), (60, 64), (1020, 1024)])
def test_the_header_of_a_handle(served: int, whole: int) -> None:
    assert args.tofhsize(served) == whole
    assert args.fromfhsize(whole) == served


@pytest.mark.statement("C5")
@pytest.mark.parametrize("whole", [0, 1, 3, 4])
def test_a_handle_too_short_for_a_header_holds_nothing(whole: int) -> None:
    assert args.fromfhsize(whole) == 0


@pytest.mark.statement("M12")
def test_without_handles_nfs_asks_for_nothing() -> None:
    asked = replace(ARGS, fhsize=0, fhflags=FHFLAG_NFSV2 | FHFLAG_NFSV3)
    assert asked.checked().fhflags == FHFLAG_NFSV2 | FHFLAG_NFSV3


NFS_LIMITS = [
    pytest.param(FHFLAG_NFSV2, 28, "NFSv2", marks=pytest.mark.statement("M13", "C7")),
    pytest.param(FHFLAG_NFSV3, 60, "NFSv3", marks=pytest.mark.statement("M14", "C7")),
    pytest.param(FHFLAG_NFSV2 | FHFLAG_NFSV3, 28, "NFSv2", marks=pytest.mark.statement("M14")),
]


@pytest.mark.parametrize(("flags", "limit", "name"), NFS_LIMITS)
@pytest.mark.parametrize("dynamic", [0, FHFLAG_DYNAMIC])
def test_nfs_limits_handles(flags: int, limit: int, name: str, dynamic: int) -> None:
    asked = replace(ARGS, fhflags=flags | dynamic)
    assert replace(asked, fhsize=limit).checked().fhsize == limit
    with fails(EINVAL) as caught:
        replace(asked, fhsize=limit + 1).checked()
    assert name in str(caught.value)
    assert str(limit) in str(caught.value)


WRONG: dict[str, Any] = {
    "name": "x",
    "version": 7,
    "flags": 0x100,
    "fhflags": 0x100 | FHFLAG_NFSV2 | FHFLAG_NFSV3,
    "fhsize": 5000,
}
REPAIRS: list[tuple[str, dict[str, int]]] = [
    ("version", {"version": VERSION}),
    ("unknown mount flags", {"flags": 0}),
    ("unknown file handle flags", {"fhflags": FHFLAG_NFSV2 | FHFLAG_NFSV3}),
    ("1020", {"fhsize": 61}),
    ("NFSv2", {"fhflags": FHFLAG_NFSV3}),
    ("NFSv3", {"fhsize": 60}),
]


@pytest.mark.statement("M7", "M8", "M9", "M10", "M13", "M14")
def test_the_first_mistake_is_the_one_that_is_told() -> None:
    record = dict(WRONG)
    for says, repair in REPAIRS:
        with fails(EINVAL) as caught:
            MountArgs.copyin(record).checked()
        assert says in str(caught.value)
        record.update(repair)
    assert MountArgs.copyin(record).checked().fhsize == 60


@pytest.mark.statement("M15", "M18", "C4")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mem", "puffs:mem"),
        ("a b~", "puffs:a b~"),
        ("tab\tnl\nü\x7f\x1f", "puffs:tab.nl....."),
        ("before\0after", "puffs:before"),
        ("\0", "puffs:"),
        ("bytes \udcff, half \ud800", "puffs:bytes ..., half ..."),
        ("x" * 100, "puffs:" + "x" * 32),
        ("ü" * 100, "puffs:" + "." * 32),
        ("", "puffs:"),
    ],
)
def test_names_are_made_printable_and_prefixed(name: str, shown: str) -> None:
    assert replace(ARGS, name=name).checked().name == shown


@pytest.mark.statement("M16", "C8")
@pytest.mark.parametrize("size", [0, -1, REQUEST_MAX + 1, 1 << 70])
def test_a_request_size_of_nothing_or_too_much_becomes_the_largest(size: int) -> None:
    granted = replace(ARGS, request_size=size).checked()
    assert granted.request_size == REQUEST_MAX
    assert granted.payload == 1 << 20


@pytest.mark.statement("M17", "C8")
@pytest.mark.parametrize(
    ("size", "granted"), [(1, 8192), (8191, 8192), (8192, 8192), (8193, 8193), (REQUEST_MAX,) * 2]
)
def test_a_small_request_size_becomes_one_with_room_for_data(size: int, granted: int) -> None:
    checked = replace(ARGS, request_size=size).checked()
    assert checked.request_size == granted
    assert checked.payload == granted - REQUEST_HEADER >= 4096


@pytest.mark.statement("M25", "C1", "C2")
@pytest.mark.parametrize(
    ("buckets", "granted"),
    [(0, 256), (-5, 1), (1, 1), (8192, 8192), (8193, 8192), (1 << 70, 8192), (-(1 << 70), 1)],
)
def test_buckets_are_kept_within_limits(
    buckets: int, granted: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "puffs"):
        assert replace(ARGS, buckets=buckets).checked().buckets == granted
    assert ("8192 hash buckets" in caplog.text) == (buckets > 8192)


@pytest.mark.statement("C3")
def test_both_limits_of_buckets_can_be_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(args, "pnodebuckets_default", 7)
    monkeypatch.setattr(args, "maxpnodebuckets", 9)
    assert [replace(ARGS, buckets=asked).checked().buckets for asked in (0, 8, 10)] == [7, 8, 9]
    monkeypatch.setattr(args, "pnodebuckets_default", 10)
    assert ARGS.checked().buckets == 9


def test_requests_carry_as_much_data_as_was_granted() -> None:
    mount, _ = mounted(Little(), request_size=1)
    assert mount.args.payload == 4096
