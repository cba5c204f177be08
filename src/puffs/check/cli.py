"""`puffs check`: the battery on the command line."""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from puffs.check.registry import GROUPS, Check, select
from puffs.check.result import Mode, Outcome, Result, Verdict
from puffs.check.runner import NOT_IMPLEMENTED, CannotStart, Limits, applicable, run
from puffs.check.worker import Factory
from puffs.cli.app import Failure
from puffs.cli.spec import parse_spec

BAD = (Outcome.FAILED, Outcome.ERROR)
NAMES_SHOWN = 5
COLOURS = {Outcome.PASSED: "green", Outcome.FAILED: "red", Outcome.ERROR: "red"}


@click.command(epilog=f"Groups of checks: {', '.join(GROUPS)}.")
@click.argument("spec", metavar="SPEC")
@click.option("--only", multiple=True, metavar="NAME", help="A group or a check; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
@click.option("--mounted", "modes", flag_value=Mode.MOUNTED, help="Only on a real mount.")
@click.option("--in-process", "modes", flag_value=Mode.IN_PROCESS, help="Only without a mount.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=Limits().seconds,
    show_default=True,
    metavar="SECONDS",
    help="How long one check may take; half of it may be CPU time.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show what the file server wrote, too.")
def check(
    spec: str,
    only: tuple[str, ...],
    as_json: bool,
    modes: str | None,
    timeout: float,
    verbose: bool,
) -> None:
    """Check what the file system SPEC does against what POSIX and Linux ask for.

    Each check works in a directory of its own, which is taken away at the end. Checks are left out
    that need operations which the file server does not implement. Without --mounted and
    --in-process it is checked both ways, mounted only where that can be done. The exit status is 1
    if any check failed.

    \b
    Examples:
      puffs check mem:
      puffs check ./hello.py:Hello --only reading -v
      puffs check mem: --only rename-replaces-target --mounted
    """
    checks = select(only)
    factory = parse_spec(spec).factory
    found = _run(factory, modes, checks, Limits(timeout, math.ceil(timeout / 2)))
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
    factory: Factory, modes: str | None, checks: list[Check], limits: Limits
) -> Iterator[Result]:
    """The results, mode by mode. Checks on a mount that cannot be had are left out."""
    for mode in _modes(modes):
        try:
            yield from run(factory, mode, checks, limits)
        except CannotStart as exc:
            if modes or mode is Mode.IN_PROCESS:
                text = f"the file server cannot be checked {mode}: {exc}"
                raise Failure(f"{text}\n{exc.output}" if exc.output else text) from None
            verdict = Verdict(Outcome.LEFT_OUT, f"it cannot be mounted: {exc}")
            yield from (Result(check, mode, verdict) for check in checks)


def _with_progress(results: Iterable[Result], total: int) -> Iterator[Result]:
    """Show how far it is, on a terminal. Drawn from here: threads and forks do not go together."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns,
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=total)
        for result in results:
            progress.update(task, advance=1, description=result.check.group, refresh=True)
            yield result


# --------------------------------------------------------------------------------------- reporting


def report(results: list[Result], console: Console, verbose: bool = False) -> None:
    """Print the results: a table of the groups, what failed and why, what was left out and why."""
    console.print(_groups(results))
    bad = [result for result in results if result.verdict.outcome in BAD]
    if bad:
        console.print(_failures(bad))
    for result in bad if verbose else ():
        if result.output:
            console.print(Text(f"\n{result.check.name}, {result.mode}:", "bold"))
            console.print(Text(result.output, "dim"))
    if not verbose and any(result.output for result in bad):
        console.print("The file server has written something meanwhile: -v shows it.")
    left_out = [result for result in results if result.verdict.outcome is Outcome.LEFT_OUT]
    if left_out:
        console.print(_left_out(left_out))
    console.print(score(results))


def score(results: Iterable[Result]) -> str:
    """The last line."""
    count = Counter(result.verdict.outcome for result in results)
    words = [f"{count[outcome]} {outcome}" for outcome in Outcome if outcome is not Outcome.ERROR]
    if count[Outcome.ERROR]:
        words.append(f"{count[Outcome.ERROR]} could not be run")
    return f"check: {', '.join(words)}"


def as_document(results: list[Result]) -> dict[str, Any]:
    """The results for programs."""
    count = Counter(result.verdict.outcome for result in results)
    return {
        **{outcome.name.lower(): count[outcome] for outcome in Outcome},
        "checks": [
            {
                "name": result.check.name,
                "group": result.check.group,
                "rule": result.check.rule,
                "mode": result.mode,
                "outcome": result.verdict.outcome,
                "message": result.verdict.message,
                "where": result.verdict.where,
                "seconds": round(result.seconds, 3),
                "output": result.output,
            }
            for result in results
        ],
    }


def _groups(results: list[Result]) -> Table:
    modes = [mode for mode in Mode if any(result.mode is mode for result in results)]
    table = Table("group", *modes, box=box.SIMPLE_HEAD)
    for group in GROUPS:
        cells = []
        for mode in modes:
            count = Counter(
                result.verdict.outcome
                for result in results
                if result.check.group == group and result.mode is mode
            )
            words = [
                Text(f"{count[outcome]} {outcome}", COLOURS.get(outcome, ""))
                for outcome in Outcome
                if count[outcome]
            ]
            cells.append(Text(", ").join(words))
        if any(cells):
            table.add_row(group, *cells)
    return table


def _failures(results: list[Result]) -> Table:
    """A row for each check, whatever the modes in which it failed."""
    table = Table(Column("failed", overflow="fold"), "rule", "what happened", box=box.SIMPLE_HEAD)
    for check in sorted({result.check for result in results}, key=lambda check: check.name):
        what = Text("\n").join(_in_words(result) for result in results if result.check is check)
        table.add_row(Text(check.name, "red"), Text(check.rule), what)
    return table


def _in_words(result: Result) -> Text:
    verdict = result.verdict
    where = f" [{verdict.where}]" if verdict.where else ""
    return Text.assemble((f"{result.mode}: ", "bold"), verdict.message, (where, "dim"))


def _left_out(results: list[Result]) -> Table:
    """By reason. Of several missing operations the first one stands for all."""
    names: dict[str, dict[str, None]] = {}
    for result in results:
        reason = result.verdict.message
        if reason.startswith(NOT_IMPLEMENTED):
            reason = reason.partition(",")[0]
        names.setdefault(reason, {})[result.check.name] = None
    table = Table("left out", Column("why", min_width=30), box=box.SIMPLE_HEAD)
    for reason, listed in names.items():
        some = ", ".join(islice(listed, NAMES_SHOWN))
        more = len(listed) - NAMES_SHOWN
        table.add_row(f"{some} and {more} more" if more > 0 else some, Text(reason))
    return table
