"""Special files: fifos, sockets, devices."""

import errno
import os
import socket
import stat

from puffs.check.expect import equal, expect
from puffs.check.registry import battery
from puffs.check.target import Target

check = battery("special")


@check("mknod-fifo", "mknod(2): a fifo of the mode asked for", needs="mknod readdir")
def _(t: Target) -> None:
    t.mknod("fifo", stat.S_IFIFO | 0o600)
    equal("mode", f"{t.lstat('fifo').st_mode:o}", f"{stat.S_IFIFO | 0o600:o}")
    equal("names", t.listdir(), ["fifo"])


@check("mknod-regular-file", "mknod(2): a regular file", needs="mknod read write")
def _(t: Target) -> None:
    t.mknod("f", stat.S_IFREG | 0o600)
    equal("mode", f"{t.lstat('f').st_mode:o}", f"{stat.S_IFREG | 0o600:o}")
    with t.open("f", "r+b") as file:
        file.write(b"content")
    equal("content", t.read("f"), b"content")


@check("mknod-of-an-existing-name", "mknod(2): EEXIST", needs="mknod mkdir")
def _(t: Target) -> None:
    t.mkdir("d")
    t.mknod("fifo", stat.S_IFIFO | 0o600)
    expect(errno.EEXIST, t.mknod, "fifo", stat.S_IFIFO | 0o600)
    expect(errno.EEXIST, t.mknod, "d", stat.S_IFIFO | 0o600)


@check(
    "mknod-device",
    "mknod(2): character and block devices keep their number",
    needs="mknod",
    root=True,
)
def _(t: Target) -> None:
    for name, kind, device in (
        ("null", stat.S_IFCHR, os.makedev(1, 3)),
        ("disk", stat.S_IFBLK, os.makedev(7, 200)),
        ("large", stat.S_IFCHR, os.makedev(300, 70_000)),
    ):
        t.mknod(name, kind | 0o600, device)
        st = t.lstat(name)
        equal(f"mode of {name}", f"{st.st_mode:o}", f"{kind | 0o600:o}")
        equal(f"device number of {name}", st.st_rdev, device)


@check(
    "special-file-renamed-and-removed",
    "rename(2), unlink(2): a special file has a name as any other",
    needs="mknod rename remove",
)
def _(t: Target) -> None:
    t.mknod("a", stat.S_IFIFO | 0o600)
    t.rename("a", "b")
    assert stat.S_ISFIFO(t.lstat("b").st_mode), "the fifo is none any more"
    t.remove("b")
    assert not t.exists("b"), "the fifo is still there"


@check(
    "fifo-passes-data",
    "fifo(7): what one end writes the other reads, and st_size stays 0",
    needs="mknod",
    mounted_only=True,
)
def _(t: Target) -> None:
    t.mknod("fifo", stat.S_IFIFO | 0o600)
    reader = os.open(t.at("fifo"), os.O_RDONLY | os.O_NONBLOCK)
    try:
        writer = os.open(t.at("fifo"), os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(writer, b"through")
        finally:
            os.close(writer)
        equal("what was read", os.read(reader, 100), b"through")
    finally:
        os.close(reader)
    equal("size", t.stat("fifo").st_size, 0)


@check(
    "socket-connects",
    "unix(7): a socket that is bound to a name can be connected to",
    needs="mknod",
    mounted_only=True,
)
def _(t: Target) -> None:
    # A path in sun_path has 108 bytes at most: it goes by a descriptor of the directory.
    directory = os.open(t.at("."), os.O_PATH | os.O_DIRECTORY)
    try:
        address = f"/proc/self/fd/{directory}/socket"
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(address)
            server.listen()
            assert stat.S_ISSOCK(t.lstat("socket").st_mode), "bind made something else"
            client.connect(address)
            client.sendall(b"through")
            accepted, _ = server.accept()
            with accepted:
                equal("what was received", accepted.recv(100), b"through")
    finally:
        os.close(directory)
