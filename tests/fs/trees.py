"""What is to be seen of a tree of files: two that are alike compare equal."""

import os
import stat
from pathlib import Path
from typing import Any


def facts(top: Path) -> dict[str, Any]:
    """For each path below `top`: attributes, contents, where data is, extended attributes, and the
    paths of the same file.
    """
    paths = {".": top} | {str(path.relative_to(top)): path for path in top.rglob("*")}
    stats = {name: path.lstat() for name, path in paths.items()}
    same: dict[int, list[str]] = {}
    for name, st in sorted(stats.items()):
        same.setdefault(st.st_ino, []).append(name)
    return {
        name: (attributes(st), contents(paths[name], st), xattrs(paths[name]), same[st.st_ino])
        for name, st in stats.items()
    }


def attributes(st: os.stat_result) -> dict[str, Any]:
    """What a copy can keep. Looking at directories and symbolic links may change their atime."""
    found = {
        "mode": st.st_mode,
        "owner": (st.st_uid, st.st_gid),
        "rdev": st.st_rdev,
        "mtime": st.st_mtime_ns,
    }
    if not stat.S_ISDIR(st.st_mode):
        found |= {"nlink": st.st_nlink, "size": st.st_size}
    if not stat.S_ISDIR(st.st_mode) and not stat.S_ISLNK(st.st_mode):
        found["atime"] = st.st_atime_ns
    return found


def contents(path: Path, st: os.stat_result) -> Any:
    """The target of a symbolic link; of a regular file its bytes, and where they are."""
    if stat.S_ISLNK(st.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(st.st_mode):
        return None
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        return data_ranges(fd, st.st_size), os.pread(fd, st.st_size, 0)
    finally:
        os.close(fd)


def data_ranges(fd: int, size: int) -> list[tuple[int, int]]:
    """Where a file has data, by lseek(2)."""
    ranges = []
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # only a hole is left
            break
        end = os.lseek(fd, start, os.SEEK_HOLE)
        ranges.append((start, end))
    return ranges


def xattrs(path: Path) -> dict[str, bytes]:
    """The extended attributes of a file, also of a symbolic link."""
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in sorted(os.listxattr(path, follow_symlinks=False))
    }
