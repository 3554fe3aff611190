"""The bench of devices whose values are exact."""

from __future__ import annotations

import json
from pathlib import Path

from hwnas.devices.base import Artifact
from hwnas.devices.registry import create
from hwnas.profiler.bench import open_bench
from hwnas.profiler.lowering import LoweringError
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow


def test_what_cannot_be_lowered_costs_only_itself(tmp_path: Path) -> None:
    def counted() -> Artifact:
        return Artifact("ops", json.dumps({"macs": 3_000_000}).encode(), (), "d", "ops")

    def refused() -> Artifact:
        raise LoweringError("no such operator")

    with LatencyTable.create(tmp_path / "t.db", Provenance(device="flops", unit="MMACs")) as table:
        table.register([WorkloadRow("good", "op"), WorkloadRow("bad", "op")])
        bench = open_bench(create("flops"), None, table, MeasuringProtocol(), 0)
        assert set(bench.load({"good": counted, "bad": refused}, "load")) == {"good"}
        assert {key: e.value for key, e in bench.operators(["good", "bad"]).items()} == {"good": 3.0}
        assert {row.key: (row.status, row.reason) for row in table.rows()}["bad"] == ("failed", "no such operator")
