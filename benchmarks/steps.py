"""Where the time of a request goes: what serving costs in this process, without the kernel's part.

    python -m benchmarks.steps

Requests are put into the buffer of a reader and served from its dispatch table, by the plain loop
and by the compiled one; replies go to /dev/null. Then the steps of one GETATTR in the plain loop,
each by itself. Figures are the least of several runs: what code costs when nothing disturbs it.
"""

import os
import struct
import sys
from collections.abc import Callable, Iterator
from timeit import repeat

from benchmarks.server import DATA, OneFile
from puffs.attach.fuse import compiled
from puffs.attach.fuse.abi import (
    FLUSH_IN,
    GETATTR_IN,
    IN_HEADER,
    OPEN_IN,
    READ_IN,
    RELEASE_IN,
    WRITE_IN,
    Opcode,
)
from puffs.attach.fuse.files import OpenFiles
from puffs.attach.fuse.init import Negotiated
from puffs.attach.fuse.reader import Reader
from puffs.kernel.mount import Mount
from puffs.kernel.vnode import ROOT_ID
from puffs.server.attr import WIRE_SIZE

CALLS, RUNS = 20_000, 7
PAGE = 4096


class Bench:
    """A reader that reads nothing: requests are put into its buffer."""

    def __init__(self, loop: str) -> None:
        os.environ[compiled.PURE] = "1" if loop == "plain" else "0"
        self.fd = os.open(os.devnull, os.O_RDWR)
        self.mount = Mount(OneFile())
        self.mount.start()
        self.files = OpenFiles(self.mount)
        self.reader = Reader(
            self.mount,
            self.fd,
            Negotiated(45, 0, 1 << 20, 1 << 20),
            self.files,
            notify=lambda _: None,
            run_calls=lambda: None,
            wakers=(),
        )

    def prepare(self, opcode: Opcode, nodeid: int, body: bytes) -> Callable[[], None]:
        """Put a request into the buffer; calling what this returns serves it."""
        channel, length = self.reader.channel, IN_HEADER.size + len(body)
        request = IN_HEADER.struct.pack(length, opcode, 2, nodeid, 0, 0, os.getpid(), 0, 0) + body
        channel.buffer[:length] = request
        channel.header = IN_HEADER.struct.unpack_from(request)
        handler = self.reader._handlers[opcode]
        return lambda: handler(2, nodeid, length)

    def requests(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """The requests that are served, by the name of their opcode; and a close with its open."""
        yield "LOOKUP", self.prepare(Opcode.LOOKUP, ROOT_ID, b"data\0")
        self.prepare(Opcode.LOOKUP, ROOT_ID, b"data\0")()
        vnode = self.mount.vnodes.find(DATA)
        assert vnode is not None
        node = vnode.nodeid
        yield "GETATTR", self.prepare(Opcode.GETATTR, node, GETATTR_IN.pack())
        yield "READ, 4 KiB", self.prepare(Opcode.READ, node, READ_IN.pack(size=PAGE))
        write = WRITE_IN.pack(size=PAGE) + bytes(PAGE)
        yield "WRITE, 4 KiB", self.prepare(Opcode.WRITE, node, write)
        yield "FLUSH", self.prepare(Opcode.FLUSH, node, FLUSH_IN.pack())
        yield "OPEN and RELEASE", self.open_and_close(node)

    def open_and_close(self, node: int) -> Callable[[], None]:
        """A function that opens and closes a file."""
        channel = self.reader.channel
        fh_at = IN_HEADER.size
        pack_fh, newest = struct.Struct("=Q").pack_into, self.files.file
        open_ = self.prepare(Opcode.OPEN, node, OPEN_IN.pack())
        close = self.prepare(Opcode.RELEASE, node, RELEASE_IN.pack())

        def both() -> None:
            pack_fh(channel.buffer, fh_at, 0)
            open_()
            pack_fh(channel.buffer, fh_at, next(reversed(newest)))
            close()

        return both


def ns(function: Callable[[], object]) -> float:
    """How long a call takes."""
    return min(repeat(function, number=CALLS, repeat=RUNS)) / CALLS * 1e9


def requests_table() -> None:
    """Print what requests cost in both loops."""
    loops = ["plain", *(["compiled"] if compiled.module() is not None else [])]
    figures = {loop: {name: ns(serve) for name, serve in Bench(loop).requests()} for loop in loops}
    print("ns from the handler's call to its return, its write(2) to /dev/null among it\n")
    print(f"{'request':20}" + "".join(f"{loop:>10}" for loop in loops))
    for name in figures["plain"]:
        print(f"{name:20}" + "".join(f"{figures[loop][name]:10.0f}" for loop in loops))


def steps_table() -> None:
    """Print what the steps of one GETATTR in the plain loop cost."""
    bench = Bench("plain")
    lookup = bench.prepare(Opcode.LOOKUP, ROOT_ID, b"data\0")
    lookup()
    vnode = bench.mount.vnodes.find(DATA)
    assert vnode is not None
    serve = bench.prepare(Opcode.GETATTR, vnode.nodeid, GETATTR_IN.pack())
    channel, nodes = bench.reader.channel, bench.mount.vnodes.by_nodeid
    buffer, nodeid, fd = channel.buffer, vnode.nodeid, bench.fd
    unpack_header, unpack_body = IN_HEADER.struct.unpack_from, GETATTR_IN.struct.unpack_from
    getattr_, attr = bench.mount.ops["getattr"], bench.mount.ops["getattr"](DATA, None)
    pack = struct.Struct("=IiQQIIQ").pack
    reply = bytes(struct.calcsize("=IiQQIIQ") + WIRE_SIZE)
    empty = ns(lambda: None)
    source = os.open("/dev/zero", os.O_RDONLY)
    vector = (memoryview(buffer)[:56],)
    steps: dict[str, Callable[[], object]] = {
        "read: readv(2), here of /dev/zero": lambda: os.readv(source, vector),
        "the header: 9 numbers": lambda: unpack_header(buffer),
        "the body: 3 numbers": lambda: unpack_body(buffer, IN_HEADER.size),
        "the vnode, by its number": lambda: nodes[nodeid],
        "the file server's getattr": lambda: getattr_(DATA, None),
        "the reply: head and image": lambda: pack(120, 0, 2, 0, 0, 0, 1) + attr.wire,
        "write: write(2), here to /dev/null": lambda: os.write(fd, reply),
    }
    print("\nns of the steps of a GETATTR, plain\n")
    for name, step in steps.items():
        print(f"{name:36}{ns(step) - empty:6.0f}")
    print(f"{'the handler as a whole, with write':36}{ns(serve) - empty:6.0f}")


if __name__ == "__main__":
    print(f"Python {sys.version.split()[0]}\n")
    requests_table()
    steps_table()
