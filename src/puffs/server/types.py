"""What file servers return beside attributes: entries, open files, directory entries, locks."""

from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Final, NamedTuple

from puffs.server.attr import Attr

Cookie = Hashable
"""A file server's own name for a file: any hashable object but None.

Equal cookies are the same file.
"""

Buffer = bytes | bytearray | memoryview
"""Bytes as they go in and out of `read` and `write`."""

RENAME_NOREPLACE: Final = 1
"""`rename` fails with EEXIST when the target exists (renameat2(2))."""
RENAME_EXCHANGE: Final = 2
"""`rename` exchanges two names that both exist."""
RENAME_WHITEOUT: Final = 4
"""`rename` leaves a whiteout, a character device 0:0, at the old name."""

FHFLAG_DYNAMIC: Final = 1
"""File handles may be shorter than `fhsize` (puffs_setfhsize(3))."""
FHFLAG_NFSV2: Final = 2
"""File handles are to fit into those of NFSv2: 28 bytes."""
FHFLAG_NFSV3: Final = 4
"""File handles are to fit into those of NFSv3: 60 bytes."""


class Entry:
    """What `lookup` and the operations that make files may return instead of a bare cookie.

    `node` is the cookie. `attr`, when it is at hand, saves the kernel half a `getattr`. `name_ttl`
    and `attr_ttl` are the seconds for which a host may trust the name and the attributes; None
    means the class attribute of the file server.
    """

    __slots__ = ("attr", "attr_ttl", "name_ttl", "node")

    def __init__(
        self,
        node: Cookie,
        attr: Attr | None = None,
        name_ttl: float | None = None,
        attr_ttl: float | None = None,
    ) -> None:
        self.node = node
        self.attr = attr
        self.name_ttl = name_ttl
        self.attr_ttl = attr_ttl

    def __repr__(self) -> str:
        return f"Entry({self.node!r}, {self.attr!r})"


class Open:
    """What `open` and `create` may return instead of a bare `file` object: the object and how the
    host is to treat it.

    `file` is the file server's own; it comes back with every operation on the open file, and is
    None where the file server needs none.

    - `direct_io`: every read and write comes to the file server, past the host's page cache. For
      files whose size is not known beforehand.
    - `keep_cache`: what the host has cached of the file stays valid across this open.
    - `nonseekable`, `stream`: `lseek` fails; with `stream` there is no file position either.
    - `cache_dir`: (directories) the host may keep the listing, and keep using it with `keep_cache`.
    - `noflush`: no `flush` is sent at close.
    - `parallel_direct_writes`: writes with `direct_io` to one file may be under way at the same
      time.
    - `backing_fd`: a descriptor of the regular file of the host that holds this very file. With `-o
      passthrough` the host reads, writes and maps that one itself, and sends no `read` and `write`;
      anywhere else it says nothing. It may be open in any way, also with O_PATH: what counts is how
      the caller has opened the file. It stays the file server's own, which keeps it open until
      `close` and then closes it; usually it is `file` itself. All opens of a file bring the same
      file of the host. One with `direct_io` too, or one that brings none while others did, has its
      reads and writes sent, and only memory that is mapped passes them by. `keep_cache`,
      `nonseekable` and `stream` have no meaning beside it.
    """

    __slots__ = (
        "backing_fd",
        "cache_dir",
        "direct_io",
        "file",
        "keep_cache",
        "noflush",
        "nonseekable",
        "parallel_direct_writes",
        "stream",
    )

    def __init__(
        self,
        file: object = None,
        *,
        direct_io: bool = False,
        keep_cache: bool = False,
        nonseekable: bool = False,
        stream: bool = False,
        cache_dir: bool = False,
        noflush: bool = False,
        parallel_direct_writes: bool = False,
        backing_fd: int | None = None,
    ) -> None:
        self.file = file
        self.direct_io = direct_io
        self.keep_cache = keep_cache
        self.nonseekable = nonseekable
        self.stream = stream
        self.cache_dir = cache_dir
        self.noflush = noflush
        self.parallel_direct_writes = parallel_direct_writes
        self.backing_fd = backing_fd

    def __repr__(self) -> str:
        hints = [name for name in HINTS if getattr(self, name)]
        if self.backing_fd is not None:
            hints.append(f"backing_fd={self.backing_fd}")
        return f"Open({', '.join([repr(self.file), *hints])})"


HINTS: Final = tuple(sorted(set(Open.__slots__) - {"file", "backing_fd"}))
"""What an `Open` says by yes or no."""


class DirEntry:
    """One name in a directory, as `readdir` yields it.

    `type` is the file type as in `st_mode` (`stat.S_IFDIR`, ...; permission bits are ignored), 0
    when not known. `ino` is the inode number shown by `ls -i`, 0 when not known. `next` is the file
    server's own position after this entry, any positive number below 2**63 - 2, given back as
    `offset` to continue there; left out (0), the kernel half keeps what `readdir` yields for as
    long as the directory is open and counts for itself. `entry`, when it is at hand, gives the host
    the node and its attributes together with the name (readdirplus), and saves a `lookup` for each.
    It may also be a function that returns it, or None: that is called only when a host wants it.

    The names "." and ".." are the kernel half's own and need not be yielded.
    """

    __slots__ = ("entry", "ino", "name", "next", "type")

    def __init__(
        self,
        name: str,
        type: int = 0,
        ino: int = 0,
        next: int = 0,
        entry: Entry | Callable[[], Entry | None] | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self.ino = ino
        self.next = next
        self.entry = entry

    def __repr__(self) -> str:
        return f"DirEntry({self.name!r}, type={self.type:#o}, ino={self.ino}, next={self.next})"


class Lock(NamedTuple):
    """A lock as `fcntl(2)` and `flock(2)` describe it; `advlock` takes and returns them.

    `type` is `fcntl.F_RDLCK`, `F_WRLCK` or `F_UNLCK`; `start` and `end` are byte offsets, both
    included; `pid` the process that holds it; `flock` tells a whole-file lock of flock(2) from a
    record lock.
    """

    type: int
    start: int
    end: int
    pid: int
    flock: bool = False


class Suspend(IntEnum):
    """What `suspend` is told, numbered as the reference does (D8)."""

    START = 0
    """The mount is about to be suspended: what hosts have buffered comes next, by `write`."""
    SUSPENDED = 1
    """It is suspended: no operation comes before RESUME."""
    RESUME = 2
    """It goes on."""
    ERROR = 3
    """It could not be suspended after START, and goes on."""
