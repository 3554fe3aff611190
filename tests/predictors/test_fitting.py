"""Checks of training data, cross-validation, and what is kept of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hwnas.predictors.base import PredictorError
from hwnas.predictors.fitting import Fitted, aggregate, fingerprint, fit_regressor
from hwnas.predictors.regressors.base import Rows
from hwnas.profiler.metrics import errors
from hypothesis import given
from hypothesis import strategies as st


def some_rows(n: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    choices = rng.integers(0, 3, (n, 2)).astype(np.int16)
    return Rows(choices, (3, 3), rng.random((n, 1)), ("size",), ("a", "b"))


def latency(rows: Rows) -> np.ndarray:
    return 2 + rows.choices.sum(axis=1) + rows.numeric[:, 0]


def noisy(rows: Rows, seed: int = 0) -> np.ndarray:
    return latency(rows) * np.random.default_rng(seed).normal(1, 0.05, len(rows))


def test_cross_validation_sees_the_noise() -> None:
    rows, new = some_rows(150), some_rows(1000, 1)
    fitted = fit_regressor("linear", rows, noisy(rows), np.random.default_rng(0))
    assert fitted.error.n == 150
    assert 3 <= fitted.error.mape <= 5  # mean absolute deviation of 5 % noise
    inside = np.abs(noisy(new, 1) / fitted.predict(new) - 1) <= fitted.half_width(new, 0.9)
    assert 0.85 <= inside.mean() <= 0.95
    np.testing.assert_allclose(fitted.predict(new), latency(new), rtol=0.05)


def test_it_survives_a_file() -> None:
    rows, new = some_rows(40), some_rows(30, 1)
    fitted = fit_regressor("linear", rows, noisy(rows), np.random.default_rng(0))
    meta, arrays = fitted.state()
    again = Fitted.from_state(json.loads(json.dumps(meta, allow_nan=False)), arrays)
    np.testing.assert_array_equal(again.predict(new), fitted.predict(new))
    np.testing.assert_array_equal(again.half_width(new, 0.9), fitted.half_width(new, 0.9))
    assert again.error == fitted.error


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.ones(9), "needs at least 10 measured networks, not 9"),
        (np.arange(20.0), "1 of 20 latencies are not positive numbers, such as 0"),
        (np.append(np.ones(19), -1), "such as -1"),
        (np.append(np.arange(1.0, 20), np.nan), "such as nan"),
        (np.full(20, 2.0), "all 20 networks have the same latency 2"),
    ],
)
def test_latencies_that_cannot_be_learned(y: np.ndarray, message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        fit_regressor("linear", some_rows(len(y)), y, np.random.default_rng(0))


def test_rows_that_cannot_be_predicted() -> None:
    rows = some_rows(40)
    fitted = fit_regressor("linear", rows, latency(rows), np.random.default_rng(0))
    choices, numeric = rows.choices.copy(), rows.numeric.copy()
    choices[3, 1] = 3
    numeric[5, 0] = np.inf
    with pytest.raises(PredictorError, match="choice 'b' has 3 categories, row 3 has number 3"):
        fitted.predict(Rows(choices, rows.sizes, rows.numeric, rows.names, rows.labels))
    with pytest.raises(PredictorError, match="column 'size' is inf in row 5"):
        fitted.predict(Rows(rows.choices, rows.sizes, numeric, rows.names, rows.labels))
    with pytest.raises(PredictorError, match="another kind than"):
        fitted.half_width(rows.with_numeric("more", numeric[:, 0]), 0.9)


def test_nothing_is_predicted_as_nothing() -> None:
    rows = some_rows(20)
    fitted = fit_regressor("linear", rows, latency(rows), np.random.default_rng(0))
    assert fitted.predict(rows.take([])).shape == (0,)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(0.1, 9)), min_size=1, max_size=40))
def test_equal_rows_become_one(data: list[tuple[int, int, float]]) -> None:
    codes, y = np.array([row[:2] for row in data]), np.array([row[2] for row in data])
    first, middle, back = aggregate(codes, y)
    assert (np.diff(first) > 0).all()
    assert len({tuple(row) for row in codes.tolist()}) == len(first)
    np.testing.assert_array_equal(codes[first][back], codes)
    for i in range(len(first)):
        assert middle[i] == np.median(y[back == i])


def test_the_fingerprint_is_of_the_set() -> None:
    codes, y = np.array([[0, 1], [2, 1], [0, 0]], np.int16), np.array([1.0, 2.0, 3.0])
    order = [2, 0, 1]
    assert fingerprint(codes, y) == fingerprint(codes[order].astype(np.int64), y[order])
    assert fingerprint(codes, y) != fingerprint(codes, y[order])


@pytest.mark.parametrize(("n", "own"), [(299, False), (300, True)])
def test_its_own_held_out_predictions_are_believed_where_rows_are_many(n: int, own: bool) -> None:
    rows = some_rows(n)
    fitted = fit_regressor("linear", rows, noisy(rows), np.random.default_rng(0))
    assert fitted.regressor.held_out is not None
    assert (fitted.error == errors(fitted.regressor.held_out, noisy(rows))) is own
