"""From mounting to the end, by everybody who may end it."""

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mounting import MountError, abort_connection
from puffs.attach.fuse.mountpoint import is_stale
from tests.fuse.calls import fails, held_open
from tests.fuse.conftest import PATIENCE, Notes, Serve, Served, give_back
from tests.fuse.servers import Hello, Noting

pytestmark = pytest.mark.fuse


def umount(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["umount", *options, str(path)], capture_output=True, text=True, timeout=PATIENCE
    )


class Refusing(Noting):
    """Refuses to be unmounted until the directory `yes` has been made."""

    def unmount(self, force: bool) -> None:
        if not force and (100, "yes") not in self.names:
            raise OSError(errno.EBUSY, "not yet")


# -------------------------------------------------------------------------------- the first mount


def test_a_file_server_of_ten_lines_can_be_listed_and_read(serve: Serve) -> None:
    path = serve(lambda notes: Hello()).path

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert run("cat", f"{path}/hello.txt") == "Hello!\n"
    (line,) = [line for line in run("ls", "-l", str(path)).splitlines() if "hello" in line]
    assert line.startswith("-rw-r--r-- 1 root root 7 ")
    assert run("find", str(path)).splitlines() == [str(path), f"{path}/hello.txt"]
    assert run("stat", "-f", "-c", "%T", str(path)) == "fuseblk\n"


def test_a_mount_without_what_writes_is_read_only(serve: Serve) -> None:
    path = serve(lambda notes: Hello()).path
    mounted = find_mount(str(path))
    assert mounted is not None
    assert mounted.fstype == "fuse.puffs.hello"
    assert "ro" in mounted.options
    for write in (
        lambda: (path / "hello.txt").write_text("no"),
        lambda: (path / "new").write_text("no"),
        lambda: (path / "new").mkdir(),
        lambda: (path / "hello.txt").unlink(),
        lambda: (path / "hello.txt").chmod(0o600),
    ):
        with fails(errno.EROFS):
            write()


def test_opening_for_writing_without_write_is_refused(serve: Serve) -> None:
    class Renaming(Hello):
        def rename(self, *args: Any) -> None:
            raise OSError(errno.EXDEV, "no")

    path = serve(lambda notes: Renaming()).path
    mounted = find_mount(str(path))
    assert mounted is not None
    assert "rw" in mounted.options
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
        with fails(errno.EROFS):
            os.open(path / "hello.txt", flags)
    os.close(os.open(path / "hello.txt", os.O_RDONLY))


# ------------------------------------------------------------------------------------- unmounting


def test_unmounting_leaves_nothing_and_tells_the_file_server_once(serve: Serve) -> None:
    served = serve(Noting)
    served.path.joinpath("dir").stat()
    served.child.unmount()
    assert not served.mounted()
    assert served.ended() == 0
    noted = [note[0] for note in served.notes("unmount", "sync", "reclaim", "unmounted")]
    assert noted == ["unmount", "sync", "reclaim", "unmounted"]
    served.child.unmount()  # again: nothing is left to be done
    served.child.unmount(force=True)
    assert served.log == []


def test_a_file_server_may_refuse_and_lives_on(serve: Serve) -> None:
    served = serve(Refusing)
    with fails(errno.EBUSY, "refuses"):
        served.child.unmount()
    assert served.mounted()
    assert served.path.joinpath("file").read_text() == "contents"
    with fails(errno.EBUSY):
        served.child.unmount()
    served.path.joinpath("yes").mkdir()
    served.child.unmount()
    assert (served.mounted(), served.ended()) == (False, 0)
    assert served.notes("unmount") == [("unmount", False)] * 3
    assert served.notes("unmounted") == [("unmounted",)]


def test_force_does_not_hear_the_answer(serve: Serve) -> None:
    served = serve(Refusing)
    served.child.unmount(force=True)
    assert (served.mounted(), served.ended()) == (False, 0)
    assert served.notes("unmount", "unmounted") == [("unmount", True), ("unmounted",)]


@pytest.mark.parametrize("option", [(), ("-l",)])
def test_an_unmount_by_somebody_else_is_noticed(serve: Serve, option: tuple[str, ...]) -> None:
    served = serve(Refusing)
    done = umount(served.path, *option)
    assert (done.returncode, done.stderr) == (0, "")
    assert served.ended() == 0
    assert served.notes("unmount", "unmounted") == [("unmounted",)]  # umount(8) does not ask
    served.child.unmount()
    assert served.log == []


def test_a_mount_in_use_is_busy(serve: Serve) -> None:
    served = serve(Noting)
    with open(served.path / "file"):
        with fails(errno.EBUSY, "is busy", "used by", f"pid {os.getpid()}"):
            served.child.unmount()
        assert served.mounted()
    served.child.unmount()
    assert not served.mounted()


def test_force_takes_a_mount_in_use_away(serve: Serve) -> None:
    served = serve(Noting)
    with held_open(served.path / "file") as fd:
        assert os.read(fd, 3) == b"con"
        served.child.unmount(force=True)
        assert (served.mounted(), served.ended()) == (False, 0)
        for use in (os.fstat, os.fsync, lambda fd: os.pread(fd, 10, 8192)):
            with fails(errno.ENOTCONN):
                use(fd)
    assert served.notes("close", "unmounted")[-2:] == [("close", 101, "file 0", 0), ("unmounted",)]


def test_force_ends_all_threads_that_serve(serve: Serve) -> None:
    served = serve(Noting, "threads=4")
    with held_open(served.path / "file") as fd:
        assert os.read(fd, 3) == b"con"
        unmounting = threading.Thread(
            target=served.child.unmount, kwargs={"force": True}, daemon=True
        )
        unmounting.start()
        unmounting.join(PATIENCE)
        assert not unmounting.is_alive()
    assert (served.mounted(), served.ended()) == (False, 0)
    assert served.notes("unmounted") == [("unmounted",)]
    assert served.log == []


def test_one_may_unmount_while_another_waits(serve: Serve) -> None:
    served = serve(Noting)
    statuses: list[int] = []
    waiting = [
        threading.Thread(target=lambda: statuses.append(served.child.wait()), daemon=True)
        for _ in range(3)
    ]
    for thread in waiting:
        thread.start()
    served.child.unmount()
    for thread in waiting:
        thread.join(PATIENCE)
    assert statuses == [0, 0, 0]


def test_a_file_that_was_closed_just_before_is_closed(serve: Serve) -> None:
    """The kernel does not wait for a RELEASE when it unmounts."""
    served = serve(Noting)
    for _ in range(20):
        served.path.joinpath("file").read_bytes()
        os.listdir(served.path)
    served.child.unmount()
    for opening, closing in (("open", "close"), ("opendir", "closedir")):
        opened = len(served.notes(opening))
        assert opened >= 20
        assert len(served.notes(closing)) == opened


def in_a_script(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a script that has the file servers of this folder at hand."""
    head = "import errno, os, signal, sys, threading, time\nimport puffs\n"
    head += "from tests.fuse.servers import Hello, Noting\nfrom tests.fuse.conftest import Notes\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    )


def ran(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_unmounting_twice_at_once(mountpoint: Path) -> None:
    output = ran(
        in_a_script(
            """
            class Slow(Hello):
                asked = threading.Event()
                goon = threading.Event()
                def unmount(self, force):
                    self.asked.set()
                    assert self.goon.wait(10)

            mount = puffs.mount(Slow(), sys.argv[1])
            first = threading.Thread(target=mount.unmount)
            first.start()
            assert Slow.asked.wait(10)
            try:
                mount.unmount()
            except OSError as error:
                print(errno.errorcode[error.errno], error)
            Slow.goon.set()
            first.join()
            mount.unmount()
            print(mount.status.name, mount.wait(0), os.path.ismount(sys.argv[1]))
            """,
            mountpoint,
        )
    )
    busy, end = output.splitlines()
    assert busy.startswith("EBUSY")
    assert "being unmounted already" in busy
    assert end == "DYING True False"


def test_unmounting_inside_an_operation_is_a_deadlock_and_an_error(mountpoint: Path) -> None:
    output = ran(
        in_a_script(
            """
            class Suicidal(Hello):
                def read(self, *args):
                    told = ""
                    for call in (mount.unmount, lambda: mount.unmount(force=True), mount.sync):
                        try:
                            call()
                        except OSError as error:
                            told += os.strerror(error.errno) + "\\n"
                    return told.encode()
                text = bytes(100)

            mount = puffs.mount(Suicidal(), sys.argv[1])
            with mount:
                os.system(f"cat {sys.argv[1]}/hello.txt")
            """,
            mountpoint,
        )
    )
    assert output == f"{os.strerror(errno.EDEADLK)}\n" * 3


# ------------------------------------------------------------------- in a thread and in a process


def test_served_by_a_thread(mountpoint: Path) -> None:
    output = ran(
        in_a_script(
            """
            with puffs.mount(Hello, sys.argv[1]) as mount:
                os.system(f"cat {sys.argv[1]}/hello.txt")
                print(open(f"{sys.argv[1]}/hello.txt").read(), end="")
                print(mount.status.name, mount.mountpoint == sys.argv[1])
            print(mount.status.name, os.listdir(sys.argv[1]))
            """,
            mountpoint,
        )
    )
    assert output == "Hello!\nHello!\nRUNNING True\nDYING []\n"


def test_nothing_of_a_mount_is_left_in_its_process(mountpoint: Path) -> None:
    output = ran(
        in_a_script(
            """
            import gc, weakref
            def descriptors():
                return len(os.listdir("/proc/self/fd"))
            before = descriptors()
            gone = []
            for number in range(3):
                server = Hello()
                gone.append(weakref.ref(server))
                with puffs.mount(server, sys.argv[1]):
                    os.system(f"cat {sys.argv[1]}/hello.txt > /dev/null")
                del server
            for thread in threading.enumerate():  # those that served may still be on their way out
                if thread is not threading.current_thread():
                    thread.join(10)
            gc.collect()
            print([ref() for ref in gone], threading.active_count())
            print(descriptors() - before)
            """,
            mountpoint,
        )
    )
    assert output == "[None, None, None] 1\n0\n"


def test_the_end_of_the_interpreter_unmounts(mountpoint: Path, tmp_path: Path) -> None:
    for process in (False, True):
        ran(
            in_a_script(
                """
                keep = puffs.mount(
                    lambda: Noting(Notes(sys.argv[2])), sys.argv[1], process=bool(int(sys.argv[3]))
                )
                """,
                mountpoint,
                tmp_path / "notes",
                int(process),
            )
        )
        wait_until(lambda: find_mount(str(mountpoint)) is None)
    wait_until(lambda: (tmp_path / "notes").read_text().count("('unmounted',)") == 2)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what another process does without telling this one."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE * 100)):
        if true():
            return
        waiting.wait(0.01)
    raise AssertionError("it has not come true")


def test_a_forked_process_that_ends_does_not_unmount(mountpoint: Path) -> None:
    output = ran(
        in_a_script(
            """
            mount = puffs.mount(Hello, sys.argv[1])
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                sys.exit(0)
            print(os.waitpid(pid, 0)[1])
            print(open(f"{sys.argv[1]}/hello.txt").read(), end="")
            from puffs.attach.asking import ask, mounted
            print(ask(mounted(sys.argv[1]), "status")["state"])
            """,
            mountpoint,
        )
    )
    assert output == "0\nHello!\nrunning\n"


# ------------------------------------------------------------------------------------- signals


RUN = """
def ready(mount):
    print("ready", flush=True)

puffs.run(lambda: Noting(Notes(sys.argv[2])), sys.argv[1], on_ready=ready)
print("returned", flush=True)
"""


@contextmanager
def running(mountpoint: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A script that calls `puffs.run`."""
    head = "import sys, puffs\nfrom tests.fuse.servers import Noting\n"
    head += "from tests.fuse.conftest import Notes\n"
    command = [sys.executable, "-c", head + RUN, str(mountpoint), str(tmp_path / "notes")]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
            give_back(mountpoint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("in_use", [False, True])
def test_a_signal_unmounts_and_ends(
    mountpoint: Path, tmp_path: Path, number: signal.Signals, in_use: bool
) -> None:
    with running(mountpoint, tmp_path) as process:
        with held_open(mountpoint / "file") if in_use else nullcontext():
            process.send_signal(number)
            output, complaints = process.communicate(timeout=PATIENCE)
            assert (output, complaints, process.returncode) == ("returned\n", "", 0)
            assert find_mount(str(mountpoint)) is None
    assert (tmp_path / "notes").read_text().count("('unmounted',)") == 1


def test_a_killed_server_leaves_a_stale_mount_that_is_recognised(
    mountpoint: Path, tmp_path: Path
) -> None:
    with running(mountpoint, tmp_path) as process:
        process.kill()
        process.wait(PATIENCE)
        assert find_mount(str(mountpoint)) is not None
        assert is_stale(mountpoint)
        with fails(errno.ENOTCONN):
            os.listdir(mountpoint)
        with fails(errno.ENOTCONN, "stale", "umount"):
            puffs.mount(Hello, mountpoint)
        assert umount(mountpoint).returncode == 0


def test_a_killed_child_is_cleaned_up_by_its_parent(serve: Serve) -> None:
    served = serve(Noting)
    os.kill(served.child.pid, signal.SIGKILL)
    served.child.unmount()
    assert not served.mounted()
    assert served.ended() == -signal.SIGKILL


def test_waiting_for_a_killed_child_cleans_up_as_well(serve: Serve) -> None:
    served = serve(Noting)
    os.kill(served.child.pid, signal.SIGKILL)
    assert served.ended() == -signal.SIGKILL
    assert not served.mounted()
    served.child.unmount(force=True)  # as at the end of a `with` block


def test_a_child_ends_with_its_parent(mountpoint: Path, tmp_path: Path) -> None:
    """However that ends, and whoever inherited what."""
    second = tmp_path.resolve() / "second"
    second.mkdir()
    in_a_script(
        """
        first = puffs.mount(Hello, sys.argv[1], process=True)
        second = puffs.mount(Hello, sys.argv[2], process=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        mountpoint,
        second,
    )
    try:
        wait_until(lambda: find_mount(str(mountpoint)) is find_mount(str(second)) is None)
    finally:
        give_back(second)


def test_a_subprocess_of_the_server_does_not_keep_the_mount_alive(
    mountpoint: Path, tmp_path: Path
) -> None:
    script = """
    class Spawning(Hello):
        def read(self, *args):
            command = ["sleep", "60"]
            null = subprocess.DEVNULL
            child = subprocess.Popen(command, close_fds=False, stdout=null, stderr=null)
            return str(child.pid).encode()
        text = bytes(20)

    import subprocess
    mount = puffs.mount(Spawning, sys.argv[1])
    os.system(f"cat {sys.argv[1]}/hello.txt > {sys.argv[2]}")
    os.kill(os.getpid(), signal.SIGKILL)
    """
    pid = 0
    try:
        in_a_script(script, mountpoint, tmp_path / "pid")
        pid = int((tmp_path / "pid").read_text().strip("\0"))
        os.kill(pid, 0)  # it lives
        assert is_stale(mountpoint)
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------------------------- failing to mount


@pytest.mark.parametrize("process", [False, True])
@pytest.mark.parametrize(
    ("wrong", "code", "says"),
    [
        (PermissionError(errno.EACCES, "the tape is locked"), errno.EACCES, "the tape is locked"),
        (ValueError("no such tape"), errno.EIO, "no such tape"),
    ],
    ids=repr,
)
def test_a_failing_mount_operation_fails_the_mounting(
    mountpoint: Path, tmp_path: Path, wrong: Exception, code: int, says: str, process: bool
) -> None:
    class Failing(Noting):
        def mount(self) -> int:
            raise wrong

    def failing() -> Failing:
        return Failing(Notes(tmp_path / "notes"))

    mount = partial(puffs.mount, process=True) if process else puffs.mount
    with pytest.raises((OSError, ValueError), match=says) as caught:
        mount(failing, mountpoint)
    if process or isinstance(wrong, OSError):
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == code
    else:
        assert caught.value is wrong
    assert find_mount(str(mountpoint)) is None


class NoRoot(Hello):
    def mount(self) -> str:
        return None  # type: ignore[return-value]


class BadRoot(Hello):
    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        return None  # type: ignore[return-value]


class NoLookup(puffs.FileSystem[int]):
    def mount(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (NoRoot, "returned None instead of the cookie of the root"),
        (BadRoot, "attributes must be puffs.Attr or os.stat_result, not NoneType"),
        (NoLookup, "NoLookup lacks lookup, getattr: it cannot be mounted"),
    ],
)
def test_what_is_no_file_server_is_not_mounted(
    mountpoint: Path, cls: type[puffs.FileSystem[Any]], says: str
) -> None:
    with pytest.raises((OSError, TypeError), match=says):
        puffs.mount(cls, mountpoint)
    with pytest.raises(MountError, match=says):
        puffs.mount(cls, mountpoint, process=True)
    assert find_mount(str(mountpoint)) is None


@pytest.mark.parametrize("process", [False, True])
def test_an_option_that_does_not_exist_is_an_error_of_the_caller(
    mountpoint: Path, process: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    mount = partial(puffs.mount, process=True) if process else puffs.mount
    with pytest.raises(ValueError, match="unknown mount option 'reed'"):
        mount(Hello, mountpoint, "reed")
    assert capfd.readouterr() == ("", "")
    assert find_mount(str(mountpoint)) is None


def test_a_mount_point_that_cannot_be_used_ends_the_file_server(tmp_path: Path) -> None:
    with fails(errno.ENOENT, "does not exist"):
        puffs.mount(lambda: Noting(Notes(tmp_path / "notes")), tmp_path / "nothing")
    assert (tmp_path / "notes").read_text().splitlines()[-1] == "('unmounted',)"


def test_the_root_may_be_a_file(tmp_path: Path, serve: Serve) -> None:
    class OneFile(Hello):
        def getattr(self, node: str, file: object = None) -> puffs.Attr:
            return puffs.Attr(stat.S_IFREG | 0o644, size=len(self.text))

    place = tmp_path.resolve() / "place"
    place.touch()
    child = puffs.mount(OneFile, place, process=True)
    try:
        assert place.read_bytes() == b"Hello!\n"
        child.unmount()
        assert place.read_bytes() == b""
    finally:
        give_back(place)


# --------------------------------------------------------------------- ends that nobody asked for


def minor_of(served: Served) -> int:
    found = find_mount(str(served.path))
    assert found is not None
    return found.device[1]


def test_an_aborted_connection_leaves_nothing(serve: Serve) -> None:
    served = serve(Noting)
    abort_connection(minor_of(served))
    assert served.ended() == 0
    assert not served.mounted()
    assert served.notes("unmounted") == [("unmounted",)]


def test_an_error_while_serving_leaves_nothing(mountpoint: Path, tmp_path: Path) -> None:
    done = in_a_script(
        """
        def ready(mount):
            raise ValueError("not ready at all")
        puffs.run(lambda: Noting(Notes(sys.argv[2])), sys.argv[1], on_ready=ready)
        """,
        mountpoint,
        tmp_path / "notes",
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: not ready at all"
    assert find_mount(str(mountpoint)) is None
    assert (tmp_path / "notes").read_text().splitlines()[-1] == "('unmounted',)"


def test_a_mount_that_was_taken_out_of_the_tree_can_still_be_ended(serve: Serve) -> None:
    served = serve(Noting)
    with held_open(served.path / "file"):
        assert umount(served.path, "-l").returncode == 0
        served.child.unmount(force=True)
        assert served.ended() == 0


def test_a_mount_that_another_namespace_has_too_can_still_be_ended(serve: Serve) -> None:
    served = serve(Noting)
    copying = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo copied; cat"]
    with subprocess.Popen(
        copying, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as copy:
        assert copy.stdout is not None
        assert copy.stdout.readline() == "copied\n"
        served.child.unmount(force=True)
        assert (served.mounted(), served.ended()) == (False, 0)
        assert copy.poll() is None
        copy.communicate(timeout=PATIENCE)


def test_a_mount_under_another_one_can_still_be_ended(serve: Serve) -> None:
    served = serve(Noting)
    subprocess.run(["mount", "-t", "tmpfs", "cover", served.path], check=True, timeout=PATIENCE)
    try:
        with fails(errno.EBUSY):
            served.child.unmount()
        assert served.path.joinpath("anything").write_text("works") == 5
        served.child.unmount(force=True)
        assert served.ended() == 0
    finally:
        assert umount(served.path).returncode == 0
