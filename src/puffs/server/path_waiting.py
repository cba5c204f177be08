"""Operations on nodes for a `PathFileSystem` with `async def` operations: see `path_nodes`.

Operations that wait overlap as operations in several threads do, and the same rules keep their
paths right. But nothing may block the event loop: what has to wait until a directory has been moved
awaits it. So where one operation of a class may wait, all of them are coroutines.
"""

from collections.abc import AsyncIterable, Callable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

from puffs.server.attr import as_attr
from puffs.server.cred import Cred
from puffs.server.operations import Operations
from puffs.server.path_nodes import (
    COMMON,
    Factories,
    Method,
    Names,
    Node,
    Place,
    Spot,
    adapted,
    entries,
    is_missing,
    to_be_moved,
)
from puffs.server.types import RENAME_EXCHANGE, DirEntry, Entry

if TYPE_CHECKING:
    import asyncio


async def _settled(reply: Any) -> Any:
    """What a method returns in the end, be it `def` or `async def`."""
    return await reply if isawaitable(reply) else reply


class WaitingNames(Names):
    """The tree of names of a mount whose methods may be `async def`."""

    def __init__(self, keep_files: bool) -> None:
        super().__init__(keep_files)
        self._resting: list[asyncio.Future[None]] = []
        """Done when the next move has come to its end."""

    async def call(self, method: Method, spots: tuple[Spot, ...], *args: Any) -> Any:
        """As in `Names`."""
        while True:
            paths = self.paths(spots)
            try:
                return await _settled(method(*paths, *args))
            except OSError as error:
                for path, spot in zip(paths, spots, strict=True):
                    if not await self.judged(error, path, spot):
                        break
                else:
                    raise

    def call_at(self, method: Method, node: Node, *args: Any) -> Any:
        """As in `Names`."""
        return self.call(method, ((node, None),), *args)

    def call_below(self, method: Method, place: Place, *args: Any) -> Any:
        """As in `Names`."""
        return self.call(method, (place,), *args)

    async def after(self, result: Any, then: Callable[[Any], Any]) -> Any:
        """As in `Names`."""
        return then(await _settled(result))

    async def judged(self, error: OSError, path: str, spot: Spot) -> bool:
        """`stands`, without blocking."""
        if not is_missing(error):
            return True
        while (rest := self._rest(spot[0])) is not None:
            await rest
        return self.stands(error, path, spot)

    def _rest(self, node: Node) -> "asyncio.Future[None] | None":
        """What to await while `node` or a directory above it is being moved."""
        from asyncio import get_running_loop

        with self.lock:
            if not self._is_moving(node):
                return None
            rest = get_running_loop().create_future()
            self._resting.append(rest)
            return rest

    def moved(self, nodes: list[Node]) -> None:
        """As in `Names`."""
        super().moved(nodes)
        with self.lock:
            resting, self._resting = self._resting, []
        for rest in resting:  # perhaps of another loop: one mount may have several attachments
            if not rest.get_loop().is_closed():
                rest.get_loop().call_soon_threadsafe(_rested, rest)


def _rested(rest: "asyncio.Future[None]") -> None:
    if not rest.done():  # it may have been cancelled
        rest.set_result(None)


def _lookup(names: WaitingNames, method: Method) -> Method:
    async def lookup(dir: Node, name: str, cred: Cred) -> Entry:
        place = (dir, name)
        while True:
            known = names.nodes.get(place)
            path = names.below(dir, name)
            try:
                attr = as_attr(await _settled(method(path, None)))
            except OSError as error:
                if await names.judged(error, path, place):
                    if is_missing(error):
                        names.leave(place, known)
                    raise
                continue
            entry = names.found(place, known, path, attr)
            if entry is not None:
                return entry

    return lookup


def _on_open_file(names: WaitingNames, method: Method, index: int) -> Method:
    async def operation(node: Node, *args: Any) -> Any:
        while True:
            path, file = names.reach(node, args[index] if args else None)
            try:
                return await _settled(method(path, *args[:index], file, *args[index + 1 :]))
            except OSError as error:
                if await names.judged(error, path, (node, None)):
                    raise

    return operation


def _rename(names: WaitingNames, method: Method) -> Method:
    async def rename(
        dir: Node, name: str, newdir: Node, newname: str, flags: int, cred: Cred
    ) -> None:
        exchange = bool(flags & RENAME_EXCHANGE)
        place, newplace = (dir, name), (newdir, newname)
        moving = to_be_moved(names, place, newplace, exchange)
        path, newpath = names.below(dir, name), names.below(newdir, newname)
        names.moving(moving)
        try:
            await _settled(method(path, newpath, flags, cred))
            names.rename(place, newplace, exchange)
        finally:
            names.moved(moving)

    return rename


def _readdir(names: WaitingNames, method: Method) -> Method:
    async def readdir(dir: Node, offset: int, file: Any) -> list[DirEntry | str]:
        if not names.find(dir)[1]:
            return []
        replies = await names.call_at(method, dir, offset, file)
        if isinstance(replies, AsyncIterable):
            replies = [reply async for reply in replies]
        return list(entries(names, dir, replies))

    return readdir


_WAITING: Final[Factories] = COMMON | {
    "lookup": _lookup,
    "rename": _rename,
    "readdir": _readdir,
}


def adapted_waiting(defined: Operations, find: Method) -> Operations:
    """`path_nodes.adapted`, for methods of which some are `async def`."""
    return adapted(
        defined, find, names=WaitingNames, factories=_WAITING, on_open_file=_on_open_file
    )
