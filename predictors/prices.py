"""Prices of workloads, learned from those that were measured: nn-Meter's idea (Zhang et al., MobiSys 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .base import PredictorError
from .operator_costs import OperatorCosts
from .operators import PARAMETERS, Operators
from .regressors.kernel import JITTER, Kernel, inverse_of
from .regressors.matrix import Standard

Vector = NDArray[np.float64]
SHRINK = 1e-2
STEPS = 60
LEAST = 6
"""Workloads that are needed at least."""
FLOOR = 0.05
"""Share of the smallest price that is predicted at least."""
FOLDS = 40
BEYOND = 0.15
"""What is added to the standard deviation with sizes e times those that were measured: tables of the same device at
other resolutions and widths were predicted as well as that."""
OWN_RANGE = 5
"""Workloads of a type from which its own range tells what is beyond the measured ones."""
GEOMETRY = PARAMETERS.index("stride")
"""Parameters before this one are sizes, of which larger or smaller ones are beyond what was measured."""


@dataclass(frozen=True, eq=False)
class PriceModel:
    """log price ~ log (costs of the operators) + Gaussian process over the workload's parameters and type + noise.

    The costs (see `OperatorCosts`) carry to sizes that were never measured; the process, whose parameters are held
    within the range of the measured ones, has what a kind of workload costs beyond that. Types share it: one with few
    workloads is priced by the others, and by its own as far as these say something else.

    Attributes:
        operators, y: what it was fitted on.
    """

    operators: Operators
    y: Vector
    costs: OperatorCosts
    kernel: Kernel
    standard: Standard
    known: tuple[str, ...]

    @classmethod
    def fit(cls, operators: Operators, y: Vector) -> PriceModel:
        """From (W,) positive prices.

        Raises:
            PredictorError: too few workloads.
        """
        if len(y) < LEAST:
            raise PredictorError(f"prices are learned from at least {LEAST} measured workloads, not {len(y)}")
        known = tuple(sorted(set(operators.types)))
        points = _points(operators, known)
        standard = Standard.of(points)
        costs = OperatorCosts.fit(operators.families, operators.amounts, y, shrink=SHRINK)
        groups = np.minimum(np.arange(points.shape[1]), len(PARAMETERS))[standard.scale > 0]
        start = Kernel.start(np.unique(groups, return_inverse=True)[1])
        self = cls(operators, y, costs, start, standard, known)
        target = np.log(y / self._costs(costs, operators))
        kernel = start.tuned(self._scaled(operators), target, np.ones(len(y)), STEPS)
        return cls(operators, y, costs, kernel, standard, known)

    def predict(self, operators: Operators) -> Vector:
        """(M,) positive prices."""
        every = np.arange(len(self.y))
        return self._predict(self.costs, every, operators)

    def spread(self, operators: Operators) -> Vector:
        """(M,) standard deviation of the prices, as a share; larger by the way beyond the measured sizes."""
        far = BEYOND * np.log(self.beyond(operators))
        return np.sqrt(np.diag(self.covariance(operators)) + self.kernel.noise + far**2)

    def covariance(self, operators: Operators) -> Vector:
        """(M, M) of the logarithms of the prices, given those that were measured, without noise."""
        new, between, inside = self._covariances(self._scaled(operators, held=False), self._scaled(self.operators))
        left = new - between @ inverse_of(inside)[0] @ between.T
        return np.asarray(left + np.diag(np.maximum(-np.diag(left), 0)))

    def left_out(self) -> Vector:
        """(W,) the measured ones' prices, each by the others; only how far parameters reach comes from all."""
        found = np.empty(len(self.y))
        order = np.random.default_rng(0).permutation(len(self.y))
        for held in np.array_split(order, min(FOLDS, len(order))):
            rest = np.setdiff1d(order, held)
            ops = self.operators.take(rest)
            costs = OperatorCosts.fit(ops.families, ops.amounts, self.y[rest], shrink=SHRINK)
            found[held] = self._predict(costs, rest, self.operators.take(held))
        return found

    def beyond(self, operators: Operators) -> Vector:
        """(M,) by which factor a size is larger or smaller than all measured ones of the type (or of all); 1: none."""
        found = np.ones(len(operators))
        for i, kind in enumerate(operators.types):
            same = np.array([own == kind for own in self.operators.types])
            seen = self.operators.parameters[same if same.sum() >= OWN_RANGE else slice(None), :GEOMETRY]
            here = operators.parameters[i, :GEOMETRY]
            over = np.maximum(here - seen.max(axis=0), seen.min(axis=0) - here)
            found[i] = float(np.exp(max(over.max(), 0.0)))
        return found

    # -- inside

    def _predict(self, costs: OperatorCosts, rows: NDArray[np.intp], operators: Operators) -> Vector:
        """By the measured workloads of these numbers."""
        ops = self.operators.take(rows)
        target = np.log(self.y[rows] / self._costs(costs, ops))
        _, between, inside = self._covariances(self._scaled(operators), self._scaled(ops))
        return np.asarray(self._costs(costs, operators) * np.exp(between @ np.linalg.solve(inside, target)))

    def _covariances(self, new: Vector, own: Vector) -> tuple[Vector, Vector, Vector]:
        """Among new points, between them and the measured ones, and among these, with noise."""
        among, m = self.kernel.covariance(np.concatenate([new, own])), len(new)
        inside = among[m:, m:].copy()
        inside[np.diag_indices_from(inside)] += self.kernel.noise + JITTER
        return among[:m, :m], among[:m, m:], inside

    def _costs(self, costs: OperatorCosts, operators: Operators) -> Vector:
        return np.maximum(costs.of(operators.families, operators.amounts), FLOOR * self.y.min())

    def _scaled(self, operators: Operators, *, held: bool = True) -> Vector:
        """Standardised points; `held`: within the range of the measured ones."""
        points = _points(operators, self.known)
        if held:
            own = _points(self.operators, self.known)
            points = np.clip(points, own.min(axis=0), own.max(axis=0))
        return self.standard(points)[:, self.standard.scale > 0]


def next_workloads(model: PriceModel, candidates: Operators, n: int) -> list[int]:
    """Which workloads to measure next, so that the prices of the others become as certain as can be.

    One after the other, the one after which the variances of all candidates add up to least (Cohn, 1996); what it costs
    need not be known for that.

    Args:
        candidates: that have not been measured. n: how many to choose.

    Returns:
        their numbers, the most useful one first.
    """
    left, noise = model.covariance(candidates), model.kernel.noise
    chosen: list[int] = []
    for _ in range(min(n, len(candidates))):
        gain = (left**2).sum(axis=0) / (np.diag(left) + noise)
        gain[chosen] = -1.0
        best = int(np.argmax(gain))
        chosen.append(best)
        left = left - np.outer(left[:, best], left[best]) / (left[best, best] + noise)
    return chosen


def _points(operators: Operators, known: Sequence[str]) -> Vector:
    """(M, parameters and known types)."""
    types = np.array([[float(own == kind) for kind in known] for own in operators.types])
    return np.concatenate([operators.parameters, types.reshape(len(operators), len(known))], axis=1)
