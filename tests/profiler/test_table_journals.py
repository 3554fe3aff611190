"""Journals that a kill or a stranger left, folders that cannot be written, full disks."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hwnas.profiler.table import LatencyTable, TableError
from hwnas.tests.profiler.tables import ABOUT, fill, read_all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(tmp_path / "t.db")
    return tmp_path / "t.db"


def leave_journal(path: Path) -> bytes:
    """Leave file and journal as a process killed in the middle of a commit does; returns the committed content."""
    before = path.read_bytes()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")  # spills into the file before the commit
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM visits")
    connection.executemany("INSERT INTO records (kind, data) VALUES ('x', ?)", [("y" * 1000,)] * 500)
    journal = path.with_name(path.name + "-journal")
    content, undo = path.read_bytes(), journal.read_bytes()
    connection.execute("ROLLBACK")
    connection.close()
    assert content != before
    path.write_bytes(content)
    journal.write_bytes(undo)
    return before


def test_a_journal_left_by_a_kill_is_rolled_back(path: Path) -> None:
    before = leave_journal(path)
    read_all(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["t.db"]
    leave_journal(path)
    LatencyTable.create(path, ABOUT).close()
    assert path.read_bytes() == before


def test_a_journal_that_names_another_file_does_not_delete_it(path: Path, tmp_path: Path) -> None:
    leave_journal(path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    name = str(victim).encode()
    journal = path.with_name(path.name + "-journal")
    undo = journal.read_bytes()
    pending_page = (0x40000000 // 4096 + 1).to_bytes(4, "big")
    checksum = sum(name).to_bytes(4, "big")
    tail = pending_page + name + len(name).to_bytes(4, "big") + checksum + bytes.fromhex("d9d505f920a163d7")
    journal.write_bytes(undo + tail)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    for where in (path, link):
        with pytest.raises(TableError, match="points to other files"):
            LatencyTable.open(where)
        with pytest.raises(TableError, match="points to other files"):
            LatencyTable.create(where, ABOUT)
    assert victim.read_text() == "precious"


# -- folders and disks


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, and no right to write what belongs to root."""
    folder = Path(tempfile.mkdtemp(prefix="hwnas-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def drop_rights(folder: Path) -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)
    else:
        folder.chmod(0o555)


def test_a_folder_that_cannot_be_written(unprivileged: Path) -> None:
    fill(unprivileged / "t.db")
    (unprivileged / "t.db").chmod(0o444)
    drop_rights(unprivileged)
    read_all(unprivileged / "t.db")
    with pytest.raises(TableError, match="cannot be written"):
        LatencyTable.create(unprivileged / "new.db", ABOUT)
    with pytest.raises(TableError, match="cannot be made"):
        LatencyTable.create(unprivileged / "folder" / "new.db", ABOUT)
    with (
        pytest.raises(TableError, match="cannot be written"),
        LatencyTable.create(unprivileged / "t.db", ABOUT) as table,
    ):
        table.add_session({})


def test_a_table_that_cannot_be_read(unprivileged: Path) -> None:
    fill(unprivileged / "t.db")
    (unprivileged / "t.db").chmod(0)
    drop_rights(unprivileged)
    with pytest.raises(TableError, match="Permission denied"):
        LatencyTable.open(unprivileged / "t.db")


def test_a_journal_in_a_folder_that_cannot_be_written(unprivileged: Path) -> None:
    fill(unprivileged / "t.db")
    leave_journal(unprivileged / "t.db")
    for file in unprivileged.iterdir():
        file.chmod(0o444)
    drop_rights(unprivileged)
    with pytest.raises(TableError, match="rolled back first"):
        LatencyTable.open(unprivileged / "t.db")


def test_a_full_disk_keeps_what_was_stored(path: Path) -> None:
    with LatencyTable.create(path, ABOUT) as table:
        kept = table.rows()
        pages = table._connection.execute("PRAGMA page_count").fetchone()[0]
        table._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to run out of room
        with pytest.raises(TableError, match=r"disk is full; what was measured before is kept"):
            table.add_record("large", {"x": "y" * 100_000})
        assert table.rows() == kept
        table._connection.execute(f"PRAGMA max_page_count = {pages + 100}")
        table.add_record("large", {"x": "y" * 100_000})
    read_all(path)


def test_a_table_in_use_is_waited_for_and_then_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwnas.profiler import table_store

    monkeypatch.setattr(table_store, "BUSY_S", 0.05)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TableError, match="in use by another process"):
            LatencyTable.open(path)
        other.execute("ROLLBACK")
    read_all(path)


def test_closing_twice(path: Path) -> None:
    table: Any = LatencyTable.open(path)
    table.close()
    table.close()
    with pytest.raises(TableError, match="closed"):
        table.rows()
