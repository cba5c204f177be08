"""The adapter below pyfuse3 and llfuse: an object with their handlers, as a puffs file server.

Both libraries name files by inode number and leave it to the program to count how often the kernel
was told of each; so the cookies here are these numbers, and the file server is a counting one
(`puffs.kernel.attachment.Counting`). `inode_rows` says which handler serves which operation. The
handlers of pyfuse3 are `async def`, those of llfuse are `def` and called under a lock: a file
server of either kind is made from the same rows.
"""

import errno
import logging
import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from stat import S_IFDIR, S_IFMT
from threading import get_ident
from types import MethodType
from typing import Any, Final, NoReturn, Protocol, cast

from puffs.attach.fuse import compiled
from puffs.attach.fuse.channel import Handler as Serve
from puffs.attach.fuse.dispatch import Refusal
from puffs.attach.fuse.handlers import CompiledHandlers, Handling, Serving
from puffs.kernel.attachment import Counting, Filling, Listing, LongNames
from puffs.kernel.mount import Mount
from puffs.refuse.inode_listing import token_of
from puffs.refuse.inode_plain import NO_FH, Outcome
from puffs.refuse.inode_rows import ENTERING, LLFUSE_ROWS, ROWS, Row
from puffs.refuse.inode_values import (
    ENOATTR,
    ROOT_INODE,
    EntryAttributes,
    FUSEError,
    attributes,
    changed,
    context_of,
)
from puffs.server.attr import Attr, Changes
from puffs.server.cred import Cred, caller
from puffs.server.errors import Absent
from puffs.server.operations import Operations
from puffs.server.types import DirEntry, Entry

logger = logging.getLogger("puffs")

STACKTRACE: Final = "fuse_stacktrace"
"""Setting this extended attribute of the root asks for stack traces in the log."""

_ENTRIES: Final = 100
"""How many entries are listed at a time where no nodes are told: about what Linux has room for."""


class Lock(AbstractContextManager[object], Protocol):
    """A lock that is held in a `with` statement, or between two calls."""

    def acquire(self) -> object:
        """Wait for it."""
        ...

    def release(self) -> object:
        """Give it back."""
        ...


Handler = Callable[..., Any]
Step = tuple[str, tuple[Any, ...]]
"""A handler by name, and what it is given."""


class Inodes(Counting, Handling, LongNames):
    """A puffs file server made of `program`, an object with the handlers of either library.

    `base` is the library's own `Operations`: what is not overridden there is not implemented.
    """

    name_ttl = attr_ttl = negative_ttl = 0.0  # each reply has its own
    fhsize = fhflags = 0
    name: str
    names_for_all = True
    passthrough = False
    asynchronous: bool

    def __init__(self, program: Any, base: type) -> None:
        self.program = program
        self.name = type(program).__name__.lower()
        self.failure: Exception | SystemExit | None = None
        """The first exception of a handler that is no `FUSEError`: a mistake in the program. Its
        caller has got EIO; the program's main loop is to end, as with the originals."""
        self.writeback = bool(getattr(program, "enable_writeback_cache", False))
        self.posix_acl = bool(getattr(program, "enable_acl", False))
        self.ended: Callable[[], object] = lambda: None
        """Called when a handler has failed: the program's main loop is to end."""
        self.held: Lock | None = None
        """What is held while a handler runs, if anything."""
        self.begun: dict[int, Any] = {}
        """Calls of handlers that a compiled handler has begun, by thread: the operation that the
        plain handler calls next on that thread is to go on with that. An `Outcome`, or of handlers
        that are `async def` anything to be awaited."""
        self._base = base
        self._mount: Mount
        self._generations: dict[int, int] = {}
        self._forget = self._handler("forget")

    def operations(self) -> Operations:
        """What the program implements. Its handlers are called only once it `begins`."""
        ops: dict[str, Handler] = {
            "mount": lambda: ROOT_INODE,
            "fileid": self._fileid,
            "setattr": self._in_steps(self._setattr),
            "readdir": self.readdir,
        }
        for row in self.rows:
            if not row.optional or self._handler(row.handler) is not None:
                ops[row.operation] = self._operation(row)
        if self._handler("setxattr") is not None:
            ops["setxattr"] = self._in_steps(self._setxattr)
        if not getattr(self.program, "supports_dot_lookup", True):
            del ops["vget"]
        if self.posix_acl:  # the kernel checks permissions then, whatever the options say
            ops.pop("access", None)
        self._getattr = ops["getattr"]
        ops["getattr"] = _root_before
        return ops

    rows: tuple[Row, ...]
    missing: Handler
    """What stands for a handler that the program does not have: raises ENOSYS."""

    def begin(self, mount: Mount) -> None:
        """The program's main loop begins: from here on its handlers may be called."""
        self._mount = mount
        mount.ops["getattr"] = self._getattr

    def check(self) -> None:
        """Raise the program's mistake, if it has made one."""
        if self.failure is not None:
            raise self.failure

    def _failed(self, exc: Exception | SystemExit) -> None:
        if self.failure is None:
            self.failure = exc
        self.ended()

    def readdir(self, dir: int, offset: int, file: int | None) -> Any:
        """The names in a directory."""
        raise NotImplementedError

    def _operation(self, row: Row) -> Handler:
        """An operation of puffs that calls the handler of `row`."""
        raise NotImplementedError

    def _in_steps(self, steps: Callable[..., Generator[Step, Any, Any]]) -> Handler:
        """An operation of puffs that goes through `steps`: each is a handler to be called."""
        raise NotImplementedError

    def _handler(self, name: str) -> Handler | None:
        """A handler of the program; None where it is not overridden."""
        handler = getattr(self.program, name, None)
        if isinstance(handler, MethodType) and handler.__func__ is getattr(self._base, name, None):
            return None
        return handler

    def _callable(self, name: str) -> Handler:
        """A handler in any case: one that is not there raises ENOSYS."""
        return self._handler(name) or self.missing

    def compiled_handlers(self) -> CompiledHandlers:
        """See `Handling`: for the program's handlers, where there is one of that kind."""
        module = compiled.module(compiled.INODES)
        if module is None:
            return {}
        return {
            opcode: self._kind(kind, handler)
            for opcode, (kind, name) in module.HANDLERS.items()
            if (handler := self._handler(name)) is not None
        }

    def _kind(self, kind: Handler, handler: Handler) -> Callable[[Serving, Serve], Serve]:
        return lambda serving, plain: kind(serving, plain, handler, self.begun, self.held)

    def _begun_here(self) -> Any:
        """What a compiled handler has begun on this thread, if it has."""
        return self.begun.pop(get_ident(), None) if self.begun else None

    # ------------------------------------------------------------------------ shared by both kinds

    def _fileid(self, node: int) -> tuple[int, int]:
        return node, self._generations.get(node, 0)

    def _known(self, entry: EntryAttributes) -> None:
        """Note the generation of a node, before it is entered."""
        if entry.generation:
            self._generations[entry.st_ino] = entry.generation

    def _made(self, row: Row) -> Callable[[Any], Any]:
        """What `row` makes of a reply; generations that come with it are noted."""
        made, known = row.made, self._known
        if made not in ENTERING:
            return made

        def entering(reply: Any) -> Any:
            known(reply[1] if type(reply) is tuple else reply)
            return made(reply)

        return entering

    def _refused(self, exc: BaseException) -> NoReturn:
        """Raise for puffs what a handler has raised."""
        if isinstance(exc, FUSEError):
            # As it is, ENOSYS too: it tells the kernel not to ask again.
            raise Refusal(exc.errno, os.strerror(exc.errno)) from None
        if not isinstance(exc, Exception | SystemExit) or isinstance(exc, Refusal | Absent):
            raise exc
        logger.error("a handler failed; its caller gets EIO, and the main loop ends", exc_info=exc)
        self._failed(exc)
        raise Refusal(errno.EIO, os.strerror(errno.EIO)) from None

    def _still_known(self) -> list[tuple[int, int]]:
        """Nodes that the kernel has not forgotten, and how often it was told of them."""
        known: list[tuple[int, int]] = []
        for vnode in self._mount.vnodes:
            node = cast(int, vnode.cookie)
            # The root is known from the beginning, without having been told of.
            known.append((node, vnode.lookups - (node == ROOT_INODE)))
        return [each for each in known if each[1]]

    def _setattr(
        self, node: int, changes: Changes, file: int | None, cred: Cred
    ) -> Generator[Step, Any, Any]:
        entry, fields = changed(changes)
        if fields.update_mode:  # with the type of the file, as the kernel has it
            vnode = self._mount.vnodes.find(node)
            entry.st_mode |= 0 if vnode is None else vnode.type
        return attributes((yield "setattr", (node, entry, fields, file, context_of(cred))))

    def _setxattr(
        self, node: int, name: str, value: bytes, flags: int
    ) -> Generator[Step, Any, Any]:
        if node == ROOT_INODE and name == STACKTRACE:
            self.program.stacktrace()
            return
        context, key = context_of(caller()), os.fsencode(name)
        if flags:
            try:
                yield "getxattr", (node, key, context)
            except FUSEError as exc:
                if flags & os.XATTR_REPLACE or exc.errno != ENOATTR:
                    raise
            else:
                if flags & os.XATTR_CREATE:
                    raise FUSEError(errno.EEXIST)
        yield "setxattr", (node, key, value, context)


def _root_before(_node: int, _file: object = None) -> Attr:
    """The attributes of the root, for mounting: the program is not yet to be asked."""
    return Attr(S_IFDIR | 0o755, nlink=2)


async def _missing(*_: object) -> NoReturn:
    raise FUSEError(errno.ENOSYS)


class AsyncInodes(Inodes, Filling):
    """The same for handlers that are `async def`: those of pyfuse3."""

    asynchronous = True
    rows = ROWS
    missing = staticmethod(_missing)

    def _operation(self, row: Row) -> Handler:
        handler, given, made, refused = (
            self._callable(row.handler),
            row.given,
            self._made(row),
            self._refused,
        )

        async def operation(*args: Any) -> Any:
            try:
                begun = self._begun_here()
                if begun is None:
                    begun = handler(*given(*args))
                return made(begun.get() if type(begun) is Outcome else await begun)
            except BaseException as exc:
                refused(exc)

        return operation

    def _in_steps(self, steps: Callable[..., Generator[Step, Any, Any]]) -> Handler:
        async def operation(*args: Any) -> Any:
            try:
                going = steps(*args)
                name, given = going.send(None)
                while True:
                    try:
                        result = await self._callable(name)(*given)
                    except FUSEError as exc:
                        name, given = going.throw(exc)
                    else:
                        name, given = going.send(result)
            except StopIteration as stop:
                return stop.value
            except BaseException as exc:
                self._refused(exc)

        return operation

    async def fill(self, dir: int, offset: int, file: int | None, listing: Listing) -> None:
        """Have the program list a directory: see `puffs.kernel.attachment.Filling`."""
        fh = NO_FH if file is None else file
        try:
            await self._callable("readdir")(fh, offset, token_of(listing, self._known))
        except BaseException as exc:
            self._refused(exc)

    async def readdir(self, dir: int, offset: int, file: int | None) -> list[DirEntry]:
        """The names in a directory, for who wants no nodes: what was counted is forgotten."""
        names = _Names()
        await self.fill(dir, 0, file, names)
        for node in names.nodes:
            self.forgotten(node, 1)
        return names.entries

    def forgotten(self, node: int, lookups: int) -> None:
        """Have the program told; nobody waits for that."""
        self._generations.pop(node, None)
        if self._forget is not None:
            self._mount.finish(self._forgetting([(node, lookups)]))

    async def _forgetting(self, nodes: list[tuple[int, int]]) -> None:
        assert self._forget is not None
        try:
            await self._forget(nodes)
        except (Exception, SystemExit) as exc:
            self._failed(exc)

    async def last_words(self) -> None:
        """The mount is gone: what the kernel knew until then is forgotten."""
        if (known := self._still_known()) and self._forget is not None:
            await self._forgetting(known)


def _missing_at_once(*_: object) -> NoReturn:
    raise FUSEError(errno.ENOSYS)


class SyncInodes(Inodes):
    """The same for handlers that are `def`, called with `lock` held: those of llfuse."""

    asynchronous = False
    rows = LLFUSE_ROWS
    missing = staticmethod(_missing_at_once)

    def __init__(
        self,
        program: Any,
        base: type,
        lock: Lock,
        ended: Callable[[], object],
    ) -> None:
        super().__init__(program, base)
        self.held = self._lock = lock
        self.ended = ended

    def _operation(self, row: Row) -> Handler:
        handler, given, made = self._callable(row.handler), row.given, self._made(row)
        lock, refused = self._lock, self._refused

        def operation(*args: Any) -> Any:
            try:
                begun = self._begun_here()
                with lock:
                    return made(handler(*given(*args)) if begun is None else begun.get())
            except BaseException as exc:
                refused(exc)

        return operation

    def _in_steps(self, steps: Callable[..., Generator[Step, Any, Any]]) -> Handler:
        def operation(*args: Any) -> Any:
            try:
                going = steps(*args)
                name, given = going.send(None)
                while True:
                    try:
                        with self._lock:
                            result = self._callable(name)(*given)
                    except FUSEError as exc:
                        name, given = going.throw(exc)
                    else:
                        name, given = going.send(result)
            except StopIteration as stop:
                return stop.value
            except BaseException as exc:
                self._refused(exc)

        return operation

    def operations(self) -> Operations:
        """What the program implements."""
        ops = super().operations()
        self._lookup = ops["lookup"]
        return ops

    def readdir(self, dir: int, offset: int, file: int | None) -> list[DirEntry]:
        """Some entries from a position on: the program lists them under the lock."""
        fh = NO_FH if file is None else file
        try:
            with self._lock:
                entries = self._callable("readdir")(fh, offset)
                return [self._named(dir, *entry) for entry in islice(entries, _ENTRIES)]
        except BaseException as exc:
            self._refused(exc)

    def _named(self, dir: int, name: bytes, attr: EntryAttributes, next_: int) -> DirEntry:
        """An entry that the program has listed.

        It does not count it, so a host that wants nodes in its listing has them looked up; unless
        it would not remember them.
        """
        text = os.fsdecode(name)
        looked_up = partial(self._looked_up, dir, text) if attr.entry_timeout > 0 else None
        return DirEntry(text, S_IFMT(attr.st_mode), attr.st_ino, next_, looked_up)

    def _looked_up(self, dir: int, name: str) -> Entry | None:
        """A name of a listing, looked up as if the host had asked for it; None: not to be had."""
        try:
            entry: Entry = self._lookup(dir, name, caller())
        except (Refusal, Absent):
            return None
        return entry

    def forgotten(self, node: int, lookups: int) -> None:
        """Tell the program."""
        self._generations.pop(node, None)
        self._forgetting([(node, lookups)])

    def last_words(self) -> None:
        """The mount is gone: what the kernel knew until then is forgotten."""
        if known := self._still_known():
            self._forgetting(known)

    def _forgetting(self, nodes: list[tuple[int, int]]) -> None:
        if self._forget is None:
            return
        try:
            with self._lock:
                self._forget(nodes)
        except (Exception, SystemExit) as exc:
            self._failed(exc)


class _Names:
    """A listing that has room for all, and keeps the names only."""

    def __init__(self) -> None:
        self.entries: list[DirEntry] = []
        self.nodes: list[int] = []

    def add(self, name: bytes, entry: Entry, next: int) -> bool:
        """See `Listing`."""
        assert entry.attr is not None
        assert isinstance(entry.node, int)
        if name not in (b".", b".."):
            kind = S_IFMT(entry.attr.mode)
            self.entries.append(DirEntry(os.fsdecode(name), kind, entry.attr.ino))
            self.nodes.append(entry.node)
        return True
