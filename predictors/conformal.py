"""Intervals that hold what they promise: quantiles of the errors that cross-validation saw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .regressors.base import Regressor, Rows, State
from .regressors.forest import RandomForest

SCALED_FROM = 200
"""Rows from which it is tried whether errors can be foreseen."""
PAYS = 0.95
"""They are, where that brings the median width below this share."""
FOLDS = 10
SMALLEST = 1e-4
"""Relative error below which one is as good as another."""


@dataclass(frozen=True, eq=False)
class Conformal:
    """Half widths of intervals relative to the prediction, by cross-conformal prediction (Vovk, 2015).

    Each row was predicted by a regressor that had not seen it. The `coverage` quantile of these relative errors, with
    the finite-sample correction (n + 1) coverage / n, covers a new row with that probability, if it comes from where
    the others came from; no error has to be normal for that. Beyond the largest error seen, the normal tail goes on.

    Attributes:
        scores: (n,) ascending |y / predicted - 1|, divided by the expected difficulty where there is one.
        difficulty: foresees a row's error; None: the relative width is the same for all.
    """

    scores: NDArray[np.float64]
    difficulty: Regressor | None = None

    @classmethod
    def of(cls, rows: Rows, relative: NDArray[np.float64], rng: np.random.Generator) -> Conformal:
        """From (n,) signed relative errors of rows that were held out."""
        size = np.abs(relative)
        plain = cls(np.sort(size))
        if len(rows) < SCALED_FROM:
            return plain
        known = np.maximum(size, SMALLEST)
        expected = np.empty(len(rows))
        for held in folds(len(rows), FOLDS, rng):
            rest = np.setdiff1d(np.arange(len(rows)), held)
            expected[held] = _difficulty(rows.take(rest), known[rest], rng).predict(rows.take(held))
        scaled = np.sort(size / expected)
        if _quantile(scaled, 0.9) * np.median(expected) > PAYS * _quantile(plain.scores, 0.9):
            return plain
        return cls(scaled, _difficulty(rows, known, rng))

    def half_width(self, rows: Rows, coverage: float) -> NDArray[np.float64]:
        """(N,) as a share of the prediction."""
        quantile = _quantile(self.scores, coverage)
        return quantile * (np.ones(len(rows)) if self.difficulty is None else self.difficulty.predict(rows))

    def state(self) -> State:
        """JSON data and arrays."""
        meta, arrays = ({}, {}) if self.difficulty is None else self.difficulty.state()
        return {"difficulty": meta or None}, {
            "scores": self.scores,
            **{f"difficulty/{k}": a for k, a in arrays.items()},
        }

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Conformal:
        """The inverse of `state`; raises KeyError, TypeError or ValueError for damaged data."""
        scores = np.sort(arrays["scores"].astype(float))
        if not len(scores) or not np.isfinite(scores).all() or scores[0] < 0:
            raise ValueError("the scores are no errors")
        if meta["difficulty"] is None:
            return cls(scores)
        own = {key.removeprefix("difficulty/"): a for key, a in arrays.items() if key.startswith("difficulty/")}
        return cls(scores, RandomForest.from_state(meta["difficulty"], own))


def folds(n: int, k: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Random parts of range(n), sizes equal to within one."""
    return [np.sort(part) for part in np.array_split(rng.permutation(n), min(k, n))]


def _difficulty(rows: Rows, size: NDArray[np.float64], rng: np.random.Generator) -> Regressor:
    return RandomForest(trees=40, columns=0.3, leaf=15).fit(rows, size, rng)


def _quantile(scores: NDArray[np.float64], coverage: float) -> float:
    n = len(scores)
    rank = math.ceil((n + 1) * coverage)
    if rank <= n:
        return float(scores[rank - 1])
    # No finite interval is sure to cover so much: the largest error stands for its own probability.
    tail = NormalDist().inv_cdf
    return float(scores[-1]) * tail((1 + coverage) / 2) / tail((1 + n / (n + 1)) / 2)
