"""A latency table in other forms: CSV, JSON, Parquet and the YAML of lookup tables; and two tables compared."""

import csv
import io
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .table import LatencyTable
from .table_schema import PENDING, WORKLOADS, Row, TableError

COLUMNS = ("key", "op", "latency", "unit", "low", "high", "visits", "runs", "status", "reason")
FORMATS = ("csv", "json", "parquet", "yaml")


@dataclass(frozen=True)
class Exported:
    """What was written: ``rows`` of them, and the keys that were ``left_out`` (pending, or without a YAML key)."""

    path: Path
    format: str
    rows: int
    left_out: tuple[str, ...]


def export_table(table: LatencyTable, out: str | Path, format: str, *, force: bool = False) -> Exported:
    """Write the finished workloads of a table (whole networks left out) to a file of one of `FORMATS`.

    Raises:
        TableError: an unknown format, a file that exists (unless ``force``) or cannot be written, a package that is
            missing, or a table that the format cannot hold.
    """
    out = Path(out)
    writers: dict[str, Callable[[LatencyTable], tuple[bytes, int, list[str]]]] = {
        "csv": _csv,
        "json": _json,
        "parquet": _parquet,
        "yaml": _yaml,
    }
    if format not in writers:
        raise TableError(f"unknown format {format!r}; there are: {', '.join(FORMATS)}")
    check_new(out, force=force, source=table.path)
    data, rows, left_out = writers[format](table)
    write_new(out, data)
    return Exported(out, format, rows, tuple(left_out))


def check_new(out: Path, *, force: bool, source: Path) -> None:
    """Raise TableError if ``out`` must not be written: it exists (without ``force``), is the source, has no folder."""
    try:
        if out.is_dir():
            raise TableError(f"{out} is a folder; give a file")
        if not out.parent.is_dir():
            raise TableError(f"{out} cannot be written: there is no folder {out.parent}")
        if out.exists() and out.resolve() == source.resolve():
            raise TableError(f"{out} is the table itself; give another file")
        if os.path.lexists(out) and not force:
            raise TableError(f"{out} exists; give another file or --force to overwrite it")
    except (OSError, ValueError) as error:
        raise TableError(f"{out} cannot be written: {error}") from error


def write_new(out: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises TableError."""
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(out)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise TableError(f"{out} cannot be written: {error.strerror}") from error
        raise


def row_dict(row: Row) -> dict[str, Any]:
    """The columns of a row, by name, in the order of `COLUMNS`."""
    return {name: getattr(row, name) for name in COLUMNS}


def _finished(table: LatencyTable) -> tuple[list[Row], list[str]]:
    rows = [row for row in table.rows() if row.kind in WORKLOADS]
    return [row for row in rows if row.status != PENDING], [row.key for row in rows if row.status == PENDING]


def _csv(table: LatencyTable) -> tuple[bytes, int, list[str]]:
    rows, pending = _finished(table)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row_dict(row) for row in rows)
    return text.getvalue().encode(), len(rows), pending


def _json(table: LatencyTable) -> tuple[bytes, int, list[str]]:
    rows, pending = _finished(table)
    provenance = json.loads(table.provenance.to_json())
    content = {
        "provenance": provenance,
        "calibration": table.calibration,
        "rows": [{**row_dict(row), "kind": row.kind, "info": row.info, "phases": row.phases} for row in rows],
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(), len(rows), pending


def _parquet(table: LatencyTable) -> tuple[bytes, int, list[str]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise TableError(f"Parquet needs pyarrow ({error}); pip install 'hwnas[all]', or use csv or json") from error
    rows, pending = _finished(table)
    kinds = dict.fromkeys(("latency", "low", "high"), pa.float64()) | dict.fromkeys(("visits", "runs"), pa.int64())
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    schema = schema.with_metadata({"hwnas.provenance": table.provenance.to_json()})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row_dict(row) for row in rows], schema=schema), buffer)
    return buffer.getvalue(), len(rows), pending


def _yaml(table: LatencyTable) -> tuple[bytes, int, list[str]]:
    from .yaml_tables import export_yaml

    text, left_out = export_yaml(table)
    workloads = sum(row.kind in WORKLOADS for row in table.rows())
    return text.encode(), workloads - len(left_out), left_out


@dataclass(frozen=True)
class Difference:
    """Table B against table A.

    Attributes:
        ratios: latency in B over latency in A, for the keys that have a positive one in both.
        factor: their median; None without common keys.
        rms: root mean square of ratio / factor - 1, in percent: what is left once the common factor is taken out.
        worst: the largest of these deviations, in percent, without sign.
        only_in_a, only_in_b: keys with a latency in one of them only.
        provenance: what differs in it: name -> (in A, in B).
    """

    ratios: dict[str, float]
    factor: float | None
    rms: float | None
    worst: float | None
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    provenance: dict[str, tuple[object, object]]


def diff_tables(a: LatencyTable, b: LatencyTable) -> Difference:
    """Compare the workloads of two tables key by key; raises TableError where their units differ."""
    if a.provenance.unit != b.provenance.unit:
        units = f"{a.path} is in {a.provenance.unit}, {b.path} in {b.provenance.unit}"
        raise TableError(f"{units}: they cannot be compared")
    ours, theirs = _latencies(a), _latencies(b)
    ratios = {key: theirs[key] / ours[key] for key in ours if ours[key] > 0 and theirs.get(key, 0.0) > 0}
    factor = statistics.median(ratios.values()) if ratios else None
    rest = [100 * (ratio / factor - 1) for ratio in ratios.values()] if factor else []
    return Difference(
        ratios=ratios,
        factor=factor,
        rms=(sum(value * value for value in rest) / len(rest)) ** 0.5 if rest else None,
        worst=max((abs(value) for value in rest), default=None),
        only_in_a=tuple(key for key in ours if key not in theirs),
        only_in_b=tuple(key for key in theirs if key not in ours),
        provenance=_differences(a, b),
    )


def _latencies(table: LatencyTable) -> dict[str, float]:
    return {row.key: row.latency for row in table.rows() if row.kind in WORKLOADS and row.latency is not None}


def _differences(a: LatencyTable, b: LatencyTable) -> dict[str, tuple[object, object]]:
    ours, theirs = (json.loads(table.provenance.to_json()) for table in (a, b))
    found = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    for name in ("settings", "protocol", "environment"):
        if name in found:
            first, second = found.pop(name)
            parts = [part for part in {**first, **second} if first.get(part) != second.get(part)]
            found.update({f"{name}.{part}": (first.get(part), second.get(part)) for part in parts})
    return found
