"""Networks measured for a predictor to learn from: batches that are there are not measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.registry import create
from hwnas.predictors import collection
from hwnas.predictors.base import PredictorError
from hwnas.predictors.collection import collect, draw
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.network_timer import NetworkTimer
from hwnas.profiler.artifacts import Lowerer
from hwnas.profiler.lowering import LoweringError
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

QUICK = MeasuringProtocol(pause_s=0.0)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": "8"})


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "BATCH", 3)


def timer(space: SearchSpace, folder: Path, device: str = "simulated", **settings: Any) -> NetworkTimer:
    return NetworkTimer(space, create(device, **settings), folder, protocol=QUICK)


def begun(path: Path) -> float:
    with LatencyTable.open(path) as table:
        return min(float(session["begun"]) for session in table.sessions().values())


def test_more_of_a_draw_begin_with_the_same(space: SearchSpace) -> None:
    few, many = draw(space.encoding, 10, 3), draw(space.encoding, 700, 3)
    np.testing.assert_array_equal(many[:10], few)
    assert len(np.unique(many, axis=0)) == 700
    assert (draw(space.encoding, 10, 4) != few).any()


def test_a_small_space_has_only_so_many() -> None:
    space = load_space(f"{Path(__file__).parent / 'nets.py'}:two")
    assert sorted(draw(space.encoding, 10, 0).tolist()) == [[0], [1]]


def test_all_are_measured_in_batches(space: SearchSpace, tmp_path: Path) -> None:
    codes = draw(space.encoding, 7, 0)
    with timer(space, tmp_path, "flops") as open_timer:
        found = collect(open_timer, codes, 3)
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(found.latency, FlopsPredictor.of(space).predict_codes(codes))
    assert found.failed == []
    assert (found.provenance.device, found.provenance.unit) == ("flops", "MMACs")
    assert sorted(path.name for path in tmp_path.glob("*.db")) == [f"networks-00{i}.db" for i in range(3)]


def test_what_is_measured_is_not_measured_again(space: SearchSpace, tmp_path: Path) -> None:
    codes = draw(space.encoding, 8, 0)
    with timer(space, tmp_path, noise=0.05) as open_timer:
        first = collect(open_timer, codes[:6], 5)
    times = [begun(tmp_path / f"networks-00{i}.db") for i in range(2)]
    with timer(space, tmp_path, noise=0.05) as open_timer:
        again = collect(open_timer, codes, 5)
    assert [begun(tmp_path / f"networks-00{i}.db") for i in range(2)] == times
    np.testing.assert_array_equal(again.latency[:6], first.latency)
    np.testing.assert_array_equal(again.codes, codes)


def test_under_other_conditions_all_is_measured_anew(space: SearchSpace, tmp_path: Path) -> None:
    codes = draw(space.encoding, 3, 0)
    with timer(space, tmp_path) as open_timer:
        collect(open_timer, codes, 5)
    time = begun(tmp_path / "networks-000.db")
    for visits, threads in ((6, 1), (5, 2)):
        with timer(space, tmp_path, threads=threads) as open_timer:
            collect(open_timer, codes, visits)
        assert begun(tmp_path / "networks-000.db") > time
        time = begun(tmp_path / "networks-000.db")


def test_what_fails_is_left_out(space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = draw(space.encoding, 6, 0)
    bad = space.decode(codes[:1])[0]
    lower = Lowerer.network

    def network(self: Lowerer, architecture: object) -> object:
        if architecture == bad:
            raise LoweringError("no such operator")
        return lower(self, architecture)  # type: ignore[arg-type]

    monkeypatch.setattr(Lowerer, "network", network)
    for _ in range(2):
        with timer(space, tmp_path) as open_timer:
            found = collect(open_timer, codes, 3)
        np.testing.assert_array_equal(found.codes, codes[1:])
        assert found.failed == [(bad, "no such operator")]
    with (
        timer(space, tmp_path / "other") as open_timer,
        pytest.raises(PredictorError, match=r"none .* no such operator"),
    ):
        collect(open_timer, codes[:1], 3)


def test_a_run_that_was_killed_as_it_began_a_batch_goes_on(space: SearchSpace, tmp_path: Path) -> None:
    codes = draw(space.encoding, 5, 0)
    with timer(space, tmp_path, "flops") as open_timer:
        first = collect(open_timer, codes[:3], 3)
    (tmp_path / "networks-001.db").touch()
    (tmp_path / "networks-001.db-journal").write_bytes(bytes(512))  # what SQLite has written by then
    with timer(space, tmp_path, "flops") as open_timer:
        found = collect(open_timer, codes, 3)
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_array_equal(found.latency[:3], first.latency)
