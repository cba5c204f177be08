"""One file that says hello, with pyfuse3 and asyncio.

`python hello_asyncio.py MOUNTPOINT [OPTION...]`
"""

import asyncio
import errno
import os
import stat
import sys

import pyfuse3
import pyfuse3.asyncio

pyfuse3.asyncio.enable()

FILE = pyfuse3.ROOT_INODE + 1
NAME, TEXT = b"message", b"hello asyncio\n"


class Hello(pyfuse3.Operations):
    """The root and one file; every answer comes after others have had a turn."""

    def entry(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        if inode == pyfuse3.ROOT_INODE:
            entry.st_mode = stat.S_IFDIR | 0o755
        else:
            entry.st_mode, entry.st_size = stat.S_IFREG | 0o444, len(TEXT)
        return entry

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        await asyncio.sleep(0)
        return self.entry(inode)

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await asyncio.sleep(0)
        if name != NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.entry(FILE)

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if start_id == 0:
            pyfuse3.readdir_reply(token, NAME, self.entry(FILE), 1)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EACCES)
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        await asyncio.sleep(0)
        return TEXT[off : off + size]


def main(mountpoint: str, *words: str) -> None:
    options = set(pyfuse3.default_options) | {"fsname=hello", *words}
    pyfuse3.init(Hello(), mountpoint, options)
    try:
        asyncio.run(pyfuse3.main())
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
