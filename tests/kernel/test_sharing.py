"""Several attachments of one mount: what each operation of one tells the others, and when."""

import errno
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

import puffs
from puffs.kernel.mount import Mount
from puffs.kernel.notice import Notice, done
from puffs.kernel.sharing import EFFECTS
from puffs.kernel.vnode import Vnode
from puffs.kernel.vnops import Vnops
from puffs.server.cred import requester
from puffs.server.operations import CHANGING
from tests.kernel.little import CRED, ROOT, FakeCache, FakeHost, Little, fails

PAGE = os.sysconf("SC_PAGE_SIZE")
WITHOUT_VNOPS = {"tmpfile"}
"""Operations that no attachment asks for by call. They change nothing that is cached."""


class Deaf(FakeCache):
    """A host that hears at once."""

    def _told(self, *what: Any) -> Notice:
        self.log.append(what)
        return done()


class World(NamedTuple):
    """A mount with a host of one's own (`vnops`) and another one, which caches (`cache`)."""

    server: Little
    mount: Mount
    vnops: Vnops
    cache: FakeCache


def world(cache: FakeCache | None = None, server: Little | None = None) -> World:
    server = server or Little()
    mount = Mount(server)
    ours, others = FakeHost(mount), FakeHost(mount)
    ours.cache = FakeCache()
    others.cache = cache = cache or Deaf()
    others.by_call = False
    for host in (ours, others):
        mount.attach(host)
    mount.start()
    return World(server, mount, Vnops(mount, CRED, host=ours), cache)


Prepare = Callable[[Vnops, Vnode], Any]


def _file(vnops: Vnops, root: Vnode) -> Any:
    return vnops.create(root, "f", 0o644, os.O_RDWR)


def _two_files(vnops: Vnops, root: Vnode) -> Any:
    return _file(vnops, root)[1], vnops.create(root, "g", 0o644, os.O_RDWR)[1]


def _dirs(vnops: Vnops, root: Vnode) -> Any:
    _file(vnops, root)
    d = vnops.mkdir(root, "d", 0o755).vnode
    vnops.mknod(d, "x", 0o100644)
    return d


F, G, D, X = 2, 3, 3, 4
"""The cookies of what `_file` makes, the second of `_two_files`, and what `_dirs` makes beside."""

name = "invalidate_name"
attr = "invalidate_attr"
pages = "invalidate_pages"
flush = "flush_pages"

CASES: dict[str, tuple[Prepare, Callable[[Vnops, Vnode, Any], object], list[tuple[Any, ...]]]] = {
    # operation: what is there before, the call, and all that the other host is told
    "create": (lambda v, r: None, lambda v, r, _: v.create(r, "f", 0o644, 2), [(name, ROOT, "f")]),
    "mknod": (lambda v, r: None, lambda v, r, _: v.mknod(r, "f", 0o10644), [(name, ROOT, "f")]),
    "mkdir": (lambda v, r: None, lambda v, r, _: v.mkdir(r, "f", 0o755), [(name, ROOT, "f")]),
    "symlink": (lambda v, r: None, lambda v, r, _: v.symlink(r, "f", "to"), [(name, ROOT, "f")]),
    "link": (
        _file,
        lambda v, r, made: v.link(made[0].vnode, r, "h"),
        [(name, ROOT, "h"), (attr, F)],
    ),
    "remove": (_file, lambda v, r, _: v.remove(r, "f"), [(name, ROOT, "f"), (attr, F)]),
    "rmdir": (
        lambda v, r: v.mkdir(r, "d", 0o755),
        lambda v, r, _: v.rmdir(r, "d"),
        [(name, ROOT, "d"), (attr, 2)],
    ),
    "rename": (
        _dirs,
        lambda v, r, d: v.rename(r, "f", d, "x"),
        [(name, ROOT, "f"), (name, D, "x"), (attr, F), (attr, X)],
    ),
    "rename to a free name": (
        _dirs,
        lambda v, r, d: v.rename(r, "f", d, "new"),
        [(name, ROOT, "f"), (name, D, "new"), (attr, F)],
    ),
    "open": (_file, lambda v, r, made: v.open(made[0].vnode, 0), [(flush, F, 0, 0)]),
    "write": (
        _file,
        lambda v, r, made: v.write(made[1], 5, b"abc"),
        [(flush, F, 0, PAGE), (pages, F, 0, PAGE)],
    ),
    "write of words": (
        _file,
        lambda v, r, made: v.write(made[1], PAGE - 5, memoryview(bytes(8)).cast("I")),
        [(flush, F, 0, 2 * PAGE), (pages, F, 0, 2 * PAGE)],
    ),
    "fallocate": (
        _file,
        lambda v, r, made: v.fallocate(made[1], 0, PAGE + 1, PAGE),
        [(flush, F, PAGE, 3 * PAGE), (pages, F, PAGE, 3 * PAGE)],
    ),
    "copy_file_range": (
        _two_files,
        lambda v, r, files: v.copy_file_range(files[0], 1, files[1], PAGE, 10),
        [(flush, F, 0, PAGE), (flush, G, PAGE, 2 * PAGE), (pages, G, PAGE, 2 * PAGE)],
    ),
    "setattr": (
        _file,
        lambda v, r, made: v.setattr(made[0].vnode, puffs.Changes(mode=0o600)),
        [(attr, F)],
    ),
    "setattr of the size": (
        _file,
        lambda v, r, made: v.setattr(made[0].vnode, puffs.Changes(size=PAGE + 7)),
        [(flush, F, 0, 0), (pages, F, PAGE, 0)],
    ),
    "setxattr": (
        _file,
        lambda v, r, made: v.setxattr(made[0].vnode, "user.a", b""),
        [(attr, F)],
    ),
    "removexattr": (
        _file,
        lambda v, r, made: (
            v.setxattr(made[0].vnode, "user.a", b""),
            v.removexattr(made[0].vnode, "user.a"),
        ),
        [(attr, F), (attr, F)],
    ),
}


class Copies(Little):
    def fallocate(self, node: int, mode: int, offset: int, length: int, file: Any) -> None: ...

    def copy_file_range(self, *args: Any) -> int:
        return 10


@pytest.mark.parametrize("case", CASES)
def test_the_others_are_told_what_an_operation_changes(case: str) -> None:
    prepare, call, told = CASES[case]
    _, mount, vnops, cache = world(server=Copies())
    prepared = prepare(vnops, mount.root())
    cache.log.clear()
    call(vnops, mount.root(), prepared)
    assert cache.log == told


def test_no_operation_that_changes_something_is_left_out() -> None:
    assert EFFECTS.keys() >= CHANGING - WITHOUT_VNOPS
    assert {case.split()[0] for case in CASES} == EFFECTS.keys()


def test_operations_that_change_nothing_tell_nothing() -> None:
    _, mount, vnops, cache = world()
    root = mount.root()
    found, file = vnops.create(root, "f", 0o644, os.O_RDWR)
    vnops.symlink(root, "l", "to")
    cache.log.clear()
    vnops.readlink(vnops.lookup(root, "l").vnode)
    vnops.read(file, 0, 10)
    vnops.getattr(found.vnode)
    vnops.access(found.vnode, os.R_OK)
    vnops.flush(file)
    vnops.fsync(file)
    vnops.close(file)
    listing = vnops.opendir(root, 1)
    vnops.readdir(listing, 0, 10)
    vnops.closedir(listing)
    vnops.statvfs()
    vnops.forget(found.vnode)
    assert cache.log == []


def test_ones_own_host_is_not_told_and_alone_nobody_is() -> None:
    server = Little()
    mount = Mount(server)
    host = FakeHost(mount)
    host.cache = cache = FakeCache()
    mount.attach(host)
    mount.start()
    vnops = Vnops(mount, CRED, host=host)
    vnops.mkdir(mount.root(), "d", 0o755)
    server.log.clear()
    vnops.rmdir(mount.root(), "d")
    assert cache.log == []
    assert server.asked("lookup") == [], "alone, nobody asks what a name leads to"
    second = FakeHost(mount)
    second.cache = other = Deaf()
    mount.attach(second)
    vnops.mkdir(mount.root(), "d", 0o755)
    assert cache.log == []
    assert other.log == [("invalidate_name", ROOT, "d")]


def test_beside_a_host_that_must_be_alone_nobody_is_attached() -> None:
    mount = Mount(Little())
    host = FakeHost(mount)
    host.alone = "it believes nobody"
    mount.attach(host)
    mount.start()
    with fails(errno.EOPNOTSUPP) as caught:
        mount.attach(FakeHost(mount))
    assert "little cannot be shared: it believes nobody" in str(caught.value)
    assert not mount.shared


# ------------------------------------------------------------------------------------------ waiting


class Slow(FakeCache):
    """A host that hears what it is told when `go` is set; `reached` tells that it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def _told(self, *what: Any) -> Notice:
        notice = super()._told(*what)
        threading.Thread(target=self._later, args=(notice,), daemon=True).start()
        return notice

    def _later(self, notice: Notice) -> None:
        self.reached.set()
        self.go.wait(10)
        notice.set_result(None)


def test_the_caller_goes_on_when_the_others_have_heard() -> None:
    cache = Slow()
    server, mount, vnops, _ = world(cache)
    caller = threading.Thread(target=vnops.mkdir, args=(mount.root(), "d", 0o755))
    caller.start()
    assert cache.reached.wait(10)
    assert "d" in server.nodes[ROOT].names, "changed first, then told"
    assert caller.is_alive()
    cache.go.set()
    caller.join(10)
    assert not caller.is_alive()


def test_what_was_stored_elsewhere_is_there_before_a_write() -> None:
    cache = Slow()
    server, mount, vnops, _ = world(cache)
    cache.go.set()
    _, file = vnops.create(mount.root(), "f", 0o644, os.O_RDWR)
    cache.go.clear()
    cache.reached.clear()
    caller = threading.Thread(target=vnops.write, args=(file, 0, b"abc"))
    caller.start()
    assert cache.reached.wait(10)
    assert cache.log[-1] == ("flush_pages", 2, 0, PAGE)
    assert server.asked("write") == []
    cache.go.set()
    caller.join(10)
    assert len(server.asked("write")) == 1
    assert cache.log[-1] == ("invalidate_pages", 2, 0, PAGE)


def test_inside_an_operation_nobody_waits() -> None:
    _, mount, vnops, cache = world(FakeCache())  # which never hears
    token = requester.set(vnops)
    try:
        vnops.mkdir(mount.root(), "d", 0o755)
    finally:
        requester.reset(token)
    assert cache.log == [("invalidate_name", ROOT, "d")]


def test_what_has_failed_is_told_too_since_it_may_have_been_done() -> None:
    server, mount, vnops, cache = world()
    _, file = vnops.create(mount.root(), "f", 0o644, os.O_RDWR)
    cache.log.clear()
    server.says["write"] = OSError(errno.EIO, "half of it")
    with fails(errno.EIO):
        vnops.write(file, 0, b"abc")
    assert cache.log == [("flush_pages", 2, 0, PAGE), ("invalidate_pages", 2, 0, PAGE)]


@pytest.mark.parametrize(("offset", "size"), [(-1, 3), (0, 0), ((1 << 63) - 2, 10)])
def test_a_range_that_is_none_becomes_the_whole_file(offset: int, size: int) -> None:
    _, mount, vnops, cache = world()
    _, file = vnops.create(mount.root(), "f", 0o644, os.O_RDWR)
    cache.log.clear()
    with suppress(OSError):
        vnops.write(file, offset, bytes(size))
    assert cache.log == [("flush_pages", 2, 0, 0), ("invalidate_pages", 2, 0, 0)]


def test_a_host_that_cannot_be_told_is_logged_and_the_operation_has_been_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(FakeCache):
        def _told(self, *what: Any) -> Notice:
            notice = super()._told(*what)
            self.hear(OSError(errno.ENOMEM, "no memory for that"))
            return notice

    _, mount, vnops, _ = world(Failing())
    with caplog.at_level(logging.WARNING, "puffs"):
        vnops.mkdir(mount.root(), "d", 0o755)
    assert vnops.lookup(mount.root(), "d").attr.type
    assert "no memory for that" in caplog.text


def test_a_name_is_looked_up_where_it_is_taken_away_and_given_back() -> None:
    """Nobody comes between: what the name leads to is asked on the thread that removes it."""
    server, mount, vnops, cache = world()
    vnops.forget(vnops.mkdir(mount.root(), "d", 0o755).vnode)
    reached: list[int] = []

    def reach(who: Any, function: Callable[..., Any], args: tuple[Any, ...], then: Any) -> Any:
        reached.append(len(server.log))
        reply = function(*args)
        return reply if then is None else then(reply)

    there = Vnops(mount, CRED, reach, vnops.host)
    server.log.clear()
    there.rmdir(mount.root(), "d")
    assert reached[0] == 0, "the whole of it is one call"
    assert [call[0] for call in server.log if call[0] in ("lookup", "rmdir")] == ["lookup", "rmdir"]
    assert len(server.asked("reclaim")) == 1
    assert cache.log[-2:] == [("invalidate_name", ROOT, "d"), ("invalidate_attr", 2)]
