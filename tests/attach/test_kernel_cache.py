"""What the kernel is told when a file server says that something has changed: the notifications."""

import os
import threading
from typing import Any

import pytest

from puffs.attach.fuse.abi import (
    NOTIFY_INVAL_ENTRY_OUT,
    NOTIFY_INVAL_INODE_OUT,
    Notify,
    Opcode,
)
from puffs.attach.fuse.cache import INC_EPOCH_MINOR
from tests.attach.fake_kernel import ROOT, FakeKernel
from tests.attach.toy import ROOT as ROOT_COOKIE
from tests.attach.toy import Toy

pytestmark = pytest.mark.usefixtures("loop")

FILE, DIR, LINK = ROOT_COOKIE + 1, ROOT_COOKIE + 2, ROOT_COOKIE + 3
"""The cookies of what a `Toy` begins with."""
PAGE = os.sysconf("SC_PAGE_SIZE")


def name(parent: int, text: bytes) -> tuple[int, bytes]:
    """The notification that forgets a name."""
    head = NOTIFY_INVAL_ENTRY_OUT.pack(parent=parent, namelen=len(text))
    return Notify.INVAL_ENTRY, head + text + b"\0"


def inode(ino: int, off: int = 0, len: int = 0) -> tuple[int, bytes]:
    """The notification that forgets attributes, and pages unless `off` is negative."""
    return Notify.INVAL_INODE, NOTIFY_INVAL_INODE_OUT.pack(ino=ino, off=off, len=len)


def told(kernel: FakeKernel, notice: Any, count: int) -> list[tuple[int, bytes]]:
    """The next notifications, after which the notice must be done, and nothing follow."""
    messages = [kernel.receive() for _ in range(count)]
    assert all(message.unique == 0 for message in messages)
    notice.result(10)
    assert kernel.until_quiet() == []
    return [(message.error, message.body) for message in messages]


@pytest.mark.parametrize(
    ("start", "end", "off", "len"),
    [
        (0, 0, 0, 0),
        (1, 0, 0, 0),
        (PAGE, 0, PAGE, 0),
        (PAGE + 1, PAGE + 2, PAGE, PAGE),
        (10, 2 * PAGE, 0, 2 * PAGE),
        (PAGE - 1, 2 * PAGE + 1, 0, 3 * PAGE),
    ],
)
@pytest.mark.parametrize("operation", ["invalidate_pages", "flush_pages"])
@pytest.mark.statement("2.8")
def test_pages_are_told_as_whole_ones(
    operation: str, start: int, end: int, off: int, len: int
) -> None:
    with FakeKernel(Toy()) as kernel:
        node = kernel.lookup(b"file")
        notice = getattr(kernel.mount, operation)(FILE, start, end)
        assert told(kernel, notice, 1) == [inode(node, off, len)]


def test_the_attributes_of_a_regular_file_go_without_its_pages() -> None:
    with FakeKernel(Toy()) as kernel:
        node = kernel.lookup(b"file")
        assert told(kernel, kernel.mount.invalidate_attr(FILE), 1) == [inode(node, -1)]


@pytest.mark.parametrize(("text", "cookie"), [(b"dir", DIR), (b"link", LINK)])
def test_of_other_files_everything_goes(text: bytes, cookie: int) -> None:
    with FakeKernel(Toy()) as kernel:
        node = kernel.lookup(text)
        assert told(kernel, kernel.mount.invalidate_attr(cookie), 1) == [inode(node)]


def test_the_kernel_is_told_nothing_of_what_it_does_not_know() -> None:
    with FakeKernel(Toy()) as kernel:
        for notice in (
            kernel.mount.invalidate_name(DIR, "x"),
            kernel.mount.invalidate_attr(FILE),
            kernel.mount.invalidate_pages(FILE),
            kernel.mount.flush_pages(FILE),
        ):
            assert told(kernel, notice, 0) == []
        node = kernel.lookup(b"file")
        kernel.tell(Opcode.FORGET, node, nlookup=1)
        assert told(kernel, kernel.mount.invalidate_pages(FILE), 0) == []


def test_what_is_known_in_this_process_alone_is_not_told_to_the_kernel() -> None:
    with FakeKernel(Toy()) as kernel:
        vnode = kernel.mount.vnodes.adopt(FILE, held=True)
        assert told(kernel, kernel.mount.invalidate_pages(FILE), 0) == []
        node = kernel.lookup(b"file")
        assert told(kernel, kernel.mount.invalidate_pages(FILE), 1) == [inode(node)]
        kernel.mount.vnodes.release(vnode)
        assert told(kernel, kernel.mount.invalidate_pages(FILE), 1) == [inode(node)]


def test_without_write_there_is_nothing_to_flush() -> None:
    class ReadOnly(Toy):
        def operations(self) -> dict[str, Any]:
            operations = super().operations()
            del operations["write"]
            return operations

    with FakeKernel(ReadOnly()) as kernel:
        kernel.lookup(b"file")
        assert told(kernel, kernel.mount.flush_pages(FILE), 0) == []


def test_all_names_go_with_one_message_and_their_directories_with_them() -> None:
    with FakeKernel(Toy(), minor=INC_EPOCH_MINOR) as kernel:
        kernel.lookup(b"file")
        dir = kernel.lookup(b"dir")
        messages = told(kernel, kernel.mount.invalidate_names(), 3)
        assert messages[0] == (Notify.INC_EPOCH, b"")
        assert sorted(messages[1:]) == sorted([inode(ROOT), inode(dir)])
        messages = told(kernel, kernel.mount.invalidate_names(DIR), 2)
        assert messages == [(Notify.INC_EPOCH, b""), inode(dir)]


def test_before_there_was_that_message_each_known_name_is_told() -> None:
    with FakeKernel(Toy(), minor=INC_EPOCH_MINOR - 1) as kernel:
        dir = kernel.lookup(b"dir")
        kernel.lookup(b"file")
        kernel.entry(Opcode.MKDIR, dir, "ünter".encode(), mode=0o755)
        messages = told(kernel, kernel.mount.invalidate_names(), 6)
        assert sorted(messages[:3]) == sorted(
            [name(ROOT, b"dir"), name(ROOT, b"file"), name(dir, "ünter".encode())]
        )
        messages = told(kernel, kernel.mount.invalidate_names(DIR), 2)
        assert messages == [name(dir, "ünter".encode()), inode(dir)]


def test_what_is_told_from_several_threads_is_all_told() -> None:
    with FakeKernel(Toy()) as kernel:
        kernel.lookup(b"file")
        threads = [
            threading.Thread(target=kernel.mount.invalidate_attr, args=(FILE,)) for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert kernel.receive().error == Notify.INVAL_INODE
        for thread in threads:
            thread.join()
