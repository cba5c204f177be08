"""SQLite: writers in several processes, some of them killed, and no row is lost.

It relies on record locks, on fsync(2) and, for the write-ahead log, on memory that they share.
"""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.programs.places import PROGRAM, also

pytestmark = PROGRAM

WRITERS = 3
VICTIMS = 4
ROWS = 100

WRITER = """
import itertools, sqlite3, sys
path, who, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = sqlite3.connect(path, timeout=120, isolation_level=None)
db.execute("pragma synchronous=full")
for number in range(rows) if rows else itertools.count():
    db.execute("begin immediate")
    db.execute("insert into rows values (?, ?, ?)", (who, number, bytes([who]) * (number % 5000)))
    db.execute("update counts set rows = rows + 1 where who = ?", (who,))
    db.execute("commit")
    print(number, flush=True)
"""


def writer(path: Path, who: int, rows: int) -> "subprocess.Popen[bytes]":
    """Begin to insert `rows` rows, without end if 0. Each is told of once it is committed."""
    command = [sys.executable, "-c", WRITER, str(path), str(who), str(rows)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.parametrize("journal", ["wal", "delete", "persist"])
@also("mem-writeback", "mem-threads", "null-writeback")
def test_concurrent_writers(place: Path, journal: str) -> None:
    path = place / "test.db"
    everybody = range(WRITERS + VICTIMS)
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
        db.execute("create table rows (who, number, data, primary key (who, number))")
        db.execute("create table counts (who primary key, rows)")
        db.executemany("insert into counts values (?, 0)", [(who,) for who in everybody])

    committed = {}
    writers = [writer(path, who, ROWS) for who in range(WRITERS)]
    for who in range(WRITERS, WRITERS + VICTIMS):
        with writer(path, who, 0) as victim:
            assert victim.stdout is not None
            first = [victim.stdout.readline() for _ in range(10)]
            victim.kill()
            committed[who] = len(first) + len(victim.stdout.readlines())
    for who, process in enumerate(writers):
        process.communicate(timeout=200)
        assert process.returncode == 0
        committed[who] = ROWS

    with closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        rows = dict(db.execute("select who, count(*) from rows group by who"))
        assert dict(db.execute("select who, rows from counts")) == rows
        for who in everybody:  # who is killed may have had no time to tell of the last one
            assert rows[who] - committed[who] in ((0,) if who < WRITERS else (0, 1))
        db.execute("vacuum")
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
