"""How a check says what it expects, and with which words it fails."""

import os
import time
from collections.abc import Callable
from errno import errorcode
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

PAUSES = (0, 0.005, 0.02, 0.1, 1.1, 2.2)
"""Seconds: what it may take until a time stamp moves. Two seconds is the coarsest step there is."""


class LeftOut(Exception):
    """A check says nothing about this file server, and why."""


def leave_out(reason: str) -> NoReturn:
    """End the check without a verdict: the rule allows the file server not to have this."""
    raise LeftOut(reason)


def expect(codes: int | tuple[int, ...], call: Callable[..., Any], *args: Any) -> None:
    """`call(*args)` must fail with this errno, or with one of these."""
    wanted = codes if isinstance(codes, tuple) else (codes,)
    words = " or ".join(errorcode[code] for code in wanted)
    what = f"{call.__name__}({', '.join(shown(arg) for arg in args)})"
    try:
        got = call(*args)
    except OSError as exc:
        if exc.errno in wanted:
            return
        raise AssertionError(f"{what} failed with {error_name(exc)}, expected {words}") from None
    if hasattr(got, "close"):
        got.close()
    raise AssertionError(f"{what} succeeded, expected {words}")


def equal(what: str, got: T, wanted: T) -> None:
    """`what` is `got` and must be `wanted`."""
    assert got == wanted, f"{what}: {shown(got)}, expected {shown(wanted)}"


def same_data(what: str, got: bytes, wanted: bytes) -> None:
    """As `equal` for long data: the message tells the first difference instead of all of it."""
    if got == wanted:
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b),
        min(len(got), len(wanted)),
    )
    lengths = "" if len(got) == len(wanted) else f" ({len(got)} bytes, expected {len(wanted)})"
    raise AssertionError(
        f"{what}{lengths}: from byte {at} on {shown(got[at : at + 16])}, "
        f"expected {shown(wanted[at : at + 16])}"
    )


def error_name(exc: OSError) -> str:
    """The symbol of an errno, such as "ENOENT"."""
    return errorcode.get(exc.errno or 0, f"errno {exc.errno}")


def shown(value: object) -> str:
    """A value for a message: short whatever it is."""
    if isinstance(value, set | frozenset):
        value = sorted(value)
    text = os.fspath(value) if isinstance(value, os.PathLike) else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def until_moved(
    what: str,
    time_ns: Callable[[], int],
    act: Callable[[], object],
    prepare: Callable[[], object] = lambda: None,
) -> None:
    """`act()` must move a time stamp on, which `time_ns` reads; `prepare()` comes before each try.

    It is tried again, after a longer while each time, as time stamps may move in coarse steps.
    """
    before = after = 0
    for pause in PAUSES:
        prepare()
        before = time_ns()
        time.sleep(pause)
        act()
        after = time_ns()
        if after != before:
            break
    assert after > before, f"{what} {'has gone back' if after < before else 'has not moved'}"
