"""The commands of `puffs shell`. Each takes the shell and its arguments, and raises what fails."""

import argparse
import errno
import fnmatch
import os
import posixpath
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from puffs.attach.fuse.trace import shown_text
from puffs.cli.copying import HOST, Place, copy

if TYPE_CHECKING:
    from puffs.attach.local.vfs import LocalFileSystem

HOST_PREFIX: Final = "host:"
"""What begins a path of the host."""


class UsageError(ValueError):
    """A command was called in a way that makes no sense."""


class Leave(Exception):
    """The user wants to go."""


class Files:
    """What commands work on: the file system, and the directory that relative paths start from."""

    def __init__(self, vfs: "LocalFileSystem") -> None:
        self.vfs = vfs
        self.cwd = "/"

    def path(self, text: str) -> str:
        """A path within the file system, absolute."""
        if text.startswith(HOST_PREFIX):
            raise UsageError(f"{text} is a path of the host: only cp and snapshot take those")
        return posixpath.join(self.cwd, text)

    def place(self, text: str) -> Place:
        """A path, perhaps of the host."""
        if text.startswith(HOST_PREFIX):
            return Place(HOST, os.path.expanduser(text.removeprefix(HOST_PREFIX)), text)
        return Place(self.vfs, self.path(text), text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}: {' '.join(self.format_usage().split())}")


class Command(NamedTuple):
    """A command: what it does, how it is called, how its arguments are read."""

    run: Callable[[Files, Any], None]
    about: str
    parser: argparse.ArgumentParser


COMMANDS: dict[str, Command] = {}
"""By name, in the order in which `help` lists them."""

_Argument = tuple[tuple[str, ...], dict[str, Any]]


def _argument(*names: str, **settings: Any) -> _Argument:
    return names, settings


def _command(
    name: str, about: str, *arguments: _Argument
) -> Callable[[Callable[[Files, Any], None]], Callable[[Files, Any], None]]:
    parser = _Parser(name, description=about, add_help=False)
    for names, settings in arguments:
        parser.add_argument(*names, **settings)

    def enter(run: Callable[[Files, Any], None]) -> Callable[[Files, Any], None]:
        COMMANDS[name] = Command(run, about, parser)
        return run

    return enter


_PATHS: Final = _argument("paths", metavar="PATH", nargs="+")


@_command(
    "ls",
    "list a directory",
    _argument("-l", dest="long", action="store_true"),
    _argument("paths", metavar="PATH", nargs="*"),
)
def ls(files: Files, args: Any) -> None:
    """List directories, or name files; with -l their attributes too."""
    many = len(args.paths) > 1
    for number, text in enumerate(args.paths or [files.cwd]):
        path = files.path(text)
        found = files.vfs.lstat(path)
        if stat.S_ISLNK(found.st_mode) and not args.long and files.vfs.isdir(path):
            found = files.vfs.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            _rows(files, [(text, path)], args.long)
            continue
        if many:
            print(("\n" if number else "") + f"{shown_text(text)}:")
        names = sorted(files.vfs.listdir(path))
        _rows(files, [(name, posixpath.join(path, name)) for name in names], args.long)


def _rows(files: Files, entries: list[tuple[str, str]], long: bool) -> None:
    if not long:
        for name, _ in entries:
            print(shown_text(name))
        return
    rows = []
    for name, path in entries:
        st = files.vfs.lstat(path)
        if stat.S_ISLNK(st.st_mode):
            name = f"{shown_text(name)} -> {shown_text(files.vfs.readlink(path))}"
        device = stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode)
        size = f"{os.major(st.st_rdev)}, {os.minor(st.st_rdev)}" if device else str(st.st_size)
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(st.st_mtime))
        owner = str(st.st_uid), str(st.st_gid)
        mode = stat.filemode(st.st_mode)
        rows.append((mode, str(st.st_nlink), *owner, size, when, shown_text(name)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for mode, *numbers, when, name in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:5], strict=True)]
        print(mode, *cells, when, name)


@_command("cat", "print files", _PATHS)
def cat(files: Files, args: Any) -> None:
    """Print files, as the bytes that they are."""
    sys.stdout.flush()
    for text in args.paths:
        with files.vfs.open(files.path(text), "rb") as stream:
            while data := stream.read(1 << 20):
                sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@_command(
    "cp",
    f"copy files; {HOST_PREFIX}PATH is one of the host",
    _argument("-r", dest="recursive", action="store_true"),
    _argument("sources", metavar="SOURCE", nargs="+"),
    _argument("target", metavar="TARGET"),
)
def cp(files: Files, args: Any) -> None:
    """Copy files or, with -r, directories: within the file system, out of it or into it."""
    target = files.place(args.target)
    if len(args.sources) > 1 and not target.side.isdir(target.path):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), args.target)
    for text in args.sources:
        copy(files.place(text), target, recursive=args.recursive)


@_command("tree", "show a directory and all below", _argument("path", nargs="?", metavar="PATH"))
def tree(files: Files, args: Any) -> None:
    """Show a directory and all below it."""
    top = args.path or files.cwd
    path = files.path(top)
    counts = [0, 0]

    def below(path: str, margin: str) -> None:
        names = sorted(files.vfs.listdir(path))
        for name in names:
            last = name == names[-1]
            child = posixpath.join(path, name)
            mode = files.vfs.lstat(child).st_mode
            target = f" -> {files.vfs.readlink(child)}" if stat.S_ISLNK(mode) else ""
            print(margin + ("└── " if last else "├── ") + shown_text(name + target))
            counts[0 if stat.S_ISDIR(mode) else 1] += 1
            if stat.S_ISDIR(mode):
                below(child, margin + ("    " if last else "│   "))

    files.vfs.listdir(path)  # before anything is printed
    print(shown_text(top))
    below(path, "")
    directories, others = counts
    print(
        f"\n{directories} director{'y' if directories == 1 else 'ies'}, "
        f"{others} file{'' if others == 1 else 's'}"
    )


_KINDS: Final = {
    stat.S_IFREG: "regular file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@_command("stat", "show attributes", _PATHS)
def stat_(files: Files, args: Any) -> None:
    """Show all attributes of files, links not followed."""
    for text in args.paths:
        path = files.path(text)
        st = files.vfs.lstat(path)
        kind = stat.S_IFMT(st.st_mode)
        name = shown_text(text)
        if kind == stat.S_IFLNK:
            name += f" -> {shown_text(files.vfs.readlink(path))}"
        print(f"  File: {name}")
        print(f"  Type: {_KINDS.get(kind, 'unknown')}, inode {st.st_ino}, {st.st_nlink} link(s)")
        print(f"  Size: {st.st_size} bytes in {st.st_blocks} blocks of 512")
        mode = f"{stat.S_IMODE(st.st_mode):04o}/{stat.filemode(st.st_mode)}"
        print(f"Access: {mode}, uid {st.st_uid}, gid {st.st_gid}")
        for label, ns in (
            ("  Read", st.st_atime_ns),
            ("Change", st.st_ctime_ns),
            ("Modify", st.st_mtime_ns),
        ):
            seconds, rest = divmod(ns, 10**9)
            clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
            print(f"{label}: {clock}.{rest:09}")


_LETTERS: Final = {"f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK}


@_command(
    "find",
    "print the paths below a directory",
    _argument("path", nargs="?", metavar="PATH"),
    _argument("-name", metavar="PATTERN"),
    _argument("-type", choices=sorted(_LETTERS)),
)
def find(files: Files, args: Any) -> None:
    """Print the paths below a directory whose names and types fit."""
    for path, mode in _walk(files, args.path or "."):
        name = posixpath.basename(path)
        if args.name is not None and not fnmatch.fnmatchcase(name, args.name):
            continue
        if args.type is None or stat.S_IFMT(mode) == _LETTERS[args.type]:
            print(shown_text(path))


def _walk(files: Files, top: str) -> Iterator[tuple[str, int]]:
    mode = files.vfs.lstat(files.path(top)).st_mode
    yield top, mode
    if stat.S_ISDIR(mode):
        for name in sorted(files.vfs.listdir(files.path(top))):
            yield from _walk(files, posixpath.join(top, name))


@_command("rm", "remove files", _argument("-r", dest="recursive", action="store_true"), _PATHS)
def rm(files: Files, args: Any) -> None:
    """Remove files or, with -r, directories and all below them."""
    for text in args.paths:
        path = files.path(text)
        if args.recursive and stat.S_ISDIR(files.vfs.lstat(path).st_mode):
            files.vfs.rmtree(path)
        else:
            files.vfs.remove(path)


@_command(
    "mkdir",
    "make directories",
    _argument("-p", dest="parents", action="store_true"),
    _PATHS,
)
def mkdir(files: Files, args: Any) -> None:
    """Make directories; with -p those above them too, and none that is there."""
    for text in args.paths:
        if args.parents:
            files.vfs.makedirs(files.path(text), exist_ok=True)
        else:
            files.vfs.mkdir(files.path(text))


@_command(
    "mv",
    "move or rename",
    _argument("sources", metavar="SOURCE", nargs="+"),
    _argument("target", metavar="TARGET"),
)
def mv(files: Files, args: Any) -> None:
    """Rename a file, or move files into a directory."""
    target = files.path(args.target)
    into = files.vfs.isdir(target)
    if len(args.sources) > 1 and not into:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), args.target)
    for text in args.sources:
        source = files.path(text)
        name = posixpath.basename(source.rstrip("/"))
        files.vfs.rename(source, posixpath.join(target, name) if into else target)


@_command(
    "write",
    "write a line of text, or what comes from the standard input, to a file",
    _argument("path", metavar="PATH"),
    _argument("words", metavar="TEXT", nargs="*"),
)
def write(files: Files, args: Any) -> None:
    """Make the words, and a newline, the contents of a file; without words, the standard input."""
    with files.vfs.open(files.path(args.path), "wb") as stream:
        if args.words:
            stream.write(os.fsencode(" ".join(args.words)) + b"\n")
            return
        while data := sys.stdin.buffer.read(1 << 20):
            stream.write(data)


@_command(
    "snapshot",
    f"save the whole file system to {HOST_PREFIX}PATH",
    _argument("destination", metavar=f"{HOST_PREFIX}PATH"),
)
def snapshot(files: Files, args: Any) -> None:
    """Save the whole file system to a path of the host."""
    place = files.place(args.destination)
    if place.side is not HOST:
        raise UsageError(f"it is saved to this machine: write {HOST_PREFIX}{args.destination}")
    files.vfs.snapshot(place.path)


@_command("cd", "go to a directory", _argument("path", metavar="PATH", nargs="?", default="/"))
def cd(files: Files, args: Any) -> None:
    """Go to a directory, from which relative paths then start."""
    path = posixpath.normpath(files.path(args.path))
    files.vfs.listdir(path)
    files.cwd = path


@_command("pwd", "print the directory that one is in")
def pwd(files: Files, _args: Any) -> None:
    """Print the directory that relative paths start from."""
    print(shown_text(files.cwd))


@_command("help", "list the commands", _argument("name", metavar="COMMAND", nargs="?"))
def help(_files: Files, args: Any) -> None:
    """List the commands, or tell how one is called."""
    if args.name is not None and args.name not in COMMANDS:
        raise UsageError(f"there is no command {args.name!r}")
    names = [args.name] if args.name else list(COMMANDS)
    usages = {name: " ".join(COMMANDS[name].parser.format_usage().split()[1:]) for name in names}
    width = max(map(len, usages.values()))
    for name, usage in usages.items():
        print(f"{usage:{width}}  {COMMANDS[name].about}")


@_command("exit", "leave")
def exit(_files: Files, _args: Any) -> None:
    """Leave the shell."""
    raise Leave
