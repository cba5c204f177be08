"""Servers as the tables of `trips` and `trees` name them, and how they come to be mounted."""

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import BenchmarkError, mounted
from benchmarks.programs import HERE, PEER_PYTHON, why_missing
from puffs.attach.fuse import compiled

PLAIN_PYTHON = ["env", f"{compiled.PURE}=1", sys.executable, "-m"]
COMPILED_PYTHON = ["env", f"{compiled.PURE}=0", sys.executable, "-m"]
PATHS = [PEER_PYTHON, "-m", "benchmarks.peer_paths"]
PROVIDED = [sys.executable, "-m", "puffs.refuse", "--"]  # the library is that of puffs
INODES = [PEER_PYTHON, "-m", "benchmarks.peer_inodes"]


class Server(NamedTuple):
    """A server; {build}, {backing} and {mountpoint} in its words are directories."""

    command: list[str]  # empty: nothing is mounted, and the backing directory itself is used
    prepare: Callable[[Path], None] | None = None  # called with {build} before
    inside: str = "{mountpoint}"  # where it shows the backing directory, or files of its own


def ours(program: str) -> str:
    """The name of a program's twin on puffs."""
    return f"{program} on puffs"


def need_compiled(build: Path) -> None:
    """Raise BenchmarkError when there is no compiled loop."""
    if compiled.module() is None:
        raise BenchmarkError("no compiled loop: no C compiler was at hand as puffs was installed")


def mount_all(
    stack: ExitStack,
    servers: Mapping[str, Server],
    names: Iterable[str],
    build: Path,
    part: str,
    missing: dict[str, str],
    store: Path | None = None,
) -> dict[str, Path]:
    """Mount some servers until `stack` ends; return where the files of each are.

    Backing directories are made in `store`. Why a server does not mount goes into `missing`.
    """
    places = {}
    for name in names:
        server = servers[name]
        mountpoint = build / f"{part}-{name}"
        where = {"build": build, "mountpoint": mountpoint}
        if store is not None:
            where["backing"] = store / f"backing-{name}"
            where["backing"].mkdir()
        try:
            if server.prepare:
                server.prepare(build)
            if server.command:
                command = [word.format_map(where) for word in server.command]
                stack.enter_context(mounted(command, mountpoint, HERE.parent))
        except BenchmarkError as error:
            missing[name] = why_missing(name, str(error))
        else:
            places[name] = Path(server.inside.format_map(where))
    return places
