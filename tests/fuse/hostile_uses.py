"""What is asked of a hostile process, and what it makes its frames of."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any, Final

import puffs
from puffs.isolate import messages
from puffs.isolate.frames import REPLY_SIZE, RESPONSE, TAIL, Class, Layout, pack_dirent
from tests.fuse.calls import opened
from tests.fuse.hostile import Asked, Attacked, Hostile
from tests.fuse.others import gone

REGULAR: Final = puffs.Attr(stat.S_IFREG | 0o644)
DEAD: Final = (errno.ENXIO, errno.ENOTCONN, errno.ECONNABORTED)
"""What callers may get when the file server dies under them."""


U64 = Struct("=Q")
I64 = Struct("=q")
U32 = Struct("=I")
HAS_ENTRY_AT = 17  # of a dirent: behind position, inode number and type


# ---------------------------------------------------------------------------- asking for one thing


def look_up(path: Path) -> object:
    return os.stat(path / "dir")


def look_at(path: Path) -> object:
    with opened(path / "file") as fd:
        return os.fstat(fd)


def make_dir(path: Path) -> None:
    os.mkdir(path / "new")


def make_file(path: Path) -> object:
    with opened(path / "new", os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
        return fd


def open_(path: Path) -> object:
    with opened(path / "file") as fd:
        return fd


def read(path: Path) -> bytes:
    with opened(path / "file", os.O_RDONLY | os.O_DIRECT) as fd:
        return os.pread(fd, 8192, 0)


def write(path: Path) -> int:
    with opened(path / "file", os.O_WRONLY) as fd:
        return os.pwrite(fd, b"1234", 0)


def list_(path: Path) -> list[str]:
    return os.listdir(path)


def read_link(path: Path) -> str:
    return os.readlink(path / "link")


def get_xattr(path: Path) -> bytes:
    return os.getxattr(path / "file", "user.a")


def list_xattrs(path: Path) -> list[str]:
    return os.listxattr(path / "file")


def seek(path: Path) -> int:
    with opened(path / "file") as fd:
        return os.lseek(fd, 0, os.SEEK_HOLE)


def change(path: Path) -> None:
    os.chmod(path / "file", 0o600)


USES: Final[dict[str, Callable[[Path], object]]] = {
    "lookup": look_up,
    "getattr": look_at,
    "mkdir": make_dir,
    "create": make_file,
    "open": open_,
    "read": read,
    "write": write,
    "readdir": list_,
    "readlink": read_link,
    "getxattr": get_xattr,
    "listxattr": list_xattrs,
    "seek": seek,
    "setattr": change,
    "statvfs": os.statvfs,
}


def goes_on(attacked: Attacked) -> None:
    """It did what it can, and is a file server as any other afterwards."""
    assert attacked.did_it
    with opened(attacked.path / "file") as fd:
        assert os.pread(fd, 100, 0)[:8] in (b"contents", b"1234ents")
        assert os.fstat(fd).st_size == 8
    assert {"dir", "file", "link"} <= set(os.listdir(attacked.path))
    os.mkdir(attacked.path / "last")
    os.rmdir(attacked.path / "last")


def faults(attacked: Attacked) -> list[tuple[Any, ...]]:
    """What it was told of: kind, hint, text and perhaps node."""
    return [note[1:] for note in attacked.served.notes("error")]


def tail_in_room(peer: Hostile, asked: Asked, numbers: bytes, data: bytes = b"") -> bytes:
    """An answer whose tail is in the room."""
    if data:
        peer.room(asked)[: len(data)] = data
    return asked.answer(numbers, class_=asked.header[0] | RESPONSE | TAIL)


def fields(layout: Layout, *values: Any) -> bytes:
    """The body of a message, honestly packed."""
    frame = layout.replies(Class.OWN, 0)(1, 0, None, *values)
    return frame[REPLY_SIZE:]


def entry(**other: int) -> tuple[Any, ...]:
    """An entry: of the file that there is, with attributes; but for what is given."""
    has, node, ino, generation, *attr, name_ttl, attr_ttl = messages.entry_out(
        other.get("node", 2), (other.get("ino", 0), 0), REGULAR, 1.0, 1.0
    )
    return (other.get("has", has), node, ino, generation, *attr, name_ttl, attr_ttl)


def entry_body(**other: int) -> bytes:
    return fields(messages.ROWS["lookup"].reply, entry(**other))


def named(name: bytes, entry: tuple[Any, ...] | None = None, type_: int = 8) -> bytes:
    return pack_dirent(0, 5, type_, name, entry)


def listing(entries: bytes, more: int = 0) -> Callable[[Hostile, Asked], bytes]:
    return lambda _, asked: asked.honest((more, entries))


def cut(data: bytes, at: int, byte: int) -> bytes:
    """With one byte changed."""
    return data[:at] + bytes((byte,)) + data[at + 1 :]


def ends(attacked: Attacked, *why: str) -> None:
    """The mount is taken away, why is told, and its process has gone."""
    served = attacked.served
    assert gone(served.path)
    assert served.ended() == 1
    assert not os.path.exists(f"/proc/{served.server_pid}")
    for words in why:
        assert words in served.why
