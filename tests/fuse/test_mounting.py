"""Mounting, unmounting, and what is said when that cannot be done. The kernel is the real one."""

import errno
import fcntl
import os
import platform
import shlex
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from puffs.attach.fuse import mountpoint
from puffs.attach.fuse.mountinfo import MountInfo, find_mount, list_mounts
from puffs.attach.fuse.mounting import mount_fuse, unmount
from puffs.attach.fuse.mountpoint import MountError, check_mountpoint, is_stale, resolve
from puffs.attach.fuse.options import MountOptions, parse_options
from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, mount, umount2

DIR, REG = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[str]:
    """A directory to mount on; whatever is still mounted there after the test is taken away."""
    path = tmp_path.resolve() / "mnt"
    path.mkdir()
    yield str(path)
    while find_mount(str(path)):
        umount2(str(path), MNT_DETACH | UMOUNT_NOFOLLOW)


@contextmanager
def unserved(mnt: str, *words: str, rootmode: int = DIR) -> Iterator[int]:
    """Mount with nobody to answer: whoever touches it waits until the descriptor is closed."""
    fd = mount_fuse(mnt, parse_options(words), fsname="mem:", subtype="mem", rootmode=rootmode)
    try:
        yield fd
    finally:
        os.close(fd)


SERVE = """
import os, struct, sys
from puffs.attach.fuse.mounting import mount_fuse
from puffs.attach.fuse.options import MountOptions

fd = mount_fuse(sys.argv[1], MountOptions(), fsname="mem:", subtype="mem", rootmode=0o040755)
print("mounted", flush=True)
attr = struct.pack("<QII6Q3I7I", 3600, 0, 0, 1, *[0] * 8, 0o040755, 2, *[0] * 5)
replies = {  # INIT, GETATTR (valid for an hour), STATFS
    26: struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *[0] * 8),
    3: attr,
    17: bytes(80),
}
while True:
    request = os.read(fd, 1 << 16)
    opcode, unique = struct.unpack_from("<IQ", request, 4)
    if opcode not in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET: no reply
        body = replies.get(opcode, b"")
        error = 0 if body else -2 if opcode == 1 else -38  # ENOENT for LOOKUP, else ENOSYS
        os.write(fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
"""


@contextmanager
def served(mnt: str) -> Iterator[subprocess.Popen[str]]:
    """Mount an empty directory, answered by another process."""
    command = [sys.executable, "-c", SERVE, mnt]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "mounted\n"
            yield server
        finally:
            server.kill()


def refused(call: Callable[[], object], code: int, *says: str) -> None:
    """Assert that `call` raises a MountError with that errno and one line with all of `says`."""
    with pytest.raises(MountError) as caught:
        call()
    assert caught.value.errno == code, str(caught.value)
    for part in says:
        assert part in str(caught.value)
    assert str(caught.value).isprintable()


def in_a_child(script: str, *, namespace: bool = True) -> str:
    """Run a script in another process, in a mount namespace of its own; return what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    if namespace:
        command = ["unshare", "--mount", "--propagation", "private", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Mount points


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with something of every kind in it."""
    here = tmp_path.resolve()
    monkeypatch.chdir(here)
    (here / "dir/sub").mkdir(parents=True)
    (here / "file").write_text("")
    os.mkfifo(here / "fifo")
    (here / "to-dir").symlink_to("dir")
    (here / "to-sub").symlink_to(here / "to-dir" / "sub")
    (here / "to-file").symlink_to("file")
    (here / "to-nothing").symlink_to("gone")
    (here / "loop").symlink_to("loop")
    (here / "a b").mkdir()
    return here


@pytest.mark.parametrize(
    ("path", "rootmode", "real"),
    [
        ("dir", DIR, "dir"),
        ("dir/", DIR, "dir"),
        ("./dir//sub/.", DIR, "dir/sub"),
        ("to-dir", DIR, "dir"),
        ("to-sub", DIR, "dir/sub"),
        ("to-sub/..", DIR, "dir"),
        ("a b", DIR, "a b"),
        ("file", REG, "file"),
        ("to-file", REG, "file"),
    ],
)
def test_a_good_mount_point_becomes_its_real_path(
    places: Path, path: str, rootmode: int, real: str
) -> None:
    assert check_mountpoint(path, rootmode) == str(places / real)
    assert check_mountpoint(places / path, rootmode) == str(places / real)
    assert resolve(path) == os.path.realpath(path)


@pytest.mark.statement("M20")
@pytest.mark.parametrize(
    ("path", "rootmode", "code", "says"),
    [
        ("nothing", DIR, errno.ENOENT, ["nothing does not exist", "(mkdir -p nothing)"]),
        ("no/way", DIR, errno.ENOENT, ["/no does not exist", "(mkdir -p no/way)"]),
        ("no way", DIR, errno.ENOENT, ["does not exist", "(mkdir -p 'no way')"]),
        ("no\nway", DIR, errno.ENOENT, ["does not exist", r"(mkdir -p 'no\nway')"]),
        ("nothing", REG, errno.ENOENT, ["nothing does not exist", "(touch nothing)"]),
        ("to-nothing", DIR, errno.ENOENT, ["/gone does not exist"]),
        ("file", DIR, errno.ENOTDIR, ["file is not a directory", "choose a directory"]),
        ("file/sub", DIR, errno.ENOTDIR, ["file is not a directory"]),
        ("dir", REG, errno.EISDIR, ["dir is not a regular file", "choose a regular file"]),
        ("fifo", REG, errno.EINVAL, ["fifo is not a regular file"]),
        ("fifo", DIR, errno.ENOTDIR, ["fifo is not a directory"]),
        ("loop", DIR, errno.ELOOP, ["loop", "symbolic links"]),
        ("x" * 300, DIR, errno.ENAMETOOLONG, ["File name too long"]),
        ("", DIR, errno.EINVAL, ["'' is no path"]),
        ("a\0b", DIR, errno.EINVAL, [r"'a\x00b' is no path"]),
    ],
)
@pytest.mark.usefixtures("places")
def test_a_bad_mount_point_is_refused_with_the_remedy(
    path: str, rootmode: int, code: int, says: list[str]
) -> None:
    refused(lambda: check_mountpoint(path, rootmode), code, *says)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_directory_that_may_not_be_searched_is_named(tmp_path: Path) -> None:
    closed = tmp_path.resolve() / "closed"
    closed.mkdir(mode=0o700)
    output = in_a_child(
        f"""
        import os
        from puffs.attach.fuse.mountpoint import MountError, check_mountpoint
        os.chdir({str(closed)!r})
        os.setuid(65534)
        try:
            check_mountpoint("inside", 0o040000)
        except MountError as error:
            print(error.errno, error)
        """,
        namespace=False,
    )
    assert output.startswith(f"{errno.EACCES} no permission to search {shlex.quote(str(closed))}: ")


# Mounting


@pytest.mark.fuse
def test_a_mount_shows_name_and_type_and_is_gone_after_unmount(mnt: str) -> None:
    with unserved(mnt) as fd:
        found = find_mount(mnt)
        assert found in list_mounts()
        assert found is not None
        assert (found.mountpoint, found.fstype, found.source) == (mnt, "fuse.puffs.mem", "mem:")
        shown = f"rw nosuid nodev user_id={os.getuid()} group_id={os.getgid()} default_permissions"
        assert set(shown.split()) <= set(found.options)
        assert not {"allow_other", "noexec", "ro"} & set(found.options)
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        unmount(mnt)
        assert find_mount(mnt) is None
        with pytest.raises(OSError, match="No such device") as ended:
            os.read(fd, 1 << 16)
        assert ended.value.errno == errno.ENODEV


@pytest.mark.fuse
@pytest.mark.parametrize(
    ("words", "there", "not_there"),
    [
        ("ro,noexec,noatime,sync,dirsync", "ro noexec noatime sync dirsync nosuid nodev", "rw"),
        ("suid,dev", "rw", "nosuid nodev"),
        ("allow_other,max_read=8192", "allow_other max_read=8192 default_permissions", ""),
        ("no_default_permissions", "rw", "default_permissions allow_other"),
    ],
)
def test_options_reach_the_kernel(mnt: str, words: str, there: str, not_there: str) -> None:
    with unserved(mnt, words):
        found = find_mount(mnt)
        assert found is not None
        assert set(there.split()) <= set(found.options)
        assert not set(not_there.split()) & set(found.options)


@pytest.mark.fuse
def test_names_of_options_go_first_and_odd_ones_survive(mnt: str) -> None:
    with unserved(mnt, r"fsname=a\,b c\\#d", r"subtype=x\,y z"):
        found = find_mount(mnt)
        assert found is not None
        assert (found.source, found.fstype) == ("a,b c\\#d", "fuse.puffs.x_y_z")


@pytest.mark.fuse
def test_a_mount_point_may_have_an_odd_name(tmp_path: Path) -> None:
    path = tmp_path.resolve() / "a b\tc\nd\\040\u00e4\udcff"
    path.mkdir()
    with unserved(str(path)):
        found = find_mount(str(path))
        assert found is not None
        assert found.mountpoint == str(path)
        unmount(path)
        assert find_mount(str(path)) is None


@pytest.mark.fuse
def test_a_regular_file_can_be_mounted_on(tmp_path: Path) -> None:
    file = tmp_path.resolve() / "file"
    file.write_text("")
    with unserved(check_mountpoint(file, REG), rootmode=REG):
        assert find_mount(str(file)) is not None
        unmount(file)
        assert find_mount(str(file)) is None


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.fuse
def test_a_mount_that_the_kernel_refuses_leaves_nothing_behind(mnt: str) -> None:
    before = open_files()
    refused(
        lambda: mount_fuse(mnt, MountOptions(), fsname="mem:", subtype="mem", rootmode=REG),
        errno.ENOTDIR,
        f"cannot mount on {mnt}: Not a directory",
    )
    assert open_files() == before
    assert find_mount(mnt) is None


@pytest.mark.fuse
def test_an_interrupt_just_after_the_mount_leaves_nothing_behind(mnt: str) -> None:
    before = open_files()
    interrupted: list[MountInfo | None] = []

    def interrupt(frame: FrameType, event: str, _arg: object) -> None:
        if event == "return" and frame.f_code is mount.__code__:
            sys.setprofile(None)
            interrupted.append(find_mount(mnt))
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            mount_fuse(mnt, MountOptions(), fsname="mem:", subtype="mem", rootmode=DIR)
    finally:
        sys.setprofile(None)
    assert len(interrupted) == 1
    assert interrupted[0] is not None
    assert find_mount(mnt) is None
    assert open_files() == before


# Mounts that are there already


@pytest.mark.fuse
def test_a_live_mount_is_not_mounted_on_again_but_below(mnt: str) -> None:
    with served(mnt):
        assert not is_stale(mnt)
        refused(
            lambda: check_mountpoint(mnt, DIR),
            errno.EBUSY,
            f"{mnt} is already a mount of puffs",
            f"puffs umount {mnt}",
        )
        # The walk goes on within the mount: its server is asked, and has no such name.
        refused(lambda: check_mountpoint(mnt + "/x", DIR), errno.ENOENT, f"{mnt}/x does not exist")
        unmount(mnt)
    assert check_mountpoint(mnt, DIR) == mnt


@pytest.mark.fuse
def test_a_mount_is_stale_when_its_server_was_killed(mnt: str) -> None:
    with served(mnt) as server:
        assert stat.S_ISDIR(os.stat(mnt).st_mode)
        server.kill()
        server.wait()
        # The kernel still has the attributes of the root, and answers from them.
        assert stat.S_ISDIR(os.stat(mnt).st_mode)
        assert is_stale(mnt)
        for path in (mnt, mnt + "/below"):
            refused(
                lambda path=path: check_mountpoint(path, DIR),  # type: ignore[misc]
                errno.ENOTCONN,
                f"{mnt} is a stale mount",
                f"puffs umount {mnt}",
                f"umount -l {mnt}",
            )
        unmount(mnt)
    assert not is_stale(mnt)
    assert check_mountpoint(mnt, DIR) == mnt


@pytest.mark.fuse
def test_a_closed_connection_is_stale_and_can_be_unmounted(mnt: str) -> None:
    with unserved(mnt):
        pass
    with pytest.raises(OSError, match="Transport endpoint") as touched:
        os.stat(mnt)
    assert touched.value.errno == errno.ENOTCONN
    assert is_stale(mnt)
    unmount(mnt)
    assert not is_stale(mnt)


@pytest.mark.fuse
def test_nothing_hangs_on_a_mount_whose_server_hangs(
    mnt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mountpoint, "ANSWER_SECONDS", 0.3)
    with unserved(mnt):
        assert not is_stale(mnt)
        for path in (mnt, mnt + "/below"):
            refused(
                lambda path=path: check_mountpoint(path, DIR),  # type: ignore[misc]
                errno.ETIMEDOUT,
                f"{mnt} is a mount",
                "does not answer",
                f"umount -l {mnt}",
            )
        unmount(mnt)
        assert find_mount(mnt) is None


@pytest.mark.fuse
def test_of_two_mounts_on_one_directory_the_upper_one_is_found_and_unmounted(mnt: str) -> None:
    with unserved(mnt, "fsname=lower"), unserved(mnt, "fsname=upper"):
        for name in ("upper", "lower"):
            found = find_mount(mnt)
            assert found is not None
            assert found.source == name
            unmount(mnt)
        assert find_mount(mnt) is None


# Unmounting


@pytest.mark.fuse
def test_a_busy_mount_names_who_uses_it_and_can_be_detached(mnt: str) -> None:
    with unserved(mnt):
        # O_PATH asks the server nothing.
        held = os.open(mnt, os.O_PATH)
        try:
            refused(
                lambda: unmount(mnt),
                errno.EBUSY,
                f"{mnt} is busy",
                f"with pid {os.getpid()}",
                f"umount -l {mnt}",
            )
            assert find_mount(mnt) is not None
            unmount(mnt, lazy=True)
            assert find_mount(mnt) is None
        finally:
            os.close(held)


@pytest.mark.fuse
def test_a_busy_mount_names_a_working_directory_but_only_a_few(mnt: str) -> None:
    with served(mnt):
        sleepers = [subprocess.Popen(["sleep", "60"], cwd=mnt) for _ in range(4)]
        try:
            pids = [sleeper.pid for sleeper in sleepers]
            says = [f"'sleep' with pid {pid}" for pid in sorted(pids)[:3]]
            refused(lambda: unmount(mnt), errno.EBUSY, ", ".join(says) + " and others)")
        finally:
            for sleeper in sleepers:
                sleeper.kill()
                sleeper.wait()
        unmount(mnt)


@pytest.mark.fuse
@pytest.mark.parametrize("path", ["mnt", "mnt/.."])
def test_what_is_not_mounted_cannot_be_unmounted(mnt: str, path: str) -> None:
    where = os.path.normpath(os.path.join(mnt, "..", path))
    refused(lambda: unmount(os.path.join(mnt, "..", path)), errno.EINVAL, f"{where} is not mounted")


def test_what_does_not_exist_cannot_be_unmounted(tmp_path: Path) -> None:
    refused(lambda: unmount(tmp_path / "gone"), errno.ENOENT, "gone does not exist")


def test_only_fuse_mounts_are_unmounted() -> None:
    refused(lambda: unmount("/proc"), errno.EINVAL, "/proc is a mount of type proc", "umount /proc")
    assert find_mount("/proc") is not None


@pytest.mark.fuse
def test_a_symlink_to_a_mount_is_followed(mnt: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("mnt")
    with unserved(mnt):
        unmount(tmp_path / "link")
        assert find_mount(mnt) is None


@pytest.mark.fuse
def test_who_may_not_unmount_is_told_so() -> None:
    output = in_a_child("""
        import os
        from puffs.attach.fuse.mounting import unmount
        from puffs.attach.fuse.mountpoint import MountError
        from puffs.attach.fuse.syscalls import mount
        fd = os.open("/dev/fuse", os.O_RDWR)
        data = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
        mount("none", "/mnt", "tmpfs", 0, "mode=755")
        os.mkdir("/mnt/x")
        mount("mem:", "/mnt/x", "fuse.puffs.mem", 0, data)
        os.setuid(65534)
        try:
            unmount("/mnt/x")
        except MountError as error:
            print(error.errno, error)
    """)
    assert output == f"{errno.EPERM} no permission to unmount /mnt/x: run as root\n"


ABORT = """
import errno, os, subprocess, sys
from puffs.attach.fuse.mounting import abort_connection, mount_fuse, unmount
from puffs.attach.fuse.mountinfo import find_mount, read_mounts
from puffs.attach.fuse.mountpoint import MountError, is_stale
from puffs.attach.fuse.options import MountOptions
from puffs.attach.fuse.syscalls import umount2

def control():
    return [mount.mountpoint for mount in read_mounts() if mount.fstype == "fusectl"]

for mountpoint in control():
    umount2(mountpoint, 0)
fd = mount_fuse(MNT, MountOptions(), fsname="mem:", subtype="mem", rootmode=0o040755)
minor = find_mount(MNT).device[1]
touch = "import os, sys; os.stat(sys.argv[1])"
caller = subprocess.Popen([sys.executable, "-c", touch, MNT], stderr=subprocess.PIPE, text=True)
abort_connection(minor)
print("caller:", caller.communicate()[1].splitlines()[-1])
try:
    os.read(fd, 1 << 16)
except OSError as error:
    print("server:", errno.errorcode[error.errno])
print("stale:", is_stale(MNT), "fusectl:", control())
unmount(MNT)
os.close(fd)
try:
    abort_connection(minor)
except MountError as error:
    print(errno.errorcode[error.errno], error)
"""


@pytest.mark.fuse
def test_an_aborted_connection_ends_for_server_and_callers(mnt: str) -> None:
    caller, server, state, again = in_a_child(ABORT.replace("MNT", repr(mnt))).splitlines()
    assert caller.startswith(("caller: OSError", "caller: ConnectionAborted"))
    assert server == "server: ENODEV"
    assert state == "stale: True fusectl: []"
    assert again.startswith("ENOENT there is no FUSE connection ")


# Shut doors

SHUT = """
import ctypes, errno, os, stat
from puffs.attach.fuse.mounting import mount_fuse
from puffs.attach.fuse.mountpoint import MountError
from puffs.attach.fuse.options import MountOptions
from puffs.attach.fuse.syscalls import mount

def node(minor=229, mode=0o666):
    os.mknod("/dev/fuse", stat.S_IFCHR | mode, os.makedev(10, minor))
    os.chmod("/dev/fuse", mode)

def forbid(syscall, flags=None):
    # A seccomp filter: EPERM for the system call, or only if the low bits of its third argument
    # are `flags`. seccomp(2): struct seccomp_data is nr, arch, instruction pointer, arguments.
    load, equal, mask, answer = 0x20, 0x15, 0x54, 0x06
    test = [] if flags is None else [(load, 0, 0, 32), (mask, 0, 0, 3), (equal, 0, 1, flags)]
    program = [(load, 0, 0, 0), (equal, 0, len(test) + 1, syscall), *test,
               (answer, 0, 0, 0x00050000 | errno.EPERM), (answer, 0, 0, 0x7FFF0000)]
    class Filter(ctypes.Structure):
        _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8),
                    ("k", ctypes.c_uint32)]
    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]
    filters = (Filter * len(program))(*program)
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privs, seccomp, mode_filter = 38, 22, 2
    assert libc.prctl(no_new_privs, 1, 0, 0, 0) == 0
    assert libc.prctl(seccomp, mode_filter, ctypes.byref(Program(len(filters), filters))) == 0

def open_files():
    count = 0
    for fd in range(100):
        try:
            os.fstat(fd)
            count += 1
        except OSError:
            pass
    return count

mount("none", "/dev", "tmpfs", 0, "mode=755")
os.mkdir("/dev/mnt")
PREPARE
before = open_files()
try:
    mount_fuse("/dev/mnt", MountOptions(), fsname="mem:", subtype="mem", rootmode=0o040755)
except MountError as error:
    print(error.errno, error)
assert open_files() == before
"""

SYSCALLS = {"x86_64": {"mount": 165, "openat": 257}, "aarch64": {"mount": 40, "openat": 56}}
NUMBERS = SYSCALLS.get(platform.machine(), {})
known_syscalls = pytest.mark.skipif(not NUMBERS, reason="numbers of system calls not known here")


@pytest.mark.fuse
@pytest.mark.parametrize(
    ("prepare", "code", "why", "remedy"),
    [
        pytest.param(
            "pass", errno.ENOENT, "there is no /dev/fuse", "--device /dev/fuse", id="no node"
        ),
        pytest.param(
            'os.mkdir("/dev/fuse")',
            errno.EISDIR,
            "/dev/fuse is a directory",
            "--device /dev/fuse",
            id="directory",
        ),
        pytest.param(
            "node(minor=250)",
            errno.ENODEV,
            "the kernel has no FUSE",
            "modprobe fuse",
            id="no driver",
        ),
        pytest.param(
            "node(mode=0o600); os.setuid(65534)",
            errno.EACCES,
            "no permission to open /dev/fuse",
            "chmod a+rw /dev/fuse",
            id="mode",
        ),
        pytest.param(
            f"node(); forbid({NUMBERS.get('openat')}, os.O_RDWR)",
            errno.EPERM,
            "opening /dev/fuse is forbidden",
            "--device /dev/fuse",
            id="open forbidden",
            marks=known_syscalls,
        ),
        pytest.param(
            "node(); os.setuid(65534)",
            errno.EPERM,
            "without CAP_SYS_ADMIN",
            "run as root",
            id="not root",
        ),
        pytest.param(
            f"node(); forbid({NUMBERS.get('mount')})",
            errno.EPERM,
            "although this process has CAP_SYS_ADMIN",
            "seccomp",
            id="mount forbidden",
            marks=known_syscalls,
        ),
    ],
)
def test_a_shut_door_says_why_and_what_opens_it(
    prepare: str, code: int, why: str, remedy: str
) -> None:
    (line,) = in_a_child(SHUT.replace("PREPARE", prepare)).splitlines()
    assert line.startswith(f"{code} cannot mount on /dev/mnt: ")
    assert why in line
    assert remedy in line
    assert "puffs.local" in line
