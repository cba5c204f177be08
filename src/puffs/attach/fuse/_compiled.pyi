from collections.abc import Mapping
from typing import Any

from puffs.attach.fuse.channel import Channel, Handler
from puffs.attach.fuse.handlers import CompiledHandlers
from puffs.attach.fuse.reader import Reader

SIZES: Mapping[str, int]
HANDLERS: CompiledHandlers
DIRECT_HANDLERS: CompiledHandlers

class CompiledChannel(Channel): ...

def run(reader: Reader, channel: Channel, handlers: list[Handler], enough: Any) -> Any: ...
