"""Mounting with random arguments, as the reference was tested: nine levels of a hundred mounts, and
each level repairs one more field. Nothing but errors with a number may come of it.
"""

import errno
import os
import stat
from collections.abc import Callable

import pytest

import puffs
from puffs.kernel.args import (
    FHSIZE_MAX,
    NAME_MAX,
    PREFIX,
    REQUEST_MAX,
    REQUEST_MIN,
    maxpnodebuckets,
)
from puffs.kernel.mount import Status
from puffs.kernel.vnode import Vnode
from puffs.kernel.vnops import OpenFile, Vnops
from tests.kernel.fuzzed import LEVELS, REPAIRS, complaint, mounted, plans
from tests.kernel.little import CRED, FakeHost

LAST = LEVELS[-1]


@pytest.mark.statement("M7", "M8", "M9", "M10", "M13", "M14", "R7", "S6")
@pytest.mark.parametrize("level", LEVELS)
def test_mountfuzz(level: int) -> None:
    said = [complaint(plan) for plan in plans(level)]
    left = [words for words, _ in REPAIRS[level:]]
    for text in filter(None, said):
        assert text.startswith(("[Errno 22]", "[Errno 71]")), "EINVAL, or EPROTO for the root"
        assert any(words in text for words in left), text
    assert bool(any(said)) == bool(left)
    if left:
        assert any(left[0] in text for text in said), f"nothing was wrong with {left[0]!r}"


@pytest.mark.statement("M16", "M17", "M15", "M25")
def test_what_is_granted_is_within_limits() -> None:
    for plan in plans(LAST):
        _, mount = mounted(plan)
        args = mount.args
        assert REQUEST_MIN <= args.request_size <= REQUEST_MAX
        assert 1 <= args.buckets <= maxpnodebuckets
        assert 0 <= args.fhsize <= FHSIZE_MAX
        assert args.name.isascii()
        assert args.name.isprintable()
        assert len(args.name) <= len(PREFIX) + NAME_MAX


Call = Callable[[Vnops, Vnode, OpenFile], object]

CALLS: list[Call] = [
    lambda v, root, file: v.statvfs(),
    lambda v, root, file: v.lookup(root, "x"),
    lambda v, root, file: v.lookup(root, "."),
    lambda v, root, file: v.create(root, "x", 0o644, os.O_RDWR),
    lambda v, root, file: v.mknod(root, "x", stat.S_IFIFO | 0o644),
    lambda v, root, file: v.mkdir(root, "x", 0o755),
    lambda v, root, file: v.symlink(root, "x", "y"),
    lambda v, root, file: v.link(root, root, "x"),
    lambda v, root, file: v.remove(root, "x"),
    lambda v, root, file: v.rmdir(root, "x"),
    lambda v, root, file: v.rename(root, "x", root, "y"),
    lambda v, root, file: v.read(file, 0, 100),
    lambda v, root, file: v.write(file, 0, b"data"),
    lambda v, root, file: v.fsync(file),
    lambda v, root, file: v.flush(file),
    lambda v, root, file: v.seek(file, 0, os.SEEK_DATA),
    lambda v, root, file: v.fallocate(file, 0, 0, 10),
    lambda v, root, file: v.copy_file_range(file, 0, file, 10, 5),
    lambda v, root, file: v.setattr(root, puffs.Changes(mode=0o600)),
    lambda v, root, file: v.access(root, os.R_OK),
    lambda v, root, file: v.readlink(root),
    lambda v, root, file: v.getxattr(root, "user.x"),
    lambda v, root, file: v.setxattr(root, "user.x", b"y"),
    lambda v, root, file: v.listxattr(root),
    lambda v, root, file: v.removexattr(root, "user.x"),
    lambda v, root, file: v.readdir(v.opendir(root, 1), 0, 10),
    lambda v, root, file: v.close(file),
]


@pytest.mark.statement("2.7a", "M31")
def test_a_server_that_says_yes_to_everything_does_no_harm() -> None:
    for plan in plans(LAST)[:20]:
        server, mount = mounted(plan)
        mount.attach(FakeHost(mount))
        mount.start()
        vnops, root = Vnops(mount, CRED), mount.root()
        file = vnops.open(root, os.O_RDWR)
        codes = set()
        for call in CALLS:
            try:
                call(vnops, root, file)
            except OSError as exc:
                codes.add(exc.errno)
        assert errno.EPROTO in codes
        assert codes <= {errno.EPROTO, errno.EIO, errno.EOPNOTSUPP}
        assert mount.status is Status.RUNNING
        assert vnops.getattr(root).mode == server.attr.mode
        mount.unmount(force=True)
        assert server.log.count("unmounted") == 1
        assert mount.wait(0)
