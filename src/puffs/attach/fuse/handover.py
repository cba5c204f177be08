"""Handing a mounted connection over a Unix socket, from one who may mount to one who may not.

The two processes meet at a path: whoever comes first listens there. Then, each a line of JSON:

    server:   {"puffs": 1, "name": ..., "rootmode": ..., "threads": ...}: what is to be mounted
    mounter:  {"mountpoint": ..., "unmounts": true} with the descriptors
    server:   {"ready": true}

and {"error": ..., "code": ...} instead from either side that cannot go on. The descriptors
(SCM_RIGHTS, unix(7)) are the connection and clones of it. A mounter of another make need not follow
this: what counts is the first message that brings descriptors.
"""

import errno
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from puffs.attach.fuse import watcher
from puffs.attach.fuse.doors.device import clone_device
from puffs.attach.fuse.doors.door import MountRequest
from puffs.attach.fuse.doors.handed import adopt, check_options
from puffs.attach.fuse.doors.privileged import PRIVILEGED, mount_device
from puffs.attach.fuse.doors.reasons import DoorShut
from puffs.attach.fuse.doors.rights import receive
from puffs.attach.fuse.machine import HERE
from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mounting import unmount_this
from puffs.attach.fuse.mountpoint import MountError, check_mountpoint, resolve, shown
from puffs.attach.fuse.options import MountOptions, source_name, type_name
from puffs.attach.fuse.places import Connection, decided
from puffs.kernel.mount import Mount

VERSION: Final = 1
MAX_DESCRIPTORS: Final = 64
MAX_LINE: Final = 1 << 16

SECONDS: Final = 30.0
"""How long the other side may take for a line."""
FAREWELL_SECONDS: Final = 5.0
"""How long it may take to unmount."""


def meet(
    path: str, owner: int | None = None, *, first: Callable[[], object] = lambda: None
) -> socket.socket:
    """Return a socket to the other side, which comes to the same path, earlier or later.

    Whoever comes first waits, without a limit, unless `first` raises. Only the same user and root
    get through, or `owner` when we are first.

    Raises:
        MountError: the path cannot be used.
    """
    with _ended_by_signals():
        try:
            with _alone_in(os.path.dirname(path) or "."):
                met = _connect(path)
                if met is not None:
                    return met
                first()
                listener = _listen(path, owner)
        except MountError:
            raise
        except OSError as error:
            raise _cannot_meet(path, error) from error
        with listener:
            try:
                return listener.accept()[0]
            finally:
                with suppress(OSError):
                    os.unlink(path)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have TERM and HUP end this program by an exception, so that nothing is left behind.

    INT does so anyway. Whoever has handlers of his own, or calls this on another thread, keeps his
    way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    plain = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in plain:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in plain:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """Keep others from arriving in between: one connects when the other one listens already."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _connect(path: str) -> socket.socket | None:
    """Connect to the one who came first; None when nobody did."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        peer.connect(path)
        return peer
    except OSError as error:
        peer.close()
        if error.errno == errno.ENOENT:
            return None
        if error.errno == errno.ECONNREFUSED and stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # left behind by one who has been killed
            return None
        raise


def _listen(path: str, owner: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        if owner is not None:
            os.chown(path, owner, -1)
        listener.listen(1)
    except BaseException:
        if listener.getsockname():  # it is there already
            os.unlink(path)
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _cannot_meet(path: str, error: OSError) -> MountError:
    code = error.errno or errno.EIO
    remedies = {
        errno.EACCES: "start this side first, or the mounter with --user",
        errno.ENOENT: f"make the directory first (mkdir -p {shown(os.path.dirname(path))})",
        errno.ENAMETOOLONG: "choose a shorter path for the socket",
    }
    # connect and bind tell of a path that is too long by a text only (unix(7): 108 bytes).
    text = error.strerror or str(error)
    return MountError(code, f"{shown(path)}: {text}: {remedies.get(code, 'choose another path')}")


# Lines


def _send(peer: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send a line. Whoever does not listen any more is known by what he does not answer."""
    with suppress(BrokenPipeError, ConnectionResetError):
        socket.send_fds(peer, [json.dumps(message).encode() + b"\n"], fds or [])


def _receive(peer: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive a line, or whatever comes with descriptors; nothing of either at the end."""
    data = b""
    fds: list[int] = []
    while b"\n" not in data and len(data) < MAX_LINE and not fds:
        more, fds = receive(peer, MAX_LINE, MAX_DESCRIPTORS)
        if not more:
            break
        data += more
    try:
        message = json.loads(data.partition(b"\n")[0])
    except ValueError:
        message = None
    return message if isinstance(message, dict) else {}, fds


def _raise_for(message: dict[str, Any], otherwise: str) -> None:
    """Raise what the other side complains of, or that it has gone."""
    code, text = message.get("code"), message.get("error")
    raise MountError(code if isinstance(code, int) else errno.EIO, str(text or otherwise))


# The server


@dataclass(frozen=True, slots=True)
class Handover:
    """The place of a server: a connection that comes over the socket at `path`."""

    path: str

    def connect(
        self, mount: Mount, options: MountOptions, connecting: Callable[[], None]
    ) -> Connection:
        """Wait for it. Who has mounted it unmounts it."""
        check_options(options)
        peer = meet(self.path)
        try:
            connection = self._received(peer, mount, options)
            connecting()
            return connection
        except BaseException as error:
            if isinstance(error, OSError):
                _send(peer, {"error": str(error), "code": error.errno})
            peer.close()
            raise

    def _received(self, peer: socket.socket, mount: Mount, options: MountOptions) -> Connection:
        hello = {
            "puffs": VERSION,
            "name": mount.name,
            "source": mount.args.name,
            "rootmode": mount.root_type,
            "checks_access": "access" in mount.ops,
            "read_only": mount.read_only,
            "threads": options.threads,
        }
        _send(peer, hello)
        answer, fds = _receive(peer)
        if not fds:
            _raise_for(answer, f"the mounter at {shown(self.path)} has gone")
        try:
            for fd in fds:
                adopt(fd)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        unmounts = answer.get("unmounts") is True
        return Connection(
            fds,
            str(answer.get("mountpoint") or self.path),
            farewell=partial(_farewell, peer) if unmounts else lambda: False,
            ready=lambda: _send(peer, {"ready": True}),
            ended=peer.close,
        )


def _farewell(peer: socket.socket) -> bool:
    """Ask the mounter's watcher to unmount; it goes when it has done so."""
    try:
        peer.shutdown(socket.SHUT_WR)
        peer.settimeout(FAREWELL_SECONDS)
        return peer.recv(1) == b""
    except OSError:
        return False


# The mounter


def hand_over(path: str, mountpoint: str, options: MountOptions, user: int | None = None) -> None:
    """Mount on `mountpoint`, for a server that comes to `path`; returns when it can be used.

    A watcher then unmounts when the server goes, unless `options` say no.

    Args:
        path: of the socket to meet at.
        mountpoint: what the user named.
        options: mount options.
        user: who may come, and for whom it is mounted; None: whoever is let in.

    Raises:
        MountError: not mounted, or not served. Nothing is left behind.
    """
    # For a directory that is not there nobody need be waited for.
    with meet(path, user, first=lambda: resolve(mountpoint)) as peer:
        peer.settimeout(SECONDS)
        try:
            hello, _ = _receive(peer)
            if hello.get("puffs") != VERSION:
                text = f"what has come to {shown(path)} is no server of puffs {VERSION}"
                raise MountError(errno.EPROTO, text)
            request, threads = _understood(hello, mountpoint, options)
            _, uid, gid = struct.unpack("3i", _credentials(peer))
            _serve_out(peer, request, threads, uid if user is None else user, gid)
        except BaseException as error:
            if isinstance(error, OSError):
                _send(peer, {"error": str(error), "code": error.errno})
            raise


def _credentials(peer: socket.socket) -> bytes:
    return peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))


def _understood(
    hello: dict[str, Any], mountpoint: str, options: MountOptions
) -> tuple[MountRequest, int]:
    """What the server wants mounted, and how many threads it has. It is not trusted."""
    name, source = str(hello.get("name")), str(hello.get("source"))
    rootmode, threads = hello.get("rootmode"), hello.get("threads", 1)
    if not isinstance(rootmode, int) or not isinstance(threads, int):
        raise MountError(errno.EPROTO, "the server does not say what is to be mounted")
    request = MountRequest(
        check_mountpoint(mountpoint, rootmode),
        decided(
            options,
            checks_access=hello.get("checks_access") is True,
            read_only=hello.get("read_only") is True,
        ),
        source_name(options.fsname or source),
        type_name(options.subtype or name),
        rootmode,
    )
    return request, min(max(threads, 1), MAX_DESCRIPTORS)


def _serve_out(
    peer: socket.socket, request: MountRequest, threads: int, uid: int, gid: int
) -> None:
    target = request.mountpoint
    try:
        fds = [mount_device(request, HERE, uid, gid)]
    except DoorShut as shut:
        text = f"{PRIVILEGED.name}: {shut.reason.why} ({shut.reason.remedy})"
        raise MountError(shut.code, f"cannot mount on {shown(target)}: {text}") from shut
    mounted = find_mount(target)
    try:
        try:
            fds += [clone_device(HERE, fds[0]) for _ in range(threads - 1)]
            unmounts = request.options.auto_unmount is True
            _send(peer, {"mountpoint": target, "unmounts": unmounts}, fds)
            if unmounts:
                watcher.start(target, peer.fileno())
        finally:
            for fd in fds:
                os.close(fd)  # the server alone keeps the connection alive
        answer, _ = _receive(peer)
        if answer.get("ready") is not True:
            _raise_for(answer, "the server has gone before it has served")
    except BaseException:
        if mounted is not None and find_mount(target) == mounted:
            unmount_this(mounted, lazy=True)
        raise
