"""Tables in other formats."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hwnas.profiler.table import LatencyTable, Provenance, TableError, WorkloadRow
from hwnas.profiler.table_export import COLUMNS, export_table
from hwnas.profiler.yaml_tables import export_yaml

CONV = "Conv-input:224x224x3-output:112x112x32"


@pytest.fixture
def measured(tmp_path: Path) -> Any:
    with LatencyTable.create(tmp_path / "m.db", Provenance(device="cpu", unit="ms")) as table:
        conv = {"op": "conv", "role": "first_conv", "in": [3, 224, 224], "out": [32, 112, 112]}
        table.register([WorkloadRow("conv 1", "conv", "fixed", conv), WorkloadRow("other", "attention")])
        table.register([WorkloadRow(f"x, {i}", '"op"') for i in range(3)])
        table.finish("conv 1", latency=2.0, low=1.5, high=2.5, runs=7)
        table.finish("other", latency=0.1 + 0.2, status="unconverged", reason='it, said "no"')
        table.finish("x, 0", status="failed", reason="crashed")
        yield table


def test_measured_rows_in_yaml(measured: LatencyTable) -> None:
    text, left_out = export_yaml(measured)
    assert text == f"{CONV}:\n  count: 7\n  mean: 2.0\n  std: 0.5\n"
    assert left_out == ["other", "x, 0", "x, 1", "x, 2"]


def test_csv_has_exactly_the_promised_columns(measured: LatencyTable, tmp_path: Path) -> None:
    done = export_table(measured, tmp_path / "t.csv", "csv")
    assert (done.rows, done.left_out) == (3, ("x, 1", "x, 2"))
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert ",".join(lines[0]) == "key,op,latency,unit,low,high,visits,runs,status,reason"
    assert lines[1] == ["conv 1", "conv", "2.0", "ms", "1.5", "2.5", "0", "7", "ok", ""]
    assert lines[2][2] == "0.30000000000000004"
    assert lines[2][-2:] == ["unconverged", 'it, said "no"']
    assert lines[3] == ["x, 0", '"op"', "", "ms", "", "", "0", "0", "failed", "crashed"]


def test_json_and_parquet_hold_the_same(measured: LatencyTable, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    export_table(measured, tmp_path / "t.json", "json")
    export_table(measured, tmp_path / "t.parquet", "parquet")
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["provenance"] == json.loads(measured.provenance.to_json())
    read = pq.read_table(tmp_path / "t.parquet")
    assert tuple(read.column_names) == COLUMNS
    assert read.to_pylist() == [{name: row[name] for name in COLUMNS} for row in content["rows"]]
    assert Provenance.from_json(read.schema.metadata[b"hwnas.provenance"].decode()) == measured.provenance


def test_exports_overwrite_only_when_told(measured: LatencyTable, tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    out.write_text("precious")
    with pytest.raises(TableError, match="exists"):
        export_table(measured, out, "csv")
    assert out.read_text() == "precious"
    with pytest.raises(TableError, match="is the table itself"):
        export_table(measured, measured.path, "csv", force=True)
    with pytest.raises(TableError, match="is a folder"):
        export_table(measured, tmp_path, "csv", force=True)
    with pytest.raises(TableError, match="no folder"):
        export_table(measured, tmp_path / "none" / "t.csv", "csv")
    with pytest.raises(TableError, match="unknown format 'xls'"):
        export_table(measured, tmp_path / "t.xls", "xls")
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(TableError, match="exists"):
        export_table(measured, link, "csv")
    export_table(measured, out, "csv", force=True)
    assert out.read_text().startswith("key,op,")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.csv", "m.db", "t.csv"]


def test_yaml_of_what_has_no_place_there(tmp_path: Path) -> None:
    with (
        LatencyTable.create(tmp_path / "f.db", Provenance(device="flops", unit="MMACs")) as table,
        pytest.raises(TableError, match="MMACs"),
    ):
        export_yaml(table)
    with LatencyTable.create(tmp_path / "c.db", Provenance(device="cpu", unit="ms")) as table:
        table.register([WorkloadRow("a", "a")])
        table.finish("a", latency=1)
        with pytest.raises(TableError, match="none of its 1 rows"):
            export_yaml(table)
