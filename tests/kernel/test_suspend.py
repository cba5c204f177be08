"""Suspension and snapshots: what the file server is told, and who waits for whom."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBUSY, EDEADLK, EINVAL, EIO, ENOSPC, ENXIO, EOPNOTSUPP, ETIMEDOUT

import pytest

import puffs
from puffs.kernel.fstrans import Fstrans, State
from puffs.kernel.mount import Mount
from puffs.kernel.suspend import SUSPEND_RESUME, SUSPEND_SUSPEND, suspendctl
from puffs.kernel.vnops import Vnops
from puffs.server.cred import FSCRED
from tests.kernel.little import CRED, Little, a_file, contents, fails, mounted, vnops_of

TOLD = ("suspend", "snapshot", "write", "getattr", "unmounted")
SECONDS = 10.0


def told(server: Little) -> list[tuple[object, ...]]:
    return server.asked(*TOLD)


def beside(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


# -------------------------------------------------------------------------------------- the order


@pytest.mark.statement("D2")
@pytest.mark.statement("D3")
@pytest.mark.statement("D5")
def test_the_server_is_told_before_the_flush_and_when_nothing_moves_any_more() -> None:
    server = Little()
    mount, host = mounted(server)
    suspendctl(mount, SUSPEND_SUSPEND)
    assert told(server) == [("suspend", puffs.Suspend.START), ("suspend", puffs.Suspend.SUSPENDED)]
    assert host.log == [("post",), ("suspend",), ("call",)]
    assert mount.fstrans.state is State.SUSPENDED


@pytest.mark.statement("D2", "D5", "P1", "P2", "P7")
def test_pages_are_written_between_the_two() -> None:
    server = Little()
    vnops = vnops_of(server, flags=0)
    _, file = a_file(vnops, data=b"dirty")
    server.log.clear()
    with vnops.mount.suspended():
        assert [call[0] for call in server.log] == [
            *("suspend", "setattr", "write", "fsync", "suspend")
        ]
        assert server.asked("suspend") == [
            ("suspend", puffs.Suspend.START),
            ("suspend", puffs.Suspend.SUSPENDED),
        ]
        assert contents(server) == b"dirty"
    assert server.callers["setattr"] == FSCRED
    vnops.close(file)


@pytest.mark.statement("P8")
def test_what_the_server_does_not_take_is_its_own_affair(caplog: pytest.LogCaptureFixture) -> None:
    server = Little()
    vnops = vnops_of(server, flags=0)
    _, file = a_file(vnops, data=b"dirty")
    server.says["write"] = OSError(ENOSPC, "full")
    with vnops.mount.suspended():
        assert server.asked("suspend")[-1] == ("suspend", puffs.Suspend.SUSPENDED)
        assert "5 bytes at 0 are not written" in caplog.text
    del server.says["write"]
    vnops.close(file)
    assert contents(server) == b"dirty"


class Slow(Little):
    """Its writes wait until they are let go on, in the event loop that finishes operations."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    async def write(  # type: ignore[override]
        self, node: int, offset: int, data: memoryview, file: object
    ) -> int:
        await asyncio.to_thread(self.go_on.wait, SECONDS)
        self.log.append(("written",))
        return super().write(node, offset, data, file)


@pytest.mark.statement("D2", "D5")
def test_writes_that_nobody_waits_for_have_ended_when_it_is_suspended() -> None:
    server = Slow()
    with puffs.local(server, cache=True) as vfs, vfs.open("/f", "wb", buffering=0) as stream:
        stream.write(b"text")
        server.log.clear()
        threading.Timer(0.02, server.go_on.set).start()
        with vfs.mount.suspended():
            names = [call[0] for call in server.asked("suspend", "write", "written")]
            assert names == ["suspend", "write", "written", "suspend"]


@pytest.mark.statement("D4")
def test_writes_that_do_not_end_end_the_suspension() -> None:
    server = Slow()
    with puffs.local(server, cache=True) as vfs, vfs.open("/f", "wb", buffering=0) as stream:
        stream.write(b"text")
        with fails(ETIMEDOUT):
            vfs.mount.suspend(0.05)
        assert server.asked("suspend")[-1] == ("suspend", puffs.Suspend.ERROR)
        assert vfs.mount.fstrans.state is State.NORMAL
        server.go_on.set()
    assert contents(server) == b"text"


@pytest.mark.statement("D6")
def test_the_server_is_told_of_the_resume_before_anybody_goes_on() -> None:
    server = Little()
    mount, host = mounted(server)
    mount.suspend()
    host.log.clear()
    server.log.clear()
    suspendctl(mount, SUSPEND_RESUME)
    assert told(server) == [("suspend", puffs.Suspend.RESUME)]
    assert host.log == [("call",), ("resume",)]
    assert mount.fstrans.state is State.NORMAL


@pytest.mark.statement("D6")
def test_what_is_not_suspended_cannot_be_resumed() -> None:
    server = Little()
    mount, host = mounted(server)
    with fails(EINVAL):
        mount.resume()
    assert told(server) == []
    assert host.log == []


@pytest.mark.statement("D1")
def test_who_comes_second_is_refused_and_nobody_is_told() -> None:
    server = Little()
    mount, host = mounted(server)
    mount.suspend()
    server.log.clear()
    host.log.clear()
    with fails(EBUSY):
        mount.suspend()
    assert told(server) == []
    assert host.log == []
    assert mount.fstrans.state is State.SUSPENDED


@pytest.mark.statement("D1")
def test_only_a_running_mount_can_be_suspended() -> None:
    server = Little()
    mount = Mount(server)
    with fails(ENXIO):
        mount.suspend()
    assert server.asked("suspend") == []


@pytest.mark.statement("D4")
def test_an_error_of_the_flush_ends_it() -> None:
    server = Little()
    mount, host = mounted(server)
    host.flush_fails = OSError(EIO, "no")
    with fails(EIO):
        mount.suspend()
    assert told(server) == [("suspend", puffs.Suspend.START), ("suspend", puffs.Suspend.ERROR)]
    assert host.log == [("post",), ("suspend",), ("post",), ("resume",)]
    assert mount.fstrans.state is State.NORMAL
    host.flush_fails = None
    mount.suspend()


@pytest.mark.statement("D7")
@pytest.mark.parametrize("command", [0, 3, -1])
def test_another_command_is_refused(command: int) -> None:
    server = Little()
    mount, _ = mounted(server)
    with fails(EINVAL):
        suspendctl(mount, command)
    assert told(server) == []


@pytest.mark.statement("D8")
def test_the_codes_are_those_of_the_reference() -> None:
    server = Little()
    mount, host = mounted(server)
    with mount.suspended():
        pass
    host.flush_fails = OSError(EIO, "no")
    with fails(EIO):
        mount.suspend()
    START, SUSPENDED, RESUME, ERROR = range(4)
    codes = [int(status) for _, status in server.asked("suspend")]
    assert codes == [START, SUSPENDED, RESUME, START, ERROR]


def test_a_server_that_fails_when_told_is_suspended_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Little()
    mount, _ = mounted(server)
    server.says["suspend"] = RuntimeError("no")
    with mount.suspended():
        assert mount.fstrans.state is State.SUSPENDED
    assert [record.message for record in caplog.records] == [
        "suspend failed in the file server",
        "suspend(SUSPENDED) failed in the file server",
        "suspend(RESUME) failed in the file server",
    ]


def test_a_server_without_the_operation_can_be_suspended() -> None:
    mount, _ = mounted(Little("suspend"))
    with mount.suspended():
        assert mount.fstrans.state is State.SUSPENDED


def test_the_end_of_async_with_resumes() -> None:
    mount, _ = mounted(Little())

    async def program() -> State:
        async with mount.suspended():
            return mount.fstrans.state

    assert asyncio.run(program()) is State.SUSPENDED
    assert mount.fstrans.state is State.NORMAL


# ------------------------------------------------------------------------------------ transactions


@pytest.mark.statement("Q4")
def test_an_operation_waits_until_the_resume() -> None:
    server = Little()
    mount, _ = mounted(server)
    vnops = Vnops(mount, CRED)
    mount.suspend()
    server.log.clear()
    asked = threading.Event()
    done = threading.Event()

    def ask() -> None:
        asked.set()
        vnops.getattr(mount.root())
        done.set()

    thread = beside(ask)
    assert asked.wait(SECONDS)
    assert not done.wait(0.05)
    assert told(server) == []
    mount.resume()
    assert done.wait(SECONDS)
    thread.join()
    assert [call[0] for call in told(server)] == ["suspend", "getattr"]


@contextmanager
def under_way(server: Little, mount: Mount) -> Iterator[None]:
    """A `getattr` that another thread has asked for goes on until the end of this."""
    inside, leave = threading.Event(), threading.Event()

    def slow(*_: object) -> puffs.Attr:
        inside.set()
        assert leave.wait(SECONDS)
        return server.nodes[1].attr

    server.says["getattr"] = slow
    operation = beside(lambda: Vnops(mount, CRED).getattr(mount.root()))
    assert inside.wait(SECONDS)
    try:
        yield
    finally:
        leave.set()
        operation.join(SECONDS)
        del server.says["getattr"]


@pytest.mark.statement("D1")
def test_what_is_under_way_ends_before_the_server_is_told() -> None:
    server = Little()
    mount, _ = mounted(server)
    with under_way(server, mount):
        suspending = beside(mount.suspend)
        suspending.join(0.05)
        assert server.asked("suspend") == []
    suspending.join(SECONDS)
    assert len(server.asked("suspend")) == 2


@pytest.mark.statement("D1")
def test_what_does_not_end_is_not_waited_for_for_ever() -> None:
    server = Little()
    mount, _ = mounted(server)
    with under_way(server, mount):
        with fails(ETIMEDOUT):
            mount.suspend(0.01)
        assert server.asked("suspend") == []
        assert mount.fstrans.state is State.NORMAL
    Vnops(mount, CRED).getattr(mount.root())


def test_inside_an_operation_nobody_suspends() -> None:
    server = Little()
    mount, _ = mounted(server)
    raised: list[OSError] = []

    def suspend(*_: object) -> puffs.Attr:
        try:
            mount.suspend()
        except OSError as exc:
            raised.append(exc)
        return server.nodes[1].attr

    server.says["getattr"] = suspend
    Vnops(mount, CRED).getattr(mount.root())
    assert [exc.errno for exc in raised] == [EDEADLK]
    assert mount.fstrans.state is State.NORMAL


def test_who_suspends_may_go_on_using_it() -> None:
    server = Little()
    mount, _ = mounted(server)
    with mount.suspended():
        assert Vnops(mount, CRED).getattr(mount.root()).ino == 1


def test_what_another_thread_does_for_a_transaction_does_not_wait() -> None:
    trans = Fstrans()
    trans.start()
    suspending = beside(lambda: trans.setstate(State.SUSPENDING))
    while trans.state is State.NORMAL:
        pass

    def part() -> None:
        trans.join()
        trans.done()

    joined = beside(part)
    joined.join(SECONDS)
    assert not joined.is_alive()
    assert suspending.is_alive()
    trans.done()
    suspending.join(SECONDS)
    assert not suspending.is_alive()


@pytest.mark.statement("P2")
def test_the_owner_is_the_thread_that_suspends() -> None:
    trans = Fstrans()
    assert not trans.is_owner()
    trans.setstate(State.SUSPENDING)
    others: list[bool] = []
    beside(lambda: others.append(trans.is_owner())).join(SECONDS)
    assert trans.is_owner()
    assert others == [False]
    trans.setstate(State.NORMAL)
    assert not trans.is_owner()


# ------------------------------------------------------------------------------------ other things


def test_a_suspended_mount_is_not_unmounted_unless_by_force() -> None:
    server = Little()
    mount, _ = mounted(server)
    mount.suspend()
    with fails(EBUSY) as caught:
        mount.unmount()
    assert "resume" in str(caught.value)
    server.log.clear()
    mount.unmount(force=True)
    assert [call[0] for call in told(server)] == ["suspend", "unmounted"]


def test_who_waits_when_the_mount_goes_gets_enxio() -> None:
    server = Little()
    mount, host = mounted(server)
    vnops = Vnops(mount, CRED)
    mount.suspend()
    waiting = threading.Event()
    raised: list[int | None] = []

    def ask() -> None:
        waiting.set()
        try:
            vnops.getattr(mount.root())
        except OSError as exc:
            raised.append(exc.errno)

    thread = beside(ask)
    assert waiting.wait(SECONDS)
    mount.detached(host)
    thread.join(SECONDS)
    assert raised == [ENXIO]


def test_a_sync_waits_for_the_resume() -> None:
    server = Little()
    mount, _ = mounted(server)
    mount.suspend()
    thread = beside(mount.sync)
    thread.join(0.05)
    assert server.asked("sync") == []
    mount.resume()
    thread.join(SECONDS)
    assert len(server.asked("sync")) == 1


@pytest.mark.statement("I3")
def test_a_snapshot_is_taken_while_nothing_moves() -> None:
    server = Little()
    mount, _ = mounted(server)
    server.says["snapshot"] = lambda _: mount.fstrans.state is State.SUSPENDED or 1 / 0
    mount.snapshot("/somewhere")
    assert told(server) == [
        ("suspend", puffs.Suspend.START),
        ("suspend", puffs.Suspend.SUSPENDED),
        ("snapshot", "/somewhere"),
        ("suspend", puffs.Suspend.RESUME),
    ]


@pytest.mark.statement("I3")
def test_a_server_without_snapshots_says_so() -> None:
    server = Little("snapshot")
    mount, _ = mounted(server)
    with fails(EOPNOTSUPP):
        mount.snapshot("/somewhere")
    assert told(server) == []


def test_a_snapshot_on_the_mount_itself_is_refused() -> None:
    server = Little()
    mount, _ = mounted(server)
    with fails(EINVAL):
        mount.snapshot("/mnt/image")
    assert told(server) == []


@pytest.mark.statement("I3")
def test_a_snapshot_that_fails_lets_the_mount_go_on() -> None:
    server = Little()
    mount, _ = mounted(server)
    server.says["snapshot"] = OSError(EIO, "no")
    with fails(EIO):
        mount.snapshot("/somewhere")
    assert mount.fstrans.state is State.NORMAL
