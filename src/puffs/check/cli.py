"""`puffs check`: the battery, and random sequences, on the command line."""

import json
import math
import secrets
import sys
from collections.abc import Iterable, Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from puffs.attach.fuse.options import parse_options
from puffs.attach.isolating import ISOLATE
from puffs.check.registry import GROUPS, Check, select
from puffs.check.report import BAD, as_document, report
from puffs.check.result import Mode, Outcome, Result, Verdict
from puffs.check.runner import CannotStart, Limits, applicable, run
from puffs.check.worker import Factory
from puffs.cli.app import Failure
from puffs.cli.spec import maker_of, parse_spec

SEEDS = 1 << 32


@click.command(epilog=f"Groups of checks: {', '.join(GROUPS)}.")
@click.argument("spec", metavar="SPEC")
@click.option("--only", multiple=True, metavar="NAME", help="A group or a check; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
@click.option("--mounted", "modes", flag_value=Mode.MOUNTED, help="Only on a real mount.")
@click.option("--in-process", "modes", flag_value=Mode.IN_PROCESS, help="Only without a mount.")
@click.option(
    "-o",
    "options",
    metavar="OPTIONS",
    multiple=True,
    help="Mount options, as of `puffs mount`; repeatable.",
)
@click.option(ISOLATE, is_flag=True, help="Run the file server in a process of its own.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=Limits().seconds,
    show_default=True,
    metavar="SECONDS",
    help="How long one check may take; half of it may be CPU time.",
)
@click.option(
    "--random",
    "minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Random sequences of calls instead, compared with a directory of the host's own.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    metavar="NUMBER",
    help="With --random: begin with the sequences of this seed, which a search has printed.",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Show what the file server wrote, and all names."
)
def check(
    spec: str,
    only: tuple[str, ...],
    as_json: bool,
    modes: str | None,
    options: tuple[str, ...],
    isolate: bool,
    timeout: float,
    minutes: float | None,
    seed: int | None,
    verbose: bool,
) -> None:
    """Check what the file system SPEC does against what POSIX and Linux ask for.

    Each check works in a directory of its own, which is taken away at the end. Checks are left out
    that need operations which the file server does not implement. Without --mounted and
    --in-process it is checked both ways, mounted only where that can be done. The exit status is 1
    if any check failed.

    With --random, sequences of system calls are made up and carried out twice: on a mount of SPEC
    and in a temporary directory of this machine. Results, errors, contents, links, modes and
    listings must be the same. The first sequence that gives something else is made as short as it
    can be and printed as a Python script, and the exit status is 1.

    \b
    Examples:
      puffs check mem:
      puffs check ./hello.py:Hello --only reading -v
      puffs check mem: --only rename-replaces-target --mounted
      puffs check mem: --random 5 -o threads=3
      puffs check ./mine.py:Mine --random 1 > difference.py
    """
    parse_options(options)
    factory = maker_of(spec) if isolate else parse_spec(spec).factory
    joined = ",".join(options)
    if minutes is not None:
        if only or modes == Mode.IN_PROCESS:
            raise click.UsageError("--random is for all operations at once, and for mounts")
        seed = secrets.randbelow(SEEDS) if seed is None else seed
        sys.exit(_search(factory, joined, isolate, minutes * 60, seed, as_json))
    if seed is not None:
        raise click.UsageError("--seed goes with --random")
    checks = select(only)
    limits = Limits(timeout, math.ceil(timeout / 2))
    found = _run(factory, modes, checks, limits, joined, isolate)
    total = sum(len(applicable(checks, mode)) for mode in _modes(modes))
    results = list(_with_progress(found, total))
    if not results:
        raise Failure("there is nothing to check: this exists only on a mount (--mounted)")
    if as_json:
        click.echo(json.dumps(as_document(results), indent=1))
    else:
        report(results, Console(), verbose)
    if any(result.verdict.outcome in BAD for result in results):
        sys.exit(1)


def _modes(asked: str | None) -> list[Mode]:
    return [Mode(asked)] if asked else list(Mode)


def _run(
    factory: Factory,
    modes: str | None,
    checks: list[Check],
    limits: Limits,
    options: str,
    isolate: bool,
) -> Iterator[Result]:
    """The results, mode by mode. Checks on a mount that cannot be had are left out."""
    for mode in _modes(modes):
        try:
            yield from run(factory, mode, checks, limits, options=options, isolate=isolate)
        except CannotStart as exc:
            if modes or mode is Mode.IN_PROCESS:
                text = f"the file server cannot be checked {mode}: {exc}"
                raise Failure(f"{text}\n{exc.output}" if exc.output else text) from None
            verdict = Verdict(Outcome.LEFT_OUT, f"it cannot be mounted: {exc}")
            yield from (Result(check, mode, verdict) for check in checks)


def _with_progress(results: Iterable[Result], total: int) -> Iterator[Result]:
    """Show how far it is, on a terminal."""
    with _progress(MofNCompleteColumn()) as progress:
        task = progress.add_task("", total=total)
        for result in results:
            progress.update(task, advance=1, description=result.check.group, refresh=True)
            yield result


def _progress(last: MofNCompleteColumn | TextColumn) -> Progress:
    """A bar on a terminal. Drawn from here: threads and forks do not go together."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        last,
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    )


def _search(
    factory: Factory, options: str, isolate: bool, seconds: float, seed: int, as_json: bool
) -> int:
    """Look for a difference, tell what came of it. Returns the exit status."""
    try:
        from puffs.check.sequences import search
    except ModuleNotFoundError as exc:
        if exc.name != "hypothesis":
            raise
        raise Failure("--random needs hypothesis: pip install 'puffs[check]'") from exc
    with _progress(TextColumn("{task.fields[told]}")) as bar:
        task = bar.add_task("searching", total=seconds, told="")

        def tell(state: search.Progress) -> None:
            words = "shrinking" if state.shrinking else "searching"
            told = f"{state.sequences} sequences, {state.steps} calls"
            bar.update(task, description=words, completed=state.seconds, told=told, refresh=True)

        try:
            with search.searching(factory, options, isolate) as searched:
                found, state = searched.run(seconds, seed, tell)
        except CannotStart as exc:
            raise Failure(f"the file server cannot be searched: {exc}") from None
    script = found.script("Not the same on the mount.") if found else None
    figures = {
        "seed": state.seed,
        "sequences": state.sequences,
        "calls": state.steps,
        "seconds": round(state.seconds, 1),
    }
    said = ", ".join(f"{value} {name}" for name, value in list(figures.items())[1:])
    verdict = f"a difference; --seed {state.seed} finds it again" if found else "no difference"
    if as_json:
        output = found.output if found else ""
        click.echo(json.dumps({**figures, "script": script, "output": output}, indent=1))
    elif found:
        click.echo(script, nl=False)
        if found.output:
            click.echo(f"The file server wrote:\n{found.output}", err=True)
        click.echo(f"random: {said}: {verdict}", err=True)
    else:
        click.echo(f"random: {said}, seeds {seed} to {state.seed}: {verdict}")
    return 1 if found else 0
