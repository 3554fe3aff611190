"""The bench: devices whose values are exact, and visits to networks."""

from __future__ import annotations

import json
from dataclasses import replace
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


def test_a_long_network_is_run_once_in_each_visit_after_the_first(tmp_path: Path) -> None:
    device = create("simulated", table={"fast": 2.0, "slow": 30.0})
    rules = MeasuringProtocol(network_visits=5, pause_s=0.0)

    def artifact() -> Artifact:
        return Artifact("ops", json.dumps({"macs": 1_000_000}).encode(), (), "d", "ops")

    with device.open() as session, LatencyTable.create(tmp_path / "t.db", Provenance("simulated", "ms")) as table:
        table.register([WorkloadRow("fast", "network", "network"), WorkloadRow("slow", "network", "network")])
        for visits in (3, 5):  # a second call goes on where the first one stopped
            bench = open_bench(device, session, table, replace(rules, network_visits=visits), 0)
            bench.session_id = table.add_session({})
            bench.load(dict.fromkeys({"fast", "slow"} - set(session.loaded), artifact), "load")
            found = bench.networks(["fast", "slow"])
        assert {key: round(e.value) for key, e in found.items()} == {"fast": 2, "slow": 30}
        runs = {key: [len(visit.wall) for visit in own] for key, own in table.all_visits().items()}
        assert runs == {"fast": [3] * 5, "slow": [3, 1, 1, 1, 1]}
