"""Intervals hold what they promise."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hwnas.predictors.conformal import SCALED_FROM, Conformal, folds
from hwnas.predictors.regressors.base import Rows

Draw = Callable[[np.random.Generator, int], np.ndarray]


def plain_rows(x: np.ndarray) -> Rows:
    return Rows(np.empty((len(x), 0), np.int16), (), x[:, None], ("x",))


def same_rows(n: int) -> Rows:
    return plain_rows(np.zeros(n))


def heavy(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.expm1(0.05 * rng.standard_t(3, n))


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    """Most measurements hardly off, some far above: what an interrupted device gives."""
    return np.where(rng.random(n) < 0.2, rng.exponential(0.4, n), rng.normal(0, 0.01, n))


@pytest.mark.parametrize("draw", [heavy, skewed], ids=["heavy tails", "skewed"])
@pytest.mark.parametrize("n", [20, 100, 150])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_coverage_over_many_draws(draw: Draw, n: int, coverage: float) -> None:
    """Exchangeable errors of any distribution: a new one is inside, above and below with the promised probability."""
    rng = np.random.default_rng(n)
    above, below = [], []
    for _ in range(400):
        errors = draw(rng, n + 50)
        lower, upper = Conformal.of(same_rows(n), errors[:n], rng).factors(same_rows(50), coverage).T
        above.append((1 + errors[n:] > upper).mean())
        below.append((1 + errors[n:] < lower).mean())
    missed = (1 - coverage) / 2
    assert missed - 1 / (n + 1) - 0.01 <= np.mean(above) <= missed + 0.01
    assert missed - 1 / (n + 1) - 0.01 <= np.mean(below) <= missed + 0.01


def test_the_corrected_quantiles() -> None:
    """39 scores: the upper one has rank 40 * 0.95 = 38, the lower one the second place."""
    conformal = Conformal(np.arange(-19.0, 20.0) / 100)
    lower, upper = np.log(conformal.factors(same_rows(1), 0.9)[0])
    assert (lower, upper) == (pytest.approx(-0.18), pytest.approx(0.18))
    assert np.log(conformal.factors(same_rows(1), 0.95)[0]) == pytest.approx([-0.19, 0.19])


@pytest.mark.parametrize("scores", [[0.1], [0.1, 0.2, 0.3], [-0.5, -0.1], np.linspace(-0.3, 0.1, 40)], ids=str)
def test_higher_coverage_is_wider_beyond_all_errors_too(scores: list[float]) -> None:
    conformal = Conformal(np.asarray(scores))
    ends = np.array([conformal.factors(same_rows(1), c)[0] for c in (0.5, 0.9, 0.95, 0.99, 0.999, 0.999999)])
    assert (np.diff(ends[:, 0]) <= 0).all()
    assert (np.diff(ends[:, 1]) >= 0).all()
    assert np.isfinite(ends).all()
    assert (ends > 0).all()
    assert (ends[:, 0] <= 1).all()
    assert (ends[:, 1] >= 1).all()
    assert ends[-1, 0] < np.exp(min(scores))
    assert ends[-1, 1] > np.exp(max(scores))


def wide_to_the_right(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Errors that are ten times as large, and skewed, in one part."""
    return np.where(x > 0.7, rng.exponential(0.2, len(x)) - 0.05, rng.normal(0, 0.01, len(x)))


def test_where_errors_can_be_foreseen_widths_differ() -> None:
    inside, narrow, wide = [], [], []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        x, new = rng.random(600), rng.random(4000)
        conformal = Conformal.of(plain_rows(x), wide_to_the_right(rng, x), rng)
        assert conformal.difficulty is not None
        lower, upper = conformal.factors(plain_rows(new), 0.9).T
        y = 1 + wide_to_the_right(rng, new)
        inside.append(((lower <= y) & (y <= upper)).mean())
        narrow.append(np.median((upper - lower)[new < 0.6]))
        wide.append(np.median((upper - lower)[new > 0.8]))
    assert 0.87 <= np.mean(inside) <= 0.93
    assert np.median(narrow) < 0.3 * np.median(wide)


def test_where_they_cannot_widths_are_one() -> None:
    rng = np.random.default_rng(0)
    conformal = Conformal.of(plain_rows(rng.random(400)), rng.normal(0, 0.1, 400), rng)
    assert conformal.difficulty is None
    assert Conformal.from_state(*conformal.state()).difficulty is None


def test_few_rows_are_not_scaled() -> None:
    rng = np.random.default_rng(0)
    x = rng.random(SCALED_FROM - 1)
    assert Conformal.of(plain_rows(x), wide_to_the_right(rng, x), rng).difficulty is None


@pytest.mark.parametrize("n", [30, 400])
def test_what_is_stored_gives_the_same_intervals(n: int) -> None:
    rng = np.random.default_rng(0)
    rows = plain_rows(rng.random(n))
    conformal = Conformal.of(rows, wide_to_the_right(rng, rows.numeric[:, 0]), rng)
    meta, arrays = conformal.state()
    again = Conformal.from_state(json.loads(json.dumps(meta)), arrays)
    np.testing.assert_array_equal(again.factors(rows, 0.9), conformal.factors(rows, 0.9))


def test_files_of_before_hold_sizes_of_errors() -> None:
    """They count above and below: of 2 x 39, rank 79 * 0.95 is 76."""
    old = Conformal.from_state({"difficulty": None}, {"scores": np.arange(1.0, 40.0) / 100})
    assert np.log(old.factors(same_rows(1), 0.9)[0]) == pytest.approx([-0.37, 0.37])


@pytest.mark.parametrize("scores", [[], [np.nan, 1.0], [np.inf]])
def test_damaged_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="scores"):
        Conformal.from_state({"difficulty": None, "tails": "equal"}, {"scores": np.array(scores)})


@pytest.mark.parametrize(("n", "k"), [(10, 10), (10, 3), (3, 10), (101, 10)])
def test_folds_are_parts(n: int, k: int) -> None:
    parts = folds(n, k, np.random.default_rng(0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts) == min(n, k)
