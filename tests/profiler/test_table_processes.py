"""Tables under kill -9, and under several processes at once: real processes, real files."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hwnas.profiler.table import LatencyTable, Provenance, TableError

WRITER = """
import sys
import numpy as np
from hwnas.devices.data import Samples
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow

path, name, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
keys = [f"key {i}" for i in range(20)]
with LatencyTable.create(path, Provenance(device="cpu", unit="ms")) as table:
    session = table.add_session({"name": name})
    table.register(WorkloadRow(key, "op") for key in keys)
    for n in range(rounds):
        wall = np.array([name, n, 0])
        table.add_visits({key: Samples(wall=wall, cpu=wall, started=0) for key in keys}, session)
        print(n, flush=True)
"""
KEYS = 20


def start(path: Path, name: int, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(name), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def rounds_of(path: Path) -> dict[int, list[int]]:
    """Rounds by writer, after a check that each round is there for all keys or for none."""
    with LatencyTable.open(path) as table:
        visits = table.all_visits()
        found = [[(int(v.wall[0]), int(v.wall[1])) for v in of_key] for of_key in visits.values()]
        sessions = {number: about["name"] for number, about in table.sessions().items()}
        assert all(sessions[v.session] == v.wall[0] for of_key in visits.values() for v in of_key)
    assert len(found) in (0, KEYS)
    assert all(sorted(of_key) == sorted(found[0]) for of_key in found)
    result: dict[int, list[int]] = {}
    for name, n in found[0] if found else []:
        result.setdefault(name, []).append(n)
    return result


def test_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    left_journal = 0
    kept = 0
    for name in range(8):
        writer = start(path, name, 10**6)
        assert writer.stdout is not None
        reported = int(writer.stdout.readline())
        time.sleep(0.013 * name)
        os.kill(writer.pid, signal.SIGKILL)
        reported = max([reported, *(int(line) for line in writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        left_journal += path.with_name("t.db-journal").exists()
        rounds = rounds_of(path)
        # Whatever was reported as stored is there; at most the round in flight besides.
        assert rounds[name] == list(range(len(rounds[name])))
        assert len(rounds[name]) in (reported + 1, reported + 2)
        assert sum(map(len, rounds.values())) == kept + len(rounds[name])
        kept += len(rounds[name])
    assert left_journal > 0, "no kill fell into a transaction, so the test tested nothing"


def test_kill_while_the_table_is_made(tmp_path: Path) -> None:
    for i, delay in enumerate((0.0, 0.0005, 0.001, 0.002, 0.004)):
        path = tmp_path / f"{i}.db"
        writer = start(path, 1, 1)
        while not path.exists():
            time.sleep(0.0005)
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        with start(path, 2, 3) as again:
            again.communicate()
        assert again.returncode == 0
        assert rounds_of(path)[2] == [0, 1, 2]


def test_a_table_half_made_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")  # spills into the file before the commit
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE meta (x)")
    connection.executemany("INSERT INTO meta VALUES (?)", [("y" * 1000,)] * 500)
    journal = path.with_name("t.db-journal")
    content, undo = path.read_bytes(), journal.read_bytes()
    connection.execute("ROLLBACK")
    connection.close()
    path.write_bytes(content)
    journal.write_bytes(undo)
    LatencyTable.create(path, Provenance(device="cpu", unit="ms")).close()
    assert rounds_of(path) == {}
    path.write_bytes(content)
    journal.write_bytes(undo)
    with pytest.raises(TableError, match="is empty"):
        LatencyTable.open(path)


@pytest.mark.parametrize("known", [True, False], ids=["existing", "new"])
def test_two_processes_on_one_file(tmp_path: Path, known: bool) -> None:
    path = tmp_path / "t.db"
    if known:
        LatencyTable.create(path, Provenance(device="cpu", unit="ms")).close()
    rounds = 25
    writers = [start(path, name, rounds) for name in (1, 2)]
    read = 0
    while any(writer.poll() is None for writer in writers):
        if path.exists() and path.stat().st_size:
            rounds_of(path)
            read += 1
        time.sleep(0.005)
    assert [writer.wait() for writer in writers] == [0, 0]
    for writer in writers:
        writer.communicate()
    assert rounds_of(path) == {1: list(range(rounds)), 2: list(range(rounds))}
    assert read > 0
    assert [p.name for p in tmp_path.iterdir()] == ["t.db"]
