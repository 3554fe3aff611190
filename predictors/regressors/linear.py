"""Ridge regression on choices, numbers and pairs of choices, by relative error."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .base import TABLE, Regressor, Rows, State
from .matrix import Matrix, Standard, one_hot

CONSTANT = 100.0
"""Prior variance of the intercept, in squares of the median y: it is as good as free."""
NOISES = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 0.3, 1.0)
"""Relative variances that are tried for what the model leaves."""
Share = tuple[float, float, float]
SHARES: tuple[Share, ...] = (
    (1.0, 0.0, 0.0),
    (1.0, 1.0, 0.0),
    (1.0, 0.1, 0.0),
    (1.0, 1.0, 0.1),
    (1.0, 0.1, 0.1),
    (1.0, 0.1, 0.01),
)
"""Prior variances of choices, numbers and pairs that are tried."""
JUDGED_ON = 400
"""Rows on which priors are chosen."""
FLOOR = 0.1
"""Share of the smallest y that is predicted at least."""
SMALL = 0.1
"""Share of the median y below which errors count relative to that, so that networks that do nothing do not decide."""


@dataclass(frozen=True)
class Prior:
    """Variance of what choices, numbers and pairs of choices explain, and of what is left."""

    choices: float
    numbers: float
    pairs: float
    noise: float


class Linear(Regressor):
    """y ~ constant + sum of one weight a category + weights . numbers + sum of one weight a pair of categories.

    Minimises the squares of the *relative* errors with normal priors on the weights (ridge); how wide these are, and
    whether pairs come in at all, is decided by the exact leave-one-out error. The constant and the factor of a table's
    own prediction are as good as free. Fitted in its dual form (Saunders et al.,
    1998), so that the many pairs cost nothing; predicts in the primal, which is additive: one lookup a column or pair.

    Args:
        shares: prior variances of choices, numbers and pairs that are tried.

    Attributes:
        loo: (N,) leave-one-out predictions of the rows it was fitted on; `held_out` is the same.
    """

    kind: ClassVar[str] = "linear"

    def __init__(self, *, shares: Sequence[Share] = SHARES) -> None:
        self.shares = shares
        self.loo: NDArray[np.float64] = np.empty(0)

    def fit(self, rows: Rows, y: NDArray[np.float64], rng: np.random.Generator) -> Self:
        self.unit, self.floor = float(np.median(y)), FLOOR * float(y.min())
        self.sizes = rows.sizes
        scaled = y / self.unit
        scale = np.maximum(scaled, SMALL)
        self.free = [i for i, name in enumerate(rows.names) if name == TABLE]
        kernels = _Kernels.of(rows, self.free)
        self.standard = kernels.standard
        few = np.sort(rng.permutation(len(y))[:JUDGED_ON])
        tried = [k[np.ix_(few, few)] for k in kernels.all]
        self.prior = _best(tried, scaled[few] / scale[few], scale[few], self.shares)
        system = _system(kernels.all, scale, self.prior)
        inverse = np.linalg.inv(system + self.prior.noise * np.eye(len(y)))
        dual = inverse @ (scaled / scale)
        self.loo = self.held_out = np.maximum(self.unit * (scaled - scale * dual / np.diag(inverse)), self.floor)
        self._to_primal(rows, kernels, dual / scale)
        return self

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        total = self.constant + self.standard(rows.numeric) @ self.numbers
        for column, weights in zip(rows.choices.T, _split(self.single, self.sizes), strict=True):
            total += np.append(weights, 0.0)[column]
        if len(self.pairs):
            shapes = [(self.sizes[c] + 1) * (self.sizes[d] + 1) for c, d in self._pairs()]
            for (c, d), weights in zip(self._pairs(), _split(self.pairs, shapes), strict=True):
                total += weights[_pair_index(rows, c, d)]
        return np.maximum(self.unit * total, self.floor)

    def state(self) -> State:
        meta = {"unit": self.unit, "floor": self.floor, "constant": self.constant, "sizes": list(self.sizes)}
        arrays = {"single": self.single, "numbers": self.numbers, "pairs": self.pairs, **self.standard.arrays()}
        return {**meta, "prior": vars(self.prior)}, arrays

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.unit, self.floor, self.constant = (float(meta[name]) for name in ("unit", "floor", "constant"))
        self.sizes = tuple(int(n) for n in meta["sizes"])
        self.prior = Prior(**{name: float(value) for name, value in meta["prior"].items()})
        self.standard = Standard.from_arrays(arrays)
        self.single, self.numbers, self.pairs = (np.asarray(arrays[n], float) for n in ("single", "numbers", "pairs"))
        wanted = sum((self.sizes[c] + 1) * (self.sizes[d] + 1) for c, d in self._pairs())
        if self.single.shape != (sum(self.sizes),) or self.pairs.shape not in ((0,), (wanted,)):
            raise ValueError("the weights do not fit the choices")
        return self

    # -- inside

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return itertools.combinations(range(len(self.sizes)), 2)

    def _to_primal(self, rows: Rows, kernels: _Kernels, dual: np.ndarray) -> None:
        prior = self.prior
        self.constant = float(CONSTANT * dual.sum())
        weights = prior.choices / kernels.sizes[0] * (kernels.hot.T @ dual)
        self.constant -= float(kernels.means @ weights)
        self.single = weights
        self.numbers = prior.numbers / kernels.sizes[1] * (kernels.numbers.T @ dual)
        self.numbers[self.free] = CONSTANT * (kernels.free.T @ dual)
        self.pairs = np.empty(0)
        if prior.pairs:
            found = [
                np.bincount(_pair_index(rows, c, d), dual, (self.sizes[c] + 1) * (self.sizes[d] + 1))
                * _both(self.sizes[c], self.sizes[d])
                for c, d in self._pairs()
            ]
            self.pairs = prior.pairs / kernels.sizes[2] * np.concatenate([np.empty(0), *found])


@dataclass(frozen=True, eq=False)
class _Kernels:
    """Inner products between rows of centred categories, standardised numbers, pairs of categories, and what is free.

    The first three have a mean diagonal of 1 (`sizes` is what they were divided by).
    """

    all: tuple[Matrix, Matrix, Matrix, Matrix]
    sizes: tuple[float, float, float]
    hot: Matrix
    means: NDArray[np.float64]
    numbers: Matrix
    free: Matrix
    standard: Standard

    @classmethod
    def of(cls, rows: Rows, free: Sequence[int]) -> _Kernels:
        hot = one_hot(rows)
        means = hot.mean(axis=0)
        centred = hot - means
        standard = Standard.of(rows.numeric)
        numbers = standard(rows.numeric)
        known = numbers[:, free]
        numbers[:, free] = 0
        same = hot @ hot.T
        raw = (centred @ centred.T, numbers @ numbers.T, same * (same - 1) / 2)
        choices, counts, pairs = (max(float(np.mean(np.diag(k))), 1e-12) for k in raw)
        kernels = raw[0] / choices, raw[1] / counts, raw[2] / pairs, 1 + known @ known.T
        return cls(kernels, (choices, counts, pairs), centred, means, numbers, known, standard)


def _system(kernels: Sequence[Matrix], scale: np.ndarray, prior: Prior) -> Matrix:
    """Covariance of the relative values under the prior, without noise."""
    choices, numbers, pairs, free = kernels
    covariance = prior.choices * choices + prior.numbers * numbers + prior.pairs * pairs + CONSTANT * free
    return np.asarray(covariance / np.outer(scale, scale))


def _best(kernels: Sequence[Matrix], target: np.ndarray, scale: np.ndarray, shares: Sequence[Share]) -> Prior:
    """The prior with the smallest mean absolute leave-one-out error (Allen's PRESS, by absolute values)."""
    tried: list[tuple[float, Prior]] = []
    for share in shares:
        values, vectors = np.linalg.eigh(_system(kernels, scale, Prior(*share, noise=0)))
        turned = vectors.T @ target
        for noise in NOISES:
            damped = 1 / (np.maximum(values, 0) + noise)
            left = (vectors @ (damped * turned)) / ((vectors**2) @ damped)
            tried.append((float(np.abs(left).mean()), Prior(*share, noise=noise)))
    return min(tried, key=lambda item: item[0])[1]


def _split(values: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(sizes))[:-1]


def _pair_index(rows: Rows, c: int, d: int) -> NDArray[np.intp]:
    """Where in a pair's table each row is; the last row and column of it are for none."""
    first, second = (np.where(rows.choices[:, i] < 0, rows.sizes[i], rows.choices[:, i]) for i in (c, d))
    return np.asarray(first.astype(np.intp) * (rows.sizes[d] + 1) + second)


def _both(first: int, second: int) -> np.ndarray:
    """Mask of a pair's table that leaves out where one has no category."""
    mask = np.zeros((first + 1, second + 1))
    mask[:first, :second] = 1
    return mask.ravel()
