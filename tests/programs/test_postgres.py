"""PostgreSQL, as its own user, with its data and its socket on the mount."""

import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.needs import cannot
from tests.programs.places import PROGRAM, also, run

pytestmark = PROGRAM

POSTGRES = "postgres"
CLIENTS = 4

Tool = Callable[..., str]


@pytest.fixture
def tool(place: Path) -> Tool:
    """Runs a program of PostgreSQL as its user, on the mount."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    try:
        uid = pwd.getpwnam(POSTGRES).pw_uid
    except KeyError:
        versions = []
    if not versions:
        cannot("PostgreSQL is missing: install postgresql")
    os.chown(place, uid, -1)

    def call(name: str, *arguments: str, check: bool = True) -> str:
        program = versions[-1] / name
        paths = {"PGDATA": str(place / "data"), "PGHOST": str(place), "HOME": str(place)}
        return run(program, *arguments, cwd=place, uid=uid, check=check, env=paths)

    return call


@also("mem-writeback", "mem-isolated", "null-threads")
def test_pgbench_and_recovery(place: Path, tool: Tool) -> None:
    tool("initdb", "--data-checksums", "--auth=trust", f"--username={POSTGRES}")
    with (place / "data" / "postgresql.conf").open("a") as conf:
        conf.write(f"listen_addresses = ''\nunix_socket_directories = '{place}'\n")
        conf.write("max_wal_size = 64MB\nmin_wal_size = 32MB\n")
    tool("pg_ctl", "start", "-w", "-l", "log")
    try:
        tool("pgbench", "-i", "-q", "-s", "4")
        tool("pgbench", "-c", str(CLIENTS), "-j", "2", "-t", "150")
        tool("pg_ctl", "stop", "-m", "immediate")
        tool("pg_ctl", "start", "-w", "-l", "log")
        assert "redo done" in (place / "log").read_text()
        balances = "select sum(abalance) from pgbench_accounts"
        history = "select sum(delta), count(*) from pgbench_history"
        total = tool("psql", "-Atc", balances).strip()
        assert tool("psql", "-Atc", history).strip() == f"{total}|{CLIENTS * 150}"
        tool("psql", "-c", "vacuum full analyze")
        tool("psql", "-c", "create extension amcheck")
        tool("pg_amcheck", "--heapallindexed", "--parent-check")
        tool("pg_ctl", "stop", "-m", "fast")
    finally:
        tool("pg_ctl", "stop", "-m", "immediate", check=False)
    assert re.search(r"Bad checksums: +0\n", tool("pg_checksums", "--check"))
    assert not re.search("PANIC|could not", (place / "log").read_text())
