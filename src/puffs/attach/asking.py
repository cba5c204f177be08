"""The other side of control sockets: asking the server of a mount."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from puffs.attach import rendezvous
from puffs.attach.control import VERSION
from puffs.attach.fuse.mountinfo import MountInfo, find_mount
from puffs.attach.fuse.mountpoint import MountError, resolve, shown
from puffs.kernel.mount import Refused

SECONDS: Final = 5.0
"""How long an answer may take that the server has at hand."""
ANSWER_MAX: Final = 1 << 20
"""Bytes of one line of an answer."""


class NoControl(MountError):
    """No server listens for this mount: it has gone, has no control socket, or hangs."""


def mounted(mountpoint: str | os.PathLike[str]) -> MountInfo:
    """What puffs has mounted on `mountpoint`. Never touches it.

    Raises:
        MountError: nothing is, or it is not of puffs.
    """
    target = resolve(mountpoint)
    found = find_mount(target)
    if found is None:
        raise MountError(errno.EINVAL, f"{shown(target)} is not mounted: see `puffs list`")
    if not found.is_ours:
        raise MountError(
            errno.EINVAL, f"{shown(target)} is a mount of type {found.fstype} and not of puffs"
        )
    return found


def ask(found: MountInfo, command: str, seconds: float = SECONDS, **arguments: object) -> Any:
    """The result of a command (see `control`).

    Raises:
        NoControl: nobody answers within `seconds`: ENOENT for no socket, ETIMEDOUT.
        OSError: what the server answers; `Refused` if it is the file server that does not agree.
    """
    with _asked(found, command, seconds, arguments) as (result, *_):
        return result


@contextmanager
def trace(found: MountInfo, only: list[str], idle: float) -> Iterator[Iterator[dict[str, Any]]]:
    """What happens on a mount from now on, until it is unmounted.

    Args:
        found: the mount.
        only: the operations that are wanted; empty for all.
        idle: after so many seconds without any, an empty mapping comes.
    """
    with _asked(found, "trace", SECONDS, {"only": only}) as (_, lines, connection):
        connection.settimeout(idle)
        yield lines


@contextmanager
def _asked(
    found: MountInfo, command: str, seconds: float, arguments: dict[str, object]
) -> Iterator[tuple[Any, Iterator[dict[str, Any]], socket.socket]]:
    """The result of a command, and the lines that follow it on the connection."""
    with _connected(found, seconds) as connection:
        asked = {"puffs": VERSION, "command": command, **arguments}
        try:
            try:
                connection.sendall(json.dumps(asked).encode() + b"\n")
            except BrokenPipeError:
                pass  # refused unheard: why is still to be read
            lines = _lines(connection)
            answer = next(lines, None)
        except ConnectionResetError:
            answer = None
        if answer == {}:
            raise _hung(found, seconds)
        if answer is None:
            raise NoControl(errno.ENOENT, f"the server of {shown(found.mountpoint)} has gone")
        if not answer.get("ok"):
            kind = Refused if answer.get("refused") else OSError
            raise kind(answer.get("errno", errno.EIO), str(answer.get("error")))
        yield answer.get("result"), lines, connection


@contextmanager
def _connected(found: MountInfo, seconds: float) -> Iterator[socket.socket]:
    name = rendezvous.socket_name(found.device)
    for directory in rendezvous.likely_directories(found):
        try:
            with rendezvous.opened(directory) as fd:
                connection = rendezvous.connect(fd, name, seconds)
        except TimeoutError as exc:
            raise _hung(found, seconds) from exc
        except OSError:
            continue
        with connection:
            yield connection
        return
    raise NoControl(
        errno.ENOENT,
        f"no server listens for {shown(found.mountpoint)}: it has gone, belongs to somebody else, "
        "or was mounted with -o nocontrol",
    )


def _hung(found: MountInfo, seconds: float) -> NoControl:
    return NoControl(
        errno.ETIMEDOUT,
        f"the server of {shown(found.mountpoint)} has not answered for {seconds:g} s",
    )


def _lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """The lines of an answer; an empty mapping for each time that none comes in time."""
    rest = b""
    while True:
        line, newline, behind = rest.partition(b"\n")
        if newline:
            rest = behind
            yield json.loads(line)
            continue
        if len(rest) > ANSWER_MAX:
            raise NoControl(errno.EPROTO, "the server sends lines without an end")
        try:
            part = connection.recv(65536)
        except TimeoutError:
            yield {}
            continue
        if not part:
            return
        rest += part
