"""Reading a latency table: every value is checked, since the file may come from a stranger."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .table_provenance import Provenance
from .table_schema import (
    KINDS,
    PENDING,
    STATUSES,
    Kind,
    Row,
    TableError,
    Visit,
    check_result,
    from_blob,
    label,
    load_object,
    number,
    one_line,
    whole,
)
from .table_store import reading

_ROWS = """
SELECT w.key, w.op, w.kind, w.latency, w.low, w.high, coalesce(v.visits, 0), coalesce(w.runs, v.runs, 0),
       w.status, w.reason, w.info, w.phases
FROM workloads w
LEFT JOIN (SELECT workload, count(*) AS visits, sum(length(wall)) / 8 AS runs FROM visits GROUP BY workload) v
ON v.workload = w.id WHERE ? IS NULL OR w.kind = ? ORDER BY w.id
"""


class TableReader:
    """The reading half of `LatencyTable`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, provenance: Provenance, *, writable: bool) -> None:
        self.path = path
        self.provenance = provenance
        self.writable = writable
        self._connection = connection

    def rows(self, kind: Kind | None = None) -> list[Row]:
        """All workloads, or those of one kind, in the order of their registration."""
        return [self._row(values) for values in self._fetch(_ROWS, (kind, kind))]

    def values(self, kind: Kind | None = None) -> dict[str, float]:
        """Latency by key, in the table's unit, for the workloads that have one."""
        return {row.key: row.latency for row in self.rows(kind) if row.latency is not None}

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of ``keys`` for which the table has no latency, in their order, each once."""
        known = self.values()
        return [key for key in dict.fromkeys(keys) if key not in known]

    def visits(self, key: str) -> list[Visit]:
        """The raw samples of one workload in the order they were taken; raises TableError for an unknown key."""
        with reading(self.path):
            workload = self._id(self._connection, key)
        query = "SELECT wall, cpu, started, session, reference FROM visits WHERE workload = ? ORDER BY id"
        found = self._fetch(query, (workload,))
        return [self._visit(key, *values) for values in found]

    def all_visits(self) -> dict[str, list[Visit]]:
        """`visits` of every workload that was visited at least once."""
        found = self._fetch(
            "SELECT w.key, v.wall, v.cpu, v.started, v.session, v.reference FROM visits v"
            " JOIN workloads w ON w.id = v.workload ORDER BY v.id"
        )
        result: dict[str, list[Visit]] = {}
        for key, *values in found:
            result.setdefault(label(key, f"{self.path}: key"), []).append(self._visit(key, *values))
        return result

    def sessions(self) -> dict[int, dict[str, Any]]:
        """The environment of every run of the profiler, by session id."""
        found = self._fetch("SELECT id, environment FROM sessions ORDER BY id")
        return {session: load_object(text, f"{self.path}: session {session}") for session, text in found}

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What `set_calibration` stored last."""
        found = self._fetch("SELECT value FROM meta WHERE name = 'calibration'")
        return load_object(found[0][0], f"{self.path}: calibration") if found else None

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The records of one kind in the order they were added."""
        found = self._fetch("SELECT data FROM records WHERE kind = ? ORDER BY id", (kind,))
        return [load_object(text, f"{self.path}: record {kind!r}") for (text,) in found]

    def _fetch(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        # All at once: an open cursor would keep other processes from committing.
        with reading(self.path):
            return self._connection.execute(query, values).fetchall()

    def _id(self, connection: sqlite3.Connection, key: str) -> int:
        found = None
        if key.isprintable():  # others cannot be stored, nor always encoded
            found = connection.execute("SELECT id FROM workloads WHERE key = ?", (key,)).fetchone()
        if not found:
            raise TableError(f"{self.path} has no workload {key!r}")
        return int(found[0])

    def _row(self, values: tuple[Any, ...]) -> Row:
        key, op, kind, latency, low, high, visits, runs, status, reason, info, phases = values
        where = f"{self.path}: {label(key, f'{self.path}: key')!r}"
        if kind not in KINDS or (status is not None and status not in STATUSES):
            raise TableError(f"{where} has an unknown kind or status ({one_line(kind)}, {one_line(status)})")
        if status in ("ok", "unconverged"):
            latency, low, high, *_ = check_result(where, latency, low, high, status)
        elif (latency, low, high) != (None, None, None):
            raise TableError(f"{where} is {status or PENDING} but has a latency")
        return Row(
            key=key,
            op=label(op, f"{where}: op"),
            kind=kind,
            latency=latency,
            unit=self.provenance.unit,
            low=low,
            high=high,
            visits=visits,
            runs=whole(runs, f"{where}: runs"),
            status=status or PENDING,
            reason=one_line(reason or ""),
            info=load_object(info, f"{where}: info"),
            phases=None if phases is None else load_object(phases, f"{where}: phases"),
        )

    def _visit(self, key: str, wall: object, cpu: object, started: object, session: object, reference: object) -> Visit:
        where = f"{self.path}: {key!r}"
        visit = Visit(
            from_blob(wall, where),
            from_blob(cpu, where),
            number(started, f"{where}: start time"),
            whole(session, f"{where}: session"),
            from_blob(reference, where),
        )
        if not len(visit.wall) or (len(visit.cpu) and len(visit.cpu) != len(visit.wall)):
            raise TableError(f"{where}: a visit has {len(visit.wall)} wall times and {len(visit.cpu)} CPU times")
        return visit


def read_provenance(path: Path, connection: sqlite3.Connection) -> Provenance:
    """The provenance that the table was created with; raises TableError."""
    with reading(path):
        found = connection.execute("SELECT value FROM meta WHERE name = 'provenance'").fetchone()
    if not found:
        raise TableError(f"{path} holds no provenance, so it is not an hwnas table")
    try:
        return Provenance.from_json(found[0])
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
