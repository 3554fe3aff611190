"""Errors and rank correlations against numbers worked out by hand."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hwnas.errors import HwnasError
from hwnas.profiler.metrics import bootstrap, errors
from hypothesis import given
from hypothesis.extra.numpy import arrays


def test_errors_by_hand() -> None:
    found = errors([1.01, 1.92, 4.0, 8.48], [1, 2, 4, 8])
    assert found.n == 4
    assert found.mape == pytest.approx((1 + 4 + 0 + 6) / 4)
    assert found.bias == pytest.approx((1 - 4 + 0 + 6) / 4)
    assert found.rmse == pytest.approx(math.sqrt((1 + 16 + 0 + 36) / 4))
    assert found.max_error == pytest.approx(6)
    assert (found.within_5, found.within_10) == (75, 100)
    assert (found.spearman, found.kendall) == (1, 1)


def test_rank_correlations_by_hand() -> None:
    found = errors([1, 2, 4, 3], [1, 2, 3, 4])
    assert found.kendall == pytest.approx((5 - 1) / 6)
    assert found.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert errors([4, 3, 2], [1, 2, 3]).kendall == pytest.approx(-1)


@pytest.mark.parametrize(("predicted", "measured"), [([1], [1]), ([1, 1], [1, 2]), ([1, 2], [3, 3])])
def test_correlations_without_order_are_undefined(predicted: list[float], measured: list[float]) -> None:
    found = errors(predicted, measured)
    assert math.isnan(found.spearman)
    assert math.isnan(found.kendall)
    assert found.as_dict()["spearman"] is found.as_dict()["kendall"] is None
    assert found.as_dict()["n"] == len(measured)


LATENCIES = arrays(float, 7, elements=st.floats(0.01, 100))


@given(LATENCIES, LATENCIES, st.floats(0.01, 100))
def test_units_do_not_matter_and_the_parts_agree(predicted: np.ndarray, measured: np.ndarray, unit: float) -> None:
    found, scaled = errors(predicted, measured), errors(unit * predicted, unit * measured)
    assert scaled.mape == pytest.approx(found.mape, abs=1e-9)
    assert abs(found.bias) <= found.mape + 1e-9
    assert found.mape <= found.rmse + 1e-9
    assert found.rmse <= found.max_error + 1e-9
    assert 0 <= found.within_1 <= found.within_5 <= found.within_10 <= 100


@pytest.mark.parametrize(
    ("predicted", "measured", "message"),
    [
        ([], [], "shape"),
        ([1], [1, 2], r"\(1,\).*\(2,\)"),
        ([[1]], [[1]], "shape"),
        ([1], [0], "positive"),
        ([1], [-1], "positive"),
        ([math.nan], [1], "finite"),
        ([1], [math.nan], "positive"),
    ],
)
def test_what_cannot_be_compared_is_refused(predicted: list[float], measured: list[float], message: str) -> None:
    with pytest.raises(HwnasError, match=message):
        errors(predicted, measured)


def test_bootstrap_intervals_hold_the_value_and_narrow_with_more_networks() -> None:
    rng = np.random.default_rng(0)
    measured = rng.uniform(1, 2, 400)
    predicted = measured * rng.normal(1.02, 0.03, 400)
    widths = []
    for n in (25, 400):
        found = errors(predicted[:n], measured[:n])
        intervals = bootstrap(predicted[:n], measured[:n], np.random.default_rng(1))
        again = bootstrap(predicted[:n], measured[:n], np.random.default_rng(1))
        assert intervals == again
        for name, (low, high) in intervals.items():
            assert low < getattr(found, name) < high
        widths.append({name: high - low for name, (low, high) in intervals.items()})
    assert all(widths[1][name] < 0.5 * widths[0][name] for name in ("mape", "bias", "rmse"))
    narrow = bootstrap(predicted, measured, np.random.default_rng(1), coverage=0.5)
    assert all(high - low < widths[1][name] for name, (low, high) in narrow.items())
