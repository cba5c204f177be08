"""The group of commands: each is loaded when it is asked for."""

import sys
from importlib import import_module
from typing import IO, Any

import click

import puffs
from puffs.server.errors import explain

COMMANDS = {
    "mount": "puffs.cli.mount",
    "umount": "puffs.cli.umount",
    "list": "puffs.cli.list",
    "status": "puffs.cli.status",
    "trace": "puffs.cli.trace",
    "metrics": "puffs.cli.metrics",
    "sync": "puffs.cli.sync",
    "suspend": "puffs.cli.suspend",
    "resume": "puffs.cli.resume",
    "snapshot": "puffs.cli.snapshot",
    "shell": "puffs.cli.shell",
    "exec": "puffs.cli.exec",
    "refuse": "puffs.cli.refuse",
    "serve": "puffs.cli.serve",
    "mounter": "puffs.cli.mounter",
    "doctor": "puffs.cli.doctor",
    "check": "puffs.check.cli",
    "demo": "puffs.cli.demo",
}
"""Command to module. The command is the object of the same name there."""


class Failure(click.ClickException):
    """A command cannot do what it was asked for: one line on stderr, exit status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it as other programs do, under the name of this one."""
        print(f"puffs: {self.format_message()}", file=file or sys.stderr)


class Commands(click.Group):
    """A group that imports a command's module when the command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(import_module(module), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. What it raises for people becomes one line."""
        try:
            return super().invoke(ctx)
        except (OSError, ValueError) as exc:
            raise Failure(explain(exc)) from exc


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(puffs.__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Mount file systems that are written in Python.

    A SPEC names one, with arguments for it after a question mark, written as in a URL:

    \b
      mem:                               in memory
      mem:?size=64M&files=1000           the same, with limits
      mem:?image=/srv/x.img              the same, as puffs snapshot has saved it
      null:/srv/data                     a directory of this machine
      package.module:Class?key=value     a class of yours that can be imported
      ./file.py:Class?key=value          a class of yours in a file
      NAME:ARGUMENT?key=value            what a package has registered as NAME

    \b
    Examples:
      puffs demo
      puffs mount mem: /mnt/x
      puffs mount -f -o ro ./hello.py:Hello /mnt/hello
      puffs umount /mnt/x
    """
