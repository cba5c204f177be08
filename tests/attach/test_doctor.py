"""`puffs doctor`: each check, on a machine made for it; and on this one."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from puffs.attach.fuse.abi import FUSE_OVER_IO_URING, FUSE_PASSTHROUGH
from puffs.attach.fuse.doctor import Finding, State, examine
from puffs.attach.fuse.doors import reasons
from tests.attach.machines import ALL_CAPS, NO_CAPS, FakeMachine, status

OFFERS: Final = (FUSE_PASSTHROUGH | FUSE_OVER_IO_URING) >> 32

Setting = Mapping[str, Any]
ROOT: Final[Setting] = {"user": 0, "flags2": OFFERS}
UNMOUNTABLE: Final[Setting] = {"refuse": {"mount": errno.EPERM}}

OK, NO, NOTE, UNKNOWN = State.OK, State.NO, State.NOTE, State.UNKNOWN


def found(machine: FakeMachine) -> dict[str, Finding]:
    diagnosis = examine(machine)
    return {check.key: finding for check, finding in (*diagnosis.doors, *diagnosis.grounds)}


CHECKS: Final[list[tuple[str, Setting, State, str, str]]] = [
    # key, machine, state, what is found, remedy
    ("mount", ROOT, OK, "works", ""),
    ("mount", {}, NO, "without CAP_SYS_ADMIN", "--cap-add SYS_ADMIN"),
    ("mount", {**ROOT, "files": {"/dev/fuse": None}}, NO, "no /dev/fuse", "--device /dev/fuse"),
    (
        "mount",
        {**ROOT, **UNMOUNTABLE, "proc": status(effective=ALL_CAPS, seccomp=2)},
        NO,
        "seccomp filter forbids mount",
        "seccomp=FILE",
    ),
    ("fusermount3", {}, OK, "in place", ""),
    ("fusermount3", {"helper": None}, NO, "there is no fusermount3", "apt install fuse3"),
    ("fusermount3", {"proc": status(no_new_privs=1)}, NO, "no_new_privs", "NoNewPrivileges=no"),
    ("exec", {}, OK, "tried", ""),
    (
        "exec",
        {"refuse": {"unshare": errno.EPERM}},
        NO,
        "a new user namespace is forbidden",
        "leave the chroot",
    ),
    (
        "exec",
        {
            "refuse": {"write": errno.EPERM},
            "files": {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
        },
        NO,
        "AppArmor",
        "apparmor_restrict_unprivileged_userns=0",
    ),
    ("exec", {"refuse": {"open": errno.EPERM}}, NO, "device cgroup", "--device /dev/fuse"),
    ("exec", UNMOUNTABLE, NO, "mount(2)", "SYS_ADMIN"),
    ("serve", {}, NOTE, "somebody else", "puffs mounter"),
    ("device", {}, OK, "-rw-rw-rw-", ""),
    ("device", {"refuse": {"open": errno.EACCES}}, NO, "no device can be opened", "--device"),
    ("module", {}, OK, "has FUSE", ""),
    ("module", {"files": {"/proc/filesystems": "nodev\tproc\n"}}, NO, "no FUSE", "modprobe fuse"),
    ("cgroup", {}, OK, "allows", ""),
    ("cgroup", {"refuse": {"open": errno.EPERM}}, NO, "device cgroup", "DeviceAllow="),
    ("cgroup", {"files": {"/dev/fuse": None}}, UNKNOWN, "cannot be told", ""),
    ("privilege", ROOT, OK, "user 0, with CAP_SYS_ADMIN", ""),
    ("privilege", {}, NOTE, "user 1000, without", "run as root"),
    (
        "privilege",
        {**ROOT, "files": {"/proc/self/uid_map": "0 1000 1"}},
        OK,
        "CAP_SYS_ADMIN of a user namespace",
        "",
    ),
    ("seccomp", {}, OK, "no filter", ""),
    ("seccomp", {"proc": status(seccomp=2)}, NOTE, "a filter", "SystemCallFilter=@mount"),
    ("no_new_privs", {}, OK, "not set", ""),
    (
        "no_new_privs",
        {"proc": status(no_new_privs=1)},
        NO,
        "fusermount3 gains no privilege",
        "allowPrivilegeEscalation",
    ),
    ("apparmor", {"files": {"/proc/self/attr/current": "unconfined\n"}}, OK, "not confined", ""),
    (
        "apparmor",
        {"files": {"/proc/self/attr/apparmor/current": "docker-default (enforce)\n"}},
        NOTE,
        "docker-default",
        "apparmor=unconfined",
    ),
    ("user_namespaces", {}, OK, "up to 10000", ""),
    (
        "user_namespaces",
        {"files": {"/proc/sys/user/max_user_namespaces": "0"}},
        NO,
        "user.max_user_namespaces is 0",
        "sysctl -w user.max_user_namespaces",
    ),
    (
        "user_namespaces",
        {"files": {"/proc/sys/kernel/unprivileged_userns_clone": "0"}},
        NO,
        "unprivileged_userns_clone is 0",
        "unprivileged_userns_clone=1",
    ),
    ("helper", {}, OK, "usr/bin/fusermount3", ""),
    ("helper", {"helper_mode": 0o755}, NO, "not set-user-ID", "chmod 4755"),
    ("helper", {"flags": os.ST_NOSUID}, NO, "nosuid", "without nosuid"),
    ("helper", {"proc": status(bounding=NO_CAPS)}, NO, "bounding set", "--cap-add"),
    ("places", {}, OK, "knows", ""),
    (
        "places",
        {"files": {"/proc/self/mountinfo": "1 1 8:1 / / rw - moonfs /dev/sda1 rw\n"}},
        NOTE,
        "(moonfs)",
        "another file system",
    ),
    ("user_allow_other", {}, NOTE, "lacks user_allow_other", "/etc/fuse.conf"),
    ("user_allow_other", {"files": {"/etc/fuse.conf": "user_allow_other"}}, OK, "is set", ""),
    ("mount_max", {}, OK, "1000", ""),
    ("mount_max", {"files": {"/etc/fuse.conf": "mount_max = 12"}}, OK, "12", ""),
    ("protocol", {}, OK, "7.45", ""),
    ("protocol", {"minor": 28}, NO, "7.28: too old, puffs needs 7.31", "Linux 5.4"),
    ("protocol", UNMOUNTABLE, UNKNOWN, "no private mount", ""),
    ("passthrough", ROOT, OK, "can be used", ""),
    ("passthrough", {"flags2": OFFERS}, NOTE, "needs CAP_SYS_ADMIN", "as root"),
    ("passthrough", {"user": 0}, NOTE, "does not offer", "Linux 6.9"),
    ("passthrough", UNMOUNTABLE, UNKNOWN, "no private mount", ""),
    ("io_uring", ROOT, OK, "switched on", ""),
    (
        "io_uring",
        {"files": {"/sys/module/fuse/parameters/enable_uring": "N"}},
        NOTE,
        "fuse.enable_uring is N",
        "echo Y >",
    ),
    (
        "io_uring",
        {"files": {"/sys/module/fuse/parameters/enable_uring": None}},
        NOTE,
        "has none",
        "Linux 6.14",
    ),
    (
        "io_uring",
        {"files": {"/proc/sys/kernel/io_uring_disabled": "2"}},
        NOTE,
        "io_uring_disabled is 2",
        "io_uring_disabled=0",
    ),
    ("max_pages", {}, OK, "1024 KiB", ""),
    (
        "max_pages",
        {"files": {"/proc/sys/fs/fuse/max_pages_limit": "32"}},
        NOTE,
        "128 KiB",
        "max_pages_limit=256",
    ),
    ("background", {}, OK, "max_user_bgreq 7000, max_user_congthresh 7000", ""),
    (
        "background",
        {"files": {"/sys/module/fuse/parameters/max_user_bgreq": None}},
        UNKNOWN,
        "cannot be read",
        "",
    ),
    ("timeouts", {}, OK, "none", ""),
    (
        "timeouts",
        {"files": {"/proc/sys/fs/fuse/max_request_timeout": "600"}},
        NOTE,
        "max_request_timeout 600 s",
        "default_request_timeout=0",
    ),
]


@pytest.mark.parametrize(
    ("key", "setting", "state", "text", "remedy"),
    [pytest.param(*row, id=f"{row[0]}-{row[2]}-{row[3]}") for row in CHECKS],
)
def test_a_check_tells_the_state_and_the_remedy(
    tmp_path: Path, key: str, setting: Setting, state: State, text: str, remedy: str
) -> None:
    finding = found(FakeMachine(tmp_path, **setting))[key]
    assert finding.state is state, finding
    assert text in finding.found
    assert remedy in finding.remedy
    assert bool(finding.remedy) == bool(remedy)


def test_the_table_knows_every_check(tmp_path: Path) -> None:
    assert set(found(FakeMachine(tmp_path))) == {row[0] for row in CHECKS} | {"loop"}


def test_which_loop_serves_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUFFS_PURE", "1")
    finding = found(FakeMachine(tmp_path))["loop"]
    assert (finding.state, finding.found) == (NOTE, "plain: PUFFS_PURE is set")
    monkeypatch.setenv("PUFFS_PURE", "0")
    monkeypatch.setitem(sys.modules, "puffs.attach.fuse._compiled", None)
    finding = found(FakeMachine(tmp_path))["loop"]
    assert (finding.state, finding.found) == (NOTE, "plain: the compiled one was not built")
    assert "gcc" in finding.remedy


def test_every_check_that_can_fail_has_a_remedy_and_a_meaning(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, files={"/dev/fuse": None}, helper=None)
    diagnosis = examine(machine)
    for check, finding in (*diagnosis.doors, *diagnosis.grounds):
        assert check.means, check.key
        assert finding.remedy or finding.state is not NO, check.key


def test_a_door_of_the_doctor_and_a_failed_mount_tell_the_same(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, files={"/dev/fuse": None})
    doors = found(machine)
    for key in ("mount", "fusermount3", "exec"):
        assert doors[key].found == reasons.NO_NODE.why
        assert doors[key].remedy == reasons.NO_NODE.remedy


@pytest.mark.parametrize(
    ("setting", "keys"),
    [
        (ROOT, ["mount", "fusermount3", "exec"]),
        ({}, ["fusermount3", "exec"]),
        ({"refuse": {"unshare": errno.EPERM}}, ["fusermount3"]),
        ({"helper": None, "refuse": {"unshare": errno.EPERM}}, []),
    ],
)
def test_the_open_doors_are_counted(tmp_path: Path, setting: Setting, keys: list[str]) -> None:
    assert examine(FakeMachine(tmp_path, **setting)).open == keys


def test_a_trial_mount_is_left_to_nobody(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    examine(FakeMachine(tmp_path, user=0))
    assert os.listdir("/proc/self/fd") == before


# The command


def doctor(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "puffs", "doctor", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.fuse
def test_on_this_machine_mounting_works_and_the_protocol_is_told() -> None:
    done = doctor("--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "mount" in report["open"]
    checks = {row["key"]: row for row in (*report["doors"], *report["checks"])}
    assert checks["mount"]["state"] == "ok"
    assert checks["protocol"]["found"].startswith("7.")
    for row in checks.values():
        assert set(row) == {"key", "title", "state", "found", "means", "remedy"}


@pytest.mark.fuse
def test_for_people_it_is_a_page() -> None:
    done = doctor()
    assert done.returncode == 0
    assert done.stdout.startswith("Doors to a mount\n")
    assert "fusermount3" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert "doctor" not in Path("/proc/self/mountinfo").read_text()
