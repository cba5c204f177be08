"""A session: one mounted connection to the kernel, from INIT until it is unmounted.

Whoever serves it (`serve` here, or an event loop) makes readers for it. Other threads control it
through the methods of `kernel.mount.Attachment`.
"""

import errno
import fcntl
import logging
import os
import select
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar

from puffs.attach.fuse import compiled, mounting, syscalls
from puffs.attach.fuse.abi import (
    FUSE_DEV_IOC_CLONE,
    IN_HEADER,
    KERNEL_VERSION,
    Opcode,
)
from puffs.attach.fuse.cache import KernelCache
from puffs.attach.fuse.channel import BODY, Channel, Handler, Request, reads_without_trace
from puffs.attach.fuse.files import OpenFiles
from puffs.attach.fuse.init import REQUEST_ROOM, Negotiated, Terms, negotiate, newer_major
from puffs.attach.fuse.mountinfo import covering, find_mount, read_mounts
from puffs.attach.fuse.mountpoint import resolve
from puffs.attach.fuse.notify import Notifier
from puffs.attach.fuse.passthrough import BackingFiles
from puffs.attach.fuse.reader import AGAIN, END, Observer, Reader, Stop
from puffs.attach.fuse.relief import Relief
from puffs.attach.fuse.suspension import Suspension
from puffs.kernel.mount import Mount
from puffs.server.cred import requester
from puffs.server.stepping import WAITING, Stepper

logger = logging.getLogger("puffs")

T = TypeVar("T")

_NOTIFY_SECONDS = 1.0
"""How long, at the end, the kernel may take for what it is told."""
_UNMOUNT_MS = 250
"""How long an unmount takes, once the name is gone from the tree."""

_FLUSH_SECONDS = 600.0
"""How long it may take to write what the kernel has buffered."""

OnTable = Callable[[list[Handler]], None]
"""Is given a fresh dispatch table, handlers by opcode, and may change it in place."""


class Session:
    """One connection: `fd` is its descriptor, owned by the session from here on; `mountpoint` where
    the kernel shows it.

    `terms` are what the kernel is asked for. `on_ready` is called when it has been answered and the
    mount can be used.
    """

    by_call = False

    def __init__(
        self,
        mount: Mount,
        fd: int,
        mountpoint: str,
        *,
        terms: Terms,
        on_ready: Callable[[], None] = lambda: None,
        on_table: OnTable | None = None,
    ) -> None:
        self.mount = mount
        self.mountpoint = mountpoint
        self._fd = fd
        found = find_mount(mountpoint)
        self.device = found.device if found is not None else None
        """(major, minor) of the mount; None where it cannot be seen."""
        self._traceless = reads_without_trace(found.options if found is not None else ())
        self._terms = terms
        self._on_ready = on_ready
        self._on_table = on_table
        self._files = OpenFiles(mount)
        self._notifier = Notifier(fd)
        self._suspension = Suspension(self)
        self._wakers: set[int] = set()
        self.cache = KernelCache(mount, self._notifier.send)
        """What the kernel has cached (`puffs.kernel.flush.HostCache`)."""
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self.ended = threading.Event()
        """The connection is being closed."""
        self._leaving = threading.Event()
        """Threads that serve are to leave off; one that comes later does not begin."""
        self._threads: set[int] = set()
        self._readers: list[Reader] = []
        self._observer: Observer | None = None
        self._negotiated: Negotiated | None = None
        self._stepper: Stepper | None = None
        self._relief: Relief | None = None
        mount.attach(self)

    # -------------------------------------------------------------------------------------- serving

    def serve(self, threads: int = 1, spare: int = 0) -> None:
        """Serve on this thread, and on more beside it, until unmounted; then give everything back.

        Each thread reads a clone of the connection, where the kernel makes one. Up to `spare` more
        serve while all of these are kept by operations (`relief`).
        """
        try:
            self.run(threads, spare)
        finally:
            self.finish()

    def run(self, threads: int = 1, spare: int = 0) -> None:
        """The same until it is unmounted, or `stop`; nothing is given back."""
        if not self.start():
            return
        # Before any request is read: with several threads another one might be faster.
        self.serving_here()
        self.mount.tell("mounted", self.mount)
        reader = self.reader()
        others = [
            threading.Thread(target=self._serve_beside, name=f"puffs {number}", daemon=True)
            for number in range(1, threads)
        ]
        with self.serving(reader):
            self.ready()  # alone: whoever is told may want to see all that is asked
            for thread in others:
                thread.start()
            with self._relieved(spare):
                reader.serve()
        for thread in others:
            thread.join()

    def stop(self) -> None:
        """Have all threads that serve leave off, after what each is doing. From any other one."""
        self._leaving.set()
        self.hold_spare(monotonic())  # there shall be no more of them
        for _ in self.readers:
            self.soon(_stop)
            self.wake()

    def start(self) -> bool:
        """Answer INIT, waiting for it. False when the connection ended before."""
        channel = Channel(self._fd, REQUEST_ROOM)
        while (length := self._read(channel)) is not None:
            _, opcode, unique, *_ = IN_HEADER.struct.unpack_from(channel.buffer)
            body = channel.view[BODY:length]
            if opcode != Opcode.INIT:
                channel.send_error(unique, errno.EIO)
            elif later := newer_major(body):
                channel.send(unique, later)
            else:
                self._negotiated = negotiate(body, self.mount, self._terms)
                if self._terms.passthrough:
                    self._files.backing = BackingFiles(self._fd, self.mountpoint)
                self.cache.minor = self._negotiated.minor
                self.mount.start()  # before the reply: from then on the kernel may ask
                channel.send(unique, self._negotiated.reply())
                return True
        return False

    def reader(self, fd: int | None = None, stepper: Stepper | None = None) -> Reader:
        """A reader of `fd`, the connection itself when None; to be used on one thread only."""
        assert self._negotiated is not None, "start() comes first"
        self._stepper = stepper
        reader = self._reader_of(
            self._fd if fd is None else fd,
            self._negotiated,
            self._files,
            notify=self._notifier.send,
            run_calls=self._run_calls,
            wakers=self._wakers,
            stepper=stepper,
            on_table=self._on_table,
            traceless=self._traceless,
        )
        self.add(reader)
        return reader

    def add(self, reader: Reader) -> None:
        """It reads from the connection from now on."""
        with self._lock:
            self._readers.append(reader)
            if reader.observed_by is not self._observer:
                reader.observe(self._observer)

    def remove(self, reader: Reader) -> None:
        """It reads no more, until it is added again."""
        with self._lock:
            self._readers.remove(reader)

    @contextmanager
    def _relieved(self, spare: int) -> Iterator[None]:
        if not spare:
            yield
            return
        with Relief(self, spare) as relief:
            self._relief = relief
            yield

    def hold_spare(self, deadline: float) -> bool:
        """Have no spare thread serve until `spare_go_on`. False if one does at `deadline`."""
        return self._relief is None or self._relief.hold(deadline)

    def spare_go_on(self) -> None:
        """Spare threads may serve again."""
        if self._relief is not None:
            self._relief.go_on()

    def _reader_of(self, fd: int, *args: Any, **kwargs: Any) -> Reader:
        """The kind of reader that this kind of session has."""
        return Reader(self.mount, fd, *args, **kwargs)

    def ready(self) -> None:
        """The mount can be used: tell whoever waits for that."""
        self._on_ready()

    @property
    def readers(self) -> list[Reader]:
        """All that read from the connection."""
        with self._lock:
            return list(self._readers)

    def begin(self) -> None:
        """The file server may be asked from now on: tell it, and whoever waits for the mount."""
        self.mount.tell("mounted", self.mount)
        self.ready()

    def serving_here(self) -> None:
        """The operations run on this thread: what would wait for them must not be done here."""
        self._threads.add(threading.get_ident())

    def fileno(self) -> int:
        """The descriptor of the connection: readable when there is a request."""
        return self._fd

    def _serve_beside(self) -> None:
        fd = self.clone()
        try:
            reader = self.reader(fd)
            if not self._leaving.is_set():  # looked at when whoever sets it can see this reader
                with self.serving(reader):
                    reader.serve()
        except Exception:
            logger.exception("a thread that serves %s has failed", self.mountpoint)
        finally:
            if fd is not None:
                os.close(fd)

    @contextmanager
    def serving(self, reader: Reader) -> Iterator[None]:
        """What a thread is inside of that serves by `reader`, one request after the other."""
        thread = threading.get_ident()
        self._threads.add(thread)
        token = requester.set(reader.channel)
        try:
            yield
        except Stop:
            pass
        finally:
            requester.reset(token)
            self._threads.discard(thread)

    def clone(self) -> int | None:
        """Another descriptor of the connection (FUSE_DEV_IOC_CLONE), if there can be one."""
        try:
            fd = os.open(mounting.DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.ioctl(fd, FUSE_DEV_IOC_CLONE, struct.pack("=I", self._fd))
        except OSError:
            os.close(fd)
            return None
        return fd

    def _read(self, channel: Channel) -> int | None:
        """The length of the next request, in the channel's buffer; None when there will be none."""
        while True:
            try:
                return os.readv(channel.fd, (channel.buffer,)) or None
            except OSError as exc:
                if exc.errno in END:
                    return None
                if exc.errno not in AGAIN:
                    raise

    def finish(self) -> None:
        """The connection is over, or to be given up: close it and tell the mount.

        Callers that still wait get errors.
        """
        self.close()
        self.mount.detached(self)

    def close(self, *, leave: bool = False) -> None:
        """Close the connection, and take back what the kernel had open.

        No dead mount is left behind, unless with `leave`.
        """
        with self._lock:
            self.ended.set()
        self._end_notifications()
        if self._files.backing is not None:
            self._files.backing.end()
        os.close(self._fd)
        if not leave:
            self._clear_away()
        while self._calls:
            try:
                self._run_calls()
            except Stop:
                continue
        self._files.close_all()
        if self.mount.shared:
            self.mount.vnodes.forget_told()

    def _end_notifications(self) -> None:
        """The kernel may take one only when a request has been answered that nobody will answer any
        more: it then has to be told that the connection is over.
        """
        self._notifier.close()
        if self._notifier.ended(_NOTIFY_SECONDS) or self.device is None:
            return
        try:
            mounting.abort_connection(self.device[1])
        except OSError as exc:
            logger.error("%s", exc)
        else:
            self._notifier.ended(_NOTIFY_SECONDS)

    def _clear_away(self) -> None:
        """Leave no dead mount behind. Whoever has unmounted it may have mounted something else."""
        unmounted = any(reader.unmounted for reader in self._readers)
        if unmounted or not self._is_on_top():
            return
        try:
            mounting.unmount(self.mountpoint, lazy=True)
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # which says that somebody was faster
                logger.error("%s", exc)

    # -------------------------------------------------------- for other threads (kernel.Attachment)

    @property
    def alone(self) -> str:
        """With a write-back cache Linux does not let itself be told sizes and times; and nobody is
        told when an open has emptied a file.
        """
        if self._terms.writeback:
            return "with -o writeback the kernel alone knows how long files are: mount it without"
        if self._terms.atomic_o_trunc:
            return "with atomic_o_trunc opens empty files, which others would not see"
        return ""

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function` on the thread that serves, and return what it returns."""
        self.check_outside()
        future: Future[T] = Future()

        def settle(result: Any, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def run() -> None:
            try:
                result: Any = function(*args)
                if self._stepper is not None and isinstance(result, self._stepper.kind):
                    result = self._stepper.step(result)
                    if result is WAITING:
                        self._stepper.adopt(Request((0,) * len(IN_HEADER.zeros)), settle)
            except BaseException as exc:
                settle(None, exc)
            else:
                if result is not WAITING:
                    settle(result, None)

        self.soon(run)
        # As long as that thread uses the mount it could not be unmounted.
        self.wake_by(self.mountpoint).join()
        if run in self._calls and not self._has_ended() and self.withdraw(run):
            raise OSError(errno.EBUSY, f"{self.mountpoint} leads to this mount no more")
        return future.result()

    def post(self, function: Callable[[], None]) -> None:
        """Have `function` run on the thread that serves, and do not wait for it."""
        self.soon(function)
        self.wake()

    def observe(self, observer: Observer | None) -> None:
        """Have `observer` watch all requests from now on, in place of whoever does; None: nobody.

        Each reader changes over at its next request, and loses none. From any thread.
        """
        with self._lock:
            self._observer = observer
            for reader in self._readers:
                reader.observe(observer)

    def facts(self) -> dict[str, object]:
        """What can be told of the connection: for `puffs status`."""
        negotiated = self._negotiated
        return {
            "protocol": f"{KERNEL_VERSION}.{negotiated.minor}" if negotiated else None,
            "max_write": negotiated.max_write if negotiated else None,
            "loop": "plain" if compiled.module() is None else "compiled",
            "threads": len(self._readers),
            "open_files": len(self._files),
            "passthrough": None if self._files.backing is None else len(self._files.backing),
            "held": sum(len(reader.held) for reader in self._readers),
        }

    def busy(self) -> bool:
        """Never known here: a RELEASE may still be under way. umount2(2) is the one to say so."""
        return False

    def flush(self) -> None:
        """Have the kernel write what it has buffered, and wait until that has been served."""
        self.check_outside()
        self._suspension.flush(monotonic() + _FLUSH_SECONDS)

    def suspend(self, deadline: float) -> None:
        """Have the kernel write what it has buffered, then serve nothing, and have nothing under
        way.
        """
        self.check_outside()
        self._suspension.suspend(deadline)

    def check_held(self) -> None:
        """EOPNOTSUPP while data may go past the file server."""
        if self._files.backing is not None:
            self._files.backing.check_held(self.device)

    def resume(self) -> None:
        """Serve again, and first of all what was held back."""
        self._suspension.resume()

    def holds(self, path: str) -> bool:
        """Whether a path leads into the mount, found without asking the server.

        The last component of it need not be there.
        """
        directory, name = os.path.split(os.path.abspath(path))
        found = covering(os.path.join(resolve(directory), name), read_mounts())
        return found is not None and found.device == self.device

    def detach(self, force: bool) -> None:
        """Unmount.

        With `force` a busy mount is taken away too, and who has files open there gets errors.
        """
        self.check_outside()
        if not self._is_on_top():
            self._detach_hidden(force)
            return
        try:
            mounting.unmount(self.mountpoint)
        except OSError as exc:
            if exc.errno == errno.EINVAL:  # not mounted any more: somebody was faster
                return
            if not force or exc.errno != errno.EBUSY:
                raise
            self._detach_busy()
        else:
            if force:  # other mount namespaces may have it too (mount_namespaces(7))
                self._detach_hidden(force)

    def _is_on_top(self) -> bool:
        """Whether the mount point leads to this mount, and not to another one or to none."""
        found = find_mount(self.mountpoint)
        return found is not None and found.device == self.device

    def _detach_hidden(self, force: bool) -> None:
        """End a mount that something was mounted over, that lives on in another namespace, or that
        somebody has taken out of the tree while files are open.
        """
        if self._has_ended():  # somebody was faster
            return
        if not force or self.device is None:
            raise OSError(
                errno.EBUSY, f"{self.mountpoint} leads to this mount no more, but it is in use"
            )
        mounting.abort_connection(self.device[1])

    def unread(self) -> bool:
        """Whether there is a request that nobody has read."""
        return self._poll(select.POLLIN, 0)

    def _has_ended(self) -> bool:
        """Whether the connection is over. One that somebody is just unmounting is waited for."""
        return self._poll(0, _UNMOUNT_MS)  # errors are always told

    def _poll(self, events: int, milliseconds: int) -> bool:
        """poll(2) of the connection. True at its end in any case."""
        with self._lock:
            if self.ended.is_set():
                return True
            fd = os.dup(self._fd)
        try:
            poller = select.poll()
            poller.register(fd, events)
            return bool(poller.poll(milliseconds))
        finally:
            os.close(fd)

    def _detach_busy(self) -> None:
        """Take a mount in use out of the tree, then end the loop: closing the descriptor aborts
        what still hangs on it.
        """
        root = os.open(
            self.mountpoint, os.O_PATH | os.O_CLOEXEC
        )  # wakes the loop when the path leads here no more
        try:
            mounting.unmount(self.mountpoint, lazy=True)
            self._leaving.set()
            self.hold_spare(monotonic())  # there shall be no more of them
            # One for each that reads: it takes one request and one `_stop`, and ends.
            asked = []
            for _ in list(self._readers):
                self.soon(_stop)
                asked.append(self.wake_by(root))
            for thread in asked:
                thread.join()
        finally:
            os.close(root)

    def check_outside(self) -> None:
        """EDEADLK on a thread that serves."""
        if threading.get_ident() in self._threads:
            raise OSError(
                errno.EDEADLK, "this cannot be done inside an operation of the file server"
            )

    def soon(self, function: Callable[[], None]) -> None:
        """Have `function` called on a thread that serves, at its next request. ENXIO at the end."""
        with self._lock:
            if self.ended.is_set():
                raise OSError(errno.ENXIO, f"{self.mountpoint} is not mounted any more")
            self._calls.append(function)

    def withdraw(self, function: Callable[[], None]) -> bool:
        """Take back what `soon` was given. False when it is being done already."""
        try:
            self._calls.remove(function)
        except ValueError:
            return False
        return True

    def wake(self) -> None:
        """Make the kernel send a request, for a loop that waits for one."""
        self.wake_by(self.mountpoint)

    def wake_by(self, root: str | int) -> threading.Thread:
        """Make the kernel send a request (STATFS is never cached), so that the loop comes to run
        what it is to run.

        The request is answered when the loop has done that, which may be late: hence a thread of
        its own.
        """

        def ask() -> None:
            me = threading.get_native_id()
            self._wakers.add(me)
            try:
                syscalls.leave_descriptors(root if isinstance(root, int) else -1)
                os.statvfs(root)
            except OSError:
                pass  # the loop has ended, and with it what was to be done
            finally:
                self._wakers.discard(me)

        thread = threading.Thread(target=ask, name="puffs-wake", daemon=True)
        thread.start()
        return thread

    def _run_calls(self) -> None:
        while (call := self._next_call()) is not None:
            call()

    def _next_call(self) -> Callable[[], None] | None:
        try:
            return self._calls.popleft()
        except IndexError:  # another thread may have been faster
            return None


def _stop() -> None:
    raise Stop
