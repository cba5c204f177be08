"""Programs of others, run as they are: with the library they were written for, and on puffs.

They are in an environment of their own, which `make test` makes (`.venv-refuse`), with those
libraries beside them, and without puffs.
"""

import os
import select
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from puffs.attach.fuse.mountinfo import find_mount
from tests.cli.commands import all_end, processes
from tests.fuse.conftest import give_back
from tests.needs import cannot

ENVIRONMENT: Final = Path(__file__).parents[3] / ".venv-refuse"
PYTHON: Final = ENVIRONMENT / "bin/python"
PUFFS: Final = (sys.executable, "-m", "puffs", "refuse")
SECONDS: Final = 60

Words = Sequence[str | Path]
Serve = Callable[[Words], Words]
"""From the command of a program to the one that is run."""


def program(name: str) -> Path:
    """A program of that environment."""
    path = ENVIRONMENT / "bin" / name
    if not path.exists():
        cannot(f"{name} is missing: `make test` installs it, and tells why it could not")
    return path


def module(name: str) -> list[str | Path]:
    """The words that run a module of that environment."""
    if not any(ENVIRONMENT.glob(f"lib/python*/site-packages/{name.partition('.')[0]}*")):
        cannot(f"{name} is missing: `make test` installs it, and tells why it could not")
    return [PYTHON, "-m", name]


def stock(words: Words) -> Words:
    """With the library that the program was written for."""
    return words


def on_puffs(words: Words) -> Words:
    """The same program with `puffs refuse` in front."""
    return [*PUFFS, "--", *words]


WITHOUT_LIBFUSE: Final = "PUFFS_WITHOUT_LIBFUSE"
"""Set in the environment of tests that run where libfuse cannot be found."""

SIDES: Final = (on_puffs,) if WITHOUT_LIBFUSE in os.environ else (stock, on_puffs)
EACH_SIDE: Final = pytest.mark.parametrize("serve", SIDES)


@contextmanager
def on_each_side(words: Words, directory: Path, **how: Any) -> Iterator[list[Path]]:
    """Mount a program with its library and on puffs at once, by `mounted`, in that directory.

    The last of `words` is to be the mount point.
    """
    with ExitStack() as stack:
        mountpoints = [directory / serve.__name__ for serve in SIDES]
        for serve, mountpoint in zip(SIDES, mountpoints, strict=True):
            mountpoint.mkdir()
            stack.enter_context(mounted(serve([*words, mountpoint]), mountpoint, **how))
        yield mountpoints


@contextmanager
def mounted(
    words: Words,
    mountpoint: Path,
    *,
    leave: Words = (),
    complains: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Run a program that mounts there, in the foreground or not; unmount it at the end (`leave`).

    All processes with the mount point in their command lines must end by that, without a traceback
    unless the program `complains`.
    """
    log = mountpoint.parent / f"{mountpoint.name}.log"
    with log.open("w") as messages:
        process = subprocess.Popen(
            [*map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            env={**os.environ, "PYTHONHASHSEED": "0", **(environment or {})},
        )
    try:
        _wait_until_mounted(mountpoint, process, log)
        # Only a process that is on puffs has none of libfuse in its memory.
        libfuse = any("/libfuse" in maps for maps in _maps(mountpoint))
        assert libfuse == (words[: len(PUFFS)] != [*PUFFS]), log.read_text()
        with all_end(mountpoint):
            yield mountpoint
            leave = leave or ["umount", mountpoint]
            subprocess.run([*map(str, leave)], check=True, timeout=SECONDS)
        process.wait(SECONDS)
    finally:
        give_back(mountpoint)
        process.kill()
        process.wait()
    assert complains or "Traceback" not in log.read_text(), log.read_text()


def _maps(mountpoint: Path) -> Iterator[str]:
    for pid in processes(mountpoint):
        try:
            yield Path(f"/proc/{pid}/maps").read_text()
        except OSError:  # it has just ended
            continue


def _wait_until_mounted(mountpoint: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    descriptor = os.pidfd_open(process.pid)
    try:
        with open("/proc/self/mountinfo", errors="surrogateescape") as table:
            changes = select.poll()
            changes.register(table, select.POLLPRI)
            changes.register(descriptor, select.POLLIN)
            while find_mount(str(mountpoint)) is None:
                ready = changes.poll(SECONDS * 1000)
                assert ready, f"nothing was mounted within {SECONDS} s\n{log.read_text()}"
                if any(fd == descriptor for fd, _ in ready):
                    changes.unregister(descriptor)  # it may have left a daemon
                    assert process.wait() == 0, log.read_text()
                table.seek(0)
                table.read()
        # Answered by each program: some have no statfs.
        subprocess.run(["stat", str(mountpoint)], check=True, stdout=subprocess.DEVNULL)
    finally:
        os.close(descriptor)


def seen(root: Path, *without: str) -> dict[str, Any]:
    """All that can be read below a directory: names in their order, attributes, contents.

    An error is an answer like another. Times of access are left out, for reading moves them; so
    are the times of the root, those of mounting for many programs, and the fields `without`.
    """
    fields = [name for name in FIELDS if name not in without]
    found: dict[str, Any] = {"": _attributes(str(root), FIELDS[: -len(TIMES)])}
    for directory, directories, files in os.walk(root):
        here = os.path.relpath(directory, root)
        found[f"{here}/"] = os.listdir(directory)
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            found[f"{here}/{name}"] = [
                _answer(_attributes, path, fields),
                _answer(_contents, path),
                _answer(_xattrs, path),
            ]
    return found


TIMES: Final = ("st_mtime_ns", "st_ctime_ns")
FIELDS: Final = (
    *("st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blocks"),
    *TIMES,
)


def _answer(ask: Callable[..., Any], *args: Any) -> Any:
    try:
        return ask(*args)
    except OSError as exc:
        return exc.errno


def _attributes(path: str, fields: Sequence[str]) -> dict[str, int]:
    status = os.lstat(path)
    return {name: getattr(status, name) for name in fields}


def _contents(path: str) -> bytes | str | None:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    return Path(path).read_bytes() if stat.S_ISREG(mode) else None


def _xattrs(path: str) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def same(one: Path, other: Path) -> None:
    """Both have the same names and contents, as diff(1) sees them."""
    command = ["diff", "-r", "--no-dereference", str(one), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (0, ""), (done.stdout + done.stderr)[:2000]


def make_tree(root: Path) -> Path:
    """A small tree with something of everything that archives hold."""
    (root / "directory/below").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o750)
    (root / "hello.txt").write_text("Hello!\n")
    (root / "nothing").touch()
    (root / "directory/below/large").write_bytes(bytes(range(256)) * (3 << 12))
    (root / "directory/größe 日本").write_text("a name that is not ASCII\n")
    (root / "directory/program").write_text("#!/bin/sh\nexit 0\n")
    (root / "directory/program").chmod(0o755)
    (root / "directory/secret").write_bytes(b"\0" * 5000)
    (root / "directory/secret").chmod(0o600)
    (root / "link").symlink_to("directory/below/large")
    (root / "dangling").symlink_to("/there/is/no/such")
    os.link(root / "hello.txt", root / "directory/the same")
    for number, path in enumerate(sorted(root.rglob("*"))):
        when = (1_600_000_000 + number) * 10**9 + 123_456_789
        os.utime(path, ns=(when, when), follow_symlinks=False)
    return root
