"""From a file server to a mount:

`run` serves on this thread, `mount` in the background or in a child process.
"""

import atexit
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal, cast, overload

from puffs.attach.child import ChildMount, spawn
from puffs.attach.fuse.mounting import MountError, mount_fuse, unmount
from puffs.attach.fuse.mountpoint import check_mountpoint
from puffs.attach.fuse.options import MountOptions, parse_options
from puffs.attach.fuse.session import OnTable, Session
from puffs.attach.fuse.syscalls import MS_RDONLY
from puffs.attach.fuse.watcher import Watcher
from puffs.kernel.args import MountArgs
from puffs.kernel.mount import Mount, Servable

logger = logging.getLogger("puffs")

Server = Servable | Callable[[], Servable]
"""A file server, or what makes one when called: its class, or a function.

It is then built where it serves.
"""

Options = str | Iterable[str] | MountOptions
"""Mount options as after `-o`: one string, several, or parsed."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    fs: Server,
    mountpoint: str | os.PathLike[str],
    options: Options = (),
    *,
    on_ready: Callable[[Mount], None] = lambda mount: None,
    on_table: OnTable | None = None,
) -> None:
    """Mount `fs` on `mountpoint` and serve it on this thread; returns when it has been unmounted.

    INT, TERM and HUP unmount, when this is the main thread. `on_ready` is called once the mount can
    be used, `on_table` before that with the dispatch table of handlers by opcode, which it may
    change in place. Raises `MountError` when it cannot be mounted, and what the file server's
    `mount` raises.
    """
    mount, serve = _attach(fs, mountpoint, options, on_ready, on_table)
    if threading.current_thread() is not threading.main_thread():
        serve()
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in _SIGNALS:
            signal.signal(number, lambda number, _frame: _end(mount, number))
        serve()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@overload
def mount(
    fs: Server,
    mountpoint: str | os.PathLike[str],
    options: Options = (),
    *,
    process: Literal[False] = False,
    on_table: OnTable | None = None,
) -> Mount: ...
@overload
def mount(
    fs: Server,
    mountpoint: str | os.PathLike[str],
    options: Options = (),
    *,
    process: Literal[True],
    on_table: OnTable | None = None,
) -> ChildMount: ...
def mount(
    fs: Server,
    mountpoint: str | os.PathLike[str],
    options: Options = (),
    *,
    process: bool = False,
    on_table: OnTable | None = None,
) -> Mount | ChildMount:
    """Mount `fs` on `mountpoint` and serve it in the background; returns once it can be used.

    The result is a context manager that unmounts at its end; so does the end of the interpreter.
    The file server is called on a thread of its own, or with `process` in a child process: then
    this process may use the mount however it likes, while a thread must not be kept from serving by
    calls that hold the interpreter's lock and wait for the mount (imports of extension modules,
    memory that is mapped from there). Raises as `run` does.
    """
    if process:
        return spawn(
            lambda ready: run(fs, mountpoint, options, on_ready=ready, on_table=on_table),
            os.path.abspath(mountpoint),
        )
    ready = threading.Event()
    mounted, serve = _attach(fs, mountpoint, options, lambda mount: ready.set(), on_table)
    failure: list[BaseException] = []

    def serve_here() -> None:
        try:
            serve()
        except BaseException as exc:
            failure.append(exc)
            if ready.is_set():
                logger.exception("serving %s has failed", mounted.mountpoint)
        finally:
            ready.set()

    # A daemon: the interpreter would wait for any other thread before it comes to run what atexit
    # has.
    threading.Thread(target=serve_here, name=f"puffs {mounted.mountpoint}", daemon=True).start()
    ready.wait()
    if failure:
        raise failure[0]
    atexit.register(_unmount_at_exit, mounted)
    return mounted


def _attach(
    fs: Server,
    mountpoint: str | os.PathLike[str],
    options: Options,
    on_ready: Callable[[Mount], None],
    on_table: OnTable | None,
) -> tuple[Mount, Callable[[], None]]:
    """Build the kernel half and mount it; returns it with what serves it until it is unmounted.

    On failure nothing is left, and the file server has been told.
    """
    wanted = _parsed(options)
    server = _built(fs)
    asked = MountArgs(
        server.name or type(server).__name__.lower(), request_size=wanted.max_write or 0
    )
    mount = Mount(server, asked)
    try:
        path = check_mountpoint(mountpoint, mount.root_type)
        if wanted.default_permissions is None:
            wanted = replace(wanted, default_permissions="access" not in mount.ops)
        if mount.read_only:
            wanted = replace(wanted, flags=wanted.flags | MS_RDONLY)
        fd = mount_fuse(
            path,
            wanted,
            fsname=mount.args.name,
            subtype=f"puffs.{mount.name}",
            rootmode=mount.root_type,
        )
        watcher = _watched(path, fd) if wanted.auto_unmount else None
    except BaseException:
        mount.abandon()
        raise
    mount.mountpoint = path
    session = Session(
        mount,
        fd,
        path,
        max_write=mount.args.request_size,
        on_ready=lambda: on_ready(mount),
        on_table=on_table,
    )

    def serve() -> None:
        try:
            session.serve()
        finally:
            if watcher is not None:
                watcher.stop()

    return mount, serve


def _watched(mountpoint: str, fd: int) -> Watcher:
    """Have a watcher unmount when this process dies; if there can be none, unmount now."""
    try:
        return Watcher(mountpoint)
    except BaseException:
        os.close(fd)
        unmount(mountpoint, lazy=True)
        raise


def _built(fs: Server) -> Servable:
    """The file server itself: a class or a function is called for it."""
    if isinstance(fs, type) or not hasattr(fs, "operations"):
        return cast(Callable[[], Servable], fs)()
    return cast(Servable, fs)


def _parsed(options: Options) -> MountOptions:
    if isinstance(options, MountOptions):
        return options
    return parse_options([options] if isinstance(options, str) else options)


def _end(mount: Mount, number: int) -> None:
    """A signal asks the process to end: unmount, from a thread, for this one has to go on serving
    meanwhile.
    """

    def unmount() -> None:
        try:
            mount.unmount(force=True)
        except OSError as exc:
            logger.error("%s: %s", signal.Signals(number).name, exc)

    threading.Thread(target=unmount, name="puffs-unmount", daemon=True).start()


def _unmount_at_exit(mount: Mount) -> None:
    try:
        mount.unmount(force=True)
    except OSError as exc:
        logger.error("at the end of the interpreter: %s", exc)


__all__ = ["MountError", "Options", "Server", "mount", "run"]
