"""A mount: its arguments, its start, its end, and what concerns the file system as a whole."""

import logging
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from errno import EBUSY, EINPROGRESS, EINVAL, EIO, ENXIO, EPERM, EPROTO

import pytest

import puffs
from puffs.kernel.args import (
    BUCKETS_DEFAULT,
    BUCKETS_MAX,
    FHFLAG_DYNAMIC,
    FHFLAG_NFSV2,
    FHFLAG_NFSV3,
    FHSIZE_MAX,
    REQUEST_MAX,
    KernelFlag,
    MountArgs,
)
from puffs.kernel.mount import Mount, Status
from puffs.server.errors import ProtocolFault
from tests.kernel.little import CRED, ROOT, FakeHost, Little, fails, mounted

ARGS = MountArgs("name")


def is_dying(mount: Mount) -> bool:
    return mount.status is Status.DYING


# ------------------------------------------------------------------------------------- arguments


@pytest.mark.statement("M7")
@pytest.mark.parametrize("version", [0, 2, -1, 1 << 31])
def test_another_version_is_refused(version: int) -> None:
    with fails(EINVAL) as caught:
        replace(ARGS, version=version).checked()
    assert str(version) in str(caught.value)


@pytest.mark.statement("M9")
def test_unknown_flags_are_refused() -> None:
    with fails(EINVAL) as caught:
        replace(ARGS, fhflags=FHFLAG_DYNAMIC | 0x40).checked()
    assert "0x40" in str(caught.value)


@pytest.mark.statement("M8")
@pytest.mark.parametrize("flags", [1, 4, 0x10, 0x400, 1 << 40, -1, KernelFlag.WTCACHE | 0x20])
def test_unknown_kernel_flags_are_refused(flags: int) -> None:
    with fails(EINVAL) as caught:
        replace(ARGS, flags=flags).checked()
    assert "kernel flags" in str(caught.value)


@pytest.mark.statement("M8")
@pytest.mark.statement("2.5")
def test_known_kernel_flags_are_granted() -> None:
    every = KernelFlag.NOCACHE_PAGE | KernelFlag.WTCACHE | KernelFlag.NOFLUSH_META
    assert replace(ARGS, flags=every).checked().flags == every == 0x20A


@pytest.mark.statement("M10")
@pytest.mark.statement("M11")
@pytest.mark.parametrize("size", [FHSIZE_MAX + 1, 1 << 64, (1 << 64) - 3, -1])
def test_handles_too_long_are_refused(size: int) -> None:
    with fails(EINVAL) as caught:
        replace(ARGS, fhsize=size).checked()
    assert str(size) in str(caught.value)
    assert "1020" in str(caught.value)


@pytest.mark.statement("M10")
def test_the_longest_handle() -> None:
    assert replace(ARGS, fhsize=1020).checked().fhsize == 1020


@pytest.mark.statement("M12")
def test_without_handles_nfs_asks_for_nothing() -> None:
    args = replace(ARGS, fhsize=0, fhflags=FHFLAG_NFSV2 | FHFLAG_NFSV3)
    assert args.checked().fhflags == FHFLAG_NFSV2 | FHFLAG_NFSV3


NFS_LIMITS = [
    pytest.param(FHFLAG_NFSV2, 28, "NFSv2", marks=pytest.mark.statement("M13")),
    pytest.param(FHFLAG_NFSV3, 60, "NFSv3", marks=pytest.mark.statement("M14")),
    pytest.param(FHFLAG_NFSV2 | FHFLAG_NFSV3, 28, "NFSv2", marks=pytest.mark.statement("M14")),
]


@pytest.mark.parametrize(("flags", "limit", "name"), NFS_LIMITS)
@pytest.mark.parametrize("dynamic", [0, FHFLAG_DYNAMIC])
def test_nfs_limits_handles(flags: int, limit: int, name: str, dynamic: int) -> None:
    args = replace(ARGS, fhflags=flags | dynamic)
    assert replace(args, fhsize=limit).checked().fhsize == limit
    with fails(EINVAL) as caught:
        replace(args, fhsize=limit + 1).checked()
    assert name in str(caught.value)


@pytest.mark.statement("M15")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mem", "puffs:mem"),
        ("a b~", "puffs:a b~"),
        ("tab\tnl\nü\x7f\0", "puffs:tab.nl...."),
        ("x" * 100, "puffs:" + "x" * 32),
        ("", "puffs:"),
    ],
)
def test_names_are_made_printable_and_prefixed(name: str, shown: str) -> None:
    assert replace(ARGS, name=name).checked().name == shown


@pytest.mark.statement("M16")
@pytest.mark.parametrize("size", [0, -1, REQUEST_MAX + 1, 1 << 40])
def test_a_request_size_of_nothing_or_too_much_becomes_the_largest(size: int) -> None:
    assert replace(ARGS, request_size=size).checked().request_size == REQUEST_MAX


@pytest.mark.statement("M17")
@pytest.mark.parametrize(("size", "granted"), [(1, 4096), (4095, 4096), (4096, 4096), (8192, 8192)])
def test_a_small_request_size_becomes_the_smallest(size: int, granted: int) -> None:
    assert replace(ARGS, request_size=size).checked().request_size == granted


@pytest.mark.statement("M25")
@pytest.mark.parametrize(
    ("buckets", "granted"),
    [(0, BUCKETS_DEFAULT), (-5, 1), (1, 1), (BUCKETS_MAX, BUCKETS_MAX), (1 << 20, BUCKETS_MAX)],
)
def test_buckets_are_kept_within_limits(buckets: int, granted: int) -> None:
    assert replace(ARGS, buckets=buckets).checked().buckets == granted


# ---------------------------------------------------------------------------------------- mounting


def test_a_file_server_must_have_what_is_required() -> None:
    with pytest.raises(TypeError, match="lookup"):
        Mount(Little("lookup"))


def test_bad_arguments_fail_before_the_file_server_is_asked() -> None:
    server = Little()
    with fails(EINVAL):
        Mount(server, replace(ARGS, fhsize=-1))
    assert server.log == []


def test_a_failing_mount_is_the_callers_error() -> None:
    server = Little()
    server.says["mount"] = ConnectionRefusedError("the archive is not there")
    with pytest.raises(ConnectionRefusedError, match="archive"):
        Mount(server)
    assert server.asked("unmounted") == [], "it was never mounted"


@pytest.mark.statement("S6")
@pytest.mark.statement("R4")
@pytest.mark.parametrize(
    ("operation", "said", "error"),
    [
        ("mount", lambda: None, ProtocolFault),
        ("mount", list, TypeError),
        ("getattr", OSError(EIO, "broken"), OSError),
        ("getattr", lambda node, file: "nonsense", ProtocolFault),
        ("getattr", lambda node, file: puffs.Attr(0o755), ProtocolFault),
    ],
)
def test_a_root_that_is_none_fails_and_is_given_back(
    operation: str, said: object, error: type[Exception]
) -> None:
    server = Little()
    server.says[operation] = said
    with pytest.raises(error):
        Mount(server)
    assert len(server.asked("unmounted")) == 1


@pytest.mark.statement("R1")
@pytest.mark.statement("R2")
@pytest.mark.statement("R8")
def test_the_root_is_known_without_asking() -> None:
    server = Little()
    mount = Mount(server)
    assert mount.status is Status.MOUNTING
    server.log.clear()
    root = mount.root()
    assert root.cookie == ROOT
    assert mount.root() is root
    assert server.log == []


@pytest.mark.statement("R7")
@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO])
def test_the_root_may_be_of_any_type(kind: int) -> None:
    assert Mount(Little(root_mode=kind | 0o644)).root_type == kind


@pytest.mark.statement("S1")
@pytest.mark.statement("S2")
def test_the_root_is_found_by_its_cookie() -> None:
    mount = Mount(Little())
    assert mount.vnodes.find(ROOT) is mount.root()
    assert mount.vnodes.adopt(ROOT) is mount.root()


@pytest.mark.statement("T1")
def test_start_asks_nothing() -> None:
    server = Little()
    mount = Mount(server)
    server.log.clear()
    mount.start()
    assert mount.status is Status.RUNNING
    assert server.log == []


@pytest.mark.statement("S3")
def test_start_is_legal_once() -> None:
    mount, _ = mounted(Little())
    with fails(EINVAL):
        mount.start()
    assert mount.status is Status.RUNNING
    mount.unmount()
    with fails(EINVAL):
        mount.start()
    assert is_dying(mount)


def test_nothing_can_be_attached_to_what_is_gone() -> None:
    mount, _ = mounted(Little())
    mount.unmount()
    with fails(ENXIO):
        mount.attach(FakeHost(mount))


# -------------------------------------------------------------------------------------- unmounting


@pytest.mark.statement("U1")
@pytest.mark.statement("U4")
@pytest.mark.parametrize("force", [False, True])
def test_the_file_server_is_asked(force: bool) -> None:
    server = Little()
    mount, host = mounted(server)
    mount.unmount(force)
    assert server.asked("unmount") == [("unmount", force)]
    assert ("detach", force) in host.log


@pytest.mark.statement("U2")
def test_a_busy_mount_refuses_without_asking() -> None:
    server = Little()
    mount, host = mounted(server)
    host.in_use = True
    with fails(EBUSY):
        mount.unmount()
    assert server.log == []
    assert mount.status is Status.RUNNING
    mount.unmount(force=True)
    assert is_dying(mount)


@pytest.mark.statement("U9")
@pytest.mark.statement("U7")
@pytest.mark.parametrize("code", [EBUSY, EPERM, EIO])
def test_the_file_server_may_refuse_and_goes_on(code: int) -> None:
    server = Little()
    mount, host = mounted(server)
    server.says["unmount"] = OSError(code, "not now")
    with fails(code) as caught:
        mount.unmount()
    assert "refuses" in str(caught.value)
    assert mount.status is Status.RUNNING
    assert host.log == [("call",)]
    assert mount.statvfs().blocks == 100
    del server.says["unmount"]
    mount.unmount()
    assert mount.wait(0)


@pytest.mark.statement("U10")
@pytest.mark.statement("U12")
def test_force_hears_no_answer() -> None:
    server = Little()
    mount, _ = mounted(server)
    server.says["unmount"] = ValueError("no!")
    mount.unmount(force=True)
    assert mount.wait(0)
    assert mount.status is Status.DYING


@pytest.mark.statement("U5")
def test_while_mounting_nobody_is_asked_and_nobody_refuses() -> None:
    server = Little()
    server.says["unmount"] = OSError(EBUSY, "not now")
    mount = Mount(server)
    mount.attach(FakeHost(mount))
    mount.unmount()
    assert server.asked("unmount") == []
    assert len(server.asked("unmounted")) == 1
    assert server.asked("sync") == [], "there is nothing to write"


def test_a_mount_that_no_host_has_can_be_ended() -> None:
    server = Little()
    mount = Mount(server)
    mount.unmount()
    assert mount.wait(0)
    assert len(server.asked("unmounted")) == 1


@pytest.mark.statement("U8")
def test_what_is_gone_is_not_asked_again() -> None:
    server = Little()
    mount, host = mounted(server)
    mount.detached(host)
    server.log.clear()
    mount.unmount()
    mount.unmount(force=True)
    assert server.log == []


def test_the_last_words_come_in_order_and_once() -> None:
    server = Little()
    mount, host = mounted(server)
    known, opened = mount.vnodes.adopt(7), mount.vnodes.adopt(8)
    mount.vnodes.open(opened)
    mount.unmount(force=True)
    mount.detached(host)
    mount.vnodes.forget(known.nodeid, 1)
    mount.vnodes.close(opened)
    words = [call[0] for call in server.log if call[0] != "getattr"]
    assert words == ["unmount", "sync", "reclaim", "inactive", "reclaim", "unmounted"]


@pytest.mark.statement("U3")
@pytest.mark.statement("N7")
def test_the_root_is_not_reclaimed_at_the_end() -> None:
    server = Little()
    mount, _ = mounted(server)
    mount.vnodes.adopt(7)
    mount.unmount()
    assert server.asked("reclaim") == [("reclaim", 7)]


def test_the_mount_lives_until_its_last_attachment_is_gone() -> None:
    server = Little()
    mount, first = mounted(server)
    second = FakeHost(mount)
    mount.attach(second)
    mount.detached(first)
    assert mount.status is Status.RUNNING
    assert server.asked("unmounted") == []
    mount.detached(second)
    assert len(server.asked("unmounted")) == 1
    assert mount.wait(0)


def test_attachments_that_leave_at_once_end_it_once() -> None:
    for _ in range(50):
        server = Little()
        mount, first = mounted(server)
        hosts = [first, FakeHost(mount), FakeHost(mount)]
        for host in hosts[1:]:
            mount.attach(host)
        start = threading.Barrier(len(hosts))

        def leave(host: FakeHost, start: threading.Barrier = start) -> None:
            start.wait()
            host.mount.detached(host)

        threads = [threading.Thread(target=leave, args=(host,)) for host in hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.asked("unmounted")) == 1
        assert mount.wait(0)


def test_a_second_unmount_at_the_same_time_is_refused() -> None:
    server = Little()
    mount, _ = mounted(server)
    errors: list[int | None] = []

    def ask_back(force: bool) -> None:
        try:
            mount.unmount()
        except OSError as exc:
            errors.append(exc.errno)

    server.says["unmount"] = ask_back
    mount.unmount()
    assert errors == [EBUSY]


def test_a_failing_end_is_logged_and_ends_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    server = Little()
    mount, _ = mounted(server)
    mount.vnodes.adopt(7)
    for name in ("sync", "reclaim", "unmounted"):
        server.says[name] = ValueError(f"{name} is broken")
    with caplog.at_level(logging.ERROR, "puffs"):
        mount.unmount()
    assert mount.wait(0)
    assert [record.getMessage().split()[0] for record in caplog.records] == [
        "sync",
        "reclaim",
        "unmounted",
    ]


# --------------------------------------------------------------------------------- the whole thing


@pytest.mark.statement("V1")
def test_statvfs_while_mounting() -> None:
    server = Little()
    mount = Mount(server)
    with fails(EINPROGRESS):
        mount.statvfs()
    assert server.asked("statvfs") == []


@pytest.mark.statement("V7")
def test_statvfs_of_what_is_gone() -> None:
    mount, _ = mounted(Little())
    mount.unmount()
    with fails(ENXIO):
        mount.statvfs()


@pytest.mark.statement("V2")
def test_statvfs_asks_each_time() -> None:
    server = Little()
    mount, _ = mounted(server)
    assert (mount.statvfs().blocks, mount.statvfs().bfree) == (100, 50)
    assert len(server.asked("statvfs")) == 2


@pytest.mark.statement("2.6")
def test_statvfs_that_is_missing_is_zero() -> None:
    mount, _ = mounted(Little("statvfs"))
    assert mount.statvfs().blocks == 0


@pytest.mark.statement("Y1")
@pytest.mark.parametrize("wait", [True, False])
def test_sync_flushes_hosts_then_asks(wait: bool) -> None:
    server = Little()
    mount, host = mounted(server)
    server.says["sync"] = lambda *args: host.log.append(("sync",))
    mount.sync(wait, CRED)
    assert host.log == [("flush",), ("call",), ("sync",)]
    assert server.asked("sync") == [("sync", wait, CRED)]


@pytest.mark.statement("Y1")
@pytest.mark.statement("Y2")
def test_sync_asks_also_when_a_flush_failed() -> None:
    server = Little()
    mount, host = mounted(server)
    host.flush_fails = OSError(EIO, "no space over there")
    with fails(EIO):
        mount.sync()
    assert len(server.asked("sync")) == 1


@pytest.mark.statement("Y2")
def test_the_error_of_the_file_server_counts_more() -> None:
    server = Little()
    mount, host = mounted(server)
    host.flush_fails = OSError(EIO, "flush")
    server.says["sync"] = OSError(EPERM, "sync")
    with fails(EPERM):
        mount.sync()


@pytest.mark.statement("Y3")
@pytest.mark.parametrize("when", ["mounting", "gone"])
def test_sync_needs_a_running_mount(when: str) -> None:
    server = Little()
    mount = Mount(server) if when == "mounting" else mounted(server)[0]
    if when == "gone":
        mount.unmount()
    server.log.clear()
    with fails(ENXIO):
        mount.sync()
    assert server.log == []


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.statement("2.7")
@pytest.mark.parametrize("code", [-1, -EIO, 512, 1 << 31])
def test_an_errno_that_there_is_not(code: int, caplog: pytest.LogCaptureFixture) -> None:
    server = Little()
    mount, _ = mounted(server)
    assert mount.errno_of(OSError(code, "what?"), "read") == EPROTO
    ((_, kind, _, text, _),) = server.asked("error")
    assert kind == "ERROR"
    assert str(code) in text
    assert str(code) in caplog.text


@pytest.mark.statement("2.7")
def test_a_protocol_fault_is_told_to_the_file_server(caplog: pytest.LogCaptureFixture) -> None:
    server = Little()
    mount, _ = mounted(server)
    fault = ProtocolFault("READ", "read returned rubbish", EIO, node=5)
    assert mount.errno_of(fault, "read") == EPROTO
    assert server.asked("error") == [("error", "READ", EIO, "read returned rubbish", 5)]
    assert "rubbish" in caplog.text


RAISED: list[tuple[Callable[[], BaseException], int, bool]] = [
    (lambda: OSError(EPERM, "no"), EPERM, False),
    (lambda: FileNotFoundError(), 2, False),
    (lambda: PermissionError("not yours"), 13, False),
    (lambda: NotImplementedError(), 38, False),
    (lambda: MemoryError(), 12, False),
    (lambda: ValueError("oops"), EIO, True),
    (lambda: OSError("no number"), EIO, True),
]


@pytest.mark.parametrize(("make", "code", "logged"), RAISED)
def test_what_is_raised_becomes_an_errno(
    make: Callable[[], BaseException], code: int, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mount, _ = mounted(Little())
    assert mount.errno_of(make(), "read") == code
    assert len(caplog.records) == logged
    if logged:
        assert caplog.records[0].exc_info, "with the traceback"
