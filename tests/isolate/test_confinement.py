"""Confinement: what is refused, and what holds inside. Most of it needs root, as users do."""

import collections
import ctypes
import errno
import itertools
import json
import mmap
import os
import pwd
import re
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puffs.isolate.confinement import (
    HEADROOM,
    Confinement,
    _address_space,
    parse_seconds,
    parse_size,
)
from puffs.isolate.process import start
from tests.isolate.processes import prints, result, run

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

PIDFD_GETFD = 438  # on all architectures


def nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def in_status(*names: str) -> Callable[[], None]:
    """Print these of proc_pid_status(5)."""

    def life() -> None:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":\t", 1) for line in file)
        print(json.dumps({name: fields[name].split() for name in names}))

    return life


def forever() -> None:
    collections.deque(itertools.repeat(None), maxlen=0)  # in C, without letting go of the GIL


# -------------------------------------------------------------------------------------------- users


@as_root
def test_the_user_has_his_ids_and_groups_and_no_way_back() -> None:
    status = in_status("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapInh", "CapAmb", "NoNewPrivs")
    found = json.loads(prints(status, Confinement(user="nobody")))
    user = nobody()
    assert found.pop("Uid") == [str(user.pw_uid)] * 4  # real, effective, saved, and for files
    assert found.pop("Gid") == [str(user.pw_gid)] * 4
    assert set(map(int, found.pop("Groups"))) == set(os.getgrouplist("nobody", user.pw_gid))
    assert found.pop("NoNewPrivs") == ["1"]
    assert set(map(tuple, found.values())) == {("0" * 16,)}


@as_root
def test_capabilities_go_even_where_a_change_of_user_leaves_them() -> None:
    said = result("""
import ctypes
from puffs.isolate.process import Confinement, start

assert ctypes.CDLL(None).prctl(28, 1 << 2, 0, 0, 0) == 0  # SECBIT_NO_SETUID_FIXUP

def life():
    with open("/proc/self/status") as file:
        assert [line.split()[1] for line in file if line.startswith("CapEff")] == ["0" * 16]
    return 0

with start(life, (), Confinement(user="nobody")) as process:
    print(process.wait())
""")
    assert said == "ended with status 0"


@as_root
def test_a_uid_with_a_name_is_that_user() -> None:
    status = in_status("Uid", "Gid", "Groups")
    by_name = prints(status, Confinement(user="nobody"))
    assert prints(status, Confinement(user=str(nobody().pw_uid))) == by_name


@as_root
def test_a_uid_without_a_name_has_the_group_of_its_number_and_no_others() -> None:
    uid = "3912345678"
    with pytest.raises(KeyError):
        pwd.getpwuid(int(uid))
    found = json.loads(prints(in_status("Uid", "Gid", "Groups"), Confinement(user=uid)))
    assert found == {"Uid": [uid] * 4, "Gid": [uid] * 4, "Groups": []}


def test_ones_own_user_may_be_named_by_anybody() -> None:
    own = Confinement(user=str(os.geteuid()))
    found = json.loads(prints(in_status("Uid", "NoNewPrivs"), own))
    assert found == {"Uid": [str(os.geteuid())] * 4, "NoNewPrivs": ["1"]}


def test_without_a_user_nothing_changes() -> None:
    status = in_status("Uid", "Gid", "Groups", "CapEff", "NoNewPrivs")
    with open("/proc/self/status") as file:
        text = file.read()
    for name, value in json.loads(prints(status)).items():
        (line,) = re.findall(rf"^{name}:(.*)$", text, re.MULTILINE)
        assert line.split() == value, name


def reach_parent(secret: int, address: int) -> Callable[[], None]:
    """Try every way to the descriptors and the memory of the parent; print what each gave."""
    parent = os.getpid()

    def open_file() -> None:
        os.open(f"/proc/{parent}/fd/{secret}", os.O_RDONLY)

    def list_files() -> None:
        os.listdir(f"/proc/{parent}/fd")

    def read_memory() -> None:
        with open(f"/proc/{parent}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            assert memory.read(6) == b"secret"

    def take_descriptor() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        pidfd = os.pidfd_open(parent)
        if libc.syscall(ctypes.c_long(PIDFD_GETFD), pidfd, secret, 0) < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")

    def kill() -> None:
        os.kill(parent, 0)

    def life() -> None:
        found = {}
        for way in (open_file, list_files, read_memory, take_descriptor, kill):
            try:
                way()
                found[way.__name__] = "done"
            except OSError as exc:
                found[way.__name__] = errno.errorcode[exc.errno or 0]
        print(json.dumps(found))

    return life


@as_root
def test_another_user_reaches_nothing_of_the_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    path = tmp_path / "secret"
    path.write_text("secret")
    path.chmod(0o600)
    memory = ctypes.create_string_buffer(b"secret")
    with path.open() as file:
        life = reach_parent(file.fileno(), ctypes.addressof(memory))
        assert set(json.loads(prints(life)).values()) == {"done"}  # as root, all of it works
        found = json.loads(prints(life, Confinement(user="nobody")))
    assert found == {
        "open_file": "EACCES",
        "list_files": "EACCES",
        "read_memory": "EACCES",
        "take_descriptor": "EPERM",
        "kill": "EPERM",
    }


@as_root
def test_two_of_one_user_reach_nothing_of_each_other() -> None:
    confinement = Confinement(user="nobody")
    ours, theirs = socket.socketpair()
    with ours, theirs, start(lambda: len(theirs.recv(1)), [theirs.fileno()], confinement) as first:

        def life() -> None:
            for name in ("fd", "mem", "environ"):
                with pytest.raises(PermissionError):
                    os.open(f"/proc/{first.pid}/{name}", os.O_RDONLY)

        prints(life, confinement)
        ours.send(b".")
        assert first.wait() == "ended with status 1"


@as_root
def test_what_cannot_be_had_is_an_error_and_leaves_nothing() -> None:
    said = result("""
import os
from puffs.attach.fuse.syscalls import CLONE_NEWUSER, unshare
from puffs.isolate.process import Confinement, start

unshare(CLONE_NEWUSER)  # root, but of a world without any other user
with open("/proc/self/uid_map", "w") as file:
    file.write("0 0 1")
before = os.listdir("/proc/self/fd")
try:
    start(lambda: 0, (), Confinement(user="nobody"))
except OSError as exc:
    print(exc.strerror)
assert os.listdir("/proc/self/fd") == before
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("and nothing is left")
""")
    assert said.splitlines() == [
        "the file server's process cannot be started: "
        "it cannot run as user nobody: Operation not permitted",
        "and nothing is left",
    ]


# ------------------------------------------------------------------------------------------- limits


def test_too_much_memory_is_a_memory_error_and_life_goes_on() -> None:
    def life() -> None:
        with pytest.raises(MemoryError):
            [bytearray(1 << 26) for _ in range(256)]
        with pytest.raises(OSError, match="Cannot allocate"):
            mmap.mmap(-1, 1 << 30)
        bytearray(1 << 20)
        print("still here")

    def unlimited() -> None:
        mmap.mmap(-1, 1 << 30)
        print("it is there")

    # Whatever the process of the tests has grown to, and has free by now.
    limit = Confinement(memory=_address_space() + (1 << 28))
    assert prints(life, limit) == "still here"
    assert prints(unlimited) == "it is there"


def test_the_least_memory_that_is_accepted_is_enough_to_live() -> None:
    said = result("""
from puffs.isolate.process import Confinement, start
import threading

def life():
    thread = threading.Thread(target=print, args=("alive",))
    thread.start()
    thread.join()
    return 0

try:
    Confinement(memory=1).check()
except ValueError as exc:
    least = int(str(exc).split()[-3].removesuffix("M")) << 20
with start(life, (), Confinement(memory=least)) as process:
    print(process.wait())
""")
    assert said == "ended with status 0"


@pytest.mark.parametrize("deaf", [False, True], ids=["", "deaf"])
def test_a_loop_in_c_ends_when_its_time_is_over(deaf: bool) -> None:
    def life() -> None:
        if deaf:
            resource.setrlimit(resource.RLIMIT_CPU, (1, 2))  # not to wait so long for the hard one
            signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        forever()

    how, output = run(life, confinement=Confinement(cpu=1))
    assert how == "used up its processor time"
    assert ("in forever" in output) is not deaf


def test_time_that_the_kernel_cannot_count_is_no_short_time() -> None:
    def life() -> None:
        for _ in range(5_000_000):
            pass

    assert run(life, confinement=Confinement(cpu=1 << 55))[0] == "ended with status 0"


def test_a_kill_before_the_time_is_over_is_a_kill() -> None:
    def life() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert run(life, confinement=Confinement(cpu=100))[0] == "was killed by SIGKILL (Killed)"


def test_limits_are_not_to_be_lifted_and_not_above_those_of_the_parent() -> None:
    said = result("""
import resource
from puffs.isolate.process import Confinement, start

resource.setrlimit(resource.RLIMIT_CPU, (70, 70))

def life():
    limits = (resource.RLIMIT_CORE, resource.RLIMIT_AS, resource.RLIMIT_CPU)
    assert [resource.getrlimit(which) for which in limits] == [
        (0, 0), (1 << 40, 1 << 40), (67, 70)
    ], [resource.getrlimit(which) for which in limits]
    return 0

with start(life, (), Confinement(memory=1 << 40, cpu=67)) as process:
    print(process.wait())
with start(lambda: 0, (), Confinement(memory=1 << 70, cpu=1 << 70)) as process:
    print(process.wait())
""")
    assert said == "ended with status 0\nended with status 0"


# ------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize("user", ["no such user", "", "nul\0", "4294967295", "٣", "-1"])
def test_a_user_that_there_is_not(user: str) -> None:
    with pytest.raises(ValueError, match="give a name that `getent passwd` shows, or a uid") as exc:
        Confinement(user=user).check()
    assert repr(user) in str(exc.value)


@as_root
def test_another_user_is_for_root_alone() -> None:
    def life() -> None:
        with pytest.raises(PermissionError) as caught:
            start(lambda: 0, (), Confinement(user="root"))
        print(caught.value.strerror)

    said = prints(life, Confinement(user="nobody"))
    assert said == "only root may run a file server as another user (root)"


def test_too_little_memory_tells_how_much_there_must_be() -> None:
    with pytest.raises(ValueError, match="of memory is too little") as caught:
        start(lambda: 0, (), Confinement(memory=10 << 20))
    found = re.fullmatch(
        r"10M of memory is too little: the interpreter has (\d+)M when it starts; "
        r"give it (\d+)M or more",
        str(caught.value),
    )
    assert found
    assert 5 < int(found[1]) < int(found[2]) <= int(found[1]) + (HEADROOM >> 20)
    Confinement(memory=(int(found[2]) + 1) << 20).check()


@pytest.mark.parametrize("cpu", [0, -1])
def test_no_time_at_all(cpu: int) -> None:
    with pytest.raises(ValueError, match="needs at least one second of processor time"):
        start(lambda: 0, (), Confinement(cpu=cpu))


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), ("64M", 64 << 20), ("2G", 2 << 30), ("4096K", 4 << 20), ("1t", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("2H", 7200)]
)
def test_seconds(text: str, seconds: int) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("parse", [parse_size, parse_seconds])
@pytest.mark.parametrize(
    "text",
    ["", "M", "-1", "1.5", "1e3", "1 M", " 1", "1X", "1MB", "٣", "1_0", "9" * 5000, "1\u017f"],
)
def test_what_is_no_amount(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"^a number of (bytes|seconds), "):
        parse(text)
