"""The control socket of a served mount: status, statistics, traces, snapshots, unmounting.

A client connects and sends one line, a JSON object: ``{"puffs": 1, "command": NAME, ...}``, where 1
is `VERSION`. The answer is one line: ``{"ok": true, "result": ...}``, or ``{"ok": false, "errno":
N, "error": TEXT}``, with ``"refused": true`` if it is the file server that does not agree to be
unmounted. After the answer to ``trace`` there follows a line for each operation until one
side closes. Only the owner of the server and root are listened to, by what the kernel says of them
(SO_PEERCRED, unix(7)), and by where the socket lies (`rendezvous`).

Threads that serve nothing else do all of it, so a file server that hangs can still be looked at.
"""

import atexit
import errno
import json
import logging
import os
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import puffs
from puffs.attach import ended, rendezvous
from puffs.attach.fuse.describe import OPERATIONS, opcodes_of
from puffs.attach.fuse.mounting import CONNECTIONS
from puffs.attach.fuse.observe import Observation
from puffs.attach.fuse.session import Session
from puffs.attach.fuse.tally import summary
from puffs.attach.fuse.trace import SlowLog, Trace, request
from puffs.kernel.fstrans import State
from puffs.kernel.mount import Mount, Refused
from puffs.kernel.suspend import SECONDS as SUSPEND_SECONDS

logger = logging.getLogger("puffs")

VERSION: Final = 1
LINE_MAX: Final = 65536
"""Bytes of a command."""
CLIENTS_MAX: Final = 16
"""Commands under way at once; those of a trace last."""

_COMMAND_SECONDS: Final = 10.0
"""How long a client may take to send its command, or to take a part of an answer."""
_REFUSAL_SECONDS: Final = 0.2
"""How long a client that is refused may go on sending."""
_PARTING_SECONDS: Final = 2.0
"""How long the end of the server waits for answers to go out."""
_TRACE_SECONDS: Final = 0.2
"""How often an idle trace looks whether somebody still reads it."""
_PAUSE_MIN: Final = 0.01
_PAUSE_MAX: Final = 1.0
"""Seconds between two attempts to let a client in, where the first has failed."""
_PEER: Final = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class Control:
    """The control socket of what `session` serves, and what is observed for it.

    Args:
        mount: the kernel half.
        session: it is observed while somebody wants that.
        listen: whether there is to be a socket at all.
        slow: requests that take more seconds than that are logged; None: none is.
    """

    def __init__(self, mount: Mount, session: Session, *, listen: bool, slow: float | None) -> None:
        self._mount = mount
        self._session = session
        self._observation = Observation(mount, session.observe)
        self._listening = listen
        self._slow_seconds = slow
        self._slow: SlowLog | None = None
        self._began = time.monotonic()
        self._socket: socket.socket | None = None
        self._pid = os.getpid()
        self._directory = -1
        self._name = ""
        self._inode = 0
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._closed = threading.Event()
        self._clients: dict[threading.Thread, socket.socket] = {}
        self._traces: set[Trace] = set()
        self._accepting = threading.Thread(target=self._accept, name="puffs-control", daemon=True)

    # ------------------------------------------------------------------------------- life cycle

    def start(self) -> None:
        """The mount can be used: listen. Where that cannot be, the log says why."""
        if self._slow_seconds is not None:
            self._slow = SlowLog(self._observation, self._slow_seconds)
        if not self._listening:
            return
        device = self._session.device
        if device is None:
            logger.info("%s: not in sight, so there is no control socket", self._mount.mountpoint)
            return
        try:
            self._listen(device)
        except OSError as exc:
            logger.info("%s: no control socket: %s", self._mount.mountpoint, exc)
            return
        atexit.register(self._close_at_exit)
        self._accepting.start()

    def _listen(self, device: rendezvous.Device) -> None:
        self._name = rendezvous.socket_name(device)
        with rendezvous.opened(rendezvous.made(rendezvous.own_directory())) as directory:
            rendezvous.remove_stale(directory)
            ended.forget(directory, self._mount.mountpoint)
            self._socket = rendezvous.bind(directory, self._name)
            self._inode = os.stat(self._name, dir_fd=directory).st_ino
            self._directory = os.dup(directory)

    def close(self) -> None:
        """Nothing is served any more: remove the socket, let answers go out, end traces."""
        with (
            self._closing
        ):  # who comes second, as at the end of the interpreter, waits for the first
            self._close()

    def _close_at_exit(self) -> None:
        if os.getpid() == self._pid:  # not in a process that was forked from the one that listens
            self.close()

    def _close(self) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            traces, clients = list(self._traces), dict(self._clients)
        if self._socket is not None:
            rendezvous.remove_own(self._directory, self._name, self._inode)
            os.close(self._directory)
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept(2)
            self._socket.close()
            if self._accepting.is_alive():
                self._accepting.join(_PARTING_SECONDS)
            atexit.unregister(self._close_at_exit)
        for trace in traces:
            trace.end()
        deadline = time.monotonic() + _PARTING_SECONDS
        for thread, connection in clients.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():  # its client does not read
                _shut(connection)
        if self._slow is not None:
            self._slow.close()

    # ---------------------------------------------------------------------------------- clients

    def _accept(self) -> None:
        """Let clients in. Where that fails (out of descriptors, or threads), they wait a while."""
        pauses = _pauses()
        while True:
            try:
                self._let_in()
            except (OSError, RuntimeError) as exc:
                if self._closed.is_set():
                    return
                pause = next(pauses)
                if pause == _PAUSE_MIN:  # one line in the log is enough
                    logger.error("%s: control socket: %s", self._mount.mountpoint, exc)
                if self._closed.wait(pause):
                    return
            else:
                pauses = _pauses()

    def _let_in(self) -> None:
        """Accept one client, and begin to serve it."""
        assert self._socket is not None
        connection, _ = self._socket.accept()
        connection.settimeout(_COMMAND_SECONDS)
        thread = threading.Thread(
            target=self._client, args=(connection,), name="puffs-control-client", daemon=True
        )
        with self._lock:
            full = self._closed.is_set() or len(self._clients) >= CLIENTS_MAX
            if not full:
                try:
                    thread.start()  # before `close` can find it, and wait for it
                except RuntimeError:  # there can be no more threads
                    connection.close()
                    raise
                self._clients[thread] = connection
        if full:
            self._turn_away(connection)

    def _turn_away(self, connection: socket.socket) -> None:
        with connection:
            try:
                _refuse(connection, OSError(errno.EBUSY, "too many commands at once: try again"))
            except OSError:
                pass  # it has gone already

    def _client(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._serve(connection)
        except OSError as exc:
            logger.debug("a client of the control socket has gone: %s", exc)
        finally:
            with self._lock:
                self._clients.pop(threading.current_thread(), None)

    def _serve(self, connection: socket.socket) -> None:
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, uid, _ = _PEER.unpack(peer)
        if uid not in (0, os.geteuid()):
            _refuse(connection, OSError(errno.EPERM, "only its owner and root may control it"))
            return
        trace = None
        try:
            asked = _command(connection)
            name = asked.pop("command")
            if name == "trace":
                result, trace = None, self._trace(asked)
            else:
                result = self._commands[name](self, asked)
        except Exception as exc:
            if not isinstance(exc, OSError | ValueError):
                logger.exception("a command of the control socket has failed")
            _refuse(connection, exc)
            return
        try:
            _send(connection, {"ok": True, "result": result})
            if trace is not None:
                self._tell(connection, trace)
        finally:
            if trace is not None:
                self._observation.remove(trace)
                with self._lock:
                    self._traces.discard(trace)

    # --------------------------------------------------------------------------------- commands

    def _status(self, _asked: dict[str, Any]) -> dict[str, Any]:
        mount, observation = self._mount, self._observation
        device = self._session.device
        assert device is not None
        status: dict[str, Any] = {
            "state": _state(mount),
            "mountpoint": mount.mountpoint,
            "name": mount.name,
            "pid": os.getpid(),
            "server_pid": self._mount.server_pid,
            "version": puffs.__version__,
            "device": rendezvous.socket_name(device),
            "args": mount.args.copyout(),
            "uptime": time.monotonic() - self._began,
            **self._session.facts(),
            "nodes": len(mount.vnodes),
            "waiting": _waiting(device[1]),
            "statistics": observation.counting,
            "traces": len(self._traces),
            "slow": self._slow_seconds,
        }
        if mount.why:
            status["why"] = mount.why
        if observation.on:
            status.update(self._under_way())
        if observation.counting:
            status["operations"] = summary(observation.tallies())
        return status

    def _under_way(self) -> dict[str, Any]:
        seen = self._observation.under_way()
        oldest = None
        if seen:
            oldest = request(seen[0], self._observation.locate(seen[0]))
            oldest["seconds"] = (time.monotonic_ns() - seen[0].started) / 1e9
        return {"under_way": len(seen), "oldest": oldest}

    def _stats(self, asked: dict[str, Any]) -> dict[str, Any]:
        match asked.get("action"):
            case "on":
                self._observation.count(True)
            case "off":
                self._observation.count(False)
            case "reset":
                self._observation.reset()
            case action:
                raise ValueError(f"stats: action must be on, off or reset, and not {action!r}")
        return self._status(asked)

    def _unmount(self, asked: dict[str, Any]) -> None:
        self._mount.unmount(force=asked.get("force") is True)

    def _sync(self, _asked: dict[str, Any]) -> None:
        self._mount.sync(True)

    def _suspend(self, asked: dict[str, Any]) -> None:
        seconds = asked.get("timeout", SUSPEND_SECONDS)
        if not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
            raise ValueError("suspend: timeout must be a number of seconds")
        self._mount.suspend(seconds)

    def _resume(self, _asked: dict[str, Any]) -> None:
        self._mount.resume()

    def _snapshot(self, asked: dict[str, Any]) -> dict[str, Any]:
        destination = asked.get("destination")
        if not isinstance(destination, str) or not os.path.isabs(destination):
            raise ValueError("destination: must be an absolute path")
        began = time.monotonic()
        self._mount.snapshot(destination)
        seconds = time.monotonic() - began
        made = os.lstat(destination)
        return {
            "seconds": seconds,
            "bytes": made.st_size if stat.S_ISREG(made.st_mode) else None,
        }

    def _trace(self, asked: dict[str, Any]) -> Trace:
        trace = Trace(self._observation, _wanted(asked.get("only")))
        with self._lock:
            if self._closed.is_set():
                raise OSError(errno.ENXIO, f"{self._mount.mountpoint} is being unmounted")
            self._traces.add(trace)
        self._observation.add(trace)
        return trace

    def _tell(self, connection: socket.socket, trace: Trace) -> None:
        """Send what is traced, until one side closes. A client may be as slow as it likes."""
        connection.settimeout(None)
        gone = select.poll()
        gone.register(connection, select.POLLRDHUP)
        try:
            while True:
                events = trace.get(_TRACE_SECONDS)
                if events:
                    _send(connection, *events)
                elif gone.poll(0):
                    return
        except EOFError:
            return

    _commands: Final[dict[str, Callable[["Control", dict[str, Any]], Any]]] = {
        "status": _status,
        "stats": _stats,
        "unmount": _unmount,
        "sync": _sync,
        "suspend": _suspend,
        "resume": _resume,
        "snapshot": _snapshot,
    }


COMMANDS: Final = (*sorted(Control._commands), "trace")


def _state(mount: Mount) -> str:
    """The state of a mount in one word: "suspended" is one of those in which it runs."""
    state = mount.fstrans.state
    return (mount.status if state is State.NORMAL else state).name.lower()


def _command(connection: socket.socket) -> dict[str, Any]:
    """Read a command. Raises `ValueError` for what is none."""
    try:
        asked = json.loads(_line(connection))
    except ValueError as exc:
        raise ValueError(f"a command is one line of JSON: {exc}") from exc
    if not isinstance(asked, dict) or asked.pop("puffs", None) != VERSION:
        raise ValueError(f'a command is a JSON object with "puffs": {VERSION}, the version')
    if asked.get("command") not in COMMANDS:
        raise ValueError(f"command must be one of {', '.join(COMMANDS)}")
    return asked


def _line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(4096)
        line += part
        if not part or len(line) > LINE_MAX:
            raise ValueError(f"it must end with a newline, within {LINE_MAX} bytes")
    return line


def _wanted(only: object) -> frozenset[int] | None:
    """The opcodes of the operations that a trace is to show; None for all."""
    if not only:
        return None
    if not isinstance(only, list):
        raise ValueError("only: must be a list of operations")
    wanted: frozenset[int] = frozenset()
    for name in only:
        opcodes = opcodes_of(str(name))
        if not opcodes:
            raise ValueError(f"there is no operation {name!r}: {', '.join(OPERATIONS)}")
        wanted |= opcodes
    return wanted


def _send(connection: socket.socket, *messages: dict[str, Any]) -> None:
    connection.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


def _refuse(connection: socket.socket, exc: Exception) -> None:
    code = exc.errno if isinstance(exc, OSError) and exc.errno else errno.EINVAL
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    if isinstance(exc, OSError) and exc.filename:
        text = f"{exc.filename}: {text}"
    answer = {"ok": False, "errno": code, "error": text or type(exc).__name__}
    if isinstance(exc, Refused):
        answer["refused"] = True
    _send(connection, answer)
    # What was not read when it is closed would make the client see a reset, and not the refusal.
    connection.settimeout(_REFUSAL_SECONDS)
    connection.shutdown(socket.SHUT_WR)
    rest = LINE_MAX
    while rest > 0 and (part := connection.recv(4096)):
        rest -= len(part)


def _pauses() -> Iterator[float]:
    """Longer and longer ones, up to a limit."""
    pause = _PAUSE_MIN
    while True:
        yield pause
        pause = min(2 * pause, _PAUSE_MAX)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it was faster
        pass


def _waiting(minor: int) -> int | None:
    """How many requests the kernel waits for; None where fusectl is not mounted, or not ours."""
    try:
        return int(Path(CONNECTIONS, str(minor), "waiting").read_text())
    except (OSError, ValueError):
        return None
