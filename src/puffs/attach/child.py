"""File servers in a child process: started so that failure is known, and ended from here.

The child is forked before the file server is built, as threads do not survive a fork. It reports
over a socket: one line when the mount can be used or has failed, then one line for each command.
When this end closes, the child unmounts.
"""

import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn
from urllib.parse import quote, unquote

from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mounting import unmount
from puffs.attach.fuse.mountpoint import MountError, is_stale, resolve
from puffs.kernel.mount import Mount
from puffs.kernel.suspend import SECONDS
from puffs.streams import flush_streams

logger = logging.getLogger("puffs")

Run = Callable[[Callable[[Mount], None]], None]
"""What the child does: mount, call the function given with the mount once it can be used, serve,
return.
"""


class ChildMount:
    """A mount that a child process serves:

    `mountpoint`, and `pid` of the child. A context manager; its end unmounts.
    """

    def __init__(self, mountpoint: str, pid: int, control: socket.socket) -> None:
        self.mountpoint = mountpoint
        self.pid = pid
        self._control = control
        self._lines = control.makefile("r", encoding="utf-8", errors="surrogateescape")
        self._lock = threading.Lock()
        self._status: int | None = None

    def unmount(self, force: bool = False) -> None:
        """Unmount, and wait until the child has ended. Raises as `Mount.unmount` does."""
        with self._lock:
            if self._status is not None:
                return
            try:
                self._control.sendall(b"force\n" if force else b"unmount\n")
                if refusal := self._lines.readline():
                    _raise_for(refusal)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has been unmounted by somebody else and has ended
            self._reap()

    def suspend(self, seconds: float = SECONDS) -> None:
        """As `Mount.suspend`."""
        self._ask(f"suspend {seconds}")

    def resume(self) -> None:
        """As `Mount.resume`."""
        self._ask("resume")

    @contextmanager
    def suspended(self, seconds: float = SECONDS) -> Iterator[None]:
        """As `Mount.suspended`, for a `with` statement."""
        self.suspend(seconds)
        try:
            yield
        finally:
            self.resume()

    def sync(self) -> None:
        """As `Mount.sync`."""
        self._ask("sync")

    def snapshot(self, destination: str | os.PathLike[str]) -> None:
        """As `Mount.snapshot`; a relative path is one of this process."""
        self._ask(f"snapshot {quote(os.path.abspath(destination), errors='surrogateescape')}")

    def _ask(self, command: str) -> None:
        """Have the child do what is one of `_COMMANDS`. Raises what it raises there."""
        with self._lock:
            if self._status is not None:
                raise OSError(errno.ENXIO, f"{self.mountpoint} is not mounted any more")
            try:
                self._control.sendall(f"{command}\n".encode())
                answer = self._lines.readline()
            except (BrokenPipeError, ConnectionResetError):
                answer = ""
            if not answer:
                raise OSError(errno.ENXIO, f"{self.mountpoint} is not mounted any more")
            _raise_for(answer)

    def wait(self) -> int:
        """Wait until the child has ended, after an unmount by anybody.

        Its exit status: 0, or minus the signal that has killed it; then its mount is taken away.
        """
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # others may unmount meanwhile
        except ChildProcessError:
            pass  # one of them has taken its status
        with self._lock:
            return self._reap()

    def _reap(self) -> int:
        if self._status is None:
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
            self._lines.close()
            self._control.close()
            if self._status < 0:  # nobody is left to unmount
                _clear_away(self.mountpoint)
        return self._status

    def __enter__(self) -> "ChildMount":
        return self

    def __exit__(self, *exc: object) -> None:
        self.unmount(force=True)


def _clear_away(mountpoint: str) -> None:
    """Unmount what is mounted there if it is a mount of ours whose server has gone."""
    try:
        found = find_mount(resolve(mountpoint))
    except MountError:  # the way there has gone, or was a descriptor of the child's
        return
    if found is not None and found.is_ours and is_stale(mountpoint):
        unmount(mountpoint, lazy=True)


def spawn(run: Run, mountpoint: str) -> ChildMount:
    """Run `run` in a child process; returns once the mount can be used.

    Raises `MountError` when that fails.
    """
    ours, theirs = socket.socketpair()
    pid = _fork()
    if pid == 0:
        ours.close()
        _child(run, theirs, stay=False)
    theirs.close()
    child = ChildMount(mountpoint, pid, ours)
    try:
        _raise_for(child._lines.readline())
    except BaseException:
        ours.shutdown(socket.SHUT_RDWR)  # should it serve already, it unmounts and ends
        child._reap()
        raise
    return child


def daemonize(run: Run) -> None:
    """Run `run` in a process of its own that outlives this one.

    Returns once the mount can be used; raises as `spawn`.
    """
    ours, theirs = socket.socketpair()
    pid = _fork()
    if pid == 0:
        ours.close()
        os.setsid()
        if _fork() != 0:  # the grandchild has no way to get a terminal
            os._exit(0)
        _child(run, theirs, stay=True)
    theirs.close()
    os.waitpid(pid, 0)
    with ours, ours.makefile("r", encoding="utf-8", errors="surrogateescape") as lines:
        _raise_for(lines.readline())


def become_daemon(run: Run) -> None:
    """Run `run` in a process of its own, and go on there when it returns, as the same program.

    This process ends with status 0 once the mount can be used, and nothing of it is run any more;
    else it goes on here, and raises as `spawn`. What `run` raises after the mount could be used is
    raised there.
    """
    ours, theirs = socket.socketpair()
    pid = _fork()
    if pid != 0:
        theirs.close()
        with ours, ours.makefile("r", encoding="utf-8", errors="surrogateescape") as lines:
            try:
                _raise_for(lines.readline())
            except BaseException:
                os.waitpid(pid, 0)
                raise
        os._exit(0)
    ours.close()
    os.setsid()
    os.chdir("/")  # now, and not later: a file server may go elsewhere in its `init`
    can_be_used = False

    def settle(mount: Mount) -> None:
        nonlocal can_be_used
        can_be_used = True
        _settle(mount, theirs, stay=True)

    try:
        run(settle)
    except BaseException as exc:
        if can_be_used:
            raise
        _report(theirs, exc)
        _leave(1)


def _fork() -> int:
    flush_streams()
    return os.fork()


def _child(run: Run, control: socket.socket, *, stay: bool) -> NoReturn:
    """The life of a child: serve, report, end without running anything of the parent's."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

        def settle(mount: Mount) -> None:
            _settle(mount, control, stay)
            if stay:
                os.chdir("/")

        run(settle)
        status = 0
    except BaseException as exc:
        _report(control, exc)
    finally:
        _leave(status)


def _leave(status: int) -> NoReturn:
    """End this process, and nothing of the parent's is run."""
    try:
        logging.shutdown()
        flush_streams()
    finally:
        os._exit(status)


def _settle(mount: Mount, control: socket.socket, stay: bool) -> None:
    """The mount can be used: say so, then become a daemon, or obey until the parent goes."""
    try:
        control.sendall(b"0\n")
    except OSError:  # nobody waits any more; whoever shall obey finds out in a moment
        pass
    if stay:
        control.close()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.close(null)
    else:
        threading.Thread(
            target=_obey, args=(mount, control), name="puffs-control", daemon=True
        ).start()


_COMMANDS: Final[dict[str, Callable[[Mount, str], None]]] = {
    "unmount": lambda mount, _: mount.unmount(),
    "force": lambda mount, _: mount.unmount(force=True),
    "suspend": lambda mount, seconds: mount.suspend(float(seconds)),
    "resume": lambda mount, _: mount.resume(),
    "sync": lambda mount, _: mount.sync(),
    "snapshot": lambda mount, path: mount.snapshot(unquote(path, errors="surrogateescape")),
}
"""What the parent may ask for: a word, and behind a blank its argument."""
_LAST: Final = ("unmount", "force")
"""After these the child ends, which is the answer."""


def _obey(mount: Mount, control: socket.socket) -> None:
    try:
        with control.makefile("r") as commands:
            for command in commands:
                name, _, argument = command.strip().partition(" ")
                try:
                    _COMMANDS[name](mount, argument)
                except OSError as exc:
                    _report(control, exc)
                    continue
                if name in _LAST:
                    break
                control.sendall(b"0\n")
    except OSError:  # the parent was killed with a line of ours unread
        pass
    try:
        mount.unmount(force=True)
    except OSError as exc:
        logger.error("the parent has gone: %s", exc)


def _report(control: socket.socket, exc: BaseException) -> None:
    """Send one line: an errno and a text."""
    code = exc.errno if isinstance(exc, OSError) and exc.errno else errno.EIO
    text = (
        exc.strerror
        if isinstance(exc, OSError) and exc.strerror
        else f"{type(exc).__name__}: {exc}"
    )
    if not isinstance(exc, OSError):
        logger.error("the file server could not be started", exc_info=exc)
    line = f"{code} {' '.join(str(text).splitlines())}\n"
    try:
        control.sendall(line.encode("utf-8", "surrogateescape"))
    except OSError:
        logger.error("%s", text)


def _raise_for(line: str) -> None:
    code, _, text = line.strip().partition(" ")
    if not code:
        raise MountError(
            errno.EIO, "the process of the file server has ended before it was mounted"
        )
    if code != "0":
        raise MountError(int(code), text)
