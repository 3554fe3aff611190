"""A Gaussian process on the logarithm."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .base import Regressor, Rows, State
from .matrix import Matrix, Standard, dense

TUNED_ON, MOST = 300, 4000
"""Rows on which the kernel is chosen; rows that are kept at most (drawn at random)."""


class GaussianProcess(Regressor):
    """log y ~ a linear function plus a Matern 5/2 process plus noise (Rasmussen and Williams, 2006).

    scikit-learn finds the kernel's parameters by marginal likelihood on some of the rows; all rows are conditioned on.
    """

    kind: ClassVar[str] = "gaussian-process"

    def fit(self, rows: Rows, y: NDArray[np.float64], rng: np.random.Generator) -> Self:
        return self.fit_log(rows, np.log(y), rng)

    def fit_log(self, rows: Rows, target: NDArray[np.float64], rng: np.random.Generator) -> Self:
        """Learn (N,) logarithms."""
        kept = rng.permutation(len(rows))[:MOST]
        matrix = dense(rows.take(kept))
        self.standard = Standard.of(matrix)
        self.points = self.standard(matrix) / self._width
        self.mean, self.deviation = float(target.mean()), max(float(target.std()), 1e-9)
        scaled = (target[kept] - self.mean) / self.deviation
        self.kernel = self._tuned(scaled)
        covariance = self._covariance(self.points, self.points)
        covariance[np.diag_indices_from(covariance)] += self.kernel["noise"] + 1e-8
        self.weights = np.linalg.solve(covariance, scaled)
        return self

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        return np.exp(self.predict_log(rows))

    def predict_log(self, rows: Rows) -> NDArray[np.float64]:
        """(N,) logarithms."""
        matrix = self.standard(dense(rows)) / self._width
        return self.mean + self.deviation * (self._covariance(matrix, self.points) @ self.weights)

    def state(self) -> State:
        meta = {"mean": self.mean, "deviation": self.deviation, "kernel": self.kernel}
        return meta, {"points": self.points, "weights": self.weights, **self.standard.arrays()}

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        self = cls()
        self.mean, self.deviation = float(meta["mean"]), float(meta["deviation"])
        self.kernel = {name: float(meta["kernel"][name]) for name in ("linear", "matern", "length", "noise")}
        self.standard = Standard.from_arrays(arrays)
        self.points, self.weights = arrays["points"].astype(float), arrays["weights"].astype(float)
        if self.points.shape != (len(self.weights), len(self.standard.mean)):
            raise ValueError("the points do not fit the weights and columns")
        return self

    # -- inside

    @property
    def _width(self) -> float:
        """Typical length of a standardised row, so that kernels have the same parameters for few columns and many."""
        return math.sqrt(max(1, int(np.count_nonzero(self.standard.scale))))

    def _tuned(self, scaled: np.ndarray) -> dict[str, float]:
        """Parameters of the kernel by marginal likelihood; the points are in random order."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

        start = (
            ConstantKernel(1.0, (1e-3, 1e4)) * DotProduct(1.0, "fixed")
            + ConstantKernel(0.3, (1e-4, 1e3)) * Matern(1.0, (0.05, 50), nu=2.5)
            + WhiteKernel(1e-3, (1e-6, 1.0))
        )
        model = GaussianProcessRegressor(start, optimizer=_minimise)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter at its bound is what the data say
            kernel = model.fit(self.points[:TUNED_ON], scaled[:TUNED_ON]).kernel_
        linear, matern = kernel.k1.k1, kernel.k1.k2
        return {
            "linear": float(linear.k1.constant_value),
            "matern": float(matern.k1.constant_value),
            "length": float(matern.k2.length_scale),
            "noise": float(kernel.k2.noise_level),
        }

    def _covariance(self, a: Matrix, b: Matrix) -> Matrix:
        """(len(a), len(b)), without noise."""
        inner = a @ b.T
        squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * inner
        distance = np.sqrt(5 * np.maximum(squares, 0)) / self.kernel["length"]
        matern = (1 + distance + distance**2 / 3) * np.exp(-distance)
        return np.asarray(self.kernel["linear"] * (1 + inner) + self.kernel["matern"] * matern)


def _minimise(objective: Any, start: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, float]:
    """As scikit-learn's own, but content with the best that few steps find, and silent about it."""
    from scipy.optimize import minimize

    found = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": 40})
    return found.x, float(found.fun)
