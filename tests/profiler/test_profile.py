"""From a space and a device to a calibrated table: exact where the device is, whatever else goes wrong."""

from __future__ import annotations

import glob
import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.devices import Device, Session, create
from hwnas.devices.base import DeviceError
from hwnas.errors import HwnasError
from hwnas.predictors.lut import LutPredictor
from hwnas.profiler.artifacts import Lowerer
from hwnas.profiler.profile import ProfileRequest, ProfileResult, profile
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable, TableMismatch
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.simulated import Simulated, SimulatedRuntime, SimulatedSettings
from hwnas.testing.zoo import ZOO
from torch import Tensor, nn

EXACT = SimulatedSettings(overhead_us=0, op_us=0, gmacs_per_s=0.01, noise=0)
"""A network takes what its MACs take, so that operators add up to it."""
QUICK = MeasuringProtocol(max_visits=5, tolerance=0.5, span_s=0, pause_s=0, network_visits=3)
"""For real devices, where only the way through is looked at."""


@dataclass
class Steps:
    """Progress that is remembered."""

    names: list[str] = field(default_factory=list)

    def step(self, name: str, done: float, total: float) -> None:
        assert 0 <= done <= total
        if name not in self.names:
            self.names.append(name)


class Impatient(Simulated):
    """Waits half a second for an answer."""

    def open(self, **options: Any) -> Session:
        return super().open(**{**options, "timeout_s": 0.5})


def run(space: SearchSpace, out: Path, device: Device | None = None, **more: Any) -> ProfileResult:
    return profile(ProfileRequest(device=device or Simulated(EXACT), space=space, out=out, **more))


def visits(path: Path) -> dict[str, int]:
    with LatencyTable.open(path) as table:
        return {key: len(own) for key, own in table.all_visits().items()}


def formula(space: SearchSpace, codes: np.ndarray, settings: SimulatedSettings = EXACT) -> np.ndarray:
    """What whole networks take on the simulated device."""
    runtime = SimulatedRuntime(replace(settings, noise=0.0))
    lowerer = Lowerer(space, "ops")
    models = [runtime.load(a.short(), lowerer.network(a)) for a in space.decode(codes)]
    return np.array([np.min(model.run(2)[1]) / 1e6 for model in models])


# -- all goes well


@pytest.mark.parametrize("name", ["residual", "strided", "nested"])
def test_where_operators_add_up_predictions_are_exact(name: str, tmp_path: Path) -> None:
    space = ZOO[name]()
    result = run(space, tmp_path / "t.db")
    assert (result.failed, result.unconverged, result.doubts) == ({}, [], [])
    assert result.calibration is not None
    assert result.calibration.method == "isolated"
    assert result.calibration.error is not None
    assert result.calibration.error.n == min(8, space.size // 8)
    assert result.calibration.error.max_error < 0.5
    codes = space.encoding.sample(40, np.random.default_rng(0))
    predicted = LutPredictor.load(tmp_path / "t.db", space).predict_codes(codes)
    np.testing.assert_allclose(predicted, formula(space, codes), rtol=5e-3, atol=1e-3)


def test_through_noise_and_bursts_too(tmp_path: Path) -> None:
    space = ZOO["residual"]()
    settings = replace(EXACT, noise=0.01, burst_probability=0.2, burst_factor=1.3)
    result = run(space, tmp_path / "t.db", Simulated(settings))
    assert result.failed == {}
    codes = space.encoding.sample(40, np.random.default_rng(0))
    predicted = LutPredictor.load(tmp_path / "t.db", space).predict_codes(codes)
    np.testing.assert_allclose(predicted, formula(space, codes), rtol=0.02)


def test_counts_are_exact_without_a_visit(tmp_path: Path) -> None:
    space = ZOO["residual"]()
    result = run(space, tmp_path / "t.db", create("flops"))
    assert (result.failed, result.unconverged, result.doubts) == ({}, [], [])
    assert result.calibration is not None
    assert result.calibration.factor == 1
    assert result.calibration.error is not None
    assert result.calibration.error.max_error < 1e-6
    assert visits(tmp_path / "t.db") == {}


def test_what_the_table_keeps(tmp_path: Path) -> None:
    space, out, steps = load_space("proxyless-small", {"resolution": 8}), tmp_path / "t.db", Steps()
    request = ProfileRequest(device=Simulated(EXACT), space=space, out=out, seed=3)
    result = profile(request, steps)
    assert {"lowering", "load operators", "operators", "load networks", "networks"} <= set(steps.names)
    assert {"lowering", "load", "operators", "networks", "calibration"} <= set(result.phases)
    assert 0 < sum(result.phases.values()) <= result.seconds
    json.dumps(result.as_dict())
    with LatencyTable.open(out) as table:
        about = table.provenance
        assert (about.device, about.unit, about.space, about.lowering) == ("simulated", "ms", "proxyless-small", "ops")
        assert about.space_arguments == {"resolution": 8}
        assert about.fingerprint == space.fingerprint
        assert about.protocol == {**MeasuringProtocol().untraced.as_dict(), "method": "auto"}
        assert about.environment["runtime"]["name"] == "simulated"
        assert {w.key() for w in space.workloads()} == {row.key for row in table.rows() if row.kind != "network"}
        assert all(row.status == "ok" and row.low <= row.latency <= row.high for row in table.rows())  # type: ignore[operator]
        assert {row.info["role"] for row in table.rows("network")} == {"calibration", "held-out"}
        rules = table.provenance.protocol
        networks = {row.key for row in table.rows("network")}
        assert (rules["min_visits"], rules["network_visits"]) == (12, 8)
        assert all(n == (8 if key in networks else 12) for key, n in visits(out).items())
        assert table.calibration is not None
        assert table.calibration["factor"] == result.calibration.factor  # type: ignore[union-attr]
        assert len(table.calibration["networks"]) == len(table.rows("network"))
        assert {"preemptions", "max_load", "canary_drift", "phases"} <= set(table.records("conditions")[0])
        assert len(table.sessions()) == 1
        lowered = [row.phases for row in table.rows("candidate")]
        assert all({"load_ms", "first_run_ms", "warm_run_ms", "peak_mb"} <= set(phases or {}) for phases in lowered)


def test_the_batch_is_that_of_the_device(tmp_path: Path) -> None:
    space = ZOO["residual"]()
    run(space, tmp_path / "1.db")
    run(space, tmp_path / "4.db", Simulated(replace(EXACT, batch=4)))
    with LatencyTable.open(tmp_path / "1.db") as one, LatencyTable.open(tmp_path / "4.db") as four:
        for row in one.rows("candidate"):
            (same,) = [r for r in four.rows("candidate") if (r.op, r.info["path"]) == (row.op, row.info["path"])]
            assert " b4 " in same.key
            assert same.latency == pytest.approx(4 * row.latency, rel=0.005, abs=0.003)  # type: ignore[operator]


def test_small_spaces_keep_networks_to_be_compared_with(tmp_path: Path) -> None:
    space = load_space(f"{Path(__file__).parent.parent / 'predictors' / 'nets.py'}:two")
    assert space.size == 2
    result = run(space, tmp_path / "t.db")
    assert (result.failed, result.unconverged, result.doubts) == ({}, [], [])
    codes = np.concatenate(list(space.encoding.enumerate()))
    predicted = LutPredictor.load(tmp_path / "t.db", space).predict_codes(codes)
    np.testing.assert_allclose(predicted, formula(space, codes), rtol=0.01)


# -- interrupted


KILLED = """
import os, signal, sys
from pathlib import Path
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.testing.simulated import Simulated, SimulatedSettings
from hwnas.testing.zoo import ZOO

class Killer:
    def step(self, name, done, total):
        if name == sys.argv[2] and done > 0.4 * total:
            os.kill(os.getpid(), signal.SIGKILL)

device = Simulated(SimulatedSettings(overhead_us=0, op_us=0, gmacs_per_s=0.01, noise=0))
profile(ProfileRequest(device=device, space=ZOO["residual"](), out=Path(sys.argv[1])), Killer())
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a run that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "t.db"
    run(ZOO["residual"](), path)
    return path


@pytest.mark.parametrize("step", ["operators", "load networks", "networks"])
def test_after_a_kill_nothing_is_lost_and_nothing_measured_twice(step: str, whole: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed.db"
    command = [sys.executable, "-c", KILLED, str(killed), step]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    before = visits(killed)
    assert before
    result = run(ZOO["residual"](), killed)
    assert (result.failed, result.unconverged, result.doubts) == ({}, [], [])
    assert visits(killed) == visits(whole)
    assert all(before[key] <= n for key, n in visits(killed).items() if key in before)
    with LatencyTable.open(killed) as table, LatencyTable.open(whole) as other:
        assert table.values() == pytest.approx(other.values())
        assert table.calibration is not None
        assert other.calibration is not None
        assert table.calibration["factor"] == pytest.approx(other.calibration["factor"])
        assert len(table.sessions()) == 2


def test_a_budget_that_runs_out_is_a_doubt_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "t.db"
    result = run(ZOO["residual"](), out, budget_s=1e-3)
    assert result.calibration is None
    assert result.unconverged
    assert any("budget of 0.001 s ran out; the same command goes on from here" in doubt for doubt in result.doubts)
    whole = run(ZOO["residual"](), out)
    assert whole.calibration is not None
    assert (whole.failed, whole.unconverged, whole.doubts) == ({}, [], [])


def test_another_setting_or_space_is_refused(tmp_path: Path) -> None:
    run(ZOO["residual"](), tmp_path / "t.db")
    content = (tmp_path / "t.db").read_bytes()
    with pytest.raises(TableMismatch, match="settings"):
        run(ZOO["residual"](), tmp_path / "t.db", Simulated(replace(EXACT, threads=2)))
    with pytest.raises(TableMismatch, match="space"):
        run(ZOO["nested"](), tmp_path / "t.db")
    assert (tmp_path / "t.db").read_bytes() == content


# -- workloads that go wrong


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("crash", "exit"), ("hang", "no answer"), ("error", "simulated error")],
)
@pytest.mark.parametrize("after", [0, 4])
def test_a_workload_that_misbehaves_costs_only_itself(fault: str, reason: str, after: int, tmp_path: Path) -> None:
    """When it is loaded, and when it is measured."""
    space = ZOO["residual"]()
    bad = next(w.key() for w in space.workloads() if "k5x5" in w.op)
    device = Impatient(replace(EXACT, faults={bad: fault}, fault_after=after))
    result = run(space, tmp_path / "t.db", device)
    assert list(result.failed) == [bad]
    assert re.search(reason, result.failed[bad])
    assert result.unconverged == []
    with LatencyTable.open(tmp_path / "t.db") as table:
        assert {row.key for row in table.rows() if row.status != "ok"} == {bad}
    assert any("not calibrated" in doubt for doubt in result.doubts)


def test_a_network_that_misbehaves_is_left_out(whole: Path, tmp_path: Path) -> None:
    space = ZOO["residual"]()
    with LatencyTable.open(whole) as table:
        bad = [row.key for row in table.rows("network") if row.info["role"] == "calibration"][3]
        good = table.calibration
    result = run(space, tmp_path / "t.db", Simulated(replace(EXACT, faults={glob.escape(bad): "error"})))
    assert result.calibration is not None
    assert good is not None
    assert result.calibration.factor == pytest.approx(good["factor"], abs=1e-3)
    with LatencyTable.open(tmp_path / "t.db") as table:
        assert [row.key for row in table.rows() if row.status == "failed"] == [bad]
        assert table.calibration is not None
        assert len(table.calibration["networks"]) == len(table.rows("network")) - 1


def test_noise_without_end_is_named(tmp_path: Path) -> None:
    space = ZOO["residual"]()
    protocol = MeasuringProtocol(max_visits=20, tolerance=1e-4)
    result = run(space, tmp_path / "t.db", Simulated(replace(EXACT, noise=0.3)), protocol=protocol)
    assert {w.key() for w in space.workloads() if "conv" in w.op} <= set(result.unconverged)
    with LatencyTable.open(tmp_path / "t.db") as table:
        marked = [row for row in table.rows() if row.status == "unconverged"]
        assert {row.key for row in marked} == set(result.unconverged)
        assert {row.reason for row in marked} == {"the visits did not agree"}
        assert {row.visits for row in marked} == {20}


class Histogram(nn.Module):
    """Which no route can lower."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.histc(4).sum()


class Tiny(nn.Module):
    def __init__(self, odd: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        kernels = {f"k{k}": nn.Conv2d(8, 8, k, padding=k // 2) for k in (1, 3, 5)}
        self.first = LayerChoice({**kernels, **({} if odd is None else {"odd": odd})})
        self.second = LayerChoice({"relu": nn.ReLU(), "conv": nn.Conv2d(8, 8, 3, padding=1)})
        self.third = LayerChoice({"max": nn.MaxPool2d(3, 2), "conv": nn.Conv2d(8, 8, 3, stride=2)})
        self.fourth = LayerChoice({"k1": nn.Conv2d(8, 8, 1), "k3": nn.Conv2d(8, 8, 3), "skip": nn.Identity()})

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.fourth(self.third(self.second(self.first(self.stem(x))))).mean((2, 3)))


def test_an_operator_that_cannot_be_lowered_costs_only_itself(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    space = SearchSpace(lambda: Tiny(Histogram()), (3, 16, 16), name="odd")
    result = run(space, tmp_path / "t.db", create("cpu"), protocol=QUICK)
    ((key, reason),) = result.failed.items()
    assert "histogram" in key
    assert "histc" in reason
    assert result.n == len(space.workloads()) > 5
    assert any("not calibrated" in doubt for doubt in result.doubts)
    with LatencyTable.open(tmp_path / "t.db") as table:
        assert [row.key for row in table.rows() if row.status == "failed" and row.kind != "network"] == [key]
        assert set(table.values()) >= {w.key() for w in space.workloads()} - {key}


def test_a_space_that_costs_nothing_is_refused(tmp_path: Path) -> None:
    space = SearchSpace(lambda: nn.Sequential(LayerChoice([nn.Identity(), nn.Dropout()])), (3,), name="empty")
    with pytest.raises(HwnasError, match="no operator that costs anything"):
        run(space, tmp_path / "t.db")
    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_does_not_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no-such-interpreter"):
        run(ZOO["residual"](), tmp_path / "t.db", agent_python="/no-such-interpreter")
    assert list(tmp_path.iterdir()) == []


# -- methods


def test_the_method_is_the_users(tmp_path: Path) -> None:
    result = run(ZOO["residual"](), tmp_path / "t.db", method="isolated")
    assert {c.method for c in result.tried} == {"isolated"}
    with pytest.raises(HwnasError, match="'simulated' cannot time single nodes of a network: use --method isolated"):
        run(ZOO["residual"](), tmp_path / "other.db", method="in-context")
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("method", ["auto", "isolated", "in-context"])
def test_on_this_machine(method: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    space = SearchSpace(Tiny, (3, 16, 16), name="tiny")
    result = run(space, tmp_path / "t.db", create("cpu"), protocol=QUICK, method=method)
    assert result.failed == {}
    assert result.calibration is not None
    asked = {"isolated", "in-context", "combined"} if method == "auto" else {method}
    assert {c.method for c in result.tried} == asked
    predictor = LutPredictor.load(tmp_path / "t.db", space)
    codes = np.concatenate(list(space.encoding.enumerate()))
    assert (predictor.predict_codes(codes) > 0).all()
    counted = visits(tmp_path / "t.db")
    again = run(space, tmp_path / "t.db", create("cpu"), protocol=QUICK, method=method)
    assert visits(tmp_path / "t.db") == counted
    assert again.calibration is not None
    assert again.calibration.factor == pytest.approx(result.calibration.factor)
    with LatencyTable.open(tmp_path / "t.db") as table:
        traced = [record["network"] for record in table.records("trace")]
        assert len(traced) == len(set(traced))
        assert bool(traced) is (method != "isolated")
        operators = {key for key, n in counted.items() if key in {w.key() for w in space.workloads()}}
        assert bool(operators) is (method != "in-context")
