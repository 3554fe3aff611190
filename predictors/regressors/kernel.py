"""The covariance of a Gaussian process over groups of columns, tuned by marginal likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
NOISE, LINEAR, AMPLITUDE, LENGTHS = 0, 1, 2, 3
"""Where in the parameters (logarithms of standard deviations, then of lengths) each is."""
WIDTH, FAR = 1.5, 6.0
"""Deviation of the normal prior on each parameter around its start; how far from that it may go."""
SMALLEST, JITTER = 1e-7, 1e-8
"""Variance that is noise in any case; that is added to the diagonal."""
REFUSED = 1e12


@dataclass(frozen=True, eq=False)
class Kernel:
    """amplitude^2 exp(-1/2 sum over groups |difference|^2 / length^2) + linear^2 (inner product) + noise.

    Attributes:
        groups: (F,) which length each column has.
        parameters: (3 + groups,) logarithms, see `NOISE` and so on.
    """

    groups: NDArray[np.intp]
    parameters: Vector

    @classmethod
    def start(cls, groups: NDArray[np.intp]) -> Kernel:
        """What is believed before any data: columns matter alike, a tenth is not linear, noise of 2 %."""
        n = int(groups.max(initial=-1)) + 1
        first = np.log([0.02, 0.05, 0.1])
        return cls(groups, np.concatenate([first, np.full(n, 0.5 * np.log(max(n, 1)))]))

    @property
    def noise(self) -> float:
        """Variance."""
        return float(np.exp(2 * self.parameters[NOISE])) + SMALLEST

    @property
    def linear(self) -> float:
        """Variance of the weights of the linear part."""
        return float(np.exp(2 * self.parameters[LINEAR]))

    @property
    def amplitude(self) -> float:
        """Variance of the rest."""
        return float(np.exp(2 * self.parameters[AMPLITUDE]))

    @property
    def scales(self) -> Vector:
        """(F,) by which columns are multiplied so that all lengths are 1."""
        return np.asarray(np.exp(-self.parameters[LENGTHS:])[self.groups])

    def covariance(self, points: Vector) -> Vector:
        """(N, N) between (N, F) standardised points, without noise."""
        return self.amplitude * _near(points * self.scales) + self.linear * (points @ points.T)

    def tuned(self, points: Vector, target: Vector, noise: Vector, steps: int) -> Kernel:
        """With parameters of larger marginal likelihood, found by some steps of L-BFGS from the present ones.

        Args:
            points: (N, F). target: (N,) of mean 0.
            noise: (N,) by which each row's noise variance is multiplied.
        """
        from scipy.optimize import minimize

        centre = Kernel.start(self.groups).parameters
        inner = points @ points.T

        def objective(parameters: Vector) -> tuple[float, Vector]:
            try:
                value, slope = Kernel(self.groups, parameters)._likelihood(points, inner, target, noise)
            except np.linalg.LinAlgError:
                return REFUSED, np.zeros(len(parameters))
            off = (parameters - centre) / WIDTH
            return value + 0.5 * float(off @ off), slope + off / WIDTH

        bounds = list(zip(centre - FAR, centre + FAR, strict=True))
        options = {"maxiter": steps, "maxfun": steps + steps // 4, "ftol": 1e-7}
        found = minimize(objective, self.parameters, method="L-BFGS-B", jac=True, bounds=bounds, options=options)
        better = np.isfinite(found.x).all() and found.fun < REFUSED
        return Kernel(self.groups, np.asarray(found.x)) if better else self

    def _likelihood(self, points: Vector, inner: Vector, target: Vector, noise: Vector) -> tuple[float, Vector]:
        """Negative log marginal likelihood (up to a constant), and its slope (Rasmussen and Williams, 2006, 5.9)."""
        scaled = points * self.scales
        near = self.amplitude * _near(scaled)
        total = near + self.linear * inner
        total[np.diag_indices_from(total)] += self.noise * noise + JITTER
        inverse, logs = inverse_of(total)
        dual = inverse @ target
        pull = inverse - np.outer(dual, dual)
        shared = pull * near
        along = shared.sum(axis=1) @ scaled**2 - (scaled * (shared @ scaled)).sum(axis=0)
        lengths = np.bincount(self.groups, along, minlength=len(self.parameters) - LENGTHS)
        first = [
            np.exp(2 * self.parameters[NOISE]) * float(np.diag(pull) @ noise),
            self.linear * float((pull * inner).sum()),
            float(shared.sum()),
        ]
        return 0.5 * float(target @ dual) + 0.5 * logs, np.concatenate([first, lengths])


def inverse_of(matrix: Vector) -> tuple[Vector, float]:
    """The inverse of a positive definite matrix, and the logarithm of its determinant; raises LinAlgError."""
    from scipy.linalg.lapack import dpotrf, dpotri

    factor, failed = dpotrf(matrix, lower=1, clean=1)
    if failed:
        raise np.linalg.LinAlgError("the covariance is not positive definite")
    logs = 2 * float(np.log(np.diag(factor)).sum())
    lower, _ = dpotri(factor, lower=1)
    return np.asarray(np.tril(lower) + np.tril(lower, -1).T), logs


def _near(scaled: Vector) -> Vector:
    squares = (scaled**2).sum(axis=1)
    distance = squares[:, None] + squares[None] - 2 * scaled @ scaled.T
    return np.asarray(np.exp(-0.5 * np.maximum(distance, 0)))
