"""Intervals hold what they promise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hwnas.predictors.conformal import Conformal, folds
from hwnas.predictors.regressors.base import Rows


def plain_rows(x: np.ndarray) -> Rows:
    return Rows(np.empty((len(x), 0), np.int16), (), x[:, None], ("x",))


@pytest.mark.parametrize("n", [19, 100, 150])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_coverage_over_many_draws(n: int, coverage: float) -> None:
    """Exchangeable errors of any distribution: a new one is inside with the probability that was asked for."""
    rng = np.random.default_rng(n)
    hits = []
    for _ in range(400):
        errors = rng.standard_t(3, n + 50)
        half = Conformal.of(plain_rows(np.zeros(n)), errors[:n], rng).half_width(plain_rows(np.zeros(50)), coverage)
        hits.append((np.abs(errors[n:]) <= half).mean())
    assert coverage - 0.01 <= np.mean(hits) <= coverage + 1 / (n + 1) + 0.01


def test_the_corrected_quantile() -> None:
    conformal = Conformal(np.arange(1.0, 20.0))  # 19 scores: rank 20 * 0.9 = 18
    one = plain_rows(np.zeros(1))
    assert conformal.half_width(one, 0.9)[0] == 18.0
    assert conformal.half_width(one, 0.95)[0] == 19.0
    widths = [conformal.half_width(one, c)[0] for c in (0.95, 0.96, 0.99, 0.999)]
    assert widths == sorted(set(widths))


def test_where_errors_can_be_foreseen_widths_differ() -> None:
    rng = np.random.default_rng(0)
    x, new = rng.random(600), rng.random(2000)
    errors = rng.normal(0, 0.01 + 0.2 * (x > 0.7))
    conformal = Conformal.of(plain_rows(x), errors, rng)
    assert conformal.difficulty is not None
    half = conformal.half_width(plain_rows(new), 0.9)
    inside = np.abs(rng.normal(0, 0.01 + 0.2 * (new > 0.7))) <= half
    assert 0.87 <= inside.mean() <= 0.94
    assert np.median(half[new < 0.6]) < 0.3 * np.median(half[new > 0.8])
    meta, arrays = conformal.state()
    again = Conformal.from_state(json.loads(json.dumps(meta)), arrays)
    np.testing.assert_array_equal(again.half_width(plain_rows(new), 0.9), half)


def test_where_they_cannot_widths_are_one() -> None:
    rng = np.random.default_rng(0)
    conformal = Conformal.of(plain_rows(rng.random(400)), rng.normal(0, 0.1, 400), rng)
    assert conformal.difficulty is None
    assert Conformal.from_state(*conformal.state()).difficulty is None


@pytest.mark.parametrize("scores", [[], [-1.0, 2.0], [np.nan, 1.0]])
def test_damaged_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="scores"):
        Conformal.from_state({"difficulty": None}, {"scores": np.array(scores)})


@pytest.mark.parametrize(("n", "k"), [(10, 10), (10, 3), (3, 10), (101, 10)])
def test_folds_are_parts(n: int, k: int) -> None:
    parts = folds(n, k, np.random.default_rng(0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts) == min(n, k)
