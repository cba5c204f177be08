"""Flush operations (statement 2.8) on the page cache of the kernel half."""

import os
import threading
from errno import EIO
from typing import Any

import pytest

import puffs
from puffs.kernel.notice import Notice
from puffs.kernel.pages import PAGE
from puffs.kernel.vnops import Vnops
from tests.kernel.little import (
    CRED,
    FakeHost,
    Little,
    a_file,
    cached,
    contents,
    fails,
    mounted,
    stored,
)

SECONDS = 10.0


@pytest.mark.statement("2.8")
def test_contents_that_have_changed_are_read_anew() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"first", os.O_RDONLY)
    assert vnops.read(file, 0, 9) == b"first"
    server.nodes[2].data[:] = b"other"
    assert vnops.read(file, 0, 9) == b"first"
    assert vnops.mount.invalidate_pages(2).done()
    assert vnops.read(file, 0, 9) == b"other"


def test_contents_that_are_given_replace_what_was_cached() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"first", os.O_RDONLY)
    assert vnops.read(file, 0, 9) == b"first"
    server.nodes[2].data[:] = b"other"
    assert vnops.mount.store_pages(2, 0, b"other").done()
    assert vnops.read(file, 0, 9) == b"other"


@pytest.mark.statement("2.8")
def test_what_is_dirty_in_the_range_is_lost() -> None:
    server = Little()
    vnops = cached(server)
    _, file = a_file(vnops, data=b"a" * 3 * PAGE)
    assert vnops.mount.invalidate_pages(2, PAGE + 1, PAGE + 2).done()
    vnops.fsync(file)
    assert contents(server) == b"a" * PAGE + bytes(PAGE) + b"a" * PAGE


@pytest.mark.statement("2.8")
def test_a_size_that_has_changed_is_asked_anew_and_contents_stay() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"first", os.O_RDONLY)
    vnops.read(file, 0, 9)
    server.nodes[2].data += b" more"
    server.nodes[2].attr.size = 3
    assert vnops.mount.invalidate_attr(2).done()
    server.log.clear()
    assert vnops.read(file, 0, 3) == b"fir"
    assert [call[0] for call in server.asked("getattr", "read")] == ["getattr"]


@pytest.mark.statement("2.8")
def test_dirty_pages_are_written_when_the_notice_is_done() -> None:
    server = Little()
    vnops = cached(server)
    a_file(vnops, data=b"a" * 2 * PAGE)
    vnops.mount.flush_pages(2, 0, PAGE).result(SECONDS)
    assert contents(server) == b"a" * PAGE
    vnops.mount.flush_pages(2).result(SECONDS)
    assert contents(server) == b"a" * 2 * PAGE
    assert vnops.mount.flush_pages(2).done(), "nothing is left to be written"


def test_a_flush_that_fails_is_told_in_the_notice() -> None:
    server = Little()
    vnops = cached(server)
    a_file(vnops, data=b"text")
    server.says["write"] = OSError(EIO, "broken")
    with fails(EIO):
        vnops.mount.flush_pages(2).result(SECONDS)


@pytest.mark.statement("2.8")
def test_inside_an_operation_it_is_done_when_that_has_ended() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"first", os.O_RDWR)
    notices: list[Notice] = []

    def read(node: int, offset: int, size: int, handle: Any) -> bytes:
        old = bytes(server.nodes[2].data)
        server.nodes[2].data[:] = b"other"
        notices.append(vnops.mount.invalidate_pages(2))
        assert not notices[0].done()
        return old

    server.says["read"] = read
    assert vnops.read(file, 0, 9) == b"first", "it was under way"
    assert notices[0].done()
    del server.says["read"]
    assert vnops.read(file, 0, 9) == b"other"

    def getattr(node: int, handle: Any) -> puffs.Attr:
        notices.append(vnops.mount.flush_pages(2))
        return server.nodes[2].attr

    vnops.write(file, 0, b"dirty")
    server.says["getattr"] = getattr
    vnops.getattr(file.vnode)
    notices[1].result(SECONDS)
    assert contents(server) == b"dirty"


def test_nothing_is_written_for_it_while_the_mount_is_suspended() -> None:
    server = Little()
    vnops = cached(server)
    a_file(vnops, data=b"text")
    server.says["write"] = OSError(EIO, "not yet")
    with vnops.mount.suspended():
        del server.says["write"]
        notice = vnops.mount.flush_pages(2)
        with pytest.raises(TimeoutError):
            notice.result(0.05)
        assert contents(server) == b""
    notice.result(SECONDS)
    assert contents(server) == b"text"


def test_hosts_with_one_page_cache_take_nothing_from_each_other() -> None:
    server = Little()
    mount, first = mounted(server, flags=0)
    second = FakeHost(mount)
    mount.attach(second)
    ours, theirs = Vnops(mount, CRED, host=first), Vnops(mount, CRED, host=second)
    vnode, file = a_file(ours, data=b"ours..")
    other = theirs.open(vnode, os.O_RDWR)
    theirs.write(other, 4, b"theirs")
    assert ours.read(file, 0, 20) == b"ourstheirs"
    assert theirs.read(other, 0, 20) == b"ourstheirs"
    for vnops, handle in ((ours, file), (theirs, other)):
        vnops.close(handle)
    assert contents(server) == b"ourstheirs"


def test_who_comes_while_somebody_leaves_is_not_forgotten() -> None:
    server = Little()
    vnops = cached(server)
    file = stored(vnops, server, b"text", os.O_RDONLY)
    stop = threading.Event()

    def reads() -> None:
        while not stop.is_set():
            vnops.read(file, 0, 4)

    reader = threading.Thread(target=reads)
    reader.start()
    try:
        for _ in range(300):
            vnops.mount.invalidate_pages(2).result(SECONDS)
    finally:
        stop.set()
        reader.join()
