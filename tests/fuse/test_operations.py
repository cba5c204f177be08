"""Files by the calls of a program, over a real mount: data, names, attributes."""

import ctypes
import errno
import os
import stat
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

import puffs
from puffs.fs.mem import MemFS
from tests.attach.toy import ROOT
from tests.fuse import others
from tests.fuse.async_twin import async_twin
from tests.fuse.calls import fails, opened
from tests.fuse.conftest import PATIENCE, Serve
from tests.fuse.servers import Many, Noting

pytestmark = [pytest.mark.fuse, pytest.mark.loops]


@pytest.fixture(params=[False, True], ids=["direct", "isolated"])
def isolate(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


FILE, DIR = ROOT + 1, ROOT + 2
NEW = ROOT + 4
"""The first cookie that a `Toy` gives to a new file."""

libc = ctypes.CDLL(None, use_errno=True)


# --------------------------------------------------------------------------------------------- data


class PastTheCache(MemFS):
    """A file server that wants every read and write itself."""

    def open(self, node: Any, flags: int, cred: puffs.Cred) -> puffs.Open:
        return puffs.Open(direct_io=True)

    def close(self, node: Any, file: object, flags: int) -> None:
        pass


def has_permissions(path: Path, permissions: int) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == permissions


@others.needs_root
@pytest.mark.parametrize(
    ("server", "options"),
    [(PastTheCache, ""), (async_twin(PastTheCache), ""), (MemFS, ",nopagecache")],
    ids=["direct_io", "direct_io async", "nopagecache"],
)
def test_who_writes_past_the_cache_takes_set_id_bits_away(
    serve: Serve, server: type[MemFS], options: str
) -> None:
    path = serve(lambda notes: server(), f"allow_other{options}").path
    writes = ["sh", "-ec", "printf data >> file"]
    for who, left in ((["--reuid=65534", "--clear-groups"], 0o777), (["--reuid=0"], 0o6777)):
        (path / "file").touch()
        (path / "file").chmod(0o6777)
        subprocess.run(["setpriv", *who, *writes], check=True, cwd=path)
        assert others.comes_true(partial(has_permissions, path / "file", left))
    assert (path / "file").read_bytes() == b"datadata"


def test_data_goes_to_the_file_server_and_comes_back(serve: Serve) -> None:
    path = serve(Noting).path / "new"
    blocks = b"".join(struct.pack("<Q", number) for number in range(500_000))
    path.write_bytes(blocks)
    assert path.stat().st_size == len(blocks)
    assert path.read_bytes() == blocks
    with opened(path) as fd:
        os.pwrite(fd, b"xyz", 1_000_000)
        assert (
            os.pread(fd, 5, 999_999)
            == blocks[999_999:1_000_000] + b"xyz" + blocks[1_000_003:1_000_004]
        )
        os.pwrite(fd, b"end", len(blocks) + 10)
        assert os.pread(fd, 100, len(blocks)) == bytes(10) + b"end"
        assert os.pread(fd, 10, len(blocks) + 13) == b""


def test_large_writes_come_in_large_requests(serve: Serve) -> None:
    served = serve(Noting)
    # Not bytes(3 << 20): pages that were never touched are written one by one.
    served.path.joinpath("new").write_bytes(b"x" * (3 << 20))
    sizes = [len(note[3]) for note in served.notes("write")]
    assert sum(sizes) == 3 << 20
    assert max(sizes) == 1 << 20


def test_the_size_of_requests_can_be_limited(serve: Serve) -> None:
    served = serve(Noting, "max_write=8192,max_read=4096")
    served.path.joinpath("new").write_bytes(bytes(20000))
    assert served.path.joinpath("new").read_bytes() == bytes(20000)
    assert max(len(note[3]) for note in served.notes("write")) == 8192
    assert max(note[3] for note in served.notes("read")) == 4096


def test_appending_and_truncating(serve: Serve) -> None:
    served = serve(Noting)
    path = served.path / "file"
    for word in (b" and", b" more"):
        with open(path, "ab") as file:
            file.write(word)
    assert path.read_bytes() == b"contents and more"
    os.truncate(path, 3)
    with opened(path) as fd:
        os.ftruncate(fd, 5)
    path.write_bytes(b"new")  # O_TRUNC: a setattr, then the open
    order = [note[0] for note in served.notes("open", "setattr", "write")][-3:]
    assert order in (["setattr", "open", "write"], ["open", "setattr", "write"])
    assert path.stat().st_size == 3


def test_flush_comes_with_every_close_and_close_once(serve: Serve) -> None:
    served = serve(Noting)
    with opened(served.path / "file", os.O_RDONLY) as fd:
        for _ in range(3):
            os.close(os.dup(fd))
    served.round_trips(lambda: served.notes("close") != [])
    assert len(served.notes("flush")) == 4
    assert [note[:3] for note in served.notes("close")] == [("close", FILE, "file 0")]


def test_an_error_of_flush_reaches_close(serve: Serve) -> None:
    class Full(Noting):
        def flush(self, node: int, file: object, owner: int) -> None:
            raise OSError(errno.EDQUOT, "the last block did not fit")

    fd = os.open(serve(Full).path / "file", os.O_WRONLY)
    with fails(errno.EDQUOT):
        os.close(fd)


def test_syncing(serve: Serve) -> None:
    served = serve(Noting)
    with opened(served.path / "file") as fd:
        os.fsync(fd)
        os.fdatasync(fd)
    with opened(served.path / "dir", os.O_RDONLY) as fd:
        os.fsync(fd)
    assert served.notes("fsync", "fsyncdir") == [
        ("fsync", FILE, False, "file 0"),
        ("fsync", FILE, True, "file 0"),
        ("fsyncdir", DIR, False, "directory 1"),
    ]


class Keeping(Noting):
    """Keeps what it was given to write; `user.kept` tells what that shows now."""

    kept: ClassVar[list[Any]] = []

    def write(self, node: int, offset: int, data: memoryview, file: object) -> int:
        if isinstance(file, str):  # not the first contents
            self.kept.append(data if offset == 0 else data[:])
        return super().write(node, offset, data, file)

    def getxattr(self, node: int, name: str) -> bytes:
        if name != "user.kept":  # the kernel asks for security.capability before each write
            return super().getxattr(node, name)
        shown = []
        for view in self.kept:
            try:
                shown.append(bytes(view)[:4])
            except ValueError:
                shown.append(b"dead")
        return b" ".join(shown)


@pytest.mark.parametrize("isolate", [False])  # there it gets a copy
def test_data_is_the_file_servers_only_while_it_writes(serve: Serve) -> None:
    served = serve(Keeping)
    with opened(served.path / "file") as fd:
        os.pwrite(fd, b"abcd" * 1000, 0)
        for number in range(1, 4):
            os.pwrite(fd, bytes([number]) * 4000, 4096 * number)
    kept = os.getxattr(served.path / "file", "user.kept").split()
    assert kept[0] == b"dead"  # using the view itself is an error
    for number, view in enumerate(kept[1:], 1):
        assert view in (b"dead", bytes([number]) * 4)  # what was made of it shows no other data
    assert served.log == []


def test_holes_can_be_found_and_ranges_reserved_and_copied(serve: Serve) -> None:
    served = serve(Noting)
    with (
        opened(served.path / "file") as fd,
        opened(served.path / "new", os.O_CREAT | os.O_RDWR) as to,
    ):
        assert os.lseek(fd, 3, os.SEEK_DATA) == 3
        assert os.lseek(fd, 3, os.SEEK_HOLE) == 8
        os.posix_fallocate(fd, 4, 100)
        assert os.copy_file_range(fd, to, 6, 2, 1) == 6
        assert os.pread(to, 100, 0) == b"\0ntents"
    assert served.notes("seek", "fallocate") == [
        ("seek", FILE, 3, os.SEEK_DATA, "file 0"),
        ("seek", FILE, 3, os.SEEK_HOLE, "file 0"),
        ("fallocate", FILE, 0, 4, 100, "file 0"),
    ]
    assert served.notes("copy_file_range") == [
        ("copy_file_range", FILE, 2, "file 0", NEW, 1, "file 1", 6, 0)
    ]


def test_what_the_kernel_has_not_written_yet_is_no_hole(serve: Serve) -> None:
    """With a write-back cache the file server knows of holes where there is data already."""
    path = serve(lambda notes: MemFS(), "writeback").path / "file"
    with open(path, "w+b", buffering=0) as file:
        file.write(b"data")
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 4


def test_without_them_the_kernel_finds_no_holes_and_copies_itself(serve: Serve) -> None:
    class Plain(Noting):
        seek = fallocate = copy_file_range = None  # type: ignore[assignment]

        def operations(self) -> dict[str, Callable[..., Any]]:
            known = super().operations()
            return {name: known[name] for name in known if getattr(self, name) is not None}

    served = serve(Plain)
    with (
        opened(served.path / "file") as fd,
        opened(served.path / "new", os.O_CREAT | os.O_RDWR) as to,
    ):
        assert os.lseek(fd, 3, os.SEEK_DATA) == 3
        assert os.lseek(fd, 3, os.SEEK_HOLE) == 8
        assert os.copy_file_range(fd, to, 6, 2, 1) == 6
        assert os.pread(to, 100, 0) == b"\0ntents"
        with fails(errno.EOPNOTSUPP):
            fallocate(fd, 1, 4, 100)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    call = libc.fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if call(fd, mode, offset, length):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Hints(Noting):
    """How a file is opened depends on its name."""

    def open(self, node: int, flags: int, cred: puffs.Cred) -> puffs.Open | object | None:
        name = next(name for (_, name), cookie in self.names.items() if cookie == node)
        hints = {name: True} if name != "file" else {}
        return puffs.Open("object", **hints)

    def read(self, node: int, offset: int, size: int, file: object) -> bytes:
        return b"?" * min(size, 10) if offset < 100 else b""


def test_a_file_can_be_read_past_the_cache_beyond_its_size(serve: Serve) -> None:
    path = serve(Hints).path
    path.joinpath("direct_io").touch()
    assert path.joinpath("direct_io").stat().st_size == 0
    assert path.joinpath("direct_io").read_bytes() == b"?" * 100
    assert path.joinpath("file").read_bytes() == b"?" * 8


def test_a_stream_cannot_be_sought(serve: Serve) -> None:
    path = serve(Hints).path
    for name in ("nonseekable", "stream"):
        path.joinpath(name).touch()
        with opened(path / name, os.O_RDONLY) as fd, fails(errno.ESPIPE):
            os.lseek(fd, 1, os.SEEK_SET)
    path.joinpath("noflush").touch()


# ----------------------------------------------------------------------------- names and attributes


def test_all_kinds_of_files_can_be_made(serve: Serve) -> None:
    served = serve(Noting, "dev")
    path = served.path
    umask = os.umask(0o022)
    try:
        path.joinpath("regular").touch(0o666)
        path.joinpath("directory").mkdir(0o777)
        os.mkfifo(path / "fifo", 0o666)
        os.mknod(path / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        path.joinpath("link").unlink()
        path.joinpath("link").symlink_to("elsewhere")
    finally:
        os.umask(umask)
    kinds = {
        "regular": stat.S_IFREG | 0o644,
        "directory": stat.S_IFDIR | 0o755,
        "fifo": stat.S_IFIFO | 0o644,
        "device": stat.S_IFCHR | 0o644,
        "link": stat.S_IFLNK | 0o777,
    }
    for name, mode in kinds.items():
        assert oct(path.joinpath(name).lstat().st_mode) == oct(mode)
    device = path.joinpath("device").stat()
    assert (os.major(device.st_rdev), os.minor(device.st_rdev)) == (1, 3)
    assert path.joinpath("device").read_bytes() == b""  # it is /dev/null
    assert os.readlink(path / "link") == "elsewhere"
    assert path.joinpath("link").lstat().st_size == len("elsewhere")
    assert served.log == []


def test_a_file_server_without_create_gets_mknod_and_open(serve: Serve) -> None:
    class NoCreate(Noting):
        def operations(self) -> dict[str, Callable[..., Any]]:
            operations = super().operations()
            del operations["create"]
            return operations

    served = serve(NoCreate)
    for name in ("first", "second"):
        served.path.joinpath(name).write_text("text")
        assert served.path.joinpath(name).read_text() == "text"
    assert len(served.notes("mknod")) == 2
    with fails(errno.EEXIST), opened(served.path / "first", os.O_CREAT | os.O_EXCL | os.O_RDWR):
        pass


def test_a_file_may_be_made_without_a_name(serve: Serve) -> None:
    served = serve(Noting)
    with opened(served.path, os.O_TMPFILE | os.O_RDWR, 0o600) as fd:
        os.write(fd, b"nameless")
        assert os.fstat(fd).st_nlink == 0
        # Only with a directory descriptor Python calls linkat(2), which can follow a link.
        os.link(f"/proc/self/fd/{fd}", served.path / "named", src_dir_fd=fd)
    assert served.path.joinpath("named").read_bytes() == b"nameless"


def test_renaming(serve: Serve) -> None:
    served = serve(Noting)
    call = libc.renameat2
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)

    def rename(old: str, new: str, flags: int) -> None:
        paths = [os.fsencode(served.path / name) for name in (old, new)]
        if call(-100, paths[0], -100, paths[1], flags):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    rename("file", "dir/moved", 0)
    rename("dir/moved", "back", puffs.RENAME_NOREPLACE)
    rename("back", "link", puffs.RENAME_EXCHANGE)
    assert [note[1:] for note in served.notes("rename")] == [
        (ROOT, "file", DIR, "moved", 0),
        (DIR, "moved", ROOT, "back", puffs.RENAME_NOREPLACE),
        (ROOT, "back", ROOT, "link", puffs.RENAME_EXCHANGE),
    ]


def test_attributes_can_be_changed(serve: Serve) -> None:
    path = serve(Noting).path / "file"
    path.chmod(0o4711)
    os.chown(path, 12, 34)
    os.utime(path, ns=(-1_500_000_001, 2**33 * 10**9 + 7))
    found = path.stat()
    # A change of owner takes set-user-ID away.
    assert (oct(found.st_mode & 0o7777), found.st_uid, found.st_gid) == ("0o711", 12, 34)
    assert (found.st_atime_ns, found.st_mtime_ns) == (-1_500_000_001, 2**33 * 10**9 + 7)


def test_the_time_of_birth_is_shown(serve: Serve) -> None:
    class Born(Noting):
        def getattr(self, node: int, file: object = None) -> puffs.Attr:
            attr = super().getattr(node, file).copy()
            attr.btime_ns = 86400 * 10**9 + 5 if node == FILE else None
            return attr

    served = serve(Born)

    def birth(name: str) -> str:
        command = ["stat", "-c", "%W", str(served.path / name)]
        output: str = subprocess.check_output(command, text=True, timeout=PATIENCE)
        return output.strip()

    assert birth("file") == "86400"
    assert birth("dir") == "0"  # not known


def test_who_defines_access_decides(serve: Serve) -> None:
    class Guarded(Noting):
        def access(self, node: int, mode: int, cred: puffs.Cred) -> None:
            if mode & os.W_OK and node == DIR:
                raise PermissionError(errno.EACCES, "not in here")

    served = serve(Guarded)
    assert os.access(served.path / "file", os.W_OK)
    assert not os.access(served.path / "dir", os.W_OK)
    served.path.joinpath("file").chmod(0)
    assert served.path.joinpath("file").read_text() == "contents"  # the kernel asks nobody else
    assert ("access", DIR, os.W_OK) in served.notes("access")


def test_the_size_of_the_file_system(serve: Serve) -> None:
    found = os.statvfs(serve(Noting).path)
    assert (found.f_blocks, found.f_bfree, found.f_bavail) == (1000, 10, 10)
    assert (found.f_bsize, found.f_frsize, found.f_namemax) == (4096, 4096, 255)


# ------------------------------------------------------------------------------ extended attributes


def test_extended_attributes(serve: Serve) -> None:
    served = serve(Noting)
    path = served.path / "file"
    os.setxattr(path, "user.a", b"\0value\xff")
    os.setxattr(path, "user.empty", b"", os.XATTR_CREATE)
    assert os.getxattr(path, "user.a") == b"\0value\xff"
    assert os.getxattr(path, "user.empty") == b""
    assert os.listxattr(path) == ["user.a", "user.empty"]
    os.removexattr(path, "user.a")
    with fails(errno.ENODATA):
        os.getxattr(path, "user.a")
    with fails(errno.ENODATA):
        os.removexattr(path, "user.a")
    assert ("setxattr", FILE, "user.empty", b"", os.XATTR_CREATE) in served.notes("setxattr")
    os.setxattr(path, "user.long", b"x" * 65536)
    assert len(os.getxattr(path, "user.long")) == 65536


def test_the_size_of_an_extended_attribute(serve: Serve) -> None:
    path = os.fsencode(serve(Noting).path / "file")
    os.setxattr(path, b"user.a", b"12345")
    libc.getxattr.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    libc.listxattr.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    room = ctypes.create_string_buffer(100)
    assert libc.getxattr(path, b"user.a", None, 0) == 5
    assert libc.getxattr(path, b"user.a", room, 5) == 5
    assert room.raw[:6] == b"12345\0"
    assert libc.listxattr(path, None, 0) == 7
    assert libc.listxattr(path, room, 7) == 7
    assert libc.getxattr(path, b"user.a", room, 4) == -1
    assert ctypes.get_errno() == errno.ERANGE
    ctypes.set_errno(0)
    assert libc.listxattr(path, room, 6) == -1
    assert ctypes.get_errno() == errno.ERANGE


def test_without_extended_attributes_they_are_not_supported(serve: Serve) -> None:
    path = serve(lambda notes: Many(3)).path / "file 0001"
    for call in (
        lambda: os.getxattr(path, "user.a"),
        lambda: os.setxattr(path, "user.a", b""),
        lambda: os.listxattr(path),
        lambda: os.removexattr(path, "user.a"),
    ):
        for _ in range(2):
            with fails(errno.EOPNOTSUPP):
                call()
