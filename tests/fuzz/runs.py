"""Runs of the fuzzer: from the seeds in `corpus`, in a directory that is taken away afterwards."""

import re
import resource
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
CORPUS: Final = Path(__file__).with_name("corpus")

LONGEST: Final = 4096
"""Bytes of an input: what depends on more has tests of its own."""
LIMITS: Final = ("-timeout=60", f"-max_len={LONGEST}")
"""An input that takes longer is a finding; see also `harness`."""
MEMORY: Final = 256
"""MiB that the harness may use beyond what was used by who has started it: the kernel counts that
as its own, also after execve(2) (getrusage(2)). An input that takes more is a finding.
"""

STATISTICS: Final = ("number_of_executed_units", "new_units_added")


class Run(NamedTuple):
    """What came of a run: how often the decoder was called, how many of the inputs reached what no
    other one had, and those that it failed with.
    """

    status: int
    calls: int
    news: int
    findings: dict[str, bytes]
    log: str

    @property
    def failed(self) -> bool:
        """Whether there is a finding."""
        return bool(self.status or self.findings)

    @property
    def report(self) -> str:
        """What a person has to know of a failure: how it ended, and with which bytes."""
        lines = [f"{kind}: {data.hex()}" for kind, data in self.findings.items()]
        return "\n".join((self.log[-4000:], f"ended with status {self.status}", *lines))


def why_not() -> str | None:
    """Why nothing can be fuzzed here, or None when it can."""
    if find_spec("atheris") is None:
        return "atheris is not installed: `make fuzz` installs it, or says why it cannot be had"
    return None


def seeds(name: str) -> dict[str, bytes]:
    """What the fuzzer begins with: lines of a name and bytes in hexadecimal."""
    lines = (CORPUS / f"{name}.hex").read_text().splitlines()
    return {label: bytes.fromhex(data) for label, data in map(str.split, lines)}


def run(decoder: str, inputs: dict[str, bytes], seconds: int, *, show: bool = False) -> Run:
    """Fuzz a decoder, `MODULE:FUNCTION`. With `show` its progress goes to the terminal."""
    with tempfile.TemporaryDirectory(prefix="puffs-fuzz-") as directory:
        corpus, found = Path(directory, "corpus"), Path(directory, "found")
        corpus.mkdir()
        found.mkdir()
        for label, data in inputs.items():
            (corpus / label).write_bytes(data)
        command = [sys.executable, "-m", "tests.fuzz.harness", decoder, *LIMITS]
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        command += [f"-rss_limit_mb={used + MEMORY}"]
        command += [f"-max_total_time={seconds}", "-print_final_stats=1"]
        command += [f"-artifact_prefix={found}/", str(corpus)]
        lines = []
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if show:
                    print(line, end="", flush=True)
        findings = {path.name: path.read_bytes() for path in sorted(found.iterdir())}
    log = "".join(lines)
    stats = dict(re.findall(r"^stat::(\w+): +(\d+)$", log, re.MULTILINE))
    calls, news = (int(stats.get(what, 0)) for what in STATISTICS)
    return Run(process.returncode, calls, news, findings, log)
