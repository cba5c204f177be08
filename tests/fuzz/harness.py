"""A decoder under atheris, in a process of its own, which libFuzzer ends as it likes:
`python -m tests.fuzz.harness MODULE:FUNCTION [ARGUMENT OF LIBFUZZER]...`
"""

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module

import atheris

SECONDS = 2
"""Of the processor for one input: not by the clock, for the machine may have other things to do."""


def main() -> None:
    where, *arguments = sys.argv[1:]
    module, _, name = where.partition(":")
    with atheris.instrument_imports(include=["puffs.isolate", "puffs.server", "tests.fuzz"]):
        decoder = getattr(import_module(module), name)
    logging.disable()  # what cannot be served is logged
    atheris.Setup([where, *arguments], limited(decoder))
    atheris.Fuzz()


def limited(decoder: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """A decoder that ends with this process if it takes too long: an exception might be caught."""

    def end(*_: object) -> None:
        print(f"an input that takes more than {SECONDS} seconds", file=sys.stderr)
        faulthandler.dump_traceback()
        os.abort()

    signal.signal(signal.SIGPROF, end)

    def decoded(data: bytes) -> None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        decoder(data)

    return decoded


if __name__ == "__main__":
    main()
