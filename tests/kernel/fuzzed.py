"""Random mount arguments, as the reference was fuzzed: each level repairs one more field."""

import stat
from collections.abc import Callable
from random import Random
from typing import Any

import puffs
from puffs.kernel.args import (
    FHFLAG_MASK,
    FHFLAG_NFSV2,
    FHFLAG_NFSV3,
    FHSIZE_MAX,
    KERNEL_FLAG_MASK,
    VERSION,
    MountArgs,
)
from puffs.kernel.mount import Mount
from puffs.server.operations import OPERATIONS, Operations

MOUNTS = 100
"""How many mounts there are at each level."""

TYPES = (
    *(stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO),
    *(stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK),
)

Plan = dict[str, Any]
"""A record of mount arguments, and beside them "root", its cookie, and "mode", that of the root."""


def random_plan(random: Random) -> Plan:
    """Every field is anything."""
    return {
        "version": _number(random),
        "flags": _number(random),
        "fhflags": _number(random),
        "fhsize": _number(random),
        "request_size": _number(random),
        "buckets": _number(random),
        "name": "".join(chr(random.randrange(0xD900)) for _ in range(random.randrange(60))),
        "spare": _number(random),
        "root": random.choice([None, [], {}]),
        "mode": random.choice([0, 0o777, 0o070000, 0o130644, 0o170000]),
    }


def _number(random: Random) -> int:
    return random.choice([1, -1]) * random.getrandbits(random.choice([3, 8, 16, 32, 64, 80]))


def _handle_size_for_nfs(plan: Plan) -> None:
    if plan["fhflags"] & FHFLAG_NFSV3:
        plan["fhsize"] %= 61
    if plan["fhflags"] & FHFLAG_NFSV2:
        plan["fhsize"] %= 29


REPAIRS: list[tuple[str, Callable[[Plan], object]]] = [
    ("unknown mount arguments", lambda plan: plan.pop("spare")),
    ("of version", lambda plan: plan.update(version=VERSION)),
    ("unknown mount flags", lambda plan: plan.update(flags=plan["flags"] & KERNEL_FLAG_MASK)),
    ("unknown file handle flags", lambda plan: plan.update(fhflags=plan["fhflags"] & FHFLAG_MASK)),
    ("at most 1020", lambda plan: plan.update(fhsize=plan["fhsize"] % (FHSIZE_MAX + 1))),
    ("NFS", _handle_size_for_nfs),
    ("mount() returned", lambda plan: plan.update(root=(plan["buckets"], "root"))),
    ("no file type", lambda plan: plan.update(mode=TYPES[plan["buckets"] % 7] | 0o777)),
]
"""What is said of a field that is not repaired, and its repair."""

LEVELS = range(len(REPAIRS) + 1)


def plans(level: int) -> list[Plan]:
    """The mounts of a level: always the same ones."""
    random = Random(f"level {level}")
    made = [random_plan(random) for _ in range(MOUNTS)]
    for plan in made:
        for _, repair in REPAIRS[:level]:
            repair(plan)
    return made


class Responder(puffs.FileSystem[Any]):
    """Answers each operation with success, and with nothing else; its root is as planned."""

    def __init__(self, plan: Plan) -> None:
        self.root = plan.pop("root")
        self.attr = puffs.Attr(plan.pop("mode"))
        self.log: list[str] = []

    def operations(self) -> Operations:
        return {name: self._success(name) for name in OPERATIONS if name != "fileid"}

    def _success(self, name: str) -> Callable[..., Any]:
        gives = {"mount": self.root, "getattr": self.attr}.get(name)

        def succeed(*_: object) -> Any:
            self.log.append(name)
            return gives

        return succeed


def mounted(plan: Plan) -> tuple[Responder, Mount]:
    """What is planned, as far as the kernel half goes. Uses the plan up."""
    server = Responder(plan)
    return server, Mount(server, MountArgs.copyin(plan))


def complaint(plan: Plan) -> str:
    """The error with which it cannot be mounted; empty when it can."""
    try:
        _, mount = mounted(dict(plan))
    except OSError as exc:
        return str(exc)
    mount.unmount()
    return ""
