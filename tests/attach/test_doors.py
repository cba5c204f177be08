"""Doors to a mount that are shut, each on a machine made for it: what is said, and what helps."""

import errno
import os
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from puffs.attach.fuse.doors import DOORS, reasons
from puffs.attach.fuse.doors.handed import adopt, descriptor_of
from puffs.attach.fuse.doors.namespace import enter
from puffs.attach.fuse.doors.reasons import DoorShut, Reason
from puffs.attach.fuse.mounting import mount_fuse
from puffs.attach.fuse.mountpoint import MountError
from puffs.attach.fuse.options import MountOptions, fusermount_data, parse_options
from tests.attach.machines import ALL_CAPS, NO_CAPS, FakeMachine, status

DIR: Final = stat.S_IFDIR | 0o755
WHERE: Final = "/nowhere/x"

MOUNT, HELPER, EXEC, SERVE = (door.name for door in DOORS)

Setting = Mapping[str, Any]
ROOT: Final[Setting] = {"user": 0}
USER: Final[Setting] = {"refuse": {"mount": errno.EPERM}}


def refusal(machine: FakeMachine, options: MountOptions | None = None) -> MountError:
    """What a mount on that machine is refused with."""
    with pytest.raises(MountError) as caught:
        mount_fuse(
            WHERE,
            options or MountOptions(),
            fsname="mem:",
            subtype="mem",
            rootmode=DIR,
            machine=machine,
        )
    return caught.value


def said(machine: FakeMachine, options: MountOptions | None = None) -> dict[str, str]:
    """The same by door: "why (remedy)"."""
    text = str(refusal(machine, options))
    head = f"cannot mount on {WHERE}: "
    assert text.startswith(head)
    assert text.isprintable()
    body, _, advice = text.removeprefix(head).partition("; or use the files without a mount")
    assert "puffs.local" in advice
    assert "puffs doctor" in advice
    found = {}
    for door in DOORS:
        for names, why in (part.split(": ", 1) for part in _parts(body)):
            if door.name in names.split(", "):
                found[door.name] = why
    assert list(found) == [door.name for door in DOORS], text
    return found


def _parts(body: str) -> list[str]:
    """Split at the semicolons that are followed by a door's name."""
    parts: list[str] = []
    for piece in body.split("; "):
        if parts and not piece.startswith(tuple(door.name for door in DOORS)):
            parts[-1] += "; " + piece
        else:
            parts.append(piece)
    return parts


def helper_says(text: str) -> Setting:
    return {**USER, "helper": f"echo 'fusermount3: {text}' >&2; exit 1"}


SHUT: Final[list[tuple[str, Setting, str, Reason, int]]] = [
    # The device
    ("no node", {**ROOT, "files": {"/dev/fuse": None}}, MOUNT, reasons.NO_NODE, errno.ENOENT),
    (
        "no module",
        {**ROOT, "files": {"/dev/fuse": None, "/proc/filesystems": "nodev\tproc\n"}},
        MOUNT,
        reasons.NO_MODULE,
        errno.ENOENT,
    ),
    (
        "directory",
        {**ROOT, "refuse": {"open": errno.EISDIR}},
        MOUNT,
        reasons.DIRECTORY,
        errno.EISDIR,
    ),
    (
        "no driver",
        {**ROOT, "refuse": {"open": errno.ENXIO}},
        MOUNT,
        reasons.NO_DRIVER,
        errno.ENXIO,
    ),
    (
        "mode",
        {"files": {"/dev/fuse": ""}, "refuse": {"open": errno.EACCES}},
        MOUNT,
        reasons.NOT_PERMITTED,
        errno.EACCES,
    ),
    ("nodev", {"refuse": {"open": errno.EACCES}}, MOUNT, reasons.NO_DEVICES, errno.EACCES),
    (
        "device cgroup",
        {**ROOT, "refuse": {"open": errno.EPERM}},
        MOUNT,
        reasons.DEVICE_CGROUP,
        errno.EPERM,
    ),
    # mount(2)
    ("no privilege", USER, MOUNT, reasons.NO_PRIVILEGE, errno.EPERM),
    ("no FUSE", {**ROOT, "refuse": {"mount": errno.ENODEV}}, MOUNT, reasons.NO_FUSE, errno.ENODEV),
    (
        "seccomp",
        {
            **ROOT,
            "refuse": {"mount": errno.EPERM},
            "proc": status(effective=ALL_CAPS, seccomp=2),
        },
        MOUNT,
        reasons.MOUNT_SECCOMP,
        errno.EPERM,
    ),
    (
        "AppArmor",
        {
            **ROOT,
            "refuse": {"mount": errno.EACCES},
            "files": {"/proc/self/attr/current": "docker-default (enforce)\n"},
        },
        MOUNT,
        reasons.mount_apparmor("docker-default"),
        errno.EACCES,
    ),
    (
        "another namespace's mounts",
        {
            **ROOT,
            "refuse": {"mount": errno.EPERM},
            "files": {"/proc/self/uid_map": "0 100000 65536"},
        },
        MOUNT,
        reasons.MOUNT_NAMESPACE,
        errno.EPERM,
    ),
    (
        "forbidden",
        {**ROOT, "refuse": {"mount": errno.EPERM}},
        MOUNT,
        reasons.MOUNT_FORBIDDEN,
        errno.EPERM,
    ),
    # fusermount3
    ("no helper", {**USER, "helper": None}, HELPER, reasons.NO_HELPER, errno.EPERM),
    ("not set-user-ID", {**USER, "helper_mode": 0o755}, HELPER, reasons.HELPER_POWERLESS, 1),
    ("nosuid", {**USER, "flags": os.ST_NOSUID}, HELPER, reasons.HELPER_NOSUID, 1),
    (
        "no_new_privs",
        {**USER, "proc": status(no_new_privs=1)},
        HELPER,
        reasons.HELPER_NO_NEW_PRIVS,
        1,
    ),
    (
        "bounding set",
        {**USER, "proc": status(bounding=NO_CAPS)},
        HELPER,
        reasons.HELPER_BOUNDED,
        1,
    ),
    (
        "helper without a node",
        {
            **helper_says("fuse device not found, try modprobe fuse first"),
            "files": {"/proc/filesystems": ""},
        },
        HELPER,
        reasons.NO_MODULE,
        1,
    ),
    (
        "helper and the device's mode",
        {
            **helper_says("failed to open /dev/fuse: Permission denied"),
            "files": {"/dev/fuse": ""},
        },
        HELPER,
        reasons.NOT_PERMITTED,
        1,
    ),
    (
        "helper and the device cgroup",
        helper_says("failed to open /dev/fuse: Operation not permitted"),
        HELPER,
        reasons.DEVICE_CGROUP,
        1,
    ),
    (
        "foreign directory",
        helper_says("user has no write access to mountpoint /nowhere/x"),
        HELPER,
        reasons.NOT_YOURS,
        1,
    ),
    (
        "sticky directory",
        helper_says("mountpoint /nowhere/x not owned by user"),
        HELPER,
        reasons.NOT_YOURS,
        1,
    ),
    (
        "file system not on its list",
        helper_says("mounting over filesystem type 0x6a656a63 is forbidden"),
        HELPER,
        reasons.NOT_OVER_THAT,
        1,
    ),
    (
        "mount_max",
        helper_says("too many FUSE filesystems mounted; mount_max=N can be set in /etc/fuse.conf"),
        HELPER,
        reasons.TOO_MANY,
        1,
    ),
    (
        "its AppArmor profile",
        {
            **helper_says("mount failed: Permission denied"),
            "files": {"/sys/module/apparmor/parameters/enabled": "Y"},
        },
        HELPER,
        reasons.HELPER_APPARMOR,
        1,
    ),
    (
        "its mount forbidden",
        helper_says("mount failed: Operation not permitted"),
        HELPER,
        reasons.HELPER_REFUSED,
        1,
    ),
    (
        "something new",
        helper_says("the moon is full"),
        HELPER,
        Reason("fusermount3 refuses: the moon is full", "see fusermount3(1)"),
        1,
    ),
    # A private namespace
    ("one command", USER, EXEC, reasons.ONE_COMMAND, 1),
    (
        "no user namespaces",
        {**USER, "files": {"/proc/sys/user/max_user_namespaces": "0"}},
        EXEC,
        reasons.USERNS_NONE,
        1,
    ),
    (
        "only root's",
        {**USER, "files": {"/proc/sys/kernel/unprivileged_userns_clone": "0"}},
        EXEC,
        reasons.USERNS_ROOT,
        1,
    ),
    (
        "restricted by AppArmor",
        {**USER, "files": {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}},
        EXEC,
        reasons.USERNS_APPARMOR,
        1,
    ),
    ("device for nobody", {"refuse": {"open": errno.EPERM}}, EXEC, reasons.DEVICE_CGROUP, 1),
    # From somebody else
    ("nobody", USER, SERVE, reasons.NOT_HANDED, 1),
]


@pytest.mark.parametrize(
    ("setting", "door", "reason", "code"),
    [pytest.param(*row[1:], id=row[0]) for row in SHUT],
)
def test_a_shut_door_says_why_and_what_opens_it(
    tmp_path: Path, setting: Setting, door: str, reason: Reason, code: int
) -> None:
    machine = FakeMachine(tmp_path, **setting)
    if setting.get("files", {}).get("/dev/fuse") == "":
        os.chmod(tmp_path / "dev/fuse", 0o600)
    assert said(machine)[door] == f"{reason.why} ({reason.remedy})"
    assert refusal(machine).errno == code


def test_no_two_shut_doors_say_the_same() -> None:
    texts = [(reason.why, door) for _, _, door, reason, _ in SHUT]
    allowed_twice = {reasons.NOT_YOURS.why, reasons.DEVICE_CGROUP.why}
    seen = [text for text in texts if text[0] not in allowed_twice]
    assert len(set(seen)) == len(seen)


def test_one_reason_for_several_doors_is_said_once(tmp_path: Path) -> None:
    machine = FakeMachine(
        tmp_path,
        files={"/dev/fuse": None},
        helper="echo 'fusermount3: fuse device not found' >&2; exit 1",
    )
    text = str(refusal(machine))
    assert f"{MOUNT}, {HELPER}, {EXEC}: {reasons.NO_NODE.why}" in text
    assert text.count(reasons.NO_NODE.why) == 1


OPTIONS: Final = [
    ("allow_other", {}, reasons.NO_ALLOW_OTHER),
    ("allow_other", {"files": {"/etc/fuse.conf": None}}, reasons.NO_ALLOW_OTHER),
    ("allow_other", {"files": {"/etc/fuse.conf": "x_user_allow_other\n"}}, reasons.NO_ALLOW_OTHER),
    ("dev", {}, reasons.NOT_FOR_USERS),
    ("suid", {}, reasons.NOT_FOR_USERS),
]


@pytest.mark.parametrize(("words", "setting", "reason"), OPTIONS)
def test_what_the_helper_would_refuse_or_ignore_is_refused_before_it_is_run(
    tmp_path: Path, words: str, setting: Setting, reason: Reason
) -> None:
    machine = FakeMachine(tmp_path, **{**USER, **setting}, helper="echo run > $0.log")
    why = said(machine, parse_options([words]))[HELPER]
    assert why == f"{reason.why} ({reason.remedy})"
    assert not (tmp_path / "usr/bin/fusermount3.log").exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"files": {"/etc/fuse.conf": "mount_max = 7\n  user_allow_other # for all\n"}},
        {**ROOT, "proc": status()},
    ],
    ids=["configured", "root"],
)
def test_allow_other_is_asked_for_where_it_is_allowed(tmp_path: Path, setting: Setting) -> None:
    machine = FakeMachine(tmp_path, **{**USER, **setting}, helper='echo "$@" > $0.log; exit 1')
    refusal(machine, parse_options(["allow_other"]))
    words = (tmp_path / "usr/bin/fusermount3.log").read_text().split()
    assert "allow_other" in words[1].split(",")


def test_the_helper_mounts_and_sends_the_descriptor(tmp_path: Path) -> None:
    send = """\
    import os, socket, sys
    with socket.socket(fileno=int(os.environ["_FUSE_COMMFD"])) as peer:
        with open(sys.argv[0] + ".log", "w") as log:
            log.write("\\0".join(sys.argv[1:]))
            socket.send_fds(peer, [b"x"], [log.fileno()])
    """
    machine = FakeMachine(tmp_path, **USER)
    script = tmp_path / "usr/bin/fusermount3"
    script.write_text(f"#!{sys.executable} -S\n{textwrap.dedent(send)}")
    options = parse_options([r"ro,noexec,max_read=8192,no_default_permissions,fsname=a\,b\\c"])
    fd = mount_fuse(WHERE, options, fsname="", subtype="x y", rootmode=DIR, machine=machine)
    with open(fd, "wb"):
        log = f"{script}.log"
        assert os.path.samestat(os.fstat(fd), os.stat(log))
        assert not os.get_inheritable(fd)
    flag, words, dashes, mountpoint = Path(log).read_text().split("\0")
    assert (flag, dashes, mountpoint) == ("-o", "--", WHERE)
    assert words == r"ro,nosuid,nodev,noexec,fsname=a\,b\\c,subtype=puffs.x_y,max_read=8192"


def test_the_helper_is_told_the_safe_default() -> None:
    assert "default_permissions" in fusermount_data(MountOptions(), "x", "fuse.puffs.x").split(",")


def test_a_helper_that_dies_says_nothing_and_that_is_told(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, **USER, helper="kill -9 $$")
    assert said(machine)[HELPER].startswith("fusermount3 refuses: it says nothing (")


@pytest.mark.parametrize("code", [errno.ENOTDIR, errno.EBUSY])
def test_what_no_door_can_help_is_said_at_once(tmp_path: Path, code: int) -> None:
    error = refusal(FakeMachine(tmp_path, **ROOT, refuse={"mount": code}))
    assert (error.errno, str(error)) == (code, f"cannot mount on {WHERE}: {os.strerror(code)}")


# Entering a namespace

ENTER: Final[list[tuple[str, Setting, Reason]]] = [
    ("seccomp", {"refuse": {"unshare": errno.EPERM}, "proc": status(seccomp=2)},
     reasons.USERNS_SECCOMP),
    ("forbidden", {"refuse": {"unshare": errno.EPERM}}, reasons.USERNS_FORBIDDEN),
    ("too many", {"refuse": {"unshare": errno.ENOSPC}}, reasons.USERNS_LIMIT),
    ("none", {"refuse": {"unshare": errno.ENOSPC},
              "files": {"/proc/sys/user/max_user_namespaces": "0"}}, reasons.USERNS_NONE),
    ("unknown to the kernel", {"refuse": {"unshare": errno.EINVAL}}, reasons.NO_USERNS),
    ("rights taken away", {"refuse": {"write": errno.EPERM},
     "files": {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}},
     reasons.USERNS_APPARMOR),
    ("mounts forbidden", {"refuse": {"propagation": errno.EACCES}}, reasons.USERNS_FORBIDDEN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "reason"), [pytest.param(*row[1:], id=row[0]) for row in ENTER]
)
def test_a_namespace_that_cannot_be_entered_says_why(
    tmp_path: Path, setting: Setting, reason: Reason
) -> None:
    with pytest.raises(DoorShut) as caught:
        enter(FakeMachine(tmp_path, **setting), user=True)
    assert caught.value.reason == reason


def test_a_namespace_maps_the_user_to_himself(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    enter(machine, user=True)
    assert machine.read("/proc/self/uid_map") == "1000 1000 1"
    assert machine.read("/proc/self/gid_map") == "1000 1000 1"
    assert machine.read("/proc/self/setgroups") == "deny"


def test_root_enters_without_a_user_namespace(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, **ROOT)
    before = machine.read("/proc/self/uid_map")
    enter(machine, user=False)
    assert machine.read("/proc/self/uid_map") == before
    shut = FakeMachine(tmp_path, **ROOT, refuse={"unshare": errno.EPERM})
    with pytest.raises(DoorShut) as caught:
        enter(shut, user=False)
    assert caught.value.reason == reasons.MOUNT_FORBIDDEN


def test_a_process_with_threads_is_told_so() -> None:
    # unshare(2) itself refuses it.
    script = """
    import threading
    from puffs.attach.fuse.doors.namespace import enter
    from puffs.attach.fuse.machine import HERE
    wait = threading.Event()
    threading.Thread(target=wait.wait).start()
    try:
        enter(HERE, user=True)
    except OSError as error:
        print(error)
    finally:
        wait.set()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "one thread" in done.stdout


# Descriptors


@pytest.mark.parametrize(
    ("path", "fd"),
    [("/dev/fd/3", 3), (Path("/dev/fd/10"), 10), ("/dev/fd/", None), ("/dev/fd/x", None),
     ("/dev/fd/3/", None), ("x/dev/fd/3", None), ("/mnt", None)],
)  # fmt: skip
def test_a_mount_point_may_name_a_descriptor(path: str | Path, fd: int | None) -> None:
    assert descriptor_of(path) == fd


@pytest.mark.statement("M27")
def test_what_is_no_connection_is_not_served(tmp_path: Path) -> None:
    with (
        (tmp_path / "x").open("w") as file,
        pytest.raises(MountError, match="not one of /dev/fuse"),
    ):
        adopt(file.fileno())
    ours, theirs = socket.socketpair()
    number = ours.fileno()
    ours.close()
    theirs.close()
    with pytest.raises(MountError, match=f"descriptor {number} is not open"):
        adopt(number)
