"""A file server that dies, hangs or grows costs its callers an error and itself its mount; nothing
stays behind, and who has mounted it goes on and mounts the next one at the same place.
"""

import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from puffs.isolate.confinement import _address_space
from puffs.isolate.isolation import Isolation
from tests.fuse import doomed
from tests.fuse.calls import held_open, opened
from tests.fuse.conftest import PATIENCE, Served, give_back
from tests.fuse.hostile_uses import DEAD
from tests.fuse.others import comes_true, gone, waiting
from tests.fuse.parent import Parent

pytestmark = pytest.mark.fuse

Call = Callable[[], object]
"""Asks for one operation, everything else having been done before."""

TIMEOUT: Final = 0.5


def look_up(path: Path) -> Call:
    return partial(os.stat, path / "dir")


def look_at(path: Path) -> Call:
    fd = os.open(path / "file", os.O_RDONLY)
    return partial(os.fstat, fd)


def open_(path: Path) -> Call:
    return partial(os.open, path / "file", os.O_RDONLY)


def read(path: Path) -> Call:
    """Past the cache, which would ask again."""
    return partial(os.pread, os.open(path / "file", os.O_RDONLY | os.O_DIRECT), 4096, 0)


def write(path: Path) -> Call:
    return partial(os.write, os.open(path / "file", os.O_WRONLY), b"1234")


def list_(path: Path) -> Call:
    return partial(os.listdir, path)


def create(path: Path) -> Call:
    return partial(os.open, path / "new", os.O_CREAT | os.O_EXCL)


def rename(path: Path) -> Call:
    return partial(os.rename, path / "file", path / "moved")


def change(path: Path) -> Call:
    return partial(os.chmod, path / "file", 0o600)


def get_xattr(path: Path) -> Call:
    return partial(os.getxattr, path / "file", "user.a")


CALLS: Final = {
    "lookup": look_up,
    "getattr": look_at,
    "open": open_,
    "read": read,
    "write": write,
    "readdir": list_,
    "create": create,
    "rename": rename,
    "setattr": change,
    "getxattr": get_xattr,
}

DEATHS: Final[dict[Callable[[], None], str]] = {
    doomed.segfault: "was killed by SIGSEGV",
    doomed.exit_: "ended with status 3",
    doomed.killed: "was killed by SIGKILL",
    doomed.loop: "has not answered anything for 0.5 seconds, and was killed by SIGKILL",
    doomed.loop_in_c: "has not answered anything for 0.5 seconds, and was killed by SIGKILL",
}
HANGING: Final = (doomed.loop, doomed.loop_in_c, doomed.stop)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them are mounted, one after the other."""
    path = tmp_path_factory.mktemp("deaths").resolve() / "mnt"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def parents() -> Iterator[list[Parent]]:
    """The process that mounts them all, unless one of them harms it: then there are several."""
    found: list[Parent] = []
    yield found
    for parent in found:
        parent.end()


class Grave:
    """A mount of a doomed file server."""

    def __init__(self, parent: Parent, path: Path, directory: Path) -> None:
        self.parent = parent
        self.path = path
        self._armed, self._notes = directory / "armed", directory / "notes"
        self._directory = directory

    def mount(self, operation: str, end: Callable[[], None], how: Isolation | None = None) -> int:
        """Mount it; the process of the file server."""
        make = partial(doomed.Doomed, self._notes, self._armed, operation, end)
        how = how or Isolation(timeout=TIMEOUT)
        server: int = self.parent.mount(make, self.path, "", how)
        self.server = server
        return server

    def arm(self) -> None:
        self._armed.touch()

    @property
    def armed(self) -> bool:
        """Whether it has still to come to its end."""
        return self._armed.exists()

    def notes(self, name: str) -> list[tuple[object, ...]]:
        return Served(self.path, self._directory).notes(name)

    def nothing_is_left(self, why: str) -> None:
        """Neither mount nor process; and the parent knows why."""
        assert gone(self.path)
        assert why in self.parent.why()
        there = Path(f"/proc/{self.server}")  # a zombie would be
        assert comes_true(lambda: not there.exists())


@pytest.fixture
def grave(parents: list[Parent], place: Path, tmp_path: Path) -> Iterator[Grave]:
    if not parents or not parents[-1].alive:
        parents.append(Parent())
    yield Grave(parents[-1], place, tmp_path)
    give_back(place)


def errno_of(call: Call) -> int:
    """What a call fails with, in time; 0 if it does not."""
    failures: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            failures.append(exc)
        else:
            failures.append(None)

    caller = threading.Thread(target=run, daemon=True)
    caller.start()
    caller.join(PATIENCE)
    assert failures, "the caller hangs"
    (failure,) = failures
    if failure is None:
        return 0
    assert isinstance(failure, OSError), failure
    return failure.errno or -1


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Descriptors that a test has opened are closed."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    for fd in set(os.listdir("/proc/self/fd")) - before:
        try:
            os.close(int(fd))
        except OSError:
            pass


def ends_in_operations() -> list[Any]:
    """All of both. To wait for one that hangs takes time: some of these are for the long run."""
    return [
        pytest.param(
            end,
            operation,
            id=f"{end.__name__} in {operation}",
            marks=[pytest.mark.slow] if end in HANGING and number % 3 else [],
        )
        for end in DEATHS
        for number, operation in enumerate(CALLS)
    ]


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize(("end", "operation"), ends_in_operations())
def test_an_end_inside_of_an_operation(
    grave: Grave, end: Callable[[], None], operation: str
) -> None:
    grave.mount(operation, end)
    call = CALLS[operation](grave.path)
    grave.arm()
    assert errno_of(call) in ((errno.ETIMEDOUT,) if end in HANGING else DEAD)
    grave.nothing_is_left(DEATHS[end])


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("operation", CALLS)
def test_memory_without_end_is_enomem_for_its_caller(grave: Grave, operation: str) -> None:
    limit = _address_space() + (1 << 28)  # whatever the process of the tests has grown to
    grave.mount(operation, doomed.allocate, Isolation(memory=limit, timeout=PATIENCE))
    call = CALLS[operation](grave.path)
    grave.arm()
    assert errno_of(call) == errno.ENOMEM
    with opened(grave.path / "file") as fd:
        assert os.read(fd, 8) == b"contents"
    grave.parent.unmount()
    grave.nothing_is_left("")


def test_processor_time_without_end_is_the_end(grave: Grave) -> None:
    grave.mount("mkdir", doomed.loop, Isolation(cpu=1, timeout=PATIENCE * 2))
    grave.arm()
    assert errno_of(partial(os.mkdir, grave.path / "new")) in DEAD
    grave.nothing_is_left("used up its processor time")


def test_others_who_wait_get_errors_too(grave: Grave) -> None:
    grave.mount("mkdir", doomed.loop_in_c)
    grave.arm()
    with ThreadPoolExecutor(9) as callers:
        first = callers.submit(errno_of, partial(os.mkdir, grave.path / "new"))
        assert comes_true(lambda: not grave.armed)
        others = [callers.submit(errno_of, partial(os.statvfs, grave.path)) for _ in range(8)]
        codes = {caller.result(PATIENCE) for caller in (first, *others)}
    assert codes <= {errno.ETIMEDOUT, *DEAD}
    grave.nothing_is_left("has not answered anything")


def test_who_closes_all_and_lives_on_is_killed(grave: Grave) -> None:
    grave.mount("mkdir", doomed.close_all)
    grave.arm()
    assert errno_of(partial(os.mkdir, grave.path / "new")) in DEAD
    grave.nothing_is_left("was killed by SIGKILL")


def test_who_is_left_behind_with_all_descriptors_holds_nothing_up(grave: Grave) -> None:
    grave.mount("mkdir", doomed.leave_grandchild)
    grave.arm()
    try:
        assert errno_of(partial(os.mkdir, grave.path / "new")) in DEAD
        grave.nothing_is_left("ended with status 4")
    finally:
        for _, pid in grave.notes("grandchild"):
            assert isinstance(pid, int)
            os.kill(pid, signal.SIGKILL)


def test_who_is_stopped_is_killed(grave: Grave) -> None:
    grave.mount("mkdir", doomed.stop)
    grave.arm()
    assert errno_of(partial(os.mkdir, grave.path / "new")) == errno.ETIMEDOUT
    grave.nothing_is_left("has not answered anything")


def test_who_is_stopped_for_a_while_goes_on(grave: Grave) -> None:
    server = grave.mount("mkdir", doomed.stop, Isolation(timeout=PATIENCE))
    grave.arm()
    with ThreadPoolExecutor(1) as callers:
        made = callers.submit(os.mkdir, grave.path / "new")
        assert comes_true(lambda: state_of(server) == "T")
        os.kill(server, signal.SIGCONT)
        made.result(PATIENCE)
    assert (grave.path / "new").is_dir()
    grave.parent.unmount()
    grave.nothing_is_left("")


def state_of(pid: int) -> str:
    """Of proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_who_is_killed_while_idle_is_buried_at_once(grave: Grave, number: int) -> None:
    server = grave.mount("", doomed.exit_)
    with held_open(grave.path / "file"):
        os.kill(server, number)
        grave.nothing_is_left(f"was killed by {signal.Signals(number).name}")


def test_nothing_hangs_when_one_dies_while_it_is_suspended(grave: Grave) -> None:
    server = grave.mount("", doomed.exit_)
    grave.parent.call("suspend")
    with ThreadPoolExecutor(1) as callers:
        code = callers.submit(errno_of, partial(os.stat, grave.path / "file"))
        assert comes_true(lambda: waiting(grave.path) == 1)
        os.kill(server, signal.SIGKILL)
        assert code.result(PATIENCE) in DEAD
    grave.nothing_is_left("was killed by SIGKILL")


def test_nothing_hangs_when_one_dies_while_it_is_unmounted(grave: Grave) -> None:
    grave.mount("unmount", doomed.exit_)
    grave.arm()
    grave.parent.unmount()
    grave.nothing_is_left("")


def test_an_unmount_by_force_does_not_wait_for_who_hangs(grave: Grave) -> None:
    grave.mount("unmount", doomed.loop)
    grave.arm()
    grave.parent.unmount()
    grave.nothing_is_left("")


@pytest.mark.parametrize("operation", ["mount", "getattr"])
@pytest.mark.parametrize("end", [doomed.exit_, doomed.loop], ids=lambda end: end.__name__)
def test_an_end_while_it_is_mounted_is_an_error_of_mounting(
    grave: Grave, operation: str, end: Callable[[], None]
) -> None:
    grave.arm()
    with pytest.raises(OSError, match=DEATHS[end]):
        grave.mount(operation, end)
    assert gone(grave.path)


@pytest.mark.parametrize("end", [doomed.exit_, doomed.loop], ids=lambda end: end.__name__)
def test_an_end_as_soon_as_it_is_mounted(grave: Grave, end: Callable[[], None]) -> None:
    grave.arm()
    try:
        grave.mount("mounted", end)
    except OSError as error:
        assert DEATHS[end] in str(error)  # noqa: PT017 - it may have been as fast as that
    else:
        errno_of(partial(os.stat, grave.path))  # nobody has waited for it before
        grave.nothing_is_left(DEATHS[end])
    assert gone(grave.path)


def test_the_parent_keeps_nothing_of_those_who_have_died(grave: Grave) -> None:
    def held() -> tuple[int, int, int]:
        """Descriptors, threads, and memory that is shared with others."""
        of = f"/proc/{grave.parent.pid}"
        maps = Path(f"{of}/maps").read_text()
        return (
            len(os.listdir(f"{of}/fd")),
            len(os.listdir(f"{of}/task")),
            maps.count("/dev/zero (deleted)"),
        )

    def die() -> None:
        server = grave.mount("", doomed.exit_)
        with held_open(grave.path / "file"):
            os.kill(server, signal.SIGKILL)
            grave.nothing_is_left("was killed by SIGKILL")

    def nothing_more(before: tuple[int, int, int]) -> bool:
        """What it had of the tests, whose child it is, may have gone meanwhile."""
        *kept, shared = held()
        return kept == [*before[:2]] and shared <= before[2]

    *_, inherited = held()
    die()
    assert comes_true(lambda: held()[1] == 1 and held()[2] <= inherited), (held(), inherited)
    before = held()
    for _ in range(4):
        die()
    assert comes_true(lambda: nothing_more(before)), (held(), before)


SERVE = """
import sys
from pathlib import Path
from functools import partial
import puffs
from tests.fuse.doomed import Doomed, exit_
path, directory = map(Path, sys.argv[1:])
make = partial(Doomed, directory / "notes", directory / "armed", "", exit_)
puffs.run(make, path, "auto_unmount", isolate=True,
          on_ready=lambda mount: print(mount.server_pid, flush=True))
"""


def test_with_the_parent_ends_the_file_server_and_its_mount(
    mountpoint: Path, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, mountpoint, tmp_path], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        try:
            server = os.pidfd_open(int(parent.stdout.readline()))
        finally:
            parent.kill()
    try:
        assert select.select([server], [], [], PATIENCE)[0]
    finally:
        os.close(server)
    assert gone(mountpoint)
