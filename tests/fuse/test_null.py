"""`null`, mounted: real programs, others at work on the host's directory, and odd surroundings."""

import errno
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

import puffs
from puffs.attach.fuse.mountinfo import find_mount
from puffs.attach.fuse.mounting import mount_fuse
from puffs.attach.fuse.options import parse_options
from puffs.attach.fuse.syscalls import (
    MNT_DETACH,
    MS_RDONLY,
    MS_REMOUNT,
    UMOUNT_NOFOLLOW,
    mount,
    umount2,
)
from puffs.fs.hostfiles import Node
from puffs.fs.null import NullFS
from puffs.kernel.mount import Servable
from tests.fs.host import NOBODY, Passed, acl, fails, file_of, in_memory, overlaid
from tests.fuse.async_twin import async_twin
from tests.fuse.conftest import Serve, give_back
from tests.needs import need

pytestmark = [pytest.mark.fuse, pytest.mark.loops]

ASYNC = 0
"""In place of a number of threads: the operations are `async def`."""

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NODUMP_FL = 0x10, 0x20, 0x40

MS_BIND = 4096

Pass = Callable[..., Path]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The host's directory."""
    path = tmp_path / "host"
    path.mkdir()
    return path


@pytest.fixture
def passed(serve: Serve, host: Path) -> Pass:
    """Mounts `null` of the host's directory, and tells where.

    It may open so many `descriptors` beside those that its process has inherited; 0: any number.
    """

    def start(
        cache: float | str = 1.0, directory: Path = host, descriptors: int = 0, threads: int = 1
    ) -> Path:
        def make(_: object) -> Servable:
            if descriptors:
                most = len(os.listdir("/proc/self/fd")) + descriptors
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            cls: Any = async_twin(NullFS) if threads == ASYNC else NullFS
            return cast(Servable, cls(str(directory), cache=cache))

        return serve(make, ["allow_other", f"threads={max(1, threads)}"]).path

    return start


def flags_of(path: Path) -> int:
    """The flags that chattr(1) sets. [ioctl_iflags(2)]"""
    fd = os.open(path, os.O_RDONLY)
    try:
        return int.from_bytes(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))[:4], sys.byteorder)
    finally:
        os.close(fd)


def set_flags(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags.to_bytes(4, sys.byteorder) + bytes(4))
    finally:
        os.close(fd)


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "LC_ALL": "C", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_user(body: Callable[[], None], uid: int, gid: int, groups: tuple[int, ...] = ()) -> None:
    """Run `body` in a child process as another user; its failure is ours."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            body()
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def open_up(path: Path) -> None:
    """Let other users come to `path`."""
    for above in path.parents:
        if above.stat().st_uid == os.geteuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)


def snapshot(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything that can be seen of a tree."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted([top, *top.rglob("*")]):
        st = path.lstat()
        kind = stat.S_IFMT(st.st_mode)
        content = ""
        if kind == stat.S_IFREG:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        }
        shown = (st.st_mode, st.st_uid, st.st_gid, st.st_rdev, st.st_mtime_ns, content, xattrs)
        size = st.st_size if kind == stat.S_IFREG else 0
        links = 1 if kind == stat.S_IFDIR else st.st_nlink
        found[str(path.relative_to(top))] = (*shown, size, links)
    return found


@contextmanager
def mounted(source: str | Path, target: Path, fstype: str, flags: int = 0) -> Iterator[None]:
    mount(str(source), str(target), fstype, flags, "")
    try:
        yield
    finally:
        while find_mount(str(target)):
            umount2(str(target), MNT_DETACH | UMOUNT_NOFOLLOW)


def make_tree(top: Path) -> None:
    """Files of every kind, with all that an archiver may forget."""
    (top / "dir/below").mkdir(parents=True)
    (top / "dir/below").chmod(0o2751)
    (top / "file").write_bytes(os.urandom(300_000))
    (top / "dir/empty").touch(0o400)
    (top / "dir/suid").touch()
    os.chown(top / "dir/suid", 12, 34)
    (top / "dir/suid").chmod(0o6755)
    os.link(top / "file", top / "dir/below/second name")
    (top / "dir/link").symlink_to("../file")
    (top / "dangling").symlink_to("/nowhere/at all")
    os.chown(top / "dangling", 56, 78, follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o620)
    os.mknod(top / "device", stat.S_IFCHR | 0o660, os.makedev(1, 3))
    (top / os.fsdecode(b"\xff\xfe")).write_text("no UTF-8")
    with open(top / "sparse", "wb") as sparse:
        sparse.seek(10_000_000)
        sparse.write(b"end")
    os.setxattr(top / "file", "user.note", b"\0\1binary")
    os.setxattr(top / "dir", "user.on a directory", b"x")
    os.setxattr(top / "dir/empty", "system.posix_acl_access", acl(user=1000))
    os.setxattr(top / "dir", "system.posix_acl_default", acl(user=1000))
    for number, path in enumerate([*top.rglob("*"), top]):
        when = 1_000_000_000_123_456_789 + number
        os.utime(path, ns=(when, when), follow_symlinks=False)


# ------------------------------------------------------------------------------------ real programs


inline_threads_and_async = pytest.mark.parametrize(
    "threads", [1, 4, ASYNC], ids=["inline", "threads", "async"]
)


@inline_threads_and_async
def test_git_works_on_it(passed: Pass, tmp_path: Path, threads: int) -> None:
    need("git")
    identity = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "somebody")
    identity |= dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "somebody@example.org")
    origin = tmp_path / "origin"
    run("git", "init", "-q", "-b", "main", origin)
    for number in range(5):
        for name in range(40):
            path = origin / f"d{name % 6}/f{name}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{name} in version {number}\n" * 50)
        run("git", "add", "-A", cwd=origin)
        run("git", "commit", "-q", "-m", str(number), cwd=origin, **identity)
    clone = passed(threads=threads) / "clone"
    run("git", "clone", "-q", "--no-local", origin, clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    run("git", "fsck", "--strict", cwd=clone)
    run("git", "gc", "-q", cwd=clone)
    run("git", "checkout", "-q", "HEAD~3", cwd=clone)
    assert (clone / "d0/f0").read_text().startswith("0 in version 1")
    assert run("git", "log", "--format=%s", "main", cwd=clone).split() == list("43210")


@inline_threads_and_async
def test_rsync_there_and_back_without_a_difference(
    passed: Pass, tmp_path: Path, threads: int
) -> None:
    need("rsync")
    source, back = tmp_path / "source", tmp_path / "back"
    make_tree(source)
    there = passed(threads=threads) / "there"
    run("rsync", "-aHAX", "--numeric-ids", f"{source}/", there)
    run("rsync", "-aHAX", "--numeric-ids", f"{there}/", back)
    assert snapshot(there) == snapshot(source)
    assert snapshot(back) == snapshot(source)
    assert run("rsync", "-aHAXnci", "--numeric-ids", f"{source}/", there) == ""


def test_tar_and_cp_there_and_back_without_a_difference(passed: Pass, tmp_path: Path) -> None:
    source, archive = tmp_path / "source", tmp_path / "archive.tar"
    make_tree(source)
    there = passed()
    options = ("--xattrs", "--acls", "--sparse", "--numeric-owner", "--format=posix")
    run("tar", *options, "-C", source, "-cf", archive, ".")
    run("tar", *options, "-C", there, "-xpf", archive)
    assert snapshot(there) == snapshot(source)
    assert (there / "sparse").stat().st_blocks < 1000
    run("tar", *options, "-C", there, "-cf", tmp_path / "again.tar", ".")
    run("tar", *options, "-C", source, "--compare", "-f", tmp_path / "again.tar")
    run("cp", "-a", there, tmp_path / "copied")
    assert snapshot(tmp_path / "copied") == snapshot(source)


# ------------------------------------------------------------------------- what is seen of the host


def test_numbers_and_links_are_those_of_the_host(passed: Pass, host: Path) -> None:
    (host / "dir").mkdir()
    (host / "a").touch()
    os.link(host / "a", host / "dir/b")
    there = passed()
    for name in ("a", "dir", "dir/b", "."):
        assert (there / name).stat().st_ino == (host / name).stat().st_ino
    assert (there / "a").samefile(there / "dir/b")
    assert (there / "dir/b").stat().st_nlink == 2
    with os.scandir(there) as entries:
        assert {entry.name: entry.inode() for entry in entries} == {
            name: (host / name).stat().st_ino for name in ("a", "dir")
        }


def test_the_time_of_birth_is_that_of_the_host(passed: Pass, host: Path) -> None:
    (host / "file").touch()
    assert run("stat", "-c", "%w", passed() / "file") == run("stat", "-c", "%w", host / "file")


def test_what_others_write_is_seen_by_the_next_who_opens_it(passed: Pass, host: Path) -> None:
    there = passed(cache=0)
    for text in ("one", "two, and longer", "3"):
        (host / "file").write_text(text)
        assert (there / "file").read_text() == text
    (host / "file").unlink()
    assert not (there / "file").exists()


def test_with_a_cache_for_ever_what_others_do_is_not_asked_for(passed: Pass, host: Path) -> None:
    (host / "file").write_text("old")
    there = passed(cache="forever")
    st = (there / "file").stat()
    (host / "file").unlink()
    assert (there / "file").stat() == st


def test_a_file_that_is_created_read_only_can_be_written_to(passed: Pass, host: Path) -> None:
    there = passed()
    there.chmod(0o777)
    open_up(there)

    def body() -> None:
        fd = os.open(there / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444)
        assert os.write(fd, b"text") == 4
        os.ftruncate(fd, 2)
        os.close(fd)
        with pytest.raises(PermissionError):
            os.open(there / "file", os.O_WRONLY)

    as_user(body, 1000, 1001)
    st = (host / "file").stat()
    assert (st.st_mode, st.st_uid, st.st_gid) == (stat.S_IFREG | 0o444, 1000, 1001)
    assert (host / "file").read_bytes() == b"te"


class Overtaken(NullFS):
    """Others make a file whenever somebody here has just seen that there is none."""

    def lookup(self, dir: Node, name: str, cred: puffs.Cred) -> puffs.Entry:
        try:
            return super().lookup(dir, name, cred)
        except FileNotFoundError:
            Path(self.directory, name).write_text("theirs")
            raise


def test_creating_a_file_that_others_make_at_the_same_time(serve: Serve, host: Path) -> None:
    there = serve(lambda _: Overtaken(str(host))).path
    with open(there / "one", "a+") as file:
        file.seek(0)
        assert file.read() == "theirs"
    with fails(errno.EEXIST):
        os.open(there / "two", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert (host / "two").read_text() == "theirs"


def test_a_group_lets_in_also_as_a_supplementary_one(passed: Pass, host: Path) -> None:
    os.chown(host, 0, 4242)
    host.chmod(0o770)
    there = passed()
    open_up(there)

    def body() -> None:
        (there / "mine").mkdir()
        (there / "mine/file").write_text("x")
        os.symlink("x", there / "link")

    as_user(body, 1000, 1001, (4242,))
    owners = {name: (host / name).lstat().st_uid for name in ("mine", "mine/file", "link")}
    assert set(owners.values()) == {1000}


def test_names_of_trusted_attributes_are_for_the_superuser(passed: Pass, host: Path) -> None:
    (host / "file").touch(0o644)
    os.setxattr(host / "file", "trusted.secret", b"x")
    os.setxattr(host / "file", "user.open", b"x")
    there = passed()
    open_up(there)
    assert sorted(os.listxattr(there / "file")) == ["trusted.secret", "user.open"]

    def body() -> None:
        assert os.listxattr(there / "file") == ["user.open"]

    as_user(body, 1000, 1001)


@pytest.mark.parametrize("name", ["file", "directory"])
def test_flags_of_files_are_those_of_the_host(passed: Pass, host: Path, name: str) -> None:
    (host / "file").write_text("old")
    (host / "directory").mkdir()
    there = passed()
    open_up(there)
    set_flags(there / name, FS_NODUMP_FL)
    assert flags_of(host / name) & FS_NODUMP_FL
    set_flags(host / name, FS_IMMUTABLE_FL)
    assert flags_of(there / name) & (FS_IMMUTABLE_FL | FS_NODUMP_FL) == FS_IMMUTABLE_FL
    try:
        with fails(errno.EPERM):
            os.setxattr(there / name, "user.x", b"")

        def body() -> None:
            with fails(errno.EPERM):
                set_flags(there / name, 0)

        as_user(body, 1000, 1001)
    finally:
        set_flags(there / name, 0)
    assert not flags_of(host / name) & FS_IMMUTABLE_FL


def test_what_the_host_has_for_appending_only_can_be_appended_to(passed: Pass, host: Path) -> None:
    (host / "file").write_text("old, ")
    set_flags(host / "file", FS_APPEND_FL)
    there = passed()
    try:
        with open(there / "file", "a") as file:
            file.write("new, ")
            file.flush()
            file.write("newer")
        assert (there / "file").read_text() == "old, new, newer"
        with fails(errno.EPERM):
            open(there / "file", "r+")
        with fails(errno.EPERM):
            os.truncate(there / "file", 0)
    finally:
        set_flags(host / "file", 0)


def test_other_commands_are_not_known(passed: Pass, host: Path) -> None:
    (host / "file").touch()
    with open(passed() / "file") as file, fails(errno.ENOTTY):
        fcntl.ioctl(file, 0x80046601, bytearray(4))


def test_an_unlinked_file_lives_on_while_it_is_open(passed: Pass, host: Path) -> None:
    there = passed(cache=0)
    with open(there / "file", "w+b", buffering=0) as file:
        file.write(b"before")
        (there / "file").unlink()
        file.write(b" and after")
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.fstat(file.fileno()).st_size == 16
        os.fchmod(file.fileno(), 0o600)
        file.seek(0)
        assert file.read() == b"before and after"
    assert os.listdir(host) == []


def test_a_directory_lives_on_for_who_works_in_it(passed: Pass, host: Path) -> None:
    (host / "dir").mkdir()
    there = passed(cache=0)
    fd = os.open(there / "dir", os.O_PATH)
    try:
        (host / "dir").rename(host / "moved")
        (host / "moved/file").write_text("x")
        assert os.stat("file", dir_fd=fd).st_size == 1
        (there / "moved/file").unlink()
        (there / "moved").rmdir()
        assert stat.S_ISDIR(os.stat(fd).st_mode)
    finally:
        os.close(fd)


# ------------------------------------------------------------------------- others at work meanwhile


@inline_threads_and_async
def test_a_walk_while_others_rename_directories(passed: Pass, host: Path, threads: int) -> None:
    for outer in range(5):
        for inner in range(5):
            path = host / f"a{outer}/b{inner}"
            path.mkdir(parents=True)
            (path / "file").write_text("text")
    there = passed(cache=0, threads=threads)
    over = threading.Event()

    def others() -> None:
        while not over.is_set():
            for outer in range(5):
                (host / f"a{outer}/b0").rename(host / f"a{outer}/other")
                (host / f"a{outer}").rename(host / "elsewhere")
                (host / "elsewhere").rename(host / f"a{outer}")
                (host / f"a{outer}/other").rename(host / f"a{outer}/b0")

    worker = threading.Thread(target=others)
    worker.start()
    unexpected: list[OSError] = []
    seen = 0

    def note(error: OSError) -> None:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            unexpected.append(error)

    try:
        for _ in range(40):
            for top, _, files in os.walk(there, onerror=note):
                for name in files:
                    try:
                        assert Path(top, name).read_text() == "text"
                        seen += 1
                    except OSError as error:
                        note(error)
    finally:
        over.set()
        worker.join()
    assert unexpected == []
    assert seen > 100
    assert len(list(there.rglob("file"))) == 25


def test_a_link_swapped_in_for_a_directory_never_leads_outside(
    passed: Pass, tmp_path: Path
) -> None:
    # On the mount the link leads to where nothing is: who gets outside was led there by the server.
    host, outside, target = tmp_path / "server/host", tmp_path / "server/outside", "../outside"
    for path, text in ((outside, "outside"), (host / "dir", "inside")):
        (path / "below").mkdir(parents=True)
        (path / "below/file").write_text(text)
    there = passed(cache=0, directory=host)
    over = threading.Event()

    def others() -> None:
        while not over.is_set():
            (host / "dir").rename(host / "hidden")
            (host / "dir").symlink_to(target)
            (host / "dir").unlink()
            (host / "hidden").rename(host / "dir")

    worker = threading.Thread(target=others)
    worker.start()
    read = led_astray = 0
    try:
        for number in range(20_000):
            if min(read, led_astray) >= 20:
                break
            try:
                assert (there / "dir/below/file").read_text() == "inside"
                (there / f"dir/below/new{number}").touch()
                (there / "dir/below").chmod(0o750 + number % 2)
                read += 1
            except (FileNotFoundError, NotADirectoryError):
                led_astray += 1
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
    finally:
        over.set()
        worker.join()
    assert min(read, led_astray) >= 20
    assert os.listdir(outside / "below") == ["file"]
    assert stat.S_IMODE((outside / "below").stat().st_mode) == 0o755
    assert (outside / "below/file").read_text() == "outside"


def test_a_file_replaced_by_others_is_another_file(passed: Pass, host: Path) -> None:
    there = passed(cache=0, descriptors=44)
    for round in range(20):
        (host / "file").write_text(f"contents {round}")
        # Others that use up the descriptors, so that the host can use the inode number again.
        for number in range(20):
            (host / f"{round}-{number}").touch()
            (there / f"{round}-{number}").stat()
        assert (there / "file").read_text() == f"contents {round}"
        with open(there / "file") as file:
            (host / "file").unlink()
            (host / "file").write_text("in between")
            assert file.read() == f"contents {round}"
        assert (there / "file").read_text() == "in between"
        (host / "file").unlink()


# ------------------------------------------------------------------------------------- many and odd


def test_fifty_thousand_files_with_a_limit_of_256_descriptors(passed: Pass) -> None:
    with in_memory() as directory:
        for outer in range(50):
            (directory / f"d{outer}").mkdir()
            fd = os.open(directory / f"d{outer}", os.O_PATH)
            for number in range(1000):
                os.mknod(f"f{number}", 0o100644, dir_fd=fd)
            os.close(fd)
        there = passed(directory=directory, descriptors=256)
        found = run("find", there, "-type", "f", "-printf", "%i %s %P\\n").splitlines()
        assert len(found) == 50_000
        assert len({line.split()[0] for line in found}) == 50_000
        (there / "d7/f7").write_text("still writable")
        assert (directory / "d7/f7").read_text() == "still writable"
        assert (there / "d49/f999").stat().st_ino == (directory / "d49/f999").stat().st_ino
        run("rm", "-r", there / "d0", there / "d1")
        assert len(os.listdir(directory)) == 48


@pytest.fixture
def by_nobody(host: Path, mountpoint: Path) -> Iterator[Path]:
    """`null` of the host's directory, which is nobody's, served by nobody. The mount is root's."""
    os.chown(host, NOBODY, NOBODY)
    options = replace(parse_options(["allow_other"]), default_permissions=True)
    directory = os.open(host, os.O_PATH)
    fd = mount_fuse(str(mountpoint), options, fsname="null", subtype="null", rootmode=stat.S_IFDIR)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(())
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            puffs.run(NullFS(f"/proc/self/fd/{directory}"), f"/dev/fd/{fd}")
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
        finally:
            os._exit(1)
    os.close(fd)
    os.close(directory)
    try:
        yield mountpoint
        umount2(str(mountpoint), 0)
    finally:
        give_back(mountpoint)
        assert os.waitpid(pid, 0)[1] == 0


def test_served_by_a_user_without_privilege(by_nobody: Path, host: Path) -> None:
    (host / "foreign").write_text("secret")
    (host / "foreign").chmod(0o600)
    (by_nobody / "dir").mkdir()
    fd = os.open(by_nobody / "dir/file", os.O_CREAT | os.O_RDWR, 0o444)
    os.write(fd, b"text")
    os.close(fd)
    # Whoever asks, what the server makes is the server's, and he may do what he may do.
    assert {path.stat().st_uid for path in (host / "dir").rglob("*")} == {NOBODY}
    assert (by_nobody / "dir/file").read_text() == "text"
    (by_nobody / "dir/file").chmod(0o640)
    os.utime(by_nobody / "dir/file", (1, 2))
    os.setxattr(by_nobody / "dir/file", "user.note", b"x")
    os.link(by_nobody / "dir/file", by_nobody / "link")
    (by_nobody / "dir/file").rename(by_nobody / "moved")
    st = (host / "moved").stat()
    assert (st.st_mode, st.st_mtime, st.st_nlink) == (stat.S_IFREG | 0o640, 2, 2)
    with fails(errno.EACCES):
        (by_nobody / "foreign").read_text()
    with fails(errno.EPERM):
        os.chown(by_nobody / "moved", 1, 1)
    shutil.rmtree(by_nobody / "dir")
    assert sorted(os.listdir(host)) == ["foreign", "link", "moved"]


@pytest.fixture(params=["overlay", "ramfs"])
def without_handles(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that has no file handles; ramfs has not even times of birth."""
    if request.param == "overlay":
        (tmp_path / "layers").mkdir()
        with overlaid(tmp_path / "layers") as path:
            yield path
    else:
        (tmp_path / "top").mkdir()
        with mounted("ramfs", tmp_path / "top", "ramfs"):
            yield tmp_path / "top"


@pytest.mark.parametrize("descriptors", [0, 44])
def test_over_a_file_system_without_file_handles(
    passed: Pass, without_handles: Path, descriptors: int
) -> None:
    host = without_handles
    there = passed(cache=0, directory=host, descriptors=descriptors)
    for number in range(100):
        (there / str(number)).write_text(f"text {number}")
    os.link(there / "1", there / "link")
    assert (there / "link").samefile(there / "1")
    for _ in range(2):
        for number in range(100):
            assert (there / str(number)).read_text() == f"text {number}"
    assert (there / "link").samefile(there / "1")
    numbers = [entry.inode() for entry in os.scandir(there)]
    assert len(set(numbers)) == len(os.listdir(host)) - 1
    for round in range(20):
        (host / "1").unlink()
        (host / "1").write_text(f"round {round}")
        assert (there / "1").read_text() == f"round {round}"
    assert (there / "link").read_text() == "text 1"


def test_a_directory_that_is_copied_up_stays_the_same_one(
    passed: Pass, without_handles: Path
) -> None:
    (without_handles / "low").mkdir(exist_ok=True)
    there = passed(cache=0, directory=without_handles)
    fd = os.open(there / "low", os.O_PATH)
    try:
        os.mkdir("new", dir_fd=fd)
        assert os.listdir(there / "low").count("new") == 1
        assert os.readlink(f"/proc/self/fd/{fd}") == str(there / "low")
    finally:
        os.close(fd)


def test_other_file_systems_below_have_numbers_of_their_own(passed: Pass, host: Path) -> None:
    for name in ("one", "two"):
        (host / name).mkdir()
    with mounted("tmpfs", host / "one", "tmpfs"), mounted("tmpfs", host / "two", "tmpfs"):
        for number in range(20):
            for name in ("one", "two"):
                (host / name / str(number)).write_text(f"{name} {number}")
        assert (host / "one/5").stat().st_ino == (host / "two/5").stat().st_ino
        there = passed()
        files = [path for path in there.rglob("*") if path.is_file()]
        assert len({path.stat().st_ino for path in files}) == len(files) == 40
        for path in files:
            assert path.read_text() == f"{path.parent.name} {path.name}"
        with fails(errno.EXDEV):
            (there / "one/5").rename(there / "two/x")
        with fails(errno.EXDEV):
            os.link(there / "one/5", there / "x")
        shutil.copyfile(there / "one/5", there / "two/copy")
        assert (host / "two/copy").read_text() == "one 5"
        run("sync", "-f", there)


def check_a_second_mount_below(host: Path, passed: Pass) -> None:
    """A directory that is mounted, read-only, below itself is two directories."""
    (host / "dir/below").mkdir(parents=True)
    (host / "dir/file").write_text("text")
    with mounted(host, host / "dir/below", "none", MS_BIND):
        mount("none", str(host / "dir/below"), "none", MS_BIND | MS_REMOUNT | MS_RDONLY, "")
        there = passed(directory=host)
        assert (there / "dir/below/dir/file").read_text() == "text"
        assert run("find", there, "-name", "file").count("\n") == 2
        assert list((there / "dir/below/dir/below").iterdir()) == []
        with fails(errno.EROFS):
            (there / "dir/below/dir/file").write_text("no")
        (there / "dir/file").write_text("yes")
        with fails(errno.EROFS):
            (there / "dir/below/new").touch()


def test_a_directory_that_is_mounted_a_second_time_below(passed: Pass, host: Path) -> None:
    check_a_second_mount_below(host, passed)


def test_the_same_without_file_handles(passed: Pass, tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    with mounted("ramfs", tmp_path / "top", "ramfs"):
        check_a_second_mount_below(tmp_path / "top", passed)


def test_closing_is_told_where_it_may_bring_errors(tmp_path: Path) -> None:
    def told(host: Path, flags: int) -> bool:
        passed = Passed(host)
        node = passed.write("file", b"")
        opened = passed.fs.open(node, flags, passed.cred)
        passed.fs.close(node, file_of(opened), flags)
        passed.fs.unmounted()
        return not opened.noflush

    (tmp_path / "unknown").mkdir()
    with in_memory() as memory, mounted("ramfs", tmp_path / "unknown", "ramfs"):
        assert not told(memory, os.O_RDWR)
        (memory / "file").unlink()
        assert told(tmp_path / "unknown", os.O_RDWR)
        (tmp_path / "unknown/file").unlink()
        assert not told(tmp_path / "unknown", os.O_RDONLY)


def test_mounted_on_the_very_directory(serve: Serve, mountpoint: Path) -> None:
    (mountpoint / "file").write_text("below")
    there = serve(lambda _: NullFS(str(mountpoint))).path
    assert (there / "file").read_text() == "below"
    (there / "new").write_text("also below")
    assert sorted(os.listdir(there)) == ["file", "new"]


def test_its_own_mount_point_is_no_trap(serve: Serve, mountpoint: Path) -> None:
    (mountpoint.parent / "file").write_text("beside")
    there = serve(lambda _: NullFS(str(mountpoint.parent))).path
    assert (there / "file").read_text() == "beside"
    assert there.name in os.listdir(there)
    with fails(errno.ELOOP):
        os.listdir(there / there.name)


def test_the_end_of_a_caller_leaves_no_descriptor_open(serve: Serve, host: Path) -> None:
    (host / "file").write_text("x" * 100_000)
    served = serve(lambda _: NullFS(str(host)))
    (served.path / "file").stat()
    table = Path(f"/proc/{served.child.pid}/fd")
    before = len(os.listdir(table))
    script = """if True:
        import os, sys, signal
        opened = [os.open(sys.argv[1], os.O_RDWR) for _ in range(50)]
        print("opened", flush=True)
        signal.pause()
    """
    command = [sys.executable, "-c", script, str(served.path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()
        assert len(os.listdir(table)) >= before + 50
        caller.send_signal(signal.SIGKILL)
    (served.path / "file").stat()
    os.statvfs(served.path)
    assert len(os.listdir(table)) <= before + 1
