"""One file that says hello, with pyfuse3 and trio.

`python hello_trio.py MOUNTPOINT [OPTION...]`
"""

import errno
import os
import stat
import sys

import pyfuse3
import trio

FILE = pyfuse3.ROOT_INODE + 1
NAME, TEXT = b"message", b"hello world\n"
WHEN = 1_438_467_123_985_654_000


class Hello(pyfuse3.Operations):
    """The root and one file."""

    async def getattr(
        self, inode: int, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        if inode == pyfuse3.ROOT_INODE:
            entry.st_mode = stat.S_IFDIR | 0o755
        elif inode == FILE:
            entry.st_mode, entry.st_size = stat.S_IFREG | 0o644, len(TEXT)
        else:
            raise pyfuse3.FUSEError(errno.ENOENT)
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = WHEN
        entry.st_uid, entry.st_gid, entry.st_ino = os.getuid(), os.getgid(), inode
        return entry

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if parent_inode != pyfuse3.ROOT_INODE or name != NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(FILE)

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        if inode != pyfuse3.ROOT_INODE:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if start_id == 0:
            pyfuse3.readdir_reply(token, NAME, await self.getattr(FILE), 1)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise pyfuse3.FUSEError(errno.EACCES)
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return TEXT[off : off + size]


def main(mountpoint: str, *words: str) -> None:
    options = set(pyfuse3.default_options) | {"fsname=hello", *words}
    pyfuse3.init(Hello(), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
