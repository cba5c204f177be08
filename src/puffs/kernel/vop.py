"""What every vnode operation stands on: how it is run, how the file server is asked, what is open.

The operations themselves are in `data` (open files) and `vnops` (all the rest).
"""

import errno
import os
from collections.abc import Callable
from functools import wraps
from types import CoroutineType
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, Protocol, Self, TypeVar

from puffs.kernel import police
from puffs.kernel.handles import HandleTooLong
from puffs.kernel.mount import Attachment, Mount, ServerDied, Status
from puffs.kernel.pages import Pages
from puffs.kernel.sharing import shared
from puffs.kernel.sizes import StatVfsError
from puffs.kernel.vnode import Vnode
from puffs.server.attr import Attr
from puffs.server.cred import Cred, Requester, requester
from puffs.server.stepping import Deferred
from puffs.server.types import Open

_TO_COME: Final = (CoroutineType, Deferred)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
V = TypeVar("V", bound="VnodeOperations")

_ANY_TIME: Final = frozenset(("forget", "close", "closedir", "statvfs"))
"""What may be asked of a mount that is not running: giving back, and what the mount itself checks.

Statement U5 and 2.1: all else is ENXIO."""


class Found(NamedTuple):
    """A vnode, counted once as known to the host, and its attributes. `Vnops.forget` undoes it."""

    vnode: Vnode
    attr: Attr


class OpenFile:
    """An open file: its vnode, the file server's own object, `flags` of open(2), and hints.

    `pages` is the page cache that it is read and written through; None: it has none.
    """

    __slots__ = ("closed", "file", "flags", "hints", "pages", "vnode")

    def __init__(self, vnode: Vnode, reply: object, flags: int) -> None:
        self.vnode = vnode
        self.hints: Open = police.opened(reply)
        self.file: Any = self.hints.file
        self.flags = flags
        self.pages: Pages | None = None
        self.closed = False

    @property
    def writes(self) -> bool:
        """Whether it is open for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


def asked(
    vnops: "VnodeOperations", name: str, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run what is to be done for an operation, on behalf of a caller.

    `puffs.caller()` tells him inside, and whatever goes wrong reaches him as an `OSError` with the
    errno that `Mount.errno_of` decides, the original exception being its cause.
    """
    token = requester.set(vnops)
    try:
        return step(*args, **kwargs)
    except (HandleTooLong, StatVfsError, ServerDied):  # these say more than an errno
        raise
    except Exception as exc:
        code = vnops.mount.errno_of(exc, name)
        raise OSError(code, os.strerror(code)) from exc
    finally:
        requester.reset(token)


def vop(step: Callable[Concatenate[V, P], R]) -> Callable[Concatenate[V, P], R]:
    """Make an operation of a method: a transaction, `asked` for, of a mount that is running.

    What it changes, the other hosts of the mount are told (`sharing`).
    """
    name = step.__name__
    any_time = name in _ANY_TIME

    @wraps(step)
    def run(vnops: V, /, *args: P.args, **kwargs: P.kwargs) -> R:
        mount = vnops.mount
        mount.fstrans.start()
        try:
            if not any_time and mount.status is not Status.RUNNING:
                why = mount.not_running()
                raise why if mount.why else error(errno.ENXIO) from why
            return asked(vnops, name, step, vnops, *args, **kwargs)
        finally:
            mount.fstrans.done()

    return shared(run)


Then = Callable[[Any], Any] | None


class Reach(Protocol):
    """How an attachment calls what is to run where the operations of a mount run."""

    def __call__(
        self, who: Requester, function: Callable[..., Any], args: tuple[Any, ...], then: Then
    ) -> Any:
        """Call `function` with `args` on behalf of `who`, and `then`, if it is not None.

        `then` is given the result, that of the coroutine if `function` returned one, and its own
        result is what is returned.
        """
        ...


class VnodeOperations:
    """The base of `Vnops`: who asks, and the way to the file server."""

    __slots__ = ("_cred", "_ops", "_vnodes", "host", "mount", "reach")

    def __init__(
        self,
        mount: Mount,
        cred: Cred,
        reach: Reach | None = None,
        host: Attachment | None = None,
    ) -> None:
        self.mount = mount
        self.reach = reach
        self.host = host
        self._cred = cred
        self._ops = mount.ops
        self._vnodes = mount.vnodes

    def cred(self) -> Cred:
        """Who asks (`puffs.server.cred.Requester`)."""
        return self._cred

    def noatime(self) -> bool:
        """No open file here says O_NOATIME (`puffs.server.cred.Requester`)."""
        return False

    def by(self, cred: Cred) -> Self:
        """The same operations, asked for by another caller."""
        return type(self)(self.mount, cred, self.reach, self.host)

    def at_once(self, function: Callable[[], T]) -> T:
        """Call `function`, which asks for several operations, so that no other comes in between.

        That can be had where one thread runs all operations and all are `def`.
        """
        if self.reach is None or self.mount.server.asynchronous:
            return function()
        trans = self.mount.fstrans

        def joined() -> T:
            trans.join()
            try:
                return function()
            finally:
                trans.done()

        trans.start()
        try:
            done: T = self.reach(self, joined, (), None)
            return done
        finally:
            trans.done()

    # ------------------------------------------------------------------------------------ messages

    def _op(self, name: str) -> Callable[..., Any]:
        """The file server's operation, or the error of one that is missing (2.6)."""
        operation = self._ops.get(name)
        if operation is None:
            raise error(self.mount.missing(name))
        return operation

    def _do(self, function: Callable[..., Any], *args: Any, then: Then = None) -> Any:
        """Call what is to run where the operations run; what it returns, finished."""
        if self.reach is not None:
            return self.reach(self, function, args, then)
        reply = function(*args)
        if isinstance(reply, Deferred) and then is not None:
            return self.mount.finish(reply.then(then))  # in one step with what brings the answer
        if isinstance(reply, _TO_COME):
            reply = self.mount.finish(reply)
        return reply if then is None else then(reply)

    def _ask(self, name: str, *args: Any) -> Any:
        """Call an operation; one that is missing is an error."""
        return self._do(self._op(name), *args)

    def _optional(self, name: str, *args: Any) -> Any:
        """Call an operation whose absence is a success."""
        operation = self._ops.get(name)
        return self._do(operation, *args) if operation is not None else None

    def _fire(self, name: str, *args: Any) -> None:
        """Call an operation whose failure reaches nobody; what is no `OSError` is logged."""
        try:
            self._optional(name, *args)
        except Exception as exc:
            self.mount.errno_of(exc, name)

    # -------------------------------------------------------------------------------------- vnodes

    def _forget(self, vnode: Vnode, lookups: int = 1) -> None:
        """May `reclaim`."""
        self._do(self._vnodes.release, vnode, lookups)

    def _with_attr(self, vnode: Vnode, attr: Attr | None) -> Found:
        """A vnode that was just counted; if its attributes cannot be had, it is uncounted.

        What came with a name may be older than what was cached meanwhile, and is then asked anew.
        """
        try:
            if attr is None or vnode.pages is not None:
                return Found(vnode, self._attr(vnode, None))
            return Found(vnode, _shown(attr, vnode, None))
        except BaseException:
            self._forget(vnode)
            raise

    def _attr(self, vnode: Vnode, file: Any) -> Attr:
        """GETATTR; `_replied` with what comes."""
        pages = vnode.pages
        if pages is None:
            return self._replied(self._ask("getattr", vnode.cookie, file), vnode, None, "getattr")
        with pages:
            return self._replied(self._ask("getattr", vnode.cookie, file), vnode, pages, "getattr")

    def _replied(self, reply: object, vnode: Vnode, pages: Pages | None, operation: str) -> Attr:
        """Attributes that the file server has returned, as a host sees them."""
        return _shown(police.attributes(reply, vnode.cookie, operation), vnode, pages)


def _shown(attr: Attr, vnode: Vnode, pages: Pages | None) -> Attr:
    """A copy: the file server may keep the original and change it in place.

    What is cached in `pages`, which the caller has entered, overrides what it says (N5).
    """
    shown = attr.copy()
    vnode.type = vnode.type or shown.type
    if shown.ino:
        vnode.ino = shown.ino
    else:
        shown.ino = vnode.ino
    if pages is not None:
        pages.override(shown)
    return shown


def error(code: int) -> OSError:
    """The `OSError` of an errno, with its usual text."""
    return OSError(code, os.strerror(code))
