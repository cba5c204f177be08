"""Which event loop pyfuse3's `main` runs in, and what it serves there."""

from typing import TYPE_CHECKING

from puffs.refuse.inode_mount import InodeMount
from puffs.refuse.inodes import AsyncInodes

if TYPE_CHECKING:
    from trio.lowlevel import TrioToken

    from puffs.attach.fuse.aio import LoopServer
    from puffs.attach.fuse.trio_loop import TrioServer

asyncio_mode = False
"""Set by `pyfuse3.asyncio.enable`."""


def token() -> "TrioToken | str":
    """What stands for the running loop."""
    if asyncio_mode:
        return "asyncio"
    import trio

    return trio.lowlevel.current_trio_token()


class Served:
    """A mount that is served by whatever loop runs."""

    def __init__(self, inodes: AsyncInodes, mounted: InodeMount) -> None:
        self._inodes = inodes
        self._mounted = mounted
        self._server: TrioServer | LoopServer | None = None

    async def serve(self, min_tasks: int, max_tasks: int) -> None:
        """Serve until it is unmounted, or `end`."""
        self._mounted.begin()
        if asyncio_mode:
            await self._by_asyncio()
        else:
            await self._by_trio(min_tasks, max_tasks)

    def end(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.end()

    async def _by_trio(self, min_tasks: int, max_tasks: int) -> None:
        from puffs.attach.fuse.trio_loop import TrioServer

        mounted = self._mounted
        if not mounted.session.start():
            return
        self._server = server = TrioServer(mounted.session, self._inodes.check)
        self._inodes.ended = server.look_up
        mounted.session.ready()
        await server.serve(min_tasks, max_tasks)
        if server.unmounted:
            mounted.closed = True
            await server.close()
            await self._inodes.last_words()

    async def _by_asyncio(self) -> None:
        from puffs.attach.fuse.aio import LoopServer

        mounted = self._mounted
        self._server = server = LoopServer(mounted.session, interrupts=False)
        try:
            await server.run()
            if server.unmounted:
                mounted.closed = True
                await server.close()
                await self._inodes.last_words()
        finally:
            server.dismiss()
