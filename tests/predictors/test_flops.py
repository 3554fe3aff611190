"""MMACs without a measurement."""

from __future__ import annotations

import numpy as np
import pytest
from hwnas.devices.flops import count
from hwnas.predictors.base import PredictorError
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.lut import LutPredictor
from hwnas.predictors.registry import load_predictor
from hwnas.profiler.lowering import LoweringError
from hwnas.spaces.registry import load_space


def test_it_is_the_count_of_the_built_network() -> None:
    space = load_space("proxyless-small", {"resolution": 8})
    predictor = load_predictor("flops", space)
    assert isinstance(predictor, FlopsPredictor)
    assert predictor.unit == "MMACs"
    some = space.sample(3, np.random.default_rng(0))
    counted = [count(space.build(a), space.inputs()).macs / 1e6 for a in some]
    np.testing.assert_allclose(predictor.predict(some), counted, rtol=1e-12)
    np.testing.assert_array_equal(predictor.interval(some), np.stack([predictor.predict(some)] * 2, axis=1))


def test_saved_it_is_a_table(tmp_path: pytest.TempPathFactory) -> None:
    space = load_space("proxyless-small", {"resolution": 8})
    predictor = FlopsPredictor.of(space)
    path = tmp_path / "f.db"  # type: ignore[operator]
    predictor.save(path)
    table = load_predictor(path, space)
    assert type(table) is LutPredictor
    assert table.unit == "MMACs"
    some = space.sample(3, np.random.default_rng(1))
    np.testing.assert_array_equal(table.predict(some), predictor.predict(some))
    assert type(FlopsPredictor.load(path, space)) is FlopsPredictor


def test_a_table_in_milliseconds_is_no_count(make_lut, tmp_path) -> None:  # type: ignore[no-untyped-def]
    space = load_space("proxyless-small", {"resolution": 8})
    make_lut(space).save(tmp_path / "t.db")
    with pytest.raises(PredictorError, match="in ms, not in MMACs"):
        FlopsPredictor.load(tmp_path / "t.db", space)


def test_what_cannot_be_counted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwnas.profiler.artifacts import Lowerer

    def refuse(self: Lowerer, workload: object) -> None:
        raise LoweringError("no such operator")

    monkeypatch.setattr(Lowerer, "workload", refuse)
    with pytest.raises(PredictorError, match=r"mbconv.* cannot be counted: no such operator"):
        FlopsPredictor.of(load_space("proxyless-small", {"resolution": 8}))
