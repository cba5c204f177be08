"""Every way to a mount, taken for real: by root, by ordinary users, by processes without any right.

A server that dies takes its mount along; who is handed a connection serves it.
"""

import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from puffs.attach.fuse.doors.device import clone_device
from puffs.attach.fuse.machine import HERE
from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mounting import mount_fuse, unmount
from puffs.attach.fuse.options import MountOptions
from puffs.attach.fuse.syscalls import mount, umount2
from puffs.attach.fuse.watcher import still_mounted
from tests.cli.commands import PUFFS, SECONDS, processes, puffs, serving
from tests.fuse import world

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else"),
]

SOON = 2.0
"""Within so many seconds a dead server's mount is gone."""


@pytest.fixture
def helper() -> None:
    if shutil.which("fusermount3") is None:
        reason = "there is no fusermount3: install the package fuse3"
        if os.environ.get("PUFFS_REQUIRE_FUSE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that belongs to an ordinary user."""
    path = tmp_path.resolve() / "place"
    path.mkdir()
    os.chown(path, world.NOBODY, world.NOBODY)
    return path


def as_user(script: str, place: Path, **plan: object) -> str:
    """Run a shell script as an ordinary user; it must succeed. Returns what it prints.

    In it, $P is the command `puffs` and $D a directory of that user to mount on.
    """
    (place / "d").mkdir(exist_ok=True)
    os.chown(place / "d", world.NOBODY, world.NOBODY)
    words = f'P="{" ".join(PUFFS)}"; D={place}/d\n{textwrap.dedent(script)}'
    done = world.run("sh", "-ec", words, reach=[place], **plan)
    assert done.returncode == 0, done
    return done.stdout


def comes_true(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Whether something that nothing tells of becomes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        select.select([], [], [], 0.005)
    return True


def gone(mountpoint: Path) -> bool:
    """Whether nothing is mounted on a path, or becomes so soon: the table of mounts tells."""
    with open("/proc/self/mountinfo") as table:
        changes = select.poll()
        changes.register(table, select.POLLPRI)
        end = time.monotonic() + SOON
        while find_mount(str(mountpoint)) and time.monotonic() < end:
            changes.poll(max(0, end - time.monotonic()) * 1000)
    return find_mount(str(mountpoint)) is None


def nobody_left(mountpoint: Path) -> bool:
    """Whether the processes that name a path in their command line have ended, or do so soon."""
    return comes_true(lambda: not processes(mountpoint), SOON)


def watcher_of(mountpoint: Path) -> int:
    """The process that watches over a mount."""
    (pid,) = [pid for pid, line in processes(mountpoint).items() if "fuse.watcher" in line]
    return pid


# A private namespace


def test_an_ordinary_user_mounts_for_one_command(place: Path) -> None:
    printed = as_user(
        """
        PATH=$(dirname $(command -v sh))/none:$PATH
        $P exec -m mem:$D -- sh -c "echo hi > $D/f && cat $D/f && grep -c ' $D fuse.puffs.mem ' \
            /proc/mounts"
        ls -A $D; ! grep fuse.puffs.mem /proc/mounts
        """,
        place,
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


@pytest.mark.usefixtures("helper")
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


@pytest.mark.usefixtures("helper")
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


@pytest.mark.usefixtures("helper")
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


@pytest.mark.usefixtures("helper")
def test_allow_other_is_refused_to_users_before_anything_is_tried(place: Path) -> None:
    conf = {"/etc/fuse.conf": "#user_allow_other\n"}
    script = "$P mount mem: $D -o allow_other 2>&1 || grep fuse.puffs /proc/mounts || echo none"
    printed = as_user(script, place, files=conf)
    assert "fusermount3: allow_other is for root only here" in printed
    assert "user_allow_other" in printed
    assert printed.endswith("none\n")


@pytest.mark.usefixtures("helper")
def test_allow_other_works_where_root_has_allowed_it(place: Path) -> None:
    script = """
        $P mount mem: $D -o allow_other; grep -c "fuse.*,allow_other" /proc/mounts; $P umount $D
        """
    assert as_user(script, place, files={"/etc/fuse.conf": "user_allow_other\n"}) == "1\n"


@pytest.mark.usefixtures("helper")
def test_a_directory_of_somebody_else_is_no_mount_point(place: Path) -> None:
    printed = as_user("$P mount mem: /etc 2>&1 || echo refused", place)
    assert "fusermount3 mounts only on what you may write to" in printed
    assert "refused" in printed


@pytest.mark.usefixtures("helper")
def test_no_new_privs_shuts_that_door_and_is_named(place: Path) -> None:
    printed = as_user("$P mount mem: $D 2>&1 || echo refused", place, no_new_privs=True)
    assert "no_new_privs is set" in printed
    assert "puffs exec" in printed
    printed = as_user("$P doctor --json || true", place, no_new_privs=True)
    assert '"exec"' in printed.partition("]")[0]
    assert '"fusermount3"' not in printed.partition("]")[0]


# A server that dies


def test_a_killed_server_leaves_no_mount_behind(mountpoint: Path) -> None:
    assert puffs("mount", "mem:", mountpoint).returncode == 0
    watcher = watcher_of(mountpoint)
    (server,) = set(processes(mountpoint)) - {watcher}
    (mountpoint / "f").write_text("x")
    descriptors = [os.readlink(fd) for fd in Path(f"/proc/{watcher}/fd").iterdir()]
    assert not [name for name in descriptors if "fuse" in name or "socket" in name]
    held = os.open(mountpoint / "f", os.O_RDONLY)  # in use: no reason to leave it
    try:
        os.kill(server, signal.SIGKILL)
        assert gone(mountpoint)
    finally:
        os.close(held)
    assert nobody_left(mountpoint)


@pytest.mark.usefixtures("helper")
def test_a_killed_server_of_an_ordinary_user_leaves_no_mount_behind(place: Path) -> None:
    as_user(
        f"""
        $P mount -f mem: $D & pid=$!
        until grep " $D fuse" /proc/mounts; do sleep 0.02; done
        stat $D; kill -9 $pid
        for i in $(seq {int(SOON / 0.02)}); do
            grep " $D fuse" /proc/mounts || exit 0; sleep 0.02
        done
        exit 1
        """,
        place,
    )
    assert nobody_left(place)


FORKING = """
import os, puffs, time

def fork():
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "60"]) if EXEC else time.sleep(60)
    return "forked"

class Forking(puffs.Tree):
    def __init__(self):
        super().__init__({"fork": fork})
"""


@pytest.mark.parametrize("exec", [False, True])
def test_children_of_the_server_do_not_keep_its_mount(
    mountpoint: Path, tmp_path: Path, exec: bool
) -> None:
    (tmp_path / "forking.py").write_text(FORKING.replace("EXEC", str(exec)))
    assert puffs("mount", f"{tmp_path}/forking.py:Forking", mountpoint).returncode == 0
    (server,) = set(processes(mountpoint)) - {watcher_of(mountpoint)}
    assert (mountpoint / "fork").read_text() == "forked"
    (child, *_) = children(server) - {watcher_of(mountpoint)}
    try:
        os.kill(server, signal.SIGKILL)
        assert gone(mountpoint)
    finally:
        os.kill(child, signal.SIGKILL)


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_signals_that_end_a_server_do_not_end_its_watcher(mountpoint: Path) -> None:
    assert puffs("mount", "mem:", mountpoint).returncode == 0
    watcher = watcher_of(mountpoint)
    (server,) = set(processes(mountpoint)) - {watcher}
    # It ignores them from its first lines on, which it has reached when it waits.
    assert comes_true(lambda: "poll" in Path(f"/proc/{watcher}/wchan").read_text())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(watcher, number)
    os.kill(server, signal.SIGKILL)
    assert gone(mountpoint)


def test_what_was_mounted_later_is_not_taken_away(mountpoint: Path) -> None:
    assert puffs("mount", "mem:", mountpoint).returncode == 0
    watcher = watcher_of(mountpoint)
    (server,) = set(processes(mountpoint)) - {watcher}
    mount("none", str(mountpoint), "tmpfs", 0, "")
    try:
        os.kill(server, signal.SIGKILL)
        assert nobody_left(mountpoint)
        found = find_mount(str(mountpoint))
        assert found is not None
        assert found.fstype == "tmpfs"
    finally:
        umount2(str(mountpoint), 0)
    unmount(mountpoint)


def test_a_mount_is_known_by_its_id_and_its_device(mountpoint: Path) -> None:
    fd = mount_fuse(str(mountpoint), MountOptions(), fsname="", subtype="x", rootmode=stat.S_IFDIR)
    try:
        found = find_mount(str(mountpoint))
        assert found is not None
        assert still_mounted(found.mount_id, found.device) == found
        assert still_mounted(found.mount_id + 1, found.device) is None
        assert still_mounted(found.mount_id, (0, found.device[1] + 1)) is None
        proc = find_mount("/proc")
        assert proc is not None
        assert still_mounted(proc.mount_id, proc.device) is None
    finally:
        os.close(fd)


def test_after_an_unmount_no_watcher_is_left(mountpoint: Path) -> None:
    assert puffs("mount", "mem:", mountpoint).returncode == 0
    assert watcher_of(mountpoint)
    assert puffs("umount", mountpoint).returncode == 0
    assert nobody_left(mountpoint)


def test_without_it_a_dead_mount_stays(mountpoint: Path) -> None:
    assert puffs("mount", "-o", "noauto_unmount", "mem:", mountpoint).returncode == 0
    (server,) = processes(mountpoint)
    os.kill(server, signal.SIGKILL)
    assert nobody_left(mountpoint)
    assert find_mount(str(mountpoint)) is not None


RUN = """
import os, signal, sys, puffs
from puffs.fs.mem import MemFS
mount = puffs.mount(MemFS, sys.argv[1], sys.argv[2])
print("mounted", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("options", "left"), [("auto_unmount", False), ("", True)])
def test_a_program_asks_for_it_by_an_option(mountpoint: Path, options: str, left: bool) -> None:
    line = [sys.executable, "-c", RUN, str(mountpoint), options]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=False)
    assert (done.stdout, done.returncode) == ("mounted\n", -signal.SIGKILL)
    if left:
        assert find_mount(str(mountpoint)) is not None
    else:
        assert gone(mountpoint)


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


def test_a_served_descriptor_ends_with_its_server(mountpoint: Path) -> None:
    with unserved(mountpoint) as (fd,):
        line = [*PUFFS, "mount", "-f", "mem:", f"/dev/fd/{fd}"]
        with subprocess.Popen(line, pass_fds=[fd]) as server:
            os.dup2(0, fd)
            check_files(mountpoint)
            server.terminate()
            assert server.wait(SECONDS) == 0
        with pytest.raises(OSError, match="Transport endpoint"):
            os.statvfs(mountpoint)
    assert find_mount(str(mountpoint)) is not None


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


# The service manager, and mount(8)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_tells_that_it_is_ready_and_that_it_stops(
    mountpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"puffs-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        manager.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        with serving(*PUFFS, "mount", "-f", "mem:", mountpoint, mountpoint=mountpoint) as server:
            ready = manager.recv(1000).decode().splitlines()
            assert ready == ["READY=1", f"MAINPID={server.pid}"]
            server.terminate()
            assert manager.recv(1000) == b"STOPPING=1"
            assert server.wait(SECONDS) == 0


def test_a_service_that_cannot_mount_is_never_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert puffs("mount", "-f", "mem:", tmp_path / "missing").returncode == 1
        with pytest.raises(BlockingIOError):
            manager.recv(1000)


UNIT = Path(__file__).parents[2] / "contrib/puffs@.service"


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / "puffs@mnt-x.service"
    unit.write_text(UNIT.read_text())
    line = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.stderr + done.stdout == ""
    for setting in ("Type=notify", "KillMode=process"):
        assert setting in unit.read_text().splitlines()


MOUNT_8 = f"""
sbin=$(readlink -f /sbin)
mount -t tmpfs none $sbin -o mode=755
printf '#!/bin/sh\\nexec {sys.executable} -m puffs.cli.mount_puffs "$@"\\n' > $sbin/mount.puffs
chmod 755 $sbin/mount.puffs
"""


def by_mount_8(script: str, mountpoint: Path) -> "subprocess.CompletedProcess[str]":
    """Run a shell script as root where mount(8) finds mount.puffs; $D is a mount point."""
    words = f"{MOUNT_8}\nD={mountpoint}\n{textwrap.dedent(script)}"
    line = ["unshare", "--mount", "--propagation", "private", "sh", "-c", words]
    return subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_mount_8_mounts_by_type(mountpoint: Path) -> None:
    done = by_mount_8(
        """
        set -e
        mount -t puffs 'mem:?size=1M' $D -o ro,nofail,_netdev,x-systemd.automount,user,comment=x
        grep " $D " /proc/mounts
        umount $D
        mount -t puffs.other mem: $D; echo hi > $D/f; cat $D/f; grep " $D " /proc/mounts; umount $D
        """,
        mountpoint,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, word, second = done.stdout.splitlines()
    assert first.split()[2:4][0] == "fuse.puffs.mem"
    assert {"ro", "noexec", "nosuid"} <= set(first.split()[3].split(","))
    assert (word, second.split()[2]) == ("hi", "fuse.puffs.other")
    assert nobody_left(mountpoint)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ("-o bogus mem: $D", 1, "unknown mount option 'bogus'"),
        ("mex: $D", 1, "did you mean mem:?"),
        ("mem: $D/missing", 32, "missing does not exist"),
    ],
)
def test_mount_8_is_told_what_is_wrong(
    mountpoint: Path, words: str, status: int, says: str
) -> None:
    done = by_mount_8(f"mount -t puffs {words}", mountpoint)
    assert done.returncode == status
    assert says in done.stderr


def test_mount_8_may_pretend_and_be_sloppy(mountpoint: Path) -> None:
    done = by_mount_8(
        """
        mount -f -t puffs mem: $D && ! grep " $D " /proc/mounts || exit 1
        mount -s -t puffs mem: $D -o bogus && umount $D
        """,
        mountpoint,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("helper")
def test_fstab_lets_an_ordinary_user_mount(place: Path) -> None:
    (place / "d").mkdir()
    os.chown(place / "d", world.NOBODY, world.NOBODY)
    script = f"""
        echo 'mem:?size=1M {place}/d puffs user,noauto,nofail 0 0' > /mnt/fstab
        mount --bind /mnt/fstab /etc/fstab
        exec setpriv --reuid {world.NOBODY} --regid {world.NOBODY} --clear-groups sh -ec '
            mount {place}/d; grep " {place}/d fuse" /proc/mounts; umount {place}/d;
            ! grep " {place}/d fuse" /proc/mounts'
        """
    inside = [sys.executable, "-c", PREPARE, str(place)]
    words = f"{MOUNT_8}\n{textwrap.dedent(script)}"
    line = ["unshare", "--mount", "--propagation", "private", *inside, "sh", "-c", words]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=UNIT.parents[1]
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"user_id={world.NOBODY}" in done.stdout
    assert "noexec" in done.stdout


PREPARE = """
import os, sys
from tests.fuse import world
from puffs.attach.fuse.syscalls import MS_NOSUID, mount
mount("none", world.STASH, "tmpfs", MS_NOSUID, "mode=755")
world.open_ways([sys.base_prefix, sys.prefix, os.getcwd(), sys.argv[1]])
world.devices(True)
os.execvp(sys.argv[2], sys.argv[2:])
"""
