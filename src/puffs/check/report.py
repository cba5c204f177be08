"""What came of a run of checks: for people, and for programs."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from puffs.check.registry import GROUPS, Check
from puffs.check.result import Mode, Outcome, Result
from puffs.check.runner import NOT_IMPLEMENTED

BAD: Final = (Outcome.FAILED, Outcome.ERROR)
NAMES_SHOWN: Final = 4
COLOURS: Final = {Outcome.PASSED: "green", Outcome.FAILED: "red", Outcome.ERROR: "red"}


def report(results: list[Result], console: Console, verbose: bool = False) -> None:
    """Print the results: a table of the groups, what failed and why, what was left out and why."""
    console.print(_groups(results))
    failed = [result for result in results if result.verdict.outcome is Outcome.FAILED]
    for check in dict.fromkeys(result.check for result in failed):
        _failure(check, [result for result in failed if result.check is check], console, verbose)
    if not verbose and any(result.output for result in failed):
        console.print("The file server has written something meanwhile: -v shows it.\n")
    for outcome in (Outcome.ERROR, Outcome.LEFT_OUT):
        some = [result for result in results if result.verdict.outcome is outcome]
        if some:
            console.print(_by_reason(outcome, some, verbose))
    console.print(score(results))


def score(results: Iterable[Result]) -> str:
    """The last line: how many checks ended how, and how many of those that were run passed."""
    count = Counter(result.verdict.outcome for result in results)
    words = [f"{count[outcome]} {outcome}" for outcome in Outcome if outcome is not Outcome.ERROR]
    if count[Outcome.ERROR]:
        words.append(f"{count[Outcome.ERROR]} could not be run")
    return f"check: {', '.join(words)}; score: {_percent(count)} %"


def as_document(results: list[Result]) -> dict[str, Any]:
    """The results for programs."""
    count = Counter(result.verdict.outcome for result in results)
    return {
        **{outcome.name.lower(): count[outcome] for outcome in Outcome},
        "score": _percent(count),
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


def _percent(count: Counter[Outcome]) -> int:
    """Of the checks that say something, so many passed; 100 if all of them did, and only then."""
    told = count.total() - count[Outcome.LEFT_OUT]
    return 100 * count[Outcome.PASSED] // told if told else 0


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


def _failure(check: Check, results: list[Result], console: Console, verbose: bool) -> None:
    """A rule, and what happened instead: once, if it was the same in both modes."""
    console.print(Text.assemble((check.name, "red bold"), f"  {check.rule}"))
    modes: dict[tuple[str, str], list[str]] = {}
    for result in results:
        modes.setdefault((result.verdict.message, result.verdict.where), []).append(result.mode)
    for (message, where), names in modes.items():
        told = f" ({where})" if where else ""
        line = Text.assemble((", ".join(names), "bold"), f": {message}", (told, "dim"))
        console.print(Padding(line, (0, 0, 0, 4), expand=False))
    for result in results if verbose else ():
        if result.output:
            console.print(
                Padding(Text(f"{result.mode}: it wrote", "bold"), (0, 0, 0, 4), expand=False)
            )
            console.print(Padding(Text(result.output, "dim"), (0, 0, 0, 8), expand=False))
    console.print()


def _by_reason(outcome: Outcome, results: list[Result], verbose: bool) -> Table:
    """Of several missing operations the first one stands for all."""
    names: dict[str, dict[str, None]] = {}
    for result in results:
        reason = result.verdict.message
        if reason.startswith(NOT_IMPLEMENTED):
            reason = reason.partition(",")[0]
        names.setdefault(reason, {})[result.check.name] = None
    title = "could not be run" if outcome is Outcome.ERROR else str(outcome)
    table = Table("why", Column(title, min_width=40), box=box.SIMPLE_HEAD)
    for reason, listed in names.items():
        shown = len(listed) if verbose else NAMES_SHOWN
        more = len(listed) - shown
        some = ", ".join(islice(listed, shown))
        table.add_row(Text(reason), f"{some} and {more} more" if more > 0 else some)
    return table
