"""Looking at live mounts, and ending them, with the commands that people have."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import puffs
from puffs.attach import asking, rendezvous
from puffs.attach.asking import ask, mounted
from puffs.attach.fuse.mountinfo import find_mount
from puffs.fs.mem import MemFS
from tests.fuse.conftest import PATIENCE, Serve, Served, give_back
from tests.fuse.others import as_user, needs_fusermount3, needs_root, place
from tests.fuse.servers import Hello, Noting
from tests.fuse.world import NOBODY

pytestmark = pytest.mark.fuse

ROOT = Path(__file__).parents[2]
PUFFS = [sys.executable, "-m", "puffs"]


def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60)


def puffs_(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return run(*PUFFS, *arguments)


def succeeds(*arguments: str | Path) -> str:
    done = puffs_(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def wait_until(true: Callable[[], object]) -> None:
    """Wait for what another process does without telling."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if true():
            return
        pause.wait(0.02)
    raise AssertionError("it does not come about")


def socket_of(served: Served) -> Path:
    """Where the control socket of a mount is."""
    name = rendezvous.socket_name(mounted(served.path).device)
    return Path(rendezvous.own_directory(), name)


def gone(socket: Path, made_ns: int) -> bool:
    """Whether a socket has gone; somebody else's mount may have its number, and name, by now."""
    try:
        return socket.stat().st_mtime_ns != made_ns
    except FileNotFoundError:
        return True


# ------------------------------------------------------------------------------------------ trace


@contextmanager
def tracing(path: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """`puffs trace` while it listens."""
    wait_until(lambda: not ask(mounted(path), "status")["traces"])
    with subprocess.Popen(
        [*PUFFS, "trace", path, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(lambda: ask(mounted(path), "status")["traces"])
            yield process
        finally:
            process.kill()


def test_a_trace_of_ls_teaches_what_ls_does(serve: Serve) -> None:
    path = serve(lambda notes: Hello()).path
    with tracing(path) as process:
        assert run("ls", "-l", path).returncode == 0
        assert process.stdout is not None
        shown = [process.stdout.readline()]
        while "closedir" not in shown[-1]:  # nobody waits for that
            shown.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        output, complaints = process.communicate(timeout=PATIENCE)
    output = "".join(shown) + output
    assert (process.returncode, complaints) == (0, f"tracing {path}: ^C ends it\n")
    line = re.compile(
        r"\d\d:\d\d:\d\d\.\d{6} (?P<what>\S+ +\S+( \w+=\S+)*) +"
        r"(?P<who>ls\[\d+\] uid 0|kernel) += (?P<result>.*), [\d.]+ (µs|ms|s)"
    )
    lines = [line.fullmatch(text) for text in output.splitlines()]
    assert all(lines), output
    # Whether ls asks for ACLs and security labels depends on how it was built.
    told = [
        (" ".join(found["what"].split()), found["who"].partition("[")[0], found["result"])
        for found in lines
        if found and "xattr" not in found["what"]
    ]
    assert told == [
        ("getattr /", "ls", "drwxr-xr-x"),
        ("opendir /", "ls", "ok"),
        ("readdirplus / offset=0 size=32768", "ls", "3 names"),
        ("lookup /hello.txt", "ls", "-rw-r--r-- 7 bytes"),
        ("readdirplus / offset=3 size=32768", "ls", "the end"),
        ("closedir /", "kernel", "ok"),
    ]


def test_a_trace_for_programs_of_some_operations(serve: Serve) -> None:
    path = serve(Noting).path
    with tracing(path, "--json", "--only", "lookup", "--only", "write") as process:
        (path / "file").write_bytes(b"12345")
        with pytest.raises(FileNotFoundError):
            (path / "none").stat()
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [(event["operation"], event["path"], event["error"]) for event in events] == [
        ("lookup", "/file", None),
        ("write", "/file", None),
        ("lookup", "/none", "ENOENT"),
    ]
    write = events[1]
    assert write["arguments"] == {"offset": 0, "size": 5}
    assert write["caller"]["uid"] == os.getuid()
    assert write["caller"]["tid"] == threading.get_native_id()
    assert abs(write["when"] - time.time()) < 60
    assert 0 < write["seconds"] < PATIENCE
    wait_until(lambda: not ask(mounted(path), "status")["traces"])


def test_a_trace_ends_in_time_and_with_the_mount(serve: Serve) -> None:
    served = serve(Noting)
    assert succeeds("trace", served.path, "--json", "--for", "0") == ""
    with tracing(served.path, "--json") as process:
        served.child.unmount()
        _, complaints = process.communicate(timeout=PATIENCE)
        assert (process.returncode, complaints) == (0, "")
    done = puffs_("trace", served.path)
    assert done.returncode == 1
    assert "is not mounted" in done.stderr


LOAD = """
import itertools, os, sys
top = sys.argv[1]
print(flush=True)
rounds = 0
while not os.path.exists(sys.argv[2]):
    name, other = f"{top}/a{rounds}", f"{top}/b{rounds}"
    data = os.urandom(5000)
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    assert os.write(fd, data) == len(data)
    assert os.pread(fd, 9999, 0) == data
    os.close(fd)
    os.rename(name, other)
    assert not os.path.exists(name)
    assert os.stat(other).st_size == len(data)
    with open(other, "rb") as file:
        assert file.read() == data
    assert os.path.basename(other) in os.listdir(top)
    os.unlink(other)
    rounds += 1
print(rounds)
"""


class Later(MemFS):
    """The same, with operations that wait."""

    async def getattr(self, node: Any, file: object = None) -> puffs.Attr:  # type: ignore[override]
        import asyncio

        await asyncio.sleep(0)
        return super().getattr(node, file)


@pytest.mark.parametrize(
    ("server", "options"), [(MemFS, ""), (MemFS, "threads=4"), (Later, "")], ids=str
)
def test_switching_traces_on_and_off_under_load_loses_nothing(
    serve: Serve, tmp_path: Path, server: type[MemFS], options: str
) -> None:
    path = serve(lambda notes: server(), options).path
    enough = tmp_path / "enough"
    directories = [path / f"dir{number}" for number in range(3)]
    for directory in directories:
        directory.mkdir()
    loads = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD, directory, enough],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for directory in directories
    ]
    try:
        for load in loads:
            assert load.stdout is not None
            assert load.stdout.readline() == "\n"
        seen = 0
        for _ in range(50):
            with asking.trace(mounted(path), [], PATIENCE) as events:
                for _, event in zip(range(20), events, strict=False):
                    assert event.get("error") in (None, "ENOENT", "ENODATA", "ENOSYS"), event
                    seen += "operation" in event
    finally:
        enough.touch()
        for load in loads:
            output, complaints = load.communicate(timeout=60)
            assert (load.returncode, complaints) == (0, "")
            assert int(output) > 0
    assert seen > 500
    ask(mounted(path), "stats", action="on")
    assert list(path.iterdir())
    wait_until(lambda: ask(mounted(path), "status")["under_way"] == 0)
    assert all(list(directory.iterdir()) == [] for directory in directories)


# -------------------------------------------------------------------------- status, list, metrics


def test_status_and_list_of_a_mount_that_is_well(serve: Serve) -> None:
    served = serve(Noting)
    status = json.loads(succeeds("status", "--json", served.path))
    assert status["state"] == "running"
    assert status["mountpoint"] == str(served.path)
    assert status["name"] == "toy"
    assert status["pid"] == status["server_pid"] == served.child.pid
    assert re.fullmatch(r"7\.\d+", status["protocol"])
    assert status["threads"] == 1
    text = succeeds("status", served.path)
    assert re.search(r"^state +running$", text, re.M)
    assert re.search(rf"^server pid +{served.child.pid}$", text, re.M)
    (mine,) = [row for row in listed() if row["mountpoint"] == str(served.path)]
    assert (mine["state"], mine["server_pid"]) == ("running", served.child.pid)
    assert re.search(rf"^running +{served.child.pid} +toy +{served.path}$", succeeds("list"), re.M)


def listed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(succeeds("list", "--json"))
    return found


def test_metrics_for_prometheus(serve: Serve) -> None:
    path = serve(Noting).path
    assert "operation=" not in succeeds("metrics", path)  # from here on it counts
    (path / "file").write_bytes(b"12345")
    with pytest.raises(FileNotFoundError):
        (path / "none").stat()
    (path / "none").exists()
    text = succeeds("metrics", path)
    samples = dict(re.findall(r"^(puffs_\S+) (\S+)$", text, re.M))
    names = re.findall(r"^# TYPE (\S+) (?:gauge|counter|histogram)$", text, re.M)
    assert len(names) == len(set(names))
    for sample in samples:
        assert any(sample.startswith(name) for name in names)
    label = f'mountpoint="{path}",name="toy"'
    assert samples[f'puffs_request_duration_seconds_count{{{label},operation="write"}}'] == "1"
    assert samples[f'puffs_data_bytes_total{{{label},operation="write"}}'] == "5"
    errors = f'puffs_request_errors_total{{{label},operation="lookup",errno="ENOENT"}}'
    assert int(samples[errors]) == 2
    counts = [
        int(count)
        for count in re.findall(
            rf'^puffs_request_duration_seconds_bucket{{{label},operation="lookup",le=.*}} (\d+)$',
            text,
            re.M,
        )
    ]
    assert counts == sorted(counts)
    assert counts[-1] == 3


@contextmanager
def stopped(served: Served) -> Iterator[None]:
    os.kill(served.child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(served.child.pid, signal.SIGCONT)


def test_a_server_that_hangs_is_told_and_can_be_cut_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(Noting)
    with stopped(served):
        (mine,) = [row for row in listed() if row["mountpoint"] == str(served.path)]
        assert (mine["state"], mine["server_pid"]) == ("hung", None)
        assert "has not answered" in mine["why"]
        done = puffs_("umount", "--force", served.path)
        assert (done.returncode, done.stderr) == (0, "")
        assert not served.mounted()
    assert served.ended() in (0, 1)


def test_a_server_that_was_killed_is_dead(serve: Serve) -> None:
    served = serve(Noting)
    left = socket_of(served)
    made_ns = left.stat().st_mtime_ns
    os.kill(served.child.pid, signal.SIGKILL)
    # Not by `served.child.wait()`, which takes the dead mount away.
    os.waitid(os.P_PID, served.child.pid, os.WEXITED | os.WNOWAIT)
    done = puffs_("status", "--json", served.path)
    assert done.returncode == 1
    status = json.loads(done.stdout)
    assert (status["state"], status["name"], status["server_pid"]) == ("dead", "toy", None)
    assert gone(left, made_ns)
    assert ("dead", str(served.path)) in [(row["state"], row["mountpoint"]) for row in listed()]
    assert succeeds("umount", served.path) == ""
    assert not served.mounted()


def test_a_mount_without_a_socket(serve: Serve) -> None:
    served = serve(Noting, "nocontrol")
    assert not socket_of(served).exists()
    done = puffs_("status", "--json", served.path)
    assert (done.returncode, json.loads(done.stdout)["state"]) == (1, "unknown")
    done = puffs_("trace", served.path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nocontrol" in done.stderr
    assert succeeds("umount", served.path) == ""
    assert served.ended() == 0


def test_sync_reaches_the_file_server(serve: Serve) -> None:
    served = serve(Noting)
    assert succeeds("sync", served.path) == ""
    assert served.notes("sync") == [("sync", True)]


@needs_fusermount3
@needs_root
def test_ordinary_users_look_at_their_mounts_and_end_them(tmp_path: Path) -> None:
    printed = as_user(
        """
        $P mount mem: $D
        $P status $D | grep -c '^state *running$'
        $P list | grep -c " mem  *$D$"
        $P trace --json --only mkdir $D > $D.trace & trace=$!
        until $P status $D | grep -q '^traces *1$'; do :; done
        mkdir $D/made
        $P umount $D
        wait $trace; cat $D.trace
        """,
        place(tmp_path),
    )
    running, listed, event = printed.splitlines()
    assert (running, listed) == ("1", "1")
    told = json.loads(event)
    assert (told["operation"], told["path"], told["caller"]["uid"]) == ("mkdir", "/made", NOBODY)


# ------------------------------------------------------------------------------------- unmounting


class Stubborn(Noting):
    """Refuses to be unmounted."""

    def unmount(self, force: bool) -> None:
        raise OSError(errno.EBUSY, "not now")


def test_the_file_server_is_asked_before_it_is_unmounted(serve: Serve) -> None:
    served = serve(Stubborn)
    done = puffs_("umount", served.path)
    assert done.returncode == 1
    assert "refuses to be unmounted" in done.stderr
    assert done.stderr.count("\n") == 1
    assert served.mounted()
    assert served.notes("unmount") == [("unmount", False)]
    assert succeeds("umount", "--force", served.path) == ""
    assert (served.mounted(), served.ended()) == (False, 0)
    assert served.notes("unmount", "unmounted")[1:] == [("unmount", True), ("unmounted",)]


def test_force_takes_it_from_those_who_use_it(serve: Serve) -> None:
    served = serve(Noting)
    fd = os.open(served.path / "file", os.O_RDONLY)
    try:
        done = puffs_("umount", served.path)
        assert done.returncode == 1
        assert "is busy" in done.stderr
        assert succeeds("umount", "--force", served.path) == ""
        assert (served.mounted(), served.ended()) == (False, 0)
        with pytest.raises(OSError):
            os.fstat(fd) and os.read(fd, 1)
    finally:
        try:
            os.close(fd)
        except OSError:
            pass


def test_lazy_lets_those_who_use_it_go_on(serve: Serve) -> None:
    served = serve(Noting)
    with open(served.path / "file", "rb") as file:
        assert succeeds("umount", "--lazy", served.path) == ""
        assert not served.mounted()
        assert file.read() == b"contents"
    assert served.ended() == 0


# ------------------------------------------------------------------------------ the socket's end


@pytest.mark.parametrize("way", ["umount", "SIGTERM", "unmount", "an exception in the server"])
def test_no_way_out_leaves_a_socket(serve: Serve, way: str) -> None:
    served = serve(Noting)
    socket = socket_of(served)
    made_ns = socket.stat().st_mtime_ns
    match way:
        case "umount":
            assert run("umount", served.path).returncode == 0
        case "SIGTERM":
            os.kill(served.child.pid, signal.SIGTERM)
        case "unmount":
            served.child.unmount()
        case _:
            give_back(served.path)
    served.ended()
    assert gone(socket, made_ns)


def test_the_end_of_a_program_leaves_no_socket(mountpoint: Path) -> None:
    script = (
        "import os, sys, puffs\n"
        "from puffs.attach import rendezvous\n"
        "from puffs.attach.asking import mounted\n"
        "from tests.fuse.servers import Hello\n"
        "mount = puffs.mount(Hello(), sys.argv[1])\n"
        "name = rendezvous.socket_name(mounted(sys.argv[1]).device)\n"
        "path = os.path.join(rendezvous.own_directory(), name)\n"
        "print(path, os.stat(path).st_mtime_ns)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, mountpoint],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
    )
    assert (done.returncode, done.stderr) == (0, "")
    path, made_ns = done.stdout.split()
    assert gone(Path(path), int(made_ns))
    assert find_mount(str(mountpoint)) is None


# ------------------------------------------------------------------------------------ slow requests

SLOW = """
import threading, puffs
from tests.fuse.servers import Hello

class Slow(Hello):
    def read(self, node, offset, size, file):
        threading.Event().wait(0.3)
        return super().read(node, offset, size, file)
"""


def test_slow_requests_are_logged_as_json(mountpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    spec = f"{tmp_path}/slow.py:Slow"
    with subprocess.Popen(
        [*PUFFS, "mount", "-f", "--slow", "0.1", "--log-format", "json", spec, mountpoint],
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as process:
        try:
            wait_until(lambda: find_mount(str(mountpoint)))
            assert run("cat", mountpoint / "hello.txt").stdout == "Hello!\n"
            assert process.stderr is not None
            told = json.loads(process.stderr.readline())
            assert ask(mounted(mountpoint), "status")["slow"] == 0.1
        finally:
            process.terminate()
    assert (told["level"], told["program"], told["pid"]) == ("warning", "puffs", process.pid)
    assert (told["operation"], told["path"]) == ("read", "/hello.txt")
    assert (told["caller"]["uid"], told["caller"]["command"]) == (os.getuid(), "cat")
    assert f"by cat[{told['caller']['tid']}] uid" in told["message"]
    assert 0.3 <= told["seconds"] < PATIENCE
    assert told["message"].startswith("slow: read")
    assert told["time"].endswith("+00:00")


@pytest.mark.parametrize("value", ["", "-1", "soon", "nan", "1e400x"])
def test_slow_needs_seconds(mountpoint: Path, value: str) -> None:
    done = puffs_("mount", "--slow", value, "mem:", mountpoint)
    assert done.returncode == 1
    assert "slow" in done.stderr
    assert find_mount(str(mountpoint)) is None
