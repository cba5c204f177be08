"""`pageflush` and `sync`: what is flushed, in which order, what is waited for, who is told."""

import asyncio
import logging
import os
import stat
import threading
from collections.abc import Callable
from errno import EACCES, EIO, ENOSPC, ENXIO, EPERM
from typing import Any

import pytest

import puffs
from puffs.kernel.args import MountArgs
from puffs.kernel.fstrans import State
from puffs.kernel.mount import Mount
from puffs.kernel.sync import Wait, pageflush
from puffs.kernel.vnops import OpenFile, Vnops
from puffs.server.cred import FSCRED
from tests.kernel.little import CRED, FakeHost, Little, a_file, fails, mounted

NOT_WAITED_FOR = [
    pytest.param(Wait.LAZY, False, id="lazy"),
    pytest.param(Wait.NOWAIT, True, id="suspending"),
]


def cached(server: Little) -> tuple[Vnops, FakeHost]:
    """A running mount that has a page cache."""
    mount, host = mounted(server, flags=0)
    return Vnops(mount, CRED), host


def some(vnops: Vnops, count: int = 3) -> list[OpenFile]:
    """Open files, all of them dirty: their cookies are 2, 3, ..."""
    return [a_file(vnops, f"f{number}", b"text")[1] for number in range(count)]


def failing(server: Little, errors: dict[int, int]) -> Callable[..., int]:
    """A `write` that fails for some cookies, with these errors."""

    def write(node: int, offset: int, data: memoryview, file: object) -> int:
        if node in errors:
            raise OSError(errors[node], "no")
        return Little.write(server, node, offset, data, file)

    return write


def contents(server: Little) -> list[bytes]:
    """What the file server has of all files, in the order of their cookies."""
    return [bytes(server.nodes[cookie].data) for cookie in sorted(server.nodes)[1:]]


def flush(mount: Mount, waitfor: Wait, *, suspending: bool) -> None:
    """`pageflush`; with `suspending` as one who suspends."""
    if not suspending:
        pageflush(mount, FSCRED, waitfor)
        return
    mount.fstrans.setstate(State.SUSPENDING)
    pageflush(mount, FSCRED, waitfor, suspending=True)
    mount.fstrans.setstate(State.NORMAL)


# ---------------------------------------------------------------------------------------- pageflush


@pytest.mark.statement("P1")
def test_who_suspends_does_not_wait() -> None:
    mount, _ = mounted(Little(), flags=0)
    with pytest.raises(AssertionError, match="P1"):
        pageflush(mount, FSCRED, Wait.WAIT, suspending=True)
    flush(mount, Wait.NOWAIT, suspending=True)


@pytest.mark.statement("P2")
@pytest.mark.parametrize("state", [State.NORMAL, State.SUSPENDED])
def test_nobody_else_flushes_for_a_suspension(state: State) -> None:
    mount, _ = mounted(Little(), flags=0)
    if state is State.SUSPENDED:
        mount.suspend()
    with pytest.raises(AssertionError, match="P2"):
        pageflush(mount, FSCRED, Wait.NOWAIT, suspending=True)


@pytest.mark.statement("P4")
def test_only_what_is_dirty_is_flushed() -> None:
    server = Little()
    vnops, _ = cached(server)
    root = vnops.mount.root()
    fifo = vnops.mknod(root, "p", stat.S_IFIFO | 0o666).vnode
    vnops.write(vnops.open(fifo, os.O_WRONLY), 0, b"text")
    clean, dirty, read = some(vnops)
    vnops.fsync(clean)
    vnops.fsync(read)
    vnops.read(read, 0, 4)
    server.log.clear()
    pageflush(vnops.mount, CRED, Wait.WAIT)
    assert {call[1] for call in server.log} == {dirty.vnode.cookie}
    assert [call[0] for call in server.log] == ["setattr", "write", "fsync"]


@pytest.mark.statement("P5")
@pytest.mark.statement("P6")
@pytest.mark.parametrize(("waitfor", "suspending"), [(Wait.WAIT, False), (Wait.NOWAIT, True)])
def test_a_file_that_somebody_is_at_is_passed_over(waitfor: Wait, suspending: bool) -> None:
    server = Little()
    vnops, _ = cached(server)
    files = some(vnops)
    inside, go_on = threading.Event(), threading.Event()
    let_go: list[bool] = []

    def be_there() -> None:
        assert files[1].pages is not None
        with files[1].pages:
            inside.set()
            let_go.append(go_on.wait(10))

    busy = threading.Thread(target=be_there)
    busy.start()
    inside.wait(10)
    server.log.clear()
    flush(vnops.mount, waitfor, suspending=suspending)
    assert {call[1] for call in server.log} == {2, 4}
    go_on.set()
    busy.join()
    assert let_go == [True], "nobody has waited for it"
    vnops.close(files[1])
    assert contents(server) == [b"text", b"text", b"text"]


@pytest.mark.statement("P5")
def test_a_file_that_this_very_thread_is_at_is_passed_over() -> None:
    server = Little()
    vnops, _ = cached(server)
    first, _second = some(vnops, 2)

    def write(*args: Any) -> int:
        del server.says["write"]
        pageflush(vnops.mount, CRED, Wait.NOWAIT)
        return Little.write(server, *args)

    server.says["write"] = write
    vnops.fsync(first)
    assert [call[1] for call in server.asked("fsync")] == [3, 2]
    assert contents(server) == [b"text", b"text"]


@pytest.mark.statement("P3")
@pytest.mark.statement("P11")
@pytest.mark.parametrize("waitfor", Wait)
def test_a_file_that_vanishes_meanwhile_is_no_error(waitfor: Wait) -> None:
    server = Little()
    vnops, _ = cached(server)
    first, second, third = some(vnops)
    for file in (first, second, third):
        vnops.forget(file.vnode)

    def close_others(node: int, offset: int, data: memoryview, file: object) -> int:
        del server.says["write"]
        vnops.close(second)
        return Little.write(server, node, offset, data, file)

    server.says["write"] = close_others
    pageflush(vnops.mount, CRED, waitfor)
    assert contents(server) == [b"text"] * 3
    assert len(server.asked("write")) == 3, "each once"
    assert server.asked("reclaim") == [("reclaim", 3)]


@pytest.mark.statement("P10")
def test_the_first_error_is_kept_and_the_scan_goes_on() -> None:
    server = Little()
    vnops, _ = cached(server)
    some(vnops, 4)
    server.says["write"] = failing(server, {2: ENOSPC, 4: EIO})
    with fails(ENOSPC):
        pageflush(vnops.mount, CRED, Wait.NOWAIT)
    assert contents(server) == [b"", b"text", b"", b"text"]
    pageflush(vnops.mount, CRED, Wait.WAIT)


@pytest.mark.statement("P7")
@pytest.mark.statement("P8")
@pytest.mark.parametrize(("waitfor", "suspending"), NOT_WAITED_FOR)
def test_a_failure_that_nobody_waits_for_is_logged_and_the_data_are_kept(
    waitfor: Wait, suspending: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = Little()
    vnops, _ = cached(server)
    first, second = some(vnops, 2)
    server.says["write"] = failing(server, {2: ENOSPC})
    for name in ("setattr", "fsync"):
        server.says[name] = OSError(EPERM, "no")
    with caplog.at_level(logging.WARNING, "puffs"):
        flush(vnops.mount, waitfor, suspending=suspending)
    assert "4 bytes at 0 are not written" in caplog.text
    assert contents(server) == [b"", b"text"]
    assert vnops.read(first, 0, 10) == b"text", "they stay to be written"
    server.says.clear()
    vnops.close(second)
    vnops.close(first)
    assert contents(server) == [b"text", b"text"]


@pytest.mark.statement("P9")
@pytest.mark.parametrize("waitfor", Wait)
def test_fsync_is_waited_for_by_who_waits(waitfor: Wait) -> None:
    """6.1 item 11: the reference handed its number of one kind of flags on as another kind."""
    server = Little()
    vnops, _ = cached(server)
    some(vnops, 2)
    server.says["fsync"] = OSError(EIO, "broken")
    if waitfor is Wait.WAIT:
        with fails(EIO):
            pageflush(vnops.mount, CRED, waitfor)
    else:
        pageflush(vnops.mount, CRED, waitfor)
    assert [call[1:3] for call in server.asked("fsync")] == [(2, False), (3, False)]
    assert contents(server) == [b"text", b"text"]


# --------------------------------------------------------------------------------------------- sync


@pytest.mark.statement("Y1")
@pytest.mark.parametrize("waitfor", [Wait.WAIT, Wait.NOWAIT])
def test_pages_then_hosts_then_the_file_server(waitfor: Wait) -> None:
    server = Little()
    vnops, host = cached(server)
    some(vnops, 1)
    server.log.clear()
    server.says["fsync"] = lambda *args: host.log.append(("fsync",))
    vnops.mount.sync(waitfor, CRED)
    assert [call[0] for call in server.log] == ["setattr", "write", "fsync", "sync"]
    assert server.asked("sync") == [("sync", waitfor is Wait.WAIT, CRED)]
    assert host.log == [("fsync",), ("flush",), ("call",)]


@pytest.mark.statement("Y1")
@pytest.mark.statement("Y2")
def test_the_file_server_is_asked_also_when_pages_could_not_be_written() -> None:
    server = Little()
    vnops, host = cached(server)
    some(vnops, 1)
    server.says["write"] = OSError(ENOSPC, "full")
    host.flush_fails = OSError(EACCES, "no")
    with fails(ENOSPC):
        vnops.mount.sync()
    assert len(server.asked("sync")) == 1
    assert ("flush",) in host.log


def test_an_error_that_nobody_has_been_told_of_is_told_by_sync() -> None:
    server = Little()
    vnops, _ = cached(server)
    (file,) = some(vnops, 1)
    server.says["write"] = OSError(ENOSPC, "full")
    vnops.setattr(file.vnode, puffs.Changes(mode=0o600))
    with fails(ENOSPC):
        vnops.mount.sync()
    vnops.close(file)


@pytest.mark.statement("Y2")
def test_the_error_of_the_file_server_counts_more_than_that_of_pages() -> None:
    server = Little()
    vnops, _ = cached(server)
    some(vnops, 1)
    server.says["write"] = OSError(ENOSPC, "full")
    server.says["sync"] = OSError(EPERM, "no")
    with fails(EPERM):
        vnops.mount.sync()
    del server.says["sync"]
    vnops.mount.sync()


@pytest.mark.statement("Y1")
@pytest.mark.statement("P9")
def test_lazy_waits_for_nobody_and_is_told_of_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    server = Little()
    vnops, host = cached(server)
    some(vnops, 1)
    threads: list[threading.Thread] = []

    def write(*args: Any) -> int:
        threads.append(threading.current_thread())
        return Little.write(server, *args)

    server.says.update(write=write, sync=OSError(EIO, "broken"))
    with caplog.at_level(logging.ERROR, "puffs"):
        vnops.mount.sync(Wait.LAZY, CRED)
    assert contents(server) == [b"text"]
    assert host.log == [("post",)], "a host goes on writing by itself"
    assert server.asked("sync") == [("sync", False, CRED)]
    assert "sync failed" in caplog.text
    assert threads == [threading.current_thread()], "a message is a plain call"


@pytest.mark.statement("Y3")
@pytest.mark.parametrize("waitfor", Wait)
def test_a_mount_that_is_gone_cannot_be_synced(waitfor: Wait) -> None:
    server = Little()
    vnops, _ = cached(server)
    vnops.mount.unmount()
    server.log.clear()
    with fails(ENXIO):
        vnops.mount.sync(waitfor)
    assert server.log == []


def test_a_mount_that_no_host_has_is_synced_too() -> None:
    server = Little()
    mount = Mount(server, MountArgs("little"))
    mount.start()
    vnops = Vnops(mount, CRED)
    some(vnops, 1)
    mount.sync(Wait.LAZY)
    assert contents(server) == [b"text"]
    assert len(server.asked("sync")) == 1


# ------------------------------------------------------------------------- operations that may wait


class Slow(Little):
    """Writes when it is let to, in the event loop that finishes operations."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    async def _wait(self) -> None:
        await asyncio.to_thread(self.go_on.wait, 10)

    async def write(  # type: ignore[override]
        self, node: int, offset: int, data: memoryview, file: Any
    ) -> int:
        await self._wait()
        return super().write(node, offset, data, file)

    async def sync(self, wait: bool, cred: puffs.Cred) -> None:  # type: ignore[override]
        await self._wait()
        self.log.append(("synced",))

    async def fsync(self, node: int, datasync: bool, file: Any) -> None:  # type: ignore[override]
        """Syncs all the rest, from the thread of the loop."""
        pageflush(self.whole, FSCRED, Wait.LAZY)

    whole: Mount


@pytest.mark.statement("P7")
@pytest.mark.parametrize(("waitfor", "suspending"), NOT_WAITED_FOR)
def test_an_operation_that_waits_is_not_waited_for(waitfor: Wait, suspending: bool) -> None:
    server = Slow()
    with puffs.local(server, cache=True) as vfs:
        stream = vfs.open("/f", "wb", buffering=0)
        stream.write(b"text")
        flush(vfs.mount, waitfor, suspending=suspending)
        vfs.mount.sync(Wait.LAZY)
        assert contents(server) == [b""]
        assert server.asked("synced") == []
        server.go_on.set()
        vfs.mount.settle()
        assert contents(server) == [b"text"]
        assert len(server.asked("synced")) == 1
        stream.close()


@pytest.mark.statement("P8")
def test_the_file_server_may_flush_from_its_own_event_loop() -> None:
    server = Slow()
    server.go_on.set()
    with puffs.local(server, cache=True) as vfs:
        server.whole = vfs.mount
        first, second = (vfs.open(f"/f{number}", "wb", buffering=0) for number in range(2))
        first.write(b"first")
        second.write(b"second")
        vfs.mount.sync()
        vfs.mount.settle()
        assert contents(server) == [b"first", b"second"]


def test_what_was_put_aside_is_done_before_the_end() -> None:
    server = Slow()
    vfs = puffs.local(server, cache=True)
    vfs.mount.sync(Wait.LAZY)
    closer = threading.Thread(target=vfs.close)
    closer.start()
    server.go_on.set()
    closer.join()
    names = [call[0] for call in server.log]
    assert names.index("synced") < names.index("unmounted")
