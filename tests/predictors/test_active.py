"""Choosing what to measure, and when to stop: the random ones stay random, and judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.registry import create
from hwnas.predictors.active import FIRST, MOST, STEP, Round, check_until, is_random, looks, measuring_order, needed
from hwnas.predictors.base import PredictorError
from hwnas.predictors.collection import draw
from hwnas.predictors.fit import FitRequest, FitResult, fit_until
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.regressors.base import Rows
from hwnas.predictors.sources import MeasureRequest, Source, supply_of, supply_of_device
from hwnas.profiler.metrics import errors
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": "8"})


@pytest.fixture(scope="module")
def known(space: SearchSpace) -> Source:
    """Networks with latencies that are nearly a sum, and noise of 3 %."""
    codes = draw(space.encoding, 400, 7)
    noise = np.random.default_rng(1).lognormal(0, 0.03, len(codes))
    return Source(codes, FlopsPredictor.of(space).predict_codes(codes) * noise, "ms", "a test")


def some_rows(n: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    return Rows(rng.integers(4, size=(n, 5)).astype(np.int16), (4,) * 5, rng.random((n, 2)), ("a", "b"))


# -- the order


def test_every_other_one_is_random_whatever_is_chosen() -> None:
    order = measuring_order(some_rows(600), 100)
    assert len(set(order.tolist())) == 100
    np.testing.assert_array_equal(order[is_random(100)], np.arange(0, 100, 2))
    assert (order[~is_random(100)] % 2 == 1).all()


def test_more_of_an_order_begin_with_the_same_ones() -> None:
    rows = some_rows(needed(300))
    np.testing.assert_array_equal(measuring_order(rows.take(slice(needed(90))), 90), measuring_order(rows, 300)[:90])


def test_chosen_networks_are_more_different_than_random_ones() -> None:
    rows = some_rows(2000)
    order = measuring_order(rows, 60)
    chosen, random = (rows.numeric[order[at]] for at in (~is_random(60), is_random(60)))
    assert np.linalg.det(np.cov(chosen.T)) > 2 * np.linalg.det(np.cov(random.T))


def test_all_of_a_few_rows_can_be_ordered() -> None:
    for n in (1, 2, 7):
        assert sorted(measuring_order(some_rows(n), n).tolist()) == list(range(n))


# -- when to stop


def test_looks_end_with_the_budget() -> None:
    for n in (5, FIRST, 65, 1000, MOST):
        found = list(looks(n))
        assert found[-1] == n
        assert (np.diff(found) > 0).all()
        assert all(m % STEP == 0 for m in found[:-1])
    assert len(list(looks(MOST))) < 25


def test_the_standard_error_is_that_of_the_mean() -> None:
    measured = np.full(40, 2.0)
    predicted = measured * (1 + np.random.default_rng(0).normal(0, 0.02, 40))
    size = 100 * np.abs(predicted / measured - 1)
    one = Round.of(90, errors(predicted, measured))
    assert (one.networks, one.judges) == (90, 40)
    assert one.mape_se == pytest.approx(size.std(ddof=1) / np.sqrt(40))
    assert one.reaches(one.mape + one.mape_se)
    assert not one.reaches(one.mape + 0.9 * one.mape_se)
    assert not replace(one, judges=29).reaches(50)


@pytest.mark.parametrize("mape", [0, -1, float("nan"), float("inf"), 100])
def test_an_error_that_cannot_be_reached(mape: float) -> None:
    with pytest.raises(PredictorError, match="a percentage above 0 and below 100"):
        check_until(mape, 100)


@pytest.mark.parametrize("budget", [0, FIRST - 1, MOST + 1])
def test_a_budget_that_shows_nothing(budget: int) -> None:
    with pytest.raises(PredictorError, match=f"takes from {FIRST} to {MOST} networks, not {budget}"):
        check_until(1, budget)


# -- measuring and fitting


def fitted(space: SearchSpace, known: Source, out: Path, mape: float, n: int = 400) -> FitResult:
    request = FitRequest(space, out, kind="lut", replace=True)
    return fit_until(request, supply_of(known, space, n), mape)


def test_it_stops_where_the_error_is_small(space: SearchSpace, known: Source, tmp_path: Path) -> None:
    result = fitted(space, known, tmp_path / "p.npz", 4)
    assert result.reached
    assert result.rounds is not None
    assert [one.reaches(4) for one in result.rounds] == [False] * (len(result.rounds) - 1) + [True]
    assert result.rounds[-1].networks == len(result.predictor.training.latency) < 400
    assert result.error.n == result.rounds[-1].judges == (result.rounds[-1].networks + 1) // 2
    assert result.doubts == []
    assert len(result.predictor.fitted.conformal.scores) == result.error.n
    found = result.as_dict()
    assert found["reached"] is True
    assert set(found["rounds"][0]) == {"networks", "judges", "mape", "mape_se"}


def test_it_says_that_the_budget_is_spent(space: SearchSpace, known: Source, tmp_path: Path) -> None:
    result = fitted(space, known, tmp_path / "p.npz", 0.1, n=100)
    assert result.reached is False
    assert [one.networks for one in result.rounds or ()] == [64, 96, 100]
    assert any("MAPE 0.1 % is not reached" in doubt for doubt in result.doubts)
    assert (tmp_path / "p.npz").exists()


def test_the_judges_foretell_the_error_on_other_networks(space: SearchSpace, known: Source, tmp_path: Path) -> None:
    result = fitted(space, known, tmp_path / "p.npz", 0.1, n=200)
    others = draw(space.encoding, 3000, 11)
    measured = FlopsPredictor.of(space).predict_codes(others) * np.random.default_rng(2).lognormal(0, 0.03, 3000)
    last = (result.rounds or ())[-1]
    true = errors(result.predictor.predict_codes(others), measured).mape
    assert abs(true - last.mape) < 3 * last.mape_se


def test_networks_on_a_device(space: SearchSpace, tmp_path: Path) -> None:
    """Half of them are of the uniform draw; a run that begins again reads what is there, and ends with the same."""
    noisy = create("simulated", noise=0.05)
    request = MeasureRequest(noisy, space, tmp_path, 10, visits=2, protocol=MeasuringProtocol(pause_s=0))
    with supply_of_device(request) as supply:
        first, more = supply.take(8), supply.take(10)
    np.testing.assert_array_equal(more.codes[:8], first.codes)
    assert first.judges is not None
    drawn = {tuple(row) for row in draw(space.encoding, 8, 0)[::2].tolist()}
    assert {tuple(row) for row in first.codes[first.judges].tolist()} == drawn
    assert int(first.judges.sum()) == 4
    with supply_of_device(request) as supply:
        supply.take(8)
        again = supply.take(10)
    np.testing.assert_array_equal(again.codes, more.codes)
    np.testing.assert_array_equal(again.latency, more.latency)


def test_a_small_space_gives_all_it_has(tmp_path: Path) -> None:
    space = load_space(f"{Path(__file__).parent / 'nets.py'}:two")
    request: Any = MeasureRequest(create("flops"), space, tmp_path, 64)
    with supply_of_device(request) as supply:
        assert supply.n == 2
        with pytest.raises(PredictorError, match="from 64 to 5000 networks, not 2"):
            fit_until(FitRequest(space, tmp_path / "p.npz"), supply, 1)
