"""`puffs doctor`."""

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Final

import click

from puffs.attach.fuse.doctor import Check, Diagnosis, Finding, State, examine

_COLOURS: Final = {State.OK: "green", State.NO: "red", State.NOTE: "yellow", State.UNKNOWN: "cyan"}
_TITLE: Final = 20
_INDENT: Final = 2 + 8 + _TITLE + 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def doctor(as_json: bool) -> None:
    """Tell what this machine can do, and if not, why not and what to do.

    First the doors, which are the ways to a mount, then what they stand on. The exit status is 0 if
    at least one door is open to you, else 1.

    \b
    Examples:
      puffs doctor
      puffs doctor --json | jq .open
    """
    diagnosis = examine()
    if as_json:
        click.echo(json.dumps(_as_data(diagnosis), indent=2))
    else:
        click.echo(_as_text(diagnosis))
    sys.exit(0 if diagnosis.open else 1)


def _as_data(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "open": diagnosis.open,
        "doors": [_row(check, finding) for check, finding in diagnosis.doors],
        "checks": [_row(check, finding) for check, finding in diagnosis.grounds],
    }


def _row(check: Check, finding: Finding) -> dict[str, str]:
    return {
        "key": check.key,
        "title": check.title,
        "state": finding.state.value,
        "found": finding.found,
        "means": check.means,
        "remedy": finding.remedy,
    }


def _as_text(diagnosis: Diagnosis) -> str:
    return "\n".join(
        [
            "Doors to a mount",
            *_lines(diagnosis.doors),
            "",
            "What they stand on, and what a mount finds",
            *_lines(diagnosis.grounds),
        ]
    )


def _lines(findings: Sequence[tuple[Check, Finding]]) -> list[str]:
    lines = []
    for check, finding in findings:
        state = click.style(f"{finding.state.value:8}", fg=_COLOURS[finding.state])
        paragraphs = [f"{finding.found} ({check.means})"]
        if finding.remedy:
            paragraphs.append(f"-> {finding.remedy}")
        first, *rest = [line for text in paragraphs for line in _wrapped(text)]
        lines.append(f"  {state}{check.title:{_TITLE}} {first}")
        lines += [" " * _INDENT + line for line in rest]
    return lines


def _wrapped(text: str) -> list[str]:
    width = max(shutil.get_terminal_size((100, 24)).columns - _INDENT, 40)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
