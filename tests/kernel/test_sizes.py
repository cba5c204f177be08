"""statvfs: who says what, and what is left to say when the file server fails."""

from collections.abc import Callable
from errno import EINPROGRESS, EIO, ENXIO, EPROTO, ESTALE

import pytest

import puffs
from puffs.kernel.mount import Mount
from puffs.kernel.sizes import IOSIZE, StatVfsError
from puffs.kernel.vnops import Vnops
from tests.kernel.little import CRED, Little, fails, mounted

BIG = puffs.StatVfs(bsize=1 << 20, blocks=7, bfree=5, bavail=3, files=11, ffree=2, fsid=99)


def of_mount(mount: Mount) -> puffs.StatVfs:
    return mount.statvfs()


def of_vnops(mount: Mount) -> puffs.StatVfs:
    return Vnops(mount, CRED).statvfs()


Statvfs = Callable[[Mount], puffs.StatVfs]
ways = pytest.mark.parametrize("statvfs", [of_mount, of_vnops])


@pytest.mark.statement("V1")
@ways
def test_while_mounting(statvfs: Statvfs) -> None:
    server = Little()
    mount = Mount(server)
    with fails(EINPROGRESS) as caught:
        statvfs(mount)
    assert not isinstance(caught.value, StatVfsError)
    assert server.asked("statvfs") == []


@pytest.mark.statement("V7")
@ways
def test_of_what_is_gone(statvfs: Statvfs) -> None:
    server = Little()
    mount, _ = mounted(server)
    mount.unmount()
    with fails(ENXIO):
        statvfs(mount)
    assert server.asked("statvfs") == []


@pytest.mark.statement("V7")
@ways
def test_a_signal_while_the_file_server_is_asked(statvfs: Statvfs) -> None:
    server = Little()
    mount, _ = mounted(server)
    server.says["statvfs"] = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        statvfs(mount)
    del server.says["statvfs"]
    assert statvfs(mount).blocks == 100


@pytest.mark.statement("V2", "V6")
@ways
def test_asks_each_time(statvfs: Statvfs) -> None:
    server = Little()
    mount, _ = mounted(server)
    assert (statvfs(mount).blocks, statvfs(mount).bfree) == (100, 50)
    server.says["statvfs"] = BIG
    assert statvfs(mount).blocks == 7
    assert len(server.asked("statvfs")) == 3


@pytest.mark.statement("V3", "V4", "C9", "M21")
@ways
def test_what_identifies_it_is_the_mounts(statvfs: Statvfs) -> None:
    server = Little()
    mount, _ = mounted(server)
    server.says["statvfs"] = BIG
    told = statvfs(mount)
    assert (told.fsid, told.bsize) == (mount.fsid, IOSIZE) == (mount.fsid, 4096)
    assert (told.frsize, told.blocks, told.bfree, told.bavail) == (1 << 20, 7, 5, 3)
    assert (told.files, told.ffree, told.favail, told.namemax) == (11, 2, 2, 255)
    assert (BIG.fsid, BIG.bsize) == (99, 1 << 20), "what the file server keeps is its own"


@pytest.mark.statement("2.6")
@ways
def test_a_missing_one_is_zero(statvfs: Statvfs) -> None:
    mount, _ = mounted(Little("statvfs"))
    told = statvfs(mount)
    assert (told.blocks, told.files, told.frsize, told.fsid) == (0, 0, 512, mount.fsid)


@pytest.mark.statement("V5", "S4")
@ways
def test_a_failure_before_any_reply_says_what_the_mount_knows(statvfs: Statvfs) -> None:
    server = Little()
    mount, _ = mounted(server)
    server.says["statvfs"] = OSError(ESTALE, "the archive is gone")
    with pytest.raises(StatVfsError) as caught:
        statvfs(mount)
    assert caught.value.errno == ESTALE
    known = caught.value.statvfs
    assert (known.fsid, known.bsize, known.blocks) == (mount.fsid, IOSIZE, 0)


@pytest.mark.statement("V5")
@ways
def test_a_failure_later_says_the_last_good_reply_too(statvfs: Statvfs) -> None:
    server = Little()
    mount, _ = mounted(server)
    server.says["statvfs"] = BIG
    statvfs(mount).blocks = 0  # the caller's own
    server.says["statvfs"] = ValueError("a mistake")
    for _ in range(2):
        with pytest.raises(StatVfsError) as caught:
            statvfs(mount)
        assert caught.value.errno == EIO
        assert (caught.value.statvfs.blocks, caught.value.statvfs.fsid) == (7, mount.fsid)
        caught.value.statvfs.blocks = 0
    del server.says["statvfs"]
    assert statvfs(mount).blocks == 100


@pytest.mark.statement("S5")
@ways
def test_a_reply_that_is_none_is_not_believed(statvfs: Statvfs) -> None:
    server = Little()
    mount, _ = mounted(server)
    statvfs(mount)
    server.says["statvfs"] = {"blocks": 12}
    with pytest.raises(StatVfsError) as caught:
        statvfs(mount)
    assert caught.value.errno == EPROTO
    assert caught.value.statvfs.blocks == 100
    assert server.asked("error")
