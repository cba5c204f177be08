"""What pyfuse3's operations may answer: the name of the file says it.

`python replies.py MOUNTPOINT [OPTION...]`. `error 13` raises FUSEError(13) when it is looked up,
`open 13` when it is opened; `absent` is an inode of 0, which is to be remembered; `who` tells the
reader's numbers; `direct` and `kept` are open files of those kinds.
"""

import stat
import sys

import pyfuse3
import trio
from pyfuse3 import EntryAttributes as Entry
from pyfuse3 import RequestContext as Context

FIRST = 100


class Replies(pyfuse3.Operations):
    """Every name is a file; names get numbers as they are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[bytes] = []
        self.opens = 0
        self.asked = 0  # how often for a name that is absent

    def entry(self, inode: int) -> Entry:
        entry = Entry()
        entry.st_ino, entry.st_size, entry.st_mode = inode, 8, stat.S_IFREG | 0o644
        if inode == pyfuse3.ROOT_INODE:
            entry.st_mode = stat.S_IFDIR | 0o755
        return entry

    def name(self, inode: int) -> bytes:
        return self.names[inode - FIRST]

    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> Entry:
        verb, _, word = name.partition(b" ")
        if verb == b"error":
            raise pyfuse3.FUSEError(int(word))
        if verb == b"absent":
            self.asked += 1
            entry = Entry()
            entry.st_ino, entry.entry_timeout = 0, 300
            return entry
        if name not in self.names:
            self.names.append(name)
        return self.entry(FIRST + self.names.index(name))

    async def getattr(self, inode: int, ctx: Context) -> Entry:
        return self.entry(inode)

    async def setattr(
        self, inode: int, attr: Entry, fields: pyfuse3.SetattrFields, fh: int | None, ctx: Context
    ) -> Entry:
        """Refuse, with an error that tells which fields were asked for."""
        asked = [
            *(fields.update_atime, fields.update_mtime, fields.update_mode),
            *(fields.update_uid, fields.update_gid, fields.update_size),
        ]
        raise pyfuse3.FUSEError(1 + sum(1 << bit for bit, set_ in enumerate(asked) if set_))

    async def open(self, inode: int, flags: int, ctx: Context) -> pyfuse3.FileInfo:
        self.opens += 1
        verb, _, word = self.name(inode).partition(b" ")
        if verb == b"open":
            raise pyfuse3.FUSEError(int(word))
        fh = inode * 1000 + self.opens
        return pyfuse3.FileInfo(
            fh=fh,
            direct_io=verb in (b"direct", b"who", b"asked"),
            keep_cache=verb == b"kept",
            nonseekable=verb == b"stream",
        )

    async def read(self, fh: int, off: int, size: int) -> bytes:
        inode, opens = divmod(fh, 1000)
        name = self.name(inode)
        if name == b"asked":
            return f"{self.asked}".encode()[off : off + size]
        if name.startswith(b"read "):
            raise pyfuse3.FUSEError(int(name[5:]))
        if name == b"short":
            return b"abc"[off : off + size]
        text = b"more than the size says" if name == b"direct" else f"open {opens:3}".encode()
        return text[off : off + size]

    async def access(self, inode: int, mode: int, ctx: Context) -> bool:
        return inode == pyfuse3.ROOT_INODE or not self.name(inode).startswith(b"no ")

    async def opendir(self, inode: int, ctx: Context) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Twenty names of 200 bytes, whose positions are squares: more than one piece."""
        for number in range(1, 21):
            following = number * number
            if following <= start_id:
                continue
            name = b"%0200d" % number
            if name not in self.names:
                self.names.append(name)
            entry = self.entry(FIRST + self.names.index(name))
            if not pyfuse3.readdir_reply(token, name, entry, following):
                break


def main(mountpoint: str, *words: str) -> None:
    options = set(pyfuse3.default_options) - {"default_permissions"} | {"fsname=replies", *words}
    pyfuse3.init(Replies(), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
