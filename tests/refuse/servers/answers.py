"""What an operation may answer: the name of the file says it.

`python answers.py LIBRARY MOUNTPOINT [OPTION[=VALUE]...]`. A name is made of a verb and a word:
`raise 13`, `raise -13` (an OSError with that number), `raise ValueError`, `return 5`, `read short`.
"""

import builtins
import ctypes
import errno
import importlib
import stat
import sys
from collections.abc import Iterable
from typing import Any

LIBRARY: Any = importlib.import_module(sys.argv[1])
CONTENT = b"0123456789abcdef"
DIRECTORIES: dict[str, Any] = {
    "names": [".", "..", "one", "two"],
    "no dots": ["one", "two"],
    "tuples": [(".", None, 0), ("..", {}, 0), ("one", {"st_mode": stat.S_IFDIR}, 0)],
    "inodes": [("one", {"st_ino": 4711, "st_mode": stat.S_IFREG}, 0)],
    "twice": ["one", "one"],
    "long": ["x" * 255, "y"],
    "numbers": ["one", 2],
    "nothing": None,
    "set": {"one": 1, "two": 2},
}


class Answers(LIBRARY.Operations):
    """Answers as it is told. All names are there, but those that begin with `new`."""

    use_ns = True

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        verb, _, word = path[1:].partition(" ")
        if path == "/" or verb == "list":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        attrs = {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": len(CONTENT)}
        if verb == "new":
            raise LIBRARY.FuseOSError(errno.ENOENT)
        if verb == "stat":
            return self.stat(word, attrs)
        if verb == "link":
            return attrs | {"st_mode": stat.S_IFLNK | 0o777}
        return attrs

    def stat(self, word: str, attrs: dict[str, Any]) -> dict[str, Any]:
        if word == "none":
            return None  # type: ignore[return-value]
        if word == "empty":
            return {}
        if word == "unknown":
            return attrs | {"st_flavour": 1, "mode": 7}
        if word == "times":
            return attrs | {"st_atime": 1, "st_mtime": 1_700_000_000_123_456_789, "st_ctime": -1}
        if word == "big":
            return attrs | {"st_size": 1 << 40, "st_blocks": 1 << 31, "st_blksize": 1 << 16}
        return self.told(f"/{word}") or attrs

    def told(self, path: str) -> Any:
        """Do what a name says: raise, or return a number."""
        verb, _, word = path[1:].removeprefix("new ").partition(" ")
        if verb == "raise":
            if word.lstrip("-").isdecimal():
                raise OSError(int(word), "as told")
            raise getattr(builtins, word)("as told")
        return int(word) if verb == "return" else None

    def unlink(self, path: str) -> Any:
        return self.told(path)

    rmdir = unlink

    def mkdir(self, path: str, mode: int) -> Any:
        return self.told(path)

    def chmod(self, path: str, mode: int) -> Any:
        return self.told(path)

    def open(self, path: str, flags: int) -> Any:
        return 0 if path.startswith(("/read", "/write")) else self.told(path)

    def read(self, path: str, size: int, offset: int, fh: int) -> Any:
        kind = path.removeprefix("/read ")
        data = CONTENT[offset : offset + size]
        if kind == "short":
            return data[:5]
        if kind == "long":
            return data + bytes(1 << 20)
        if kind == "bytearray":
            return bytearray(data)
        if kind == "memoryview":
            return memoryview(data)
        if kind == "none":
            return None
        self.told("/" + kind)
        return data

    def write(self, path: str, data: bytes, offset: int, fh: int) -> Any:
        kind = path.removeprefix("/write ")
        if kind in ("short", "long"):
            return len(data) // 2 if kind == "short" else len(data) + 1
        return self.told("/" + kind)

    def truncate(self, path: str, length: int, fh: int | None = None) -> Any:
        return 0

    def readlink(self, path: str) -> str:
        return "x" * 5000 if path == "/link long" else path

    def readdir(self, path: str, fh: int) -> Iterable[Any]:
        listed: Iterable[Any] = DIRECTORIES.get(path.removeprefix("/list "), ["."])
        return listed

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_blocks": 1 << 40, "f_namemax": 77, "f_unknown": 5}

    def getxattr(self, path: str, name: str, position: int = 0) -> Any:
        if name == "user.empty":
            return b""
        if name == "user.text":
            return "text"
        raise LIBRARY.FuseOSError(errno.ENODATA)

    def listxattr(self, path: str) -> Any:
        return None if path.endswith("none") else iter(["user.empty", "user.text"])

    def ioctl(self, path: str, cmd: int, arg: Any, fh: int, flags: int, data: Any) -> Any:
        """Command 1 gives eight bytes, 2 takes and gives them back turned, others as told."""
        if cmd & 0xFF == 1:
            ctypes.memmove(data, b"eight by", 8)
        elif cmd & 0xFF == 2:
            ctypes.memmove(data, ctypes.string_at(data, 8)[::-1], 8)
        elif cmd & 0xFF == 3:
            return 42
        else:
            raise LIBRARY.FuseOSError(errno.ENOTTY)
        return 0


def main(library: str, mountpoint: str, *words: str) -> None:
    options = {name: value or True for name, _, value in (word.partition("=") for word in words)}
    LIBRARY.FUSE(Answers(), mountpoint, foreground=True, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
