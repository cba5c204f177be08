"""The least that Python can do: one readv, one table look-up, one pack, one write for a request.

It answers what `floor.c` answers, in the same way, and shares nothing with puffs: the distance from
the floor to this is the price of Python, the distance from this to puffs is the price of puffs.

Run as `python -m benchmarks.bare MOUNTPOINT`; it needs CAP_SYS_ADMIN and ends when it is unmounted.
"""

import ctypes
import errno
import itertools
import os
import stat
import sys
from collections.abc import Callable
from struct import Struct

DATA_SIZE = 16 << 20
MAX_WRITE = 1 << 20
ROOT, DATA = 1, 2

# Opcodes and flags of linux/fuse.h.
LOOKUP, FORGET, GETATTR, MKDIR, UNLINK, RMDIR, FLUSH, CREATE = 1, 2, 3, 9, 10, 11, 25, 35
OPEN, READ, WRITE, STATFS, RELEASE = 14, 15, 16, 17, 18
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 26, 27, 28, 29, 36, 42
HIGHEST = 64
FOPEN_DIRECT_IO = 1
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22

IN_HEADER = Struct("<IIQQ")  # length, opcode, unique, nodeid; the rest of the 40 bytes is not used
IN_HEADER_SIZE = 40
IO_IN = Struct("<QQI")  # fh, offset, size: how read_in and write_in begin
WRITE_IN_SIZE = 40
INIT_IN = Struct("<IIII")  # major, minor, max_readahead, flags
MKDIR_IN = Struct("<II")  # mode, umask
CREATE_IN = Struct("<IIII")  # flags, mode, umask, open_flags

OUT_HEADER = Struct("<IiQ")  # length, -errno, unique: how every reply begins
ATTR = Struct("<6Q10I")
ATTR_REPLY = Struct("<IiQ16x88s")  # no lifetime
ENTRY_REPLY = Struct("<IiQQ32x88s")  # generation 0, no lifetimes
CREATE_REPLY = Struct("<IiQQ32x88sQII")
OPEN_REPLY = Struct("<IiQQII")
WRITE_REPLY = Struct("<IiQII")
STATFS_REPLY = Struct("<IiQ5QIII28x")
INIT_REPLY = Struct("<IiQIIIIHHIIH34x")

Handler = Callable[[int, int], bytes | None]


def attr(ino: int, mode: int, size: int, nlink: int) -> bytes:
    return ATTR.pack(ino, size, size // 512, 0, 0, 0, 0, 0, 0, mode, nlink, 0, 0, 0, 4096, 0)


def table(device: int, request: bytearray) -> list[Handler]:
    """Return the handlers by opcode; each takes (unique, nodeid) and returns its reply, if any."""
    view = memoryview(request)
    data = bytearray(DATA_SIZE)
    data_view = memoryview(data)
    attrs = {
        ROOT: attr(ROOT, stat.S_IFDIR | 0o755, 0, 2),
        DATA: attr(DATA, stat.S_IFREG | 0o644, DATA_SIZE, 1),
    }
    names = {b"data": DATA}
    nodeids = itertools.count(DATA + 1)
    dirent = Struct("<QQII4s4x").pack(DATA, 1, 4, stat.S_IFREG >> 12, b"data")

    def name(start: int) -> bytes:
        return bytes(request[start : request.index(0, start)])

    def lookup(unique: int, nodeid: int) -> bytes:
        found = names.get(name(IN_HEADER_SIZE)) if nodeid == ROOT else None
        if found is None:
            return OUT_HEADER.pack(16, -errno.ENOENT, unique)
        return ENTRY_REPLY.pack(144, 0, unique, found, attrs[found])

    def make(start: int, mode: int) -> int:
        nodeid = names[name(start)] = next(nodeids)
        attrs[nodeid] = attr(nodeid, mode, 0, 1)
        return nodeid

    def mkdir(unique: int, nodeid: int) -> bytes:
        mode, _ = MKDIR_IN.unpack_from(request, IN_HEADER_SIZE)
        made = make(IN_HEADER_SIZE + MKDIR_IN.size, stat.S_IFDIR | mode)
        return ENTRY_REPLY.pack(144, 0, unique, made, attrs[made])

    def create(unique: int, nodeid: int) -> bytes:
        _, mode, _, _ = CREATE_IN.unpack_from(request, IN_HEADER_SIZE)
        made = make(IN_HEADER_SIZE + CREATE_IN.size, mode)
        return CREATE_REPLY.pack(160, 0, unique, made, attrs[made], 0, FOPEN_DIRECT_IO, 0)

    def remove(unique: int, nodeid: int) -> bytes:
        gone = names.pop(name(IN_HEADER_SIZE), None)
        if gone is None:
            return OUT_HEADER.pack(16, -errno.ENOENT, unique)
        del attrs[gone]
        return OUT_HEADER.pack(16, 0, unique)

    def getattr_(unique: int, nodeid: int) -> bytes:
        return ATTR_REPLY.pack(120, 0, unique, attrs[nodeid])

    def open_(unique: int, nodeid: int) -> bytes:
        return OPEN_REPLY.pack(32, 0, unique, 0, FOPEN_DIRECT_IO, 0)

    def opendir(unique: int, nodeid: int) -> bytes:
        return OPEN_REPLY.pack(32, 0, unique, 0, 0, 0)

    def read(unique: int, nodeid: int) -> None:
        _, offset, size = IO_IN.unpack_from(request, IN_HEADER_SIZE)
        payload = data_view[offset : offset + size]
        os.writev(device, (OUT_HEADER.pack(16 + len(payload), 0, unique), payload))

    def write(unique: int, nodeid: int) -> bytes:
        _, offset, size = IO_IN.unpack_from(request, IN_HEADER_SIZE)
        if offset + size > DATA_SIZE:
            return OUT_HEADER.pack(16, -errno.EFBIG, unique)
        start = IN_HEADER_SIZE + WRITE_IN_SIZE
        data_view[offset : offset + size] = view[start : start + size]
        return WRITE_REPLY.pack(24, 0, unique, size, 0)

    def readdir(unique: int, nodeid: int) -> bytes:
        _, offset, _ = IO_IN.unpack_from(request, IN_HEADER_SIZE)
        body = b"" if offset else dirent
        return OUT_HEADER.pack(16 + len(body), 0, unique) + body

    def statfs(unique: int, nodeid: int) -> bytes:
        return STATFS_REPLY.pack(96, 0, unique, DATA_SIZE // 4096, 0, 0, 2, 0, 4096, 255, 4096)

    def init(unique: int, nodeid: int) -> bytes:
        _, minor, readahead, flags = INIT_IN.unpack_from(request, IN_HEADER_SIZE)
        flags &= BIG_WRITES | MAX_PAGES
        pages = MAX_WRITE // 4096
        return INIT_REPLY.pack(
            80, 0, unique, 7, min(minor, 38), readahead, flags, 0, 0, MAX_WRITE, 0, pages
        )

    def done(unique: int, nodeid: int) -> bytes:
        return OUT_HEADER.pack(16, 0, unique)

    def silent(unique: int, nodeid: int) -> None:
        return None

    def missing(unique: int, nodeid: int) -> bytes:
        return OUT_HEADER.pack(16, -errno.ENOSYS, unique)

    handlers: dict[int, Handler] = {
        LOOKUP: lookup,
        GETATTR: getattr_,
        OPEN: open_,
        OPENDIR: opendir,
        READ: read,
        WRITE: write,
        READDIR: readdir,
        STATFS: statfs,
        INIT: init,
        MKDIR: mkdir,
        CREATE: create,
        UNLINK: remove,
        RMDIR: remove,
        FLUSH: done,
        RELEASE: done,
        RELEASEDIR: done,
        FORGET: silent,
        BATCH_FORGET: silent,
        INTERRUPT: silent,
    }
    return [handlers.get(opcode, missing) for opcode in range(HIGHEST)]


def mount(device: int, mountpoint: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    nosuid_nodev = ctypes.c_ulong(2 | 4)
    if libc.mount(
        b"puffs-bare", os.fsencode(mountpoint), b"fuse.puffs-bare", nosuid_nodev, options.encode()
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mountpoint)


def main(mountpoint: str) -> None:
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    mount(device, mountpoint)
    request = bytearray(MAX_WRITE + 4096)
    handlers = table(device, request)
    buffers = [request]
    readv, write, unpack = os.readv, os.write, IN_HEADER.unpack_from
    while True:
        try:
            while True:
                readv(device, buffers)
                _, opcode, unique, nodeid = unpack(request)
                reply = handlers[opcode](unique, nodeid)
                if reply is not None:
                    write(device, reply)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno not in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                raise


if __name__ == "__main__":
    main(sys.argv[1])
