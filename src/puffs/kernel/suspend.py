"""Suspension and snapshots of a live mount (statements D1 to D8, I3).

While a mount is suspended no operation is under way and none starts: whoever asks for one waits,
and is served after the resume. What hosts had buffered by then, the file server has been given.
"""

import errno
import logging
from time import monotonic
from typing import TYPE_CHECKING, Final

from puffs.kernel.fstrans import State
from puffs.kernel.sync import Wait, pageflush
from puffs.server.cred import FSCRED
from puffs.server.types import Suspend

if TYPE_CHECKING:
    from puffs.kernel.mount import Mount

logger = logging.getLogger("puffs")

SUSPEND_SUSPEND: Final = 1
SUSPEND_RESUME: Final = 2

SECONDS: Final = 60.0
"""How long a suspension may take to be reached, unless somebody says otherwise."""


def suspendctl(mount: "Mount", command: int, seconds: float = SECONDS) -> None:
    """Suspend or resume `mount`: SUSPEND_SUSPEND or SUSPEND_RESUME; EINVAL for anything else (D7).

    `seconds`: how long a suspension may take to be reached. Not for use inside an operation, nor on
    a thread that serves. Raises `OSError`, with the mount as it was: ENXIO when it is not running,
    EBUSY when it is suspended already, EDEADLK inside an operation, ETIMEDOUT; EINVAL for a resume
    of what is not suspended.
    """
    match command:
        case 1:
            _suspend(mount, monotonic() + seconds)
        case 2:
            _resume(mount)
        case _:
            raise OSError(errno.EINVAL, f"suspendctl: there is no command {command}")


def _suspend(mount: "Mount", deadline: float) -> None:
    mount.check_running()
    for attachment in mount.attachments:
        attachment.check_outside()
    mount.fstrans.setstate(State.SUSPENDING, deadline)  # D1: an error, and nobody is told
    try:
        _announce(mount, Suspend.START, deadline)  # D2
        pageflush(mount, FSCRED, Wait.NOWAIT, suspending=True)
        mount.settle(max(0.0, deadline - monotonic()))
        for attachment in mount.attachments:
            attachment.suspend(deadline)
        mount.fstrans.setstate(State.SUSPENDED)  # D3
    except BaseException:  # D4
        _give_up(mount)
        raise
    _tell(mount, Suspend.SUSPENDED)  # D5


def _resume(mount: "Mount") -> None:
    if mount.fstrans.state is not State.SUSPENDED:  # D6, improved: nobody asked
        raise OSError(errno.EINVAL, f"{mount.name} is not suspended")
    _tell(mount, Suspend.RESUME)  # who waits comes after it
    _let_go(mount)


def _give_up(mount: "Mount") -> None:
    try:
        mount.post("suspend", Suspend.ERROR)  # not waited for: what does not end is in its way
    except OSError as exc:
        logger.debug("%s cannot be told of the error: %s", mount.name, exc)  # it has gone
    _let_go(mount)


def _let_go(mount: "Mount") -> None:
    for attachment in mount.attachments:
        attachment.resume()
    mount.fstrans.setstate(State.NORMAL)


def _announce(mount: "Mount", status: Suspend, deadline: float) -> None:
    """Notify the file server, which may be busy. ETIMEDOUT when it has not heard by `deadline`."""
    if not mount.post("suspend", status).wait(max(0.0, deadline - monotonic())):
        raise OSError(errno.ETIMEDOUT, "an operation that is under way does not end")


def _tell(mount: "Mount", status: Suspend) -> None:
    """Notify the file server, which is idle, and wait until it has done what it does then.

    Whatever fails there is its own affair: it is logged, and the mount goes its way.
    """
    operation = mount.ops.get("suspend")
    if operation is None:
        return
    try:
        mount.call(operation, status)
    except Exception:
        logger.exception("suspend(%s) failed in the file server", status.name)


class Suspended:
    """Suspends `mount` for the time of a `with` or `async with` statement."""

    def __init__(self, mount: "Mount", seconds: float = SECONDS) -> None:
        self._mount = mount
        self._seconds = seconds

    def __enter__(self) -> None:
        suspendctl(self._mount, SUSPEND_SUSPEND, self._seconds)

    def __exit__(self, *exc: object) -> None:
        if self._mount.fstrans.state is State.SUSPENDED:  # it may have been unmounted meanwhile
            suspendctl(self._mount, SUSPEND_RESUME)

    async def __aenter__(self) -> None:
        from asyncio import to_thread

        await to_thread(self.__enter__)  # the loop has to go on meanwhile: it may serve the mount

    async def __aexit__(self, *exc: object) -> None:
        from asyncio import to_thread

        await to_thread(self.__exit__)


def snapshot(mount: "Mount", destination: str, seconds: float = SECONDS) -> None:
    """Have the file server write a copy of itself to `destination` while `mount` is suspended.

    Raises `OSError`: EOPNOTSUPP for a file server without `snapshot` (I3), EINVAL for a place on
    this very mount, which could not be written to meanwhile, what `snapshot` raises, and as
    `suspendctl`.
    """
    mount.check_running()
    operation = mount.ops.get("snapshot")
    if operation is None:
        raise OSError(errno.EOPNOTSUPP, f"{mount.name} makes no snapshots")
    if any(attachment.holds(destination) for attachment in mount.attachments):
        raise OSError(errno.EINVAL, f"{destination}: a snapshot cannot be made on its own mount")
    with Suspended(mount, seconds):
        mount.call(operation, destination)
