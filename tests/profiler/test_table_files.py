"""Files that are no tables, damaged ones and hostile ones: one clear TableError each."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hwnas.profiler.table import LatencyTable, TableError
from hwnas.profiler.table_schema import SCHEMA_VERSION
from hwnas.tests.profiler.tables import append, fill, read_all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(tmp_path / "t.db")
    return tmp_path / "t.db"


def change(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def refused(path: Path, message: str) -> None:
    """Neither reading nor appending accepts the file, and neither changes it."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(TableError, match=message):
        read_all(path)
    with pytest.raises(TableError, match=message):
        append(path)
    assert before == (path.read_bytes() if path.is_file() else None)


def test_no_file(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.db", tmp_path / "no" / "folder.db", Path(__file__) / "below_a_file.db"):
        with pytest.raises(TableError, match="there is no table"):
            LatencyTable.open(missing)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_no_table_but_may_become_one(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    path.touch()
    with pytest.raises(TableError, match="is empty"):
        LatencyTable.open(path)
    fill(path)
    read_all(path)


def test_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")


@pytest.mark.parametrize("content", [b"key,latency\n", b"\x00" * 5000, b"SQLite format 4\x00" + b"\x00" * 84, b"S"])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.db").write_bytes(content)
    refused(tmp_path / "t.db", "not an SQLite file")


def test_an_sqlite_file_of_another_program(tmp_path: Path) -> None:
    change(tmp_path / "t.db", "CREATE TABLE users (name TEXT)")
    refused(tmp_path / "t.db", "another program")


@pytest.mark.parametrize(("version", "mend"), [(SCHEMA_VERSION + 1, "upgrade hwnas"), (0, "measure it again")])
def test_another_schema_version(path: Path, version: int, mend: str) -> None:
    change(path, f"PRAGMA user_version = {version}")
    refused(path, f"schema version {version}.*{mend}")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON visits BEGIN DELETE FROM meta; END",
        "CREATE VIEW v AS SELECT * FROM meta",
        "CREATE TABLE more (x)",
        "CREATE INDEX i ON workloads (abs(latency))",
        "ALTER TABLE workloads ADD COLUMN more TEXT",
        "DROP TABLE records",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
    ],
)
def test_another_schema(path: Path, statement: str) -> None:
    change(path, statement)
    refused(path, "do not belong")


def test_a_view_in_place_of_a_table(path: Path) -> None:
    change(
        path, "DROP TABLE records", "CREATE VIEW records AS SELECT 1 AS id, 'canary' AS kind, value AS data FROM meta"
    )
    refused(path, "do not belong")


def test_wal_mode(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    refused(path, "WAL mode")
    assert [p.name for p in path.parent.iterdir()] == ["t.db"]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE workloads SET latency = 9e999", "latency"),
        ("UPDATE workloads SET latency = -1", "latency"),
        ("UPDATE workloads SET latency = 'fast'", "latency"),
        ("UPDATE workloads SET latency = NULL", "latency"),
        ("UPDATE workloads SET low = high + 1", "upside down"),
        ("UPDATE workloads SET status = 'fine'", "unknown kind or status"),
        ("UPDATE workloads SET status = NULL", "pending but has a latency"),
        ("UPDATE workloads SET status = 'failed'", "failed"),
        ("UPDATE workloads SET kind = 'x'", "unknown kind"),
        ("UPDATE workloads SET key = char(27) || '[31m' || id", "printable"),
        ("UPDATE workloads SET key = CAST(x'ff' || id AS TEXT)", "UTF-8|printable"),
        ("UPDATE workloads SET op = x'00'", "printable"),
        ("UPDATE workloads SET info = '[1]'", "not a JSON object"),
        ("UPDATE workloads SET info = '{\"x\": NaN}'", "not valid JSON"),
        ("UPDATE workloads SET info = 5", "JSON"),
        ("UPDATE workloads SET runs = -1", "runs"),
        ("UPDATE workloads SET phases = '{'", "not valid JSON"),
        ("UPDATE visits SET wall = x'00'", "8-byte numbers"),
        ("UPDATE visits SET wall = x''", "0 wall times"),
        ("UPDATE visits SET wall = 'text'", "8-byte numbers"),
        ("UPDATE visits SET cpu = x'0000000000000000'", "3 wall times and 1 CPU"),
        ("UPDATE visits SET wall = x'0000000000000080'", "negative time"),
        ("UPDATE visits SET wall = zeroblob(8000008) WHERE id = 1", "8-byte numbers"),
        ("UPDATE visits SET started = 'now'", "start time"),
        ("UPDATE visits SET session = 'x'", "session"),
        ("UPDATE meta SET value = '{}' WHERE name = 'provenance'", "provenance"),
        ("DELETE FROM meta WHERE name = 'provenance'", "no provenance"),
    ],
)
def test_values_that_make_no_sense(path: Path, statement: str, message: str) -> None:
    change(path, statement)
    refused(path, message)


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        ("UPDATE meta SET value = '[]' WHERE name = 'calibration'", lambda table: table.calibration),
        ("UPDATE records SET data = '1'", lambda table: table.records("canary")),
        ("UPDATE sessions SET environment = printf('%.*c', 100000, '[')", lambda table: table.sessions()),
        ("UPDATE records SET data = printf('\"%.*c\"', 20000000, 'x')", lambda table: table.records("canary")),
    ],
)
def test_json_that_makes_no_sense(path: Path, statement: str, read: Callable[[LatencyTable], object]) -> None:
    change(path, statement)
    with LatencyTable.open(path) as table, pytest.raises(TableError, match="JSON"):
        read(table)


def test_a_value_beyond_all_limits(path: Path) -> None:
    change(path, "UPDATE records SET data = zeroblob(80000000)")
    with pytest.raises(TableError, match="too big"):
        read_all(path)


def test_truncated_anywhere(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    cut = tmp_path / "cut.db"
    rng = random.Random(0)
    lengths = [1, 15, 16, 99, 100, 512, 4095, 4096, len(data) - 4096, len(data) - 1]
    for length in lengths + [rng.randrange(1, len(data)) for _ in range(60)]:
        cut.write_bytes(data[:length])
        refused(cut, "damaged|not an SQLite file|another program")


def test_flipped_bytes_never_end_in_another_error(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    flipped, found = tmp_path / "flipped.db", 0
    rng = random.Random(1)
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(rng.choice([1, 3, 30])):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        flipped.write_bytes(changed)
        try:
            read_all(flipped)
        except TableError:
            found += 1
    assert found > 30


def test_a_name_with_signs_that_mean_something_in_a_uri(tmp_path: Path) -> None:
    path = tmp_path / "50% ?mode=rwc&x=#1 ü.db"
    fill(path)
    read_all(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_null_character_in_the_name() -> None:
    with pytest.raises(TableError, match=r"is not a path|there is no table"):
        LatencyTable.open("a\0b")
