"""Predicted against measured, on the simulated device and with exact counts."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.registry import create
from hwnas.errors import HwnasError
from hwnas.predictors.base import PredictorError
from hwnas.predictors.compare import CompareRequest, compare
from hwnas.predictors.comparison import Comparison
from hwnas.predictors.lut import LutPredictor
from hwnas.predictors.registry import load_predictor
from hwnas.profiler.artifacts import Lowerer
from hwnas.profiler.lowering import LoweringError
from hwnas.profiler.metrics import errors
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable, TableError
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

VISITS = 4


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": 8})


@pytest.fixture(scope="module")
def made(space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the simulated device."""
    path = tmp_path_factory.mktemp("table") / "t.db"
    protocol = MeasuringProtocol(network_visits=4)
    profile(ProfileRequest(create("simulated"), space, path, protocol=protocol))
    return path


@pytest.fixture
def table(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "t.db"))


def run(table: Path, space: SearchSpace, out: Path, progress: Any = None, **options: Any) -> Comparison:
    predictor = load_predictor(table, space)
    request = CompareRequest(predictor, create("simulated"), out, **{"n": 5, "visits": VISITS, **options})
    return compare(request, progress)


def calibration_networks(table: Path) -> list[Architecture]:
    with LatencyTable.open(table) as opened:
        assert opened.calibration is not None
        return [Architecture.from_dict(a) for a in opened.calibration["networks"]]


def test_what_it_finds(table: Path, space: SearchSpace, tmp_path: Path) -> None:
    found = run(table, space, tmp_path / "out")
    predictor = load_predictor(table, space)
    assert [n.architecture for n in found.networks] == list(dict.fromkeys(n.architecture for n in found.networks))
    assert len(found.networks) == 5
    assert not {n.architecture for n in found.networks} & set(calibration_networks(table))
    np.testing.assert_allclose(
        [n.predicted for n in found.networks], predictor.predict([n.architecture for n in found.networks])
    )
    measured = [n.measured for n in found.networks]
    assert found.errors == errors([n.predicted for n in found.networks], measured)
    assert found.refitted == errors([n.predicted_refitted or 0 for n in found.networks], measured)
    assert found.errors is not None
    assert found.errors.mape < 15
    assert found.drift == pytest.approx(0, abs=0.5)
    assert found.noise == pytest.approx(0, abs=0.5)
    assert found.doubts == []
    assert list(found.extremes) == ["smallest", "largest", "all-skip"]
    order = [found.extremes[name].predicted for name in ("smallest", "largest")]
    assert order[0] <= min(n.predicted for n in found.networks) <= max(n.predicted for n in found.networks) <= order[1]
    for network in [*found.networks, *found.extremes.values()]:
        assert network.wall_p50 is not None
        assert network.wall_p90 is not None
        assert network.measured <= network.wall_p50 <= network.wall_p90
    low, high = found.intervals["mape"]
    assert low <= found.errors.mape <= high


def test_what_it_writes(table: Path, space: SearchSpace, tmp_path: Path) -> None:
    found = run(table, space, tmp_path / "out")
    data = json.loads((tmp_path / "out" / "compare.json").read_text())
    for field in ("unit", "n", "mape", "bias", "rmse", "max_error", "within_1", "within_5", "within_10", "spearman"):
        assert field in data
    for field in ("kendall", "drift", "mape_refitted", "max_error_refitted", "noise", "networks", "extremes"):
        assert data[field] is not None
    assert len(data["networks"]) == data["n"] == 5
    for network in [*data["networks"], *data["extremes"].values()]:
        assert {"architecture", "predicted", "predicted_refitted", "measured", "wall_p50", "wall_p90"} <= set(network)
        assert space.encode([Architecture.from_dict(network["architecture"])]).shape == (1, 6)
    rows = list(csv.DictReader((tmp_path / "out" / "compare.csv").open()))
    assert [row["role"] for row in rows] == ["network"] * 5 + ["smallest", "largest", "all-skip"]
    assert float(rows[0]["measured"]) == found.networks[0].measured
    assert float(rows[0]["error_percent"]) == pytest.approx(found.networks[0].error)
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_seed_decides_which_networks(table: Path, space: SearchSpace, tmp_path: Path) -> None:
    first, again, other = (
        [n.architecture for n in run(table, space, tmp_path / name, seed=seed, n=3, visits=2).networks]
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    assert first != other


def test_given_networks(table: Path, space: SearchSpace, tmp_path: Path) -> None:
    given = space.sample(2, np.random.default_rng(77))
    found = run(table, space, tmp_path / "out", architectures=[*given, given[0]])
    assert [n.architecture for n in found.networks] == given


def test_drift_is_seen_and_the_refitted_factor_follows(table: Path, space: SearchSpace, tmp_path: Path) -> None:
    before = run(table, space, tmp_path / "before")
    with LatencyTable.open(table) as old:
        rows, calibration, provenance = old.rows(), old.calibration, old.provenance
    assert calibration is not None
    faster = tmp_path / "faster.db"
    calibration = {**calibration, "factor": 0.8 * calibration["factor"], "extra": 0.8 * calibration["extra"]}
    with LatencyTable.create(faster, provenance) as new, new.batch():
        from hwnas.profiler.table import WorkloadRow

        new.register(WorkloadRow(r.key, r.op, r.kind, r.info) for r in rows)
        for row in rows:
            assert row.latency is not None
            new.finish(row.key, latency=row.latency * (0.8 if row.kind == "network" else 1))
        new.set_calibration(calibration)
    found = run(faster, space, tmp_path / "after")
    assert found.drift == pytest.approx(25, abs=1)
    assert before.refitted is not None
    assert found.refitted is not None
    assert found.errors is not None
    assert found.errors.bias < -15
    assert found.refitted.mape == pytest.approx(before.refitted.mape, abs=0.2)
    assert any("profile anew" in doubt for doubt in found.doubts)


class Interrupt:
    """Ends a run in the middle of the measurements."""

    def step(self, name: str, done: float, total: float) -> None:
        if name == "networks" and done > total / 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on(table: Path, space: SearchSpace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(table, space, out, Interrupt())
    with LatencyTable.open(out / "measurements.db") as half:
        before = {key: [v.started for v in visits] for key, visits in half.all_visits().items()}
    assert before
    assert not (out / "compare.json").exists()
    run(table, space, out)
    with LatencyTable.open(out / "measurements.db") as whole:
        after = {key: [v.started for v in visits] for key, visits in whole.all_visits().items()}
        assert len(whole.sessions()) == 2
    assert all(len(visits) == VISITS for visits in after.values())
    assert all(after[key][: len(visits)] == visits for key, visits in before.items())


@pytest.mark.parametrize("change", [{}, {"seed": 9}, {"visits": 3}])
def test_a_finished_or_another_run_is_not_gone_on_with(
    table: Path, space: SearchSpace, tmp_path: Path, change: dict[str, int]
) -> None:
    out = tmp_path / "out"
    if change:
        with pytest.raises(KeyboardInterrupt):
            run(table, space, out, Interrupt())
    else:
        run(table, space, out)
    run(table, space, out, **change)
    with LatencyTable.open(out / "measurements.db") as fresh:
        assert len(fresh.sessions()) == 1


def test_a_table_of_something_else_is_not_replaced(table: Path, space: SearchSpace, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    precious = Path(shutil.copy(table, tmp_path / "out" / "measurements.db"))
    content = precious.read_bytes()
    with pytest.raises(TableError, match="something else"):
        run(table, space, tmp_path / "out")
    assert precious.read_bytes() == content


def test_a_network_that_fails_is_named_and_left_out(
    table: Path, space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(table, space, tmp_path / "a").networks[0].architecture
    lower = Lowerer.network

    def network(self: Lowerer, architecture: Architecture) -> Any:
        if architecture == first:
            raise LoweringError("no such operator")
        return lower(self, architecture)

    monkeypatch.setattr(Lowerer, "network", network)
    found = run(table, space, tmp_path / "b")
    assert first not in [n.architecture for n in found.networks]
    assert found.errors is not None
    assert found.errors.n == len(found.networks) == 4
    assert [a for a, _ in found.failed] == [first]
    assert len(found.doubts) == 1
    assert "no such operator" in found.doubts[0]
    with pytest.raises(HwnasError, match=r"none of the networks could be measured: no such operator"):
        run(table, space, tmp_path / "c", architectures=[first])


@pytest.mark.parametrize(
    ("device", "settings", "message"),
    [
        ("simulated", {"threads": 2}, r"settings\.threads = 1, not 2"),
        ("simulated", {"noise": 0.5}, r"settings\.noise"),
        ("cpu", {}, r"device = 'simulated', not 'cpu'"),
        ("flops", {}, r"in ms, device 'flops' in MMACs"),
    ],
)
def test_another_device_is_refused(
    table: Path, space: SearchSpace, tmp_path: Path, device: str, settings: dict[str, Any], message: str
) -> None:
    predictor = load_predictor(table, space)
    with pytest.raises(PredictorError, match=message):
        compare(CompareRequest(predictor, create(device, **settings), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_another_machine_is_a_doubt(table: Path, space: SearchSpace, tmp_path: Path) -> None:
    from dataclasses import replace

    here = load_predictor(table, space)
    assert isinstance(here, LutPredictor)
    environment = {**here.provenance.environment, "cpu": {"model": "Abacus 3000"}}
    away = LutPredictor(space, replace(here.provenance, environment=environment), here.rows, here.calibration)
    found = compare(CompareRequest(away, create("simulated"), tmp_path / "out", n=2, visits=2))
    assert any("Abacus 3000" in doubt for doubt in found.doubts)


def test_counts_are_exact(space: SearchSpace, tmp_path: Path) -> None:
    predictor = load_predictor("flops", space)
    found = compare(CompareRequest(predictor, create("flops"), tmp_path / "out", n=4))
    assert found.unit == "MMACs"
    assert found.errors is not None
    assert found.errors.max_error < 1e-9
    assert (found.drift, found.noise, found.factor) == (0, 0, 1)
    assert found.networks[0].wall_p50 is None
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["mape_refitted"] < 1e-9


def test_a_predictor_without_calibration_networks_is_not_refitted(
    table: Path, space: SearchSpace, tmp_path: Path
) -> None:
    calibrated = load_predictor(table, space)
    assert isinstance(calibrated, LutPredictor)
    plain = LutPredictor(space, calibrated.provenance, calibrated.rows)
    found = compare(CompareRequest(plain, create("simulated"), tmp_path / "out", n=2, visits=2))
    assert (found.drift, found.factor, found.refitted, found.networks[0].predicted_refitted) == (None,) * 4
    assert found.as_dict()["mape_refitted"] is None


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 10_001}, {"visits": 1}, {"seed": -1}])
def test_requests_out_of_range(space: SearchSpace, tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(HwnasError, match=str(*wrong.values())):
        CompareRequest(load_predictor("flops", space), create("flops"), tmp_path, **wrong)  # type: ignore[arg-type]


def test_a_space_that_calibration_has_used_up(tmp_path: Path, space: SearchSpace) -> None:
    few = load_space(f"{Path(__file__).parent / 'nets.py'}:two")
    path = tmp_path / "t.db"
    profile(ProfileRequest(create("simulated"), few, path, protocol=MeasuringProtocol(network_visits=2)))
    with pytest.raises(HwnasError, match="no network that calibration has not used"):
        run(path, few, tmp_path / "out")
