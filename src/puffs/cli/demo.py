"""`puffs demo`: a file system written in Python, mounted, put to use and verified."""

import errno
import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console

import puffs
from puffs.attach.child import ChildMount
from puffs.attach.fuse.stats import count_requests
from puffs.cli.demo_places import Host, InProcess, Place, StepError, pack
from puffs.cli.demo_show import Show
from puffs.cli.demo_tree import (
    Tree,
    describe,
    differences,
    gather,
    largest_directory,
    part,
    rest,
)
from puffs.fs.mem import MemFS
from puffs.server.errors import explain
from puffs.server.operations import Operations

SHOWN = 10
"""How many differences are listed at most."""

_SHUT = (errno.ENOENT, errno.EISDIR, errno.ENODEV, errno.ENXIO, errno.EACCES, errno.EPERM)
"""A `MountError` with these says that nothing can be mounted here: the mount point does exist."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
def demo() -> None:
    """Mount a file system written in Python, use it, verify it.

    Unpacks this interpreter's standard library into `mem:`, with tar and again with cp, compares
    every file with the source, renames and removes a part. Where nothing can be mounted it does the
    same without a mount. The last line is `demo: ok (mounted)`, `demo: ok (in process)` or
    `demo: FAILED`.
    """
    for number in _ENDING:
        signal.signal(number, _end)
    show = Show(Console(highlight=False))
    try:
        with _temporary_directory() as directory:
            how, problems = perform(directory, show)
    except (OSError, StepError) as exc:
        how, problems = "", [explain(exc)]
    for problem in problems[:SHOWN]:
        show.say(problem)
    if len(problems) > SHOWN:
        show.say(f"and {len(problems) - SHOWN} more")
    show.say("demo: FAILED" if problems else f"demo: ok ({how})")
    sys.exit(bool(problems))


def _end(number: int, _frame: FrameType | None) -> None:
    """End the program from where it is: on the way out everything is given back."""
    _never_mind_signals()
    sys.exit(128 + number)


def _never_mind_signals() -> None:
    """What is being given back shall not be interrupted."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    directory = tempfile.mkdtemp(prefix="puffs-demo-")
    try:
        yield Path(directory)
    finally:
        _never_mind_signals()
        shutil.rmtree(directory)


def perform(directory: Path, show: Show) -> tuple[str, list[str]]:
    """Do the work, with `directory` for its files; return where it was done and what is wrong."""
    try:
        # Before any progress is shown: a process that forks should have no other threads.
        with show.step("mount"):
            mount, counts = _mount(directory)
    except puffs.MountError as exc:
        if exc.errno not in _SHUT:
            raise
        show.say(f"{exc}\n\nGoing on without a mount, in this process.")
        server = _InProcess()
        with puffs.local(server) as vfs:
            problems = exercise(InProcess(vfs), directory, show)
        show.times()
        show.requests("the file server was asked for", server.counts)
        return "in process", problems
    with mount:
        show.say(f"mem: is mounted on {mount.mountpoint}, served by process {mount.pid}")
        problems = exercise(Host(Path(mount.mountpoint)), directory, show)
        with show.step("unmount"):
            mount.unmount()
    show.times()
    requests = Counter[str](json.loads(counts.read_text()))
    show.requests("the kernel asked for", requests)
    if not requests["CREATE"]:
        problems.append("the kernel asked for too little: the work was not done on the mount")
    return "mounted", problems


def exercise(place: Place, directory: Path, show: Show) -> list[str]:
    """Fill `place` with a real tree, twice, change it, and return what is not as it should be."""
    source, archive = directory / "source", directory / "source.tar"
    with show.progress():
        with show.step("gather the standard library") as tick:
            gather(source, tick)
        with show.step("read it") as tick:
            tree = describe(Host(source), ".", tick)
        with show.step("tar -c", tree) as tick:
            pack(source, archive, tick)
        with show.step(place.unpacking, tree) as tick:
            place.unpack(archive, "tar", tick)
        with show.step(place.copying, tree) as tick:
            place.copy(source, "cp", tick)
        return [
            *_compare(place, "tar", tree, show),
            *_compare(place, "cp", tree, show),
            *_change(place, "cp", tree, show),
        ]


def _compare(place: Place, top: str, expected: Tree, show: Show) -> list[str]:
    with show.step(f"compare what {top} made", expected) as tick:
        return [f"{top}: {line}" for line in differences(expected, describe(place, top, tick))]


def _change(place: Place, top: str, tree: Tree, show: Show) -> list[str]:
    """Rename and remove the largest part of a copy."""
    name = largest_directory(tree)
    branch, remains = part(tree, name), rest(tree, name)
    old, new = f"{top}/{name}", f"{top}/renamed"
    with show.step(f"rename {name}"):
        place.rename(old, new)
    with show.step("compare it under its new name", branch) as tick:
        problems = [f"renamed: {line}" for line in differences(branch, describe(place, new, tick))]
    with show.step("remove it", branch) as tick:
        place.rmtree(new, tick)
    with show.step("compare what remains", remains) as tick:
        left = rest(describe(place, top, tick), name)
    return problems + [f"{top}, after a removal: {line}" for line in differences(remains, left)]


def _mount(directory: Path) -> tuple[ChildMount, Path]:
    """Mount `mem` from a child process, which leaves its counts of requests in a file."""
    mountpoint, counts = directory / "mnt", directory / "requests.json"
    mountpoint.mkdir(exist_ok=True)
    requests: Counter[str] = Counter()
    mount = puffs.mount(
        partial(_Mounted, requests, counts),
        mountpoint,
        "auto_unmount",
        process=True,
        on_table=partial(count_requests, counts=requests),
    )
    return mount, counts


class _Mounted(MemFS):
    """`mem`, reporting `requests` to a file in the end."""

    def __init__(self, requests: Counter[str], report: Path) -> None:
        super().__init__()
        self._requests = requests
        self._report = report

    def unmounted(self) -> None:
        self._report.write_text(json.dumps(self._requests))


class _InProcess(MemFS):
    """`mem`, counting its operations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def operations(self) -> Operations:
        return {name: self._counted(name, call) for name, call in super().operations().items()}

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def counted(*args: Any) -> Any:
            self.counts[name] += 1
            return call(*args)

        return counted
