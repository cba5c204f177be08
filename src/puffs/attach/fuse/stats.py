"""What the kernel asks for: requests by kind, counted in the dispatch table and nowhere else.

Counting is other closures in the table while it is on, so it costs nothing while it is off.
"""

from collections import Counter

from puffs.attach.fuse.abi import Opcode
from puffs.attach.fuse.channel import Handler


def count_requests(handlers: list[Handler], counts: Counter[str]) -> None:
    """Count in `counts`, by the name of the opcode, every request that `handlers` will serve.

    Args:
        handlers: a dispatch table by opcode, as `on_table` of `puffs.run` is given it; changed in
            place. A session may build a table more than once: give the same `counts` each time.
        counts: grows by one for each request, before it is served. INIT is never among them: it is
            answered before there is a table.
    """
    for opcode in Opcode:
        if opcode < len(handlers):
            handlers[opcode] = _counting(handlers[opcode], opcode.name, counts)


def _counting(handler: Handler, kind: str, counts: Counter[str]) -> Handler:
    def count(unique: int, nodeid: int, length: int) -> None:
        counts[kind] += 1
        handler(unique, nodeid, length)

    return count
