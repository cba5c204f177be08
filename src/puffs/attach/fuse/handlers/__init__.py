"""The handlers: one closure for each opcode, made at mount time from what the file server
implements.

A handler decodes its request from the channel's buffer, calls the file server's operation, and
hands what that returned to a function of `replies`. Each module here holds the handlers of one
family and returns them by opcode.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from puffs.attach.fuse.abi import FUSE_WRITEBACK_CACHE, Opcode
from puffs.attach.fuse.channel import Channel, Handler
from puffs.attach.fuse.files import OpenFiles
from puffs.attach.fuse.flow import Flow
from puffs.attach.fuse.replies import Replies
from puffs.kernel.mount import Mount


@dataclass(frozen=True, slots=True)
class Serving:
    """What the handlers of one channel share.

    `init_flags` are the FUSE_ bits that were negotiated. `notify` hands a notification to the
    thread that writes them; `run_calls` runs what other threads want done here. `compiled` are the
    kinds of handlers that take the place of plain ones.
    """

    mount: Mount
    channel: Channel
    files: OpenFiles
    reply: Replies
    flow: Flow
    init_flags: int
    notify: Callable[[bytes], object]
    run_calls: Callable[[], None]
    compiled: "CompiledHandlers"

    def open_flags(self, flags: int) -> int:
        """The flags of an open that are the file server's: with a write-back cache the kernel reads
        to fill up pages, also of files that were opened for writing only, and appends by itself.
        """
        if not self.init_flags & FUSE_WRITEBACK_CACHE:
            return flags
        if flags & os.O_ACCMODE == os.O_WRONLY:
            flags += os.O_RDWR - os.O_WRONLY
        return flags & ~os.O_APPEND

    def operation(self, name: str) -> Callable[..., Any]:
        """An operation for a handler that `dispatch.build` uses only where it is implemented."""
        return cast(Callable[..., Any], self.mount.ops.get(name))


Handlers = dict[Opcode, Handler]

CompiledHandlers = dict[Opcode, Callable[[Serving, Handler], Handler]]
"""Compiled handlers by opcode: what makes each of the plain one that it takes the place of."""


class Handling(ABC):
    """A file server with compiled handlers of its own: derive from it.

    They stand in front of the plain ones, as all compiled handlers do, and ask the file server past
    its operations.
    """

    @abstractmethod
    def compiled_handlers(self) -> CompiledHandlers:
        """Its kinds of handlers, for where compiled ones can be used."""
