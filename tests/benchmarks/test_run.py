"""One round of the benchmark as it is run, on few servers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need

HERE = Path(__file__).parents[2]
pytestmark = pytest.mark.fuse


def benchmark(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_round_of_every_round_trip(tmp_path: Path) -> None:
    need("cc", "gcc")
    file, drawn = tmp_path / "results.json", tmp_path / "chart.svg"
    servers = ("--only=bare-python", "--only=puffs", "--only=puffs-async", "--only=puffs-no-open")
    said = benchmark("--pinned", "--rounds=1", *servers, f"--json={file}")
    series = {
        (each["server"], each["operation"]) for each in json.loads(file.read_text())["samples"]
    }
    assert {(server, "create_unlink") for server in ("floor", "bare-python", "puffs")} <= series
    assert ("puffs-no-open", "open_close") in series
    assert ("puffs-no-open", "stat") not in series

    assert benchmark(f"--from={file}", f"--chart={drawn}") == said
    assert "create unlink" in drawn.read_text()
