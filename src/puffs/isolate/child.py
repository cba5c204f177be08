"""The life of a file server's process: build the file server, say what it is, serve, end."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from puffs.isolate import messages
from puffs.isolate.frames import Class, Own
from puffs.isolate.pipes import Ends
from puffs.isolate.rooms import Rooms
from puffs.isolate.serving import Dispatch, serve, serve_async
from puffs.isolate.upcalls import MountThere, Upcalls
from puffs.kernel.attachment import Servable, name_of
from puffs.server.errors import EXPLAINED, explain
from puffs.server.stepping import Stepper

logger = logging.getLogger("puffs")

HELLO_ID: Final = 1
"""The id that the kernel half has asked with, so to speak, by starting this process."""

_WORDS_MAX: Final = 2048

_pack_hello = messages.HELLO.replies(Class.OWN, Own.HELLO)
_pack_failure = messages.FAULT.replies(Class.OWN, Own.HELLO)


def life(
    make: Callable[[], Servable],
    ends: Ends,
    upcalls: socket.socket,
    rooms: Rooms,
    threads: int,
) -> int:
    """Serve the file server that `make` makes, until the other side closes; the exit status."""
    try:
        server = make()
        hello = _hello(server, threads)
    except BaseException as exc:
        os.write(ends.writes, _pack_failure(HELLO_ID, *_in_words(exc)))
        return 1
    os.write(ends.writes, hello)
    os.chdir("/")  # whatever path it was given has been taken from here; nothing more is
    unasked = Upcalls(upcalls)
    unasked.start()

    def dispatch(stepper: Stepper | None = None) -> Dispatch:
        made = Dispatch(server, ends.writes, rooms, mount, unasked.wake, stepper)
        unasked.number_of = made.number_of
        return made

    def mount(path: str) -> Any:
        return MountThere(unasked, path)

    if server.asynchronous:
        asyncio.run(serve_async(dispatch, ends.reads))
    else:
        serve(dispatch(), ends.reads, threads)
    return 0


def _hello(server: Servable, threads: int) -> bytes:
    ops = server.operations()
    unknown = ops.keys() - messages.BITS.keys()
    if unknown:
        raise TypeError(f"{type(server).__name__} has unknown operations {sorted(unknown)}")
    if server.asynchronous and threads > 1:
        raise ValueError(
            "threads: this file server has async def operations, which one thread serves"
        )
    return _pack_hello(
        HELLO_ID,
        0,
        None,
        os.fsencode(name_of(server)),
        sum(messages.BITS[name] for name in ops),
        (server.name_ttl, server.attr_ttl, server.negative_ttl),
        server.fhsize,
        server.fhflags,
        server.posix_acl,
        server.names_for_all,
    )


def _in_words(exc: BaseException) -> tuple[int, None, bytes, bytes, int, int]:
    text = explain(exc)
    if not isinstance(exc, EXPLAINED):
        logger.error("the file server could not be built", exc_info=exc)
        text = f"{type(exc).__name__}: {text}"
    code = (exc.errno or errno.EIO) if isinstance(exc, OSError) else errno.EINVAL
    words = text.encode("utf-8", "surrogateescape")[:_WORDS_MAX]
    return code, None, words, b"", 0, 0
