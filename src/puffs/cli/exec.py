"""`puffs exec`."""

import sys

import click

from puffs.attach.private import NOT_EXECUTABLE, NOT_FOUND, execute
from puffs.cli.spec import SpecError, maker_of


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option(
    "-m",
    "mounts",
    metavar="SPEC:DIR",
    multiple=True,
    required=True,
    help="Mount SPEC on DIR; may be given several times.",
)
@click.argument("command", metavar="-- COMMAND", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(mounts: tuple[str, ...], command: tuple[str, ...]) -> None:
    """Run COMMAND where SPEC is mounted on DIR; nobody else sees the mount.

    Needs neither root nor fusermount3: it makes a private namespace, in which users and groups
    other than your own are shown as nobody. Its exit status is that of COMMAND, signals are passed
    on, and the file systems end with it. SPEC may hold colons, DIR may not.

    \b
    Examples:
      puffs exec -m mem:/mnt -- sh -c 'echo hi > /mnt/f && cat /mnt/f'
      puffs exec -m 'mem:?size=1G:build' -m ./hello.py:Hello:/mnt -- make
    """
    pairs = [split_mount(text) for text in mounts]
    try:
        sys.exit(execute("puffs", [(maker_of(spec), place) for spec, place in pairs], command))
    except (FileNotFoundError, PermissionError) as exc:
        if exc.filename != command[0]:
            raise
        print(f"puffs: {exc.filename}: {exc.strerror}", file=sys.stderr)
        sys.exit(NOT_FOUND if isinstance(exc, FileNotFoundError) else NOT_EXECUTABLE)


def split_mount(text: str) -> tuple[str, str]:
    """Split ``SPEC:DIR`` at the last colon; ``mem:DIR`` is short for ``mem::DIR``."""
    spec, _, directory = text.rpartition(":")
    if not spec or not directory:
        raise SpecError(f"{text!r} names no directory: write -m SPEC:DIR")
    place, mark, arguments = spec.partition("?")
    return (spec if ":" in place else f"{place}:{mark}{arguments}"), directory
