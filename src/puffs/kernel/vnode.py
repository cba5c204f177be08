"""The vnode table: the kernel half's record of every live file, found by cookie and by node id.

Invariants:
- a cookie has at most one vnode, and a vnode has one node id for its whole life;
- a node id is never used again for another vnode of the same mount: a host may still hold the old
  one;
- a vnode lives while a host knows it (`lookups`) or has it open (`opens`); the root lives as long
  as the mount (N7).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from errno import EEXIST, ENXIO, ESTALE
from itertools import count
from os import strerror
from typing import TYPE_CHECKING, Final

from puffs.server.errors import ProtocolFault
from puffs.server.types import Cookie

if TYPE_CHECKING:
    from puffs.kernel.pages import Pages

ROOT_ID = 1
"""The node id of the root, on every host (fuse(4))."""

OWN_IDS = 1 << 63
"""Where node ids start that the kernel half gives out beside those of a file server with `fileid`.

They mean nothing to the file server, and nothing in another mount.
"""

_DEPTH_MAX = 4096
"""No path has more names than it may have bytes (PATH_MAX)."""


class Vnode:
    """A live file.

    `lookups` counts what hosts have been told of it and not yet forgotten, `opens` its open files.
    `holds` is the part of `lookups` that is in this process, and not on a host that forgets.
    `type` is the file type (`stat.S_IFREG`, ...), 0 until attributes of it have been seen.
    """

    __slots__ = (
        "cookie",
        "generation",
        "holds",
        "ino",
        "lookups",
        "name",
        "nodeid",
        "opens",
        "pages",
        "parent",
        "type",
    )

    def __init__(self, cookie: Cookie, nodeid: int, generation: int, ino: int) -> None:
        self.cookie = cookie
        self.nodeid = nodeid
        self.generation = generation
        self.ino = ino
        self.type = 0
        self.lookups = 0
        self.holds = 0
        self.opens = 0
        # What is cached of an open file, for attachments that work by call.
        self.pages: Pages | None = None
        # Where a host saw it last, for people and for "..": a name may have been moved since.
        self.parent: Vnode | None = None
        self.name = ""

    def path(self) -> str:
        """The path by which a host saw it last, from the root of the mount."""
        names: list[str] = []
        vnode: Vnode | None = self
        while vnode is not None and vnode.parent is not None and len(names) < _DEPTH_MAX:
            names.append(vnode.name)
            vnode = vnode.parent
        if vnode is None or vnode.nodeid == ROOT_ID:
            return "/" + "/".join(reversed(names))
        # It was found by its number, and nobody has said where it is.
        return "/".join([f"<node {vnode.nodeid}>", *reversed(names)])

    def __repr__(self) -> str:
        return f"Vnode({self.nodeid}, {self.cookie!r}, lookups={self.lookups}, opens={self.opens})"


NOWHERE: Final = Vnode(object(), 0, 0, 0)
"""In place of the directory, for what is found without a name. No cookie is like its own."""


class NodeIds(dict[int, Vnode]):
    """Vnodes by node id.

    A number that no vnode has is stale: the host asks about a file that is gone.
    """

    def __missing__(self, nodeid: int) -> Vnode:
        raise OSError(ESTALE, strerror(ESTALE))


class VnodeTable:
    """All vnodes of one mount.

    `fileid` is the file server's operation of that name, or None; `generation` is the one of nodes
    without it: another for each mount, so that a handle of one mount opens nothing in the next.
    `inactive` and `reclaim` are called, with a cookie and outside of the lock, when a vnode is
    closed for the last time and when it goes. `forgotten` is called likewise, with a cookie and how
    often a host has forgotten what it was told of it (`Counting`).
    """

    def __init__(
        self,
        *,
        generation: int,
        fileid: Callable[[Cookie], tuple[int, int]] | None = None,
        inactive: Callable[[Cookie], None] | None = None,
        reclaim: Callable[[Cookie], None] | None = None,
        forgotten: Callable[[Cookie, int], None] | None = None,
    ) -> None:
        self.by_nodeid = NodeIds()
        self.shared = False
        """Several hosts use the mount: one may find a new file before it is entered for the one
        that has made it."""
        self.turn: AbstractContextManager[object] = nullcontext()
        """Entered to take an unused vnode out and reclaim it: where answers are received by several
        threads, none that brings the same cookie again can come in between."""
        self._by_cookie: dict[Cookie, Vnode] = {}
        self._lock = threading.Lock()
        self._generation = generation
        self._fileid = fileid
        self._inactive = inactive
        self._reclaim = reclaim
        self._forgotten = forgotten
        self._own_ids = count(OWN_IDS if fileid else ROOT_ID + 1)
        self._ended = False
        self._opened = 0

    def set_root(self, cookie: Cookie) -> Vnode:
        """Make the vnode of the root.

        It counts as known to the host for as long as the mount lives. Its generation is 0, whatever
        the file server says: Linux takes no other (fuse(4)).
        """
        root = self._make(cookie)
        root.nodeid, root.generation = ROOT_ID, 0
        root.lookups = 1
        self._by_cookie[cookie] = self.by_nodeid[ROOT_ID] = root
        return root

    def find(self, cookie: Cookie) -> Vnode | None:
        """The vnode of `cookie`, if it is live."""
        return self._by_cookie.get(cookie)

    def adopt(
        self,
        cookie: Cookie,
        parent: Vnode | None = None,
        name: str = "",
        *,
        new: bool = False,
        held: bool = False,
    ) -> Vnode:
        """The vnode of `cookie`, made if it is not live, and counted once as known to the host.

        `parent` and `name` say where it was found, if it was by name.

        With `new` the cookie belongs to a file that was just made: one that is in use already is a
        fault of the file server (statement N4; 2.7, MAKENODE), unless the mount is `shared`, or it
        counts for itself: then it knows that it has taken a number again before the host has
        forgotten it. With `held` it is this process that knows it, and gives it back by `release`.

        Raises `OSError`: ENXIO for another vnode once the mount has ended: nobody would reclaim it
        (N15).
        """
        vnode = self._by_cookie.get(cookie)
        made = self._make(cookie) if vnode is None else None
        with self._lock:
            vnode = self._by_cookie.get(cookie)
            if vnode is None:
                if self._ended:
                    raise OSError(ENXIO, strerror(ENXIO))
                vnode = made or self._make(cookie)
                if vnode.nodeid in self.by_nodeid or vnode.nodeid >= OWN_IDS:
                    # The file server's number is taken: the host has not yet forgotten an older
                    # file of that number, or it is the root's or one of ours. This one gets a
                    # number of ours, and its handles end with the mount.
                    vnode.generation = self._generation
                    vnode.nodeid = next(self._own_ids)
                self._by_cookie[cookie] = self.by_nodeid[vnode.nodeid] = vnode
            elif new:
                if not self.shared and self._forgotten is None:
                    raise ProtocolFault(
                        "MAKENODE", f"the cookie {cookie!r} of a new file is in use", EEXIST, cookie
                    )
                vnode.type = 0  # it may be another one now
            vnode.lookups += 1
            if held:
                vnode.holds += 1
            if parent is not None:
                vnode.parent, vnode.name = parent, name
        return vnode

    def regain(self, cookie: Cookie, nodeid: int) -> Vnode:
        """The vnode of the file that the file server has found by the number `nodeid`, counted.

        ESTALE when it is not known to the host by that number: an older file was there first. Then
        nothing is counted. A file that has another number is a fault of the file server.
        """
        assert self._fileid is not None
        number, _ = self._fileid(cookie)
        if number != nodeid:
            raise ProtocolFault(
                "LOOKUP", f"vget({nodeid}) gave {cookie!r}, whose fileid is {number}", node=cookie
            )
        vnode = self.adopt(cookie)
        if vnode.nodeid != nodeid:
            self.forget(vnode.nodeid, 1)
            raise OSError(ESTALE, strerror(ESTALE))
        return vnode

    def forget(self, nodeid: int, lookups: int) -> None:
        """The host has forgotten `lookups` of what it was told about a node.

        The last one reclaims it.
        """
        with self._lock:
            vnode = self.by_nodeid.get(nodeid)
            if vnode is None or nodeid == ROOT_ID:
                return
            if lookups > vnode.lookups:
                lookups = vnode.lookups
            vnode.lookups -= lookups
            gone = not vnode.lookups and self._drop_if_unused(vnode)
        if self._forgotten is not None:
            self._forgotten(vnode.cookie, lookups)
        if gone and self._reclaim is not None:
            self._reclaim(vnode.cookie)

    def release(self, vnode: Vnode, lookups: int = 1) -> None:
        """This process has forgotten what it adopted with `held`, so often."""
        with self.turn:
            with self._lock:
                vnode.holds -= lookups
                vnode.lookups -= lookups
                gone = self._drop_if_unused(vnode)
            if gone and self._reclaim is not None:
                self._reclaim(vnode.cookie)

    def forget_told(self) -> None:
        """The host that forgets has gone: what only it knew is reclaimed."""
        with self._lock:
            gone = []
            for vnode in list(self.by_nodeid.values()):
                if vnode.nodeid != ROOT_ID:
                    vnode.lookups = vnode.holds
                    if self._drop_if_unused(vnode):
                        gone.append(vnode.cookie)
        if self._reclaim is not None:
            for cookie in gone:
                self._reclaim(cookie)

    def open(self, vnode: Vnode) -> int:
        """One more open file; a number that no other one has had."""
        with self._lock:
            vnode.opens += 1
            self._opened += 1
            return self._opened

    def close(self, vnode: Vnode) -> None:
        """One open file less.

        The last one makes the node inactive, and reclaims it if no host knows it any more.
        """
        with self._lock:
            vnode.opens -= 1
            if vnode.opens or (vnode.lookups and self._inactive is None):
                return
            # After `clear` it is inactive and reclaimed already.
            last = self.by_nodeid.get(vnode.nodeid) is vnode
        if not last:
            return
        if self._inactive is not None:
            self._inactive(vnode.cookie)
        if vnode.lookups:  # whoever takes the last one away finds that nobody has it open
            return
        with self.turn:
            with self._lock:
                gone = self._drop_if_unused(vnode)
            if gone and self._reclaim is not None:
                self._reclaim(vnode.cookie)

    def busy(self) -> bool:
        """Whether any file is open."""
        with self._lock:
            return any(vnode.opens for vnode in self.by_nodeid.values())

    def clear(self) -> Iterator[tuple[str, Cookie]]:
        """The mount goes: open nodes become inactive and all but the root are reclaimed (U2, U3).

        Yields these messages for the file server, by operation and cookie.
        """
        with self._lock:
            self._ended = True
            vnodes = list(self.by_nodeid.values())
            self.by_nodeid.clear()
            self._by_cookie.clear()
        for vnode in vnodes:
            if vnode.opens:
                yield "inactive", vnode.cookie
            if vnode.nodeid != ROOT_ID:
                yield "reclaim", vnode.cookie

    def __len__(self) -> int:
        return len(self._by_cookie)

    def __iter__(self) -> Iterator[Vnode]:
        with self._lock:
            return iter(list(self._by_cookie.values()))

    def _make(self, cookie: Cookie) -> Vnode:
        if self._fileid is None:
            nodeid = next(self._own_ids)
            return Vnode(cookie, nodeid, self._generation, nodeid)
        ino, generation = self._fileid(cookie)
        if not (0 < ino < 1 << 64 and 0 <= generation < 1 << 32):
            raise ProtocolFault(
                "MAKENODE", f"fileid gave {ino}, {generation} for {cookie!r}", node=cookie
            )
        return Vnode(cookie, ino, generation, ino)

    def _drop_if_unused(self, vnode: Vnode) -> bool:
        """Take the vnode out of the table when nobody knows it.

        True for the one caller who must reclaim it.
        """
        if vnode.lookups or vnode.opens or self.by_nodeid.get(vnode.nodeid) is not vnode:
            return False
        del self.by_nodeid[vnode.nodeid], self._by_cookie[vnode.cookie]
        return True
