"""`make fuzz`: hostile bytes into the decoders of frames, guided by what they reach."""

import argparse
import sys

from tests.fuzz.decoders import DECODERS
from tests.fuzz.runs import run, seeds, why_not


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("seconds", type=int, nargs="?", default=60, help="for each decoder")
    parser.add_argument(
        *("--input", "-i"),
        nargs=2,
        metavar=("DECODER", "HEX"),
        help="give a decoder one input, instead of fuzzing",
    )
    options = parser.parse_args()
    if options.input:
        name, data = options.input
        try:
            decoder, datagram = DECODERS[name], bytes.fromhex(data)
        except (KeyError, ValueError):
            parser.error(f"DECODER is one of {', '.join(DECODERS)}, and HEX has two digits a byte")
        decoder(datagram)
        return 0
    if reason := why_not():
        print(f"make: {reason}", file=sys.stderr)
        return 1
    failed = [name for name in DECODERS if _fuzzed(name, options.seconds)]
    return int(bool(failed))


def _fuzzed(name: str, seconds: int) -> bool:
    """Whether there was a finding."""
    print(f"--- {name}, for {seconds} seconds", flush=True)
    done = run(f"tests.fuzz.decoders:{name}", seeds(name), seconds, show=True)
    for kind, data in done.findings.items():
        print(f"--- {kind}, once more: {sys.executable} -m tests.fuzz -i {name} {data.hex()}")
    print(f"--- {name}: {done.calls} inputs, {'FAILED' if done.failed else 'no finding'}")
    return done.failed


if __name__ == "__main__":
    sys.exit(main())
