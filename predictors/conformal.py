"""Intervals that hold what they promise: quantiles of the errors that cross-validation saw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .regressors.base import Regressor, Rows, State, nested, part
from .regressors.forest import RandomForest

Vector = NDArray[np.float64]
SCALED_FROM = 200
"""Rows from which it is tried whether errors can be foreseen."""
PAYS = 0.95
"""They are, where that brings the median width below this share."""
USUAL = 0.9
"""Coverage at which that is judged."""
FOLDS = 10
SMALLEST = 1e-4
"""Relative error below which one is as good as another."""


@dataclass(frozen=True, eq=False)
class Conformal:
    """Intervals around predictions, by cross-conformal prediction (Vovk, 2015) with equal tails.

    Each row was predicted by a regressor that had not seen it. Of these errors, log(y / predicted), the quantiles
    (1 - coverage) / 2 and (1 + coverage) / 2, with the finite-sample correction (n + 1) / n, hold a new row with
    probability `coverage`, and it is above or below with the same probability, if it comes from where the others came
    from; no error has to be normal, nor symmetric, for that. Beyond the largest error seen, the normal tail goes on.

    Attributes:
        scores: (n,) ascending errors, divided by the expected difficulty where there is one.
        difficulty: foresees the size of a row's error; None: the interval is the same for all.
    """

    scores: Vector
    difficulty: Regressor | None = None

    @classmethod
    def of(cls, rows: Rows, relative: Vector, rng: np.random.Generator) -> Conformal:
        """From (n,) signed relative errors y / predicted - 1 of rows that were held out."""
        errors = np.log1p(relative)
        plain = cls(np.sort(errors))
        if len(rows) < SCALED_FROM:
            return plain
        sizes = np.maximum(np.abs(errors), SMALLEST)
        expected = np.empty(len(rows))
        for held in folds(len(rows), FOLDS, rng):
            rest = np.setdiff1d(np.arange(len(rows)), held)
            expected[held] = _difficulty(rows.take(rest), sizes[rest], rng).predict(rows.take(held))
        scaled = cls(np.sort(errors / expected))
        if np.ptp(scaled._quantiles(USUAL)) * np.median(expected) > PAYS * np.ptp(plain._quantiles(USUAL)):
            return plain
        return cls(scaled.scores, _difficulty(rows, sizes, rng))

    def factors(self, rows: Rows | None, coverage: float) -> Vector:
        """(N, 2) by which predictions are multiplied to get the lower and the upper end of their intervals.

        Args:
            rows: None where there is no difficulty: gives one row, which holds for all.
        """
        if self.difficulty is None or rows is None:
            scale = np.ones(1 if rows is None else len(rows))
        else:
            scale = self.difficulty.predict(rows)
        return np.asarray(np.exp(scale[:, None] * self._quantiles(coverage)))

    def state(self) -> State:
        """JSON data and arrays."""
        meta, arrays = nested({} if self.difficulty is None else {"difficulty": self.difficulty.state()})
        return {"difficulty": None, **meta, "tails": "equal"}, {"scores": self.scores, **arrays}

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Conformal:
        """The inverse of `state`; raises KeyError, TypeError or ValueError for damaged data."""
        scores = np.sort(arrays["scores"].astype(float))
        if not len(scores) or not np.isfinite(scores).all():
            raise ValueError("the scores are no errors")
        if "tails" not in meta:  # files of before knew the sizes of errors only
            scores = np.concatenate([-scores[::-1], scores])
        if meta["difficulty"] is None:
            return cls(scores)
        return cls(scores, RandomForest.from_state(*part("difficulty", meta, arrays)))

    # -- inside

    def _quantiles(self, coverage: float) -> Vector:
        """(2,) lower and upper score; 0, the prediction itself, is between them."""
        lower, upper = -_quantile(-self.scores[::-1], coverage), _quantile(self.scores, coverage)
        return np.array([min(lower, 0.0), max(upper, 0.0)])


def folds(n: int, k: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Random parts of range(n), sizes equal to within one."""
    return [np.sort(part) for part in np.array_split(rng.permutation(n), min(k, n))]


def _difficulty(rows: Rows, size: Vector, rng: np.random.Generator) -> Regressor:
    return RandomForest(trees=40, columns=0.3, leaf=15).fit(rows, size, rng)


def _quantile(scores: Vector, coverage: float) -> float:
    """What a new score exceeds with probability (1 - coverage) / 2."""
    n, below = len(scores), (1 + coverage) / 2
    rank = math.ceil((n + 1) * below - 1e-9)
    if rank <= n:
        return float(scores[rank - 1])
    # No finite interval is sure to cover so much: the largest error stands for its own probability.
    tail = NormalDist().inv_cdf
    known = tail(max(n, 2) / (max(n, 2) + 1))
    return float(scores[-1] + np.abs(scores).max() * max(tail(below) / known - 1, 0))
