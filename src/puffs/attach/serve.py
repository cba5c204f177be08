"""From a file server to a mount:

`run` serves on this thread, `mount` in the background or in a child process.
"""

import atexit
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast, overload

from puffs.attach import ended
from puffs.attach.child import ChildMount, spawn
from puffs.attach.control import Control
from puffs.attach.driven import DrivenSession, StartSoon, at_once
from puffs.attach.fuse import passthrough
from puffs.attach.fuse.doors.handed import descriptor_of
from puffs.attach.fuse.init import Terms
from puffs.attach.fuse.mounting import MountError
from puffs.attach.fuse.options import MountOptions, OptionError, parse_options
from puffs.attach.fuse.places import Connection, Where, place_of, session_of
from puffs.attach.fuse.session import OnTable, Session
from puffs.attach.fuse.syscalls import MS_REMOUNT
from puffs.isolate.isolation import Isolate, Isolation, isolation_of
from puffs.kernel.args import MNT_UPDATE, REQUEST_HEADER, KernelFlag, MountArgs, check_flags
from puffs.kernel.mount import Mount, Servable, ServerDied, made, name_of

logger = logging.getLogger("puffs")

Server = Servable | Callable[[], Servable]
"""A file server, or what makes one when called: its class, or a function.

It is then built where it serves.
"""

Options = str | Iterable[str] | MountOptions
"""Mount options as after `-o`: one string, several, or parsed."""

_FOR_WRITEBACK = frozenset(("read", "write", "setattr"))

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What unmounts, unless `run` is told otherwise."""


def run(
    fs: Server,
    mountpoint: Where,
    options: Options = (),
    *,
    isolate: Isolate = False,
    on_ready: Callable[[Mount], None] = lambda mount: None,
    on_table: OnTable | None = None,
    signals: Iterable[signal.Signals] = SIGNALS,
) -> None:
    """Mount `fs` on `mountpoint` and serve it on this thread; returns when it has been unmounted.

    A mount point ``/dev/fd/N`` is a connection that somebody else has opened and mounted, and that
    this process has inherited as descriptor N: that is served, and neither mounted nor unmounted.

    With `isolate` the file server lives in a process of its own: see `mount`.

    `signals` (INT, TERM and HUP) unmount, when this is the main thread. `on_ready` is called once
    the mount can be used, `on_table` before that with the dispatch table of handlers by opcode,
    which it may change in place. Raises `MountError` when it cannot be mounted, and what the file
    server's `mount` raises.
    """
    request = _Request(fs, mountpoint, options, on_ready, on_table, isolation_of(isolate))
    if threading.current_thread() is not threading.main_thread():
        mount, serve = request.attach()
        serve()
        _check_alive(mount)
        return
    with ExitStack() as stack:
        by_signals = _EndedBySignals(signals)
        # Not before: a file server that takes long to be built is ended like any program.
        mount, serve = request.attach(lambda: stack.enter_context(by_signals))
        by_signals.unmount(mount)
        serve()
    _check_alive(mount)


@overload
def mount(
    fs: Server,
    mountpoint: str | os.PathLike[str],
    options: Options = (),
    *,
    process: Literal[False] = False,
    isolate: Isolate = False,
    on_table: OnTable | None = None,
) -> Mount: ...
@overload
def mount(
    fs: Server,
    mountpoint: str | os.PathLike[str],
    options: Options = (),
    *,
    process: Literal[True],
    isolate: Isolate = False,
    on_table: OnTable | None = None,
) -> ChildMount: ...
def mount(
    fs: Server,
    mountpoint: str | os.PathLike[str],
    options: Options = (),
    *,
    process: bool = False,
    isolate: Isolate = False,
    on_table: OnTable | None = None,
) -> Mount | ChildMount:
    """Mount `fs` on `mountpoint` and serve it in the background; returns once it can be used.

    The result is a context manager that unmounts at its end; so does the end of the interpreter.
    The file server is called on a thread of its own, or with `process` in a child process: then
    this process may use the mount however it likes, while a thread must not be kept from serving by
    calls that hold the interpreter's lock and wait for the mount (imports of extension modules,
    memory that is mapped from there).

    With `isolate` it is the other way round: the mount is served here, and the file server lives in
    a process of its own, so that nothing it does can harm this one. `fs` is called there, and what
    it says is believed no more than what anybody says. `isolate` may be an `Isolation`, which says
    as whom it runs and what it may use. When it dies, the mount is taken away; `Mount.why` tells.

    Raises as `run` does.
    """
    if process:
        wanted = parsed_options(options)  # a mistake in them is the caller's, not the child's
        child = spawn(
            lambda ready: run(
                fs, mountpoint, wanted, isolate=isolate, on_ready=ready, on_table=on_table
            ),
            os.path.abspath(mountpoint),
        )
        if (fd := descriptor_of(mountpoint)) is not None:
            os.close(fd)  # is the child's now: held here, it would keep a dead mount alive
        return child
    ready = threading.Event()
    isolation = isolation_of(isolate)
    request = _Request(fs, mountpoint, options, lambda mount: ready.set(), on_table, isolation)
    maybe_async = not hasattr(fs, "operations") or cast(Servable, fs).asynchronous
    if isolation is None and maybe_async and _in_event_loop():
        return _LoopMount(request)
    mounted, serve = request.attach()
    failure: list[BaseException] = []
    at_exit = partial(_unmount_at_exit, mounted, os.getpid())

    def serve_here() -> None:
        try:
            serve()
            _check_alive(mounted)
        except ServerDied as exc:
            failure.append(exc)
            if ready.is_set():
                logger.error("%s", exc.strerror)
        except BaseException as exc:
            failure.append(exc)
            if ready.is_set():
                logger.exception("serving %s has failed", mounted.mountpoint)
        finally:
            atexit.unregister(at_exit)
            ready.set()

    atexit.register(at_exit)

    # A daemon: the interpreter would wait for any other thread before it comes to run what atexit
    # has.
    threading.Thread(target=serve_here, name=f"puffs {mounted.mountpoint}", daemon=True).start()
    ready.wait()
    if failure:
        raise failure[0]
    return mounted


def session(
    fs: Server,
    mountpoint: str | os.PathLike[str],
    options: Options = (),
    *,
    start_soon: StartSoon | None = None,
) -> DrivenSession:
    """Mount `fs` on `mountpoint` for an event loop of the program's own to serve: see `driven`.

    `start_soon` starts a task, as a nursery's does: `async def` operations need it. Raises as `run`
    does; `TypeError` for `async def` operations without `start_soon`, and for a `mount`, or a
    `getattr` of the root, that waits: both are called here, before the loop can serve anything.
    """
    server = made(fs)
    if server.asynchronous and start_soon is None:
        raise TypeError("a session with async def operations needs start_soon")
    session, connection = connected(server, mountpoint, options)
    return DrivenSession(session, start_soon, connection.ended)


def connected(
    fs: Server,
    mountpoint: Where,
    options: Options = (),
    *,
    on_ready: Callable[[Mount], None] = lambda mount: None,
    on_table: OnTable | None = None,
) -> tuple[Session, Connection]:
    """Mount `fs`; that the session is served, and the connection `ended`, is up to the caller.

    Whoever uses the mount waits until it is served. Raises as `session` does.
    """
    request = _Request(fs, mountpoint, options, on_ready, on_table)
    server, args = request.built()
    return request.connect(Mount(server, args, finish=at_once))


@dataclass(frozen=True, slots=True)
class _Request:
    """What `run` or `mount` was asked for."""

    fs: Server
    mountpoint: Where
    options: Options
    on_ready: Callable[[Mount], None]
    on_table: OnTable | None
    isolation: Isolation | None = None

    def attach(
        self, connecting: Callable[[], None] = lambda: None
    ) -> tuple[Mount, Callable[[], None]]:
        """Build the kernel half and mount it.

        Returns it with what serves it until it is unmounted. On failure nothing is left, and the
        file server has been told. `connecting` is called just before it is mounted.
        """
        if self.isolation is not None:
            return self._attach_isolated(self.isolation, connecting)
        server, args = self.built()
        if server.asynchronous:
            return self._attach_async(server, args, connecting)
        mount = Mount(server, args)
        session, connection = self.connect(mount, connecting)

        def serve() -> None:
            try:
                threads = max(self.wanted().threads, len(connection.fds))
                session.serve(threads, self.wanted().spare_threads)
            finally:
                connection.ended()

        return mount, serve

    def _attach_async(
        self, server: Servable, args: MountArgs, connecting: Callable[[], None]
    ) -> tuple[Mount, Callable[[], None]]:
        """The same for a file server with `async def` operations: it gets a loop of its own."""
        import asyncio

        from puffs.attach.fuse.aio import ServingLoop
        from puffs.attach.fuse.aio import serve as serve_session

        runner = asyncio.Runner(loop_factory=ServingLoop)

        def finish(result: Any) -> Any:
            return runner.run(result) if asyncio.iscoroutine(result) else result

        try:
            mount = Mount(server, args, finish=finish)
            session, connection = self.connect(mount, connecting)
        except BaseException:
            runner.close()
            raise

        def serve() -> None:
            try:
                runner.run(serve_session(session))
            finally:
                runner.close()
                connection.ended()

        return mount, serve

    def _attach_isolated(
        self, isolation: Isolation, connecting: Callable[[], None]
    ) -> tuple[Mount, Callable[[], None]]:
        """The same for a file server in a process of its own, where it is built."""
        from puffs.attach.fuse.answered import serve as serve_session
        from puffs.isolate.isolated import Isolated

        wanted = self.wanted()
        with Isolated(partial(made, self.fs), isolation, threads=wanted.threads) as isolated:
            mount = Mount(isolated.server, self.args_for(isolated.server))
            session, connection = self.connect(mount, connecting)
            isolated.attach(mount, self._bury)
            isolated.kept()

        def serve() -> None:
            try:
                serve_session(session, isolated.peer)
            finally:
                isolated.close()
                connection.ended()

        return mount, serve

    def _bury(self, mount: Mount) -> None:
        """The file server has died: nobody can use the mount any more."""
        if self.wanted().control:
            try:
                ended.leave(mount.mountpoint, mount.name, mount.why)  # before it goes
            except OSError as exc:
                logger.info("%s: no record is left: %s", mount.mountpoint, exc)
        try:
            mount.unmount(force=True)
        except OSError as exc:
            logger.error("%s: %s", mount.mountpoint, exc)

    def wanted(self) -> MountOptions:
        """The mount options. A remount is refused before anything is made (M3)."""
        wanted = parsed_options(self.options)
        check_flags(MNT_UPDATE if wanted.flags & MS_REMOUNT else 0)
        return wanted

    def built(self) -> tuple[Servable, MountArgs]:
        """The file server (a class or a function is called for it), and what is asked for it."""
        self.wanted()
        server = made(self.fs)
        if server.asynchronous and self.wanted().threads > 1:
            raise OptionError(
                "threads: this file server has async def operations, which one thread serves"
            )
        return server, self.args_for(server)

    def args_for(self, server: Servable) -> MountArgs:
        """What is asked for a file server. Raises `OptionError` for what it cannot have, and
        `MountError` for what this process may not.
        """
        wanted = self.wanted()
        passthrough.check(wanted, server, isolated=self.isolation is not None)
        lacking = _FOR_WRITEBACK - server.operations().keys() if wanted.writeback else ()
        if lacking:
            raise OptionError(
                "writeback: the kernel fills up pages and sets sizes and times later, for which "
                f"this file server lacks {', '.join(sorted(lacking))}"
            )
        asked = {
            "name": name_of(server),
            "flags": int(
                (0 if wanted.namecache else KernelFlag.NOCACHE_NAME)
                | (0 if wanted.pagecache else KernelFlag.NOCACHE_PAGE)
            ),
            "fhsize": server.fhsize,
            "fhflags": server.fhflags,
            "request_size": REQUEST_HEADER + wanted.max_write if wanted.max_write else 0,
        }
        return MountArgs.copyin(asked)

    def connect(
        self, mount: Mount, connecting: Callable[[], None] = lambda: None
    ) -> tuple[Session, Connection]:
        """Mount what the kernel half is built for (`Place.connect`).

        On failure nothing is left, and the file server has been told (M23, M31).
        """
        with ExitStack() as undo:
            undo.callback(mount.abandon)
            connection = place_of(self.mountpoint).connect(mount, self.wanted(), connecting)
            undo.callback(connection.give_up)
            mount.mountpoint = connection.mountpoint
            # The host's page cache is the only one, also for who uses the mount in process.
            mount.pages.allowed = False
            served = self._session(mount, connection)
            undo.pop_all()
        return served

    def _session(self, mount: Mount, connection: Connection) -> tuple[Session, Connection]:
        """What serves a connection; and the connection, whose end is that of its control too."""

        def ready() -> None:
            control.start()
            self.on_ready(mount)

        def ended() -> None:
            control.close()
            connection.ended()

        session = session_of(
            connection,
            mount,
            terms=Terms.of(self.wanted(), mount.args.payload),
            on_ready=ready,
            on_table=self.on_table,
        )
        wanted = self.wanted()
        control = Control(mount, session, listen=wanted.control, slow=wanted.slow)
        return session, replace(connection, ended=ended)


def _check_alive(mount: Mount) -> None:
    """Raise `ServerDied` when that is why it is not mounted any more."""
    if mount.why:
        raise ServerDied(errno.EIO, f"{mount.mountpoint}: {mount.why}")


def parsed_options(options: Options) -> MountOptions:
    """The options as `MountOptions`. Raises `OptionError`."""
    if isinstance(options, MountOptions):
        return options
    return parse_options([options] if isinstance(options, str) else options)


class _LoopMount(Mount):
    """A mount that the running event loop serves: made and mounted by `async with`."""

    def __init__(self, request: _Request) -> None:
        self._request = request

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(
            "inside a running event loop, a file server with async def operations is mounted by "
            "`async with puffs.mount(...)`"
        )

    def __enter__(self) -> Mount:
        return cast(Mount, self.status)  # which raises, as all else does before it is mounted

    async def __aenter__(self) -> Mount:
        import asyncio

        from puffs.attach.fuse.aio import serve as serve_session

        request, loop = self._request, asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def finish(result: Any) -> Any:
            if asyncio.iscoroutine(result):
                return asyncio.run_coroutine_threadsafe(result, loop).result()
            return result

        def build() -> tuple[Session, Connection]:
            server, args = request.built()
            Mount.__init__(self, server, args, finish=finish)
            return replace(request, on_ready=lambda _: ready.set_result(None)).connect(self)

        session, self._connection = await asyncio.to_thread(build)
        self._task = asyncio.ensure_future(serve_session(session))
        await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task
        return self

    async def __aexit__(self, *exc: object) -> None:
        import asyncio

        try:
            await super().__aexit__(*exc)
            await self._task
        finally:
            await asyncio.to_thread(self._connection.ended)


def _in_event_loop() -> bool:
    """Whether an asyncio event loop runs on this thread; without importing asyncio to find out."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _EndedBySignals:
    """Signals unmount a mount; from when this is entered on.

    They are kept until `unmount` says which, so that none comes between mounting and serving. A
    thread of its own unmounts, for this one has to go on serving meanwhile. It is told through the
    wake-up descriptor of the interpreter: a handler would run only when this thread comes back to
    the interpreter, and a signal that arrives just before it reads the next request would have to
    wait for that request.
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._signals = frozenset(signals)

    def __enter__(self) -> None:
        self._thread: threading.Thread | None = None
        self._told, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        self._former = signal.set_wakeup_fd(self._tell, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in self._signals}

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former)
        os.close(self._tell)
        if self._thread is not None:
            self._thread.join()
        os.close(self._told)

    def unmount(self, mount: Mount) -> None:
        """This is what the signals unmount."""
        self._thread = threading.Thread(
            target=self._obey, args=(mount,), name="puffs-unmount", daemon=True
        )
        self._thread.start()

    def _obey(self, mount: Mount) -> None:
        while number := os.read(self._told, 1):
            if number[0] not in self._signals:
                continue
            try:
                mount.unmount(force=True)
            except OSError as exc:
                logger.error("%s: %s", signal.Signals(number[0]).name, exc)


def _unmount_at_exit(mount: Mount, pid: int) -> None:
    if os.getpid() != pid:  # forked from the process that serves
        return
    try:
        mount.unmount(force=True)
    except OSError as exc:
        logger.error("at the end of the interpreter: %s", exc)


__all__ = ["MountError", "Options", "Server", "mount", "run", "session"]
