"""A program's operations, as fusepy and mfusepy call them, and what becomes of what they raise.

`Dialect` is what tells the two libraries apart.
"""

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from puffs.attach.fuse.dispatch import Refusal
from puffs.refuse.settings import Dialect as Generation

log = logging.getLogger("fuse")

Method = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of the two libraries.

    Attributes:
        name: what it is called.
        libfuse: the generation of libfuse that it stands on.
        method: finds an operation of a program; None: it has none, and libfuse is not told of any.
        file_info: the structure that describes an open file (`raw_fi`).
        create_takes_flags: whether `create` without `raw_fi` may have a third argument.
        listing_from: the operation that lists a directory from an offset on, if there is one.
        lock_argument: what `lock` is given of a `c_flock_t`.
    """

    name: str
    libfuse: Generation
    method: Callable[[Any, str], Method | None]
    file_info: type[Any]
    create_takes_flags: bool
    listing_from: str | None
    lock_argument: Callable[[Any], Any]


class Failures:
    """What the caller gets for what an operation raises.

    `critical` is the first exception that is to end the mount (`SystemExit`, `KeyboardInterrupt`,
    and whatever `init` raises); `leave` is then called.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self.critical: BaseException | None = None

    def of(self, name: str, exc: BaseException) -> OSError:
        """What is to be raised in place of `exc`, which operation `name` has raised."""
        if isinstance(exc, OSError):
            code = exc.errno if exc.errno is not None else next(iter(exc.args), None)
            if isinstance(code, int) and code > 0:
                if log.isEnabledFor(logging.DEBUG):
                    log.debug("operation %s raised errno %d", name, code, exc_info=exc)
                return exc if code != errno.ENOSYS else refusal()
            log.error("operation %s raised errno %r: the caller gets EINVAL", name, code)
        elif isinstance(exc, Exception):
            log.error("operation %s failed: the caller gets EINVAL", name, exc_info=exc)
        else:
            self.end_by(name, exc)
            return error(errno.EFAULT)
        return error(errno.EINVAL)

    def end_by(self, name: str, exc: BaseException) -> None:
        """The mount is to end, and `FUSE(...)` to raise `exc`."""
        log.critical("operation %s failed: the mount ends", name, exc_info=exc)
        if self.critical is None:
            self.critical = exc
        self._leave()


def error(code: int) -> OSError:
    """An error as it is raised by system calls."""
    return OSError(code, os.strerror(code))


def refusal() -> Refusal:
    """ENOSYS, which the kernel is to be told as it is: it may then never ask again."""
    return Refusal(errno.ENOSYS, os.strerror(errno.ENOSYS))


def check(result: Any) -> None:
    """What an operation returned that returns nothing but success, or a negative errno.

    libfuse takes a positive number for a mistake, and tells ERANGE.
    """
    if isinstance(result, int):
        if result == -errno.ENOSYS:
            raise refusal()
        raise error(-result if result < 0 else errno.ERANGE)


_HANDLES: Final = (1 << 64) - 1


def handle(result: Any) -> int:
    """The number that `open` and its like have given an open file: 64 bits without a sign."""
    if isinstance(result, int):
        return int(result) & _HANDLES
    raise TypeError(f"{result!r} was returned for an open file: that is to be a number")


class Calls:
    """A program's operations by name, guarded: what they raise is an `OSError` for the caller."""

    def __init__(
        self,
        operations: object,
        dialect: Dialect,
        failures: Failures,
        change: Callable[[str, Method], Method],
    ) -> None:
        self._operations = operations
        self._dialect = dialect
        self.failures = failures
        self._change = change

    def find(self, name: str) -> Method | None:
        """The operation itself, unguarded; None where there is none."""
        method = self._dialect.method(self._operations, name)
        return None if method is None else self._change(name, method)

    def result(self, name: str) -> Method | None:
        """The operation, which returns something."""
        method = self.find(name)
        if method is None:
            return None
        failed = self.failures.of

        def call(*args: Any) -> Any:
            try:
                return method(*args)
            except BaseException as exc:
                raise failed(name, exc) from None

        return call

    def status(self, name: str, given: int | None = None) -> Method | None:
        """The operation, which returns nothing: None, 0, or a negative errno.

        It gets the first `given` of the arguments that the caller passes, or all of them.
        """
        method = self.find(name)
        if method is None:
            return None
        failed = self.failures.of

        def call(*args: Any) -> None:
            try:
                result = method(*args[:given])
            except BaseException as exc:
                raise failed(name, exc) from None
            if result:
                check(result)

        return call


def absent(*_args: Any) -> Any:
    """In place of an operation that the program does not have."""
    raise refusal()
