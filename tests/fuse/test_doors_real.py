"""Every way to a mount, taken for real: by root, by ordinary users, by those without any right."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from puffs.attach.fuse.doors.device import clone_device
from puffs.attach.fuse.machine import HERE
from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mounting import mount_fuse, unmount
from puffs.attach.fuse.options import MountOptions
from puffs.attach.serve import mount as serve_in_child
from puffs.fs.mem import MemFS
from tests.cli.commands import PUFFS, SECONDS, processes, puffs
from tests.fuse import others, world
from tests.fuse.others import as_user, comes_true, gone, needs_fusermount3, needs_root, nobody_left

pytestmark = [pytest.mark.fuse, needs_root]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return others.place(tmp_path)


# A private namespace

HELPERS = [path for name in ("fusermount3", "fusermount") if (path := shutil.which(name))]


def test_an_ordinary_user_mounts_for_one_command(place: Path) -> None:
    printed = as_user(
        """
        $P exec -m mem:$D -- sh -c "echo hi > $D/f && cat $D/f && grep -c ' $D fuse.puffs.mem ' \
            /proc/mounts"
        ls -A $D; ! grep fuse.puffs.mem /proc/mounts
        """,
        place,
        files=dict.fromkeys(HELPERS, ""),
    )
    assert printed.split() == ["hi", "1"]
    assert nobody_left(place)


def test_in_there_the_user_is_still_himself_and_has_gained_nothing(place: Path) -> None:
    printed = as_user(
        """
        $P exec -m mem:$D -- sh -c "id -u; id -g; touch $D/f; stat -c '%u %g' $D/f; \
            grep CapEff /proc/self/status"
        """,
        place,
    ).split()
    me = str(world.NOBODY)
    assert printed == [me, me, me, me, "CapEff:", "0" * 16]


def test_several_file_systems_and_arguments_with_colons(place: Path) -> None:
    (place / "srv.py").write_text(
        "import puffs\n"
        "def greet(word: str = '?') -> puffs.Tree:\n"
        "    return puffs.Tree({'word': word})\n"
    )
    printed = as_user(
        """
        mkdir $D/a $D/b
        $P exec -m "mem:?size=1M:$D/a" -m "$D/../srv.py:greet?word=x%3Ay:$D/b" -- \
            sh -c "stat -f -c '%b %S' $D/a; cat $D/b/word"
        """,
        place,
    )
    blocks, size, word = printed.split()
    assert int(blocks) * int(size) == 1 << 20
    assert word == "x:y"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("true", 0),
        ("sh -c 'exit 7'", 7),
        ("sh -c 'kill -9 $$'", 128 + signal.SIGKILL),
        ("no-such-command", 127),
        ("/etc/passwd", 126),
    ],
)
def test_the_exit_status_is_that_of_the_command(place: Path, command: str, status: int) -> None:
    printed = as_user(f"$P exec -m mem:$D -- {command} 2> $D/log || echo $?; cat $D/log", place)
    assert printed.split()[:1] == ([str(status)] if status else [])
    assert nobody_left(place)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mex:$D", "did you mean mem:?"),
        ("mem:$D/none", "does not exist: make it first"),
        ("mem:", "names no directory"),
    ],
)
def test_what_cannot_be_mounted_is_said_and_the_command_not_run(
    place: Path, spec: str, says: str
) -> None:
    printed = as_user(f"$P exec -m mem:$D -m {spec} -- echo run 2>&1 && exit 1; true", place)
    assert printed.startswith("puffs: ")
    assert says in printed
    assert "run" not in printed.split()


def test_root_needs_no_user_namespace_and_keeps_other_users(place: Path) -> None:
    script = f"touch {place}/f; chown 1234 {place}/f; stat -c %u {place}/f; id -u"
    done = puffs("exec", "-m", f"mem:{place}", "--", "sh", "-c", script)
    assert (done.stdout.split(), done.stderr) == (["1234", "0"], "")
    assert find_mount(str(place)) is None


@contextmanager
def executing(place: Path, script: str) -> "Iterator[subprocess.Popen[str]]":
    """Run `puffs exec` with a script of sh, which has printed "ready"."""
    line = [*PUFFS, "exec", "-m", f"mem:{place}", "--", "sh", "-c", script]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on_to_the_command(place: Path, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    trap = f"trap 'cat {place}/f; exit 42' {name}; echo still > {place}/f"
    with executing(place, f"{trap}; echo ready; while :; do sleep 0.02; done") as process:
        assert process.stdout is not None
        process.send_signal(number)
        # The file system is still there when the command gets it.
        assert process.stdout.readline() == "still\n"
        assert process.wait(SECONDS) == 42
    assert nobody_left(place)


def test_keys_of_a_terminal_reach_the_command_once_and_no_server(place: Path) -> None:
    script = f"trap 'echo x >> {place}/f' INT; echo ready; read a; cat {place}/f; echo end"
    ours, theirs = os.openpty()
    line = [*PUFFS, "exec", "-m", f"mem:{place}", "--", "sh", "-c", script]
    setsid = [sys.executable, "-c", TERMINAL, *line]
    with subprocess.Popen(setsid, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        with open(ours, "rb", buffering=0) as terminal:
            printed = b""
            while b"ready" not in printed:
                printed += terminal.read(100)
            terminal.fileno()
            os.write(ours, b"\x03")
            while b"^C" not in printed:
                printed += terminal.read(100)
            os.write(ours, b"\n")
            while b"end" not in printed:
                printed += terminal.read(100)
        process.wait(SECONDS)
    assert printed.decode().split("^C")[1].split() == ["x", "end"]


TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_killing_puffs_exec_ends_its_servers(place: Path) -> None:
    with executing(place, "echo ready; read a") as process:
        process.kill()
        process.wait(SECONDS)
    assert comes_true(lambda: not any("exec -m" in line for line in processes(place).values()))


# fusermount3


@needs_fusermount3
def test_an_ordinary_user_mounts_uses_and_unmounts_with_fusermount3(place: Path) -> None:
    printed = as_user(
        r"""
        $P mount mem: $D -o 'noexec,fsname=a\,b,max_read=8192'
        grep " $D fuse" /proc/mounts
        echo hi > $D/f; cat $D/f
        $P umount $D
        ! grep " $D fuse" /proc/mounts
        """,
        place,
    )
    line, word = printed.splitlines()
    source, _, fstype, options, *_ = line.split(" ")
    assert (source, fstype, word) == ("a,b", "fuse.puffs.mem", "hi")
    wanted = f"nosuid,nodev,noexec,user_id={world.NOBODY},default_permissions,max_read=8192"
    assert set(wanted.split(",")) <= set(options.split(","))
    assert nobody_left(place)


@needs_fusermount3
def test_a_server_of_an_ordinary_user_unmounts_when_told_to_end(place: Path) -> None:
    as_user(
        """
        $P mount -f mem: $D & pid=$!
        until grep " $D fuse" /proc/mounts; do sleep 0.02; done
        stat $D; kill $pid; wait $pid
        ! grep " $D fuse" /proc/mounts
        """,
        place,
    )


@needs_fusermount3
def test_a_busy_mount_of_an_ordinary_user_is_refused_and_can_be_detached(place: Path) -> None:
    printed = as_user(
        """
        $P mount mem: $D; cd $D
        $P umount $D 2>&1 || echo refused
        $P umount -l $D; ! grep " $D fuse" /proc/mounts
        """,
        place,
    )
    assert "is busy (used by 'sh' with pid" in printed
    assert "refused" in printed


@needs_fusermount3
def test_allow_other_is_refused_to_users_before_anything_is_tried(place: Path) -> None:
    conf = {"/etc/fuse.conf": "#user_allow_other\n"}
    script = "$P mount mem: $D -o allow_other 2>&1 || grep fuse.puffs /proc/mounts || echo none"
    printed = as_user(script, place, files=conf)
    assert "fusermount3: allow_other is for root only here" in printed
    assert "user_allow_other" in printed
    assert printed.endswith("none\n")


@needs_fusermount3
def test_allow_other_works_where_root_has_allowed_it(place: Path) -> None:
    script = """
        $P mount mem: $D -o allow_other; grep -c "fuse.*,allow_other" /proc/mounts; $P umount $D
        """
    assert as_user(script, place, files={"/etc/fuse.conf": "user_allow_other\n"}) == "1\n"


@needs_fusermount3
def test_a_directory_of_somebody_else_is_no_mount_point(place: Path) -> None:
    printed = as_user("$P mount mem: /etc 2>&1 || echo refused", place)
    assert "fusermount3 mounts only on what you may write to" in printed
    assert "refused" in printed


@needs_fusermount3
def test_no_new_privs_shuts_that_door_and_is_named(place: Path) -> None:
    printed = as_user("$P mount mem: $D 2>&1 || echo refused", place, no_new_privs=True)
    assert "no_new_privs is set" in printed
    assert "puffs exec" in printed
    printed = as_user("$P doctor --json || true", place, no_new_privs=True)
    assert '"exec"' in printed.partition("]")[0]
    assert '"fusermount3"' not in printed.partition("]")[0]


def test_the_doctor_fails_where_no_door_is_open(place: Path) -> None:
    printed = as_user("$P doctor && exit 1; $P doctor --json | head -2", place, device=False)
    assert "there is no /dev/fuse" in printed
    assert '"open": []' in printed


# A connection from somebody else


@contextmanager
def unserved(mountpoint: Path, clones: int = 0) -> Iterator[list[int]]:
    """A mount and its descriptors, for somebody else to serve."""
    fd = mount_fuse(str(mountpoint), MountOptions(), fsname="", subtype="x", rootmode=stat.S_IFDIR)
    with ExitStack() as closing:
        fds = [fd, *(clone_device(HERE, fd) for _ in range(clones))]
        for each in fds:
            closing.callback(os.close, each)
        yield fds


def without_rights(place: Path, *words: str | Path) -> list[str]:
    """`puffs` as somebody who has neither privilege nor a /dev/fuse."""
    line = [sys.executable, "-m", "puffs", *words]
    return world.command(*line, device=False, no_new_privs=True, reach=[place])


@pytest.mark.parametrize("clones", [0, 2])
def test_a_descriptor_that_is_sent_over_a_socket_is_served(
    mountpoint: Path, place: Path, clones: int
) -> None:
    path = place / "s"
    line = without_rights(place, "serve", "mem:", "--fd-socket", path)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        unserved(mountpoint, clones) as fds,
    ):
        listener.bind(str(path))
        os.chmod(path, 0o666)
        listener.listen(1)
        listener.settimeout(SECONDS)
        with subprocess.Popen(line) as server, listener.accept()[0] as peer:
            socket.send_fds(peer, [b"\0"], fds)
            for fd in fds:
                os.dup2(listener.fileno(), fd)  # it alone holds the connection now
            check_files(mountpoint)
            status = Path(f"/proc/{server.pid}/status").read_text()
            facts = dict(row.split(":\t", 1) for row in status.splitlines() if ":\t" in row)
            assert facts["Uid"].split() == [str(world.NOBODY)] * 4
            assert (facts["NoNewPrivs"], facts["CapEff"]) == ("1", "0" * 16)
            assert not Path(f"/proc/{server.pid}/root/dev/fuse").exists()
            assert comes_true(lambda: len(readers(server.pid)) >= clones + 1)
            server.terminate()
            assert server.wait(SECONDS) == 0
    # Not for it to unmount.
    assert find_mount(str(mountpoint)) is not None


def readers(pid: int) -> list[str]:
    """The threads of a process that wait for requests."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [task.name for task in tasks if "poll" in (task / "wchan").read_text()]


def check_files(mountpoint: Path) -> None:
    """Use the mount, from another process."""
    script = f"echo hi > {mountpoint}/f && cat {mountpoint}/f && ls {mountpoint}"
    line = ["sh", "-c", script]
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.stdout, done.stderr) == ("hi\nf\n", "")


def test_a_descriptor_may_be_the_mount_point(mountpoint: Path, place: Path) -> None:
    with unserved(mountpoint) as (fd,):
        line = without_rights(place, "mount", "-f", "mem:", f"/dev/fd/{fd}")
        with subprocess.Popen(line, pass_fds=[fd]) as server:
            os.dup2(0, fd)
            check_files(mountpoint)
            unmount(mountpoint)
            assert server.wait(SECONDS) == 0


ASYNC = """
import asyncio, stat, puffs

class Slow(puffs.FileSystem[str]):
    def mount(self): return "/"
    async def lookup(self, dir, name, cred):
        if name != "f": raise FileNotFoundError(name)
        return "/f"
    def getattr(self, node, file=None):
        return puffs.Attr(stat.S_IFDIR | 0o755 if node == "/" else stat.S_IFREG | 0o644, size=3)
    async def read(self, node, offset, size, file):
        await asyncio.sleep(0.01)
        return b"hi\\n"[offset : offset + size]
"""


@pytest.mark.parametrize("spec", ["mem:", "async"])
def test_a_served_descriptor_ends_with_its_server(
    mountpoint: Path, tmp_path: Path, spec: str
) -> None:
    if spec == "async":
        (tmp_path / "slow.py").write_text(ASYNC)
        spec = f"{tmp_path}/slow.py:Slow"
    with unserved(mountpoint) as (fd,):
        line = [*PUFFS, "mount", "-f", spec, f"/dev/fd/{fd}"]
        with subprocess.Popen(line, pass_fds=[fd]) as server:
            os.dup2(0, fd)
            if spec == "mem:":
                check_files(mountpoint)
            else:
                line = ["cat", f"{mountpoint}/f"]
                done = subprocess.run(line, capture_output=True, timeout=SECONDS, check=True)
                assert done.stdout == b"hi\n"
            server.terminate()
            assert server.wait(SECONDS) == 0
        with pytest.raises(OSError, match="Transport endpoint"):
            os.statvfs(mountpoint)
    assert find_mount(str(mountpoint)) is not None


@pytest.mark.statement("M28")
def test_a_child_process_may_serve_a_descriptor(mountpoint: Path) -> None:
    with unserved(mountpoint) as (fd,):
        # The child gets the descriptor for good.
        given = os.dup(fd)
        os.dup2(0, fd)
        with serve_in_child(MemFS, f"/dev/fd/{given}", process=True) as child:
            check_files(mountpoint)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            with pytest.raises(OSError, match="Transport endpoint"):
                os.statvfs(mountpoint)


@pytest.mark.parametrize("option", ["ro", "allow_other", "auto_unmount", "fsname=x"])
def test_what_only_the_mounter_decides_is_refused_to_the_server(
    mountpoint: Path, option: str
) -> None:
    with unserved(mountpoint) as (fd,):
        line = [*PUFFS, "mount", "-f", "mem:", f"/dev/fd/{fd}", "-o", option]
        done = subprocess.run(
            line, pass_fds=[fd], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    assert done.returncode == 1
    assert "has been mounted already" in done.stderr


@contextmanager
def handed_over(
    place: Path, mountpoint: Path, *options: str, server_first: bool = True
) -> "Iterator[subprocess.Popen[bytes]]":
    """`puffs serve` without any rights, and `puffs mounter`, which has succeeded."""
    path = place / "s"
    serve = without_rights(place, "serve", "mem:", "--fd-socket", path, "-o", "threads=2")
    mounter = [*PUFFS, "mounter", "-o", "allow_other", *options, str(path), str(mountpoint)]
    lines = (serve, mounter) if server_first else (mounter, serve)
    with ExitStack() as ending:
        started = []
        for line in lines:
            started.append(ending.enter_context(subprocess.Popen(line)))
            assert comes_true(lambda: path.exists() or find_mount(str(mountpoint)) is not None)
        server, mounting = started if server_first else started[::-1]
        ending.callback(server.kill)
        assert mounting.wait(SECONDS) == 0
        yield server


@pytest.mark.parametrize("server_first", [True, False])
def test_a_mounter_mounts_and_hands_over(mountpoint: Path, place: Path, server_first: bool) -> None:
    user = () if server_first else ("--user", "nobody")
    with handed_over(place, mountpoint, *user, server_first=server_first) as server:
        found = find_mount(str(mountpoint))
        assert found is not None
        assert {f"user_id={world.NOBODY}", "allow_other", "nosuid"} <= set(found.options)
        assert found.fstype == "fuse.puffs.mem"
        check_files(mountpoint)
        assert not (place / "s").exists()
        server.terminate()
        assert server.wait(SECONDS) == 0
        # Told to end, it had the mounter's watcher unmount first.
        assert find_mount(str(mountpoint)) is None
    assert nobody_left(mountpoint)


def test_a_mount_that_was_handed_over_goes_with_its_server(mountpoint: Path, place: Path) -> None:
    with handed_over(place, mountpoint) as server:
        check_files(mountpoint)
        server.kill()
        assert gone(mountpoint)
    assert nobody_left(mountpoint)


def test_a_mount_that_was_handed_over_can_be_unmounted_outside(
    mountpoint: Path, place: Path
) -> None:
    with handed_over(place, mountpoint) as server:
        check_files(mountpoint)
        assert puffs("umount", mountpoint).returncode == 0
        assert server.wait(SECONDS) == 0
    assert nobody_left(mountpoint)


def test_both_sides_are_told_why_it_cannot_be_mounted(tmp_path: Path) -> None:
    path, missing = tmp_path / "s", tmp_path / "missing"
    line = [*PUFFS, "serve", "mem:", "--fd-socket", str(path)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as server:
        assert comes_true(path.exists)
        done = puffs("mounter", path, missing)
        _, complaint = server.communicate(timeout=SECONDS)
    assert done.returncode == server.returncode == 1
    assert complaint == done.stderr
    assert "missing does not exist: make it first" in complaint


def test_a_mounter_does_not_wait_for_a_server_without_a_directory(tmp_path: Path) -> None:
    done = puffs("mounter", tmp_path / "s", tmp_path / "missing")
    assert done.returncode == 1
    assert "missing does not exist" in done.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("command", ["serve", "mounter"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_who_waits_for_the_other_side_can_be_ended(
    mountpoint: Path, tmp_path: Path, command: str, number: signal.Signals
) -> None:
    path = tmp_path / "s"
    words = {
        "serve": ["serve", "mem:", "--fd-socket", str(path)],
        "mounter": ["mounter", str(path), str(mountpoint)],
    }
    with subprocess.Popen([*PUFFS, *words[command]], stderr=subprocess.DEVNULL) as waiting:
        try:
            assert comes_true(path.exists)
            waiting.send_signal(number)
            status = waiting.wait(SECONDS)
        finally:
            waiting.kill()
    assert status != 0 if number == signal.SIGINT else status == 128 + number
    assert not path.exists()


def test_a_stranger_may_not_fetch_a_connection(mountpoint: Path, place: Path) -> None:
    path = place / "s"
    line = [*PUFFS, "mounter", str(path), str(mountpoint)]
    with subprocess.Popen(line) as mounter:
        try:
            assert comes_true(path.exists)
            serve = without_rights(place, "serve", "mem:", "--fd-socket", path)
            done = subprocess.run(
                serve, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            assert done.returncode == 1
            assert "Permission denied" in done.stderr
            assert "--user" in done.stderr
        finally:
            mounter.kill()
    assert find_mount(str(mountpoint)) is None


def test_only_a_socket_that_was_left_behind_is_replaced(mountpoint: Path, place: Path) -> None:
    path = place / "s"
    path.write_text("precious")
    done = puffs("serve", "mem:", "--fd-socket", path)
    assert done.returncode == 1
    assert path.read_text() == "precious"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    os.chown(path, world.NOBODY, world.NOBODY)
    with handed_over(place, mountpoint, "--user", "nobody"):
        check_files(mountpoint)
