"""A session from INIT to its end: what it settles with kernels of many kinds, that nothing a kernel
or a file server does ends it, and that it gives everything back.
"""

import errno
import os
import threading
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import puffs
from puffs.attach.fuse import abi
from puffs.attach.fuse.abi import INIT_OUT, MESSAGES, Notify, Opcode
from puffs.attach.fuse.options import MountOptions
from puffs.kernel.attachment import LongNames
from tests.attach.fake_kernel import (
    EVERY_FLAG,
    ROOT,
    FakeKernel,
    Reply,
    init_body,
    request_body,
    unserved,
)
from tests.attach.toy import ROOT as ROOT_COOKIE
from tests.attach.toy import Bare, Toy, Unchecked

pytestmark = pytest.mark.usefixtures("loop")

COMPAT = abi.COMPAT_INIT_IN_SIZE


def flags_of(init_out: dict[str, Any]) -> int:
    return int(init_out["flags"] | init_out["flags2"] << 32)


# -------------------------------------------------------------------------------------------- INIT


@pytest.mark.parametrize(
    ("minor", "size", "answered"),
    [(31, COMPAT, 31), (35, COMPAT, 35), (36, 64, 36), (40, 64, 40), (45, 64, 45), (46, 64, 45)],
)
def test_both_sides_speak_the_older_of_two_protocols(minor: int, size: int, answered: int) -> None:
    with unserved(Toy()) as kernel:
        reply = kernel.exchange(Opcode.INIT, 0, init_body(minor=minor, size=size))
        assert (reply.error, len(reply.body)) == (0, 64)
        out = INIT_OUT.unpack(reply.body)
        assert (out["major"], out["minor"]) == (7, answered)
        assert kernel.ready.wait(10)
        assert kernel.lookup(b"file")


@settings(max_examples=50)
@given(offered=st.integers(0, EVERY_FLAG), minor=st.integers(31, 46))
def test_nothing_is_used_that_the_kernel_did_not_offer(offered: int, minor: int) -> None:
    if not offered & abi.FUSE_INIT_EXT:
        offered &= 0xFFFFFFFF
    with FakeKernel(Toy(), minor=minor, flags=offered) as kernel:
        if minor < 36:
            offered &= 0xFFFFFFFF
        assert flags_of(kernel.init_out) & ~offered == 0


def test_a_short_init_offers_no_second_word_of_flags() -> None:
    with unserved(Toy()) as kernel:
        reply = kernel.exchange(Opcode.INIT, 0, init_body(flags=EVERY_FLAG, size=COMPAT))
        assert INIT_OUT.unpack(reply.body)["flags2"] == 0


class WithIds(Toy):
    def fileid(self, node: int) -> tuple[int, int]:
        return node, 3


class Exported(WithIds):
    def vget(self, ino: int) -> int:
        return ino


class OnlyVget(Toy):
    """Its numbers are the kernel half's, and mean nothing to it."""

    def vget(self, ino: int) -> int:
        return ino


@pytest.mark.parametrize(
    ("server", "used", "unused"),
    [
        (Toy, abi.FUSE_POSIX_LOCKS | abi.FUSE_FLOCK_LOCKS | abi.FUSE_DO_READDIRPLUS, 0),
        (Toy, abi.FUSE_NO_EXPORT_SUPPORT, abi.FUSE_EXPORT_SUPPORT),
        (WithIds, 0, abi.FUSE_EXPORT_SUPPORT | abi.FUSE_NO_EXPORT_SUPPORT),
        (Exported, abi.FUSE_EXPORT_SUPPORT, abi.FUSE_NO_EXPORT_SUPPORT),
        (OnlyVget, abi.FUSE_NO_EXPORT_SUPPORT, abi.FUSE_EXPORT_SUPPORT),
        (Bare, 0, abi.FUSE_POSIX_LOCKS | abi.FUSE_FLOCK_LOCKS | abi.FUSE_DO_READDIRPLUS),
    ],
)
def test_what_is_used_depends_on_the_file_server(
    server: type[puffs.FileSystem[int]], used: int, unused: int
) -> None:
    with FakeKernel(server()) as kernel:
        flags = flags_of(kernel.init_out)
        assert flags & used == used
        assert flags & unused == 0
        assert flags & (abi.FUSE_WRITEBACK_CACHE | abi.FUSE_PASSTHROUGH) == 0


def test_the_size_of_requests_is_settled() -> None:
    with FakeKernel(Toy(), max_write=1 << 20) as kernel:
        out = kernel.init_out
        assert (out["max_write"], out["max_pages"]) == (1 << 20, 256)
        assert out["max_readahead"] == 131072
    with FakeKernel(Toy(), max_write=1 << 20, flags=EVERY_FLAG & ~abi.FUSE_MAX_PAGES) as kernel:
        assert kernel.init_out["max_write"] == 128 << 10


def test_what_a_mount_was_asked_for_is_settled() -> None:
    locks = abi.FUSE_POSIX_LOCKS | abi.FUSE_FLOCK_LOCKS
    with FakeKernel(Toy()) as kernel:
        out, flags = kernel.init_out, flags_of(kernel.init_out)
        assert flags & (abi.FUSE_ASYNC_READ | abi.FUSE_ATOMIC_O_TRUNC) == abi.FUSE_ASYNC_READ
        assert (out["max_background"], out["congestion_threshold"]) == (64, 48)
    options = MountOptions(
        max_readahead=4096, max_background=8, async_read=False, atomic_o_trunc=True, flocks=False
    )
    with FakeKernel(Toy(), options=options) as kernel:
        out, flags = kernel.init_out, flags_of(kernel.init_out)
        assert flags & (abi.FUSE_ASYNC_READ | abi.FUSE_ATOMIC_O_TRUNC) == abi.FUSE_ATOMIC_O_TRUNC
        assert flags & locks == abi.FUSE_POSIX_LOCKS
        assert (out["max_background"], out["congestion_threshold"]) == (8, 6)
        assert out["max_readahead"] == 4096
    options = MountOptions(max_readahead=1 << 30, congestion_threshold=5, posix_locks=False)
    with FakeKernel(Toy(), options=options) as kernel:
        out = kernel.init_out
        assert flags_of(out) & locks == abi.FUSE_FLOCK_LOCKS
        assert (out["max_readahead"], out["congestion_threshold"]) == (131072, 5)


def test_passthrough_is_settled_where_it_was_asked_for() -> None:
    with FakeKernel(Toy()) as kernel:
        assert kernel.init_out["max_stack_depth"] == 0
    with FakeKernel(Toy(), options=MountOptions(passthrough=True)) as kernel:
        assert flags_of(kernel.init_out) & abi.FUSE_PASSTHROUGH
        assert kernel.init_out["max_stack_depth"] == 1


def test_a_kernel_without_passthrough_is_refused_in_plain_words() -> None:
    with unserved(Toy(), MountOptions(passthrough=True)) as kernel:
        offered = EVERY_FLAG & ~abi.FUSE_PASSTHROUGH
        kernel.send_bytes(Opcode.INIT, 0, init_body(flags=offered))
        kernel.ended()
        assert isinstance(kernel.failure, OSError)
        assert kernel.failure.errno == errno.EOPNOTSUPP
        assert "Linux 6.9" in str(kernel.failure)
        assert "omit -o passthrough" in str(kernel.failure)


def test_a_kernel_of_a_later_major_version_is_asked_to_come_down() -> None:
    with unserved(Toy()) as kernel:
        reply = kernel.exchange(Opcode.INIT, 0, init_body(major=8, minor=0))
        assert (reply.error, INIT_OUT.unpack(reply.body)["major"]) == (0, 7)
        reply = kernel.exchange(Opcode.INIT, 0, init_body())
        assert INIT_OUT.unpack(reply.body)["minor"] == 45
        assert kernel.lookup(b"file")


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (7, 0), (6, 99), (0, 45)])
def test_a_kernel_that_is_too_old_is_refused_in_plain_words(major: int, minor: int) -> None:
    toy = Toy()
    with unserved(toy) as kernel:
        kernel.send_bytes(Opcode.INIT, 0, init_body(major=major, minor=minor, size=COMPAT))
        kernel.ended()
        assert isinstance(kernel.failure, OSError)
        assert kernel.failure.errno == errno.EPROTONOSUPPORT
        assert f"FUSE {major}.{minor}" in str(kernel.failure)
        assert "7.31 or later" in str(kernel.failure)
    assert toy.calls[-1] == ("unmounted",)


def test_what_comes_before_init_is_an_error() -> None:
    with unserved(Toy()) as kernel:
        assert kernel.exchange(Opcode.GETATTR, ROOT, bytes(16)).error == errno.EIO
        assert kernel.exchange(Opcode.INIT, 0, init_body()).error == 0


def test_a_connection_that_ends_before_init_ends_the_mount() -> None:
    toy = Toy()
    with unserved(toy) as kernel:
        pass
    assert kernel.failure is None
    assert [name for name, *_ in toy.calls] == ["mount", "getattr", "unmounted"]
    assert kernel.mount.wait(0)


# --------------------------------------------------------------------------------------- the loop


def test_the_number_of_a_request_that_was_sent_again_comes_back_whole() -> None:
    with FakeKernel(Toy()) as kernel:
        again = abi.FUSE_UNIQUE_RESEND | 4712
        assert kernel.exchange(Opcode.LOOKUP, ROOT, b"file\0", unique=again).error == 0


NODES = st.sampled_from([0, 1, 2, 3, 4, 99, 1 << 63, (1 << 64) - 1])


def check_replies(opcode: int, replies: list[Reply]) -> None:
    known = opcode in list(MESSAGES)
    due = MESSAGES[Opcode(opcode)].has_reply if known else True
    assert len(replies) == due


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("opcode", MESSAGES, ids=lambda opcode: opcode.name)
def test_nonsense_does_not_end_a_session(opcode: Opcode) -> None:
    with FakeKernel(Toy()) as kernel:
        kernel.open(kernel.lookup(b"file"), flags=os.O_RDWR)
        kernel.open(ROOT, Opcode.OPENDIR)

        @settings(max_examples=15)
        @given(nodeid=NODES, body=st.binary(max_size=200))
        def garbage(nodeid: int, body: bytes) -> None:
            check_replies(opcode, kernel.replies_to(opcode, nodeid, body))

        garbage()
        layout = MESSAGES[opcode].request
        whole = request_body(opcode, {}, [b"name"] * MESSAGES[opcode].names, b"data")
        numbers = dict.fromkeys(layout.zeros, (1 << 32) - 1) if layout is not None else {}
        huge = request_body(opcode, numbers, [b"x" * 255], b"")
        for body in [whole[:length] for length in range(len(whole))] + [huge]:
            for nodeid in (ROOT, 2):
                check_replies(opcode, kernel.replies_to(opcode, nodeid, body))
        assert kernel.alive
        assert kernel.ask(Opcode.GETATTR, ROOT).error == 0


@pytest.mark.usefixtures("silent")
def test_no_opcode_ends_a_session() -> None:
    with FakeKernel(Toy()) as kernel:

        @settings(max_examples=200)
        @given(opcode=st.integers(0, 2**32 - 1), body=st.binary(max_size=64))
        def garbage(opcode: int, body: bytes) -> None:
            check_replies(opcode, kernel.replies_to(opcode, ROOT, body))

        garbage()
        assert kernel.ask(Opcode.GETATTR, ROOT).error == 0


# ------------------------------------------------------------------------------------- exceptions


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


QUIET: list[tuple[BaseException, int]] = [
    (FileNotFoundError(), errno.ENOENT),
    (FileNotFoundError("no such thing"), errno.ENOENT),
    (FileNotFoundError(errno.ENOENT, "no such thing"), errno.ENOENT),
    (PermissionError(), errno.EACCES),
    (PermissionError(errno.EPERM, "no"), errno.EPERM),
    (FileExistsError("there"), errno.EEXIST),
    (IsADirectoryError(), errno.EISDIR),
    (NotADirectoryError(), errno.ENOTDIR),
    (BlockingIOError(), errno.EAGAIN),
    (InterruptedError(), errno.EINTR),
    (TimeoutError(), errno.ETIMEDOUT),
    (OSError(errno.EDQUOT, "full"), errno.EDQUOT),
    (OSError(errno.EDQUOT), errno.EDQUOT),
    (OSError(errno.ENOSYS, "not for this file"), errno.EOPNOTSUPP),
    (OSError(511, "the last one"), 511),
    (NotImplementedError(), errno.EOPNOTSUPP),  # ENOSYS would be for good
    (MemoryError(), errno.ENOMEM),
]
LOUD: list[tuple[BaseException, int]] = [
    (ValueError("a mistake"), errno.EIO),
    (KeyError("a mistake"), errno.EIO),
    (OSError(), errno.EIO),
    (OSError("only a text"), errno.EIO),
    (OSError("not a", "number"), errno.EIO),
    (RecursionError(), errno.EIO),
    (StopIteration(), errno.EIO),
    (NoText(), errno.EIO),
    (SystemExit(3), errno.EIO),
    (GeneratorExit(), errno.EIO),
]
FAULTY: list[tuple[BaseException, int]] = [
    (OSError(code, ""), errno.EPROTO) for code in (-1, 0, 512, 99999, 1 << 40)
]


def named(value: object) -> str:
    return repr(value) if isinstance(value, BaseException) else ""


@pytest.mark.parametrize(("raised", "code"), QUIET + LOUD + FAULTY, ids=named)
@pytest.mark.parametrize("operation", ["getattr", "write"])
def test_an_exception_is_an_errno_for_the_caller_and_the_session_goes_on(
    raised: BaseException, code: int, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    toy = Toy()
    with FakeKernel(toy) as kernel:
        file = kernel.lookup(b"file")
        toy.refuse[operation] = raised
        if operation == "write":
            reply = kernel.ask(Opcode.WRITE, file, data=b"x", size=1)
        else:
            reply = kernel.ask(Opcode.GETATTR, file)
        assert errno.errorcode.get(reply.error, reply.error) == errno.errorcode.get(code, code)
        assert kernel.until_quiet() == []
        toy.refuse.clear()
        assert kernel.ask(Opcode.GETATTR, file).error == 0
    lines = [record for record in caplog.records if record.name == "puffs"]
    if (raised, code) in QUIET:
        assert lines == []
    else:
        (line,) = lines
        assert bool(line.exc_info) == ((raised, code) in LOUD)
        assert operation in line.getMessage()
    assert len(toy.called("error")) == ((raised, code) in FAULTY)


def test_a_failing_error_operation_does_no_harm() -> None:
    toy = Toy()
    toy.refuse = {"error": ValueError("and now?")}
    toy.reply["read"] = "text"
    with FakeKernel(toy) as kernel:
        assert kernel.ask(Opcode.READ, kernel.lookup(b"file"), size=4).error == errno.EPROTO
        assert kernel.ask(Opcode.GETATTR, ROOT).error == 0


def test_a_name_that_is_not_there_may_be_remembered() -> None:
    class Remembered(Unchecked):
        negative_ttl: float = 2.5

    toy = Remembered()
    with FakeKernel(toy) as kernel:
        entry = kernel.entry(Opcode.LOOKUP, ROOT, b"nothing")
        assert (entry["nodeid"], entry["entry_valid"], entry["entry_valid_nsec"]) == (
            0,
            2,
            5 * 10**8,
        )
        toy.refuse["getattr"] = FileNotFoundError(errno.ENOENT, "gone")
        assert kernel.ask(Opcode.GETATTR, ROOT).error == errno.ENOENT
        toy.refuse["lookup"] = PermissionError(errno.EACCES, "no")
        assert kernel.ask(Opcode.LOOKUP, ROOT, b"nothing").error == errno.EACCES
    with FakeKernel(Toy()) as kernel:
        assert kernel.ask(Opcode.LOOKUP, ROOT, b"nothing").error == errno.ENOENT


@pytest.mark.parametrize(
    ("length", "code"), [(255, errno.ENOENT), (256, errno.ENAMETOOLONG), (1024, errno.ENAMETOOLONG)]
)
def test_names_that_no_listing_could_show_are_not_looked_up(length: int, code: int) -> None:
    toy = Toy()
    toy.refuse["lookup"] = FileNotFoundError(errno.ENOENT, "asked")
    with FakeKernel(toy) as kernel:
        assert kernel.ask(Opcode.LOOKUP, ROOT, b"n" * length).error == code


class LongToy(Toy, LongNames):
    pass


def test_a_file_server_may_have_longer_names_than_linux() -> None:
    names = ["n" * 1024, "\N{CJK UNIFIED IDEOGRAPH-65E5}" * 100]
    toy = LongToy()
    with FakeKernel(toy) as kernel:
        for name in names:
            kernel.entry(Opcode.MKNOD, ROOT, os.fsencode(name), mode=0o100644)
            kernel.lookup(os.fsencode(name))
        assert kernel.ask(Opcode.LOOKUP, ROOT, b"n" * 1025).error == errno.ENAMETOOLONG
        for plus in False, True:
            fh = kernel.open(ROOT, Opcode.OPENDIR)
            listed = {os.fsdecode(entry.name) for entry in kernel.listing(ROOT, fh, plus=plus)}
            assert set(names) < listed
    with puffs.local(LongToy()) as vfs:
        for name in names:
            vfs.write_bytes(f"/{name}", b"text")
            assert vfs.read_bytes(f"/{name}") == b"text"
        assert set(names) < set(vfs.listdir("/"))


@pytest.mark.statement("2.9")
@pytest.mark.parametrize(
    ("seconds", "wire"),
    [
        (0, (0, 0)),
        (-1, (0, 0)),
        (float("nan"), (0, 0)),
        (1e-9, (0, 1)),
        (1.5, (1, 5 * 10**8)),
        (puffs.FOREVER, (1 << 31, 0)),
        (1e300, (1 << 31, 0)),
    ],
)
def test_lifetimes_reach_the_kernel(seconds: float, wire: tuple[int, int]) -> None:
    toy = Unchecked()
    with FakeKernel(toy) as kernel:
        attr = toy.attrs[ROOT_COOKIE]
        toy.reply["lookup"] = puffs.Entry(7, attr, name_ttl=seconds, attr_ttl=seconds)
        entry = kernel.entry(Opcode.LOOKUP, ROOT, b"x")
        assert (entry["entry_valid"], entry["entry_valid_nsec"]) == wire
        assert (entry["attr_valid"], entry["attr_valid_nsec"]) == wire
        toy.reply["lookup"] = puffs.Entry(8, attr, name_ttl=seconds)
        entry = kernel.entry(Opcode.LOOKUP, ROOT, b"y")
        assert (entry["attr_valid"], entry["attr_valid_nsec"]) == (1, 0)  # of the class


# ----------------------------------------------------------------------------------- the end


def test_everything_is_given_back_at_the_end_in_order() -> None:
    toy = Toy()
    with FakeKernel(toy) as kernel:
        file, dir = kernel.lookup(b"file"), kernel.lookup(b"dir")
        kernel.open(file)
        kernel.open(file, flags=os.O_RDWR)
        kernel.open(dir, Opcode.OPENDIR)
        kernel.ask(Opcode.CREATE, ROOT, b"new")
        toy.calls.clear()
    names = [name for name, *_ in toy.calls]
    assert names[-1] == "unmounted"
    assert names.count("unmounted") == names.count("sync") == 1
    opened = [args[1] for args in toy.called("close")]
    assert opened == ["file 0", "file 1", "file 3"]  # each open file, once
    assert [args[1] for args in toy.called("closedir")] == ["directory 2"]
    new = toy.names[ROOT_COOKIE, "new"]
    cookies = [toy.names[ROOT_COOKIE, "file"], toy.names[ROOT_COOKIE, "dir"], new]
    assert sorted(args[0] for args in toy.called("inactive")) == cookies
    assert sorted(args[0] for args in toy.called("reclaim")) == cookies
    order = ["close", "sync", "reclaim"]
    assert [name for name in dict.fromkeys(names) if name in order] == order
    for cookie in cookies:
        assert names.index("inactive") < toy.calls.index(("reclaim", cookie))


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    "operation", ["sync", "close", "closedir", "inactive", "reclaim", "unmounted"]
)
@pytest.mark.parametrize("failure", [ValueError("a mistake"), SystemExit(1)], ids=repr)
def test_no_failure_keeps_the_end_from_coming(operation: str, failure: BaseException) -> None:
    toy = Toy()
    with FakeKernel(toy) as kernel:
        file = kernel.lookup(b"file")
        for _ in range(2):
            kernel.open(file)
            kernel.open(ROOT, Opcode.OPENDIR)
        toy.refuse[operation] = failure
        toy.calls.clear()
    assert kernel.mount.wait(0)
    called = [name for name, *_ in toy.calls]
    assert [called.count(name) for name in ("close", "closedir", "unmounted")] == [2, 2, 1]
    assert called[-1] == "unmounted"


def test_an_unmount_during_the_end_waits_for_it() -> None:
    goon, syncing = threading.Event(), threading.Event()

    class Slow(Toy):
        def sync(self, wait: bool, cred: puffs.Cred) -> None:
            syncing.set()
            assert goon.wait(10)

    toy = Slow()
    kernel = FakeKernel(toy)
    ending = threading.Thread(target=kernel.close)
    ending.start()
    assert syncing.wait(10)
    unmounting = threading.Thread(target=kernel.mount.unmount)
    unmounting.start()
    goon.set()
    ending.join(10)
    unmounting.join(10)
    assert not unmounting.is_alive()
    assert len(toy.called("unmounted")) == 1


# --------------------------------------------------------------------- other threads, notifications


def test_a_notification_is_written_and_its_outcome_told() -> None:
    with FakeKernel(Toy()) as kernel:
        notice = kernel.mount.invalidate_name(ROOT_COOKIE, "näme\udcff")
        told = kernel.receive()
        assert (told.unique, told.error) == (0, Notify.INVAL_ENTRY)
        name = "näme".encode() + b"\xff"
        assert told.body == abi.NOTIFY_INVAL_ENTRY_OUT.pack(parent=1, namelen=6) + name + b"\0"
        told = kernel.receive()
        assert (told.unique, told.error) == (0, Notify.INVAL_INODE)
        assert told.body == abi.NOTIFY_INVAL_INODE_OUT.pack(ino=ROOT)
        notice.result(10)
    kernel.mount.invalidate_name(ROOT_COOKIE, "late").result(10)  # nobody to be told: no error


def test_who_polls_is_woken_by_whoever_calls_wake() -> None:
    wakes: list[Any] = []

    class Pollable(Toy):
        def poll(self, node: int, events: int, file: object, wake: Any) -> int:
            wakes.append(wake)
            return 0

    with FakeKernel(Pollable()) as kernel:
        file = kernel.lookup(b"file")
        fh = kernel.open(file)
        kernel.ask(Opcode.POLL, file, fh=fh, kh=77, flags=abi.FUSE_POLL_SCHEDULE_NOTIFY)
        waker = threading.Thread(target=wakes[0])
        waker.start()
        told = kernel.receive()
        waker.join()
        assert (told.unique, told.error) == (0, Notify.POLL)
        assert told.body == abi.NOTIFY_POLL_WAKEUP_OUT.pack(kh=77)


def test_waiting_for_a_notification_inside_an_operation_is_an_error() -> None:
    class Waiting(Toy):
        told: ClassVar[Any] = None

        def mounted(self, mount: puffs.Mount) -> None:
            self.its = mount

        def setattr(self, *args: Any) -> puffs.Attr:
            Waiting.told = self.its.invalidate_attr(ROOT_COOKIE)
            for wait in (Waiting.told.result, Waiting.told.exception, Waiting.told.__await__):
                with pytest.raises(RuntimeError, match="inside an operation would never end"):
                    wait()
            raise OSError(errno.EDOM, "all was as it should be")

    with FakeKernel(Waiting()) as kernel:
        unique = kernel.send_bytes(Opcode.SETATTR, ROOT, bytes(88))
        answers = {reply.unique: reply for reply in (kernel.receive(), kernel.receive())}
        assert answers[unique].error == errno.EDOM
        assert answers[0].error == Notify.INVAL_INODE  # it is sent all the same
        Waiting.told.result(10)


def test_a_call_from_another_thread_runs_where_operations_run() -> None:
    with FakeKernel(Toy()) as kernel:
        results: list[object] = []

        def call() -> None:
            results.append(kernel.session.call(threading.get_native_id))
            with pytest.raises(ZeroDivisionError):
                kernel.session.call(lambda: 1 // 0)
            results.append("done")

        caller = threading.Thread(target=call)
        caller.start()
        while caller.is_alive():  # a kernel sends STATFS when statvfs(2) is called for the mount
            kernel.ask(Opcode.STATFS, ROOT)
        assert results[1] == "done"
        assert results[0] not in (caller.native_id, threading.get_native_id())
    with pytest.raises(OSError, match="not mounted any more") as caught:
        kernel.session.call(len, "")
    assert caught.value.errno == errno.ENXIO


def test_inside_an_operation_nothing_waits_for_the_session() -> None:
    class Impatient(Toy):
        kernel: ClassVar[Any] = None

        def setattr(self, *args: Any) -> puffs.Attr:
            for impossible in (
                lambda: self.kernel.session.call(len, ""),
                self.kernel.mount.sync,
                self.kernel.mount.unmount,
                lambda: self.kernel.mount.unmount(force=True),
            ):
                with pytest.raises(OSError) as caught:
                    impossible()
                assert caught.value.errno == errno.EDEADLK
            raise OSError(errno.EDOM, "all was as it should be")

    with FakeKernel(Impatient()) as kernel:
        Impatient.kernel = kernel
        assert errno.errorcode.get(kernel.ask(Opcode.SETATTR, ROOT).error) == "EDOM"
