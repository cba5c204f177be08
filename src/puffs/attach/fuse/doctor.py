"""What this machine can do, and why not: the checks behind `puffs doctor`.

The doors know themselves why they are shut; two are also tried for real. The other checks show what
the doors stand on, and what a mount would find.
"""

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from puffs.attach.fuse import compiled
from puffs.attach.fuse.abi import (
    FUSE_OVER_IO_URING,
    FUSE_PASSTHROUGH,
    KERNEL_VERSION,
    MIN_MINOR_VERSION,
)
from puffs.attach.fuse.doors import reasons
from puffs.attach.fuse.doors.device import DEVICE, device_shut, has_fuse
from puffs.attach.fuse.doors.fusermount import (
    CONFIGURATION,
    FILE_SYSTEMS,
    FUSERMOUNT,
    PROGRAMS,
    allows_others,
    powerless,
)
from puffs.attach.fuse.doors.handed import HANDED
from puffs.attach.fuse.doors.namespace import MAX_NAMESPACES, NAMESPACE, switched_off
from puffs.attach.fuse.doors.privileged import PRIVILEGED
from puffs.attach.fuse.doors.probe import Offer, try_mount
from puffs.attach.fuse.doors.reasons import DoorShut, Reason
from puffs.attach.fuse.machine import CAP_SYS_ADMIN, HERE, Machine
from puffs.attach.fuse.mountinfo import TABLE, covering, parse
from puffs.attach.fuse.mountpoint import MountError
from puffs.attach.fuse.options import MountOptions
from puffs.attach.fuse.passthrough import permitted

PAGE: Final = 4096
MODULE: Final = "/sys/module/fuse/parameters"
SYSCTLS: Final = "/proc/sys/fs/fuse"

PLACES: Final = ("~", "/tmp", ".")
"""Where users make mount points."""


class State(StrEnum):
    """How a check has ended."""

    OK = "ok"
    NO = "no"
    NOTE = "note"
    """Neither good nor bad, or in the way of some uses only."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found.

    Attributes:
        state: how it has ended.
        found: what is the case.
        remedy: what opens it, empty when nothing need be done.
    """

    state: State
    found: str
    remedy: str = ""


@dataclass(slots=True)
class Patient:
    """The machine that is examined, with the trials that several checks ask for."""

    machine: Machine
    trials: dict[bool, Offer | Reason] = field(default_factory=dict)

    def trial(self, *, user: bool) -> Offer | Reason:
        """What came of a private mount, with a user namespace or without."""
        if user not in self.trials:
            self.trials[user] = _tried(self.machine, user=user)
        return self.trials[user]

    @property
    def offer(self) -> Offer | None:
        """What the kernel offers, when some private mount was possible."""
        for user in (False, True):
            if isinstance(offer := self.trial(user=user), Offer):
                return offer
        return None


@dataclass(frozen=True, slots=True)
class Check:
    """One question about the machine.

    Attributes:
        key: the name for programs.
        title: the name for people.
        means: what depends on it.
        ask: finds the answer.
    """

    key: str
    title: str
    means: str
    ask: Callable[[Patient], Finding]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, in the order of the tables."""

    doors: list[tuple[Check, Finding]]
    grounds: list[tuple[Check, Finding]]

    @property
    def open(self) -> list[str]:
        """The doors through which this process can mount."""
        return [check.key for check, finding in self.doors if finding.state is State.OK]


def examine(machine: Machine = HERE) -> Diagnosis:
    """Run every check. Mounts, if at all, where nobody sees it. For processes with one thread."""
    patient = Patient(machine)
    doors, grounds = (
        [(check, check.ask(patient)) for check in checks] for checks in (DOOR_CHECKS, GROUND_CHECKS)
    )
    return Diagnosis(doors, grounds)


def _tried(machine: Machine, *, user: bool) -> Offer | Reason:
    try:
        return try_mount(machine, user=user)
    except DoorShut as shut:
        return shut.reason
    except MountError as error:
        return Reason(str(error), "see the log of the kernel (dmesg)")


def _no(reason: Reason) -> Finding:
    return Finding(State.NO, reason.why, reason.remedy)


# Doors


def _mount(patient: Patient) -> Finding:
    if shut := PRIVILEGED.shut(patient.machine, MountOptions()):
        return _no(shut.reason)
    trial = patient.trial(user=False)
    return _no(trial) if isinstance(trial, Reason) else Finding(State.OK, "tried in private: works")


def _fusermount(patient: Patient) -> Finding:
    if shut := FUSERMOUNT.shut(patient.machine, MountOptions()):
        return _no(shut.reason)
    return Finding(State.OK, "all is in place (not tried: everybody would see the mount)")


def _namespace(patient: Patient) -> Finding:
    if shut := device_shut(patient.machine):
        return _no(shut.reason)
    trial = patient.trial(user=True)
    return _no(trial) if isinstance(trial, Reason) else Finding(State.OK, "tried: works")


def _handed(patient: Patient) -> Finding:
    shut = HANDED.shut(patient.machine, MountOptions())
    assert shut is not None
    return Finding(State.NOTE, "needs somebody else who can mount", shut.reason.remedy)


# What the doors stand on


def _device(patient: Patient) -> Finding:
    if shut := device_shut(patient.machine):
        return _no(shut.reason)
    mode = stat.filemode(patient.machine.stat(DEVICE).st_mode)
    return Finding(State.OK, f"{mode}, can be opened")


def _module(patient: Patient) -> Finding:
    if has_fuse(patient.machine):
        return Finding(State.OK, "the kernel has FUSE")
    return _no(reasons.NO_FUSE)


def _cgroup(patient: Patient) -> Finding:
    shut = device_shut(patient.machine)
    if shut is None:
        return Finding(State.OK, "allows /dev/fuse")
    if shut.code == errno.EPERM:
        return _no(reasons.DEVICE_CGROUP)
    return Finding(State.UNKNOWN, "cannot be told until /dev/fuse is there and permitted")


def _capability(patient: Patient) -> Finding:
    machine = patient.machine
    if not machine.may(CAP_SYS_ADMIN):
        return Finding(State.NOTE, f"user {machine.uid()}, without", reasons.NO_PRIVILEGE.remedy)
    where = " of a user namespace" if machine.in_user_namespace() else ""
    return Finding(State.OK, f"user {machine.uid()}, with CAP_SYS_ADMIN{where}")


def _seccomp(patient: Patient) -> Finding:
    if not patient.machine.filtered():
        return Finding(State.OK, "no filter")
    return Finding(State.NOTE, "a filter judges every system call", reasons.MOUNT_SECCOMP.remedy)


def _no_new_privs(patient: Patient) -> Finding:
    if patient.machine.status("NoNewPrivs") == "1":
        return _no(reasons.HELPER_NO_NEW_PRIVS)
    return Finding(State.OK, "not set")


def _apparmor(patient: Patient) -> Finding:
    profile = patient.machine.apparmor_profile()
    if profile is None:
        return Finding(State.OK, "not confined")
    remedy = reasons.mount_apparmor(profile).remedy
    return Finding(State.NOTE, f"confined by the profile {profile}", remedy)


def _user_namespaces(patient: Patient) -> Finding:
    if reason := switched_off(patient.machine):
        return _no(reason)
    limit = patient.machine.number(MAX_NAMESPACES)
    return Finding(State.OK, "no limit is known" if limit is None else f"up to {limit}")


def _helper(patient: Patient) -> Finding:
    program = patient.machine.which(*PROGRAMS)
    if program is None:
        return _no(reasons.NO_HELPER)
    if reason := powerless(patient.machine):
        return Finding(State.NO, f"{program}: {reason.why}", reason.remedy)
    return Finding(State.OK, program)


def _places(patient: Patient) -> Finding:
    mounts = parse((patient.machine.read(str(TABLE)) or "").encode())
    unknown = []
    for place in PLACES:
        path = os.path.realpath(os.path.expanduser(place))
        mount = covering(path, mounts)
        if mount is not None and mount.fstype.split(".")[0] not in FILE_SYSTEMS:
            unknown.append(f"{path} ({mount.fstype})")
    if not unknown:
        return Finding(State.OK, "knows those of home, /tmp and here")
    found = f"does not know that of {', '.join(unknown)}"
    return Finding(State.NOTE, found, reasons.NOT_OVER_THAT.remedy)


def _others(patient: Patient) -> Finding:
    allowed = allows_others(patient.machine)
    if allowed is None:
        return Finding(State.UNKNOWN, f"{CONFIGURATION} cannot be read")
    if not allowed:
        reason = reasons.NO_ALLOW_OTHER
        return Finding(State.NOTE, f"{CONFIGURATION} lacks user_allow_other", reason.remedy)
    return Finding(State.OK, "is set")


def _mount_max(patient: Patient) -> Finding:
    text = patient.machine.read(CONFIGURATION) or ""
    found = re.search(r"^\s*mount_max\s*=\s*(\d+)", text, re.MULTILINE)
    return Finding(State.OK, found[1] if found else "1000 (the default)")


# What a mount finds


def _protocol(patient: Patient) -> Finding:
    offer = patient.offer
    if offer is None:
        return Finding(State.UNKNOWN, "no private mount is possible to see it")
    version = f"{offer.major}.{offer.minor}"
    if (offer.major, offer.minor) < (KERNEL_VERSION, MIN_MINOR_VERSION):
        need = f"{KERNEL_VERSION}.{MIN_MINOR_VERSION}"
        return Finding(
            State.NO, f"{version}: too old, puffs needs {need}", "use Linux 5.4 or later"
        )
    return Finding(State.OK, version)


def _loop(_patient: Patient) -> Finding:
    if compiled.module() is not None:
        return Finding(State.OK, "compiled")
    if compiled.unwanted():
        return Finding(State.NOTE, f"plain: {compiled.PURE} is set", f"unset {compiled.PURE}")
    if not compiled.has_gil():
        return Finding(State.NOTE, "plain: this Python has no GIL", "use one that has it")
    return Finding(
        State.NOTE,
        "plain: the compiled one was not built",
        "install a C compiler (apt install gcc libc6-dev), then puffs again",
    )


def _passthrough(patient: Patient) -> Finding:
    offer = patient.offer
    if offer is None:
        return Finding(State.UNKNOWN, "no private mount is possible to see it")
    if not offer.flags & FUSE_PASSTHROUGH:
        return Finding(State.NOTE, "the kernel does not offer it", "use Linux 6.9 or later")
    if not permitted(patient.machine):
        reason = reasons.NO_PASSTHROUGH
        return Finding(State.NOTE, f"offered, but {reason.why}", reason.remedy)
    return Finding(State.OK, "can be used")


def _io_uring(patient: Patient) -> Finding:
    machine = patient.machine
    enabled = machine.read(f"{MODULE}/enable_uring")
    if enabled is None:
        return Finding(State.NOTE, "the kernel has none for FUSE", "use Linux 6.14 or later")
    if machine.number("/proc/sys/kernel/io_uring_disabled") == 2:
        remedy = "let root run `sysctl -w kernel.io_uring_disabled=0`"
        return Finding(State.NOTE, "kernel.io_uring_disabled is 2", remedy)
    if enabled != "Y":
        remedy = f"let root run `echo Y > {MODULE}/enable_uring`"
        return Finding(State.NOTE, "switched off: fuse.enable_uring is N", remedy)
    offer = patient.offer
    if offer is not None and not offer.flags & FUSE_OVER_IO_URING:
        return Finding(State.NOTE, "switched on, but the kernel does not offer it")
    return Finding(State.OK, "switched on")


def _pages(patient: Patient) -> Finding:
    limit = patient.machine.number(f"{SYSCTLS}/max_pages_limit")
    pages = 256 if limit is None else limit
    found = f"{pages} pages: requests hold up to {pages * PAGE >> 10} KiB"
    if pages < 256:
        remedy = "let root run `sysctl -w fs.fuse.max_pages_limit=256`"
        return Finding(State.NOTE, found, remedy)
    return Finding(State.OK, found)


def _background(patient: Patient) -> Finding:
    names = ("max_user_bgreq", "max_user_congthresh")
    limits = [patient.machine.number(f"{MODULE}/{name}") for name in names]
    if None in limits:
        return Finding(State.UNKNOWN, f"{MODULE} cannot be read")
    found = ", ".join(f"{name} {limit}" for name, limit in zip(names, limits, strict=True))
    return Finding(State.OK, found)


def _timeouts(patient: Patient) -> Finding:
    names = ("default_request_timeout", "max_request_timeout")
    limits = {name: patient.machine.number(f"{SYSCTLS}/{name}") for name in names}
    found = ", ".join(f"{name} {limit} s" for name, limit in limits.items() if limit)
    if not found:
        return Finding(State.OK, "none")
    remedy = f"let root run `sysctl -w fs.fuse.{names[0]}=0` if slow requests end a mount"
    return Finding(State.NOTE, found, remedy)


DOOR_CHECKS: Final = (
    Check("mount", PRIVILEGED.name, "mounting with privilege, for everybody", _mount),
    Check("fusermount3", FUSERMOUNT.name, "mounting as an ordinary user", _fusermount),
    Check("exec", NAMESPACE.name, "mounting for one command, in a private namespace", _namespace),
    Check("serve", HANDED.name, "serving what somebody else has mounted", _handed),
)
"""The ways to a mount."""

GROUND_CHECKS: Final = (
    Check("device", DEVICE, "every door but the last needs it", _device),
    Check("module", "kernel module", "without it there is no FUSE", _module),
    Check("cgroup", "device cgroup", "what devices a container may open", _cgroup),
    Check("privilege", "privilege", "mount(2) needs it", _capability),
    Check("seccomp", "seccomp", "may forbid mount and unshare", _seccomp),
    Check("no_new_privs", "no_new_privs", "takes its privilege from fusermount3", _no_new_privs),
    Check("apparmor", "AppArmor", "may forbid mount", _apparmor),
    Check("user_namespaces", "user namespaces", "puffs exec needs one", _user_namespaces),
    Check("helper", "fusermount3 program", "mounts for ordinary users", _helper),
    Check("places", "its file systems", "fusermount3 mounts only on some types", _places),
    Check("user_allow_other", "user_allow_other", "-o allow_other for ordinary users", _others),
    Check("mount_max", "mount_max", "FUSE mounts of ordinary users at once", _mount_max),
    Check("protocol", "protocol", "what kernel and server can say to each other", _protocol),
    Check("loop", "request loop", "the compiled one needs less time for each request", _loop),
    Check("passthrough", "passthrough", "the kernel reads and writes a file itself", _passthrough),
    Check("io_uring", "io_uring", "requests without a system call each", _io_uring),
    Check("max_pages", "largest request", "how much one read or write moves", _pages),
    Check("background", "background requests", "limits for ordinary users' mounts", _background),
    Check("timeouts", "request timeouts", "how long a request may take", _timeouts),
)
"""What the doors stand on, and what a mount finds."""
