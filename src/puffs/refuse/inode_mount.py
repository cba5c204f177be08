"""The life of a mount as pyfuse3 and llfuse have it: `init` mounts, a main loop serves, and `close`
unmounts. In between the program may become a daemon.
"""

import os
from collections.abc import Iterable
from inspect import iscoroutine
from typing import Any

from puffs.attach.fuse.abi import (
    notify_delete,
    notify_inval_entry,
    notify_inval_inode,
    notify_store,
)
from puffs.attach.fuse.cache import ATTRIBUTES_ONLY
from puffs.attach.fuse.options import OptionError
from puffs.attach.serve import connected
from puffs.kernel.mount import Mount
from puffs.refuse.inodes import Inodes
from puffs.refuse.memory import keep_for_data
from puffs.refuse.options import OPTIONS, OfModule, Sets, parse
from puffs.refuse.serving import guard, print_requests
from puffs.refuse.settings import Dialect, Settings
from puffs.server.errors import explain
from puffs.server.types import Buffer

_ANY_LEVEL = frozenset(("debug", "allow_root", "nonempty"))
_HIGH_LEVEL = frozenset(
    option.name
    for option in OPTIONS
    if isinstance(option.effect, Sets | OfModule) and option.name not in _ANY_LEVEL
)
"""Options of libfuse's high-level interface, which these libraries do not use."""


class InodeMount:
    """A mount of a program with inode-based handlers.

    Raises `RuntimeError` where the originals do: it cannot be mounted, or not with these options.
    The text says what is to be done.
    """

    def __init__(
        self, inodes: Inodes, mountpoint: str, options: Iterable[str], dialect: Dialect
    ) -> None:
        self.inodes = inodes
        try:
            settings = settings_of(options, dialect)
            settings.mount.threads = 1
            settings.mount.writeback = inodes.writeback
            self.session, self._connection = connected(
                inodes,
                mountpoint,
                settings.mount,
                on_ready=_print if settings.debug else lambda mount: None,
                on_table=guard(os.getuid()) if settings.allow_root else None,
            )
        except (OSError, OptionError) as exc:
            raise RuntimeError(explain(exc)) from None
        self.closed = False
        """Whether the connection is closed: the mount is gone."""

    @property
    def mount(self) -> Mount:
        """The kernel half."""
        return self.session.mount

    def begin(self) -> None:
        """The main loop begins: the handlers may be called."""
        keep_for_data()
        self.inodes.program.init()
        self.inodes.begin(self.mount)
        self.mount.server_pid = os.getpid()  # the program may have become a daemon

    @property
    def gone(self) -> bool:
        """Whether it has been unmounted."""
        return any(reader.unmounted for reader in self.session.readers)

    def end(self) -> None:
        """It has been unmounted: the program is told of what is still open."""
        self.closed = True
        self.session.close()

    def close(self, unmount: bool) -> None:
        """Give everything back. Handlers that are `async def` are not called any more."""
        mount = self.mount
        mount.finish = _dropped
        if not self.closed:
            self.closed = True
            self.session.close(leave=not unmount)
        mount.detached(self.session)
        self._connection.ended()

    # -------------------------------------------------------------------- what the kernel is told

    def invalidate_inode(self, inode: int, attr_only: bool) -> None:
        """Have the kernel drop attributes, and pages unless `attr_only`."""
        start = ATTRIBUTES_ONLY if attr_only else 0
        self._notify(notify_inval_inode(self._nodeid(inode), start, 0))

    def invalidate_entry(self, parent: int, name: bytes, deleted: int = 0) -> None:
        """Have the kernel drop a name; with `deleted`, it led to that inode and is gone."""
        directory = self._nodeid(parent)
        if deleted:
            self._notify(notify_delete(directory, self._nodeid(deleted), name))
        else:
            self._notify(notify_inval_entry(directory, name))

    def store(self, inode: int, offset: int, data: Buffer) -> None:
        """Have the kernel keep contents."""
        self._notify(notify_store(self._nodeid(inode), offset, bytes(data)))

    def _nodeid(self, inode: int) -> int:
        """The kernel's number of an inode; one that it does not know, it says so."""
        vnode = self.mount.vnodes.find(inode)
        return inode if vnode is None else vnode.nodeid

    def _notify(self, message: bytes) -> None:
        """Tell the kernel, and wait until it has heard: it answers with an errno, or not at all."""
        os.write(self.session.fileno(), message)


def _print(mount: Mount) -> None:
    """Print each request, until the mount ends."""
    print_requests(mount.mountpoint)


def settings_of(options: Iterable[str], dialect: Dialect) -> Settings:
    """What a set of options of the low-level interface asks for. Raises `OptionError`."""
    words = [option.partition("=") for option in options]
    for name, _, _ in words:
        if name in _HIGH_LEVEL:
            raise OptionError(
                f"mount option {name!r} is none here: it is of libfuse's high-level interface"
            )
    return parse({name: value if equals else True for name, equals, value in words}, dialect)


def _dropped(result: Any) -> Any:
    """The result of an operation after the end of the program's event loop."""
    if iscoroutine(result):
        result.close()
        return None
    return result
