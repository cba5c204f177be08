"""Broken file servers: one planted mistake each, and the check that must find it.

Whatever they do, the run goes on, ends, and leaves nothing behind.
"""

import collections
import errno
import itertools
import os
import select as poll
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import puffs
from puffs.attach.fuse.mountinfo import list_mounts
from puffs.check.registry import Check, select
from puffs.check.result import Mode, Outcome, Result
from puffs.check.runner import CannotStart, Limits, run
from puffs.fs.mem import MemFS

SHORT = Limits(seconds=2)
LITTLE_CPU = Limits(seconds=50, cpu_seconds=1)

MODES = [Mode.IN_PROCESS, pytest.param(Mode.MOUNTED, marks=pytest.mark.fuse)]


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No mount, no directory and no process may stay behind a run."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # Whoever was forked meanwhile holds the writing end too: it is closed when the last has ended.
    reading, writing = os.pipe()
    try:
        yield
        os.close(writing)
        watched = poll.poll()
        watched.register(reading, poll.POLLHUP)
        assert watched.poll(5000), "a process is still there"
    finally:
        os.close(reading)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert [mount.mountpoint for mount in list_mounts() if str(tmp_path) in mount.mountpoint] == []
    assert list(tmp_path.iterdir()) == []


def failed(results: Iterable[Result]) -> dict[str, str]:
    """The names of the checks that failed, and what they say. None may be an error."""
    bad = {}
    for result in results:
        assert result.verdict.outcome is not Outcome.ERROR, result
        if result.verdict.outcome is Outcome.FAILED:
            bad[result.check.name] = result.verdict.message
    return bad


# ---------------------------------------------------------------------------- wrong results


class KeepsTarget(MemFS):
    """A rename over an existing file does nothing."""

    def rename(self, dir: Any, name: str, newdir: Any, newname: str, flags: int, cred: Any) -> None:
        if newname not in newdir.entries:
            super().rename(dir, name, newdir, newname, flags, cred)


class TruncatesToNothing(MemFS):
    """Truncation pays no regard to the size."""

    def setattr(self, node: Any, changes: Any, file: Any, cred: Any) -> puffs.Attr:
        if changes.size is not None:
            changes.size = 0
        return super().setattr(node, changes, file, cred)


class LosesAName(MemFS):
    """A listing stops one short of the end when it is long."""

    def readdir(self, dir: Any, offset: int, file: Any) -> Iterable[puffs.DirEntry]:
        entries = list(super().readdir(dir, offset, file))
        return entries[:-1] if len(entries) > 500 else entries


class ListsTwice(MemFS):
    """A listing has its first name twice when it is long."""

    def readdir(self, dir: Any, offset: int, file: Any) -> Iterable[puffs.DirEntry]:
        entries = list(super().readdir(dir, offset, file))
        return [entries[0], *entries] if len(entries) > 500 else entries


class CountsNoLinks(MemFS):
    """The link count is always 1."""

    def link(self, node: Any, dir: Any, name: str, cred: Any) -> puffs.Entry:
        entry = super().link(node, dir, name, cred)
        node.attr.nlink = 1
        return entry


class ForgetsTime(MemFS):
    """A write leaves mtime as it was."""

    def write(self, node: Any, offset: int, data: memoryview, file: Any) -> int:
        before = node.attr.mtime_ns
        done = super().write(node, offset, data, file)
        node.attr.mtime_ns = before
        return done


class ForgetsDirectoryTime(MemFS):
    """A new name leaves the times of its directory as they were."""

    def create(self, dir: Any, name: str, attr: Any, flags: int, cred: Any) -> puffs.Entry:
        before = dir.attr.mtime_ns, dir.attr.ctime_ns
        entry = super().create(dir, name, attr, flags, cred)
        dir.attr.mtime_ns, dir.attr.ctime_ns = before
        return entry


class LosesHoles(MemFS):
    """What is written past the end goes to the end."""

    def write(self, node: Any, offset: int, data: memoryview, file: Any) -> int:
        return super().write(node, min(offset, node.attr.size), data, file)


class RemovesFullDirectories(MemFS):
    """rmdir does not look whether there is something in it."""

    def rmdir(self, dir: Any, name: str, cred: Any) -> None:
        getattr(dir.find(name), "entries", {}).clear()
        super().rmdir(dir, name, cred)


class LosesUnlinkedFiles(MemFS):
    """A removed file is emptied at once, whoever has it open."""

    def remove(self, dir: Any, name: str, cred: Any) -> None:
        node = dir.entries.get(name)
        super().remove(dir, name, cred)
        if node is not None and stat.S_ISREG(node.attr.mode):
            node.attr.size = 0


class CutsNames(MemFS):
    """Long names are cut to what fits."""

    def create(self, dir: Any, name: str, attr: Any, flags: int, cred: Any) -> puffs.Entry:
        return super().create(dir, name[:250], attr, flags, cred)

    def lookup(self, dir: Any, name: str, cred: Any) -> puffs.Entry:
        return super().lookup(dir, name[:250], cred)


class RoundsTimes(MemFS):
    """Times are kept as numbers of 32 bits, in seconds."""

    def setattr(self, node: Any, changes: Any, file: Any, cred: Any) -> puffs.Attr:
        if changes.mtime_ns is not None:
            changes.mtime_ns %= 10**9 << 32
        return super().setattr(node, changes, file, cred)


class WrongErrno(MemFS):
    """A missing extended attribute is no such file."""

    def getxattr(self, node: Any, name: str) -> bytes:
        try:
            return super().getxattr(node, name)
        except OSError:
            raise OSError(errno.ENOENT, name) from None


PLANTED: list[tuple[type[MemFS], str]] = [
    (KeepsTarget, "rename-replaces-target"),
    (TruncatesToNothing, "truncate-cuts"),
    (LosesAName, "listing-has-every-name-once"),
    (ListsTwice, "listing-has-every-name-once"),
    (CountsNoLinks, "link-counts"),
    (ForgetsTime, "write-moves-mtime-and-ctime"),
    (ForgetsDirectoryTime, "create-moves-the-times-of-the-directory"),
    (LosesHoles, "hole-reads-as-zeros"),
    (RemovesFullDirectories, "rmdir-of-a-full-directory"),
    (LosesUnlinkedFiles, "unlinked-open-file"),
    (CutsNames, "name-of-255-bytes"),
    (RoundsTimes, "utime-before-1970-and-after-2038"),
    (WrongErrno, "xattr-missing"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("server", "name"), PLANTED, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_planted_mistake_is_found(server: type[MemFS], name: str, mode: Mode) -> None:
    bad = failed(run(server, mode, select([name, "chmod", "symlink-chain", "mkdir-mode"])))
    assert list(bad) == [name]


def test_a_failure_says_what_was_wrong_and_where() -> None:
    (result,) = run(KeepsTarget, Mode.IN_PROCESS, select(["rename-replaces-target"]))
    first, *_ = result.verdict.message.splitlines()  # pytest may add how the two differ
    assert first == ("content under the new name: b'from b', expected b'from a'")
    file, _, line = result.verdict.where.partition(":")
    assert file == "rename.py"
    assert int(line) > 0


# ------------------------------------------------------------------------- no results at all


def hang() -> None:
    threading.Event().wait()


def loop() -> None:
    collections.deque(itertools.repeat(None), maxlen=0)


def leave() -> None:
    os._exit(3)


class Stuck(MemFS):
    """Reading does something else than to read."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def read(self, node: Any, offset: int, size: int, file: Any) -> puffs.Buffer:
        self.act()
        return super().read(node, offset, size, file)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("act", "limits", "message"),
    [
        (hang, SHORT, "no end within 2 seconds: it hangs"),
        (loop, LITTLE_CPU, "the file server has used up its CPU time: it loops"),
        (leave, Limits(), "the file server has ended with exit status 3"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_server_that_never_answers_fails_the_check_and_no_other(
    act: Callable[[], None], limits: Limits, message: str, mode: Mode
) -> None:
    names = ["create-mode", "write-and-read-back", "link-counts", "rename-and-make-again", "chmod"]
    results = list(run(lambda: Stuck(act), mode, select(names), limits))
    assert len(results) == len(names)
    bad = failed(results)
    assert sorted(bad) == ["rename-and-make-again", "write-and-read-back"]
    assert [text for text in bad.values() if not text.startswith(message)] == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("act", "limits"), [(hang, SHORT), (loop, LITTLE_CPU)])
def test_the_author_is_shown_where_his_server_hangs(
    act: Callable[[], None], limits: Limits, mode: Mode
) -> None:
    (result,) = run(lambda: Stuck(act), mode, select(["write-and-read-back"]), limits)
    assert (
        f'test_broken.py", line {act.__code__.co_firstlineno + 1} in {act.__name__}'
        in result.output
    )
    assert result.verdict.where.startswith("data.py:")


def test_the_author_is_shown_what_his_server_logs() -> None:
    def fail() -> None:
        raise ValueError("a mistake")

    (result,) = run(lambda: Stuck(fail), Mode.IN_PROCESS, select(["write-and-read-back"]))
    assert result.verdict.message.startswith("EIO from ")
    assert "ValueError: a mistake" in result.output


def test_a_run_that_is_given_up_ends_its_processes() -> None:
    results = run(lambda: Stuck(hang), Mode.IN_PROCESS, select(["names"]))
    next(results)
    results.close()  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------- no start


def no_server() -> MemFS:
    raise RuntimeError("no database")


class NoMount(MemFS):
    def mount(self) -> Any:
        raise PermissionError(errno.EACCES, "the key is missing")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (no_server, "RuntimeError: no database"),
        (NoMount, "the key is missing"),
        (leave, "ended"),
    ],
)
def test_a_server_that_cannot_be_started_says_why(
    factory: Callable[[], Any], message: str, mode: Mode
) -> None:
    with pytest.raises(CannotStart, match=message):
        list(run(factory, mode, select(["names"])))


def test_a_server_that_starts_only_once_is_no_end_of_the_run() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    os.write(writing, b"once")

    def once() -> MemFS:
        try:
            os.read(reading, 4)
        except BlockingIOError:
            raise RuntimeError("it has been started already") from None
        return Stuck(leave)

    checks: list[Check] = select(["write-and-read-back", "chmod"])
    results = list(run(once, Mode.IN_PROCESS, checks))
    os.close(reading)
    os.close(writing)
    assert [result.verdict.outcome for result in results] == [Outcome.FAILED, Outcome.ERROR]
    assert "does not start again: RuntimeError: it has been started" in results[1].verdict.message


# --------------------------------------------------------------------------- what is left out


class ReadOnly(puffs.FileSystem[str]):
    """Two files, and nothing that changes them."""

    FILES: ClassVar = {"a": b"alpha\n", "b": b"beta\n" * 20_000}

    def mount(self) -> str:
        return "/"

    def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:
        if dir != "/" or name not in self.FILES:
            raise FileNotFoundError(errno.ENOENT, name)
        return name

    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        if node == "/":
            return puffs.Attr(stat.S_IFDIR | 0o755, nlink=2)
        return puffs.Attr(stat.S_IFREG | 0o644, size=len(self.FILES[node]))

    def readdir(self, dir: str, offset: int, file: object) -> Iterable[str]:
        return self.FILES

    def read(self, node: str, offset: int, size: int, file: object) -> bytes:
        return self.FILES[node][offset : offset + size]


class WrongSize(ReadOnly):
    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        attr = super().getattr(node)
        attr.size += node != "/"
        return attr


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_only_reads_is_judged_by_what_it_reads(mode: Mode) -> None:
    results = list(run(ReadOnly, mode, select(["reading", "rename"])))
    assert failed(results) == {}
    passed = [result for result in results if result.verdict.outcome is Outcome.PASSED]
    assert {result.check.group for result in passed} == {"reading"}
    left_out = {result.check.name: result.verdict.message for result in results} | {}
    assert left_out["rename-of-a-missing-name"] == "not implemented: create, rename"


@pytest.mark.parametrize("mode", MODES)
def test_a_size_that_cannot_be_read_is_found(mode: Mode) -> None:
    assert "size-is-what-can-be-read" in failed(run(WrongSize, mode, select(["reading"])))


@pytest.mark.parametrize("mode", MODES)
def test_a_server_without_mkdir_is_checked_in_its_root(mode: Mode) -> None:
    class Flat(MemFS):
        def operations(self) -> Any:
            return {name: op for name, op in super().operations().items() if name != "mkdir"}

    results = list(
        run(Flat, mode, select(["write-and-read-back", "rename-replaces-target", "chown"]))
    )
    assert [result.verdict.outcome for result in results] == [Outcome.PASSED] * 3


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_refuses_mkdir_fails_the_checks_of_mkdir_only(mode: Mode) -> None:
    class Flat(MemFS):
        def mkdir(self, dir: Any, name: str, attr: Any, cred: Any) -> puffs.Entry:
            raise OSError(errno.EPERM, "flat")

    names = ["write-and-read-back", "mkdir-mode", "chown"]
    assert list(failed(run(Flat, mode, select(names)))) == ["mkdir-mode"]


def test_what_only_a_mount_has_is_passed_over_in_process() -> None:
    assert list(run(MemFS, Mode.IN_PROCESS, select(["locks"]))) == []
