"""The latency table: measured workloads of one device under one setting, with raw samples and full provenance.

One SQLite file with a rollback journal, so that the file alone is whole at every commit.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .protocol import Timed
from .table_provenance import Provenance, TableMismatch, check_agreement
from .table_reader import TableReader, read_provenance
from .table_schema import (
    KINDS,
    Row,
    Status,
    TableError,
    Visit,
    WorkloadRow,
    check_result,
    dump_json,
    label,
    number,
    one_line,
    to_blob,
    whole,
)
from .table_store import check, connect, create_schema, file_size, is_empty, open_checked, reading, transaction

__all__ = ["LatencyTable", "Provenance", "Row", "TableError", "TableMismatch", "Visit", "WorkloadRow"]


class LatencyTable(TableReader):
    """A table on disk, opened by `create` (to append) or `open` (to read); use it as a context manager.

    Every writing method is one transaction: after a kill or a full disk the file holds all of it or nothing of it.
    Several processes may append to one file; they wait for each other.
    """

    @classmethod
    def create(cls, path: str | Path, provenance: Provenance, *, resume: bool = True) -> "LatencyTable":
        """Make a table, or open an existing one for appending.

        Args:
            path: the file; missing folders are made.
            provenance: under what the measurements to come are taken.
            resume: whether a table that exists may be continued.

        Raises:
            TableMismatch: the existing table was measured under other conditions.
            TableError: no table, damaged, of another version, not writable, or it exists and ``resume`` is False.
        """
        path = Path(path)
        text = provenance.to_json()
        if file_size(path) and not resume:
            raise TableError(f"{path} exists; give another path or let the measurement resume it")
        connection = _open_or_make(path, text)
        try:
            found = read_provenance(path, connection)
            check_agreement(path, found, Provenance.from_json(text))
        except BaseException:
            connection.close()
            raise
        return cls(path, connection, found, writable=True)

    @classmethod
    def open(cls, path: str | Path) -> "LatencyTable":
        """Open a table to read it; the file is checked and never written. Raises TableError."""
        path = Path(path)
        connection = open_checked(path)
        try:
            return cls(path, connection, read_provenance(path, connection), writable=False)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._connection.close()

    def __enter__(self) -> "LatencyTable":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def register(self, workloads: Iterable[WorkloadRow]) -> None:
        """Add workloads to be measured; those that the table has already stay as they are."""
        values = []
        for workload in workloads:
            if workload.kind not in KINDS:
                raise TableError(f"kind of {workload.key!r} is {workload.kind!r}, not one of {', '.join(KINDS)}")
            info = dump_json(dict(workload.info), f"info of {workload.key!r}")
            values.append((label(workload.key, "key"), label(workload.op, "op"), workload.kind, info))
        with self._writing() as connection:
            connection.executemany("INSERT OR IGNORE INTO workloads (key, op, kind, info) VALUES (?, ?, ?, ?)", values)

    def add_session(self, environment: Mapping[str, Any]) -> int:
        """Record the conditions of one run of the profiler; returns the id that its visits carry."""
        text = dump_json(dict(environment), "environment")
        with self._writing() as connection:
            session = connection.execute("INSERT INTO sessions (environment) VALUES (?)", (text,)).lastrowid
        assert session is not None
        return session

    def add_visit(self, key: str, samples: Timed, session: int) -> None:
        """Append the raw samples of one visit to one workload."""
        self.add_visits({key: samples}, session)

    def add_visits(self, samples: Mapping[str, Timed], session: int) -> None:
        """Append one visit to each of several workloads (a round of the protocol) in one transaction."""
        values = []
        for key, visit in samples.items():
            wall, cpu = to_blob(visit.wall, f"wall times of {key!r}"), to_blob(visit.cpu, f"CPU times of {key!r}")
            if not wall or (cpu and len(cpu) != len(wall)):
                raise TableError(f"visit to {key!r} has {len(wall) // 8} wall times and {len(cpu) // 8} CPU times")
            reference = to_blob(visit.reference, f"reference times of {key!r}")
            values.append((key, number(visit.started, f"start time of {key!r}"), wall, cpu, reference))
        with self._writing() as connection:
            if not connection.execute("SELECT 1 FROM sessions WHERE id = ?", (whole(session, "session"),)).fetchone():
                raise TableError(f"{self.path} has no session {session}; add_session gives the id")
            for key, *sampled in values:
                connection.execute(
                    "INSERT INTO visits (workload, session, started, wall, cpu, reference) VALUES (?, ?, ?, ?, ?, ?)",
                    (self._id(connection, key), session, *sampled),
                )

    def finish(
        self,
        key: str,
        *,
        latency: float | None = None,
        low: float | None = None,
        high: float | None = None,
        status: Status = "ok",
        reason: str = "",
        phases: Mapping[str, Any] | None = None,
        runs: int | None = None,
    ) -> None:
        """Store a workload's result, replacing an earlier one.

        Args:
            key: a registered workload.
            latency: in the table's unit, with the interval ``low`` to ``high`` (default: the value itself);
                None if and only if ``status`` is ``failed``.
            status: ``ok``, ``unconverged`` or ``failed``.
            reason: why it is not ok.
            phases: time and memory of lowering, load, first and warm run.
            runs: how many runs lie behind it where the samples are not stored (imported tables).
        """
        values = check_result(key, latency, low, high, status)
        stored_phases = None if phases is None else dump_json(dict(phases), f"phases of {key!r}")
        counted = None if runs is None else whole(runs, f"runs of {key!r}")
        with self._writing() as connection:
            connection.execute(
                "UPDATE workloads SET latency = ?, low = ?, high = ?, status = ?, reason = ?,"
                " phases = coalesce(?, phases), runs = ? WHERE id = ?",
                (*values, status, one_line(reason), stored_phases, counted, self._id(connection, key)),
            )

    def set_calibration(self, calibration: Mapping[str, Any]) -> None:
        """Store the fitted correction (JSON), replacing an earlier one."""
        text = dump_json(dict(calibration), "calibration")
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('calibration', ?)", (text,))

    def add_record(self, kind: str, data: Mapping[str, Any]) -> None:
        """Append one JSON record, for instance a calibration network's measurement."""
        values = (label(kind, "kind of record"), dump_json(dict(data), f"record {kind!r}"))
        with self._writing() as connection:
            connection.execute("INSERT INTO records (kind, data) VALUES (?, ?)", values)

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Make all writing inside one transaction: many calls, one commit, all or nothing."""
        with self._writing():
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if not self.writable:
            raise TableError(f"{self.path} was opened to be read, not to be written")
        if self._connection.in_transaction:  # inside `batch`
            with reading(self.path):
                yield self._connection
            return
        with transaction(self.path, self._connection):
            yield self._connection


def _open_or_make(path: Path, provenance: str) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TableError(f"{path} cannot be made: {error.strerror}: {error.filename}") from error
    with reading(path):
        connection = connect(path, write=True)
    try:
        with reading(path):
            # Also where a kill fell into the making of the file: its journal has just been rolled back to nothing.
            fresh = is_empty(connection)
        if fresh:
            _make(path, connection, provenance)
        with reading(path):
            check(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(path: Path, connection: sqlite3.Connection, provenance: str) -> None:
    with transaction(path, connection):
        if is_empty(connection):  # otherwise another process was faster
            create_schema(connection)
            connection.execute("INSERT INTO meta (name, value) VALUES ('provenance', ?)", (provenance,))
