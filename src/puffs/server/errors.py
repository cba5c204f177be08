"""From an exception of a file server to the errno of its caller: the one place where that is
decided.
"""

import errno
import logging
import os
from typing import Final

logger = logging.getLogger("puffs")

MAX_ERRNO = 511
"""A host takes error numbers below 512 only (fuse(4)); statement 2.7 makes anything else a protocol
fault.
"""


class ProtocolFault(OSError):
    """A file server gave a reply that no file server may give (statement 2.7).

    The caller gets `errno` (EPROTO unless said otherwise), the file server's `error` operation is
    told `kind`, the errno hint and the text, and the mount goes on.
    """

    def __init__(
        self,
        kind: str,
        text: str,
        hint: int = errno.EINVAL,
        node: object = None,
        code: int = errno.EPROTO,
    ) -> None:
        super().__init__(code, text)
        self.kind = kind
        self.text = text
        self.hint = hint
        self.node = node


class Absent(FileNotFoundError):
    """What `lookup` may raise for a name that is not there: a host may trust that for `ttl`
    seconds, whatever the file server's `negative_ttl` says.
    """

    def __init__(self, ttl: float) -> None:
        super().__init__(errno.ENOENT, os.strerror(errno.ENOENT))
        self.ttl = ttl


_MEANT: Final[dict[type[BaseException], int]] = {
    BlockingIOError: errno.EAGAIN,
    BrokenPipeError: errno.EPIPE,
    ChildProcessError: errno.ECHILD,
    ConnectionAbortedError: errno.ECONNABORTED,
    ConnectionRefusedError: errno.ECONNREFUSED,
    ConnectionResetError: errno.ECONNRESET,
    FileExistsError: errno.EEXIST,
    FileNotFoundError: errno.ENOENT,
    InterruptedError: errno.EINTR,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    PermissionError: errno.EACCES,
    ProcessLookupError: errno.ESRCH,
    TimeoutError: errno.ETIMEDOUT,
}
"""What the subclasses of `OSError` stand for when they are raised without an errno."""


def errno_of(exc: BaseException, operation: str) -> int:
    """The positive errno that the caller of `operation` gets for `exc`.

    An `OSError` speaks for itself, by its errno or by its class, and `NotImplementedError` is
    ENOSYS, which an attachment may have to tell in other words. Anything else is a mistake in the
    file server: EIO for the caller, one logged traceback for the author.
    """
    if isinstance(exc, OSError):
        code = exc.args[0] if len(exc.args) == 1 else exc.errno  # OSError(errno.X) sets no errno
        if isinstance(code, int):
            if 0 < code <= MAX_ERRNO:
                return code
            raise ProtocolFault("ERROR", f"{operation} raised errno {code}, which no host knows")
        meant = next((_MEANT[cls] for cls in type(exc).__mro__ if cls in _MEANT), None)
        if meant is not None:
            return meant
    if isinstance(exc, NotImplementedError):
        return errno.ENOSYS
    if isinstance(exc, MemoryError):
        return errno.ENOMEM
    logger.error("%s failed in the file server; the caller gets EIO", operation, exc_info=exc)
    return errno.EIO


EXPLAINED: Final = (OSError, TypeError, ValueError)
"""What stops the building or mounting of a file server with a message that says enough; anything
else is a mistake in a program, and the log gets its traceback.
"""


def explain(exc: BaseException) -> str:
    """What an exception says, in one line for people: that of an `OSError` without its number."""
    text = str(exc)
    if isinstance(exc, OSError) and exc.strerror:
        text = f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return " ".join(text.split()) or type(exc).__name__
