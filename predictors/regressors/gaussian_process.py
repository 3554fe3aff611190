"""A Gaussian process on the logarithm of what an additive model leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .base import Regressor, Rows, State
from .kernel import JITTER, Kernel, inverse_of
from .matrix import Standard
from .mixture import noise_of
from .ridge import relative_ridge
from .views import View, everything

Vector = NDArray[np.float64]
MOST = 2500
"""Rows that are kept at most, drawn at random."""
FOLDS = 10
FLOOR = 0.3
"""Share of the smallest value that is predicted at least."""
BLOCK = 512
"""Rows predicted at a time, so that the distances stay in the cache."""


class GaussianProcess(Regressor):
    """log y ~ log (ridge regression by relative error) + Gaussian process + noise.

    The process has one length for each group of columns (see `View`), so that those that do not matter fall away, and
    a linear part; marginal likelihood on some of the rows finds its parameters (Rasmussen and Williams, 2006). Rows
    whose leave-one-out errors belong to the broad part of a mixture (see `mixture`) count less.

    Args:
        view: the columns it sees; None: all.
        tuned_on: rows of which the likelihood is taken. steps: towards its largest value.
        rounds: of weighing the rows, the first of which takes all alike.

    Attributes:
        held_out: by 10-fold cross-validation, in which only the parameters come from all rows.
    """

    kind: ClassVar[str] = "gaussian-process"

    def __init__(self, view: View | None = None, *, tuned_on: int = 400, steps: int = 25, rounds: int = 3) -> None:
        self.view = view
        self.tuned_on, self.steps, self.rounds = tuned_on, steps, rounds

    def fit(self, rows: Rows, y: Vector, rng: np.random.Generator) -> Self:
        view = self.view or everything(rows)
        order = rng.permutation(len(rows))
        kept, rest = order[:MOST], order[MOST:]
        self.view, matrix = view, view.matrix(rows.take(kept))
        self.standard, self.floor = Standard.of(matrix), FLOOR * float(y.min())
        varies = self.standard.scale > 0
        groups = np.unique(view.groups(rows)[varies], return_inverse=True)[1]
        held = self._fit(self.standard(matrix)[:, varies], with_one(matrix), groups, y[kept])
        self.held_out = np.empty(len(y))
        self.held_out[kept] = held
        if len(rest):
            self.held_out[rest] = self.predict(rows.take(rest))
        return self

    def predict(self, rows: Rows) -> Vector:
        predicted = np.empty(len(rows))
        for i in range(0, len(rows), BLOCK):
            predicted[i : i + BLOCK] = self._predict(rows.take(slice(i, i + BLOCK)))
        return predicted

    def state(self) -> State:
        assert self.view is not None
        names = ("ridge", "scales", "points", "dual", "slope")
        arrays = {name: getattr(self, name) for name in names}
        return {"view": self.view.as_dict(), "floor": self.floor}, {**arrays, **self.standard.arrays()}

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls(View.from_dict(meta["view"]))
        self.floor = float(meta["floor"])
        self.standard = Standard.from_arrays(arrays)
        self.ridge, self.scales, self.slope = (np.asarray(arrays[n], float) for n in ("ridge", "scales", "slope"))
        self.points, self.dual = (np.asarray(arrays[name], np.float32) for name in ("points", "dual"))
        width = len(self.standard.mean)
        shapes = (self.ridge.shape, self.scales.shape, self.slope.shape, self.points.shape)
        used = int(np.count_nonzero(self.standard.scale))
        if shapes != ((width + 1,), (used,), (used,), (len(self.dual), used)):
            raise ValueError("the points do not fit the weights and columns")
        return self

    # -- inside

    def _fit(self, points: Vector, matrix: Vector, groups: NDArray[np.intp], y: Vector) -> Vector:
        """Learn, and return held-out predictions; the rows are in random order."""
        few, noise, penalty = slice(self.tuned_on), np.ones(len(y)), None
        kernel = Kernel.start(groups)
        for i in range(self.rounds):
            self.ridge, penalty = relative_ridge(matrix, y, noise, penalty if i > 1 else None)
            target = np.log(y / self._table(matrix))
            steps = self.steps if i == 0 else max(8, self.steps // 3)
            kernel = kernel.tuned(points[few], target[few], noise[few], steps)
            covariance = kernel.covariance(points)
            covariance[np.diag_indices_from(covariance)] += kernel.noise * noise + JITTER
            inverse, _ = inverse_of(covariance)
            dual = inverse @ target
            if i < self.rounds - 1:
                noise = noise_of(dual / np.diag(inverse))
        self.scales = kernel.scales
        self.points = (points * self.scales).astype(np.float32)
        self.dual = (kernel.amplitude * dual).astype(np.float32)
        self.slope = kernel.linear * (points.T @ dual)
        return self._held_out(matrix, y, noise, inverse, penalty)

    def _held_out(self, matrix: Vector, y: Vector, noise: Vector, inverse: Vector, penalty: float | None) -> Vector:
        """Predictions by the other folds, from the inverse of the whole covariance."""
        found = np.empty(len(y))
        for held in np.array_split(np.arange(len(y)), min(FOLDS, len(y))):
            rest = np.setdiff1d(np.arange(len(y)), held)
            ridge, _ = relative_ridge(matrix[rest], y[rest], noise[rest], penalty)
            target = np.log(y / np.maximum(matrix @ ridge, self.floor))
            error = np.linalg.solve(inverse[np.ix_(held, held)], inverse[held] @ target)
            found[held] = y[held] * np.exp(-error)
        return found

    def _table(self, matrix: Vector) -> Vector:
        return np.maximum(matrix @ self.ridge, self.floor)

    def _predict(self, rows: Rows) -> Vector:
        assert self.view is not None
        less = np.where(np.arange(len(self.standard.mean)) < len(self.view.numeric), self.standard.mean, 0.0)
        matrix = self.view.matrix(rows, np.float32, less[: len(self.view.numeric)])
        varies = self.standard.scale > 0
        mean, scale = (self.standard.mean - less)[varies], self.standard.scale[varies]
        lines = np.zeros((len(varies), 2), np.float32)
        lines[:, 0] = self.ridge[:-1]
        lines[varies, 1] = scale * self.slope
        table, ratio = (matrix @ lines).T.astype(float)
        scaled = matrix if varies.all() else matrix[:, varies]
        scaled *= (scale * self.scales).astype(np.float32)
        scaled -= (mean * scale * self.scales).astype(np.float32)
        near = scaled @ self.points.T
        near -= 0.5 * np.einsum("ij,ij->i", self.points, self.points)
        near -= 0.5 * np.einsum("ij,ij->i", scaled, scaled)[:, None]
        np.exp(near, out=near)
        ratio += near @ self.dual - mean @ (scale * self.slope)
        table += less @ self.ridge[:-1] + self.ridge[-1]
        return np.asarray(np.maximum(table, self.floor) * np.exp(ratio))


def with_one(matrix: Vector) -> Vector:
    """With a column of ones for an intercept."""
    return np.concatenate([matrix, np.ones((len(matrix), 1))], axis=1)
