"""Messages of the kernel half's own to a file server, and what becomes of what it answers."""

import errno
import logging
import threading
from collections.abc import Callable
from inspect import iscoroutine
from typing import Any

from puffs.kernel.attachment import Attachment, Servable
from puffs.server.errors import ProtocolFault, errno_of
from puffs.server.operations import OPERATIONS

logger = logging.getLogger("puffs")


class ServerDied(OSError):
    """The process of a file server has ended, and its mount with it: the text tells how.

    `puffs.run` raises it with EIO, and what is used in process with ENXIO.
    """


class Messages:
    """How a `Mount` speaks to its file server, `server`, whose operations are `ops`.

    `finish` is as for `Mount`.
    """

    def __init__(
        self,
        server: Servable,
        name: str,
        ops: dict[str, Callable[..., Any]],
        finish: Callable[[Any], Any],
    ) -> None:
        self.server = server
        self.name = name
        self.ops = ops
        self.finish = finish
        self._attachments: list[Attachment] = []
        self._aside = 0
        """What was put `aside` and is not done yet."""
        self._settled = threading.Condition()
        self.why = ""
        """Why the file server cannot be asked any more, if it has died."""

    def missing(self, name: str) -> int:
        """What is answered for an operation that the file server does not define: 0 or an errno
        (statement 2.6).
        """
        return OPERATIONS[name].missing

    def errno_of(self, exc: BaseException, operation: str) -> int:
        """The errno of the caller for what `operation` raised; a protocol fault is logged and told
        to the file server.
        """
        try:
            if not isinstance(exc, ProtocolFault):
                return errno_of(exc, operation)
        except ProtocolFault as fault:
            exc = fault
        assert isinstance(exc, ProtocolFault)
        logger.error("%s: bad reply of the file server: %s", self.name, exc.text)
        self.tell("error", exc.kind, exc.hint, exc.text, exc.node)
        return exc.errno or errno.EPROTO

    def _faf(self, name: str) -> Callable[..., None] | None:
        return (lambda *args: self.tell(name, *args)) if name in self.ops else None

    def tell(self, name: str, *args: Any) -> None:
        """Send a fire-and-forget message, if the file server has that operation.

        Nobody waits for it; a failure is logged and reaches nobody.
        """
        operation = self.ops.get(name)
        if operation is None or self.why:
            return
        try:
            self.finish(operation(*args))
        except KeyboardInterrupt:
            raise
        except BaseException:  # sys.exit() there is a mistake as any other
            logger.exception("%s failed in the file server", name)

    def post(self, name: str, *args: Any) -> threading.Event:
        """The same from any thread: it is sent where the operations run, and not waited for.

        The result is set when the file server has heard it.
        """
        heard = threading.Event()

        def send() -> None:
            self.tell(name, *args)
            heard.set()

        if self._attachments:
            self._attachments[0].post(send)
        else:
            send()
        return heard

    def aside(self, function: Callable[[], None]) -> None:
        """Run what nobody waits for, where messages are plain calls.

        That is at once, unless operations may wait (`async def`): then on a thread of its own, so
        that it may be asked for on the very thread that finishes operations. See `settle`.
        """
        if not self.server.asynchronous:
            function()
            return
        with self._settled:
            self._aside += 1

        def run() -> None:
            try:
                function()
            finally:
                with self._settled:
                    self._aside -= 1
                    self._settled.notify_all()

        threading.Thread(target=run, name="puffs-aside", daemon=True).start()

    def settle(self, seconds: float | None = None) -> None:
        """Wait until what was put `aside` has been done. Not inside an operation.

        Raises `OSError`: ETIMEDOUT when that takes longer than `seconds`.
        """
        with self._settled:
            if not self._settled.wait_for(lambda: not self._aside, seconds):
                raise OSError(errno.ETIMEDOUT, "what nobody waits for does not end")

    async def tell_and_wait(self, name: str, *args: Any) -> None:
        """The same for an attachment with an event loop, which waits until it has been done."""
        operation = self.ops.get(name)
        if operation is None:
            return
        try:
            result = operation(*args)
            if iscoroutine(result):
                await result
        except Exception:
            logger.exception("%s failed in the file server", name)
