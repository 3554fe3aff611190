"""Sums over operators, fitted on whole networks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hwnas.predictors.base import PredictorError
from hwnas.predictors.features import SpaceFeatures
from hwnas.predictors.kinds import learned_type
from hwnas.predictors.regressors.base import Rows
from hwnas.predictors.regressors.kernel_sums import KernelSums, Way
from hwnas.profiler.additive import AdditiveModel
from hwnas.spaces.registry import load_space


def rows_of(name: str, n: int, seed: int = 0, **arguments: object) -> Rows:
    space = load_space(name, arguments)
    return SpaceFeatures.of(space).rows(space.encoding.sample(n, np.random.default_rng(seed)))


def latency(rows: Rows, *, live: bool = True) -> np.ndarray:
    """By counts, MACs and elements moved, each family at a rate of its own."""
    sums = rows.operators.sums(live=live)
    rates = 1 + np.arange(sums.shape[1]) / 3
    return 0.5 + (sums @ np.array([1e-2, 2e-7, 1e-7, 0.0])) @ rates


def test_few_networks_are_enough() -> None:
    rows, new = rows_of("proxyless-small", 40), rows_of("proxyless-small", 60, 1)
    found = KernelSums().fit(rows, latency(rows), np.random.default_rng(0))
    assert np.abs(found.predict(new) / latency(new) - 1).max() < 0.02
    assert found.held_out is not None
    assert np.abs(found.held_out / latency(rows) - 1).mean() < 0.02


def test_shapes_that_no_network_had_are_priced() -> None:
    """Fitted at one resolution and width, asked at others."""
    rows = rows_of("proxyless-small", 60)
    fitted = KernelSums().fit(rows, latency(rows), np.random.default_rng(0))
    new = rows_of("proxyless-small", 60, 1, resolution=40, width=0.75)
    assert np.abs(fitted.predict(new) / latency(new) - 1).mean() < 0.1


@pytest.mark.parametrize("live", [True, False])
def test_the_data_decide_whether_dead_operators_count(live: bool) -> None:
    rows, new = rows_of("nasbench201", 60), rows_of("nasbench201", 200, 1)
    found = KernelSums().fit(rows, latency(rows, live=live), np.random.default_rng(0))
    error = np.abs(found.predict(new) / latency(new, live=live) - 1)
    assert np.median(error) < 0.01
    bare = replace(rows, operators=None)
    without = KernelSums().fit(bare, latency(rows, live=live), np.random.default_rng(0))
    assert error.mean() < np.abs(without.predict(replace(new, operators=None)) / latency(new, live=live) - 1).mean()


@pytest.mark.parametrize("with_table", [False, True])
def test_the_sums_over_choices_are_the_predictions(with_table: bool) -> None:
    """On a space too large to be listed the expectation is exact, too."""
    space = load_space("proxyless-small", {})
    table = None
    if with_table:
        prices = {w.key(): 0.01 * (1 + i % 7) for i, w in enumerate(space.workloads())}
        table = AdditiveModel.from_values(space.encoding, space.description, prices).scaled(1.0, 0.2)
    features = SpaceFeatures.of(space, table)
    rows = features.rows(space.encoding.sample(60, np.random.default_rng(0)))
    y = latency(rows) if table is None else latency(rows) + 3 * rows.numeric[:, -1]
    fitted = KernelSums().fit(rows, y, np.random.default_rng(0))
    sums = fitted.sums(space, table)
    assert sums is not None
    codes = space.encoding.sample(300, np.random.default_rng(1))
    np.testing.assert_allclose(sums.predict(codes), fitted.predict(features.rows(codes)), rtol=1e-9)
    predictor = learned_type("kernel").fit_codes(
        space, rows.operators.codes, y, rng=np.random.default_rng(0), table=table
    )
    assert predictor.closed_form
    p = [np.full(len(d), 1 / len(d)) for d in space.decisions]
    drawn = predictor.predict_codes(space.encoding.sample(20_000, np.random.default_rng(2), p))
    assert predictor.expected(p) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(len(drawn)))


def test_what_a_runtime_merges_is_no_sum_over_choices() -> None:
    rows = rows_of("nasbench201", 40)
    fitted = KernelSums().fit(rows, latency(rows), np.random.default_rng(0))
    fitted.way = Way(True, counts=(0,))
    assert fitted.sums(load_space("nasbench201", {}), None) is None


def test_rows_of_a_space_need_one_again() -> None:
    rows = rows_of("proxyless-small", 20)
    fitted = KernelSums().fit(rows, latency(rows), np.random.default_rng(0))
    meta, arrays = fitted.state()
    again = KernelSums.from_state(json.loads(json.dumps(meta)), arrays)
    np.testing.assert_array_equal(again.predict(rows), fitted.predict(rows))
    with pytest.raises(PredictorError, match="give --space"):
        again.predict(replace(rows, operators=None))
