"""Flush operations (statement 2.8): what a file server may say, and which hosts hear it."""

import asyncio
import errno
import os
import stat
import threading
from typing import Any

import pytest

from puffs.kernel.flush import FlushOp, FlushRequest
from puffs.kernel.mount import Mount
from puffs.kernel.notice import Notice, done, together
from puffs.server.cred import Cred, requester
from tests.kernel.little import CRED, ROOT, FakeCache, FakeHost, Little, fails, mounted

PAGE = os.sysconf("SC_PAGE_SIZE")
FILE, DIR, LINK, STRANGER = 2, 3, 4, 4711


@pytest.fixture
def mount() -> Mount:
    """A mount whose host knows a file, a directory and a symbolic link, and has a `FakeCache`."""
    server = Little()
    mount, host = mounted(server)
    host.cache = FakeCache()
    kinds = {FILE: stat.S_IFREG, DIR: stat.S_IFDIR, LINK: stat.S_IFLNK}
    for cookie, kind in kinds.items():
        mount.vnodes.adopt(cookie).type = kind
    return mount


def cache_of(mount: Mount) -> FakeCache:
    (cache,) = mount.caches()
    assert isinstance(cache, FakeCache)
    return cache


def request(op: int, cookie: Any = None, *args: Any, **more: Any) -> FlushRequest:
    return FlushRequest(op, cookie, *args, **more)


# ---------------------------------------------------------------------------------------- the table


@pytest.mark.statement("2.8")
def test_the_numbers_are_those_of_the_reference() -> None:
    assert [op.value for op in FlushOp] == [0, 1, 2, 3, 4, 5]
    assert FlushOp(1) is FlushOp.INVAL_NAMECACHE_DIR
    assert FlushOp(2) is FlushOp.INVAL_NAMECACHE_ALL
    assert FlushOp(3) is FlushOp.INVAL_PAGECACHE_NODE_RANGE
    assert FlushOp(4) is FlushOp.FLUSH_PAGECACHE_NODE_RANGE


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (request(1, DIR), ("invalidate_names", DIR)),
        (request(1, DIR, name="x"), ("invalidate_name", DIR, "x")),
        (request(1, ROOT, name="x"), ("invalidate_name", ROOT, "x")),
        (request(2), ("invalidate_names", None)),
        (request(2, STRANGER), ("invalidate_names", None)),
        (request(3, FILE), ("invalidate_pages", FILE, 0, 0)),
        (request(4, FILE), ("flush_pages", FILE, 0, 0)),
        (request(5, FILE), ("invalidate_attr", FILE)),
        (request(5, DIR), ("invalidate_attr", DIR)),
        (request(5, LINK), ("invalidate_attr", LINK)),
    ],
)
@pytest.mark.statement("2.8")
def test_each_request_reaches_the_host(
    mount: Mount, asked: FlushRequest, told: tuple[Any, ...]
) -> None:
    mount.flush(asked)
    assert cache_of(mount).log == [told]


def test_the_methods_of_a_mount_are_these_requests(mount: Mount) -> None:
    mount.invalidate_name(DIR, "x")
    mount.invalidate_names()
    mount.invalidate_names(DIR)
    mount.invalidate_attr(LINK)
    mount.invalidate_pages(FILE)
    mount.invalidate_pages(FILE, 1, PAGE)
    mount.flush_pages(FILE)
    mount.flush_pages(FILE, PAGE, 3 * PAGE)
    mount.store_pages(FILE, 5, memoryview(b"data"))
    assert cache_of(mount).log == [
        ("invalidate_name", DIR, "x"),
        ("invalidate_names", None),
        ("invalidate_names", DIR),
        ("invalidate_attr", LINK),
        ("invalidate_pages", FILE, 0, 0),
        ("invalidate_pages", FILE, 0, PAGE),
        ("flush_pages", FILE, 0, 0),
        ("flush_pages", FILE, PAGE, 3 * PAGE),
        ("store_pages", FILE, 5, b"data"),
    ]


@pytest.mark.parametrize(
    ("node", "offset", "data"),
    [(DIR, 0, b"x"), (FILE, -1, b"x"), (FILE, 0, b""), (FILE, 1 << 63, b"x")],
)
def test_contents_that_no_file_can_have_are_refused(
    mount: Mount, node: int, offset: int, data: bytes
) -> None:
    with fails(errno.EINVAL):
        mount.store_pages(node, offset, data)
    assert cache_of(mount).log == []


@pytest.mark.parametrize("op", [0, 6, -1, 99])
@pytest.mark.statement("2.8")
def test_other_operations_are_refused(mount: Mount, op: int) -> None:
    with fails(errno.EINVAL) as caught:
        mount.flush(request(op, FILE))
    assert f"unknown flush operation {op}" in str(caught.value)


# ------------------------------------------------------------------------------------------ cookies


@pytest.mark.parametrize("op", [1, 3, 4, 5])
@pytest.mark.statement("2.8")
def test_of_a_cookie_that_no_host_knows_nothing_is_cached(mount: Mount, op: int) -> None:
    notice = mount.flush(request(op, STRANGER))
    assert notice.done()
    notice.result()
    assert cache_of(mount).log == []


@pytest.mark.parametrize("node", [FILE, LINK])
@pytest.mark.statement("2.8")
def test_names_are_those_of_directories(mount: Mount, node: int) -> None:
    for name in ("x", None):
        with fails(errno.EINVAL) as caught:
            mount.flush(request(1, node, name=name))
        assert f"{node} is not a directory" in str(caught.value)


@pytest.mark.parametrize("node", [DIR, LINK, ROOT])
@pytest.mark.parametrize("operation", ["invalidate_pages", "flush_pages"])
@pytest.mark.statement("2.8")
def test_pages_are_those_of_regular_files(mount: Mount, operation: str, node: int) -> None:
    with fails(errno.EINVAL) as caught:
        getattr(mount, operation)(node)
    assert f"{node} is not a regular file" in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b"])
def test_what_is_no_name_is_refused(mount: Mount, name: str) -> None:
    with fails(errno.EINVAL) as caught:
        mount.invalidate_name(DIR, name)
    assert repr(name) in str(caught.value)
    assert cache_of(mount).log == []


# ------------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("start", "end", "pages"),
    [
        (0, 0, (0, 0)),
        (0, 1, (0, PAGE)),
        (PAGE - 1, PAGE + 1, (0, 2 * PAGE)),
        (PAGE, 2 * PAGE, (PAGE, 2 * PAGE)),
        (2 * PAGE + 7, 0, (2 * PAGE, 0)),
        (PAGE * 1000, PAGE * 1001, (PAGE * 1000, PAGE * 1001)),  # beyond the end: see below
    ],
)
@pytest.mark.parametrize("operation", ["invalidate_pages", "flush_pages"])
@pytest.mark.statement("2.8")
def test_ranges_become_whole_pages(
    mount: Mount, operation: str, start: int, end: int, pages: tuple[int, int]
) -> None:
    getattr(mount, operation)(FILE, start, end)
    assert cache_of(mount).log == [(operation, FILE, *pages)]


@pytest.mark.parametrize(
    ("start", "end"),
    [(1, 1), (PAGE, PAGE), (2, 1), (2 * PAGE, PAGE), (-1, 0), (0, -1), (1 << 63, 0), (0, 1 << 63)],
)
@pytest.mark.parametrize("node", [FILE, STRANGER])
@pytest.mark.parametrize("operation", ["invalidate_pages", "flush_pages"])
@pytest.mark.statement("2.8")
def test_an_empty_range_is_refused(
    mount: Mount, operation: str, node: int, start: int, end: int
) -> None:
    with fails(errno.EINVAL):
        getattr(mount, operation)(node, start, end)
    assert cache_of(mount).log == []


@pytest.mark.statement("2.8")
def test_a_file_that_has_become_shorter_may_be_told_as_it_was(mount: Mount) -> None:
    """The reference refuses an end beyond the size, here the size has no part in the check."""
    mount.invalidate_pages(FILE, 0, 1 << 40)
    assert cache_of(mount).log == [("invalidate_pages", FILE, 0, 1 << 40)]


# ---------------------------------------------------------------------------------- when it is done


def test_a_notice_is_done_when_the_host_says_so(mount: Mount) -> None:
    notice = mount.invalidate_attr(FILE)
    assert not notice.done()
    with pytest.raises(TimeoutError):
        notice.result(0)
    cache_of(mount).hear()
    notice.result(0)


def test_what_a_host_answers_is_raised(mount: Mount) -> None:
    notice = mount.invalidate_attr(FILE)
    cache_of(mount).hear(OSError(errno.ENOMEM, "no memory"))
    assert isinstance(notice.exception(), OSError)
    with fails(errno.ENOMEM):
        notice.result()


def test_all_hosts_are_told_and_all_are_waited_for(mount: Mount) -> None:
    second = FakeHost(mount)
    second.cache = other = FakeCache()
    (first,) = mount.caches()
    assert isinstance(first, FakeCache)
    mount.attach(second)
    for failure in (None, OSError(errno.EIO, "the first fault"), OSError(errno.ENOMEM, "")):
        notice = mount.invalidate_name(DIR, "x")
        assert first.log[-1] == other.log[-1] == ("invalidate_name", DIR, "x")
        first.hear(failure)
        assert not notice.done()
        other.hear(OSError(errno.ENXIO, "a later fault") if failure else None)
        assert notice.exception(0) is failure


def test_nobody_is_told_before_the_host_is_ready_and_after_it_has_gone() -> None:
    mount = Mount(Little())
    host = FakeHost(mount)
    host.cache = cache = FakeCache()
    mount.attach(host)
    assert mount.invalidate_names().done()
    mount.start()
    assert not mount.invalidate_names().done()
    cache.hear()
    mount.unmount()
    assert mount.invalidate_names().done()
    assert len(cache.log) == 1


def test_inside_an_operation_a_host_is_told_and_nobody_waits(mount: Mount) -> None:
    class Asking:
        def cred(self) -> Cred:
            return CRED

        def noatime(self) -> bool:
            return False

    token = requester.set(Asking())
    try:
        notice = mount.invalidate_attr(FILE)
        for wait in (notice.result, notice.exception, notice.__await__):
            with pytest.raises(RuntimeError, match="inside an operation would never end"):
                wait()
        heard: list[object] = []
        notice.add_done_callback(heard.append)
        cache_of(mount).hear()
        assert heard == [notice]
        notice.result()  # it is done: nothing to wait for
    finally:
        requester.reset(token)


def test_a_notice_can_be_awaited(mount: Mount) -> None:
    async def main() -> None:
        notice = mount.invalidate_attr(FILE)
        hearing = threading.Thread(target=cache_of(mount).hear)
        asyncio.get_running_loop().call_soon(hearing.start)
        await notice
        hearing.join()
        notice = mount.invalidate_attr(FILE)
        cache_of(mount).hear(OSError(errno.ENOMEM, ""))
        with fails(errno.ENOMEM):
            await notice

    asyncio.run(main())


def test_what_was_told_cannot_be_cancelled(mount: Mount) -> None:
    notice = mount.invalidate_attr(FILE)
    assert not notice.cancel()
    cache_of(mount).hear()
    notice.result()


def test_notices_together() -> None:
    assert together([]).done()
    one = Notice()
    assert together([one]) is one
    assert together([done(), done()]).done()
    parts = [Notice() for _ in range(50)]
    whole = together(parts)
    threads = [threading.Thread(target=part.set_result, args=(None,)) for part in parts]
    for thread in threads[1:]:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    assert not whole.done()
    threads[0].start()
    whole.result(10)
    threads[0].join()
