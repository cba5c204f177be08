"""The programs in C: the floor, the caller, and libfuse's own examples."""

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import BenchmarkError

HERE = Path(__file__).parent
BENCH_ENVIRONMENT = HERE.parent / ".venv-bench"
PEER_PYTHON = str(BENCH_ENVIRONMENT / "bin/python")
EXAMPLES = Path("usr/share/doc/libfuse3-dev/examples")
# Where they are installed, and where `make bench` unpacks them if documentation is not installed.
EXAMPLE_DIRECTORIES = (Path("/") / EXAMPLES, BENCH_ENVIRONMENT / "libfuse3-dev" / EXAMPLES)
# What libfuse's own build finds on Linux and tells its examples.
EXAMPLE_FLAGS = [
    f"-DHAVE_{what}"
    for what in (
        "UTIMENSAT",
        "SETXATTR",
        "POSIX_FALLOCATE",
        "FALLOCATE",
        "FDATASYNC",
        "FSTATAT",
        "COPY_FILE_RANGE",
    )
]


def run(command: Sequence[str]) -> str:
    """Return what a command writes. Raises BenchmarkError when it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise BenchmarkError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise BenchmarkError(f"{shlex.join(command)}:\n{done.stderr.strip()}")
    return done.stdout


def compile_c(source: Path, target: Path, flags: Sequence[str] = ()) -> None:
    """Compile a program with the machine's `cc`."""
    run(["cc", "-O2", "-Wall", "-o", str(target), str(source), *flags])


def compile_example(name: str, build: Path) -> None:
    """Compile an example that Debian ships with libfuse's headers, into `build`."""
    found = [each / f"{name}.c" for each in EXAMPLE_DIRECTORIES if (each / f"{name}.c").exists()]
    if not found:
        raise BenchmarkError(f"{name}.c is not there: it comes with Debian's libfuse3-dev")
    flags = shlex.split(run(["pkg-config", "--cflags", "--libs", "fuse3"]))
    compile_c(found[0], build / name, ["-w", *EXAMPLE_FLAGS, *flags])


def why_missing(server: str, said: str) -> str:
    """Return why a server does not run: what its installation said, or else what it said itself."""
    peer = server.partition("-")[0]
    log = BENCH_ENVIRONMENT / f"{peer}.log"  # `make bench` leaves it when it fails
    if not log.exists():
        return said
    lines = log.read_text(errors="replace").strip().splitlines()
    errors = [line for line in lines if "error" in line.lower()] or lines or [said]
    return f"it cannot be installed: {errors[-1].strip()} (all of it: {log})"
