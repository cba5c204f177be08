"""A real tree of files for the demo: gathered, described, compared."""

import os
import shutil
import stat
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

Tick = Callable[[], object]
"""Called for each file or directory that a step has dealt with."""

LEFT_OUT = ("*-packages", "config-*")
"""Of the standard library: what has been installed, and what is for linking with C programs."""
BYTE_CODE = "__pycache__"
ENOUGH = 2000
"""With fewer files than this, which is a trimmed Python, the byte code comes along too."""

TOP = "."


class Readable(Protocol):
    """Where files are: calls as those of `os`, with paths relative to a root."""

    def lstat(self, path: str) -> os.stat_result:
        """Attributes; a symbolic link is not followed."""
        ...

    def listdir(self, path: str) -> list[str]:
        """The names in a directory."""
        ...

    def readlink(self, path: str) -> str:
        """The target of a symbolic link."""
        ...

    def checksum(self, path: str) -> str:
        """The checksum of what is in a file."""
        ...


class Entry(NamedTuple):
    """What must be the same in a copy. `content`: a checksum, the target of a link, or empty."""

    mode: int
    mtime_ns: int
    size: int
    content: str


Tree = dict[str, Entry]
"""Entries by path, relative to the top, which is `TOP` itself."""


def gather(destination: Path, tick: Tick) -> None:
    """Copy the standard library of this interpreter to `destination`, with links to its packages.

    A copy stays as it is while the demo looks at it, and `cp` need not be told what to leave out.
    """

    def copy(source: str, target: str) -> None:
        shutil.copy2(source, target, follow_symlinks=False)
        tick()

    for left_out in ((*LEFT_OUT, BYTE_CODE), LEFT_OUT):
        shutil.rmtree(destination, ignore_errors=True)
        shutil.copytree(
            sysconfig.get_path("stdlib"),
            destination,
            symlinks=True,
            ignore=shutil.ignore_patterns(*left_out),
            copy_function=copy,
        )
        if sum(len(files) for _, _, files in os.walk(destination)) >= ENOUGH:
            break
    packages = [path.name for path in destination.iterdir() if path.is_dir()]
    links = destination / "links"
    links.mkdir()
    for name in packages:
        (links / name).symlink_to(os.path.join(os.pardir, name))


def below(top: str, path: str) -> str:
    """Join a directory and a path in a tree, which may be `TOP`."""
    return top if path == TOP else f"{top}/{path}"


def walk(place: Readable, top: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and attributes of `top` and of all below it, a directory before its contents."""
    todo = [TOP]
    while todo:
        path = todo.pop()
        status = place.lstat(below(top, path))
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            todo.extend(
                name if path == TOP else f"{path}/{name}"
                for name in place.listdir(below(top, path))
            )


def describe(place: Readable, top: str, tick: Tick) -> Tree:
    """Read everything below `top`, the contents too."""
    tree: Tree = {}
    for path, status in walk(place, top):
        content, size = "", 0
        if stat.S_ISREG(status.st_mode):
            size = status.st_size
            content = place.checksum(below(top, path))
        elif stat.S_ISLNK(status.st_mode):
            content = place.readlink(below(top, path))
        tree[path] = Entry(status.st_mode, status.st_mtime_ns, size, content)
        tick()
    return tree


def largest_directory(tree: Tree) -> str:
    """The directory at the top of `tree` with the most entries below it."""
    first = [path.split("/")[0] for path in tree if "/" in path]
    return max(first, key=first.count)


def part(tree: Tree, directory: str) -> Tree:
    """What is in `directory`, as a tree of its own."""
    inside = {
        path.removeprefix(directory + "/"): entry
        for path, entry in tree.items()
        if path.startswith(directory + "/")
    }
    return {TOP: tree[directory], **inside}


def rest(tree: Tree, directory: str) -> Tree:
    """What is left when `directory` is taken away; not the top, whose times that changes."""
    gone = (TOP, directory)
    return {
        path: entry
        for path, entry in tree.items()
        if path not in gone and not path.startswith(directory + "/")
    }


def differences(expected: Tree, found: Tree) -> list[str]:
    """What is not as expected: a line for each path and thing."""
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        if path not in found:
            lines.append(f"{path} is missing")
        elif path not in expected:
            lines.append(f"{path} should not be there")
        else:
            for name, wanted, got in zip(Entry._fields, expected[path], found[path], strict=True):
                if got != wanted:
                    form = "#o" if name == "mode" else ""
                    lines.append(f"{path}: {name} is {got:{form}} instead of {wanted:{form}}")
    return lines
