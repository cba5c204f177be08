"""`puffs shell`: a file system used by commands, in this process, with nothing mounted."""

import os
import posixpath
import shlex
import sys
from typing import Final

import click

import puffs
from puffs.attach.main import explain
from puffs.cli.shell_commands import COMMANDS, HOST_PREFIX, Files, Leave, UsageError
from puffs.cli.spec import parse_spec

FAILED: Final = 1
MISUSED: Final = 2
NOT_FOUND: Final = 127
"""Exit statuses of commands: it could not, it was called wrongly, there is none of that name."""


@click.command()
@click.argument("spec", metavar="SPEC")
@click.option("-c", "line", metavar="COMMANDS", help="Run these, separated by ;, and end.")
def shell(spec: str, line: str | None) -> None:
    """Use the file system SPEC in this process, with nothing mounted.

    The commands are ls, cat, cp, tree, stat, find, rm, mkdir, mv, write, cd, pwd, help and exit;
    help tells how each is called. For cp, a path host:PATH is one of this machine. With -c the exit
    status is that of the last command that has failed, or 0.

    \b
    Examples:
      puffs shell mem:
      puffs shell null:/etc -c 'tree /apt; cat /hostname'
      puffs shell ./hello.py:Hello -c 'cp -r / host:/tmp/copy'
    """
    with puffs.local(parse_spec(spec).factory) as vfs:
        session = Session(Files(vfs))
        if line is not None:
            session.run(line)
            sys.exit(session.failed)
        session.interact(spec)


class Session:
    """One run of the shell. `failed` is the status of the last command that has failed, or 0."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.failed = 0

    def run(self, line: str) -> None:
        """Run the commands of a line, one after the other, also when one fails.

        Raises `Leave`... never: `exit` ends the line.
        """
        try:
            commands = split(line)
        except ValueError as exc:
            self._complain("puffs", str(exc), MISUSED)
            return
        try:
            for words in commands:
                self._run(words)
        except Leave:
            return

    def interact(self, title: str) -> None:
        """Read and run lines until the end of the input, or `exit`."""
        terminal = sys.stdin.isatty()
        if terminal:
            self._complete()
            print(f"{title}: `help` lists the commands, ^D ends")
        while True:
            try:
                line = input(f"{self.files.cwd}> " if terminal else "")
            except EOFError:
                break
            except KeyboardInterrupt:
                print()
                continue
