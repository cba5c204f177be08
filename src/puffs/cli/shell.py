"""`puffs shell`: a file system used by commands, in this process, with nothing mounted."""

import os
import re
import shlex
import sys
from typing import Final

import click

import puffs
from puffs.attach.fuse.trace import shown_text
from puffs.cli.shell_commands import COMMANDS, HOST_PREFIX, Files, Leave, UsageError
from puffs.cli.spec import parse_spec
from puffs.server.errors import explain

FAILED: Final = 1
MISUSED: Final = 2
NOT_FOUND: Final = 127
"""Exit statuses of commands: it could not, it was called wrongly, there is none of that name."""


@click.command()
@click.argument("spec", metavar="SPEC")
@click.option(
    "-c",
    "lines",
    metavar="COMMANDS",
    multiple=True,
    help="Run these, separated by ;, and end; may be given several times.",
)
def shell(spec: str, lines: tuple[str, ...]) -> None:
    """Use the file system SPEC in this process, with nothing mounted.

    The commands are ls, cat, cp, tree, stat, find, rm, mkdir, mv, write, snapshot, cd, pwd, help
    and exit; help tells how each is called. For cp and snapshot, a path host:PATH is one of this
    machine. With -c, and where commands come from a file or a pipe, the exit status is that of the
    last command that has failed, or 0.

    \b
    Examples:
      puffs shell mem:
      puffs shell null:/etc -c 'tree /apt; cat /hostname'
      puffs shell ./hello.py:Hello -c 'cp -r / host:/tmp/copy'
    """
    with puffs.local(parse_spec(spec).factory) as vfs:
        session = Session(Files(vfs))
        terminal = not lines and sys.stdin.isatty()
        if not lines:
            session.interact(spec, terminal)
        for line in lines:
            if not session.run(line):
                break
        sys.exit(0 if terminal else session.failed)


class Session:
    """One run of the shell. `failed` is the status of the last command that has failed, or 0."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.failed = 0

    def run(self, line: str) -> bool:
        """Run the commands of a line, one after the other, also when one fails.

        False when one of them was `exit`, which ends the line.
        """
        try:
            commands = split(line)
        except ValueError as exc:
            self._complain(f"puffs: {exc}", MISUSED)
            return True
        try:
            for name, *arguments in commands:
                self._run(name, arguments)
        except Leave:
            return False
        return True

    def interact(self, title: str, terminal: bool) -> None:
        """Read and run lines until the end of the input, or `exit`."""
        if terminal:
            _edit_lines(self)
            print(f"{title}: `help` lists the commands, ^D ends")
        while True:
            try:
                if not self.run(input(f"{self.files.cwd}> " if terminal else "")):
                    return
            except EOFError:
                if terminal:
                    print()
                return
            except KeyboardInterrupt:
                print()

    def _run(self, name: str, arguments: list[str]) -> None:
        command = COMMANDS.get(name)
        if command is None:
            self._complain(f"{name}: no such command: `help` lists them", NOT_FOUND)
            return
        try:
            command.run(self.files, command.parser.parse_args(arguments))
            sys.stdout.flush()
        except UsageError as exc:
            self._complain(f"{name}: {exc}", MISUSED)
        except BrokenPipeError:  # as in `puffs shell ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Leave from None
        except (OSError, ValueError) as exc:
            self._complain(f"{name}: {explain(exc)}", FAILED)

    def _complain(self, text: str, status: int) -> None:
        self.failed = status
        sys.stdout.flush()
        print(shown_text(text), file=sys.stderr)

    def completions(self, line: str) -> list[str]:
        """What the last word of a line may become: a command, or a path."""
        before, _, word = re.split(r"[;\n]", line)[-1].lstrip().rpartition(" ")
        if not before:
            return [f"{name} " for name in COMMANDS if name.startswith(word)]
        start = word.removeprefix(HOST_PREFIX).rpartition("/")[2]
        head = word[: len(word) - len(start)]
        try:
            place = self.files.place(head or ".")
            names = sorted(place.side.listdir(place.path))
            return [
                shlex.quote(head + name)
                + ("/" if place.side.isdir(place.below(name).path) else " ")
                for name in names
                if name.startswith(start)
            ]
        except OSError:
            return []


def split(line: str) -> list[list[str]]:
    """The commands of a line, each as its words. Raises `ValueError` for a quote without an end."""
    pieces, quote, escaped, begin = [], "", False, 0
    for at, char in enumerate(line):
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in ";\n":
            pieces.append(line[begin:at])
            begin = at + 1
    return [words for piece in (*pieces, line[begin:]) if (words := shlex.split(piece))]


def _edit_lines(session: Session) -> None:
    """Have the terminal's lines edited, kept and completed, where Python can do that."""
    try:
        import readline
    except ImportError:
        return

    def complete(_text: str, state: int) -> str | None:
        found = session.completions(readline.get_line_buffer()[: readline.get_endidx()])
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n;")
    readline.parse_and_bind("tab: complete")
