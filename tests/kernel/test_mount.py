"""A mount: its arguments, its start, its end, and what concerns the file system as a whole."""

import logging
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from errno import EBUSY, EINVAL, EIO, ENXIO, EOPNOTSUPP, EPERM, EPROTO
from functools import partial

import pytest

import puffs
from puffs.kernel.args import MountArgs
from puffs.kernel.mount import Mount, Status
from puffs.kernel.vnode import ROOT_ID
from puffs.kernel.vnops import Vnops
from puffs.server.errors import ProtocolFault
from tests.kernel.little import CRED, ROOT, FakeHost, Little, Node, fails, mounted

ARGS = MountArgs("name")
PATIENCE = 10.0


def is_dying(mount: Mount) -> bool:
    return mount.status is Status.DYING


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


@pytest.mark.statement("S6", "R4", "M31")
@pytest.mark.parametrize(
    ("operation", "said", "error"),
    [
        ("mount", lambda: None, ProtocolFault),
        ("mount", list, ProtocolFault),
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


@pytest.mark.statement("M23", "M31")
def test_what_no_host_could_be_had_for_is_given_up_once() -> None:
    server = Little()
    mount = Mount(server)
    mount.attach(FakeHost(mount))
    mount.abandon()
    mount.abandon()
    mount.unmount()
    assert [name for name, *_ in server.log] == ["mount", "getattr", "unmounted"]
    assert is_dying(mount)
    assert mount.wait(0)


@pytest.mark.statement("M22", "2.1")
def test_states_until_it_is_mounted() -> None:
    server = Little()
    mount = Mount.__new__(Mount)
    seen: list[Status] = []

    def seen_by(gives: object, *_: object) -> object:
        seen.append(mount.status)
        return gives

    server.says["mount"] = partial(seen_by, ROOT)
    server.says["getattr"] = partial(seen_by, server.nodes[ROOT].attr)
    Mount.__init__(mount, server)
    assert seen == [Status.BEFOREINIT] * 2
    assert mount.status is Status.MOUNTING
    assert [int(status) for status in Status] == [0, 1, 2, 3]


@pytest.mark.statement("M24", "M30")
def test_each_mount_is_another_one_and_not_yet_usable() -> None:
    mounts = [Mount(Little(), MountArgs("x", buckets=3)) for _ in range(20)]
    assert len({mount.fsid for mount in mounts}) == 20
    assert {mount.status for mount in mounts} == {Status.MOUNTING}
    assert {mount.args.buckets for mount in mounts} == {3}
    with fails(ENXIO):
        Vnops(mounts[0], CRED).getattr(mounts[0].root())


@pytest.mark.statement("M32")
def test_mounting_asks_for_the_root_alone() -> None:
    server = Little()
    Mount(server)
    assert server.log == [("mount",), ("getattr", ROOT, None)]


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


@pytest.mark.statement("R4")
def test_there_is_no_root_of_what_is_gone() -> None:
    mount, _ = mounted(Little())
    mount.unmount()
    with fails(ENXIO):
        mount.root()


@pytest.mark.statement("R3", "R6", "N7")
def test_the_root_stays_whatever_a_host_forgets() -> None:
    server = Little()
    mount, host = mounted(server)
    root = mount.root()
    mount.vnodes.forget(root.nodeid, 1 << 60)
    mount.vnodes.open(root)
    mount.vnodes.close(root)
    server.says["unmount"] = OSError(EBUSY, "not now")
    with fails(EBUSY):
        mount.unmount()
    assert mount.root() is root
    assert mount.vnodes.by_nodeid[ROOT_ID] is root is mount.vnodes.find(ROOT)
    assert server.asked("reclaim") == []
    assert host.log == [("call",)]


@pytest.mark.statement("R7")
@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO])
def test_the_root_may_be_of_any_type(kind: int) -> None:
    assert Mount(Little(root_mode=kind | 0o644)).root_type == kind


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


@pytest.mark.statement("S1", "S3")
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


@pytest.mark.statement("U6")
@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_signal_while_the_file_server_is_asked_leaves_it(signal: type[BaseException]) -> None:
    server = Little()
    mount, host = mounted(server)
    server.says["unmount"] = signal
    with pytest.raises(signal):
        mount.unmount()
    assert mount.status is Status.RUNNING
    assert host.log == [("call",)]
    assert mount.statvfs().blocks == 100
    del server.says["unmount"]
    mount.unmount()
    assert len(server.asked("unmounted")) == 1


@pytest.mark.statement("U6")
def test_a_signal_does_not_keep_force_from_ending_it() -> None:
    server = Little()
    mount, _ = mounted(server)
    server.says["unmount"] = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        mount.unmount(force=True)
    assert mount.wait(0)
    assert len(server.asked("unmounted")) == 1


@pytest.mark.statement("U7", "U14")
def test_whoever_waits_for_an_unmount_goes_on_when_it_is_decided() -> None:
    server = Little()
    mount, _ = mounted(server)
    asked, answer = threading.Event(), threading.Event()

    def refuse_at_first(force: bool) -> None:
        asked.set()
        assert answer.wait(PATIENCE)
        if not force:
            raise OSError(EPERM, "no")

    server.says["unmount"] = refuse_at_first
    outcomes: list[int] = []

    def unmount(force: bool) -> None:
        try:
            mount.unmount(force)
            outcomes.append(0)
        except OSError as exc:
            outcomes.append(exc.errno or -1)

    first = threading.Thread(target=unmount, args=(False,), daemon=True)
    first.start()
    assert asked.wait(PATIENCE)
    others = [threading.Thread(target=unmount, args=(True,), daemon=True) for _ in range(3)]
    others += [threading.Thread(target=mount.wait, daemon=True) for _ in range(3)]
    for thread in others:
        thread.start()
    assert mount.status is Status.RUNNING
    answer.set()
    for thread in (first, *others):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sorted(outcomes) == [0, 0, 0, EPERM]
    assert server.asked("unmount") == [("unmount", False), ("unmount", True)]
    assert len(server.asked("unmounted")) == 1


@pytest.mark.statement("U13", "U3")
def test_until_the_file_server_has_agreed_everything_goes_on() -> None:
    server = Little()
    mount, _ = mounted(server)
    vnops = Vnops(mount, CRED)
    server.says["lookup"] = 7
    server.nodes[7] = Node(puffs.Attr(stat.S_IFREG | 0o644))

    def refuse(force: bool) -> None:
        vnops.lookup(mount.root(), "found meanwhile")
        raise OSError(EBUSY, "and so in use")

    server.says["unmount"] = refuse
    with fails(EBUSY):
        mount.unmount()
    found = mount.vnodes.find(7)
    assert found is not None
    assert found.lookups == 1
    assert server.asked("reclaim") == []


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


@pytest.mark.statement("I3")
def test_a_snapshot_is_made_by_the_file_server_where_its_operations_run() -> None:
    server = Little()
    mount, host = mounted(server)
    mount.snapshot("/srv/x.img")
    assert server.asked("snapshot") == [("snapshot", "/srv/x.img")]
    assert ("call",) in host.log
    server.says["snapshot"] = OSError(EPERM, "not there")
    with fails(EPERM):
        mount.snapshot("/srv/x.img")


@pytest.mark.statement("I3")
def test_without_the_operation_there_are_no_snapshots() -> None:
    mount, _ = mounted(Little("snapshot"))
    with fails(EOPNOTSUPP):
        mount.snapshot("/srv/x.img")


def test_a_snapshot_needs_a_running_mount() -> None:
    server = Little()
    with fails(ENXIO):
        Mount(server).snapshot("/srv/x.img")
    assert server.asked("snapshot") == []


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


@pytest.mark.statement("2.7d")
def test_a_fault_that_the_file_server_does_not_hear_of_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Little("error")
    mount, _ = mounted(server)
    assert mount.errno_of(ProtocolFault("READ", "read returned rubbish"), "read") == EPROTO
    assert server.log == []
    (record,) = caplog.records
    assert "little: bad reply of the file server: read returned rubbish" in record.getMessage()


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
