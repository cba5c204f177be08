"""A decoder under atheris, in a process of its own, which libFuzzer ends as it likes:
`python -m tests.fuzz.harness MODULE:FUNCTION [ARGUMENT OF LIBFUZZER]...`
"""

import sys
from importlib import import_module

import atheris


def main() -> None:
    where, *arguments = sys.argv[1:]
    module, _, name = where.partition(":")
    with atheris.instrument_imports(include=["puffs.isolate", "puffs.server", "tests.fuzz"]):
        decoder = getattr(import_module(module), name)
    atheris.Setup([where, *arguments], decoder)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
