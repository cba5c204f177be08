"""Trying for real what a mount would need, where nobody sees it: in a child process with a mount
namespace of its own, up to the kernel's INIT.
"""

import errno
import json
import os
import select
import stat
from dataclasses import asdict, dataclass
from typing import Any, Final

from puffs.attach.fuse.abi import COMPAT_INIT_IN, FUSE_INIT_EXT, IN_HEADER, INIT_IN
from puffs.attach.fuse.doors.door import MountRequest
from puffs.attach.fuse.doors.namespace import enter
from puffs.attach.fuse.doors.privileged import PRIVILEGED
from puffs.attach.fuse.doors.reasons import DoorShut, Reason
from puffs.attach.fuse.machine import Machine
from puffs.attach.fuse.mountpoint import MountError
from puffs.attach.fuse.options import TYPE_PREFIX, MountOptions

SECONDS: Final = 3.0
"""How long the kernel may take to send INIT."""

_LARGEST: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class Offer:
    """What the kernel offers in INIT: its protocol version, flags and largest read-ahead."""

    major: int
    minor: int
    max_readahead: int
    flags: int


def try_mount(machine: Machine, *, user: bool) -> Offer:
    """Mount in a private namespace and read INIT; nothing of it remains.

    Args:
        user: in a user namespace of its own too.

    Raises:
        DoorShut: something on the way is not permitted.
        MountError: something on the way fails.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.write(writer, json.dumps(_tell(machine, user=user)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    answer: dict[str, Any] = json.loads(told or b'{"error": "the trial has crashed", "code": 5}')
    if "why" in answer:
        raise DoorShut(Reason(answer["why"], answer["remedy"]), answer["code"])
    if "error" in answer:
        raise MountError(answer["code"], answer["error"])
    return Offer(**answer)


def _tell(machine: Machine, *, user: bool) -> dict[str, Any]:
    try:
        return asdict(_offer(machine, user=user))
    except DoorShut as shut:
        return {"why": shut.reason.why, "remedy": shut.reason.remedy, "code": shut.code}
    except OSError as error:
        return {"error": str(error), "code": error.errno}


def _offer(machine: Machine, *, user: bool) -> Offer:
    enter(machine, user=user)
    # On the root: whoever has one already, this process too, goes on seeing what is below.
    request = MountRequest(
        "/", MountOptions(), "puffs:doctor", f"{TYPE_PREFIX}doctor", stat.S_IFDIR
    )
    fd = PRIVILEGED.open(request, machine)
    if not select.select([fd], [], [], SECONDS)[0]:
        raise MountError(errno.ETIMEDOUT, "the kernel has sent no INIT to a mount")
    message = os.read(fd, _LARGEST)
    body = message[IN_HEADER.size :]
    major, minor, readahead, flags = COMPAT_INIT_IN.struct.unpack_from(body)
    if flags & FUSE_INIT_EXT and len(body) >= INIT_IN.size:
        flags |= INIT_IN.unpack(body)["flags2"] << 32
    return Offer(major, minor, readahead, flags)
