"""Flush operations: what a file server tells its mount unasked, so that no host goes on trusting
what it has cached (statement 2.8).

A host caches names, attributes and pages for as long as the lifetimes of the file server allow. A
file server whose files change by themselves gives long lifetimes and tells what has changed.
"""

import errno
import os
from collections.abc import Callable
from enum import IntEnum
from stat import S_IFDIR, S_IFREG
from typing import Any, Final, NamedTuple, Protocol

from puffs.kernel.notice import Notice, done, together
from puffs.kernel.vnode import Vnode, VnodeTable
from puffs.server.types import Buffer, Cookie

PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")
"""Bytes of a page: the unit in which hosts cache contents."""
OFFSETS_END: Final = 1 << 63
"""No file is so long."""


class FlushOp(IntEnum):
    """What is to be done, numbered as the reference does; the last one is new.

    The reference never implemented 0, names that lead to a node. Attributes it did not cache.
    """

    INVAL_NAMECACHE_NODE = 0
    INVAL_NAMECACHE_DIR = 1
    INVAL_NAMECACHE_ALL = 2
    INVAL_PAGECACHE_NODE_RANGE = 3
    FLUSH_PAGECACHE_NODE_RANGE = 4
    INVAL_ATTRCACHE_NODE = 5


class FlushRequest(NamedTuple):
    """One request, as a file server makes it: `start` and `end` are bytes, `end` 0 is the end of
    the file; `name` is one in the directory `cookie`, None stands for all of them.
    """

    op: int
    cookie: Cookie = None
    start: int = 0
    end: int = 0
    name: str | None = None


class HostCache(Protocol):
    """What a host has cached of a mount, as an attachment gives access to it.

    Called from any thread, inside of operations too, and never waits: the notice tells when it has
    been done. A node that the host does not know is done at once.
    """

    def invalidate_name(self, dir: Vnode, name: str) -> Notice:
        """Forget what `name` in `dir` leads to, or that it leads nowhere; and what depends on it:
        the attributes of `dir`, and its listing.
        """
        ...

    def invalidate_names(self, dir: Vnode | None) -> Notice:
        """The same for all names in `dir`, or in all directories (None)."""
        ...

    def invalidate_attr(self, vnode: Vnode) -> Notice:
        """Forget the attributes; of what is no regular file, all that is known of it."""
        ...

    def invalidate_pages(self, vnode: Vnode, start: int, end: int) -> Notice:
        """Forget the contents between `start` and `end` (0: to the end), whole pages, and the
        attributes.
        """
        ...

    def flush_pages(self, vnode: Vnode, start: int, end: int) -> Notice:
        """Write what is dirty between `start` and `end` (0: to the end)."""
        ...

    def store_pages(self, vnode: Vnode, offset: int, data: bytes) -> Notice:
        """The contents from `offset` on are `data`: keep them, or forget what was there."""
        ...


class NothingCached:
    """The cache (`HostCache`) of a host that has none."""

    def invalidate_name(self, dir: Vnode, name: str) -> Notice:
        """Nothing to do."""
        return done()

    def invalidate_names(self, dir: Vnode | None) -> Notice:
        """Nothing to do."""
        return done()

    def invalidate_attr(self, vnode: Vnode) -> Notice:
        """Nothing to do."""
        return done()

    def invalidate_pages(self, vnode: Vnode, start: int, end: int) -> Notice:
        """Nothing to do."""
        return done()

    def flush_pages(self, vnode: Vnode, start: int, end: int) -> Notice:
        """Nothing to do."""
        return done()

    def store_pages(self, vnode: Vnode, offset: int, data: bytes) -> Notice:
        """Nothing to do."""
        return done()


class _Rule(NamedTuple):
    """How a request is served: `about` is the file type that its node must have (0: any), None for
    a request without a node.
    """

    about: int | None
    tell: Callable[[HostCache, Any, FlushRequest], Notice]


def _inval_names(cache: HostCache, dir: Vnode, request: FlushRequest) -> Notice:
    if request.name is None:
        return cache.invalidate_names(dir)
    return cache.invalidate_name(dir, request.name)


_RULES: Final[dict[int, _Rule]] = {
    FlushOp.INVAL_NAMECACHE_DIR: _Rule(S_IFDIR, _inval_names),
    FlushOp.INVAL_NAMECACHE_ALL: _Rule(
        None, lambda cache, _node, _request: cache.invalidate_names(None)
    ),
    FlushOp.INVAL_PAGECACHE_NODE_RANGE: _Rule(
        S_IFREG, lambda cache, node, request: cache.invalidate_pages(node, *_pages(request))
    ),
    FlushOp.FLUSH_PAGECACHE_NODE_RANGE: _Rule(
        S_IFREG, lambda cache, node, request: cache.flush_pages(node, *_pages(request))
    ),
    FlushOp.INVAL_ATTRCACHE_NODE: _Rule(
        0, lambda cache, node, _request: cache.invalidate_attr(node)
    ),
}


def _pages(request: FlushRequest) -> tuple[int, int]:
    return whole_pages(request.start, request.end)


def whole_pages(start: int, end: int) -> tuple[int, int]:
    """A range of bytes as one of pages: truncated down, rounded up. Beyond all offsets it has no
    end.
    """
    rounded = end + -end % PAGE_SIZE
    return start - start % PAGE_SIZE, rounded if rounded < OFFSETS_END else 0


def flush(
    request: FlushRequest, find: Callable[[Cookie], Vnode | None], caches: list[HostCache]
) -> Notice:
    """Check a request and pass it to all `caches`; `find` gives the vnode of a cookie.

    A cookie that no host knows is done at once: nothing is cached of it, which is what was asked
    for. (The reference has ENOENT: the file server cannot know what hosts have forgotten.) An
    `end` beyond the end of the file is no error either, as it was: who says that a file has become
    shorter means what was there before.

    Raises `OSError`: EINVAL for an unknown operation, a node of another type than it is for, and a
    range that is none.
    """
    check(request)
    return _serve(request, _RULES[request.op], find, caches)


def store(
    node: Cookie,
    offset: int,
    data: Buffer,
    find: Callable[[Cookie], Vnode | None],
    caches: list[HostCache],
) -> Notice:
    """The same for contents that come with the request, which has no form of its own in the
    reference.
    """
    request = replaced(node, offset, data)
    check(request)
    kept = bytes(data)
    rule = _Rule(S_IFREG, lambda cache, vnode, _: cache.store_pages(vnode, offset, kept))
    return _serve(request, rule, find, caches)


def replaced(node: Cookie, offset: int, data: Buffer) -> FlushRequest:
    """What has to be forgotten where `data` is the contents from `offset` on.

    EINVAL for no data: an empty range would be all of the file.
    """
    size = memoryview(data).nbytes
    if not size:
        raise _invalid("no contents to store")
    return FlushRequest(FlushOp.INVAL_PAGECACHE_NODE_RANGE, node, offset, offset + size)


def _serve(
    request: FlushRequest,
    rule: _Rule,
    find: Callable[[Cookie], Vnode | None],
    caches: list[HostCache],
) -> Notice:
    vnode = None
    if rule.about is not None:
        vnode = find(request.cookie)
        if vnode is None:
            return done()
        if rule.about and vnode.type and vnode.type != rule.about:
            kind = "a directory" if rule.about == S_IFDIR else "a regular file"
            raise _invalid(f"{FlushOp(request.op).name}: {vnode.cookie!r} is not {kind}")
    return together(rule.tell(cache, vnode, request) for cache in caches)


def check(request: FlushRequest) -> None:
    """Raise EINVAL for what cannot be asked of any mount."""
    if request.op not in _RULES:
        raise _invalid(f"unknown flush operation {request.op}")
    _check_range(request)
    _check_name(request)


def _check_range(request: FlushRequest) -> None:
    start, end = request.start, request.end
    if start < 0 or end < 0 or max(start, end) >= OFFSETS_END:
        raise _invalid(f"{start} to {end} are no offsets in a file")
    if end and start >= end:
        raise _invalid(f"a range that begins at {start} and ends at {end} is empty")


def _check_name(request: FlushRequest) -> None:
    name = request.name
    if name is not None and (name in ("", ".", "..") or "/" in name or "\0" in name):
        raise _invalid(f"{name!r} is no name in a directory")


def _invalid(text: str) -> OSError:
    return OSError(errno.EINVAL, text)


class Flushing:
    """The flush operations of a `Mount`.

    Arguments are the file server's cookies. They may be called from any thread, also inside an
    operation, and never wait: the `Notice` that each returns tells when every host has done it.
    Change first, then tell. Best make the change where the operations run too (inside of one, or by
    `Mount.call`): an operation that is under way meanwhile may still answer from what was before.

    A cookie that no host knows is no error: nothing is cached of it.
    """

    vnodes: VnodeTable

    def caches(self) -> list[HostCache]:
        """What hosts have cached: `Mount` knows its hosts."""
        raise NotImplementedError

    def invalidate_name(self, dir: Cookie, name: str) -> Notice:
        """`name` in `dir` has come, gone, or leads to another file: hosts look it up anew, and take
        the attributes and the listing of `dir` anew.

        EINVAL when `dir` is no directory.
        """
        return self.flush(FlushRequest(FlushOp.INVAL_NAMECACHE_DIR, dir, name=name))

    def invalidate_names(self, dir: Cookie = None) -> Notice:
        """The same for all names in `dir`; None: for all names that hosts know.

        Linux before 7.44 of the protocol (6.16) is told the names that the kernel half knows: a
        further hard link, or a name in the root that leads nowhere, then lives as long as its
        lifetime.
        """
        op = FlushOp.INVAL_NAMECACHE_ALL if dir is None else FlushOp.INVAL_NAMECACHE_DIR
        return self.flush(FlushRequest(op, dir))

    def invalidate_attr(self, node: Cookie) -> Notice:
        """The attributes of `node` have changed, be it a file of any type; or what a symbolic link
        holds. What is cached of the contents of a regular file stays.
        """
        return self.flush(FlushRequest(FlushOp.INVAL_ATTRCACHE_NODE, node))

    def invalidate_pages(self, node: Cookie, start: int = 0, end: int = 0) -> Notice:
        """The contents of a regular file have changed between `start` and `end` (bytes; 0: to the
        end), and with them its attributes. Whole pages are dropped.

        What programs have written there and the host has not yet passed on is lost in process, as
        in the reference. Linux passes it on first: it comes as a `write` before the notice is done.

        With `-o writeback` Linux goes on with its own size and times of a file that it knows.

        EINVAL for anything but a regular file, and for a range that is empty.
        """
        op = FlushOp.INVAL_PAGECACHE_NODE_RANGE
        return self.flush(FlushRequest(op, node, start, end))

    def flush_pages(self, node: Cookie, start: int = 0, end: int = 0) -> Notice:
        """Have hosts write what they have buffered of a regular file between `start` and `end`
        (bytes; 0: to the end), such as what programs have stored by mmap(2).

        When the notice is done, it has come as `write`. Linux drops the pages too, which costs it a
        `read`. EINVAL as `invalidate_pages`.
        """
        op = FlushOp.FLUSH_PAGECACHE_NODE_RANGE
        return self.flush(FlushRequest(op, node, start, end))

    def store_pages(self, node: Cookie, offset: int, data: Buffer) -> Notice:
        """From `offset` on a regular file holds `data` now: a host that can take it keeps it, and
        need not ask for it; others forget what they had there. [fuse(4), FUSE_NOTIFY_STORE]

        Linux makes the file longer if need be, and drops the contents again when it is next told a
        time of modification or a size other than those it knows. EINVAL for anything but a regular
        file, and for no data.
        """
        return store(node, offset, data, self.vnodes.find, self.caches())

    def flush(self, request: FlushRequest) -> Notice:
        """Serve one request in the form that messages have: see `FlushOp`."""
        return flush(request, self.vnodes.find, self.caches())
