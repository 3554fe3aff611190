"""Latency tables completed by prices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hwnas.devices.registry import create
from hwnas.predictors.base import Predictor, PredictorError
from hwnas.predictors.files import PredictorFile
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.kernel_table import KernelTablePredictor
from hwnas.predictors.lut import LutPredictor
from hwnas.predictors.registry import load_predictor
from hwnas.predictors.table_prices import complete
from hwnas.profiler.additive import AdditiveModel
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.predictors import PredictorConformance

SMALL = ("proxyless-small", {"resolution": 8})


def ms(operators: list[dict[str, Any]]) -> float:
    """What a workload takes alone."""
    return sum(0.002 + operator["macs"] / 2e6 + operator["written"] * 1e-6 for operator in operators)


def truth(space: SearchSpace, codes: np.ndarray) -> np.ndarray:
    """What networks take: more than their workloads alone."""
    values = {w.key(): ms(w.info["operators"]) for w in space.workloads()}
    return 0.05 + 1.1 * AdditiveModel.from_values(space.encoding, space.description, values).predict(codes)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of made-up times, with networks, whose calibration is that of `truth`."""
    space = load_space(*SMALL)
    about = Provenance("cpu", "ms", {"batch": 1, "threads": 1}, space.name, space.arguments, space.fingerprint)
    path = tmp_path_factory.mktemp("tables") / "t.db"
    codes = space.encoding.sample(16, np.random.default_rng(5))
    with LatencyTable.create(path, about) as made, made.batch():
        for w in space.workloads():
            made.register([WorkloadRow(w.key(), w.op, "fixed" if w.fixed else "candidate", w.info)])
            made.finish(w.key(), latency=ms(w.info["operators"]))
        for i, (a, latency) in enumerate(zip(space.decode(codes), truth(space, codes), strict=True)):
            info = {"role": "held-out" if i % 4 == 0 else "calibration", "architecture": a.as_dict()}
            made.register([WorkloadRow(f"network {i}", "network", "network", info)])
            made.finish(f"network {i}", latency=latency)
        networks = [a.as_dict() for a in space.decode(codes)]
        made.set_calibration({"method": "isolated", "factor": 1.1, "extra": 0.05, "live": True, "networks": networks})
    return path


def part_of(table: Path, to: Path, keeps: Callable[[Any], bool], *, info: bool = True) -> Path:
    """A copy with some of the rows; `info`: with what they consist of."""
    with LatencyTable.open(table) as whole, LatencyTable.create(to, whole.provenance, resume=False) as less:
        for row in filter(keeps, whole.rows()):
            said = row.info if info else {name: value for name, value in row.info.items() if name != "operators"}
            less.register([WorkloadRow(row.key, row.op, row.kind, said)])
            less.finish(row.key, latency=row.latency, low=row.low, high=row.high)
        if whole.calibration is not None:
            less.set_calibration(whole.calibration)
    return to


def without_some(row: Any) -> bool:
    """Whether a row is no block of kernel 5 and expansion 6."""
    return not row.op.startswith("mbconv5x5_e6")


def test_rows_that_are_not_there_are_priced(table: Path, tmp_path: Path) -> None:
    space = load_space(*SMALL)
    whole = LutPredictor.load(table, space)
    found = complete(part_of(table, tmp_path / "part.db", without_some), space)
    assert (found.measured, found.priced) == (28, 5)
    known = {row.key: row.latency for row in whole.rows}
    for row in found.predictor.rows:
        if row.info.get("priced"):
            assert row.low is not None
            assert row.high is not None
            assert row.latency is not None
            assert row.low < row.latency < row.high
            assert row.latency == pytest.approx(known[row.key], rel=0.1)
        else:
            assert row.latency == known[row.key]
    assert found.networks is not None
    assert found.networks.mape < 2
    codes = space.encoding.sample(200, np.random.default_rng(0))
    np.testing.assert_allclose(found.predictor.predict_codes(codes), truth(space, codes), rtol=0.03)
    assert 0.01 < found.predictor.relative_spread(0.9) < 0.1
    assert found.as_dict()["judged_by"] == "networks"
    assert found.predictor.origin is not None
    assert whole.origin is not None
    assert found.predictor.origin.networks.keys() == whole.origin.networks.keys()


def test_a_table_that_lacks_nothing_is_as_good_as_before(table: Path) -> None:
    space = load_space(*SMALL)
    found = complete(table, space)
    assert (found.priced, list(found.doubts)) == (0, [])
    codes = space.encoding.sample(100, np.random.default_rng(0))
    whole = LutPredictor.load(table, space)
    np.testing.assert_allclose(found.predictor.predict_codes(codes), whole.predict_codes(codes), rtol=0.01)
    np.testing.assert_allclose(found.predictor.predict_codes(codes), truth(space, codes), rtol=0.01)


def test_another_space(table: Path) -> None:
    other = load_space("proxyless-small", {"resolution": 12, "width": 0.75})
    found = complete(table, other)
    assert (found.measured, found.priced) == (1, 32)  # the last layer is as wide as ever
    codes = other.encoding.sample(200, np.random.default_rng(0))
    np.testing.assert_allclose(found.predictor.predict_codes(codes), truth(other, codes), rtol=0.1)
    assert "no network of 'proxyless-small'" in found.notes[0]
    assert "beyond the measured sizes" in found.doubts[0]
    assert found.predictor.origin is not None
    assert not found.predictor.origin.networks


def test_a_table_without_networks(table: Path, tmp_path: Path) -> None:
    found = complete(part_of(table, tmp_path / "p.db", lambda row: row.kind != "network"), load_space(*SMALL))
    assert found.networks is None
    assert found.as_dict()["judged_by"] == "workloads"
    assert found.predictor.calibration is not None
    assert found.predictor.calibration["factor"] == 1.1


def test_counts_stay_exact(tmp_path: Path) -> None:
    space = load_space(*SMALL)
    profile(ProfileRequest(create("flops"), space, tmp_path / "f.db"))
    found = complete(part_of(tmp_path / "f.db", tmp_path / "part.db", without_some), space)
    assert found.predictor.unit == "MMACs"
    exact = FlopsPredictor.of(space)
    codes = space.encoding.sample(200, np.random.default_rng(0))
    np.testing.assert_allclose(found.predictor.predict_codes(codes), exact.predict_codes(codes), rtol=0.02)


def test_what_a_table_does_not_say(table: Path, tmp_path: Path) -> None:
    old = part_of(table, tmp_path / "old.db", without_some, info=False)
    assert complete(old, load_space(*SMALL)).priced == 5  # the space says what its own workloads consist of
    with pytest.raises(PredictorError, match="does not say what 27 of its 28 workloads consist of"):
        complete(old, load_space("proxyless-small", {"resolution": 9}))
    few = part_of(table, tmp_path / "few.db", lambda row: row.kind == "fixed")
    with pytest.raises(PredictorError, match="at least 6 measured workloads, not 3"):
        complete(few, load_space(*SMALL))


class TestKernelTable(PredictorConformance):
    spec: ClassVar = SMALL

    @pytest.fixture(scope="class")
    def space(self) -> SearchSpace:
        return load_space("proxyless-small", {"resolution": 8})

    @pytest.fixture(scope="class")
    def other_space(self) -> SearchSpace:
        return load_space("nasbench201", {})

    @pytest.fixture(scope="class")
    def predictor(self, space: SearchSpace, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
        return complete(part_of(table, tmp_path_factory.mktemp("part") / "t.db", without_some), space).predictor


@pytest.fixture(scope="module")
def saved(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PredictorFile]:
    path = tmp_path_factory.mktemp("saved") / "p.npz"
    complete(table, load_space(*SMALL)).predictor.save(path)
    return path, PredictorFile.read(path)


def test_the_file_is_found_by_its_kind(saved: tuple[Path, PredictorFile]) -> None:
    found = load_predictor(saved[0], load_space(*SMALL))
    assert isinstance(found, KernelTablePredictor)
    assert found.kind == "kernel-table"


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": None},
        {"rows": [{}]},
        {"rows": []},
        {"provenance": "{}"},
        {"calibration": {"factor": -1}},
        {"calibration": 7},
    ],
)
def test_damaged_files_are_refused(saved: tuple[Path, PredictorFile], damage: dict[str, Any], tmp_path: Path) -> None:
    file = saved[1]
    meta = json.loads(json.dumps({**file.meta, **damage}))
    PredictorFile(file.kind, file.unit, file.space, file.fingerprint, meta).write(tmp_path / "d.npz")
    with pytest.raises(PredictorError, match=r"damaged|lacks"):
        KernelTablePredictor.load(tmp_path / "d.npz", load_space(*SMALL))


@pytest.mark.parametrize("value", [-1.0, "1", None, True])
def test_damaged_rows_are_refused(saved: tuple[Path, PredictorFile], value: object, tmp_path: Path) -> None:
    file = saved[1]
    rows = json.loads(json.dumps(file.meta["rows"]))
    rows[0]["latency"] = value
    meta = {**file.meta, "rows": rows}
    PredictorFile(file.kind, file.unit, file.space, file.fingerprint, meta).write(tmp_path / "d.npz")
    with pytest.raises(PredictorError, match="damaged"):
        KernelTablePredictor.load(tmp_path / "d.npz", load_space(*SMALL))
