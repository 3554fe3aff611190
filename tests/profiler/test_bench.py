"""The bench: devices whose values are exact, and visits to networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hwnas.devices.base import Artifact
from hwnas.devices.registry import create
from hwnas.profiler.bench import open_bench
from hwnas.profiler.lowering import LoweringError
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow
from hwnas.profiler.table_schema import Kind


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


@pytest.mark.parametrize(("kind", "slow_ms"), [("candidate", 6.0), ("network", 30.0)])
def test_what_is_long_is_run_once_in_each_visit_after_the_first(tmp_path: Path, kind: Kind, slow_ms: float) -> None:
    device = create("simulated", table={"fast": 2.0, "slow": slow_ms})
    rules = MeasuringProtocol(network_visits=4, max_visits=4, tolerance=1e-9, span_s=0.0, pause_s=0.0)

    def artifact() -> Artifact:
        return Artifact("ops", json.dumps({"macs": 1_000_000}).encode(), (), "d", "ops")

    with device.open() as session, LatencyTable.create(tmp_path / "t.db", Provenance("simulated", "ms")) as table:
        table.register([WorkloadRow("fast", "op", kind), WorkloadRow("slow", "op", kind)])
        bench = open_bench(device, session, table, rules, 0)
        bench.session_id = table.add_session({})
        bench.load({"fast": artifact, "slow": artifact}, "load")
        found = (bench.networks if kind == "network" else bench.operators)(["fast", "slow"])
        assert {key: round(e.value) for key, e in found.items()} == {"fast": 2, "slow": slow_ms}
        runs = {key: [len(visit.wall) for visit in own] for key, own in table.all_visits().items()}
        assert runs == {"fast": [3, 3, 3, 3], "slow": [3, 1, 1, 1]}
