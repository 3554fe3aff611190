"""``hwnas fit --kind kernel``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.registry import create
from hwnas.predictors.flops import FlopsPredictor
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.table import LatencyTable, WorkloadRow
from hwnas.spaces.registry import load_space

Run = Callable[..., Any]
SMALL = ("--space", "proxyless-small", "--space-arg", "resolution=8")
LARGER = ("--space", "proxyless-small", "--space-arg", "resolution=10")


def test_a_table_prices_another_space(hwnas: Run, tmp_path: Path) -> None:
    profile(ProfileRequest(create("flops"), load_space("proxyless-small", {"resolution": 8}), tmp_path / "t.db"))
    result = hwnas("fit", "--kind", "kernel", "--table", "t.db", *LARGER, "--json", "f.json")
    assert result.code == 1  # it is beyond what was measured
    assert "priced workloads are beyond the measured sizes" in result.err
    assert "Measured workloads, each priced by the others" in result.out
    path = tmp_path / "predictors" / "t-proxyless-small-kernel.npz"
    assert path.is_file()
    space = load_space("proxyless-small", {"resolution": 10})
    architecture = space.sample(1, np.random.default_rng(0))[0]
    (tmp_path / "a.json").write_text(architecture.to_json())
    predicted = hwnas("predict", "--predictor", path, *LARGER, "--arch", "a.json", "--json", "-", "-q")
    assert predicted.code == 0
    exact = FlopsPredictor.of(space).predict([architecture])[0]
    assert predicted.json["predictions"][0]["predicted"] == pytest.approx(exact, rel=0.05)
    again = hwnas("fit", "--kind", "kernel", "--table", "t.db", *LARGER)
    assert (again.code, "exists" in again.err) == (2, True)
    assert hwnas("fit", "--kind", "kernel", "--table", "t.db", *LARGER, "--force", "-q").code == 1
    foreign = hwnas("predict", "--predictor", path, *SMALL, "--arch", "a.json")
    assert foreign.code == 2


def test_measured_networks_alone(hwnas: Run) -> None:
    found = hwnas("fit", "--device", "flops", *SMALL, "--kind", "kernel", "--networks", 20, "--json", "-", "-q")
    assert found.code == 0
    assert found.json["kind"] == "kernel"
    assert found.json["mape"] < 2


def test_a_table_that_lacks_operators_is_a_feature_all_the_same(hwnas: Run, tmp_path: Path) -> None:
    profile(ProfileRequest(create("flops"), load_space("proxyless-small", {"resolution": 8}), tmp_path / "t.db"))
    with (
        LatencyTable.open(tmp_path / "t.db") as whole,
        LatencyTable.create(tmp_path / "p.db", whole.provenance) as part,
    ):
        for row in whole.rows("candidate"):
            part.register([WorkloadRow(row.key, row.op, row.kind, row.info)])
            part.finish(row.key, latency=row.latency)
    asked = ("--device", "flops", *SMALL, "--kind", "linear", "--networks", 20, "--table", "p.db")
    found = hwnas("fit", *asked, "--json", "-", "-q")
    assert found.code == 0
    assert found.json["notes"] == ["p.db lacks 3 operators of the space: they are priced by the others"]
