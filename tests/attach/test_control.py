"""The control socket: who is heard and what is answered, that nonsense does no harm, and that no
socket outlives its server for long.
"""

import errno
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from puffs.attach import asking, control, rendezvous
from puffs.attach.asking import NoControl, ask
from puffs.attach.control import LINE_MAX, Control
from puffs.attach.fuse import trace
from puffs.attach.fuse.abi import Opcode
from puffs.attach.fuse.mountinfo import MountInfo
from tests.attach.fake_kernel import PATIENCE, FakeKernel
from tests.attach.toy import Toy

pytestmark = pytest.mark.usefixtures("loop")

DEVICE = (0, 77)
NAME = "0:77"
MOUNT = MountInfo(1, 0, DEVICE, "/", "/mnt/toy", "fuse.puffs.toy", "puffs:toy", ("user_id=0",))


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sockets are in these tests, for root and for others."""
    monkeypatch.setattr(rendezvous, "ROOT_DIRECTORY", f"{tmp_path}/puffs")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "puffs"


@contextmanager
def controlled(slow: float | None = None) -> Iterator[FakeKernel]:
    """A session with a control socket."""
    with FakeKernel(Toy()) as kernel:
        kernel.session.device = DEVICE
        kernel.mount.mountpoint = "/mnt/toy"
        controller = Control(kernel.mount, kernel.session, listen=True, slow=slow)
        controller.start()
        try:
            yield kernel
        finally:
            controller.close()


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    with controlled() as kernel:
        yield kernel


@contextmanager
def connected(directory: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(directory / NAME))
        yield client


def answer(client: socket.socket) -> Any:
    """The one line that comes, and then nothing."""
    with client.makefile("rb") as lines:
        line = lines.readline()
        assert lines.read() == b""
        return json.loads(line)


# ------------------------------------------------------------------------------------ commands


def test_status(loop: str, kernel: FakeKernel) -> None:
    kernel.open(kernel.lookup(b"file"))
    status = ask(MOUNT, "status")
    assert (status["state"], status["mountpoint"], status["name"]) == ("running", "/mnt/toy", "toy")
    assert status["pid"] == status["server_pid"] == os.getpid()
    assert (status["protocol"], status["loop"], status["threads"]) == ("7.45", loop, 1)
    assert (status["nodes"], status["open_files"]) == (2, 1)
    assert status["uptime"] > 0
    assert (status["statistics"], status["traces"], status["slow"]) == (False, 0, None)
    assert "operations" not in status
    assert "under_way" not in status


def test_statistics_on_reset_and_off(kernel: FakeKernel) -> None:
    assert ask(MOUNT, "stats", action="on")["operations"] == {}
    kernel.lookup(b"file")
    status = ask(MOUNT, "status")
    assert status["statistics"] is True
    assert status["operations"]["lookup"]["requests"] == 1
    assert (status["under_way"], status["oldest"]) == (0, None)
    assert ask(MOUNT, "stats", action="on")["operations"]["lookup"]["requests"] == 1
    assert ask(MOUNT, "stats", action="reset")["operations"] == {}
    assert "operations" not in ask(MOUNT, "stats", action="off")
    with pytest.raises(OSError, match="must be on, off or reset") as caught:
        ask(MOUNT, "stats", action="up")
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("destination", [None, 5, "", "relative/x.img"])
def test_a_snapshot_needs_an_absolute_path(kernel: FakeKernel, destination: object) -> None:
    with pytest.raises(OSError, match="must be an absolute path") as caught:
        ask(MOUNT, "snapshot", destination=destination)
    assert caught.value.errno == errno.EINVAL


def test_a_snapshot_needs_a_file_server_that_makes_them(kernel: FakeKernel, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="toy makes no snapshots") as caught:
        ask(MOUNT, "snapshot", destination=f"{tmp_path}/x.img")
    assert caught.value.errno == errno.EOPNOTSUPP
    assert not (tmp_path / "x.img").exists()


def test_a_trace_streams_until_the_end(kernel: FakeKernel) -> None:
    with asking.trace(MOUNT, [], PATIENCE) as events:
        assert ask(MOUNT, "status")["traces"] == 1
        kernel.lookup(b"file")
        event = next(events)
        assert (event["operation"], event["path"], event["error"]) == ("lookup", "/file", None)
    wait_until(lambda: ask(MOUNT, "status")["traces"] == 0)

    with controlled_again(kernel) as end:
        with asking.trace(MOUNT, ["getattr", "READ"], PATIENCE) as events:
            kernel.lookup(b"file")
            kernel.ask(Opcode.GETATTR)
            ending = threading.Thread(target=end)
            ending.start()
            assert [event["operation"] for event in events] == ["getattr"]
            ending.join()


def test_operations_that_come_with_the_answer_are_not_lost(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / NAME))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b'{"ok": true, "result": null}\n{"operation": "read"}\n')

        serving = threading.Thread(target=serve)
        serving.start()
        with asking.trace(MOUNT, [], PATIENCE) as events:
            assert list(events) == [{"operation": "read"}]
        serving.join()


@contextmanager
def controlled_again(kernel: FakeKernel) -> Iterator[Callable[[], None]]:
    """Another control in place of the first, and what ends it."""
    controller = Control(kernel.mount, kernel.session, listen=True, slow=None)
    controller.start()
    try:
        yield controller.close
    finally:
        controller.close()


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does without telling."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if true():
            return
        pause.wait(0.02)
    raise AssertionError("it does not come about")


def test_who_misspells_an_operation_is_told_which_there_are(kernel: FakeKernel) -> None:
    with pytest.raises(OSError, match=r"no operation 'stat'.*getattr"):
        with asking.trace(MOUNT, ["stat"], PATIENCE):
            pass
    assert ask(MOUNT, "status")["traces"] == 0


def test_a_client_that_does_not_read_its_trace_loses_lines(
    kernel: FakeKernel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "HELD", 100)
    with connected(directory) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b'{"puffs": 1, "command": "trace"}\n')
        with client.makefile("rb") as lines:
            assert json.loads(lines.readline())["ok"]
            for _ in range(3000):  # none of them waits for the client
                assert kernel.ask(Opcode.GETATTR).error == 0
            lost = seen = 0
            while lost + seen < 3000:
                event = json.loads(lines.readline())
                lost += event.get("lost", 0)
                seen += "operation" in event
    assert lost > 1000
    assert seen > 100


def test_a_stuck_client_does_not_hold_up_the_end(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PARTING_SECONDS", 0.1)
    with controlled() as kernel, connected(directory) as client:
        client.sendall(b'{"puffs": 1, "command": "trace"}\n')
        wait_until(lambda: bool(ask(MOUNT, "status")["traces"]))
        for _ in range(3000):
            kernel.ask(Opcode.GETATTR)
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE
    assert not (directory / NAME).exists()
    wait_until(lambda: "puffs-control" not in {thread.name for thread in threading.enumerate()})


# ------------------------------------------------------------------------------------ nonsense


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"\n", "JSON"),
        (b"status\n", "JSON"),
        (b"\xff\xfe\n", "JSON"),
        (b'"status"\n', "JSON object"),
        (b"[" * 10000 + b"\n", ""),
        (b'{"command": "status"}\n', '"puffs": 1'),
        (b'{"puffs": 2, "command": "status"}\n', '"puffs": 1'),
        (b'{"puffs": 1}\n', "one of"),
        (b'{"puffs": 1, "command": "explode"}\n', "one of resume, snapshot, stats, status"),
        (b'{"puffs": 1, "command": ["status"]}\n', "one of"),
        (b'{"puffs": 1, "command": "trace", "only": "read"}\n', "list"),
        (b'{"puffs": 1, "command": "trace", "only": [{}]}\n', "no operation"),
        (b" " * (LINE_MAX + 1), "65536 bytes"),
    ],
)
def test_nonsense_is_refused_and_does_no_harm(
    kernel: FakeKernel, directory: Path, line: bytes, says: str
) -> None:
    with connected(directory) as client:
        client.sendall(line)
        refusal = answer(client)
    assert (refusal["ok"], refusal["errno"]) == (False, errno.EINVAL)
    assert says in refusal["error"]
    assert ask(MOUNT, "status")["state"] == "running"


def test_clients_that_say_nothing_are_no_matter_but_for_their_number(
    kernel: FakeKernel, directory: Path
) -> None:
    silent = []
    for _ in range(control.CLIENTS_MAX):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(directory / NAME))
        silent.append(client)
    try:
        with pytest.raises(OSError, match="too many") as caught:
            ask(MOUNT, "status")
        assert caught.value.errno == errno.EBUSY
    finally:
        for client in silent:
            client.close()
    wait_until(lambda: not isinstance(status_or_error(), OSError))


def status_or_error() -> Any:
    try:
        return ask(MOUNT, "status")
    except OSError as exc:
        return exc


# --------------------------------------------------------------------------------- who is heard


def test_only_the_owner_can_reach_it(kernel: FakeKernel, directory: Path) -> None:
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / NAME).stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_others_are_not_heard_even_if_they_reach_it(
    kernel: FakeKernel, directory: Path, tmp_path: Path
) -> None:
    for above in (directory, tmp_path, *tmp_path.parents[:-1]):
        if above != Path("/tmp"):
            above.chmod(0o711)
    (directory / NAME).chmod(0o666)
    script = (
        "import encodings.idna, os, socket, sys; os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        's.sendall(b\'{"puffs": 1, "command": "status"}\\n\'); print(s.makefile().read())'
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(directory / NAME)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd="/",
    )
    refusal = json.loads(done.stdout)
    assert (refusal["ok"], refusal["errno"]) == (False, errno.EPERM)
    assert "only its owner and root" in refusal["error"]


def test_a_directory_that_others_can_write_to_is_not_used(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    with FakeKernel(Toy()) as kernel:
        kernel.session.device = DEVICE
        controller = Control(kernel.mount, kernel.session, listen=True, slow=None)
        controller.start()
        assert os.listdir(directory) == []
        assert kernel.ask(Opcode.GETATTR).error == 0  # it is served all the same
        controller.close()
    with pytest.raises(NoControl):
        ask(MOUNT, "status")


def test_no_link_is_followed_to_the_directory(directory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o700)
    directory.symlink_to(elsewhere)
    with controlled():
        assert os.listdir(elsewhere) == []


def test_root_looks_where_other_users_have_their_sockets(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = MountInfo(1, 0, DEVICE, "/", "/mnt", "fuse.puffs.x", "x", ("rw", "user_id=1234"))
    assert rendezvous.likely_directories(theirs)[:3] == [
        str(directory),
        "/run/user/1234/puffs",
        "/tmp/puffs-1234",
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert rendezvous.own_directory() == str(directory)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert rendezvous.own_directory() == "/tmp/puffs-1234"


# ------------------------------------------------------------------------- coming and going


def test_the_socket_goes_with_the_server(directory: Path) -> None:
    with controlled() as kernel:
        assert (directory / NAME).exists()
        assert kernel.lookup(b"file")
    assert os.listdir(directory) == []
    with pytest.raises(NoControl, match="no server listens") as caught:
        ask(MOUNT, "status")
    assert caught.value.errno == errno.ENOENT


def leave_a_stale_socket(directory: Path, name: str) -> None:
    """What a server leaves that was killed."""
    directory.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / name))
        dead.listen()


def test_a_stale_socket_is_recognised_and_removed(directory: Path) -> None:
    leave_a_stale_socket(directory, NAME)
    with pytest.raises(NoControl):
        ask(MOUNT, "status")
    assert os.listdir(directory) == []


def test_a_server_takes_the_place_of_a_dead_one(directory: Path) -> None:
    leave_a_stale_socket(directory, NAME)
    leave_a_stale_socket(directory, "0:78")
    (directory / "note").write_text("not a socket of ours")
    with controlled():
        assert ask(MOUNT, "status")["state"] == "running"
        assert sorted(os.listdir(directory)) == [NAME, "note"]


def test_a_late_end_does_not_take_the_socket_of_a_successor(directory: Path) -> None:
    """The device number of a mount is soon used again."""
    with FakeKernel(Toy()) as first, controlled() as second:
        first.session.device = DEVICE
        controller = Control(first.mount, first.session, listen=True, slow=None)
        controller.start()
        with controlled_again(second):
            controller.close()
            assert (directory / NAME).exists()
            assert ask(MOUNT, "status")["state"] == "running"


def test_a_server_that_hangs_is_told_from_one_that_has_gone(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(directory / NAME))
        silent.listen()
        with pytest.raises(NoControl, match="has not answered") as caught:
            ask(MOUNT, "status", 0.05)
        assert caught.value.errno == errno.ETIMEDOUT


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process can open nothing meanwhile: all that it may have are the standard streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_clients_wait_until_there_are_some(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with controlled(), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        with no_descriptor_left():
            client.connect(str(directory / NAME))
            client.sendall(b'{"puffs": 1, "command": "status"}\n')
            wait_until(lambda: "Too many open files" in caplog.text)
            assert len(caplog.records) == 1
        assert answer(client)["result"]["state"] == "running"
    assert len(caplog.records) == 1


def test_the_end_does_not_wait_for_descriptors(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PAUSE_MIN", 1000.0)
    with socket.socket(socket.AF_UNIX) as client:
        with controlled():
            (accepting,) = [t for t in threading.enumerate() if t.name == "puffs-control"]
            with no_descriptor_left():
                client.connect(str(directory / NAME))
                wait_until(lambda: "Too many open files" in caplog.text)
        accepting.join(PATIENCE)
    assert not accepting.is_alive()
