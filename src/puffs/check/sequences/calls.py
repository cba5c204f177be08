"""What the steps of a sequence call beside the functions of `os`.

A script that shows a difference is given the source of those that it uses (`script`), so each
stands on the standard library and on the others here, and on nothing else. All raise `OSError` as
`os` does. Values are shown so that two file systems can be compared: `NOT_COMPARED` says what is
left out, and why.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import re
import stat
import time
from collections.abc import Callable
from typing import Any, Final

NOT_COMPARED: Final = {
    "st_ino": "numbers are a file system's own; which names are one file is compared",
    "st_dev": "two file systems have two",
    "st_blocks, st_blksize": "how data is stored is a file system's own",
    "st_size of directories": "ext4 counts blocks, tmpfs 20 bytes a name",
    "st_atime": "a host whose cache answers a read need not tell the file server (relatime)",
    "chown of nothing": "on FUSE it is the same request as that before a write to a set-id file",
    "mtime of mapped memory before msync": "a host may write pages, and mark the file, later",
    "mtime of fifos": "what is written to them never reaches FUSE, and Linux marks no time there",
    "mtime after a truncate to the same size": "ext4 moves it, tmpfs does not",
    "times set by the clock": "only that they moved is compared: two calls are never at once",
    "the order of names in a directory": "POSIX leaves it open",
    "sendfile within one file": "what it reads may be written already, page by page or not",
    "names twice in a listing while others go": "tmpfs does that; `puffs check` looks for it",
    "positions in a directory": "they are for the file system that gave them",
    "where holes are": "a file system may store zeros; that no data is in a hole is compared",
    "statvfs": "two file systems have two sizes; that the figures fit each other is compared",
    "O_DIRECT": "which offsets and sizes are allowed is a file system's own",
    "devices": "a mount is nodev unless it was asked otherwise; `puffs check` makes them",
    "set-id bits while programs run": "a mount is nosuid unless it was asked otherwise",
    "names behind ..": "a sequence must not leave its directory",
}
"""What may differ between two file systems, and the reason."""

OLD: Final = 10**18
"""A time stamp of the year 2001, in nanoseconds: what is later was set by the clock."""
READ_MAX: Final = 1 << 20


def attributes(st: os.stat_result) -> str:
    """What must be the same of a file: type, mode, links, owner, size, and mtime if it was set."""
    size = "dir" if stat.S_ISDIR(st.st_mode) else f"{st.st_size} bytes"
    by_the_clock = stat.S_ISFIFO(st.st_mode) or st.st_mtime_ns >= OLD + 10**17
    mtime = "mtime by the clock" if by_the_clock else f"mtime {st.st_mtime_ns}"
    mode = stat.filemode(st.st_mode)
    return f"{mode}, {st.st_nlink} links, {st.st_uid}:{st.st_gid}, {size}, {mtime}"


def runs(data: bytes) -> str:
    """Bytes for people: b'a' * 4097 + b'\\0' * 3."""
    found = [match.group() for match in re.finditer(rb"(?s)(.)\1*", data)]
    return " + ".join(f"{run[:1]!r} * {len(run)}" for run in found) or "b''"


def content(path: str) -> str:
    """What can be read of a file. Nobody waits for the other end of a fifo."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return runs(os.read(fd, READ_MAX))
    finally:
        os.close(fd)


def held(fd: int) -> str:
    """An open file: its attributes, and what it holds if it is a regular one."""
    st = os.fstat(fd)
    seen = attributes(st)
    readable = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) in (0, os.O_RDWR)
    if stat.S_ISREG(st.st_mode) and readable:
        seen += f": {runs(os.pread(fd, READ_MAX, 0))}"
    return seen


def tree(top: str = ".") -> list[str]:
    """All that is below a directory, a line for each name."""
    lines: list[str] = []
    first: dict[int, str] = {}

    def look(directory: str) -> None:
        for name in sorted(os.listdir(directory)):
            path = f"{directory}/{name}"
            st = os.lstat(path)
            line = f"{path!a}: {attributes(st)}"
            if stat.S_ISREG(st.st_mode):
                line += f": {content(path)}"
            elif stat.S_ISLNK(st.st_mode):
                line += f": {os.readlink(path)!a}"
            for key, value in xattrs(path):
                line += f", {key}={runs(value)}"
            if not stat.S_ISDIR(st.st_mode) and first.setdefault(st.st_ino, path) != path:
                line += f", the same file as {first[st.st_ino]!a}"
            lines.append(line)
            if stat.S_ISDIR(st.st_mode):
                look(path)

    lines.append(f"{top}: {attributes(os.stat(top))}")
    look(top)
    return lines


def xattrs(path: str) -> list[tuple[str, bytes]]:
    """The extended attributes of a file that are its users'."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            return []
        raise
    users = sorted(name for name in names if name.startswith("user."))
    return [(name, os.getxattr(path, name, follow_symlinks=False)) for name in users]


def as_user(uid: int, call: Callable[[], Any]) -> Any:
    """What `call` returns when this user, with the group of the same number, makes it."""
    os.setegid(uid)
    os.seteuid(uid)
    try:
        return call()
    finally:
        os.seteuid(0)
        os.setegid(0)


def elsewhere(call: Callable[[], Any]) -> str:
    """What `call` returns, or raises, in a child process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, ascii(attempt(call)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said


def attempt(call: Callable[[], Any]) -> Any:
    """What `call` returns, or the name of the error it raises."""
    try:
        return call()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    except (ValueError, IndexError) as exc:
        return type(exc).__name__


def moved(call: Callable[[], Any], *paths: str) -> list[str]:
    """Which times of these files a call moves; all are set back before it."""

    def look(path: str) -> os.stat_result | None:
        try:
            return os.lstat(path)
        except OSError:
            return None

    for path in paths:
        try:
            os.utime(path, ns=(OLD, OLD), follow_symlinks=False)
        except OSError:
            pass
    before = [look(path) for path in paths]
    # File systems take time stamps from CLOCK_REALTIME_COARSE (5), which comes after the fine one.
    now = time.time_ns()
    while time.clock_gettime_ns(5) <= now:
        time.sleep(0.0005)
    said = [f"{attempt(call)}"]
    for path, old in zip(paths, before, strict=True):
        new = look(path)
        if old is None or new is None or old.st_ino != new.st_ino:
            said.append(f"{path!a} {'is gone' if new is None else 'is another file'}")
        else:
            names = [
                n for n in ("st_mtime_ns", "st_ctime_ns") if getattr(old, n) != getattr(new, n)
            ]
            said.append(f"{path!a} moved {' '.join(names) or 'nothing'}")
    return said


def cut(path: str, size: int) -> None:
    """truncate(2). With the size that the file had, mtime moves on ext4 and stays on tmpfs: here it
    moves.
    """
    before = os.stat(path).st_size
    os.truncate(path, size)
    if before == size:
        os.utime(path)


def mapped_write(fd: int, offset: int, data: bytes) -> None:
    """Write into mapped memory of a file, where it has bytes already."""
    with mmap.mmap(fd, 0) as memory:
        memory[offset : offset + len(data)] = data
        memory.flush()


def send(to: int, fd: int, offset: int, count: int) -> int:
    """sendfile(2) between two files. In a single one it would read what it has just written."""
    if os.path.sameopenfile(to, fd):
        return 0
    return os.sendfile(to, fd, offset, count)


def set_times(path: str, atime: int, mtime: int) -> tuple[int, int]:
    """utimensat(2) of what `path` itself names, and what the times are then.

    It may be a link on its own way: so the way is gone only once, and before.
    """
    directory, name = os.path.split(path)
    fd = os.open(directory or ".", os.O_PATH)
    try:
        os.utime(name, ns=(atime, mtime), dir_fd=fd, follow_symlinks=False)
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
    finally:
        os.close(fd)
    return st.st_atime_ns, st.st_mtime_ns


def seek(fd: int, offset: int, whence: int) -> int:
    """lseek(2), but in directories, where positions mean nothing to others."""
    return 0 if stat.S_ISDIR(os.fstat(fd).st_mode) else os.lseek(fd, offset, whence)


def holes(fd: int) -> list[str]:
    """What is wrong with what SEEK_DATA and SEEK_HOLE say of a file; nothing, as a rule."""
    size = os.fstat(fd).st_size
    wrong: list[str] = []
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return wrong
    at = 0
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            data = size
        if os.pread(fd, data - at, at).strip(b"\0"):
            wrong.append(f"data between {at} and {data}")
        if data >= size:
            break
        at = os.lseek(fd, data, os.SEEK_HOLE)
        if not data < at <= size:
            wrong.append(f"a hole at {at} behind data at {data}")
            break
    os.lseek(fd, 0, os.SEEK_SET)
    return wrong


def room(path: str) -> list[str]:
    """What is wrong with the figures of statvfs(3); nothing, as a rule."""
    st = os.statvfs(path)
    rules = {
        "f_bsize": st.f_bsize > 0,
        "f_frsize": st.f_frsize > 0,
        "f_bfree": st.f_bfree <= st.f_blocks,
        "f_bavail": st.f_bavail <= st.f_bfree,
        "f_ffree": st.f_ffree <= st.f_files,
        "f_namemax": 14 <= st.f_namemax <= 255,
    }
    return [name for name, right in rules.items() if not right]


def rename2(old: str, new: str, flags: int) -> None:
    """renameat2(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def link_open(fd: int, path: str) -> None:
    """linkat(2): a name for an open file, which may have none (O_TMPFILE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(path), 0x400) < 0:
        raise OSError(ctypes.get_errno(), "linkat")


def listed_while(path: str, call: Callable[[], Any]) -> list[str]:
    """What was there throughout, and is missing in a listing that is read while a call changes
    things; nothing, as a rule.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(80)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        before = set(os.listdir(path))
        seen: set[str] = set()
        changed = False
        while (count := libc.getdents64(fd, buffer, ctypes.c_size_t(len(buffer)))) != 0:
            if count < 0 and ctypes.get_errno() == errno.EINVAL and len(buffer) < 400:
                buffer = ctypes.create_string_buffer(400)  # there is a long name
                continue
            if count < 0:
                raise OSError(ctypes.get_errno(), "getdents64")
            data = buffer.raw[:count]
            while data:
                length = int.from_bytes(data[16:18], "little")
                seen.add(os.fsdecode(data[19:length].partition(b"\0")[0]))
                data = data[length:]
            if not changed:
                attempt(call)
                changed = True
        throughout = before & set(os.listdir(path))
    finally:
        os.close(fd)
    return [f"{name!a} is missing" for name in sorted(throughout - seen)]
