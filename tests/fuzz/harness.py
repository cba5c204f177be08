"""A decoder under atheris, in a process of its own, which libFuzzer ends as it likes:
`python -m tests.fuzz.harness MODULE:FUNCTION [ARGUMENT OF LIBFUZZER]...`
"""

import logging
import sys
from importlib import import_module

import atheris


def main() -> None:
    where, *arguments = sys.argv[1:]
    module, _, name = where.partition(":")
    with atheris.instrument_imports(include=["puffs.isolate", "puffs.server", "tests.fuzz"]):
        decoder = getattr(import_module(module), name)
    logging.disable()  # what cannot be served is logged
    atheris.Setup([where, *arguments], decoder)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
