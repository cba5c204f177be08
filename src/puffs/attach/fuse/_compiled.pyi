from collections.abc import Mapping
from typing import Any

from puffs.attach.fuse.channel import Channel, Handler
from puffs.attach.fuse.handlers import CompiledHandlers
from puffs.attach.fuse.reader import Reader
from puffs.attach.fuse.replies import Answer as PlainAnswer

SIZES: Mapping[str, int]
WIRE: int
HANDLERS: CompiledHandlers
DIRECT_HANDLERS: CompiledHandlers

class CompiledChannel(Channel): ...
class Answer(PlainAnswer): ...

class Patience:
    def __init__(self, milliseconds: int) -> None: ...

def run(
    reader: Reader,
    channel: Channel,
    handlers: list[Handler],
    enough: Any,
    limit: int = 0,
    patience: Patience | None = None,
) -> Any: ...
