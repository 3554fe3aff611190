"""int8 through the profiler: what is cached under what name, calibration data, tables and comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hwnas.cache import Cache
from hwnas.devices.registry import create
from hwnas.predictors.compare import CompareRequest, compare
from hwnas.predictors.lut import LutPredictor
from hwnas.profiler.artifacts import Lowerer
from hwnas.profiler.calibration_data import CalibrationData, CalibrationDataError, quantisation
from hwnas.profiler.in_context import attribute
from hwnas.profiler.lowering.precision import PrecisionError
from hwnas.profiler.lowering.precision.run import Runner
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.progress import Silent
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn

QUICK = MeasuringProtocol(max_visits=3, tolerance=0.5, span_s=0, pause_s=0, network_visits=2, trace_runs=5)


def images(scale: float = 1.0, n: int = 4, shape: tuple[int, ...] = (1, 8, 8)) -> CalibrationData:
    rng = np.random.default_rng(0)
    return CalibrationData("noise", (scale * rng.standard_normal((n, *shape)).astype(np.float32),))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.cells = nn.ModuleList(
            LayerChoice({"k1": nn.Conv2d(8, 8, 1), "k3": nn.Conv2d(8, 8, 3, padding=1), "max": nn.MaxPool2d(3, 1, 1)})
            for _ in range(2)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for cell in self.cells:
            x = torch.as_tensor(cell(x))
        return self.head(x.mean((2, 3)))


def tiny() -> SearchSpace:
    return SearchSpace(Net, (1, 8, 8), name="tiny")


@pytest.fixture(scope="module")
def small() -> SearchSpace:
    """A built-in space, whose networks are cached."""
    return load_space("proxyless-small", {"resolution": 8})


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names under which artifacts are looked for."""
    names: list[str] = []
    get = Cache.get_bytes

    def remembering(self: Cache, kind: str, id: str) -> bytes | None:
        if kind == "artifact":
            names.append(id)
        return get(self, kind, id)

    monkeypatch.setattr(Cache, "get_bytes", remembering)
    return names


# -- lowering


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_each_precision_has_an_entry_of_its_own_in_the_cache(format: str, small: SearchSpace, kept: list[str]) -> None:
    workload = small.workloads()[0]
    made = [Lowerer(small, format, dtype=dtype).workload(workload) for dtype in ("fp32", "int8")]
    assert len(set(kept)) == 2
    again = [Lowerer(small, format, dtype=dtype).workload(workload) for dtype in ("fp32", "int8")]
    assert made == again
    assert made[0].data != made[1].data
    assert made[0].digest == made[1].digest == workload.digest


def test_networks_are_kept_by_what_calibrated_them_and_operators_are_not(small: SearchSpace, kept: list[str]) -> None:
    (architecture,) = small.sample(1, np.random.default_rng(0))
    lowerers = [Lowerer(small, "onnx", dtype="int8", calibration=c) for c in (None, images(), images(30), images(30))]
    inputs = [Runner("onnx", lowerer.network(architecture).data).inputs[0].scale for lowerer in lowerers]
    assert len(set(kept)) == 3
    assert inputs[2] == inputs[3] == pytest.approx(30 * inputs[1], rel=1e-3)
    assert inputs[0] != inputs[1]
    assert [lowerer.seconds > 0 for lowerer in lowerers] == [True, True, True, False]
    kept.clear()
    for lowerer in lowerers:
        lowerer.workload(small.workloads()[0])
    assert len(set(kept)) == 1


def test_where_precision_changes_nothing_there_is_one_entry(small: SearchSpace, kept: list[str]) -> None:
    for lowerer in (Lowerer(small, "ops", dtype="int8"), Lowerer(small, "ops", calibration=images())):
        lowerer.route = "ops"
        lowerer.workload(small.workloads()[0])
    assert len(set(kept)) == 1


def test_costs_hold_both_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    space = tiny()
    (workload, *_) = space.workloads()
    whole, rounded = (Lowerer(space, "onnx", dtype=dtype) for dtype in ("fp32", "int8"))
    whole.workload(workload)
    rounded.workload(workload)
    assert rounded.costs[workload.digest]["lowering_ms"] == pytest.approx(1e3 * rounded.seconds)
    assert set(rounded.costs[workload.digest]) == set(whole.costs[workload.digest])


class Gelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = LayerChoice({"gelu": nn.GELU(), "relu": nn.ReLU()})
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.as_tensor(self.act(x)))


def test_what_cannot_be_quantised_fails_alone_and_by_name() -> None:
    """And the other route, which could not either, is not tried: it would take seconds an operator."""
    space = SearchSpace(Gelu, (8,), name="gelu")
    lowerer = Lowerer(space, "onnx", dtype="int8")
    (relu,) = (a for a in space.enumerate() if a.choices["act"] == "relu")
    failed = lowerer.choose_route(relu, Silent())
    assert lowerer.route == "emitter"
    (reason,) = failed.values()
    assert reason == "GELU cannot be brought to int8: onnxruntime has no int8 form of Gelu"
    gelu = next(w for w in space.workloads() if w.digest in failed)
    with pytest.raises(PrecisionError):
        lowerer.workload(gelu)


def test_node_times_of_int8_networks_find_their_modules() -> None:
    space = tiny()
    (architecture,) = (a for a in space.enumerate() if set(a.choices.values()) == {"k3"})
    artifact = Lowerer(space, "onnx", dtype="int8").network(architecture)
    model = create("cpu", dtype="int8").runtime().load("network", artifact)
    found = attribute(artifact, model.trace(10))
    assert {"stem#0", "cells.0#0", "cells.1#0", "head#0"} <= set(found.owned)
    kernels = {node.op_type for node in model.trace(2).nodes}
    assert "QLinearConv" in kernels


# -- calibration data


def test_batches_of_calibration_data() -> None:
    data = images(n=5)
    assert [[a.shape for a in batch] for batch in data.batches(2)] == [[(2, 1, 8, 8)]] * 2
    (batch,) = data.batches(12)  # too few are repeated
    np.testing.assert_array_equal(batch[0][:5], batch[0][5:10])
    np.testing.assert_array_equal(np.concatenate([b[0] for b in data.batches(1)]), data.arrays[0])


def test_the_digest_is_that_of_the_numbers() -> None:
    assert images().digest == CalibrationData("other", images().arrays).digest
    assert len({images().digest, images(2).digest, images(n=3).digest, images(shape=(8, 8)).digest}) == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (images(shape=(3, 8, 8)), "'noise' have the shape 3x8x8, but space 'tiny' takes 1x8x8"),
        (images(shape=(1, 8)), "have the shape 1x8, but"),
        (CalibrationData("two", images().arrays * 2), "have the shape 1x8x8 and 1x8x8, but"),
        (CalibrationData("ids", (np.zeros((2, 1, 8, 8), np.int64),)), "'ids' are int64, not float32"),
    ],
)
def test_data_of_another_shape(data: CalibrationData, message: str) -> None:
    images().check(tiny())
    with pytest.raises(CalibrationDataError, match=message):
        data.check(tiny())


# -- tables


def test_a_table_in_int8_and_what_it_predicts(tmp_path: Path) -> None:
    space, device = tiny(), create("cpu", dtype="int8")
    result = profile(ProfileRequest(device, space, tmp_path / "t.db", protocol=QUICK, calibration=images()))
    assert result.failed == {}
    assert result.calibration is not None
    with LatencyTable.open(tmp_path / "t.db") as table:
        assert all(" int8 #" in row.key for row in table.rows())
        about = table.provenance
    assert about.settings["dtype"] == "int8"
    told = {"operators": "normal random numbers", "networks": "4 inputs of noise", "digest": images().digest}
    assert about.quantisation == told
    predictor = LutPredictor.load(tmp_path / "t.db", space)
    request = CompareRequest(predictor, device, tmp_path / "out", n=2, visits=2, protocol=QUICK)
    compared = compare(request)  # its networks are calibrated by random numbers, which is no contradiction
    assert [n.measured > 0 for n in compared.networks] == [True, True]
    with LatencyTable.open(tmp_path / "out" / "measurements.db") as table:
        assert "warning" in table.provenance.quantisation


def test_what_a_table_says_of_its_calibration() -> None:
    assert quantisation("fp32", None) == quantisation("fp16", images()) == {}
    assert "not for accuracy" in quantisation("int8", None)["warning"]
    assert quantisation("int8", images())["networks"] == "4 inputs of noise"
    assert "warning" not in quantisation("int8", images())
