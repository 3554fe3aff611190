"""The upper end of an interval as a predictor."""

from __future__ import annotations

import numpy as np
import pytest
from hwnas.predictors.base import Predictor, PredictorError
from hwnas.predictors.registry import predictor_type
from hwnas.predictors.upper import UpperEnd
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.search import Formula, made_up_table


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": 8})


@pytest.fixture(scope="module")
def learned(space: SearchSpace) -> Predictor:
    rng = np.random.default_rng(0)
    codes = space.encoding.sample(60, rng)
    latency = made_up_table(space).predict_codes(codes) * np.exp(0.1 * rng.standard_normal(60))
    return predictor_type("linear").fit(space, space.decode(codes), latency.tolist(), rng=rng)


def test_it_is_the_upper_end(space: SearchSpace, learned: Predictor) -> None:
    some = space.sample(20, np.random.default_rng(1))
    for predictor in (learned, made_up_table(space)):
        for coverage in (0.5, 0.9):
            found = UpperEnd(predictor, coverage).predict(some)
            np.testing.assert_array_equal(found, predictor.interval(some, coverage)[:, 1])
            assert (found > predictor.predict(some)).all()


def test_a_tables_expectation_stays_a_closed_form(space: SearchSpace, learned: Predictor) -> None:
    p = [np.full(len(d), 1 / len(d)) for d in space.decisions]
    table = made_up_table(space)
    upper = UpperEnd(table, 0.9)
    assert upper.closed_form
    assert upper.expected(p) == pytest.approx((1 + table.relative_spread(0.9)) * table.expected(p))
    codes = space.encoding.sample(5, np.random.default_rng(0))
    np.testing.assert_allclose(upper.additive.predict(codes), upper.predict_codes(codes))  # type: ignore[union-attr]
    estimated = UpperEnd(learned, 0.9)
    assert not estimated.closed_form
    drawn = space.encoding.sample(20_000, np.random.default_rng(3))
    assert estimated.expected(p) == pytest.approx(estimated.predict_codes(drawn).mean(), rel=0.005)


def test_what_it_cannot_be(space: SearchSpace) -> None:
    for coverage in (0.0, 1.0, float("nan")):
        with pytest.raises(PredictorError, match="between 0 and 1"):
            UpperEnd(made_up_table(space), coverage)

    class Measuring(Formula):
        measures = True

    with pytest.raises(PredictorError, match="measured has no interval"):
        UpperEnd(Measuring(space, lambda codes: np.ones(len(codes))), 0.9)
