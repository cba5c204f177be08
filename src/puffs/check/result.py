"""What came of a check."""

from dataclasses import dataclass
from enum import StrEnum

from puffs.check.registry import Check


class Mode(StrEnum):
    """How the file server is reached."""

    IN_PROCESS = "in process"
    MOUNTED = "mounted"


class Outcome(StrEnum):
    """How a check can end."""

    PASSED = "passed"
    FAILED = "failed"
    LEFT_OUT = "left out"
    """It says nothing about this file server."""
    ERROR = "error"
    """It could not be run: that says nothing either, but ought to be looked into."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of one check: `message` says what was wrong or why it was left out, `where` which
    line of the battery found it.
    """

    outcome: Outcome
    message: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one check in one mode.

    `seconds` is how long it took, `output` what the file server wrote meanwhile: its log, and the
    traceback of a check that did not come to its end.
    """

    check: Check
    mode: Mode
    verdict: Verdict
    seconds: float = 0.0
    output: str = ""
