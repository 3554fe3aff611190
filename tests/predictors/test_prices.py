"""Prices of workloads that were not measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hwnas.predictors.base import PredictorError
from hwnas.predictors.operator_costs import OperatorCosts
from hwnas.predictors.operators import MEASURES, OperatorLayout, OperatorRows, Operators
from hwnas.predictors.prices import PriceModel, next_workloads
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

RATES = {"pointwise": 1 / 4e6, "depthwise": 1 / 1e6, "conv": 1 / 2e6, "linear": 1 / 1e6}
"""Milliseconds a MAC."""


def operators(space: SearchSpace) -> Operators:
    workloads = space.workloads()
    return Operators.of([w.key() for w in workloads], [w.info["operators"] for w in workloads])


def made_up(space: SearchSpace, seed: int = 0) -> np.ndarray:
    """Prices by the sizes; wide layers run better, which no sum says, and there is noise of 1 %."""
    rng = np.random.default_rng(seed)
    found = []
    for workload in space.workloads():
        own = workload.info["operators"]
        widest = max(max(o["channels"]) for o in own if "channels" in o)
        ms = 0.002 * len(own) + sum(o["macs"] * RATES.get(o["op"], 0.0) + o["written"] * 2e-7 for o in own)
        found.append(ms * (1 + 8 / widest) * rng.normal(1, 0.01))
    return np.array(found)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("proxyless-small", {})


@pytest.fixture(scope="module")
def model(space: SearchSpace) -> PriceModel:
    return PriceModel.fit(operators(space), made_up(space))


def test_what_is_left_out_is_found_again(space: SearchSpace, model: PriceModel) -> None:
    kinds = np.array(model.operators.types)
    blocks = kinds == "pointwise>depthwise>pointwise"
    error = np.abs(model.left_out() / model.y - 1)
    assert blocks.sum() == 30
    assert np.median(error[blocks]) < 0.02
    assert error.max() < 1  # the only one of its kind


def test_other_sizes_of_the_same_operators(space: SearchSpace, model: PriceModel) -> None:
    wider = load_space("proxyless-small", {"resolution": 40, "width": 0.75})
    error = np.abs(model.predict(operators(wider)) / made_up(wider) - 1)
    assert np.median(error) < 0.06
    factor = model.beyond(operators(wider))
    assert 1.3 < factor.max() < 3.2
    assert (model.beyond(operators(space)) == 1).all()
    assert (model.spread(operators(wider)) >= 0.15 * np.log(factor)).all()


def test_far_away_nothing_explodes() -> None:
    """Sixteen times the pixels of all that was measured."""
    tiny, large = (load_space("proxyless-small", {"resolution": size}) for size in (8, 32))
    model = PriceModel.fit(operators(tiny), made_up(tiny))
    assert model.beyond(operators(large)).max() == pytest.approx(16, rel=0.01)
    ratio = model.predict(operators(large)) / made_up(large)
    assert ratio.min() > 0.6
    assert ratio.max() < 1.6


def test_an_operator_of_which_none_was_measured(model: PriceModel) -> None:
    pool = {"op": "pool", "macs": 0, "read": 5000, "written": 1000, "params": 0}
    unseen = Operators.of(["pool"], [[pool]])
    assert model.costs.unknown(unseen.families) == ["pool"]
    assert 0 < model.predict(unseen)[0] < model.y.max()


def test_too_few_workloads(model: PriceModel) -> None:
    few = model.operators.take(np.arange(5))
    with pytest.raises(PredictorError, match="at least 6 measured workloads, not 5"):
        PriceModel.fit(few, model.y[:5])


@pytest.mark.parametrize(
    "damage",
    [{"macs": -1}, {"read": "many"}, {"written": float("nan")}, {"channels": "x"}, {"channels": 3}, {"op": None}],
)
def test_what_a_file_may_say_of_operators(damage: dict) -> None:
    whole = {"op": "conv", "macs": 9, "read": 1, "written": 1, "params": 9, "channels": [1, 1], "kernel": [3, 3]}
    parts = [[{**whole, **damage}]]
    if damage == {"op": None}:
        assert Operators.of(["a"], parts).families == ("None 3x3",)
        return
    with pytest.raises(PredictorError, match="cannot be read"):
        Operators.of(["a"], parts)


def test_costs_carry_from_the_family_to_a_kernel_that_was_not_there() -> None:
    rng = np.random.default_rng(0)
    families = ("conv 3x3", "conv 5x5", "pool 2x2")
    amounts = rng.uniform(0, 10, (40, 3, len(MEASURES)))
    y = amounts @ np.array([0.0, 2.0, 0.1, 0.0])
    costs = OperatorCosts.fit(families, amounts, y.sum(axis=1), shrink=1e-3)
    np.testing.assert_allclose(costs.of(families, amounts), y.sum(axis=1), rtol=0.05)
    one = np.array([[[0.0, 1.0, 0.0, 0.0]]])
    assert costs.of(("conv 7x7",), one)[0] == pytest.approx(2.0, rel=0.1)
    assert costs.unknown(("conv 7x7", "linear")) == ["linear"]
    assert all((weights >= 0).all() for weights in costs.weights.values())
    meta, arrays = costs.state()
    again = OperatorCosts.from_state(json.loads(json.dumps(meta)), arrays)
    np.testing.assert_array_equal(again.of(families, amounts), costs.of(families, amounts))
    with pytest.raises(ValueError, match="do not fit"):
        OperatorCosts.from_state({"names": ["conv"]}, arrays)


def test_the_next_ones_are_those_that_tell_most(space: SearchSpace) -> None:
    """Of many equal workloads and some of another kind, measuring one of each comes first."""
    all_of_them = operators(space)
    y = made_up(space)
    small = np.array(["e3" in name for name in all_of_them.names])
    model = PriceModel.fit(all_of_them.take(small), y[small])
    rest = np.flatnonzero(~small)
    chosen = next_workloads(model, all_of_them.take(rest), 6)
    assert len(set(chosen)) == 6
    assert next_workloads(model, all_of_them.take(rest), 6) == chosen
    before = np.trace(model.covariance(all_of_them.take(rest)))
    left = [np.trace(_covariance_after(model, all_of_them.take(rest), picked)) for picked in (chosen, [*range(6)])]
    assert left[0] < min(left[1], before)


def _covariance_after(model: PriceModel, candidates: Operators, picked: list[int]) -> np.ndarray:
    whole = model.covariance(candidates)
    own = whole[np.ix_(picked, picked)] + model.kernel.noise * np.eye(len(picked))
    return whole - whole[:, picked] @ np.linalg.solve(own, whole[picked])


def test_all_of_them_are_no_more_than_there_are(model: PriceModel) -> None:
    assert sorted(next_workloads(model, model.operators.take(np.arange(4)), 9)) == [0, 1, 2, 3]


def test_sums_over_architectures_leave_dead_operators_out() -> None:
    space = load_space("nasbench201", {})
    codes = space.encoding.sample(40, np.random.default_rng(0))
    rows = OperatorRows(OperatorLayout(space), codes)
    live, raw = rows.sums(live=True), rows.sums(live=False)
    conv = rows.families.index("conv 3x3")
    fixed = 1 + 4  # the stem, and two reductions of two
    np.testing.assert_array_equal(raw[:, conv, 0], fixed + 15 * (codes == 3).sum(axis=1))
    assert (live <= raw).all()
    assert (live[:, conv, 0] < raw[:, conv, 0]).any()
    np.testing.assert_array_equal(rows[3:5].sums(live=True), live[3:5])
