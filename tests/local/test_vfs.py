"""`puffs.local`: its life, who uses it, what it gives back, and what goes wrong."""

import asyncio
import gc
import io
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from errno import EACCES, EBUSY, EDEADLK, EIO, ELOOP, ENXIO, EOPNOTSUPP, EROFS
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import puffs
from puffs.fs.mem import MemFS
from tests.kernel.little import ROOT, Little, fails

pytestmark = pytest.mark.usefixtures("either_way")

USER = puffs.Cred(1000, 1000, umask=0o027, groups=())


@pytest.fixture
def server() -> Little:
    return Little()


@pytest.fixture
def vfs(server: Little) -> Iterator[puffs.LocalFileSystem]:
    with puffs.local(server) as vfs:
        yield vfs


# ------------------------------------------------------------------------------------- life cycle


def test_the_file_server_is_told_of_its_beginning_and_end(server: Little) -> None:
    with puffs.local(server) as vfs:
        assert vfs.mount.status is puffs.Status.RUNNING
        assert server.asked("mount") == [("mount",)]
        assert server.asked("unmounted") == []
    assert vfs.closed
    assert server.asked("unmounted") == [("unmounted",)]
    assert server.log[-1] == ("unmounted",), "last of all"
    vfs.close()
    assert len(server.asked("unmounted")) == 1


def test_the_file_server_is_told_of_its_mount() -> None:
    told: list[puffs.Mount] = []

    class Told(Little):
        def mounted(self, mount: puffs.Mount) -> None:
            told.append(mount)
            mount.invalidate_names().result(0)  # nothing is cached: done at once

    with puffs.local(Told()) as vfs, puffs.local(vfs.mount):
        assert told == [vfs.mount]


def test_a_class_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with puffs.local(MemFS) as vfs:
        vfs.write_text("/a", "text")
        assert vfs.read_text("/a") == "text"
    with puffs.local(lambda: MemFS(files=1)) as vfs:
        vfs.mkdir("/a")
        with pytest.raises(OSError, match="space"):
            vfs.mkdir("/b")


def test_a_failing_mount_is_the_callers_error(server: Little) -> None:
    server.says["mount"] = ConnectionRefusedError("not there")
    with pytest.raises(ConnectionRefusedError, match="not there"):
        puffs.local(server)


@pytest.mark.parametrize(
    "use",
    [
        lambda vfs: vfs.stat("/"),
        lambda vfs: vfs.listdir("/"),
        lambda vfs: vfs.open("/f"),
        lambda vfs: vfs.exists("/"),
        lambda vfs: vfs.sync(),
        lambda vfs: vfs.snapshot("/nowhere/x.img"),
        lambda vfs: list(vfs.walk("/")),
    ],
)
def test_use_after_close_is_a_clear_error(
    use: Callable[[puffs.LocalFileSystem], object], server: Little
) -> None:
    vfs = puffs.local(server)
    vfs.close()
    with pytest.raises(ValueError, match="little: this file system is closed"):
        use(vfs)


def test_what_nobody_holds_any_more_is_closed(server: Little) -> None:
    puffs.local(server).write_text("/f", "text")
    gc.collect()
    assert len(server.asked("unmounted")) == 1


def test_an_open_file_keeps_its_file_system(server: Little) -> None:
    stream = puffs.local(server).open("/f", "w")
    gc.collect()
    stream.write("text")
    assert server.asked("unmounted") == []
    stream.close()
    assert bytes(server.nodes[2].data) == b"text"
    del stream
    gc.collect()
    assert len(server.asked("unmounted")) == 1


def test_the_end_of_the_interpreter_closes(tmp_path: Path) -> None:
    script = """
import puffs
class FS(puffs.Tree):
    def unmounted(self):
        print("unmounted")
vfs = puffs.local(FS({"a": "text"}))
print(vfs.read_text("/a"))
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.split() == ["text", "unmounted"], found.stderr


def test_unmounting_asks_and_may_be_refused(server: Little) -> None:
    with puffs.local(server) as vfs:
        server.says["unmount"] = OSError(EBUSY, "not now")
        with fails(EBUSY):
            vfs.mount.unmount()
        assert vfs.exists("/")
        del server.says["unmount"]
        vfs.mount.unmount()
        assert vfs.closed


@pytest.mark.statement("U2")
def test_open_files_make_it_busy(server: Little) -> None:
    with puffs.local(server) as vfs:
        stream = vfs.open("/f", "w")
        with fails(EBUSY):
            vfs.mount.unmount()
        assert server.asked("unmount") == []
        stream.close()
        with vfs.scandir("/"):
            with fails(EBUSY):
                vfs.mount.unmount()
        vfs.mount.unmount()


def test_close_writes_what_is_buffered_and_closes_all(server: Little) -> None:
    vfs = puffs.local(server)
    text, raw = vfs.open("/text", "w"), vfs.open("/raw", "wb", buffering=0)
    listing = vfs.scandir("/")
    text.write("buffered")
    vfs.close()
    assert bytes(server.nodes[2].data) == b"buffered"
    assert text.closed
    assert raw.closed
    assert list(listing) == []
    assert len(server.asked("close")) == 2
    assert len(server.asked("closedir")) == 1
    assert server.log[-1] == ("unmounted",)
    with pytest.raises(ValueError, match="closed"):
        text.write("more")


def test_what_cannot_be_written_in_the_end_is_raised(server: Little) -> None:
    vfs = puffs.local(server)
    vfs.open("/f", "w").close()
    stream = vfs.open("/f", "w")
    stream.write("buffered")
    server.says["write"] = OSError(EIO, "the disk is gone")
    with fails(EIO):
        vfs.close()
    assert vfs.closed
    assert len(server.asked("unmounted")) == 1
    assert len(server.asked("close")) == 2


def test_what_is_lost_when_others_unmount_is_logged(
    server: Little, caplog: pytest.LogCaptureFixture
) -> None:
    vfs = puffs.local(server)
    stream = vfs.open("/f", "w")
    stream.write("buffered")
    server.says["write"] = OSError(EIO, "the disk is gone")
    with caplog.at_level(logging.ERROR, "puffs"):
        vfs.mount.unmount(force=True)
    assert "closing a file has failed" in caplog.text
    assert vfs.closed


def test_closing_inside_an_operation_is_refused(server: Little) -> None:
    with puffs.local(server) as vfs:
        errors: list[int | None] = []

        def close(*args: object) -> int:
            try:
                vfs.close()
            except OSError as exc:
                errors.append(exc.errno)
            raise FileNotFoundError

        server.says["lookup"] = close
        assert not vfs.exists("/f")
        assert errors == [EDEADLK]
        del server.says["lookup"]
        assert vfs.exists("/"), "nothing has happened"
    assert len(server.asked("unmounted")) == 1


@pytest.mark.statement("U10", "U11")
def test_close_waits_for_who_is_inside(server: Little) -> None:
    vfs = puffs.local(server)
    vfs.write_text("/f", "text")
    inside, go_on = threading.Event(), threading.Event()
    found: list[object] = []

    def slow(node: int, offset: int, size: int, file: object) -> bytes:
        inside.set()
        go_on.wait()
        return b"text" if offset == 0 else b""

    server.says["read"] = slow
    reader = threading.Thread(target=lambda: found.append(vfs.read_bytes("/f")))
    reader.start()
    inside.wait()
    closer = threading.Thread(target=vfs.close)
    closer.start()
    while not vfs.closed:
        time.sleep(0)
    with pytest.raises(ValueError, match="closed"):
        vfs.stat("/")
    assert server.asked("unmounted") == []
    go_on.set()
    reader.join()
    closer.join()
    assert found == [b"text"]
    assert server.log[-1] == ("unmounted",)


# ------------------------------------------------------------------------------ what is given back


def test_every_walk_gives_back_what_it_met(server: Little, vfs: puffs.LocalFileSystem) -> None:
    vfs.makedirs("/a/b/c")
    vfs.symlink("b/./c/..", "/a/link")
    server.log.clear()
    vfs.stat("/a/link/c/../../b")
    assert len(vfs.mount.vnodes) == 1
    lookups = len(server.asked("lookup"))
    assert lookups >= 6
    for use in (
        lambda: vfs.stat("/a/b/none"),
        lambda: vfs.stat("/a/b/c/none/x"),
        lambda: vfs.mkdir("/a/b"),
        lambda: vfs.rename("/a/b", "/a/b/c/d"),
        lambda: vfs.open("/a/b/c"),
    ):
        with pytest.raises(OSError):
            use()
        assert len(vfs.mount.vnodes) == 1


def test_inactive_and_reclaim_come_once_and_in_time(
    server: Little, vfs: puffs.LocalFileSystem
) -> None:
    with vfs.open("/f", "w+") as first:
        first.write("text")
        first.flush()
        vfs.remove("/f")
        assert not vfs.exists("/f")
        assert server.asked("inactive", "reclaim") == []
        first.seek(0)
        assert first.read() == "text", "a removed file lives while it is open"
    assert server.asked("close", "inactive", "reclaim") == [
        ("close", 2, "file of f", os.O_RDWR),
        ("inactive", 2),
        ("reclaim", 2),
    ]


def test_two_opens_end_in_one_inactive(server: Little, vfs: puffs.LocalFileSystem) -> None:
    first = vfs.open("/f", "w")
    second = vfs.open("/f", "r")
    first.close()
    assert server.asked("inactive") == []
    second.close()
    assert server.asked("inactive", "reclaim") == [("inactive", 2), ("reclaim", 2)]


def test_each_open_is_closed_once(server: Little, vfs: puffs.LocalFileSystem) -> None:
    stream = vfs.open("/f", "w")
    stream.close()
    stream.close()
    vfs.open("/f", "rb", buffering=0).close()
    assert len(server.asked("flush")) == len(server.asked("close")) == 2


def test_a_truncation_that_fails_closes_again(server: Little, vfs: puffs.LocalFileSystem) -> None:
    vfs.write_text("/f", "text")
    server.log.clear()
    server.says["setattr"] = OSError(EACCES, "no")
    with fails(EACCES):
        vfs.open("/f", "w")
    assert len(server.asked("open")) == len(server.asked("close")) == 1
    assert len(server.asked("reclaim")) == 1


def test_a_file_that_cannot_be_wrapped_is_closed(
    server: Little, vfs: puffs.LocalFileSystem
) -> None:
    with pytest.raises(LookupError):
        vfs.open("/f", "w", encoding="no such encoding")
    assert len(server.asked("close")) == 1
    assert len(server.asked("reclaim")) == 1


# ------------------------------------------------------------------------------------------- walks


def test_forty_links_are_followed_and_no_more(vfs: puffs.LocalFileSystem) -> None:
    vfs.write_text("/l0", "the end")
    for number in range(1, 42):
        vfs.symlink(f"l{number - 1}", f"/l{number}")
    assert vfs.read_text("/l40") == "the end"
    with fails(ELOOP) as caught:
        vfs.stat("/l41")
    assert caught.value.filename == "/l41"


def test_a_root_that_is_a_file() -> None:
    server = Little(root_mode=stat.S_IFREG | 0o644)
    server.nodes[ROOT].data += b"all there is"
    with puffs.local(server) as vfs:
        assert vfs.read_text("/") == "all there is"
        with pytest.raises(NotADirectoryError):
            vfs.stat("/x")
        with pytest.raises(NotADirectoryError):
            vfs.listdir("/")


@pytest.mark.parametrize("path", ["f", "/f", b"/f", PurePosixPath("/f"), "//f", "./f", "../f"])
def test_paths_of_all_kinds(path: Any, vfs: puffs.LocalFileSystem) -> None:
    vfs.write_text(path, "text")
    assert vfs.listdir("/") == ["f"]
    assert vfs.read_text(path) == "text"


@pytest.mark.parametrize(
    ("path", "error"), [("a\0b", ValueError), (7, TypeError), (None, TypeError)]
)
def test_paths_that_are_none(path: Any, error: type[Exception], vfs: puffs.LocalFileSystem) -> None:
    with pytest.raises(error):
        vfs.stat(path)


def test_nul_is_in_no_name(vfs: puffs.LocalFileSystem) -> None:
    assert not vfs.exists("a\0b")


def test_errors_name_the_paths(vfs: puffs.LocalFileSystem) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        vfs.open("/none/x")
    assert str(caught.value) == "[Errno 2] No such file or directory: '/none/x'"
    with pytest.raises(FileNotFoundError) as caught:
        vfs.rename("/none", "/other")
    assert (caught.value.filename, caught.value.filename2) == ("/none", "/other")
    with pytest.raises(FileNotFoundError) as caught:
        vfs.mkfifo(PurePosixPath("none/x"))
    assert caught.value.filename == "none/x"


@pytest.mark.statement("N1")
def test_search_permission_comes_first() -> None:
    server = Little()
    with puffs.local(server) as root, puffs.local(root.mount, cred=USER) as vfs:
        root.mkdir("/d")
        root.write_text("/d/f", "text")
        root.chmod("/d", 0o600)
        server.log.clear()
        with fails(EACCES):
            vfs.stat("/d/f")
        assert [call[2] for call in server.asked("lookup")] == ["d"]


def test_a_file_server_with_access_decides_itself() -> None:
    class Strict(Little):
        def access(self, node: int, mode: int, cred: puffs.Cred) -> None:
            if mode & os.W_OK:
                raise PermissionError

    server = Strict()
    with puffs.local(server) as root, puffs.local(root.mount, cred=USER) as vfs:
        root.mkdir("/d", 0o700)
        root.write_text("/d/f", "text")
        root.chmod("/d/f", 0)
        assert vfs.read_text("/d/f") == "text", "it did not refuse"
        assert vfs.access("/d/f", os.R_OK | os.X_OK)
        assert not vfs.access("/d/f", os.W_OK)
        assert server.asked("access")[-1] == ("access", 3, os.W_OK, USER)
        server.says["open"] = PermissionError
        with fails(EACCES):
            vfs.open("/d/f")


# ------------------------------------------------------------------------- what cannot be changed


class ReadOnly(puffs.FileSystem[str]):
    def mount(self) -> str:
        return "/"

    def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:
        if name != "f":
            raise FileNotFoundError(name)
        return name

    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        return puffs.Attr((stat.S_IFDIR | 0o777) if node == "/" else (stat.S_IFREG | 0o666), 4)

    def read(self, node: str, offset: int, size: int, file: object) -> bytes:
        return b"text"[offset : offset + size]


@pytest.mark.parametrize(
    "change",
    [
        lambda vfs: vfs.open("/f", "w"),
        lambda vfs: vfs.open("/f", "r+"),
        lambda vfs: vfs.open("/f", "a"),
        lambda vfs: vfs.open("/new", "x"),
        lambda vfs: vfs.mkdir("/d"),
        lambda vfs: vfs.mknod("/d"),
        lambda vfs: vfs.symlink("x", "/d"),
        lambda vfs: vfs.link("/f", "/g"),
        lambda vfs: vfs.remove("/f"),
        lambda vfs: vfs.rmdir("/f"),
        lambda vfs: vfs.rename("/f", "/g"),
        lambda vfs: vfs.chmod("/f", 0o600),
        lambda vfs: vfs.chown("/f", 0, 0),
        lambda vfs: vfs.utime("/f"),
        lambda vfs: vfs.truncate("/f", 0),
        lambda vfs: vfs.setxattr("/f", "user.x", b""),
        lambda vfs: vfs.removexattr("/f", "user.x"),
    ],
)
def test_a_file_server_that_changes_nothing_is_read_only(
    change: Callable[[puffs.LocalFileSystem], object],
) -> None:
    with puffs.local(ReadOnly()) as vfs:
        with fails(EROFS):
            change(vfs)


def test_reading_what_cannot_be_changed() -> None:
    with puffs.local(ReadOnly()) as vfs:
        assert vfs.read_text("/f") == "text"
        assert vfs.access("/f", os.R_OK)
        assert not vfs.access("/f", os.W_OK)
        assert vfs.statvfs().f_flag & os.ST_RDONLY
        with fails(EOPNOTSUPP):
            vfs.listdir("/")


# ------------------------------------------------------------------------------------- who calls


def test_the_umask_of_the_process_is_honoured(vfs: puffs.LocalFileSystem) -> None:
    before = os.umask(0o077)
    try:
        vfs.write_text("/private", "")
        os.umask(0o002)
        vfs.mkdir("/shared")
        vfs.mkfifo("/fifo")
    finally:
        os.umask(before)
    assert stat.S_IMODE(vfs.stat("/private").st_mode) == 0o600
    assert stat.S_IMODE(vfs.stat("/shared").st_mode) == 0o775
    assert stat.S_IMODE(vfs.stat("/fifo").st_mode) == 0o664


def test_the_umask_of_the_credentials_is_honoured() -> None:
    server = Little(root_mode=stat.S_IFDIR | 0o777)
    with puffs.local(server, cred=USER) as vfs:
        vfs.write_text("/f", "")
        st = vfs.stat("/f")
        assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o640, 1000, 1000)
        assert server.asked("create")[0][5].umask == 0o027


def test_operations_can_ask_who_calls(server: Little) -> None:
    with puffs.local(server, cred=puffs.Cred(0, 7, groups=())) as vfs:
        vfs.write_text("/f", "text")
        vfs.read_text("/f")
        vfs.sync()
    asked = {"create", "write", "close", "lookup", "read", "getattr", "reclaim", "sync", "unmount"}
    for name in asked - {"unmount"}:
        assert server.callers[name].gid == 7, name


def test_the_default_is_this_process(server: Little) -> None:
    with puffs.local(server) as vfs:
        vfs.mkdir("/d")
    cred = server.callers["mkdir"]
    assert (cred.uid, cred.gid, cred.pid) == (os.geteuid(), os.getegid(), os.getpid())


def test_a_mistake_is_eio_and_one_traceback(
    server: Little, vfs: puffs.LocalFileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    vfs.write_text("/f", "text")
    server.says["read"] = ValueError("oops")
    with caplog.at_level(logging.ERROR, "puffs"), fails(EIO) as caught:
        vfs.read_bytes("/f")
    assert isinstance(caught.value.__cause__, ValueError)
    assert [record.exc_info is not None for record in caplog.records] == [True]
    del server.says["read"]
    assert vfs.read_bytes("/f") == b"text", "and it goes on"


def test_sync(server: Little, vfs: puffs.LocalFileSystem) -> None:
    vfs.sync()
    assert server.asked("sync")[0][1] is True
    server.says["sync"] = OSError(EIO, "no disk")
    with fails(EIO):
        vfs.sync()


def test_snapshot(
    server: Little, vfs: puffs.LocalFileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    vfs.snapshot("x.img")
    vfs.snapshot(tmp_path / "y.img")
    assert server.asked("snapshot") == [
        ("snapshot", f"{tmp_path}/x.img"),
        ("snapshot", f"{tmp_path}/y.img"),
    ]
    server.says["snapshot"] = OSError(EIO, "/x.img: no disk")
    with pytest.raises(OSError, match=r"/x\.img: no disk"):
        vfs.snapshot("x.img")
    server.says["snapshot"] = OSError(EIO)
    with fails(EIO):
        vfs.snapshot("x.img")
    with puffs.local(Little("snapshot")) as without, fails(EOPNOTSUPP):
        without.snapshot("x.img")


def test_statvfs_has_the_numbers(vfs: puffs.LocalFileSystem) -> None:
    st = vfs.statvfs("/")
    assert (st.f_blocks, st.f_bfree, st.f_namemax, st.f_flag) == (100, 50, 255, 0)
    assert (st.f_fsid, st.f_bsize) == (vfs.mount.fsid, 4096)


@pytest.mark.statement("V5")
def test_statvfs_that_fails_says_what_is_known(server: Little, vfs: puffs.LocalFileSystem) -> None:
    vfs.statvfs()
    server.says["statvfs"] = OSError(EIO, "no disk")
    with pytest.raises(puffs.StatVfsError) as caught:
        vfs.statvfs("/")
    assert (caught.value.errno, caught.value.filename) == (EIO, "/")
    assert (caught.value.statvfs.blocks, caught.value.statvfs.fsid) == (100, vfs.mount.fsid)


# ---------------------------------------------------------------------------- several attachments


def test_a_mount_can_be_joined(server: Little) -> None:
    with puffs.local(server) as first:
        first.write_text("/f", "text")
        with puffs.local(first.mount) as second:
            assert second.read_text("/f") == "text"
            assert second.stat("/f").st_ino == first.stat("/f").st_ino
            held = second.open("/f")
        assert held.closed
        assert second.closed
        assert first.read_text("/f") == "text", "the mount goes on"
        assert server.asked("unmounted") == []
        third = puffs.local(first.mount)
    assert third.closed, "it ends with the one that made it"
    assert len(server.asked("unmounted")) == 1
    with fails(ENXIO):
        puffs.local(first.mount)


# ---------------------------------------------------------------------------------------- threads


def test_threads_get_along() -> None:
    """Many threads make, rename, read and remove beside each other; nothing is lost or left."""
    failures: list[BaseException] = []
    with puffs.local(MemFS()) as vfs:
        vfs.mkdir("/common")

        def work(number: int) -> None:
            try:
                for turn in range(60):
                    mine = f"/common/{number}-{turn}"
                    vfs.write_text(mine, mine)
                    vfs.rename(mine, f"{mine}-moved")
                    assert vfs.read_text(f"{mine}-moved") == mine
                    with vfs.open("/log", "a") as log:
                        log.write(f"{number} {turn}\n")
                    assert f"{number}-{turn}-moved" in vfs.listdir("/common")
                    with vfs.open("/shared", "w") as shared:
                        shared.write(mine)
                    vfs.remove(f"{mine}-moved")
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert vfs.listdir("/common") == []
        lines = vfs.read_text("/log").splitlines()
        assert len(lines) == len(set(lines)) == 240, "no append is lost"
        assert len(vfs.mount.vnodes) == 1
        assert not vfs.mount.vnodes.busy()


def test_one_of_many_makes_the_file() -> None:
    with puffs.local(MemFS()) as vfs:
        for turn in range(30):
            start = threading.Barrier(4)
            made: list[bool] = []

            def make(turn: int = turn, start: threading.Barrier = start) -> None:
                start.wait()
                vfs.open(f"/all{turn}", "a").close()
                try:
                    vfs.open(f"/one{turn}", "x").close()
                    made.append(True)  # noqa: B023
                except FileExistsError:
                    pass

            threads = [threading.Thread(target=make) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert made == [True]


def test_async_file_servers_work_too() -> None:
    class Slow(MemFS):
        async def read(  # type: ignore[override]
            self, node: Any, offset: int, size: int, file: object
        ) -> puffs.Buffer:
            await asyncio.sleep(0)
            assert puffs.caller().gid == 7
            return super().read(node, offset, size, file)

    with puffs.local(Slow(), cred=puffs.Cred(0, 7, groups=())) as vfs:
        vfs.write_text("/f", "text")
        assert vfs.read_text("/f") == "text"


def test_devices_cannot_be_opened(vfs: puffs.LocalFileSystem) -> None:
    vfs.mkfifo("/fifo")
    vfs.mknod("/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for path in ("/fifo", "/null"):
        with fails(ENXIO):
            vfs.open(path)
    assert vfs.stat("/null").st_rdev == os.makedev(1, 3)


def test_chmod_of_a_link_itself(vfs: puffs.LocalFileSystem) -> None:
    vfs.symlink("x", "/l")
    with fails(EOPNOTSUPP):
        vfs.chmod("/l", 0o600, follow_symlinks=False)


def test_rename_with_flags() -> None:
    with puffs.local(MemFS()) as vfs:
        vfs.write_text("/a", "a")
        vfs.write_text("/b", "b")
        with pytest.raises(FileExistsError):
            vfs.rename("/a", "/b", flags=puffs.RENAME_NOREPLACE)
        vfs.rename("/a", "/b", flags=puffs.RENAME_EXCHANGE)
        assert (vfs.read_text("/a"), vfs.read_text("/b")) == ("b", "a")
        with pytest.raises(FileNotFoundError):
            vfs.rename("/a", "/none", flags=puffs.RENAME_EXCHANGE)
        with fails(22):
            vfs.rename("/a", "/b", flags=puffs.RENAME_EXCHANGE | puffs.RENAME_NOREPLACE)
        vfs.mkdir("/d")
        with fails(22):
            vfs.rename("/d", "/d/e")
        vfs.mkdir("/d/e")
        with fails(22):
            vfs.rename("/d/e", "/d", flags=puffs.RENAME_EXCHANGE)


def test_rmtree(vfs: puffs.LocalFileSystem) -> None:
    vfs.makedirs("/keep/this")
    vfs.makedirs("/d/e/f")
    vfs.write_text("/d/e/g", "")
    vfs.symlink("/keep", "/d/e/link")
    vfs.symlink("/d", "/l")
    with pytest.raises(NotADirectoryError):
        vfs.rmtree("/l")
    vfs.rmtree("/d")
    assert sorted(vfs.listdir("/")) == ["keep", "l"]
    assert vfs.listdir("/keep") == ["this"]
    with pytest.raises(FileNotFoundError):
        vfs.rmtree("/d")


def test_writes_of_an_ordinary_user_take_set_user_id_away() -> None:
    with puffs.local(MemFS(), cred=puffs.Cred(0, 0, groups=())) as root:
        root.chmod("/", 0o777)
        for number, write in enumerate(("write", "truncate", "path")):
            path = f"/f{number}"
            with puffs.local(root.mount, cred=USER) as vfs:
                vfs.write_text(path, "text")
                vfs.chmod(path, 0o6755)
                if write == "path":
                    vfs.truncate(path, 1)
                else:
                    with vfs.open(path, "r+b", buffering=0) as stream:
                        stream.write(b"x") if write == "write" else stream.truncate(1)
                assert stat.S_IMODE(vfs.stat(path).st_mode) == 0o755, write
            root.chmod(path, 0o6755)
            root.write_text(path, "by root")
            assert stat.S_IMODE(root.stat(path).st_mode) == 0o6755


def test_unsupported_operation_is_what_fileno_raises(vfs: puffs.LocalFileSystem) -> None:
    with vfs.open("/f", "w") as stream:
        with pytest.raises(io.UnsupportedOperation):
            stream.fileno()
        assert not stream.isatty()
